//! One uplink flow: whose it is, who hears it, and which of its packets came.
//!
//! Must never live here: budgets, queues, and who may be heard.

use std::mem::size_of;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

use crate::core::Leg;
use crate::counters::{bump, ByReason};
use crate::few::{heap, Few};
use crate::media::{index_of, Header};
use crate::reason::Reason;
use crate::window::Seen;

/// A listener of a flow: the leg, which of its lives (numbers may be used again), and the flow number there.
pub struct Target {
    pub leg: Arc<Leg>,
    pub epoch: u64,
    pub out: u8,
    /// 0 while the route stands, else 1 + the reason why it ended. Each list of a flow's listeners has the same
    /// `Target` as long as the route stands: a thread that read any of them before the route ended sees this
    /// under the listener's lock, or a copy would pass a gate that is closed.
    ended: AtomicU8,
}

impl Target {
    pub fn new(leg: Arc<Leg>, epoch: u64, out: u8) -> Self {
        Self {
            leg,
            epoch,
            out,
            ended: AtomicU8::new(0),
        }
    }

    pub fn is_same(&self, other: &Target) -> bool {
        Arc::ptr_eq(&self.leg, &other.leg) && self.epoch == other.epoch && self.out == other.out
    }

    /// To be called before the listener's queue is purged.
    pub fn end(&self, reason: Reason) {
        self.ended
            .store((reason as u8).saturating_add(1), Ordering::Release);
    }

    pub fn ended(&self) -> Option<Reason> {
        let ended = usize::from(self.ended.load(Ordering::Acquire));
        Reason::ALL.get(ended.checked_sub(1)?).copied()
    }
}

/// Who hears a flow.
pub type Targets = Arc<[Arc<Target>]>;

/// What was counted for one uplink flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    pub received: u64,
    pub accepted: u64,
    pub copies: u64,
    pub lost: u64,
    pub dropped: ByReason,
}

/// An uplink flow of a leg.
pub struct Flow {
    index: u32,
    group: bool,
    targets: Targets,
    closed: Reason,
    /// At most 8 key ids carry the flow's own index.
    seen: Few<(u8, Seen), 1>,
    latest: Option<u8>,
    lost: u64,
    counters: FlowCounters,
}

impl Flow {
    /// Of participant `index`; nobody hears it until `route`.
    pub fn new(index: u32, group: bool) -> Self {
        Self {
            index,
            group,
            targets: Arc::new([]),
            closed: Reason::GateClosed,
            seen: Few::new(),
            latest: None,
            lost: 0,
            counters: FlowCounters::default(),
        }
    }

    pub fn targets(&self) -> Targets {
        self.targets.clone()
    }

    /// Other listeners from now on; those before. `closed`: why, when there are none.
    pub fn route(&mut self, targets: Targets, closed: Reason) -> Targets {
        self.closed = closed;
        std::mem::replace(&mut self.targets, targets)
    }

    /// Who hears a datagram with this header: the sender's own, the gate open, and not heard before.
    pub fn admit(&mut self, header: &Header) -> Result<Targets, Reason> {
        if u32::from(index_of(header.kid, self.group)) != self.index {
            return Err(Reason::WrongSender);
        }
        if self.targets.is_empty() {
            return Err(self.closed);
        }
        if !self.is_new(header.kid, header.ctr) {
            return Err(Reason::Duplicate);
        }
        Ok(self.targets.clone())
    }

    /// A datagram of this flow came, and this became of it.
    pub fn count(&mut self, verdict: &Result<Targets, Reason>) {
        let counters = &mut self.counters;
        counters.received = counters.received.wrapping_add(1);
        match verdict {
            Ok(targets) => {
                counters.accepted = counters.accepted.wrapping_add(1);
                counters.copies = counters.copies.wrapping_add(targets.len() as u64);
            }
            Err(reason) => bump(&mut counters.dropped, *reason, 1),
        }
    }

    /// All that was counted.
    pub fn counters(&self) -> FlowCounters {
        FlowCounters {
            lost: self.lost(),
            ..self.counters.clone()
        }
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap(&self) -> usize {
        heap(&self.seen) + (size_of::<Arc<Target>>() + size_of::<Target>()) * self.targets.len()
    }

    /// Mark (kid, ctr) as seen; false when it was before.
    fn is_new(&mut self, kid: u8, ctr: u32) -> bool {
        let Some((_, seen)) = self.seen.iter_mut().find(|known| known.0 == kid) else {
            self.seen.push((kid, Seen::new(ctr)));
            self.latest = Some(kid);
            return true;
        };
        let mut is_fresh = seen.mark(ctr);
        if !is_fresh && self.latest != Some(kid) && seen.is_past(ctr) {
            // The epoch bits came round again: a new key counts from 0.
            self.lost = self.lost.wrapping_add(seen.lost());
            *seen = Seen::new(ctr);
            is_fresh = true;
        }
        if is_fresh {
            self.latest = Some(kid);
        }
        is_fresh
    }

    /// Packets that never came, from the gaps in the counters of each key.
    fn lost(&self) -> u64 {
        self.seen
            .iter()
            .fold(self.lost, |sum, (_, seen)| sum.wrapping_add(seen.lost()))
    }
}
