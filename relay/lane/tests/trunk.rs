//! A trunk beside legs, end to end through sealed packets, on a simulated clock: voices share its packets, each route
//! waits for itself, and what it takes has a bound.

mod common;

use _lane::core::{Core, CoreConfig};
use _lane::flow::FlowCounters;
use _lane::reason::Reason;
use _lane::slow::Item;
use _lane::work::Work;
use common::{address, assert_conserved, deliver, Client, Heard, PLENTY, T0};

const TRUNK: u64 = 9;
/// The wait of a packet for others, seconds.
const HOLD: f64 = 0.001;

/// Legs that speak onto routes of their own number and 100, and hear what comes on the same of ours.
struct Node {
    core: Core,
    work: Work,
    clients: Vec<Client>,
    now: f64,
}

impl Node {
    fn new(legs: u64) -> Self {
        let core = Core::new(CoreConfig::default());
        let mut clients: Vec<Client> = (1..=legs).map(|leg| Client::join(&core, leg, 0)).collect();
        clients.push(Client::dial(&core, TRUNK, 1));
        for leg in 1..=legs {
            let route = 100 + leg as u16;
            core.route(leg, 1, &[(TRUNK, route)], None).unwrap();
            core.open_route(TRUNK, route, 0, false, PLENTY).unwrap();
            core.route(TRUNK, route, &[(leg, 7)], None).unwrap();
        }
        Self {
            core,
            work: Work::new(0),
            clients,
            now: T0,
        }
    }

    fn far(&mut self) -> &mut Client {
        self.clients.last_mut().unwrap()
    }

    /// So many of the legs say something.
    fn talk(&mut self, legs: usize) {
        for client in &mut self.clients[..legs] {
            let packet = client.talk(100);
            client.send(&self.core, &mut self.work, &packet, self.now);
        }
    }

    /// The other node says something on each of these routes, in one packet.
    fn say(&mut self, routes: &[u16]) {
        let packet = self.far().carry(routes, 100);
        let now = self.now;
        let Self { core, work, .. } = self;
        core.receive(work, &packet, address(TRUNK), 0, now);
    }

    fn flush(&mut self) -> Vec<(u64, Heard)> {
        self.core.flush(&mut self.work, self.now);
        self.core.acks(&mut self.work, self.now);
        let heard = deliver(&self.core, &mut self.work, &mut self.clients);
        self.core.finish(&mut self.work);
        assert_conserved(&self.core);
        heard
    }
}

/// The routes of what the other node heard, packet by packet.
fn routes(heard: &[(u64, Heard)]) -> Vec<Vec<u16>> {
    let packets = heard.iter().filter(|(leg, _)| *leg == TRUNK);
    let packets = packets.map(|(_, heard)| &heard.datagrams);
    let route = |data: &Vec<u8>| u16::from_be_bytes([data[0] & 0x3F, data[1]]);
    packets
        .map(|datagrams| datagrams.iter().map(route).collect())
        .collect()
}

#[test]
fn eight_voices_share_a_packet_and_leave_after_a_millisecond() {
    let mut node = Node::new(8);
    node.talk(8);
    assert!(node.flush().is_empty());
    assert_eq!(node.work.next_ack(), Some(T0 + HOLD));
    node.now = T0 + HOLD;
    let heard = node.flush();
    assert_eq!(routes(&heard), [(101..=108).collect::<Vec<u16>>()]);
    let first = &heard[0].1.datagrams[0];
    assert_eq!(first[..4], [0x40, 101, 1, 0x40]);
    assert_eq!(first.len(), 109);
    assert_eq!(node.core.counters().copies_sent, 8);
}

#[test]
fn a_packet_that_is_full_leaves_at_once() {
    let mut node = Node::new(8);
    node.talk(8);
    node.talk(8);
    let heard = node.flush();
    let left: Vec<_> = routes(&heard).iter().map(Vec::len).collect();
    assert_eq!(left, [10], "of 112 bytes each");
    node.now += HOLD;
    assert_eq!(
        routes(&node.flush()).concat(),
        [103, 104, 105, 106, 107, 108]
    );
}

#[test]
fn what_another_node_says_reaches_each_listener_with_its_flow() {
    let mut node = Node::new(3);
    node.say(&[101, 102, 103]);
    node.say(&[101, 104]);
    let heard = node.flush();
    let flows: Vec<(u64, Vec<u8>)> = heard
        .iter()
        .map(|(leg, heard)| (*leg, heard.datagrams.iter().map(|copy| copy[0]).collect()))
        .collect();
    assert_eq!(flows, [(1, vec![7, 7]), (2, vec![7]), (3, vec![7])]);
    let counters = node.core.counters();
    assert_eq!((counters.media_in, counters.accepted), (5, 4));
    assert_eq!(counters.media_dropped[Reason::UnknownFlow as usize], 1);
    let counted = node.core.close_flow(TRUNK, 101);
    assert_eq!(
        (counted.received, counted.accepted, counted.copies),
        (2, 2, 2)
    );
    assert_eq!(node.core.close_flow(TRUNK, 101), FlowCounters::default());
}

#[test]
fn a_thread_that_ends_lets_go_of_what_waits_for_others() {
    let mut node = Node::new(2);
    node.talk(2);
    node.core.flush(&mut node.work, node.now);
    assert!(node.work.out.is_empty());
    node.core.retire(&mut node.work, node.now);
    let heard = deliver(&node.core, &mut node.work, &mut node.clients);
    assert_eq!(routes(&heard), [[101, 102]]);
    node.work = Work::new(1);
    node.talk(1);
    node.now += HOLD;
    assert_eq!(routes(&node.flush()), [[101]], "another thread waits anew");
}

#[test]
fn control_of_another_node_is_the_loops() {
    let mut node = Node::new(1);
    let packet = node.far().packet(&[0x31, 3, 0, 1, 7]);
    let now = node.now;
    node.core
        .receive(&mut node.work, &packet, address(TRUNK), 0, now);
    node.flush();
    let payload = vec![0, 1, 7];
    assert_eq!(
        node.core.take(9),
        [Item::Control {
            leg: TRUNK,
            payload,
            at: now
        }]
    );
}

#[test]
fn a_voice_that_came_by_a_trunk_goes_to_no_other() {
    let node = Node::new(1);
    let _other = Client::dial(&node.core, 10, 0);
    for target in [(10, 64), (TRUNK, 64)] {
        let targets = [(1, 7), target];
        assert!(node.core.route(TRUNK, 101, &targets, None).is_err());
        assert!(node.core.route(1, 1, &targets[1..], None).is_ok());
    }
    for out in [0, 63, 16384] {
        assert!(node.core.route(1, 1, &[(TRUNK, out)], None).is_err());
        let opened = node.core.open_route(TRUNK, out, 0, false, PLENTY);
        assert!(opened.is_err());
    }
    assert!(node.core.route(1, 1, &[(1, 256)], None).is_err());
    assert!(node.core.open_trunk(1, false).is_err());
    assert!(node.core.open_trunk(77, false).is_err());
    assert!(node.core.open_flow(TRUNK, 1, 0, false).is_err());
}

/// A trunk whose way takes nothing: 2 MiB of copies wait, and their line and tables take less than that again.
#[test]
fn a_trunk_that_is_stuck_takes_less_than_four_mebibytes_and_then_little() {
    let mut node = Node::new(1);
    let core = &node.core;
    let far = node.clients[1].leg.clone();
    let idle = far.memory();
    println!("a trunk with one route each way: {idle} bytes");
    assert!(idle < 8 * 1024, "{idle}");
    core.with_path(&far, |path| path.active = false);
    let targets: Vec<(u64, u16)> = (64..8064).map(|route| (TRUNK, route)).collect();
    core.route(1, 1, &targets, None).unwrap();
    for _ in 0..8 {
        let packet = node.clients[0].talk(100);
        core.receive(&mut node.work, &packet, address(1), 0, T0);
    }
    let bytes = far.memory();
    println!("a trunk that takes nothing of 8000 routes: {bytes} bytes");
    assert!(
        (2 * 1024 * 1024..4 * 1024 * 1024).contains(&bytes),
        "{bytes}"
    );
    core.finish(&mut node.work);
    assert_conserved(core);
    let counters = core.counters();
    assert_eq!(counters.queued, 2 * 1024 * 1024 / 192);
    assert_eq!(
        counters.dropped_out[Reason::QueueFull as usize],
        8 * 8000 - counters.queued
    );
    core.route(1, 1, &[], None).unwrap();
    let bytes = far.memory();
    println!("the same when nobody speaks: {bytes} bytes");
    assert!(bytes < 512 * 1024, "{bytes}");
    assert_eq!(node.core.counters().queued, 0);
}
