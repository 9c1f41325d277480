//! Routes, gates, windows, budgets and queues, by datagrams that came another way than by the packet path.

mod common;

use _lane::core::{Core, CoreConfig};
use _lane::desk::Missing;
use _lane::flow::FlowCounters;
use _lane::reason::Reason;
use _lane::slow::Item;
use _lane::table::Rights;
use _lane::work::Work;
use common::{assert_conserved, deliver, Client, PLENTY};

const T0: f64 = 100.0;

struct Table {
    core: Core,
    work: Work,
}

impl Table {
    /// Legs 1 to `legs` with plenty of everything, each with the uplink flow 1 of index 0, and no connection.
    fn new(legs: u64) -> Self {
        let core = Core::new(CoreConfig::default());
        for leg in 1..=legs {
            core.open_leg(leg, PLENTY);
            core.open_flow(leg, 1, 0, false).unwrap();
        }
        Self {
            core,
            work: Work::new(0),
        }
    }

    fn say(&mut self, leg: u64, payload: &[u8], now: f64) -> Result<(), Reason> {
        let verdict = self.core.deliver(&mut self.work, leg, payload, now);
        self.core.finish(&mut self.work);
        assert_conserved(&self.core);
        verdict
    }

    fn route(&self, leg: u64, targets: &[(u64, u16)], closed: Option<Reason>) {
        self.core.route(leg, 1, targets, closed).unwrap();
        assert_conserved(&self.core);
    }

    fn queued(&self) -> u64 {
        self.core.counters().queued
    }

    fn out(&self, reason: Reason) -> u64 {
        self.core.counters().dropped_out[reason as usize]
    }
}

/// A datagram of flow 1: KID in the config byte, four bytes of CTR.
fn voice(kid: u8, ctr: u32) -> Vec<u8> {
    let mut payload = vec![1, 0x40, kid << 4 | 0x0B];
    payload.extend_from_slice(&(ctr + (1 << 24)).to_be_bytes());
    payload.resize(100, 9);
    payload
}

#[test]
fn what_comes_before_a_gate_opens_is_dropped_by_the_gates_name() {
    let mut table = Table::new(2);
    assert_eq!(table.say(1, &voice(0, 1), T0), Err(Reason::GateClosed));
    table.route(1, &[], Some(Reason::Muted));
    assert_eq!(table.say(1, &voice(0, 2), T0), Err(Reason::Muted));
    table.route(1, &[(2, 5)], None);
    assert_eq!(table.say(1, &voice(0, 3), T0), Ok(()));
    assert_eq!(table.queued(), 1);
    table.route(1, &[], Some(Reason::Blocked));
    assert_eq!((table.queued(), table.out(Reason::Blocked)), (0, 1));
}

#[test]
fn each_refusal_has_its_name_and_its_place_in_the_order() {
    let mut table = Table::new(2);
    table.route(1, &[(2, 5)], None);
    let mut bad = voice(0, 1);
    assert_eq!(table.say(9, &bad, T0), Err(Reason::UnknownFlow));
    assert_eq!(table.say(1, &[], T0), Err(Reason::UnknownFlow));
    bad[0] = 2;
    assert_eq!(table.say(1, &bad, T0), Err(Reason::UnknownFlow));
    assert_eq!(table.say(1, &voice(0, 1)[..21], T0), Err(Reason::Malformed));
    let long = [voice(0, 1), vec![0; 1000]].concat();
    assert_eq!(table.say(1, &long, T0), Err(Reason::TooLarge));
    let mut version = voice(0, 1);
    version[1] = 0x80;
    assert_eq!(table.say(1, &version, T0), Err(Reason::BadVersion));
    assert_eq!(table.say(1, &voice(4, 1), T0), Err(Reason::WrongSender));
    assert_eq!(table.say(1, &voice(0, 1), T0), Ok(()));
    assert_eq!(table.say(1, &voice(0, 1), T0), Err(Reason::Duplicate));
    let mut dropped = [0; Reason::COUNT];
    for reason in [
        Reason::Malformed,
        Reason::TooLarge,
        Reason::BadVersion,
        Reason::WrongSender,
        Reason::Duplicate,
    ] {
        dropped[reason as usize] = 1;
    }
    let counted = FlowCounters {
        received: 6,
        accepted: 1,
        copies: 1,
        lost: 0,
        dropped,
        mended: 0,
        first: Some(T0),
    };
    assert_eq!(table.core.close_flow(1, 1), counted);
    assert_eq!(table.core.close_flow(1, 1), FlowCounters::default());
    assert_eq!(table.core.close_flow(7, 1), FlowCounters::default());
}

#[test]
fn every_listener_gets_a_copy_with_its_own_flow_number_and_without_the_repeat_bit() {
    let core = Core::new(CoreConfig::default());
    let mut work = Work::new(0);
    let mut clients: Vec<Client> = (1..=4).map(|leg| Client::join(&core, leg, 0)).collect();
    let targets = [(2, 0x11), (3, 0x12), (4, 0x13)];
    core.route(1, 1, &targets, None).unwrap();
    let mut payload = voice(0, 7);
    payload[1] |= 0x02;
    core.deliver(&mut work, 1, &payload, T0).unwrap();
    core.flush(&mut work, T0);
    let heard = deliver(&core, &mut work, &mut clients);
    assert_eq!(heard.len(), 3);
    for ((leg, heard), target) in heard.iter().zip(targets) {
        assert_eq!(*leg, target.0);
        let mut copy = voice(0, 7);
        copy[0] = target.1 as u8;
        assert_eq!(heard.datagrams, [copy]);
    }
}

#[test]
fn what_is_not_open_cannot_be_routed() {
    let mut table = Table::new(2);
    table.route(1, &[(2, 5)], None);
    let missing = |leg, flow| Err(Missing { leg, flow });
    let core = &table.core;
    assert_eq!(core.route(3, 1, &[], None), missing(3, Some(1)));
    assert_eq!(core.route(1, 9, &[], None), missing(1, Some(9)));
    assert_eq!(core.open_flow(3, 1, 0, false), missing(3, None));
    assert_eq!(
        core.route(1, 9, &[], None).unwrap_err().to_string(),
        "a flow that is not open: leg 1 flow 9"
    );
    let no_leg = core.open_flow(3, 1, 0, false).unwrap_err();
    assert_eq!(no_leg.to_string(), "no such leg: 3");
    assert_eq!(table.say(1, &voice(0, 1), T0), Ok(()));
    assert_eq!(table.queued(), 1);
}

#[test]
fn a_route_that_names_a_leg_that_is_not_there_closes_the_flow() {
    let mut table = Table::new(3);
    table.route(1, &[(2, 5), (3, 5)], None);
    assert_eq!(table.say(1, &voice(0, 1), T0), Ok(()));
    assert_eq!(table.queued(), 2);
    // Leg 3 shall hear no more: that must hold although leg 9 cannot begin to.
    let missing = Err(Missing { leg: 9, flow: None });
    assert_eq!(table.core.route(1, 1, &[(2, 5), (9, 5)], None), missing);
    assert_eq!((table.queued(), table.out(Reason::GateClosed)), (0, 2));
    assert_eq!(table.say(1, &voice(0, 2), T0), Err(Reason::GateClosed));
    table.route(1, &[(2, 5)], None);
    assert_eq!(table.say(1, &voice(0, 3), T0), Ok(()));
    assert_eq!(table.queued(), 1);
}

#[test]
fn targets_that_stay_keep_what_waits_for_them() {
    let mut table = Table::new(4);
    table.route(1, &[(2, 5), (3, 5)], None);
    assert_eq!(table.say(1, &voice(0, 1), T0), Ok(()));
    assert_eq!(table.queued(), 2);
    table.route(1, &[(3, 5), (4, 5)], None);
    assert_eq!((table.queued(), table.out(Reason::GateClosed)), (1, 1));
    table.route(1, &[(3, 6)], Some(Reason::Muted)); // another flow number is another target
    assert_eq!((table.queued(), table.out(Reason::Muted)), (0, 1));
}

#[test]
fn a_leg_that_closes_drops_what_waits_for_it_and_what_still_comes() {
    let mut table = Table::new(2);
    table.route(1, &[(2, 5)], None);
    assert_eq!(table.say(1, &voice(0, 1), T0), Ok(()));
    table.core.close_leg(2);
    assert_eq!((table.queued(), table.out(Reason::PeerGone)), (0, 1));
    assert_eq!(table.say(1, &voice(0, 2), T0), Ok(()));
    assert_eq!((table.queued(), table.out(Reason::PeerGone)), (0, 2));
    // Another life under the same number is not the one that the route names.
    table.core.open_leg(2, PLENTY);
    assert_eq!(table.say(1, &voice(0, 3), T0), Ok(()));
    assert_eq!((table.queued(), table.out(Reason::PeerGone)), (0, 3));
    table.route(1, &[(2, 5)], None);
    assert_eq!(table.say(1, &voice(0, 4), T0), Ok(()));
    assert_eq!(table.queued(), 1);
    table.core.close_leg(2);
    table.core.close_leg(2);
    assert_conserved(&table.core);
}

#[test]
fn a_queue_holds_five_frames_and_the_oldest_goes_first() {
    let mut table = Table::new(2);
    table.route(1, &[(2, 5)], None);
    for ctr in 1..=7 {
        assert_eq!(table.say(1, &voice(0, ctr), T0), Ok(()));
    }
    assert_eq!((table.queued(), table.out(Reason::QueueFull)), (5, 2));
}

#[test]
fn what_waited_too_long_or_is_over_the_listeners_budget_does_not_leave() {
    let core = Core::new(CoreConfig::default());
    let mut work = Work::new(0);
    let mut clients = vec![Client::join(&core, 1, 0), Client::join(&core, 2, 0)];
    core.route(1, 1, &[(2, 5)], None).unwrap();
    for (ctr, at) in [(1, T0), (2, T0 + 0.06), (3, T0 + 0.0999)] {
        core.deliver(&mut work, 1, &voice(0, ctr), at).unwrap();
    }
    core.flush(&mut work, T0 + 0.15);
    let heard = deliver(&core, &mut work, &mut clients);
    assert_eq!(heard[0].1.datagrams.len(), 2);
    core.finish(&mut work);
    assert_eq!(core.counters().dropped_out[Reason::Stale as usize], 1);
    // 2048 bytes at once, then nothing: 100 bytes a copy.
    core.open_leg(
        2,
        Rights {
            down_bps: 0,
            ..PLENTY
        },
    );
    for ctr in 10..34 {
        core.deliver(&mut work, 1, &voice(0, ctr), T0 + 1.0)
            .unwrap();
        core.flush(&mut work, T0 + 1.0);
    }
    core.finish(&mut work);
    let counters = core.counters();
    assert_eq!(counters.copies_sent, 2 + 20);
    assert_eq!(counters.dropped_out[Reason::OverBudget as usize], 4);
    assert_conserved(&core);
}

#[test]
fn budgets_are_of_the_leg_and_new_rights_fill_no_bucket() {
    let mut table = Table::new(2);
    table.route(1, &[(2, 5)], None);
    let slow = Rights { pps: 50, ..PLENTY };
    table.core.open_leg(1, slow); // burst: 10 packets
    let mut verdicts = (1..=12).map(|ctr| table.say(1, &voice(0, ctr), T0));
    assert!(verdicts.by_ref().take(10).all(|verdict| verdict.is_ok()));
    assert!(verdicts.all(|verdict| verdict == Err(Reason::OverBudget)));
    table.core.open_leg(1, PLENTY);
    table.core.open_leg(1, slow);
    let verdict = table.say(1, &voice(0, 13), T0);
    assert_eq!(verdict, Err(Reason::OverBudget));
    assert_eq!(table.say(1, &voice(0, 14), T0 + 0.021), Ok(()));
}

#[test]
fn a_number_counts_once_per_key_and_an_old_key_may_begin_again() {
    let mut table = Table::new(2);
    table.route(1, &[(2, 5)], None);
    for (kid, ctr, verdict) in [
        (0, 1, Ok(())),
        (0, 200, Ok(())),
        (0, 72, Err(Reason::Duplicate)), // 128 behind: too old to tell
        (0, 73, Ok(())),
        (1, 73, Ok(())),  // another epoch
        (0, 72, Ok(())),  // its bits came round again: a new key
        (0, 200, Ok(())), // which counts from 72
        (0, 72, Err(Reason::Duplicate)),
    ] {
        assert_eq!(table.say(1, &voice(kid, ctr), T0), verdict, "{kid} {ctr}");
    }
    // Lost: 1 to 200 without two of them and without 73, then 72 to 200 without both ends.
    assert_eq!(table.core.close_flow(1, 1).lost, 197 + 127);
}

#[test]
fn a_flow_that_opens_again_begins_anew() {
    let mut table = Table::new(2);
    table.route(1, &[(2, 5)], None);
    assert_eq!(table.say(1, &voice(0, 1), T0), Ok(()));
    table.core.open_flow(1, 1, 1, false).unwrap();
    assert_eq!(table.say(1, &voice(0, 2), T0), Err(Reason::WrongSender));
    assert_eq!(table.say(1, &voice(4, 2), T0), Err(Reason::GateClosed));
    assert_eq!(table.core.close_flow(1, 1).received, 2);
}

#[test]
fn copies_for_a_stream_wait_for_the_loop_which_is_told_once() {
    let core = Core::new(CoreConfig::default());
    let mut work = Work::new(0);
    core.open_stream(2);
    core.open_leg(1, PLENTY);
    core.open_leg(2, PLENTY);
    core.open_flow(1, 1, 0, false).unwrap();
    core.route(1, 1, &[(2, 5)], None).unwrap();
    for ctr in 0..12 {
        core.deliver(&mut work, 1, &voice(0, ctr), T0).unwrap();
    }
    assert!(core.finish(&mut work));
    assert_eq!(core.take(10), [Item::Waiting { leg: 2 }]);
    let copies = core.drain(&mut work, 2, T0 + 0.19, 1);
    let mut oldest = voice(0, 2);
    oldest[0] = 5;
    assert_eq!(copies, [oldest]);
    assert_eq!(core.drain(&mut work, 2, T0 + 0.19, 1 << 20).len(), 9);
    assert!(core.drain(&mut work, 2, T0 + 0.19, 1).is_empty());
    core.deliver(&mut work, 1, &voice(0, 20), T0).unwrap();
    core.finish(&mut work);
    assert_eq!(core.take(10), [Item::Waiting { leg: 2 }]);
    assert!(core.drain(&mut work, 2, T0 + 0.21, 1).is_empty());
    core.finish(&mut work);
    let counters = core.counters();
    assert_eq!(counters.dropped_out[Reason::QueueFull as usize], 2);
    assert_eq!(counters.dropped_out[Reason::Stale as usize], 1);
    assert_eq!((counters.queued, counters.media_missing()), (0, (0, 0)));
    core.close_path(2);
    core.close_leg(2);
    assert!(core.drain(&mut work, 2, T0, 1).is_empty());
}
