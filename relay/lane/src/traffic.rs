//! What went through relayed addresses: of one, or of all of them. Both equations hold at any moment.
//!
//! ```text
//! up     from the client, to peers       taken = passed + sum(dropped)
//! down   from peers, to the client       taken = passed + sum(dropped) + waiting
//! ```
//!
//! Must never live here: packets, and names of metrics.

use std::mem;

use crate::counters::{bump, ByReason};
use crate::reason::Reason;

/// One direction. As in `Counters`, figures are wrapping differences until they are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Packets that came.
    pub taken: u64,
    /// Packets that went on, given to a socket or to the loop.
    pub passed: u64,
    /// Of their payloads.
    pub bytes: u64,
    /// Packets for a client on a stream that the loop has not fetched.
    pub waiting: u64,
    pub dropped: ByReason,
}

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub up: Way,
    pub down: Way,
}

impl Way {
    /// So many packets of so many bytes went on.
    pub fn pass(&mut self, packets: u64, bytes: usize) {
        self.passed = self.passed.wrapping_add(packets);
        let bytes = u64::try_from(bytes).unwrap_or(0);
        self.bytes = self.bytes.wrapping_add(bytes);
    }

    /// One packet dropped.
    pub fn drop(&mut self, reason: Reason) {
        bump(&mut self.dropped, reason, 1);
    }

    /// How many packets are not accounted for; 0 unless there is a bug.
    pub fn missing(&self) -> u64 {
        let dropped = self.dropped.iter();
        self.taken
            .wrapping_sub(self.passed)
            .wrapping_sub(self.waiting)
            .wrapping_sub(dropped.fold(0, |sum, count| sum.wrapping_add(*count)))
    }

    fn merge(&mut self, delta: &mut Self) {
        let mine = [
            &mut self.taken,
            &mut self.passed,
            &mut self.bytes,
            &mut self.waiting,
        ];
        let theirs = [
            &mut delta.taken,
            &mut delta.passed,
            &mut delta.bytes,
            &mut delta.waiting,
        ];
        let (dropped, more) = (self.dropped.iter_mut(), delta.dropped.iter_mut());
        for (mine, theirs) in mine.into_iter().zip(theirs).chain(dropped.zip(more)) {
            *mine = mine.wrapping_add(mem::take(theirs));
        }
    }
}

impl Traffic {
    /// Add what a thread counted, and clear that.
    pub fn merge(&mut self, delta: &mut Self) {
        self.up.merge(&mut delta.up);
        self.down.merge(&mut delta.down);
    }

    /// What a panic left uncounted is `internal`.
    pub fn settle(&mut self) {
        for way in [&mut self.up, &mut self.down] {
            let missing = way.missing();
            bump(&mut way.dropped, Reason::Internal, missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_moves_every_figure_once_and_keeps_the_books() {
        let mut part = Traffic::default();
        part.up.taken = 3;
        part.up.pass(1, 40);
        part.up.drop(Reason::Stale);
        part.down.waiting = 1;
        assert_eq!((part.up.missing(), part.down.missing()), (1, u64::MAX));
        part.settle();
        let before = part.clone();
        let mut all = Traffic::default();
        all.merge(&mut part);
        assert_eq!((all, part), (before, Traffic::default()));
    }
}
