//! Receiving: recvmmsg into buffers that are allocated once; UDP_GRO when asked for.
//!
//! Must never live here: what packets mean.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use super::raw::{header, piece, Control, Name};
use super::{check, Socket, BATCH};

/// One receive buffer: a byte more than the greatest packet we take, so that a larger one shows, in whole
/// cache lines, an odd number of them, so that the first bytes of all buffers do not share one set of a cache.
const SLOT: usize = 2112;
/// With UDP_GRO one read returns up to 64 KiB, and fewer buffers do.
const GRO_SLOT: usize = 65_536 + 64;
const GRO_BATCH: usize = 16;

/// Buffers of a reader, made once.
pub struct Ring {
    slot: usize,
    arena: Box<[u8]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    filled: usize,
}

/// One read: a packet, or several of equal size (the last may be shorter) from one address.
pub struct Received<'a> {
    pub data: &'a mut [u8],
    pub from: SocketAddr,
    pub segment: usize,
}

impl<'a> Received<'a> {
    /// The packets, at least one: an empty datagram is a packet too.
    pub fn packets(self) -> impl Iterator<Item = &'a mut [u8]> {
        let is_one = self.data.len() <= self.segment;
        let (one, many) = if is_one {
            (Some(self.data), None)
        } else {
            (None, Some(self.data))
        };
        let segment = self.segment.max(1);
        one.into_iter().chain(
            many.into_iter()
                .flat_map(move |data| data.chunks_mut(segment)),
        )
    }
}

impl Ring {
    /// Buffers for single packets, or with `coalesced` for joined ones.
    pub fn new(coalesced: bool) -> Self {
        let (slot, count) = if coalesced {
            (GRO_SLOT, GRO_BATCH)
        } else {
            (SLOT, BATCH)
        };
        Self {
            slot,
            arena: vec![0; slot * count].into_boxed_slice(),
            names: vec![Name::empty(); count].into_boxed_slice(),
            controls: vec![Control::default(); count].into_boxed_slice(),
            pieces: vec![piece(ptr::null_mut(), 0); count].into_boxed_slice(),
            headers: vec![header(); count].into_boxed_slice(),
            filled: 0,
        }
    }

    /// How many reads one call can return; fewer mean that the socket is empty.
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Take what waits in a socket, up to the capacity, without waiting; how many reads that were.
    pub fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        self.fill(&socket.fd, socket.coalesces, self.capacity())
    }

    /// As `receive`, of up to `most` reads: setting up for more than come costs time, and so does asking once
    /// more than there are.
    pub(super) fn fill(&mut self, fd: &OwnedFd, joined: bool, most: usize) -> io::Result<usize> {
        self.filled = 0;
        let most = most.min(self.headers.len());
        let slots = self.arena.chunks_exact_mut(self.slot);
        let parts = self
            .names
            .iter_mut()
            .zip(&mut self.controls)
            .zip(&mut self.pieces);
        for ((header, slot), ((name, control), part)) in
            self.headers.iter_mut().take(most).zip(slots).zip(parts)
        {
            *part = piece(slot.as_mut_ptr(), slot.len());
            let message = &mut header.msg_hdr;
            message.msg_name = ptr::from_mut(name).cast();
            message.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
            message.msg_iov = part;
            message.msg_iovlen = 1;
            message.msg_control = ptr::null_mut();
            message.msg_controllen = 0;
            if joined {
                message.msg_control = ptr::from_mut(control).cast();
                message.msg_controllen = mem::size_of::<Control>() as _;
            }
        }
        let count = most as libc::c_uint;
        // SAFETY: every header was just pointed at buffers of this ring, which is borrowed mutably; the kernel
        // writes no more than the lengths given.
        let taken = check(unsafe {
            let headers = self.headers.as_mut_ptr();
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers,
                count,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        });
        match taken {
            Ok(taken) => self.filled = taken as usize,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(self.filled)
    }

    /// One of the reads of the last `receive`; None past its end, and for a sender that is no IP address.
    pub fn read(&mut self, index: usize) -> Option<Received<'_>> {
        let (place, from, segment) = self.place(index)?;
        let data = self.arena.get_mut(place)?;
        Some(Received {
            data,
            from,
            segment,
        })
    }

    /// All packets that the reads of the last `receive` will give, in their order.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.filled).flat_map(|index| {
            let place = self.place(index);
            let read =
                place.and_then(|(place, _, segment)| Some((self.arena.get(place)?, segment)));
            let empty = read.filter(|(data, _)| data.is_empty()); // a packet, too, but no chunk
            let (data, segment) = read.unwrap_or_default();
            let chunks = data.chunks(segment.max(1));
            empty.map(|(data, _)| data).into_iter().chain(chunks)
        })
    }

    /// Where a read lies, who sent it, and the size of its packets.
    fn place(&self, index: usize) -> Option<(Range<usize>, SocketAddr, usize)> {
        if index >= self.filled {
            return None;
        }
        let header = self.headers.get(index)?;
        let from = self
            .names
            .get(index)?
            .address(header.msg_hdr.msg_namelen as usize)?;
        let len = (header.msg_len as usize).min(self.slot);
        let segment = match header.msg_hdr.msg_controllen {
            0 => len,
            _ => self.controls.get(index)?.segment().unwrap_or(len),
        };
        let start = index * self.slot;
        Some((start..start + len, from, segment))
    }
}
