//! Sending: sendmmsg; runs of equal packets to one address go as one UDP_SEGMENT message.
//!
//! Must never live here: what packets mean, and when they leave.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;

use super::raw::{header, piece, Control, Name};
use super::{check, monotonic, Packet, Socket, BATCH};

/// Kernel limits of one UDP_SEGMENT message (UDP_MAX_SEGMENTS, and what fits a UDP length).
const MAX_SEGMENTS: usize = 64;
const MAX_RUN: usize = 65_000;
/// Pieces of memory that one `sendmmsg` may name.
const PIECES: usize = 4 * BATCH;

/// Message headers of a writer, made once.
pub struct Sender {
    names: Box<[Name]>,
    controls: Box<[Control]>,
    pieces: Box<[Piece]>,
    iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    runs: Box<[Run]>,
    /// Of each packet in the runs, in their order, its place in what `send` was given.
    places: Vec<usize>,
    /// Of each packet that the kernel did not take in the last `send`, its place there.
    pub failed: Vec<usize>,
}

/// Packets that lie one behind the other in the arena.
#[derive(Clone, Copy, Default)]
struct Piece {
    start: usize,
    len: usize,
}

impl Piece {
    fn end(&self) -> usize {
        self.start.wrapping_add(self.len)
    }

    fn of<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        arena.get(self.start..self.end()).unwrap_or_default()
    }
}

/// The packets of one message.
#[derive(Clone, Copy, Default)]
struct Run {
    to: Option<SocketAddr>,
    first_piece: usize,
    pieces: usize,
    first_place: usize,
    packets: usize,
    segment: usize,
    bytes: usize,
    is_closed: bool, // a shorter packet ends a run
}

impl Run {
    fn places(&self) -> Range<usize> {
        self.first_place..self.first_place + self.packets
    }
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

impl Sender {
    pub fn new() -> Self {
        Self {
            names: vec![Name::empty(); BATCH].into_boxed_slice(),
            controls: vec![Control::default(); BATCH].into_boxed_slice(),
            pieces: vec![Piece::default(); PIECES].into_boxed_slice(),
            iovecs: vec![piece(ptr::null_mut(), 0); PIECES].into_boxed_slice(),
            headers: vec![header(); BATCH].into_boxed_slice(),
            runs: vec![Run::default(); BATCH].into_boxed_slice(),
            places: Vec::with_capacity(BATCH * MAX_SEGMENTS),
            failed: Vec::new(),
        }
    }

    /// Send those packets that are `mine`, in their order for each address. Never waits: what the kernel does
    /// not take now is lost, and stands in `failed`.
    pub fn send(
        &mut self,
        socket: &Socket,
        arena: &[u8],
        packets: &[Packet],
        mine: impl Fn(&Packet) -> bool,
    ) {
        self.failed.clear();
        let mut waiting = packets
            .iter()
            .enumerate()
            .filter(|(_, packet)| mine(packet));
        let mut next = waiting.next();
        while next.is_some() {
            let mut count = 0; // messages
            let mut pieces = 0;
            let mut before: Option<&Packet> = None;
            self.places.clear();
            let apart = socket.apart.borrow();
            let now = apart.now();
            while let Some((place, packet)) = next {
                let part = Piece {
                    start: packet.start,
                    len: packet.len,
                };
                if arena.get(part.start..part.end()).is_none() {
                    self.failed.push(place);
                    next = waiting.next();
                    continue;
                }
                let joins = before.is_some_and(|before| before.to == packet.to)
                    && self.joins(count - 1, packet.len)
                    && !apart.holds(&packet.to, now);
                if pieces == PIECES || (!joins && count == BATCH) {
                    break;
                }
                if joins {
                    pieces += self.extend(count - 1, part, pieces);
                } else {
                    self.begin(count, &packet.to, part, pieces);
                    pieces += 1;
                    count += 1;
                }
                before = Some(packet);
                self.places.push(place);
                next = waiting.next();
            }
            drop(apart);
            self.transmit(socket, arena, count);
        }
    }

    /// Whether a packet of this size may ride in the message of a run.
    fn joins(&self, run: usize, len: usize) -> bool {
        let fits = |run: &Run| {
            !run.is_closed
                && (1..=run.segment).contains(&len)
                && run.packets < MAX_SEGMENTS
                && run.bytes + len <= MAX_RUN
        };
        self.runs.get(run).is_some_and(fits)
    }

    /// Start a message with a packet, which takes one piece.
    fn begin(&mut self, index: usize, to: &SocketAddr, part: Piece, at: usize) {
        let parts = (
            self.names.get_mut(index),
            self.runs.get_mut(index),
            self.pieces.get_mut(at),
        );
        let (Some(name), Some(run), Some(piece)) = parts else {
            return;
        };
        *name = Name::of(to);
        *piece = part;
        *run = Run {
            to: Some(*to),
            first_piece: at,
            pieces: 1,
            first_place: self.places.len(),
            packets: 1,
            segment: part.len,
            bytes: part.len,
            is_closed: false,
        };
    }

    /// Add a packet to the message of a run; how many pieces that took.
    fn extend(&mut self, index: usize, part: Piece, at: usize) -> usize {
        let Some(run) = self.runs.get_mut(index) else {
            return 0;
        };
        run.packets += 1;
        run.bytes += part.len;
        run.is_closed = part.len < run.segment;
        if let Some(last) = at.checked_sub(1).and_then(|last| self.pieces.get_mut(last)) {
            if last.end() == part.start {
                last.len += part.len; // packets mostly lie one behind the other
                return 0;
            }
        }
        run.pieces += 1;
        if let Some(piece) = self.pieces.get_mut(at) {
            *piece = part;
        }
        1
    }

    /// Hand the first `count` messages to the kernel.
    fn transmit(&mut self, socket: &Socket, arena: &[u8], count: usize) {
        self.point(arena, count);
        let mut at = 0;
        while at < count {
            let Some(waiting) = self.headers.get_mut(at..count) else {
                return;
            };
            // SAFETY: `point` aimed these headers at names, controls and iovecs of this sender, and the iovecs
            // at parts of the arena that is borrowed here. The kernel only reads through them.
            let sent = check(unsafe {
                let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
                let headers = waiting.as_mut_ptr();
                libc::sendmmsg(socket.fd.as_raw_fd(), headers, waiting.len() as _, flags)
            });
            match sent {
                Ok(sent) => at += (sent as usize).max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) => return self.fail(at..count),
                Err(error) => {
                    if !self.is_remembered(socket, at, &error) {
                        self.fail(at..at + 1);
                    } else {
                        self.send_apart(socket, arena, at);
                    }
                    at += 1;
                }
            }
        }
    }

    /// Whether a message was refused because it is a run: then it is not tried again for a while.
    fn is_remembered(&self, socket: &Socket, index: usize, error: &io::Error) -> bool {
        let run = self.runs.get(index).filter(|run| run.packets > 1);
        let Some(to) = run.and_then(|run| run.to) else {
            return false;
        };
        let mut apart = socket.apart.borrow_mut();
        match error.raw_os_error() {
            // The device cannot cut.
            Some(libc::EIO | libc::EOPNOTSUPP) => apart.everywhere(monotonic()),
            // A segment is larger than what the path carries.
            Some(libc::EINVAL | libc::EMSGSIZE) => apart.place(to, monotonic()),
            _ => return false,
        }
        true
    }

    fn fail(&mut self, runs: Range<usize>) {
        for run in self.runs.get(runs).unwrap_or_default() {
            let places = self.places.get(run.places()).unwrap_or_default();
            self.failed.extend_from_slice(places);
        }
    }

    /// Aim the headers at what they carry.
    fn point(&mut self, arena: &[u8], count: usize) {
        let pieces: usize = self.runs.iter().take(count).map(|run| run.pieces).sum();
        for (iovec, part) in self.iovecs.iter_mut().zip(&self.pieces).take(pieces) {
            let bytes = part.of(arena);
            *iovec = piece(bytes.as_ptr().cast_mut(), bytes.len());
        }
        let parts = self
            .names
            .iter_mut()
            .zip(&mut self.controls)
            .zip(self.runs.iter());
        for (header, ((name, control), run)) in self.headers.iter_mut().zip(parts).take(count) {
            let message = &mut header.msg_hdr;
            message.msg_name = ptr::from_mut(name).cast();
            message.msg_namelen = name.size();
            message.msg_iov = self
                .iovecs
                .get_mut(run.first_piece..)
                .unwrap_or_default()
                .as_mut_ptr();
            message.msg_iovlen = run.pieces as _;
            message.msg_control = ptr::null_mut();
            message.msg_controllen = 0;
            if run.packets > 1 {
                control.set_segment(run.segment as u16);
                message.msg_control = ptr::from_mut(control).cast();
                message.msg_controllen = Control::SEND_SIZE as _;
            }
        }
    }

    /// The packets of one run by themselves, after the kernel refused them as one message.
    fn send_apart(&mut self, socket: &Socket, arena: &[u8], index: usize) {
        let (Some(run), Some(name)) = (self.runs.get(index), self.names.get(index)) else {
            return;
        };
        let pieces = run.first_piece..run.first_piece + run.pieces;
        let pieces = self.pieces.get(pieces).unwrap_or_default();
        let packets = pieces
            .iter()
            .flat_map(|part| part.of(arena).chunks(run.segment.max(1)));
        let places = self.places.get(run.places()).unwrap_or_default();
        for (packet, place) in packets.zip(places) {
            let (data, to) = (packet.as_ptr().cast(), ptr::from_ref(name).cast());
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: `packet` and `name` are valid for reads of the sizes given.
            let sent = unsafe {
                libc::sendto(
                    socket.fd.as_raw_fd(),
                    data,
                    packet.len(),
                    flags,
                    to,
                    name.size(),
                )
            };
            if sent < 0 {
                self.failed.push(*place);
            }
        }
    }
}

/// No room now, for any address: what is left of a batch would meet the same.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)
    )
}
