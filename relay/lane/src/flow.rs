//! One uplink flow: whose it is, who hears it, and which of its packets came.
//!
//! Must never live here: budgets, queues, and who may be heard.

use std::mem::size_of;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

use crate::core::Leg;
use crate::counters::ByReason;
use crate::few::{heap, Few};
use crate::media::{index_of, Header};
use crate::reason::Reason;
use crate::window::Seen;

/// A listener of a flow: the leg, which of its lives (numbers may be used again), and the flow number there; or a
/// trunk, and the route that its other end gave.
pub struct Target {
    pub leg: Arc<Leg>,
    pub epoch: u64,
    pub out: u16,
    /// 0 while the route stands, else 1 + the reason why it ended. Each list of a flow's listeners has the same
    /// `Target` as long as the route stands: a thread that read any of them before the route ended sees this
    /// under the listener's lock, or a copy would pass a gate that is closed.
    ended: AtomicU8,
}

impl Target {
    pub fn new(leg: Arc<Leg>, epoch: u64, out: u16) -> Self {
        Self {
            leg,
            epoch,
            out,
            ended: AtomicU8::new(0),
        }
    }

    pub fn is_same(&self, other: &Target) -> bool {
        Arc::ptr_eq(&self.leg, &other.leg) && self.epoch == other.epoch && self.out == other.out
    }

    /// Its flow number at a leg, where there are none above this.
    pub fn flow(&self) -> u8 {
        self.out as u8
    }

    /// To be called before the listener's queue is purged.
    pub fn end(&self, reason: Reason) {
        self.ended
            .store((reason as u8).saturating_add(1), Ordering::Release);
    }

    pub fn ended(&self) -> Option<Reason> {
        let ended = usize::from(self.ended.load(Ordering::Acquire));
        Reason::ALL.get(ended.checked_sub(1)?).copied()
    }
}

/// Who hears a flow.
pub type Targets = Arc<[Arc<Target>]>;

/// What becomes of a datagram that was accepted.
pub struct Heard {
    pub targets: Targets,
    /// Since when its time runs: one that came as a repeat has used up some of it on the way here.
    pub since: f64,
    /// It came as a repeat, since the original was lost.
    pub is_mended: bool,
    /// Of a watched flow: what is missing now, if anything.
    pub gap: Option<Gap>,
}

/// Packets of a watched flow that have not come; bit i of `missing`: `newest - 1 - i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub kid: u8,
    pub newest: u32,
    pub missing: u16,
}

/// What was counted for one uplink flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowCounters {
    pub received: u64,
    pub accepted: u64,
    pub copies: u64,
    pub lost: u64,
    pub dropped: ByReason,
    /// Of the accepted: they came as repeats, since the originals were lost.
    pub mended: u64,
    /// When the first one was copied to a listener.
    pub first: Option<f64>,
}

/// Seconds of speech in one packet, until the flow has shown it.
const USUAL_STEP: f64 = 0.020;
/// Seconds: what comes later than that was preceded by a pause.
const LONGEST_STEP: f64 = 0.070;
/// Packets over which it is averaged.
const STEP_OVER: f64 = 8.0;

/// When the packets of a flow would have come if none had been late: for those that came as repeats.
struct Pace {
    kid: Option<u8>,
    newest: u32,
    /// When that came, or would have.
    at: f64,
    step: f64,
}

impl Pace {
    /// One that is new came; since when its time runs, as `reference` of relay/protocol/repair.py has it.
    fn on_packet(&mut self, header: &Header, now: f64) -> f64 {
        let ctr = header.ctr;
        if self.kid != Some(header.kid) {
            (self.kid, self.newest, self.at) = (Some(header.kid), ctr, now);
            return now;
        }
        let ahead = f64::from(ctr) - f64::from(self.newest);
        if ahead < 0.0 {
            let since = self.at - -ahead * self.step;
            return if header.repeat {
                f64::min(now, since)
            } else {
                now
            };
        }
        let mut since = now;
        if header.repeat {
            since = f64::min(now, self.at + ahead * self.step);
        } else if ahead > 0.0 && now - self.at <= LONGEST_STEP * ahead {
            self.step += (f64::max(0.0, (now - self.at) / ahead) - self.step) / STEP_OVER;
        }
        (self.newest, self.at) = (ctr, since);
        since
    }
}

/// An uplink flow of a leg.
pub struct Flow {
    index: u32,
    group: bool,
    watched: bool,
    targets: Targets,
    closed: Reason,
    /// At most 8 key ids carry the flow's own index.
    seen: Few<(u8, Seen), 1>,
    latest: Option<u8>,
    pace: Pace,
    counted: Counted,
}

/// What a flow counts, as small as may be: it lies in the leg itself.
struct Counted {
    accepted: u64,
    copies: u64,
    /// Of keys that are over.
    lost: u64,
    mended: u64,
    /// Infinite: none was heard.
    first: f64,
    /// At 50 a second they last for two years.
    dropped: [u32; Reason::COUNT],
}

impl Flow {
    /// Of participant `index`; nobody hears it until `route`.
    pub fn new(index: u32, group: bool) -> Self {
        Self {
            index,
            group,
            watched: false,
            targets: Arc::new([]),
            closed: Reason::GateClosed,
            seen: Few::new(),
            latest: None,
            pace: Pace {
                kid: None,
                newest: 0,
                at: 0.0,
                step: USUAL_STEP,
            },
            counted: Counted {
                accepted: 0,
                copies: 0,
                lost: 0,
                mended: 0,
                first: f64::INFINITY,
                dropped: [0; Reason::COUNT],
            },
        }
    }

    /// Tell of gaps from now on.
    pub fn watch(&mut self) {
        self.watched = true;
    }

    pub fn targets(&self) -> Targets {
        self.targets.clone()
    }

    /// Other listeners from now on; those before. `closed`: why, when there are none.
    pub fn route(&mut self, targets: Targets, closed: Reason) -> Targets {
        self.closed = closed;
        std::mem::replace(&mut self.targets, targets)
    }

    /// Who hears a datagram with this header, and since when its time runs: the sender's own, the gate open,
    /// and not heard before.
    pub fn admit(&mut self, header: &Header, now: f64) -> Result<Heard, Reason> {
        if u32::from(index_of(header.kid, self.group)) != self.index {
            return Err(Reason::WrongSender);
        }
        if self.targets.is_empty() {
            return Err(self.closed);
        }
        if !self.is_new(header.kid, header.ctr) {
            return Err(Reason::Duplicate);
        }
        Ok(Heard {
            targets: self.targets.clone(),
            since: self.pace.on_packet(header, now),
            is_mended: header.repeat,
            gap: self.gap(header.kid),
        })
    }

    /// A datagram of this flow came, and this became of it.
    pub fn count(&mut self, verdict: &Result<Heard, Reason>, now: f64) {
        let counters = &mut self.counted;
        match verdict {
            Ok(heard) => {
                counters.accepted = counters.accepted.wrapping_add(1);
                counters.mended = counters.mended.wrapping_add(heard.is_mended.into());
                counters.copies = counters.copies.wrapping_add(heard.targets.len() as u64);
                if counters.first == f64::INFINITY {
                    counters.first = now;
                }
            }
            Err(reason) => {
                if let Some(known) = counters.dropped.get_mut(*reason as usize) {
                    *known = known.wrapping_add(1);
                }
            }
        }
    }

    fn gap(&self, kid: u8) -> Option<Gap> {
        if !self.watched {
            return None;
        }
        let (_, seen) = self.seen.iter().find(|known| known.0 == kid)?;
        let missing = seen.missing();
        (missing != 0).then_some(Gap {
            kid,
            newest: seen.highest,
            missing,
        })
    }

    /// Packets that came as repeats alone.
    pub fn mended(&self) -> u64 {
        self.counted.mended
    }

    /// Since when somebody hears it, and how many datagrams.
    pub fn heard(&self) -> Option<(f64, u64)> {
        Some((self.counted.first, self.counted.accepted)).filter(|(first, _)| first.is_finite())
    }

    /// Datagrams that somebody heard.
    pub fn accepted(&self) -> u64 {
        self.counted.accepted
    }

    /// The key that is spoken with, and what came of it; None: nothing did.
    pub fn newest(&self) -> Option<(u8, &Seen)> {
        let latest = self.latest?;
        let (kid, seen) = self.seen.iter().find(|known| known.0 == latest)?;
        Some((*kid, seen))
    }

    /// All that was counted.
    pub fn counters(&self) -> FlowCounters {
        let counted = &self.counted;
        let dropped = counted.dropped.map(u64::from);
        FlowCounters {
            received: dropped
                .iter()
                .fold(counted.accepted, |sum, count| sum.wrapping_add(*count)),
            accepted: counted.accepted,
            copies: counted.copies,
            lost: self.lost(),
            dropped,
            mended: counted.mended,
            first: Some(counted.first).filter(|first| first.is_finite()),
        }
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap(&self) -> usize {
        heap(&self.seen) + (size_of::<Arc<Target>>() + size_of::<Target>()) * self.targets.len()
    }

    /// Mark (kid, ctr) as seen; false when it was before.
    fn is_new(&mut self, kid: u8, ctr: u32) -> bool {
        let Some((_, seen)) = self.seen.iter_mut().find(|known| known.0 == kid) else {
            self.seen.push((kid, Seen::new(ctr)));
            self.latest = Some(kid);
            return true;
        };
        let mut is_fresh = seen.mark(ctr);
        if !is_fresh && self.latest != Some(kid) && seen.is_past(ctr) {
            // The epoch bits came round again: a new key counts from 0.
            self.counted.lost = self.counted.lost.wrapping_add(seen.lost());
            *seen = Seen::new(ctr);
            is_fresh = true;
        }
        if is_fresh {
            self.latest = Some(kid);
        }
        is_fresh
    }

    /// Packets that never came, from the gaps in the counters of each key.
    pub fn lost(&self) -> u64 {
        self.seen.iter().fold(self.counted.lost, |sum, (_, seen)| {
            sum.wrapping_add(seen.lost())
        })
    }
}
