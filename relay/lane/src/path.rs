//! One leg's packets: the 1-RTT packet-number space that aioquic and the lane share.
//!
//! ```text
//! open    one UDP packet -> its frames | a drop reason | Slow: not for the packet path
//! seal    datagrams, and the acknowledgement that is due anyway -> one packet
//! ```
//!
//! The same arithmetic in the same order as `relay/edge/path.py`, which is its oracle: two acknowledgement
//! states were seen to invent losses on a perfect path. Must never live here: what a datagram means, locks,
//! and anything that happens once per call.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::net::SocketAddr;

use crate::cid::Cid;
use crate::flight::{Fates, Flight, Flights, MEDIA_WINDOW};
use crate::frames::{self, Parsed};
use crate::kept::Kept;
use crate::keys::{KeySet, Keys, Unsealed, HOST_ID};
use crate::numbers::Numbers;
use crate::ranges::Ranges;
use crate::reason::Reason;
use crate::rtt::Rtt;
use crate::socket::Mark;
use crate::window::Received;

/// For how long an acknowledgement is held: of control, and of audio on a way that lost something lately. We
/// promise 80 ms (max_ack_delay); the rest is for the timer to be late.
pub const ACK_HOLD: f64 = 0.020;
/// The same of audio while nothing is missing: so long that audio of 40 ms a packet takes it along.
pub const AUDIO_ACK_HOLD: f64 = 0.060;
/// Seconds: those who repair a way that loses packets need to know soon.
const TORN_S: f64 = 30.0;
/// One number missing may be one left out (RFC 9000 section 21.4); another so soon after, seconds, is none.
const AGAIN_S: f64 = 4.0;
/// So many packets are acknowledged at once, however soon they came.
const MOST_UNACKNOWLEDGED: u32 = 16;
/// Seconds more for an acknowledgement while packets wait for a busy loop.
const PATIENCE: f64 = 0.080;
/// An acknowledgement due this soon leaves now: the plain twin's clock ticks in milliseconds.
pub const EARLY: f64 = 0.001;
pub const MAX_PACKET: usize = 1200;
/// Half the AES-GCM limit (RFC 9001 section 6.6).
pub const KEY_UPDATE_AFTER: u64 = 1 << 22;
/// Of a packet of ours beside the peer's id: first byte, number, AEAD tag.
const HEADER_AND_TAG: usize = 1 + 2 + 16;
/// More than these are not acknowledged again: 64, the newest.
const MAX_ACK_RANGES: usize = 64;
/// Ranges that an ACK frame of ours names at most.
const ACK_RANGES_SENT: usize = 16;
/// What we announce, and the default (RFC 9000 section 18.2).
const OUR_ACK_EXPONENT: u8 = 3;
/// The peer's max_ack_delay before it is known, seconds: the default (as above).
const PEER_ACK_DELAY: f64 = 0.025;

/// What `Path::open` made of a packet.
#[derive(Debug, PartialEq)]
pub enum Opened<'a> {
    /// The frames (`Parsed` names where in these bytes); everything it says about our packets is settled.
    Media(&'a [u8]),
    Drop(Reason),
    /// aioquic must see it. No state was touched, so that it can.
    Slow,
}

/// Whether something went wrong on the way to the peer since that was asked last: a packet was lost, round
/// trips became longer, or nothing is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    #[default]
    None,
    /// Nobody was told.
    New,
    /// Whoever asks is told.
    Noted,
}

/// Which packets are the packet path's, and where its own go.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts {
    pub host_cid: Cid,
    pub peer_cid: Cid,
    /// The validated active address of the peer.
    pub address: Option<SocketAddr>,
    pub sock: u16,
    pub peer_exponent: u8,
    /// The peer's max_ack_delay, seconds.
    pub peer_ack_delay: f64,
}

/// The packet-number space of one leg, its keys and what is in flight.
#[repr(C)] // what is asked for together lies together, and `ack_due` first
pub struct Path {
    pub active: bool,
    /// The handshake is: from now on numbers are left out now and then.
    pub confirmed: bool,
    /// aioquic has packets of its own out: it wants to see acknowledgements.
    pub outstanding: bool,
    pub trouble: Trouble,
    pub ack_at: Option<f64>,
    /// Packets that came and wait for aioquic: not in the ranges yet.
    slow: usize,
    /// Packets that ask for an acknowledgement, since the last one left.
    unacknowledged: u32,
    /// Until when the peer's way to us counts as torn.
    torn_until: f64,
    last_gap: f64,
    pub facts: Facts,
    /// With what every datagram begins, if with anything: what an HTTP/3 session is called on its connection
    /// (RFC 9297 section 2.1). One byte is enough for as many streams as we allow.
    pub prefix: Option<u8>,
    // what arrived
    pub expected: u64,
    /// -1: none yet.
    pub largest: i64,
    pub largest_at: Option<f64>,
    pub last_heard: f64,
    ranges: Ranges,
    received: Received,
    // what leaves
    numbers: Numbers,
    flights: Flights,
    // keys
    keys: Option<Keys>,
    pub update_after: u64,
    pub key_updates: u64,
    phase_start: u64,
    /// Numbers below this were acknowledged, or some of them; 0: none yet.
    acked_below: u64,
    sealed: u64,
    is_update_asked: bool,
    pub rtt: Rtt,
    /// Where the numbers are noted for whoever comes after us.
    kept: Kept,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            active: false,
            confirmed: false,
            outstanding: false,
            trouble: Trouble::None,
            facts: Facts {
                peer_exponent: OUR_ACK_EXPONENT,
                peer_ack_delay: PEER_ACK_DELAY,
                ..Facts::default()
            },
            prefix: None,
            expected: 0,
            largest: -1,
            largest_at: None,
            ack_at: None,
            last_heard: 0.0,
            slow: 0,
            unacknowledged: 0,
            torn_until: 0.0,
            last_gap: f64::NEG_INFINITY,
            ranges: Ranges::new(),
            received: Received::new(),
            numbers: Numbers::default(),
            flights: Flights::default(),
            keys: None,
            update_after: KEY_UPDATE_AFTER,
            key_updates: 0,
            phase_start: 0,
            acked_below: 0,
            sealed: 0,
            is_update_asked: false,
            rtt: Rtt::default(),
            kept: Kept::default(),
        }
    }
}

impl Path {
    // ------------------------------------------------------------ facts from the QUIC stack

    /// The 1-RTT keys of a key phase; those before open stragglers. The masks' keys never change
    /// (RFC 9001 section 6.1). False, and nothing changed, when a key does not fit the suite.
    pub fn set_keys(&mut self, suite: u8, phase: u8, recv: KeySet<'_>, send: KeySet<'_>) -> bool {
        if let Some(keys) = &mut self.keys {
            if !keys.change(suite, phase, recv, send) {
                return false;
            }
            self.key_updates = self.key_updates.saturating_add(1);
        } else {
            self.keys = Keys::new(suite, phase, recv, send);
            if self.keys.is_none() {
                return false;
            }
        }
        self.phase_start = self.numbers.next();
        self.sealed = 0;
        self.is_update_asked = false;
        true
    }

    /// The key (and IV) of the key phase to come, by which its first packets are told from forged ones. Set
    /// anew after each `set_keys`. False when it does not fit the suite.
    pub fn expect_keys(&mut self, suite: u8, key: &[u8], iv: &[u8]) -> bool {
        let keys = self.keys.as_mut();
        keys.is_some_and(|keys| keys.expect(suite, key, iv))
    }

    /// The connection is over: nothing is opened or sealed any more, and the keys are gone.
    pub fn close(&mut self) {
        self.active = false;
        self.trouble = Trouble::None;
        self.keys = None;
        self.flights.clear();
        self.ranges = Ranges::new();
        self.ack_at = None;
    }

    /// It carried and does not now: the peer moved, and its new address is not proven yet.
    pub fn is_moving(&self) -> bool {
        self.confirmed && !self.active && self.keys.is_some()
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap(&self) -> usize {
        self.flights
            .heap()
            .saturating_add(self.keys.as_ref().map_or(0, Keys::heap))
            .saturating_add(self.ranges.heap())
    }

    // ------------------------------------------------------------ packet numbers, shared

    /// The first of `count` packet numbers that are the caller's from now on; `settle` ends it.
    pub fn reserve(&mut self, count: u64) -> u64 {
        let first = self.numbers.reserve(count, self.confirmed);
        self.kept.uses(self.numbers.next());
        first
    }

    /// Numbers below `following` were used; the others are free again, or left out for good.
    pub fn settle(&mut self, following: u64) {
        self.numbers.settle(following);
        self.kept.uses(self.numbers.next());
    }

    /// Numbers below this came.
    pub fn came_below(&mut self, number: u64) {
        self.expected = self.expected.max(number);
        self.kept.came(self.expected);
    }

    /// Note the numbers there from now on.
    pub fn keep(&mut self, mark: Mark) {
        self.kept = Kept::at(mark, self.numbers.next(), self.expected);
    }

    /// The packet came before, or is too old to tell.
    pub fn has(&self, number: u64) -> bool {
        self.received.contains(number)
    }

    /// The QUIC stack received this packet.
    pub fn add(&mut self, number: u64) {
        self.ranges.add_next(number);
        if self.ranges.len() > MAX_ACK_RANGES {
            self.ranges.shift();
        }
        self.received.add(number);
    }

    /// A packet waits for aioquic. Whether the handshake is done.
    pub fn slow_more(&mut self) -> bool {
        self.slow = self.slow.saturating_add(1);
        self.confirmed
    }

    /// Packets wait for aioquic.
    pub fn is_slow(&self) -> bool {
        self.slow > 0
    }

    /// aioquic has dealt with a packet that waited for it.
    pub fn slow_done(&mut self) {
        self.slow = self.slow.saturating_sub(1);
    }

    /// Numbers to acknowledge: ascending, half-open, at most 64 ranges.
    pub fn ranges(&self) -> &[(u64, u64)] {
        self.ranges.as_slice()
    }

    /// Numbers below `stop` need no further acknowledgement.
    pub fn subtract(&mut self, stop: u64) {
        self.ranges.subtract(0, stop);
        if self.ranges.is_empty() {
            self.ack_at = None; // a straggler below what the peer knows we have: nothing to say
        }
    }

    /// Whether these acknowledged ranges (newest first, half-open) hold only numbers that were sent.
    pub fn is_honest(&self, ranges: &[(u64, u64)]) -> bool {
        self.numbers.are_honest(ranges)
    }

    /// When a held acknowledgement must leave at the latest.
    ///
    /// Acknowledging what overtook a packet that waits for aioquic would make the peer call that one lost, so
    /// it is held longer then: being late costs the peer a probe, a false loss half its window.
    pub fn ack_due(&self) -> Option<f64> {
        let due = self.ack_at.filter(|_| self.active)?;
        Some(if self.slow > 0 { due + PATIENCE } else { due })
    }

    pub fn media_in_flight(&self) -> u64 {
        self.flights.bytes()
    }

    /// What became of our packets.
    pub fn fates(&self) -> Fates {
        self.flights.fates()
    }

    /// How many of them were lost.
    pub fn lost(&self) -> u32 {
        self.flights.lost
    }

    /// Something went wrong on this way.
    pub fn worsened(&mut self) {
        if self.trouble == Trouble::None {
            self.trouble = Trouble::New;
        }
    }

    /// The number of the packet that was sealed last.
    pub fn last_number(&self) -> u64 {
        self.numbers.next().saturating_sub(1)
    }

    // ------------------------------------------------------------ in

    /// Open a packet of this leg. `scratch` takes a copy: a packet that turns out to be aioquic's must still
    /// be whole. `from`: None when it came by a socket of another address of ours. Only what opens ever gets
    /// to aioquic, wherever it came from: a forged packet costs no more than the try.
    pub fn open<'a>(
        &mut self,
        data: &[u8],
        from: Option<SocketAddr>,
        now: f64,
        scratch: &'a mut Vec<u8>,
        parsed: &mut Parsed,
    ) -> Opened<'a> {
        let Some(keys) = &self.keys else {
            return Opened::Slow;
        };
        let (number, plain) = match keys.open(data, self.expected, scratch) {
            Unsealed::Plain(number, plain) => (number, Some(plain)),
            Unsealed::Alien(number) => (number, None),
            Unsealed::Forged => return Opened::Drop(Reason::BadTag),
            Unsealed::Foreign => return Opened::Slow,
        };
        if self.received.contains(number) {
            return Opened::Drop(Reason::Duplicate);
        }
        let is_ours = self.active
            && from.is_some()
            && self.facts.address == from
            && data.get(1..=HOST_ID) == Some(self.facts.host_cid.as_slice());
        let Some(plain) = plain.filter(|_| is_ours) else {
            return Opened::Slow;
        };
        if !frames::parse(plain, parsed) || (parsed.has_ack && !self.is_honest(&parsed.ack.ranges))
        {
            return Opened::Slow;
        }
        self.record(number, parsed.eliciting, !parsed.datagrams.is_empty(), now);
        if let Some(prefix) = self.prefix {
            bare(plain, prefix, parsed);
        }
        if parsed.has_ack {
            self.acknowledged(&parsed.ack.ranges, parsed.ack.delay, now);
        }
        Opened::Media(plain)
    }

    fn record(&mut self, number: u64, eliciting: bool, is_audio: bool, now: f64) {
        // What waits for aioquic is not missing, and what is not told from it neither. `expected` does not tell:
        // aioquic leaves it as it is when just the packet comes that it expected.
        let following = u64::try_from(self.largest.saturating_add(1)).unwrap_or(0);
        let is_gap = number != following && self.slow == 0;
        if is_gap {
            if number > following.saturating_add(1) || now - self.last_gap < AGAIN_S {
                self.torn_until = now + TORN_S;
            }
            self.last_gap = now;
        }
        if number >= self.expected {
            self.came_below(number.saturating_add(1));
        }
        let signed = i64::try_from(number).unwrap_or(i64::MAX); // never above 2^62
        if signed > self.largest {
            self.largest = signed;
            self.largest_at = Some(now);
        }
        self.add(number);
        if eliciting {
            self.owe_ack(is_gap, is_audio, now);
        }
        self.last_heard = now;
    }

    /// At once when something is missing or came late (RFC 9000 section 13.2.1), else in a while.
    fn owe_ack(&mut self, is_gap: bool, is_audio: bool, now: f64) {
        self.unacknowledged = self.unacknowledged.saturating_add(1);
        let hold = if is_gap || self.unacknowledged >= MOST_UNACKNOWLEDGED {
            0.0
        } else if is_audio && now >= self.torn_until {
            AUDIO_ACK_HOLD
        } else {
            ACK_HOLD
        };
        let due = now + hold;
        self.ack_at = Some(self.ack_at.map_or(due, |before| f64::min(before, due)));
    }

    /// Settle media packets: acknowledged, lost, or still out. `ranges` newest first, half-open; `delay` as
    /// encoded by the peer.
    pub fn acknowledged(&mut self, ranges: &[(u64, u64)], delay: u64, now: f64) {
        let Some(newest) = ranges.first() else {
            return;
        };
        self.acked_below = self.acked_below.max(newest.1);
        let lost = self.flights.lost;
        let verdict = self.flights.acknowledge(ranges, self.rtt.loss_limit(), now);
        let mut is_worse = self.flights.lost != lost;
        if verdict.acked_below > 0 {
            self.subtract(verdict.acked_below);
        }
        if let Some(sent_at) = verdict.newest_sent_at {
            let facts = &self.facts;
            let delay = (delay, facts.peer_exponent, facts.peer_ack_delay);
            is_worse |= self.rtt.sample(now - sent_at, delay, now);
        }
        if is_worse {
            self.worsened();
        }
    }

    // ------------------------------------------------------------ out

    /// May another media packet leave now? Packets silent for long no longer count as in flight.
    pub fn room(&mut self, now: f64) -> bool {
        self.room_within(MEDIA_WINDOW, now)
    }

    /// The same where so many bytes may be in flight.
    pub fn room_within(&mut self, window: u64, now: f64) -> bool {
        if !self.active || self.sealed >= self.update_after.saturating_mul(2) {
            return false;
        }
        if self.flights.is_silent(now) {
            self.worsened();
        }
        if self.flights.bytes() < window {
            return true;
        }
        self.flights.expire(now);
        self.flights.bytes() < window
    }

    /// A key update was asked for, and none has come since.
    pub fn update_asked(&self) -> bool {
        self.is_update_asked
    }

    /// Whether so many packets were sealed under one key that it must change; true once per key phase, and
    /// not before a packet of this phase was acknowledged (RFC 9001 section 6.1).
    pub fn wants_update(&mut self) -> bool {
        if self.is_update_asked || self.sealed < self.update_after {
            return false;
        }
        self.is_update_asked = self.acked_below > self.phase_start;
        self.is_update_asked
    }

    /// Append one 1-RTT packet with these datagrams, and the acknowledgement that is due anyway, to `out`;
    /// without datagrams that acknowledgement alone. None, and nothing appended, without keys or anything to
    /// say. The caller keeps the sum within `MAX_PACKET`.
    pub fn seal<'a>(
        &mut self,
        datagrams: impl Iterator<Item = &'a [u8]> + Clone,
        now: f64,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let start = out.len();
        let body = self
            .keys
            .as_ref()?
            .begin(self.facts.peer_cid.as_slice(), out);
        let acked_below = self.put_ack(datagrams.clone(), now, out);
        let mut has_media = false;
        for datagram in datagrams {
            frames::encode_prefixed(out, self.prefix, datagram);
            has_media = true;
        }
        if out.len() == body {
            out.truncate(start);
            return None;
        }
        let number = self.numbers.take();
        self.kept.uses(self.numbers.next());
        let size = self.keys.as_ref()?.close(number, start, body, out);
        if size.is_none() {
            out.truncate(start);
        }
        self.sealed = self.sealed.saturating_add(1);
        let size = size?;
        if has_media {
            // an ACK alone is neither in flight nor acknowledged
            self.flights
                .push(Flight::new(number, now, acked_below, size));
        }
        Some(size)
    }

    /// The ACK frame, if one is due and fits beside the datagrams; what the peer then knows, or 0.
    fn put_ack<'a>(
        &mut self,
        datagrams: impl Iterator<Item = &'a [u8]>,
        now: f64,
        out: &mut Vec<u8>,
    ) -> u64 {
        let Some(due) = self.ack_due() else {
            return 0;
        };
        if self.slow > 0 && now + EARLY < due {
            return 0;
        }
        if self.ranges.is_empty() {
            self.ack_at = None;
            return 0;
        }
        let arrived = self.largest_at.unwrap_or(now);
        // Python shifts a whole number that may be below zero, and takes 0 then: the same.
        let delay = ((now - arrived) * 1e6) as i64 >> OUR_ACK_EXPONENT;
        let before = out.len();
        let delay = u64::try_from(delay).unwrap_or(0);
        frames::encode_ack(out, self.ranges.as_slice(), delay, ACK_RANGES_SENT);
        let ack = out.len().saturating_sub(before);
        let prefix = usize::from(self.prefix.is_some());
        let frames: usize = datagrams
            .map(|datagram| datagram_frame_size(datagram.len().saturating_add(prefix)))
            .sum();
        let size = HEADER_AND_TAG
            .saturating_add(self.facts.peer_cid.as_slice().len())
            .saturating_add(ack)
            .saturating_add(frames);
        if size > MAX_PACKET {
            // An ACK of many ranges may not fit beside the audio: it stays due, and leaves by itself.
            out.truncate(before);
            return 0;
        }
        self.ack_at = None;
        self.unacknowledged = 0;
        u64::try_from(self.largest.saturating_add(1)).unwrap_or(0)
    }
}

/// Let the datagrams of an opened packet begin behind the prefix; one that begins otherwise is empty then, and
/// belongs to no flow.
fn bare(plain: &[u8], prefix: u8, parsed: &mut Parsed) {
    for range in &mut parsed.datagrams {
        let is_ours = range.start < range.end && plain.get(range.start) == Some(&prefix);
        range.start = if is_ours {
            range.start.saturating_add(1)
        } else {
            range.end
        };
    }
}

/// Bytes of a DATAGRAM frame with its length, of a payload of `size` bytes (RFC 9221 section 4).
fn datagram_frame_size(size: usize) -> usize {
    let length = match size {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        _ => 4,
    };
    size.saturating_add(length).saturating_add(1)
}
