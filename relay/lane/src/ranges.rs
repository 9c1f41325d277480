//! Sets of packet numbers as ascending, disjoint, half-open ranges that do not touch; the arithmetic of
//! aioquic's RangeSet. Must never live here: how many ranges are kept, and what they stand for.

use crate::few::{heap, Few};

/// On a path without loss there is one range, or two for a moment: these lie in the leg itself.
const INLINE: usize = 3;

/// A set of numbers. Ranges that touch are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Few<(u64, u64), INLINE>);

impl Ranges {
    pub fn new() -> Self {
        Self::default()
    }

    /// The ranges, oldest (lowest) first.
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of memory that the list takes.
    pub fn heap(&self) -> usize {
        heap(&self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Add one number: most often the one right behind the newest range, and then nothing is searched.
    pub fn add_next(&mut self, number: u64) {
        match self.0.last_mut() {
            Some(last) if last.1 == number => last.1 = number.saturating_add(1),
            _ => self.add(number, number.saturating_add(1)),
        }
    }

    /// Add the numbers from `start` to before `stop`; none when `stop` is not above `start`.
    pub fn add(&mut self, start: u64, stop: u64) {
        if stop <= start {
            return;
        }
        // Those from `from` to before `to` touch the new range and become one with it.
        let from = self.0.partition_point(|range| range.1 < start);
        let to = self.0.partition_point(|range| range.0 <= stop);
        let (mut low, mut high) = (start, stop);
        for range in self.0.drain(from..to) {
            low = low.min(range.0);
            high = high.max(range.1);
        }
        self.0.insert(from, (low, high));
    }

    /// Remove the numbers from `start` to before `stop`.
    pub fn subtract(&mut self, start: u64, stop: u64) {
        if stop <= start {
            return;
        }
        let from = self.0.partition_point(|range| range.1 <= start);
        let to = self.0.partition_point(|range| range.0 < stop);
        if from >= to {
            return;
        }
        let mut below = None;
        let mut above = None;
        for range in self.0.drain(from..to) {
            if range.0 < start {
                below = Some((range.0, start));
            }
            if stop < range.1 {
                above = Some((stop, range.1));
            }
        }
        for rest in [above, below].into_iter().flatten() {
            self.0.insert(from, rest);
        }
    }

    /// Drop the oldest range and return it.
    pub fn shift(&mut self) -> Option<(u64, u64)> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(ranges: &[(u64, u64)]) -> Ranges {
        let mut all = Ranges::new();
        for range in ranges {
            all.add(range.0, range.1);
        }
        all
    }

    #[test]
    fn ranges_that_touch_become_one() {
        assert_eq!(set(&[(5, 7), (1, 2)]).as_slice(), [(1, 2), (5, 7)]);
        assert_eq!(set(&[(1, 2), (2, 3)]).as_slice(), [(1, 3)]);
        assert_eq!(set(&[(2, 3), (1, 2)]).as_slice(), [(1, 3)]);
        assert_eq!(set(&[(1, 2), (3, 4), (5, 6), (2, 5)]).as_slice(), [(1, 6)]);
        assert_eq!(set(&[(0, 10), (3, 4)]).as_slice(), [(0, 10)]);
        assert_eq!(set(&[(3, 3), (4, 2)]).as_slice(), []);
    }

    #[test]
    fn the_next_number_prolongs_the_newest_range() {
        let mut ranges = set(&[(0, 2)]);
        for number in [2, 3, 5, 4, 1] {
            ranges.add_next(number);
        }
        assert_eq!(ranges.as_slice(), [(0, 6)]);
        ranges.add_next(u64::MAX - 1);
        ranges.add_next(u64::MAX); // no packet has this number, and nothing breaks
        assert_eq!(ranges.len(), 2);
    }

    #[test]
    fn a_hole_in_the_middle_leaves_both_ends() {
        let mut ranges = set(&[(0, 10), (20, 30)]);
        ranges.subtract(3, 5);
        assert_eq!(ranges.as_slice(), [(0, 3), (5, 10), (20, 30)]);
        ranges.subtract(2, 25);
        assert_eq!(ranges.as_slice(), [(0, 2), (25, 30)]);
        ranges.subtract(0, 2);
        ranges.subtract(7, 7);
        ranges.subtract(10, 25);
        assert_eq!(ranges.as_slice(), [(25, 30)]);
        ranges.subtract(0, 100);
        assert!(ranges.is_empty());
    }

    #[test]
    fn the_oldest_range_goes_first() {
        let mut ranges = set(&[(5, 7), (1, 2)]);
        assert_eq!(ranges.shift(), Some((1, 2)));
        assert_eq!(ranges.shift(), Some((5, 7)));
        assert_eq!(ranges.shift(), None);
    }

    proptest! {
        #[test]
        fn any_sequence_leaves_what_a_plain_set_holds(
            steps in prop::collection::vec((0_u8..4, 0_u64..60, 0_u64..20), 0..60)
        ) {
            let mut ranges = Ranges::new();
            let mut plain = BTreeSet::new();
            for (kind, start, length) in steps {
                match kind {
                    0 | 1 => {
                        ranges.add(start, start + length);
                        plain.extend(start..start + length);
                    }
                    2 => {
                        ranges.add_next(start);
                        plain.insert(start);
                    }
                    _ => {
                        ranges.subtract(start, start + length);
                        plain.retain(|number| !(start..start + length).contains(number));
                    }
                }
                let slice = ranges.as_slice();
                prop_assert!(slice.iter().all(|range| range.0 < range.1));
                prop_assert!(slice.windows(2).all(|pair| pair[0].1 < pair[1].0));
                let all: Vec<u64> = slice.iter().flat_map(|range| range.0..range.1).collect();
                prop_assert!(all.iter().eq(plain.iter()));
            }
        }
    }
}
