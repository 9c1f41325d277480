//! What arrives: the packet path of running calls, what only aioquic can judge, and packets of nobody.
//!
//! ```text
//! first byte -> connection id -> the leg's path -> its routes -> the listeners' queues
//!                           |               `-> staged for the loop
//!                           `-> nobody's: judged when the batch's others are done
//! ```
//!
//! Must never live here: what leaves, and what Python changes.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::iter;
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::cid::Cid;
use crate::core::{contain, Core, Judge, Leg, Verdict};
use crate::counters::{bump, Counters};
use crate::flow::{Gap, Heard, Targets};
use crate::header::MAX_UDP;
use crate::path::Opened;
use crate::reason::Reason;
use crate::slow::{Item, Shown, Staged};
use crate::table::Media;
use crate::trunk::{Trunk, Whole, ROUTE_SIZE};
use crate::work::{note_trouble, Carried, Delivery, Stranger, Work};

/// A long header up to the length of the destination id, and one byte more.
const SHORTEST_LONG: usize = 7;
/// Packets whose ids are looked up together.
const AHEAD: usize = 16;
/// How many packets before its own a leg is asked for, and its listener: late enough that the lines of those
/// between still fit the nearest cache, early enough that memory has answered.
const LEG_AHEAD: usize = 4;
const LISTENER_AHEAD: usize = 2;

impl Core {
    /// These packets come next, in this order: look up whose they are, all at once, and have the legs on their
    /// way from memory while others are dealt with. `receive_next` for each of them.
    pub fn expect<'a>(&self, work: &mut Work, packets: impl Iterator<Item = &'a [u8]>) {
        let mut wanted = [None; AHEAD];
        let mut legs = [None; AHEAD];
        work.owners.clear();
        let ids = self.ids.read();
        let mut packets = packets.peekable();
        while packets.peek().is_some() {
            let mut count = 0_usize;
            for (id, data) in wanted.iter_mut().zip(&mut packets) {
                *id = destination(data);
                if let Some(id) = id {
                    ids.prefetch(id);
                }
                count = count.saturating_add(1);
            }
            for (leg, id) in legs.iter_mut().zip(&wanted).take(count) {
                *leg = id.as_ref().and_then(|id| ids.get(id));
                if let Some(leg) = leg {
                    leg.prefetch_head();
                }
            }
            let found = legs.iter().take(count).map(|leg| leg.cloned());
            work.owners.extend(found);
        }
    }

    /// Packet `index` of those that `expect` saw.
    pub fn receive_next(
        &self,
        work: &mut Work,
        index: usize,
        data: &[u8],
        from: SocketAddr,
        sock: u16,
        now: f64,
    ) {
        for leg in work
            .owners
            .get(index.saturating_add(LEG_AHEAD))
            .into_iter()
            .flatten()
        {
            leg.prefetch();
        }
        for leg in work
            .owners
            .get(index.saturating_add(LISTENER_AHEAD))
            .into_iter()
            .flatten()
        {
            leg.prefetch_listener();
        }
        let leg = work.owners.get_mut(index).and_then(Option::take);
        let packet = Arrival {
            data,
            from,
            sock,
            now,
        };
        work.counters.udp_in = work.counters.udp_in.wrapping_add(1);
        contain(work, None, |work, owner| {
            self.sort(work, packet, leg, owner)
        });
    }

    /// One UDP packet.
    pub fn receive(&self, work: &mut Work, data: &[u8], from: SocketAddr, sock: u16, now: f64) {
        self.expect(work, iter::once(data));
        self.receive_next(work, 0, data, from, sock, now);
    }

    fn sort(
        &self,
        work: &mut Work,
        packet: Arrival<'_>,
        leg: Option<Arc<Leg>>,
        owner: &mut Option<u64>,
    ) {
        let data = packet.data;
        let first = data.first().copied().unwrap_or(0);
        let is_long = first >= 0x80;
        if data.len() > MAX_UDP {
            return work.counters.drop(Reason::TooLarge);
        }
        let Arrival {
            from, sock, now, ..
        } = packet;
        if matches!(first, 0..=3 | 0x40..=0x4F) && self.receive_turn(work, data, from, sock, now) {
            return;
        }
        if first < 0x40 || (0x80..0xC0).contains(&first) || (is_long && data.len() < SHORTEST_LONG)
        {
            return work.counters.drop(Reason::Malformed);
        }
        let Some(leg) = leg else {
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
            Fast::Slow(leg.state.lock().path.slow_more())
        } else {
            self.open(work, &leg, packet, &mut scratch)
        };
        match opened {
            Fast::Settled => {}
            Fast::Media(plain) => self.deliver_all(work, plain, packet.now),
            Fast::Slow(is_confirmed) => {
                let Arrival {
                    from, sock, now, ..
                } = packet;
                work.stage_known(leg, is_confirmed, data, from, sock, now);
            }
        }
        work.scratch = scratch;
    }

    /// The leg that owns a packet's destination id.
    fn owner(&self, data: &[u8]) -> Option<Arc<Leg>> {
        let id = destination(data)?;
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
        let lost = path.lost();
        let is_ours = self.is_same_address(own_sock, packet.sock);
        let from = is_ours.then_some(packet.from);
        let opened = path.open(packet.data, from, now, scratch, &mut work.parsed);
        let plain = match opened {
            Opened::Slow => return Fast::Slow(path.slow_more()),
            Opened::Drop(reason) => {
                work.counters.drop(reason);
                return Fast::Settled;
            }
            Opened::Media(plain) => plain,
        };
        let counters = &mut work.counters;
        counters.media = counters.media.wrapping_add(1);
        counters.count_lost(path.lost().wrapping_sub(lost));
        if let Some(ring) = state.ring.as_mut().filter(|_| work.parsed.has_ack) {
            ring.acknowledged(&work.parsed.ack.ranges);
            ring.settle(&mut counters.repairs);
        }
        if own_sock != packet.sock {
            counters.wrong_lane = counters.wrong_lane.wrapping_add(1);
        }
        let waiting = match (&state.media, &state.trunk) {
            (Some(media), _) => media.waiting(),
            (None, trunk) => trunk.as_deref().map_or(0, Trunk::waiting),
        };
        // The window may have opened, and nothing else may come for this leg.
        if waiting > 0 && state.listed & work.bit == 0 {
            state.listed |= work.bit;
            work.ready.push(leg.clone());
        }
        let number = leg.number;
        let ack = &work.parsed.ack;
        if work.parsed.has_ack && path.outstanding && Shown::note(&mut state.shown, ack, now) {
            let empty = Item::Ack {
                leg: number,
                ranges: Vec::new(),
                delay: 0,
                at: now,
            };
            work.staged.push(Staged::note(empty, leg));
        }
        let head = head_size(&state.trunk);
        for range in &work.parsed.datagrams {
            let payload = plain.get(range.clone()).unwrap_or_default();
            if payload.first() == Some(&0) {
                if leg.notes.load(Ordering::Relaxed) >= self.config.notes_per_leg {
                    work.counters.lose_note();
                    continue;
                }
                leg.notes.fetch_add(1, Ordering::Relaxed);
                let item = Item::Control {
                    leg: number,
                    payload: payload.to_vec(),
                    at: now,
                };
                work.staged.push(Staged::note(item, leg));
            } else if let Some((whole, second)) = joined(&state.trunk) {
                work.carried.push(Carried {
                    whole,
                    second,
                    payload: range.clone(),
                });
            } else if let Ok(heard) = receive_media(
                &mut state.media,
                &mut state.trunk,
                payload,
                now,
                &mut work.counters,
            ) {
                if heard.is_mended {
                    path.worsened();
                }
                if let (Some(gap), Some(flow)) = (heard.gap, payload.first()) {
                    self.tell_gap(&mut work.counters, &mut work.staged, leg, *flow, gap);
                }
                work.deliveries.push(Delivery {
                    targets: heard.targets,
                    since: heard.since,
                    payload: range.start.saturating_add(head)..range.end,
                });
            }
        }
        if state.trunk.is_none() {
            note_trouble(&mut work.troubled, leg.number, &mut path.trouble);
        }
        // Looked at when it is due if nothing waits for aioquic then; else it is looked at again.
        let look = state.ack_look.unwrap_or(f64::INFINITY);
        if let Some(at) = path.ack_at.filter(|at| *at < look) {
            state.ack_look = Some(at);
            work.hold_ack(at, leg.clone());
        }
        Fast::Media(plain)
    }

    /// What is missing of a flow, for the loop, among the leg's control datagrams.
    fn tell_gap(
        &self,
        counters: &mut Counters,
        staged: &mut Vec<Staged>,
        leg: &Arc<Leg>,
        flow: u8,
        gap: Gap,
    ) {
        if leg.notes.load(Ordering::Relaxed) >= self.config.notes_per_leg {
            return counters.lose_note();
        }
        leg.notes.fetch_add(1, Ordering::Relaxed);
        let item = Item::Gap {
            leg: leg.number,
            flow,
            gap,
        };
        staged.push(Staged::note(item, leg));
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
            self.hand_out(work, &delivery.targets, payload, delivery.since, now);
        }
        work.deliveries = deliveries;
        let mut carried = mem::take(&mut work.carried);
        for one in carried.drain(..) {
            let payload = plain.get(one.payload).unwrap_or_default();
            let _ = self.deliver_joined(work, &one.whole, payload, one.second, now);
            // it is counted
        }
        work.carried = carried;
    }

    /// A datagram that came by a connection that joined a trunk: judged there, under that leg's lock alone.
    fn deliver_joined(
        &self,
        work: &mut Work,
        whole: &Whole,
        payload: &[u8],
        second: bool,
        now: f64,
    ) -> Result<(), Reason> {
        let heard = {
            let mut state = whole.leg.state.lock();
            let trunk = state.trunk.as_mut();
            match trunk.filter(|trunk| trunk.epoch == whole.epoch) {
                Some(trunk) => trunk.receive(payload, second, now, &mut work.counters),
                None => receive_media(&mut None, &mut None, payload, now, &mut work.counters),
            }
        }?;
        let payload = payload.get(ROUTE_SIZE..).unwrap_or_default();
        self.hand_out(work, &heard.targets, payload, heard.since, now);
        Ok(())
    }

    /// A panic over one listener is that listener's: neither the speaker nor the others pay for it.
    fn hand_out(&self, work: &mut Work, targets: &Targets, payload: &[u8], since: f64, now: f64) {
        for target in targets.iter() {
            contain(work, Some(target.leg.number), |work, _| {
                self.enqueue(work, target, payload, (since, now));
            });
        }
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
        let joins = owner
            .as_ref()
            .and_then(|owner| joined(&owner.state.lock().trunk));
        if let Some((whole, second)) = joins {
            let mut verdict = Err(Reason::Internal);
            contain(work, Some(leg), |work, _| {
                verdict = self.deliver_joined(work, &whole, payload, second, now);
            });
            return verdict;
        }
        let mut head = 0;
        let mut heard = Err(Reason::Internal);
        contain(work, Some(leg), |work, _| {
            let counters = &mut work.counters;
            let Some(owner) = &owner else {
                heard = receive_media(&mut None, &mut None, payload, now, counters);
                return;
            };
            let mut guard = owner.state.lock();
            let state = &mut *guard;
            head = head_size(&state.trunk);
            heard = receive_media(&mut state.media, &mut state.trunk, payload, now, counters);
            if state.has_path && heard.as_ref().is_ok_and(|heard| heard.is_mended) {
                state.path.worsened();
                note_trouble(&mut work.troubled, leg, &mut state.path.trouble);
            }
            let gap = heard.as_ref().ok().and_then(|heard| heard.gap);
            if let (Some(gap), Some(flow), true) = (gap, payload.first(), state.has_path) {
                self.tell_gap(&mut work.counters, &mut work.staged, owner, *flow, gap);
            }
        });
        let heard = heard?;
        let payload = payload.get(head..).unwrap_or_default();
        self.hand_out(work, &heard.targets, payload, heard.since, now);
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
            let is_confirmed = leg.state.lock().path.slow_more();
            return work.stage_known(leg, is_confirmed, data, from, sock, at);
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
}

/// A packet's destination id. Short headers have one of ours, of eight bytes.
#[inline]
fn destination(data: &[u8]) -> Option<Cid> {
    let (start, size) = match data {
        [0..0x80, ..] => (1, 8),
        [_, _, _, _, _, size, ..] => (6, usize::from(*size)),
        _ => return None,
    };
    let rest = data.get(start..)?;
    Cid::new(rest.get(..size).unwrap_or(rest))
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
    /// For aioquic; the leg's handshake is done, or not.
    Slow(bool),
}

/// Bytes of a datagram before what reads as one of a leg.
fn head_size(trunk: &Option<Box<Trunk>>) -> usize {
    trunk.as_ref().map_or(0, |_| ROUTE_SIZE)
}

/// The trunk that this connection joined, and which path of it that is.
fn joined(trunk: &Option<Box<Trunk>>) -> Option<(Whole, bool)> {
    let trunk = trunk.as_deref()?;
    Some((trunk.of.clone()?, trunk.second))
}

fn receive_media(
    media: &mut Option<Media>,
    trunk: &mut Option<Box<Trunk>>,
    payload: &[u8],
    now: f64,
    counters: &mut Counters,
) -> Result<Heard, Reason> {
    if let Some(media) = media {
        return media.receive(payload, now, counters);
    }
    if let Some(trunk) = trunk {
        return trunk.receive(payload, trunk.second, now, counters);
    }
    counters.media_in = counters.media_in.wrapping_add(1);
    bump(&mut counters.media_dropped, Reason::UnknownFlow, 1);
    Err(Reason::UnknownFlow)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::core::CoreConfig;
    use crate::table::Rights;

    const PLENTY: Rights = Rights {
        pps: 1000,
        up_bps: 1_000_000,
        down_bps: 1_000_000,
    };

    /// Legs 2, 3 and 4 hear flow 1 of leg 1; a bug of ours broke leg 3.
    fn broken() -> Core {
        let core = Core::new(CoreConfig::default());
        (1..=4).for_each(|leg| core.open_leg(leg, PLENTY));
        core.open_flow(1, 1, 0, false).unwrap();
        core.route(1, 1, &[(2, 5), (3, 5), (4, 5)], None).unwrap();
        let leg = core.legs.read()[&3].clone();
        leg.state.lock().media.as_mut().unwrap().corrupt();
        core
    }

    fn voice() -> Vec<u8> {
        [&[1, 0x40, 0x09, 1], &[9; 60][..]].concat()
    }

    /// What is left: a note about leg 3, and copies for the two others.
    fn check(core: &Core, work: &mut Work) {
        assert!(matches!(
            work.staged[..],
            [Staged {
                item: Item::Broken { leg: 3 },
                ..
            }]
        ));
        core.finish(work);
        let counters = core.counters();
        assert_eq!((counters.copies, counters.queued), (3, 2));
        assert_eq!(counters.dropped_out[Reason::Internal as usize], 1);
        assert_eq!(
            (counters.media_missing(), counters.packets_missing()),
            ((0, 0), 0)
        );
    }

    #[test]
    fn a_panic_over_a_listener_is_charged_to_it_and_the_others_hear() {
        let core = broken();
        let mut work = Work::new(0);
        let leg = core.legs.read()[&1].clone();
        let plain = voice();
        let heard = {
            let state = &mut *leg.state.lock();
            receive_media(
                &mut state.media,
                &mut state.trunk,
                &plain,
                1.0,
                &mut work.counters,
            )
        };
        let heard = heard.unwrap();
        work.deliveries.push(Delivery {
            targets: heard.targets,
            since: heard.since,
            payload: 0..plain.len(),
        });
        contain(&mut work, Some(1), |work, _| {
            core.deliver_all(work, &plain, 1.0)
        });
        check(&core, &mut work);
    }

    #[test]
    fn so_it_is_when_the_datagram_came_through_aioquic() {
        let core = broken();
        let mut work = Work::new(0);
        assert_eq!(core.deliver(&mut work, 1, &voice(), 1.0), Ok(()));
        check(&core, &mut work);
    }
}
