//! The other side of a leg, for tests and measurements: a client with keys of its own, back to back with the
//! core on a simulated clock. Must never live here: what the relay ought to do.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part

use std::net::SocketAddr;
use std::sync::Arc;

use _lane::cid::Cid;
use _lane::core::{Core, CoreConfig, Leg};
use _lane::frames::{encode_ack, encode_datagram, parse, Parsed};
use _lane::keys::{Keys, Unsealed};
use _lane::path::{Facts, Path};
use _lane::ranges::Ranges;
use _lane::reason::Reason;
use _lane::slow::Item;
use _lane::table::Rights;
use _lane::work::Work;

/// AEAD key, IV, header protection key of one direction and phase.
pub type Secret = (Vec<u8>, [u8; 12], Vec<u8>);

pub const PLENTY: Rights = Rights {
    pps: 1_000_000,
    up_bps: 1_000_000_000,
    down_bps: 1_000_000_000,
};

/// Keys that nobody else has; the mask's is the same in each phase.
pub fn secret(suite: u8, leg: u64, phase: u8, is_up: bool) -> Secret {
    let size = if suite == 0 { 16 } else { 32 };
    let seed = leg as u8 ^ phase << 5 ^ u8::from(is_up) << 7;
    (
        vec![seed; size],
        [seed ^ 0x55; 12],
        vec![leg as u8 ^ u8::from(is_up); size],
    )
}

pub fn parts(secret: &Secret) -> (&[u8], &[u8], &[u8]) {
    (&secret.0, &secret.1, &secret.2)
}

/// The relay's id for a leg.
pub fn host_cid(leg: u64) -> Cid {
    Cid::new(&[&[0x40, 0x20], &leg.to_be_bytes()[2..]].concat()).unwrap()
}

/// A client's id for itself.
pub fn peer_cid(leg: u64) -> Cid {
    Cid::new(&[&[0x77; 4], &leg.to_be_bytes()[4..]].concat()).unwrap()
}

pub fn address(leg: u64) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, leg as u8], 4000 + (leg >> 8) as u16))
}

/// A path of the relay, or its mirror image at the client.
pub fn path(suite: u8, leg: u64, is_relay: bool) -> Path {
    let mut path = Path::default();
    path.active = true;
    path.confirmed = true;
    let (own, other) = (host_cid(leg), peer_cid(leg));
    path.facts = Facts {
        host_cid: if is_relay { own } else { other },
        peer_cid: if is_relay { other } else { own },
        address: Some(address(leg)),
        sock: 0,
        peer_exponent: 3,
        peer_ack_delay: 0.025,
    };
    turn_keys(&mut path, suite, leg, 0, is_relay);
    path
}

/// Give a path the keys of a phase.
pub fn turn_keys(path: &mut Path, suite: u8, leg: u64, phase: u8, is_relay: bool) {
    let (up, down) = (
        secret(suite, leg, phase, true),
        secret(suite, leg, phase, false),
    );
    let (recv, send) = if is_relay { (&up, &down) } else { (&down, &up) };
    assert!(path.set_keys(suite, phase & 1, parts(recv), parts(send)));
}

/// What a client found in a packet of the relay.
#[derive(Debug)]
pub struct Heard {
    pub number: u64,
    pub datagrams: Vec<Vec<u8>>,
    /// Newest first.
    pub acked: Vec<(u64, u64)>,
}

/// A participant with one leg, one uplink flow and no loss.
pub struct Client {
    pub number: u64,
    pub leg: Arc<Leg>,
    pub sock: u16,
    pub flow: u8,
    pub next: u64,
    pub expected: u64,
    pub got: Ranges,
    pub ctr: u32,
    suite: u8,
    keys: Keys,
    scratch: Vec<u8>,
}

impl Client {
    /// Connect: a path with keys, budgets, an uplink flow of index 0 in a 1:1.
    pub fn join(core: &Core, number: u64, suite: u8) -> Self {
        let client = Self::connect(core, number, suite);
        core.open_leg(number, PLENTY);
        core.open_flow(number, 1, 0, false).unwrap();
        client
    }

    /// The other end of a trunk.
    pub fn dial(core: &Core, number: u64, suite: u8) -> Self {
        let client = Self::connect(core, number, suite);
        core.open_trunk(number, false).unwrap();
        client
    }

    fn connect(core: &Core, number: u64, suite: u8) -> Self {
        let leg = core.open_path(number);
        core.own(number, host_cid(number)).unwrap();
        core.with_path(&leg, |slot| *slot = path(suite, number, true));
        Self {
            number,
            leg,
            sock: 0,
            flow: 1,
            next: 0,
            expected: 0,
            got: Ranges::new(),
            ctr: 0,
            suite,
            keys: Self::keys(suite, number, 0),
            scratch: Vec::new(),
        }
    }

    fn keys(suite: u8, number: u64, phase: u8) -> Keys {
        let (up, down) = (
            secret(suite, number, phase, true),
            secret(suite, number, phase, false),
        );
        Keys::new(suite, phase & 1, parts(&down), parts(&up)).unwrap()
    }

    /// Both sides go to a key phase; the client forgets the one before.
    pub fn rekey(&mut self, core: &Core, phase: u8) {
        let (suite, number) = (self.suite, self.number);
        core.with_path(&self.leg, |path| {
            turn_keys(path, suite, number, phase, true);
        });
        self.keys = Self::keys(suite, number, phase);
    }

    /// A packet with these frames.
    pub fn packet(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let body = self
            .keys
            .begin(host_cid(self.number).as_slice(), &mut packet);
        packet.extend_from_slice(plain);
        self.keys.close(self.next, 0, body, &mut packet).unwrap();
        self.next += 1;
        packet
    }

    /// The next audio datagram of this client: `size` bytes behind a header of 7.
    pub fn voice(&mut self, size: usize) -> Vec<u8> {
        self.ctr += 1;
        let ctr = self.ctr + (1 << 24); // always four bytes
        let mut payload = vec![self.flow, 0x40, 0x0B];
        payload.extend_from_slice(&ctr.to_be_bytes());
        payload.resize(7 + size, self.number as u8);
        payload
    }

    /// A packet with one audio datagram, and the acknowledgement of all that came.
    pub fn talk(&mut self, size: usize) -> Vec<u8> {
        let mut plain = Vec::new();
        if !self.got.is_empty() {
            encode_ack(&mut plain, self.got.as_slice(), 0, 16);
        }
        let voice = self.voice(size);
        encode_datagram(&mut plain, &voice);
        self.packet(&plain)
    }

    /// A packet of the other end of a trunk: a voice on each of these routes, and the acknowledgement of all that
    /// came.
    pub fn carry(&mut self, routes: &[u16], size: usize) -> Vec<u8> {
        let mut plain = Vec::new();
        if !self.got.is_empty() {
            encode_ack(&mut plain, self.got.as_slice(), 0, 16);
        }
        for route in routes {
            let voice = self.voice(size);
            let carried = [&(0x4000 | route).to_be_bytes()[..], &voice].concat();
            encode_datagram(&mut plain, &carried);
        }
        self.packet(&plain)
    }

    /// Send a packet to the core from where the core expects it.
    pub fn send(&self, core: &Core, work: &mut Work, packet: &[u8], now: f64) {
        core.receive(work, packet, address(self.number), self.sock, now);
    }

    /// Open a packet of the relay.
    pub fn hear(&mut self, packet: &[u8]) -> Heard {
        let opened = self.keys.open(packet, self.expected, &mut self.scratch);
        let Unsealed::Plain(number, plain) = opened else {
            panic!("not a packet for this client: {opened:?}");
        };
        assert!(
            !self
                .got
                .as_slice()
                .iter()
                .any(|r| r.0 <= number && number < r.1),
            "packet number {number} came twice"
        );
        self.got.add_next(number);
        self.expected = self.expected.max(number + 1);
        let mut parsed = Parsed::default();
        assert!(parse(plain, &mut parsed));
        let datagrams = parsed.datagrams.iter();
        Heard {
            number,
            datagrams: datagrams
                .map(|range| plain[range.clone()].to_vec())
                .collect(),
            acked: parsed.ack.ranges,
        }
    }
}

/// Everything the work wants sent, opened by the clients it is for; their numbers with what they heard.
pub fn deliver(core: &Core, work: &mut Work, clients: &mut [Client]) -> Vec<(u64, Heard)> {
    let packets: Vec<(Vec<u8>, SocketAddr)> = work
        .out
        .iter()
        .map(|(bytes, to, _)| (bytes.to_vec(), to))
        .collect();
    core.sent(work);
    let mut heard = Vec::new();
    for (packet, to) in packets {
        let client = clients
            .iter_mut()
            .find(|client| address(client.number) == to)
            .expect("a packet for nobody");
        heard.push((client.number, client.hear(&packet)));
    }
    heard
}

/// Both equations hold.
pub fn assert_conserved(core: &Core) {
    let counters = core.counters();
    assert_eq!(counters.packets_missing(), 0, "{counters:?}");
    assert_eq!(counters.media_missing(), (0, 0), "{counters:?}");
}

pub const T0: f64 = 100.0;

/// A core with its clients, on one thread and a clock of its own.
pub struct Node {
    pub core: Core,
    pub work: Work,
    pub clients: Vec<Client>,
    pub now: f64,
}

impl Node {
    /// Legs 1 to `legs`; 1 and 2 hear each other.
    pub fn new(legs: u64) -> Self {
        let core = Core::new(CoreConfig::default());
        let clients = (1..=legs)
            .map(|leg| Client::join(&core, leg, (leg % 3) as u8))
            .collect();
        core.route(1, 1, &[(2, 5)], None).unwrap();
        core.route(2, 1, &[(1, 6)], None).unwrap();
        Self {
            core,
            work: Work::new(0),
            clients,
            now: T0,
        }
    }

    pub fn client(&mut self, leg: u64) -> &mut Client {
        self.clients.iter_mut().find(|c| c.number == leg).unwrap()
    }

    pub fn receive(&mut self, leg: u64, packet: &[u8]) {
        let now = self.now;
        self.core
            .receive(&mut self.work, packet, address(leg), 0, now);
    }

    pub fn talk(&mut self, leg: u64) {
        let packet = self.client(leg).talk(100);
        self.receive(leg, &packet);
    }

    pub fn finish(&mut self) {
        self.core.finish(&mut self.work);
        assert_conserved(&self.core);
    }

    pub fn flush(&mut self) -> Vec<(u64, Heard)> {
        self.core.flush(&mut self.work, self.now);
        self.core.acks(&mut self.work, self.now);
        let heard = deliver(&self.core, &mut self.work, &mut self.clients);
        self.finish();
        heard
    }

    pub fn take(&mut self) -> Vec<Item> {
        self.finish();
        let items = self.core.take(usize::MAX);
        assert_conserved(&self.core);
        items
    }

    pub fn dropped(&self, reason: Reason) -> u64 {
        self.core.counters().dropped[reason as usize]
    }
}
