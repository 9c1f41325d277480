//! Relayed addresses over loopback, read by real threads.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::core::{Core, CoreConfig};
use crate::counters::Counters;
use crate::reason::Reason;
use crate::relay::{Allowance, Client};
use crate::socket::tests::group;
use crate::socket::{monotonic, Event};
use crate::worker::{Pacing, Workers};

const PATIENCE: Duration = Duration::from_secs(5);
const PACING: Pacing = Pacing {
    batch_s: 0.001,
    coalesces: false,
};
const CHANNEL: [u8; 2] = [0x40, 1];

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn channel_data(payload: &[u8]) -> Vec<u8> {
    [&CHANNEL[..], &(payload.len() as u16).to_be_bytes(), payload].concat()
}

/// A client, its allocation and a peer on another host of the loopback network.
struct Pair {
    number: u64,
    client: UdpSocket,
    peer: UdpSocket,
    relayed: SocketAddr,
}

struct Node {
    core: Arc<Core>,
    sockets: Vec<UdpSocket>,
    workers: Option<Workers>,
    event: Event,
}

impl Node {
    fn new(workers: usize) -> Self {
        let mut node = Self {
            core: Arc::new(Core::new(CoreConfig::default())),
            sockets: group(workers),
            workers: None,
            event: Event::new().unwrap(),
        };
        node.run(workers);
        node
    }

    /// So many threads, in place of those that run.
    fn run(&mut self, workers: usize) {
        drop(self.workers.take());
        let fds = self.sockets[..workers].iter();
        let fds: Vec<_> = fds.map(|socket| vec![socket.as_raw_fd()]).collect();
        let workers = Workers::start(&self.core, &fds, self.event.as_raw_fd(), PACING);
        self.workers = Some(workers.unwrap());
    }

    fn pair(&self, number: u64) -> Pair {
        let client = socket();
        let peer = UdpSocket::bind("127.0.0.2:0").unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let door = UdpSocket::bind("127.0.0.3:0").unwrap();
        let relayed = door.local_addr().unwrap();
        let owner = Client::Packets(client.local_addr().unwrap(), 0);
        let allowance = Allowance {
            pps: 100_000,
            bps: 1 << 30,
        };
        let fd = Some(door.as_raw_fd());
        let opened = self.core.open_relay(number, owner, relayed, fd, allowance);
        opened.unwrap().unwrap(); // our end of the door is closed here: the lane has its own
        let relay = self.core.relays.get(number).unwrap();
        let until = monotonic() + 60.0;
        relay.permit(peer.local_addr().unwrap().ip(), until);
        relay.bind_channel(0x4001, peer.local_addr().unwrap(), until);
        Pair {
            number,
            client,
            peer,
            relayed,
        }
    }

    fn end(mut self) -> Counters {
        drop(self.workers.take());
        let counters = self.core.counters();
        assert_eq!(counters.packets_missing(), 0);
        let relays = &counters.relays;
        assert_eq!((relays.up.missing(), relays.down.missing()), (0, 0));
        counters
    }

    /// A second of audio by the channel, so that its peer gets a socket of its own.
    fn speak(&self, pair: &Pair) {
        let server = self.sockets[0].local_addr().unwrap();
        let mut buffer = [0; 2048];
        for number in 0..60u8 {
            let frame = channel_data(&[number; 100]);
            pair.client.send_to(&frame, server).unwrap();
            let (size, from) = pair.peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..size], from), (&[number; 100][..], pair.relayed));
        }
    }

    fn near(&self, pair: &Pair) -> Option<SocketAddr> {
        let relay = self.core.relays.get(pair.number).unwrap();
        relay.door.as_ref().unwrap().near()
    }

    /// Payloads both ways, some at once.
    fn talk(&self, pair: &Pair) {
        let server = self.sockets[0].local_addr().unwrap();
        let mut buffer = [0; 2048];
        for payload in [&b"one"[..], b"two", &[7; 1400]] {
            pair.client.send_to(&channel_data(payload), server).unwrap();
        }
        for payload in [&b"one"[..], b"two", &[7; 1400]] {
            let (size, from) = pair.peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..size], from), (payload, pair.relayed));
            pair.peer.send_to(payload, pair.relayed).unwrap();
        }
        for payload in [&b"one"[..], b"two", &[7; 1400]] {
            let (size, from) = pair.client.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..size], channel_data(payload));
            assert_eq!(from, server);
        }
    }
}

#[test]
fn packets_of_a_client_leave_by_its_relayed_address_and_answers_come_back() {
    let node = Node::new(1);
    let pairs: Vec<_> = (1..6).map(|number| node.pair(number)).collect();
    pairs.iter().for_each(|pair| node.talk(pair));
    let counters = node.end();
    assert_eq!(
        (counters.relays.up.passed, counters.relays.down.passed),
        (15, 15)
    );
    assert_eq!(
        (counters.relayed, counters.sent, counters.send_errors),
        (30, 30, 0)
    );
}

#[test]
fn relayed_addresses_are_read_whatever_the_number_of_threads_becomes() {
    let mut node = Node::new(4);
    let mut pairs: Vec<_> = (1..6).map(|number| node.pair(number)).collect();
    for (round, workers) in [1, 3, 2, 4].into_iter().enumerate() {
        // The kernel gives packets to all four sockets; those of a client must come to one that is read.
        crate::socket::tests::to_the_first(node.sockets[0].as_raw_fd());
        node.run(workers);
        pairs.push(node.pair(10 + round as u64));
        pairs.iter().for_each(|pair| node.talk(pair));
    }
    assert_eq!(node.end().send_errors, 0);
}

#[test]
fn a_relayed_address_is_free_again_when_its_allocation_is_closed() {
    let node = Node::new(2);
    for number in 1..4 {
        let pair = node.pair(number);
        node.talk(&pair);
        let counted = node.core.close_relay(pair.number).unwrap();
        assert_eq!((counted.up.passed, counted.down.passed), (3, 3));
        // A thread that is just looking may hold it for the rest of its turn.
        let mut tries = (0..500).map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            UdpSocket::bind(pair.relayed)
        });
        assert!(tries.any(|bound| bound.is_ok()));
    }
    node.end();
}

#[test]
fn a_peer_that_is_spoken_to_steadily_gets_a_socket_of_its_own_and_others_are_heard_by_the_first() {
    let mut node = Node::new(2);
    let pair = node.pair(1);
    node.talk(&pair);
    assert_eq!(node.near(&pair), None);
    node.speak(&pair);
    assert_eq!(node.near(&pair), Some(pair.peer.local_addr().unwrap()));
    let mut buffer = [0; 2048];
    for workers in [1, 2, 1] {
        crate::socket::tests::to_the_first(node.sockets[0].as_raw_fd());
        node.run(workers); // threads come and go: the new ones read both
        node.talk(&pair);
        for _ in 0..8 {
            let other = UdpSocket::bind("127.0.0.2:0").unwrap(); // permissions are by host
            other.send_to(b"me, too.", pair.relayed).unwrap();
            let (size, _) = pair.client.recv_from(&mut buffer).unwrap();
            assert!(buffer[..size].ends_with(b"me, too."));
        }
    }
    let counters = node.end();
    assert_eq!(
        (counters.relays.up.passed, counters.relays.down.passed),
        (72, 36)
    );
    assert_eq!(counters.send_errors, 0);
}

#[test]
fn a_peer_that_is_away_for_a_while_hears_all_that_is_sent_when_it_is_back() {
    let node = Node::new(1);
    let mut pair = node.pair(1);
    node.speak(&pair);
    let (server, address) = (
        node.sockets[0].local_addr().unwrap(),
        pair.peer.local_addr().unwrap(),
    );
    pair.peer = socket(); // the old one is closed: the kernel says so to whoever is connected to it
    for _ in 0..5 {
        pair.client.send_to(&channel_data(b"?"), server).unwrap();
    }
    let until = std::time::Instant::now() + PATIENCE;
    while node.core.counters().relays.up.passed < 65 && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    pair.peer = UdpSocket::bind(address).unwrap();
    pair.peer.set_read_timeout(Some(PATIENCE)).unwrap();
    node.speak(&pair);
    node.talk(&pair);
    assert_eq!(node.end().send_errors, 0);
}

#[test]
fn an_address_with_a_socket_for_one_peer_is_free_again_when_its_allocation_is_closed() {
    let node = Node::new(1);
    let pair = node.pair(1);
    node.speak(&pair);
    assert!(UdpSocket::bind(pair.relayed).is_err()); // nobody shares it who does not say so
    node.core.close_relay(pair.number).unwrap();
    let mut tries = (0..500).map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        UdpSocket::bind(pair.relayed)
    });
    assert!(tries.any(|bound| bound.is_ok()));
    node.end();
}

#[test]
fn a_flood_of_strangers_at_one_relayed_address_holds_up_no_other() {
    let node = Node::new(1);
    let (flooded, other) = (node.pair(1), node.pair(2));
    let stranger = UdpSocket::bind("127.0.0.4:0").unwrap();
    for _ in 0..40 {
        for _ in 0..100 {
            stranger.send_to(&[1; 100], flooded.relayed).unwrap();
        }
        node.talk(&other);
    }
    let counters = node.end();
    let refused = counters.relays.down.dropped[Reason::NoPermission as usize];
    assert!(refused > 1000, "{refused}");
    assert_eq!(counters.relays.down.passed, 120);
}
