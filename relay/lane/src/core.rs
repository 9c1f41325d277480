//! The lane without sockets: packets go in, packets to send and items for the loop come out.
//!
//! ```text
//! receive   first byte -> connection id -> path.open -> table.receive -> listeners' queues | staged
//! judge     packets of nobody, after all others of the batch -> the front
//! flush     queues -> packets                                             (out.rs)
//! acks      held acknowledgements that no packet took along               (out.rs)
//! finish    counters and staged items become everybody's; the loop is woken
//! ```
//!
//! Any number of threads call it at once, each with a `Work` of its own; Python changes legs, flows and
//! routes meanwhile (desk.rs). A thread never holds the locks of two legs: a packet is opened under the
//! sender's, its datagrams and their targets stand in the `Work` when that is released, and then each
//! listener is locked in turn. Under a leg's lock only `shared` may be taken, and under that nothing.
//!
//! Must never live here: sockets, clocks, Python.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::collections::HashMap;
use std::mem;
use std::net::SocketAddr;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::cid::{Cid, Seeded};
use crate::counters::{bump, Counters};
use crate::header::MAX_UDP;
use crate::path::{Opened, Path};
use crate::reason::Reason;
use crate::slow::{Item, Slow, SlowLimits, Staged};
use crate::table::{Media, QueueLimits, Target};
use crate::work::{Delivery, Stranger, Work};

/// A long header up to the length of the destination id, and one byte more.
const SHORTEST_LONG: usize = 7;

/// What the operator may change. `Default` is what the plain twin has.
#[derive(Clone, Copy, Debug)]
pub struct CoreConfig {
    /// Copies that wait per flow of a listener.
    pub queue_frames: usize,
    /// Seconds until a waiting copy is noise.
    pub queue_s: f64,
    /// Seconds of a leg's rate that it may send at once.
    pub burst_s: f64,
    /// Items that wait for the loop, in each of its two queues.
    pub slow_queue: usize,
    /// Packets of one leg among them.
    pub slow_per_leg: usize,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            queue_frames: 5,
            queue_s: 0.1,
            burst_s: 0.2,
            slow_queue: 4096,
            slow_per_leg: 128,
        }
    }
}

/// One connection, one participant's device, or both: what Python names by a number.
pub struct Leg {
    pub number: u64,
    pub(crate) state: Mutex<LegState>,
    /// Its packets in the loop's queue; written under the lock of `shared` only.
    pub(crate) waiting: AtomicUsize,
}

pub(crate) struct LegState {
    /// As long as Python holds a handle, also after `close_path`.
    pub path: Path,
    pub has_path: bool,
    /// From `open_leg` to `close_leg`.
    pub media: Option<Media>,
    /// Lives of `media` so far.
    pub epoch: u64,
    pub ids: Vec<Cid>,
    /// Bit n: in the ready list of worker n.
    pub listed: u64,
    /// In somebody's heap of held acknowledgements.
    pub is_ack_held: bool,
}

/// What a front says about a packet of nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let the loop open a connection. `original`: the destination id of the client's first packet of all;
    /// `retry_source`: the id that our Retry gave it.
    Admit {
        original: Cid,
        retry_source: Option<Cid>,
    },
    /// The reply was written; counted under this name.
    Answer(&'static str),
    Drop(Reason),
}

/// Who judges packets of nobody: stateless, and cheap under a flood. `reply` is empty when it is called.
pub trait Judge: Send + Sync {
    fn judge(
        &self,
        data: &[u8],
        from: SocketAddr,
        now: f64,
        wall: f64,
        reply: &mut Vec<u8>,
    ) -> Verdict;

    /// So many packets that it admitted wait for the loop now; it may be told late.
    fn admissions(&self, _waiting: usize) {}
}

/// How the loop learns that items wait for it.
pub trait Waker: Send + Sync {
    fn wake(&self);
}

pub(crate) struct Shared {
    pub counters: Counters,
    pub slow: Slow,
    /// The loop was woken and did not take since.
    is_woken: bool,
}

/// All legs of the node, and what waits for the loop.
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) ids: RwLock<HashMap<Cid, Arc<Leg>, Seeded>>,
    pub(crate) legs: RwLock<HashMap<u64, Arc<Leg>>>,
    pub(crate) shared: Mutex<Shared>,
    front: RwLock<Option<Arc<dyn Judge>>>,
    waker: RwLock<Option<Arc<dyn Waker>>>,
    /// Sockets of one worker; 0: each socket number stands for an address of its own.
    stride: AtomicU16,
}

impl Leg {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            state: Mutex::new(LegState {
                path: Path::default(),
                has_path: false,
                media: None,
                epoch: 0,
                ids: Vec::new(),
                listed: 0,
                is_ack_held: false,
            }),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Bytes of memory that this leg takes.
    pub fn memory(&self) -> usize {
        let state = self.state.lock();
        let media = state.media.as_ref().map_or(0, Media::heap);
        let ids = state.ids.capacity().saturating_mul(mem::size_of::<Cid>());
        mem::size_of::<Leg>()
            .saturating_add(state.path.heap())
            .saturating_add(media)
            .saturating_add(ids)
    }
}

impl Core {
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            ids: RwLock::default(),
            legs: RwLock::default(),
            shared: Mutex::new(Shared {
                counters: Counters::default(),
                slow: Slow::default(),
                is_woken: false,
            }),
            front: RwLock::new(None),
            waker: RwLock::new(None),
            stride: AtomicU16::new(0),
        }
    }

    /// Judge packets of nobody by this from now on; without one they all wait for the loop.
    pub fn install_front(&self, front: Arc<dyn Judge>) {
        *self.front.write() = Some(front);
    }

    pub fn set_waker(&self, waker: Option<Arc<dyn Waker>>) {
        *self.waker.write() = waker;
    }

    /// Each worker reads this many sockets, in the same order: numbers that differ by a multiple of it stand
    /// for one address, and a packet may come by any of them.
    pub fn set_stride(&self, sockets: u16) {
        self.stride.store(sockets, Ordering::Relaxed);
    }

    pub(crate) fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            frames: self.config.queue_frames,
            seconds: self.config.queue_s,
        }
    }

    // ------------------------------------------------------------ in

    /// One UDP packet.
    pub fn receive(&self, work: &mut Work, data: &[u8], from: SocketAddr, sock: u16, now: f64) {
        let packet = Arrival {
            data,
            from,
            sock,
            now,
        };
        work.counters.udp_in = work.counters.udp_in.wrapping_add(1);
        contain(work, None, |work, owner| self.sort(work, packet, owner));
    }

    fn sort(&self, work: &mut Work, packet: Arrival<'_>, owner: &mut Option<u64>) {
        let data = packet.data;
        let first = data.first().copied().unwrap_or(0);
        let is_long = first >= 0x80;
        if data.len() > MAX_UDP {
            return work.counters.drop(Reason::TooLarge);
        }
        if first < 0x40 || (0x80..0xC0).contains(&first) || (is_long && data.len() < SHORTEST_LONG)
        {
            return work.counters.drop(Reason::Malformed);
        }
        let Some(leg) = self.owner(data) else {
            work.counters.waiting = work.counters.waiting.wrapping_add(1);
            let start = work.stranger_bytes.len();
            work.stranger_bytes.extend_from_slice(data);
            work.strangers.push(Stranger {
                bytes: start..work.stranger_bytes.len(),
                from: packet.from,
                sock: packet.sock,
                at: packet.now,
            });
            return;
        };
        *owner = Some(leg.number);
        let mut scratch = mem::take(&mut work.scratch);
        let opened = if is_long {
            leg.state.lock().path.slow_more();
            Fast::Slow
        } else {
            self.open(work, &leg, packet, &mut scratch)
        };
        match opened {
            Fast::Settled => {}
            Fast::Media(plain) => self.deliver_all(work, plain, packet.now),
            Fast::Slow => work.stage_known(leg, data, packet.from, packet.sock, packet.now),
        }
        work.scratch = scratch;
    }

    /// The leg that owns a packet's destination id. Short headers have one of ours, of eight bytes.
    fn owner(&self, data: &[u8]) -> Option<Arc<Leg>> {
        let (start, size) = match data {
            [0..0x80, ..] => (1, 8),
            [_, _, _, _, _, size, ..] => (6, usize::from(*size)),
            _ => return None,
        };
        let rest = data.get(start..)?;
        let id = Cid::new(rest.get(..size).unwrap_or(rest))?;
        self.ids.read().get(&id).cloned()
    }

    /// What the packet path makes of a packet of this leg, under its lock.
    fn open<'a>(
        &self,
        work: &mut Work,
        leg: &Arc<Leg>,
        packet: Arrival<'_>,
        scratch: &'a mut Vec<u8>,
    ) -> Fast<'a> {
        let now = packet.now;
        let mut guard = leg.state.lock();
        let state = &mut *guard;
        let path = &mut state.path;
        let own_sock = path.facts.sock;
        let lost = path.media_lost;
        let opened = if self.is_same_address(own_sock, packet.sock) {
            path.open(packet.data, packet.from, now, scratch, &mut work.parsed)
        } else {
            Opened::Slow
        };
        let plain = match opened {
            Opened::Slow => {
                path.slow_more();
                return Fast::Slow;
            }
            Opened::Drop(reason) => {
                work.counters.drop(reason);
                return Fast::Settled;
            }
            Opened::Media(plain) => plain,
        };
        let counters = &mut work.counters;
        counters.media = counters.media.wrapping_add(1);
        counters.count_lost(path.media_lost.wrapping_sub(lost));
        if own_sock != packet.sock {
            counters.wrong_lane = counters.wrong_lane.wrapping_add(1);
        }
        if work.parsed.has_ack && path.outstanding {
            let ack = &work.parsed.ack;
            let (ranges, delay) = (ack.ranges.clone(), ack.delay);
            work.stage_note(Item::Ack {
                leg: leg.number,
                ranges,
                delay,
                at: now,
            });
        }
        for range in &work.parsed.datagrams {
            let payload = plain.get(range.clone()).unwrap_or_default();
            if payload.first() == Some(&0) {
                let (leg, payload) = (leg.number, payload.to_vec());
                let item = Item::Control {
                    leg,
                    payload,
                    at: now,
                };
                work.staged.push(Staged { item, leg: None });
            } else if let Ok(targets) =
                receive_media(&mut state.media, payload, now, &mut work.counters)
            {
                let payload = range.clone();
                work.deliveries.push(Delivery { targets, payload });
            }
        }
        if let Some(due) = path.ack_due().filter(|_| !state.is_ack_held) {
            state.is_ack_held = true;
            work.hold_ack(due, leg.clone());
        }
        Fast::Media(plain)
    }

    fn is_same_address(&self, own: u16, other: u16) -> bool {
        let stride = self.stride.load(Ordering::Relaxed);
        own == other
            || own
                .checked_rem(stride)
                .is_some_and(|own| other.checked_rem(stride) == Some(own))
    }

    /// Let the copies of a packet's datagrams wait for their listeners.
    fn deliver_all(&self, work: &mut Work, plain: &[u8], now: f64) {
        let mut deliveries = mem::take(&mut work.deliveries);
        for delivery in deliveries.drain(..) {
            let payload = plain.get(delivery.payload).unwrap_or_default();
            for target in delivery.targets.iter() {
                self.enqueue(work, target, payload, now);
            }
        }
        work.deliveries = deliveries;
    }

    /// A media datagram that came another way than through the packet path.
    pub fn deliver(
        &self,
        work: &mut Work,
        leg: u64,
        payload: &[u8],
        now: f64,
    ) -> Result<(), Reason> {
        let owner = self.legs.read().get(&leg).cloned();
        let counters = &mut work.counters;
        let targets = match &owner {
            Some(owner) => receive_media(&mut owner.state.lock().media, payload, now, counters)?,
            None => receive_media(&mut None, payload, now, counters)?,
        };
        for target in targets.iter() {
            self.enqueue(work, target, payload, now);
        }
        Ok(())
    }

    /// Judge the batch's packets of nobody. Call it after all of `receive`, so that the media of running
    /// calls goes first; `wall`: seconds since the epoch, for what tokens say.
    pub fn judge(&self, work: &mut Work, now: f64, wall: f64) {
        let front = self.front.read().clone();
        let bytes = mem::take(&mut work.stranger_bytes);
        let mut strangers = mem::take(&mut work.strangers);
        for stranger in strangers.drain(..) {
            let data = bytes.get(stranger.bytes.clone()).unwrap_or_default();
            let front = front.as_deref();
            contain(work, None, |work, _| {
                self.judge_one(work, front, &stranger, data, now, wall);
            });
        }
        work.strangers = strangers;
        work.stranger_bytes = bytes;
        work.stranger_bytes.clear();
    }

    fn judge_one(
        &self,
        work: &mut Work,
        front: Option<&dyn Judge>,
        stranger: &Stranger,
        data: &[u8],
        now: f64,
        wall: f64,
    ) {
        let (from, sock, at) = (stranger.from, stranger.sock, stranger.at);
        work.counters.waiting = work.counters.waiting.wrapping_sub(1);
        if let Some(leg) = self.owner(data) {
            // its first packet stood before it
            leg.state.lock().path.slow_more();
            return work.stage_known(leg, data, from, sock, at);
        }
        let mut reply = mem::take(&mut work.reply);
        reply.clear();
        let verdict = front.map(|front| front.judge(data, from, now, wall, &mut reply));
        match verdict {
            None => work.stage_packet(Item::Unknown {
                data: data.to_vec(),
                from,
                sock,
                at,
            }),
            Some(Verdict::Admit {
                original,
                retry_source,
            }) => work.stage_packet(Item::Admit {
                data: data.to_vec(),
                from,
                sock,
                at,
                original,
                retry_source,
            }),
            Some(Verdict::Drop(reason)) => work.counters.drop(reason),
            Some(Verdict::Answer(kind)) => {
                work.counters.front.add(kind, 1);
                work.counters.sent = work.counters.sent.wrapping_add(1);
                let start = work.out.arena.len();
                work.out.arena.extend_from_slice(&reply);
                work.out.close(start, from, sock, 0);
            }
        }
        work.reply = reply;
    }

    // ------------------------------------------------------------ for everybody

    /// The batch is done: what it counted and what it has for the loop become everybody's. Whether the loop
    /// was woken.
    pub fn finish(&self, work: &mut Work) -> bool {
        if !work.strangers.is_empty() {
            work.stage_strangers(); // nobody judged them: the loop will
        }
        let limits = SlowLimits {
            queue: self.config.slow_queue,
            per_leg: self.config.slow_per_leg,
        };
        let mut guard = self.shared.lock();
        let shared = &mut *guard;
        let admits = shared.slow.admits();
        let mut refused = Vec::new();
        shared.counters.merge(&mut work.counters);
        for staged in work.staged.drain(..) {
            refused.extend(shared.slow.put(staged, limits, &mut shared.counters));
        }
        let wakes = !shared.is_woken && !shared.slow.is_empty();
        shared.is_woken |= wakes;
        let now_admits = shared.slow.admits();
        drop(guard);
        for leg in refused {
            leg.state.lock().path.slow_done(); // aioquic will never see it
        }
        self.tell_front(admits, now_admits);
        if wakes {
            if let Some(waker) = self.waker.read().as_ref() {
                waker.wake();
            }
        }
        wakes
    }

    /// Up to `most` things for the loop to do, known legs first.
    pub fn take(&self, most: usize) -> Vec<Item> {
        let mut items = Vec::new();
        let mut guard = self.shared.lock();
        let shared = &mut *guard;
        shared.is_woken = false;
        let admits = shared.slow.admits();
        while items.len() < most {
            match shared.slow.take(&mut shared.counters) {
                Some(item) => items.push(item),
                None => break,
            }
        }
        let now_admits = shared.slow.admits();
        drop(guard);
        self.tell_front(admits, now_admits);
        items
    }

    fn tell_front(&self, before: usize, now: usize) {
        if before != now {
            if let Some(front) = self.front.read().as_ref() {
                front.admissions(now);
            }
        }
    }

    /// All that was counted by finished batches.
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters.clone()
    }
}

impl Drop for Core {
    /// Routes are references between legs, in circles.
    fn drop(&mut self) {
        for leg in self.legs.get_mut().values() {
            leg.state.lock().media = None;
        }
    }
}

#[derive(Clone, Copy)]
struct Arrival<'a> {
    data: &'a [u8],
    from: SocketAddr,
    sock: u16,
    now: f64,
}

enum Fast<'a> {
    /// Counted, or opened: the datagrams are in `Work::deliveries`.
    Media(&'a [u8]),
    Settled,
    Slow,
}

fn receive_media(
    media: &mut Option<Media>,
    payload: &[u8],
    now: f64,
    counters: &mut Counters,
) -> Result<Arc<[Target]>, Reason> {
    if let Some(media) = media {
        return media.receive(payload, now, counters);
    }
    counters.media_in = counters.media_in.wrapping_add(1);
    bump(&mut counters.media_dropped, Reason::UnknownFlow, 1);
    Err(Reason::UnknownFlow)
}

/// A panic costs the packet it came by, and tells the loop which leg it was; the thread and all other legs
/// go on. What the packet left uncounted is counted as `internal`, so the equations still hold.
pub(crate) fn contain(
    work: &mut Work,
    mut owner: Option<u64>,
    body: impl FnOnce(&mut Work, &mut Option<u64>),
) {
    if catch_unwind(AssertUnwindSafe(|| body(work, &mut owner))).is_ok() {
        return;
    }
    work.deliveries.clear();
    let counters = &mut work.counters;
    let missing = counters.packets_missing();
    bump(&mut counters.dropped, Reason::Internal, missing);
    let (inward, outward) = counters.media_missing();
    bump(&mut counters.media_dropped, Reason::Internal, inward);
    counters.drop_out(Reason::Internal, outward);
    if let Some(leg) = owner {
        work.stage_note(Item::Broken { leg });
    }
}
