//! What the lane counted, and the equations that hold at any moment.
//!
//! ```text
//! packets   udp_in = media + relayed + front + sum(dropped) + waiting + taken
//! media     media_in = accepted + sum(media_dropped)
//!           copies = copies_sent + sum(dropped_out) + queued
//! repairs   kept = acked + late + ended + holding
//! ```
//!
//! A thread counts into a `Counters` of its own and merges it into the common one after each batch, so every
//! figure is a wrapping difference: a copy that one thread queued may be sent by another before either merged.
//! Must never live here: names or labels of metrics.

use crate::reason::Reason;
use crate::repeats::Tally;
use crate::residence::{Left, Residence};
use crate::traffic::Traffic;

/// Counts by reason.
pub type ByReason = [u64; Reason::COUNT];

/// Kinds of answers that a front gives by itself; there are few, and each name is a constant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds(Vec<(&'static str, u64)>);

impl Kinds {
    pub fn add(&mut self, kind: &'static str, count: u64) {
        match self.0.iter_mut().find(|known| known.0 == kind) {
            Some(known) => known.1 = known.1.wrapping_add(count),
            None => self.0.push((kind, count)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }

    pub fn total(&self) -> u64 {
        self.0.iter().map(|known| known.1).sum()
    }
}

/// The counters of a lane, or what a thread counted since it merged last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    // UDP packets
    pub udp_in: u64,
    /// Opened here: handled without Python.
    pub media: u64,
    /// Of TURN's data path, whatever it made of them: `relays` has that.
    pub relayed: u64,
    /// Answered by the front, by kind.
    pub front: Kinds,
    pub dropped: ByReason,
    /// In the queues for the loop.
    pub waiting: u64,
    /// Handed to the loop.
    pub taken: u64,
    pub sent: u64,
    pub send_errors: u64,
    /// Reads that the kernel refused, of any socket; no packet belongs to them.
    pub read_errors: u64,
    pub batches: u64,
    /// Came by another thread's socket than their leg's.
    pub wrong_lane: u64,
    /// Packets of ours that their peer never acknowledged.
    pub media_lost: u64,
    /// Control datagrams that found their leg's share or the loop's queue full. Their packets are counted in
    /// `media`, so these stand outside the equation.
    pub notes_lost: u64,

    // media datagrams
    pub media_in: u64,
    pub accepted: u64,
    pub copies: u64,
    pub copies_sent: u64,
    pub queued: u64,
    pub media_dropped: ByReason,
    pub dropped_out: ByReason,

    /// What was kept to be repeated, and what was.
    pub repairs: Tally,

    /// How long copies were here.
    pub residence: Residence,
    /// Copies that left in this turn; a thread's own, no part of the common ones.
    pub left: Left,

    // what went through relayed addresses
    pub relays: Traffic,
}

impl Counters {
    /// Add what a thread counted, and clear that.
    pub fn merge(&mut self, delta: &mut Counters) {
        for (mine, theirs) in self.figures().into_iter().zip(delta.figures()) {
            *mine = mine.wrapping_add(std::mem::take(theirs));
        }
        for (all, part) in [
            (&mut self.dropped, &mut delta.dropped),
            (&mut self.media_dropped, &mut delta.media_dropped),
            (&mut self.dropped_out, &mut delta.dropped_out),
        ] {
            for (mine, theirs) in all.iter_mut().zip(part) {
                *mine = mine.wrapping_add(std::mem::take(theirs));
            }
        }
        let repairs = delta.repairs.figures();
        for (mine, theirs) in self.repairs.figures().into_iter().zip(repairs) {
            *mine = mine.wrapping_add(std::mem::take(theirs));
        }
        self.residence.merge(&mut delta.residence);
        self.relays.merge(&mut delta.relays);
        for (kind, count) in &mut delta.front.0 {
            self.front.add(kind, std::mem::take(count));
        }
    }

    fn figures(&mut self) -> [&mut u64; 17] {
        [
            &mut self.udp_in,
            &mut self.media,
            &mut self.relayed,
            &mut self.waiting,
            &mut self.taken,
            &mut self.sent,
            &mut self.send_errors,
            &mut self.read_errors,
            &mut self.batches,
            &mut self.wrong_lane,
            &mut self.media_lost,
            &mut self.notes_lost,
            &mut self.media_in,
            &mut self.accepted,
            &mut self.copies,
            &mut self.copies_sent,
            &mut self.queued,
        ]
    }

    /// Packets of ours that are lost.
    pub fn count_lost(&mut self, lost: u32) {
        self.media_lost = self.media_lost.wrapping_add(u64::from(lost));
    }

    /// A note that the loop will not get.
    pub fn lose_note(&mut self) {
        self.notes_lost = self.notes_lost.wrapping_add(1);
    }

    /// One UDP packet dropped.
    pub fn drop(&mut self, reason: Reason) {
        bump(&mut self.dropped, reason, 1);
    }

    /// `count` copies dropped that were not queued, or no longer.
    pub fn drop_out(&mut self, reason: Reason, count: u64) {
        bump(&mut self.dropped_out, reason, count);
    }

    /// How many UDP packets of `udp_in` are not accounted for; 0 unless there is a bug.
    pub fn packets_missing(&self) -> u64 {
        self.udp_in
            .wrapping_sub(self.media)
            .wrapping_sub(self.relayed)
            .wrapping_sub(self.front.total())
            .wrapping_sub(self.dropped.iter().sum())
            .wrapping_sub(self.waiting)
            .wrapping_sub(self.taken)
    }

    /// How many media datagrams and copies are not accounted for; (0, 0) unless there is a bug.
    pub fn media_missing(&self) -> (u64, u64) {
        let inward = self
            .media_in
            .wrapping_sub(self.accepted)
            .wrapping_sub(self.media_dropped.iter().sum());
        let outward = self
            .copies
            .wrapping_sub(self.copies_sent)
            .wrapping_sub(self.queued)
            .wrapping_sub(
                self.dropped_out
                    .iter()
                    .fold(0, |sum, n| sum.wrapping_add(*n)),
            );
        (inward, outward)
    }
}

/// Add to one reason's count.
pub fn bump(counts: &mut ByReason, reason: Reason, count: u64) {
    if let Some(known) = counts.get_mut(reason as usize) {
        *known = known.wrapping_add(count);
    }
}

/// The reasons that were counted at all, by name.
pub fn named(counts: &ByReason) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    Reason::ALL
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count != 0)
        .map(|(reason, count)| (reason.name(), *count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_moves_every_figure_once() {
        let mut part = Counters::default();
        for (value, figure) in (1..).zip(part.figures()) {
            *figure = value;
        }
        part.drop(Reason::Stale);
        part.drop_out(Reason::QueueFull, 2);
        bump(&mut part.media_dropped, Reason::Duplicate, 3);
        part.front.add("retry", 4);
        for (value, figure) in (50..).zip(part.repairs.figures()) {
            *figure = value;
        }
        let expected = part.clone();
        let mut all = Counters::default();
        all.merge(&mut part);
        assert_eq!(all, expected);
        assert!(part.figures().iter().all(|figure| **figure == 0));
        all.merge(&mut part);
        assert_eq!(all, expected);
        assert_eq!(
            named(&all.dropped_out).collect::<Vec<_>>(),
            [("queue_full", 2)]
        );
    }

    #[test]
    fn what_one_thread_queued_another_may_send_first() {
        let (mut first, mut second) = (Counters::default(), Counters::default());
        (first.copies, first.queued) = (1, 1);
        (second.copies_sent, second.queued) = (1, 0_u64.wrapping_sub(1));
        let mut all = Counters::default();
        all.merge(&mut second);
        assert_eq!(all.media_missing(), (0, 0));
        all.merge(&mut first);
        assert_eq!((all.queued, all.media_missing()), (0, (0, 0)));
    }
}
