//! A line: who came first is at its head, and whoever stands in it may leave, at once either way.
//!
//! Must never live here: what stands in it, and when that leaves.

use std::mem::size_of;

/// Where something stands, until it leaves.
pub type Place = u32;
const NOWHERE: Place = Place::MAX;
/// An empty line with more room than this gives it back.
const SPARE: usize = 1024;

struct Slot<T> {
    before: Place,
    /// Of one that is free: the next free one.
    after: Place,
    value: Option<T>,
}

/// Values in the order in which they came.
pub struct Line<T> {
    slots: Vec<Slot<T>>,
    free: Place,
    first: Place,
    last: Place,
    count: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: NOWHERE,
            first: NOWHERE,
            last: NOWHERE,
            count: 0,
        }
    }
}

impl<T> Line<T> {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn slot(&mut self, at: Place) -> Option<&mut Slot<T>> {
        self.slots.get_mut(at as usize)
    }

    /// Who came first of those that are here, and where it stands.
    pub fn first(&self) -> Option<(Place, &T)> {
        let slot = self.slots.get(self.first as usize)?;
        Some((self.first, slot.value.as_ref()?))
    }

    /// Behind all others.
    pub fn push(&mut self, value: T) -> Place {
        let slot = Slot {
            before: self.last,
            after: NOWHERE,
            value: Some(value),
        };
        let at = self.take_free(slot);
        match self.slot(self.last) {
            Some(last) => last.after = at,
            None => self.first = at,
        }
        self.last = at;
        self.count = self.count.saturating_add(1);
        at
    }

    fn take_free(&mut self, slot: Slot<T>) -> Place {
        let at = self.free;
        if let Some(free) = self.slots.get_mut(at as usize) {
            self.free = free.after;
            *free = slot;
            return at;
        }
        self.slots.push(slot);
        // Memory ends long before the numbers do.
        Place::try_from(self.slots.len().saturating_sub(1)).unwrap_or(NOWHERE)
    }

    /// What stands there, which leaves; None: nothing.
    pub fn remove(&mut self, at: Place) -> Option<T> {
        let free = self.free;
        let slot = self.slot(at)?;
        let value = slot.value.take()?;
        let (before, after) = (slot.before, slot.after);
        slot.after = free;
        self.free = at;
        match self.slot(before) {
            Some(slot) => slot.after = after,
            None => self.first = after,
        }
        match self.slot(after) {
            Some(slot) => slot.before = before,
            None => self.last = before,
        }
        self.count = self.count.saturating_sub(1);
        if self.is_empty() && self.slots.capacity() > SPARE {
            *self = Self::default();
        }
        Some(value)
    }

    /// Those that are here, the first first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let mut at = self.first;
        std::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            at = slot.after;
            slot.value.as_ref()
        })
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap(&self) -> usize {
        self.slots.capacity().saturating_mul(size_of::<Slot<T>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_stands_as_a_list_would(acts in prop::collection::vec((0_u8..4, any::<prop::sample::Index>()), 0..300)) {
            let mut line = Line::default();
            let mut known: Vec<(Place, usize)> = Vec::new();
            for (number, (act, which)) in acts.into_iter().enumerate() {
                if act < 2 || known.is_empty() {
                    known.push((line.push(number), number));
                } else {
                    let at = if act == 2 { 0 } else { which.index(known.len()) };
                    let (place, value) = known.remove(at);
                    prop_assert_eq!(line.remove(place), Some(value));
                    prop_assert_eq!(line.remove(place), None);
                }
                let expected: Vec<_> = known.iter().map(|(_, value)| *value).collect();
                prop_assert_eq!(line.iter().copied().collect::<Vec<_>>(), expected);
                prop_assert_eq!(line.first().map(|(place, value)| (place, *value)), known.first().copied());
                prop_assert_eq!((line.len(), line.is_empty()), (known.len(), known.is_empty()));
            }
        }
    }

    #[test]
    fn places_are_used_again_and_much_room_is_given_back() {
        let mut line = Line::default();
        for turn in 0..10_000 {
            let at = line.push(turn);
            assert_eq!(line.remove(at), Some(turn));
        }
        let one = line.heap();
        assert!(one < 1024, "{one}");
        let places: Vec<Place> = (0..5000).map(|number| line.push(number)).collect();
        assert!(line.heap() > one);
        for place in places {
            line.remove(place);
        }
        assert_eq!((line.heap(), line.remove(0)), (0, None));
    }
}
