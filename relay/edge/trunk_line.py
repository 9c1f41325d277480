"""A trunk in plain Python: routes by which voices come from another node, and the line of what goes there.

    judge     route -> header -> hop -> budget of the speaker -> sender -> gate -> duplicate
    push      at most 5 copies of a route, for 60 ms, 2 MiB in all: the oldest goes
    batch     who came first leaves first, as many as fit one packet, of any routes
    ways      a trunk of two paths: what leaves goes into both lines, of what comes the first copy counts

A packet leaves when it is full, or when its first copy has waited for 1 ms. The twin of
relay/lane/src/trunk.rs. Pure: no socket, no clock. Must never live here: encryption, who gave which route,
what the lane counts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from relay.core.events import RouteCount
from relay.core.reasons import DropReason
from relay.edge.bucket import Bucket
from relay.edge.flow import Flow, unreadable, uplink_budgets
from relay.edge.hop import Told
from relay.edge.room import DATAGRAM_OVERHEAD, PACKET_OVERHEAD, room_of
from relay.errors import PeerError
from relay.protocol import media, trunk
from relay.quic.connection import MAX_PACKET

ROUTE_SIZE: Final = trunk.HEAD_SIZE - 1  # behind it a trunk's datagram reads as one of a leg
FRAMES: Final = 5  # copies of one route that wait
LONGEST_WAIT: Final = 0.060  # seconds that one may
QUEUE_BYTES: Final = 2 * 1024 * 1024  # of all that wait: 60 ms of 180,000 voice packets a second
HOLD: Final = 0.001  # for so long the first copy of a packet waits for others, seconds
ROOM: Final = MAX_PACKET - PACKET_OVERHEAD  # bytes of frames in one packet
LEAST_WINDOW: Final = 64 * 1024  # bytes in flight, and at most, however far the other node is:
LARGEST_WINDOW: Final = 16 * 1024 * 1024
WINDOW_OVER: Final = 0.05  # seconds over which that is counted, where a round trip is shorter


class Leaves(Enum):
    """Which of a trunk's packets leave."""

    FULL = 0  # those that have no room for more: others of the batch may share the last one
    DUE = 1  # those, and the last one once its first copy has waited for long enough: the batch is done
    ALL = 2


class Route:
    """A voice that comes from the other node."""

    __slots__ = ("_budgets", "_second", "flow", "told")

    def __init__(self, flow: Flow, pps: int, up_bps: int, burst_s: float) -> None:
        packets, up = uplink_budgets(pps, up_bps, burst_s)
        self.flow = flow
        self.told = Told()
        self._budgets = Bucket(*packets), Bucket(*up)
        self._second: tuple[Bucket, Bucket] | None = None
        """The same for what comes by the second path: the copy of a packet uses up nobody's rights twice."""

    def judge(self, payload: bytes, second: bool, now: float) -> media.MediaHeader | DropReason:
        """The header of a datagram of this route that somebody hears, or why nobody does."""
        try:
            carried = trunk.decode(payload)
        except PeerError as error:
            return unreadable(error.code)
        assert isinstance(carried, trunk.Carried)  # it begins with a route
        if carried.hop != trunk.HOP:
            return DropReason.HOP_LIMIT
        packets, up = self._of_second() if second else self._budgets
        # As many bytes as the speaker's own node has charged for it.
        if not packets.take(1, now) or not up.take(len(payload) - ROUTE_SIZE, now):
            return DropReason.OVER_BUDGET
        return self.flow.admit(carried.header)

    def _of_second(self) -> tuple[Bucket, Bucket]:
        if self._second is None:
            packets, up = self._budgets
            self._second = packets.fresh(), up.fresh()
        return self._second


class _Copy(NamedTuple):
    arrived: float
    route: int
    data: bytes


class Trunk:
    """A connection to another node in the routing table, from `open_trunk` or `join_trunk` to `close_leg`.

    `second`: which of the two paths it is; `of`: the trunk that it joined, whose routes are its own.
    """

    __slots__ = (
        "_acked",
        "_counted_at",
        "_framed",
        "_held",
        "_line",
        "_order",
        "_places",
        "is_double",
        "number",
        "of",
        "routes",
        "second",
        "ways",
        "window",
    )

    def __init__(self, number: int, second: bool = False, of: Trunk | None = None) -> None:
        self.number = number
        self.second = second
        self.of = of
        self.ways: list[Trunk | None] = [None, None]  # connections that joined, by which path they are
        self.is_double = False  # one ever did: what comes may be a copy
        self.routes: dict[int, Route] = {}  # those that we gave
        self._line: OrderedDict[int, _Copy] = OrderedDict()  # by when they came
        self._places: dict[int, deque[int]] = {}  # in it, of each route that the other node gave
        self._order = 0
        self._held = 0  # bytes of the buffers, as `room_of` counts
        self._framed = 0  # bytes of the frames that all of it will be
        self.window = LEAST_WINDOW  # bytes that may be in flight
        self._counted_at = 0.0
        self._acked = 0  # bytes, by then

    # ------------------------------------------------------------ in

    def flow(self, number: int) -> Flow | None:
        """What comes on a route; None: we gave no such."""
        route = self.routes.get(number)
        return None if route is None else route.flow

    def join(self, way: Trunk) -> Trunk | None:
        """One more connection of this trunk; another one of that path, which has no part in it any more."""
        replaced, self.ways[way.second] = self.ways[way.second], way
        self.is_double = True
        return replaced

    def part(self, way: Trunk) -> None:
        """One less."""
        if self.ways[way.second] is way:
            self.ways[way.second] = None

    def judge(self, payload: bytes, now: float) -> tuple[Flow, media.MediaHeader | DropReason] | None:
        """Whose a datagram is, and what becomes of it; None: it begins with no route that we gave."""
        if len(payload) < ROUTE_SIZE or payload[0] >> 6 != 1:
            return None
        whole = self.of or self
        route = whole.routes.get(int.from_bytes(payload[:ROUTE_SIZE], "big") & trunk.MAX_ROUTE)
        if route is None:
            return None
        verdict = route.judge(payload, self.second, now)
        if verdict is DropReason.DUPLICATE and whole.is_double:
            verdict = DropReason.SECOND_COPY
        return route.flow, verdict

    def count_routes(self, first: int, most: int) -> list[RouteCount]:
        """What came on routes since they were counted last: of those from `first` on, `most` lines."""
        lines: list[RouteCount] = []
        for number in sorted(number for number in self.routes if number >= first):
            if len(lines) >= most:
                break
            route = self.routes[number]
            line = route.told.count(number, route.flow)
            if line is not None:
                lines.append(line)
        return lines

    # ------------------------------------------------------------ out

    def lines(self, is_cut: bool) -> list[Trunk]:
        """In which lines a copy waits: one for each path. `is_cut`: our own connection is no more."""
        joined = [way for way in self.ways if way is not None]
        has_own = not joined or not (is_cut or self.ways[self.second])
        return [self, *joined] if has_own else joined

    def push(self, route: int, payload: bytes, now: float) -> list[DropReason]:
        """Let a copy of a leg's datagram wait for a route that the other node gave; why others go for it."""
        data = trunk.from_leg(payload, route)
        gone = [DropReason.STALE] * self.expire(now)
        if self.is_crowded(route):
            self._leave(self._places[route][0])
            gone.append(DropReason.QUEUE_FULL)
        while self._line and self._held + room_of(len(data)) > QUEUE_BYTES:
            self._leave(next(iter(self._line)))
            gone.append(DropReason.QUEUE_FULL)
        self._order += 1
        self._line[self._order] = _Copy(now, route, data)
        self._places.setdefault(route, deque()).append(self._order)
        self._held += room_of(len(data))
        self._framed += _framed(data)
        return gone

    def is_crowded(self, route: int) -> bool:
        """So many copies of a route wait that the next one displaces the oldest."""
        return len(self._places.get(route, ())) >= FRAMES

    @property
    def is_full(self) -> bool:
        """A packet could leave that has no room for more."""
        return self._framed >= ROOM

    @property
    def waiting(self) -> int:
        """Copies waiting."""
        return len(self._line)

    @property
    def oldest(self) -> float | None:
        """When the oldest copy that waits came."""
        return next(iter(self._line.values())).arrived if self._line else None

    @property
    def due(self) -> float | None:
        """When the first copy has waited for others long enough; None: there is none."""
        oldest = self.oldest
        return None if oldest is None else oldest + HOLD

    def batch(self) -> Iterator[tuple[float, bytes]]:
        """Copies for one packet, each with when it came; `expire` goes before."""
        room = ROOM
        while self._line:
            place, copy = next(iter(self._line.items()))
            room -= _framed(copy.data)
            if room < 0:
                return
            self._leave(place)
            yield copy.arrived, copy.data

    def expire(self, now: float) -> int:
        """What waited too long goes; how many copies."""
        before = len(self._line)
        while self._line:
            place, copy = next(iter(self._line.items()))
            if now - copy.arrived <= LONGEST_WAIT:
                break
            self._leave(place)
        return before - len(self._line)

    def purge(self, route: int) -> int:
        """What waits for a route that carries no more goes; how many copies."""
        places = self._places.pop(route, ())
        for place in tuple(places):
            self._leave(place)
        return len(places)

    def clear(self) -> int:
        """All that waits goes; how many copies."""
        waiting = len(self._line)
        self._line.clear()
        self._places.clear()
        self._held = self._framed = 0
        return waiting

    def _leave(self, place: int) -> None:
        copy = self._line.pop(place)
        self._held -= room_of(len(copy.data))
        self._framed -= _framed(copy.data)
        places = self._places.get(copy.route)
        if places is not None:
            places.remove(place)

    # ------------------------------------------------------------ what may be in flight

    def widen(self, acked: int, round_trip: float | None, now: float) -> int:
        """Bytes that may be in flight as of now: twice those of a round trip.

        `acked`: bytes acknowledged so far. `round_trip`: seconds until the acknowledgement of what leaves
        comes, None as long as that is not known.
        """
        passed = now - self._counted_at
        if round_trip is not None and passed >= max(WINDOW_OVER, round_trip):
            count = max(acked - self._acked, 0)
            twice = 2.0 * count * round_trip / passed
            self.window = min(max(int(twice), LEAST_WINDOW), LARGEST_WINDOW)
            self._counted_at, self._acked = now, acked
        return self.window


def _framed(data: bytes) -> int:
    """Bytes of the frame that a copy takes."""
    return len(data) + DATAGRAM_OVERHEAD
