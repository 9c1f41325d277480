//! What has the number of a route: found at once, however many there are, and in little room while there are few.
//!
//! Must never live here: what a route is, and who gave its number.

use std::mem::{replace, size_of};

/// Values by a small number.
pub struct Numbered<T> {
    /// By number: 1 + where its value stands; 0: it has none.
    places: Vec<u16>,
    all: Vec<(u16, T)>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            all: Vec::new(),
        }
    }
}

impl<T> Numbered<T> {
    fn place(&self, number: u16) -> Option<usize> {
        let place = self.places.get(usize::from(number))?;
        usize::from(*place).checked_sub(1)
    }

    pub fn get(&self, number: u16) -> Option<&T> {
        let (_, value) = self.all.get(self.place(number)?)?;
        Some(value)
    }

    pub fn get_mut(&mut self, number: u16) -> Option<&mut T> {
        let place = self.place(number)?;
        let (_, value) = self.all.get_mut(place)?;
        Some(value)
    }

    /// The first value from this number on, with its number.
    pub fn next_mut(&mut self, number: u16) -> Option<(u16, &mut T)> {
        let mut rest = self.places.get(usize::from(number)..)?.iter();
        let place = rest.find(|place| **place != 0)?;
        let (number, value) = self.all.get_mut(usize::from(*place).checked_sub(1)?)?;
        Some((*number, value))
    }

    /// The value that the number had before, if any.
    pub fn insert(&mut self, number: u16, value: T) -> Option<T> {
        if let Some(known) = self.get_mut(number) {
            return Some(replace(known, value));
        }
        let index = usize::from(number);
        if self.places.len() <= index {
            self.places.resize(index.saturating_add(1), 0);
        }
        self.all.push((number, value));
        self.note(number, self.all.len());
        None
    }

    pub fn remove(&mut self, number: u16) -> Option<T> {
        let place = self.place(number)?;
        self.note(number, 0);
        let (_, gone) = self.all.swap_remove(place);
        let moved = self.all.get(place).map(|(number, _)| *number);
        if let Some(moved) = moved {
            self.note(moved, place.saturating_add(1));
        }
        Some(gone)
    }

    fn note(&mut self, number: u16, place: usize) {
        if let Some(known) = self.places.get_mut(usize::from(number)) {
            // There are no more values than numbers, of which the last is given to nobody.
            *known = u16::try_from(place).unwrap_or(0);
        }
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.all.iter().map(|(_, value)| value)
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap(&self) -> usize {
        let places = self.places.capacity().saturating_mul(size_of::<u16>());
        let all = self.all.capacity().saturating_mul(size_of::<(u16, T)>());
        places.saturating_add(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(acts in prop::collection::vec((0_u8..3, 60_u16..90, any::<u32>()), 0..200)) {
            let (mut ours, mut known) = (Numbered::default(), HashMap::new());
            for (act, number, value) in acts {
                match act {
                    0 => prop_assert_eq!(ours.remove(number), known.remove(&number)),
                    _ => prop_assert_eq!(ours.insert(number, value), known.insert(number, value)),
                }
                for number in 0..100 {
                    prop_assert_eq!(ours.get(number), known.get(&number));
                    prop_assert_eq!(ours.get_mut(number), known.get_mut(&number));
                }
                let (mut from, mut found) = (0, Vec::new());
                while let Some((number, value)) = ours.next_mut(from) {
                    found.push((number, *value));
                    from = number + 1;
                }
                let mut pairs: Vec<_> = known.iter().map(|(number, value)| (*number, *value)).collect();
                pairs.sort_unstable();
                prop_assert_eq!(found, pairs);
                let mut values: Vec<_> = ours.values().collect();
                let mut expected: Vec<_> = known.values().collect();
                values.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(values, expected);
            }
        }
    }

    #[test]
    fn room_is_taken_up_to_the_highest_number() {
        let mut ours = Numbered::default();
        assert_eq!((ours.heap(), ours.get(u16::MAX)), (0, None));
        ours.insert(16383, 7_u8);
        assert!(
            (32 * 1024..80 * 1024).contains(&ours.heap()),
            "{}",
            ours.heap()
        );
        assert_eq!(ours.remove(u16::MAX), None);
    }
}
