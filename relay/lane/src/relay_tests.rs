#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;

const PEER: &str = "198.51.100.9:7000";
const RICH: Allowance = Allowance {
    pps: 1_000,
    bps: 1 << 30,
};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn relay(client: Client, allowance: Allowance) -> Relay {
    let relay = Relay::new(
        1,
        client,
        address("203.0.113.1:50000"),
        None,
        allowance,
        0.2,
    );
    relay.permit(address(PEER).ip(), 400.0);
    relay.bind_channel(0x4001, address(PEER), 400.0);
    relay
}

fn packets() -> Client {
    Client::Packets(address("192.0.2.7:5000"), 0)
}

/// Up, by channel, with a route that always is there.
fn up(relay: &Relay, now: f64, all: &mut Traffic) -> Result<SocketAddr, Reason> {
    relay.up(Ok(Named::Channel(0x4001)), 10, now, all, Ok)
}

#[test]
fn what_has_ended_by_the_packets_clock_lets_nothing_pass() {
    let relay = relay(packets(), RICH);
    let (mut all, mut out) = (Traffic::default(), Vec::new());
    assert_eq!(up(&relay, 399.9, &mut all), Ok(address(PEER)));
    assert_eq!(up(&relay, 400.0, &mut all), Err(Reason::NoChannel));
    let named = Ok(Named::Peer(address(PEER)));
    let verdict = relay.up(named, 10, 400.0, &mut all, Ok);
    assert_eq!(verdict, Err(Reason::NoPermission));
    let verdict = relay.down(&address(PEER), b"x", 400.0, &mut all, &mut out);
    assert_eq!((verdict, out.len()), (Err(Reason::NoPermission), 0));
    assert_eq!((all.up.missing(), all.down.missing()), (0, 0));
}

#[test]
fn a_closed_allocation_lets_nothing_pass_whoever_still_holds_it() {
    let relay = relay(packets(), RICH);
    let mut all = Traffic::default();
    assert!(up(&relay, 1.0, &mut all).is_ok());
    let counted = relay.close(&mut all);
    assert_eq!(
        (counted.up.taken, counted.up.passed, counted.up.bytes),
        (1, 1, 10)
    );
    relay.permit(address(PEER).ip(), 400.0);
    let named = Ok(Named::Peer(address(PEER)));
    let verdict = relay.up(named, 10, 1.0, &mut all, Ok);
    assert_eq!(verdict, Err(Reason::PeerGone));
}

#[test]
fn each_direction_has_a_budget_of_its_own() {
    let poor = Allowance {
        pps: 10,
        bps: 1 << 20,
    };
    let relay = relay(packets(), poor);
    let (mut all, mut out) = (Traffic::default(), Vec::new());
    assert!((0..10).all(|_| up(&relay, 1.0, &mut all).is_ok()));
    assert_eq!(up(&relay, 1.0, &mut all), Err(Reason::OverBudget));
    let mut down = || relay.down(&address(PEER), b"x", 1.0, &mut all, &mut out);
    assert!((0..10).all(|_| down().is_ok()));
    assert_eq!(down(), Err(Reason::OverBudget));
    // Forged packets are judged before they cost anything of that.
    let forged = relay.down(&address("198.51.100.1:1"), b"x", 1.2, &mut all, &mut out);
    assert_eq!(forged, Err(Reason::NoPermission));
}

#[test]
fn a_stream_keeps_the_newest_and_reuses_their_room() {
    let relay = relay(Client::Stream, RICH);
    let mut all = Traffic::default();
    for number in 0..STREAM_QUEUE as u8 + 3 {
        let queued = relay.enqueue(&address(PEER), &[number], 1.0, &mut all);
        let expected = if number == 0 {
            Queued::First
        } else {
            Queued::Another
        };
        assert_eq!(queued, Ok(expected));
        assert_eq!(all.down.missing(), 0);
    }
    let bytes = relay.fetch(&mut all);
    assert_eq!(bytes[..8], [0x40, 1, 0, 1, 3, 0, 0, 0]);
    assert_eq!(bytes.len(), 8 * STREAM_QUEUE);
    assert_eq!((all.down.waiting, all.down.missing()), (0, 0));
    assert!(relay.fetch(&mut all).is_empty());
}

#[test]
fn the_next_look_at_a_socket_asks_for_twice_what_it_had_or_just_that() {
    let relay = relay(packets(), RICH);
    for (taken, next) in [(1, 2), (2, 4), (1, 1), (0, 1), (1, 2)] {
        relay.note(relay.ask(), taken);
        assert_eq!(relay.ask(), next);
    }
    (0..9).for_each(|_| relay.note(relay.ask(), relay.ask()));
    assert_eq!(relay.ask(), BATCH);
}

#[test]
fn an_allocation_in_use_takes_less_than_two_kilobytes() {
    let relay = relay(packets(), RICH);
    for port in 0..3 {
        relay.bind_channel(
            0x4001 + port,
            SocketAddr::from(([198, 51, 100, 9], port)),
            400.0,
        );
    }
    assert!(relay.memory() < 2048, "{} bytes", relay.memory());
}
