//! What a leg costs in memory, in the middle of calls: keys, flights, windows, flows and queues.

mod common;

use _lane::core::{Core, CoreConfig};
use _lane::repeats::{Mode, Rule};
use _lane::work::Work;
use common::{address, deliver, Client};

const LIMIT: usize = 16 * 1024;

/// Talk for a while: everybody hears everybody, so many packets in each turn, acknowledged after each.
fn largest_leg(legs: u64, burst: usize, turns: usize) -> usize {
    let core = Core::new(CoreConfig::default());
    let mut work = Work::new(0);
    let mut clients: Vec<Client> = (1..=legs).map(|leg| Client::join(&core, leg, 0)).collect();
    for leg in 1..=legs {
        let others = (1..=legs).filter(|other| *other != leg);
        let targets: Vec<(u64, u16)> = others.map(|other| (other, leg as u16)).collect();
        core.route(leg, 1, &targets, None).unwrap();
    }
    let mut now = 100.0;
    let mut largest = 0;
    for turn in 0..turns {
        if turn == turns / 2 {
            for client in &mut clients {
                client.rekey(&core, 1); // its old key stays for stragglers
            }
        }
        for client in &mut clients {
            for _ in 0..burst {
                let packet = client.talk(120);
                core.receive(&mut work, &packet, address(client.number), 0, now);
            }
        }
        let legs = clients.iter().map(|client| client.leg.memory());
        largest = legs.fold(largest, usize::max); // copies wait and packets are under way
        core.flush(&mut work, now);
        let legs = clients.iter().map(|client| client.leg.memory());
        largest = legs.fold(largest, usize::max);
        deliver(&core, &mut work, &mut clients);
        core.finish(&mut work);
        now += 0.02;
    }
    largest
}

#[test]
fn a_leg_in_a_call_of_two_takes_about_5_kib() {
    let bytes = largest_leg(2, 1, 200);
    println!("a leg in a call of two: {bytes} bytes");
    assert!(bytes < 5 * 1024, "{bytes}");
    let bytes = largest_leg(2, 20, 200);
    println!("a leg in a call of two, twenty packets in each turn: {bytes} bytes");
    assert!(bytes < LIMIT / 2, "{bytes}");
}

#[test]
fn a_leg_that_hears_31_others_stays_below_16_kib() {
    let bytes = largest_leg(32, 1, 60);
    println!("a leg in a call of 32: {bytes} bytes");
    assert!(bytes < LIMIT, "{bytes}");
}

/// A listener whose path takes nothing: its queue is full, and what is under way is never acknowledged.
#[test]
fn a_leg_whose_path_is_stuck_stays_below_16_kib_and_with_repair_below_40() {
    for rule in [None, Some(patient())] {
        stick(rule.as_ref());
    }
}

/// Keeps all that was not acknowledged, whatever its age.
fn patient() -> Rule {
    Rule {
        mode: Mode::Repeats,
        budget: 1.0,
        depth: 50.0,
        max_age: 1e9,
        ack_slack: 0.01,
        ..Rule::default()
    }
}

fn stick(rule: Option<&Rule>) {
    for (size, speakers) in [30, 120, 300, 1000]
        .into_iter()
        .flat_map(|size| [(size, 1), (size, 31)])
    {
        let core = Core::new(CoreConfig::default());
        let mut work = Work::new(0);
        let mut clients: Vec<Client> = (0..=speakers)
            .map(|leg| Client::join(&core, leg + 1, 0))
            .collect();
        rule.iter()
            .for_each(|rule| core.tell_repair(1, (*rule).clone()));
        for speaker in 2..=speakers + 1 {
            core.route(speaker, 1, &[(1, speaker as u16)], None)
                .unwrap();
        }
        for _ in 0..600 / speakers.min(6) {
            for client in &mut clients[1..] {
                let packet = client.talk(size);
                core.receive(&mut work, &packet, address(client.number), 0, 100.0);
                core.flush(&mut work, 100.0);
                core.sent(&mut work);
            }
        }
        let bytes = clients[0].leg.memory();
        let repair = if rule.is_some() {
            "repair"
        } else {
            "no repair"
        };
        println!(
            "a leg that acknowledges nothing of {speakers}, {size} bytes a packet, {repair}: {bytes} bytes"
        );
        assert!(
            bytes
                < if rule.is_some() {
                    LIMIT + 24 * 1024
                } else {
                    LIMIT
                },
            "{bytes}"
        );
        core.finish(&mut work);
        common::assert_conserved(&core);
    }
}
