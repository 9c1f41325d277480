//! Packets of ours that their peer has not acknowledged: acknowledged, lost, or silent for too long.
//!
//! Must never live here: packet numbers (they come in ascending order), and what was in a packet.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::few::{heap, Few};

/// Bytes of media in flight; 2.4 kB, aioquic's floor, is 170 ms of one repaired voice.
pub const MEDIA_WINDOW: u64 = 16 * 1024;
/// An unacknowledged media packet counts as in flight for this long at most, seconds.
const STALE_FLIGHT: f64 = 1.0;
/// Packets behind the largest acknowledged one after which one is lost (RFC 9002 section 6.1.1).
const REORDERED: u64 = 3;
/// A window of very small packets makes the list long; beyond this much room it is given back.
const SPARE: usize = 64;
/// One voice over a round trip of up to 80 ms: these lie in the leg itself.
const INLINE: usize = 4;
/// A second of packets of 60 ms without any acknowledgement: the peer says nothing.
const SILENT: usize = 16;
/// That second.
const SILENT_S: f64 = 1.0;

#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub number: u64,
    pub sent_at: f64,
    /// `acked_below` above its place among all of the leg's (8 bits) and its size (16 bits): a window of small
    /// packets makes many of these.
    packed: u64,
}

impl Flight {
    /// `acked_below`: numbers below this were acknowledged by an ACK frame inside; 0: there was none.
    pub fn new(number: u64, sent_at: f64, acked_below: u64, size: usize) -> Self {
        // Nobody sends 2^40 packets. A peer that skips so many numbers keeps its ranges with us: no harm.
        let acked_below = if acked_below >> 40 == 0 {
            acked_below
        } else {
            0
        };
        let size = u64::from(u16::try_from(size).unwrap_or(u16::MAX));
        Self {
            number,
            sent_at,
            packed: acked_below << 24 | size,
        }
    }

    fn acked_below(&self) -> u64 {
        self.packed >> 24
    }

    /// Modulo 256.
    fn place(&self) -> u8 {
        (self.packed >> 16 & 0xFF) as u8
    }

    fn size(&self) -> u64 {
        self.packed & 0xFFFF
    }
}

/// All of a leg's, in number order.
#[derive(Debug, Default)]
pub struct Flights {
    list: Few<Flight, INLINE>,
    bytes: u64,
    // Since the leg began. What came is what left, is lost and in flight no more: so nothing is counted of it.
    bytes_sent: u64,
    sent: u32,
    pub lost: u32,
    runs: u32,
    bytes_lost: u32,
    /// Number of the one lost last, and its place.
    last_lost: u64,
    last_place: Option<u8>,
}

/// What became of packets with datagrams since the leg began, and of their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    pub acked: u32,
    pub lost: u32,
    /// How often one was lost and the one before it was not.
    pub runs: u32,
    pub bytes_sent: u64,
    pub bytes_acked: u64,
}

/// What an acknowledgement said about the packets in flight.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// When the largest acknowledged packet left, if it was in flight: it gives a round-trip sample.
    pub newest_sent_at: Option<f64>,
    /// The peer knows that we have everything below; 0: nothing new.
    pub acked_below: u64,
}

impl Flights {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of memory that the list takes.
    pub fn heap(&self) -> usize {
        heap(&self.list)
    }

    /// A packet left; its number is higher than any before.
    pub fn push(&mut self, mut flight: Flight) {
        self.sent = self.sent.wrapping_add(1);
        flight.packed |= u64::from(self.sent & 0xFF) << 16;
        self.bytes_sent = self.bytes_sent.wrapping_add(flight.size());
        self.bytes = self.bytes.saturating_add(flight.size());
        self.list.push(flight);
    }

    /// Settle what these ranges (newest first, half-open) acknowledge, and what is lost by that: three
    /// packets or `limit` seconds behind.
    pub fn acknowledge(&mut self, ranges: &[(u64, u64)], limit: f64, now: f64) -> Verdict {
        let mut verdict = Verdict::default();
        let Some(newest) = ranges.first() else {
            return verdict;
        };
        let largest = newest.1.saturating_sub(1);
        let reached = self.list.partition_point(|flight| flight.number <= largest);
        let mut kept = 0_usize;
        for at in 0..reached {
            let Some(flight) = self.list.get(at).copied() else {
                break;
            };
            if flight.number == largest {
                verdict.newest_sent_at = Some(flight.sent_at);
            }
            let number = flight.number;
            if number >= newest.0 || ranges.iter().any(|r| r.0 <= number && number < r.1) {
                verdict.acked_below = verdict.acked_below.max(flight.acked_below());
            } else if largest.saturating_sub(number) >= REORDERED || now - flight.sent_at > limit {
                self.lose(flight);
            } else {
                self.list.swap(kept, at);
                kept = kept.saturating_add(1);
                continue;
            }
            self.bytes = self.bytes.saturating_sub(flight.size());
        }
        self.list.drain(kept..reached);
        self.rest();
        verdict
    }

    /// Give up packets from the front that were silent for too long.
    pub fn expire(&mut self, now: f64) {
        let mut lost = 0_usize;
        while let Some(flight) = self.list.get(lost).copied() {
            if now - flight.sent_at <= STALE_FLIGHT {
                break;
            }
            self.bytes = self.bytes.saturating_sub(flight.size());
            self.lose(flight);
            lost = lost.saturating_add(1);
        }
        self.list.drain(..lost);
        self.rest();
    }

    fn lose(&mut self, flight: Flight) {
        let size = u32::try_from(flight.size()).unwrap_or(0); // 16 bits
        self.lost = self.lost.wrapping_add(1);
        self.bytes_lost = self.bytes_lost.wrapping_add(size);
        let is_near = flight.number.saturating_sub(self.last_lost) < 256;
        let follows = |place: u8| flight.place() == place.wrapping_add(1);
        let is_next = is_near && self.last_place.is_some_and(follows);
        self.runs = self.runs.wrapping_add(u32::from(!is_next));
        self.last_lost = flight.number;
        self.last_place = Some(flight.place());
    }

    /// What became of all of them.
    pub fn fates(&self) -> Fates {
        let flying = u32::try_from(self.list.len()).unwrap_or(0);
        let gone = u64::from(self.bytes_lost).wrapping_add(self.bytes);
        Fates {
            acked: self.sent.wrapping_sub(self.lost).wrapping_sub(flying),
            lost: self.lost,
            runs: self.runs,
            bytes_sent: self.bytes_sent,
            bytes_acked: self.bytes_sent.wrapping_sub(gone),
        }
    }

    /// Many wait for an acknowledgement, and the first of them for long.
    pub fn is_silent(&self, now: f64) -> bool {
        self.list.len() >= SILENT
            && self
                .list
                .first()
                .is_some_and(|f| now - f.sent_at > SILENT_S)
    }

    /// The connection is over; what was counted stays.
    pub fn clear(&mut self) {
        self.list = Few::new();
        self.bytes = 0;
    }

    fn rest(&mut self) {
        if self.list.is_empty() && self.list.capacity() > SPARE {
            self.list = Few::new();
        }
    }
}
