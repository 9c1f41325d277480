//! The threads of the lane: wait, read, hand to the core, send what it wants sent.
//!
//! ```text
//! few packets    ppoll on the sockets: each packet is read, and its copies leave, at once
//! many           a look at the sockets once per `batch_s`: a packet that wakes us costs more than its own work
//! too many       no wait at all
//! ```
//!
//! No thread ever waits for another, for the interpreter or for the kernel's buffers. Must never live here:
//! what packets mean, and `unsafe`.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

mod relays;
mod rests;

use std::io;
use std::os::fd::RawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Sender as Gate};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::core::{Core, Waker};
use crate::counters::Counters;
use crate::socket::{
    block_signals, monotonic, shorten_turns, Event, Poll, Ring, Sender, Socket, Watch,
};
use crate::work::{Work, MAX_WORKERS};

use relays::Doors;
use rests::Rests;

/// Packets of one socket and turn, so that audio that came leaves before more is read.
const TURN_PACKETS: usize = 256;
/// Copies of one turn: the fan-out of large calls makes long turns out of few packets.
const TURN_COPIES: u64 = 1024;
/// Seconds over which the packet rate is measured.
const RATE_WINDOW: f64 = 0.05;
/// Packets expected within the wait; below, waiting costs more than it saves.
const WORTH_A_WAIT: f64 = 2.0;
/// Seconds that a held acknowledgement may leave late, so that a wait for packets need not end early for it: some
/// leg's is due within nearly each. We promise 5 ms more than we hold it.
const LATE_ACK: f64 = 0.002;
/// After a bug: time for others, lest one bad packet keeps a core busy.
const AFTER_A_PANIC: Duration = Duration::from_millis(10);

/// Longest rest of a socket that cannot be read, seconds: so late may be what comes when it can be again.
const LONGEST_REST: f64 = 0.1;
/// The same of the relayed addresses, which rest together: most of them may be well.
const LONGEST_REST_OF_DOORS: f64 = 0.01;

/// A thread's turn on a CPU that others want, the least that Linux grants. With its usual one of 1.4 ms and more
/// a packet waits for up to 4 ms while the interpreter's thread works on the same CPU.
const CPU_SLICE: Duration = Duration::from_micros(100);
/// Before whatever else the machine does for the daemon, and behind what an administrator puts lower.
const NICE: i32 = -10;

/// How the threads work.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// How long packets may wait for others, seconds; 0: never.
    pub batch_s: f64,
    /// Let the kernel join packets of one sender (UDP_GRO): for trunks, where many come from one address.
    pub coalesces: bool,
}

/// The running threads.
pub struct Workers {
    core: Arc<Core>,
    is_over: Arc<AtomicBool>,
    threads: Vec<(Event, JoinHandle<()>)>,
}

/// Threads that exist and do nothing until `run`; dropped, they end.
pub struct Prepared {
    core: Arc<Core>,
    is_over: Arc<AtomicBool>,
    /// The gate that each waits at, and what ends it later.
    threads: Vec<(Gate<()>, Event, JoinHandle<()>)>,
    /// What each watches: its share of the relayed addresses.
    watches: Vec<Arc<Watch>>,
    bell: Bell,
    stride: u16,
    /// Why the scheduler would not let the threads have short turns.
    pub refused: Option<io::Error>,
}

struct Bell(Event);

impl Waker for Bell {
    fn wake(&self) {
        self.0.signal();
    }
}

impl Workers {
    /// As `prepare` and `run`, where none run yet.
    pub fn start(
        core: &Arc<Core>,
        sockets: &[Vec<RawFd>],
        event: RawFd,
        pacing: Pacing,
    ) -> io::Result<Self> {
        Ok(Prepared::new(core, sockets, event, pacing)?.run())
    }

    /// How many run; fewer than were started when one met a bug that it could not contain.
    pub fn alive(&self) -> usize {
        let is_alive = |(_, thread): &&(Event, JoinHandle<()>)| !thread.is_finished();
        self.threads.iter().filter(is_alive).count()
    }

    /// End the threads and wait for them; what they had opened is sent, what they did not read stays in the
    /// sockets.
    pub fn stop(self) {
        drop(self);
    }
}

impl Prepared {
    /// One thread for each list of sockets. The lists name sockets of the same addresses in the same order;
    /// we keep duplicates of all descriptors. `event`: an eventfd that wakes the loop. Others may still run on
    /// these sockets: nothing that can fail is left for when they have ended.
    pub fn new(
        core: &Arc<Core>,
        sockets: &[Vec<RawFd>],
        event: RawFd,
        pacing: Pacing,
    ) -> io::Result<Self> {
        let stride = sockets.first().map_or(0, Vec::len);
        let is_even = sockets.iter().all(|list| list.len() == stride);
        // One `Work` is the interpreter's.
        let total = u16::try_from(stride.saturating_mul(sockets.len()));
        let (Ok(_), Ok(stride), true) = (total, u16::try_from(stride), is_even) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if stride == 0 || sockets.len() >= MAX_WORKERS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut prepared = Self {
            core: core.clone(),
            is_over: Arc::default(),
            threads: Vec::new(),
            watches: Vec::new(),
            bell: Bell(Event::duplicate(event)?),
            stride,
            refused: None,
        };
        for (number, fds) in sockets.iter().enumerate() {
            prepared.spawn(number, fds, pacing)?; // those that wait end when their gate is dropped
        }
        core.relays.enlist(&prepared.watches)?;
        Ok(prepared)
    }

    fn spawn(&mut self, number: usize, fds: &[RawFd], pacing: Pacing) -> io::Result<()> {
        let duplicates = fds.iter().map(|fd| Socket::duplicate(*fd));
        let mut sockets: Vec<Socket> = duplicates.collect::<io::Result<_>>()?;
        let end = Event::new()?;
        let mut poll = Poll::new(&end, &sockets);
        let watch = Arc::new(Watch::new()?);
        poll.follow(&watch);
        self.watches.push(watch.clone());
        let (core, is_over) = (self.core.clone(), self.is_over.clone());
        let (gate, opened) = channel();
        let (tells, told) = channel();
        let body = move || {
            block_signals();
            let _ = tells.send(shorten_turns(CPU_SLICE, NICE)); // who asks waits for it
            if opened.recv().is_ok() {
                for socket in &mut sockets {
                    // Where the kernel cannot, packets come one by one.
                    let _ = socket.coalesce(pacing.coalesces);
                }
                let doors = Doors::new(watch);
                Worker::new(core, is_over, sockets, doors, poll, number, pacing).run();
            }
        };
        let thread = Builder::new().name(format!("lane-{number}")).spawn(body)?;
        if let Ok(Err(error)) = told.recv() {
            self.refused = Some(error);
        }
        self.threads.push((gate, end, thread));
        Ok(())
    }

    /// Let them go; no others may run on this core.
    pub fn run(self) -> Workers {
        self.core.set_stride(self.stride);
        self.core.relays.hand_over(self.watches);
        self.core.set_waker(Some(Arc::new(self.bell)));
        let threads = self.threads.into_iter().map(|(gate, end, thread)| {
            let _ = gate.send(()); // it waits for nothing else
            (end, thread)
        });
        Workers {
            threads: threads.collect(),
            core: self.core,
            is_over: self.is_over,
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for (end, _) in &self.threads {
            end.signal();
        }
        for (_, thread) in self.threads.drain(..) {
            let _ = thread.join(); // an Err is a panic that was printed when it happened
        }
        self.core.relays.hand_over(Vec::new());
        self.core.set_waker(None);
    }
}

/// One thread's own.
struct Worker {
    core: Arc<Core>,
    is_over: Arc<AtomicBool>,
    sockets: Vec<Socket>,
    doors: Doors,
    /// The number of its first socket, and how many each worker has.
    first: u16,
    stride: u16,
    work: Work,
    ring: Ring,
    sender: Sender,
    poll: Poll,
    rests: Rests,
    pace: Pace,
    /// The last turn left packets behind.
    is_behind: bool,
    /// The last wait looked at the sockets.
    has_looked: bool,
}

impl Worker {
    fn new(
        core: Arc<Core>,
        is_over: Arc<AtomicBool>,
        sockets: Vec<Socket>,
        doors: Doors,
        poll: Poll,
        number: usize,
        pacing: Pacing,
    ) -> Self {
        let stride = u16::try_from(sockets.len()).unwrap_or(u16::MAX);
        let first = u16::try_from(number)
            .unwrap_or(u16::MAX)
            .saturating_mul(stride);
        Self {
            core,
            is_over,
            first,
            stride,
            work: Work::new(number),
            ring: Ring::new(pacing.coalesces),
            sender: Sender::new(),
            poll,
            pace: Pace::new(pacing.batch_s, monotonic()),
            rests: Rests::new(
                sockets
                    .iter()
                    .map(|_| LONGEST_REST)
                    .chain([LONGEST_REST_OF_DOORS]),
            ),
            sockets,
            doors,
            is_behind: false,
            has_looked: false,
        }
    }

    fn run(&mut self) {
        while !self.is_over.load(Ordering::Acquire) {
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                self.recover();
            }
            if !self.is_behind {
                self.wait();
            }
        }
        let core = self.core.clone();
        core.retire(&mut self.work, monotonic());
        self.send();
        self.send_to_peers();
        core.finish(&mut self.work);
        for socket in &mut self.sockets {
            let _ = socket.coalesce(false); // whoever reads it next expects single packets
        }
    }

    fn wait(&mut self) {
        let now = monotonic();
        let until_ack = self.work.next_ack().map(|due| (due - now).max(0.0));
        self.has_looked = !self.pace.is_batching;
        if self.pace.is_batching {
            let batch = self.pace.batch_s;
            let wait = until_ack.map_or(batch, |ack| batch.min(ack + LATE_ACK));
            self.poll.doze(seconds(wait));
        } else {
            let until_read = self.rests.next().map(|due| (due - now).max(0.0));
            let first = [until_ack, until_read].into_iter().flatten();
            self.poll.wait(first.min_by(f64::total_cmp).map(seconds));
        }
    }

    /// Read what waits, up to the bounds, and send what comes of it.
    fn turn(&mut self) {
        let mut now = monotonic();
        let mut taken: usize = 0;
        let reads_all = self.is_behind || !self.has_looked;
        self.is_behind = false;
        let Self { rests, poll, .. } = self;
        rests.end_those_due(now, |index| poll.follow_again(index));
        for index in 0..self.sockets.len() {
            if self.is_to_read(index, reads_all) {
                taken = taken.saturating_add(self.read(index, &mut now));
            }
        }
        if self.is_to_read(self.sockets.len(), reads_all) {
            taken = taken.saturating_add(self.read_relays(&mut now));
        }
        self.core.flush(&mut self.work, now);
        self.core.acks(&mut self.work, now);
        self.send_to_peers();
        self.send(); // what is sealed is out of reach for a gate that closes: strangers must not hold it up
        if self.work.has_left() {
            self.work.settle_left(monotonic());
        }
        self.core.judge(&mut self.work, now, unix_time());
        self.send();
        if taken > 0 {
            self.work.counters.batches = self.work.counters.batches.wrapping_add(1);
        }
        self.core.finish(&mut self.work);
        self.pace.count(taken, now);
    }

    /// Whether to read an entry of the poll in this turn.
    fn is_to_read(&self, index: usize, reads_all: bool) -> bool {
        (reads_all && !self.rests.holds(index)) || self.poll.is_ready(index)
    }

    /// It cannot be read: nobody tries for a while.
    fn fail(&mut self, index: usize, now: f64) {
        self.rests.failed(index, now);
        self.poll.leave(index);
    }

    /// Packets of one socket; how many they were.
    fn read(&mut self, index: usize, now: &mut f64) -> usize {
        let Self {
            core,
            work,
            ring,
            sockets,
            rests,
            ..
        } = self;
        let Some(socket) = sockets.get(index) else {
            return 0;
        };
        let number = self
            .first
            .saturating_add(u16::try_from(index).unwrap_or(u16::MAX));
        let mut taken: usize = 0;
        loop {
            let Ok(reads) = again(&mut work.counters, || ring.receive(socket)) else {
                self.fail(index, *now);
                return taken;
            };
            rests.worked(index);
            core.expect(work, ring.packets());
            let mut next = 0..;
            for read in 0..reads {
                let Some(read) = ring.read(read) else {
                    continue;
                };
                let from = read.from;
                for (packet, index) in read.packets().zip(next.by_ref()) {
                    core.receive_next(work, index, packet, from, number, *now);
                    taken = taken.saturating_add(1);
                }
            }
            if reads < ring.capacity() {
                return taken;
            }
            if taken >= TURN_PACKETS || work.counters.copies >= TURN_COPIES {
                self.is_behind = true;
                return taken;
            }
            *now = monotonic();
        }
    }

    /// Send what the core wants sent, each packet by this thread's own socket of its address.
    fn send(&mut self) {
        let Self {
            core,
            work,
            sender,
            sockets,
            stride,
            ..
        } = self;
        if work.out.is_empty() {
            return;
        }
        for (index, socket) in (0..).zip(sockets) {
            let mine = |sock: u16| sock.checked_rem(*stride) == Some(index);
            sender.send(socket, &work.out.arena, &work.out.packets, |packet| {
                mine(packet.sock)
            });
            for place in &sender.failed {
                core.unsent(work, *place);
            }
        }
        core.sent(work);
    }

    /// After a panic that came by no packet (the core contains those): nothing it left half done is sent.
    fn recover(&mut self) {
        let Self {
            core, work, poll, ..
        } = self;
        let rest = AssertUnwindSafe(|| {
            work.abandon_batch();
            for place in 0..work.out.len() {
                core.unsent(work, place);
            }
            core.sent(work);
            core.unsent_to_peers(work, work.leaving.packets.len());
            work.leaving.clear();
            core.finish(work);
            poll.doze(AFTER_A_PANIC);
        });
        let _ = catch_unwind(rest);
    }
}

/// Read, and once more after an error: that of an earlier packet (an ICMP message) is cleared by being met, and
/// whoever causes such may not hold up others. The second one stays.
fn again<T>(counters: &mut Counters, mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut count = |error| {
        counters.read_errors = counters.read_errors.wrapping_add(1);
        error
    };
    read()
        .map_err(&mut count)
        .or_else(|_| read().map_err(count))
}

fn seconds(time: f64) -> Duration {
    Duration::try_from_secs_f64(time).unwrap_or_default()
}

fn unix_time() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// Decides every 50 ms anew whether enough packets come to wait for others.
struct Pace {
    batch_s: f64,
    is_batching: bool,
    counted: usize,
    since: f64,
}

impl Pace {
    fn new(batch_s: f64, now: f64) -> Self {
        Self {
            batch_s,
            is_batching: false,
            counted: 0,
            since: now,
        }
    }

    fn count(&mut self, taken: usize, now: f64) {
        self.counted = self.counted.saturating_add(taken);
        let passed = now - self.since;
        if passed >= RATE_WINDOW {
            self.is_batching = self.counted as f64 * self.batch_s > WORTH_A_WAIT * passed;
            self.counted = 0;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests;
