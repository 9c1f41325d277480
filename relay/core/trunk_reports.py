"""Hop reports: what comes to us by each trunk is told to who sent it, and what they tell of ours is kept.

    TrunkCounted, once a second  --> hop report, of routes with traffic      ping --> delay of this hop
    hop report of the other node --> Standing: sums, delay       packets acknowledged, lost --> loss
    loss or delay for 10 s --> bad

What is missing on a route was lost on either of two ways: to the node that sends it, or by the trunk. What
the trunk itself lost its packets say. Nobody's word but that node's own trunk changes anything here, and only
figures follow from it. Must never live here: what is missing at the lane, clocks, routes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from relay.core.events import TrunkCounted
from relay.core.trunk import beside, node_of
from relay.protocol.datagram import Ping
from relay.protocol.trunk import HopReport, RouteReport

BAD_LOSS: Final = 0.02  # of packets: trunks repeat nothing, and listeners have their own way to lose on
BAD_DELAY_S: Final = 0.060  # over the least: as much as a usual jitter buffer holds
BAD_S: Final = 10.0  # for so long, until it is bad, or well again
LEAST: Final = 100  # packets in that time: of fewer one or two that are lost say nothing
OVER_S: Final = 10.0  # for how long the least delay and the loss are counted
FRESH_S: Final = 1.0  # pings whose delay is told
_PINGS: Final = 64  # of those ten seconds: five a second are due
_U16: Final = 0xFFFF
_U32: Final = 0xFFFF_FFFF
_HALF: Final = 0x8000_0000
_TENTHS: Final = 10  # of a ms, in which a report tells the delay


@dataclass(slots=True)
class Standing:
    """How the trunk to one node is, as that node and our own packets tell."""

    node: str
    region: str
    """Where that node says it is."""
    came: int = 0
    """Datagrams on our routes that came there."""
    missing: int = 0
    """That never did, or were lost on their way to us."""
    late: int = 0
    """That were told as missing, and came."""
    loss: float = 0.0
    """Share of our packets that the trunk lost in the last ten seconds."""
    delay_s: float | None = None
    """That 95 of 100 took no longer than, over the least of ten seconds; None: unknown."""
    is_bad: bool = False


@dataclass(slots=True)
class _Trunk:
    """One connection."""

    standing: Standing
    seq: int = 0
    """Of the report that we send next."""
    newest: int | None = None
    """Of theirs."""
    pings: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_PINGS))
    """When each came, and our clock less theirs, ms modulo 2^32."""
    packets: deque[tuple[float, int, int]] = field(default_factory=deque)
    """Acknowledged and lost, as of each second."""
    turned_at: float | None = None
    """Since when it is otherwise than `is_bad` says."""


class Reports:
    """Of all trunks of a node. It knows those that are in use, and keeps the sums of those that were.

    `node` is the way: a node that restarts as planned is two processes, and stands as one.
    """

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._trunks: dict[str, _Trunk] = {}

    def standings(self) -> Iterator[Standing]:
        """How those trunks are that are in use, or were; to be read only."""
        return iter(self._standings.values())

    def on_up(self, node: str, region: str) -> None:
        """A connection is in use: another one counts from its own beginning."""
        standing = self._standings.setdefault(node_of(node), Standing(node_of(node), region))
        standing.region = region
        self._trunks[node] = _Trunk(standing)

    def on_down(self, node: str) -> None:
        """It is not any more, and nothing is known of it."""
        self._trunks.pop(node, None)
        if beside(node) in self._trunks:
            return
        standing = self._standings[node_of(node)]
        standing.loss, standing.delay_s, standing.is_bad = 0.0, None, False

    # ------------------------------------------------------------ what we tell

    def on_ping(self, node: str, ping: Ping, now: float) -> None:
        """One came, with the other node's clock."""
        pings = self._trunks[node].pings
        pings.append((now, (round(now * 1000) - ping.ms) & _U32))

    def on_counted(self, node: str, counted: TrunkCounted, now: float) -> HopReport | None:
        """What came by a trunk, for the other node; None: nothing did. And how our own packets fared."""
        trunk = self._trunks[node]
        self._judge_loss(trunk, counted, now)
        self._judge(trunk, now)
        if not counted.routes:
            return None
        delay = _delay(trunk.pings, now)
        lines = tuple(
            RouteReport(one.route, one.newest, one.came, one.missing, one.late, delay)
            for one in counted.routes
        )
        seq, trunk.seq = trunk.seq, (trunk.seq + 1) & _U16
        return HopReport(seq, round(now * 1000) & _U32, lines)

    # ------------------------------------------------------------ what we are told

    def on_report(self, node: str, report: HopReport) -> None:
        """What came there of ours; one that an other one overtook tells nothing."""
        trunk = self._trunks[node]
        if trunk.newest is not None and (report.seq - trunk.newest - 1) & _U16 >= _U16 // 2:
            return
        trunk.newest = report.seq
        standing = trunk.standing
        for line in report.routes:
            standing.came += line.came
            standing.missing += line.missing
            standing.late += line.late
        told = [line.delay_p95 for line in report.routes if line.delay_p95 is not None]
        standing.delay_s = max(told) / _TENTHS / 1000 if told else None

    def _judge_loss(self, trunk: _Trunk, counted: TrunkCounted, now: float) -> None:
        packets = trunk.packets
        packets.append((now, counted.acked, counted.lost))
        while packets[0][0] < now - OVER_S:
            packets.popleft()
        _, acked, lost = packets[0]
        lost = counted.lost - lost
        count = counted.acked - acked + lost
        trunk.standing.loss = lost / count if count >= LEAST else 0.0

    def _judge(self, trunk: _Trunk, now: float) -> None:
        standing = trunk.standing
        delay = standing.delay_s or 0.0
        if (standing.loss >= BAD_LOSS or delay >= BAD_DELAY_S) is standing.is_bad:
            trunk.turned_at = None
        elif trunk.turned_at is None:
            trunk.turned_at = now
        elif now - trunk.turned_at >= BAD_S:
            standing.is_bad, trunk.turned_at = not standing.is_bad, None


def _delay(pings: deque[tuple[float, int]], now: float) -> int | None:
    """95 of 100 pings of the last second took no longer over the least, 0.1 ms; None: nobody knows."""
    while pings and pings[0][0] < now - OVER_S:
        pings.popleft()
    if len(pings) < 2:
        return None
    one = pings[0][1]
    behind = [(at, ((each - one + _HALF) & _U32) - _HALF) for at, each in pings]  # a clock of 32 bits wraps
    fresh = sorted(each for at, each in behind if at >= now - FRESH_S)
    if not fresh:
        return None
    least = min(each for _, each in behind)
    return min(_TENTHS * (fresh[ceil(0.95 * len(fresh)) - 1] - least), _U16 - 1)
