//! One end of a call: makes its packets, judges what arrives.
//!
//! A payload is a true hop header with the sender's key id and counter, eight bytes mixed from counter and
//! secret, and a pattern that only the sender has; the receiver compares all but what a hop may change.
//! Must never live here: sockets, pace.

use std::os::fd::RawFd;

use crate::quic::{Content, Quic};

pub const RING: usize = 2048;
const REPEAT: u8 = 0x02;
const FLOW_AND_H: [u8; 2] = [0x01, 0x40];

/// How payloads travel.
pub enum Wire {
    /// A fixed prefix before, zeros after; `skip` bytes before what comes.
    Plain {
        prefix: Vec<u8>,
        pad: usize,
        skip: usize,
    },
    Quic(Box<Quic>),
}

pub struct Leg {
    pub fd: RawFd,
    pub group: usize,
    pub wire: Wire,
    pub next_ctr: u32,
    pub run_from: u32,
    pub last_sent: u64,
    /// When somebody looks whether its acknowledgement is due; entries with other times are void.
    pub look: u64,
    /// Counters of packets of this run that were late to leave.
    pub unjudged: Vec<u32>,
    size: usize,
    flow: u8,
    kid: u8,
    secret: u64,
    pattern: Vec<u8>,
    times: Vec<u64>,
    got: Vec<u32>,
}

/// What a payload turned out to be.
#[derive(PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As sent, for the first time; nanoseconds since the epoch when it was sent.
    Good(u32, u64),
    Repeated,
    Wrong,
}

pub fn mix(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Leg {
    pub fn new(
        fd: RawFd,
        group: usize,
        wire: Wire,
        size: usize,
        flow: u8,
        kid: u8,
        secret: u64,
    ) -> Self {
        let words = (0..size as u64).map(|i| mix(secret ^ (i << 32)) as u8);
        Self {
            fd,
            group,
            wire,
            next_ctr: 0,
            run_from: 0,
            last_sent: 0,
            look: u64::MAX,
            unjudged: Vec::new(),
            size,
            flow,
            kid,
            secret,
            pattern: words.collect(),
            times: vec![0; RING],
            got: vec![0; RING],
        }
    }

    /// The bytes of datagram `ctr`; flow and H as at its sender.
    fn payload(&self, ctr: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[self.flow, FLOW_AND_H[1]]);
        if ctr < 8 {
            out.push(self.kid << 4 | ctr as u8);
        } else {
            let bytes = ctr.to_be_bytes();
            let skip = ctr.leading_zeros() as usize / 8;
            out.push(self.kid << 4 | 0x08 | (3 - skip) as u8);
            out.extend_from_slice(&bytes[skip..]);
        }
        out.extend_from_slice(&mix(self.secret ^ u64::from(ctr)).to_be_bytes());
        let have = out.len() - start;
        out.extend_from_slice(&self.pattern[have..self.size]);
    }

    /// The next packet, sent at wall-clock `wall`; `now` is monotonic. False: it may not leave now.
    pub fn next(&mut self, wall: u64, now: u64, packet: &mut Vec<u8>) {
        let ctr = self.next_ctr;
        self.next_ctr += 1;
        self.times[ctr as usize % RING] = wall;
        self.last_sent = now;
        packet.clear();
        match &self.wire {
            Wire::Plain { prefix, pad, .. } => {
                packet.extend_from_slice(prefix);
                self.payload(ctr, packet);
                packet.resize(packet.len() + pad, 0);
            }
            Wire::Quic(_) => {
                let mut inner = std::mem::take(packet);
                let mut body = [0u8; 256];
                self.payload(ctr, &mut inner);
                let length = inner.len().min(body.len());
                body[..length].copy_from_slice(&inner[..length]);
                if let Wire::Quic(quic) = &mut self.wire {
                    quic.seal(Some(&body[..length]), now, &mut inner);
                }
                *packet = inner;
            }
        }
    }

    /// Judge a payload that this leg sent and its partner received.
    pub fn judge(&mut self, payload: &[u8], scratch: &mut Vec<u8>) -> Verdict {
        let Some(ctr) = counter(payload) else {
            return Verdict::Wrong;
        };
        if ctr >= self.next_ctr || payload.len() < 2 {
            return Verdict::Wrong;
        }
        scratch.clear();
        self.payload(ctr, scratch);
        if payload[1] & !REPEAT != scratch[1] || payload[2..] != scratch[2..] {
            return Verdict::Wrong;
        }
        let slot = ctr as usize % RING;
        if self.got[slot] > ctr {
            return Verdict::Repeated;
        }
        self.got[slot] = ctr + 1;
        Verdict::Good(ctr, self.times[slot])
    }

    /// Hand the payloads of an incoming packet to `each`.
    pub fn open(&mut self, data: &mut [u8], now: u64, mut each: impl FnMut(&[u8])) -> Content {
        match &mut self.wire {
            Wire::Plain { pad, skip, .. } => {
                let end = data.len().saturating_sub(*pad).min(*skip + self.size);
                match data.get(*skip..end) {
                    Some(payload) => each(payload),
                    None => return Content::Unopened,
                }
                Content::Media
            }
            Wire::Quic(quic) => quic.open(data, now, each),
        }
    }

    /// When a held acknowledgement must leave.
    pub fn ack_due(&self) -> Option<u64> {
        match &self.wire {
            Wire::Quic(quic) => quic.ack_at,
            Wire::Plain { .. } => None,
        }
    }
}

fn counter(payload: &[u8]) -> Option<u32> {
    let conf = *payload.get(2)?;
    if conf & 0x80 != 0 {
        return None;
    }
    if conf & 0x08 == 0 {
        return Some(u32::from(conf & 7));
    }
    let size = usize::from(conf & 7) + 1;
    let bytes = payload.get(3..3 + size).filter(|_| size <= 4)?;
    Some(
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_good_once_and_wrong_when_changed() {
        let wire = Wire::Plain {
            prefix: vec![1, 2],
            pad: 3,
            skip: 2,
        };
        let mut leg = Leg::new(0, 0, wire, 120, 5, 4, 77);
        let (mut packet, mut scratch) = (Vec::new(), Vec::new());
        for ctr in 0..70_000u32 {
            leg.next(u64::from(ctr), 0, &mut packet);
            assert_eq!(packet.len(), 125);
            let mut copy = packet[2..122].to_vec();
            copy[0] = 9;
            copy[1] |= REPEAT;
            assert_eq!(
                leg.judge(&copy, &mut scratch),
                Verdict::Good(ctr, u64::from(ctr))
            );
            assert_eq!(leg.judge(&copy, &mut scratch), Verdict::Repeated);
            copy[60] ^= 1;
            assert_eq!(leg.judge(&copy, &mut scratch), Verdict::Wrong);
        }
    }
}
