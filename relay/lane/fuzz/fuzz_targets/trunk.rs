//! A speaker, a listener and a trunk in one core, and any sequence of what another node says, voices that go there,
//! routes given and taken, time and acknowledgements: no datagram is lost from the books, what leaves on a route is
//! a voice that may, nothing that came by a trunk leaves by one, and its memory has a bound.
#![no_main]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use _lane::cid::Cid;
use _lane::core::{Core, CoreConfig, Leg};
use _lane::media::decode_carried;
use _lane::path::Facts;
use _lane::reason::Reason;
use _lane::table::Rights;
use _lane::work::Work;
use libfuzzer_sys::fuzz_target;
use relay_lane_fuzz::{Damage, Input, Peer, Secret};

const SPEAKER: u8 = 0;
const LISTENER: u8 = 1;
const TRUNK: u8 = 2;
const HEARD: u8 = 9;
const ROUTES: [u16; 4] = [64, 65, 1000, 16383];
const STEPS: usize = 120;
/// Of the trunk: tables up to the highest route, five copies of each, 64 KiB in flight.
const MEMORY: usize = 256 * 1024;
const RIGHTS: Rights = Rights {
    pps: 500,
    up_bps: 2_000_000,
    down_bps: 2_000_000,
};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut node = Node::new();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        node.step(&mut input);
        node.drain();
        node.check();
    }
    node.end();
});

struct Node {
    core: Core,
    work: Work,
    legs: Vec<Arc<Leg>>,
    peers: Vec<Peer>,
    now: f64,
    /// Counters of all voices.
    ctr: u32,
    /// Where the speaker's voice may go.
    routed: BTreeSet<u16>,
}

fn address(leg: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1000 + u16::from(leg)))
}

impl Node {
    fn new() -> Self {
        let core = Core::new(CoreConfig::default());
        let peers: Vec<Peer> = (0..3).map(|leg| Peer::new(leg, leg)).collect();
        let legs = (0..3).map(|leg| core.open_path(leg)).collect();
        let mut node = Self {
            core,
            work: Work::new(0),
            legs,
            peers,
            now: 100.0,
            ctr: 0,
            routed: BTreeSet::new(),
        };
        (SPEAKER..=TRUNK).for_each(|leg| node.establish(leg));
        for leg in [SPEAKER, LISTENER] {
            node.core.open_leg(u64::from(leg), RIGHTS);
        }
        node.core.open_trunk(u64::from(TRUNK), false).unwrap();
        node.core.open_flow(0, 1, 0, false).unwrap();
        node
    }

    fn establish(&mut self, leg: u8) {
        let peer = &self.peers[usize::from(leg)];
        let facts = Facts {
            host_cid: Cid::new(&peer.host_id).unwrap(),
            peer_cid: Cid::new(&peer.peer_id).unwrap(),
            address: Some(address(leg)),
            sock: 0,
            peer_exponent: 3,
            peer_ack_delay: 0.025,
        };
        let (recv, send) = (Secret::of(leg, 0, 0), Secret::of(leg, 1, 0));
        self.core.with_path(&self.legs[usize::from(leg)], |path| {
            assert!(path.set_keys(leg, 0, recv.parts(), send.parts()));
            (path.active, path.confirmed, path.facts) = (true, true, facts);
        });
        self.core.own(u64::from(leg), facts.host_cid).unwrap();
    }

    /// The voice of participant 0, as a leg sends it.
    fn voice(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let (size, flags) = (input.byte(), input.byte());
        self.ctr += u32::from(flags >> 6);
        let mut voice = vec![1, 0x40 | flags & 0x1E, 0x0B];
        voice.extend((self.ctr | 1 << 24).to_be_bytes());
        voice.resize(7 + 19 + usize::from(size) * 4 % 999, 0x55);
        voice
    }

    /// The same as the other node sends it.
    fn carried(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let route = ROUTES[usize::from(input.byte()) % ROUTES.len()];
        let mut voice = self.voice(input);
        voice[1] &= !2;
        [&(0x4000 | route).to_be_bytes()[..], &voice].concat()
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let route = ROUTES[usize::from(input.byte()) % ROUTES.len()];
        let (trunk, now) = (u64::from(TRUNK), self.now);
        match input.byte() % 12 {
            0 => {
                let size = usize::from(input.byte()) * 8;
                let _ = self
                    .core
                    .deliver(&mut self.work, trunk, input.bytes(size), now);
            }
            1 => {
                let carried = self.carried(input);
                let _ = self.core.deliver(&mut self.work, trunk, &carried, now);
            }
            2 => {
                let mut plain = Vec::new();
                for _ in 0..=input.byte() % 8 {
                    let carried = self.carried(input);
                    if plain.len() + carried.len() < 1400 {
                        _lane::frames::encode_datagram(&mut plain, &carried);
                    }
                }
                self.send(&plain);
            }
            3 | 4 => {
                let voice = self.voice(input);
                let _ = self.core.deliver(&mut self.work, 0, &voice, now);
            }
            5 => {
                let bits = input.byte();
                let named = ROUTES.into_iter().enumerate();
                let named = named.filter(|(at, _)| bits >> at & 1 == 1);
                self.routed = named.map(|(_, route)| route).collect();
                let targets: Vec<_> = self.routed.iter().map(|route| (trunk, *route)).collect();
                let muted = Some(Reason::Muted);
                self.core.route(0, 1, &targets, muted).unwrap();
            }
            6 => self
                .core
                .open_route(trunk, route, 0, false, RIGHTS)
                .unwrap(),
            7 => {
                let counted = self.core.close_flow(trunk, route);
                let dropped: u64 = counted.dropped.iter().sum();
                assert_eq!(counted.received, counted.accepted + dropped);
            }
            8 => {
                let targets = [(u64::from(LISTENER), u16::from(HEARD)), (trunk, route)];
                assert!(self.core.route(trunk, route, &targets, None).is_err());
                let _ = self.core.route(trunk, route, &targets[..1], None);
            }
            9 => self.now += f64::from(input.byte()) * 0.0005,
            10 => {
                let lines = self.core.count_routes(trunk, route, 3);
                assert!(lines.iter().all(|line| line.route >= route));
                self.core.flush(&mut self.work, now);
                self.core.acks(&mut self.work, now);
            }
            _ => {
                if let Some(frame) = self.peers[usize::from(TRUNK)].acknowledgement(0) {
                    self.send(&frame);
                }
            }
        }
    }

    /// A packet of the other node.
    fn send(&mut self, plain: &[u8]) {
        let peer = &mut self.peers[usize::from(TRUNK)];
        let packet = peer.seal(peer.next, 4, plain, Damage::default());
        self.core
            .receive(&mut self.work, &packet, address(TRUNK), 0, self.now);
    }

    /// What leaves is heard by whom it may be.
    fn drain(&mut self) {
        let packets = self.work.out.iter();
        let packets: Vec<_> = packets.map(|(data, to, _)| (data.to_vec(), to)).collect();
        self.core.sent(&mut self.work);
        for (data, to) in packets {
            let leg = (to.port() - 1000) as u8;
            let peer = &mut self.peers[usize::from(leg)];
            if leg != TRUNK {
                assert!(peer.open(&data).iter().all(|copy| copy[0] == HEARD));
                continue;
            }
            for datagram in peer.unseal(&data) {
                let (route, carried) = datagram.split_first_chunk().unwrap();
                assert!(self.routed.contains(&(u16::from_be_bytes(*route) ^ 0x4000)));
                assert_eq!(decode_carried(carried).unwrap().flow, 1);
            }
        }
    }

    fn check(&self) {
        let mut all = self.core.counters();
        all.merge(&mut self.work.counters.clone());
        assert_eq!(all.packets_missing(), 0, "{all:?}");
        assert_eq!(all.media_missing(), (0, 0), "{all:?}");
        assert_eq!(all.media_dropped[Reason::Internal as usize], 0);
        assert_eq!(all.dropped_out[Reason::Internal as usize], 0);
        let memory = self.legs[usize::from(TRUNK)].memory();
        assert!(memory < MEMORY, "{memory} bytes");
    }

    fn end(mut self) {
        self.core.retire(&mut self.work, self.now);
        self.drain();
        self.core.finish(&mut self.work);
        (0..3).for_each(|leg| self.core.close_leg(leg));
        self.check();
        assert_eq!(self.core.counters().queued, 0);
    }
}
