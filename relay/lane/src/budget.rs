//! Bounded memory for strangers: budgets by source, rates, tokens already used, ids just admitted.
//!
//! Everything is a fixed array, whatever comes: before a return path is proven a source has no state of its
//! own, it shares a slot with others. Must never live here: what is done about a packet.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use crate::cid::Cid;
use crate::seal::Mask;

/// Sources share buckets by a keyed hash: 64 KiB in all, flat under any flood.
const BUCKETS: usize = 4096;
/// Tokens of one generation, and slots for them: at most half are taken, so that a search is short.
const SEEN_TOKENS: usize = 65_536;
const SEEN_SLOTS: usize = 2 * SEEN_TOKENS;
/// Admissions that the loop may not have heard of yet; it takes some 700 of them a second at best.
const RECENT: usize = 128;
/// How long an admission is remembered, seconds, and how many more packets of it pass. A ClientHello that
/// does not fit one packet needs a second one, and a client that hears nothing repeats both.
const RECENT_LIFE: f64 = 1.0;
const RECENT_PACKETS: u8 = 8;

/// The host of a peer in one form: an IPv4-mapped address is IPv4 (relay/protocol/address.py).
pub fn folded(address: &SocketAddr) -> IpAddr {
    match address.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    }
}

/// Token buckets for sources, a level and a time for each slot.
pub struct SourceBuckets {
    rate: f64,
    burst: f64,
    slots: Mask, // a keyed function, so that nobody can choose whom to share a bucket with
    buckets: Box<[(f64, f64)]>,
}

impl SourceBuckets {
    /// Full buckets. `salt`: 16 random bytes; None for another size.
    pub fn new(rate: f64, burst: f64, salt: &[u8]) -> Option<Self> {
        let buckets = vec![(burst, 0.0); BUCKETS].into_boxed_slice();
        let slots = Mask::new(0, salt)?;
        Some(Self {
            rate,
            burst,
            slots,
            buckets,
        })
    }

    /// New numbers; all buckets are full again.
    pub fn change(&mut self, rate: f64, burst: f64) {
        (self.rate, self.burst) = (rate, burst);
        self.buckets.fill((burst, 0.0));
    }

    /// One token for this source, if there is one.
    pub fn take(&mut self, source: IpAddr, now: f64) -> bool {
        let slot = self.slot(source);
        let Some((level, at)) = self.buckets.get_mut(slot) else {
            return false;
        };
        let filled = self.burst.min(*level + (now - *at).max(0.0) * self.rate);
        let allowed = filled >= 1.0;
        *at = at.max(now); // threads' clocks differ by a turn
        *level = if allowed { filled - 1.0 } else { filled };
        allowed
    }

    /// A source is one IPv4 address, or the /64 of an IPv6 one: a subscriber usually owns the whole of it.
    fn slot(&self, source: IpAddr) -> usize {
        let number = match source {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => 1 << 127 | v6.to_bits() >> 64, // never that of an IPv4 address
        };
        let [high, low, ..] = self.slots.mask(&number.to_be_bytes());
        usize::from(u16::from_be_bytes([high, low])) & (BUCKETS - 1)
    }
}

/// How many happened in the last second, in two half-second buckets.
#[derive(Default)]
pub struct RateGauge {
    slot: Option<i64>,
    current: u64,
    previous: u64,
}

impl RateGauge {
    /// Count one; the number of the last half to whole second, itself included.
    pub fn add(&mut self, now: f64) -> u64 {
        let slot = (now * 2.0) as i64;
        if self.slot != Some(slot) {
            let follows = self.slot.and_then(|old| old.checked_add(1)) == Some(slot);
            self.previous = if follows { self.current } else { 0 };
            self.current = 0;
            self.slot = Some(slot);
        }
        self.current = self.current.saturating_add(1);
        self.current.saturating_add(self.previous)
    }
}

/// What became of a token that was good so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    First,
    Again,
    /// The filter is full: to admit more would mean to forget, and what is forgotten could be used again.
    Full,
}

/// Which tokens were used, for at least as long as they live. Two generations of a fixed size.
pub struct SeenTokens {
    span: f64,
    turned_at: f64,
    young: Generation,
    old: Generation,
}

struct Generation {
    marks: Box<[u64]>, // 0: free
    taken: usize,
}

impl SeenTokens {
    /// `span`: seconds after which a token has surely ended.
    pub fn new(span: f64) -> Self {
        let (young, old) = (Generation::new(), Generation::new());
        Self {
            span,
            turned_at: f64::NEG_INFINITY,
            young,
            old,
        }
    }

    /// Note the use of the token with this nonce; `now` is monotonic, a wall clock may be set back.
    pub fn note(&mut self, nonce: &[u8; 12], now: f64) -> Use {
        if now - self.turned_at > self.span {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.turned_at = now;
        }
        // Nonces are random and authenticated before they come here: no stranger chooses this mark.
        let [a, b, c, d, e, f, g, h, ..] = *nonce;
        let mark = u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1);
        if self.old.holds(mark) || self.young.holds(mark) {
            return Use::Again;
        }
        if self.young.taken >= SEEN_TOKENS {
            return Use::Full;
        }
        self.young.add(mark);
        Use::First
    }
}

impl Generation {
    fn new() -> Self {
        Self {
            marks: vec![0; SEEN_SLOTS].into_boxed_slice(),
            taken: 0,
        }
    }

    fn clear(&mut self) {
        if self.taken > 0 {
            self.marks.fill(0);
            self.taken = 0;
        }
    }

    /// The slot of a mark, or the free one where it would be.
    fn find(&self, mark: u64) -> usize {
        let mut at = (mark >> 32) as usize & (SEEN_SLOTS - 1);
        // Ends: at least half of the slots are free.
        while self
            .marks
            .get(at)
            .is_some_and(|&there| there != mark && there != 0)
        {
            at = at.wrapping_add(1) & (SEEN_SLOTS - 1);
        }
        at
    }

    fn holds(&self, mark: u64) -> bool {
        self.taken > 0 && self.marks.get(self.find(mark)) == Some(&mark)
    }

    fn add(&mut self, mark: u64) {
        let at = self.find(mark);
        if let Some(slot) = self.marks.get_mut(at) {
            *slot = mark;
            self.taken = self.taken.saturating_add(1);
        }
    }
}

/// The first packets admitted a moment ago: what belongs to them goes the same way until the loop owns the id.
pub struct Recent {
    hasher: RandomState,
    marks: [u64; RECENT],
    entries: Box<[Admission]>,
    next: usize,
}

/// A handshake that was let in.
#[derive(Clone, Copy)]
pub struct Admission {
    pub destination: Cid,
    pub original: Cid,
    pub retry_source: Option<Cid>,
    source: Option<SocketAddr>,
    at: f64,
    packets: u8,
}

impl Default for Recent {
    fn default() -> Self {
        let nothing = Admission::new(Cid::default(), Cid::default(), None);
        Self {
            hasher: RandomState::new(),
            marks: [0; RECENT],
            entries: vec![nothing; RECENT].into_boxed_slice(),
            next: 0,
        }
    }
}

impl Admission {
    pub fn new(destination: Cid, original: Cid, retry_source: Option<Cid>) -> Self {
        Self {
            destination,
            original,
            retry_source,
            source: None,
            at: f64::NEG_INFINITY,
            packets: 0,
        }
    }
}

impl Recent {
    /// Remember an admission in place of the oldest.
    pub fn add(&mut self, admission: Admission, source: SocketAddr, now: f64) {
        let mark = self
            .hasher
            .hash_one((admission.destination.as_slice(), source));
        let next = self.next;
        if let (Some(entry), Some(slot)) = (self.entries.get_mut(next), self.marks.get_mut(next)) {
            *entry = Admission {
                source: Some(source),
                at: now,
                packets: RECENT_PACKETS,
                ..admission
            };
            *slot = mark;
        }
        self.next = next.wrapping_add(1) % RECENT;
    }

    /// The admission of this id and source, if it is recent; Some(None) when it had all its packets.
    pub fn find(
        &mut self,
        destination: &[u8],
        source: SocketAddr,
        now: f64,
    ) -> Option<Option<Admission>> {
        let mark = self.hasher.hash_one((destination, source));
        let index = self.marks.iter().position(|&there| there == mark)?;
        let entry = self.entries.get_mut(index)?;
        let is_it = entry.source == Some(source) && entry.destination.as_slice() == destination;
        if !is_it || now - entry.at > RECENT_LIFE {
            // Admitted anew it stands elsewhere: this place must not be found before that one.
            if let Some(mark) = self.marks.get_mut(index) {
                *mark = 0;
            }
            return None;
        }
        let left = entry.packets.checked_sub(1);
        entry.packets = left.unwrap_or(0);
        Some(left.map(|_| *entry))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nonce(number: u64) -> [u8; 12] {
        let mut nonce = [7; 12];
        let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        nonce
            .first_chunk_mut()
            .map(|head| *head = mixed.to_le_bytes())
            .unwrap();
        nonce
    }

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let mut buckets = SourceBuckets::new(2.0, 3.0, &[1; 16]).unwrap();
        let source = ip("192.0.2.7");
        let taken =
            |buckets: &mut SourceBuckets, now| (0..9).filter(|_| buckets.take(source, now)).count();
        assert_eq!(taken(&mut buckets, 10.0), 3);
        assert_eq!(taken(&mut buckets, 11.0), 2);
        assert_eq!(taken(&mut buckets, 5.0), 0); // a clock that goes back gives nothing
        assert_eq!(taken(&mut buckets, 11.0), 0); // nor when it comes again
        assert_eq!(taken(&mut buckets, 1000.0), 3);
        buckets.change(1.0, 5.0);
        assert_eq!(taken(&mut buckets, 1000.0), 5);
        assert!(SourceBuckets::new(1.0, 1.0, &[1; 15]).is_none());
    }

    #[test]
    fn a_whole_ipv6_site_is_one_source_and_an_ipv4_address_is_one() {
        let buckets = SourceBuckets::new(1.0, 1.0, &[2; 16]).unwrap();
        assert_eq!(
            buckets.slot(ip("2001:db8::1")),
            buckets.slot(ip("2001:db8::ffff:0:0:1"))
        );
        let many: Vec<_> = (0..64u32)
            .map(|n| buckets.slot(IpAddr::V4(n.into())))
            .collect();
        let mut distinct = many.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 32 && many.iter().all(|&slot| slot < BUCKETS));
        let salted = SourceBuckets::new(1.0, 1.0, &[3; 16]).unwrap();
        assert!((0..64u32)
            .any(|n| salted.slot(IpAddr::V4(n.into())) != buckets.slot(IpAddr::V4(n.into()))));
        assert_eq!(
            folded(&"[::ffff:192.0.2.1]:5".parse().unwrap()),
            ip("192.0.2.1")
        );
        assert_eq!(
            folded(&"[2001:db8::1]:5".parse().unwrap()),
            ip("2001:db8::1")
        );
    }

    #[test]
    fn a_gauge_counts_the_last_half_to_whole_second() {
        let mut gauge = RateGauge::default();
        assert_eq!((gauge.add(10.0), gauge.add(10.4)), (1, 2));
        assert_eq!(gauge.add(10.5), 3);
        assert_eq!(gauge.add(11.0), 2);
        assert_eq!(gauge.add(12.0), 1);
        assert_eq!(RateGauge::default().add(0.1), 1);
    }

    #[test]
    fn a_token_counts_once_for_as_long_as_it_lives() {
        let mut seen = SeenTokens::new(10.0);
        assert_eq!(seen.note(&nonce(1), 100.0), Use::First);
        assert_eq!(seen.note(&nonce(1), 100.1), Use::Again);
        assert_eq!(seen.note(&nonce(2), 109.9), Use::First);
        assert_eq!(seen.note(&nonce(3), 110.1), Use::First); // turns
        assert_eq!(seen.note(&nonce(2), 119.8), Use::Again);
        assert_eq!(seen.note(&nonce(3), 119.9), Use::Again);
        assert_eq!(seen.note(&nonce(4), 130.0), Use::First);
        assert_eq!(seen.note(&nonce(5), 141.0), Use::First);
        assert_eq!(seen.note(&nonce(1), 141.0), Use::First); // long ended: the caller refuses it by its time
        assert_eq!(seen.note(&[0; 12], 141.0), Use::First);
        assert_eq!(seen.note(&[0; 12], 141.0), Use::Again);
    }

    #[test]
    fn a_full_filter_refuses_and_forgets_nothing() {
        let mut seen = SeenTokens::new(10.0);
        let most = SEEN_TOKENS as u64;
        assert!((0..most).all(|number| seen.note(&nonce(number), 1.0) == Use::First));
        assert!((most..most + 1000).all(|number| seen.note(&nonce(number), 2.0) == Use::Full));
        assert!((0..most).all(|number| seen.note(&nonce(number), 3.0) == Use::Again));
        assert_eq!(seen.note(&nonce(most), 11.5), Use::First); // the next generation has room
        assert!((0..most).all(|number| seen.note(&nonce(number), 12.0) == Use::Again));
    }

    #[test]
    fn what_was_just_admitted_is_found_by_its_id_and_source_for_a_while() {
        let mut recent = Recent::default();
        let source: SocketAddr = "192.0.2.7:5000".parse().unwrap();
        let other: SocketAddr = "192.0.2.7:5001".parse().unwrap();
        let id = |number: u64| Cid::new(&number.to_be_bytes()).unwrap();
        for number in 0..RECENT as u64 + 1 {
            recent.add(
                Admission::new(id(number), id(number + 1000), None),
                source,
                5.0,
            );
        }
        assert!(recent.find(id(0).as_slice(), source, 5.0).is_none()); // its place is taken
        let found = recent.find(id(1).as_slice(), source, 5.9).unwrap().unwrap();
        assert_eq!((found.original, found.retry_source), (id(1001), None));
        assert!(recent.find(id(1).as_slice(), other, 5.0).is_none());
        assert!(recent.find(id(2).as_slice(), source, 6.1).is_none());
        for _ in 0..RECENT_PACKETS {
            assert!(recent
                .find(id(3).as_slice(), source, 5.5)
                .unwrap()
                .is_some());
        }
        assert!(recent
            .find(id(3).as_slice(), source, 5.5)
            .unwrap()
            .is_none());
    }
}
