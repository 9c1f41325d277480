//! What waits for the loop: packets that only aioquic can judge, notes, packets of nobody; its bounds and its bell.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use _lane::cid::Cid;
use _lane::core::{Judge, Verdict, Waker};
use _lane::frames::{encode_ack, encode_datagram};
use _lane::reason::Reason;
use _lane::slow::Item;
use common::{address, assert_conserved, host_cid, Node, T0};

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
    // A note stands outside the equation, since its packet is settled, and finds room of its own.
    let mut plain = Vec::new();
    encode_datagram(&mut plain, b"\0ping");
    let packet = node.client(40).packet(&plain);
    node.receive(40, &packet);
    node.finish();
    assert_eq!(node.core.counters().notes_lost, 0);
    assert_eq!(node.core.take(100).len(), 100);
    assert_conserved(&node.core);
    assert_eq!(node.core.counters().taken, 100);
    assert_eq!(node.take().len(), 3997);
}

/// Ten packets full of control datagrams of one byte.
fn babble(node: &mut Node, leg: u64) {
    for _ in 0..10 {
        let packet = node.client(leg).packet(&[0x31, 1, 0].repeat(380));
        assert!(packet.len() <= 1200);
        node.receive(leg, &packet);
    }
}

#[test]
fn the_control_datagrams_of_one_leg_take_no_room_of_others() {
    let mut node = Node::new(2);
    babble(&mut node, 1);
    let stream = node.client(2).packet(b"\x08\0stream");
    node.receive(2, &stream);
    let mut plain = Vec::new();
    encode_datagram(&mut plain, b"\0ping");
    let packet = node.client(2).packet(&plain);
    node.receive(2, &packet);
    node.finish();
    assert_eq!(node.dropped(Reason::OverBudget), 0);
    assert_eq!(node.core.counters().notes_lost, 3800 - 32);
    // What was taken is free again, also while the rest waits.
    assert_eq!(node.core.take(8).len(), 8);
    babble(&mut node, 1);
    let items = node.take();
    let of =
        |leg: u64| move |item: &&Item| matches!(item, Item::Control { leg: l, .. } if *l == leg);
    assert_eq!(items.iter().filter(of(1)).count(), 32);
    assert_eq!(items.iter().filter(of(2)).count(), 1);
    assert_eq!(items.len(), 34);
}

#[test]
fn the_control_datagrams_of_all_legs_are_bounded_and_displace_no_packet() {
    let mut node = Node::new(130);
    for leg in 1..=130 {
        babble(&mut node, leg);
    }
    let stream = node.client(1).packet(b"\x08\0stream");
    node.receive(1, &stream);
    node.finish();
    assert_eq!(node.dropped(Reason::OverBudget), 0);
    assert_eq!(node.take().len(), 4097);
    babble(&mut node, 130); // those that found no room are not its share any more
    assert_eq!(node.take().len(), 32);
}

#[test]
fn acknowledgements_of_one_leg_wait_as_one() {
    let mut node = Node::new(2);
    for _ in 0..3 {
        node.talk(2);
        node.flush();
    }
    let leg = node.client(1).leg.clone();
    node.core.with_path(&leg, |path| path.outstanding = true);
    let acks: [(&[_], u64); 3] = [(&[(0, 1)], 9), (&[(2, 3)], 7), (&[(0, 1)], 5)];
    for (ranges, delay) in acks {
        node.now += 0.01;
        let mut plain = Vec::new();
        encode_ack(&mut plain, ranges, delay, 16);
        plain.resize(8, 0);
        let packet = node.client(1).packet(&plain);
        node.receive(1, &packet);
        node.finish(); // of different batches
    }
    let told = Item::Ack {
        leg: 1,
        ranges: vec![(2, 3), (0, 1)],
        delay: 7,
        at: T0 + 0.01 + 0.01,
    };
    assert_eq!(node.take(), [told]);
    assert!(node.take().is_empty());
    for _ in 0..5000 {
        let mut plain = Vec::new();
        encode_ack(&mut plain, &[(0, 1)], 1, 16);
        plain.resize(8, 0);
        let packet = node.client(1).packet(&plain);
        node.receive(1, &packet);
    }
    assert_eq!(node.take().len(), 1);
    assert_eq!(node.core.counters().notes_lost, 0, "none was lost");
}

#[test]
fn half_open_strangers_do_not_crowd_out_running_calls() {
    let mut node = Node::new(2);
    for leg in 100..500 {
        node.core.open_path(leg);
        node.core.own(leg, host_cid(leg)).unwrap();
        let mut junk = vec![0xC0, 0, 0, 0, 1, 8];
        junk.extend_from_slice(host_cid(leg).as_slice());
        for _ in 0..20 {
            node.receive(leg, &junk);
        }
    }
    node.receive(9, &[0x40; 40]); // nobody's
    node.finish();
    assert_eq!(node.dropped(Reason::OverBudget), 400 * 20 - 4096);
    let stream = node.client(1).packet(b"\x08\0stream");
    node.receive(1, &stream);
    let items = node.take();
    assert_eq!(items.len(), 4098);
    assert!(matches!(items[0], Item::Known { leg: 1, .. }));
    let of_one = |item: &&Item| matches!(item, Item::Known { leg: 100, .. });
    assert_eq!(items.iter().filter(of_one).count(), 16);
    assert!(matches!(items[4097], Item::Unknown { .. }));
}

#[test]
fn what_waits_for_aioquic_delays_acknowledgements_only_while_it_waits() {
    let mut node = Node::new(2);
    let leg = node.client(1).leg.clone();
    let stream = node.client(1).packet(b"\x08\0stream");
    node.receive(1, &stream);
    node.talk(1);
    let due = |node: &Node| node.core.with_path(&leg, |path| path.ack_due());
    assert_eq!(due(&node), Some(T0 + 0.14));
    node.core.with_path(&leg, |path| path.slow_done());
    assert_eq!(due(&node), Some(T0 + 0.06));
    // A packet that is refused does not count: aioquic will never see it.
    for _ in 0..200 {
        let stream = node.client(1).packet(b"\x08\0stream");
        node.receive(1, &stream);
    }
    node.finish();
    for _ in 0..126 {
        node.core.with_path(&leg, |path| path.slow_done());
    }
    assert_eq!(due(&node), Some(T0 + 0.14));
    node.core.with_path(&leg, |path| path.slow_done());
    assert_eq!(due(&node), Some(T0 + 0.06));
}

#[test]
fn ids_come_and_go_with_their_connection() {
    let mut node = Node::new(2);
    let other = Cid::new(b"another!").unwrap();
    let long = [&[0xC0, 0, 0, 0, 1, 8][..], b"another!", &[0; 30]].concat();
    node.core.own(1, other).unwrap();
    node.core.own(2, other).unwrap(); // the last word counts
    node.receive(9, &long);
    assert!(matches!(node.take()[..], [Item::Known { leg: 2, .. }]));
    node.core.disown(other);
    node.core.disown(other);
    node.receive(9, &long);
    assert!(matches!(node.take()[..], [Item::Unknown { .. }]));
    node.core.own(1, other).unwrap();
    node.core.close_path(1);
    node.core.close_path(1);
    node.talk(1);
    node.receive(9, &long);
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

    fn admissions(&self, waiting: usize, _settled: usize) {
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
