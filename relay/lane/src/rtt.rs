//! The round-trip time of a leg, from acknowledgements of the lane's packets (RFC 9002 section 5.3).
//!
//! Must never live here: who reads it. aioquic takes its own samples, and both show each other theirs.

/// Seconds between samples: each voice alone gives fifty acknowledgements a second.
const SAMPLE_EVERY: f64 = 0.05;
/// The peer's max_ack_delay, as aioquic assumes.
const MAX_ACK_DELAY: f64 = 0.025;
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

    /// A packet was acknowledged after `latest` seconds, `delay` of them (as encoded with `exponent`) by the
    /// peer's own hesitation. Whether round trips have just become much longer than the least: there is a queue.
    pub fn sample(&mut self, latest: f64, delay: u64, exponent: u8, now: f64) -> bool {
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
        let delay = f64::min(delay, MAX_ACK_DELAY);
        let latest = if latest > least + delay {
            latest - delay
        } else {
            latest
        };
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
