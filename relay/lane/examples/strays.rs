//! What it costs that a packet lands on another thread's socket than its leg's: two threads over one core, without
//! sockets. `strays [legs] [payload]`; run it with --release on two processors:
//! `cargo run --release --no-default-features --example strays`.
//!
//! Calls of two, both ends of a call on one thread; then one packet of two, then each, goes to the other thread. A
//! round is made aside, worked on by both threads at once, and heard aside; the threads' time counts. Rounds of the
//! three ways take turns. Must never live here: any rule.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Barrier, Mutex};
use std::time::Instant;

use _lane::core::{Core, CoreConfig};
use _lane::work::Work;
use common::{address, Client};

const THREADS: usize = 2;
/// Packets of one look at a socket, and of one round of a thread.
const BATCH: usize = 64;
const ROUND: usize = 1_024;
const ROUNDS: usize = 150;

type Packets = Vec<(Vec<u8>, SocketAddr)>;

/// How many packets of two go to the other thread.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    strays: usize,
}

const WAYS: [Way; 3] = [
    Way {
        name: "on their leg's thread",
        strays: 0,
    },
    Way {
        name: "one of two on the other",
        strays: 1,
    },
    Way {
        name: "all on the other",
        strays: 2,
    },
];

/// What a thread has to do, and what it did.
#[derive(Default)]
struct Desk {
    packets: Packets,
    out: Packets,
    now: f64,
    spent: u64,
}

fn serve(
    core: &Core,
    index: usize,
    desk: &Mutex<Desk>,
    begin: &Barrier,
    end: &Barrier,
    rounds: usize,
) {
    let mut work = Work::new(index);
    for _ in 0..rounds {
        begin.wait();
        let mut desk = desk.lock().unwrap();
        let now = desk.now;
        let (packets, started) = (std::mem::take(&mut desk.packets), Instant::now());
        for part in packets.chunks(BATCH) {
            core.expect(&mut work, part.iter().map(|(packet, _)| packet.as_slice()));
            for (place, (packet, from)) in part.iter().enumerate() {
                core.receive_next(&mut work, place, packet, *from, index as u16, now);
            }
            core.judge(&mut work, now, 0.0);
            core.flush(&mut work, now);
            core.acks(&mut work, now);
            core.finish(&mut work);
        }
        desk.spent = started.elapsed().as_nanos() as u64;
        desk.out = work
            .out
            .iter()
            .map(|(bytes, to, _)| (bytes.to_vec(), to))
            .collect();
        core.sent(&mut work);
        drop(desk);
        end.wait();
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let legs: u64 = numbers.next().unwrap_or(1_000);
    let payload = numbers.next().unwrap_or(120) as usize;
    let core = Core::new(CoreConfig::default());
    core.set_stride(1); // the sockets share an address
    let mut clients: Vec<Client> = (1..=legs).map(|leg| Client::join(&core, leg, 0)).collect();
    for client in &mut clients {
        client.sock = ((client.number - 1) / 2 % THREADS as u64) as u16;
        core.with_path(&client.leg, |path| path.facts.sock = client.sock);
    }
    for leg in (1..legs).step_by(2) {
        core.route(leg, 1, &[(leg + 1, 5)], None).unwrap();
        core.route(leg + 1, 1, &[(leg, 6)], None).unwrap();
    }
    let places: HashMap<SocketAddr, usize> = clients
        .iter()
        .enumerate()
        .map(|(place, client)| (address(client.number), place))
        .collect();
    let desks: [Mutex<Desk>; THREADS] = Default::default();
    let (begin, end) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let rounds = ROUNDS * WAYS.len();
    let mut costs: [Vec<f64>; WAYS.len()] = Default::default();
    std::thread::scope(|scope| {
        for (index, desk) in desks.iter().enumerate() {
            let (core, begin, end) = (&core, &begin, &end);
            scope.spawn(move || serve(core, index, desk, begin, end, rounds));
        }
        let (mut now, mut next) = (100.0, 0);
        for round in 0..rounds {
            let way = WAYS[round % WAYS.len()];
            let mut waiting: [Packets; THREADS] = Default::default();
            for number in 0..ROUND * THREADS {
                next = (next + 1) % clients.len();
                let client = &mut clients[next];
                let coin = (number + round * ROUND).wrapping_mul(0x9E37_79B9) >> 16 & 1;
                let strays = coin < way.strays;
                let thread = usize::from(client.sock) ^ usize::from(strays);
                waiting[thread].push((client.talk(payload - 7), address(client.number)));
            }
            now += 0.02 * (ROUND * THREADS) as f64 / legs as f64;
            for (desk, packets) in desks.iter().zip(waiting) {
                let mut desk = desk.lock().unwrap();
                (desk.packets, desk.now) = (packets, now);
            }
            begin.wait();
            end.wait();
            let mut spent = 0;
            for desk in &desks {
                let mut desk = desk.lock().unwrap();
                spent += desk.spent;
                for (packet, to) in std::mem::take(&mut desk.out) {
                    clients[places[&to]].hear(&packet);
                }
            }
            costs[round % WAYS.len()].push(spent as f64 / (ROUND * THREADS) as f64);
        }
    });
    for (way, costs) in WAYS.iter().zip(&mut costs) {
        costs.sort_by(f64::total_cmp);
        let median = costs[costs.len() / 2];
        println!(
            "{legs} legs, {payload} bytes, {:24} {median:5.0} ns a packet",
            way.name
        );
    }
    let counters = core.counters();
    println!(
        "{} packets, {} on the other thread",
        counters.media, counters.wrong_lane
    );
    assert_eq!(
        (counters.packets_missing(), counters.media_missing()),
        (0, (0, 0))
    );
}
