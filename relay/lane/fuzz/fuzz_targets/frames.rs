//! Any payload is read whole or left to the QUIC stack: nothing outside it is named, an acknowledgement's ranges
//! descend without touching, what is read is written back to the same, and nothing stays from the payload before.
#![no_main]

use _lane::frames::{
    ack_size, encode_ack, encode_datagram, parse, varint, varint_size, Parsed, MAX_RANGES,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut used = Parsed::default();
    parse(&[0x01, 0x02, 9, 3, 0, 4, 0x30, 7], &mut used);
    let mut parsed = Parsed::default();
    let fits = parse(data, &mut parsed);
    assert_eq!(parse(data, &mut used), fits);
    assert_eq!(used, parsed);
    if fits {
        check(data, &parsed);
    } else {
        assert_eq!(parsed, Parsed::default());
    }
    if let Some((value, end)) = varint(data, 0) {
        assert!(end <= data.len() && varint_size(value) <= end);
    }
});

fn check(data: &[u8], parsed: &Parsed) {
    let ack = &parsed.ack;
    assert_eq!(parsed.has_ack, !ack.ranges.is_empty());
    assert!(ack.ranges.len() <= MAX_RANGES);
    assert!(ack.ranges.iter().all(|range| range.0 < range.1));
    assert!(ack.ranges.windows(2).all(|pair| pair[1].1 < pair[0].0));
    let mut again = Vec::new();
    let ascending: Vec<_> = ack.ranges.iter().rev().copied().collect();
    encode_ack(&mut again, &ascending, ack.delay, MAX_RANGES);
    assert_eq!(again.len(), ack_size(&ascending, ack.delay, MAX_RANGES));
    for place in &parsed.datagrams {
        encode_datagram(&mut again, &data[place.clone()]);
    }
    let mut reread = Parsed::default();
    assert_eq!(parse(&again, &mut reread), !again.is_empty());
    assert_eq!(&reread.ack, ack);
    let payloads = |bytes: &[u8], parsed: &Parsed| -> Vec<Vec<u8>> {
        parsed
            .datagrams
            .iter()
            .map(|place| bytes[place.clone()].to_vec())
            .collect()
    };
    assert_eq!(payloads(&again, &reread), payloads(data, parsed));
}
