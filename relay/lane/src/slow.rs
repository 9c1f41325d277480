//! What waits for the loop: packets that aioquic must see, and notes about legs. Bounded, and taken in this order.
//!
//! ```text
//! streams     legs without a path for which copies wait: each once until it is drained, so as many as there are
//! known       packets of confirmed legs: at most 128 of each, 4096 in all. Between them, with bounds of their
//!             own, notes: at most 32 control datagrams of a leg, 4096 in all; one acknowledgement of a leg,
//!             which takes in those that come while it waits
//! half-open   packets of legs whose handshake is under way, so perhaps of sources that are not real: at most
//!             16 of each, 4096 in all
//! unknown     packets of nobody that a front did not settle: 4096; in turns with
//! stun        STUN packets of strangers: 1024
//! ```
//!
//! Also among the known, with bounds of their own: STUN packets of TURN's clients, at most 8 of an allocation and
//! 1024 in all, and one note of an allocation whose client's stream has bytes to write.
//!
//! Must never live here: what a packet means.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::cid::Cid;
use crate::core::Leg;
use crate::counters::Counters;
use crate::flow::Gap;
use crate::frames::{Ack, MAX_RANGES};
use crate::ranges::Ranges;
use crate::reason::Reason;
use crate::relay::Relay;

/// STUN packets: of strangers, and of all allocations; and of one.
const STUN_QUEUE: usize = 1024;
const STUN_PER_RELAY: usize = 8;

/// One thing for the loop to do. `at`: when it arrived.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A packet of a leg that aioquic must see.
    Known {
        leg: u64,
        data: Vec<u8>,
        from: SocketAddr,
        sock: u16,
        at: f64,
    },
    /// A packet that no leg owns.
    Unknown {
        data: Vec<u8>,
        from: SocketAddr,
        sock: u16,
        at: f64,
    },
    /// A first packet that the front admits.
    Admit {
        data: Vec<u8>,
        from: SocketAddr,
        sock: u16,
        at: f64,
        original: Cid,
        retry_source: Option<Cid>,
    },
    /// A datagram for the engine.
    Control { leg: u64, payload: Vec<u8>, at: f64 },
    /// What is missing of a watched flow; waits among the control datagrams.
    Gap { leg: u64, flow: u8, gap: Gap },
    /// Acknowledgements of a leg whose QUIC stack has packets out; ranges newest first, half-open. `delay` and
    /// `at` are those of the newest. While it waits the ranges are in the leg.
    Ack {
        leg: u64,
        ranges: Vec<(u64, u64)>,
        delay: u64,
        at: f64,
    },
    /// Copies wait for a leg without a path.
    Waiting { leg: u64 },
    /// So many packets were sealed under one key that it must change (RFC 9001 section 6.6).
    Rekey { leg: u64 },
    /// Something panicked over a packet of this leg.
    Broken { leg: u64 },
    /// A STUN packet that is no client's payload.
    Stun {
        data: Vec<u8>,
        from: SocketAddr,
        sock: u16,
        at: f64,
    },
    /// Bytes for the stream of an allocation's client. While it waits they are in the allocation.
    ToClient { relay: u64, data: Vec<u8> },
}

/// An item of a batch that is not done yet, and its leg if that has a share of the queues.
pub(crate) struct Staged {
    pub item: Item,
    pub leg: Option<Arc<Leg>>,
    /// Of a STUN packet, the allocation that its 5-tuple owns.
    pub relay: Option<Arc<Relay>>,
    /// The leg's handshake is under way.
    pub is_half_open: bool,
}

impl Staged {
    /// Without a share of the queues.
    pub fn nobodys(item: Item) -> Self {
        Self {
            item,
            leg: None,
            relay: None,
            is_half_open: false,
        }
    }

    /// A note of this leg.
    pub fn note(item: Item, leg: &Arc<Leg>) -> Self {
        Self {
            leg: Some(leg.clone()),
            ..Self::nobodys(item)
        }
    }
}

/// The acknowledgements of one leg that wait for the loop, as one.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    ranges: Ranges,
    largest: u64,
    delay: u64,
    at: f64,
}

impl Shown {
    /// Take in an acknowledgement (ranges newest first, half-open). True when none waited: it must be staged.
    pub fn note(shown: &mut Option<Box<Shown>>, ack: &Ack, at: f64) -> bool {
        let Some((_, stop)) = ack.ranges.first() else {
            return false;
        };
        let (largest, delay) = (*stop, ack.delay);
        let is_first = shown.is_none();
        let fresh = || {
            let ranges = Ranges::new();
            Box::new(Self {
                ranges,
                largest,
                delay,
                at,
            })
        };
        let note = shown.get_or_insert_with(fresh);
        if largest > note.largest {
            (note.largest, note.delay, note.at) = (largest, delay, at);
        }
        for (start, stop) in ack.ranges.iter().rev() {
            note.ranges.add(*start, *stop);
        }
        while note.ranges.len() > MAX_RANGES {
            note.ranges.shift();
        }
        is_first
    }

    /// What the loop is told.
    pub fn tell(&self, leg: u64) -> Item {
        Item::Ack {
            leg,
            ranges: self.ranges.as_slice().iter().rev().copied().collect(),
            delay: self.delay,
            at: self.at,
        }
    }
}

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub struct SlowLimits {
    /// Of each queue, and of the notes in it.
    pub queue: usize,
    /// Packets of one leg: twice what a connection's whole window of control bytes takes.
    pub per_leg: usize,
    /// As long as its handshake is under way: a few times what that takes.
    pub per_half_open: usize,
}

/// The queues.
#[derive(Default)]
pub(crate) struct Slow {
    streams: VecDeque<Staged>,
    known: VecDeque<Staged>,
    half_open: VecDeque<Staged>,
    unknown: VecDeque<Staged>,
    stun: VecDeque<Staged>,
    /// The last packet of strangers that was taken was of `stun`.
    was_stun: bool,
    /// STUN packets in `known`.
    owned: usize,
    /// Packets and control datagrams in `known`.
    packets: usize,
    controls: usize,
    /// Admitted first packets in `unknown`.
    admits: usize,
}

impl Slow {
    pub fn is_empty(&self) -> bool {
        let before = [&self.streams, &self.known, &self.half_open];
        let strangers = [&self.unknown, &self.stun];
        let mut queues = before.into_iter().chain(strangers);
        queues.all(VecDeque::is_empty)
    }

    /// How many admitted first packets wait.
    pub fn admits(&self) -> usize {
        self.admits
    }

    /// Take an item in, or count it as dropped. Its packet, if it is one, is counted in `waiting` already.
    /// The leg whose packet was refused, if it was one.
    pub fn put(
        &mut self,
        staged: Staged,
        limits: SlowLimits,
        counters: &mut Counters,
    ) -> Option<Arc<Leg>> {
        if matches!(staged.item, Item::Stun { .. }) {
            self.put_stun(staged, counters);
            return None;
        }
        let (count, per_leg) = match staged.item {
            Item::Known { .. } if staged.is_half_open => {
                (self.half_open.len(), limits.per_half_open)
            }
            Item::Known { .. } => (self.packets, limits.per_leg),
            Item::Unknown { .. } | Item::Admit { .. } => (self.unknown.len(), limits.per_leg),
            Item::Control { .. } | Item::Gap { .. } => (self.controls, limits.per_leg),
            // once per leg, key phase, connection or allocation, and the loop must know
            _ => (0, limits.per_leg),
        };
        let is_packet = staged.item.is_packet();
        let leg = staged.leg.as_ref();
        let waiting = leg.map_or(0, |leg| leg.waiting.load(Ordering::Relaxed));
        if count >= limits.queue || (is_packet && waiting >= per_leg) {
            if is_packet {
                counters.waiting = counters.waiting.wrapping_sub(1);
                counters.drop(Reason::OverBudget);
                return staged.leg;
            }
            counters.lose_note();
            if let Some(leg) = leg {
                leg.notes.fetch_sub(1, Ordering::Relaxed);
            }
            return None;
        }
        self.count(&staged, 1);
        if let Some(leg) = leg.filter(|_| is_packet) {
            leg.waiting.fetch_add(1, Ordering::Relaxed);
        }
        match staged.item {
            Item::Waiting { .. } => self.streams.push_back(staged),
            Item::Unknown { .. } | Item::Admit { .. } => self.unknown.push_back(staged),
            Item::Known { .. } if staged.is_half_open => self.half_open.push_back(staged),
            _ => self.known.push_back(staged),
        }
        None
    }

    fn put_stun(&mut self, staged: Staged, counters: &mut Counters) {
        let (queue, has_room) = match &staged.relay {
            Some(relay) => {
                let waiting = relay.waiting.load(Ordering::Relaxed);
                let has_room = self.owned < STUN_QUEUE && waiting < STUN_PER_RELAY;
                if has_room {
                    self.owned = self.owned.wrapping_add(1);
                    relay
                        .waiting
                        .store(waiting.wrapping_add(1), Ordering::Relaxed);
                }
                (&mut self.known, has_room)
            }
            None => {
                let has_room = self.stun.len() < STUN_QUEUE;
                (&mut self.stun, has_room)
            }
        };
        if has_room {
            queue.push_back(staged);
        } else {
            counters.waiting = counters.waiting.wrapping_sub(1);
            counters.drop(Reason::OverBudget);
        }
    }

    /// Of strangers: STUN and QUIC in turns, so that a flood of the one does not keep out the other.
    fn take_stranger(&mut self) -> Option<Staged> {
        let is_stun = !self.stun.is_empty() && (!self.was_stun || self.unknown.is_empty());
        let queue = if is_stun {
            &mut self.stun
        } else {
            &mut self.unknown
        };
        let stranger = queue.pop_front()?;
        self.was_stun = is_stun;
        Some(stranger)
    }

    /// The next item; an acknowledgement is to be asked for at its leg.
    pub fn take(&mut self, counters: &mut Counters) -> Option<Staged> {
        let known = self.streams.pop_front().or_else(|| self.known.pop_front());
        let staged = known
            .or_else(|| self.half_open.pop_front())
            .or_else(|| self.take_stranger())?;
        self.count(&staged, usize::MAX);
        let is_packet = staged.item.is_packet();
        if is_packet {
            counters.waiting = counters.waiting.wrapping_sub(1);
            counters.taken = counters.taken.wrapping_add(1);
        }
        if let Some(relay) = &staged.relay {
            self.owned = self.owned.wrapping_sub(1);
            relay.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(leg) = &staged.leg {
            if is_packet {
                leg.waiting.fetch_sub(1, Ordering::Relaxed);
            } else if matches!(staged.item, Item::Control { .. } | Item::Gap { .. }) {
                leg.notes.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Some(staged)
    }

    /// One more, or with `usize::MAX` one less.
    fn count(&mut self, staged: &Staged, by: usize) {
        let figure = match staged.item {
            Item::Known { .. } if !staged.is_half_open => &mut self.packets,
            Item::Control { .. } | Item::Gap { .. } => &mut self.controls,
            Item::Admit { .. } => &mut self.admits,
            _ => return,
        };
        *figure = figure.wrapping_add(by);
    }
}

impl Item {
    /// A UDP packet, of those that the equation of the packets counts.
    fn is_packet(&self) -> bool {
        matches!(
            self,
            Item::Known { .. } | Item::Unknown { .. } | Item::Admit { .. } | Item::Stun { .. }
        )
    }
}
