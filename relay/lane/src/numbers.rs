//! The packet numbers of what leaves a leg: taken by the lane one by one, by aioquic in blocks, and now and
//! then left out.
//!
//! Must never live here: what was received, and what is in flight.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

/// The first packet number left out, to catch optimistic ACKs (RFC 9000 section 21.4).
const FIRST_SKIP: u64 = 29;
/// So fast that two are never taken for losses: those come closer together.
const SKIP_GROWTH: u64 = 8;
const LARGEST_SKIP_GAP: u64 = 1 << 16;
const REMEMBERED_SKIPS: usize = 8;

/// The next number, and those left out.
#[derive(Clone, Debug)]
pub struct Numbers {
    next: u64,
    reserved_to: u64,
    next_skip: u64,
    skip_gap: u64,
    /// The last numbers left out, half-open; a ring.
    skipped: [(u64, u64); REMEMBERED_SKIPS],
    skips: usize,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            next: 0,
            reserved_to: 0,
            next_skip: FIRST_SKIP,
            skip_gap: FIRST_SKIP,
            skipped: [(0, 0); REMEMBERED_SKIPS], // empty ranges overlap nothing
            skips: 0,
        }
    }
}

impl Numbers {
    /// The number that `take` would give, but for those left out.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of the next packet; now and then one is left out before.
    pub fn take(&mut self) -> u64 {
        self.leave_out();
        let number = self.next;
        self.next = number.saturating_add(1);
        number
    }

    /// The first of `count` numbers that are the caller's from now on; `settle` ends it.
    pub fn reserve(&mut self, count: u64, leaves_out: bool) -> u64 {
        if leaves_out {
            self.leave_out();
        }
        let first = self.next;
        self.next = first.saturating_add(count);
        self.reserved_to = self.next;
        first
    }

    /// Numbers below `following` were used; the others are free again, or left out for good.
    pub fn settle(&mut self, following: u64) {
        if self.next == self.reserved_to {
            self.next = following;
        } else if following < self.reserved_to {
            self.skip(following, self.reserved_to);
        }
        self.reserved_to = 0;
    }

    fn skip(&mut self, start: u64, stop: u64) {
        if let Some(slot) = self.skipped.get_mut(self.skips % REMEMBERED_SKIPS) {
            *slot = (start, stop);
        }
        self.skips = self.skips.wrapping_add(1);
    }

    fn leave_out(&mut self) {
        if self.next >= self.next_skip {
            let left_out = self.next;
            self.next = left_out.saturating_add(1);
            self.skip(left_out, self.next);
            self.skip_gap = self
                .skip_gap
                .saturating_mul(SKIP_GROWTH)
                .min(LARGEST_SKIP_GAP);
            self.next_skip = self.next.saturating_add(self.skip_gap);
        }
    }

    /// Whether these acknowledged ranges (newest first, half-open) hold only numbers that were sent.
    pub fn are_honest(&self, ranges: &[(u64, u64)]) -> bool {
        ranges.first().is_some_and(|newest| newest.1 <= self.next)
            && !self
                .skipped
                .iter()
                .any(|skipped| ranges.iter().any(|r| r.0 < skipped.1 && skipped.0 < r.1))
    }
}
