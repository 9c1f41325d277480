//! A trunk's part of the routing table: the routes by which voices come from another node, and the line in which
//! copies wait to go there.
//!
//! ```text
//! receive   route -> header -> hop -> budget of the speaker -> sender -> gate -> duplicate -> who hears it
//! enqueue   at most 5 of a route, for 60 ms, 2 MiB in all: the oldest goes
//! batch     who came first leaves first, as many as fit one packet, of any routes
//! ways      a trunk of two paths: what leaves goes into both lines, of what comes the first copy counts
//! ```
//!
//! A packet leaves when it is full, or when its first copy has waited for 1 ms. The same verdicts in the same order
//! as `relay/edge/trunk_line.py`, which is its oracle. Must never live here: locks, sockets, encryption, who gave
//! which route.

use std::mem::size_of;
use std::sync::Arc;

use crate::bucket::Bucket;
use crate::core::Leg;
use crate::counters::{bump, Counters};
use crate::few::Few;
use crate::flow::{Flow, FlowCounters, Heard, Targets};
use crate::hop::{Came, Told};
use crate::line::{Line, Place};
use crate::media::{decode_carried, set_flow};
use crate::numbered::Numbered;
use crate::out::{DATAGRAM_OVERHEAD, PACKET_OVERHEAD};
use crate::path::MAX_PACKET;
use crate::reason::Reason;
use crate::table::Rights;
use crate::work::Pool;

/// Numbers of routes; those below are flows of legs.
const MIN_ROUTE: u16 = 64;
const MAX_ROUTE: u16 = 16383;
/// Bytes of a route's number, behind which a trunk's datagram reads as one of a leg.
pub const ROUTE_SIZE: usize = 2;
/// Relays that were passed: the only number there is.
const HOP: u8 = 1;
/// Copies of one route that wait, and for how long one may, seconds.
const FRAMES: usize = 5;
const LONGEST_WAIT: f64 = 0.060;
/// The buffers of all copies that wait: what comes in those 60 ms at 180,000 voice packets a second.
const QUEUE_BYTES: usize = 2 * 1024 * 1024;
/// For so long the first copy of a packet waits for others, seconds.
const HOLD: f64 = 0.001;
/// Bytes of frames in one packet.
const ROOM: usize = MAX_PACKET - PACKET_OVERHEAD;
/// Bytes in flight: at least, and however far the other node is.
const LEAST_WINDOW: u64 = 64 * 1024;
const LARGEST_WINDOW: u64 = 16 * 1024 * 1024;
/// Seconds over which is counted what comes in a round trip that is shorter: not all of them may bring something.
const WINDOW_OVER: f64 = 0.05;

/// Whether this may be a route's number.
pub fn is_route(number: u16) -> bool {
    (MIN_ROUTE..=MAX_ROUTE).contains(&number)
}

struct Copy {
    arrived: f64,
    route: u16,
    data: Vec<u8>,
}

/// A voice that comes from the other node.
struct Route {
    flow: Flow,
    packets: Bucket,
    up: Bucket,
    told: Told,
    /// The same for what comes by the second path: the copy of a packet uses up nobody's rights twice.
    second: Option<Box<(Bucket, Bucket)>>,
}

impl Route {
    /// `carried`: the datagram from its hop on.
    fn judge(&mut self, carried: &[u8], second: bool, now: f64) -> Result<Heard, Reason> {
        let header = decode_carried(carried)?;
        if header.flow != HOP {
            return Err(Reason::HopLimit);
        }
        // As many bytes as the speaker's own node has charged for it.
        let (packets, up) = if second {
            let (packets, up) = (&self.packets, &self.up);
            let fresh = || Box::new((packets.fresh(), up.fresh()));
            let (packets, up) = &mut **self.second.get_or_insert_with(fresh);
            (packets, up)
        } else {
            (&mut self.packets, &mut self.up)
        };
        if !packets.take(1.0, now) || !up.take(carried.len() as f64, now) {
            return Err(Reason::OverBudget);
        }
        self.flow.admit(&header, now)
    }
}

/// The trunk that a connection joined: its leg, and which of that one's lives.
#[derive(Clone)]
pub struct Whole {
    pub leg: Arc<Leg>,
    pub epoch: u64,
}

/// Connections that joined a trunk, by which path they are.
pub type Ways = [Option<Arc<Leg>>; 2];

/// A connection to another node in the routing table, from `open_trunk` or `join_trunk` to `close_leg`.
pub struct Trunk {
    /// Tells this life of the leg from another one under the same number.
    pub epoch: u64,
    /// Which of the two paths it is.
    pub second: bool,
    /// The trunk that it joined, whose routes are its own.
    pub of: Option<Whole>,
    ways: Ways,
    /// One ever joined: what comes may be a copy.
    is_double: bool,
    /// Those that we gave.
    routes: Numbered<Route>,
    line: Line<Copy>,
    /// Of each route that the other node gave, where its copies stand in the line, the oldest first.
    places: Numbered<Few<Place, FRAMES>>,
    /// What waits: bytes of the buffers, and of the frames that it will be.
    held: usize,
    framed: usize,
    /// Bytes that may be in flight; since when that is counted anew, and how many were acknowledged by then.
    window: u64,
    counted_at: f64,
    acked: u64,
}

impl Trunk {
    pub fn new(epoch: u64, second: bool, of: Option<Whole>) -> Self {
        Self {
            epoch,
            second,
            of,
            ways: [None, None],
            is_double: false,
            routes: Numbered::default(),
            line: Line::default(),
            places: Numbered::default(),
            held: 0,
            framed: 0,
            window: LEAST_WINDOW,
            counted_at: 0.0,
            acked: 0,
        }
    }

    /// Copies waiting.
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// When the oldest copy that waits came.
    pub fn oldest(&self) -> Option<f64> {
        self.line.first().map(|(_, copy)| copy.arrived)
    }

    /// Bytes of memory that the trunk takes.
    pub fn memory(&self) -> usize {
        let flows: usize = self.routes.values().map(|route| route.flow.heap()).sum();
        let copies: usize = self.line.iter().map(|copy| copy.data.capacity()).sum();
        let tables = self.routes.heap() + self.places.heap() + self.line.heap();
        size_of::<Self>() + flows + copies + tables
    }

    // ------------------------------------------------------------ ways

    /// One more connection; another one of that path, which has no part in the trunk any more.
    pub fn join(&mut self, way: &Arc<Leg>, second: bool) -> Option<Arc<Leg>> {
        self.is_double = true;
        let place = self.ways.get_mut(usize::from(second))?;
        place.replace(way.clone())
    }

    /// One less.
    pub fn part(&mut self, gone: &Arc<Leg>) {
        for place in &mut self.ways {
            if place.as_ref().is_some_and(|way| Arc::ptr_eq(way, gone)) {
                *place = None;
            }
        }
    }

    /// Those that joined.
    pub fn ways(&self) -> Ways {
        self.ways.clone()
    }

    /// Whether copies wait in our own line, too. `has_path`: our own connection is there.
    pub fn has_own_line(&self, has_path: bool) -> bool {
        let [first, second] = &self.ways;
        let ours = if self.second { second } else { first };
        (first.is_none() && second.is_none()) || (has_path && ours.is_none())
    }

    /// Whether this connection joined the trunk of that leg, in that life.
    pub fn is_of(&self, leg: &Arc<Leg>, epoch: u64) -> bool {
        let is_same = |of: &Whole| Arc::ptr_eq(&of.leg, leg) && of.epoch == epoch;
        self.of.as_ref().is_some_and(is_same)
    }

    // ------------------------------------------------------------ routes

    /// Accept what comes on a route from participant `index`, within the speaker's rights; nobody hears it until
    /// `route`. Who heard another one of that number.
    pub fn open_route(
        &mut self,
        number: u16,
        index: u32,
        group: bool,
        rights: Rights,
        burst_s: f64,
    ) -> Option<Targets> {
        let [packets, up, _] = rights
            .buckets(burst_s)
            .map(|(rate, burst)| Bucket::new(rate, burst));
        let route = Route {
            flow: Flow::new(index, group),
            packets,
            up,
            told: Told::default(),
            second: None,
        };
        let replaced = self.routes.insert(number, route)?;
        Some(replaced.flow.targets())
    }

    /// Forget a route and return what was counted for it.
    pub fn close_route(&mut self, number: u16) -> FlowCounters {
        let gone = self.routes.remove(number);
        gone.map_or_else(FlowCounters::default, |route| route.flow.counters())
    }

    /// Copy what comes on a route to `targets` from now on; the targets before, or None when there is no such.
    pub fn route(&mut self, number: u16, targets: Targets, closed: Reason) -> Option<Targets> {
        Some(self.routes.get_mut(number)?.flow.route(targets, closed))
    }

    /// Since when somebody hears a route, and how many datagrams of it.
    pub fn heard(&self, number: u16) -> Option<(f64, u64)> {
        self.routes.get(number)?.flow.heard()
    }

    /// What came on routes since they were counted last: of those from `first` on, `most` that have something to
    /// tell, by number.
    pub fn count_routes(&mut self, first: u16, most: usize) -> Vec<Came> {
        let (mut lines, mut next) = (Vec::new(), first);
        while lines.len() < most {
            let Some((number, route)) = self.routes.next_mut(next) else {
                break;
            };
            lines.extend(route.told.count(number, &route.flow));
            next = number.saturating_add(1);
        }
        lines
    }

    /// Who hears a route; None when there is no such route.
    pub fn targets(&self, number: u16) -> Option<Targets> {
        Some(self.routes.get(number)?.flow.targets())
    }

    /// Who hears any route.
    pub fn all_targets(&self) -> Vec<Targets> {
        self.routes
            .values()
            .map(|route| route.flow.targets())
            .collect()
    }

    // ------------------------------------------------------------ in

    /// Judge one media datagram of the other node, which came by that path: who hears it, or why nobody does.
    /// All of it is counted here.
    pub fn receive(
        &mut self,
        payload: &[u8],
        second: bool,
        now: f64,
        counters: &mut Counters,
    ) -> Result<Heard, Reason> {
        counters.media_in = counters.media_in.wrapping_add(1);
        let verdict = self.judge(payload, second, now);
        match &verdict {
            Ok(_) => counters.accepted = counters.accepted.wrapping_add(1),
            Err(reason) => bump(&mut counters.media_dropped, *reason, 1),
        }
        verdict
    }

    fn judge(&mut self, payload: &[u8], second: bool, now: f64) -> Result<Heard, Reason> {
        let (number, carried) = split(payload).ok_or(Reason::UnknownFlow)?;
        let route = self.routes.get_mut(number).ok_or(Reason::UnknownFlow)?;
        let mut verdict = route.judge(carried, second, now);
        if self.is_double && matches!(verdict, Err(Reason::Duplicate)) {
            verdict = Err(Reason::SecondCopy);
        }
        route.flow.count(&verdict, now);
        verdict
    }

    // ------------------------------------------------------------ out

    /// Let a copy of a leg's datagram wait for a route that the other node gave. True when so many of that route
    /// wait that the next one would displace the oldest. The caller counted it in `copies`.
    pub fn enqueue(
        &mut self,
        route: u16,
        payload: &[u8],
        now: f64,
        pool: &mut Pool,
        counters: &mut Counters,
    ) -> bool {
        let mut data = pool.join(&head(route), payload);
        if let Some(carried) = data.get_mut(ROUTE_SIZE..) {
            set_flow(carried, HOP, false);
        }
        self.expire(now, pool, counters);
        if let Some(oldest) = self.full(route) {
            self.discard(oldest, Reason::QueueFull, pool, counters);
        }
        let room = Pool::room(data.len());
        while let Some((oldest, _)) = self.line.first() {
            if self.held.saturating_add(room) <= QUEUE_BYTES {
                break;
            }
            self.discard(oldest, Reason::QueueFull, pool, counters);
        }
        self.held = self.held.saturating_add(room);
        self.framed = self.framed.saturating_add(framed(&data));
        counters.queued = counters.queued.wrapping_add(1);
        let arrived = now;
        let place = self.line.push(Copy {
            arrived,
            route,
            data,
        });
        if let Some(places) = self.places.get_mut(route) {
            places.push(place);
        } else {
            let mut places = Few::new();
            places.push(place);
            self.places.insert(route, places);
        }
        self.full(route).is_some()
    }

    /// Where the oldest copy of a route stands, of which as many wait as may.
    fn full(&self, route: u16) -> Option<Place> {
        let places = self.places.get(route)?;
        places.first().filter(|_| places.len() >= FRAMES).copied()
    }

    /// A packet could leave that has no room for more.
    pub fn is_full(&self) -> bool {
        self.framed >= ROOM
    }

    /// When the first copy has waited for others long enough; None: there is none.
    pub fn due(&self) -> Option<f64> {
        Some(self.oldest()? + HOLD)
    }

    /// Copies for one packet, which the caller sends, each with when it came.
    pub fn batch(
        &mut self,
        now: f64,
        batch: &mut Vec<(f64, Vec<u8>)>,
        pool: &mut Pool,
        counters: &mut Counters,
    ) {
        self.expire(now, pool, counters);
        let mut room = ROOM;
        while let Some((place, copy)) = self.line.first() {
            let Some(rest) = room.checked_sub(framed(&copy.data)) else {
                return;
            };
            let Some(copy) = self.leave(place) else {
                return;
            };
            room = rest;
            counters.queued = counters.queued.wrapping_sub(1);
            counters.copies_sent = counters.copies_sent.wrapping_add(1);
            counters.left.note(copy.arrived);
            batch.push((copy.arrived, copy.data));
        }
    }

    /// What waited too long goes.
    fn expire(&mut self, now: f64, pool: &mut Pool, counters: &mut Counters) {
        while let Some((oldest, copy)) = self.line.first() {
            if now - copy.arrived <= LONGEST_WAIT {
                return;
            }
            self.discard(oldest, Reason::Stale, pool, counters);
        }
    }

    fn discard(&mut self, place: Place, reason: Reason, pool: &mut Pool, counters: &mut Counters) {
        if let Some(copy) = self.leave(place) {
            counters.queued = counters.queued.wrapping_sub(1);
            counters.drop_out(reason, 1);
            pool.give(copy.data);
        }
    }

    /// Take a copy out of the line.
    fn leave(&mut self, place: Place) -> Option<Copy> {
        let copy = self.line.remove(place)?;
        self.held = self.held.saturating_sub(Pool::room(copy.data.len()));
        self.framed = self.framed.saturating_sub(framed(&copy.data));
        if let Some(places) = self.places.get_mut(copy.route) {
            places.retain(|known| *known != place);
        }
        Some(copy)
    }

    /// Drop what waits for a route that carries no more.
    pub fn purge(&mut self, route: u16, reason: Reason, counters: &mut Counters) {
        for place in self.places.remove(route).unwrap_or_default() {
            if self.leave(place).is_some() {
                counters.queued = counters.queued.wrapping_sub(1);
                counters.drop_out(reason, 1);
            }
        }
    }

    /// The trunk is gone: drop all that waits for it.
    pub fn abandon(&mut self, counters: &mut Counters) {
        let count = self.line.len() as u64;
        self.line = Line::default();
        self.places = Numbered::default();
        (self.held, self.framed) = (0, 0);
        counters.queued = counters.queued.wrapping_sub(count);
        counters.drop_out(Reason::PeerGone, count);
    }

    // ------------------------------------------------------------ what may be in flight

    /// Bytes that may be in flight.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// The same as of now: twice the bytes of a round trip. `acked`: bytes acknowledged so far; `round`: seconds
    /// until the acknowledgement of what leaves comes, if that is known.
    pub fn widen(&mut self, acked: u64, round: Option<f64>, now: f64) -> u64 {
        let passed = now - self.counted_at;
        if let Some(round) = round.filter(|round| passed >= f64::max(WINDOW_OVER, *round)) {
            let bytes = acked.saturating_sub(self.acked) as f64;
            let twice = 2.0 * bytes * round / passed;
            self.window = (twice as u64).clamp(LEAST_WINDOW, LARGEST_WINDOW);
            (self.counted_at, self.acked) = (now, acked);
        }
        self.window
    }
}

/// The number of a route as it begins a datagram: a varint of two bytes (RFC 9000 section 16).
fn head(route: u16) -> [u8; ROUTE_SIZE] {
    (0x4000 | route).to_be_bytes()
}

/// Route, and the datagram from its hop on; None: it begins with no varint of two bytes.
fn split(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (head, carried) = payload.split_first_chunk()?;
    let head = u16::from_be_bytes(*head);
    (head >> 14 == 1).then_some((head & 0x3FFF, carried))
}

/// Bytes of the frame that a copy takes.
fn framed(data: &[u8]) -> usize {
    data.len().saturating_add(DATAGRAM_OVERHEAD)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::vectors::{hex, list, load};

    fn number(value: &serde_json::Value) -> u16 {
        u16::try_from(value.as_u64().unwrap()).unwrap()
    }

    #[test]
    fn a_datagram_of_a_leg_becomes_the_trunks_and_reads_as_one_again() {
        let vectors = load(include_str!("../../../tests/vectors/trunk.json"));
        for case in list(&vectors["media"]) {
            let (mut trunk, mut counters) = (Trunk::new(1, false, None), Counters::default());
            let mut batch = Vec::new();
            let (leg, carried) = (hex(&case["leg"]), hex(&case["datagram"]));
            let route = number(&case["route"]);
            assert!(!trunk.enqueue(route, &leg, 1.0, &mut Pool::default(), &mut counters));
            trunk.batch(1.0, &mut batch, &mut Pool::default(), &mut counters);
            assert_eq!(batch, [(1.0, carried.clone())]);
            let (read, rest) = split(&carried).unwrap();
            assert_eq!((read, rest[0]), (route, HOP));
            let mut copy = rest.to_vec();
            let flow = u8::try_from(case["flow"].as_u64().unwrap()).unwrap();
            set_flow(&mut copy, flow, false);
            assert_eq!(copy, hex(&case["copy"]));
        }
    }

    #[test]
    fn a_datagram_that_passed_more_relays_is_of_a_later_version() {
        let vectors = load(include_str!("../../../tests/vectors/trunk.json"));
        for case in list(&vectors["hops"]) {
            let (mut trunk, mut counters) = (Trunk::new(1, false, None), Counters::default());
            let rights = Rights {
                pps: 50,
                up_bps: 64_000,
                down_bps: 0,
            };
            let data = hex(case);
            let (route, _) = split(&data).unwrap();
            let _ = trunk.open_route(route, 0, false, rights, 0.2);
            let verdict = trunk.receive(&data, false, 1.0, &mut counters);
            assert_eq!(verdict.err(), Some(Reason::HopLimit));
            assert_eq!((counters.media_in, counters.media_missing()), (1, (0, 0)));
        }
    }

    #[test]
    fn the_window_is_twice_what_comes_in_a_round_trip_within_its_bounds() {
        let mut trunk = Trunk::new(1, false, None);
        assert_eq!(trunk.widen(1_000_000, None, 100.0), LEAST_WINDOW);
        assert_eq!(trunk.widen(0, Some(0.1), 100.0), LEAST_WINDOW);
        // 1 MB in 125 ms: two fifths of it in a round trip of 50 ms.
        assert_eq!(trunk.widen(1_000_000, Some(0.05), 100.04), LEAST_WINDOW);
        assert_eq!(trunk.widen(1_000_000, Some(0.05), 100.125), 800_000);
        assert_eq!(trunk.window(), 800_000);
        assert_eq!(trunk.widen(1_000_000, Some(0.05), 100.25), LEAST_WINDOW);
        assert_eq!(trunk.widen(1 << 40, Some(0.2), 100.5), LARGEST_WINDOW);
        assert_eq!(trunk.widen(0, Some(9.0), 101.0), LARGEST_WINDOW);
        assert_eq!(trunk.widen(0, Some(0.4), 101.0), LEAST_WINDOW);
    }
}
