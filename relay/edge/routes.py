"""Who hears what: media datagrams from uplink flows to listeners' queues, in plain Python.

    deliver: size -> flow -> version -> budget -> sender -> duplicate -> gate -> one copy per listener
    dequeue: oldest first, at most 5 frames per flow, none older than 100 ms (both from the config);
             5 KiB in all wait for one leg: a path that takes nothing costs no more than one that works;
             of a leg on a stream 10 frames, 200 ms and 10 KiB

Half of the twin of the native lane (relay/lane/src/table.rs), `lane_py` has the packets. Pure: no socket, no
clock. Must never live here: encryption, or a reason for a gate to be open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from relay.config import LimitsConfig
from relay.core.events import FlowCounters, Shape
from relay.core.reasons import DropReason
from relay.core.spread import RESIDENCE, Spread
from relay.edge.bucket import Bucket
from relay.edge.lane import LaneCounters
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import media
from relay.protocol.nack import SPAN
from relay.protocol.repair import reference

QUEUE_BYTES = 5 * 1024  # waiting for one leg, as below: 26 copies of voice; or more, for one flow's frames
ROOMS = (192, 448, media.MAX_SIZE)  # what a copy counts as: the buffers of the native lane
WINDOW = 128  # replay window per (flow, KID), in packets
USUAL_STEP = 0.020  # s of speech in one packet, until the flow has shown it
LONGEST_STEP = 0.070  # what comes later than that was preceded by a pause
STEP_OVER = 8  # packets over which it is averaged
_WINDOW_MASK = (1 << WINDOW) - 1
_UNREADABLE = {ErrorCode.VERSION: DropReason.BAD_VERSION, ErrorCode.TOO_LARGE: DropReason.TOO_LARGE}


class _Seen:
    """Replay window of one key: highest counter and a bit per packet below it."""

    __slots__ = ("bits", "first", "highest", "unique")

    def __init__(self, ctr: int) -> None:
        self.first = ctr
        self.highest = ctr
        self.bits = 1
        self.unique = 1

    def mark(self, ctr: int) -> bool:
        """True when `ctr` is new; False when it was seen or is too old to tell."""
        ahead = ctr - self.highest
        if ahead > 0:
            self.bits = ((self.bits << ahead) | 1) & _WINDOW_MASK if ahead < WINDOW else 1
            self.highest = ctr
        else:
            if ahead <= -WINDOW:
                return False
            bit = 1 << -ahead
            if self.bits & bit:
                return False
            self.bits |= bit
            self.first = min(self.first, ctr)
        self.unique += 1
        return True

    @property
    def missing(self) -> int:
        """Bit i, of 16: highest - 1 - i has not come."""
        return ~(self.bits >> 1) & ((1 << min(SPAN, self.highest - self.first)) - 1)

    @property
    def lost(self) -> int:
        return self.highest - self.first + 1 - self.unique


class _Pace:
    """When the packets of a flow would have come if none had been late: for those that came as repeats."""

    __slots__ = ("_at", "_kid", "_newest", "_step")

    def __init__(self) -> None:
        self._kid = -1
        self._newest = 0
        self._at = 0.0  # when that came, or would have
        self._step = USUAL_STEP

    def on_packet(self, kid: int, ctr: int, is_repeat: bool, now: float) -> float:
        """One that is new came; since when its time runs, as `repair.reference` has it."""
        if kid != self._kid:
            self._kid, self._newest, self._at = kid, ctr, now
            return now
        ahead = ctr - self._newest
        if ahead < 0:
            return reference(now, self._at if is_repeat else None, -ahead, self._step)
        since = min(now, self._at + ahead * self._step) if is_repeat else now
        if not is_repeat and ahead and now - self._at <= LONGEST_STEP * ahead:
            self._step += (max(0.0, (now - self._at) / ahead) - self._step) / STEP_OVER
        self._newest, self._at = ctr, since
        return since


def room_of(size: int) -> int:
    """What a copy of so many bytes takes: the buffer that holds it in the native lane."""
    return next((room for room in ROOMS if size <= room), size)


class _QueueLimits(NamedTuple):
    frames: int  # of one flow
    seconds: float
    bytes: int  # of one leg, as `room_of` counts


def _queue_limits(frames: int, milliseconds: int) -> _QueueLimits:
    return _QueueLimits(frames, milliseconds / 1000, max(QUEUE_BYTES, frames * media.MAX_SIZE))


class _Flow:
    __slots__ = (
        "_latest",
        "_lost",
        "accepted",
        "closed",
        "copies",
        "dropped",
        "first",
        "group",
        "index",
        "mended",
        "pace",
        "received",
        "seen",
        "targets",
        "watched",
    )

    def __init__(self, index: int, group: bool, watched: bool) -> None:
        self.index = index
        self.group = group
        self.watched = watched
        self.targets: tuple[tuple[_Leg, int], ...] = ()
        self.closed = DropReason.GATE_CLOSED
        self.seen: dict[int, _Seen] = {}
        self.pace = _Pace()
        self.received = 0
        self.accepted = 0
        self.mended = 0
        self.copies = 0
        self.first: float | None = None
        self.dropped: dict[DropReason, int] = {}
        self._latest = -1
        self._lost = 0

    def is_new(self, kid: int, ctr: int) -> bool:
        """Mark (kid, ctr) as seen; False when it was before. At most 8 key ids carry the flow's own index."""
        seen = self.seen.get(kid)
        fresh = seen is None or seen.mark(ctr)
        if seen is None or (not fresh and kid != self._latest and ctr <= seen.highest - WINDOW):
            # A first packet, or the epoch bits came round again: a new key counts from 0.
            self._lost += seen.lost if seen else 0
            self.seen[kid] = _Seen(ctr)
            fresh = True
        if fresh:
            self._latest = kid
        return fresh

    @property
    def lost(self) -> int:
        """Packets that never came, from the gaps in the counters of each key."""
        return self._lost + sum(seen.lost for seen in self.seen.values())


class _Copy(NamedTuple):
    arrived: float
    since: float  # when the time of its packet began to run
    data: bytes


class _Leg:
    __slots__ = ("down", "flows", "held", "number", "packets", "queues", "shape", "up", "waiting")

    def __init__(self, number: int, packets: Bucket, up: Bucket, down: Bucket) -> None:
        self.number = number
        self.flows: dict[int, _Flow] = {}
        self.queues: dict[int, deque[_Copy]] = {}
        self.shape = Shape()
        self.waiting = 0  # copies in all queues
        self.held = 0  # bytes that they take
        self.packets = packets
        self.up = up
        self.down = down


class Routes:
    """Legs, flows and queues. See `relay.edge.lane.Lane` for the contract of each method."""

    def __init__(self, limits: LimitsConfig | None = None) -> None:
        self._shedding: frozenset[int] = frozenset()
        limits = limits or LimitsConfig()
        self._queue = _queue_limits(limits.queue_frames, limits.queue_ms)
        self._stream_queue = _queue_limits(limits.queue_tcp_frames, limits.queue_tcp_ms)
        self._burst_seconds = limits.burst_ms / 1000
        self.counters = LaneCounters()
        self.residence = Spread(RESIDENCE)
        self._legs: dict[int, _Leg] = {}
        self._ready: dict[int, None] = {}
        self._streams: dict[int, bool] = {}  # legs without a path: whether the loop was told of what waits

    def open_leg(self, leg: int, *, pps: int, up_bps: int, down_bps: int) -> None:
        burst = self._burst_seconds
        packets = (pps, max(pps * burst, 10))
        up = (up_bps / 8, max(up_bps / 8 * burst, media.MAX_SIZE))
        down = (down_bps / 8, max(down_bps / 8 * burst, 2 * media.MAX_SIZE))
        known = self._legs.get(leg)
        if known is None:
            self._legs[leg] = _Leg(leg, Bucket(*packets), Bucket(*up), Bucket(*down))
        else:  # new rights in mid-call: a full bucket for each would be a way around the budget; flows stay
            known.packets.change(*packets)
            known.up.change(*up)
            known.down.change(*down)

    def close_leg(self, leg: int) -> None:
        gone = self._legs.pop(leg, None)
        if gone is None:
            return
        self._ready.pop(leg, None)
        waiting, gone.waiting, gone.held = gone.waiting, 0, 0
        gone.queues.clear()
        self.counters.queued -= waiting
        self.counters.dropped_out[DropReason.PEER_GONE] += waiting
        for flow in gone.flows.values():
            self._silence(flow)

    def open_flow(self, leg: int, flow: int, *, index: int, group: bool, watched: bool = False) -> None:
        flows = self._leg(leg).flows
        replaced = flows.get(flow)
        flows[flow] = _Flow(index, group, watched)
        if replaced is not None:
            self._silence(replaced)

    def close_flow(self, leg: int, flow: int) -> FlowCounters:
        owner = self._legs.get(leg)
        gone = owner.flows.pop(flow, None) if owner else None
        if gone is None:
            return FlowCounters()
        self._silence(gone)
        return FlowCounters(
            received=gone.received,
            accepted=gone.accepted,
            copies=gone.copies,
            lost=gone.lost,
            mended=gone.mended,
            dropped=gone.dropped,
            first=gone.first,
        )

    def shed(self, classes: Collection[int]) -> None:
        self._shedding = frozenset(classes)

    def shape(self, leg: int, shape: Shape) -> None:
        owner = self._legs.get(leg)
        if owner is not None:
            owner.shape = shape

    def held_until(self, leg: int) -> float | None:
        """Until when what waits for the leg waits for what may share its packet; None: for nothing."""
        owner = self._legs.get(leg)
        if owner is None or owner.shape.hold <= 0:
            return None
        wanted = len(owner.queues) * owner.shape.frames
        oldest = self.oldest(leg)
        return None if oldest is None or owner.waiting >= wanted else oldest + owner.shape.hold

    def flowing(self, flows: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[float, int]]:
        found = {}
        for key in flows:
            owner = self._legs.get(key[0])
            flow = owner.flows.get(key[1]) if owner is not None else None
            if flow is not None and flow.first is not None:
                found[key] = flow.first, flow.accepted
        return found

    def route(
        self, leg: int, flow: int, targets: Sequence[tuple[int, int]], closed: DropReason | None
    ) -> None:
        owner = self._legs.get(leg)
        uplink = owner.flows.get(flow) if owner else None
        if uplink is None:
            raise LocalError(f"route for a flow that is not open: leg {leg} flow {flow}")
        before, uplink.targets = uplink.targets, ()
        uplink.closed = closed or DropReason.GATE_CLOSED
        try:
            uplink.targets = tuple((self._leg(number), out) for number, out in targets)
        finally:  # without one of the legs nobody hears it: those before may be the ones who shall not
            for listener, out in before:
                if (listener, out) not in uplink.targets:
                    self._purge(listener, out, uplink.closed)

    def _silence(self, flow: _Flow) -> None:
        """The flow is over: what waits of it never leaves."""
        for listener, out in flow.targets:
            self._purge(listener, out, DropReason.GATE_CLOSED)

    def _purge(self, listener: _Leg, out: int, reason: DropReason) -> None:
        """Copies that wait for someone who may no longer hear them never leave."""
        copies = listener.queues.pop(out, ())
        waiting = len(copies)
        listener.held -= sum(room_of(len(copy.data)) for copy in copies)
        if waiting and self._legs.get(listener.number) is listener:
            listener.waiting -= waiting
            self.counters.queued -= waiting
            self.counters.dropped_out[reason] += waiting

    def deliver(self, leg: int, payload: bytes, now: float) -> DropReason | None:
        counters = self.counters
        counters.media_in += 1
        owner = self._legs.get(leg)
        flow = owner.flows.get(payload[0]) if owner is not None and payload else None
        if owner is None or flow is None:
            counters.dropped[DropReason.UNKNOWN_FLOW] += 1
            return DropReason.UNKNOWN_FLOW
        flow.received += 1
        judged = self._weigh(owner, flow, payload, now)
        if isinstance(judged, DropReason):
            counters.dropped[judged] += 1
            flow.dropped[judged] = flow.dropped.get(judged, 0) + 1
            return judged
        flow.accepted += 1
        if flow.first is None:
            flow.first = now
        counters.accepted += 1
        since = flow.pace.on_packet(judged.kid, judged.ctr, judged.repeat, now)
        if judged.repeat:
            flow.mended += 1
            self._mended(leg)
        if flow.watched:
            seen = flow.seen[judged.kid]
            missing = seen.missing
            if missing:
                self._gap(leg, payload[0], judged.kid, seen.highest, missing)
        for listener, out in flow.targets:
            try:
                self._enqueue(listener, out, media.with_flow(payload, out, False), since, now)
            except Exception as error:  # a bug of ours: neither the speaker nor the others pay for it
                self._blame(listener.number, error)
        flow.copies += len(flow.targets)
        return None

    def _weigh(self, owner: _Leg, flow: _Flow, payload: bytes, now: float) -> media.MediaHeader | DropReason:
        size = len(payload)
        try:
            header = media.decode(payload)
        except PeerError as error:
            return _UNREADABLE.get(error.code, DropReason.MALFORMED)
        kid, ctr = header.kid, header.ctr
        if not owner.packets.take(1, now) or not owner.up.take(size, now):
            return DropReason.OVER_BUDGET
        if media.index_of(kid, flow.group) != flow.index:
            return DropReason.WRONG_SENDER
        if not flow.targets:
            return flow.closed
        return header if flow.is_new(kid, ctr) else DropReason.DUPLICATE

    def _mended(self, leg: int) -> None:
        """What the leg had lost on its way up came as a repeat."""

    def _gap(self, leg: int, flow: int, kid: int, newest: int, missing: int) -> None:
        """Packets before the newest of a watched flow have not come."""

    def _enqueue(self, listener: _Leg, out: int, copy: bytes, since: float, now: float) -> None:
        counters = self.counters
        counters.copies += 1
        if self._legs.get(listener.number) is not listener:
            counters.dropped_out[DropReason.PEER_GONE] += 1
            return
        if self._shedding and copy[1] >> media.PP_SHIFT & 3 in self._shedding:
            counters.dropped_out[DropReason.SHED] += 1
            return
        if not listener.shape.redundancy and copy[1] >> media.PP_SHIFT & 3 == media.PP_REDUNDANT:
            counters.dropped_out[DropReason.NOT_WANTED] += 1
            return
        queue = listener.queues.get(out)
        if queue is None:
            queue = listener.queues[out] = deque()
        is_told = self._streams.get(listener.number)
        limits = self._queue if is_told is None else self._stream_queue
        room = room_of(len(copy))
        while len(queue) >= limits.frames or listener.held + room > limits.bytes:
            counters.dropped_out[DropReason.QUEUE_FULL] += 1
            if not queue:  # other flows have it all, and the path takes nothing
                break
            oldest = queue.popleft().data
            counters.queued -= 1
            listener.waiting -= 1
            listener.held -= room_of(len(oldest))
        else:
            counters.queued += 1
            listener.waiting += 1
            listener.held += room
            queue.append(_Copy(now, since, copy))
        if is_told is None:
            self._ready[listener.number] = None
            if len(queue) >= limits.frames or listener.held + room > limits.bytes:
                self._full(listener.number, now)
        elif not is_told:
            self._streams[listener.number] = True
            self._announce(listener.number)

    def _announce(self, leg: int) -> None:
        """The loop must be told that copies wait for a leg without a path."""

    def _full(self, leg: int, now: float) -> None:
        """A queue of the leg is full: the last chance to empty it before copies are dropped."""

    def _blame(self, leg: int, error: Exception) -> None:
        """Something raised that never should, over this leg: what it left uncounted is `internal`."""
        inward, outward = self.counters.missing()
        if inward:
            self.counters.dropped[DropReason.INTERNAL] += inward
        if outward:
            self.counters.dropped_out[DropReason.INTERNAL] += outward

    def take_ready(self) -> list[int]:
        """Legs that got copies since the last call."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def dequeue(self, leg: int, now: float, room: int = media.MAX_SIZE) -> bytes | None:
        """The next copy for the leg that is still worth sending and fits `room` bytes, or None."""
        taken = self.take_copy(leg, now, room)
        return taken and taken[1]

    def take_copy(self, leg: int, now: float, room: int = media.MAX_SIZE) -> tuple[float, bytes] | None:
        """As `dequeue`, with when the time of its packet began to run."""
        owner = self._legs.get(leg)
        if owner is None:
            return None
        counters = self.counters
        limits = self._stream_queue if leg in self._streams else self._queue
        for queue in owner.queues.values():
            while queue and len(queue[0].data) <= room:
                arrived, since, copy = queue.popleft()
                counters.queued -= 1
                owner.waiting -= 1
                owner.held -= room_of(len(copy))
                if now - arrived > limits.seconds:
                    counters.dropped_out[DropReason.STALE] += 1
                elif not owner.down.take(len(copy), now):
                    counters.dropped_out[DropReason.OVER_BUDGET] += 1
                else:
                    counters.sent += 1
                    self.residence.add(now - arrived)
                    return since, copy
        return None

    def charge(self, leg: int, size: int, now: float) -> bool:
        """Whether the leg's rights allow so many more bytes down; then they are used."""
        owner = self._legs.get(leg)
        return owner is not None and owner.down.take(size, now)

    def mended(self, leg: int) -> int:
        """Packets of the leg's own that came as repeats alone, on flows that are open."""
        owner = self._legs.get(leg)
        return 0 if owner is None else sum(flow.mended for flow in owner.flows.values())

    def oldest(self, leg: int) -> float | None:
        """When the oldest copy that waits for the leg came."""
        owner = self._legs.get(leg)
        queues = owner.queues.values() if owner is not None else ()
        return min((queue[0].arrived for queue in queues if queue), default=None)

    def open_stream(self, leg: int) -> None:
        self._streams[leg] = False

    def close_path(self, leg: int) -> None:
        self._streams.pop(leg, None)

    def drain(self, leg: int, now: float, room: int) -> list[bytes]:
        is_stream = leg in self._streams
        if not is_stream and not self._is_moving(leg):
            return []
        copies: list[bytes] = []
        try:
            while room > 0 and (copy := self.dequeue(leg, now)) is not None:
                copies.append(copy)
                room -= len(copy)
        except Exception as error:  # a bug of ours: it costs this leg
            self._blame(leg, error)
        if is_stream and not copies:
            self._streams[leg] = False
        return copies

    def _is_moving(self, leg: int) -> bool:
        """The leg has a path that carried and does not now."""
        return False

    def queue_depth(self, leg: int) -> int:
        """Copies waiting for the leg."""
        owner = self._legs.get(leg)
        return owner.waiting if owner is not None else 0

    def _leg(self, leg: int) -> _Leg:
        try:
            return self._legs[leg]
        except KeyError:
            raise LocalError(f"no such leg: {leg}") from None
