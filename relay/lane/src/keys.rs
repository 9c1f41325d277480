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
    /// It says that it is of this key phase, and is not.
    Forged,
    /// Not for these keys to judge: no such form, or perhaps of the next key phase.
    Foreign,
}

/// The keys of a key phase, and what opens stragglers of the one before.
pub struct Keys {
    phase: u8,
    open: OpenKey,
    seal: SealKey,
    /// Most legs never have one.
    old: Option<Box<OpenKey>>,
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
        self.phase = phase;
        true
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap(&self) -> usize {
        self.old.as_deref().map_or(0, std::mem::size_of_val)
    }

    /// Open a packet with an id of ours of 8 bytes. `scratch` takes a copy: a packet that is not for these
    /// keys to judge must still be whole.
    pub fn open<'a>(&self, data: &[u8], expected: u64, scratch: &'a mut Vec<u8>) -> Unsealed<'a> {
        let sample = data.get(13..SHORTEST).map(TryInto::try_into);
        let (Some(first), Some(Ok(sample))) = (data.first(), sample) else {
            return Unsealed::Foreign;
        };
        let [mask, number_mask @ ..] = self.open_mask.mask(sample);
        let first = first ^ (mask & 0x1F);
        if first & 0x18 != 0 || first & 0x40 == 0 {
            return Unsealed::Foreign;
        }
        let is_current = first >> 2 & 1 == self.phase;
        let key = match &self.old {
            _ if is_current => &self.open,
            Some(old) => old,
            None => return Unsealed::Foreign,
        };
        scratch.clear();
        scratch.extend_from_slice(data);
        let size = u32::from(first & 3).saturating_add(1);
        let end = (size as usize).saturating_add(HOST_ID).saturating_add(1);
        let Some((header, body)) = scratch.split_at_mut_checked(end) else {
            return Unsealed::Foreign;
        };
        if let Some(byte) = header.first_mut() {
            *byte = first;
        }
        let mut number = 0_u64;
        for (byte, mask) in header.iter_mut().skip(HOST_ID + 1).zip(number_mask) {
            *byte ^= mask;
            number = number << 8 | u64::from(*byte);
        }
        let number = decode_number(number, size.saturating_mul(8), expected);
        match key.open(number, header, body) {
            Some(plain) => Unsealed::Plain(number, plain),
            None if is_current => Unsealed::Forged,
            None => Unsealed::Foreign,
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
