//! What a leg's packet numbers leave behind for the process that comes after a crash: up to where they may be used,
//! and about where the peer's are.
//!
//! No number may ever seal two packets, so those that may be used are noted ahead, in blocks: whoever comes after
//! begins behind the block. Must never live here: keys, and who comes after.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::socket::Mark;

/// Numbers noted ahead: a minute of audio. The peer reads ours by two bytes, so it is far below 2^15.
pub const BLOCK: u64 = 4096;
/// How much may come before it is noted: the peer may number by one byte, and this is far below 2^7.
pub const STEP: u64 = 32;

/// The notes of one leg; `Kept::default()` notes nothing.
pub struct Kept {
    mark: Option<Mark>,
    /// Numbers from here on are not noted yet.
    ceiling: u64,
    /// What comes from here on is to be noted.
    note_at: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            mark: None,
            ceiling: u64::MAX,
            note_at: u64::MAX,
        }
    }
}

impl Kept {
    /// Notes there from now on.
    pub fn at(mark: Mark, next: u64, expected: u64) -> Self {
        let mut kept = Self {
            mark: Some(mark),
            ceiling: 0,
            note_at: 0,
        };
        kept.note_sent(next);
        kept.note_came(expected);
        kept
    }

    /// Numbers below `next` are about to be used.
    #[inline]
    pub fn uses(&mut self, next: u64) {
        if next > self.ceiling {
            self.note_sent(next);
        }
    }

    /// Numbers below `expected` came.
    #[inline]
    pub fn came(&mut self, expected: u64) {
        if expected >= self.note_at {
            self.note_came(expected);
        }
    }

    #[cold]
    fn note_sent(&mut self, next: u64) {
        if let Some(mark) = &self.mark {
            self.ceiling = next.saturating_add(BLOCK);
            mark.note_sent(self.ceiling);
        }
    }

    #[cold]
    fn note_came(&mut self, expected: u64) {
        if let Some(mark) = &self.mark {
            self.note_at = expected.saturating_add(STEP);
            mark.note_came(expected);
        }
    }
}
