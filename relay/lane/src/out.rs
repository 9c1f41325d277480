//! What leaves: copies from the listeners' queues, acknowledgements that no copy took along.
//!
//! ```text
//! queue -> as many frames as fit one packet, repeats beside them (repeats.rs), with the acknowledgement that is due
//!      |   -> path.seal -> Work::out
//!      `-> the loop, which drains what listeners on streams shall hear
//! ```
//!
//! Sending never waits: what the path does not take stays in the queue until it is stale, and what the kernel
//! does not take is counted and gone. Must never live here: what arrives, and sockets.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::mem;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::core::{contain, Core, Leg, LegState, Stream};
use crate::flow::Target;
use crate::media::{set_flow, MAX_SIZE};
use crate::path::{ACK_HOLD, EARLY, MAX_PACKET};
use crate::reason::Reason;
use crate::repeats::Ask;
use crate::slow::Item;
use crate::table::Media;
use crate::trunk::Ways;
use crate::work::{note_trouble, Outgoing, Wait, Work};

/// Short header, ACK frame and tag, upper bound for one of ours.
pub(crate) const PACKET_OVERHEAD: usize = 60;
/// Frame type and two-byte length.
pub(crate) const DATAGRAM_OVERHEAD: usize = 3;

/// Which of a trunk's packets leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// Those that have no room for more: others of the batch may share the last one.
    Full,
    /// Those, and the last one once its first copy has waited for long enough. The batch is done.
    Due,
    All,
}

impl Core {
    /// Let a copy wait for a listener. A queue that is full by that is emptied at once: a batch of packets must
    /// not displace copies that could have left. `times`: since when the packet's own time runs, and now.
    pub(crate) fn enqueue(
        &self,
        work: &mut Work,
        target: &Target,
        payload: &[u8],
        times: (f64, f64),
    ) {
        let now = times.1;
        work.counters.copies = work.counters.copies.wrapping_add(1);
        let mut guard = target.leg.state.lock();
        let state = &mut *guard;
        let media = state.media.as_mut();
        let Some(media) = media.filter(|media| media.epoch == target.epoch) else {
            let (ways, is_counted) = self.enqueue_on_trunk(work, target, payload, state, now);
            drop(guard); // nobody holds the locks of two legs
            return self.enqueue_on_ways(work, target, payload, ways, is_counted, now);
        };
        if let Some(reason) = target.ended() {
            return work.counters.drop_out(reason, 1);
        }
        if self.is_shed(payload) {
            return work.counters.drop_out(Reason::Shed, 1);
        }
        if media.is_unwanted(payload) {
            return work.counters.drop_out(Reason::NotWanted, 1);
        }
        let mut copy = work.pool.copy(payload);
        set_flow(&mut copy, target.flow(), false);
        let limits = self.queue_limits(state.stream);
        let (pool, counters) = (&mut work.pool, &mut work.counters);
        let is_full = media.enqueue(target.flow(), copy, times, limits, pool, counters);
        if state.stream != Stream::No {
            if mem::replace(&mut state.stream, Stream::Told) == Stream::Quiet {
                let leg = target.leg.number;
                work.stage_note(Item::Waiting { leg });
            }
            return;
        }
        if state.listed & work.bit == 0 {
            state.listed |= work.bit;
            work.ready.push(target.leg.clone());
        }
        if is_full {
            self.flush_leg(&target.leg, state, work, now);
        }
    }

    /// The same where the listener is no leg any more, or a trunk: there copies of all routes stand in one line.
    /// By which other connections it goes, and whether the copy that was counted is dealt with.
    fn enqueue_on_trunk(
        &self,
        work: &mut Work,
        target: &Target,
        payload: &[u8],
        state: &mut LegState,
        now: f64,
    ) -> (Ways, bool) {
        let trunk = state.trunk.as_ref();
        let trunk = trunk.filter(|trunk| trunk.epoch == target.epoch);
        let reason = match trunk {
            None => Some(Reason::PeerGone),
            Some(_) if self.is_shed(payload) => target.ended().or(Some(Reason::Shed)),
            Some(_) => target.ended(),
        };
        let (Some(trunk), None) = (trunk, reason) else {
            work.counters
                .drop_out(reason.unwrap_or(Reason::PeerGone), 1);
            return ([None, None], true);
        };
        let ways = trunk.ways();
        let has_own = trunk.has_own_line(state.has_path);
        if has_own {
            self.line_up(&target.leg, target.out, payload, state, work, now);
        }
        (ways, has_own)
    }

    /// Each of these connections of the trunk takes a copy of its own.
    fn enqueue_on_ways(
        &self,
        work: &mut Work,
        target: &Target,
        payload: &[u8],
        ways: Ways,
        mut is_counted: bool,
        now: f64,
    ) {
        for way in ways.into_iter().flatten() {
            if mem::replace(&mut is_counted, true) {
                work.counters.copies = work.counters.copies.wrapping_add(1);
            }
            let mut state = way.state.lock();
            let trunk = state.trunk.as_ref();
            let is_there = trunk.is_some_and(|trunk| trunk.is_of(&target.leg, target.epoch));
            match target.ended() {
                Some(reason) => work.counters.drop_out(reason, 1),
                None if !is_there => work.counters.drop_out(Reason::PeerGone, 1),
                None => self.line_up(&way, target.out, payload, &mut state, work, now),
            }
        }
    }

    /// Let a copy wait in a connection's line.
    fn line_up(
        &self,
        leg: &Arc<Leg>,
        route: u16,
        payload: &[u8],
        state: &mut LegState,
        work: &mut Work,
        now: f64,
    ) {
        let (pool, counters) = (&mut work.pool, &mut work.counters);
        let trunk = state.trunk.as_mut();
        let is_full = trunk.is_some_and(|trunk| trunk.enqueue(route, payload, now, pool, counters));
        if state.listed & work.bit == 0 {
            state.listed |= work.bit;
            work.ready.push(leg.clone());
        }
        let leaves = if is_full { Leaves::All } else { Leaves::Full };
        self.flush_trunk(leg, state, work, now, leaves);
    }

    /// From now on copies of drop class c go no further where bit c is set.
    pub fn shed(&self, classes: u8) {
        self.shedding.store(classes, Ordering::Relaxed);
    }

    fn is_shed(&self, copy: &[u8]) -> bool {
        let classes = self.shedding.load(Ordering::Relaxed);
        classes != 0
            && copy
                .get(1)
                .is_some_and(|head| classes >> (head >> 2 & 3) & 1 == 1)
    }

    /// Seal what waits for the legs that got copies since the last call.
    pub fn flush(&self, work: &mut Work, now: f64) {
        let mut ready = mem::take(&mut work.ready);
        for leg in ready.drain(..) {
            contain(work, Some(leg.number), |work, _| {
                let mut state = leg.state.lock();
                state.listed &= !work.bit;
                self.flush_held(&leg, &mut state, work, now);
            });
        }
        work.ready = ready;
    }

    /// As `flush_leg`, once nothing is waited for any more.
    fn flush_held(&self, leg: &Arc<Leg>, state: &mut LegState, work: &mut Work, now: f64) {
        if state.media.is_none() && state.trunk.is_some() {
            return self.flush_trunk(leg, state, work, now, Leaves::Due);
        }
        let due = state.media.as_ref().and_then(Media::held_until);
        match due.filter(|due| *due > now + EARLY && state.has_path) {
            None => self.flush_leg(leg, state, work, now),
            Some(_) if state.is_holding => {}
            Some(due) => {
                state.is_holding = true;
                work.await_others(due, leg.clone());
            }
        }
    }

    /// Seal what waits for one leg, as far as its path takes it.
    fn flush_leg(&self, leg: &Arc<Leg>, state: &mut LegState, work: &mut Work, now: f64) {
        let lost = state.path.lost();
        while state.path.room(now) {
            if !self.batch(state, work, now) {
                break;
            }
            if state.ring.is_some() {
                self.choose_beside(state, work, now);
            }
            self.seal(leg.number, state, work, now);
            if state.ring.is_some() {
                await_pause(leg, state, work);
            }
        }
        let lost = state.path.lost().wrapping_sub(lost);
        work.counters.count_lost(lost);
        note_trouble(&mut work.troubled, leg.number, &mut state.path.trouble);
    }

    /// Seal what waits for a trunk, as far as its path takes it and it leaves by now.
    fn flush_trunk(
        &self,
        leg: &Arc<Leg>,
        state: &mut LegState,
        work: &mut Work,
        now: f64,
        leaves: Leaves,
    ) {
        let lost = state.path.lost();
        let mut waits = None;
        while let Some(trunk) = state.trunk.as_mut() {
            let Some(due) = trunk.due() else {
                break;
            };
            let leaves = match leaves {
                Leaves::Full => trunk.is_full(),
                Leaves::Due => trunk.is_full() || due <= now,
                Leaves::All => true,
            };
            if !leaves {
                waits = Some(due);
                break;
            }
            let rtt = &state.path.rtt;
            let round = rtt.now.map(|sample| sample.smoothed + rtt.ack_delay);
            let window = trunk.widen(state.path.fates().bytes_acked, round, now);
            if !state.path.room_within(window, now) {
                break; // an acknowledgement will open it
            }
            trunk.batch(now, &mut work.batch, &mut work.pool, &mut work.counters);
            if work.batch.is_empty() {
                break; // all was stale
            }
            self.seal(leg.number, state, work, now);
        }
        let is_told = state.is_holding || !state.has_path;
        if let (Leaves::Due, Some(due), false) = (leaves, waits, is_told) {
            state.is_holding = true;
            work.await_others(due, leg.clone());
        }
        let lost = state.path.lost().wrapping_sub(lost);
        work.counters.count_lost(lost);
    }

    /// What goes again beside the copies of `Work::batch`.
    fn choose_beside(&self, state: &mut LegState, work: &mut Work, now: f64) {
        let overhead = overhead(state);
        let (Some(ring), Some(media)) = (state.ring.as_mut(), state.media.as_mut()) else {
            return;
        };
        let copies = work.batch.iter().map(|(_, copy)| copy.as_slice());
        let sizes = copies
            .clone()
            .map(|copy| copy.len().saturating_add(overhead));
        let room = MAX_PACKET
            .saturating_sub(PACKET_OVERHEAD)
            .saturating_sub(sizes.sum());
        let takes = |size| media.charge(size, now);
        ring.beside(copies, now, state.path.rtt.now, room, takes);
    }

    /// Nothing left for a while: one repeat may go by itself, since the next packet may come too late.
    fn flush_alone(&self, leg: &Arc<Leg>, state: &mut LegState, work: &mut Work, now: f64) {
        let lost = state.path.lost();
        let rtt = state.path.rtt.now;
        state.is_pause_held = false;
        let Some(ring) = state.ring.as_mut() else {
            return;
        };
        match ring.pause_due(rtt) {
            None => {}
            Some(due) if due > now + EARLY => await_pause(leg, state, work), // something left meanwhile
            Some(_) if state.path.room(now) => {
                let mut media = state.media.as_mut();
                let room = MAX_PACKET.saturating_sub(PACKET_OVERHEAD);
                let takes = |size| media.as_mut().is_some_and(|media| media.charge(size, now));
                ring.alone(now, rtt, room, takes);
                if ring.going().next().is_some() {
                    self.seal(leg.number, state, work, now);
                } else {
                    ring.settle(&mut work.counters.repairs);
                }
            }
            Some(_) => {}
        }
        let lost = state.path.lost().wrapping_sub(lost);
        work.counters.count_lost(lost);
    }

    /// A listener names copies that it misses: those of them that are kept leave by themselves. How many.
    pub fn resend(&self, work: &mut Work, leg: u64, ask: &Ask, now: f64) -> usize {
        let owner = self.legs.read().get(&leg).cloned();
        let mut count = 0;
        let Some(owner) = owner else {
            return count;
        };
        contain(work, Some(leg), |work, _| {
            let mut guard = owner.state.lock();
            let state = &mut *guard;
            let lost = state.path.lost();
            if state.ring.is_some() && state.path.room(now) {
                let mut media = state.media.as_mut();
                let takes = |size| media.as_mut().is_some_and(|media| media.charge(size, now));
                if let Some(ring) = state.ring.as_mut() {
                    ring.asked(ask, now, MAX_PACKET.saturating_sub(PACKET_OVERHEAD), takes);
                    count = ring.going().count();
                    ring.settle(&mut work.counters.repairs);
                }
                if count > 0 {
                    self.seal(leg, state, work, now);
                }
            }
            let lost = state.path.lost().wrapping_sub(lost);
            work.counters.count_lost(lost);
        });
        count
    }

    /// Copies for a leg until `room` bytes are used: one on a stream (none: nothing waits, and the loop will be
    /// told of the next), or one whose path carried and does not now.
    pub fn drain(&self, work: &mut Work, leg: u64, now: f64, mut room: usize) -> Vec<Vec<u8>> {
        let mut copies = Vec::new();
        let owner = self.legs.read().get(&leg).cloned();
        let Some(owner) = owner else {
            return copies;
        };
        contain(work, Some(leg), |work, _| {
            let mut guard = owner.state.lock();
            let state = &mut *guard;
            let is_stream = state.stream != Stream::No;
            if !is_stream && !state.path.is_moving() {
                return;
            }
            let limits = self.queue_limits(state.stream);
            if let Some(media) = state.media.as_mut() {
                while room > 0 {
                    let (pool, counters) = (&mut work.pool, &mut work.counters);
                    let Some((_, copy)) = media.dequeue(now, MAX_SIZE, limits, pool, counters)
                    else {
                        break;
                    };
                    room = room.saturating_sub(copy.len());
                    copies.push(copy);
                }
            }
            if is_stream && copies.is_empty() {
                state.stream = Stream::Quiet;
            }
            work.settle_left(now);
        });
        copies
    }

    /// Copies for one packet; false when none is left.
    fn batch(&self, state: &mut LegState, work: &mut Work, now: f64) -> bool {
        let overhead = overhead(state);
        let Some(media) = state.media.as_mut() else {
            return false;
        };
        let limits = self.queue_limits(state.stream);
        let mut room = MAX_SIZE;
        while let Some(copy) = media.dequeue(now, room, limits, &mut work.pool, &mut work.counters)
        {
            let size = copy.1.len().saturating_add(overhead);
            if work.batch.is_empty() {
                room = MAX_PACKET
                    .saturating_sub(PACKET_OVERHEAD)
                    .saturating_sub(DATAGRAM_OVERHEAD);
            }
            room = room.saturating_sub(size);
            work.batch.push(copy);
        }
        !work.batch.is_empty()
    }

    /// One packet with the copies of `Work::batch` and what the ring chose, or with the acknowledgement alone.
    fn seal(&self, leg: u64, state: &mut LegState, work: &mut Work, now: f64) {
        let out = &mut work.out;
        let start = out.arena.len();
        let copies = work.batch.len();
        let overhead = overhead(state);
        let again = state.ring.iter().flat_map(|ring| ring.going());
        let datagrams = work.batch.iter().map(|(_, copy)| copy.as_slice());
        let datagrams = datagrams.chain(again);
        let is_media = datagrams.clone().next().is_some();
        let sealed = state.path.seal(datagrams, now, &mut out.arena);
        let is_sealed = sealed.is_some();
        match (sealed, state.path.facts.address) {
            (Some(_), Some(address)) => {
                work.counters.sent = work.counters.sent.wrapping_add(1);
                out.close(start, address, state.path.facts.sock, copies);
            }
            // With packets that wait for aioquic an acknowledgement alone is held back: it leaves with those.
            (None, Some(_)) if copies == 0 => {}
            _ => {
                // an active path has keys and an address: a bug, and not this peer's only
                out.arena.truncate(start);
                let copies = u64::try_from(copies).unwrap_or(0);
                let counters = &mut work.counters;
                counters.copies_sent = counters.copies_sent.wrapping_sub(copies);
                counters.drop_out(Reason::Internal, copies);
                work.stage_note(Item::Broken { leg });
            }
        }
        if let Some(ring) = state.ring.as_mut().filter(|_| is_media) {
            if is_sealed {
                let number = state.path.last_number();
                ring.left(number, &mut work.batch, overhead, now, &mut work.pool);
            } else {
                ring.cancel();
            }
            ring.settle(&mut work.counters.repairs);
        }
        for (_, copy) in work.batch.drain(..) {
            work.pool.give(copy);
        }
        if state.path.wants_update() {
            work.stage_note(Item::Rekey { leg });
        }
    }

    /// Send the held acknowledgements that are due and that no packet took along, and repeats in pauses.
    pub fn acks(&self, work: &mut Work, now: f64) {
        let mut due = mem::take(&mut work.due);
        while work.next_ack().is_some_and(|due| due <= now + EARLY) {
            let Some(held) = work.acks.pop() else {
                break;
            };
            held.leg.prefetch_head(); // none was touched for long
            due.push(held);
        }
        for held in due.drain(..) {
            contain(work, Some(held.leg.number), |work, _| {
                let mut guard = held.leg.state.lock();
                let state = &mut *guard;
                match held.wait {
                    Wait::Ack => {}
                    Wait::Pause => return self.flush_alone(&held.leg, state, work, now),
                    Wait::Hold => {
                        state.is_holding = false;
                        return self.flush_held(&held.leg, state, work, now);
                    }
                }
                if state.ack_look != Some(held.due) {
                    return; // it was due earlier, and somebody has looked
                }
                state.ack_look = None;
                match state.path.ack_due() {
                    None => {}
                    Some(due) if due > now + EARLY => {
                        // It may be due earlier: when what waits for aioquic is done.
                        let look = if state.path.is_slow() {
                            due.min(now + ACK_HOLD)
                        } else {
                            due
                        };
                        state.ack_look = Some(look);
                        work.hold_ack(look, held.leg.clone());
                    }
                    Some(_) => self.seal_ack(held.leg.number, state, work, now),
                }
            });
        }
        work.due = due;
    }

    fn seal_ack(&self, leg: u64, state: &mut LegState, work: &mut Work, now: f64) {
        if state.path.ranges().is_empty() {
            state.path.ack_at = None; // nothing to say, and an empty packet is a violation
        } else {
            self.seal(leg, state, work, now);
        }
    }

    /// A thread ends: what it held back leaves now, and nothing of it waits for a thread that is gone. Send
    /// what is in `work.out` then, and `finish`.
    pub fn retire(&self, work: &mut Work, now: f64) {
        self.flush(work, now);
        while let Some(held) = work.acks.pop() {
            contain(work, Some(held.leg.number), |work, _| {
                let mut state = held.leg.state.lock();
                match held.wait {
                    Wait::Ack => {}
                    Wait::Pause => {
                        state.is_pause_held = false; // another thread will wait, from the next packet on
                        return;
                    }
                    Wait::Hold => {
                        state.is_holding = false;
                        if state.trunk.is_some() {
                            self.flush_trunk(&held.leg, &mut state, work, now, Leaves::All);
                        } else {
                            self.flush_leg(&held.leg, &mut state, work, now);
                        }
                        return;
                    }
                }
                if state.ack_look != Some(held.due) {
                    return;
                }
                state.ack_look = None;
                if state.path.ack_due().is_some() {
                    self.seal_ack(held.leg.number, &mut state, work, now);
                }
            });
        }
    }

    /// The kernel refused packet `index` of `work.out`: once for each, before `finish`.
    pub fn unsent(&self, work: &mut Work, index: usize) {
        let mut out = mem::take(&mut work.out);
        self.refused(work, &mut out, Some(index));
        work.out = out;
    }

    /// As `unsent`, of packets that were taken out of a `Work`; None: one that carries no media.
    pub fn refused(&self, work: &mut Work, out: &mut Outgoing, index: Option<usize>) {
        let copies = index.and_then(|index| out.copies.get_mut(index));
        let copies = u64::from(copies.map_or(0, mem::take));
        let counters = &mut work.counters;
        counters.sent = counters.sent.wrapping_sub(1);
        counters.send_errors = counters.send_errors.wrapping_add(1);
        counters.copies_sent = counters.copies_sent.wrapping_sub(copies);
        counters.drop_out(Reason::SendError, copies);
    }

    /// The packets of `work.out` were given to the kernel, also those that `unsent` named. Each was counted
    /// as sent when it was sealed.
    pub fn sent(&self, work: &mut Work) {
        work.out.clear();
    }
}

/// Bytes that a copy takes in a packet besides itself.
fn overhead(state: &LegState) -> usize {
    DATAGRAM_OVERHEAD.saturating_add(usize::from(state.path.prefix.is_some()))
}

/// Look at the leg again when nothing left for a while, if something may be repeated then.
fn await_pause(leg: &Arc<Leg>, state: &mut LegState, work: &mut Work) {
    let rtt = state.path.rtt.now;
    if state.is_pause_held {
        return;
    }
    if let Some(due) = state.ring.as_ref().and_then(|ring| ring.pause_due(rtt)) {
        state.is_pause_held = true;
        work.await_pause(due, leg.clone());
    }
}
