"""Legs that stand by: admitted for a call of another node, until that one is silent.

    hello {resume: ht, stand} --> STANDBY --rejoin {rt: a newer ht}--> READY, as any leg that returns
                                     '- another of the same person, a full node, a drain: closed

So a node's end costs the one beside it a message per person and no handshake. Who stands by is no call, holds
nothing of its issuer's, and is the first to go: for a leg that needs the room, and when no call may begin
any more. A node that is only busy takes no more of them, and lets those be that are here: to come again they
would shake hands again. Must never live here: who may (door.py), what a return does (absence.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relay.core.leg import Leg
from relay.core.shedding import LAST, Shed
from relay.errors import ErrorCode, PeerError
from relay.protocol.ids import CallId, Kid, Sub
from relay.protocol.token import Claims

if TYPE_CHECKING:
    from relay.core.node import Node

RETRY_MS: Final = 30_000
AT_ONCE: Final = 32
"""So many are closed in one turn, 10 ms of work; thousands at once would hold up who talks."""
EACH_S: Final = 0.1


class Waiting:
    """Those of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._legs: dict[tuple[CallId, Sub], int] = {}

    def __len__(self) -> int:
        return len(self._legs)

    def admit(self, leg: Leg, claims: Claims, kid: Kid | None) -> None:
        """One more, instead of an older one of the same person. PeerError OVERLOADED, DRAINING or QUOTA."""
        node, who = self._node, (claims.cid, claims.sub)
        reason = self._why_not(Shed.REDUNDANCY)
        if reason is not None:
            node.count("standby", "refused")
            raise PeerError(reason, "nobody stands by here now", retry_ms=RETRY_MS)
        if who not in self._legs and len(self._legs) >= node.config.limits.standby_legs:
            node.count("standby", "refused")
            raise PeerError(ErrorCode.QUOTA, "as many stand by here as may", retry_ms=RETRY_MS)
        if who in self._legs:
            self._close(self._legs[who], "replaced", ErrorCode.REPLACED)
        self._legs[who] = leg.number
        leg.on_standby(claims, kid, node.now + node.config.limits.standby_s)
        node.watch_leg(leg)
        node.count("standby", "came")

    def on_called(self, leg: Leg) -> None:
        """It was waited for: its node is silent."""
        self.forget(leg)
        self._node.count("standby", "called")

    def forget(self, leg: Leg) -> None:
        """It stands by no more."""
        if leg.claims is not None:
            who = (leg.claims.cid, leg.claims.sub)
            if self._legs.get(who) == leg.number:
                del self._legs[who]

    def give_way(self) -> None:
        """Somebody comes who needs the room of one more leg."""
        if self._legs:
            self._close(next(reversed(self._legs.values())), "gave_way", ErrorCode.OVERLOADED)

    def on_changed(self) -> None:
        """The node is full, or leaves; or it is so no more."""
        is_over = bool(self._legs) and self._why_not(LAST) is not None
        self._node.deadlines.set(("standby", 0), self._node.now if is_over else None)

    def on_due(self) -> None:
        """Some of them go."""
        node, reason = self._node, self._why_not(LAST)
        assert reason is not None  # else `on_changed` took the deadline back
        for number in list(self._legs.values())[-AT_ONCE:]:
            self._close(number, "gave_way", reason)
        if self._legs:
            node.deadlines.set(("standby", 0), node.now + EACH_S)

    def _why_not(self, level: Shed) -> ErrorCode | None:
        if not self._node.drain.takes_calls:
            return ErrorCode.DRAINING
        return ErrorCode.OVERLOADED if self._node.shedding.level >= level else None

    def _close(self, number: int, what: str, code: ErrorCode) -> None:
        self._node.count("standby", what)
        self._node.close_leg(self._node.legs[number], code)
