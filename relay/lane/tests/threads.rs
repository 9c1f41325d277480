//! Many threads and the interpreter's at once, for two seconds, over legs and a trunk: nothing is counted twice or
//! lost, no packet number is used twice, nobody hears a flow whose gate was closed before it was spoken.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use _lane::core::{Core, CoreConfig};
use _lane::reason::Reason;
use _lane::work::Work;
use common::{address, assert_conserved, Client, PLENTY};

const THREADS: usize = 4;
const LEGS: u64 = 16;
const TIME: Duration = Duration::from_secs(2);
const HEARD: u16 = 5;
const TRUNK: u64 = LEGS + 1;
/// Of leg 0, if there were one: each has one each way.
const ROUTE: u16 = 100;

/// What all threads share: each client behind a lock, as a wire that orders its packets.
struct Town {
    core: Core,
    clients: Vec<Mutex<Client>>,
    is_over: AtomicBool,
    clock: Instant,
    packets: AtomicU64,
    copies: AtomicU64,
}

impl Town {
    fn now(&self) -> f64 {
        100.0 + self.clock.elapsed().as_secs_f64()
    }

    fn client(&self, leg: u64) -> &Mutex<Client> {
        &self.clients[leg as usize - 1]
    }

    /// What a lane's thread does, with clients instead of sockets.
    fn lane(&self, index: usize) {
        let mut work = Work::new(index);
        let mut turn = index as u64;
        while !self.is_over.load(Ordering::Relaxed) {
            let now = self.now();
            for _ in 0..8 {
                turn += 1;
                // Every thread gets packets of every leg; some packets are aioquic's or nobody's.
                let leg = turn % TRUNK + 1;
                let mut client = self.client(leg).lock().unwrap();
                let packet = match turn % 97 {
                    _ if leg == TRUNK => client.carry(&[ROUTE + 1, ROUTE + 2], 100),
                    0 => client.packet(b"\x08\0stream"),
                    1 => vec![0x41; 60],
                    _ => client.talk(100),
                };
                client.send(&self.core, &mut work, &packet, now);
                drop(client);
                self.packets.fetch_add(1, Ordering::Relaxed);
            }
            self.core.judge(&mut work, now, 0.0);
            self.core.flush(&mut work, now);
            self.core.acks(&mut work, now);
            self.send(&mut work);
            self.core.finish(&mut work);
        }
        self.core.retire(&mut work, self.now());
        self.send(&mut work);
        self.core.finish(&mut work);
    }

    fn send(&self, work: &mut Work) {
        for (packet, to, _) in work.out.iter() {
            let mut clients = self.clients.iter();
            let client = clients.find(|c| address(c.lock().unwrap().number) == to);
            // Two threads may race to the wire with packets of one leg: `hear` allows any order.
            let heard = client.unwrap().lock().unwrap().hear(packet);
            for copy in &heard.datagrams {
                let is_carried = to == address(TRUNK) && copy[..3] == [0x40, copy[1], 1];
                assert!(is_carried || u16::from(copy[0]) == HEARD);
            }
            self.copies
                .fetch_add(heard.datagrams.len() as u64, Ordering::Relaxed);
        }
        self.core.sent(work);
    }

    /// What Python does meanwhile.
    fn desk(&self) {
        let mut work = Work::new(63);
        let mut turn = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            turn += 1;
            let leg = turn % LEGS + 1;
            let next = leg % LEGS + 1;
            let route = ROUTE + leg as u16;
            let targets = [(next, HEARD), (TRUNK, route), (next % LEGS + 1, HEARD)];
            let targets = if turn % 7 == 0 { &[][..] } else { &targets[..] };
            self.core
                .route(leg, 1, targets, Some(Reason::Muted))
                .unwrap();
            let handle = self.client(leg).lock().unwrap().leg.clone();
            let block = self.core.with_path(&handle, |path| {
                let first = path.reserve(16);
                path.slow_done();
                first
            });
            if turn % 13 == 0 {
                let opened = self.core.open_route(TRUNK, route, 0, false, PLENTY);
                opened.unwrap();
            }
            let heard = [(leg, HEARD)];
            let _ = self
                .core
                .route(TRUNK, route, &heard[..turn as usize % 2], None);
            if turn % 3 == 0 {
                std::thread::yield_now();
            }
            self.core
                .with_path(&handle, |path| path.settle(block + turn % 3));
            for item in self.core.take(64) {
                std::hint::black_box(item);
            }
            assert_conserved(&self.core);
            if turn % 11 == 0 {
                let _ = self.core.deliver(&mut work, leg, &[1; 100], self.now());
                self.core.finish(&mut work);
            }
        }
    }
}

#[test]
fn four_lanes_and_the_interpreter_agree_on_everything() {
    let core = Core::new(CoreConfig::default());
    let clients = (1..=LEGS).map(|leg| Client::join(&core, leg, (leg % 3) as u8));
    let clients = clients.chain([TRUNK].map(|trunk| Client::dial(&core, trunk, 0)));
    let clients = clients.map(Mutex::new).collect();
    let town = Arc::new(Town {
        core,
        clients,
        is_over: AtomicBool::new(false),
        clock: Instant::now(),
        packets: AtomicU64::new(0),
        copies: AtomicU64::new(0),
    });
    std::thread::scope(|scope| {
        for index in 0..THREADS {
            let town = town.clone();
            scope.spawn(move || town.lane(index));
        }
        let desk = town.clone();
        scope.spawn(move || desk.desk());
        std::thread::sleep(TIME);
        town.is_over.store(true, Ordering::Relaxed);
    });
    assert_conserved(&town.core);
    let counters = town.core.counters();
    assert_eq!(counters.udp_in, town.packets.load(Ordering::Relaxed));
    assert_eq!(counters.copies_sent, town.copies.load(Ordering::Relaxed));
    assert_eq!(counters.dropped[Reason::Internal as usize], 0);
    assert_eq!(counters.dropped[Reason::BadTag as usize], 0);
    assert!(counters.copies_sent > 1000, "{counters:?}");
    for leg in 1..=TRUNK {
        town.core.close_leg(leg);
        town.core.close_path(leg);
    }
    assert_conserved(&town.core);
    assert_eq!(town.core.counters().queued, 0);
}
