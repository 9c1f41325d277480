//! A leg's path against its own mirror image: keys, numbers, acknowledgements, loss, round trips.

mod common;

use _lane::cid::Cid;
use _lane::frames::{encode_ack, encode_datagram, Parsed};
use _lane::keys::{Keys, Unsealed};
use _lane::path::{Opened, Path, AUDIO_ACK_HOLD};
use _lane::reason::Reason;
use common::{address, host_cid, parts, path, peer_cid, secret, turn_keys};

const T0: f64 = 100.0;

fn pair() -> (Path, Path) {
    (path(0, 1, true), path(0, 1, false))
}

fn seal(from: &mut Path, datagrams: &[&[u8]], now: f64) -> Vec<u8> {
    let mut packet = Vec::new();
    let size = from.seal(datagrams.iter().copied(), now, &mut packet);
    assert_eq!(size, Some(packet.len()));
    packet
}

/// What a path makes of a packet, with the datagrams if it opens.
fn open(at: &mut Path, packet: &[u8], now: f64) -> Result<Vec<Vec<u8>>, Option<Reason>> {
    let (mut scratch, mut parsed) = (Vec::new(), Parsed::default());
    match at.open(packet, Some(address(1)), now, &mut scratch, &mut parsed) {
        Opened::Media(plain) => Ok(parsed
            .datagrams
            .iter()
            .map(|range| plain[range.clone()].to_vec())
            .collect()),
        Opened::Drop(reason) => Err(Some(reason)),
        Opened::Slow => Err(None),
    }
}

/// A packet of the client with any frames, number and phase.
fn crafted(number: u64, phase: u8, plain: &[u8]) -> Vec<u8> {
    let (up, down) = (secret(0, 1, phase, true), secret(0, 1, phase, false));
    let keys = Keys::new(0, phase & 1, parts(&down), parts(&up)).unwrap();
    let mut packet = Vec::new();
    let body = keys.begin(host_cid(1).as_slice(), &mut packet);
    packet.extend_from_slice(plain);
    keys.close(number, 0, body, &mut packet).unwrap();
    packet
}

#[test]
fn every_suite_carries_datagrams_both_ways() {
    for suite in 0..3 {
        let (mut relay, mut client) = (path(suite, 1, true), path(suite, 1, false));
        let up = seal(&mut client, &[b"one", b"two"], T0);
        assert_eq!(
            open(&mut relay, &up, T0),
            Ok(vec![b"one".to_vec(), b"two".to_vec()])
        );
        let down = seal(&mut relay, &[b"three"], T0);
        assert_eq!(open(&mut client, &down, T0), Ok(vec![b"three".to_vec()]));
    }
}

#[test]
fn a_packet_is_the_packet_paths_only_from_the_right_place_to_the_right_id() {
    let (mut relay, mut client) = pair();
    let packet = seal(&mut client, &[b"voice"], T0);
    let (mut scratch, mut parsed) = (Vec::new(), Parsed::default());
    let elsewhere = address(2);
    let opened = relay.open(&packet, Some(elsewhere), T0, &mut scratch, &mut parsed);
    assert_eq!(opened, Opened::Slow);
    relay.facts.host_cid = peer_cid(9);
    assert_eq!(open(&mut relay, &packet, T0), Err(None));
    relay.facts.host_cid = Cid::new(b"short").unwrap();
    assert_eq!(open(&mut relay, &packet, T0), Err(None));
    relay.facts.host_cid = host_cid(1);
    relay.active = false;
    assert_eq!(open(&mut relay, &packet, T0), Err(None));
    relay.active = true;
    for size in 0..packet.len() {
        let cut = open(&mut relay, &packet[..size], T0);
        assert_eq!(cut, Err(Some(Reason::BadTag)));
    }
    assert_eq!(
        (relay.expected, relay.largest, relay.last_heard),
        (0, -1, 0.0)
    );
    assert_eq!(open(&mut relay, &packet, T0), Ok(vec![b"voice".to_vec()]));
    assert_eq!(
        (relay.expected, relay.largest, relay.last_heard),
        (1, 0, T0)
    );
}

#[test]
fn a_forged_packet_is_dropped_and_a_repeated_one_too() {
    let (mut relay, mut client) = pair();
    let packet = seal(&mut client, &[b"voice"], T0);
    let mut forged = packet.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(open(&mut relay, &forged, T0), Err(Some(Reason::BadTag)));
    assert!(open(&mut relay, &packet, T0).is_ok());
    assert_eq!(open(&mut relay, &packet, T0), Err(Some(Reason::Duplicate)));
    assert_eq!(relay.ranges(), [(0, 1)]);
}

#[test]
fn a_packet_for_aioquic_leaves_no_trace() {
    let (mut relay, _) = pair();
    let mut two_acks = Vec::new();
    let never_sent: &[u8] = &[0x02, 0x05, 0, 0, 0]; // acknowledges number 5
    seal(&mut relay, &[b"a"], T0);
    encode_ack(&mut two_acks, &[(0, 1)], 0, 16);
    encode_ack(&mut two_acks, &[(0, 1)], 0, 16);
    for plain in [&b"\x08\0stream"[..], &two_acks, never_sent, b"\x31\x44"] {
        assert_eq!(open(&mut relay, &crafted(0, 0, plain), T0), Err(None));
        assert_eq!((relay.expected, relay.largest, relay.ack_at), (0, -1, None));
        assert!(!relay.has(0));
        assert!(relay.ranges().is_empty());
        assert!(relay.media_in_flight() > 0);
    }
}

#[test]
fn the_next_key_phase_is_for_aioquic_and_stragglers_of_the_one_before_open() {
    let (mut relay, mut client) = pair();
    let straggler = seal(&mut client, &[b"old"], T0);
    let forged = crafted(7, 1, b"\x31\x03bad");
    assert_eq!(open(&mut relay, &forged, T0), Err(None)); // perhaps the next phase
    turn_keys(&mut client, 0, 1, 1, false);
    let new = seal(&mut client, &[b"new"], T0);
    assert_eq!(open(&mut relay, &new, T0), Err(None));
    turn_keys(&mut relay, 0, 1, 1, true);
    assert_eq!(relay.key_updates, 1);
    assert_eq!(open(&mut relay, &straggler, T0), Ok(vec![b"old".to_vec()]));
    assert_eq!(open(&mut relay, &new, T0), Ok(vec![b"new".to_vec()]));
    // One more update: the bit is that of the first phase again, its keys are gone.
    turn_keys(&mut relay, 0, 1, 2, true);
    let ancient = crafted(9, 0, b"\x31\x03old");
    assert_eq!(open(&mut relay, &ancient, T0), Err(Some(Reason::BadTag)));
    let before = crafted(10, 1, b"\x31\x03mid");
    assert_eq!(open(&mut relay, &before, T0), Ok(vec![b"mid".to_vec()]));
    assert!(!relay.set_keys(0, 1, (b"short", &[0; 12], b""), (b"", b"", b"")));
    assert_eq!(relay.key_updates, 2);
}

#[test]
fn numbers_are_left_out_at_29_and_then_at_gaps_that_grow_eightfold() {
    let (mut relay, mut client) = pair();
    let mut number = 0;
    let mut left_out = Vec::new();
    for _ in 0..300 {
        let packet = seal(&mut relay, &[b"voice"], T0);
        let down = secret(0, 1, 0, false);
        let up = secret(0, 1, 0, true);
        let keys = Keys::new(0, 0, parts(&down), parts(&up)).unwrap();
        let mut scratch = Vec::new();
        match keys.open(&packet, number, &mut scratch) {
            Unsealed::Plain(found, _) => {
                left_out.extend(number..found);
                number = found + 1;
            }
            other => panic!("{other:?}"),
        }
        assert!(open(&mut client, &packet, T0).is_ok());
    }
    assert_eq!(left_out, [29, 30 + 232]);
}

#[test]
fn a_reservation_goes_back_unless_something_was_sealed_meanwhile() {
    let mut relay = path(0, 1, true);
    relay.confirmed = false;
    assert_eq!(relay.reserve(256), 0);
    relay.settle(3); // aioquic used 0, 1, 2
    assert_eq!(relay.reserve(10), 3);
    seal(&mut relay, &[b"voice"], T0); // takes 13
    relay.settle(4);
    assert!(relay.is_honest(&[(13, 14), (0, 4)]));
    assert!(!relay.is_honest(&[(12, 14)]), "4 to 12 were never sent");
    assert!(!relay.is_honest(&[(13, 14), (3, 5)]));
    assert!(!relay.is_honest(&[(13, 15)]), "14 is the next");
    assert!(!relay.is_honest(&[]));
    // All of a reservation was used, then nothing is left out.
    assert_eq!(relay.reserve(2), 14);
    seal(&mut relay, &[b"voice"], T0);
    relay.settle(16);
    assert!(relay.is_honest(&[(13, 17)]));
}

#[test]
fn a_confirmed_reservation_leaves_a_number_out_and_eight_are_remembered() {
    let mut relay = path(0, 1, true);
    relay.settle(29);
    assert_eq!(relay.reserve(1), 30);
    relay.settle(31);
    assert!(!relay.is_honest(&[(29, 31)]));
    assert!(relay.is_honest(&[(30, 31), (0, 29)]));
    let mut first = None;
    for _ in 0..9 {
        let start = relay.reserve(4);
        first.get_or_insert(start);
        seal(&mut relay, &[b"voice"], T0);
        relay.settle(start);
    }
    let first = first.unwrap();
    assert!(relay.is_honest(&[(29, 30)]), "forgotten by now");
    assert!(relay.is_honest(&[(first, first + 1)]), "forgotten by now");
    assert!(!relay.is_honest(&[(first + 5, first + 6)]));
}

#[test]
fn an_acknowledgement_rides_on_audio_or_waits_its_turn() {
    let (mut relay, mut client) = pair();
    assert_eq!(relay.ack_due(), None);
    let packet = seal(&mut client, &[b"voice"], T0);
    assert!(open(&mut relay, &packet, T0).is_ok());
    assert_eq!(relay.ack_due(), Some(T0 + AUDIO_ACK_HOLD));
    assert!(client.media_in_flight() > 0);
    let back = seal(&mut relay, &[b"voice"], T0 + 0.01);
    assert_eq!(relay.ack_due(), None);
    assert!(open(&mut client, &back, T0 + 0.01).is_ok());
    assert_eq!(client.media_in_flight(), 0);
    // The client acknowledges our acknowledgement: its numbers need no more of them.
    let alone = client.seal(std::iter::empty(), T0 + 0.02, &mut Vec::new());
    assert!(alone.is_some());
    let mut packet = Vec::new();
    encode_ack(&mut packet, &[(0, 1)], 0, 16);
    assert!(open(&mut relay, &crafted(5, 0, &packet), T0 + 0.02).is_ok());
    assert_eq!(relay.ranges(), [(5, 6)]);
    assert_eq!(relay.ack_due(), None, "an ACK alone wants none");
}

/// What the relay owes after each of these numbers arrived, in seconds from then on: they are 10 ms apart, and
/// it says what it owes after each.
fn owed(relay: &mut Path, numbers: &[u64], from: f64, plain: &[u8]) -> Vec<i64> {
    let mut now = from;
    let owed = numbers.iter().map(|number| {
        now += 0.01;
        assert!(open(relay, &crafted(*number, 0, plain), now).is_ok());
        let due = relay.ack_due().unwrap();
        seal(relay, &[b"voice"], now);
        ((due - now) * 1000.0).round() as i64
    });
    owed.collect()
}

#[test]
fn what_is_missing_hurries_acknowledgements_and_two_losses_do_for_a_while() {
    let (mut relay, _) = pair();
    let audio = b"\x31\x05voice";
    assert_eq!(owed(&mut relay, &[0, 1, 2], T0, audio), [60, 60, 60]);
    assert_eq!(
        owed(&mut relay, &[4, 5], T0, audio),
        [0, 60],
        "one left out"
    );
    assert_eq!(
        owed(&mut relay, &[7, 8], T0 + 6.0, audio),
        [0, 60],
        "and another"
    );
    assert_eq!(
        owed(&mut relay, &[10, 11], T0 + 7.0, audio),
        [0, 20],
        "so soon: lost"
    );
    assert_eq!(owed(&mut relay, &[12], T0 + 36.0, audio), [20]);
    assert_eq!(owed(&mut relay, &[13], T0 + 37.1, audio), [60]);
    assert_eq!(
        owed(&mut relay, &[16, 17], T0 + 50.0, audio),
        [0, 20],
        "two at once"
    );
    assert_eq!(
        owed(&mut relay, &[15, 18], T0 + 50.1, audio),
        [0, 20],
        "late"
    );
}

#[test]
fn control_is_acknowledged_sooner_than_audio_and_many_packets_at_once() {
    let (mut relay, _) = pair();
    assert_eq!(owed(&mut relay, &[0], T0, b"\x01\0\0\0\0"), [20]);
    for number in 1..16 {
        assert!(open(&mut relay, &crafted(number, 0, b"\x31\x05voice"), T0).is_ok());
    }
    assert_eq!(relay.ack_due(), Some(T0 + AUDIO_ACK_HOLD));
    assert!(open(&mut relay, &crafted(16, 0, b"\x31\x05voice"), T0).is_ok());
    assert_eq!(relay.ack_due(), Some(T0), "the sixteenth");
    assert!(open(&mut relay, &crafted(17, 0, b"\x01\0\0\0\0"), T0 + 0.01).is_ok());
    assert_eq!(relay.ack_due(), Some(T0), "never later than it was");
}

#[test]
fn what_waits_for_aioquic_is_not_missing() {
    let (mut relay, _) = pair();
    relay.slow_more();
    assert!(open(&mut relay, &crafted(1, 0, b"\x31\x05voice"), T0).is_ok());
    relay.add(0);
    relay.slow_done();
    assert_eq!(relay.ack_due(), Some(T0 + AUDIO_ACK_HOLD));
}

#[test]
fn an_acknowledgement_does_not_overtake_packets_that_wait_for_aioquic() {
    let (mut relay, mut client) = pair();
    let packet = seal(&mut client, &[b"voice"], T0);
    assert!(open(&mut relay, &packet, T0).is_ok());
    relay.slow_more();
    assert_eq!(relay.ack_due(), Some(T0 + AUDIO_ACK_HOLD + 0.080));
    seal(&mut relay, &[b"voice"], T0 + 0.03);
    assert!(relay.ack_at.is_some());
    relay.slow_done();
    relay.slow_done();
    seal(&mut relay, &[b"voice"], T0 + 0.03);
    assert!(relay.ack_at.is_none());
}

#[test]
fn nothing_to_say_is_no_packet() {
    let mut relay = path(0, 1, true);
    let mut out = b"before".to_vec();
    assert_eq!(relay.seal(std::iter::empty(), T0, &mut out), None);
    relay.ack_at = Some(T0);
    assert_eq!(relay.seal(std::iter::empty(), T0, &mut out), None);
    assert_eq!(relay.ack_at, None, "no ranges: nothing to acknowledge");
    relay.close();
    assert_eq!(relay.seal([&b"x"[..]].into_iter(), T0, &mut out), None);
    assert_eq!(out, b"before");
}

#[test]
fn an_acknowledgement_that_does_not_fit_beside_the_audio_leaves_by_itself() {
    let mut relay = path(0, 1, true);
    for number in 0..64 {
        relay.add(number * 100_000);
    }
    relay.largest = 6_300_000;
    relay.ack_at = Some(T0);
    let big = [7; 1150];
    seal(&mut relay, &[&big], T0);
    assert_eq!(relay.ack_at, Some(T0));
    let size = relay.seal(std::iter::empty(), T0, &mut Vec::new());
    assert!(size.is_some_and(|size| size < 200), "{size:?}");
    assert_eq!(relay.ack_at, None);
}

#[test]
fn sixty_four_ranges_are_kept() {
    let mut relay = path(0, 1, true);
    for number in 0..100 {
        relay.add(number * 2);
    }
    assert_eq!(relay.ranges().len(), 64);
    assert_eq!(relay.ranges()[0], (72, 73));
    relay.subtract(73);
    assert_eq!(relay.ranges().len(), 63);
    assert!(relay.has(70) && relay.has(72) && !relay.has(199));
}

#[test]
fn a_packet_is_lost_three_numbers_behind_or_after_nine_eighths_of_a_round_trip() {
    let mut relay = path(0, 1, true);
    relay.rtt.now = None;
    for index in 0..6 {
        seal(&mut relay, &[b"voice"], T0 + f64::from(index) * 0.0001);
    }
    // 5 acknowledged: 0, 1, 2 are three behind; 3 and 4 are young.
    relay.acknowledged(&[(5, 6)], 0, T0 + 0.001);
    assert_eq!(relay.lost(), 3);
    let size = relay.media_in_flight() / 2;
    // After 1.125 ms (the least round trip) 4 is old as well.
    seal(&mut relay, &[b"voice"], T0 + 0.02);
    relay.acknowledged(&[(6, 7), (3, 4)], 0, T0 + 0.04);
    assert_eq!((relay.lost(), relay.media_in_flight()), (4, 0));
    assert!(size > 0);
    relay.acknowledged(&[], 0, T0);
}

#[test]
fn a_full_window_closes_and_opens_again_when_its_packets_are_silent_for_a_second() {
    let mut relay = path(0, 1, true);
    let voice = [1; 1000];
    let mut count = 0;
    while relay.room(T0) {
        seal(&mut relay, &[&voice], T0);
        count += 1;
    }
    assert_eq!(count, 16); // 16 KiB of packets of 1030 bytes
    assert!(!relay.room(T0 + 1.0));
    assert!(relay.room(T0 + 1.001));
    assert_eq!((relay.lost(), relay.media_in_flight()), (16, 0));
    relay.active = false;
    assert!(!relay.room(T0 + 2.0));
}

#[test]
fn round_trips_are_sampled_twenty_times_a_second() {
    let mut relay = path(0, 1, true);
    seal(&mut relay, &[b"a"], T0);
    relay.acknowledged(&[(0, 1)], 0, T0 + 0.1);
    let first = relay.rtt.now.unwrap();
    let latest = T0 + 0.1 - T0;
    assert_eq!(
        (first.latest, first.smoothed, first.least),
        (latest, latest, latest)
    );
    assert_eq!(first.variance, latest / 2.0);
    seal(&mut relay, &[b"b"], T0 + 0.1);
    relay.acknowledged(&[(0, 2)], 0, T0 + 0.14);
    assert_eq!(relay.rtt.now, Some(first), "too soon");
    seal(&mut relay, &[b"c"], T0 + 0.1);
    relay.acknowledged(&[(0, 3)], 1250, T0 + 0.3); // it hesitated for 10 ms
    let second = relay.rtt.now.unwrap();
    let latest = (T0 + 0.3 - (T0 + 0.1)) - 0.01;
    assert_eq!((second.latest, second.least), (latest, first.least));
    assert_eq!(second.smoothed, 0.875 * first.smoothed + 0.125 * latest);
    assert_eq!(
        second.variance,
        0.75 * first.variance + 0.25 * (first.smoothed - latest).abs()
    );
}

#[test]
fn a_key_change_is_asked_for_once_per_phase_and_after_an_acknowledgement() {
    let mut relay = path(0, 1, true);
    relay.update_after = 3;
    for _ in 0..3 {
        seal(&mut relay, &[b"voice"], T0);
    }
    assert!(
        !relay.wants_update(),
        "nothing of this phase was acknowledged"
    );
    relay.acknowledged(&[(0, 1)], 0, T0);
    assert!(relay.wants_update());
    assert!(!relay.wants_update());
    for _ in 0..2 {
        seal(&mut relay, &[b"voice"], T0);
        assert!(relay.room(T0));
    }
    seal(&mut relay, &[b"voice"], T0);
    assert!(
        !relay.room(T0),
        "twice as many: not one more under this key"
    );
    turn_keys(&mut relay, 0, 1, 1, true);
    assert!(relay.room(T0));
    for _ in 0..3 {
        seal(&mut relay, &[b"voice"], T0);
    }
    relay.acknowledged(&[(0, 6)], 0, T0);
    assert!(!relay.wants_update(), "6 was the first of this phase");
    relay.acknowledged(&[(0, 7)], 0, T0);
    assert!(relay.wants_update());
}

#[test]
fn datagrams_of_a_session_stand_behind_its_prefix_both_ways() {
    let mut relay = path(0, 1, true);
    relay.prefix = Some(3);
    let mut plain = Vec::new();
    for payload in [&b"\x03one"[..], b"\x00other", b"", b"\x03"] {
        encode_datagram(&mut plain, payload);
    }
    plain.extend_from_slice(b"\x30\x03to the end");
    let bare = [&b"one"[..], b"", b"", b"", b"to the end"].map(<[u8]>::to_vec);
    assert_eq!(
        open(&mut relay, &crafted(3, 0, &plain), T0),
        Ok(bare.to_vec())
    );
    let (mut relay, mut plain) = (path(0, 1, true), path(0, 1, true));
    relay.prefix = Some(3);
    assert_eq!(
        seal(&mut relay, &[b"voice", b""], T0),
        seal(&mut plain, &[b"\x03voice", b"\x03"], T0)
    );
}

#[test]
fn frames_of_any_legal_spelling_open() {
    let mut relay = path(0, 1, true);
    let mut plain = vec![0x01, 0x00, 0x00];
    encode_datagram(&mut plain, b"one");
    plain.extend_from_slice(b"\x30to the end");
    assert_eq!(
        open(&mut relay, &crafted(3, 0, &plain), T0),
        Ok(vec![b"one".to_vec(), b"to the end".to_vec()])
    );
    assert_eq!(open(&mut relay, &crafted(4, 0, &[0; 8]), T0), Ok(vec![]));
}

#[test]
fn a_number_that_aioquic_took_is_not_missing() {
    let (mut relay, mut client) = pair();
    for turn in 0..3_u32 {
        let now = T0 + f64::from(turn);
        seal(&mut client, &[b"control"], now);
        let number = u64::from(2 * turn);
        relay.add(number);
        relay.largest = i64::from(2 * turn); // and `expected` stays, as aioquic leaves it
        let voice = seal(&mut client, &[b"voice"], now);
        assert!(open(&mut relay, &voice, now).is_ok());
        assert_eq!(relay.ack_due(), Some(now + AUDIO_ACK_HOLD));
        seal(&mut relay, &[b"answer"], now + 0.06);
    }
}
