//! A budget per second. The same numbers in the same order as the plain twin's bucket, so that both judge
//! every packet alike. Must never live here: a clock, or what the budget is for.

/// A token bucket in its own unit per second; starts full.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    level: f64,
    at: f64,
}

impl Bucket {
    pub fn new(rate: f64, burst: f64) -> Self {
        Self {
            rate,
            burst,
            level: burst,
            at: 0.0,
        }
    }

    /// Another one of the same rate and burst, full.
    pub fn fresh(&self) -> Self {
        Self::new(self.rate, self.burst)
    }

    /// Another rate from now on; what was spent stays spent.
    pub fn change(&mut self, rate: f64, burst: f64) {
        self.rate = rate;
        self.burst = burst;
        if burst < self.level {
            self.level = burst;
        }
    }

    /// Take `amount` at `now` (seconds, monotonic); false, and nothing taken, when there is less. Threads come
    /// with clocks that differ by a turn: an earlier one gives nothing and does not set this one back, or the
    /// step would be credited again by the next.
    pub fn take(&mut self, amount: f64, now: f64) -> bool {
        let mut level = self.level;
        if now > self.at {
            let filled = self.level + (now - self.at) * self.rate;
            level = if filled < self.burst {
                filled
            } else {
                self.burst
            };
            self.at = now;
        }
        let enough = level >= amount;
        self.level = if enough { level - amount } else { level };
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_starts_full_and_fills_at_its_rate_up_to_its_burst() {
        let mut bucket = Bucket::new(10.0, 5.0);
        assert!((0..5).all(|_| bucket.take(1.0, 100.0)));
        assert!(!bucket.take(1.0, 100.0));
        assert!(!bucket.take(1.0, 100.05));
        assert!(bucket.take(1.0, 100.11));
        assert!(bucket.take(5.0, 200.0));
        assert!(!bucket.take(0.5, 200.0));
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let mut bucket = Bucket::new(0.0, 5.0);
        assert!(!bucket.take(6.0, 1.0));
        assert!(bucket.take(5.0, 1.0));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_for_the_step() {
        let mut bucket = Bucket::new(1.0, 2.0);
        assert!(bucket.take(2.0, 10.0));
        assert!(!bucket.take(1.0, 5.0));
        assert!(!bucket.take(1.0, 10.9));
        assert!(bucket.take(1.0, 11.0));
    }

    #[test]
    fn threads_whose_clocks_differ_share_one_budget() {
        let mut bucket = Bucket::new(1000.0, 10.0);
        let nows = [100.002, 100.0].into_iter().cycle().take(200);
        let taken = nows.filter(|now| bucket.take(1.0, *now)).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn a_change_of_rate_keeps_what_was_spent() {
        let mut bucket = Bucket::new(1.0, 10.0);
        assert!(bucket.take(8.0, 0.0));
        bucket.change(100.0, 20.0);
        assert!(!bucket.take(3.0, 0.0));
        bucket.change(1.0, 1.0);
        assert!(bucket.take(1.0, 0.0));
        assert!(!bucket.take(0.5, 0.0));
    }
}
