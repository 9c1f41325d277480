//! What a packet costs in the core alone, without sockets: open, route, seal. Run it with --release:
//! `cargo run --release --no-default-features --example per_packet [legs] [payload] [suite]`.
//!
//! Must never live here: anything that the lane needs.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use _lane::core::{Core, CoreConfig};
use _lane::work::Work;
use common::{address, deliver, Client};

const BATCH: usize = 64;
const ROUNDS: usize = 32;
const PACKETS: usize = 400_000;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let legs: u64 = numbers.next().unwrap_or(100);
    let payload = numbers.next().unwrap_or(120) as usize;
    let suite = numbers.next().unwrap_or(0) as u8;
    let core = Core::new(CoreConfig::default());
    let mut work = Work::new(0);
    let mut clients: Vec<Client> = (1..=legs)
        .map(|leg| Client::join(&core, leg, suite))
        .collect();
    for leg in (1..legs).step_by(2) {
        core.route(leg, 1, &[(leg + 1, 5)], None).unwrap();
        core.route(leg + 1, 1, &[(leg, 6)], None).unwrap();
    }
    let (mut time, mut least) = (Duration::ZERO, f64::MAX);
    let (mut now, mut next) = (100.0, 0);
    let mut done = 0;
    let mut sent = 0;
    while done < PACKETS {
        // Rounds are made and heard aside, so that the clients' keys do not take the core's place in the cache.
        let rounds: Vec<Vec<_>> = (0..ROUNDS)
            .map(|_| {
                let mut batch = || {
                    next = (next + 1) % clients.len();
                    let client = &mut clients[next];
                    (client.talk(payload - 7), address(client.number)) // 7 bytes of header
                };
                (0..BATCH).map(|_| batch()).collect()
            })
            .collect();
        for packets in &rounds {
            let start = Instant::now();
            for (packet, from) in packets {
                core.receive(&mut work, packet, *from, 0, now);
            }
            core.judge(&mut work, now, 0.0);
            core.flush(&mut work, now);
            core.acks(&mut work, now);
            core.finish(&mut work);
            let spent = start.elapsed();
            time += spent;
            least = least.min(spent.as_nanos() as f64 / BATCH as f64);
            now += 0.02 * BATCH as f64 / legs as f64;
            done += BATCH;
        }
        sent += deliver(&core, &mut work, &mut clients).len();
    }
    let each = time.as_nanos() as f64 / done as f64;
    println!(
        "{legs} legs, {payload} bytes, suite {suite}: {each:.0} ns a packet (best batch {least:.0}), {done} in, {sent} out"
    );
    assert_eq!(core.counters().packets_missing(), 0);
}
