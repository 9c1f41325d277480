//! Two legs and more, end to end through sealed packets, on a simulated clock: both equations hold after each
//! step, whatever the step.

mod common;

use _lane::frames::encode_ack;
use _lane::reason::Reason;
use _lane::slow::Item;
use _lane::work::Work;
use common::{address, deliver, Node, T0};

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
fn a_held_acknowledgement_of_audio_leaves_alone_after_sixty_milliseconds() {
    let mut node = Node::new(3);
    node.core.route(3, 1, &[(1, 7)], None).unwrap();
    node.talk(3);
    assert_eq!(node.work.next_ack(), Some(T0 + 0.06));
    node.core.flush(&mut node.work, T0);
    node.core.acks(&mut node.work, T0 + 0.058);
    let heard = deliver(&node.core, &mut node.work, &mut node.clients);
    assert_eq!(heard.len(), 1);
    node.core.acks(&mut node.work, T0 + 0.059);
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
        let out = 10 + leg as u16;
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
    let with_audio = heard
        .iter()
        .filter(|(_, heard)| !heard.datagrams.is_empty());
    assert_eq!(with_audio.count(), 13, "five at a time, and four");
    assert_eq!(
        (heard.len(), heard[13].0),
        (14, 1),
        "and what is owed for so many"
    );
    assert_eq!(node.core.counters().dropped_out, [0; Reason::COUNT]);
}

#[test]
fn a_path_without_room_keeps_its_copies_until_they_are_stale() {
    let mut node = Node::new(2);
    let mut heard = 0;
    for _ in 0..150 {
        let packet = node.client(1).talk(1000);
        node.receive(1, &packet);
        let left = node.flush();
        heard += left.iter().filter(|(leg, _)| *leg == 2).count();
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

/// Leg 1 talks to leg 2 until its window is full; how many copies wait then.
fn crowd(node: &mut Node) -> u64 {
    for _ in 0..40 {
        let packet = node.client(1).talk(900);
        node.receive(1, &packet);
        node.flush();
    }
    node.core.counters().queued
}

/// Leg 2 acknowledges all that it heard, and says nothing else.
fn acknowledge_all(node: &mut Node) {
    let mut plain = Vec::new();
    let got = node.client(2).got.as_slice().to_vec();
    encode_ack(&mut plain, &got, 0, 64);
    plain.resize(30, 0);
    let packet = node.client(2).packet(&plain);
    node.receive(2, &packet);
}

#[test]
fn nothing_of_a_flow_that_ended_leaves_when_the_window_opens() {
    let ends: [fn(&mut Node); 3] = [
        |node| {
            assert_eq!(node.core.close_flow(1, 1).accepted, 40);
        },
        |node| node.core.open_flow(1, 1, 0, false).unwrap(),
        |node| node.core.close_leg(1),
    ];
    for end in ends {
        let mut node = Node::new(3);
        node.core.route(3, 1, &[(2, 7)], None).unwrap();
        assert_eq!(crowd(&mut node), 5);
        end(&mut node);
        assert_eq!(node.core.counters().queued, 0);
        acknowledge_all(&mut node);
        node.talk(3);
        let heard = node.flush();
        let to_two: Vec<_> = heard.iter().filter(|heard| heard.0 == 2).collect();
        assert_eq!(to_two.len(), 1);
        assert_eq!(to_two[0].1.datagrams.len(), 1, "the other's voice alone");
        assert_eq!(to_two[0].1.datagrams[0][0], 7);
        let dropped = node.core.counters().dropped_out[Reason::GateClosed as usize];
        assert_eq!(dropped, 5);
    }
}

#[test]
fn what_the_window_did_not_take_leaves_when_it_opens() {
    let mut node = Node::new(2);
    assert_eq!(crowd(&mut node), 5);
    acknowledge_all(&mut node);
    let heard = node.flush();
    let copies: usize = heard.iter().map(|heard| heard.1.datagrams.len()).sum();
    assert_eq!((copies, node.core.counters().queued), (5, 0));
}

#[test]
fn an_acknowledgement_held_for_aioquic_is_let_go_when_that_is_done() {
    let mut node = Node::new(2);
    let stream = node.client(1).packet(b"\x08\0stream");
    node.receive(1, &stream);
    let ping = node.client(1).packet(&[1, 0, 0, 0, 0]);
    node.receive(1, &ping);
    node.take();
    assert_eq!(
        node.work.next_ack(),
        Some(T0 + 0.02),
        "as if nothing waited"
    );
    node.now = T0 + 0.02;
    assert!(node.flush().is_empty());
    assert_eq!(
        node.work.next_ack(),
        Some(node.now + 0.02),
        "looked at again"
    );
    let leg = node.client(1).leg.clone();
    node.core.with_path(&leg, |path| {
        path.add(0);
        path.slow_done();
    });
    node.now = T0 + 0.04;
    let heard = node.flush();
    assert_eq!((heard[0].0, &heard[0].1.acked[..]), (1, &[(0, 2)][..]));
}
