//! Three legs in one core, and any sequence of packets, time, acknowledgements, routes, key updates and ends of
//! connections: no packet is lost from the books, nothing sealed breaks the form of a packet or uses a number
//! twice, nobody hears a flow whose gate is closed, what the loop gets is what came, an acknowledgement of what
//! arrived is always honest, and a leg's memory has a bound.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;

use _lane::cid::Cid;
use _lane::core::{Core, CoreConfig, Leg};
use _lane::path::Facts;
use _lane::reason::Reason;
use _lane::repeats::{Ask, Mode, Rule};
use _lane::slow::Item;
use _lane::table::Rights;
use _lane::work::Work;
use libfuzzer_sys::fuzz_target;
use relay_lane_fuzz::{Damage, Input, Peer, Secret};

const LEGS: u8 = 3;
const STEPS: usize = 80;
const SLOW_QUEUE: usize = 24;
const SLOW_PER_LEG: usize = 8;
/// Of one leg, with its queues and 16 KiB of small packets in flight.
const LEG_MEMORY: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut node = Node::new();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        node.step(&mut input);
        node.drain(0);
        node.check();
    }
    node.end();
});

struct Side {
    leg: Arc<Leg>,
    peer: Peer,
    /// Counters of the voice that this client sends.
    ctr: u32,
    /// Who may hear it.
    targets: u8,
    /// Who may still hear what waits since the flow ended without its route being closed before.
    lingering: u8,
}

impl Side {
    fn end_flow(&mut self) {
        self.lingering |= self.targets;
        self.targets = 0;
    }
}

struct Node {
    core: Core,
    work: Work,
    sides: Vec<Side>,
    now: f64,
    /// Packets given to the core that the loop may still get.
    given: Vec<Vec<u8>>,
}

/// Repair as a byte says.
fn rule(choice: u8) -> Rule {
    Rule {
        mode: match choice % 4 {
            0 => Mode::Off,
            1 => Mode::Copies,
            _ => Mode::Repeats,
        },
        budget: f64::from(choice >> 6) / 3.0,
        depth: f64::from(choice >> 4),
        distances: [u32::from(choice >> 5) + 1].as_slice().into(),
        max_age: f64::from(choice >> 2 & 7) * 0.05,
        ack_slack: 0.01,
    }
}

fn address(leg: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1000 + u16::from(leg)))
}

/// The flow under which a listener hears a sender: its own for each pair.
fn out_flow(sender: u8, listener: u8) -> u8 {
    1 + sender * LEGS + listener
}

impl Node {
    fn new() -> Self {
        let core = Core::new(CoreConfig {
            slow_queue: SLOW_QUEUE,
            slow_per_leg: SLOW_PER_LEG,
            ..CoreConfig::default()
        });
        let sides = (0..LEGS)
            .map(|leg| Side {
                leg: core.open_path(u64::from(leg)),
                peer: Peer::new(leg, leg),
                ctr: 0,
                targets: 0,
                lingering: 0,
            })
            .collect();
        let mut node = Self {
            core,
            work: Work::new(0),
            sides,
            now: 100.0,
            given: Vec::new(),
        };
        for leg in 0..LEGS {
            node.establish(leg);
            node.open_media(leg);
        }
        (0..LEGS).for_each(|leg| node.route(leg, 7, None));
        node
    }

    /// Keys, facts and an id for a leg whose path is new.
    fn establish(&mut self, leg: u8) {
        let side = &mut self.sides[usize::from(leg)];
        side.peer = Peer::new(leg, leg);
        let peer = &side.peer;
        let facts = Facts {
            host_cid: Cid::new(&peer.host_id).unwrap(),
            peer_cid: Cid::new(&peer.peer_id).unwrap(),
            address: Some(address(leg)),
            sock: 0,
            peer_exponent: 3,
            peer_ack_delay: 0.025,
        };
        let (recv, send) = (Secret::of(leg, 0, 0), Secret::of(leg, 1, 0));
        self.core.with_path(&side.leg, |path| {
            assert!(path.set_keys(leg, 0, recv.parts(), send.parts()));
            (path.active, path.confirmed, path.facts) = (true, true, facts);
        });
        self.core.own(u64::from(leg), facts.host_cid).unwrap();
    }

    fn open_media(&mut self, leg: u8) {
        let rights = Rights {
            pps: 200,
            up_bps: 400_000,
            down_bps: 200_000,
        };
        self.core.open_leg(u64::from(leg), rights);
        let open = self.core.open_flow(u64::from(leg), 1, u32::from(leg), true);
        assert!(open.is_ok());
    }

    fn route(&mut self, leg: u8, targets: u8, closed: Option<Reason>) {
        let targets = targets & ((1 << LEGS) - 1) & !(1 << leg);
        let listeners = (0..LEGS).filter(|listener| targets >> listener & 1 == 1);
        let named: Vec<_> = listeners
            .map(|listener| (u64::from(listener), u16::from(out_flow(leg, listener))))
            .collect();
        if self.core.route(u64::from(leg), 1, &named, closed).is_ok() {
            self.sides[usize::from(leg)].targets = targets;
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        let leg = input.byte() % LEGS;
        match op % 16 {
            0 => {
                let size = usize::from(input.byte()) * 8;
                let payload = input.bytes(size);
                self.send(leg, input, payload);
            }
            1 => {
                let size = usize::from(input.byte()) * 8;
                let data = input.bytes(size).to_vec();
                assert!(!self.give(data, address(leg), 0));
            }
            2 | 3 => {
                let payload = self.voice(leg, input);
                self.send(leg, input, &payload);
            }
            4 | 5 => self.acknowledge(leg, input),
            6 | 7 => self.now += f64::from(input.byte()) * 0.002,
            8 if op >> 4 == 1 => self.core.tell_repair(u64::from(leg), rule(input.byte())),
            8 if op >> 4 == 2 => {
                let _ = self.core.watch_flow(u64::from(leg), 1);
            }
            8 if op >> 4 == 3 => {
                let [out, kid, ctr, bits] = [(); 4].map(|()| input.byte());
                let ask = Ask {
                    out,
                    kid,
                    base: u16::from(ctr),
                    bits: u16::from(bits) << 4 | 0xF,
                };
                self.core
                    .resend(&mut self.work, u64::from(leg), &ask, self.now);
            }
            8 => self.core.flush(&mut self.work, self.now),
            9 => self.core.acks(&mut self.work, self.now),
            10 => {
                self.core.judge(&mut self.work, self.now, 1.7e9);
                self.core.finish(&mut self.work);
                self.take(usize::from(input.byte()));
            }
            11 => {
                let targets = input.byte();
                let closed = Reason::ALL.get(usize::from(targets >> LEGS)).copied();
                let closed = closed.filter(|reason| *reason != Reason::Internal); // for bugs alone
                self.route(leg, targets, closed);
            }
            12 => self.update_keys(leg),
            13 => self.speak_for_aioquic(leg, input),
            14 => {
                let size = usize::from(input.byte()) * 8;
                let payload = input.bytes(size);
                let _ = self
                    .core
                    .deliver(&mut self.work, u64::from(leg), payload, self.now);
            }
            _ => self.leave_and_come_back(leg, input.byte()),
        }
    }

    /// Seal a payload as the fuzzer likes and give it to the core.
    fn send(&mut self, leg: u8, input: &mut Input<'_>, payload: &[u8]) {
        let kind = input.byte();
        let peer = &mut self.sides[usize::from(leg)].peer;
        let mut number = peer.next;
        let mut damage = Damage::default();
        match kind >> 4 {
            1 => number = number.saturating_sub(u64::from(input.byte())),
            2 => number += u64::from(input.byte()),
            3 => number += u64::from(input.byte()) << 16,
            4 => damage.flip = input.byte(),
            5 => damage.reserved = input.byte(),
            6 => damage.is_old = true,
            _ => {}
        }
        let packet = peer.seal(number, usize::from(kind & 3) + 1, payload, damage);
        let (from, sock) = match kind >> 4 {
            7 => (address(leg + 1), 0),
            8 => (address(leg), 1),
            _ => (address(leg), 0),
        };
        if self.give(packet, from, sock) {
            // Only as it was sealed, from where the leg is, and once.
            assert!(damage.flip == 0 && damage.reserved & 0x18 == 0 && !matches!(kind >> 4, 7 | 8));
            assert!(self.sides[usize::from(leg)].peer.opened.insert(number));
        }
    }

    /// Whether the packet was opened.
    fn give(&mut self, data: Vec<u8>, from: SocketAddr, sock: u16) -> bool {
        let before = self.work.counters.media;
        self.core
            .receive(&mut self.work, &data, from, sock, self.now);
        self.given.push(data);
        self.work.counters.media != before
    }

    /// Frames with some voice datagrams, mostly acceptable.
    fn voice(&mut self, leg: u8, input: &mut Input<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..=input.byte() % 4 {
            let side = &mut self.sides[usize::from(leg)];
            let (step, size, flags) = (input.byte(), input.byte(), input.byte());
            side.ctr = side
                .ctr
                .wrapping_add(u32::from(step % 4))
                .wrapping_sub(u32::from(step >> 7) * 3);
            let kid = leg << 3 | flags & 7;
            let mut datagram = vec![1, 0x40 | flags & 0x3E & !0x20, 0x8B, kid.max(8)];
            datagram.extend((side.ctr | 1 << 24).to_be_bytes());
            datagram.resize(datagram.len() + 19 + usize::from(size) * 4, 0x55);
            _lane::frames::encode_datagram(&mut out, &datagram);
        }
        out
    }

    /// Some of what this client got never came, the rest is acknowledged.
    fn acknowledge(&mut self, leg: u8, input: &mut Input<'_>) {
        let side = &mut self.sides[usize::from(leg)];
        let (from, count) = (u64::from(input.byte()), u64::from(input.byte() % 8));
        side.peer.received.subtract(from, from + count);
        let Some(frame) = side.peer.acknowledgement(u64::from(input.byte())) else {
            return;
        };
        let newest: Vec<_> = side
            .peer
            .received
            .as_slice()
            .iter()
            .rev()
            .copied()
            .collect();
        assert!(self
            .core
            .with_path(&side.leg, |path| path.is_honest(&newest)));
        let number = side.peer.next;
        side.peer.opened.insert(number);
        let packet = side.peer.seal(number, 4, &frame, Damage::default());
        assert!(self.give(packet, address(leg), 0));
    }

    fn update_keys(&mut self, leg: u8) {
        let side = &mut self.sides[usize::from(leg)];
        side.peer.generation = side.peer.generation.wrapping_add(1) & 0x0F;
        let generation = side.peer.generation;
        let (recv, send) = (
            Secret::of(leg, 0, generation),
            Secret::of(leg, 1, generation),
        );
        self.core.with_path(&side.leg, |path| {
            path.update_after = 16; // so that the bound is reached, too
            assert!(path.set_keys(leg, generation & 1, recv.parts(), send.parts()));
        });
    }

    /// What Python does with a path: numbers taken and given back, packets that came through aioquic.
    fn speak_for_aioquic(&mut self, leg: u8, input: &mut Input<'_>) {
        let (what, count) = (input.byte(), u64::from(input.byte()));
        let side = &mut self.sides[usize::from(leg)];
        let now = self.now;
        if what & 3 == 1 {
            side.peer.sealed.insert(side.peer.next + count);
            side.peer.opened.insert(side.peer.next + count);
            side.peer.next += count + 1;
        }
        let number = side.peer.next.saturating_sub(1);
        let sealed = !side.peer.sealed.is_empty();
        self.core.with_path(&side.leg, |path| match what & 3 {
            0 => {
                let first = path.reserve(count);
                path.settle(first + count * u64::from(what >> 2) / 63);
            }
            1 => {
                assert!(!path.has(number) || number < path.expected);
                path.add(number);
                path.expected = path.expected.max(number + 1);
                path.largest = path.largest.max(number as i64);
                path.largest_at = Some(now);
                path.ack_at = path.ack_at.or(Some(now));
            }
            2 => path.subtract(count),
            _ => path.outstanding = sealed && count & 1 == 1,
        });
    }

    fn leave_and_come_back(&mut self, leg: u8, how: u8) {
        let number = u64::from(leg);
        if how & 1 == 1 {
            self.core.close_path(number);
            self.sides[usize::from(leg)].leg = self.core.open_path(number);
            self.establish(leg);
        }
        if how & 2 == 2 {
            // Of no other leg does the route name this life of it any more.
            self.core.close_leg(number);
            for side in &mut self.sides {
                side.targets &= !(1 << leg);
                side.lingering &= !(1 << leg);
            }
            self.sides[usize::from(leg)].end_flow();
            self.open_media(leg);
        }
        if how & 4 == 4 {
            let counted = self.core.close_flow(number, 1);
            let dropped: u64 = counted.dropped.iter().sum();
            assert_eq!(counted.received, counted.accepted + dropped);
            self.sides[usize::from(leg)].end_flow();
            assert!(self.core.open_flow(number, 1, u32::from(leg), true).is_ok());
        }
    }

    /// All that wants to leave reaches its client, but for packet number `lost`, counted from 1.
    fn drain(&mut self, lost: usize) {
        let packets: Vec<_> = self
            .work
            .out
            .iter()
            .map(|(data, to, _)| (data.to_vec(), to))
            .collect();
        for (data, to) in packets {
            let listener = (to.port() - 1000) as u8;
            assert_eq!(to, address(listener));
            for datagram in self.sides[usize::from(listener)].peer.open(&data) {
                let sender = (datagram[0] - 1) / LEGS;
                assert_eq!(datagram[0], out_flow(sender, listener));
                let sender = &self.sides[usize::from(sender)];
                let heard_by = sender.targets | sender.lingering;
                assert!(heard_by >> listener & 1 == 1, "a copy passed a closed gate");
            }
        }
        if lost > 0 && lost <= self.work.out.len() {
            self.core.unsent(&mut self.work, lost - 1);
        }
        self.core.sent(&mut self.work);
    }

    /// What the loop gets is what came, and no more than its queues hold.
    fn take(&mut self, most: usize) {
        let items = self.core.take(most);
        assert!(items.len() <= most);
        for item in items {
            match item {
                Item::Known { leg, data, .. } => {
                    assert!(self.given.contains(&data));
                    let side = &self.sides[usize::try_from(leg).unwrap()];
                    self.core.with_path(&side.leg, |path| path.slow_done());
                }
                Item::Unknown { data, .. } => assert!(self.given.contains(&data)),
                Item::Control { payload, .. } => assert_eq!(payload[0], 0),
                Item::Gap { leg, flow, gap } => {
                    assert!(leg < u64::from(LEGS) && flow == 1 && gap.missing != 0)
                }
                Item::Ack { leg, ranges, .. } => {
                    assert!(leg < u64::from(LEGS) && !ranges.is_empty())
                }
                Item::Rekey { .. } | Item::Waiting { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn check(&mut self) {
        let mut all = self.core.counters();
        all.merge(&mut self.work.counters.clone());
        assert_eq!(all.packets_missing(), 0, "{all:?}");
        assert_eq!(all.media_missing(), (0, 0), "{all:?}");
        assert_eq!(all.dropped[Reason::Internal as usize], 0);
        assert_eq!(all.dropped_out[Reason::Internal as usize], 0);
        for side in &mut self.sides {
            side.lingering *= u8::from(all.queued > 0);
            assert!(
                side.leg.memory() < LEG_MEMORY,
                "{} bytes",
                side.leg.memory()
            );
        }
    }

    fn end(mut self) {
        self.core.retire(&mut self.work, self.now);
        self.drain(1);
        self.core.judge(&mut self.work, self.now, 1.7e9);
        self.core.finish(&mut self.work);
        let most = self.core.counters().waiting;
        assert!(most <= 2 * SLOW_QUEUE as u64);
        self.take(usize::MAX);
        for leg in 0..LEGS {
            self.core.close_leg(u64::from(leg));
            self.core.close_path(u64::from(leg));
        }
        self.check();
        let all = self.core.counters();
        assert_eq!((all.waiting, all.queued), (0, 0));
    }
}
