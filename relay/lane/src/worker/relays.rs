//! A thread's share of the relayed addresses: read those that have something, send what goes out by them.
//!
//! Mostly silent, so nobody reads them in vain: a `Watch` names those with packets. Each of those gives at most one
//! batch per turn, and all together as much as one of the thread's other sockets. Must never live here: what
//! packets mean.

use std::io;
use std::sync::Arc;

use super::{again, Worker, TURN_COPIES, TURN_PACKETS};
use crate::relay::Relay;
use crate::relaying::{Leaving, ToPeer};
use crate::socket::{monotonic, Exit, Ready, Ring, Side, Watch};
use crate::work::Work;

/// A thread's own.
pub(super) struct Doors {
    watch: Arc<Watch>,
    ready: Ready,
    exit: Exit,
}

impl Doors {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            ready: Ready::default(),
            exit: Exit::default(),
        }
    }
}

impl Worker {
    /// Packets of the relayed addresses that have some; how many they were.
    pub(super) fn read_relays(&mut self, now: &mut f64) -> usize {
        let Self {
            core,
            work,
            ring,
            doors,
            is_behind,
            ..
        } = self;
        if core.relays.is_empty() {
            return 0;
        }
        let (mut taken, mut has_failed) = (0_usize, false);
        doors.watch.look(&mut doors.ready);
        for (number, side) in doors.ready.doors() {
            if taken >= TURN_PACKETS || work.counters.copies >= TURN_COPIES {
                *is_behind = true;
                break;
            }
            let Some(relay) = core.relays.get(number) else {
                continue; // it was closed a moment ago
            };
            match read(core, work, ring, &relay, side, *now) {
                Ok(reads) => taken = taken.saturating_add(reads),
                Err(_) => has_failed = true,
            }
            *now = monotonic();
        }
        *is_behind |= doors.ready.is_full();
        let place = self.sockets.len();
        match (has_failed, taken) {
            (false, _) => self.rests.worked(place),
            (true, 0) => self.fail(place, *now),
            _ => {} // others have packets: none of them waits
        }
        taken
    }

    /// Send what goes to peers.
    pub(super) fn send_to_peers(&mut self) {
        let Self {
            core, work, doors, ..
        } = self;
        for packet in &work.leaving.packets {
            if packet.relay.turns_steady() {
                core.relays.approach(&packet.relay, &packet.to);
            }
        }
        let refused = send_all(&mut work.leaving, &mut doors.exit);
        core.unsent_to_peers(work, refused);
    }
}

/// Up to one batch of an allocation's packets; how many they were.
fn read(
    core: &crate::core::Core,
    work: &mut Work,
    ring: &mut Ring,
    relay: &Arc<Relay>,
    side: Side,
    now: f64,
) -> io::Result<usize> {
    let Some(door) = &relay.door else {
        return Ok(0);
    };
    let asked = relay.ask();
    let reads = again(&mut work.counters, || door.receive(side, ring, asked))?;
    relay.note(asked, reads);
    for index in 0..reads {
        let Some(read) = ring.read(index) else {
            continue;
        };
        let from = read.from;
        for packet in read.packets() {
            core.receive_relay(work, relay, packet, from, now);
        }
    }
    Ok(reads)
}

/// Send all and forget it; how many packets the kernel refused. Those of one address leave together, in their
/// order.
fn send_all(leaving: &mut Leaving, exit: &mut Exit) -> usize {
    let place = |packet: &ToPeer| (Arc::as_ptr(&packet.relay), packet.start);
    leaving.packets.sort_unstable_by_key(place);
    let mut refused: usize = 0;
    let is_one = |one: &ToPeer, other: &ToPeer| Arc::ptr_eq(&one.relay, &other.relay);
    for packets in leaving.packets.chunk_by(is_one) {
        refused = refused.saturating_add(send_together(leaving, packets, exit));
    }
    leaving.clear();
    refused
}

fn send_together(leaving: &Leaving, packets: &[ToPeer], exit: &mut Exit) -> usize {
    let first = packets.first();
    let Some(door) = first.and_then(|packet| packet.relay.door.as_ref()) else {
        return packets.len(); // it was opened without one: nobody may send for it but the loop
    };
    if let [packet] = packets {
        return usize::from(!door.send(leaving.bytes(packet), &packet.to));
    }
    let ready = packets.iter();
    exit.send(door, ready.map(|packet| (leaving.bytes(packet), packet.to)))
}

#[cfg(test)]
mod tests;
