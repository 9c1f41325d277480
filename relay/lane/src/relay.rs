//! One allocation of TURN as the packet path knows it: whom it may exchange packets with, until when, and how many.
//!
//! All it obeys has an end, which is looked at with the clock of the packet: a loop that stands still lets nothing
//! pass that it would have ended. Must never live here: who may have an allocation, and sockets but its own.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::collections::VecDeque;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::bucket::Bucket;
use crate::few::Few;
use crate::header::MAX_UDP;
use crate::reason::Reason;
use crate::socket::{Door, BATCH};
use crate::traffic::{Traffic, Way};
use crate::turn::{put_channel_data, put_data_indication};

/// Packets that wait for the loop to write them to a client's stream: more are a burst that it will not take.
pub const STREAM_QUEUE: usize = 64;

/// Packets by one channel after which its peer is worth a socket of its own: a second of audio.
const STEADY: u32 = 50;

/// How the client is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// By UDP: its address, and the number of the socket that it speaks to.
    Packets(SocketAddr, u16),
    /// By TCP or TLS, which the loop reads and writes.
    Stream,
}

/// Packets and bits per second, each way.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    pub pps: u64,
    pub bps: u64,
}

/// An allocation.
pub struct Relay {
    pub number: u64,
    pub(crate) client: Client,
    /// Its relayed address as peers see it.
    pub(crate) relayed: SocketAddr,
    /// The socket of that address; None where packets are carried by hand.
    pub(crate) door: Option<Door>,
    /// How many packets the next look at the socket asks for.
    pub(crate) guess: AtomicUsize,
    /// Its STUN packets in the loop's queue.
    pub(crate) waiting: AtomicUsize,
    /// A channel has just come to `STEADY` packets.
    is_steady: AtomicBool,
    state: Mutex<State>,
}

struct State {
    is_open: bool,
    permissions: Few<Permission, 2>,
    channels: Few<Channel, 2>,
    up: Budget,
    down: Budget,
    traffic: Traffic,
    /// Data indications so far.
    serial: u64,
    /// What waits for the client's stream, and the payload's size in each.
    frames: VecDeque<(Vec<u8>, usize)>,
}

struct Permission {
    ip: IpAddr,
    until: f64,
}

struct Channel {
    number: u16,
    peer: SocketAddr,
    until: f64,
    /// Packets that the client sent by it.
    sent: u32,
}

struct Budget {
    packets: Bucket,
    bytes: Bucket,
}

impl Budget {
    fn new(allowance: Allowance, burst_s: f64) -> Self {
        let (packets, bytes) = (allowance.pps as f64, allowance.bps as f64 / 8.0);
        Self {
            packets: Bucket::new(packets, (packets * burst_s).max(10.0)),
            bytes: Bucket::new(bytes, (bytes * burst_s).max(2.0 * MAX_UDP as f64)),
        }
    }

    fn take(&mut self, size: usize, now: f64) -> Result<(), Reason> {
        let is_within = self.packets.take(1.0, now) && self.bytes.take(size as f64, now);
        is_within.then_some(()).ok_or(Reason::OverBudget)
    }
}

/// How a client's packet names its peer.
#[derive(Clone, Copy, Debug)]
pub enum Named {
    Channel(u16),
    Peer(SocketAddr),
}

/// What became of a packet for a client on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// None waited: the loop must be told.
    First,
    /// The loop knows.
    Another,
}

fn is_same(one: &SocketAddr, other: &SocketAddr) -> bool {
    one.ip() == other.ip() && one.port() == other.port()
}

impl State {
    fn is_permitted(&self, ip: IpAddr, now: f64) -> Result<(), Reason> {
        let mut permissions = self.permissions.iter();
        let known = permissions.any(|permission| permission.ip == ip && now < permission.until);
        known.then_some(()).ok_or(Reason::NoPermission)
    }

    /// The peer that a client names, if it may send there now; and how often it did by this channel.
    fn peer(&mut self, named: Named, now: f64) -> Result<(SocketAddr, u32), Reason> {
        match named {
            Named::Channel(number) => {
                let mut channels = self.channels.iter_mut();
                let bound =
                    channels.find(|channel| channel.number == number && now < channel.until);
                let channel = bound.ok_or(Reason::NoChannel)?;
                channel.sent = channel.sent.saturating_add(1);
                Ok((channel.peer, channel.sent))
            }
            Named::Peer(peer) => self.is_permitted(peer.ip(), now).map(|()| (peer, 0)),
        }
    }

    fn open(&self) -> Result<(), Reason> {
        self.is_open.then_some(()).ok_or(Reason::PeerGone)
    }

    /// Write the message by which a client hears a peer.
    fn wrap(
        &mut self,
        from: &SocketAddr,
        payload: &[u8],
        is_stream: bool,
        now: f64,
        out: &mut Vec<u8>,
    ) {
        let mut channels = self.channels.iter();
        let bound = channels.find(|channel| now < channel.until && is_same(&channel.peer, from));
        if let Some(channel) = bound {
            return put_channel_data(channel.number, payload, is_stream, out);
        }
        self.serial = self.serial.wrapping_add(1);
        put_data_indication(self.serial, from, payload, out);
    }
}

/// Count a packet here and there.
fn count(mine: &mut Way, all: &mut Way, verdict: Result<usize, Reason>) {
    for way in [mine, all] {
        way.taken = way.taken.wrapping_add(1);
        match verdict {
            Ok(size) => way.pass(1, size),
            Err(reason) => way.drop(reason),
        }
    }
}

impl Relay {
    pub fn new(
        number: u64,
        client: Client,
        relayed: SocketAddr,
        door: Option<Door>,
        allowance: Allowance,
        burst_s: f64,
    ) -> Self {
        Self {
            number,
            client,
            relayed,
            door,
            guess: AtomicUsize::new(1),
            waiting: AtomicUsize::new(0),
            is_steady: AtomicBool::new(false),
            state: Mutex::new(State {
                is_open: true,
                permissions: Few::new(),
                channels: Few::new(),
                up: Budget::new(allowance, burst_s),
                down: Budget::new(allowance, burst_s),
                traffic: Traffic::default(),
                serial: 0,
                frames: VecDeque::new(),
            }),
        }
    }

    // ------------------------------------------------------------ what the loop says

    /// Packets to and from this address pass until then.
    pub fn permit(&self, ip: IpAddr, until: f64) {
        let permissions = &mut self.state.lock().permissions;
        match permissions.iter_mut().find(|known| known.ip == ip) {
            Some(known) => known.until = until,
            None => permissions.push(Permission { ip, until }),
        }
    }

    /// None pass from now on, by a channel neither.
    pub fn forbid(&self, ip: IpAddr) {
        let mut state = self.state.lock();
        state.permissions.retain(|known| known.ip != ip);
        state.channels.retain(|known| known.peer.ip() != ip);
    }

    /// The number stands for this peer until then, and for no other.
    pub fn bind_channel(&self, number: u16, peer: SocketAddr, until: f64) {
        let channels = &mut self.state.lock().channels;
        let before = channels
            .iter()
            .find(|known| known.number == number && is_same(&known.peer, &peer));
        let sent = before.map_or(0, |known| known.sent);
        channels.retain(|known| known.number != number && !is_same(&known.peer, &peer));
        channels.push(Channel {
            number,
            peer,
            until,
            sent,
        });
    }

    pub fn unbind_channel(&self, number: u16) {
        let channels = &mut self.state.lock().channels;
        channels.retain(|known| known.number != number);
    }

    /// Nothing passes any more; what passed so far. What waits for a client's stream is dropped.
    pub fn close(&self, all: &mut Traffic) -> Traffic {
        let mut state = self.state.lock();
        state.is_open = false;
        state.permissions.clear();
        state.channels.clear();
        let frames = mem::take(&mut state.frames);
        let mut traffic = state.traffic.clone();
        for _ in frames {
            for down in [&mut traffic.down, &mut all.down] {
                down.waiting = down.waiting.wrapping_sub(1);
                down.drop(Reason::PeerGone);
            }
        }
        traffic
    }

    // ------------------------------------------------------------ packets

    /// A payload of `size` from the client: to whom it goes. `route` says how that peer is reached, or why not.
    pub fn up<T>(
        &self,
        named: Result<Named, Reason>,
        size: usize,
        now: f64,
        all: &mut Traffic,
        route: impl FnOnce(SocketAddr) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let open = state.open().and(named);
        let peer = open.and_then(|named| state.peer(named, now));
        let within = peer.and_then(|peer| state.up.take(size, now).map(|()| peer));
        if within.is_ok_and(|(_, sent)| sent == STEADY) {
            self.is_steady.store(true, Ordering::Relaxed);
        }
        let verdict = within.and_then(|(peer, _)| route(peer));
        let counted = verdict.as_ref().map(|_| size).map_err(|reason| *reason);
        count(&mut state.traffic.up, &mut all.up, counted);
        verdict
    }

    /// A payload from a peer, for a client on UDP: its packet is written behind `out`.
    pub fn down(
        &self,
        from: &SocketAddr,
        payload: &[u8],
        now: f64,
        all: &mut Traffic,
        out: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let verdict = state.admit(from, payload, now);
        if verdict.is_ok() {
            state.wrap(from, payload, false, now, out);
        }
        let counted = verdict.map(|()| payload.len());
        count(&mut state.traffic.down, &mut all.down, counted);
        verdict
    }

    /// A payload from a peer, for a client on a stream: it waits for the loop. The oldest goes when it is full.
    pub fn enqueue(
        &self,
        from: &SocketAddr,
        payload: &[u8],
        now: f64,
        all: &mut Traffic,
    ) -> Result<Queued, Reason> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Err(reason) = state.admit(from, payload, now) {
            count(&mut state.traffic.down, &mut all.down, Err(reason));
            return Err(reason);
        }
        let is_full = state.frames.len() >= STREAM_QUEUE;
        let oldest = is_full.then(|| state.frames.pop_front()).flatten();
        let (mut frame, _) = oldest.unwrap_or_default(); // its buffer serves again
        frame.clear();
        state.wrap(from, payload, true, now, &mut frame);
        let queued = if state.frames.is_empty() {
            Queued::First
        } else {
            Queued::Another
        };
        state.frames.push_back((frame, payload.len()));
        for down in [&mut state.traffic.down, &mut all.down] {
            down.taken = down.taken.wrapping_add(1);
            if is_full {
                down.drop(Reason::QueueFull);
            } else {
                down.waiting = down.waiting.wrapping_add(1);
            }
        }
        Ok(queued)
    }

    /// What waits for the client's stream, all in one piece; empty when nothing does.
    pub fn fetch(&self, all: &mut Traffic) -> Vec<u8> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut bytes = Vec::new();
        for (frame, size) in state.frames.drain(..) {
            bytes.extend_from_slice(&frame);
            for down in [&mut state.traffic.down, &mut all.down] {
                down.waiting = down.waiting.wrapping_sub(1);
                down.pass(1, size);
            }
        }
        bytes
    }

    // ------------------------------------------------------------ its socket

    /// True once for each channel that came to `STEADY` packets.
    pub(crate) fn turns_steady(&self) -> bool {
        self.is_steady.load(Ordering::Relaxed) && self.is_steady.swap(false, Ordering::Relaxed)
    }

    /// How many packets to ask the socket for.
    pub(crate) fn ask(&self) -> usize {
        self.guess.load(Ordering::Relaxed)
    }

    /// So many came: the next look asks for twice that where there may be more. A look that asks for more than
    /// there is costs another call into the kernel.
    pub(crate) fn note(&self, asked: usize, taken: usize) {
        let next = if taken >= asked {
            taken.saturating_mul(2).min(BATCH)
        } else {
            taken.max(1)
        };
        self.guess.store(next, Ordering::Relaxed);
    }

    /// Bytes of memory that this allocation takes.
    pub fn memory(&self) -> usize {
        let state = self.state.lock();
        let frames = state.frames.iter().map(|(frame, _)| frame.capacity());
        mem::size_of::<Self>()
            .saturating_add(crate::few::heap(&state.permissions))
            .saturating_add(crate::few::heap(&state.channels))
            .saturating_add(frames.fold(0, usize::saturating_add))
    }
}

impl State {
    /// Whether a packet from this peer may go to the client.
    fn admit(&mut self, from: &SocketAddr, payload: &[u8], now: f64) -> Result<(), Reason> {
        self.open()?;
        self.is_permitted(from.ip(), now)?;
        if payload.len() > MAX_UDP {
            return Err(Reason::TooLarge);
        }
        self.down.take(payload.len(), now)
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
