//! Load generator: calls of two legs each over their own sockets on loopback, at a pace or as fast as a window allows.
//!
//! Orders come as text on a SOCK_SEQPACKET socket whose number is the argument; each `run` is answered with JSON:
//!   leg plain GROUP ADDR SIZE FLOW KID SECRET PREFIX|- SKIP PAD                            with its descriptor
//!   leg quic GROUP ADDR SIZE FLOW KID SECRET PEER HOST KEY IV HP KEY IV HP PHASE NEXT EXPECTED ACKS PAD
//!   run SECONDS RATE WINDOW STAMPS FROM-TO[,FROM-TO] [STEP [LOSS]]   RATE packets/s in all (0: as fast as WINDOW
//!                       allows); STEP 2: of each call only the first leg talks; LOSS: share of packets that come lost
//! Legs 2n and 2n+1 talk to each other. Between runs each leg says something now and then, so that it lives.
//! Must never live here: how a leg was set up, what is measured of others.

mod leg;
mod net;
mod quic;
mod stats;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::RawFd;

use leg::{Leg, Verdict, Wire};
use quic::{Content, Facts, Quic};
use stats::Group;

const ORDER: u64 = u64::MAX;
const ALIVE: u64 = 8_000_000_000;
const STUCK: u64 = 100_000_000; // no arrival for so long: what is out is lost
/// Nanoseconds between a packet's time stamp and its having left, from which its delay may be this process's own:
/// it was put aside in between, with that one packet in its hands.
const HICCUP: u64 = 500_000;
const LINGER: u64 = 200_000_000; // for the last packets of a run
const WAKE: u64 = 20_000; // what waking up takes: shorter waits are spun through
const TURN: usize = 64; // packets sent between two looks at what arrived

struct Generator {
    legs: Vec<Leg>,
    poll: net::Poll,
    inbox: net::Inbox,
    groups: Vec<Group>,
    acks: BinaryHeap<Reverse<(u64, usize)>>,
    keys: Vec<u64>,
    packet: Vec<u8>,
    scratch: Vec<u8>,
    stamped: bool,
    started: u64,
    arrived: u64,
    /// Of 2^64 packets that come so many are lost.
    loss: u64,
    chance: u64,
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = if text == "-" { "" } else { text };
    (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok())
        .collect()
}

fn mono() -> u64 {
    net::clock(libc::CLOCK_MONOTONIC)
}

impl Generator {
    fn add(&mut self, words: &[&str], fd: RawFd) -> Option<()> {
        let number = |i: usize| words.get(i)?.parse::<u64>().ok();
        net::prepare(fd, words.get(3)?.parse().ok()?).ok()?;
        let raw: Vec<Vec<u8>> = words
            .get(8..)?
            .iter()
            .map(|word| hex(word).unwrap_or_default())
            .collect();
        let wire = match *words.get(1)? {
            "plain" => Wire::Plain {
                prefix: raw.first()?.clone(),
                skip: number(9)? as usize,
                pad: number(10)? as usize,
            },
            _ => Wire::Quic(Box::new(Quic::new(&Facts {
                peer: raw.first()?,
                host: raw.get(1)?,
                send: [raw.get(2)?, raw.get(3)?, raw.get(4)?],
                recv: [raw.get(5)?, raw.get(6)?, raw.get(7)?],
                phase: number(16)? as u8,
                next: number(17)?,
                expected: number(18)?,
                acks: number(19)? != 0,
                pad: number(20)? as usize,
            })?)),
        };
        let [group, size, flow, kid, secret] =
            [number(2)?, number(4)?, number(5)?, number(6)?, number(7)?];
        let mut leg = Leg::new(
            fd,
            group as usize,
            wire,
            size as usize,
            flow as u8,
            kid as u8,
            secret,
        );
        leg.last_sent = mono();
        self.poll.add(fd, self.legs.len() as u64).ok()?;
        self.legs.push(leg);
        Some(())
    }

    fn speak(&mut self, index: usize, now: u64) {
        let leg = &mut self.legs[index];
        let stamp = net::wall();
        leg.next(stamp, now, &mut self.packet);
        let taken = net::send(leg.fd, &self.packet);
        if net::wall().saturating_sub(stamp) > HICCUP {
            leg.unjudged.push(leg.next_ctr.wrapping_sub(1));
        }
        if let Some(group) = self.groups.get_mut(leg.group) {
            group.sent += 1;
            group.refused += u64::from(!taken);
            group.bytes_out += self.packet.len() as u64;
        }
    }

    /// Read whatever waits, for at most `wait` nanoseconds; true when the parent has an order.
    fn listen(&mut self, wait: u64) -> bool {
        let mut keys = std::mem::take(&mut self.keys);
        self.poll.wait(wait, &mut keys);
        let now = mono();
        let mut order = false;
        for &key in &keys {
            if key == ORDER {
                order = true;
                continue;
            }
            self.read(key as usize, now);
        }
        self.keys = keys;
        order
    }

    fn read(&mut self, index: usize, now: u64) {
        let Self {
            legs,
            inbox,
            groups,
            acks,
            scratch,
            stamped,
            started,
            arrived,
            loss,
            chance,
            ..
        } = self;
        let count = inbox.receive(legs[index].fd, *stamped);
        let low = index & !1;
        let Some([even, odd]) = legs
            .get_mut(low..low + 2)
            .and_then(|both| <&mut [Leg; 2]>::try_from(both).ok())
        else {
            return;
        };
        let (leg, partner) = if index == low {
            (even, odd)
        } else {
            (odd, even)
        };
        let mut spare = Group::default();
        let group = groups.get_mut(leg.group).unwrap_or(&mut spare);
        for i in 0..count {
            let (data, at) = inbox.packet(i);
            group.packets_in += 1;
            group.bytes_in += data.len() as u64;
            if *loss > 0 {
                *chance = leg::mix(*chance);
                if *chance < *loss {
                    group.lost += 1;
                    continue;
                }
            }
            let content = leg.open(data, now, |payload| match partner.judge(payload, scratch) {
                Verdict::Good(ctr, sent) => {
                    if ctr >= partner.run_from {
                        group.delivered += 1;
                        *arrived += 1;
                        if partner.unjudged.contains(&ctr) {
                            group.unjudged += 1;
                        } else if at > 0 {
                            group.delay(at.saturating_sub(sent), sent.saturating_sub(*started));
                        }
                    }
                }
                Verdict::Repeated => group.repeated += 1,
                Verdict::Wrong => group.wrong += 1,
            });
            match content {
                Content::Media => {}
                Content::Ack => group.acks_in += 1,
                Content::Other => group.other += 1,
                Content::Unopened => group.unopened += 1,
            }
        }
        if let Some(due) = leg.ack_due() {
            if due < leg.look {
                leg.look = due;
                acks.push(Reverse((due, index)));
            }
        }
    }

    /// Send acknowledgements that no audio took along in time.
    fn acknowledge(&mut self, now: u64) {
        while let Some(&Reverse((due, index))) = self.acks.peek() {
            if due > now {
                return;
            }
            self.acks.pop();
            let leg = &mut self.legs[index];
            if leg.look != due {
                continue;
            }
            leg.look = u64::MAX;
            match leg.ack_due() {
                Some(due) if due > now => {
                    leg.look = due;
                    self.acks.push(Reverse((due, index)));
                }
                Some(_) => {
                    if let Wire::Quic(quic) = &mut leg.wire {
                        quic.seal(None, now, &mut self.packet);
                        net::send(leg.fd, &self.packet);
                        if let Some(group) = self.groups.get_mut(leg.group) {
                            group.acks_out += 1;
                        }
                    }
                }
                None => {}
            }
        }
    }

    fn keep_alive(&mut self, now: u64) {
        for index in 0..self.legs.len() {
            if now.saturating_sub(self.legs[index].last_sent) > ALIVE {
                self.speak(index, now);
                if index % TURN == 0 {
                    self.listen(0);
                }
            }
        }
    }

    fn run(&mut self, words: &[&str]) -> Option<String> {
        let seconds: f64 = words.get(1)?.parse().ok()?;
        let rate: f64 = words.get(2)?.parse().ok()?;
        let window: u64 = words.get(3)?.parse().ok()?;
        self.stamped = *words.get(4)? == "1";
        let mut active = Vec::new();
        for span in words.get(5)?.split(',') {
            let (from, to) = span.split_once('-')?;
            active.extend(
                from.parse::<usize>().ok()?..to.parse::<usize>().ok()?.min(self.legs.len()),
            );
        }
        let step = words.get(6).map_or(Some(1), |word| word.parse().ok())?;
        active.retain(|index| index % step == 0);
        let loss: f64 = words.get(7).map_or(Some(0.0), |word| word.parse().ok())?;
        self.loss = (loss * 2f64.powi(64)) as u64;
        if active.is_empty() {
            return None;
        }
        self.keep_alive(mono());
        while !self.keys.is_empty() {
            self.listen(1_000_000);
        }
        for leg in &mut self.legs {
            net::stamps(leg.fd, self.stamped);
            leg.run_from = leg.next_ctr;
            leg.unjudged.clear();
        }
        let groups = self.legs.iter().map(|leg| leg.group + 1).max().unwrap_or(0);
        self.groups = vec![Group::default(); groups];
        self.arrived = 0;
        self.started = net::wall();
        let (started, cpu) = (mono(), net::cpu());
        let end = started + (seconds * 1e9) as u64;
        let most = if rate > 0.0 {
            (seconds * rate) as u64
        } else {
            u64::MAX
        };
        let (mut sent, mut lost, mut turn, mut progress) = (0u64, 0u64, 0usize, (0u64, started));
        let mut now = started;
        while (now < end && rate == 0.0) || (sent < most && rate > 0.0) {
            let due = if rate > 0.0 {
                (((now - started) as f64 * rate / 1e9) as u64 + 1).min(most) - sent
            } else {
                window.saturating_sub(sent - lost - self.arrived.min(sent - lost))
            };
            for _ in 0..due.min(TURN as u64) {
                self.speak(active[turn], now);
                turn = if turn + 1 == active.len() {
                    0
                } else {
                    turn + 1
                };
                sent += 1;
            }
            let wait = if due > 0 {
                0
            } else if rate > 0.0 {
                let next = started + (sent as f64 * 1e9 / rate) as u64;
                let early = next.saturating_sub(mono());
                if early > 2 * WAKE {
                    (early - WAKE).min(1_000_000)
                } else {
                    0
                }
            } else {
                1_000_000
            };
            self.listen(wait);
            now = mono();
            self.acknowledge(now);
            if self.arrived != progress.0 {
                progress = (self.arrived, now);
            } else if now - progress.1 > STUCK {
                lost = sent.saturating_sub(self.arrived);
                progress.1 = now;
            }
        }
        let (spent, took) = (net::cpu() - cpu, mono() - started);
        while now < started + took + LINGER {
            self.listen(1_000_000);
            now = mono();
            self.acknowledge(now);
        }
        self.loss = 0;
        let mut groups = std::mem::take(&mut self.groups);
        Some(stats::render(
            &mut groups,
            took as f64 / 1e9,
            spent as f64 / 1e9,
        ))
    }
}

fn main() -> std::io::Result<()> {
    net::sharp_timers();
    let mut generator = Generator {
        legs: Vec::new(),
        poll: net::Poll::new()?,
        inbox: net::Inbox::new(),
        groups: Vec::new(),
        acks: BinaryHeap::new(),
        keys: Vec::new(),
        packet: Vec::with_capacity(net::SIZE),
        scratch: Vec::with_capacity(net::SIZE),
        stamped: false,
        started: 0,
        arrived: 0,
        loss: 0,
        chance: 1,
    };
    let channel: RawFd = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    generator.poll.add(channel, ORDER)?;
    let mut buffer = vec![0u8; 4096];
    loop {
        let now = mono();
        generator.acknowledge(now);
        generator.keep_alive(now);
        let next = generator
            .acks
            .peek()
            .map_or(u64::MAX, |entry| entry.0 .0.saturating_sub(now));
        if !generator.listen(next.min(500_000_000)) {
            continue;
        }
        let Some((length, fd)) = net::order(channel, &mut buffer) else {
            return Ok(());
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        let answer = match (words.first(), fd) {
            (Some(&"leg"), Some(fd)) => generator.add(&words, fd).map(|()| String::new()),
            (Some(&"run"), _) => generator.run(&words),
            _ => None,
        };
        let answer = answer
            .unwrap_or_else(|| format!("{{\"error\":\"{}\"}}", words.first().unwrap_or(&"?")));
        if !answer.is_empty() {
            net::send(channel, answer.as_bytes());
        }
    }
}
