//! What one thread needs to work on packets, kept from batch to batch so that none of them allocates.
//!
//! Must never live here: anything that another thread may need to see before the batch is done.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::core::Leg;
use crate::counters::Counters;
use crate::flow::Targets;
use crate::frames::Parsed;
use crate::media::MAX_SIZE;
use crate::path::Trouble;
use crate::reason::Reason;
use crate::relaying::Leaving;
use crate::slow::{Item, Staged};
use crate::socket::Packet;
use crate::trunk::Whole;

/// Threads that may have a `Work` at the same time: a leg notes in one word who listed it.
pub const MAX_WORKERS: usize = 64;
/// Room of the buffers for copies: a voice packet is 120 to 180 bytes, one with redundancy twice that.
const SIZES: [usize; 3] = [192, 448, MAX_SIZE];
/// Buffers kept of each size.
const SPARE: usize = 1024;

/// Packets that want to be sent: the bytes of all of them, and where each one goes.
#[derive(Default)]
pub struct Outgoing {
    pub arena: Vec<u8>,
    pub packets: Vec<Packet>,
    /// Of each packet, how many copies of media it carries.
    pub(crate) copies: Vec<u16>,
}

impl Outgoing {
    /// Each packet's bytes, destination and socket.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], SocketAddr, u16)> + '_ {
        self.packets.iter().map(|packet| {
            let bytes = packet.start..packet.start.saturating_add(packet.len);
            let bytes = self.arena.get(bytes).unwrap_or_default();
            (bytes, packet.to, packet.sock)
        })
    }

    pub fn len(&self) -> usize {
        self.packets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The bytes from `start` to the end of the arena are a packet.
    pub(crate) fn close(&mut self, start: usize, to: SocketAddr, sock: u16, copies: usize) {
        self.packets.push(Packet {
            start,
            len: self.arena.len().saturating_sub(start),
            to,
            sock,
        });
        self.copies.push(u16::try_from(copies).unwrap_or(u16::MAX));
    }

    pub(crate) fn clear(&mut self) {
        self.arena.clear();
        self.packets.clear();
        self.copies.clear();
    }
}

/// Buffers for copies that wait. A copy goes back to the pool of whoever sends it.
#[derive(Default)]
pub struct Pool {
    spare: [Vec<Vec<u8>>; SIZES.len()],
}

impl Pool {
    /// What a copy of so many bytes takes.
    pub fn room(len: usize) -> usize {
        SIZES.into_iter().find(|size| len <= *size).unwrap_or(len)
    }

    /// A buffer with these bytes.
    pub fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.join(&[], bytes)
    }

    /// A buffer with these bytes, one behind the other.
    pub fn join(&mut self, head: &[u8], rest: &[u8]) -> Vec<u8> {
        let len = head.len().saturating_add(rest.len());
        let fits = |(size, _): &(usize, &mut Vec<_>)| len <= *size;
        let (room, spare) = match SIZES.into_iter().zip(&mut self.spare).find(fits) {
            Some((size, spare)) => (size, spare.pop()),
            None => (len, None),
        };
        let mut buffer = spare.unwrap_or_else(|| Vec::with_capacity(room));
        buffer.clear();
        buffer.extend_from_slice(head);
        buffer.extend_from_slice(rest);
        buffer
    }

    pub fn give(&mut self, buffer: Vec<u8>) {
        let mut sizes = SIZES.into_iter().zip(&mut self.spare);
        if let Some((_, spare)) = sizes.find(|(size, _)| *size == buffer.capacity()) {
            if spare.len() < SPARE {
                spare.push(buffer);
            }
        }
    }
}

/// A held acknowledgement, a pause to come or copies that wait for others, in a heap whose top is the earliest.
pub(crate) struct Held {
    pub due: f64,
    pub order: u64,
    pub leg: Arc<Leg>,
    pub wait: Wait,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// An acknowledgement that is held.
    Ack,
    /// A pause of speech, in which something may be repeated.
    Pause,
    /// What may share a packet.
    Hold,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        let due = other.due.total_cmp(&self.due);
        due.then(other.order.cmp(&self.order))
    }
}

/// A datagram of an opened packet and who hears it.
pub(crate) struct Delivery {
    pub targets: Targets,
    /// Since when its time runs.
    pub since: f64,
    pub payload: Range<usize>,
}

/// A datagram that came by a path of another leg's trunk, where it is judged.
pub(crate) struct Carried {
    pub whole: Whole,
    pub second: bool,
    pub payload: Range<usize>,
}

/// A packet that no leg owns, until the batch's known ones are done.
pub(crate) struct Stranger {
    pub bytes: Range<usize>,
    pub from: SocketAddr,
    pub sock: u16,
    pub at: f64,
}

/// What went wrong on the way to this leg is told once until it was measured.
pub(crate) fn note_trouble(troubled: &mut Vec<u64>, leg: u64, trouble: &mut Trouble) {
    if *trouble == Trouble::New {
        *trouble = Trouble::Noted;
        troubled.push(leg);
    }
}

/// One thread's. `out` is what it shall send; `counters` what it counted since the last `Core::finish`.
pub struct Work {
    pub out: Outgoing,
    /// What shall leave by relayed addresses.
    pub leaving: Leaving,
    pub counters: Counters,
    /// This thread's bit in a leg's `listed`.
    pub(crate) bit: u64,
    /// The legs of the packets that `expect` saw, in their order.
    pub(crate) owners: Vec<Option<Arc<Leg>>>,
    pub(crate) ready: Vec<Arc<Leg>>,
    pub(crate) acks: BinaryHeap<Held>,
    /// Those of `acks` that are due.
    pub(crate) due: Vec<Held>,
    pub(crate) order: u64,
    pub(crate) scratch: Vec<u8>,
    pub(crate) parsed: Parsed,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) carried: Vec<Carried>,
    /// Copies for the next packet, each with when its time began.
    pub(crate) batch: Vec<(f64, Vec<u8>)>,
    pub(crate) pool: Pool,
    pub(crate) staged: Vec<Staged>,
    /// Legs that shall be measured.
    pub(crate) troubled: Vec<u64>,
    pub(crate) strangers: Vec<Stranger>,
    pub(crate) stranger_bytes: Vec<u8>,
    /// Where a front writes its answer.
    pub(crate) reply: Vec<u8>,
}

impl Work {
    /// `index`: below `MAX_WORKERS`, and no other living `Work` of this core has it.
    pub fn new(index: usize) -> Self {
        Self {
            out: Outgoing::default(),
            leaving: Leaving::default(),
            counters: Counters::default(),
            bit: 1 << (index % MAX_WORKERS),
            owners: Vec::new(),
            ready: Vec::new(),
            acks: BinaryHeap::new(),
            due: Vec::new(),
            order: 0,
            scratch: Vec::new(),
            parsed: Parsed::default(),
            deliveries: Vec::new(),
            carried: Vec::new(),
            batch: Vec::new(),
            pool: Pool::default(),
            staged: Vec::new(),
            troubled: Vec::new(),
            strangers: Vec::new(),
            stranger_bytes: Vec::new(),
            reply: Vec::new(),
        }
    }

    /// When the next held acknowledgement, or repeat in a pause, must leave.
    pub fn next_ack(&self) -> Option<f64> {
        self.acks.peek().map(|held| held.due)
    }

    /// Whether copies left since the last `settle_left`.
    pub fn has_left(&self) -> bool {
        !self.counters.left.is_empty()
    }

    /// Those that left are with the kernel now.
    pub fn settle_left(&mut self, now: f64) {
        let Counters {
            left, residence, ..
        } = &mut self.counters;
        left.settle(now, residence);
    }

    /// What was taken for a packet that is never sealed: nobody else's packet may take it along.
    pub(crate) fn abandon_batch(&mut self) {
        for (_, copy) in self.batch.drain(..) {
            self.counters.copies_sent = self.counters.copies_sent.wrapping_sub(1);
            self.counters.drop_out(Reason::Internal, 1);
            self.pool.give(copy);
        }
    }

    /// Something for the loop that is no packet, and no leg's share of the queues.
    pub(crate) fn stage_note(&mut self, item: Item) {
        self.staged.push(Staged::nobodys(item));
    }

    /// A packet of nobody for the loop.
    pub(crate) fn stage_packet(&mut self, item: Item) {
        self.counters.waiting = self.counters.waiting.wrapping_add(1);
        self.staged.push(Staged::nobodys(item));
    }

    /// A packet of a leg for the loop. `is_confirmed`: the leg's handshake is done.
    pub(crate) fn stage_known(
        &mut self,
        leg: Arc<Leg>,
        is_confirmed: bool,
        data: &[u8],
        from: SocketAddr,
        sock: u16,
        at: f64,
    ) {
        self.counters.waiting = self.counters.waiting.wrapping_add(1);
        let item = Item::Known {
            leg: leg.number,
            data: data.to_vec(),
            from,
            sock,
            at,
        };
        self.staged.push(Staged {
            item,
            leg: Some(leg),
            relay: None,
            is_half_open: !is_confirmed,
        });
    }

    /// All packets of nobody for the loop. They are counted in `waiting` already.
    pub(crate) fn stage_strangers(&mut self) {
        for stranger in self.strangers.drain(..) {
            let data = self.stranger_bytes.get(stranger.bytes);
            let item = Item::Unknown {
                data: data.unwrap_or_default().to_vec(),
                from: stranger.from,
                sock: stranger.sock,
                at: stranger.at,
            };
            self.staged.push(Staged::nobodys(item));
        }
        self.stranger_bytes.clear();
    }

    pub(crate) fn hold_ack(&mut self, due: f64, leg: Arc<Leg>) {
        self.hold(due, leg, Wait::Ack);
    }

    /// Look then whether something shall be repeated alone.
    pub(crate) fn await_pause(&mut self, due: f64, leg: Arc<Leg>) {
        self.hold(due, leg, Wait::Pause);
    }

    /// Look then whether what waits for the leg leaves.
    pub(crate) fn await_others(&mut self, due: f64, leg: Arc<Leg>) {
        self.hold(due, leg, Wait::Hold);
    }

    fn hold(&mut self, due: f64, leg: Arc<Leg>, wait: Wait) {
        self.order = self.order.wrapping_add(1);
        let order = self.order;
        self.acks.push(Held {
            due,
            order,
            leg,
            wait,
        });
    }
}
