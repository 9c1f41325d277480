//! The packet path of the relay: what happens to each packet of a running call, without the interpreter.
//!
//! ```text
//! reason          why something went no further
//! header frames   QUIC headers and the five frames the packet path knows
//! media           the hop header of a media datagram
//! seal            AEAD and header protection of 1-RTT packets
//! bucket window ranges   budgets, replay windows, received numbers
//! few             lists whose first entries lie in the leg itself
//! cid ids         connection ids as map keys; whose they are
//! path            one leg's packets, of keys, numbers, flight (what is under way) and rtt
//! kept            what of a leg's numbers outlives the process
//! table flow      one leg's budgets and queues; one uplink flow and who hears it
//! trunk numbered line   a connection to another node: its routes, and the line of what leaves by them
//! hop             what came on a route since it was counted last
//! turn relay      TURN's data messages; one allocation: permissions, channels, budgets
//! relays traffic  all allocations and whose a packet is; what went through them
//! relaying        their packets: from clients to peers and back
//! core            all legs: inward (packets in), out (packets out), desk (what Python changes)
//! work slow counters residence   what a thread keeps, what waits for the loop, what was counted, for how long
//! front retry budget     packets of nobody: proofs and answers that keep no memory of a source
//! worker panics   the threads: wait, read, hand to the core, send; what they survived
//! socket          batches of UDP packets in and out, waiting: all of the crate's `unsafe`
//! ```
//!
//! This file names the modules; `python` is the only one that knows Python.
//! Must never live here: anything a packet passes through.
#![deny(unsafe_code)]

pub mod bucket;
pub mod budget;
pub mod cid;
pub mod core;
pub mod counters;
pub mod desk;
pub mod few;
pub mod flight;
pub mod flow;
pub mod frames;
pub mod front;
pub mod header;
pub mod hop;
pub mod ids;
pub mod inward;
pub mod kept;
pub mod keys;
pub mod line;
pub mod media;
pub mod numbered;
pub mod numbers;
pub mod out;
pub mod panics;
pub mod path;
#[cfg(feature = "python")]
mod python;
pub mod ranges;
pub mod reason;
pub mod relay;
pub mod relaying;
pub mod relays;
pub mod repair;
pub mod repeats;
pub mod residence;
pub mod retry;
pub mod rtt;
pub mod seal;
pub mod slow;
#[allow(unsafe_code)]
pub mod socket;
pub mod table;
pub mod traffic;
pub mod trunk;
pub mod turn;
#[cfg(test)]
mod vectors;
pub mod window;
pub mod work;
pub mod worker;
