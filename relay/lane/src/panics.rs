//! Panics, each a bug of ours that a thread survives (core, worker): counted, for the loop to tell.
//!
//! What Rust's library would print of each has ten lines, and where every turn panics there are a hundred a
//! second. Must never live here: what is done about them.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::panic::{self, Location};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

static COUNT: AtomicU64 = AtomicU64::new(0);
static PLACE: Mutex<String> = Mutex::new(String::new());

/// From now on panics of this library are counted and print nothing.
pub fn count() {
    panic::set_hook(Box::new(|info| note(info.location())));
}

/// How many there were, and where the last one was: file and line, no values.
pub fn seen() -> (u64, String) {
    (COUNT.load(Ordering::Relaxed), PLACE.lock().clone())
}

fn note(place: Option<&Location<'_>>) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let (Some(place), Some(mut last)) = (place, PLACE.try_lock()) else {
        return; // another thread panics at this moment: one place of the two is enough
    };
    *last = format!("{}:{}", place.file(), place.line());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_and_the_last_has_a_place() {
        let before = seen().0;
        note(None);
        let here = Location::caller();
        note(Some(here));
        let (count, place) = seen();
        assert_eq!(count - before, 2);
        assert_eq!(place, format!("{}:{}", file!(), here.line()));
    }
}
