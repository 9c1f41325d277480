//! What Python changes: connections and their ids, legs, flows, routes.
//!
//! Each call takes effect before it returns, for all threads: a route or flow that ended lets nothing pass any
//! more, neither what waits nor a packet that another thread is just about to copy. Out of reach is only what a
//! thread sealed already and did not send yet: it leaves by the end of that thread's turn, which is bounded (256
//! packets of a socket, and all media is sent before any stranger is judged). Must never live here: packets.

use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::cid::Cid;
use crate::core::{Core, Leg, LegState, Stream, COUNTS};
use crate::counters::Counters;
use crate::flight::Fates;
use crate::flow::{FlowCounters, Target, Targets};
use crate::hop::Came;
use crate::path::{Path, Trouble};
use crate::reason::Reason;
use crate::repeats::{Ring, Rule, Tally};
use crate::rtt::Sample;
use crate::table::{Media, Rights, Shape};
use crate::trunk::{is_route, Trunk, Whole};

/// Legs made at a time: some 200 kB.
const NURSERY: usize = 64;

/// What the lane knows of the way to one listener; all but the middle three count up since the leg began.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    pub leg: u64,
    pub fates: Fates,
    /// What the listener takes to acknowledge, seconds; 95 of 100 take no longer.
    pub ack_delay: f64,
    /// Seconds since the oldest copy came that waits here; 0: none.
    pub age: f64,
    pub rtt: Option<Sample>,
    pub repairs: Tally,
    /// Packets of its own that came as repeats alone.
    pub mended: u64,
}

/// There is no such leg, or flow or route of it, that could be used so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    pub leg: u64,
    pub flow: Option<u16>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.flow {
            Some(flow) => write!(f, "a flow that is not open: leg {} flow {flow}", self.leg),
            None => write!(f, "no such leg: {}", self.leg),
        }
    }
}

impl LegState {
    /// Who hears a flow or route; None when there is none of that number.
    fn targets(&self, flow: u16) -> Option<Targets> {
        match (&self.media, &self.trunk) {
            (Some(media), _) => media.targets(u8::try_from(flow).ok()?),
            (None, trunk) => trunk.as_ref()?.targets(flow),
        }
    }
}

impl Core {
    fn leg(&self, leg: u64) -> Result<Arc<Leg>, Missing> {
        let missing = Missing { leg, flow: None };
        self.legs.read().get(&leg).cloned().ok_or(missing)
    }

    fn leg_or_new(&self, leg: u64) -> Arc<Leg> {
        let mut legs = self.legs.write();
        let fresh = || self.fresh_leg(leg);
        legs.entry(leg).or_insert_with(fresh).clone()
    }

    /// A leg from the nursery. Made one after the other they mostly lie side by side; made with each connection
    /// they would lie as far apart as all that aioquic keeps of it, and the page tables would not fit the caches.
    fn fresh_leg(&self, number: u64) -> Arc<Leg> {
        let mut nursery = self.nursery.lock();
        loop {
            let Some(mut leg) = nursery.pop() else {
                nursery.extend((0..NURSERY).map(|_| Arc::new(Leg::new(0))));
                continue;
            };
            if let Some(mine) = Arc::get_mut(&mut leg) {
                mine.number = number; // nobody else ever had it
                return leg;
            }
        }
    }

    /// Forget a leg that is neither a connection nor in the routing table.
    fn drop_unused(&self, leg: &Leg) {
        let mut legs = self.legs.write();
        let state = leg.state.lock();
        let is_routed = state.media.is_some() || state.trunk.is_some();
        if !state.has_path && state.stream == Stream::No && !is_routed {
            legs.remove(&leg.number);
        }
    }

    fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.shared.lock().counters);
    }

    // ------------------------------------------------------------ connections

    /// A connection begins; its path is in the leg.
    pub fn open_path(&self, leg: u64) -> Arc<Leg> {
        let leg = self.leg_or_new(leg);
        {
            let mut state = leg.state.lock();
            state.path = Path::default();
            state.ring = None;
            state.has_path = true;
        }
        leg
    }

    /// A leg without packets begins: its copies wait for `drain`.
    pub fn open_stream(&self, leg: u64) {
        self.leg_or_new(leg).state.lock().stream = Stream::Quiet;
    }

    /// A connection or stream is over: its ids reach nobody, its keys are gone.
    pub fn close_path(&self, leg: u64) {
        let Ok(leg) = self.leg(leg) else {
            return;
        };
        let ids = {
            let mut state = leg.state.lock();
            state.path.close();
            state.has_path = false;
            state.stream = Stream::No;
            self.repair(&mut state, Ring::clear);
            if let Some(trunk) = state.trunk.as_mut() {
                self.count(|counters| trunk.abandon(counters));
            }
            std::mem::take(&mut state.ids)
        };
        let mut all = self.ids.write();
        for id in ids {
            if all.get(&id).is_some_and(|owner| Arc::ptr_eq(owner, &leg)) {
                all.remove(&id);
            }
        }
        drop(all);
        self.drop_unused(&leg);
    }

    /// Packets to this id are the leg's.
    pub fn own(&self, leg: u64, id: Cid) -> Result<(), Missing> {
        self.disown(id);
        let leg = self.leg(leg)?;
        leg.state.lock().ids.push(id);
        self.ids.write().insert(id, leg);
        Ok(())
    }

    /// Packets to this id are nobody's.
    pub fn disown(&self, id: Cid) {
        let owner = self.ids.write().remove(&id);
        if let Some(owner) = owner {
            owner.state.lock().ids.retain(|known| *known != id);
        }
    }

    /// Change or read a leg's path. What it counts as lost by that becomes everybody's.
    pub fn with_path<T>(&self, leg: &Leg, body: impl FnOnce(&mut Path) -> T) -> T {
        let mut state = leg.state.lock();
        let before = state.path.lost();
        let result = body(&mut state.path);
        let lost = state.path.lost().wrapping_sub(before);
        if lost > 0 {
            self.count(|counters| counters.count_lost(lost));
        }
        result
    }

    /// May a packet of media leave this leg now?
    pub fn has_room(&self, leg: &Leg, now: f64) -> bool {
        let window = leg.state.lock().trunk.as_ref().map(|trunk| trunk.window());
        self.with_path(leg, |path| match window {
            Some(window) => path.room_within(window, now),
            None => path.room(now),
        })
    }

    /// An ACK that aioquic took settles packets of ours (ranges newest first, half-open).
    pub fn acknowledged(&self, leg: &Leg, ranges: &[(u64, u64)], delay: u64, now: f64) {
        self.with_path(leg, |path| path.acknowledged(ranges, delay, now));
        let mut state = leg.state.lock();
        self.repair(&mut state, |ring| ring.acknowledged(ranges));
    }

    // ------------------------------------------------------------ repair

    /// From now on copies that this listener missed go again like this. After a rule that is none the leg is as
    /// one that was never told.
    pub fn tell_repair(&self, leg: u64, rule: Rule) {
        let Ok(leg) = self.leg(leg) else {
            return;
        };
        let mut state = leg.state.lock();
        if rule.is_none() {
            self.repair(&mut state, Ring::clear);
            state.ring = None;
        } else if state.has_path && state.trunk.is_none() {
            state.ring.get_or_insert_default();
            self.repair(&mut state, |ring| ring.tell(rule));
        }
    }

    /// From now on a leg hears like this.
    pub fn form(&self, leg: u64, shape: Shape) {
        if let Ok(owner) = self.leg(leg) {
            if let Some(media) = owner.state.lock().media.as_mut() {
                media.form(shape);
            }
        }
    }

    /// Legs to measure: something went wrong on their ways since they were measured last. Each once.
    pub fn troubled(&self) -> Vec<u64> {
        let mut troubled = std::mem::take(&mut self.shared.lock().troubled);
        troubled.sort_unstable(); // threads note them in any order
        troubled
    }

    /// Change what a leg may repeat, if anything. What is counted by that becomes everybody's.
    fn repair(&self, state: &mut LegState, body: impl FnOnce(&mut Ring)) {
        if let Some(ring) = state.ring.as_mut() {
            body(ring);
            self.count(|counters| ring.settle(&mut counters.repairs));
        }
    }

    /// What is known of the ways to these listeners, in this order, without those that have no path.
    pub fn measure(&self, legs: &[u64], now: f64) -> Vec<Measure> {
        let known: Vec<Arc<Leg>> = {
            let all = self.legs.read();
            let known = legs.iter().filter_map(|leg| all.get(leg).cloned());
            known.collect()
        };
        let each = known.iter().filter_map(|leg| {
            let mut state = leg.state.lock();
            if state.path.trouble == Trouble::Noted {
                state.path.trouble = Trouble::None;
            }
            let oldest = match (&state.media, &state.trunk) {
                (Some(media), _) => media.oldest(),
                (None, trunk) => trunk.as_deref().and_then(Trunk::oldest),
            };
            state.has_path.then(|| Measure {
                leg: leg.number,
                fates: state.path.fates(),
                ack_delay: state.path.rtt.ack_delay,
                age: oldest.map_or(0.0, |oldest| f64::max(0.0, now - oldest)),
                rtt: state.path.rtt.now,
                repairs: state
                    .ring
                    .as_ref()
                    .map_or_else(Tally::default, |ring| *ring.tally()),
                mended: state.media.as_ref().map_or(0, Media::mended),
            })
        });
        each.collect()
    }

    // ------------------------------------------------------------ the routing table

    /// Admit a leg with its token's budgets, or change them. Nothing for a trunk: its routes have budgets.
    pub fn open_leg(&self, leg: u64, rights: Rights) {
        let leg = self.leg_or_new(leg);
        let mut state = leg.state.lock();
        if state.trunk.is_some() {
            return;
        }
        let LegState { media, lives, .. } = &mut *state;
        match media {
            Some(media) => media.change(rights, self.config.burst_s),
            None => {
                *lives = lives.wrapping_add(1);
                let epoch = u64::from(*lives);
                *media = Some(Media::new(epoch, rights, self.config.burst_s));
            }
        }
    }

    /// Forget a leg; copies still queued for it are dropped as peer_gone, its flows end.
    pub fn close_leg(&self, leg: u64) {
        let Ok(leg) = self.leg(leg) else {
            return;
        };
        let (media, trunk) = {
            let mut state = leg.state.lock();
            self.repair(&mut state, Ring::clear);
            (state.media.take(), state.trunk.take())
        };
        if let Some(mut gone) = trunk {
            self.count(|counters| gone.abandon(counters));
            self.abandon(gone.ways().into_iter().flatten());
            if let Some(whole) = &gone.of {
                let mut state = whole.leg.state.lock();
                let trunk = state.trunk.as_mut();
                if let Some(trunk) = trunk.filter(|trunk| trunk.epoch == whole.epoch) {
                    trunk.part(&leg);
                }
            }
            gone.all_targets()
                .iter()
                .for_each(|gone| self.end_all(gone));
        }
        if let Some(mut gone) = media {
            self.count(|counters| gone.abandon(counters));
            gone.all_targets()
                .iter()
                .for_each(|gone| self.end_all(gone));
        }
        self.drop_unused(&leg);
    }

    /// Accept an uplink flow; one of the same number ends.
    pub fn open_flow(&self, leg: u64, flow: u8, index: u32, group: bool) -> Result<(), Missing> {
        let owner = self.leg(leg)?;
        let replaced = {
            let mut state = owner.state.lock();
            let media = state.media.as_mut().ok_or(Missing { leg, flow: None })?;
            let replaced = media.targets(flow);
            media.open_flow(flow, index, group);
            replaced
        };
        replaced.iter().for_each(|replaced| self.end_all(replaced));
        Ok(())
    }

    /// A connection to another node: until `close_leg` its flows are routes, and its packets hold many datagrams.
    /// `second`: by which of two paths it goes.
    pub fn open_trunk(&self, leg: u64, second: bool) -> Result<(), Missing> {
        let missing = Missing { leg, flow: None };
        let leg = self.leg(leg)?;
        let mut state = leg.state.lock();
        if !state.has_path || state.media.is_some() {
            return Err(missing);
        }
        self.begin_trunk(&mut state, second, None);
        Ok(())
    }

    /// One more connection of a trunk, until `close_leg`: what leaves on its routes leaves by each, and what comes
    /// by this one is judged as what comes by that.
    pub fn join_trunk(&self, leg: u64, trunk: u64, second: bool) -> Result<(), Missing> {
        let missing = Missing { leg, flow: None };
        let way = self.leg(leg)?;
        let whole = self.leg(trunk)?;
        let epoch = {
            let state = whole.state.lock();
            let trunk = state.trunk.as_ref().filter(|trunk| trunk.of.is_none());
            trunk.map(|trunk| trunk.epoch).ok_or(missing)?
        };
        {
            let mut state = way.state.lock();
            if !state.has_path || state.media.is_some() || state.trunk.is_some() {
                return Err(missing);
            }
            let leg = whole.clone();
            self.begin_trunk(&mut state, second, Some(Whole { leg, epoch }));
        }
        let replaced = {
            let mut state = whole.state.lock();
            let trunk = state.trunk.as_mut();
            let trunk = trunk.filter(|trunk| trunk.epoch == epoch);
            trunk.and_then(|trunk| trunk.join(&way, second))
        };
        self.abandon(replaced.into_iter());
        Ok(())
    }

    /// What waits for these connections of a trunk goes.
    fn abandon(&self, ways: impl Iterator<Item = Arc<Leg>>) {
        for way in ways {
            if let Some(trunk) = way.state.lock().trunk.as_mut() {
                self.count(|counters| trunk.abandon(counters));
            }
        }
    }

    fn begin_trunk(&self, state: &mut LegState, second: bool, of: Option<Whole>) {
        self.repair(state, Ring::clear);
        state.ring = None;
        if state.trunk.is_none() {
            state.lives = state.lives.wrapping_add(1);
            let trunk = Trunk::new(u64::from(state.lives), second, of);
            state.trunk = Some(Box::new(trunk));
        }
    }

    /// Accept what comes on a route of a trunk from participant `index`, within the speaker's budgets; another
    /// one of that number ends.
    pub fn open_route(
        &self,
        leg: u64,
        route: u16,
        index: u32,
        group: bool,
        speaker: Rights,
    ) -> Result<(), Missing> {
        let missing = Missing {
            leg,
            flow: Some(route),
        };
        let owner = self.leg(leg)?;
        let replaced = {
            let mut state = owner.state.lock();
            let trunk = state.trunk.as_mut();
            let trunk = trunk.filter(|trunk| trunk.of.is_none() && is_route(route));
            let trunk = trunk.ok_or(missing)?;
            trunk.open_route(route, index, group, speaker, self.config.burst_s)
        };
        replaced.iter().for_each(|replaced| self.end_all(replaced));
        Ok(())
    }

    /// Tell the loop of gaps in an uplink flow from now on.
    pub fn watch_flow(&self, leg: u64, flow: u8) -> Result<(), Missing> {
        let owner = self.leg(leg)?;
        if let Some(media) = owner.state.lock().media.as_mut() {
            media.watch_flow(flow);
        }
        Ok(())
    }

    /// Forget an uplink flow and return what was counted for it; its copies that still wait never leave.
    pub fn close_flow(&self, leg: u64, flow: u16) -> FlowCounters {
        let Ok(leg) = self.leg(leg) else {
            return FlowCounters::default();
        };
        let (counters, targets) = {
            let mut guard = leg.state.lock();
            let state = &mut *guard;
            let Some(targets) = state.targets(flow) else {
                return FlowCounters::default();
            };
            let counters = match (state.media.as_mut(), state.trunk.as_mut(), flow as u8) {
                (Some(media), _, flow) => media.close_flow(flow),
                (None, Some(trunk), _) => trunk.close_route(flow),
                (None, None, _) => FlowCounters::default(),
            };
            (counters, targets)
        };
        self.end_all(&targets);
        counters
    }

    /// Since when somebody hears a flow, and how many datagrams of it.
    pub fn heard(&self, leg: u64, flow: u16) -> Option<(f64, u64)> {
        let leg = self.leg(leg).ok()?;
        let state = leg.state.lock();
        match (&state.media, &state.trunk) {
            (Some(media), _) => media.heard(u8::try_from(flow).ok()?),
            (None, trunk) => trunk.as_ref()?.heard(flow),
        }
    }

    /// What came on routes of a trunk since they were counted last: at most so many lines, from `first` on.
    pub fn count_routes(&self, leg: u64, first: u16, most: usize) -> Vec<Came> {
        let Ok(leg) = self.leg(leg) else {
            return Vec::new();
        };
        let mut state = leg.state.lock();
        let trunk = state.trunk.as_mut();
        trunk.map_or_else(Vec::new, |trunk| trunk.count_routes(first, most))
    }

    /// Copy the flow to `targets` (leg, flow) from now on; none means drop, by the name in `closed`. Copies
    /// that wait for a target which is no longer named are dropped by that name too. When a target is missing
    /// nobody hears the flow any more: those it had may be the ones who shall not. Of a trunk the flow is a
    /// route; so is that of a target, which no route of a trunk may have: a voice passes two relays at most.
    pub fn route(
        &self,
        leg: u64,
        flow: u16,
        targets: &[(u64, u16)],
        closed: Option<Reason>,
    ) -> Result<(), Missing> {
        let missing = Missing {
            leg,
            flow: Some(flow),
        };
        let owner = self.leg(leg).map_err(|_| missing)?;
        let (before, is_carried) = {
            let state = owner.state.lock();
            (state.targets(flow), state.trunk.is_some())
        };
        let before = before.ok_or(missing)?;
        let named: Result<Vec<Arc<Target>>, Missing> = targets
            .iter()
            .map(|(number, out)| {
                let target = self.target(*number, *out, is_carried)?;
                let known = before.iter().find(|known| known.is_same(&target));
                Ok(known.cloned().unwrap_or_else(|| Arc::new(target)))
            })
            .collect();
        let closed = closed.unwrap_or(Reason::GateClosed);
        let (named, verdict): (Targets, _) = match named {
            Ok(named) => (named.into(), Ok(())),
            Err(missing) => (Arc::new([]), Err(missing)),
        };
        {
            let mut guard = owner.state.lock();
            let state = &mut *guard;
            let routed = match (state.media.as_mut(), state.trunk.as_mut(), flow as u8) {
                (Some(media), _, flow) => media.route(flow, named.clone(), closed),
                (None, Some(trunk), _) => trunk.route(flow, named.clone(), closed),
                (None, None, _) => None,
            };
            routed.ok_or(missing)?;
        }
        if let Some(first) = named.first() {
            let places = [ptr::from_ref(first).addr(), Arc::as_ptr(first).addr()];
            let [list, target] = places.map(|place| place.wrapping_sub(COUNTS));
            for (hint, place) in owner.hints.iter().zip([first.leg.place(), list, target]) {
                hint.store(place, Ordering::Relaxed);
            }
        }
        for target in before.iter() {
            if !named.iter().any(|kept| Arc::ptr_eq(kept, target)) {
                self.end(target, closed);
            }
        }
        verdict
    }

    /// `is_carried`: what is heard came by a trunk, and leaves by legs only.
    fn target(&self, leg: u64, out: u16, is_carried: bool) -> Result<Target, Missing> {
        let listener = self.leg(leg)?;
        let epoch = {
            let state = listener.state.lock();
            match (&state.media, &state.trunk) {
                (Some(media), _) if u8::try_from(out).is_ok() => Some(media.epoch),
                (None, Some(trunk)) if trunk.of.is_none() && !is_carried && is_route(out) => {
                    Some(trunk.epoch)
                }
                _ => None,
            }
        };
        let epoch = epoch.ok_or(Missing { leg, flow: None })?;
        Ok(Target::new(listener, epoch, out))
    }

    /// Copies for someone who may no longer hear them never leave.
    fn end(&self, target: &Target, reason: Reason) {
        target.end(reason);
        let mut guard = target.leg.state.lock();
        let state = &mut *guard;
        if let Some(media) = state.media.as_mut().filter(|m| m.epoch == target.epoch) {
            self.count(|counters| media.purge(target.flow(), reason, counters));
            self.repair(state, |ring| ring.end(target.flow()));
        } else if let Some(trunk) = state.trunk.as_mut().filter(|t| t.epoch == target.epoch) {
            self.count(|counters| trunk.purge(target.out, reason, counters));
            let ways = trunk.ways();
            drop(guard); // nobody holds the locks of two legs
            for way in ways.into_iter().flatten() {
                if let Some(trunk) = way.state.lock().trunk.as_mut() {
                    self.count(|counters| trunk.purge(target.out, reason, counters));
                }
            }
        }
    }

    /// The flow that these heard is over.
    fn end_all(&self, targets: &[Arc<Target>]) {
        for target in targets {
            self.end(target, Reason::GateClosed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::CoreConfig;

    const PLENTY: Rights = Rights {
        pps: 1000,
        up_bps: 1_000_000,
        down_bps: 1_000_000,
    };

    /// Flow 1 of leg 1, which leg 2 hears; and what a thread may have in hand.
    fn routed() -> (Core, Targets) {
        let core = Core::new(CoreConfig::default());
        core.open_leg(1, PLENTY);
        core.open_leg(2, PLENTY);
        core.open_leg(3, PLENTY);
        core.open_flow(1, 1, 0, false).unwrap();
        core.route(1, 1, &[(2, 5)], None).unwrap();
        let leg = core.leg(1).unwrap();
        let targets = leg.state.lock().media.as_ref().unwrap().targets(1);
        (core, targets.unwrap())
    }

    #[test]
    fn a_route_that_ended_is_ended_for_who_read_it_two_changes_ago() {
        let (core, in_hand) = routed();
        core.route(1, 1, &[(3, 5), (2, 5)], None).unwrap();
        assert_eq!(in_hand[0].ended(), None);
        core.route(1, 1, &[(3, 5)], Some(Reason::Muted)).unwrap();
        assert_eq!(in_hand[0].ended(), Some(Reason::Muted));
        core.route(1, 1, &[(2, 5)], None).unwrap();
        assert_eq!(in_hand[0].ended(), Some(Reason::Muted), "a new consent");
    }

    #[test]
    fn a_flow_or_leg_that_ended_lets_nothing_in_that_a_thread_has_in_hand() {
        let (core, in_hand) = routed();
        core.close_flow(1, 1);
        assert!(in_hand[0].ended().is_some());
        let (core, in_hand) = routed();
        core.open_flow(1, 1, 0, false).unwrap();
        assert!(in_hand[0].ended().is_some());
        let (core, in_hand) = routed();
        core.close_leg(1);
        assert!(in_hand[0].ended().is_some());
        assert!(core.leg(1).is_err());
    }
}
