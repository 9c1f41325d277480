//! What a voice costs from leg to leg, from leg to trunk and from trunk to leg: two lanes with a thread and a socket
//! each, a trunk between them on loopback, and the far ends of their legs in this program's main thread.
//!
//! `trunk LEGS PACKETS_PER_S SECONDS ROUNDS REKEY`: so many legs at each lane. Prints "threads FIRST SECOND OWN", ids of
//! the kernel, and waits for a line on standard input; then a line of JSON for each run, in turns: `legs` (the first
//! lane's legs hear each other), `there` (they are heard at the second lane's) and `both` (and back). Keys of the trunk
//! change each REKEY packets. `./scripts/bench trunk` judges it. Must never live here: any rule.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::stdin;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use _lane::core::{Core, CoreConfig, Leg};
use _lane::frames::{encode_ack, encode_datagram};
use _lane::slow::Item;
use _lane::socket::{monotonic, Event, Packet, Ring, Sender, Socket};
use _lane::work::Work;
use _lane::worker::{Pacing, Workers};
use common::{path, peer_cid, turn_keys, Client, PLENTY};

const TRUNK: u64 = 60_000;
const SUITE: u8 = 0;
/// Sockets of the far ends at each lane: so many that what leaves for them seldom has the same address as before.
const SOCKETS: usize = 32;
/// Flows of a leg: heard by the other of a pair, and at the other lane; and as which it hears both.
const TO_LEG: u8 = 1;
const TO_TRUNK: u8 = 2;
const FROM_LEG: u8 = 5;
const FROM_TRUNK: u8 = 6;
/// Behind the header: datagrams of 120 bytes, as in the other benches.
const VOICE: usize = 113;
/// When the voice left, nanoseconds since the program began: behind the header.
const STAMP: std::ops::Range<usize> = 7..15;
/// What a leg heard without saying anything is acknowledged after so many packets: 60 ms of them.
const UNSAID: u32 = 3;
/// After the last packet left, seconds.
const REST: f64 = 0.3;
const TICK: Duration = Duration::from_micros(250);

/// A lane, and the far ends of its legs.
struct Side {
    core: Arc<Core>,
    /// Its thread's, in the kernel.
    thread: String,
    _workers: Workers,
    _event: Event,
    at: UdpSocket,
    address: SocketAddr,
    trunk: Arc<Leg>,
    phase: u32,
    fars: Vec<Far>,
    sockets: Vec<Socket>,
    arena: Vec<u8>,
    packets: Vec<Packet>,
}

struct Far {
    client: Client,
    unsaid: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Legs,
    There,
    Both,
}

#[derive(Default)]
struct Counts {
    sent: u64,
    wrong: u64,
    delays_us: Vec<u32>,
}

fn threads() -> BTreeSet<String> {
    let all = fs::read_dir("/proc/self/task").unwrap();
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn cpu_seconds(thread: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    let nanos: f64 = text.split(' ').next().unwrap().parse().unwrap();
    nanos / 1e9
}

fn socket() -> (UdpSocket, Socket) {
    let made = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = Socket::duplicate(made.as_raw_fd()).unwrap();
    taken.reserve(4 << 20);
    taken.send_plain(); // phones send one by one
    (made, taken)
}

impl Side {
    fn new(legs: u64) -> Self {
        let core = Arc::new(Core::new(CoreConfig::default()));
        let (at, _) = socket();
        let event = Event::new().unwrap();
        let before = threads();
        let pacing = Pacing {
            batch_s: 0.001,
            coalesces: false,
        };
        let fds = [vec![at.as_raw_fd()]];
        let workers = Workers::start(&core, &fds, event.as_raw_fd(), pacing).unwrap();
        let thread = threads().difference(&before).next().unwrap().clone();
        let (made, sockets): (Vec<_>, Vec<_>) = (0..SOCKETS).map(|_| socket()).unzip();
        let fars = (1..=legs).map(|leg| {
            let client = Client::join(&core, leg, SUITE);
            let address = made[leg as usize % SOCKETS].local_addr().unwrap();
            core.with_path(&client.leg, |path| path.facts.address = Some(address));
            core.open_flow(leg, TO_TRUNK, 0, false).unwrap();
            Far { client, unsaid: 0 }
        });
        let fars = fars.collect();
        let trunk = core.open_path(TRUNK);
        Self {
            core,
            thread,
            _workers: workers,
            _event: event,
            address: at.local_addr().unwrap(),
            at,
            trunk,
            phase: 0,
            fars,
            sockets,
            arena: Vec::new(),
            packets: Vec::new(),
        }
    }

    /// Its end of the trunk; the second lane's is the mirror image.
    fn connect(&self, other: SocketAddr, is_first: bool, rekey: u64) {
        let mut made = path(SUITE, TRUNK, is_first);
        made.facts.address = Some(other);
        made.update_after = rekey;
        let own = made.facts.host_cid;
        self.core.with_path(&self.trunk, |slot| *slot = made);
        self.core.own(TRUNK, own).unwrap();
        assert!(is_first || own == peer_cid(TRUNK));
        self.core.open_trunk(TRUNK, false).unwrap();
        for leg in 1..=self.fars.len() as u64 {
            let route = 63 + leg as u16;
            let other = ((leg - 1) ^ 1) + 1;
            let heard = [(other, u16::from(FROM_LEG))];
            self.core.route(leg, TO_LEG.into(), &heard, None).unwrap();
            let there = [(TRUNK, route)];
            self.core.route(leg, TO_TRUNK.into(), &there, None).unwrap();
            self.core
                .open_route(TRUNK, route, 0, false, PLENTY)
                .unwrap();
            let here = [(leg, u16::from(FROM_TRUNK))];
            self.core.route(TRUNK, route, &here, None).unwrap();
        }
    }

    /// The next packet of a leg's far end: a voice, or what it owes alone.
    fn say(&mut self, index: usize, flow: Option<u8>, began: Instant) {
        let to = self.address;
        let far = &mut self.fars[index];
        let client = &mut far.client;
        let mut plain = Vec::new();
        if far.unsaid > 0 {
            far.unsaid = 0;
            encode_ack(&mut plain, client.got.as_slice(), 0, 16);
        }
        if let Some(flow) = flow {
            client.flow = flow;
            let mut voice = client.voice(VOICE);
            let stamp = began.elapsed().as_nanos() as u64;
            voice[STAMP].copy_from_slice(&stamp.to_be_bytes());
            encode_datagram(&mut plain, &voice);
        }
        let packet = client.packet(&plain);
        self.packets.push(Packet {
            start: self.arena.len(),
            len: packet.len(),
            to,
            sock: (client.number as usize % SOCKETS) as u16,
        });
        self.arena.extend(packet);
    }

    fn send(&mut self, sender: &mut Sender) {
        if self.packets.is_empty() {
            return;
        }
        for (index, socket) in (0..).zip(&self.sockets) {
            let mine = |packet: &Packet| packet.sock == index;
            sender.send(socket, &self.arena, &self.packets, mine);
        }
        self.arena.clear();
        self.packets.clear();
    }

    /// What came to the far ends of the legs.
    fn hear(&mut self, ring: &mut Ring, counts: &mut Counts, began: Instant) {
        let mut owing = Vec::new();
        for socket in &self.sockets {
            let reads = ring.receive(socket).unwrap_or(0);
            for index in 0..reads {
                let Some(read) = ring.read(index) else {
                    continue;
                };
                for packet in read.packets() {
                    let number = u32::from_be_bytes(packet[5..9].try_into().unwrap());
                    let far = &mut self.fars[number as usize - 1];
                    let heard = far.client.hear(packet);
                    let now = began.elapsed().as_nanos() as u64;
                    far.unsaid += u32::from(!heard.datagrams.is_empty());
                    if far.unsaid >= UNSAID {
                        owing.push(number as usize - 1);
                    }
                    for copy in heard.datagrams {
                        let speaker = match copy[0] {
                            FROM_LEG => ((number - 1) ^ 1) + 1,
                            _ => number,
                        };
                        let is_whole = copy.len() == 7 + VOICE
                            && copy[STAMP.end..].iter().all(|byte| *byte == speaker as u8);
                        counts.wrong += u64::from(!is_whole);
                        let left = u64::from_be_bytes(copy[STAMP].try_into().unwrap());
                        counts.delays_us.push(((now - left) / 1000) as u32);
                    }
                }
            }
        }
        for index in owing {
            if self.fars[index].unsaid >= UNSAID {
                self.say(index, None, began);
            }
        }
    }

    /// What the interpreter's thread and aioquic do in a daemon: a key update when it is wanted, and the first packets
    /// of the other lane's. `other`: in which phase that is.
    fn settle(&mut self, work: &mut Work, is_first: bool, other: u32) {
        let now = monotonic();
        for item in self.core.take(256) {
            match item {
                Item::Rekey { leg: TRUNK } if self.phase <= other => self.turn(is_first),
                Item::Rekey { leg: TRUNK } => {} // wanted before we followed
                Item::Known {
                    data, from, sock, ..
                } => {
                    if self.phase < other {
                        self.turn(is_first); // it is of the phase to come
                    }
                    self.core.receive(work, &data, from, sock, now);
                    self.core.with_path(&self.trunk, |path| path.slow_done());
                }
                other => panic!("{other:?}"),
            }
        }
        self.core.flush(work, now);
        self.core.acks(work, now);
        for (packet, to, _) in work.out.iter() {
            self.at.send_to(packet, to).unwrap();
        }
        self.core.sent(work);
        work.settle_left(now);
        self.core.finish(work);
    }

    fn turn(&mut self, is_first: bool) {
        self.phase += 1;
        let phase = self.phase as u8;
        self.core.with_path(&self.trunk, |path| {
            turn_keys(path, SUITE, TRUNK, phase, is_first);
        });
    }
}

struct Bench {
    sides: [Side; 2],
    works: [Work; 2],
    ring: Ring,
    sender: Sender,
    began: Instant,
    next: usize,
}

impl Bench {
    /// One run; what the lanes' threads took, and what came.
    fn run(&mut self, way: Way, rate: f64, seconds: f64) -> (Counts, [f64; 2]) {
        let mut counts = Counts::default();
        let cpu = |sides: &[Side; 2]| [0, 1].map(|side: usize| cpu_seconds(&sides[side].thread));
        let before = cpu(&self.sides);
        let started = Instant::now();
        loop {
            let passed = started.elapsed().as_secs_f64();
            let due = (passed.min(seconds) * rate) as u64;
            while counts.sent < due {
                counts.sent += 1;
                self.next += 1;
                let (side, flow) = match way {
                    Way::Legs => (0, TO_LEG),
                    Way::There => (0, TO_TRUNK),
                    Way::Both => (self.next % 2, TO_TRUNK),
                };
                let turn = if way == Way::Both {
                    self.next / 2
                } else {
                    self.next
                };
                let side = &mut self.sides[side];
                side.say(turn % side.fars.len(), Some(flow), self.began);
            }
            for index in [0, 1] {
                let other = self.sides[1 - index].phase;
                let side = &mut self.sides[index];
                side.send(&mut self.sender);
                side.hear(&mut self.ring, &mut counts, self.began);
                side.send(&mut self.sender);
                side.settle(&mut self.works[index], index == 0, other);
            }
            if passed > seconds + REST {
                break;
            }
            sleep(TICK);
        }
        let after = cpu(&self.sides);
        (counts, [0, 1].map(|side: usize| after[side] - before[side]))
    }

    fn tell(&self, way: Way, seconds: f64, counts: &mut Counts, cpu: [f64; 2]) {
        counts.delays_us.sort_unstable();
        let delays = &counts.delays_us;
        let at = |share: f64| {
            let place = (delays.len() as f64 * share) as usize;
            delays.get(place).copied().unwrap_or(0)
        };
        let name = match way {
            Way::Legs => "legs",
            Way::There => "there",
            Way::Both => "both",
        };
        let facts = [0, 1].map(|side: usize| {
            let side = &self.sides[side];
            let counters = side.core.counters();
            let missing = (counters.packets_missing(), counters.media_missing());
            let (lost, updates) = side
                .core
                .with_path(&side.trunk, |path| (path.lost(), path.key_updates));
            (missing != (0, (0, 0)), lost, updates)
        });
        println!(
            "{{\"way\": \"{name}\", \"seconds\": {seconds}, \"sent\": {}, \"heard\": {}, \"wrong\": {}, \
             \"cpu_first\": {:.6}, \"cpu_second\": {:.6}, \"p50_us\": {}, \"p99_us\": {}, \
             \"trunk_lost\": {}, \"key_updates\": {}, \"unbalanced\": {}}}",
            counts.sent,
            delays.len(),
            counts.wrong,
            cpu[0],
            cpu[1],
            at(0.5),
            at(0.99),
            facts[0].1 + facts[1].1,
            facts[0].2.min(facts[1].2),
            facts[0].0 || facts[1].0,
        );
    }
}

fn main() {
    let numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let numbers: Vec<f64> = numbers.collect();
    let [legs, rate, seconds, rounds, rekey] = numbers[..] else {
        panic!("trunk LEGS PACKETS_PER_S SECONDS ROUNDS REKEY");
    };
    let sides = [0; 2].map(|_| Side::new(legs as u64));
    for (side, other) in [(0, 1), (1, 0)] {
        let to = sides[other].address;
        sides[side].connect(to, side == 0, rekey as u64);
    }
    let own = std::process::id();
    println!("threads {} {} {own}", sides[0].thread, sides[1].thread);
    stdin().read_line(&mut String::new()).unwrap();
    let mut bench = Bench {
        sides,
        works: [63; 2].map(Work::new),
        ring: Ring::new(false),
        sender: Sender::new(),
        began: Instant::now(),
        next: 0,
    };
    bench.run(Way::Both, rate, 0.5); // warm, and a round trip is known
    for round in 0..rounds as usize {
        let mut ways = [Way::Legs, Way::There, Way::Both];
        ways.rotate_left(round % 3);
        for way in ways {
            let (mut counts, cpu) = bench.run(way, rate, seconds);
            bench.tell(way, seconds, &mut counts, cpu);
        }
    }
}
