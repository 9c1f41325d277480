"""One uplink flow, or a route by which a voice comes from another node: whose it is, who hears it, what came.

The twin of relay/lane/src/flow.rs. Pure: no socket, no clock. Must never live here: budgets, queues, and who
may be heard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.core.events import FlowCounters
from relay.core.reasons import DropReason
from relay.errors import ErrorCode
from relay.protocol import media
from relay.protocol.nack import SPAN
from relay.protocol.repair import reference

if TYPE_CHECKING:
    from relay.edge.routes import _Leg
    from relay.edge.trunk_line import Trunk

WINDOW = 128  # replay window per (flow, KID), in packets
USUAL_STEP = 0.020  # s of speech in one packet, until the flow has shown it
LONGEST_STEP = 0.070  # what comes later than that was preceded by a pause
STEP_OVER = 8  # packets over which it is averaged
_WINDOW_MASK = (1 << WINDOW) - 1
_UNREADABLE = {ErrorCode.VERSION: DropReason.BAD_VERSION, ErrorCode.TOO_LARGE: DropReason.TOO_LARGE}


def unreadable(code: ErrorCode) -> DropReason:
    """Why a datagram is dropped that a decoder refused with this code."""
    return _UNREADABLE.get(code, DropReason.MALFORMED)


def uplink_budgets(pps: int, up_bps: int, burst_s: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """(rate, burst) of what a speaker's token grants: of packets, and of bytes."""
    up = up_bps / 8
    return (pps, max(pps * burst_s, 10)), (up, max(up * burst_s, media.MAX_SIZE))


class Seen:
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
        """Counters between the first and the highest that never came."""
        return self.highest - self.first + 1 - self.unique

    def open_above(self, mark: int) -> int:
        """Of those the ones above `mark` that are no more than `WINDOW` behind: they may still come."""
        span = min(self.highest + 1 - max(self.first, mark + 1), WINDOW)
        return span - (self.bits & ((1 << span) - 1)).bit_count() if span > 0 else 0


class Pace:
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


class Flow:
    """An uplink flow of participant `index`; nobody hears it until it has targets."""

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
        self.targets: tuple[tuple[_Leg | Trunk, int], ...] = ()
        self.closed = DropReason.GATE_CLOSED
        self.seen: dict[int, Seen] = {}
        self.pace = Pace()
        self.received = 0
        self.accepted = 0
        self.mended = 0
        self.copies = 0
        self.first: float | None = None
        self.dropped: dict[DropReason, int] = {}
        self._latest = -1
        self._lost = 0

    def admit(self, header: media.MediaHeader) -> media.MediaHeader | DropReason:
        """The header of a datagram that somebody hears: the sender's own, gate open, not heard before."""
        if media.index_of(header.kid, self.group) != self.index:
            return DropReason.WRONG_SENDER
        if not self.targets:
            return self.closed
        return header if self.is_new(header.kid, header.ctr) else DropReason.DUPLICATE

    def is_new(self, kid: int, ctr: int) -> bool:
        """Mark (kid, ctr) as seen; False when it was before. At most 8 key ids carry the flow's own index."""
        seen = self.seen.get(kid)
        fresh = seen is None or seen.mark(ctr)
        if seen is None or (not fresh and kid != self._latest and ctr <= seen.highest - WINDOW):
            # A first packet, or the epoch bits came round again: a new key counts from 0.
            self._lost += seen.lost if seen else 0
            self.seen[kid] = Seen(ctr)
            fresh = True
        if fresh:
            self._latest = kid
        return fresh

    @property
    def newest(self) -> tuple[int, Seen] | None:
        """The key that is spoken with, and what came of it; None: nothing did."""
        seen = self.seen.get(self._latest)
        return None if seen is None else (self._latest, seen)

    @property
    def lost(self) -> int:
        """Packets that never came, by the gaps in the counters of each key."""
        return self._lost + sum(seen.lost for seen in self.seen.values())

    @property
    def counters(self) -> FlowCounters:
        """What was counted so far."""
        return FlowCounters(
            received=self.received,
            accepted=self.accepted,
            copies=self.copies,
            lost=self.lost,
            mended=self.mended,
            dropped=self.dropped,
            first=self.first,
        )
