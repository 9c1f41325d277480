//! What waits for the loop: packets that aioquic must see, and notes about legs. Bounded, known legs first.
//!
//! ```text
//! known     packets of legs: at most 128 of each, 4096 in all; control datagrams, acknowledgements
//! unknown   packets of nobody that a front did not settle: 4096
//! ```
//!
//! Must never live here: what a packet means.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::cid::Cid;
use crate::core::Leg;
use crate::counters::Counters;
use crate::reason::Reason;

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
    /// An acknowledgement of a leg whose QUIC stack has packets out; ranges newest first, half-open.
    Ack {
        leg: u64,
        ranges: Vec<(u64, u64)>,
        delay: u64,
        at: f64,
    },
    /// So many packets were sealed under one key that it must change (RFC 9001 section 6.6).
    Rekey { leg: u64 },
    /// Something panicked over a packet of this leg.
    Broken { leg: u64 },
}

/// An item of a batch that is not done yet, and its leg if it is a packet of one.
pub(crate) struct Staged {
    pub item: Item,
    pub leg: Option<Arc<Leg>>,
}

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub struct SlowLimits {
    /// Of each queue.
    pub queue: usize,
    /// Packets of one leg: twice what a connection's whole window of control bytes takes.
    pub per_leg: usize,
}

/// The two queues.
#[derive(Default)]
pub(crate) struct Slow {
    known: VecDeque<Staged>,
    unknown: VecDeque<Staged>,
    /// Admitted first packets in `unknown`.
    admits: usize,
}

impl Slow {
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.unknown.is_empty()
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
        let is_packet = staged.item.is_packet();
        let queue = match staged.item {
            Item::Unknown { .. } | Item::Admit { .. } => &mut self.unknown,
            _ => &mut self.known,
        };
        let is_full = queue.len() >= limits.queue;
        match (&staged.item, &staged.leg) {
            // once per key phase or connection, and the loop must know
            (Item::Rekey { .. } | Item::Broken { .. }, _) => {}
            (_, Some(leg)) if leg.waiting.load(Ordering::Relaxed) >= limits.per_leg => {
                refuse(is_packet, counters);
                return staged.leg;
            }
            _ if is_full => {
                refuse(is_packet, counters);
                return staged.leg;
            }
            (_, Some(leg)) => {
                leg.waiting.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        if matches!(staged.item, Item::Admit { .. }) {
            self.admits = self.admits.wrapping_add(1);
        }
        queue.push_back(staged);
        None
    }

    /// The next item, known legs first.
    pub fn take(&mut self, counters: &mut Counters) -> Option<Item> {
        let staged = self
            .known
            .pop_front()
            .or_else(|| self.unknown.pop_front())?;
        if matches!(staged.item, Item::Admit { .. }) {
            self.admits = self.admits.wrapping_sub(1);
        }
        if staged.item.is_packet() {
            counters.waiting = counters.waiting.wrapping_sub(1);
            counters.taken = counters.taken.wrapping_add(1);
        }
        if let Some(leg) = staged.leg {
            leg.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Some(staged.item)
    }
}

impl Item {
    /// A UDP packet, of those that the equation of the packets counts.
    fn is_packet(&self) -> bool {
        matches!(
            self,
            Item::Known { .. } | Item::Unknown { .. } | Item::Admit { .. }
        )
    }
}

fn refuse(is_packet: bool, counters: &mut Counters) {
    if is_packet {
        counters.waiting = counters.waiting.wrapping_sub(1);
        counters.drop(Reason::OverBudget);
    } else {
        counters.notes_lost = counters.notes_lost.wrapping_add(1);
    }
}
