//! Over loopback: what is sent arrives, once, in order, whole; and where the connection id says.
//!
//! Must never live here: anything that binds outside loopback, or waits without a bound.

use std::net::UdpSocket;
use std::time::Instant;

use super::raw::Name;
use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn pair() -> (UdpSocket, Socket) {
    socket_on("127.0.0.1:0")
}

fn socket_on(address: &str) -> (UdpSocket, Socket) {
    let socket = UdpSocket::bind(address).unwrap();
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &(1i32 << 20)).unwrap();
    let ours = Socket::duplicate(socket.as_raw_fd()).unwrap();
    (socket, ours)
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// Everything that comes until `count` packets did: data and sender.
fn gather(ring: &mut Ring, socket: Socket, count: usize) -> Vec<(Vec<u8>, SocketAddr)> {
    let end = Event::new().unwrap();
    let sockets = [socket];
    let mut poll = Poll::new(&end, &sockets);
    let until = Instant::now() + PATIENCE;
    let mut got = Vec::new();
    while got.len() < count && Instant::now() < until {
        poll.wait(Some(Duration::from_millis(100)));
        take(ring, &sockets[0], &mut got);
    }
    take(ring, &sockets[0], &mut got);
    got
}

fn take(ring: &mut Ring, socket: &Socket, got: &mut Vec<(Vec<u8>, SocketAddr)>) {
    let before = got.len();
    let reads = ring.receive(socket).unwrap();
    let all: Vec<Vec<u8>> = ring.packets().map(<[u8]>::to_vec).collect();
    for index in 0..reads {
        let read = ring.read(index).unwrap();
        let from = read.from;
        got.extend(read.packets().map(|packet| (packet.to_vec(), from)));
    }
    assert!(all
        .iter()
        .eq(got[before..].iter().map(|(packet, _)| packet)));
}

/// Send them all; the places of those that failed.
fn send_all(socket: &Socket, arena: &[u8], packets: &[Packet]) -> Vec<usize> {
    let mut sender = Sender::new();
    sender.send(socket, arena, packets, |_| true);
    sender.failed.sort_unstable();
    sender.failed
}

/// An arena and packets of these sizes, each filled with its own number.
fn batch(sizes: &[usize], to: &[SocketAddr]) -> (Vec<u8>, Vec<Packet>) {
    let mut arena = Vec::new();
    let mut packets = Vec::new();
    for (index, &len) in sizes.iter().enumerate() {
        packets.push(Packet {
            start: arena.len(),
            len,
            to: to[index % to.len()],
            sock: 0,
        });
        arena.extend(std::iter::repeat_n(index as u8, len));
    }
    (arena, packets)
}

fn numbers(got: &[(Vec<u8>, SocketAddr)]) -> Vec<(usize, usize)> {
    let number = |data: &Vec<u8>| data.first().map_or(usize::MAX, |&first| first.into());
    got.iter()
        .map(|(data, _)| (number(data), data.len()))
        .collect()
}

#[test]
fn packets_arrive_with_their_senders_address_in_every_family() {
    for (from, to) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("[::1]:0", "[::1]:0"),
        ("[::ffff:127.0.0.1]:0", "127.0.0.1:0"),
    ] {
        let (source, sending) = socket_on(from);
        let (target, receiving) = socket_on(to);
        let mut to = address(&target);
        if address(&source).is_ipv6() && to.is_ipv4() {
            to = format!("[::ffff:127.0.0.1]:{}", to.port()).parse().unwrap();
        }
        let (arena, packets) = batch(&[100, 101, 102], &[to]);
        let failed = send_all(&sending, &arena, &packets);
        assert!(failed.is_empty());
        let got = gather(&mut Ring::new(false), receiving, 3);
        assert_eq!(numbers(&got), [(0, 100), (1, 101), (2, 102)]);
        assert!(got
            .iter()
            .all(|(_, from)| from.port() == address(&source).port()));
        let mapped = address(&source).is_ipv6() && address(&target).is_ipv4();
        assert_eq!(got[0].1.is_ipv4(), mapped || address(&source).is_ipv4());
    }
}

#[test]
fn a_dual_stack_socket_names_an_ipv4_peer_by_its_mapped_address() {
    let (target, receiving) = socket_on("[::ffff:127.0.0.1]:0");
    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    source
        .send_to(b"x", ("127.0.0.1", address(&target).port()))
        .unwrap();
    let got = gather(&mut Ring::new(false), receiving, 1);
    let expected = format!("[::ffff:127.0.0.1]:{}", address(&source).port());
    assert_eq!(got[0].1, expected.parse().unwrap());
    // And that address is good for an answer.
    let sending = Socket::duplicate(target.as_raw_fd()).unwrap();
    let (arena, packets) = batch(&[7], &[got[0].1]);
    assert!(send_all(&sending, &arena, &packets).is_empty());
    source.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(source.recv_from(&mut [0; 64]).unwrap().0, 7);
}

#[test]
fn too_large_shows_and_empty_counts() {
    let (source, _) = pair();
    let (target, receiving) = pair();
    for size in [2048, 2049, 5000, 0, 1] {
        source.send_to(&vec![9; size], address(&target)).unwrap();
    }
    let got = gather(&mut Ring::new(false), receiving, 5);
    let sizes: Vec<_> = got.iter().map(|(data, _)| data.len()).collect();
    assert_eq!(sizes[..2], [2048, 2049]);
    assert!(sizes[2] > 2048);
    assert_eq!(sizes[3..], [0, 1]);
}

#[test]
fn a_run_of_equal_packets_arrives_as_the_packets_it_was_made_of() {
    for is_plain in [false, true] {
        for coalesce in [false, true] {
            let (_source, sending) = pair();
            let (target, mut receiving) = pair();
            receiving.coalesce(coalesce).unwrap();
            assert!(sending.segments(&address(&target)));
            if is_plain {
                sending.send_plain();
            }
            let mut sizes = vec![1200; 150];
            sizes.extend([700, 1200, 1200, 1201, 1200, 50, 50, 50, 49, 50]);
            let (arena, packets) = batch(&sizes, &[address(&target)]);
            let failed = send_all(&sending, &arena, &packets);
            assert!(failed.is_empty());
            let got = gather(&mut Ring::new(coalesce), receiving, sizes.len());
            let expected: Vec<_> = sizes.iter().copied().enumerate().collect();
            assert_eq!(numbers(&got), expected);
            assert!(got
                .iter()
                .all(|(data, _)| data.iter().all(|byte| byte == &data[0])));
        }
    }
}

#[test]
fn runs_are_cut_at_another_address_and_order_holds_for_each() {
    let (_source, sending) = pair();
    let (one, of_one) = pair();
    let (two, of_two) = pair();
    let to = [address(&one), address(&one), address(&two)];
    let (mut arena, mut packets) = batch(&[300; 240], &to);
    // Packets need not lie one behind the other.
    packets
        .iter_mut()
        .skip(100)
        .for_each(|packet| packet.start += 50);
    arena.splice(30_000..30_000, [0; 50]);
    let failed = send_all(&sending, &arena, &packets);
    assert!(failed.is_empty());
    for (socket, keep) in [
        (of_one, [true, true, false]),
        (of_two, [false, false, true]),
    ] {
        let expected: Vec<_> = (0..240).filter(|index| keep[index % 3]).collect();
        let got = gather(&mut Ring::new(false), socket, expected.len());
        assert_eq!(
            numbers(&got)
                .iter()
                .map(|(number, _)| *number)
                .collect::<Vec<_>>(),
            expected
        );
    }
}

#[test]
fn a_run_that_is_refused_is_remembered_and_nothing_is_lost() {
    let (source, sending) = pair();
    let (target, receiving) = pair();
    // Without checksums the kernel refuses UDP_SEGMENT.
    set_option(&source, libc::SOL_SOCKET, libc::SO_NO_CHECK, &1i32).unwrap();
    let (arena, packets) = batch(&[400; 130], &[address(&target)]);
    let failed = send_all(&sending, &arena, &packets);
    assert!(failed.is_empty());
    assert!(!sending.segments(&address(&target)));
    let got = gather(&mut Ring::new(false), receiving, 130);
    assert_eq!(
        numbers(&got),
        (0..130).map(|index| (index, 400)).collect::<Vec<_>>()
    );
}

#[test]
fn a_path_that_carries_less_is_remembered_for_its_address_alone() {
    let (source, sending) = socket_on("[::1]:0");
    let (target, receiving) = socket_on("[::1]:0");
    // As if the path to whoever is sent to carried 1280 bytes; larger packets are cut into fragments.
    set_option(&source, libc::SOL_IPV6, libc::IPV6_MTU, &1280i32).unwrap();
    let (arena, packets) = batch(&[1300; 130], &[address(&target)]);
    assert!(send_all(&sending, &arena, &packets).is_empty());
    assert!(!sending.segments(&address(&target)));
    assert!(sending.segments(&address(&source)));
    let got = gather(&mut Ring::new(false), receiving, 130);
    assert_eq!(
        numbers(&got),
        (0..130).map(|index| (index, 1300)).collect::<Vec<_>>()
    );
}

#[test]
fn what_cannot_be_sent_is_counted_and_its_neighbours_are_sent() {
    let (_source, sending) = pair();
    let (target, receiving) = pair();
    let (arena, mut packets) = batch(&[60, 65_530, 61, 62, 63], &[address(&target)]);
    packets[3].to = "[::1]:9".parse().unwrap(); // another family than the socket's
    packets.push(Packet {
        start: usize::MAX,
        ..packets[4]
    });
    let failed = send_all(&sending, &arena, &packets);
    assert_eq!(failed, [1, 3, 5]);
    assert_eq!(
        numbers(&gather(&mut Ring::new(false), receiving, 3)),
        [(0, 60), (2, 61), (4, 63)]
    );
}

#[test]
fn a_wait_ends_with_a_packet_with_the_event_or_with_its_time() {
    let (source, receiving) = pair();
    let end = Event::new().unwrap();
    let other = pair().1;
    let sockets = [other, receiving];
    let mut poll = Poll::new(&end, &sockets);
    poll.wait(Some(Duration::from_millis(1)));
    assert!(!poll.is_ready(0) && !poll.is_ready(1) && !poll.has_ended());
    source.send_to(b"x", address(&source)).unwrap();
    poll.wait(None);
    assert!(!poll.is_ready(0) && poll.is_ready(1) && !poll.has_ended());
    let began = Instant::now();
    poll.doze(Duration::from_millis(20)); // the packet does not end it
    assert!(began.elapsed() >= Duration::from_millis(20) && !poll.is_ready(1));
    Event::duplicate(end.0.as_raw_fd()).unwrap().signal();
    poll.doze(PATIENCE);
    assert!(poll.has_ended());
    poll.wait(None);
    assert!(poll.has_ended());
}

#[test]
fn a_socket_that_is_left_ends_no_wait_until_it_is_followed_again() {
    let (source, receiving) = pair();
    let end = Event::new().unwrap();
    let mut poll = Poll::new(&end, std::slice::from_ref(&receiving));
    source.send_to(b"x", address(&source)).unwrap();
    poll.leave(0);
    poll.leave(0); // once is enough
    poll.leave(7); // nor is there such a one
    let began = Instant::now();
    poll.wait(Some(Duration::from_millis(20)));
    assert!(began.elapsed() >= Duration::from_millis(20) && !poll.is_ready(0));
    poll.follow_again(0);
    poll.follow_again(0);
    poll.wait(None);
    assert!(poll.is_ready(0));
    poll.leave(0);
    assert!(!poll.is_ready(0));
}

#[test]
fn the_clock_goes_forward() {
    let before = monotonic();
    assert!(before > 0.0 && monotonic() >= before);
}

// ------------------------------------------------------------ a group of sockets on one port

fn member(port: u16) -> UdpSocket {
    member_at(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn member_at(address: SocketAddr) -> UdpSocket {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: no pointers; the descriptor is new and ours.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) });
    // SAFETY: as above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd.unwrap()) };
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1i32).unwrap();
    set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &(1i32 << 20)).unwrap();
    let name = Name::of(&address);
    // SAFETY: `name` is valid for reads of its size.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&name).cast(), name.size()) };
    check(bound).unwrap();
    UdpSocket::from(fd)
}

pub(crate) fn group(count: usize) -> Vec<UdpSocket> {
    let first = member(0);
    let port = address(&first).port();
    std::iter::once(first)
        .chain((1..count).map(|_| member(port)))
        .collect()
}

/// Have the kernel give all packets of the address to the socket that was bound first.
pub(crate) fn to_the_first(fd: RawFd) {
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let filter = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    let name = libc::SO_ATTACH_REUSEPORT_CBPF;
    set_option(&fd, libc::SOL_SOCKET, name, &filter).unwrap();
}

#[test]
fn a_thread_has_the_turns_it_asked_for_and_comes_first_where_it_may() {
    let facts = || {
        let mut told: libc::sched_attr = unsafe { mem::zeroed() };
        let size = mem::size_of::<libc::sched_attr>() as libc::c_uint;
        assert_eq!(
            unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &mut told, size, 0) },
            0
        );
        (told.sched_nice, told.sched_runtime)
    };
    let body = move || {
        let (before, _) = facts();
        shorten_turns(Duration::from_micros(300), before + 1).unwrap();
        assert_eq!(
            facts().0,
            before,
            "nobody who came first before comes later now"
        );
        shorten_turns(Duration::from_micros(200), before - 1).unwrap();
        let (nice, slice) = facts();
        assert!(
            slice == 200_000 || slice == 0,
            "kernels before 6.12 tell nothing"
        );
        let may = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, before - 1) } == 0;
        assert_eq!(nice, if may { before - 1 } else { before });
    };
    std::thread::spawn(body).join().unwrap();
}
