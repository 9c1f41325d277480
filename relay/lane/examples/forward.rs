//! The sockets of the lane alone: each packet goes on as it is, to the port that stands in a table. A yardstick
//! for what the kernel's UDP path costs here, beside a forwarder in C that reads the same table:
//!
//!     PORT PEER_PORT          a line per end on standard input; more may come while packets flow
//!
//! `forward [wait_us] [plain] [gro]`: with a wait a look once per so long; plain without UDP_SEGMENT; gro: the kernel
//! may join what comes from one sender. Prints its port,
//! on loopback, and ends with its standard input. Must never live here: any rule.

use std::io::{stdin, BufRead};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use _lane::socket::{Event, Packet, Poll, Ring, Sender, Socket};

static PEERS: [AtomicU16; 65_536] = [const { AtomicU16::new(0) }; 65_536];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wait = words.iter().find_map(|word| word.parse().ok());
    let wait = wait.map(Duration::from_micros);
    let made = UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback");
    println!("{}", made.local_addr().expect("its address").port());
    let joins = words.iter().any(|word| word == "gro");
    let mut socket = Socket::duplicate(made.as_raw_fd()).expect("a descriptor");
    if words.iter().any(|word| word == "plain") {
        socket.send_plain();
    }
    socket.coalesce(joins).expect("UDP_GRO");
    socket.reserve(4 << 20);
    std::thread::spawn(read_table);
    run(&[socket], Ring::new(joins), wait);
}

fn run(sockets: &[Socket], mut ring: Ring, wait: Option<Duration>) {
    let end = Event::new().expect("an eventfd");
    let mut poll = Poll::new(&end, sockets);
    let mut sender = Sender::new();
    let (mut arena, mut packets) = (Vec::new(), Vec::new());
    loop {
        let reads = ring.receive(&sockets[0]).unwrap_or(0);
        arena.clear();
        packets.clear();
        for index in 0..reads {
            let Some(read) = ring.read(index) else {
                continue;
            };
            let peer = PEERS[usize::from(read.from.port())].load(Relaxed);
            let to = SocketAddr::new(read.from.ip(), peer);
            for packet in read.packets() {
                packets.push(Packet {
                    start: arena.len(),
                    len: packet.len(),
                    to,
                    sock: 0,
                });
                arena.extend_from_slice(packet); // as the lane does: what leaves lies in one piece
            }
        }
        sender.send(&sockets[0], &arena, &packets, |_| true);
        match wait {
            _ if reads == ring.capacity() => {}
            Some(wait) => poll.doze(wait),
            None => poll.wait(None),
        }
    }
}

fn read_table() {
    for line in stdin().lock().lines() {
        let line = line.expect("text");
        let mut ports = line
            .split(' ')
            .map(|word| word.parse::<u16>().expect("a port"));
        if let (Some(port), Some(peer)) = (ports.next(), ports.next()) {
            PEERS[usize::from(port)].store(peer, Relaxed);
        }
    }
    std::process::exit(0);
}
