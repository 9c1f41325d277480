//! The few QUIC frames that the packet path reads and writes itself (RFC 9000 section 19, RFC 9221 section 4).
//!
//! ```text
//! 00 PADDING   01 PING   02 ACK   30 DATAGRAM to the end   31 DATAGRAM with length
//! ```
//!
//! A payload with any other frame is not for the packet path: `parse` says false and the whole packet goes to
//! the QUIC stack. Must never live here: packet numbers of ours, time, or what an acknowledgement means.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::ops::Range;

const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const DATAGRAM: u8 = 0x30;
const DATAGRAM_LENGTH: u8 = 0x31;
/// More ranges than a receiver of ours keeps are no honest acknowledgement.
pub const MAX_RANGES: usize = 64;
/// RFC 9000 section 16.
pub const MAX_VARINT: u64 = (1 << 62) - 1;

/// Packet numbers from the first to before the second.
type Span = (u64, u64);

/// Acknowledged packet numbers, newest range first, half-open; `delay` as encoded by the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    pub ranges: Vec<(u64, u64)>,
    pub delay: u64,
}

/// What a packet for the packet path carries; read into again and again, so that nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Where the datagrams stand in the plaintext.
    pub datagrams: Vec<Range<usize>>,
    /// Meaningful only with `has_ack`.
    pub ack: Ack,
    pub has_ack: bool,
    /// The packet wants to be acknowledged.
    pub eliciting: bool,
}

impl Parsed {
    fn clear(&mut self) {
        self.datagrams.clear();
        self.ack.ranges.clear();
        self.ack.delay = 0;
        self.has_ack = false;
        self.eliciting = false;
    }
}

/// Read the frames of a 1-RTT payload. False, and `into` empty, when the packet is not for the packet path:
/// it is empty or malformed, has any other frame, or has two ACK frames.
pub fn parse(plain: &[u8], into: &mut Parsed) -> bool {
    into.clear();
    let fits = !plain.is_empty() && frames(plain, into).is_some();
    if !fits {
        into.clear();
    }
    fits
}

fn frames(plain: &[u8], into: &mut Parsed) -> Option<()> {
    let mut at = 0_usize;
    while let Some(kind) = plain.get(at) {
        at = at.checked_add(1)?;
        match *kind {
            DATAGRAM_LENGTH => {
                let (size, start) = varint(plain, at)?;
                let end = start.checked_add(usize::try_from(size).ok()?)?;
                if end > plain.len() {
                    return None;
                }
                into.datagrams.push(start..end);
                into.eliciting = true;
                at = end;
            }
            ACK => {
                if into.has_ack {
                    return None; // two in one packet: legal, rare, and the QUIC stack's business
                }
                at = read_ack(plain, at, MAX_RANGES, &mut into.ack)?;
                into.has_ack = true;
            }
            PADDING => {
                let rest = plain.get(at..)?;
                let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                at = at.checked_add(zeros)?;
            }
            PING => into.eliciting = true,
            DATAGRAM => {
                into.datagrams.push(at..plain.len());
                into.eliciting = true;
                at = plain.len();
            }
            _ => return None,
        }
    }
    Some(())
}

/// Read an ACK frame's body (behind its type byte) into an empty `into`; the offset behind it. None when it is
/// malformed or has more than `most` ranges, and then `into` is unfinished.
fn read_ack(data: &[u8], at: usize, most: usize, into: &mut Ack) -> Option<usize> {
    let (largest, at) = varint(data, at)?;
    let (delay, at) = varint(data, at)?;
    let (more, at) = varint(data, at)?;
    let (first, mut at) = varint(data, at)?;
    let mut low = largest.checked_sub(first)?;
    if usize::try_from(more).ok()? >= most {
        return None;
    }
    into.delay = delay;
    into.ranges.push((low, largest.checked_add(1)?));
    for _ in 0..more {
        let (gap, after) = varint(data, at)?;
        let (length, after) = varint(data, after)?;
        at = after;
        let high = low.checked_sub(gap)?.checked_sub(2)?;
        low = high.checked_sub(length)?;
        into.ranges.push((low, high.checked_add(1)?));
    }
    Some(at)
}

/// The variable-length integer at `at` and the offset behind it (RFC 9000 section 16); None when cut short.
pub fn varint(data: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *data.get(at)?;
    let size = 1_usize << (first >> 6);
    let end = at.checked_add(size)?;
    let rest = data.get(at.checked_add(1)?..end)?;
    let value = rest.iter().fold(u64::from(first & 0x3F), |value, byte| {
        value << 8 | u64::from(*byte)
    });
    Some((value, end))
}

/// How many bytes `put_varint` writes.
pub fn varint_size(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Append the shortest varint of `value`; one above the largest there is becomes the largest.
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    let value = value.min(MAX_VARINT);
    match varint_size(value) {
        1 => out.extend_from_slice(&(value as u8).to_be_bytes()),
        2 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        4 => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value | 0xC000_0000_0000_0000).to_be_bytes()),
    }
}

/// Append an ACK frame for received numbers (ascending, disjoint, half-open): the newest `most` ranges of them,
/// at least one. Nothing is appended when there are none.
pub fn encode_ack(out: &mut Vec<u8>, ranges: &[(u64, u64)], delay: u64, most: usize) {
    let Some((newest, older)) = ack_ranges(ranges, most) else {
        return;
    };
    let largest = newest.1.saturating_sub(1);
    out.push(ACK);
    put_varint(out, largest);
    put_varint(out, delay);
    put_varint(out, older.len() as u64);
    put_varint(out, largest.saturating_sub(newest.0));
    for (gap, length) in gaps(newest, older) {
        put_varint(out, gap);
        put_varint(out, length);
    }
}

/// How many bytes `encode_ack` appends for the same arguments.
pub fn ack_size(ranges: &[(u64, u64)], delay: u64, most: usize) -> usize {
    let Some((newest, older)) = ack_ranges(ranges, most) else {
        return 0;
    };
    let largest = newest.1.saturating_sub(1);
    let head = [
        largest,
        delay,
        older.len() as u64,
        largest.saturating_sub(newest.0),
    ];
    let values = gaps(newest, older).flat_map(|(gap, length)| [gap, length]);
    head.into_iter().chain(values).fold(1, |sum: usize, value| {
        sum.saturating_add(varint_size(value))
    })
}

/// The newest range, and those before it that an ACK frame of at most `most` ranges still takes.
fn ack_ranges(ranges: &[Span], most: usize) -> Option<(Span, &[Span])> {
    let (newest, older) = ranges.split_last()?;
    let skip = older.len().saturating_sub(most.saturating_sub(1));
    Some((*newest, older.get(skip..)?))
}

/// Gap and length of each older range as an ACK frame spells them (RFC 9000 section 19.3.1).
fn gaps<'a>(newest: (u64, u64), older: &'a [(u64, u64)]) -> impl Iterator<Item = (u64, u64)> + 'a {
    let mut low = newest.0;
    older.iter().rev().map(move |range| {
        let gap = low.saturating_sub(range.1).saturating_sub(1);
        low = range.0;
        (gap, range.1.saturating_sub(range.0).saturating_sub(1))
    })
}

/// Append a DATAGRAM frame with its length, so that others may follow it in the packet.
pub fn encode_datagram(out: &mut Vec<u8>, payload: &[u8]) {
    encode_prefixed(out, None, payload);
}

/// The same with a byte before the payload.
pub fn encode_prefixed(out: &mut Vec<u8>, prefix: Option<u8>, payload: &[u8]) {
    let size = payload.len().saturating_add(usize::from(prefix.is_some()));
    out.push(DATAGRAM_LENGTH);
    put_varint(out, size as u64);
    out.extend(prefix);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use super::*;
    use crate::vectors::{hex, list, load, unhex};
    use proptest::prelude::*;

    fn read(plain: &[u8]) -> Option<Parsed> {
        let mut parsed = Parsed::default();
        parsed.datagrams.push(7..9); // what stood there before does not matter
        parsed.has_ack = true;
        let fits = parse(plain, &mut parsed);
        assert!(fits || parsed == Parsed::default());
        fits.then_some(parsed)
    }

    #[test]
    fn varints_read_and_write_as_the_vectors_say() {
        let vectors = load(include_str!("../../../tests/vectors/varint.json"));
        for case in list(&vectors["values"]) {
            let (value, bytes) = (case["value"].as_u64().unwrap(), hex(&case["hex"]));
            assert_eq!(varint(&bytes, 0), Some((value, bytes.len())));
            let mut out = vec![];
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(varint_size(value), bytes.len());
        }
        for case in list(&vectors["longer"]) {
            let bytes = hex(&case["hex"]);
            let value = case["value"].as_u64().unwrap();
            assert_eq!(varint(&bytes, 0), Some((value, bytes.len())));
        }
        for case in list(&vectors["cut"]) {
            assert_eq!(varint(&hex(case), 0), None);
        }
        assert_eq!(varint(&[1], usize::MAX), None);
        let mut out = vec![];
        put_varint(&mut out, u64::MAX);
        assert_eq!(out, [0xFF; 8]);
    }

    #[test]
    fn the_five_frames_are_read_in_any_order() {
        let parsed = read(&unhex(
            "01 00 00 3102 aabb 02 0a 05 01 01 00 03 00 31 00 30 cc dd",
        ))
        .unwrap();
        assert_eq!(parsed.datagrams, [5..7, 17..17, 18..20]);
        assert_eq!(parsed.ack.ranges, [(9, 11), (4, 8)]);
        assert_eq!((parsed.ack.delay, parsed.has_ack), (5, true));
        assert!(parsed.eliciting);
    }

    #[test]
    fn only_ping_and_datagrams_want_to_be_acknowledged() {
        for (plain, eliciting) in [
            ("00", false),
            ("0200000000", false),
            ("01", true),
            ("30", true),
        ] {
            assert_eq!(read(&unhex(plain)).unwrap().eliciting, eliciting);
        }
    }

    #[test]
    fn everything_else_is_for_the_quic_stack() {
        for plain in [
            "",                        // a packet must have a frame
            "03 00 00 00 00 00 00 00", // ACK with ECN counts
            "06 00 00",                // CRYPTO
            "1c 00 00 00",             // CONNECTION_CLOSE
            "4031 00",                 // a type in two bytes
            "31",                      // no length
            "31 05 aabbccdd",          // longer than the packet
            "31 ffffffffffffffff",     // a length near the largest
            "02 00 00 00",             // ACK cut short
            "02 00 00 00 01",          // below zero
            "02 05 00 01 00 04 00",    // a gap below zero
            "02 05 00 01 00 03 01",    // a range below zero
            "02 05 00 4040 00",        // 65 ranges
            "02 00 00 00 00 02 00 00 00 00",
        ] {
            assert_eq!(read(&unhex(plain)), None, "{plain}");
        }
    }

    #[test]
    fn an_acknowledgement_has_at_most_64_ranges() {
        for (more, fits) in [(63_u8, true), (64, false)] {
            let mut plain = vec![2, 0x40, 200, 0, 0x40, more, 0];
            plain.resize(plain.len() + 2 * usize::from(more), 0);
            let parsed = read(&plain);
            assert_eq!(parsed.is_some_and(|p| p.ack.ranges.len() == 64), fits);
        }
    }

    #[test]
    fn the_newest_ranges_are_acknowledged() {
        let mut out = vec![];
        encode_ack(&mut out, &[(0, 1), (4, 8), (9, 11)], 5, 2);
        assert_eq!(out, unhex("02 0a 05 01 01 00 03"));
        assert_eq!(ack_size(&[(0, 1), (4, 8), (9, 11)], 5, 2), out.len());
        out.clear();
        encode_ack(&mut out, &[(0, 1), (70, 71)], 0, 0);
        assert_eq!(out, unhex("02 4046 00 00 00"));
        out.clear();
        encode_ack(&mut out, &[], 0, 16);
        assert_eq!((out.len(), ack_size(&[], 0, 16)), (0, 0));
    }

    #[test]
    fn ranges_that_make_no_sense_do_no_harm() {
        let mut out = vec![];
        let ranges = [(9, 2), (u64::MAX, 0), (3, u64::MAX), (0, 0)];
        encode_ack(&mut out, &ranges, u64::MAX, 9);
        assert_eq!(out.len(), ack_size(&ranges, u64::MAX, 9));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            steps in prop::collection::vec((1_u64..1 << 50, 1_u64..1 << 50, 0_u32..50), 1..20),
            delay in 0..=MAX_VARINT,
            most in 1_usize..20,
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..5),
        ) {
            let mut ranges = vec![];
            let mut at = 0;
            for (gap, length, shift) in steps {
                let start = at + (gap >> shift).max(1);
                at = start + (length >> shift).max(1);
                ranges.push((start, at));
            }
            let mut out = vec![];
            encode_ack(&mut out, &ranges, delay, most);
            prop_assert_eq!(out.len(), ack_size(&ranges, delay, most));
            for payload in &payloads {
                encode_datagram(&mut out, payload);
            }
            let parsed = read(&out).unwrap();
            let newest: Vec<_> = ranges.iter().rev().take(most).copied().collect();
            prop_assert_eq!(parsed.ack, Ack { ranges: newest, delay });
            let read: Vec<_> = parsed.datagrams.into_iter().map(|place| out[place].to_vec()).collect();
            prop_assert_eq!(read, payloads);
        }

        #[test]
        fn any_bytes_parse_or_not(
            data in prop::collection::vec(prop_oneof![Just(2), 0_u8..3, 0x30_u8..0x32, any::<u8>()], 0..100)
        ) {
            if let Some(parsed) = read(&data) {
                prop_assert!(parsed.datagrams.iter().all(|place| place.start <= place.end && place.end <= data.len()));
                prop_assert!(parsed.ack.ranges.len() <= MAX_RANGES);
                prop_assert!(parsed.ack.ranges.windows(2).all(|pair| pair[1].1 < pair[0].0));
                prop_assert_eq!(parsed.has_ack, !parsed.ack.ranges.is_empty());
            }
        }
    }
}
