//! Two legs and more, end to end through sealed packets, on a simulated clock: both equations hold after each
//! step, whatever the step.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use _lane::cid::Cid;
use _lane::core::{Core, CoreConfig, Judge, Verdict, Waker};
use _lane::frames::{encode_ack, encode_datagram};
use _lane::reason::Reason;
use _lane::slow::Item;
use _lane::work::Work;
use common::{address, assert_conserved, deliver, host_cid, Client, Heard};

const T0: f64 = 100.0;

struct Node {
    core: Core,
    work: Work,
    clients: Vec<Client>,
    now: f64,
}

impl Node {
    /// Legs 1 to `legs`; 1 and 2 hear each other.
    fn new(legs: u64) -> Self {
        let core = Core::new(CoreConfig::default());
        let clients = (1..=legs)
            .map(|leg| Client::join(&core, leg, (leg % 3) as u8))
            .collect();
        core.route(1, 1, &[(2, 5)], None).unwrap();
        core.route(2, 1, &[(1, 6)], None).unwrap();
        Self {
            core,
            work: Work::new(0),
            clients,
            now: T0,
        }
    }

    fn client(&mut self, leg: u64) -> &mut Client {
        self.clients.iter_mut().find(|c| c.number == leg).unwrap()
    }

    fn receive(&mut self, leg: u64, packet: &[u8]) {
        let now = self.now;
        self.core
            .receive(&mut self.work, packet, address(leg), 0, now);
    }

    fn talk(&mut self, leg: u64) {
        let packet = self.client(leg).talk(100);
        self.receive(leg, &packet);
    }

    fn finish(&mut self) {
        self.core.finish(&mut self.work);
        assert_conserved(&self.core);
    }

    fn flush(&mut self) -> Vec<(u64, Heard)> {
        self.core.flush(&mut self.work, self.now);
        self.core.acks(&mut self.work, self.now);
        let heard = deliver(&self.core, &mut self.work, &mut self.clients);
        self.finish();
        heard
    }

    fn take(&mut self) -> Vec<Item> {
        self.finish();
        let items = self.core.take(usize::MAX);
        assert_conserved(&self.core);
        items
    }

    fn dropped(&self, reason: Reason) -> u64 {
        self.core.counters().dropped[reason as usize]
    }
}

#[test]
fn a_conversation_passes_with_its_acknowledgements_on_the_audio() {
    let mut node = Node::new(2);
    for turn in 0..1000 {
        node.now += 0.01;
        for leg in [1, 2] {
            node.talk(leg);
            let heard = node.flush();
            assert_eq!(heard.len(), 1, "turn {turn}: one packet for one packet");
            assert_eq!(heard[0].0, 3 - leg);
            assert_eq!(heard[0].1.datagrams.len(), 1);
        }
    }
    let counters = node.core.counters();
    assert_eq!((counters.udp_in, counters.media), (2000, 2000));
    assert_eq!((counters.copies_sent, counters.sent), (2000, 2000));
    assert_eq!((counters.media_lost, counters.queued), (0, 0));
    assert!(node.take().is_empty());
    // A leg says less and less of what it got: the other acknowledges the acknowledgements.
    for client in &node.clients {
        let rtt = node.core.with_path(&client.leg, |path| {
            assert!(path.ranges().len() <= 1);
            path.rtt.now.unwrap()
        });
        assert!(rtt.latest > 0.0 && rtt.latest < 0.03);
    }
}

#[test]
fn a_held_acknowledgement_leaves_alone_after_twenty_milliseconds() {
    let mut node = Node::new(3);
    node.core.route(3, 1, &[(1, 7)], None).unwrap();
    node.talk(3);
    assert_eq!(node.work.next_ack(), Some(T0 + 0.02));
    node.core.flush(&mut node.work, T0);
    node.core.acks(&mut node.work, T0 + 0.018);
    let heard = deliver(&node.core, &mut node.work, &mut node.clients);
    assert_eq!(heard.len(), 1);
    node.core.acks(&mut node.work, T0 + 0.019);
    let heard = deliver(&node.core, &mut node.work, &mut node.clients);
    assert_eq!((heard[0].0, &heard[0].1.acked[..]), (3, &[(0, 1)][..]));
    assert!(heard[0].1.datagrams.is_empty());
    assert_eq!(node.work.next_ack(), None);
    // One that rode on audio is not sent again, and one that moved is listed again.
    node.now = T0 + 1.0;
    node.talk(1);
    node.talk(2);
    assert_eq!(node.flush().len(), 2);
    node.now += 0.01;
    node.talk(1);
    node.now += 0.01;
    node.core.acks(&mut node.work, node.now);
    assert!(node.work.out.is_empty());
    assert!(node.work.next_ack().is_some_and(|due| due > node.now));
    node.finish();
}

#[test]
fn a_thread_that_ends_lets_go_of_what_it_held_back() {
    let mut node = Node::new(2);
    node.talk(1);
    node.core.retire(&mut node.work, node.now);
    let heard = deliver(&node.core, &mut node.work, &mut node.clients);
    assert_eq!(heard.len(), 2, "the copy, and the acknowledgement");
    node.finish();
    node.work = Work::new(1);
    node.talk(1);
    assert!(node.work.next_ack().is_some());
    assert_eq!(node.flush().len(), 1);
}

#[test]
fn copies_of_several_flows_share_a_packet() {
    let mut node = Node::new(8);
    for leg in 2..=8 {
        let out = 10 + leg as u8;
        node.core.route(leg, 1, &[(1, out)], None).unwrap();
        node.talk(leg);
    }
    let heard = node.flush();
    assert_eq!(heard.len(), 1);
    let flows: Vec<u8> = heard[0].1.datagrams.iter().map(|copy| copy[0]).collect();
    assert_eq!(flows, [12, 13, 14, 15, 16, 17, 18]);
}

#[test]
fn a_batch_does_not_overflow_a_queue_that_could_have_left() {
    let mut node = Node::new(2);
    for _ in 0..64 {
        node.talk(1);
    }
    let heard = node.flush();
    let copies: usize = heard.iter().map(|(_, heard)| heard.datagrams.len()).sum();
    assert_eq!(copies, 64);
    assert_eq!(heard.len(), 13, "five at a time, and four");
    assert_eq!(node.core.counters().dropped_out, [0; Reason::COUNT]);
}

#[test]
fn a_path_without_room_keeps_its_copies_until_they_are_stale() {
    let mut node = Node::new(2);
    let mut heard = 0;
    for _ in 0..150 {
        let packet = node.client(1).talk(1000);
        node.receive(1, &packet);
        heard += node.flush().len();
    }
    assert_eq!(heard, 16, "16 KiB in flight, and no acknowledgement");
    let counters = node.core.counters();
    assert_eq!(counters.queued, 5);
    assert_eq!(
        counters.dropped_out[Reason::QueueFull as usize],
        150 - 16 - 5
    );
    node.now += 1.01;
    node.talk(1);
    assert_eq!(
        node.flush().len(),
        2,
        "the copy, and a held acknowledgement"
    );
    let counters = node.core.counters();
    assert_eq!(counters.dropped_out[Reason::Stale as usize], 4);
    assert_eq!((counters.queued, counters.media_lost), (0, 16));
}

#[test]
fn what_no_leg_can_have_sent_is_dropped_by_name() {
    let mut node = Node::new(2);
    for (packet, reason) in [
        (vec![0x40; 2049], Reason::TooLarge),
        (vec![], Reason::Malformed),
        (vec![0x3F; 50], Reason::Malformed),
        (vec![0x80; 50], Reason::Malformed),
        (vec![0xBF; 50], Reason::Malformed),
        (vec![0xC0; 6], Reason::Malformed),
    ] {
        let before = node.dropped(reason);
        node.receive(1, &packet);
        node.finish();
        assert_eq!(node.dropped(reason), before + 1);
    }
    let mut packet = node.client(1).talk(100);
    *packet.last_mut().unwrap() ^= 1;
    node.receive(1, &packet);
    node.finish();
    assert_eq!(node.dropped(Reason::BadTag), 1);
    assert!(node.take().is_empty());
}

#[test]
fn what_is_aioquics_reaches_the_loop_whole_and_known_legs_first() {
    let mut node = Node::new(2);
    node.receive(9, &[0x40; 40]); // nobody's
    let mut long = vec![0xC0, 0, 0, 0, 1, 8];
    long.extend_from_slice(host_cid(1).as_slice());
    long.resize(60, 7);
    node.receive(1, &long);
    let stream = node.client(1).packet(b"\x08\0stream");
    node.receive(1, &stream);
    let moved = node.client(2).talk(100);
    node.receive(3, &moved);
    let items = node.take();
    let known = |leg: u64, data: &[u8], from: u64| Item::Known {
        leg,
        data: data.to_vec(),
        from: address(from),
        sock: 0,
        at: T0,
    };
    let unknown = Item::Unknown {
        data: vec![0x40; 40],
        from: address(9),
        sock: 0,
        at: T0,
    };
    let expected = [
        known(1, &long, 1),
        known(1, &stream, 1),
        known(2, &moved, 3),
        unknown,
    ];
    assert_eq!(items, expected);
    let counters = node.core.counters();
    assert_eq!((counters.waiting, counters.taken), (0, 4));
}

#[test]
fn control_datagrams_and_acknowledgements_are_notes_beside_the_media() {
    let mut node = Node::new(2);
    let leg = node.client(1).leg.clone();
    node.talk(2);
    node.flush();
    node.core.with_path(&leg, |path| path.outstanding = true);
    let mut plain = Vec::new();
    encode_ack(&mut plain, &[(0, 1)], 9, 16);
    encode_datagram(&mut plain, b"\0ping");
    let packet = node.client(1).packet(&plain);
    node.receive(1, &packet);
    let items = node.take();
    let ack = Item::Ack {
        leg: 1,
        ranges: vec![(0, 1)],
        delay: 9,
        at: T0,
    };
    let control = Item::Control {
        leg: 1,
        payload: b"\0ping".to_vec(),
        at: T0,
    };
    assert_eq!(items, [ack, control]);
    let counters = node.core.counters();
    assert_eq!(
        (counters.media, counters.taken, counters.waiting),
        (2, 0, 0)
    );
}

#[test]
fn a_leg_may_have_128_packets_waiting_and_all_together_4096() {
    let mut node = Node::new(40);
    for _ in 0..130 {
        let packet = node.client(1).packet(b"\x08\0x");
        node.receive(1, &packet);
    }
    node.finish();
    assert_eq!(node.dropped(Reason::OverBudget), 2);
    for leg in 2..=40 {
        for _ in 0..128 {
            let packet = node.client(leg).packet(b"\x08\0x");
            node.receive(leg, &packet);
        }
        node.finish();
    }
    let counters = node.core.counters();
    assert_eq!(counters.waiting, 4096);
    assert_eq!(node.dropped(Reason::OverBudget), 2 + 40 * 128 - 4096);
    // Notes are bounded too, and stand outside the equation: their packets are settled.
    let mut plain = Vec::new();
    encode_datagram(&mut plain, b"\0ping");
    let packet = node.client(40).packet(&plain);
    node.receive(40, &packet);
    node.finish();
    assert_eq!(node.core.counters().notes_lost, 1);
    assert_eq!(node.core.take(100).len(), 100);
    assert_conserved(&node.core);
    assert_eq!(node.core.counters().taken, 100);
    assert_eq!(node.take().len(), 3996);
}

#[test]
fn what_waits_for_aioquic_delays_acknowledgements_only_while_it_waits() {
    let mut node = Node::new(2);
    let leg = node.client(1).leg.clone();
    let stream = node.client(1).packet(b"\x08\0stream");
    node.receive(1, &stream);
    node.talk(1);
    let due = |node: &Node| node.core.with_path(&leg, |path| path.ack_due());
    assert_eq!(due(&node), Some(T0 + 0.1));
    node.core.with_path(&leg, |path| path.slow_done());
    assert_eq!(due(&node), Some(T0 + 0.02));
    // A packet that is refused does not count: aioquic will never see it.
    for _ in 0..200 {
        let stream = node.client(1).packet(b"\x08\0stream");
        node.receive(1, &stream);
    }
    node.finish();
    for _ in 0..126 {
        node.core.with_path(&leg, |path| path.slow_done());
    }
    assert_eq!(due(&node), Some(T0 + 0.1));
    node.core.with_path(&leg, |path| path.slow_done());
    assert_eq!(due(&node), Some(T0 + 0.02));
}

#[test]
fn ids_come_and_go_with_their_connection() {
    let mut node = Node::new(2);
    let other = Cid::new(b"another!").unwrap();
    node.core.own(1, other).unwrap();
    node.core.own(2, other).unwrap(); // the last word counts
    node.receive(9, &[&[0x40][..], b"another!", &[0; 30]].concat());
    assert!(matches!(node.take()[..], [Item::Known { leg: 2, .. }]));
    node.core.disown(other);
    node.core.disown(other);
    node.receive(9, &[&[0x40][..], b"another!", &[0; 30]].concat());
    assert!(matches!(node.take()[..], [Item::Unknown { .. }]));
    node.core.own(1, other).unwrap();
    node.core.close_path(1);
    node.core.close_path(1);
    node.talk(1);
    node.receive(9, &[&[0x40][..], b"another!", &[0; 30]].concat());
    let items = node.take();
    assert!(matches!(
        items[..],
        [Item::Unknown { .. }, Item::Unknown { .. }]
    ));
    node.core.close_leg(1);
    assert!(node.core.own(1, other).is_err(), "nothing of it is left");
    node.talk(2); // its listener is gone
    node.flush();
    let gone = node.core.counters().dropped_out[Reason::PeerGone as usize];
    assert_eq!(gone, 1);
}

#[test]
fn a_packet_by_another_threads_socket_finds_its_leg() {
    let mut node = Node::new(2);
    let packet = node.client(1).talk(100);
    let now = node.now;
    let core = &node.core;
    core.receive(&mut node.work, &packet, address(1), 2, now);
    assert_eq!(node.take().len(), 1, "socket 2 is of another address");
    node.core.set_stride(2);
    let packet = node.client(1).talk(100);
    let core = &node.core;
    core.receive(&mut node.work, &packet, address(1), 2, now);
    let other = node.client(1).talk(100);
    let core = &node.core;
    core.receive(&mut node.work, &other, address(1), 3, now);
    assert_eq!(node.flush().len(), 1);
    assert_eq!(node.take().len(), 1);
    let counters = node.core.counters();
    assert_eq!((counters.media, counters.wrong_lane), (1, 1));
}

#[test]
fn packets_that_the_kernel_refuses_take_their_copies_along() {
    let mut node = Node::new(2);
    for _ in 0..3 {
        node.talk(1);
    }
    node.talk(2);
    node.core.flush(&mut node.work, T0);
    assert_eq!(node.work.out.len(), 2);
    node.core.unsent(&mut node.work, 0);
    node.core.unsent(&mut node.work, 0); // counts its copies once
    node.core.sent(&mut node.work);
    node.finish();
    let counters = node.core.counters();
    assert_eq!((counters.sent, counters.send_errors), (0, 2));
    assert_eq!(counters.copies_sent, 1);
    assert_eq!(counters.dropped_out[Reason::SendError as usize], 3);
}

#[test]
fn a_key_change_is_asked_for_while_audio_goes_on() {
    let mut node = Node::new(2);
    let leg = node.client(1).leg.clone();
    node.core.with_path(&leg, |path| path.update_after = 10);
    let mut asked = 0;
    for turn in 0..100 {
        node.now += 0.02;
        node.talk(1);
        node.talk(2);
        assert_eq!(node.flush().len(), 2, "turn {turn}");
        for item in node.take() {
            assert_eq!(item, Item::Rekey { leg: 1 });
            asked += 1;
            let phase = asked as u8;
            let core = &node.core;
            let clients = &mut node.clients;
            clients[0].rekey(core, phase);
        }
    }
    assert!((8..=10).contains(&asked), "{asked}");
    assert_eq!(node.core.counters().media_lost, 0);
}

struct Door(AtomicUsize);

impl Judge for Door {
    fn judge(
        &self,
        data: &[u8],
        _from: SocketAddr,
        _now: f64,
        wall: f64,
        reply: &mut Vec<u8>,
    ) -> Verdict {
        assert!(reply.is_empty());
        assert_eq!(wall, 5.0);
        match data.last() {
            Some(0) => Verdict::Drop(Reason::UnknownId),
            Some(1) => {
                reply.extend_from_slice(b"try again");
                Verdict::Answer("retry")
            }
            Some(2) => Verdict::Admit {
                original: Cid::new(b"original").unwrap(),
                retry_source: None,
            },
            _ => panic!("a bug"),
        }
    }

    fn admissions(&self, waiting: usize) {
        self.0.store(waiting, Ordering::Relaxed);
    }
}

#[test]
fn packets_of_nobody_are_judged_after_the_media_and_a_bug_costs_one_packet() {
    let mut node = Node::new(2);
    let door = Arc::new(Door(AtomicUsize::new(0)));
    node.core.install_front(door.clone());
    let stranger = |last: u8| [&[0xC0; 40][..], &[last]].concat();
    for last in 0..4 {
        node.receive(9, &stranger(last));
    }
    node.talk(1);
    node.receive(9, &[&[0x40][..], b"too late", &[1; 30]].concat());
    let late = Cid::new(b"too late").unwrap();
    node.core.own(2, late).unwrap();
    node.core.judge(&mut node.work, T0, 5.0);
    let replies: Vec<_> = node
        .work
        .out
        .iter()
        .map(|(bytes, to, _)| (bytes.to_vec(), to))
        .collect();
    assert_eq!(replies, [(b"try again".to_vec(), address(9))]);
    node.core.sent(&mut node.work);
    let items = {
        node.finish();
        assert_eq!(door.0.load(Ordering::Relaxed), 1);
        node.take()
    };
    assert_eq!(door.0.load(Ordering::Relaxed), 0);
    let admit = Item::Admit {
        data: stranger(2),
        from: address(9),
        sock: 0,
        at: T0,
        original: Cid::new(b"original").unwrap(),
        retry_source: None,
    };
    assert!(matches!(items[0], Item::Known { leg: 2, .. }));
    assert_eq!(items[1..], [admit]);
    let counters = node.core.counters();
    let answers: Vec<_> = counters.front.iter().collect();
    assert_eq!(answers, [("retry", 1)]);
    assert_eq!(node.dropped(Reason::UnknownId), 1);
    assert_eq!(node.dropped(Reason::Internal), 1);
    assert_eq!((counters.media, counters.udp_in), (1, 6));
}

struct Bell(AtomicUsize);

impl Waker for Bell {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_loop_is_woken_once_until_it_takes() {
    let mut node = Node::new(2);
    let bell = Arc::new(Bell(AtomicUsize::new(0)));
    node.core.set_waker(Some(bell.clone()));
    node.talk(1);
    assert!(!node.core.finish(&mut node.work), "nothing for the loop");
    for _ in 0..3 {
        node.receive(9, &[0x40; 40]);
        node.core.finish(&mut node.work);
    }
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    assert_eq!(node.core.take(2).len(), 2);
    assert!(node.core.finish(&mut node.work), "one is left");
    assert_eq!(bell.0.load(Ordering::Relaxed), 2);
    assert_eq!(node.take().len(), 1);
}
