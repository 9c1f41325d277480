//! Any packets of strangers, at any time and load: nothing is answered with more than came, an answer is a whole
//! packet of its kind and never answers an answer, an address is taken as proven only by a token of ours that
//! was made for it and the very packet, once, and nobody new is let in while newcomers are not welcome.
#![no_main]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex};

use _lane::cid::Cid;
use _lane::core::{Judge, Verdict};
use _lane::frames::put_varint;
use _lane::front::{Front, Keys, Limits};
use _lane::header::{parse_long, LongKind, MIN_INITIAL, QUIC_V1, QUIC_V2};
use _lane::retry::OwnIds;
use libfuzzer_sys::fuzz_target;
use relay_lane_fuzz::Input;

const STEPS: usize = 60;
const CID_KEY: [u8; 16] = [3; 16];
const RESET_KEY: [u8; 16] = [4; 16];
const OWN_ID: [u8; 8] = [7, 0x55, 1, 2, 3, 4, 5, 6];
const TOKEN_LIFE: f64 = 5.0;
/// What the front remembers of an admission: for how long, and how many more packets pass.
const RECENT: (f64, u32) = (1.0, 8);
const LIMITS: Limits = Limits {
    half_open: 40,
    retry_above_half_open: 10,
    retry_above_initials_per_s: 30.0,
    initials_per_source_per_s: 20.0,
    initials_per_source_burst: 40.0,
    negotiations_per_source_per_s: 2.0,
    negotiations_per_s: 5.0,
    resets_per_s: 10.0,
};

/// One front for all inputs, because its fixed arrays are large: each input begins two hours later, when
/// nothing of the last one counts any more.
static FRONT: LazyLock<(Front, Mutex<f64>)> = LazyLock::new(|| {
    let keys = Keys {
        retry: &[vec![1; 32], vec![2; 16]],
        cid: &CID_KEY,
        server_id: own_ids().server_of(&OWN_ID).unwrap(),
        reset: &RESET_KEY,
    };
    let front = Front::new(LIMITS, &keys, TOKEN_LIFE).unwrap();
    (front, Mutex::new(0.0))
});

fn own_ids() -> OwnIds {
    OwnIds::new(&CID_KEY, &RESET_KEY).unwrap()
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut node = Node::new();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        node.step(&mut input);
    }
});

/// A Retry of the front, and for whom it was.
struct Proof {
    token: Vec<u8>,
    source: SocketAddr,
    original: Vec<u8>,
    destination: Vec<u8>,
    made_at: f64,
    is_used: bool,
}

struct Node {
    front: &'static Front,
    ids: OwnIds,
    now: f64,
    accepting: bool,
    legs_full: bool,
    half_open: usize,
    waiting: usize,
    fresh: usize,
    proofs: Vec<Proof>,
    /// By destination and source: what was said, when, and how many packets of it passed since.
    admitted: BTreeMap<(Vec<u8>, SocketAddr), (Verdict, f64, u32)>,
}

/// A client's address in every form: the third is the first as a dual-stack socket tells it.
fn source(which: u8) -> SocketAddr {
    let text = [
        "192.0.2.7:4000",
        "[2001:db8::1]:4000",
        "[::ffff:192.0.2.7]:4000",
        "192.0.2.7:4001",
    ];
    text[usize::from(which) % text.len()].parse().unwrap()
}

/// Whether a token for one of them proves the other.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip().to_canonical() == other.ip().to_canonical() && one.port() == other.port()
}

impl Node {
    fn new() -> Self {
        let (front, clock) = &*FRONT;
        let mut clock = clock.lock().unwrap();
        *clock += 7200.0;
        front.set(true, 0, false);
        front.admissions(0, usize::MAX);
        Self {
            front,
            ids: own_ids(),
            now: *clock,
            accepting: true,
            legs_full: false,
            half_open: 0,
            waiting: 0,
            fresh: 0,
            proofs: Vec::new(),
            admitted: BTreeMap::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (op, which) = (input.byte(), input.byte());
        let from = source(which);
        match op % 8 {
            0 => {
                let size = usize::from(input.byte()) * 8;
                let mut data = input.bytes(size).to_vec();
                if which & 0x80 != 0 {
                    data.resize(data.len().max(MIN_INITIAL), 0);
                }
                self.judge(&data, from);
            }
            1..=3 => {
                let mut data = self.first_packet(input);
                for _ in 0..=(which >> 2) % 8 {
                    self.judge(&data, from);
                    data[6] = data[6].wrapping_add(which >> 7); // another client, or the same again
                }
            }
            4 => {
                let mut data = vec![0x40 | input.byte() & 0x3F];
                data.extend(OWN_ID);
                data[8] ^= u8::from(which & 0x80 != 0);
                data.resize(9 + usize::from(input.byte()), which);
                self.judge(&data, from);
            }
            5 => self.now += f64::from(which) * 0.01,
            6 => {
                (self.accepting, self.legs_full) = (which & 3 != 0, which & 12 == 12);
                self.half_open = usize::from(input.byte() % 64);
                self.front
                    .set(self.accepting, self.half_open, self.legs_full);
                self.waiting = usize::from(which >> 5);
                self.front.admissions(self.waiting, self.fresh);
                self.fresh = 0;
            }
            _ => self.front.configure(LIMITS),
        }
    }

    /// A long header with ids and a token as the fuzzer likes; often that of a Retry, as it was or damaged.
    fn first_packet(&self, input: &mut Input<'_>) -> Vec<u8> {
        let (kind, sizes, token) = (input.byte(), input.byte(), input.byte());
        let versions = [QUIC_V1, QUIC_V2, 0x1A2A_3A4A, 0];
        let version = versions[usize::from(kind & 7).saturating_sub(4)];
        let initial = if version == QUIC_V2 { 0xD0 } else { 0xC0 };
        let mut data = vec![initial ^ (kind >> 3 & 0x30 & (kind << 1))];
        data.extend(version.to_be_bytes());
        let proof = self.proofs.get(usize::from(token >> 2));
        let mut destination = input.bytes(usize::from(sizes & 15) + 6).to_vec();
        destination.resize(usize::from(sizes & 15) + 6, 9);
        let mut told = Vec::new();
        match (token & 3, proof) {
            (0, Some(proof)) => {
                (destination, told) = (proof.destination.clone(), proof.token.clone())
            }
            (1, Some(proof)) => {
                (destination, told) = (proof.destination.clone(), proof.token.clone());
                let at = usize::from(input.byte()) % told.len();
                told[at] ^= 1 << (input.byte() & 7);
            }
            (2, Some(proof)) => told = proof.token.clone(), // of another packet
            (3, _) => {
                let size = usize::from(input.byte());
                told = [b"RA", input.bytes(size)].concat();
            }
            _ => {}
        }
        data.push(destination.len() as u8);
        data.extend(&destination);
        data.push(sizes >> 4);
        data.extend(vec![8; usize::from(sizes >> 4)]);
        put_varint(&mut data, told.len() as u64);
        data.extend(&told);
        put_varint(&mut data, 900);
        data.resize(data.len().max(MIN_INITIAL), 0);
        data
    }

    fn judge(&mut self, data: &[u8], from: SocketAddr) {
        let mut reply = Vec::new();
        let wall = 1.7e9 + self.now;
        match self.front.judge(data, from, self.now, wall, &mut reply) {
            Verdict::Drop(_) => assert!(reply.is_empty()),
            Verdict::Answer(kind) => self.check_answer(kind, data, from, &reply),
            verdict => {
                assert!(reply.is_empty());
                self.check_admission(verdict, data, from);
            }
        }
    }

    fn check_answer(&mut self, kind: &str, data: &[u8], from: SocketAddr, reply: &[u8]) {
        assert!(!reply.is_empty() && reply.len() <= data.len());
        if kind == "stateless_reset" {
            assert!(data[0] & 0xC0 == 0x40 && reply[0] & 0xC0 == 0x40);
            assert!((21..data.len()).contains(&reply.len()));
            let cid = data[1..9].try_into().unwrap();
            assert!(reply.ends_with(&self.ids.reset_token(cid)));
            return;
        }
        let asked = parse_long(data).unwrap();
        let told = parse_long(reply).unwrap();
        assert!(data.len() >= MIN_INITIAL);
        assert_eq!(told.dcid, asked.scid);
        assert!(self.accepting && !self.legs_full);
        if kind == "version_negotiation" {
            assert_eq!(
                (asked.kind, told.kind),
                (LongKind::Other, LongKind::Negotiation)
            );
            assert_eq!(told.scid, asked.dcid);
            return;
        }
        assert_eq!(
            (kind, asked.kind, told.kind),
            ("retry", LongKind::Initial, LongKind::Retry)
        );
        assert_eq!(told.version, asked.version);
        self.proofs.push(Proof {
            token: told.token.to_vec(),
            source: from,
            original: asked.dcid.to_vec(),
            destination: told.scid.to_vec(),
            made_at: self.now,
            is_used: false,
        });
    }

    fn check_admission(&mut self, verdict: Verdict, data: &[u8], from: SocketAddr) {
        let Verdict::Admit {
            original,
            retry_source,
        } = verdict
        else {
            unreachable!("the only one left");
        };
        let size = usize::from(data[5]).min(data.len() - 6);
        let destination = data[6..6 + size].to_vec();
        let key = (destination.clone(), from);
        if let Some((known, at, packets)) = self.admitted.get_mut(&key) {
            if self.now - *at <= RECENT.0 && *packets < RECENT.1 {
                assert_eq!(*known, verdict);
                *packets += 1;
                return;
            }
        }
        let asked = parse_long(data).unwrap();
        assert!(self.accepting && !self.legs_full);
        assert!(
            asked.kind == LongKind::Initial && data.len() >= MIN_INITIAL && asked.dcid.len() >= 8
        );
        let half_open = self.half_open + self.waiting + self.fresh;
        if retry_source.is_some() {
            let proof = self
                .proofs
                .iter_mut()
                .find(|proof| proof.token == asked.token);
            let proof = proof.expect("a token of ours");
            assert!(is_same(proof.source, from) && !proof.is_used);
            assert!(self.now - proof.made_at <= TOKEN_LIFE + 0.001);
            assert_eq!(Cid::new(&proof.original), Some(original));
            assert_eq!(proof.destination, asked.dcid);
            assert!(half_open < LIMITS.half_open);
            proof.is_used = true;
        } else {
            assert!(!asked.token.starts_with(b"RA"));
            assert_eq!(Cid::new(asked.dcid), Some(original));
            assert!(half_open < LIMITS.retry_above_half_open);
        }
        assert_eq!(retry_source, retry_source.and(Cid::new(asked.dcid)));
        self.fresh += 1;
        self.admitted.insert(key, (verdict, self.now, 0));
    }
}
