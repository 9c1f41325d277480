//! The other side of a leg, for the fuzz targets: a client with fixed keys that seals whatever the fuzzer wants
//! and checks all that comes back. Must never live here: what the relay ought to do with a packet.

use _lane::frames::{self, encode_ack, Parsed};
use _lane::header::decode_number;
use _lane::media;
use _lane::ranges::Ranges;
use _lane::seal::{Mask, OpenKey, SealKey};
use std::collections::BTreeSet;

pub const LARGEST_PACKET: usize = 1200;
const CLIENT_ID: usize = 8;

/// A cursor over the fuzzer's bytes; zeros behind their end.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn bytes(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(size.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// AEAD key, IV and header protection key of one direction.
pub struct Secret {
    pub key: Vec<u8>,
    pub iv: [u8; 12],
    pub hp: Vec<u8>,
}

impl Secret {
    /// Of any suite, direction and key generation; header protection keeps its key (RFC 9001 section 6.1).
    pub fn of(suite: u8, direction: u8, generation: u8) -> Self {
        let size = if suite == 0 { 16 } else { 32 };
        Self {
            key: vec![0x10 | direction << 6 ^ generation; size],
            iv: [0x20 | direction << 6 ^ generation; 12],
            hp: vec![0x30 | direction << 6; size],
        }
    }

    pub fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        (&self.key, &self.iv, &self.hp)
    }
}

/// How a packet shall differ from a good one.
#[derive(Clone, Copy, Default)]
pub struct Damage {
    /// A bit of the sealed packet, counted from its end; 0: none.
    pub flip: u8,
    /// Header bits that must be zero (RFC 9000 section 17.3.1), before protection.
    pub reserved: u8,
    /// Sealed with the keys before these.
    pub is_old: bool,
}

/// One client.
pub struct Peer {
    pub suite: u8,
    pub generation: u8,
    /// The relay's id of this leg, eight bytes.
    pub host_id: [u8; 8],
    pub peer_id: [u8; CLIENT_ID],
    pub next: u64,
    /// Numbers that were sealed, whether or not the relay could open them.
    pub sealed: BTreeSet<u64>,
    /// Those that the relay opened.
    pub opened: BTreeSet<u64>,
    /// Numbers of the relay that arrived here.
    pub received: Ranges,
    last_heard: Option<u64>,
}

impl Peer {
    pub fn new(suite: u8, tag: u8) -> Self {
        Self {
            suite,
            generation: 0,
            host_id: [0xA0 | tag; 8],
            peer_id: [0xC0 | tag; CLIENT_ID],
            next: 0,
            sealed: BTreeSet::new(),
            opened: BTreeSet::new(),
            received: Ranges::new(),
            last_heard: None,
        }
    }

    /// A 1-RTT packet with this payload, whose number takes `size` bytes (1 to 4).
    pub fn seal(&mut self, number: u64, size: usize, payload: &[u8], damage: Damage) -> Vec<u8> {
        let generation = self.generation.wrapping_sub(u8::from(damage.is_old));
        let secret = Secret::of(self.suite, 0, generation);
        let key = SealKey::new(self.suite, &secret.key, &secret.iv).unwrap();
        let mask = Mask::new(self.suite, &secret.hp).unwrap();
        let first = 0x40 | damage.reserved & 0x18 | (generation & 1) << 2 | (size - 1) as u8;
        let mut packet = vec![first];
        packet.extend(self.host_id);
        packet.extend(&number.to_be_bytes()[8 - size..]);
        let body = packet.len();
        packet.extend(payload);
        assert!(key.seal_at(number, &mut packet, 0, body));
        self.sealed.insert(number);
        self.next = self.next.max(number + 1);
        if let Some(sample) = packet[body - size..].get(4..20) {
            let mask = mask.mask(sample.try_into().unwrap());
            packet[0] ^= mask[0] & 0x1F;
            for (byte, mask) in packet[body - size..body].iter_mut().zip(&mask[1..]) {
                *byte ^= mask;
            }
        }
        if damage.flip > 0 {
            let at = packet.len() - 1 - usize::from(damage.flip / 8) % packet.len();
            packet[at] ^= 1 << (damage.flip % 8);
        }
        packet
    }

    /// The body of an ACK frame for all that arrived; None when nothing did.
    pub fn acknowledgement(&self, delay: u64) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        encode_ack(
            &mut out,
            self.received.as_slice(),
            delay,
            frames::MAX_RANGES,
        );
        (!out.is_empty()).then_some(out)
    }

    /// Open a packet of the relay, check its form, and return the media datagrams in it, which a leg hears.
    pub fn open(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let datagrams = self.unseal(packet);
        for datagram in &datagrams {
            assert!(
                !media::decode(datagram)
                    .expect("only media is copied")
                    .repeat
            );
        }
        datagrams
    }

    /// Open a packet of the relay, check its form, and return the datagrams in it.
    pub fn unseal(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        assert!(packet.len() <= LARGEST_PACKET, "{} bytes", packet.len());
        assert_eq!(packet[1..9], self.peer_id);
        let secret = Secret::of(self.suite, 1, self.generation);
        let mask = Mask::new(self.suite, &secret.hp).unwrap();
        let mask = mask.mask(packet[13..29].try_into().unwrap());
        let mut packet = packet.to_vec();
        packet[0] ^= mask[0] & 0x1F;
        assert_eq!(packet[0], 0x41 | (self.generation & 1) << 2);
        packet[9] ^= mask[1];
        packet[10] ^= mask[2];
        let sent = u64::from(u16::from_be_bytes([packet[9], packet[10]]));
        let expected = self.last_heard.map_or(0, |last| last + 1);
        let number = decode_number(sent, 16, expected);
        // A number used twice would give the keys away.
        assert!(self.last_heard.is_none_or(|last| last < number));
        self.last_heard = Some(number);
        self.received.add_next(number);
        let key = OpenKey::new(self.suite, &secret.key, &secret.iv).unwrap();
        let (header, body) = packet.split_at_mut(11);
        let plain = key.open(number, header, body).expect("sealed for us");
        let mut parsed = Parsed::default();
        assert!(frames::parse(plain, &mut parsed));
        assert!(parsed.eliciting || parsed.has_ack);
        for (start, stop) in &parsed.ack.ranges {
            // Nothing may be acknowledged that was never sent.
            assert!((*start..*stop).all(|number| self.sealed.contains(&number)));
        }
        let datagrams = parsed.datagrams.iter();
        datagrams
            .map(|place| plain[place.clone()].to_vec())
            .collect()
    }
}
