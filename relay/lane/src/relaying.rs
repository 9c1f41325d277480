//! Packets between TURN's clients and their peers.
//!
//! ```text
//! client   ChannelData, Send indication -> its allocation -> the relayed socket -> peer
//!                                                         `-> another allocation of ours -> its client
//! peer     relayed socket -> permission -> ChannelData or Data indication -> client's socket | stream
//! other STUN -> the loop
//! ```
//!
//! Must never live here: what an allocation allows, and system calls.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::core::{contain, Core};
use crate::reason::Reason;
use crate::relay::{Allowance, Client, Named, Queued, Relay};
use crate::relays::{Taken, Way};
use crate::slow::{Item, Staged};
use crate::socket::Door;
use crate::traffic::Traffic;
use crate::turn::{message_type, parse_channel_data, parse_send, SEND};
use crate::work::Work;

/// Packets that leave by relayed sockets at the end of the turn.
#[derive(Default)]
pub struct Leaving {
    pub arena: Vec<u8>,
    pub packets: Vec<ToPeer>,
}

/// One of them: its place in the arena.
pub struct ToPeer {
    pub start: usize,
    pub len: usize,
    pub to: SocketAddr,
    pub relay: Arc<Relay>,
}

impl Leaving {
    fn push(&mut self, payload: &[u8], to: SocketAddr, relay: &Arc<Relay>) {
        let start = self.arena.len();
        self.arena.extend_from_slice(payload);
        self.packets.push(ToPeer {
            start,
            len: payload.len(),
            to,
            relay: relay.clone(),
        });
    }

    /// The bytes of a packet.
    pub fn bytes(&self, packet: &ToPeer) -> &[u8] {
        let end = packet.start.saturating_add(packet.len);
        self.arena.get(packet.start..end).unwrap_or_default()
    }

    pub fn clear(&mut self) {
        self.arena.clear();
        self.packets.clear();
    }
}

impl Core {
    // ------------------------------------------------------------ what the loop says

    /// An allocation begins. `fd`: its relayed socket, of which we keep a duplicate.
    pub fn open_relay(
        &self,
        number: u64,
        client: Client,
        relayed: SocketAddr,
        fd: Option<RawFd>,
        allowance: Allowance,
    ) -> io::Result<Result<(), Taken>> {
        let door = fd.map(Door::duplicate).transpose()?;
        let burst_s = self.config.burst_s;
        let relay = Relay::new(number, client, relayed, door, allowance, burst_s);
        let place = match client {
            Client::Packets(_, sock) => self.place_of(sock),
            Client::Stream => 0,
        };
        self.relays.open(relay, place)
    }

    /// It is over before this returns, but for packets that a thread is just sending; what went through it.
    pub fn close_relay(&self, number: u64) -> Option<Traffic> {
        let relay = self.relays.remove(number, |sock| self.place_of(sock))?;
        let mut change = Traffic::default();
        let traffic = relay.close(&mut change);
        self.shared.lock().counters.relays.merge(&mut change);
        Some(traffic)
    }

    /// Which of our addresses a socket stands for.
    fn place_of(&self, sock: u16) -> u16 {
        let stride = self.stride.load(Ordering::Relaxed);
        sock.checked_rem(stride).unwrap_or(sock)
    }

    // ------------------------------------------------------------ packets of clients

    /// A packet that has the first byte of STUN or ChannelData; false: it is neither, or not for us.
    pub(crate) fn receive_turn(
        &self,
        work: &mut Work,
        data: &[u8],
        from: SocketAddr,
        sock: u16,
        now: f64,
    ) -> bool {
        let owner = || self.relays.of_client(&from, self.place_of(sock));
        if let Some((channel, payload)) = parse_channel_data(data) {
            let Some(relay) = owner() else {
                return false; // QUIC's, if anybody's
            };
            work.counters.relayed = work.counters.relayed.wrapping_add(1);
            let _ = self.to_peer(work, &relay, Ok(Named::Channel(channel)), payload, now); // it counts
            return true;
        }
        let Some(kind) = message_type(data) else {
            return false;
        };
        let relay = owner();
        if relay.is_none() && !self.relays.takes_stun() {
            return false;
        }
        match relay {
            Some(relay) if kind == SEND => {
                work.counters.relayed = work.counters.relayed.wrapping_add(1);
                let _ = self.send_indication(work, &relay, data, now);
            }
            None if kind == SEND => work.counters.drop(Reason::UnknownId), // nobody answers an indication
            relay => work.stage_stun(relay, data, from, sock, now),
        }
        true
    }

    /// One message of a client on a stream: ChannelData or a Send indication.
    pub fn relay_from_client(
        &self,
        work: &mut Work,
        number: u64,
        frame: &[u8],
        now: f64,
    ) -> Result<(), Reason> {
        let Some(relay) = self.relays.get(number) else {
            return Err(Reason::UnknownId);
        };
        let mut verdict = Err(Reason::Internal);
        contain(work, None, |work, _| {
            verdict = match parse_channel_data(frame) {
                Some((channel, payload)) => {
                    self.to_peer(work, &relay, Ok(Named::Channel(channel)), payload, now)
                }
                None => self.send_indication(work, &relay, frame, now),
            };
        });
        verdict
    }

    fn send_indication(
        &self,
        work: &mut Work,
        relay: &Arc<Relay>,
        data: &[u8],
        now: f64,
    ) -> Result<(), Reason> {
        match parse_send(data) {
            Some((peer, payload)) => self.to_peer(work, relay, Ok(Named::Peer(peer)), payload, now),
            None => self.to_peer(work, relay, Err(Reason::Malformed), &[], now),
        }
    }

    fn to_peer(
        &self,
        work: &mut Work,
        relay: &Arc<Relay>,
        named: Result<Named, Reason>,
        payload: &[u8],
        now: f64,
    ) -> Result<(), Reason> {
        let all = &mut work.counters.relays;
        let way = relay.up(named, payload.len(), now, all, |peer| self.relays.way(peer))?;
        match way {
            Way::Network(peer) => {
                work.counters.sent = work.counters.sent.wrapping_add(1);
                work.leaving.push(payload, peer, relay);
            }
            Way::Inside(other) => self.to_client(work, &other, &relay.relayed, payload, now),
        }
        Ok(())
    }

    // ------------------------------------------------------------ packets of peers

    /// A packet that came by an allocation's relayed address.
    pub fn receive_relay(
        &self,
        work: &mut Work,
        relay: &Arc<Relay>,
        data: &[u8],
        from: SocketAddr,
        now: f64,
    ) {
        let counters = &mut work.counters;
        counters.udp_in = counters.udp_in.wrapping_add(1);
        counters.relayed = counters.relayed.wrapping_add(1);
        contain(work, None, |work, _| {
            self.to_client(work, relay, &from, data, now);
        });
    }

    fn to_client(
        &self,
        work: &mut Work,
        relay: &Arc<Relay>,
        from: &SocketAddr,
        payload: &[u8],
        now: f64,
    ) {
        let (out, counters) = (&mut work.out, &mut work.counters);
        let all = &mut counters.relays;
        match relay.client {
            Client::Packets(address, sock) => {
                let start = out.arena.len();
                if relay.down(from, payload, now, all, &mut out.arena).is_ok() {
                    counters.sent = counters.sent.wrapping_add(1);
                    out.close(start, address, sock, 0);
                }
            }
            Client::Stream => {
                if relay.enqueue(from, payload, now, all) == Ok(Queued::First) {
                    work.stage_note(Item::ToClient {
                        relay: relay.number,
                        data: Vec::new(),
                    });
                }
            }
        }
    }

    /// What waits for the stream of an allocation's client; None when nothing does any more.
    pub(crate) fn fetch(&self, number: u64) -> Option<Item> {
        let relay = self.relays.get(number)?;
        let mut change = Traffic::default();
        let data = relay.fetch(&mut change);
        self.shared.lock().counters.relays.merge(&mut change);
        (!data.is_empty()).then_some(Item::ToClient {
            relay: number,
            data,
        })
    }

    // ------------------------------------------------------------ sending

    /// The kernel refused so many packets to peers, each of which was counted as sent.
    pub fn unsent_to_peers(&self, work: &mut Work, count: usize) {
        let count = u64::try_from(count).unwrap_or(0);
        let counters = &mut work.counters;
        counters.sent = counters.sent.wrapping_sub(count);
        counters.send_errors = counters.send_errors.wrapping_add(count);
    }
}

impl Work {
    /// A STUN packet for the loop; `relay`: the allocation that its 5-tuple owns.
    fn stage_stun(
        &mut self,
        relay: Option<Arc<Relay>>,
        data: &[u8],
        from: SocketAddr,
        sock: u16,
        at: f64,
    ) {
        let item = Item::Stun {
            data: data.to_vec(),
            from,
            sock,
            at,
        };
        self.counters.waiting = self.counters.waiting.wrapping_add(1);
        self.staged.push(Staged {
            relay,
            ..Staged::nobodys(item)
        });
    }
}
