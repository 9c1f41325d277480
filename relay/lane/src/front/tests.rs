//! Who is admitted, who proves the address first, what is answered at all.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::vectors::{hex, load};
use proptest::prelude::*;

const DCID: &[u8] = b"destined";
const SCID: &[u8] = b"source";
const WALL: f64 = 1_800_000_000.0;
const LIMITS: Limits = Limits {
    half_open: 512,
    retry_above_half_open: 64,
    retry_above_initials_per_s: 100.0,
    initials_per_source_per_s: 50.0,
    initials_per_source_burst: 200.0,
    negotiations_per_source_per_s: 10.0,
    negotiations_per_s: 1000.0,
    resets_per_s: 50.0,
};

fn vector_front(limits: Limits) -> Front {
    let cids = load(include_str!("../../../../tests/vectors/cid.json"));
    let keys = Keys {
        retry: &[vec![0; 32], vec![1; 32]],
        cid: &hex(&cids["key"]),
        server_id: hex(&cids["server_id"]).try_into().unwrap(),
        reset: &hex(&cids["reset"]["key"]),
    };
    Front::new(limits, &keys, 10.0).unwrap()
}

fn source() -> SocketAddr {
    "192.0.2.7:5000".parse().unwrap()
}

struct Ask<'a> {
    version: u32,
    dcid: &'a [u8],
    token: &'a [u8],
    bits: u8,
    size: usize,
}

const ASK: Ask<'_> = Ask {
    version: QUIC_V1,
    dcid: DCID,
    token: b"",
    bits: 0,
    size: 1200,
};

fn initial(ask: &Ask<'_>) -> Vec<u8> {
    let mut data = vec![0xC0 | ask.bits << 4];
    data.extend(ask.version.to_be_bytes());
    for id in [ask.dcid, SCID] {
        data.push(id.len() as u8);
        data.extend(id);
    }
    if LongKind::Initial
        == (if ask.bits == 0 || ask.version == QUIC_V2 {
            LongKind::Initial
        } else {
            LongKind::Other
        })
    {
        data.extend((0x4000 | ask.token.len() as u16).to_be_bytes());
        data.extend(ask.token);
    }
    let rest = ask.size - data.len() - 2;
    data.extend((0x4000 | rest as u16).to_be_bytes());
    data.resize(ask.size, 0);
    data
}

struct Bench {
    front: Front,
    now: f64,
    from: SocketAddr,
    out: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        let front = vector_front(limits);
        Self {
            front,
            now: 100.0,
            from: source(),
            out: vec![],
        }
    }

    fn judge(&mut self, data: &[u8]) -> Verdict {
        self.out.clear();
        let wall = WALL + self.now;
        self.front
            .judge(data, self.from, self.now, wall, &mut self.out)
    }

    fn busy(&mut self, half_open: usize) {
        self.front.set(true, half_open, false);
    }

    /// Token and new destination id out of a Retry.
    fn retry(&mut self) -> (Vec<u8>, Vec<u8>) {
        self.busy(64);
        assert_eq!(self.judge(&initial(&ASK)), Verdict::Answer("retry"));
        let header = parse_long(&self.out).unwrap();
        assert_eq!(
            (header.kind, header.dcid, header.version),
            (LongKind::Retry, SCID, QUIC_V1)
        );
        (header.token.to_vec(), header.scid.to_vec())
    }
}

fn admit(original: &[u8], retry_source: Option<&[u8]>) -> Verdict {
    let id = |id: &[u8]| Cid::new(id).unwrap();
    Verdict::Admit {
        original: id(original),
        retry_source: retry_source.map(id),
    }
}

const fn drop(reason: Reason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn a_first_packet_is_admitted_when_nothing_is_busy() {
    assert_eq!(Bench::new().judge(&initial(&ASK)), admit(DCID, None));
    let second = Ask {
        version: QUIC_V2,
        bits: 1,
        ..ASK
    };
    assert_eq!(Bench::new().judge(&initial(&second)), admit(DCID, None));
}

#[test]
fn what_is_no_first_packet_is_dropped_by_name() {
    let mut no_fixed_bit = initial(&ASK);
    no_fixed_bit[0] = 0x80;
    let rows = [
        (initial(&Ask { size: 1199, ..ASK }), Reason::Malformed),
        (
            initial(&Ask {
                dcid: b"seven77",
                ..ASK
            }),
            Reason::Malformed,
        ),
        (
            initial(&Ask {
                dcid: &[0; 21],
                ..ASK
            }),
            Reason::Malformed,
        ),
        (initial(&Ask { bits: 2, ..ASK }), Reason::UnknownId),
        (initial(&Ask { bits: 1, ..ASK }), Reason::UnknownId),
        (initial(&Ask { version: 0, ..ASK }), Reason::BadVersion),
        (no_fixed_bit, Reason::Malformed),
        (vec![0xC0; 6], Reason::Malformed),
        (vec![], Reason::Malformed),
        (vec![3; 1200], Reason::Malformed),
    ];
    for (data, reason) in rows {
        assert_eq!(Bench::new().judge(&data), drop(reason));
    }
}

#[test]
fn who_drains_or_is_full_admits_nobody_but_lets_a_handshake_that_began_go_on() {
    for (accepting, legs_full, reason) in
        [(false, true, Reason::Draining), (true, true, Reason::Quota)]
    {
        let mut bench = Bench::new();
        bench.judge(&initial(&ASK));
        bench.front.set(accepting, 0, legs_full);
        assert_eq!(
            bench.judge(&initial(&Ask {
                dcid: b"somebody",
                ..ASK
            })),
            drop(reason)
        );
        assert_eq!(bench.judge(&initial(&ASK)), admit(DCID, None));
        bench.now += 1.1;
        assert_eq!(bench.judge(&initial(&ASK)), drop(reason));
    }
}

#[test]
fn a_returned_token_proves_the_address_once() {
    let mut bench = Bench::new();
    let (token, id) = bench.retry();
    assert!(bench.out.len() < 200);
    let again = initial(&Ask {
        token: &token,
        dcid: &id,
        ..ASK
    });
    assert_eq!(bench.judge(&again), admit(DCID, Some(&id)));
    bench.now += 1.1; // no longer the packets of one handshake
    assert_eq!(bench.judge(&again), drop(Reason::Unproven));
}

#[test]
fn the_second_packet_of_a_large_hello_goes_the_way_of_the_first() {
    let mut bench = Bench::new();
    let (token, id) = bench.retry();
    let again = initial(&Ask {
        token: &token,
        dcid: &id,
        ..ASK
    });
    assert_eq!(bench.judge(&again), admit(DCID, Some(&id)));
    bench.busy(10_000);
    assert_eq!(bench.judge(&again), admit(DCID, Some(&id)));
    let verdicts: Vec<_> = (0..20).map(|_| bench.judge(&again)).collect();
    assert_eq!(
        verdicts
            .iter()
            .filter(|verdict| **verdict == drop(Reason::OverBudget))
            .count(),
        13
    );
    bench.busy(64);
    bench.from.set_port(5001); // a stranger who has seen the id
    assert_eq!(bench.judge(&again), drop(Reason::Unproven));
}

#[test]
fn a_token_that_is_anothers_old_or_forged_proves_nothing() {
    type Spoil = fn(&mut Bench, &mut Vec<u8>, &mut Vec<u8>);
    let rows: [Spoil; 7] = [
        |bench, _, _| bench.from.set_port(5001),
        |bench, _, _| bench.from = "192.0.2.8:5000".parse().unwrap(),
        |_, _, id| id[0] ^= 1,
        |bench, _, _| bench.now += 10.1,
        |bench, _, _| bench.now -= 1.1, // from a clock too far ahead
        |_, token, _| *token.last_mut().unwrap() ^= 1,
        |_, token, _| token.truncate(2),
    ];
    for spoil in rows {
        let mut bench = Bench::new();
        let (mut token, mut id) = bench.retry();
        spoil(&mut bench, &mut token, &mut id);
        let data = initial(&Ask {
            token: &token,
            dcid: &id,
            ..ASK
        });
        assert_eq!(bench.judge(&data), drop(Reason::Unproven));
    }
    let long = [b"RA".as_slice(), &[9; 900]].concat();
    assert_eq!(
        Bench::new().judge(&initial(&Ask {
            token: &long,
            ..ASK
        })),
        drop(Reason::Unproven)
    );
    let foreign = Ask {
        token: b"from another service",
        ..ASK
    };
    assert_eq!(Bench::new().judge(&initial(&foreign)), admit(DCID, None));
}

#[test]
fn an_ipv4_peer_is_one_source_in_both_spellings() {
    let mut bench = Bench::new();
    let (token, id) = bench.retry();
    bench.from = "[::ffff:192.0.2.7]:5000".parse().unwrap();
    assert_eq!(
        bench.judge(&initial(&Ask {
            token: &token,
            dcid: &id,
            ..ASK
        })),
        admit(DCID, Some(&id))
    );
}

#[test]
fn the_key_before_a_rotation_still_counts() {
    let before = AddressTokens::new(&[vec![1; 32]], 10.0).unwrap();
    let mut bench = Bench::new();
    let mut token = vec![];
    before.mint(
        &source(),
        DCID,
        b"retrycid",
        WALL + bench.now,
        [5; 12],
        &mut token,
    );
    let data = initial(&Ask {
        token: &token,
        dcid: b"retrycid",
        ..ASK
    });
    assert_eq!(bench.judge(&data), admit(DCID, Some(b"retrycid")));
    assert!(AddressTokens::new(&[], 10.0).is_none());
    assert!(AddressTokens::new(&[vec![1; 31]], 10.0).is_none());
}

#[test]
fn too_many_half_open_handshakes_stop_the_proven_too() {
    let mut bench = Bench::new();
    let (token, id) = bench.retry();
    bench.busy(500);
    bench.front.admissions(12, 0); // those that the loop has not taken yet count
    let data = initial(&Ask {
        token: &token,
        dcid: &id,
        ..ASK
    });
    assert_eq!(bench.judge(&data), drop(Reason::Quota));
    bench.front.admissions(11, 0); // and its token is as good as before
    assert_eq!(bench.judge(&data), admit(DCID, Some(&id)));
    let (token, id) = bench.retry();
    bench.busy(500); // and 11 wait, and one came in this batch
    assert_eq!(
        bench.judge(&initial(&Ask {
            token: &token,
            dcid: &id,
            ..ASK
        })),
        drop(Reason::Quota)
    );
}

#[test]
fn what_another_thread_let_in_is_not_forgotten_when_one_is_done() {
    let limits = Limits {
        retry_above_half_open: 2,
        ..LIMITS
    };
    let mut bench = Bench::with(limits);
    let mut ask = |dcid: &[u8]| bench.judge(&initial(&Ask { dcid, ..ASK }));
    assert_eq!(ask(b"thread 1"), admit(b"thread 1", None));
    assert_eq!(ask(b"thread 2"), admit(b"thread 2", None));
    assert_eq!(ask(b"thread 2"), admit(b"thread 2", None)); // its second packet
    bench.front.admissions(1, 1); // thread 1 is done, thread 2 is not
    bench.front.admissions(0, 0); // the loop took the one
    let third = initial(&Ask {
        dcid: b"third one",
        ..ASK
    });
    assert_eq!(bench.judge(&third), Verdict::Answer("retry"));
    bench.front.admissions(2, 2);
    bench.front.admissions(0, 0);
    assert_eq!(bench.judge(&third), admit(b"third one", None));
}

/// First packets of so many sources at one time; the loop has done with each before the next.
fn crowd(bench: &mut Bench, count: u32) -> Vec<Verdict> {
    let ask = |n: u32| {
        bench.from = SocketAddr::new(std::net::Ipv4Addr::from_bits(0xC000_0200 + n).into(), 1);
        let dcid = (u64::from(n) << 8).to_be_bytes();
        bench.front.admissions(0, 1);
        bench.judge(&initial(&Ask { dcid: &dcid, ..ASK }))
    };
    (0..count).map(ask).collect()
}

#[test]
fn many_first_packets_a_second_turn_on_retry_and_of_those_there_are_so_many() {
    let mut bench = Bench::with(Limits {
        initials_per_source_burst: 10_000.0,
        ..LIMITS
    });
    let rest = 50;
    let verdicts = crowd(&mut bench, 100 + RETRIES_AT_ONCE as u32 + rest);
    let count = |verdict: fn(&Verdict) -> bool| verdicts.iter().filter(|it| verdict(it)).count();
    assert_eq!(count(|it| matches!(it, Verdict::Admit { .. })), 100);
    assert_eq!(
        count(|it| *it == Verdict::Answer("retry")),
        RETRIES_AT_ONCE as usize
    );
    assert_eq!(count(|it| *it == drop(Reason::OverBudget)), rest as usize);
    bench.now += 0.001;
    assert_eq!(
        bench.judge(&initial(&Ask {
            dcid: b"newcomer",
            ..ASK
        })),
        Verdict::Answer("retry")
    );
}

#[test]
fn the_id_of_a_retry_never_looks_like_one_that_a_node_issued() {
    let mut bench = Bench::new();
    let mut seen = [false; 256];
    for _ in 0..6000 {
        // Drawn blindly one in 256 would: in all but one of 10^10 runs.
        bench.now += 1.0;
        let (_, id) = bench.retry();
        seen[usize::from(id[0])] = true;
    }
    assert!(!seen[usize::from(OWN_FIRST)]);
    assert!(seen.iter().filter(|it| **it).count() > 200);
}

#[test]
fn one_source_has_a_budget_of_first_packets_and_new_limits_fill_it() {
    let mut bench = Bench::new();
    bench.busy(64);
    let data = initial(&ASK);
    for _ in 0..200 {
        assert_eq!(bench.judge(&data), Verdict::Answer("retry"));
        bench.now += 0.000_05;
    }
    assert_eq!(bench.judge(&data), drop(Reason::OverBudget));
    bench.front.configure(Limits {
        initials_per_source_burst: 2.0,
        ..LIMITS
    });
    assert!((0..2).all(|_| bench.judge(&data) == Verdict::Answer("retry")));
    assert_eq!(bench.judge(&data), drop(Reason::OverBudget));
}

#[test]
fn a_version_we_do_not_speak_is_named_ours_within_a_budget() {
    let mut bench = Bench::new();
    let data = initial(&Ask {
        version: 0x1A2A_3A4A,
        ..ASK
    });
    assert_eq!(bench.judge(&data), Verdict::Answer("version_negotiation"));
    let answer = parse_long(&bench.out).unwrap();
    assert_eq!((answer.version, answer.dcid, answer.scid), (0, SCID, DCID));
    assert!(bench.out.ends_with(&QUIC_V2.to_be_bytes()) && bench.out.len() < data.len());
    assert_eq!(
        (1..20)
            .filter(|_| matches!(bench.judge(&data), Verdict::Answer(_)))
            .count(),
        9
    );
    let mut tight = Bench::with(Limits {
        negotiations_per_s: 3.0,
        ..LIMITS
    });
    assert_eq!(
        (0..9)
            .filter(|_| matches!(tight.judge(&data), Verdict::Answer(_)))
            .count(),
        3
    );
}

#[test]
fn an_id_of_ours_from_before_is_reset_with_less_than_it_sent() {
    let cids = load(include_str!("../../../../tests/vectors/cid.json"));
    let id = hex(&cids["reset"]["cid"]);
    let short = |id: &[u8], size: usize| {
        let mut data = vec![0x41];
        data.extend(id);
        data.resize(size, 7);
        data
    };
    for (size, answer) in [(42, None), (43, Some(42)), (44, Some(42)), (1200, Some(42))] {
        let mut bench = Bench::new();
        let verdict = bench.judge(&short(&id, size));
        assert_eq!(
            verdict == Verdict::Answer("stateless_reset"),
            answer.is_some()
        );
        if let Some(answer) = answer {
            assert_eq!(bench.out.len(), answer);
            assert_eq!(bench.out[0] & 0xC0, 0x40);
            assert!(bench.out.ends_with(&hex(&cids["reset"]["token"])));
            assert_eq!(bench.judge(&short(&id, size)), drop(Reason::UnknownId)); // 50 a second
            bench.now += 0.02;
            assert_eq!(
                bench.judge(&short(&id, size)),
                Verdict::Answer("stateless_reset")
            );
        }
    }
    let mut other = id.clone();
    other[7] ^= 1; // most likely of another server
    for id in [other, vec![6; 8], b"\x07\x0f123456".to_vec()] {
        assert_eq!(
            Bench::new().judge(&short(&id, 100)),
            drop(Reason::UnknownId)
        );
    }
}

#[test]
fn randomness_never_repeats_within_or_across_its_pieces() {
    let mut noise = Noise::new();
    let mut drawn: Vec<[u8; 12]> = (0..1000).map(|_| noise.draw().unwrap()).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 1000);
    assert!(noise.draw::<2000>().is_none());
}

proptest! {
    #[test]
    fn no_bytes_of_a_stranger_get_back_more_than_they_were(
        first in any::<u8>(),
        version in prop_oneof![Just(QUIC_V1), Just(QUIC_V2), Just(0), any::<u32>()],
        sizes in (0_usize..30, 0_usize..30),
        fill in any::<u8>(),
        size in 0_usize..1400,
        half_open in prop_oneof![Just(0), Just(64)],
    ) {
        let mut data = vec![first];
        data.extend(version.to_be_bytes());
        for size in [sizes.0, sizes.1] {
            data.push(size as u8);
            data.resize(data.len() + size, fill);
        }
        data.extend([0, 0x40, 20]);
        data.resize(size, fill);
        let mut bench = Bench::new();
        bench.busy(half_open);
        let verdict = bench.judge(&data);
        prop_assert!(bench.out.len() <= data.len());
        prop_assert_eq!(bench.out.is_empty(), !matches!(verdict, Verdict::Answer(_)));
    }
}
