//! Whole threads over loopback: what goes in comes out, and the books balance when they end.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use parking_lot::Mutex;

use super::*;
use crate::cid::Cid;
use crate::core::{CoreConfig, Judge, Verdict};
use crate::counters::Counters;
use crate::frames::Parsed;
use crate::front::{Front, Keys, Limits};
use crate::header::parse_long;
use crate::keys::KeySet;
use crate::path::{Facts, Opened, Path};
use crate::reason::Reason;
use crate::slow::Item;
use crate::socket::tests::group;
use crate::table::Rights;

const PATIENCE: Duration = Duration::from_secs(5);
const PACING: Pacing = Pacing {
    batch_s: 0.001,
    coalesces: false,
};
const RIGHTS: Rights = Rights {
    pps: 100_000,
    up_bps: 1 << 30,
    down_bps: 1 << 30,
};
const ONE: KeySet<'_> = (&[1; 16], &[2; 12], &[3; 16]);
const TWO: KeySet<'_> = (&[4; 16], &[5; 12], &[6; 16]);

/// A relay of some workers on one address.
struct Relay {
    core: Arc<Core>,
    sockets: Vec<UdpSocket>,
    workers: Workers,
    event: Event,
}

impl Relay {
    fn new(workers: usize, pacing: Pacing) -> Self {
        let core = Arc::new(Core::new(CoreConfig {
            queue_frames: 64,
            queue_s: 5.0,
            ..CoreConfig::default()
        }));
        let (sockets, event) = (group(workers), Event::new().unwrap());
        let fds: Vec<_> = sockets
            .iter()
            .map(|socket| vec![socket.as_raw_fd()])
            .collect();
        let workers = Workers::start(&core, &fds, event.as_raw_fd(), pacing).unwrap();
        Self {
            core,
            sockets,
            workers,
            event,
        }
    }

    fn address(&self) -> SocketAddr {
        self.sockets[0].local_addr().unwrap()
    }

    /// Whether something waits for the loop, soon.
    fn rings(&self) -> bool {
        let mut poll = Poll::new(&self.event, &[]);
        poll.doze(PATIENCE);
        poll.has_ended()
    }

    /// What was counted, after all threads ended.
    fn end(self) -> Counters {
        let began = Instant::now();
        self.workers.stop();
        assert!(began.elapsed() < PATIENCE);
        let counters = self.core.counters();
        assert_eq!(
            (counters.packets_missing(), counters.media_missing()),
            (0, (0, 0))
        );
        counters
    }
}

/// A leg's other end: a socket and the path of a client.
struct Client {
    socket: UdpSocket,
    path: Path,
    sent: u32,
}

impl Client {
    /// Leg `number` on this relay, by that worker's socket, with one flow to `listener`.
    fn new(relay: &Relay, number: u64, sock: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let ours = Cid::new(&[7, 0x20, 0, 0, 0, 0, 0, number as u8]).unwrap();
        let facts = |address, host_cid, peer_cid, sock| Facts {
            host_cid,
            peer_cid,
            address: Some(address),
            sock,
            peer_exponent: 3,
            peer_ack_delay: 0.025,
        };
        let theirs = Cid::new(b"theirs!!").unwrap();
        let leg = relay.core.open_path(number);
        relay.core.own(number, ours).unwrap();
        relay.core.with_path(&leg, |path| {
            path.facts = facts(socket.local_addr().unwrap(), ours, theirs, sock);
            assert!(path.set_keys(0, 0, ONE, TWO));
            path.active = true;
        });
        relay.core.open_leg(number, RIGHTS);
        relay.core.open_flow(number, 1, 0, false).unwrap();
        let mut path = Path::default();
        path.active = true;
        path.facts = facts(relay.address(), theirs, ours, 0);
        assert!(path.set_keys(0, 0, TWO, ONE));
        Self {
            socket,
            path,
            sent: 0,
        }
    }

    /// Say something that nobody said before.
    fn say(&mut self, to: SocketAddr) {
        let [.., high, low] = (self.sent + 0x100).to_be_bytes(); // written in two bytes
        self.sent += 1;
        let mut datagram = vec![1, 0x40, 0x09 | 0x10, high, low];
        datagram.extend([9; 100]);
        let mut packet = vec![];
        self.path
            .seal([datagram.as_slice()].into_iter(), monotonic(), &mut packet)
            .unwrap();
        self.socket.send_to(&packet, to).unwrap();
    }

    /// How many datagrams come until there were `count`.
    fn hears(&mut self, count: usize) -> usize {
        let until = Instant::now() + PATIENCE;
        let (mut heard, mut parsed, mut scratch) = (0, Parsed::default(), vec![]);
        let mut space = [0; 2048];
        while heard < count && Instant::now() < until {
            let Ok((size, from)) = self.socket.recv_from(&mut space) else {
                break;
            };
            let opened = self.path.open(
                &space[..size],
                Some(from),
                monotonic(),
                &mut scratch,
                &mut parsed,
            );
            assert!(matches!(opened, Opened::Media(_)));
            heard += parsed.datagrams.len();
        }
        heard
    }
}

fn pair(relay: &Relay) -> (Client, Client) {
    let clients = (Client::new(relay, 1, 0), Client::new(relay, 2, 0));
    relay.core.route(1, 1, &[(2, 5)], None).unwrap();
    relay.core.route(2, 1, &[(1, 6)], None).unwrap();
    clients
}

#[test]
fn what_one_says_the_other_hears_at_any_rate() {
    for pacing in [
        PACING,
        Pacing {
            batch_s: 0.0,
            ..PACING
        },
        Pacing {
            coalesces: true,
            ..PACING
        },
    ] {
        let relay = Relay::new(1, pacing);
        let (mut one, mut two) = pair(&relay);
        let to = relay.address();
        for _ in 0..5 {
            one.say(to);
            assert_eq!(two.hears(1), 1); // one at a time
        }
        for _ in 0..20 {
            (0..20).for_each(|_| one.say(to)); // and many
            (0..20).for_each(|_| two.say(to));
            assert_eq!((two.hears(20), one.hears(20)), (20, 20));
        }
        let counters = relay.end();
        assert_eq!((counters.media_in, counters.copies_sent), (805, 805));
        assert!(counters.batches > 0 && counters.wrong_lane == 0 && counters.send_errors == 0);
    }
}

#[test]
fn a_packet_that_another_worker_reads_finds_its_leg_and_leaves_by_that_workers_socket() {
    let relay = Relay::new(2, PACING);
    // The kernel chooses by addresses here: of many pairs, some come by the other socket.
    let to = relay.address();
    for round in 0..8 {
        let (mut one, mut two) = pair(&relay);
        for _ in 0..10 {
            one.say(to);
            two.say(to);
        }
        assert_eq!((two.hears(10), one.hears(10)), (10, 10), "round {round}");
        (1..=2).for_each(|leg| relay.core.close_leg(leg));
        (1..=2).for_each(|leg| relay.core.close_path(leg));
    }
    let counters = relay.end();
    assert_eq!((counters.media_in, counters.copies_sent), (160, 160));
    assert!(counters.wrong_lane > 0 && counters.wrong_lane < counters.media);
}

#[test]
fn an_acknowledgement_that_no_audio_takes_along_leaves_by_itself() {
    let relay = Relay::new(1, PACING);
    let mut one = Client::new(&relay, 1, 0); // nobody hears it: its flow is closed
    let began = Instant::now();
    one.say(relay.address());
    let mut space = [0; 2048];
    let (size, from) = one.socket.recv_from(&mut space).unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    let (mut parsed, mut scratch) = (Parsed::default(), vec![]);
    one.path.open(
        &space[..size],
        Some(from),
        monotonic(),
        &mut scratch,
        &mut parsed,
    );
    assert!(parsed.has_ack && parsed.datagrams.is_empty());
    assert_eq!(parsed.ack.ranges, [(0, 1)]);
    assert_eq!(relay.end().sent, 1);
}

#[test]
fn what_the_kernel_refuses_is_counted_and_the_rest_leaves() {
    let relay = Relay::new(1, PACING);
    let (mut one, _two) = pair(&relay);
    let mut three = Client::new(&relay, 3, 0);
    relay.core.route(1, 1, &[(2, 5), (3, 5)], None).unwrap();
    let leg = relay.core.open_path(2);
    relay.core.with_path(&leg, |path| {
        path.facts.address = Some("[::1]:9".parse().unwrap()); // not for a socket of IPv4
        assert!(path.set_keys(0, 0, ONE, TWO));
        path.active = true;
    });
    (0..10).for_each(|_| one.say(relay.address()));
    assert_eq!(three.hears(10), 10);
    let counters = relay.end();
    assert!(counters.send_errors > 0);
    assert_eq!(counters.dropped_out[Reason::SendError as usize], 10);
    assert_eq!((counters.copies, counters.copies_sent), (20, 10));
}

#[test]
fn a_socket_that_cannot_be_read_takes_no_cpu_holds_up_no_other_and_is_read_again() {
    let core = Arc::new(Core::new(CoreConfig::default()));
    let (sockets, event) = (group(1), Event::new().unwrap());
    // It never is anything but refused (ENOTCONN), and calls for a reader while somebody wants to connect.
    let broken = TcpListener::bind("127.0.0.1:0").unwrap();
    let fds = [vec![sockets[0].as_raw_fd(), broken.as_raw_fd()]];
    let workers = Workers::start(&core, &fds, event.as_raw_fd(), PACING).unwrap();
    let relay = Relay {
        core,
        sockets,
        workers,
        event,
    };
    let (mut one, mut two) = pair(&relay);
    let to = relay.address();
    let errors = || relay.core.counters().read_errors;
    let grows_beyond = |count| {
        let until = Instant::now() + PATIENCE;
        while errors() <= count && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        errors() > count
    };
    for _ in 0..2 {
        let before = errors();
        let _client = TcpStream::connect(broken.local_addr().unwrap()).unwrap();
        assert!(grows_beyond(before + 4));
        for _ in 0..50 {
            one.say(to);
            assert_eq!(two.hears(1), 1);
            std::thread::sleep(Duration::from_millis(10));
        }
        // In half a second: seven times until a rest lasts its 100 ms, and as often as that fits, two reads each.
        let tried = errors() - before;
        assert!((5..=40).contains(&tried), "{tried}");
        let _served = broken.accept().unwrap();
        std::thread::sleep(Duration::from_millis(150)); // the last rest, and the read after it that works
    }
    assert_eq!(relay.end().copies_sent, 100);
}

#[test]
fn an_error_of_an_earlier_packet_is_met_once_and_one_that_stays_twice() {
    let mut counters = Counters::default();
    let mut met = vec![Ok(7), Err(io::ErrorKind::ConnectionRefused.into())];
    assert_eq!(again(&mut counters, || met.pop().unwrap()).unwrap(), 7);
    assert_eq!(counters.read_errors, 1);
    let mut tries = 0;
    let mut stays = || -> io::Result<usize> {
        tries += 1;
        Err(io::ErrorKind::NotConnected.into())
    };
    assert!(again(&mut counters, &mut stays).is_err());
    assert_eq!((tries, counters.read_errors), (2, 3));
    assert_eq!(again(&mut counters, || Ok(0)).unwrap(), 0);
    assert_eq!(counters.read_errors, 3);
}

#[test]
fn packets_of_nobody_ring_for_the_loop_once_and_wait_for_it() {
    let relay = Relay::new(1, PACING);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&[0xC1; 1200], relay.address()).unwrap();
    assert!(relay.rings());
    let items = relay.core.take(10);
    assert!(matches!(&items[..], [Item::Unknown { data, .. }] if data.len() == 1200));
    assert_eq!(relay.end().taken, 1);
}

#[test]
fn a_front_answers_without_the_loop() {
    let relay = Relay::new(1, PACING);
    let limits = Limits {
        half_open: 512,
        retry_above_half_open: 0,
        retry_above_initials_per_s: 0.0,
        initials_per_source_per_s: 1e6,
        initials_per_source_burst: 1e6,
        negotiations_per_source_per_s: 1.0,
        negotiations_per_s: 1.0,
        resets_per_s: 1.0,
    };
    let keys = Keys {
        retry: &[vec![1; 32]],
        cid: &[2; 16],
        server_id: [0, 1, 0],
        reset: &[3; 32],
    };
    relay
        .core
        .install_front(Arc::new(Front::new(limits, &keys, 10.0).unwrap()));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut initial = b"\xc0\0\0\0\x01\x08destined\x03src\0\x40\x20".to_vec();
    initial.resize(1200, 0);
    let mut space = [0; 2048];
    client.send_to(&initial, relay.address()).unwrap();
    let size = client.recv(&mut space).unwrap();
    let (token, id) = {
        let retry = parse_long(&space[..size]).unwrap();
        assert_eq!(retry.dcid, b"src");
        (retry.token.to_vec(), retry.scid.to_vec())
    };
    let mut again = b"\xc0\0\0\0\x01\x08".to_vec();
    again.extend(&id);
    again.extend(b"\x03src\x40");
    again.push(token.len() as u8);
    again.extend(&token);
    again.extend(b"\x40\x20");
    again.resize(1200, 0);
    client.send_to(&again, relay.address()).unwrap();
    assert!(relay.rings());
    let items = relay.core.take(10);
    let [Item::Admit {
        original,
        retry_source,
        ..
    }] = &items[..]
    else {
        panic!("{items:?}")
    };
    assert_eq!(
        (original.as_slice(), retry_source.unwrap().as_slice()),
        (&b"destined"[..], &id[..])
    );
    let counters = relay.end();
    assert_eq!(
        (counters.front.total(), counters.taken, counters.sent),
        (1, 1, 1)
    );
}

#[test]
fn what_comes_after_the_end_stays_in_the_socket() {
    let relay = Relay::new(2, PACING);
    let (sockets, address) = (
        relay
            .sockets
            .iter()
            .map(|socket| socket.try_clone().unwrap())
            .collect::<Vec<_>>(),
        relay.address(),
    );
    assert_eq!(relay.end().udp_in, 0);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"later", address).unwrap();
    let mut space = [0; 16];
    let take = |socket: &UdpSocket| {
        socket.set_nonblocking(true).unwrap();
        socket.recv(&mut space).ok()
    };
    assert_eq!(sockets.iter().filter_map(take).collect::<Vec<_>>(), [5]);
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    let core = Arc::new(Core::new(CoreConfig::default()));
    let (sockets, event) = (group(2), Event::new().unwrap());
    let fds: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    let start = |lists: &[Vec<RawFd>], event| Workers::start(&core, lists, event, PACING).is_ok();
    let event = event.as_raw_fd();
    assert!(!start(&[], event));
    assert!(!start(&[vec![]], event));
    assert!(!start(&[fds.clone(), vec![fds[0]]], event));
    assert!(!start(&[vec![fds[0]], vec![-1]], event));
    assert!(!start(std::slice::from_ref(&fds), -1));
    assert!(!start(&vec![fds.clone(); MAX_WORKERS], event));
    assert!(start(&[fds], event));
}

#[test]
fn waiting_pays_when_more_than_two_packets_come_within_the_wait() {
    let mut pace = Pace::new(0.001, 10.0);
    let mut after = |taken, now| {
        pace.count(taken, now);
        pace.is_batching
    };
    assert!(!after(500, 10.01)); // not measured yet
    assert!(after(0, 10.06)); // 500 in 60 ms
    assert!(after(1, 10.07));
    assert!(!after(99, 10.12)); // 100 in 60 ms: fewer than two in a millisecond
    assert!(!after(110, 10.18));
    assert!(after(121, 10.24));
    let mut never = Pace::new(0.0, 10.0);
    never.count(1 << 20, 10.1);
    assert!(!never.is_batching);
}

#[test]
fn a_thread_that_ended_by_itself_is_not_counted_as_running() {
    let mut relay = Relay::new(2, PACING);
    assert_eq!(relay.workers.alive(), 2);
    let dead = Builder::new().spawn(|| {}).unwrap();
    let until = Instant::now() + PATIENCE;
    while !dead.is_finished() && Instant::now() < until {
        std::thread::yield_now();
    }
    let threads = &mut relay.workers.threads;
    threads.push((Event::new().unwrap(), dead));
    assert_eq!((threads.len(), relay.workers.alive()), (3, 2));
    relay.end();
}

/// A front that takes its time: until it is told, or for good.
struct SlowJudge(Mutex<Receiver<()>>);

impl Judge for SlowJudge {
    fn judge(&self, _: &[u8], _: SocketAddr, _: f64, _: f64, _: &mut Vec<u8>) -> Verdict {
        let told = self.0.lock().recv_timeout(2 * PATIENCE);
        Verdict::Drop(told.map_or(Reason::Internal, |()| Reason::UnknownId))
    }
}

#[test]
fn no_stranger_stands_before_audio_that_is_sealed() {
    let relay = Relay::new(1, PACING);
    let (mut speaker, mut listener) = pair(&relay);
    let to = relay.address();
    let Relay {
        core,
        sockets,
        workers,
        event,
    } = relay;
    workers.stop();
    let (tell, told) = channel();
    core.install_front(Arc::new(SlowJudge(Mutex::new(told))));
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&[0x50; 50], to).unwrap();
    speaker.say(to); // both are there when the thread begins: one turn
    let fds = [vec![sockets[0].as_raw_fd()]];
    let workers = Workers::start(&core, &fds, event.as_raw_fd(), PACING).unwrap();
    assert_eq!(listener.hears(1), 1);
    tell.send(()).unwrap();
    let relay = Relay {
        core,
        sockets,
        workers,
        event,
    };
    let counters = relay.end();
    assert_eq!(counters.dropped[Reason::UnknownId as usize], 1);
    assert_eq!((counters.udp_in, counters.copies_sent), (2, 1));
}

#[test]
fn threads_that_cannot_be_had_leave_those_that_run_alone() {
    let relay = Relay::new(1, PACING);
    let good = vec![relay.sockets[0].as_raw_fd()];
    let event = relay.event.as_raw_fd();
    let refused = Prepared::new(&relay.core, &[good.clone(), vec![1 << 20]], event, PACING);
    assert!(refused.is_err(), "no such descriptor");
    drop(Prepared::new(&relay.core, &[good], event, PACING).unwrap()); // never let go: ends by itself
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&[0x50; 50], relay.address()).unwrap();
    assert!(
        relay.rings(),
        "the thread still reads, and the loop still hears of it"
    );
    assert_eq!(relay.end().udp_in, 1);
}
