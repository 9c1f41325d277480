//! The packet path of the relay: what happens to each packet of a running call, without the interpreter.
//!
//! ```text
//! reason          why something went no further
//! header frames   QUIC headers and the five frames the packet path knows
//! media           the hop header of a media datagram
//! seal            AEAD and header protection of 1-RTT packets
//! bucket window ranges   budgets, replay windows, received numbers
//! socket          batches of UDP packets in and out, waiting, steering: all of the crate's `unsafe`
//! ```
//!
//! This file names the modules and is the only one that knows Python.
//! Must never live here: anything a packet passes through.
#![deny(unsafe_code)]

pub mod bucket;
pub mod frames;
pub mod header;
pub mod media;
pub mod ranges;
pub mod reason;
pub mod seal;
#[allow(unsafe_code)]
pub mod socket;
#[cfg(test)]
mod vectors;
pub mod window;
