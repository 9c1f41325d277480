//! The hop header of a media datagram: all that the relay reads of somebody's voice.
//!
//! ```text
//! flow   1     01-3E; 00 is a control datagram, 3F reserved
//! H      1     7-6 version 01 | 5 L level present | 4 M talkspurt start | 3-2 PP drop class
//!              | 1 R repeat on this hop | 0 zero
//! LV     0/1   7 V voice | 6-0 level in -dBov (RFC 6464 section 3); only if L
//! conf   1     X KKK Y CCC (RFC 9605 section 4.3)
//! KID    0/1   1:1: index<<2 | epoch&3;  group: index<<3 | epoch&7
//! CTR    0-4   counts up per KID
//! then         ciphertext of at least 3 bytes, 16 bytes tag; 22-1024 bytes in all
//! ```
//!
//! Must never live here: ciphers, and any judgement whether a packet may pass.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::reason::Reason;

/// flow, H, conf, 3 bytes of plaintext header, 16 bytes of tag.
pub const MIN_SIZE: usize = 22;
pub const MAX_SIZE: usize = 1024;
pub const MIN_SEALED: usize = 19;
const MIN_FLOW: u8 = 0x01;
const MAX_FLOW: u8 = 0x3E;

const VERSION_BITS: u8 = 0x40;
const VERSION_MASK: u8 = 0xC0;
const LEVEL_BIT: u8 = 0x20;
const ONSET_BIT: u8 = 0x10;
const REPEAT_BIT: u8 = 0x02;
const ZERO_BIT: u8 = 0x01;

/// What a hop knows of a media datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub flow: u8,
    pub onset: bool,
    /// Drop class: 0 speech, 1 comfort noise, 2 redundancy only, 3 start of a talkspurt.
    pub pp: u8,
    pub repeat: bool,
    /// -dBov, 0 loudest, 127 silence; None: not told.
    pub level: Option<u8>,
    pub voice: bool,
    pub kid: u8,
    pub ctr: u32,
    /// Bytes before the ciphertext.
    pub size: usize,
}

/// Read the hop header of one media datagram; else the reason to drop it: `TooLarge` above 1024 bytes,
/// `BadVersion` for another header version, `Malformed` for the rest.
pub fn decode(data: &[u8]) -> Result<Header, Reason> {
    let (flow, rest) = first(data)?;
    if !(MIN_FLOW..=MAX_FLOW).contains(&flow) {
        return Err(Reason::Malformed);
    }
    read(data.len(), flow, rest)
}

/// The same of what a trunk carries from its hop on: that stands where a leg's datagram has its flow, and is in
/// `flow` whatever it is. A repeat is `Malformed`, since trunks repeat nothing.
pub fn decode_carried(data: &[u8]) -> Result<Header, Reason> {
    let (hop, rest) = first(data)?;
    let header = read(data.len(), hop, rest)?;
    if header.repeat {
        return Err(Reason::Malformed);
    }
    Ok(header)
}

/// The first byte of a datagram that may be as long as it is.
fn first(data: &[u8]) -> Result<(u8, &[u8]), Reason> {
    if data.len() < MIN_SIZE {
        return Err(Reason::Malformed);
    }
    if data.len() > MAX_SIZE {
        return Err(Reason::TooLarge);
    }
    byte(data)
}

/// `rest`: what follows the first byte of a datagram of `size` bytes.
fn read(size: usize, flow: u8, rest: &[u8]) -> Result<Header, Reason> {
    let (h, mut rest) = byte(rest)?;
    if h & VERSION_MASK != VERSION_BITS {
        return Err(Reason::BadVersion);
    }
    if h & ZERO_BIT != 0 {
        return Err(Reason::Malformed);
    }
    let mut level = None;
    let mut voice = false;
    if h & LEVEL_BIT != 0 {
        let (lv, after) = byte(rest)?;
        voice = lv & 0x80 != 0;
        level = Some(lv & 0x7F);
        rest = after;
    }
    let (conf, mut rest) = byte(rest)?;
    let mut kid = conf >> 4 & 7;
    let mut ctr = u32::from(conf & 7);
    // Each value in its shortest form only: one packet has one spelling.
    if conf & 0x80 != 0 {
        if kid != 0 {
            return Err(Reason::Malformed); // a KID of two bytes or more
        }
        (kid, rest) = byte(rest)?;
        if kid < 8 {
            return Err(Reason::Malformed);
        }
    }
    if conf & 0x08 != 0 {
        let least = match ctr {
            0 => 8,
            1 => 1 << 8,
            2 => 1 << 16,
            3 => 1 << 24,
            _ => return Err(Reason::Malformed), // a CTR of five bytes or more
        };
        let more = ctr;
        ctr = 0;
        for _ in 0..=more {
            let (next, after) = byte(rest)?;
            ctr = ctr << 8 | u32::from(next);
            rest = after;
        }
        if ctr < least {
            return Err(Reason::Malformed);
        }
    }
    if rest.len() < MIN_SEALED {
        return Err(Reason::Malformed);
    }
    Ok(Header {
        flow,
        onset: h & ONSET_BIT != 0,
        pp: h >> 2 & 3,
        repeat: h & REPEAT_BIT != 0,
        level,
        voice,
        kid,
        ctr,
        size: size.saturating_sub(rest.len()),
    })
}

fn byte(data: &[u8]) -> Result<(u8, &[u8]), Reason> {
    data.split_first()
        .map(|(first, rest)| (*first, rest))
        .ok_or(Reason::Malformed)
}

/// The participant index that key id `kid` claims: above 3 epoch bits in a group, 2 in a 1:1.
pub fn index_of(kid: u8, group: bool) -> u8 {
    if group {
        kid >> 3
    } else {
        kid >> 2
    }
}

/// Make a datagram that `decode` accepted a listener's copy: its own flow number, R as given.
pub fn set_flow(copy: &mut [u8], flow: u8, repeat: bool) {
    if let [first, h, ..] = copy {
        *first = flow;
        *h = if repeat {
            *h | REPEAT_BIT
        } else {
            *h & !REPEAT_BIT
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use super::*;
    use crate::vectors::{hex, list, load};
    use proptest::prelude::*;
    use serde_json::{json, Value};

    fn vectors() -> Value {
        load(include_str!("../../../tests/vectors/media.json"))
    }

    fn same(header: &Header, expected: &Value) -> bool {
        let told = json!({
            "flow": header.flow,
            "onset": header.onset,
            "pp": header.pp,
            "repeat": header.repeat,
            "level": header.level,
            "voice": header.voice,
            "kid": header.kid,
            "ctr": header.ctr,
            "sframe_at": if header.level.is_some() { 3 } else { 2 },
            "size": header.size,
        });
        told == *expected
    }

    #[test]
    fn the_golden_datagrams_and_all_accepted_ones_read_as_told() {
        let all = vectors();
        let golden = [&all["golden"]["A"], &all["golden"]["B"]];
        for case in golden.into_iter().chain(list(&all["accepted"])) {
            let header = decode(&hex(&case["datagram"])).unwrap();
            assert!(same(&header, &case["header"]), "{header:?} {case}");
        }
    }

    #[test]
    fn each_refused_datagram_is_refused_for_its_reason() {
        for case in list(&vectors()["refused"]) {
            let reason = decode(&hex(&case["datagram"])).unwrap_err();
            assert_eq!(reason.name(), case["reason"], "{}", case["name"]);
        }
    }

    #[test]
    fn a_copy_differs_in_flow_and_repeat_bit_only() {
        for name in ["A", "B"] {
            let case = &vectors()["golden"][name];
            let original = hex(&case["datagram"]);
            let mut copy = original.clone();
            set_flow(&mut copy, 9, true);
            assert_eq!(copy[..2], hex(&case["on_flow_9_as_repeat"]));
            assert_eq!(copy[2..], original[2..]);
            set_flow(&mut copy, original[0], false);
            assert_eq!(copy, original);
        }
        set_flow(&mut [], 9, true);
        let mut short = [1];
        set_flow(&mut short, 9, true);
        assert_eq!(short, [1]);
    }

    #[test]
    fn an_index_stands_above_the_epoch_bits() {
        assert_eq!((index_of(0xFF, true), index_of(0xFF, false)), (31, 63));
        assert_eq!((index_of(74, true), index_of(1, false)), (9, 0));
    }

    fn encode(header: &Header, body: usize) -> Vec<u8> {
        let level = if header.level.is_some() { LEVEL_BIT } else { 0 };
        let onset = if header.onset { ONSET_BIT } else { 0 };
        let repeat = if header.repeat { REPEAT_BIT } else { 0 };
        let mut out = vec![
            header.flow,
            VERSION_BITS | level | onset | repeat | header.pp << 2,
        ];
        if let Some(value) = header.level {
            out.push(value | if header.voice { 0x80 } else { 0 });
        }
        let bytes = header.ctr.to_be_bytes();
        let size = (32 - header.ctr.leading_zeros()).div_ceil(8) as usize;
        let conf_kid = if header.kid < 8 {
            header.kid << 4
        } else {
            0x80
        };
        let conf_ctr = match header.ctr {
            0..8 => header.ctr as u8,
            _ => 8 | (size - 1) as u8,
        };
        out.push(conf_kid | conf_ctr);
        out.extend((header.kid >= 8).then_some(header.kid));
        if header.ctr >= 8 {
            out.extend(&bytes[4 - size..]);
        }
        out.resize(out.len() + body, 0xA5);
        out
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            flow in 1_u8..=0x3E,
            flags in any::<(bool, bool, bool)>(),
            pp in 0_u8..4,
            level in prop::option::of(0_u8..=127),
            kid in any::<u8>(),
            (ctr, shift) in (any::<u32>(), 0_u32..32),
            body in MIN_SEALED..900,
        ) {
            let mut header = Header {
                flow, onset: flags.0, pp, repeat: flags.1, level,
                voice: flags.2 && level.is_some(), kid, ctr: ctr >> shift, size: 0,
            };
            let data = encode(&header, body);
            header.size = data.len() - body;
            prop_assert_eq!(decode(&data), Ok(header));
            prop_assert_eq!(decode(&data[..header.size + MIN_SEALED - 1]), Err(Reason::Malformed));
        }

        #[test]
        fn any_bytes_are_a_header_or_a_reason(data in prop::collection::vec(any::<u8>(), 0..1100)) {
            if let Ok(header) = decode(&data) {
                let again = encode(&header, data.len() - header.size);
                prop_assert_eq!(&again[..header.size], &data[..header.size]);
            }
        }
    }
}
