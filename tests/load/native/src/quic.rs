//! A client's end of a QUIC connection after its handshake: 1-RTT packets with DATAGRAM and ACK frames.
//!
//! AES-128-GCM, 8-byte ids, 2-byte packet numbers, no key update: a run is short. Whatever else a packet
//! holds counts as handled and is acknowledged. Must never live here: the handshake, sockets.

use ring::aead::quic::{HeaderProtectionKey, AES_128};
use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_128_GCM};

/// When acknowledgements leave, ns: as the SDK's (relay/quic/acks.py).
const ACK_HOLD: u64 = 20_000_000;
const AUDIO_ACK_HOLD: u64 = 60_000_000;
const MOST_UNACKNOWLEDGED: u32 = 16;
const TORN: u64 = 30_000_000_000;
const AGAIN: u64 = 4_000_000_000;
const MOST_RANGES: usize = 32;
const SENT_RANGES: usize = 8;
const TAG: usize = 16;
pub const ID: usize = 8;

/// What an incoming packet was.
#[derive(PartialEq, Eq, Debug)]
pub enum Content {
    Media,
    /// Acknowledgements and padding alone.
    Ack,
    /// Something of the control side: counted, acknowledged, not read.
    Other,
    Unopened,
}

struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    mask: HeaderProtectionKey,
}

impl Direction {
    fn new(key: &[u8], iv: &[u8], hp: &[u8]) -> Option<Self> {
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).ok()?),
            iv: iv.try_into().ok()?,
            mask: HeaderProtectionKey::new(&AES_128, hp).ok()?,
        })
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, part) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= part;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

pub struct Quic {
    send: Direction,
    recv: Direction,
    peer: [u8; ID],
    host: [u8; ID],
    phase: u8,
    next: u64,
    expected: u64,
    largest_at: u64,
    ranges: Vec<(u64, u64)>,
    probe: Option<(u64, u64)>,
    acks: bool,
    pad: usize,
    pub ack_at: Option<u64>,
    unacknowledged: u32,
    torn_until: u64,
    last_gap: Option<u64>,
}

/// Facts of a connection as the parent hands it over.
pub struct Facts<'a> {
    pub send: [&'a [u8]; 3],
    pub recv: [&'a [u8]; 3],
    pub peer: &'a [u8],
    pub host: &'a [u8],
    pub phase: u8,
    pub next: u64,
    pub expected: u64,
    /// Acknowledge; a forwarder that only seals anew has nobody who would read it.
    pub acks: bool,
    /// Bytes of padding in each packet with audio.
    pub pad: usize,
}

impl Quic {
    pub fn new(facts: &Facts) -> Option<Self> {
        Some(Self {
            send: Direction::new(facts.send[0], facts.send[1], facts.send[2])?,
            recv: Direction::new(facts.recv[0], facts.recv[1], facts.recv[2])?,
            peer: facts.peer.try_into().ok()?,
            host: facts.host.try_into().ok()?,
            phase: facts.phase,
            next: facts.next,
            expected: facts.expected,
            largest_at: 0,
            ranges: Vec::with_capacity(MOST_RANGES + 1),
            probe: None,
            acks: facts.acks,
            pad: facts.pad,
            ack_at: None,
            unacknowledged: 0,
            torn_until: 0,
            last_gap: None,
        })
    }

    /// One packet with this datagram and the acknowledgement that is due; `None`: that alone.
    pub fn seal(&mut self, datagram: Option<&[u8]>, now: u64, out: &mut Vec<u8>) {
        let number = self.next;
        self.next += 1;
        let first = 0x41 | self.phase << 2;
        out.clear();
        out.push(first);
        out.extend_from_slice(&self.peer);
        out.extend_from_slice(&(number as u16).to_be_bytes());
        let body = out.len();
        if self.ack_at.is_some() {
            self.ack_at = None;
            self.unacknowledged = 0;
            if let Some(&(_, stop)) = self.ranges.last() {
                self.encode_ack(now, out);
                if self.probe.is_none() && datagram.is_some() {
                    self.probe = Some((number, stop));
                }
            }
        }
        if let Some(datagram) = datagram {
            out.push(0x31);
            out.extend_from_slice(&(datagram.len() as u16 | 0x4000).to_be_bytes());
            out.extend_from_slice(datagram);
            out.resize(out.len() + self.pad, 0);
        }
        let (head, rest) = out.split_at_mut(body);
        let nonce = self.send.nonce(number);
        let Ok(tag) = self
            .send
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*head), rest)
        else {
            return;
        };
        out.extend_from_slice(tag.as_ref());
        let sample = &out[body + 2..body + 2 + TAG];
        if let Ok(mask) = self.send.mask.new_mask(sample) {
            out[0] ^= mask[0] & 0x1F;
            out[body - 2] ^= mask[1];
            out[body - 1] ^= mask[2];
        }
    }

    fn encode_ack(&self, now: u64, out: &mut Vec<u8>) {
        let kept = &self.ranges[self.ranges.len().saturating_sub(SENT_RANGES)..];
        let Some(&(start, stop)) = kept.last() else {
            return;
        };
        out.push(0x02);
        put(out, stop - 1);
        put(out, (now.saturating_sub(self.largest_at) / 1000) >> 3);
        put(out, kept.len() as u64 - 1);
        put(out, stop - 1 - start);
        let mut low = start;
        for &(start, stop) in kept.iter().rev().skip(1) {
            put(out, low - stop - 1);
            put(out, stop - start - 1);
            low = start;
        }
    }

    /// Open a packet and hand its datagrams over.
    pub fn open(&mut self, data: &mut [u8], now: u64, mut each: impl FnMut(&[u8])) -> Content {
        if data.len() < 1 + ID + 4 + TAG || data[0] & 0xC0 != 0x40 || data[1..1 + ID] != self.host {
            return if data.first().is_some_and(|first| *first >= 0xC0) {
                Content::Other
            } else {
                Content::Unopened
            };
        }
        let at = 1 + ID;
        let Ok(mask) = self.recv.mask.new_mask(&data[at + 4..at + 4 + TAG]) else {
            return Content::Unopened;
        };
        data[0] ^= mask[0] & 0x1F;
        let size = usize::from(data[0] & 3) + 1;
        let mut low = 0u64;
        for i in 0..size {
            data[at + i] ^= mask[1 + i];
            low = low << 8 | u64::from(data[at + i]);
        }
        let number = decode(low, 8 * size as u32, self.expected);
        if data[0] >> 2 & 1 != self.phase {
            return Content::Unopened;
        }
        let nonce = self.recv.nonce(number);
        let (head, body) = data.split_at_mut(at + size);
        let Ok(plain) = self.recv.key.open_in_place(nonce, Aad::from(&*head), body) else {
            return Content::Unopened;
        };
        let missing = number.saturating_sub(self.expected);
        if number >= self.expected {
            self.expected = number + 1;
            self.largest_at = now;
        }
        let mut content = Content::Ack;
        let mut eliciting = false;
        let mut rest: &[u8] = plain;
        while let Some((&kind, after)) = rest.split_first() {
            rest = after;
            match kind {
                0x00 => {}
                0x01 => eliciting = true,
                0x02 if self.acks => match read_ack(&mut rest) {
                    Some((start, stop)) => self.acknowledged(start, stop),
                    None => break,
                },
                0x30 | 0x31 => {
                    let length = if kind == 0x30 {
                        Some(rest.len() as u64)
                    } else {
                        get(&mut rest)
                    };
                    let Some(length) = length.map(|n| n as usize).filter(|n| *n <= rest.len())
                    else {
                        break;
                    };
                    let (payload, after) = rest.split_at(length);
                    rest = after;
                    eliciting = true;
                    if content == Content::Ack {
                        content = Content::Media;
                    }
                    each(payload);
                }
                _ => {
                    eliciting = true;
                    content = Content::Other;
                    break;
                }
            }
        }
        if self.acks {
            self.note(number);
            if missing > 0 {
                if missing > 1 || self.last_gap.is_some_and(|gap| now - gap < AGAIN) {
                    self.torn_until = now + TORN;
                }
                self.last_gap = Some(now);
            }
            if eliciting {
                self.owe(missing > 0, content == Content::Media, now);
            }
        }
        content
    }

    fn owe(&mut self, is_gap: bool, is_media: bool, now: u64) {
        self.unacknowledged += 1;
        let hold = if is_gap || self.unacknowledged >= MOST_UNACKNOWLEDGED {
            0
        } else if is_media && now >= self.torn_until {
            AUDIO_ACK_HOLD
        } else {
            ACK_HOLD
        };
        self.ack_at = Some(self.ack_at.map_or(now + hold, |at| at.min(now + hold)));
    }

    fn note(&mut self, number: u64) {
        if let Some(last) = self.ranges.last_mut() {
            if last.1 == number {
                last.1 = number + 1;
                return;
            }
        }
        let at = self.ranges.partition_point(|range| range.1 < number);
        if let Some(range) = self.ranges.get_mut(at) {
            if range.0 <= number && number < range.1 {
                return;
            }
            if range.1 == number {
                range.1 = number + 1;
                if self
                    .ranges
                    .get(at + 1)
                    .is_some_and(|next| next.0 == number + 1)
                {
                    self.ranges[at].1 = self.ranges[at + 1].1;
                    self.ranges.remove(at + 1);
                }
                return;
            }
            if range.0 == number + 1 {
                range.0 = number;
                return;
            }
        }
        self.ranges.insert(at, (number, number + 1));
        if self.ranges.len() > MOST_RANGES {
            self.ranges.remove(0);
        }
    }

    /// What the peer knows to be acknowledged need not be told again.
    fn acknowledged(&mut self, start: u64, stop: u64) {
        if let Some((number, told)) = self.probe {
            if (start..stop).contains(&number) {
                self.ranges.retain(|range| range.1 > told);
                if let Some(first) = self.ranges.first_mut() {
                    first.0 = first.0.max(told);
                }
                self.probe = None;
            } else if number < start {
                self.probe = None;
            }
        }
    }
}

/// RFC 9000 appendix A.3.
fn decode(truncated: u64, bits: u32, expected: u64) -> u64 {
    let window = 1u64 << bits;
    let candidate = expected & !(window - 1) | truncated;
    if candidate + window / 2 <= expected {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

fn put(out: &mut Vec<u8>, value: u64) {
    if value < 0x40 {
        out.push(value as u8);
    } else if value < 0x4000 {
        out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes());
    } else if value < 0x4000_0000 {
        out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes());
    } else {
        out.extend_from_slice(&(value | 0xC000_0000_0000_0000).to_be_bytes());
    }
}

fn get(rest: &mut &[u8]) -> Option<u64> {
    let first = *rest.first()?;
    let size = 1usize << (first >> 6);
    let bytes = rest.get(..size)?;
    let value = bytes
        .iter()
        .skip(1)
        .fold(u64::from(first & 0x3F), |sum, byte| {
            sum << 8 | u64::from(*byte)
        });
    *rest = &rest[size..];
    Some(value)
}

/// The newest range of an ACK frame, half-open; the others are passed over.
fn read_ack(rest: &mut &[u8]) -> Option<(u64, u64)> {
    let largest = get(rest)?;
    let _delay = get(rest)?;
    let more = get(rest)?;
    let first = get(rest)?;
    for _ in 0..2 * more {
        get(rest)?;
    }
    Some((largest.checked_sub(first)?, largest + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Quic, Quic) {
        let (a, b) = ([[1u8; 16], [2; 16]], [[3u8; 16], [4; 16]]);
        let make = |send: &[[u8; 16]; 2], recv: &[[u8; 16]; 2], peer, host| {
            Quic::new(&Facts {
                send: [&send[0], &send[1][..12], &send[1]],
                recv: [&recv[0], &recv[1][..12], &recv[1]],
                peer,
                host,
                phase: 0,
                next: 5,
                expected: 5,
                acks: true,
                pad: 0,
            })
            .expect("keys of the right size")
        };
        (
            make(&a, &b, &[7; 8], &[8; 8]),
            make(&b, &a, &[8; 8], &[7; 8]),
        )
    }

    #[test]
    fn two_ends_understand_each_other_and_forget_what_both_know() {
        let (mut a, mut b) = pair();
        let mut packet = Vec::new();
        for i in 0..200_000u64 {
            let mut got = 0;
            a.seal(Some(&[9; 120]), i, &mut packet);
            if i % 7 != 0 {
                assert_eq!(
                    b.open(&mut packet, i, |data| got += data.len()),
                    Content::Media
                );
            }
            b.seal(Some(&[9; 120]), i, &mut packet);
            assert_eq!(
                a.open(&mut packet, i, |data| got += data.len()),
                Content::Media
            );
            assert!(got >= 120 && b.ranges.len() < 8, "{:?}", b.ranges);
        }
    }

    #[test]
    fn ranges_merge_in_any_order() {
        let (mut a, _) = pair();
        for number in [5, 7, 6, 10, 9, 3, 8, 3] {
            a.note(number);
        }
        assert_eq!(a.ranges, vec![(3, 4), (5, 11)]);
    }
}
