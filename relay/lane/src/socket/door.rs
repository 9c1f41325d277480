//! Sockets of which there are many and which are mostly silent: one for each relayed address.
//!
//! ```text
//! Door    a duplicate of its descriptor, for all threads; beside it one connected to the peer that gets most
//! Watch   epoll: which of a thread's share have packets
//! Exit    several packets by one door in one sendmmsg, each to its own peer
//! ```
//!
//! Must never live here: what packets mean.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use super::raw::{header, piece, Name};
use super::{check, duplicate, option, set_option, Poll, Ring, BATCH};

/// Doors told of per call.
const READY: usize = 256;
/// In the number of an event: the socket is the connected one.
const NEAR: u64 = 1 << 63;
const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A UDP socket that somebody else made and bound; ours is a duplicate of its descriptor.
pub struct Door {
    fd: OwnedFd,
    near: OnceLock<Near>,
}

/// A second socket of the same address, connected to one peer: the kernel need not look for the way there with
/// each packet. It hears that peer, the first one all others.
struct Near {
    fd: OwnedFd,
    peer: SocketAddr,
}

/// Which socket of a door has packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Far,
    Near,
}

impl Door {
    pub fn duplicate(fd: RawFd) -> io::Result<Self> {
        let (fd, near) = (duplicate(fd)?, OnceLock::new());
        Ok(Self { fd, near })
    }

    /// Send to this peer by a socket of its own from now on. Once in the life of a door; true: `Watch::add` is
    /// to be told. What fails leaves all as it was.
    pub fn approach(&self, peer: &SocketAddr) -> io::Result<bool> {
        if self.near.get().is_some() {
            return Ok(false);
        }
        let fd = connected_beside(&self.fd, peer)?;
        Ok(self.near.set(Near { fd, peer: *peer }).is_ok())
    }

    /// The peer that has a socket of its own.
    #[cfg(test)]
    pub fn near(&self) -> Option<SocketAddr> {
        self.near.get().map(|near| near.peer)
    }

    /// Take up to `most` packets that wait into a ring, without waiting; how many those were.
    pub fn receive(&self, side: Side, ring: &mut Ring, most: usize) -> io::Result<usize> {
        let near = self.near.get().filter(|_| side == Side::Near);
        ring.fill(near.map_or(&self.fd, |near| &near.fd), false, most)
    }

    /// Send one packet, without waiting; false when the kernel did not take it.
    pub fn send(&self, packet: &[u8], to: &SocketAddr) -> bool {
        let near = self.near.get().filter(|near| near.peer == *to);
        // It refuses one packet for each ICMP error that came; the other has no such memory.
        near.is_some_and(|near| near.send(packet)) || self.send_to(packet, to)
    }

    fn send_to(&self, packet: &[u8], to: &SocketAddr) -> bool {
        let name = Name::of(to);
        let (data, to) = (packet.as_ptr().cast(), ptr::from_ref(&name).cast());
        let fd = self.fd.as_raw_fd();
        // SAFETY: `packet` and `name` are valid for reads of the sizes given.
        unsafe { libc::sendto(fd, data, packet.len(), FLAGS, to, name.size()) >= 0 }
    }
}

impl Near {
    fn send(&self, packet: &[u8]) -> bool {
        let (fd, data) = (self.fd.as_raw_fd(), packet.as_ptr().cast());
        // SAFETY: `packet` is valid for reads of its size.
        unsafe { libc::send(fd, data, packet.len(), FLAGS) >= 0 }
    }
}

/// A socket of the address of `fd`, connected to `peer`. That address is shared from then on, by sockets of one
/// user, and only with those that say so before they bind.
fn connected_beside(fd: &OwnedFd, peer: &SocketAddr) -> io::Result<OwnedFd> {
    let own = Name::of_socket(fd)?;
    let name = Name::of(peer);
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is a new descriptor or -1.
    let made = check(unsafe { libc::socket(own.family(), kind, 0) })?;
    // SAFETY: it was just made and has no other owner.
    let made = unsafe { OwnedFd::from_raw_fd(made) };
    if own.family() == libc::AF_INET6 {
        let only = option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
        set_option(&made, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &only)?;
    }
    let yes: libc::c_int = 1;
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &yes)?;
    set_option(&made, libc::SOL_SOCKET, libc::SO_REUSEPORT, &yes)?;
    let raw = made.as_raw_fd();
    // SAFETY: both names are valid for reads of their sizes.
    unsafe {
        check(libc::bind(raw, ptr::from_ref(&own).cast(), own.size()))?;
        check(libc::connect(raw, ptr::from_ref(&name).cast(), name.size()))?;
    }
    Ok(made)
}

/// Message headers for packets that leave by one door, made once.
pub struct Exit {
    names: Box<[Name]>,
    pieces: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Default for Exit {
    fn default() -> Self {
        Self {
            names: vec![Name::empty(); BATCH].into_boxed_slice(),
            pieces: vec![piece(ptr::null_mut(), 0); BATCH].into_boxed_slice(),
            headers: vec![header(); BATCH].into_boxed_slice(),
        }
    }
}

impl Exit {
    /// Send these packets in their order, without waiting; how many of them the kernel refused.
    pub fn send<'a>(
        &mut self,
        door: &Door,
        mut packets: impl Iterator<Item = (&'a [u8], SocketAddr)>,
    ) -> usize {
        let mut refused = 0;
        loop {
            let mut count = 0;
            let parts = self.names.iter_mut().zip(&mut self.pieces);
            for ((name, part), header) in parts.zip(&mut self.headers) {
                let Some((bytes, to)) = packets.next() else {
                    break;
                };
                *name = Name::of(&to);
                *part = piece(bytes.as_ptr().cast_mut(), bytes.len());
                let message = &mut header.msg_hdr;
                message.msg_name = ptr::from_mut(name).cast();
                message.msg_namelen = name.size();
                message.msg_iov = part;
                message.msg_iovlen = 1;
                count += 1;
            }
            refused += self.transmit(door, count);
            if count < BATCH {
                return refused;
            }
        }
    }

    /// Hand the first `count` messages to the kernel. One that it refuses holds up no other: each has its own
    /// peer, and only one of them may be unreachable.
    fn transmit(&mut self, door: &Door, count: usize) -> usize {
        let (mut at, mut refused) = (0, 0);
        while at < count {
            let Some(waiting) = self.headers.get_mut(at..count) else {
                break;
            };
            let (headers, left) = (waiting.as_mut_ptr(), waiting.len() as libc::c_uint);
            // SAFETY: `send` just aimed these headers at names and pieces of this exit; the pieces are the
            // caller's packets, which live until `send` returns. The kernel only reads through them.
            let sent = unsafe { libc::sendmmsg(door.fd.as_raw_fd(), headers, left, FLAGS as _) };
            match check(sent) {
                Ok(sent) => at += (sent as usize).max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => (at, refused) = (at + 1, refused + 1),
            }
        }
        refused
    }
}

/// A set of doors, each with a number. It wakes a `Poll` that follows it.
pub struct Watch(OwnedFd);

/// Room for what one call tells.
pub struct Ready {
    events: Box<[libc::epoll_event]>,
    count: usize,
}

impl Default for Ready {
    fn default() -> Self {
        Self {
            events: vec![libc::epoll_event { events: 0, u64: 0 }; READY].into_boxed_slice(),
            count: 0,
        }
    }
}

impl Ready {
    /// The doors that have something to read: their numbers, and where.
    pub fn doors(&self) -> impl Iterator<Item = (u64, Side)> + '_ {
        let told = self.events.iter().take(self.count);
        told.map(|event| match event.u64 & NEAR {
            0 => (event.u64, Side::Far),
            _ => (event.u64 & !NEAR, Side::Near),
        })
    }

    /// There may be more than was told.
    pub fn is_full(&self) -> bool {
        self.count == self.events.len()
    }
}

impl Watch {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is a new descriptor or -1.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just made and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watch a door under this number, below 2^63; no change if it is watched already.
    pub fn add(&self, door: &Door, number: u64) -> io::Result<()> {
        self.add_one(&door.fd, number)?;
        let near = door.near.get();
        near.map_or(Ok(()), |near| self.add_one(&near.fd, number | NEAR))
    }

    fn add_one(&self, fd: &OwnedFd, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: number,
        };
        let (set, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: `event` is valid for reads; the kernel keeps a copy.
        let added = check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &mut event) });
        match added {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Watch it no more. Its other duplicates would keep it in the set when ours is closed.
    pub fn remove(&self, door: &Door) {
        let set = self.0.as_raw_fd();
        for fd in [Some(&door.fd), door.near.get().map(|near| &near.fd)] {
            let Some(fd) = fd.map(AsRawFd::as_raw_fd) else {
                continue;
            };
            // SAFETY: no event is read for this operation; a socket that is not in the set is an error, no harm.
            unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd, ptr::null_mut()) };
        }
    }

    /// Look which doors have something, without waiting. Who is told of goes behind the others, so that no
    /// door is left out for ever when more of them are ready than there is room.
    pub fn look(&self, ready: &mut Ready) {
        let room = ready.events.len() as libc::c_int;
        let events = ready.events.as_mut_ptr();
        // SAFETY: `events` has room for as many as are asked for.
        let count = check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), events, room, 0) });
        ready.count = count.map_or(0, |count| count as usize);
    }
}

impl Poll {
    /// Wake for what this set watches, too: as the socket behind all others.
    pub fn follow(&mut self, watch: &Watch) {
        self.entries.push(libc::pollfd {
            fd: watch.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
    }
}
