"""Who hears what: media datagrams from uplink flows to listeners' queues, in plain Python.

    deliver: size -> flow -> version -> budget -> sender -> duplicate -> gate -> one copy per listener
    dequeue: oldest first, at most 5 frames per flow, none older than 100 ms (both from the config);
             5 KiB in all wait for one leg: a path that takes nothing costs no more than one that works;
             of a leg on a stream 10 frames, 200 ms and 10 KiB
    trunks:  the same from and to another node, by routes in the place of flows (trunk_line.py)

Half of the twin of the native lane (relay/lane/src/table.rs), `lane_py` has the packets. Pure: no socket, no
clock. Must never live here: encryption, or a reason for a gate to be open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from relay.config import LimitsConfig
from relay.core.events import FlowCounters, RouteCount, Shape
from relay.core.reasons import DropReason
from relay.core.spread import RESIDENCE, Spread
from relay.edge.bucket import Bucket
from relay.edge.flow import Flow, unreadable, uplink_budgets
from relay.edge.lane import LaneCounters
from relay.edge.room import room_of
from relay.edge.trunk_line import ROUTE_SIZE, Leaves, Route, Trunk
from relay.errors import LocalError, PeerError
from relay.protocol import media
from relay.protocol.trunk import MAX_ROUTE, MIN_ROUTE

QUEUE_BYTES = 5 * 1024  # waiting for one leg, as below: 26 copies of voice; or more, for one flow's frames


class _QueueLimits(NamedTuple):
    frames: int  # of one flow
    seconds: float
    bytes: int  # of one leg, as `room_of` counts


def _queue_limits(frames: int, milliseconds: int) -> _QueueLimits:
    return _QueueLimits(frames, milliseconds / 1000, max(QUEUE_BYTES, frames * media.MAX_SIZE))


class _Copy(NamedTuple):
    arrived: float
    since: float  # when the time of its packet began to run
    data: bytes


class _Leg:
    __slots__ = ("down", "flows", "held", "number", "packets", "queues", "shape", "up", "waiting")

    def __init__(self, number: int, packets: Bucket, up: Bucket, down: Bucket) -> None:
        self.number = number
        self.flows: dict[int, Flow] = {}
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
        self._trunks: dict[int, Trunk] = {}  # no number is in both
        self._ready: dict[int, None] = {}
        self._streams: dict[int, bool] = {}  # legs without a path: whether the loop was told of what waits

    def open_leg(self, leg: int, *, pps: int, up_bps: int, down_bps: int) -> None:
        if leg in self._trunks:
            return  # its routes have budgets
        burst = self._burst_seconds
        packets, up = uplink_budgets(pps, up_bps, burst)
        down = (down_bps / 8, max(down_bps / 8 * burst, 2 * media.MAX_SIZE))
        known = self._legs.get(leg)
        if known is None:
            self._legs[leg] = _Leg(leg, Bucket(*packets), Bucket(*up), Bucket(*down))
        else:  # new rights in mid-call: a full bucket for each would be a way around the budget; flows stay
            known.packets.change(*packets)
            known.up.change(*up)
            known.down.change(*down)

    def close_leg(self, leg: int) -> None:
        carrier = self._trunks.pop(leg, None)
        if carrier is not None:
            self._close_trunk(carrier)
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
        flows[flow] = Flow(index, group, watched)
        if replaced is not None:
            self._silence(replaced)

    def open_trunk(self, leg: int, *, second: bool = False) -> None:
        if leg in self._legs:
            raise LocalError(f"somebody's leg is no trunk: {leg}")
        self._trunks.setdefault(leg, Trunk(leg, second))

    def join_trunk(self, leg: int, trunk: int, *, second: bool) -> None:
        whole = self._trunks.get(trunk)
        if whole is None or whole.of is not None or leg in self._legs or leg in self._trunks:
            raise LocalError(f"no trunk, or no connection that could join it: leg {leg} trunk {trunk}")
        self._trunks[leg] = Trunk(leg, second, whole)
        replaced = whole.join(self._trunks[leg])
        if replaced is not None:
            self._abandon(replaced)

    def _close_trunk(self, gone: Trunk) -> None:
        self._ready.pop(gone.number, None)
        for line in (gone, *filter(None, gone.ways)):
            self._abandon(line)
        if gone.of is not None:
            gone.of.part(gone)
        for route in gone.routes.values():
            self._silence(route.flow)
        gone.routes.clear()  # what yet comes by another path of it is of no route

    def _abandon(self, carrier: Trunk) -> None:
        """What waits for a connection that is no more goes."""
        waiting = carrier.clear()
        if waiting:
            self.counters.queued -= waiting
            self.counters.dropped_out[DropReason.PEER_GONE] += waiting

    def open_route(self, leg: int, route: int, *, index: int, group: bool, pps: int, up_bps: int) -> None:
        carrier = self._trunks.get(leg)
        if carrier is None or carrier.of is not None or not MIN_ROUTE <= route <= MAX_ROUTE:
            raise LocalError(f"no such trunk, or no number of a route: leg {leg} route {route}")
        replaced = carrier.routes.get(route)
        flow = Flow(index, group, watched=False)
        carrier.routes[route] = Route(flow, pps, up_bps, self._burst_seconds)
        if replaced is not None:
            self._silence(replaced.flow)

    def _uplink(self, leg: int, flow: int) -> Flow | None:
        """A flow of a leg, or a route of a trunk."""
        carrier = self._trunks.get(leg)
        if carrier is not None:
            return carrier.flow(flow)
        owner = self._legs.get(leg)
        return owner.flows.get(flow) if owner is not None else None

    def close_flow(self, leg: int, flow: int) -> FlowCounters:
        gone = self._uplink(leg, flow)
        if gone is None:
            return FlowCounters()
        if leg in self._trunks:
            del self._trunks[leg].routes[flow]
        else:
            del self._legs[leg].flows[flow]
        self._silence(gone)
        return gone.counters

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
            flow = self._uplink(*key)
            if flow is not None and flow.first is not None:
                found[key] = flow.first, flow.accepted
        return found

    def count_routes(self, leg: int, first: int, most: int) -> list[RouteCount]:
        carrier = self._trunks.get(leg)
        return [] if carrier is None else carrier.count_routes(first, most)

    def route(
        self, leg: int, flow: int, targets: Sequence[tuple[int, int]], closed: DropReason | None
    ) -> None:
        uplink = self._uplink(leg, flow)
        if uplink is None:
            raise LocalError(f"route for a flow that is not open: leg {leg} flow {flow}")
        before, uplink.targets = uplink.targets, ()
        uplink.closed = closed or DropReason.GATE_CLOSED
        try:
            uplink.targets = tuple((self._listener(leg, *target), target[1]) for target in targets)
        finally:  # without one of the legs nobody hears it: those before may be the ones who shall not
            for listener, out in before:
                if (listener, out) not in uplink.targets:
                    self._purge(listener, out, uplink.closed)

    def _listener(self, leg: int, number: int, out: int) -> _Leg | Trunk:
        """Who hears what `leg` says as flow or route `out` of `number`."""
        carrier = self._trunks.get(number)
        if carrier is None:
            if out > 0xFF:
                raise LocalError(f"not a flow number: {out}")
            return self._leg(number)
        if carrier.of is not None:
            raise LocalError(f"a path of another trunk: {number}")
        if leg in self._trunks:
            raise LocalError(f"what came by a trunk leaves by legs only: {leg} to {number}")
        if not MIN_ROUTE <= out <= MAX_ROUTE:
            raise LocalError(f"not a route number: {out}")
        return carrier

    def _silence(self, flow: Flow) -> None:
        """The flow is over: what waits of it never leaves."""
        for listener, out in flow.targets:
            self._purge(listener, out, DropReason.GATE_CLOSED)

    def _purge(self, listener: _Leg | Trunk, out: int, reason: DropReason) -> None:
        """Copies that wait for someone who may no longer hear them never leave."""
        if isinstance(listener, Trunk):
            waiting = sum(line.purge(out) for line in (listener, *filter(None, listener.ways)))
        else:
            copies = listener.queues.pop(out, ())
            waiting = len(copies)
            listener.held -= sum(room_of(len(copy.data)) for copy in copies)
            if self._legs.get(listener.number) is not listener:
                return  # they were counted when it closed
            listener.waiting -= waiting
        if waiting:
            self.counters.queued -= waiting
            self.counters.dropped_out[reason] += waiting

    def deliver(self, leg: int, payload: bytes, now: float) -> DropReason | None:
        counters = self.counters
        counters.media_in += 1
        judged = self._judge_media(leg, payload, now)
        if judged is None:
            counters.dropped[DropReason.UNKNOWN_FLOW] += 1
            return DropReason.UNKNOWN_FLOW
        flow, verdict = judged
        flow.received += 1
        if isinstance(verdict, DropReason):
            counters.dropped[verdict] += 1
            flow.dropped[verdict] = flow.dropped.get(verdict, 0) + 1
            return verdict
        flow.accepted += 1
        if flow.first is None:
            flow.first = now
        counters.accepted += 1
        since = flow.pace.on_packet(verdict.kid, verdict.ctr, verdict.repeat, now)
        if verdict.repeat:
            flow.mended += 1
            self._mended(leg)
        if flow.watched:
            seen = flow.seen[verdict.kid]
            missing = seen.missing
            if missing:
                self._gap(leg, payload[0], verdict.kid, seen.highest, missing)
        if leg in self._trunks:
            payload = payload[ROUTE_SIZE:]
        for listener, out in flow.targets:
            try:
                self._enqueue(listener, out, payload, since, now)
            except Exception as error:  # a bug of ours: neither the speaker nor the others pay for it
                self._blame(listener.number, error)
        flow.copies += len(flow.targets)
        return None

    def _judge_media(
        self, leg: int, payload: bytes, now: float
    ) -> tuple[Flow, media.MediaHeader | DropReason] | None:
        """Whose a datagram is, and its header or why nobody hears it; None: of no flow that is open."""
        carrier = self._trunks.get(leg)
        if carrier is not None:
            return carrier.judge(payload, now)
        owner = self._legs.get(leg)
        flow = owner.flows.get(payload[0]) if owner is not None and payload else None
        if owner is None or flow is None:
            return None
        return flow, self._weigh(owner, flow, payload, now)

    def _weigh(self, owner: _Leg, flow: Flow, payload: bytes, now: float) -> media.MediaHeader | DropReason:
        try:
            header = media.decode(payload)
        except PeerError as error:
            return unreadable(error.code)
        if not owner.packets.take(1, now) or not owner.up.take(len(payload), now):
            return DropReason.OVER_BUDGET
        return flow.admit(header)

    def _mended(self, leg: int) -> None:
        """What the leg had lost on its way up came as a repeat."""

    def _gap(self, leg: int, flow: int, kid: int, newest: int, missing: int) -> None:
        """Packets before the newest of a watched flow have not come."""

    def _enqueue(self, listener: _Leg | Trunk, out: int, payload: bytes, since: float, now: float) -> None:
        """Let a copy of a leg's datagram, as which a trunk's reads too, wait for a listener."""
        counters = self.counters
        counters.copies += 1
        if isinstance(listener, Trunk):
            self._enqueue_carried(listener, out, payload, now)
            return
        if self._legs.get(listener.number) is not listener:
            counters.dropped_out[DropReason.PEER_GONE] += 1
            return
        if self._is_shed(payload):
            counters.dropped_out[DropReason.SHED] += 1
            return
        if not listener.shape.redundancy and payload[1] >> media.PP_SHIFT & 3 == media.PP_REDUNDANT:
            counters.dropped_out[DropReason.NOT_WANTED] += 1
            return
        copy = media.with_flow(payload, out, False)
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

    def _is_shed(self, payload: bytes) -> bool:
        return bool(self._shedding) and payload[1] >> media.PP_SHIFT & 3 in self._shedding

    def _enqueue_carried(self, carrier: Trunk, route: int, payload: bytes, now: float) -> None:
        counters = self.counters
        if self._trunks.get(carrier.number) is not carrier:
            counters.dropped_out[DropReason.PEER_GONE] += 1
            return
        if self._is_shed(payload):
            counters.dropped_out[DropReason.SHED] += 1
            return
        lines = carrier.lines(self._is_cut(carrier.number))
        counters.copies += len(lines) - 1
        for line in lines:
            self._line_up(line, route, payload, now)

    def _is_cut(self, leg: int) -> bool:
        """There is no connection of that number any more."""
        return False

    def _line_up(self, carrier: Trunk, route: int, payload: bytes, now: float) -> None:
        counters = self.counters
        gone = carrier.push(route, payload, now)
        counters.queued += 1 - len(gone)
        for reason in gone:
            counters.dropped_out[reason] += 1
        self._ready[carrier.number] = None
        self._flush_trunk(carrier, now, Leaves.ALL if carrier.is_crowded(route) else Leaves.FULL)

    def _flush_trunk(self, carrier: Trunk, now: float, leaves: Leaves) -> None:
        """What waits for a trunk may leave."""

    def take_carried(self, carrier: Trunk, now: float) -> list[bytes]:
        """Copies for one packet of a trunk."""
        counters = self.counters
        stale = carrier.expire(now)
        if stale:
            counters.queued -= stale
            counters.dropped_out[DropReason.STALE] += stale
        copies = []
        for arrived, copy in carrier.batch():
            counters.queued -= 1
            counters.sent += 1
            self.residence.add(now - arrived)
            copies.append(copy)
        return copies

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
        carrier = self._trunks.get(leg)
        if carrier is not None:
            return carrier.oldest
        owner = self._legs.get(leg)
        queues = owner.queues.values() if owner is not None else ()
        return min((queue[0].arrived for queue in queues if queue), default=None)

    def open_stream(self, leg: int) -> None:
        self._streams[leg] = False

    def close_path(self, leg: int) -> None:
        self._streams.pop(leg, None)
        carrier = self._trunks.get(leg)
        if carrier is not None:
            self._abandon(carrier)

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
        carrier = self._trunks.get(leg)
        if carrier is not None:
            return carrier.waiting
        owner = self._legs.get(leg)
        return owner.waiting if owner is not None else 0

    def _leg(self, leg: int) -> _Leg:
        try:
            return self._legs[leg]
        except KeyError:
            raise LocalError(f"no such leg: {leg}") from None
