//! The round-trip time of a leg, from acknowledgements of the lane's packets (RFC 9002 section 5.3).
//!
//! One difference: what the peer's hesitation would bring below the least round trip counts as the least, not
//! as if the peer had not hesitated. Timers that differ by less than kGranularity must not make round trips
//! jump by all that a peer holds acknowledgements for.
//!
//! Must never live here: who reads it. aioquic takes its own samples, and both show each other theirs.

/// Seconds between samples: each voice alone gives fifty acknowledgements a second.
const SAMPLE_EVERY: f64 = 0.05;
/// How far one acknowledgement moves what is known of the peer's hesitation, seconds.
const DELAY_STEP: f64 = 0.002;
/// A peer that names more is not believed.
const LARGEST_DELAY: f64 = 0.1;
/// Round trips that are this much longer than the least, seconds, have a queue on their way.
const QUEUE: f64 = 0.02;
/// Nothing is nearer than this (kGranularity of RFC 9002).
const LEAST: f64 = 0.001;

/// Round-trip times, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub latest: f64,
    pub smoothed: f64,
    pub variance: f64,
    pub least: f64,
}

/// The estimate of one path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    /// None before the first sample.
    pub now: Option<Sample>,
    /// What the peer takes to acknowledge: 95 of 100 take no longer.
    pub ack_delay: f64,
    next_sample: f64,
}

impl Rtt {
    /// A packet that old is lost when a later one was acknowledged (RFC 9002 section 6.1.2).
    pub fn loss_limit(&self) -> f64 {
        let (smoothed, latest) = self
            .now
            .map_or((0.0, 0.0), |now| (now.smoothed, now.latest));
        9.0 / 8.0 * f64::max(f64::max(smoothed, latest), LEAST)
    }

    /// A packet was acknowledged after `latest` seconds, `delay` of them by the peer's own hesitation: as
    /// encoded, with which exponent, and how many seconds it promised at most. Whether round trips have just
    /// become much longer than the least: there is a queue.
    pub fn sample(&mut self, latest: f64, delay: (u64, u8, f64), now: f64) -> bool {
        let (delay, exponent, most) = delay;
        // 62 bits shifted by 20 at most (RFC 9000 section 18.2); the shift must not lose bits that Python keeps.
        let delay = (u128::from(delay) << exponent.min(64)) as f64 / 1e6;
        self.note_delay(delay);
        if now < self.next_sample {
            return false;
        }
        self.next_sample = now + SAMPLE_EVERY;
        let latest = f64::max(latest, LEAST);
        let Some(before) = self.now else {
            self.now = Some(Sample {
                latest,
                smoothed: latest,
                variance: latest / 2.0,
                least: latest,
            });
            return false;
        };
        let least = f64::min(before.least, latest);
        let delay = f64::min(delay, most);
        let latest = f64::max(latest - delay, least);
        let smoothed = 0.875 * before.smoothed + 0.125 * latest;
        self.now = Some(Sample {
            latest,
            variance: 0.75 * before.variance + 0.25 * (before.smoothed - latest).abs(),
            smoothed,
            least,
        });
        let bound = least + QUEUE;
        before.smoothed <= bound && bound < smoothed
    }

    /// A quantile without a history: one above lifts it nineteen times as far as one below lowers it.
    fn note_delay(&mut self, delay: f64) {
        if f64::min(delay, LARGEST_DELAY) > self.ack_delay {
            self.ack_delay += 0.95 * DELAY_STEP;
        } else {
            self.ack_delay = f64::max(0.0, self.ack_delay - 0.05 * DELAY_STEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_hesitates_does_not_lengthen_the_round_trip_nor_go_below_the_least() {
        let mut rtt = Rtt::default();
        rtt.sample(0.0003, (0, 3, 0.08), 1.0);
        for n in 0..50_u32 {
            // 20 ms of hesitation; the sum is now above, now below what the least allows
            let way = if n % 2 == 0 { 0.0004 } else { 0.0013 };
            rtt.sample(0.020 + way, (2500, 3, 0.08), 2.0 + f64::from(n));
        }
        let now = rtt.now.unwrap();
        assert_eq!(now.least, LEAST);
        assert!(now.smoothed < 0.0012 && now.variance < 0.0003, "{now:?}");
        rtt.sample(0.100, (10_000, 3, 0.025), 100.0); // it claims 80 ms, and promised 25
        assert_eq!(rtt.now.unwrap().latest, 0.100 - 0.025);
    }
}
