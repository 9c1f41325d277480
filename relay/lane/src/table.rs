//! One leg's part of the routing table: budgets, uplink flows, and the queues of what it shall hear.
//!
//! ```text
//! receive   flow -> header -> budget -> sender -> gate -> duplicate -> who hears it
//! enqueue   at most so many frames per flow, the oldest goes first; so many bytes in all
//! dequeue   oldest flow first, none that is stale or over budget
//! ```
//!
//! The same verdicts in the same order as `relay/edge/routes.py`, which is its oracle. Must never live here:
//! locks, sockets, encryption, or a reason for a gate to be open.

use std::mem::size_of;

use crate::bucket::Bucket;
use crate::counters::{bump, Counters};
use crate::few::{heap, Few};
use crate::flow::{Flow, FlowCounters, Heard, Targets};
use crate::media;
use crate::reason::Reason;
use crate::work::Pool;

/// The drop class of redundancy alone.
const REDUNDANT: u8 = 2;

/// What a token grants: packets/s and bits/s up, bits/s down.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    pub pps: u64,
    pub up_bps: u64,
    pub down_bps: u64,
}

impl Rights {
    /// (rate, burst) of the buckets for packets, bytes up and bytes down.
    pub(crate) fn buckets(self, burst_s: f64) -> [(f64, f64); 3] {
        let pps = self.pps as f64;
        let (up, down) = (self.up_bps as f64 / 8.0, self.down_bps as f64 / 8.0);
        let largest = media::MAX_SIZE as f64;
        [
            (pps, f64::max(pps * burst_s, 10.0)),
            (up, f64::max(up * burst_s, largest)),
            (down, f64::max(down * burst_s, 2.0 * largest)),
        ]
    }
}

/// What a listener's way bears of what it hears; as `relay.core.events.Shape`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub hold: f64,
    pub frames: usize,
    pub redundancy: bool,
}

struct Copy {
    arrived: f64,
    /// When the time of its packet began to run.
    since: f64,
    data: Vec<u8>,
}

struct Queue {
    out: u8,
    copies: Few<Copy, 1>,
}

/// What a queue may hold.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Per flow.
    pub frames: usize,
    /// Older copies are noise.
    pub seconds: f64,
    /// Of all flows together, by the buffers of the copies.
    pub bytes: usize,
}

/// A leg in the routing table, from `open_leg` to `close_leg`.
pub struct Media {
    /// Tells this life of the leg from another one under the same number.
    pub epoch: u64,
    packets: Bucket,
    up: Bucket,
    down: Bucket,
    flows: Few<(u8, Flow), 1>,
    /// In the order in which the flows were first heard: the first is emptied first.
    queues: Few<Queue, 1>,
    /// Copies in all queues, and the bytes that these take.
    waiting: usize,
    held: usize,
    /// None: all there is, at once.
    shape: Option<Box<Shape>>,
}

impl Media {
    pub fn new(epoch: u64, rights: Rights, burst_s: f64) -> Self {
        let [packets, up, down] = rights
            .buckets(burst_s)
            .map(|(rate, burst)| Bucket::new(rate, burst));
        Self {
            epoch,
            packets,
            up,
            down,
            flows: Few::new(),
            queues: Few::new(),
            waiting: 0,
            held: 0,
            shape: None,
        }
    }

    /// New rights in mid-call: a full bucket for each would be a way around the budget; flows stay.
    pub fn change(&mut self, rights: Rights, burst_s: f64) {
        let [packets, up, down] = rights.buckets(burst_s);
        self.packets.change(packets.0, packets.1);
        self.up.change(up.0, up.1);
        self.down.change(down.0, down.1);
    }

    /// Packets of the leg's own that came as repeats alone, on flows that are open.
    pub fn mended(&self) -> u64 {
        let each = self.flows.iter().map(|(_, flow)| flow.mended());
        each.fold(0, u64::wrapping_add)
    }

    /// From now on the leg hears like this.
    pub fn form(&mut self, shape: Shape) {
        self.shape = Some(Box::new(shape));
    }

    /// Whether a copy is more than the leg's way bears.
    pub fn is_unwanted(&self, copy: &[u8]) -> bool {
        let class = copy.get(1).map(|head| head >> 2 & 3);
        let shape = self.shape.as_ref();
        shape.is_some_and(|shape| !shape.redundancy && class == Some(REDUNDANT))
    }

    /// Until when what waits waits for what may share its packet; None: for nothing.
    pub fn held_until(&self) -> Option<f64> {
        let shape = self.shape.as_ref().filter(|shape| shape.hold > 0.0)?;
        let wanted = self.queues.len().saturating_mul(shape.frames);
        let oldest = self.oldest().filter(|_| self.waiting < wanted)?;
        Some(oldest + shape.hold)
    }

    /// Copies waiting.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap(&self) -> usize {
        let queued: usize = self
            .queues
            .iter()
            .map(|queue| {
                let held: usize = queue.copies.iter().map(|copy| copy.data.capacity()).sum();
                heap(&queue.copies) + held
            })
            .sum();
        let flows: usize = self.flows.iter().map(|(_, flow)| flow.heap()).sum();
        let shape = self.shape.as_ref().map_or(0, |_| size_of::<Shape>());
        queued + flows + shape + heap(&self.flows) + heap(&self.queues)
    }

    /// As a bug might leave it: the next copy for it panics.
    #[cfg(test)]
    pub fn corrupt(&mut self) {
        self.waiting = usize::MAX;
    }

    // ------------------------------------------------------------ flows and routes

    /// Accept an uplink flow of participant `index`; nobody hears it until `route`.
    pub fn open_flow(&mut self, number: u8, index: u32, group: bool) {
        let flow = Flow::new(index, group);
        match self.flow(number) {
            Some(known) => *known = flow,
            None => self.flows.push((number, flow)),
        }
    }

    /// Tell of gaps in a flow from now on.
    pub fn watch_flow(&mut self, number: u8) {
        if let Some(flow) = self.flow(number) {
            flow.watch();
        }
    }

    /// Forget an uplink flow and return what was counted for it.
    pub fn close_flow(&mut self, number: u8) -> FlowCounters {
        let Some(at) = self.flows.iter().position(|known| known.0 == number) else {
            return FlowCounters::default();
        };
        self.flows.swap_remove(at).1.counters()
    }

    /// Copy a flow to `targets` from now on; the targets before, or None when there is no such flow.
    pub fn route(&mut self, number: u8, targets: Targets, closed: Reason) -> Option<Targets> {
        Some(self.flow(number)?.route(targets, closed))
    }

    /// Since when somebody hears a flow, and how many datagrams of it.
    pub fn heard(&self, number: u8) -> Option<(f64, u64)> {
        self.flows.iter().find(|known| known.0 == number)?.1.heard()
    }

    /// Who hears a flow; None when there is no such flow.
    pub fn targets(&self, number: u8) -> Option<Targets> {
        let flow = self.flows.iter().find(|known| known.0 == number)?;
        Some(flow.1.targets())
    }

    /// Who hears any flow.
    pub fn all_targets(&self) -> Vec<Targets> {
        self.flows.iter().map(|known| known.1.targets()).collect()
    }

    fn flow(&mut self, number: u8) -> Option<&mut Flow> {
        self.flows
            .iter_mut()
            .find(|known| known.0 == number)
            .map(|known| &mut known.1)
    }

    // ------------------------------------------------------------ in

    /// Judge one media datagram of this leg: who hears it, or why nobody does. All of it is counted here.
    pub fn receive(
        &mut self,
        payload: &[u8],
        now: f64,
        counters: &mut Counters,
    ) -> Result<Heard, Reason> {
        counters.media_in = counters.media_in.wrapping_add(1);
        let verdict = self.judge(payload, now);
        match &verdict {
            Ok(_) => counters.accepted = counters.accepted.wrapping_add(1),
            Err(reason) => bump(&mut counters.media_dropped, *reason, 1),
        }
        verdict
    }

    fn judge(&mut self, payload: &[u8], now: f64) -> Result<Heard, Reason> {
        let number = *payload.first().ok_or(Reason::UnknownFlow)?;
        let (_, flow) = self
            .flows
            .iter_mut()
            .find(|known| known.0 == number)
            .ok_or(Reason::UnknownFlow)?;
        let (packets, up) = (&mut self.packets, &mut self.up);
        let verdict = media::decode(payload).and_then(|header| {
            if !packets.take(1.0, now) || !up.take(payload.len() as f64, now) {
                return Err(Reason::OverBudget);
            }
            flow.admit(&header, now)
        });
        flow.count(&verdict, now);
        verdict
    }

    // ------------------------------------------------------------ out

    /// Let a copy wait for this leg; true when it should be emptied now, before the next one finds no room. The
    /// caller counted it in `copies`. `times`: since when its own time runs, and now.
    pub fn enqueue(
        &mut self,
        out: u8,
        copy: Vec<u8>,
        times: (f64, f64),
        limits: QueueLimits,
        pool: &mut Pool,
        counters: &mut Counters,
    ) -> bool {
        let at = match self.queues.iter().position(|queue| queue.out == out) {
            Some(at) => at,
            None => {
                let copies = Few::new(); // most never hold a second one
                self.queues.push(Queue { out, copies });
                self.queues.len().saturating_sub(1)
            }
        };
        let Some(queue) = self.queues.get_mut(at) else {
            return false;
        };
        let room = Pool::room(copy.len());
        while queue.copies.len() >= limits.frames || self.held.saturating_add(room) > limits.bytes {
            counters.drop_out(Reason::QueueFull, 1);
            if queue.copies.is_empty() {
                pool.give(copy); // other flows have it all, and the path takes nothing
                return true;
            }
            let oldest = queue.copies.remove(0).data;
            self.waiting = self.waiting.saturating_sub(1);
            self.held = self.held.saturating_sub(Pool::room(oldest.len()));
            counters.queued = counters.queued.wrapping_sub(1);
            pool.give(oldest);
        }
        #[cfg(test)]
        assert_ne!(self.waiting, usize::MAX, "corrupt"); // without overflow checks it would only wrap
        self.waiting += 1;
        self.held = self.held.saturating_add(room);
        counters.queued = counters.queued.wrapping_add(1);
        let (since, arrived) = times;
        queue.copies.push(Copy {
            arrived,
            since,
            data: copy,
        });
        queue.copies.len() >= limits.frames || self.held.saturating_add(room) > limits.bytes
    }

    /// Whether the leg's rights allow so many more bytes down; then they are used.
    pub fn charge(&mut self, size: usize, now: f64) -> bool {
        self.down.take(size as f64, now)
    }

    /// When the oldest copy that waits came.
    pub fn oldest(&self) -> Option<f64> {
        let firsts = self.queues.iter().filter_map(|queue| queue.copies.first());
        firsts.map(|copy| copy.arrived).reduce(f64::min)
    }

    /// The next copy that is still worth sending and fits `room` bytes, with when its time began; or None.
    pub fn dequeue(
        &mut self,
        now: f64,
        room: usize,
        limits: QueueLimits,
        pool: &mut Pool,
        counters: &mut Counters,
    ) -> Option<(f64, Vec<u8>)> {
        if self.waiting == 0 {
            return None;
        }
        for queue in &mut self.queues {
            while queue
                .copies
                .first()
                .is_some_and(|copy| copy.data.len() <= room)
            {
                let copy = queue.copies.remove(0); // there is one, and there are few
                counters.queued = counters.queued.wrapping_sub(1);
                self.waiting = self.waiting.saturating_sub(1);
                self.held = self.held.saturating_sub(Pool::room(copy.data.len()));
                let refused = if now - copy.arrived > limits.seconds {
                    Reason::Stale
                } else if self.down.take(copy.data.len() as f64, now) {
                    counters.copies_sent = counters.copies_sent.wrapping_add(1);
                    counters.left.note(copy.arrived);
                    return Some((copy.since, copy.data));
                } else {
                    Reason::OverBudget
                };
                counters.drop_out(refused, 1);
                pool.give(copy.data);
            }
        }
        None
    }

    /// Drop what waits of a flow that this leg may no longer hear.
    pub fn purge(&mut self, out: u8, reason: Reason, counters: &mut Counters) {
        if let Some(at) = self.queues.iter().position(|queue| queue.out == out) {
            let gone = self.queues.remove(at).copies;
            let held = gone.iter().map(|copy| Pool::room(copy.data.len())).sum();
            self.held = self.held.saturating_sub(held);
            self.leave(gone.len(), reason, counters);
        }
    }

    /// The leg is gone: drop all that waits for it.
    pub fn abandon(&mut self, counters: &mut Counters) {
        self.queues.clear();
        self.held = 0;
        self.leave(self.waiting, Reason::PeerGone, counters);
    }

    fn leave(&mut self, count: usize, reason: Reason, counters: &mut Counters) {
        self.waiting = self.waiting.saturating_sub(count);
        counters.queued = counters.queued.wrapping_sub(count as u64);
        counters.drop_out(reason, count as u64);
    }
}
