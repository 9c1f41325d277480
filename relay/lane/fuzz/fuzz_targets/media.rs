//! Any datagram has a hop header or a reason: a copy for another flow differs in its flow and repeat bit alone,
//! whatever was read stands in the shortest form, and the tag always has its room.
#![no_main]

use _lane::media::{decode, index_of, set_flow, MAX_SIZE, MIN_SIZE};
use _lane::reason::Reason;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match decode(data) {
    Ok(header) => {
        assert!((MIN_SIZE..=MAX_SIZE).contains(&data.len()));
        assert!((3..=9).contains(&header.size) && header.size + 19 <= data.len());
        assert!(index_of(header.kid, true) < 32 && index_of(header.kid, false) < 64);
        let mut copy = data.to_vec();
        set_flow(&mut copy, 9, !header.repeat);
        let mut other = decode(&copy).unwrap();
        assert_eq!((other.flow, other.repeat), (9, !header.repeat));
        assert_eq!(copy[2..], data[2..]);
        (other.flow, other.repeat) = (header.flow, header.repeat);
        assert_eq!(other, header);
        set_flow(&mut copy, header.flow, header.repeat);
        assert_eq!(copy, data);
        let from = usize::from(header.level.is_some()) + 3;
        let spelled = usize::from(header.kid >= 8) + ctr_size(header.ctr);
        assert_eq!(header.size, from + spelled);
    }
    Err(Reason::TooLarge) => assert!(data.len() > MAX_SIZE),
    Err(Reason::BadVersion) => assert!(data[1] & 0xC0 != 0x40),
    Err(reason) => assert_eq!(reason, Reason::Malformed),
});

/// Bytes behind the config byte that a counter takes.
fn ctr_size(ctr: u32) -> usize {
    match ctr {
        0..8 => 0,
        8..0x100 => 1,
        0x100..0x1_0000 => 2,
        0x1_0000..0x100_0000 => 3,
        _ => 4,
    }
}
