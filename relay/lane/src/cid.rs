//! Connection ids as map keys: up to 20 bytes, no allocation, a keyed hash.
//!
//! A client chooses the destination id of its first packet, and we own that id until the handshake is done:
//! the hash has a secret from the system, so that nobody can choose ids that fall into one slot.
//! Must never live here: whose id it is, or what it says about a node.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};

/// RFC 9000 section 17.2.
pub const MAX_CID: usize = 20;

/// A connection id.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Cid {
    bytes: [u8; MAX_CID],
    size: u8,
}

impl Cid {
    /// None for more than 20 bytes.
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_CID];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        let size = u8::try_from(id.len()).ok()?;
        Some(Self { bytes, size })
    }

    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.size)).unwrap_or_default()
    }
}

impl std::fmt::Debug for Cid {
    /// The first two bytes: ids tell who moved where, so logs never hold a whole one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cid({:02x}{:02x}..)", self.bytes[0], self.bytes[1])
    }
}

impl Hash for Cid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, rest @ ..] = self.bytes;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        if self.size > 8 {
            // ours have eight bytes: the common case is one multiplication
            let mut high = [0; 16];
            high[..rest.len()].copy_from_slice(&rest);
            let high = u128::from_le_bytes(high);
            state.write_u64(high as u64);
            state.write_u64((high >> 64) as u64 ^ u64::from(self.size));
        }
    }
}

/// The keyed hash of ids; one secret per process.
#[derive(Clone)]
pub struct Seeded {
    seed: u64,
    factor: u64,
}

impl Default for Seeded {
    fn default() -> Self {
        let system = RandomState::new();
        Self {
            seed: system.hash_one(0_u8),
            factor: system.hash_one(1_u8) | 1,
        }
    }
}

impl BuildHasher for Seeded {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold {
            state: self.seed,
            factor: self.factor,
        }
    }
}

/// Multiply by a secret to twice the width and fold the halves.
pub struct Fold {
    state: u64,
    factor: u64,
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let wide = u128::from(self.state ^ value).wrapping_mul(u128::from(self.factor));
        self.state = (wide as u64) ^ ((wide >> 64) as u64).rotate_left(23);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn an_id_is_its_bytes_and_no_longer_than_twenty() {
        let short = Cid::new(b"abc").unwrap();
        assert_eq!(short.as_slice(), b"abc");
        assert_ne!(short, Cid::new(b"abc\0").unwrap());
        assert_eq!(Cid::new(&[7; 20]).unwrap().as_slice(), [7; 20]);
        assert!(Cid::new(&[7; 21]).is_none());
        assert_eq!(format!("{short:?}"), "Cid(6162..)");
    }

    #[test]
    fn ids_of_every_length_find_their_own_place() {
        let mut map = HashMap::with_hasher(Seeded::default());
        for size in 0..=MAX_CID {
            map.insert(Cid::new(&vec![1; size]).unwrap(), size);
        }
        for size in 0..=MAX_CID {
            assert_eq!(map.get(&Cid::new(&vec![1; size]).unwrap()), Some(&size));
        }
    }
}
