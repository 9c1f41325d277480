//! The lane without sockets: nanoseconds per packet that comes, is opened, routed, sealed and leaves, at a few
//! numbers of legs. What grows with them is the memory that is not in a cache.
//!
//! `legs [packets_per_batch] [kilobytes] [repair] [loss]`: calls of two, each end talks in turn, every packet
//! acknowledges what came. `repair` 1: what a client misses goes again; `loss`: so many of 100 packets to the clients
//! are lost. Only the relay's part is timed. Between batches the clients work, and so many kilobytes of other memory are
//! read: the kernel and whoever shares the machine leave a leg few lines in the caches until it is its turn again.
//! Must never live here: any rule.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use _lane::cid::Cid;
use _lane::core::{Core, CoreConfig};
use _lane::frames::{encode_ack, encode_datagram};
use _lane::keys::{KeySet, Keys, Unsealed};
use _lane::path::Facts;
use _lane::ranges::Ranges;
use _lane::repeats::{Mode, Rule, Tally};
use _lane::table::Rights;
use _lane::work::Work;

const UP: KeySet<'_> = (&[1; 16], &[2; 12], &[3; 16]);
const DOWN: KeySet<'_> = (&[4; 16], &[5; 12], &[6; 16]);
const PLENTY: Rights = Rights {
    pps: 1 << 30,
    up_bps: 1 << 40,
    down_bps: 1 << 40,
};
const SECONDS: f64 = 1.5;
/// Memory of others.
const ELSEWHERE: usize = 256 << 20;

struct Client {
    keys: Keys,
    host: Cid,
    from: SocketAddr,
    next: u64,
    expected: u64,
    got: Ranges,
    ctr: u32,
}

impl Client {
    fn join(core: &Core, number: u64) -> Self {
        let host = Cid::new(&[&[0x40, 0x20], &number.to_be_bytes()[2..]].concat()).expect("an id");
        let from = SocketAddr::from(([127, 0, 0, 1], 2_000 + number as u16));
        let leg = core.open_path(number);
        core.own(number, host).expect("a leg");
        core.with_path(&leg, |path| {
            path.facts = Facts {
                host_cid: host,
                peer_cid: host,
                address: Some(from),
                sock: 0,
                peer_exponent: 3,
            };
            assert!(path.set_keys(0, 0, UP, DOWN));
            path.active = true;
            path.confirmed = true;
        });
        core.open_leg(number, PLENTY);
        core.open_flow(number, 1, 0, false).expect("a leg");
        Self {
            keys: Keys::new(0, 0, DOWN, UP).expect("keys"),
            host,
            from,
            next: 0,
            expected: 0,
            got: Ranges::new(),
            ctr: 1 << 24,
        }
    }

    fn say(&mut self, plain: &mut Vec<u8>) -> Vec<u8> {
        let mut payload = [0x55; 120];
        self.ctr += 1;
        payload[..3].copy_from_slice(&[1, 0x40, 0x0B]);
        payload[3..7].copy_from_slice(&self.ctr.to_be_bytes());
        plain.clear();
        encode_ack(plain, self.got.as_slice(), 0, 16);
        encode_datagram(plain, &payload);
        let mut packet = Vec::with_capacity(256);
        let body = self.keys.begin(self.host.as_slice(), &mut packet);
        packet.extend_from_slice(plain);
        let size = self.keys.close(self.next, 0, body, &mut packet);
        self.next += 1;
        size.expect("a packet");
        packet
    }

    fn hear(&mut self, packet: &[u8], scratch: &mut Vec<u8>) {
        let Unsealed::Plain(number, _) = self.keys.open(packet, self.expected, scratch) else {
            panic!("not a packet for this client");
        };
        self.got.add_next(number);
        if self.got.len() > 4 {
            self.got.shift();
        }
        self.expected = number + 1;
    }
}

/// As a lossy leg has it.
fn rule() -> Rule {
    Rule {
        mode: Mode::Repeats,
        budget: 1.0,
        depth: 50.0,
        max_age: 0.12,
        ack_slack: 0.01,
        ..Rule::default()
    }
}

fn measure(
    legs: u64,
    batch: usize,
    elsewhere: &[u64],
    away: usize,
    repair: bool,
    loss: u64,
) -> (f64, u64) {
    let core = Core::new(CoreConfig::default());
    let mut chance = 1_u64;
    let mut is_lost = || {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % 100 < loss
    };
    let mut work = Work::new(0);
    let mut ballast: Vec<Vec<u8>> = Vec::new();
    let mut clients: Vec<Client> = (0..legs)
        .map(|number| {
            let client = Client::join(&core, number);
            // what the interpreter keeps of a connection lies between the legs
            let sizes = [48, 700, 100, 2_000, 300, 5_000].iter().cycle();
            ballast.extend(sizes.take(52).map(|size| vec![1; *size]));
            client
        })
        .collect();
    for number in 0..legs {
        core.route(number, 1, &[(number ^ 1, 5)], None)
            .expect("a route");
        if repair {
            core.tell_repair(number, rule());
        }
    }
    black_box(&ballast);
    let (mut plain, mut scratch) = (Vec::new(), Vec::new());
    let (mut now, mut at, mut packets, mut spent) = (100.0, 0_usize, 0_u64, 0.0);
    let mut others = (0..elsewhere.len() - away).step_by(away.max(1)).cycle();
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < SECONDS {
        let said: Vec<(Vec<u8>, SocketAddr)> = (0..batch)
            .map(|_| {
                at = (at + 1) % clients.len();
                let client = &mut clients[at];
                (client.say(&mut plain), client.from)
            })
            .collect();
        let from = others.next().unwrap_or(0);
        let read = elsewhere.get(from..from + away).unwrap_or_default();
        black_box(read.iter().step_by(8).fold(0, |sum, word| sum ^ word));
        let start = Instant::now();
        for part in said.chunks(64) {
            core.expect(&mut work, part.iter().map(|(packet, _)| packet.as_slice()));
            for (index, (packet, from)) in part.iter().enumerate() {
                core.receive_next(&mut work, index, packet, *from, 0, now);
            }
        }
        core.judge(&mut work, now, 0.0);
        core.flush(&mut work, now);
        core.acks(&mut work, now);
        let took = start.elapsed().as_secs_f64();
        for (packet, to, _) in work.out.iter() {
            let leg = usize::from(to.port() - 2_000);
            if !is_lost() {
                clients[leg].hear(packet, &mut scratch);
            }
        }
        let start = Instant::now();
        core.sent(&mut work);
        core.finish(&mut work);
        spent += took + start.elapsed().as_secs_f64();
        packets += batch as u64;
        now += batch as f64 / 50_000.0;
    }
    let counters = core.counters();
    assert_eq!(
        (counters.packets_missing(), counters.media_missing()),
        (0, (0, 0))
    );
    assert_eq!(counters.copies_sent, packets, "{counters:?}");
    assert_eq!(counters.repairs.missing(), 0);
    if repair {
        let Tally {
            acked,
            late,
            beside,
            alone,
            ..
        } = counters.repairs;
        println!(
            "repair: {acked} came, {late} did not, {beside} repeats beside others, {alone} alone"
        );
    }
    (spent / packets as f64 * 1e9, packets)
}

fn main() {
    println!("a leg: {} bytes", std::mem::size_of::<_lane::core::Leg>());
    let mut words = std::env::args().skip(1).map(|word| word.parse().ok());
    let batch = words.next().flatten().unwrap_or(50);
    let away = words.next().flatten().unwrap_or(0) << 10;
    let repair = words.next().flatten().unwrap_or(0) > 0;
    let loss = words.next().flatten().unwrap_or(0) as u64;
    let elsewhere = vec![1_u64; ELSEWHERE / 8];
    for legs in [100, 1_000, 2_000] {
        let (each, packets) = measure(legs, batch, &elsewhere, away / 8, repair, loss);
        println!("{legs:5} legs: {each:6.0} ns per packet ({packets} packets, {batch} a batch)");
    }
}
