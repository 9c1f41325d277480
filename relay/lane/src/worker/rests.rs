//! Sockets whose reading fails: each is left alone for a while, longer each time, and holds up no other.
//!
//! An error that stays ends every wait at once, and whoever reads again and again takes a whole CPU. Must never live
//! here: sockets, a clock.

/// After a failure, seconds; doubled by each more in a row.
const FIRST: f64 = 0.001;

/// One row for each entry of the poll.
pub(super) struct Rests {
    rows: Vec<Rest>,
    /// How many are left alone now.
    count: usize,
}

struct Rest {
    /// In a row.
    failures: u32,
    /// Longest rest, seconds.
    most: f64,
    until: Option<f64>,
}

impl Rests {
    /// All work. `most`: the longest rest of each, seconds.
    pub(super) fn new(most: impl Iterator<Item = f64>) -> Self {
        let row = |most| Rest {
            failures: 0,
            most,
            until: None,
        };
        Self {
            rows: most.map(row).collect(),
            count: 0,
        }
    }

    /// A read worked, though it may have found nothing.
    #[inline]
    pub(super) fn worked(&mut self, index: usize) {
        if let Some(row) = self.rows.get_mut(index) {
            row.failures = 0;
        }
    }

    /// It cannot be read: nobody tries until `end_those_due` says so.
    pub(super) fn failed(&mut self, index: usize, now: f64) {
        let row = self.rows.get_mut(index);
        if let Some(row) = row.filter(|row| row.until.is_none()) {
            let doublings = row.failures.min(20); // far beyond any longest rest
            row.until = Some(now + (FIRST * f64::from(1_u32 << doublings)).min(row.most));
            row.failures = row.failures.saturating_add(1);
            self.count = self.count.saturating_add(1);
        }
    }

    /// Whether it is left alone.
    #[inline]
    pub(super) fn holds(&self, index: usize) -> bool {
        self.count > 0 && self.rows.get(index).is_some_and(|row| row.until.is_some())
    }

    /// When the first rest ends.
    pub(super) fn next(&self) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let ends = self.rows.iter().filter_map(|row| row.until);
        ends.min_by(f64::total_cmp)
    }

    /// Call for each whose rest is over.
    pub(super) fn end_those_due(&mut self, now: f64, mut end: impl FnMut(usize)) {
        if self.count == 0 {
            return;
        }
        for (index, row) in self.rows.iter_mut().enumerate() {
            if row.until.is_some_and(|until| until <= now) {
                row.until = None;
                self.count = self.count.saturating_sub(1);
                end(index);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)] // a test may panic, and its sums are small
mod tests {
    use super::*;

    fn due(rests: &mut Rests, now: f64) -> Vec<usize> {
        let mut found = vec![];
        rests.end_those_due(now, |index| found.push(index));
        found
    }

    #[test]
    fn failures_in_a_row_make_it_rest_longer_each_time_up_to_the_longest() {
        let mut rests = Rests::new([0.1, 0.005].into_iter());
        let (mut now, mut lasted) = (10.0, vec![]);
        for _ in 0..9 {
            rests.failed(0, now);
            assert!(rests.holds(0) && !rests.holds(1));
            let until = rests.next().unwrap();
            assert!(due(&mut rests, until - 0.0001).is_empty());
            assert_eq!(due(&mut rests, until), [0]);
            lasted.push(((until - now) * 1000.0).round());
            now = until;
        }
        assert_eq!(lasted, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0, 100.0]);
        rests.worked(0);
        rests.failed(0, now);
        assert_eq!(rests.next(), Some(now + FIRST));
        for _ in 0..40 {
            now += 1.0;
            due(&mut rests, now);
            rests.failed(1, now);
        }
        assert_eq!(rests.next(), Some(now + 0.005));
    }

    #[test]
    fn the_first_of_several_ends_the_wait() {
        let mut rests = Rests::new([0.1, 0.1].into_iter());
        rests.failed(0, 1.0);
        rests.failed(0, 2.0); // changes nothing: it rests
        rests.failed(1, 0.5);
        assert_eq!(rests.next(), Some(0.501));
        assert_eq!(due(&mut rests, 0.501), [1]);
        assert_eq!(rests.next(), Some(1.001));
        assert_eq!(due(&mut rests, 5.0), [0]);
        assert_eq!(rests.next(), None);
    }

    #[test]
    fn what_is_not_there_never_rests() {
        let mut rests = Rests::new([].into_iter());
        rests.worked(0);
        rests.failed(0, 1.0);
        assert!(!rests.holds(0) && rests.next().is_none());
    }
}
