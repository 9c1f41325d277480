//! QUIC packet headers as far as they are readable without keys, and the two answers that need no connection.
//!
//! Must never live here: which connection ids exist, and keys.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::frames::varint;

/// No path we serve carries a longer packet; a longer read is noise.
pub const MAX_UDP: usize = 2048;
/// A client's first datagram is padded to this (RFC 9000 section 14.1).
pub const MIN_INITIAL: usize = 1200;
pub const QUIC_V1: u32 = 0x0000_0001;
/// RFC 9369 section 3.1.
pub const QUIC_V2: u32 = 0x6B33_43CF;
/// The longest connection id in versions we know (RFC 9000 section 17.2).
pub const MAX_CID: usize = 20;
const RETRY_TAG_SIZE: usize = 16;
const RESET_TOKEN_SIZE: usize = 16;
/// RFC 9000 section 10.3.
const MIN_RESET: usize = 21;

/// The whole packet number, from its last `bits` bits and the number expected next (RFC 9000 appendix A.3).
/// `truncated` has no bit above these.
pub fn decode_number(truncated: u64, bits: u32, expected: u64) -> u64 {
    let Some(window) = 1_u64.checked_shl(bits).filter(|window| *window <= 1 << 62) else {
        return truncated;
    };
    let half = window >> 1;
    let candidate = (expected & !window.wrapping_sub(1)) | truncated;
    let limit = (1_u64 << 62).saturating_sub(window);
    if candidate.saturating_add(half) <= expected && candidate < limit {
        candidate.saturating_add(window)
    } else if candidate > expected.saturating_add(half) && candidate >= window {
        candidate.saturating_sub(window)
    } else {
        candidate
    }
}

/// The type of a long-header packet, whatever bits its version spells it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongKind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
    /// Version 0.
    Negotiation,
    /// Of a version we do not know: only the invariants were read.
    Other,
}

/// The first packet of a datagram, as far as its header is readable without keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Long<'a> {
    pub version: u32,
    pub kind: LongKind,
    pub dcid: &'a [u8],
    pub scid: &'a [u8],
    /// Of an Initial or a Retry.
    pub token: &'a [u8],
}

/// Read a long header (RFC 8999 section 5.1, RFC 9000 section 17.2); None if it is none.
pub fn parse_long(packet: &[u8]) -> Option<Long<'_>> {
    let (first, rest) = packet.split_first()?;
    if *first < 0x80 {
        return None;
    }
    let (version, rest) = rest.split_first_chunk()?;
    let version = u32::from_be_bytes(*version);
    let kind = kind_of(version, *first);
    let known = !matches!(kind, LongKind::Negotiation | LongKind::Other);
    let limit = if known { MAX_CID } else { 0xFF };
    let (dcid, rest) = cid(rest, limit)?;
    let (scid, rest) = cid(rest, limit)?;
    if known && first & 0x40 == 0 {
        return None;
    }
    let token = match kind {
        LongKind::Negotiation | LongKind::Other => &[][..],
        LongKind::Retry => rest.get(..rest.len().checked_sub(RETRY_TAG_SIZE)?)?,
        LongKind::Initial => {
            let (token, rest) = sized(rest)?;
            sized(rest)?;
            token
        }
        LongKind::ZeroRtt | LongKind::Handshake => {
            sized(rest)?;
            &[][..]
        }
    };
    Some(Long {
        version,
        kind,
        dcid,
        scid,
        token,
    })
}

/// The two type bits, by version (RFC 9000 section 17.2, RFC 9369 section 3.2).
fn kind_of(version: u32, first: u8) -> LongKind {
    use LongKind::{Handshake, Initial, Negotiation, Other, Retry, ZeroRtt};
    match (version, first >> 4 & 3) {
        (0, _) => Negotiation,
        (QUIC_V1, 0) | (QUIC_V2, 1) => Initial,
        (QUIC_V1, 1) | (QUIC_V2, 2) => ZeroRtt,
        (QUIC_V1, 2) | (QUIC_V2, 3) => Handshake,
        (QUIC_V1, _) | (QUIC_V2, _) => Retry,
        _ => Other,
    }
}

/// A connection id with its length byte, and what follows it.
fn cid(data: &[u8], limit: usize) -> Option<(&[u8], &[u8])> {
    let (size, rest) = data.split_first()?;
    let size = usize::from(*size);
    if size > limit {
        return None;
    }
    rest.split_at_checked(size)
}

/// Bytes with their varint length in front, and what follows them.
fn sized(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, at) = varint(data, 0)?;
    data.get(at..)?
        .split_at_checked(usize::try_from(size).ok()?)
}

/// Append the answer to a packet of an unknown version (RFC 9000 section 17.2.1); `noise`: a random byte.
/// Nothing is appended to a negotiation, which must never be answered with one, nor without versions.
pub fn version_negotiation(header: &Long<'_>, versions: &[u32], noise: u8, out: &mut Vec<u8>) {
    let (Ok(dcid), Ok(scid)) = (
        u8::try_from(header.dcid.len()),
        u8::try_from(header.scid.len()),
    ) else {
        return; // `parse_long` never gives such
    };
    if header.kind == LongKind::Negotiation || versions.is_empty() {
        return;
    }
    // Bit 6 stays set, so that whoever shares the port still sees QUIC.
    out.extend_from_slice(&[0xC0 | noise & 0x3F, 0, 0, 0, 0, scid]);
    out.extend_from_slice(header.scid);
    out.push(dcid);
    out.extend_from_slice(header.dcid);
    for version in versions {
        out.extend_from_slice(&version.to_be_bytes());
    }
}

/// Append a stateless reset (RFC 9000 section 10.3) of noise and 16 bytes token; nothing when that is under 21.
///
/// `noise` is random. The caller keeps the result shorter than the packet it answers, so that two nodes that
/// reset each other fall silent.
pub fn stateless_reset(token: &[u8; RESET_TOKEN_SIZE], noise: &[u8], out: &mut Vec<u8>) {
    let Some((first, rest)) = noise.split_first() else {
        return;
    };
    if noise.len() < MIN_RESET.saturating_sub(RESET_TOKEN_SIZE) {
        return;
    }
    out.push(0x40 | first & 0x3F);
    out.extend_from_slice(rest);
    out.extend_from_slice(token);
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use super::*;
    use crate::frames::put_varint;
    use crate::vectors::unhex;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_9000_appendix_a3_decodes() {
        assert_eq!(decode_number(0x9B32, 16, 0xA82F_30EA + 1), 0xA82F_9B32);
    }

    #[test]
    fn a_number_is_the_nearest_to_the_one_expected() {
        assert_eq!(decode_number(0xFF, 8, 0), 0xFF);
        assert_eq!(decode_number(0xFF, 8, 0x100), 0xFF);
        assert_eq!(decode_number(0x00, 8, 0xFF), 0x100);
        assert_eq!(decode_number(0x80, 8, 0x100), 0x180);
        assert_eq!(decode_number(0x81, 8, 0x100), 0x81);
        assert_eq!(decode_number(0x00, 8, (1 << 62) - 1), (1 << 62) - 0x100); // none above 2^62
        assert_eq!(decode_number(5, 64, 1000), 5);
    }

    fn packet(first: u8, version: u32, dcid: &[u8], scid: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        out.extend(version.to_be_bytes());
        for id in [dcid, scid] {
            out.push(id.len() as u8);
            out.extend(id);
        }
        out.extend(rest);
        out
    }

    #[test]
    fn each_type_of_both_versions_is_read() {
        use LongKind::{Handshake, Initial, Retry, ZeroRtt};
        let body = unhex("03 aabbcc 04 01020304 05 ff");
        for (version, kinds) in [
            (QUIC_V1, [Initial, ZeroRtt, Handshake, Retry]),
            (QUIC_V2, [Retry, Initial, ZeroRtt, Handshake]),
        ] {
            for (bits, kind) in kinds.into_iter().enumerate() {
                let mut data = packet(0xC0 | (bits as u8) << 4, version, b"12345678", b"", &body);
                if kind == Retry {
                    data.extend([0; 12]);
                }
                let long = parse_long(&data).unwrap();
                assert_eq!((long.version, long.kind), (version, kind));
                assert_eq!((long.dcid, long.scid), (&b"12345678"[..], &b""[..]));
                let token = match kind {
                    Initial => unhex("aabbcc"),
                    Retry => unhex("03 aabbcc 04 0102"),
                    _ => vec![],
                };
                assert_eq!(long.token, token, "{version:x} {kind:?}");
                let cut = parse_long(&data[..data.len() - 7]);
                assert_eq!(cut.is_none(), kind == Initial, "{cut:?}");
            }
        }
    }

    #[test]
    fn of_other_versions_only_the_invariants_are_read() {
        for (version, kind) in [(0, LongKind::Negotiation), (0x1A2A_3A4A, LongKind::Other)] {
            let long = [7; 255];
            let data = packet(0x80, version, &long, &long, b"anything");
            let read = parse_long(&data).unwrap();
            assert_eq!(
                (read.kind, read.dcid, read.scid),
                (kind, &long[..], &long[..])
            );
            assert_eq!((read.version, read.token), (version, &b""[..]));
        }
    }

    #[test]
    fn what_is_no_long_header_is_refused() {
        let good = packet(0xC0, QUIC_V1, b"12345678", b"abc", &unhex("00 02 0102"));
        assert!(parse_long(&good).is_some());
        assert!((0..good.len()).all(|size| parse_long(&good[..size]).is_none()));
        let id = [1; 21];
        for bad in [
            packet(0x40, QUIC_V1, b"12345678", b"abc", &unhex("00 00")), // a short header
            packet(0x80, QUIC_V1, b"12345678", b"abc", &unhex("00 00")), // no fixed bit
            packet(0xC0, QUIC_V1, &id, b"", &unhex("00 00")),
            packet(0xC0, QUIC_V2, b"", &id, &unhex("00 00")),
            packet(0xC0, QUIC_V1, b"", b"", &unhex("c0ffffffffffffff")),
            packet(0xF0, QUIC_V1, b"", b"", &[0; 15]), // a Retry has a tag
        ] {
            assert_eq!(parse_long(&bad), None);
        }
        assert!(parse_long(&packet(0xF0, QUIC_V1, b"", b"", &[0; 16])).is_some());
    }

    #[test]
    fn a_negotiation_swaps_the_ids_and_lists_the_versions() {
        let data = packet(0xC0, 0x1A2A_3A4A, b"to", b"from", b"");
        let mut out = vec![9];
        version_negotiation(
            &parse_long(&data).unwrap(),
            &[QUIC_V1, QUIC_V2],
            0xFF,
            &mut out,
        );
        assert_eq!(
            out,
            unhex("09 ff 00000000 04 66726f6d 02 746f 00000001 6b3343cf")
        );
        let answer = parse_long(&out[1..]).unwrap();
        let mut silence = vec![];
        version_negotiation(&answer, &[QUIC_V1], 0, &mut silence);
        version_negotiation(&parse_long(&data).unwrap(), &[], 0, &mut silence);
        let id = [0; 256];
        let odd = Long {
            dcid: &id,
            ..parse_long(&data).unwrap()
        };
        version_negotiation(&odd, &[QUIC_V1], 0, &mut silence);
        assert!(silence.is_empty());
    }

    #[test]
    fn a_reset_looks_like_a_short_header_and_ends_with_the_token() {
        let token = [0xEE; 16];
        let mut out = vec![];
        stateless_reset(&token, &[], &mut out);
        stateless_reset(&token, &[1; 4], &mut out);
        assert!(out.is_empty());
        stateless_reset(&token, &[0xFF, 1, 2, 3, 4], &mut out);
        assert_eq!(out[..5], [0x7F, 1, 2, 3, 4]);
        assert_eq!(out[5..], token);
    }

    proptest! {
        #[test]
        fn a_number_within_half_a_window_decodes_to_itself(
            number in 0_u64..1 << 62, bytes in 1_u32..5, off in any::<i64>()
        ) {
            let half = 1_i64 << (8 * bytes - 1);
            // Half a window ahead at most, and less than half behind (RFC 9000 section 17.1).
            let expected = number.saturating_add_signed(off.rem_euclid(2 * half) - half + 1);
            let expected = expected.min((1 << 62) - 1);
            let truncated = number & ((1 << (8 * bytes)) - 1);
            prop_assume!(expected + half as u64 > number && expected < number + half as u64);
            prop_assert_eq!(decode_number(truncated, 8 * bytes, expected), number);
        }

        #[test]
        fn any_numbers_decode_to_something(truncated in any::<u64>(), bits in any::<u32>(), expected in any::<u64>()) {
            decode_number(truncated, bits, expected);
            decode_number(truncated, bits % 66, expected);
        }

        #[test]
        fn what_is_written_reads_back(
            dcid in prop::collection::vec(any::<u8>(), 0..=20),
            scid in prop::collection::vec(any::<u8>(), 0..=20),
            token in prop::collection::vec(any::<u8>(), 0..300),
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut rest = vec![];
            for part in [&token, &payload] {
                put_varint(&mut rest, part.len() as u64);
                rest.extend(part);
            }
            let data = packet(0xC3, QUIC_V1, &dcid, &scid, &rest);
            let expected = Long {
                version: QUIC_V1, kind: LongKind::Initial, dcid: &dcid, scid: &scid, token: &token,
            };
            prop_assert_eq!(parse_long(&data), Some(expected));
            prop_assert_eq!(parse_long(&data[..data.len() - 1]), None);
        }

        #[test]
        fn any_bytes_are_a_header_or_none(
            first in any::<u8>(),
            version in prop_oneof![Just(0), Just(QUIC_V1), Just(QUIC_V2), any::<u32>()],
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut data = vec![first];
            data.extend(version.to_be_bytes());
            data.extend(rest);
            if let Some(long) = parse_long(&data) {
                let mut out = vec![];
                version_negotiation(&long, &[QUIC_V1], first, &mut out);
                prop_assert_eq!(out.is_empty(), version == 0);
            }
        }
    }
}
