//! Any packet is a long header or none: its parts stand inside it in their order, and the answer to it is a
//! negotiation with the ids swapped, which itself is never answered. A packet number decodes to one with the
//! bits that were sent.
#![no_main]

use _lane::header::{
    decode_number, parse_long, version_negotiation, LongKind, MAX_CID, QUIC_V1, QUIC_V2,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    number(data);
    let Some(long) = parse_long(data) else {
        return;
    };
    let parts = long.dcid.len() + long.scid.len() + long.token.len();
    assert!(data.len() >= 7 + parts);
    assert_eq!(&data[6..6 + long.dcid.len()], long.dcid);
    let mut answer = Vec::new();
    version_negotiation(&long, &[QUIC_V1, QUIC_V2], data[0], &mut answer);
    match long.kind {
        LongKind::Negotiation => {
            assert!(answer.is_empty());
            return;
        }
        LongKind::Other => assert!(![0, QUIC_V1, QUIC_V2].contains(&long.version)),
        _ => assert!(long.dcid.len() <= MAX_CID && long.scid.len() <= MAX_CID),
    }
    let heard = parse_long(&answer).unwrap();
    assert_eq!(heard.kind, LongKind::Negotiation);
    assert_eq!((heard.dcid, heard.scid), (long.scid, long.dcid));
});

fn number(data: &[u8]) {
    let Some((expected, rest)) = data.split_first_chunk() else {
        return;
    };
    let Some(sent) = rest.first_chunk::<4>() else {
        return;
    };
    let expected = u64::from_be_bytes(*expected);
    let bits = 8 * (u32::from(sent[0] & 3) + 1);
    let mask = (1_u64 << bits) - 1;
    let truncated = u64::from(u32::from_be_bytes(*sent)) & mask;
    assert_eq!(decode_number(truncated, bits, expected) & mask, truncated);
}
