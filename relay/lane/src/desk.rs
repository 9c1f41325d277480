//! What Python changes: connections and their ids, legs, flows, routes.
//!
//! Each call takes effect before it returns, for all threads: a route that ended lets nothing pass any more,
//! not even a packet that another thread is just about to copy. Must never live here: packets.

use std::sync::Arc;

use crate::cid::Cid;
use crate::core::{Core, Leg, LegState};
use crate::counters::Counters;
use crate::flow::{FlowCounters, Target};
use crate::path::Path;
use crate::reason::Reason;
use crate::table::{Media, Rights};

/// There is no such leg, or flow of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    pub leg: u64,
    pub flow: Option<u8>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.flow {
            Some(flow) => write!(f, "a flow that is not open: leg {} flow {flow}", self.leg),
            None => write!(f, "no such leg: {}", self.leg),
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
        let fresh = || Arc::new(Leg::new(leg));
        legs.entry(leg).or_insert_with(fresh).clone()
    }

    /// Forget a leg that is neither a connection nor in the routing table.
    fn drop_unused(&self, leg: &Leg) {
        let mut legs = self.legs.write();
        let state = leg.state.lock();
        if !state.has_path && state.media.is_none() {
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
            state.has_path = true;
        }
        leg
    }

    /// A connection is over: its ids reach nobody, its keys are gone.
    pub fn close_path(&self, leg: u64) {
        let Ok(leg) = self.leg(leg) else {
            return;
        };
        let ids = {
            let mut state = leg.state.lock();
            state.path.close();
            state.has_path = false;
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
        let before = state.path.media_lost;
        let result = body(&mut state.path);
        let lost = state.path.media_lost.wrapping_sub(before);
        if lost > 0 {
            self.count(|counters| counters.count_lost(lost));
        }
        result
    }

    // ------------------------------------------------------------ the routing table

    /// Admit a leg with its token's budgets, or change them.
    pub fn open_leg(&self, leg: u64, rights: Rights) {
        let leg = self.leg_or_new(leg);
        let mut state = leg.state.lock();
        let LegState { media, epoch, .. } = &mut *state;
        match media {
            Some(media) => media.change(rights, self.config.burst_s),
            None => {
                *epoch = epoch.wrapping_add(1);
                *media = Some(Media::new(*epoch, rights, self.config.burst_s));
            }
        }
    }

    /// Forget a leg; copies still queued for it are dropped as peer_gone.
    pub fn close_leg(&self, leg: u64) {
        let Ok(leg) = self.leg(leg) else {
            return;
        };
        let gone = leg.state.lock().media.take();
        if let Some(mut gone) = gone {
            self.count(|counters| gone.abandon(counters));
            gone.all_targets().iter().for_each(|gone| unhear(gone));
        }
        self.drop_unused(&leg);
    }

    pub fn open_flow(&self, leg: u64, flow: u8, index: u32, group: bool) -> Result<(), Missing> {
        let owner = self.leg(leg)?;
        let replaced = {
            let mut state = owner.state.lock();
            let media = state.media.as_mut().ok_or(Missing { leg, flow: None })?;
            let replaced = media.targets(flow);
            media.open_flow(flow, index, group);
            replaced
        };
        replaced.iter().for_each(|replaced| unhear(replaced));
        Ok(())
    }

    /// Forget an uplink flow and return what was counted for it.
    pub fn close_flow(&self, leg: u64, flow: u8) -> FlowCounters {
        let Ok(leg) = self.leg(leg) else {
            return FlowCounters::default();
        };
        let (counters, targets) = {
            let mut state = leg.state.lock();
            let Some(media) = state.media.as_mut() else {
                return FlowCounters::default();
            };
            let targets = media.targets(flow);
            (media.close_flow(flow), targets)
        };
        targets.iter().for_each(|targets| unhear(targets));
        counters
    }

    /// Copy the flow to `targets` (leg, flow) from now on; none means drop, by the name in `closed`. Copies
    /// that wait for a target which is no longer named are dropped by that name too.
    pub fn route(
        &self,
        leg: u64,
        flow: u8,
        targets: &[(u64, u8)],
        closed: Option<Reason>,
    ) -> Result<(), Missing> {
        let missing = Missing {
            leg,
            flow: Some(flow),
        };
        let owner = self.leg(leg).map_err(|_| missing)?;
        let before = owner
            .state
            .lock()
            .media
            .as_ref()
            .and_then(|m| m.targets(flow));
        let before = before.ok_or(missing)?;
        let named: Result<Vec<Target>, Missing> = targets
            .iter()
            .map(|(number, out)| {
                let listener = self.leg(*number)?;
                let epoch = listener
                    .state
                    .lock()
                    .media
                    .as_ref()
                    .map(|media| media.epoch);
                let gone = Missing {
                    leg: *number,
                    flow: None,
                };
                Ok(Target::new(listener, epoch.ok_or(gone)?, *out))
            })
            .collect();
        let named: Arc<[Target]> = named?.into();
        let closed = closed.unwrap_or(Reason::GateClosed);
        for target in named.iter() {
            if !before.iter().any(|known| known.is_same(target)) {
                change_heard(target, Media::hear);
            }
        }
        {
            let mut state = owner.state.lock();
            let media = state.media.as_mut().ok_or(missing)?;
            media.route(flow, named.clone(), closed).ok_or(missing)?;
        }
        for target in before.iter() {
            if !named.iter().any(|kept| kept.is_same(target)) {
                self.end(target, closed);
            }
        }
        Ok(())
    }

    /// Copies for someone who may no longer hear them never leave.
    fn end(&self, target: &Target, reason: Reason) {
        target.end(reason);
        let mut state = target.leg.state.lock();
        if let Some(media) = state.media.as_mut().filter(|m| m.epoch == target.epoch) {
            media.unhear(target.out);
            self.count(|counters| media.purge(target.out, reason, counters));
        }
    }
}

fn unhear(targets: &[Target]) {
    for target in targets {
        change_heard(target, Media::unhear);
    }
}

/// Count a route to this listener, or one less; only Python's thread changes routes.
fn change_heard(target: &Target, change: fn(&mut Media, u8)) {
    let mut state = target.leg.state.lock();
    if let Some(media) = state.media.as_mut().filter(|m| m.epoch == target.epoch) {
        change(media, target.out);
    }
}
