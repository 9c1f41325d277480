//! The lane without sockets: packets go in, packets to send and items for the loop come out.
//!
//! ```text
//! receive   first byte -> connection id -> path.open -> table.receive -> queues | staged   (inward.rs)
//! judge     packets of nobody, after all others of the batch -> the front         (inward.rs)
//! flush     queues -> packets                                             (out.rs)
//! acks      held acknowledgements that no packet took along               (out.rs)
//! finish    counters and staged items become everybody's; the loop is woken
//! ```
//!
//! Any number of threads call it at once, each with a `Work` of its own; Python changes legs, flows and
//! routes meanwhile (desk.rs). A thread never holds the locks of two legs: a packet is opened under the
//! sender's, its datagrams and their targets stand in the `Work` when that is released, and then each
//! listener is locked in turn. Under a leg's lock only `shared` may be taken, and under that only `front`'s, to
//! read it.
//!
//! A leg takes 4 KiB in a call of two and 8 KiB in one of 32, keys, flights, flows and queues in use, and 16 KiB at
//! most, when its path takes nothing of what 31 others say (tests/memory.rs measures it); with repair up to 24 KiB
//! more.
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
use std::mem::size_of;
use std::net::SocketAddr;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicU16, AtomicU8, AtomicUsize, Ordering};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::cid::Cid;
use crate::counters::{bump, Counters};
use crate::flow::Target;
use crate::ids::Ids;
use crate::media::MAX_SIZE;
use crate::path::Path;
use crate::reason::Reason;
use crate::relays::Relays;
use crate::repeats::Ring;
use crate::slow::{Item, Shown, Slow, SlowLimits, Staged};
use crate::socket::{prefetch, Mark, Marks};
use crate::table::{Media, QueueLimits};
use crate::trunk::Trunk;
use crate::work::Work;

/// Before each shared thing lie the counts of those who hold it.
pub(crate) const COUNTS: usize = 2 * size_of::<usize>();
/// Of the copies that wait for one leg: 26 of voice. One flow may have all its frames, whatever their size.
const QUEUE_BYTES: usize = 5 * 1024;
const LEG_BYTES: usize = COUNTS + size_of::<Leg>();
/// Up to when a held acknowledgement is due.
const HEAD_BYTES: usize = 128;
/// A list of listeners up to the first, and that.
const LIST_BYTES: usize = COUNTS + size_of::<usize>();
const TARGET_BYTES: usize = COUNTS + size_of::<Target>();

/// What the operator may change. `Default` is what the plain twin has.
#[derive(Clone, Copy, Debug)]
pub struct CoreConfig {
    /// Copies that wait per flow of a listener.
    pub queue_frames: usize,
    /// Seconds until a waiting copy is noise.
    pub queue_s: f64,
    /// The same for listeners on streams.
    pub stream_frames: usize,
    pub stream_s: f64,
    /// Seconds of a leg's rate that it may send at once.
    pub burst_s: f64,
    /// Items that wait for the loop, in each of its queues.
    pub slow_queue: usize,
    /// Packets of one leg among them; as long as its handshake is under way; its control datagrams.
    pub slow_per_leg: usize,
    pub slow_per_half_open: usize,
    pub notes_per_leg: usize,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            queue_frames: 5,
            queue_s: 0.1,
            stream_frames: 10,
            stream_s: 0.2,
            burst_s: 0.2,
            slow_queue: 4096,
            slow_per_leg: 128,
            slow_per_half_open: 16,
            notes_per_leg: 32,
        }
    }
}

/// One connection, one participant's device, or both: what Python names by a number.
#[repr(C)]
pub struct Leg {
    pub number: u64,
    /// Where its listener's leg, the list of its listeners and the first of them lie, or lay: for `prefetch` only.
    pub(crate) hints: [AtomicUsize; 3],
    /// Its packets in the loop's queues; written under the lock of `shared` only.
    pub(crate) waiting: AtomicUsize,
    /// Its control datagrams there and in batches that are not done; more of them under the leg's lock only.
    pub(crate) notes: AtomicUsize,
    pub(crate) state: Mutex<LegState>,
}

/// In the order of use, and in one piece with the lock: what held acknowledgements ask for comes first.
#[repr(C)]
pub(crate) struct LegState {
    /// When somebody looks whether its acknowledgement is due: an entry of a heap with another time is void.
    pub ack_look: Option<f64>,
    /// In somebody's heap as waiting for a pause.
    pub is_pause_held: bool,
    /// In somebody's heap as holding copies.
    pub is_holding: bool,
    pub has_path: bool,
    pub stream: Stream,
    /// Lives of `media` and `trunk` so far.
    pub lives: u32,
    /// Bit n: in the ready list of worker n.
    pub listed: u64,
    /// As long as Python holds a handle, also after `close_path`.
    pub path: Path,
    /// From `open_leg` to `close_leg`.
    pub media: Option<Media>,
    /// From `open_trunk` to `close_leg`; such a leg has no `media`.
    pub trunk: Option<Box<Trunk>>,
    pub ids: Vec<Cid>,
    /// What may be repeated, once that was ever allowed.
    pub ring: Option<Box<Ring>>,
    /// Acknowledgements that wait for the loop.
    pub shown: Option<Box<Shown>>,
}

/// How copies leave a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// In packets of its path.
    No,
    /// The loop drains them, and none wait that it was not told of.
    Quiet,
    /// The loop was told that copies wait.
    Told,
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

    /// So many packets that it admitted wait for the loop now, and so many of those it admitted since are in
    /// batches that are done. Told in order, under a lock: for figures only.
    fn admissions(&self, _waiting: usize, _settled: usize) {}
}

/// How the loop learns that items wait for it.
pub trait Waker: Send + Sync {
    fn wake(&self);
}

pub(crate) struct Shared {
    pub counters: Counters,
    pub slow: Slow,
    /// Legs on whose ways something went wrong since they were measured, each once.
    pub troubled: Vec<u64>,
    /// The loop was woken and did not take since.
    is_woken: bool,
}

/// All legs of the node, and what waits for the loop.
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) ids: RwLock<Ids<Arc<Leg>>>,
    pub(crate) legs: RwLock<HashMap<u64, Arc<Leg>>>,
    /// Legs that are nobody's yet; locked under `legs`.
    pub(crate) nursery: Mutex<Vec<Arc<Leg>>>,
    pub(crate) shared: Mutex<Shared>,
    pub relays: Relays,
    pub(crate) front: RwLock<Option<Arc<dyn Judge>>>,
    waker: RwLock<Option<Arc<dyn Waker>>>,
    /// Sockets of one worker; 0: each socket number stands for an address of its own.
    pub(crate) stride: AtomicU16,
    /// Where legs note what outlives us, if anywhere.
    marks: RwLock<Option<Arc<Marks>>>,
    /// Bit c: copies of drop class c go no further.
    pub(crate) shedding: AtomicU8,
}

impl Leg {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            hints: Default::default(),
            waiting: AtomicUsize::new(0),
            notes: AtomicUsize::new(0),
            state: Mutex::new(LegState {
                path: Path::default(),
                has_path: false,
                stream: Stream::No,
                lives: 0,
                media: None,
                trunk: None,
                ids: Vec::new(),
                ring: None,
                shown: None,
                listed: 0,
                ack_look: None,
                is_pause_held: false,
                is_holding: false,
            }),
        }
    }

    /// Its first line will be read soon.
    #[inline]
    pub(crate) fn prefetch_head(&self) {
        prefetch(self.place(), HEAD_BYTES);
    }

    /// It will be read soon: the leg itself, all of it.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(self.place(), LEG_BYTES);
    }

    /// Whoever hears it will be written to soon. The leg's first line was asked for before.
    #[inline]
    pub(crate) fn prefetch_listener(&self) {
        let [leg, list, target] = &self.hints;
        prefetch(leg.load(Ordering::Relaxed), LEG_BYTES);
        prefetch(list.load(Ordering::Relaxed), LIST_BYTES);
        prefetch(target.load(Ordering::Relaxed), TARGET_BYTES);
    }

    /// Where the leg lies, with the counts of those who hold it.
    pub(crate) fn place(&self) -> usize {
        ptr::from_ref(self).addr().wrapping_sub(COUNTS)
    }

    /// Bytes of memory that this leg takes.
    pub fn memory(&self) -> usize {
        let state = self.state.lock();
        let media = state.media.as_ref().map_or(0, Media::heap);
        let ids = state.ids.capacity().saturating_mul(size_of::<Cid>());
        let ring = state.ring.as_deref().map_or(0, Ring::memory);
        let trunk = state.trunk.as_deref().map_or(0, Trunk::memory);
        size_of::<Leg>()
            .saturating_add(ring)
            .saturating_add(trunk)
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
            nursery: Mutex::default(),
            shared: Mutex::new(Shared {
                counters: Counters::default(),
                slow: Slow::default(),
                troubled: Vec::new(),
                is_woken: false,
            }),
            relays: Relays::default(),
            front: RwLock::new(None),
            waker: RwLock::new(None),
            stride: AtomicU16::new(0),
            marks: RwLock::new(None),
            shedding: AtomicU8::new(0),
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

    /// From now on legs may note their numbers in these places.
    pub fn use_marks(&self, marks: Arc<Marks>) {
        *self.marks.write() = Some(marks);
    }

    /// A place of these.
    pub fn mark(&self, place: usize) -> Option<Mark> {
        self.marks.read().as_ref()?.place(place)
    }

    pub(crate) fn queue_limits(&self, stream: Stream) -> QueueLimits {
        let config = &self.config;
        let (frames, seconds) = match stream {
            Stream::No => (config.queue_frames, config.queue_s),
            Stream::Quiet | Stream::Told => (config.stream_frames, config.stream_s),
        };
        QueueLimits {
            frames,
            seconds,
            bytes: QUEUE_BYTES.max(frames.saturating_mul(MAX_SIZE)),
        }
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
            per_half_open: self.config.slow_per_half_open,
        };
        let mut guard = self.shared.lock();
        let shared = &mut *guard;
        let admits = shared.slow.admits();
        let mut settled = 0_usize;
        let mut refused = Vec::new();
        shared.counters.merge(&mut work.counters);
        shared.troubled.append(&mut work.troubled);
        for staged in work.staged.drain(..) {
            let is_admitted = matches!(staged.item, Item::Admit { .. });
            settled = settled.saturating_add(is_admitted.into());
            refused.extend(shared.slow.put(staged, limits, &mut shared.counters));
        }
        let wakes = !shared.is_woken && !shared.slow.is_empty();
        shared.is_woken |= wakes;
        self.tell_front(shared, admits, settled);
        drop(guard);
        for leg in refused {
            leg.state.lock().path.slow_done(); // aioquic will never see it
        }
        if wakes {
            if let Some(waker) = self.waker.read().as_ref() {
                waker.wake();
            }
        }
        wakes
    }

    /// Up to `most` things for the loop to do, those of known legs first.
    pub fn take(&self, most: usize) -> Vec<Item> {
        let mut taken = Vec::new();
        let mut guard = self.shared.lock();
        let shared = &mut *guard;
        shared.is_woken = false;
        let admits = shared.slow.admits();
        while taken.len() < most {
            match shared.slow.take(&mut shared.counters) {
                Some(staged) => taken.push(staged),
                None => break,
            }
        }
        self.tell_front(shared, admits, 0);
        drop(guard);
        taken
            .into_iter()
            .filter_map(|staged| self.complete(staged))
            .collect()
    }

    /// An item as the loop takes it: what an acknowledgement says was in its leg until now, as were a stream's
    /// bytes in their allocation.
    fn complete(&self, staged: Staged) -> Option<Item> {
        match (&staged.item, &staged.leg) {
            (Item::Ack { leg, .. }, Some(owner)) => {
                let shown = owner.state.lock().shown.take();
                shown.map(|shown| shown.tell(*leg))
            }
            (Item::ToClient { relay, .. }, _) => self.fetch(*relay),
            _ => Some(staged.item),
        }
    }

    /// Under the lock of `shared`: threads that told it later than they counted would leave an old figure.
    fn tell_front(&self, shared: &Shared, before: usize, settled: usize) {
        let now = shared.slow.admits();
        if before != now || settled > 0 {
            if let Some(front) = self.front.read().as_ref() {
                front.admissions(now, settled);
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
            let mut state = leg.state.lock();
            state.media = None;
            state.trunk = None;
        }
    }
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
    work.carried.clear();
    work.abandon_batch();
    let counters = &mut work.counters;
    let missing = counters.packets_missing();
    bump(&mut counters.dropped, Reason::Internal, missing);
    let (inward, outward) = counters.media_missing();
    bump(&mut counters.media_dropped, Reason::Internal, inward);
    counters.drop_out(Reason::Internal, outward);
    counters.relays.settle();
    if let Some(leg) = owner {
        work.stage_note(Item::Broken { leg });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn what_a_panic_left_of_a_packet_goes_into_no_other() {
        let mut work = Work::new(0);
        contain(&mut work, Some(7), |work, _| {
            work.counters.copies = 3;
            work.counters.copies_sent = 2; // taken from the queue for a packet
            work.batch.push((1.0, vec![1; 100]));
            work.batch.push((1.0, vec![2; 100]));
            panic!("a bug while sealing");
        });
        assert!(work.batch.is_empty());
        let counters = &work.counters;
        assert_eq!(counters.copies_sent, 0);
        assert_eq!(counters.dropped_out[Reason::Internal as usize], 3);
        assert_eq!(counters.media_missing(), (0, 0));
        assert!(matches!(work.staged[0].item, Item::Broken { leg: 7 }));
    }
}
