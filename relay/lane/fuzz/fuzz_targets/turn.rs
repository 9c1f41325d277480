//! What reads as ChannelData or as a Send indication stands inside the message, and written again it reads the
//! same; nothing that is the one is the other, and no short header under an id of ours is either.
#![no_main]

use _lane::turn::{
    message_type, parse_channel_data, parse_send, put_channel_data, put_data_indication,
    MAX_OVERHEAD, SEND,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let channel = parse_channel_data(data);
    let send = parse_send(data);
    assert!(channel.is_none() || message_type(data).is_none());
    if let Some((number, payload)) = channel {
        assert!((0x4000..0x5000).contains(&number));
        assert!(data.len() - payload.len() < 8);
        for is_stream in [false, true] {
            let mut again = Vec::new();
            put_channel_data(number, payload, is_stream, &mut again);
            assert_eq!(parse_channel_data(&again), channel);
        }
    }
    if let Some((peer, payload)) = send {
        assert_eq!(message_type(data), Some(SEND));
        assert!(peer.port() != 0 && payload.len() + 32 <= data.len());
        let mut again = Vec::new();
        put_data_indication(u64::from(data[12]), &peer, payload, &mut again);
        assert!(again.len() <= payload.len() + MAX_OVERHEAD);
        again[1] = SEND as u8;
        assert_eq!(parse_send(&again), send);
    }
});
