//! AEAD and header protection of 1-RTT packets (RFC 9001 sections 5.3 and 5.4).
//!
//! Must never live here: packet numbers of ours, key phases, and when a key must change.

use ring::aead::{quic, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};

/// Cipher suites: 0 AES-128-GCM, 1 AES-256-GCM, 2 ChaCha20-Poly1305.
pub const SUITES: u8 = 3;
pub const TAG_SIZE: usize = 16;
pub const SAMPLE_SIZE: usize = 16;
const IV_SIZE: usize = 12;

/// A key with its IV; the nonce of a packet is the IV with the packet number XORed into its end.
struct Key {
    key: LessSafeKey,
    iv: [u8; IV_SIZE],
}

impl Key {
    /// None for an unknown suite, or a key or IV of the wrong size.
    fn new(suite: u8, key: &[u8], iv: &[u8]) -> Option<Self> {
        let algorithm = match suite {
            0 => &AES_128_GCM,
            1 => &AES_256_GCM,
            2 => &CHACHA20_POLY1305,
            _ => return None,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        let iv = iv.try_into().ok()?;
        Some(Self { key, iv })
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, part) in nonce.iter_mut().rev().zip(number.to_le_bytes()) {
            *byte ^= part;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Opens the packets of one key phase of a peer.
pub struct OpenKey(Key);

impl OpenKey {
    pub fn new(suite: u8, key: &[u8], iv: &[u8]) -> Option<Self> {
        Key::new(suite, key, iv).map(Self)
    }

    /// Decrypt `body` (ciphertext and tag) in place and return the plaintext; None when the tag is wrong.
    /// `header` is the packet up to the body, without header protection; `number` the whole packet number.
    /// After a refusal `body` is no longer the ciphertext: who may need the packet again works on a copy.
    pub fn open<'a>(&self, number: u64, header: &[u8], body: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let nonce = self.0.nonce(number);
        self.0
            .key
            .open_in_place(nonce, Aad::from(header), body)
            .ok()
    }
}

/// Seals the packets of one key phase of ours.
pub struct SealKey(Key);

impl SealKey {
    pub fn new(suite: u8, key: &[u8], iv: &[u8]) -> Option<Self> {
        Key::new(suite, key, iv).map(Self)
    }

    /// Encrypt `body` in place and append the tag. False, and `body` unusable, only when it is far longer
    /// than any packet. No number may be used twice with one key: the caller counts.
    #[must_use]
    pub fn seal(&self, number: u64, header: &[u8], body: &mut Vec<u8>) -> bool {
        let nonce = self.0.nonce(number);
        self.0
            .key
            .seal_in_place_append_tag(nonce, Aad::from(header), body)
            .is_ok()
    }

    /// As `seal`, for a packet that is the end of `arena`: its header is `start..body`, its payload begins at
    /// `body`. False also when these offsets are not inside `arena` in this order.
    #[must_use]
    pub fn seal_at(&self, number: u64, arena: &mut Vec<u8>, start: usize, body: usize) -> bool {
        let Some((before, payload)) = arena.split_at_mut_checked(body) else {
            return false;
        };
        let Some(header) = before.get(start..) else {
            return false;
        };
        let nonce = self.0.nonce(number);
        match self
            .0
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), payload)
        {
            Ok(tag) => arena.extend_from_slice(tag.as_ref()),
            Err(_) => return false,
        }
        true
    }
}

/// Header protection of one direction; it stays the same through key updates (RFC 9001 section 6).
pub struct Mask(quic::HeaderProtectionKey);

impl Mask {
    /// None for an unknown suite or a key of the wrong size.
    pub fn new(suite: u8, hp: &[u8]) -> Option<Self> {
        let algorithm = match suite {
            0 => &quic::AES_128,
            1 => &quic::AES_256,
            2 => &quic::CHACHA20,
            _ => return None,
        };
        quic::HeaderProtectionKey::new(algorithm, hp).ok().map(Self)
    }

    /// The mask for a packet with this ciphertext sample: one byte for the first byte, four for the number.
    pub fn mask(&self, sample: &[u8; SAMPLE_SIZE]) -> [u8; 5] {
        // A sample of this size always has a mask.
        self.0.new_mask(sample).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, list, load, unhex};
    use proptest::prelude::*;

    #[test]
    fn the_short_header_packet_of_rfc_9001_appendix_a5_is_sealed_and_opened() {
        let key = unhex("c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8");
        let iv = unhex("e0459b3474bdd0e44a41c144");
        let hp = unhex("25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4");
        let header = unhex("4200bff4");
        let mut packet = header.clone();
        packet.push(0x01); // PING
        let seal = SealKey::new(2, &key, &iv).unwrap();
        assert!(seal.seal_at(654_360_564, &mut packet, 0, 4));
        assert_eq!(packet[4..], unhex("655e5cd55c41f69080575d7999c25a5bfb"));
        let sample: [u8; 16] = packet[5..21].try_into().unwrap();
        assert_eq!(sample[..], unhex("5e5cd55c41f69080575d7999c25a5bfb"));
        let mask = Mask::new(2, &hp).unwrap().mask(&sample);
        assert_eq!(mask[..], unhex("aefefe7d03"));
        packet[0] ^= mask[0] & 0x1F;
        for (byte, mask) in packet[1..4].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
        }
        assert_eq!(packet, unhex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb"));
        let open = OpenKey::new(2, &key, &iv).unwrap();
        let plain = open.open(654_360_564, &header, &mut packet[4..]);
        assert_eq!(plain.as_deref(), Some(&[1_u8][..]));
    }

    #[test]
    fn every_suite_gives_the_bytes_of_the_vectors() {
        let vectors = load(include_str!("../../../tests/vectors/lane_seal.json"));
        for case in list(&vectors["packets"]) {
            let suite = case["suite"].as_u64().unwrap() as u8;
            let (key, iv) = (hex(&case["key"]), hex(&case["iv"]));
            let (number, header) = (case["number"].as_u64().unwrap(), hex(&case["header"]));
            let (plain, sealed) = (hex(&case["plain"]), hex(&case["sealed"]));
            let mut body = plain.clone();
            let seal = SealKey::new(suite, &key, &iv).unwrap();
            assert!(seal.seal(number, &header, &mut body));
            assert_eq!(body, sealed);
            let open = OpenKey::new(suite, &key, &iv).unwrap();
            let opened = open.open(number, &header, &mut body);
            assert_eq!(opened.as_deref(), Some(&plain[..]));
            let sample: [u8; 16] = hex(&case["sample"]).try_into().unwrap();
            let mask = Mask::new(suite, &hex(&case["hp"])).unwrap().mask(&sample);
            assert_eq!(mask[..], hex(&case["mask"]));
        }
    }

    #[test]
    fn keys_of_a_wrong_size_or_suite_are_refused() {
        for (suite, size) in [(0, 16), (1, 32), (2, 32)] {
            for wrong in [0, 15, 16, 17, 31, 32, 33] {
                let key = vec![1; wrong];
                let fits = wrong == size;
                assert_eq!(OpenKey::new(suite, &key, &[0; 12]).is_some(), fits);
                assert_eq!(SealKey::new(suite, &key, &[0; 12]).is_some(), fits);
                assert_eq!(Mask::new(suite, &key).is_some(), fits);
            }
            let key = vec![1; size];
            assert!(OpenKey::new(suite, &key, &[0; 11]).is_none());
            assert!(SealKey::new(suite, &key, &[0; 13]).is_none());
        }
        assert!(OpenKey::new(SUITES, &[0; 32], &[0; 12]).is_none());
        assert!(Mask::new(SUITES, &[0; 32]).is_none());
    }

    #[test]
    fn offsets_outside_the_arena_seal_nothing() {
        let seal = SealKey::new(0, &[0; 16], &[0; 12]).unwrap();
        let mut arena = vec![1, 2, 3];
        assert!(!seal.seal_at(1, &mut arena, 0, 4));
        assert!(!seal.seal_at(1, &mut arena, 3, 2));
        assert_eq!(arena, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_a_changed_bit_does_not(
            suite in 0_u8..SUITES,
            number in any::<u64>(),
            header in prop::collection::vec(any::<u8>(), 0..30),
            plain in prop::collection::vec(any::<u8>(), 0..1300),
            flip in any::<usize>(),
        ) {
            let key = vec![7; if suite == 0 { 16 } else { 32 }];
            let seal = SealKey::new(suite, &key, &[9; 12]).unwrap();
            let open = OpenKey::new(suite, &key, &[9; 12]).unwrap();
            let mut arena = b"another packet".to_vec();
            let start = arena.len();
            arena.extend(&header);
            let at = arena.len();
            arena.extend(&plain);
            prop_assert!(seal.seal_at(number, &mut arena, start, at));
            prop_assert_eq!(arena.len(), at + plain.len() + TAG_SIZE);
            let mut bad = arena[at..].to_vec();
            let place = flip % (bad.len() * 8);
            bad[place / 8] ^= 1 << (place % 8);
            prop_assert!(open.open(number, &header, &mut bad).is_none());
            let mut body = arena[at..].to_vec();
            prop_assert!(open.open(number ^ 1, &header, &mut body.clone()).is_none());
            let opened = open.open(number, &header, &mut body);
            prop_assert_eq!(opened.as_deref(), Some(&plain[..]));
        }

        #[test]
        fn any_bytes_open_or_not(suite in 0_u8..SUITES, data in prop::collection::vec(any::<u8>(), 0..60)) {
            let key = vec![7; if suite == 0 { 16 } else { 32 }];
            let open = OpenKey::new(suite, &key, &[9; 12]).unwrap();
            prop_assert!(open.open(1, &[], &mut data.clone()).is_none());
        }
    }
}
