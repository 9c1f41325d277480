//! The keys of a leg and the form of a 1-RTT packet (RFC 9001 section 5, RFC 9000 section 17.3.1).
//!
//! Must never live here: which packet is judged how, and when a key must change.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::ops::Range;

use crate::header::decode_number;
use crate::seal::{Mask, OpenKey, SealKey};

/// First byte, our id of 8 bytes, 4 bytes of number at most, 16 of sample: shorter packets have none.
const SHORTEST: usize = 29;
/// Ids of ours.
pub const HOST_ID: usize = 8;

/// AEAD key, IV, header protection key.
pub type KeySet<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// What came of a packet under the keys of its leg.
#[derive(Debug, PartialEq)]
pub enum Unsealed<'a> {
    /// Its number and payload.
    Plain(u64, &'a [u8]),
    /// Its number: the peer's, but with reserved bits set or of the key phase to come, which is aioquic's.
    Alien(u64),
    /// No key of ours opens it.
    Forged,
    /// Perhaps of a key phase to come whose key nobody lent us.
    Foreign,
}

/// The keys of a key phase, and what opens stragglers of the one before.
pub struct Keys {
    phase: u8,
    open: OpenKey,
    seal: SealKey,
    /// Most legs never have one.
    old: Option<Box<OpenKey>>,
    /// Opens the first packets of the key phase to come, so that forged ones are told from them.
    coming: Option<Box<OpenKey>>,
    open_mask: Mask,
    seal_mask: Mask,
}

impl Keys {
    /// The first ones. None when a key does not fit the suite.
    pub fn new(suite: u8, phase: u8, recv: KeySet<'_>, send: KeySet<'_>) -> Option<Self> {
        Some(Self {
            phase,
            open: OpenKey::new(suite, recv.0, recv.1)?,
            seal: SealKey::new(suite, send.0, send.1)?,
            old: None,
            coming: None,
            open_mask: Mask::new(suite, recv.2)?,
            seal_mask: Mask::new(suite, send.2)?,
        })
    }

    /// Those of another key phase; the masks' keys never change (RFC 9001 section 6.1). False, and nothing
    /// changed, when a key does not fit the suite.
    pub fn change(&mut self, suite: u8, phase: u8, recv: KeySet<'_>, send: KeySet<'_>) -> bool {
        let (Some(open), Some(seal)) = (
            OpenKey::new(suite, recv.0, recv.1),
            SealKey::new(suite, send.0, send.1),
        ) else {
            return false;
        };
        self.old = Some(Box::new(std::mem::replace(&mut self.open, open)));
        self.seal = seal;
        self.coming = None;
        self.phase = phase;
        true
    }

    /// The key of the key phase to come. False when it does not fit the suite.
    pub fn expect(&mut self, suite: u8, key: &[u8], iv: &[u8]) -> bool {
        self.coming = OpenKey::new(suite, key, iv).map(Box::new);
        self.coming.is_some()
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap(&self) -> usize {
        let size = |key: &Option<Box<OpenKey>>| key.as_deref().map_or(0, std::mem::size_of_val);
        size(&self.old).saturating_add(size(&self.coming))
    }

    /// Open a packet with an id of ours of 8 bytes. `scratch` takes a copy: a packet that is not for these
    /// keys to judge must still be whole. Reserved bits are looked at in what opened only (RFC 9000 section
    /// 17.3.1), so that no stranger's packet passes for one that aioquic must see.
    pub fn open<'a>(&self, data: &[u8], expected: u64, scratch: &'a mut Vec<u8>) -> Unsealed<'a> {
        let sample = data.get(13..SHORTEST).map(TryInto::try_into);
        let (Some(first), Some(Ok(sample))) = (data.first(), sample) else {
            return Unsealed::Forged; // too short for a tag
        };
        let [mask, number_mask @ ..] = self.open_mask.mask(sample);
        let first = first ^ (mask & 0x1F);
        let masked = Masked { first, number_mask };
        let is_reserved = first & 0x18 != 0;
        if first >> 2 & 1 == self.phase {
            return match masked.open(&self.open, data, expected, scratch) {
                Some((number, _)) if is_reserved => Unsealed::Alien(number),
                Some((number, body)) => {
                    Unsealed::Plain(number, scratch.get(body).unwrap_or_default())
                }
                None => Unsealed::Forged,
            };
        }
        let old = self.old.as_deref();
        let opened = old.and_then(|key| masked.open(key, data, expected, scratch));
        match opened {
            Some((number, _)) if is_reserved => return Unsealed::Alien(number),
            Some((number, body)) => {
                return Unsealed::Plain(number, scratch.get(body).unwrap_or_default())
            }
            None => {}
        }
        let Some(coming) = self.coming.as_deref() else {
            return Unsealed::Foreign;
        };
        match masked.open(coming, data, expected, scratch) {
            Some((number, _)) => Unsealed::Alien(number),
            None => Unsealed::Forged,
        }
    }

    /// Begin a packet to this id at the end of `out`; where its payload goes.
    pub fn begin(&self, peer: &[u8], out: &mut Vec<u8>) -> usize {
        out.push(0x41 | self.phase << 2); // two bytes of number
        out.extend_from_slice(peer);
        out.extend_from_slice(&[0, 0]);
        out.len()
    }

    /// Number, encrypt and protect the packet that is the end of `out`, from `start` with its payload at
    /// `body`; its size. None only for offsets that are not of a packet.
    pub fn close(
        &self,
        number: u64,
        start: usize,
        body: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let [.., high, low] = number.to_be_bytes();
        let number_at = body.checked_sub(2)?;
        out.get_mut(number_at..body)?.copy_from_slice(&[high, low]);
        if !self.seal.seal_at(number, out, start, body) {
            return None;
        }
        let sample_at = body.checked_add(2)?; // as if the number had four bytes
        let sample = out.get(sample_at..sample_at.checked_add(16)?)?;
        let [mask, one, two, ..] = self.seal_mask.mask(sample.try_into().ok()?);
        *out.get_mut(start)? ^= mask & 0x1F;
        for (byte, mask) in out.get_mut(number_at..body)?.iter_mut().zip([one, two]) {
            *byte ^= mask;
        }
        out.len().checked_sub(start)
    }
}

/// A packet's first byte without protection, and the mask of its number.
struct Masked {
    first: u8,
    number_mask: [u8; 4],
}

impl Masked {
    /// Try a key: the packet's number, and where in `scratch` its payload stands.
    fn open(
        &self,
        key: &OpenKey,
        data: &[u8],
        expected: u64,
        scratch: &mut Vec<u8>,
    ) -> Option<(u64, Range<usize>)> {
        scratch.clear();
        scratch.extend_from_slice(data);
        let size = u32::from(self.first & 3).saturating_add(1);
        let end = (size as usize).saturating_add(HOST_ID).saturating_add(1);
        let (header, body) = scratch.split_at_mut_checked(end)?;
        *header.first_mut()? = self.first;
        let mut number = 0_u64;
        let bytes = header.iter_mut().skip(HOST_ID + 1);
        for (byte, mask) in bytes.zip(self.number_mask) {
            *byte ^= mask;
            number = number << 8 | u64::from(*byte);
        }
        let number = decode_number(number, size.saturating_mul(8), expected);
        let size = key.open(number, header, body)?.len();
        Some((number, end..end.saturating_add(size)))
    }
}
