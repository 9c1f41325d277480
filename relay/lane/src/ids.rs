//! Whose a connection id is: open addressing in one piece of memory, so that where an id stands can be asked for
//! before it is read, and many at once. Must never live here: locks, and what an id says about a node.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::hash::BuildHasher;
use std::mem;
use std::ptr;

use crate::cid::{Cid, Seeded};
use crate::socket::prefetch;

/// The fewest places; always a power of two, and at most half of them are taken.
const LEAST: usize = 64;

/// A map of ids.
pub struct Ids<T> {
    slots: Vec<Option<(Cid, T)>>,
    count: usize,
    hasher: Seeded,
}

impl<T> Default for Ids<T> {
    fn default() -> Self {
        Self {
            slots: empty(LEAST),
            count: 0,
            hasher: Seeded::default(),
        }
    }
}

fn empty<T>(size: usize) -> Vec<Option<T>> {
    (0..size).map(|_| None).collect()
}

impl<T> Ids<T> {
    /// `get` of this id comes soon.
    pub fn prefetch(&self, id: &Cid) {
        if let Some(slot) = self.slots.get(self.home(id)) {
            prefetch(ptr::from_ref(slot).addr(), mem::size_of_val(slot));
        }
    }

    pub fn get(&self, id: &Cid) -> Option<&T> {
        let slot = self.slots.get(self.find(id))?.as_ref();
        slot.map(|(_, value)| value)
    }

    /// What stood there before.
    pub fn insert(&mut self, id: Cid, value: T) -> Option<T> {
        if self.count.saturating_mul(2) >= self.slots.len() {
            let larger = empty(self.slots.len().saturating_mul(2));
            for (id, value) in mem::replace(&mut self.slots, larger).into_iter().flatten() {
                self.put(id, value);
            }
        }
        let before = self.put(id, value);
        if before.is_none() {
            self.count = self.count.saturating_add(1);
        }
        before
    }

    pub fn remove(&mut self, id: &Cid) -> Option<T> {
        let mut hole = self.find(id);
        let (_, value) = self.slots.get_mut(hole)?.take()?;
        self.count = self.count.saturating_sub(1);
        // whatever could not stand where it belongs because of this one moves up
        let mut at = hole;
        loop {
            at = self.after(at);
            let Some(Some((other, _))) = self.slots.get(at) else {
                return Some(value);
            };
            let home = self.home(other);
            let mask = self.slots.len().wrapping_sub(1);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.slots.swap(hole, at);
                hole = at;
            }
        }
    }

    fn put(&mut self, id: Cid, value: T) -> Option<T> {
        let at = self.find(&id);
        let before = self.slots.get_mut(at)?.replace((id, value));
        before.map(|(_, value)| value)
    }

    /// Where this id stands, or the free place where it would.
    fn find(&self, id: &Cid) -> usize {
        let mut at = self.home(id);
        while let Some(Some((known, _))) = self.slots.get(at) {
            if known == id {
                break;
            }
            at = self.after(at);
        }
        at
    }

    fn home(&self, id: &Cid) -> usize {
        self.hasher.hash_one(id) as usize & self.slots.len().wrapping_sub(1)
    }

    fn after(&self, at: usize) -> usize {
        at.wrapping_add(1) & self.slots.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds(steps in prop::collection::vec((any::<bool>(), 0_u8..120), 0..600)) {
            let mut plain = HashMap::new();
            let mut ids = Ids::default();
            for (number, (adds, id)) in steps.into_iter().enumerate() {
                let bytes = vec![id; usize::from(id % 21)];
                let cid = Cid::new(&bytes).unwrap();
                if adds {
                    prop_assert_eq!(ids.insert(cid, number), plain.insert(bytes, number));
                } else {
                    prop_assert_eq!(ids.remove(&cid), plain.remove(&bytes));
                }
                prop_assert_eq!(ids.count, plain.len());
            }
            for id in 0_u8..120 {
                let bytes = vec![id; usize::from(id % 21)];
                let cid = Cid::new(&bytes).unwrap();
                ids.prefetch(&cid);
                prop_assert_eq!(ids.get(&cid), plain.get(&bytes));
            }
        }
    }
}
