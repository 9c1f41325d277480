//! All allocations of the node, whose a packet is, and which thread reads which relayed address.
//!
//! ```text
//! open close       what the loop says; the rest of it goes to the allocation itself (relay.rs)
//! of_client        the allocation that a 5-tuple owns: the client's address and our socket
//! way              how a peer is reached: by the network, inside the node, or not at all
//! enlist hand_over the threads that read relayed addresses, each of them its share
//! ```
//!
//! The table may be asked under an allocation's lock; under the table's no allocation is locked. Must never live
//! here: packets.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::cid::Seeded;
use crate::reason::Reason;
use crate::relay::{Client, Relay};
use crate::socket::Watch;

/// An address, and for a client our socket's number: as a key that is hashed in three steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key(u64, u64, u64);

impl Key {
    fn new(address: &SocketAddr, sock: u16) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let ip = u128::from(ip);
        let rest = u64::from(address.port()) | u64::from(sock) << 16;
        Self((ip >> 64) as u64, ip as u64, rest)
    }
}

type By<K> = HashMap<K, Arc<Relay>, Seeded>;

#[derive(Default)]
struct Table {
    numbers: HashMap<u64, Arc<Relay>>,
    clients: By<Key>,
    relayed: By<Key>,
    /// Hosts of relayed addresses, and how many each has.
    hosts: Vec<(IpAddr, usize)>,
    /// What the running threads watch, in their order.
    watches: Vec<Arc<Watch>>,
}

/// All allocations.
#[derive(Default)]
pub struct Relays {
    table: RwLock<Table>,
    count: AtomicUsize,
    takes_stun: AtomicBool,
}

/// How a peer is reached.
pub(crate) enum Way {
    Network(SocketAddr),
    /// It is the relayed address of this allocation: "hairpin".
    Inside(Arc<Relay>),
}

/// The number or the client's 5-tuple is another allocation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken;

impl Table {
    /// The thread's that reads this allocation.
    fn watch(&self, relay: &Relay) -> Option<&Arc<Watch>> {
        watch_of(&self.watches, relay)
    }
}

fn watch_of<'a>(watches: &'a [Arc<Watch>], relay: &Relay) -> Option<&'a Arc<Watch>> {
    let count = u64::try_from(watches.len()).unwrap_or(u64::MAX);
    let place = relay.number.checked_rem(count)?;
    watches.get(usize::try_from(place).ok()?)
}

fn watch(watches: &[Arc<Watch>], relay: &Relay) -> io::Result<()> {
    match (watch_of(watches, relay), &relay.door) {
        (Some(watch), Some(door)) => watch.add(door, relay.number),
        _ => Ok(()),
    }
}

impl Relays {
    /// There is none: nothing else needs to be asked.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// STUN packets of strangers are the loop's, or nobody's.
    pub fn take_stun(&self, yes: bool) {
        self.takes_stun.store(yes, Ordering::Relaxed);
    }

    pub(crate) fn takes_stun(&self) -> bool {
        self.takes_stun.load(Ordering::Relaxed)
    }

    // ------------------------------------------------------------ what the loop says

    /// An allocation begins. `place`: the number of the client's socket, the same for all that share its address.
    pub(crate) fn open(&self, relay: Relay, place: u16) -> io::Result<Result<(), Taken>> {
        let mut table = self.table.write();
        let relay = Arc::new(relay);
        let relayed = Key::new(&relay.relayed, 0);
        let client = match relay.client {
            Client::Packets(address, _) => Some(Key::new(&address, place)),
            Client::Stream => None,
        };
        if table.numbers.contains_key(&relay.number)
            || table.relayed.contains_key(&relayed)
            || client.is_some_and(|client| table.clients.contains_key(&client))
        {
            return Ok(Err(Taken));
        }
        watch(&table.watches, &relay)?;
        if let Some(client) = client {
            table.clients.insert(client, relay.clone());
        }
        let host = relay.relayed.ip();
        match table.hosts.iter_mut().find(|known| known.0 == host) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => table.hosts.push((host, 1)),
        }
        table.relayed.insert(relayed, relay.clone());
        table.numbers.insert(relay.number, relay);
        self.count.store(table.numbers.len(), Ordering::Relaxed);
        Ok(Ok(()))
    }

    /// An allocation is over: no packet finds it any more.
    pub(crate) fn remove(&self, number: u64, place: impl FnOnce(u16) -> u16) -> Option<Arc<Relay>> {
        let mut table = self.table.write();
        let relay = table.numbers.remove(&number)?;
        if let (Some(watch), Some(door)) = (table.watch(&relay), &relay.door) {
            watch.remove(door);
        }
        if let Client::Packets(address, sock) = relay.client {
            table.clients.remove(&Key::new(&address, place(sock)));
        }
        table.relayed.remove(&Key::new(&relay.relayed, 0));
        let host = relay.relayed.ip();
        for known in table.hosts.iter_mut().filter(|known| known.0 == host) {
            known.1 = known.1.saturating_sub(1);
        }
        table.hosts.retain(|(_, count)| *count > 0);
        self.count.store(table.numbers.len(), Ordering::Relaxed);
        Some(relay)
    }

    /// Send to this peer by a socket of its own, where one can be had: it gets most of what an allocation sends.
    pub(crate) fn approach(&self, relay: &Relay, peer: &SocketAddr) {
        let Some(door) = &relay.door else { return };
        let table = self.table.read(); // nobody else becomes its watch meanwhile
        if door.approach(peer).unwrap_or(false) && table.numbers.contains_key(&relay.number) {
            let _ = watch(&table.watches, relay); // there is room: its first socket is there
        }
    }

    /// The allocation of this number.
    pub fn get(&self, number: u64) -> Option<Arc<Relay>> {
        self.table.read().numbers.get(&number).cloned()
    }

    // ------------------------------------------------------------ what packets ask

    /// The allocation that this 5-tuple owns.
    #[inline]
    pub(crate) fn of_client(&self, address: &SocketAddr, place: u16) -> Option<Arc<Relay>> {
        if self.is_empty() {
            return None;
        }
        let key = Key::new(address, place);
        self.table.read().clients.get(&key).cloned()
    }

    /// How a peer is reached. On a host that holds relayed addresses it is one of them, or nobody: what else
    /// listens there is ours, and no client's to speak to.
    pub(crate) fn way(&self, peer: SocketAddr) -> Result<Way, Reason> {
        let table = self.table.read();
        if table.hosts.iter().all(|(host, _)| *host != peer.ip()) {
            return Ok(Way::Network(peer));
        }
        let inside = table.relayed.get(&Key::new(&peer, 0)).cloned();
        inside.map(Way::Inside).ok_or(Reason::NoPermission)
    }

    // ------------------------------------------------------------ threads

    /// Let these watch all relayed addresses, beside those that do now.
    pub(crate) fn enlist(&self, watches: &[Arc<Watch>]) -> io::Result<()> {
        let table = self.table.read();
        let mut relays = table.numbers.values();
        relays.try_for_each(|relay| watch(watches, relay))
    }

    /// Only these watch from now on: `enlist` was asked before, and what was opened since is added.
    pub(crate) fn hand_over(&self, watches: Vec<Arc<Watch>>) {
        let mut table = self.table.write();
        for relay in table.numbers.values() {
            let _ = watch(&watches, relay); // mostly it is there already
        }
        table.watches = watches;
    }
}

#[cfg(test)]
#[path = "relays_tests.rs"]
mod tests;
