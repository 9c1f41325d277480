//! What happens to packets that no connection owns: the decisions of relay/edge/front.py, in its order.
//!
//! ```text
//! long header, unknown id
//!   of a first packet let in a moment ago     the same way
//!   draining, no leg free                     drop draining, quota
//!   < 1200 bytes                              drop malformed (RFC 9000 section 14.1)
//!   version we do not speak                   version negotiation, within a budget
//!   not Initial, or destination id < 8 bytes  drop
//!   address token, too many handshakes        drop quota; the token is not used up
//!   valid address token                       admit, address proven
//!   busy (half-open or Initials per second)   Retry, so many a second
//!   else                                      admit, three times the bytes at most
//! short header, unknown id                    stateless reset, smaller than its trigger
//! ```
//! Sans-I/O but for the system's randomness: bytes and clock readings in, a verdict out.
//! Must never live here: sockets, connections, memory for a source.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};

use crate::bucket::Bucket;
use crate::budget::{folded, Admission, RateGauge, Recent, SourceBuckets};
use crate::cid::Cid;
use crate::core::{Judge, Verdict};
use crate::header::{
    parse_long, stateless_reset, version_negotiation, Long, LongKind, MIN_INITIAL, QUIC_V1, QUIC_V2,
};
use crate::reason::Reason;
use crate::retry::{AddressTokens, OwnIds, Retries, CID_SIZE};

pub const VERSIONS: [u32; 2] = [QUIC_V1, QUIC_V2];
/// A reset is shorter than its trigger and at least 21 bytes (RFC 9000 section 10.3).
const MIN_RESET_TRIGGER: usize = 43;
const MAX_RESET: usize = 42;
const RESET_TOKEN: usize = 16;
/// Retries per second, and how many at once: half a core at most, and audio of the same batch goes first. Fewer
/// would drop the first packets of honest clients with those of a flood, and each then waits for a time-out.
const RETRIES_PER_S: f64 = 100_000.0;
const RETRIES_AT_ONCE: f64 = 512.0;
/// The first byte of every id that a node of ours issues.
const OWN_FIRST: u8 = 7;

/// The numbers of relay.config.LimitsConfig that a front needs, under their names.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub half_open: usize,
    pub retry_above_half_open: usize,
    pub retry_above_initials_per_s: f64,
    pub initials_per_source_per_s: f64,
    pub initials_per_source_burst: f64,
    pub negotiations_per_source_per_s: f64,
    pub negotiations_per_s: f64,
    pub resets_per_s: f64,
}

/// What a front proves and recognises with.
pub struct Keys<'a> {
    /// For address tokens, the first one makes them; 16 or 32 bytes each.
    pub retry: &'a [Vec<u8>],
    /// For connection ids, 16 bytes.
    pub cid: &'a [u8],
    /// Server and worker, as in our own connection ids.
    pub server_id: [u8; 3],
    pub reset: &'a [u8],
}

/// Judges packets that belong to no connection. One for all workers.
pub struct Front {
    accepting: AtomicBool,
    legs_full: AtomicBool,
    half_open: AtomicUsize,
    waiting: AtomicUsize, // let in, and in the queue for the loop
    fresh: AtomicUsize,   // let in, and in a batch that is not done
    state: Mutex<State>,
}

struct State {
    limits: Limits,
    tokens: AddressTokens,
    retries: Retries,
    ids: OwnIds,
    server_id: [u8; 3],
    noise: Noise,
    initials: RateGauge,
    negotiations: RateGauge,
    per_source: SourceBuckets,
    per_source_negotiations: SourceBuckets,
    recent: Recent,
    retry_budget: Bucket,
    next_reset: f64,
}

impl Front {
    /// `token_life_s`: how long a Retry token proves an address. None if a key has a wrong size, or the
    /// system gives no randomness.
    pub fn new(limits: Limits, keys: &Keys<'_>, token_life_s: f64) -> Option<Self> {
        let mut noise = Noise::new();
        let salt: [u8; 16] = noise.draw()?;
        let per_source = |rate, burst| SourceBuckets::new(rate, burst, &salt);
        let state = State {
            limits,
            tokens: AddressTokens::new(keys.retry, token_life_s)?,
            retries: Retries::new()?,
            ids: OwnIds::new(keys.cid, keys.reset)?,
            server_id: keys.server_id,
            noise,
            initials: RateGauge::default(),
            negotiations: RateGauge::default(),
            per_source: per_source(
                limits.initials_per_source_per_s,
                limits.initials_per_source_burst,
            )?,
            per_source_negotiations: per_source(
                limits.negotiations_per_source_per_s,
                limits.negotiations_per_source_per_s,
            )?,
            recent: Recent::default(),
            retry_budget: Bucket::new(RETRIES_PER_S, RETRIES_AT_ONCE),
            next_reset: 0.0,
        };
        Some(Self {
            accepting: AtomicBool::new(true),
            legs_full: AtomicBool::new(false),
            half_open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            fresh: AtomicUsize::new(0),
            state: Mutex::new(state),
        })
    }

    /// Take new limits; budgets start full.
    pub fn configure(&self, limits: Limits) {
        let mut state = self.state.lock();
        state.limits = limits;
        state.per_source.change(
            limits.initials_per_source_per_s,
            limits.initials_per_source_burst,
        );
        let rate = limits.negotiations_per_source_per_s;
        state.per_source_negotiations.change(rate, rate);
    }

    /// What the loop knows and we do not: whether newcomers are welcome, and how many are half open.
    pub fn set(&self, accepting: bool, half_open: usize, legs_full: bool) {
        self.accepting.store(accepting, Relaxed);
        self.half_open.store(half_open, Relaxed);
        self.legs_full.store(legs_full, Relaxed);
    }

    fn judge_long(
        &self,
        data: &[u8],
        from: SocketAddr,
        now: f64,
        wall: f64,
        out: &mut Vec<u8>,
    ) -> Result<Verdict, Reason> {
        let destination = destination_of(data).ok_or(Reason::Malformed)?;
        let mut state = self.state.lock();
        match state.recent.find(destination, from, now) {
            Some(Some(Admission {
                original,
                retry_source,
                ..
            })) => {
                self.fresh.fetch_add(1, Relaxed);
                return Ok(Verdict::Admit {
                    original,
                    retry_source,
                });
            }
            Some(None) => return Err(Reason::OverBudget),
            None => {}
        }
        if !self.accepting.load(Relaxed) {
            return Err(Reason::Draining);
        }
        if self.legs_full.load(Relaxed) {
            return Err(Reason::Quota);
        }
        let known = [&self.half_open, &self.waiting, &self.fresh].map(|count| count.load(Relaxed));
        let half_open = known.into_iter().fold(0, usize::saturating_add);
        let seen = Seen {
            from,
            now,
            wall,
            half_open,
        };
        let verdict = state.judge(data, seen, out)?;
        if matches!(verdict, Verdict::Admit { .. }) {
            self.fresh.fetch_add(1, Relaxed);
        }
        Ok(verdict)
    }
}

impl Judge for Front {
    fn judge(
        &self,
        data: &[u8],
        from: SocketAddr,
        now: f64,
        wall: f64,
        reply: &mut Vec<u8>,
    ) -> Verdict {
        match data.first() {
            Some(0xC0..) => self
                .judge_long(data, from, now, wall, reply)
                .unwrap_or_else(Verdict::Drop),
            Some(0x40..=0x7F) => {
                let answer = self.state.lock().reset(data, now, reply);
                answer.unwrap_or(Verdict::Drop(Reason::UnknownId))
            }
            _ => Verdict::Drop(Reason::Malformed),
        }
    }

    /// They are half open, though the loop does not know them yet.
    fn admissions(&self, waiting: usize, settled: usize) {
        self.waiting.store(waiting, Relaxed);
        // Those of another front before this one were never counted here.
        let less = |fresh: usize| Some(fresh.saturating_sub(settled));
        let _ = self.fresh.fetch_update(Relaxed, Relaxed, less);
    }
}

/// Where and when a packet was seen, and what was half open then.
#[derive(Clone, Copy)]
struct Seen {
    from: SocketAddr,
    now: f64,
    wall: f64,
    half_open: usize,
}

/// An id by which the kernel takes whom a Retry sent for a newcomer: not in the form of our ids.
fn strange(mut id: [u8; CID_SIZE]) -> [u8; CID_SIZE] {
    if id[0] == OWN_FIRST {
        id[0] ^= 0x80;
    }
    id
}

fn destination_of(data: &[u8]) -> Option<&[u8]> {
    let (size, rest) = data.get(5..)?.split_first()?;
    // Like the table of ids, which looks for what is there.
    Some(rest.get(..usize::from(*size)).unwrap_or(rest))
}

impl State {
    fn judge(&mut self, data: &[u8], seen: Seen, out: &mut Vec<u8>) -> Result<Verdict, Reason> {
        if data.len() < MIN_INITIAL {
            return Err(Reason::Malformed);
        }
        let header = parse_long(data).ok_or(Reason::Malformed)?;
        if !VERSIONS.contains(&header.version) {
            return self.negotiate(&header, seen, out);
        }
        if header.kind != LongKind::Initial {
            return Err(Reason::UnknownId);
        }
        if header.dcid.len() < CID_SIZE {
            return Err(Reason::Malformed);
        }
        if !self.per_source.take(folded(&seen.from), seen.now) {
            return Err(Reason::OverBudget);
        }
        self.admit(&header, seen, out)
    }

    fn admit(
        &mut self,
        header: &Long<'_>,
        seen: Seen,

        out: &mut Vec<u8>,
    ) -> Result<Verdict, Reason> {
        let Seen {
            from,
            now,
            wall,
            half_open,
        } = seen;
        let rate = self.initials.add(now);
        let destination = Cid::new(header.dcid).ok_or(Reason::Malformed)?;
        let (original, retry_source) = if self.tokens.is_ours(header.token) {
            if half_open >= self.limits.half_open {
                return Err(Reason::Quota); // before the token is used up: it is good for the next try
            }
            let original = self
                .tokens
                .check(header.token, &from, header.dcid, wall, now)?;
            (original, Some(destination))
        } else if half_open >= self.limits.retry_above_half_open
            || rate as f64 > self.limits.retry_above_initials_per_s
        {
            return self.retry(header, seen, out);
        } else {
            (destination, None)
        };
        self.recent.add(
            Admission::new(destination, original, retry_source),
            from,
            now,
        );
        Ok(Verdict::Admit {
            original,
            retry_source,
        })
    }

    fn retry(
        &mut self,
        header: &Long<'_>,
        seen: Seen,

        out: &mut Vec<u8>,
    ) -> Result<Verdict, Reason> {
        if !self.retry_budget.take(1.0, seen.now) {
            return Err(Reason::OverBudget);
        }
        let retry_source = strange(self.noise.draw().ok_or(Reason::Internal)?);
        let nonce = self.noise.draw().ok_or(Reason::Internal)?;
        let token = |out: &mut Vec<u8>| {
            self.tokens.mint(
                &seen.from,
                header.dcid,
                &retry_source,
                seen.wall,
                nonce,
                out,
            );
        };
        self.retries.encode(header, &retry_source, token, out);
        Ok(Verdict::Answer("retry"))
    }

    fn negotiate(
        &mut self,
        header: &Long<'_>,
        seen: Seen,
        out: &mut Vec<u8>,
    ) -> Result<Verdict, Reason> {
        if header.version == 0 {
            return Err(Reason::BadVersion); // never answer an answer
        }
        if !self
            .per_source_negotiations
            .take(folded(&seen.from), seen.now)
        {
            return Err(Reason::OverBudget);
        }
        if self.negotiations.add(seen.now) as f64 > self.limits.negotiations_per_s {
            return Err(Reason::OverBudget);
        }
        let [noise] = self.noise.draw().ok_or(Reason::Internal)?;
        version_negotiation(header, &VERSIONS, noise, out);
        Ok(Verdict::Answer("version_negotiation"))
    }

    /// None: no reset for this one, or not now.
    fn reset(&mut self, data: &[u8], now: f64, out: &mut Vec<u8>) -> Option<Verdict> {
        if data.len() < MIN_RESET_TRIGGER || now < self.next_reset {
            return None;
        }
        let cid = data.get(1..)?.first_chunk()?;
        if self.ids.server_of(cid)? != self.server_id {
            return None;
        }
        let noise: [u8; MAX_RESET - RESET_TOKEN] = self.noise.draw()?;
        self.next_reset = now + 1.0 / self.limits.resets_per_s;
        let size = data.len().saturating_sub(1).min(MAX_RESET);
        let noise = noise.get(..size.saturating_sub(RESET_TOKEN))?;
        stateless_reset(&self.ids.reset_token(cid), noise, out);
        Some(Verdict::Answer("stateless_reset"))
    }
}

/// Random bytes, fetched from the system in larger pieces: a system call for each Retry would cost more than
/// the Retry.
struct Noise {
    source: SystemRandom,
    pool: [u8; 1024],
    at: usize,
}

impl Noise {
    fn new() -> Self {
        Self {
            source: SystemRandom::new(),
            pool: [0; 1024],
            at: 1024,
        }
    }

    /// Bytes that nobody saw before; None when the system gives none.
    fn draw<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.pool.len().saturating_sub(self.at) < N {
            self.source.fill(&mut self.pool).ok()?;
            self.at = 0;
        }
        let piece = self.pool.get_mut(self.at..)?.first_chunk_mut::<N>()?;
        self.at = self.at.saturating_add(N);
        Some(std::mem::replace(piece, [0; N])) // what was handed out stays nowhere
    }
}

#[cfg(test)]
mod tests;
