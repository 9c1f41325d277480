//! Proofs that need no memory: address tokens, Retry packets, whose id it is, stateless reset tokens.
//!
//! ```text
//! address token   "RA" || nonce[12] || AES-GCM( u64 unix ms || u8 length || original id || id of the Retry )
//!                 AAD: the source's host as text, a space, its port
//! ```
//! The bytes are those of relay/edge/front.py and relay/protocol/cid.py: what one side of the house makes,
//! the other takes. Must never live here: whether to answer, and where randomness comes from.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::fmt::{self, Write};
use std::net::SocketAddr;

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_128_GCM, AES_256_GCM};
use ring::hmac;

use crate::budget::{folded, SeenTokens, Use};
use crate::cid::Cid;
use crate::header::{Long, QUIC_V2};
use crate::reason::Reason;
use crate::seal::Mask;

const MARK: &[u8; 2] = b"RA";
const NONCE: usize = 12;
const TAG: usize = 16;
/// Mark, nonce, time, length, two ids of 20 bytes, tag: no token of ours is longer.
const MAX_TOKEN: usize = 2 + NONCE + 8 + 1 + 20 + 20 + TAG;
/// Clocks of the nodes of a cluster may differ by this much, milliseconds.
const AHEAD_MS: i64 = 1000;
pub const CID_SIZE: usize = 8;

/// Makes and checks address tokens. Two keys live; each token counts once.
pub struct AddressTokens {
    keys: Vec<LessSafeKey>,
    life_ms: i64,
    seen: SeenTokens,
}

impl AddressTokens {
    /// Keys of 16 or 32 bytes, the first one makes tokens; `life` in seconds. None for other keys, or none.
    pub fn new(keys: &[Vec<u8>], life: f64) -> Option<Self> {
        let keys: Vec<_> = keys.iter().map(|key| aead(key)).collect::<Option<_>>()?;
        if keys.is_empty() {
            return None;
        }
        let life_ms = (life * 1000.0) as i64;
        // A token from a clock that is ahead lives a second longer here.
        let seen = SeenTokens::new(life + AHEAD_MS as f64 / 1000.0);
        Some(Self {
            keys,
            life_ms,
            seen,
        })
    }

    /// Append a token that proves `source` for the next seconds.
    pub fn mint(
        &self,
        source: &SocketAddr,
        original: &[u8],
        retry_source: &[u8],
        wall: f64,
        nonce: [u8; NONCE],
        out: &mut Vec<u8>,
    ) {
        let (Some(key), Ok(size)) = (self.keys.first(), u8::try_from(original.len())) else {
            return;
        };
        out.extend_from_slice(MARK);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(&((wall * 1000.0) as u64).to_be_bytes());
        out.push(size);
        out.extend_from_slice(original);
        out.extend_from_slice(retry_source);
        let Some(body) = out.get_mut(start..) else {
            return;
        };
        let nonce = Nonce::assume_unique_for_key(nonce);
        if let Ok(tag) = key.seal_in_place_separate_tag(nonce, source_text(source).aad(), body) {
            out.extend_from_slice(tag.as_ref());
        }
    }

    /// Whether it claims to be a Retry token of this cluster.
    pub fn is_ours(&self, token: &[u8]) -> bool {
        token.starts_with(MARK)
    }

    /// The original destination id if the token is good, fresh, for this source and unused; else why not.
    pub fn check(
        &mut self,
        token: &[u8],
        source: &SocketAddr,
        destination: &[u8],
        wall: f64,
        now: f64,
    ) -> Result<Cid, Reason> {
        let (nonce, original) = self
            .open(token, source, destination, wall)
            .ok_or(Reason::Unproven)?;
        match self.seen.note(&nonce, now) {
            Use::First => Ok(original),
            Use::Again => Err(Reason::Unproven),
            Use::Full => Err(Reason::OverBudget),
        }
    }

    fn open(
        &self,
        token: &[u8],
        source: &SocketAddr,
        destination: &[u8],
        wall: f64,
    ) -> Option<([u8; NONCE], Cid)> {
        let (nonce, sealed) = token.strip_prefix(MARK)?.split_first_chunk::<NONCE>()?;
        let text = source_text(source);
        let mut space = [0; MAX_TOKEN];
        for key in &self.keys {
            let body = space.get_mut(..sealed.len())?;
            body.copy_from_slice(sealed);
            let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), text.aad(), body);
            if let Ok(body) = opened {
                let (made_ms, rest) = body.split_first_chunk()?;
                let (size, rest) = rest.split_first()?;
                let (original, retry_source) = rest.split_at_checked(usize::from(*size))?;
                let made_ms = i64::try_from(u64::from_be_bytes(*made_ms)).ok()?;
                let age = ((wall * 1000.0) as i64).checked_sub(made_ms)?;
                let is_good = (AHEAD_MS.wrapping_neg()..=self.life_ms).contains(&age)
                    && retry_source == destination;
                return is_good
                    .then(|| Cid::new(original))
                    .flatten()
                    .map(|id| (*nonce, id));
            }
        }
        None
    }
}

fn aead(key: &[u8]) -> Option<LessSafeKey> {
    let algorithm = if key.len() == 16 {
        &AES_128_GCM
    } else {
        &AES_256_GCM
    };
    UnboundKey::new(algorithm, key).ok().map(LessSafeKey::new)
}

/// What a token is bound to, as text: without an allocation.
struct SourceText {
    bytes: [u8; 64],
    size: usize,
}

fn source_text(source: &SocketAddr) -> SourceText {
    let mut text = SourceText {
        bytes: [0; 64],
        size: 0,
    };
    // 46 bytes at most; a longer text would be cut, equally on both sides.
    let _ = write!(text, "{} {}", folded(source), source.port());
    text
}

impl SourceText {
    fn aad(&self) -> Aad<&[u8]> {
        Aad::from(self.bytes.get(..self.size).unwrap_or_default())
    }
}

impl Write for SourceText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.size.checked_add(text.len()).ok_or(fmt::Error)?;
        let space = self.bytes.get_mut(self.size..end).ok_or(fmt::Error)?;
        space.copy_from_slice(text.as_bytes());
        self.size = end;
        Ok(())
    }
}

// ------------------------------------------------------------ Retry packets

/// Makes Retry packets of both versions.
pub struct Retries {
    v1: (LessSafeKey, [u8; NONCE]),
    v2: (LessSafeKey, [u8; NONCE]),
    scratch: Vec<u8>,
}

/// RFC 9001 section 5.8.
const V1_KEY: [u8; 16] = 0xbe0c690b9f66575a1d766b54e368c84e_u128.to_be_bytes();
const V1_NONCE: [u8; NONCE] = [
    0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb,
];
/// RFC 9369 section 3.3.3.
const V2_KEY: [u8; 16] = 0x8fb4b01b56ac48e260fbcbcead7ccc92_u128.to_be_bytes();
const V2_NONCE: [u8; NONCE] = [
    0xd8, 0x69, 0x69, 0xbc, 0x2d, 0x7c, 0x6d, 0x99, 0x90, 0xef, 0xb0, 0x4a,
];

impl Retries {
    /// None never happens: the keys have the right size.
    pub fn new() -> Option<Self> {
        let (v1, v2) = ((aead(&V1_KEY)?, V1_NONCE), (aead(&V2_KEY)?, V2_NONCE));
        Some(Self {
            v1,
            v2,
            scratch: Vec::with_capacity(512),
        })
    }

    /// Append the Retry that answers this Initial: from `source_id`, with what `token` appends
    /// (RFC 9000 section 17.2.5, RFC 9001 section 5.8). Nothing if an id is longer than a version we know has.
    pub fn encode(
        &mut self,
        initial: &Long<'_>,
        source_id: &[u8],
        token: impl FnOnce(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        let sizes = [initial.dcid, initial.scid, source_id].map(|id| u8::try_from(id.len()));
        let [Ok(original), Ok(to), Ok(from)] = sizes else {
            return;
        };
        let (kind, (key, nonce)) = if initial.version == QUIC_V2 {
            (0, &self.v2)
        } else {
            (3, &self.v1)
        };
        // The tag covers a pseudo-packet: the original id, then the packet.
        let pseudo = &mut self.scratch;
        pseudo.clear();
        pseudo.push(original);
        pseudo.extend_from_slice(initial.dcid);
        let start = pseudo.len();
        pseudo.push(0xC0 | kind << 4);
        pseudo.extend_from_slice(&initial.version.to_be_bytes());
        pseudo.push(to);
        pseudo.extend_from_slice(initial.scid);
        pseudo.push(from);
        pseudo.extend_from_slice(source_id);
        token(pseudo);
        let nonce = Nonce::assume_unique_for_key(*nonce); // fixed by the RFC: the tag is no secret
        let Ok(tag) = key.seal_in_place_separate_tag(nonce, Aad::from(&pseudo), &mut []) else {
            return;
        };
        out.extend_from_slice(pseudo.get(start..).unwrap_or_default());
        out.extend_from_slice(tag.as_ref());
    }
}

// ------------------------------------------------------------ our own ids

/// Reads the ids of our cluster (relay/protocol/cid.py: QUIC-LB, four passes of AES-128) and gives their
/// stateless reset tokens.
pub struct OwnIds {
    block: Mask, // of AES header protection: the first bytes of one block, encrypted
    reset: hmac::Key,
}

impl OwnIds {
    /// `cid_key` has 16 bytes; None for another size.
    pub fn new(cid_key: &[u8], reset_key: &[u8]) -> Option<Self> {
        let block = Mask::new(0, cid_key)?;
        Some(Self {
            block,
            reset: hmac::Key::new(hmac::HMAC_SHA256, reset_key),
        })
    }

    /// The server id in an id of our cluster; None if its form is not ours.
    pub fn server_of(&self, cid: &[u8; CID_SIZE]) -> Option<[u8; 3]> {
        const HALF: u64 = (1 << 28) - 1;
        let [7, second, ..] = *cid else { return None };
        if second < 0x10 {
            return None; // would look like ChannelData: never issued
        }
        let plain = u64::from_be_bytes(*cid) & (u64::MAX >> 8);
        let (mut left, mut right) = (plain >> 28, plain & HALF);
        left ^= self.round(right, 4) >> 4;
        right ^= self.round(left << 4, 3) & HALF;
        left ^= self.round(right, 2) >> 4;
        right ^= self.round(left << 4, 1) & HALF;
        let [_, a, b, c, ..] = (left << 28 | right).to_be_bytes();
        Some([a, b, c])
    }

    /// The first four bytes of the encrypted, expanded half.
    fn round(&self, half: u64, step: u8) -> u64 {
        let [.., a, b, c, d] = half.to_be_bytes();
        let [a, b, c, d, _] = self
            .block
            .mask(&[a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, step]);
        u32::from_be_bytes([a, b, c, d]).into()
    }

    /// The stateless reset token of an id (RFC 9000 section 10.3.2), equal on every node of the cluster.
    pub fn reset_token(&self, cid: &[u8; CID_SIZE]) -> [u8; 16] {
        let digest = hmac::sign(&self.reset, cid);
        digest.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::header::{LongKind, QUIC_V1};
    use crate::vectors::{hex, load, unhex};

    #[test]
    fn every_id_of_the_vectors_names_its_server() {
        let cids = load(include_str!("../../../tests/vectors/cid.json"));
        let ids = OwnIds::new(&hex(&cids["key"]), b"reset key of any size").unwrap();
        for row in cids["rows"].as_array().unwrap() {
            let cid: [u8; 8] = hex(&row["cid"]).try_into().unwrap();
            assert_eq!(
                ids.server_of(&cid).unwrap().to_vec(),
                hex(&cids["server_id"])
            );
        }
        assert!(OwnIds::new(&[0; 15], b"").is_none());
    }

    #[test]
    fn a_retry_is_that_of_the_other_implementation() {
        // The ids and the token of RFC 9001 appendix A.4; the unused bits are zero, as aioquic leaves them.
        let dcid = 0x8394_c8f0_3e51_5708_u64.to_be_bytes();
        let scid = 0xf067_a550_2a42_62b5_u64.to_be_bytes();
        let rows = [
            (
                QUIC_V1,
                "f0000000010008f067a5502a4262b5746f6b656e3e1f4242960d20f9b13d9f4e00027741",
            ),
            (
                QUIC_V2,
                "c06b3343cf0008f067a5502a4262b5746f6b656e019c9fa8e7eea75a3d07c79d2dccaffa",
            ),
        ];
        let mut retries = Retries::new().unwrap();
        for (version, expected) in rows {
            let header = Long {
                version,
                kind: LongKind::Initial,
                dcid: &dcid,
                scid: b"",
                token: b"",
            };
            let mut out = vec![];
            retries.encode(&header, &scid, |out| out.extend(b"token"), &mut out);
            assert_eq!(out, unhex(expected));
        }
    }

    #[test]
    fn a_token_of_nobodys_making_with_our_key_proves_nothing_and_breaks_nothing() {
        let mut tokens = AddressTokens::new(&[vec![1; 16]], 10.0).unwrap();
        let source: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
        let key = aead(&[1; 16]).unwrap();
        let now = 1_800_000_000_000_u64.to_be_bytes();
        for (body, is_good) in [
            ([&now[..], &[3], b"abcretryid"].concat(), true),
            ([&now[..], &[200], b"abcretryid"].concat(), false), // a length past its end
            ([&now[..], &[0], b"retryid"].concat(), true),
            (now.to_vec(), false),
            (vec![0; 7], false),
            (vec![], false),
        ] {
            let nonce = [body.len() as u8; NONCE];
            let mut sealed = body;
            let aad = source_text(&source);
            let nonce_of = Nonce::assume_unique_for_key(nonce);
            key.seal_in_place_append_tag(nonce_of, aad.aad(), &mut sealed)
                .unwrap();
            let token = [&MARK[..], &nonce, &sealed].concat();
            let checked = tokens.check(&token, &source, b"retryid", 1_800_000_000.0, 5.0);
            assert_eq!(checked.is_ok(), is_good);
            let again = tokens.check(&token, &source, b"retryid", 1_800_000_000.0, 5.0);
            assert_eq!(again, Err(Reason::Unproven));
        }
    }
}
