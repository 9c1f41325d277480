//! How long copies are in the relay, from the read that brought their packet to the write that took them away.
//!
//! Counted by bucket, with the bounds of `relay/core/spread.py`, which the tests hold equal. What a packet waited
//! in the kernel's buffer before it was read is not in it. Must never live here: clocks.

/// Upper bounds, seconds; a bound belongs to its bucket.
pub const BOUNDS: [f64; 8] = [0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1];

/// Counts by bucket, the last for what lies above all bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residence {
    pub counts: [u64; BOUNDS.len() + 1],
    nanos: u64,
}

impl Residence {
    /// `count` copies were here for so many seconds.
    pub fn add(&mut self, seconds: f64, count: u32) {
        let bucket = BOUNDS.iter().filter(|bound| seconds > **bound).count();
        if let Some(counted) = self.counts.get_mut(bucket) {
            *counted = counted.wrapping_add(u64::from(count));
        }
        let nanos = (seconds.max(0.0) * 1e9) as u64;
        self.nanos = self
            .nanos
            .wrapping_add(nanos.wrapping_mul(u64::from(count)));
    }

    /// Of all copies together.
    pub fn seconds(&self) -> f64 {
        self.nanos as f64 / 1e9
    }

    /// Add what a thread counted, and clear that.
    pub fn merge(&mut self, delta: &mut Residence) {
        let delta = std::mem::take(delta);
        for (mine, theirs) in self.counts.iter_mut().zip(delta.counts) {
            *mine = mine.wrapping_add(theirs);
        }
        self.nanos = self.nanos.wrapping_add(delta.nanos);
    }
}

/// Copies of a turn that left, by when they came: most came at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Left(Vec<(f64, u32)>);

impl Left {
    /// One left that came then.
    pub fn note(&mut self, arrived: f64) {
        match self.0.last_mut() {
            Some((at, count)) if *at == arrived => *count = count.saturating_add(1),
            _ => self.0.push((arrived, 1)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// They are gone now.
    pub fn settle(&mut self, now: f64, into: &mut Residence) {
        for (arrived, count) in self.0.drain(..) {
            into.add(now - arrived, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_in_the_bucket_of_their_age_and_a_bound_belongs_to_the_one_below() {
        let (mut left, mut counted) = (Left::default(), Residence::default());
        for arrived in [1.0, 1.0, 0.998, 0.0] {
            left.note(arrived);
        }
        assert!(!left.is_empty());
        left.settle(1.0, &mut counted);
        assert_eq!(counted.counts, [2, 0, 0, 0, 1, 0, 0, 0, 1]); // 0.002 in floats is a little more
        assert!(left.is_empty());
        counted.add(0.005, 2);
        assert_eq!(counted.counts[4], 3);
        assert!((counted.seconds() - 1.012).abs() < 1e-6);
    }

    #[test]
    fn a_merge_moves_every_count_once() {
        let (mut all, mut part) = (Residence::default(), Residence::default());
        part.add(0.02, 3);
        let expected = part.clone();
        all.merge(&mut part);
        all.merge(&mut part);
        assert_eq!((all, part), (expected, Residence::default()));
    }
}
