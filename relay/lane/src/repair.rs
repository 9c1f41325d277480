//! Which packets go again beside one that leaves anyway: the rule that relay and client both keep.
//!
//! The same arithmetic in the same order as `relay/protocol/repair.py`, and the vectors of
//! tests/vectors/repair.json. Times are seconds of one monotonic clock. Must never live here: state, rings of
//! packets, what a network bears (the limits are arguments).
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::few::Few;
use crate::media::{Header, MIN_SEALED};

/// Repeats in one packet: a third is hardly ever the one that is missed.
pub const MOST: usize = 2;
/// Bytes of Opus: what is shorter is silence.
const LEAST_VOICE: usize = 10;
const RTTVAR_FACTOR: f64 = 4.0;
/// RFC 9002 section 6.1.2.
const GRANULARITY: f64 = 0.001;
/// Drop classes that are never repeated: comfort noise, and what is redundancy itself.
const COMFORT: u8 = 1;
const REDUNDANT: u8 = 2;

/// A packet that was sent to the peer and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// When its time began to run.
    pub came: f64,
    pub first_sent: f64,
    /// Bytes that it takes in a packet, frame header included.
    pub size: usize,
    /// See `is_worth`.
    pub worth: bool,
}

/// What is known of the way to the peer and of its listener.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Smoothed.
    pub rtt: f64,
    pub rttvar: f64,
    /// How long the peer may hold an acknowledgement.
    pub ack_slack: f64,
    /// What is older would come too late to be played.
    pub max_age: f64,
}

/// What to do before the packet leaves: places in, or counters of, what was given.
#[derive(Debug, Default, PartialEq)]
pub struct Choice<T>
where
    [T; 4]: smallvec::Array<Item = T>,
{
    /// Repeats, in this order.
    pub append: Few<T, 4>,
    /// Never to be repeated any more.
    pub forget: Few<T, 4>,
    /// Allowance after it, packets.
    pub left: f64,
}

/// Whether a datagram of `size` bytes is ever repeated: speech is, silence and redundancy are not.
pub fn is_worth(header: &Header, size: usize) -> bool {
    let least = header
        .size
        .saturating_add(MIN_SEALED)
        .saturating_add(LEAST_VOICE);
    !matches!(header.pp, COMFORT | REDUNDANT) && size >= least
}

/// The allowance after one more packet of media: `budget` packets richer, at most `depth`.
pub fn earn(left: f64, budget: f64, depth: f64) -> f64 {
    f64::min(left + budget, depth)
}

/// How long an acknowledgement is waited for, seconds: what is missed for longer may go again.
pub fn patience(way: &Way) -> f64 {
    way.rtt + f64::max(RTTVAR_FACTOR * way.rttvar, GRANULARITY) + way.ack_slack
}

/// What goes again in a packet with `room` bytes free, out of `count` that the peer has not acknowledged, each
/// told by `at`. Earliest deadline first; `most` is 1 for a packet that leaves for a repeat alone.
pub fn choose(
    count: usize,
    at: impl Fn(usize) -> Option<Sent>,
    now: f64,
    way: &Way,
    left: f64,
    mut room: usize,
    most: usize,
) -> Choice<usize> {
    let wait = patience(way);
    let mut choice = Choice {
        left,
        ..Choice::default()
    };
    let mut order: Few<(usize, Sent), 16> = (0..count)
        .filter_map(|place| Some((place, at(place)?)))
        .collect();
    order.sort_by(|one, other| one.1.came.total_cmp(&other.1.came)); // stable, and mostly sorted already
    for (place, one) in order {
        if !one.worth || now - one.came > way.max_age {
            choice.forget.push(place);
        } else if now - one.first_sent >= wait {
            if choice.append.len() == most || one.size > room || choice.left < 1.0 {
                break;
            }
            choice.append.push(place);
            room = room.saturating_sub(one.size);
            choice.left -= 1.0;
        }
    }
    choice
}

/// What goes again beside packet `newest` where acknowledgements come too late: what is `distances` older,
/// oldest first, of what `ring` knows by counter.
pub fn copies(
    ring: impl Fn(u32) -> Option<Sent>,
    newest: u32,
    distances: &[u32],
    now: f64,
    max_age: f64,
    left: f64,
    mut room: usize,
) -> Choice<u32> {
    let mut choice = Choice {
        left,
        ..Choice::default()
    };
    for distance in distances {
        let Some(ctr) = newest.checked_sub(*distance) else {
            continue;
        };
        let Some(one) = ring(ctr).filter(|one| one.worth && now - one.came <= max_age) else {
            continue;
        };
        if choice.append.len() == MOST || one.size > room || choice.left < 1.0 {
            break;
        }
        choice.append.push(ctr);
        room = room.saturating_sub(one.size);
        choice.left -= 1.0;
    }
    choice
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use super::*;
    use crate::vectors::{list, load};
    use serde_json::Value;

    fn vectors() -> Value {
        load(include_str!("../../../tests/vectors/repair.json"))
    }

    fn number(value: &Value) -> f64 {
        value.as_f64().unwrap()
    }

    fn count(value: &Value) -> usize {
        usize::try_from(value.as_u64().unwrap()).unwrap()
    }

    fn counts(value: &Value) -> Vec<usize> {
        list(value).iter().map(count).collect()
    }

    fn sent(value: &Value) -> Sent {
        Sent {
            came: number(&value["came"]),
            first_sent: number(&value["first_sent"]),
            size: count(&value["size"]),
            worth: value["worth"].as_bool().unwrap(),
        }
    }

    #[test]
    fn what_goes_again_is_what_the_vectors_say() {
        for row in list(&vectors()["choose"]) {
            let path = &row["path"];
            let way = Way {
                rtt: number(&path["rtt"]),
                rttvar: number(&path["rttvar"]),
                ack_slack: number(&path["ack_slack"]),
                max_age: number(&path["max_age"]),
            };
            let unacked: Vec<Sent> = list(&row["unacked"]).iter().map(sent).collect();
            let choice = choose(
                unacked.len(),
                |place| unacked.get(place).copied(),
                number(&row["now"]),
                &way,
                number(&row["left"]),
                count(&row["room"]),
                count(&row["most"]),
            );
            assert_eq!(choice.append.to_vec(), counts(&row["append"]), "{row}");
            assert_eq!(choice.forget.to_vec(), counts(&row["forget"]), "{row}");
            assert!((choice.left - number(&row["left_after"])).abs() < 1e-9);
        }
    }

    #[test]
    fn copies_at_a_distance_are_what_the_vectors_say() {
        for row in list(&vectors()["copies"]) {
            let distances: Vec<u32> = list(&row["distances"])
                .iter()
                .map(|d| u32::try_from(count(d)).unwrap())
                .collect();
            let choice = copies(
                |ctr| row["ring"].get(ctr.to_string()).map(sent),
                u32::try_from(count(&row["newest"])).unwrap(),
                &distances,
                number(&row["now"]),
                number(&row["max_age"]),
                number(&row["left"]),
                count(&row["room"]),
            );
            let append: Vec<usize> = choice.append.iter().map(|ctr| *ctr as usize).collect();
            assert_eq!(append, counts(&row["append"]), "{row}");
            assert!((choice.left - number(&row["left_after"])).abs() < 1e-9);
        }
    }

    #[test]
    fn an_allowance_grows_by_its_budget_up_to_its_depth() {
        for row in list(&vectors()["earn"]) {
            let [left, budget, depth, after] =
                ["left", "budget", "depth", "after"].map(|name| number(&row[name]));
            assert_eq!(earn(left, budget, depth), after, "{row}");
        }
    }

    #[test]
    fn speech_is_worth_a_repeat_and_silence_is_not() {
        for row in list(&vectors()["worth"]) {
            let header = Header {
                flow: 1,
                onset: false,
                pp: u8::try_from(count(&row["pp"])).unwrap(),
                repeat: false,
                level: Some(20),
                voice: false,
                kid: 5,
                ctr: 70_000,
                size: 7,
            };
            let size = header.size + MIN_SEALED + count(&row["voice"]);
            assert_eq!(Value::Bool(is_worth(&header, size)), row["worth"], "{row}");
        }
    }
}
