//! Sending: sendmmsg; runs of equal packets to one address go as one UDP_SEGMENT message.
//!
//! Must never live here: what packets mean, and when they leave.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;

use super::raw::{header, piece, Control, Name};
use super::{check, Packet, Socket, BATCH};

/// Kernel limits of one UDP_SEGMENT message (UDP_MAX_SEGMENTS, and what fits a UDP length).
const MAX_SEGMENTS: usize = 64;
const MAX_RUN: usize = 65_000;
/// Pieces of memory that one `sendmmsg` may name.
const PIECES: usize = 4 * BATCH;

/// Message headers of a writer, made once.
pub struct Sender {
    names: Box<[Name]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    runs: Box<[Run]>,
    /// Of each packet in the runs, in their order, its place in what `send` was given.
    places: Vec<usize>,
    /// Of each packet that the kernel did not take in the last `send`, its place there.
    pub failed: Vec<usize>,
}

/// The packets of one message.
#[derive(Clone, Copy, Default)]
struct Run {
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
            pieces: vec![piece(ptr::null_mut(), 0); PIECES].into_boxed_slice(),
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
            while let Some((place, packet)) = next {
                let bytes = packet.start..packet.start.wrapping_add(packet.len);
                let Some(bytes) = arena.get(bytes) else {
                    self.failed.push(place);
                    next = waiting.next();
                    continue;
                };
                let joins = before.is_some_and(|before| before.to == packet.to)
                    && socket.segments.get()
                    && self.joins(count - 1, packet.len);
                if pieces == PIECES || (!joins && count == BATCH) {
                    break;
                }
                if joins {
                    pieces += self.extend(count - 1, bytes, pieces);
                } else {
                    self.begin(count, packet, bytes, pieces);
                    pieces += 1;
                    count += 1;
                }
                before = Some(packet);
                self.places.push(place);
                next = waiting.next();
            }
            self.transmit(socket, count);
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
    fn begin(&mut self, index: usize, packet: &Packet, bytes: &[u8], at: usize) {
        let parts = (
            self.names.get_mut(index),
            self.runs.get_mut(index),
            self.pieces.get_mut(at),
        );
        let (Some(name), Some(run), Some(part)) = parts else {
            return;
        };
        *name = Name::of(&packet.to);
        *part = piece(bytes.as_ptr().cast_mut(), bytes.len());
        *run = Run {
            first_piece: at,
            pieces: 1,
            first_place: self.places.len(),
            packets: 1,
            segment: bytes.len(),
            bytes: bytes.len(),
            is_closed: false,
        };
    }

    /// Add a packet to the message of a run; how many pieces that took.
    fn extend(&mut self, index: usize, bytes: &[u8], at: usize) -> usize {
        let Some(run) = self.runs.get_mut(index) else {
            return 0;
        };
        run.packets += 1;
        run.bytes += bytes.len();
        run.is_closed = bytes.len() < run.segment;
        if let Some(last) = at.checked_sub(1).and_then(|last| self.pieces.get_mut(last)) {
            let end = last
                .iov_base
                .cast_const()
                .cast::<u8>()
                .wrapping_add(last.iov_len);
            if end == bytes.as_ptr() {
                last.iov_len += bytes.len(); // packets mostly lie one behind the other
                return 0;
            }
        }
        run.pieces += 1;
        if let Some(part) = self.pieces.get_mut(at) {
            *part = piece(bytes.as_ptr().cast_mut(), bytes.len());
        }
        1
    }

    /// Hand the first `count` messages to the kernel.
    fn transmit(&mut self, socket: &Socket, count: usize) {
        self.point(count);
        let mut at = 0;
        while at < count {
            let Some(waiting) = self.headers.get_mut(at..count) else {
                return;
            };
            // SAFETY: `point` aimed these headers at names, controls and pieces of this sender; the pieces lie
            // in the arena that `send` borrows until it returns. The kernel only reads through them.
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
                    let is_run = self.runs.get(at).is_some_and(|run| run.packets > 1);
                    if is_run && is_about_segments(&error) {
                        socket.segments.set(false);
                        self.send_apart(socket, at);
                    } else {
                        self.fail(at..at + 1);
                    }
                    at += 1;
                }
            }
        }
    }

    fn fail(&mut self, runs: Range<usize>) {
        for run in self.runs.get(runs).unwrap_or_default() {
            let places = self.places.get(run.places()).unwrap_or_default();
            self.failed.extend_from_slice(places);
        }
    }

    /// Aim the headers at what they carry.
    fn point(&mut self, count: usize) {
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
                .pieces
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
    fn send_apart(&mut self, socket: &Socket, index: usize) {
        let (Some(run), Some(name)) = (self.runs.get(index), self.names.get(index)) else {
            return;
        };
        let pieces = run.first_piece..run.first_piece + run.pieces;
        let pieces = self.pieces.get(pieces).unwrap_or_default();
        let packets = pieces.iter().flat_map(|part| {
            // SAFETY: the piece lies in the arena that `send` borrows until it returns.
            let bytes =
                unsafe { std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len) };
            bytes.chunks(run.segment.max(1))
        });
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

/// The device cannot cut (EIO), or a segment is larger than its MTU.
fn is_about_segments(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP)
    )
}
