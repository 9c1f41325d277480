//! What one listener was sent and did not acknowledge, and what of it goes again: the state of repair.
//!
//! ```text
//! beside        a packet leaves anyway -> the repeats that go along, by repair.rs
//! alone         nothing leaves for a while -> one repeat, once per pause
//! asked         the listener names what it misses -> repeats by themselves, each copy twice at most
//! left          which packet took what along          acknowledged   that packet came
//! ```
//!
//! A copy is kept until any packet that carried it was acknowledged, it is too old to be played, or its gate
//! closes: 64 of a flow, 24 KiB of a leg. The same verdicts in the same order as `relay/edge/repeats.py`, which
//! is its oracle. Must never live here: the rule itself, locks, and what a network bears.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::mem::{self, size_of};

use crate::few::{heap, Few};
use crate::media::{decode, set_flow};
use crate::repair::{choose, copies, earn, is_worth, patience, Sent, Way, MOST};
use crate::rtt::Sample;
use crate::work::Pool;

/// Copies of one flow.
const RING: usize = 64;
/// Of a leg: 64 of voice.
const RING_BYTES: usize = 24 * 1024;
/// What a kept copy takes beside its buffer: its entry, with room for the list to grow, and all its carriers.
const BESIDE: usize = 192;
/// Packets of which one copy is remembered to be in, the newest.
const CARRIERS: usize = 16;
/// Seconds without a packet: speech comes each 60 ms at least.
const GAP: f64 = 0.070;
/// Seconds: timers come a little early, and floats are not exact.
const MARGIN: f64 = 0.002;
/// Of what the listener asks for (relay/protocol/nack.py): repeats of one copy, packets that one datagram may
/// name, repeats that each copy earns, and repeats saved up.
const TRIES: u8 = 2;
const SPAN: u16 = 16;
const ASKED_SHARE: f64 = 0.2;
const ASKED_SAVED: f64 = 10.0;

/// How lost copies are made good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Off,
    /// What was not acknowledged, again, beside what leaves anyway.
    Repeats,
    /// What left a fixed number of packets ago, again, always.
    Copies,
}

impl Mode {
    /// As the Python side spells it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "repeats" => Some(Self::Repeats),
            "copies" => Some(Self::Copies),
            _ => None,
        }
    }
}

/// How copies that a listener missed go again. Times in seconds.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub mode: Mode,
    /// Repeats that each copy earns, 0-1.
    pub budget: f64,
    /// Repeats saved up at most.
    pub depth: f64,
    /// Of `Copies`, in packets, oldest first.
    pub distances: Few<u32, 2>,
    /// What came longer ago is not repeated.
    pub max_age: f64,
    /// How long the listener may hold an acknowledgement.
    pub ack_slack: f64,
}

impl Rule {
    /// Nothing is repeated, and nothing will be.
    pub fn is_none(&self) -> bool {
        self.mode == Mode::Off && self.max_age <= 0.0
    }
}

/// Copies kept to be repeated, and repeats that left: `kept = acked + late + ended + holding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub kept: u64,
    /// It came, by itself or as a repeat.
    pub acked: u64,
    /// Not acknowledged while it could be played.
    pub late: u64,
    /// Gate closed, leg gone, repair switched off, or no room.
    pub ended: u64,
    pub holding: u64,
    /// Repeats in a packet that left anyway; the same at a fixed distance; repeats in a pause.
    pub beside: u64,
    pub distant: u64,
    pub alone: u64,
    /// Repeats that the listener named.
    pub asked: u64,
    /// Of all four, datagrams.
    pub bytes: u64,
    /// Repeats that the listener's rights do not allow.
    pub refused: u64,
}

impl Tally {
    pub fn figures(&mut self) -> [&mut u64; 11] {
        [
            &mut self.kept,
            &mut self.acked,
            &mut self.late,
            &mut self.ended,
            &mut self.holding,
            &mut self.beside,
            &mut self.distant,
            &mut self.alone,
            &mut self.asked,
            &mut self.bytes,
            &mut self.refused,
        ]
    }

    /// Repeats in any form.
    pub fn repeats(&self) -> u64 {
        self.beside
            .wrapping_add(self.distant)
            .wrapping_add(self.alone)
            .wrapping_add(self.asked)
    }

    /// How many kept copies are not accounted for; 0 unless there is a bug.
    pub fn missing(&self) -> u64 {
        self.kept
            .wrapping_sub(self.acked)
            .wrapping_sub(self.late)
            .wrapping_sub(self.ended)
            .wrapping_sub(self.holding)
    }
}

struct Kept {
    out: u8,
    kid: u8,
    /// So often it left because it was asked for.
    asked: u8,
    ctr: u32,
    sent: Sent,
    /// With R set.
    again: Vec<u8>,
    carriers: Few<u64, 2>,
}

/// What a listener asks for: bit i of `bits` wants the packet whose counter ends in `base + i`.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub out: u8,
    pub kid: u8,
    pub base: u16,
    pub bits: u16,
}

impl Ask {
    fn wants(&self, one: &Kept) -> bool {
        let behind = (one.ctr as u16).wrapping_sub(self.base);
        let is_named = behind < SPAN && self.bits.checked_shr(behind.into()).unwrap_or(0) & 1 == 1;
        one.out == self.out && one.kid == self.kid && one.asked < TRIES && is_named
    }
}

/// One listener's.
#[derive(Default)]
pub struct Ring {
    tally: Tally,
    /// What of that others know.
    told: Tally,
    rule: Rule,
    /// Repeats that may leave; None: never told.
    left: Option<f64>,
    /// In the order in which they left.
    kept: Vec<Kept>,
    held: usize,
    /// Places of those chosen for the packet that is about to leave, and whether they were asked for.
    going: Few<usize, 4>,
    is_asked: bool,
    /// Repeats that may be asked for; None: never told.
    asked_left: Option<f64>,
    left_at: f64,
    is_pause_used: bool,
    /// Buffers of those that are over, for the pool.
    spare: Vec<Vec<u8>>,
}

impl Ring {
    /// Repair goes like this from now on. The first allowance is full: a first outage shall be repaired.
    pub fn tell(&mut self, rule: Rule) {
        self.rule = rule;
        if self.rule.mode == Mode::Off {
            self.clear();
        } else {
            let depth = self.rule.depth;
            self.left = Some(self.left.map_or(depth, |left| f64::min(left, depth)));
        }
    }

    /// What was counted since the leg began.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What was counted since the last call, added to `all`.
    pub fn settle(&mut self, all: &mut Tally) {
        if self.told == self.tally {
            return;
        }
        let mut now = self.tally;
        for ((all, now), told) in all
            .figures()
            .into_iter()
            .zip(now.figures())
            .zip(self.told.figures())
        {
            *all = all.wrapping_add(now.wrapping_sub(*told));
        }
        self.told = self.tally;
    }

    /// Buffers that are free again.
    pub fn give_back(&mut self, pool: &mut Pool) {
        for buffer in self.spare.drain(..) {
            pool.give(buffer);
        }
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        let buffers = |kept: &Kept| kept.again.capacity().saturating_add(heap(&kept.carriers));
        let kept: usize = self.kept.iter().map(buffers).sum();
        let spare: usize = self.spare.iter().map(Vec::capacity).sum();
        let lists = self.kept.capacity().saturating_mul(size_of::<Kept>());
        let lists =
            lists.saturating_add(self.spare.capacity().saturating_mul(size_of::<Vec<u8>>()));
        size_of::<Self>()
            .saturating_add(kept)
            .saturating_add(spare)
            .saturating_add(lists)
    }

    // ------------------------------------------------------------ what leaves

    /// Choose repeats for a packet that leaves with these copies; `room` bytes are free in it. `takes` charges
    /// bytes to the listener's rights, or refuses.
    pub fn beside<'a>(
        &mut self,
        copies: impl Iterator<Item = &'a [u8]> + Clone,
        now: f64,
        rtt: Option<Sample>,
        mut room: usize,
        mut takes: impl FnMut(usize) -> bool,
    ) {
        self.cancel();
        if self.rule.mode == Mode::Off {
            return;
        }
        for _ in copies.clone() {
            let left = self.left.unwrap_or(0.0);
            self.left = Some(earn(left, self.rule.budget, self.rule.depth));
            let left = self.asked_left.unwrap_or(ASKED_SAVED);
            self.asked_left = Some(earn(left, ASKED_SHARE, ASKED_SAVED));
        }
        self.expire(now);
        if self.rule.mode == Mode::Copies {
            for copy in copies {
                room = self.distant(copy, now, room, &mut takes);
            }
        } else if let Some(rtt) = rtt {
            self.again(now, rtt, room, MOST, &mut takes);
        }
    }

    /// Choose the repeat that leaves by itself, if any, when `pause_due` says so. There is one try in a pause.
    pub fn alone(
        &mut self,
        now: f64,
        rtt: Option<Sample>,
        room: usize,
        mut takes: impl FnMut(usize) -> bool,
    ) {
        self.cancel();
        self.is_pause_used = true;
        self.expire(now);
        if let Some(rtt) = rtt {
            self.again(now, rtt, room, 1, &mut takes);
        }
    }

    /// Choose what leaves by itself since the listener asks for it: within its own allowance.
    pub fn asked(
        &mut self,
        ask: &Ask,
        now: f64,
        mut room: usize,
        mut takes: impl FnMut(usize) -> bool,
    ) {
        self.going.clear();
        self.expire(now);
        self.is_asked = true;
        for place in 0..self.kept.len() {
            let Some(one) = self.kept.get(place).filter(|one| ask.wants(one)) else {
                continue;
            };
            let size = one.sent.size;
            let left = self.asked_left.unwrap_or(ASKED_SAVED);
            if size > room || left < 1.0 || self.take(place, &mut takes).is_none() {
                break;
            }
            if let Some(one) = self.kept.get_mut(place) {
                one.asked = one.asked.saturating_add(1);
            }
            room = room.saturating_sub(size);
            self.asked_left = Some(left - 1.0);
        }
    }

    /// What was chosen last.
    pub fn going(&self) -> impl Iterator<Item = &[u8]> + Clone + '_ {
        self.going
            .iter()
            .filter_map(|place| self.kept.get(*place))
            .map(|one| one.again.as_slice())
    }

    /// The packet did not leave.
    pub fn cancel(&mut self) {
        self.going.clear();
        self.is_asked = false;
    }

    /// When something should be repeated by itself if nothing leaves before; None: nothing to repeat.
    pub fn pause_due(&self, rtt: Option<Sample>) -> Option<f64> {
        if self.rule.mode != Mode::Repeats || self.is_pause_used {
            return None;
        }
        let first = self.kept.first()?;
        let wait = patience(&self.way(rtt?));
        Some(f64::max(first.sent.first_sent + wait, self.left_at + GAP) + MARGIN)
    }

    fn again(
        &mut self,
        now: f64,
        rtt: Sample,
        room: usize,
        most: usize,
        takes: &mut impl FnMut(usize) -> bool,
    ) {
        let at = |place: usize| self.kept.get(place).map(|one| one.sent);
        let left = self.left.unwrap_or(0.0);
        let way = self.way(rtt);
        let choice = choose(self.kept.len(), at, now, &way, left, room, most);
        self.left = Some(choice.left);
        for place in choice.append {
            if self.take(place, takes).is_none() {
                return;
            }
        }
    }

    fn distant(
        &mut self,
        copy: &[u8],
        now: f64,
        mut room: usize,
        takes: &mut impl FnMut(usize) -> bool,
    ) -> usize {
        let Ok(header) = decode(copy) else {
            return room;
        };
        // The newest under a counter, should one be there twice: the place at which it will be found.
        let place = |ctr: u32| {
            let is_it = |one: &Kept| (one.out, one.kid, one.ctr) == (header.flow, header.kid, ctr);
            let mut places = self.kept.iter().enumerate().rev();
            let found = places.find(|(at, one)| is_it(one) && !self.going.contains(at));
            found.map(|(at, one)| (at, one.sent))
        };
        let left = self.left.unwrap_or(0.0);
        let (distances, max_age) = (&self.rule.distances, self.rule.max_age);
        let sent = |ctr| place(ctr).map(|(_, sent)| sent);
        let choice = copies(sent, header.ctr, distances, now, max_age, left, room);
        let places: Few<usize, 4> = choice
            .append
            .iter()
            .filter_map(|ctr| place(*ctr).map(|(at, _)| at))
            .collect();
        self.left = Some(choice.left);
        for place in places {
            match self.take(place, takes) {
                Some(size) => room = room.saturating_sub(size),
                None => break,
            }
        }
        room
    }

    /// Let it go along, if the listener's rights allow; the bytes that it takes then.
    fn take(&mut self, place: usize, takes: &mut impl FnMut(usize) -> bool) -> Option<usize> {
        let one = self.kept.get(place)?;
        if takes(one.again.len()) {
            self.going.push(place);
            return Some(one.sent.size);
        }
        self.tally.refused = self.tally.refused.wrapping_add(1);
        None
    }

    fn way(&self, rtt: Sample) -> Way {
        Way {
            rtt: rtt.smoothed,
            rttvar: rtt.variance,
            ack_slack: self.rule.ack_slack,
            max_age: self.rule.max_age,
        }
    }

    /// Packet `number` left with what was chosen last and `copies`, each with when it came; these are the
    /// ring's or the pool's then. `overhead`: bytes that a copy takes in a packet besides itself.
    pub fn left(
        &mut self,
        number: u64,
        copies: &mut Vec<(f64, Vec<u8>)>,
        overhead: usize,
        now: f64,
        pool: &mut Pool,
    ) {
        let going = mem::take(&mut self.going);
        for place in &going {
            let Some(one) = self.kept.get_mut(*place) else {
                continue;
            };
            one.carriers.push(number);
            if one.carriers.len() > CARRIERS {
                one.carriers.remove(0);
            }
            let size = u64::try_from(one.again.len()).unwrap_or(0);
            self.tally.bytes = self.tally.bytes.wrapping_add(size);
        }
        let form = if mem::take(&mut self.is_asked) {
            &mut self.tally.asked
        } else if copies.is_empty() {
            &mut self.tally.alone
        } else if self.rule.mode == Mode::Copies {
            &mut self.tally.distant
        } else {
            &mut self.tally.beside
        };
        *form = form.wrapping_add(u64::try_from(going.len()).unwrap_or(0));
        if !copies.is_empty() {
            self.left_at = now;
            self.is_pause_used = false;
        }
        for (came, copy) in copies.drain(..) {
            if self.rule.mode == Mode::Off {
                pool.give(copy);
            } else {
                self.keep(copy, came, number, overhead, now, pool);
            }
        }
        self.give_back(pool);
    }

    fn keep(
        &mut self,
        mut copy: Vec<u8>,
        came: f64,
        number: u64,
        overhead: usize,
        now: f64,
        pool: &mut Pool,
    ) {
        let header = decode(&copy).ok().filter(|h| is_worth(h, copy.len()));
        let Some(header) = header else {
            return pool.give(copy);
        };
        let room = Pool::room(copy.len()).saturating_add(BESIDE);
        let of_flow = |one: &&Kept| one.out == header.flow;
        if self.kept.iter().filter(of_flow).count() >= RING {
            if let Some(oldest) = self.kept.iter().position(|one| one.out == header.flow) {
                self.end_at(oldest);
            }
        }
        while self.held.saturating_add(room) > RING_BYTES && !self.kept.is_empty() {
            self.end_at(0);
        }
        let sent = Sent {
            came,
            first_sent: now,
            size: copy.len().saturating_add(overhead),
            worth: true,
        };
        set_flow(&mut copy, header.flow, true);
        self.held = self.held.saturating_add(room);
        self.kept.push(Kept {
            out: header.flow,
            kid: header.kid,
            asked: 0,
            ctr: header.ctr,
            sent,
            again: copy,
            carriers: Few::from_slice(&[number]),
        });
        self.tally.kept = self.tally.kept.wrapping_add(1);
        self.tally.holding = self.tally.holding.wrapping_add(1);
    }

    // ------------------------------------------------------------ what is over

    /// Packets with these numbers (half-open) came, and what was in them.
    pub fn acknowledged(&mut self, ranges: &[(u64, u64)]) {
        let came = |number: &u64| ranges.iter().any(|r| r.0 <= *number && *number < r.1);
        let gone = self.remove(|one| one.carriers.iter().any(came));
        self.tally.acked = self.tally.acked.wrapping_add(gone);
    }

    /// The listener may no longer hear this flow.
    pub fn end(&mut self, out: u8) {
        let gone = self.remove(|one| one.out == out);
        self.tally.ended = self.tally.ended.wrapping_add(gone);
    }

    /// Nothing is repeated any more.
    pub fn clear(&mut self) {
        let gone = self.remove(|_| true);
        self.tally.ended = self.tally.ended.wrapping_add(gone);
        self.kept = Vec::new();
        self.spare = Vec::new();
    }

    fn end_at(&mut self, place: usize) {
        let mut at = 0_usize;
        let gone = self.remove(|_| {
            let is_it = at == place;
            at = at.saturating_add(1);
            is_it
        });
        self.tally.ended = self.tally.ended.wrapping_add(gone);
    }

    fn expire(&mut self, now: f64) {
        let max_age = self.rule.max_age;
        let gone = self.remove(|one| now - one.sent.came > max_age);
        self.tally.late = self.tally.late.wrapping_add(gone);
    }

    /// Those of which it is so; how many.
    fn remove(&mut self, mut is_gone: impl FnMut(&Kept) -> bool) -> u64 {
        let before = self.kept.len();
        let (spare, held) = (&mut self.spare, &mut self.held);
        self.kept.retain_mut(|one| {
            let goes = is_gone(one);
            if goes {
                let room = Pool::room(one.again.len()).saturating_add(BESIDE);
                *held = held.saturating_sub(room);
                spare.push(mem::take(&mut one.again));
            }
            !goes
        });
        let gone = u64::try_from(before.saturating_sub(self.kept.len())).unwrap_or(0);
        self.tally.holding = self.tally.holding.wrapping_sub(gone);
        gone
    }
}
