//! Two windows of numbers already seen: of media counters (`Seen`, the plain twin's arithmetic) and of QUIC
//! packet numbers (`Received`, aioquic's). Must never live here: keys, time, or what a repeat is counted as.

/// How far back either window remembers, in numbers.
pub const WINDOW: u32 = 128;

/// 128 bits in two halves: a u128 would have whatever holds it begin at a multiple of 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bits([u64; 2]);

impl From<u128> for Bits {
    fn from(all: u128) -> Self {
        Self([all as u64, (all >> 64) as u64])
    }
}

impl From<Bits> for u128 {
    fn from(Bits([low, high]): Bits) -> Self {
        u128::from(low) | u128::from(high) << 64
    }
}

/// Replay window of one media key: the highest counter, and a bit per packet at and below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub first: u32,
    pub highest: u32,
    bits: Bits,
    unique: u64,
}

impl Seen {
    /// A key whose first packet has the counter `ctr`.
    pub fn new(ctr: u32) -> Self {
        Self {
            first: ctr,
            highest: ctr,
            bits: Bits::from(1),
            unique: 1,
        }
    }

    /// True when `ctr` is new, and marks it; false when it was seen or is too old to tell.
    pub fn mark(&mut self, ctr: u32) -> bool {
        if let Some(ahead) = ctr.checked_sub(self.highest).filter(|ahead| *ahead > 0) {
            let bits = u128::from(self.bits).checked_shl(ahead).unwrap_or(0) | 1;
            (self.bits, self.highest) = (bits.into(), ctr);
        } else {
            let Some(bit) = 1_u128.checked_shl(self.highest.saturating_sub(ctr)) else {
                return false;
            };
            let bits = u128::from(self.bits);
            if bits & bit != 0 {
                return false;
            }
            self.bits = (bits | bit).into();
            self.first = self.first.min(ctr);
        }
        self.unique = self.unique.saturating_add(1);
        true
    }

    /// `ctr` is so far below the highest that it cannot be told whether it was seen.
    pub fn is_past(&self, ctr: u32) -> bool {
        self.highest
            .checked_sub(ctr)
            .is_some_and(|behind| behind >= WINDOW)
    }

    /// Bit i: highest - 1 - i has not come.
    pub fn missing(&self) -> u16 {
        let span = self.highest.saturating_sub(self.first).min(u16::BITS);
        let known = u16::MAX.checked_shr(u16::BITS - span).unwrap_or(0);
        !((u128::from(self.bits) >> 1) as u16) & known
    }

    /// Packets that never came: the numbers between the first and the highest that were not marked.
    pub fn lost(&self) -> u64 {
        let span = u64::from(self.highest.saturating_sub(self.first)).saturating_add(1);
        span.saturating_sub(self.unique)
    }

    /// Of those the ones above `mark` that are no more than `WINDOW` behind: they may still come. None: above all.
    pub fn open_above(&self, mark: Option<u32>) -> u64 {
        let lowest = mark.map_or(self.first, |mark| self.first.max(mark.saturating_add(1)));
        let Some(span) = self.highest.checked_sub(lowest) else {
            return 0;
        };
        let span = span.saturating_add(1).min(WINDOW);
        let inside = u128::MAX.checked_shr(WINDOW.saturating_sub(span));
        let came = (u128::from(self.bits) & inside.unwrap_or(0)).count_ones();
        u64::from(span.saturating_sub(came))
    }
}

/// The QUIC packet numbers received lately; whatever fell out below counts as received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    lower: u64,
    bits: Bits, // bit n: lower + n
}

impl Received {
    pub fn new() -> Self {
        Self::default()
    }

    /// Mark `number`; the window slides so that the highest number is its upper end.
    pub fn add(&mut self, number: u64) {
        let Some(above) = number.checked_sub(self.lower) else {
            return;
        };
        let top = u64::from(WINDOW).saturating_sub(1);
        let slide = above.saturating_sub(top);
        let gone = u32::try_from(slide).unwrap_or(u32::MAX);
        let bits = u128::from(self.bits).checked_shr(gone).unwrap_or(0);
        self.lower = self.lower.saturating_add(slide);
        self.bits = (bits | Self::bit(above.min(top))).into();
    }

    /// `number` was received, or is too old to tell.
    pub fn contains(&self, number: u64) -> bool {
        match number.checked_sub(self.lower) {
            None => true,
            Some(above) => u128::from(self.bits) & Self::bit(above) != 0,
        }
    }

    fn bit(above: u64) -> u128 {
        u32::try_from(above)
            .ok()
            .and_then(|above| 1_u128.checked_shl(above))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_counter_is_new_once() {
        let mut seen = Seen::new(5);
        assert!(!seen.mark(5));
        assert!(seen.mark(7));
        assert!(seen.mark(6));
        assert!(!seen.mark(6));
        assert_eq!((seen.first, seen.highest, seen.lost()), (5, 7, 0));
    }

    #[test]
    fn what_is_missing_above_a_mark_may_still_come() {
        let mut seen = Seen::new(5);
        assert_eq!(seen.open_above(None), 0);
        for ctr in [7, 10] {
            assert!(seen.mark(ctr));
        }
        assert_eq!((seen.lost(), seen.open_above(None)), (3, 3));
        assert_eq!((seen.open_above(Some(6)), seen.open_above(Some(8))), (2, 1));
        assert_eq!(
            (seen.open_above(Some(10)), seen.open_above(Some(99))),
            (0, 0)
        );
        assert!(seen.mark(10 + 200)); // 199 between the two, of which 72 are out of the window
        assert_eq!((seen.lost(), seen.open_above(Some(4))), (202, 127));
        assert_eq!(Seen::new(u32::MAX).open_above(Some(u32::MAX)), 0);
    }

    #[test]
    fn the_window_is_128_counters() {
        let mut seen = Seen::new(1000);
        assert!(seen.mark(873));
        assert!(!seen.mark(872));
        assert!(!seen.is_past(873));
        assert!(seen.is_past(872));
        assert!(!seen.is_past(2000));
        assert_eq!(seen.first, 873);
        assert!(seen.mark(1127));
        assert!(!seen.mark(1000)); // still inside, and marked
        assert!(seen.mark(1001));
        assert!(seen.mark(1255));
        assert!(!seen.mark(1127));
        assert!(seen.mark(5000));
        assert!(seen.mark(4999));
    }

    #[test]
    fn gaps_are_lost_until_they_come() {
        let mut seen = Seen::new(0);
        assert!(seen.mark(10));
        assert_eq!(seen.lost(), 9);
        assert!(seen.mark(4));
        assert_eq!(seen.lost(), 8);
        assert!(seen.mark(u32::MAX));
        assert_eq!(seen.lost(), u64::from(u32::MAX) + 1 - 4);
    }

    #[test]
    fn numbers_below_the_window_count_as_received() {
        let mut window = Received::new();
        assert!(!window.contains(0));
        window.add(0);
        assert!(window.contains(0));
        window.add(127);
        assert!(!window.contains(1));
        window.add(128);
        assert!(window.contains(0)); // fell out
        assert!(!window.contains(1));
        window.add(u64::MAX);
        assert!(window.contains(u64::MAX));
        assert!(window.contains(5_000_000));
        window.add(3);
        assert!(!window.contains(u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn a_counter_window_judges_as_a_set_would(start in 0_u32..400, marks in prop::collection::vec(0_u32..900, 0..200)) {
            let mut seen = Seen::new(start);
            let mut known = BTreeSet::from([start]);
            for ctr in marks {
                let highest = *known.last().unwrap();
                let expected = ctr + 128 > highest && known.insert(ctr);
                prop_assert_eq!(seen.mark(ctr), expected);
            }
            let (first, last) = (*known.first().unwrap(), *known.last().unwrap());
            prop_assert_eq!(seen.lost(), u64::from(last - first + 1) - known.len() as u64);
        }

        #[test]
        fn a_number_window_judges_as_a_set_would(numbers in prop::collection::vec(0_u64..1000, 0..200)) {
            let mut window = Received::new();
            let mut known = BTreeSet::new();
            let mut lower = 0_u64;
            for number in numbers {
                prop_assert_eq!(window.contains(number), number < lower || known.contains(&number));
                window.add(number);
                if number >= lower {
                    known.insert(number);
                    lower = lower.max((number + 1).saturating_sub(128));
                }
            }
        }

        #[test]
        fn any_number_is_taken(numbers in prop::collection::vec(any::<u64>(), 0..50), first in any::<u32>()) {
            let mut window = Received::new();
            let mut seen = Seen::new(first);
            for number in numbers {
                window.add(number);
                prop_assert!(window.contains(number));
                seen.mark(number as u32);
                prop_assert!(!seen.mark(number as u32));
                seen.lost();
            }
        }
    }
}
