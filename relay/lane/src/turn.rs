//! What the data path of TURN reads and writes: ChannelData, Send and Data indications (RFC 8656).
//!
//! ```text
//! ChannelData   u16 number 0x4000-0x4FFF | u16 length | payload | padding to 4, on streams or by choice
//! STUN          u16 type | u16 length | cookie | transaction 12 | attributes: u16 type, u16 length, value, to 4
//! ```
//!
//! Requests are the loop's: it reads them again. Must never live here: which channels and permissions exist.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const COOKIE: u32 = 0x2112_A442;
/// The indication by which a client sends without a channel.
pub const SEND: u16 = 0x0016;
const DATA_INDICATION: u16 = 0x0017;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;
/// Attributes of who proves himself: an indication needs none, and one that has them is not stranger by it.
const CREDENTIALS: [u16; 6] = [0x0006, 0x0008, 0x0014, 0x0015, 0x001C, 0x001E];
/// From here on an attribute that nobody knows is skipped (RFC 8489 section 14).
const OPTIONAL: u16 = 0x8000;
const HEADER: usize = 20;
const FAMILY_4: u8 = 1;
const FAMILY_6: u8 = 2;
/// What a Data indication takes beside the payload, at most.
pub const MAX_OVERHEAD: usize = HEADER + 4 + 20 + 4 + 3;

fn word(data: &[u8], at: usize) -> Option<u16> {
    let bytes = data.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

/// The next multiple of four.
fn padded(size: usize) -> usize {
    size.saturating_add(3) & !3
}

/// Channel number and payload, if this has the form of ChannelData: number and length fit, with padding or
/// without. No short header of ours has it: bytes 1 and 2 of our ids read 4096 or more.
#[inline]
pub fn parse_channel_data(data: &[u8]) -> Option<(u16, &[u8])> {
    let [0x40..=0x4F, _, _, _, rest @ ..] = data else {
        return None;
    };
    let size = usize::from(word(data, 2)?);
    if size != rest.len() && padded(size) != rest.len() {
        return None;
    }
    Some((word(data, 0)?, rest.get(..size)?))
}

/// The type of a STUN message, if this has the form of one (RFC 8489 section 5): cookie and length fit.
pub fn message_type(data: &[u8]) -> Option<u16> {
    let size = data.len().checked_sub(HEADER)?;
    let cookie = data.get(4..)?.first_chunk()?;
    let fits = usize::from(word(data, 2)?) == size
        && data.len() & 3 == 0
        && u32::from_be_bytes(*cookie) == COOKIE;
    word(data, 0).filter(|kind| fits && *kind < 0x0400)
}

/// Whom a Send indication is for, and what it carries. None when something is missing or malformed, or when it
/// has an attribute that must be understood and is not (RFC 8656 section 11.2). The first of each kind counts.
pub fn parse_send(data: &[u8]) -> Option<(SocketAddr, &[u8])> {
    message_type(data).filter(|kind| *kind == SEND)?;
    let mask = data.get(4..)?.first_chunk()?;
    let mut rest = data.get(HEADER..)?;
    let (mut peer, mut payload) = (None, None);
    while !rest.is_empty() {
        let (kind, size) = (word(rest, 0)?, usize::from(word(rest, 2)?));
        let value = rest.get(4..)?.get(..size)?;
        rest = rest.get(4_usize.saturating_add(padded(size))..)?;
        match kind {
            XOR_PEER_ADDRESS if peer.is_none() => peer = Some(parse_address(value, mask)?),
            DATA if payload.is_none() => payload = Some(value),
            XOR_PEER_ADDRESS | DATA | OPTIONAL.. => {}
            _ if CREDENTIALS.contains(&kind) => {}
            _ => return None,
        }
    }
    Some((peer?, payload?))
}

/// An address under the cookie, or of IPv6 under cookie and transaction id (RFC 8489 section 14.2). Port 0 is
/// nobody's.
fn parse_address(value: &[u8], mask: &[u8; 16]) -> Option<SocketAddr> {
    let [_, family, high, low, host @ ..] = value else {
        return None;
    };
    let [first, second, ..] = mask;
    let port = u16::from_be_bytes([high ^ first, low ^ second]);
    let ip: IpAddr = match (*family, host.len()) {
        (FAMILY_4, 4) => {
            let host = u32::from_be_bytes(*host.first_chunk()?) ^ COOKIE;
            Ipv4Addr::from(host).into()
        }
        (FAMILY_6, 16) => {
            let host = u128::from_be_bytes(*host.first_chunk()?) ^ u128::from_be_bytes(*mask);
            Ipv6Addr::from(host).into()
        }
        _ => return None,
    };
    (port != 0).then(|| SocketAddr::new(ip, port))
}

/// The size of a payload as a field. None is longer than a UDP packet.
fn size_field(payload: &[u8]) -> [u8; 2] {
    u16::try_from(payload.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
}

fn pad(payload: &[u8], out: &mut Vec<u8>) {
    let missing = padded(payload.len()).saturating_sub(payload.len());
    out.extend_from_slice([0; 3].get(..missing).unwrap_or_default());
}

/// Write ChannelData; on a stream it is padded (RFC 8656 section 12.5).
pub fn put_channel_data(channel: u16, payload: &[u8], is_stream: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&size_field(payload));
    out.extend_from_slice(payload);
    if is_stream {
        pad(payload, out);
    }
}

/// Write a Data indication. `serial` is its transaction id: nobody answers it, it only is another each time.
pub fn put_data_indication(serial: u64, peer: &SocketAddr, payload: &[u8], out: &mut Vec<u8>) {
    let host = match peer.ip() {
        IpAddr::V4(_) => 4_usize,
        IpAddr::V6(_) => 16,
    };
    let size = host
        .saturating_add(12)
        .saturating_add(padded(payload.len()));
    let mut mask = [0; 16];
    if let Some((cookie, transaction)) = mask.split_first_chunk_mut::<4>() {
        *cookie = COOKIE.to_be_bytes();
        transaction
            .get_mut(4..)
            .unwrap_or_default()
            .copy_from_slice(&serial.to_be_bytes());
    }
    let [first, second, ..] = mask;
    let [high, low] = peer.port().to_be_bytes();
    out.extend_from_slice(&DATA_INDICATION.to_be_bytes());
    out.extend_from_slice(&u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(&mask);
    out.extend_from_slice(&XOR_PEER_ADDRESS.to_be_bytes());
    match peer.ip() {
        IpAddr::V4(ip) => {
            out.extend_from_slice(&[0, 8, 0, FAMILY_4, high ^ first, low ^ second]);
            out.extend_from_slice(&(u32::from(ip) ^ COOKIE).to_be_bytes());
        }
        IpAddr::V6(ip) => {
            out.extend_from_slice(&[0, 20, 0, FAMILY_6, high ^ first, low ^ second]);
            out.extend_from_slice(&(u128::from(ip) ^ u128::from_be_bytes(mask)).to_be_bytes());
        }
    }
    out.extend_from_slice(&DATA.to_be_bytes());
    out.extend_from_slice(&size_field(payload));
    out.extend_from_slice(payload);
    pad(payload, out);
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = kind.to_be_bytes().to_vec();
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value);
        out.resize(padded(out.len()), 0xEE);
        out
    }

    fn message(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let mut out = kind.to_be_bytes().to_vec();
        out.extend((body.len() as u16).to_be_bytes());
        out.extend(COOKIE.to_be_bytes());
        out.extend([7; 12]);
        out.extend(body);
        out
    }

    fn four() -> Vec<u8> {
        // 192.0.2.1:32853, as in RFC 5769 section 2.2
        attribute(
            XOR_PEER_ADDRESS,
            &[0, 1, 0xA1, 0x47, 0xE1, 0x12, 0xA6, 0x43],
        )
    }

    #[test]
    fn channel_data_has_its_length_with_padding_or_without() {
        assert_eq!(
            parse_channel_data(b"\x40\x01\0\0"),
            Some((0x4001, &b""[..]))
        );
        assert_eq!(
            parse_channel_data(b"\x4f\xff\0\x01a"),
            Some((0x4FFF, &b"a"[..]))
        );
        assert_eq!(
            parse_channel_data(b"\x40\0\0\x01a\0\0\0"),
            Some((0x4000, &b"a"[..]))
        );
        for other in [
            &b"\x40\0\0\x01a\0"[..],
            b"\x40\0\0\x01a\0\0\0\0",
            b"\x40\0\0\x02a",
            b"\x50\0\0\0",
            b"\x3f\0\0\0",
            b"\x40\0\0",
            b"",
        ] {
            assert_eq!(parse_channel_data(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_short_header_with_an_id_of_ours_is_never_channel_data() {
        for size in 0..=2048 {
            let mut packet = vec![0x41; size];
            if size > 2 {
                packet[2] = 0x10; // the least that byte 1 of an id is
            }
            assert_eq!(parse_channel_data(&packet), None);
        }
    }

    #[test]
    fn a_send_indication_reads_as_its_first_peer_and_payload() {
        let other = attribute(XOR_PEER_ADDRESS, &[0, 1, 0, 0, 1, 2, 3, 4]);
        let software = attribute(0x8022, b"abc");
        let proof = attribute(0x0008, &[9; 20]);
        let data = message(
            SEND,
            &[software, four(), attribute(DATA, b"hello"), proof, other],
        );
        let (peer, payload) = parse_send(&data).unwrap();
        assert_eq!(
            (peer, payload),
            ("192.0.2.1:32853".parse().unwrap(), &b"hello"[..])
        );
    }

    #[test]
    fn an_indication_that_lacks_something_or_asks_too_much_is_none() {
        let data = || attribute(DATA, b"x");
        let port_0 = attribute(XOR_PEER_ADDRESS, &[0, 1, 0x21, 0x12, 1, 2, 3, 4]);
        for bad in [
            message(SEND, &[four()]),
            message(SEND, &[data()]),
            message(SEND, &[]),
            message(SEND, &[four(), data(), attribute(0x001A, b"")]),
            message(
                SEND,
                &[attribute(XOR_PEER_ADDRESS, &[0, 1, 0, 0, 1]), data()],
            ),
            message(
                SEND,
                &[
                    attribute(XOR_PEER_ADDRESS, &[0, 3, 0, 1, 1, 2, 3, 4]),
                    data(),
                ],
            ),
            message(
                SEND,
                &[
                    attribute(XOR_PEER_ADDRESS, &[0, 2, 0, 1, 1, 2, 3, 4]),
                    data(),
                ],
            ),
            message(SEND, &[port_0, data()]),
            message(SEND, &[four(), vec![0, 0x13, 0, 5]]),
            message(0x0017, &[four(), data()]),
        ] {
            assert_eq!(parse_send(&bad), None, "{bad:?}");
        }
        let mut cut = message(SEND, &[four(), data()]);
        cut.pop();
        assert_eq!(parse_send(&cut), None);
        cut.push(0);
        cut[4] ^= 1;
        assert_eq!(message_type(&cut), None);
    }

    #[test]
    fn a_data_indication_names_its_peer_and_is_padded() {
        for peer in [
            "192.0.2.1:32853",
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
        ] {
            let peer: SocketAddr = peer.parse().unwrap();
            for size in 0..9 {
                let mut out = Vec::new();
                put_data_indication(3, &peer, &[5; 9][..size], &mut out);
                assert_eq!(message_type(&out), Some(DATA_INDICATION));
                assert!(out.len() <= size + MAX_OVERHEAD);
                out[1] = SEND as u8; // they have the same attributes
                assert_eq!(parse_send(&out), Some((peer, &[5; 9][..size])));
            }
        }
    }

    #[test]
    fn channel_data_is_padded_on_streams_alone() {
        let (mut packet, mut stream) = (Vec::new(), Vec::new());
        put_channel_data(0x4001, b"hello", false, &mut packet);
        put_channel_data(0x4001, b"hello", true, &mut stream);
        assert_eq!(packet, b"\x40\x01\0\x05hello");
        assert_eq!(stream, b"\x40\x01\0\x05hello\0\0\0");
        assert_eq!(parse_channel_data(&stream), parse_channel_data(&packet));
    }
}
