"""The direct path between two people of a call, as far as we hear of it.

    WAITING --both told all--> KNOCKING --both say direct--> DIRECT --one says relay--> RELAYED
       ^                          '--- rounds used up, or nobody to knock at --------------^
       '------ fresh addresses of either, from any state -------------------------------'

Media may go through us whatever the state is: it tells when to ask for another round, and what the record
says. Must never live here: who may know whose addresses (punch.py), and what is inside a sealed candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Final

from relay.core.machine import Machine, Table
from relay.core.participant import Participant
from relay.errors import ErrorCode, PeerError
from relay.protocol import control
from relay.protocol.address import Address

MAX_MESSAGES: Final = 16  # `cand` of one generation and direction: more addresses than any device has
MAX_ANNOUNCED: Final = 16  # addresses one participant may open for another by TURN
MAX_ROUNDS: Final = 4
ROUND_S: Final = 1.0  # a round that worked is reported well before


class PathState(Enum):
    """What is known about the way between two people."""

    WAITING = "waiting"  # not both have told all their addresses
    KNOCKING = "knocking"  # rounds are under way
    DIRECT = "direct"  # both report media on it
    RELAYED = "relayed"  # no way found, or it was lost


class Completed:
    """Both have told all addresses of their newest generation."""


class WentDirect:
    """Both report media on the direct path."""


class FellBack:
    """One of them uses the relay, or no round worked."""


class Renewed:
    """One of them has fresh addresses."""


@dataclass(slots=True)
class Side:
    """What one of the two has said about the other."""

    generation: int = -1
    messages: int = 0
    is_complete: bool = False
    is_direct: bool = False
    announced: set[Address] = field(default_factory=set, repr=False)


class Pair(Machine[PathState]):
    """The way between two people of a call. `sides` goes by participant index."""

    TRANSITIONS: ClassVar[Table[PathState]] = {
        PathState.WAITING: {
            Completed: PathState.KNOCKING,
            WentDirect: PathState.DIRECT,
            FellBack: PathState.RELAYED,
            Renewed: PathState.WAITING,
        },
        PathState.KNOCKING: {
            WentDirect: PathState.DIRECT,
            FellBack: PathState.RELAYED,
            Renewed: PathState.WAITING,
        },
        PathState.DIRECT: {FellBack: PathState.RELAYED, Renewed: PathState.WAITING},
        PathState.RELAYED: {
            WentDirect: PathState.DIRECT,
            FellBack: PathState.RELAYED,
            Renewed: PathState.WAITING,
        },
    }

    def __init__(self, one: Participant, other: Participant) -> None:
        super().__init__(PathState.WAITING)
        self.people = (one, other)
        self.sides = {one.index: Side(), other.index: Side()}
        self.round = 0
        self.due: float | None = None
        """When the next round begins, or the last one has failed."""
        self._direct_since: float | None = None

    def on_addresses(self, index: int, message: control.Cand, now: float) -> bool:
        """Somebody's addresses; False if they are older than those known. PeerError QUOTA, not fatal."""
        side = self.sides[index]
        told = {Address.told(host, port) for host, port in message.acl}
        if message.gen < side.generation:
            return False
        if message.gen > side.generation:
            if side.generation >= 0:
                self._leave_direct(now)
                self._move(Renewed)
            self.sides[index] = side = Side(message.gen)
            self.due = None
        if side.messages >= MAX_MESSAGES or len(side.announced | told) > MAX_ANNOUNCED:
            raise PeerError(ErrorCode.QUOTA, "too many addresses", fatal=False)
        side.messages += 1
        side.announced |= told
        side.is_complete = side.is_complete or message.end
        if self._state is PathState.WAITING and all(one.is_complete for one in self.sides.values()):
            self._move(Completed)
            self.round, self.due = 0, now
        return True

    def on_report(self, index: int, is_direct: bool, now: float) -> None:
        """One of them tells what its media goes by. Direct is what both call so."""
        self.sides[index].is_direct = is_direct
        if all(side.is_direct for side in self.sides.values()):
            if self._state is not PathState.DIRECT:
                self._move(WentDirect)
                self._direct_since = now
            self.due = None
        elif self._state is PathState.DIRECT:
            self.on_lost(now)

    def on_round(self, now: float) -> bool:
        """A round is due: True to knock, False if all are used up."""
        if self.round >= MAX_ROUNDS:
            self.on_lost(now)
            return False
        self.round += 1
        self.due = now + ROUND_S
        return True

    def on_lost(self, now: float) -> None:
        """There is no direct path, or none any more."""
        self._leave_direct(now)
        for side in self.sides.values():
            side.is_direct = False
        self._move(FellBack)
        self.due = None

    def forget_addresses(self, index: int) -> None:
        """The leg of one of them is gone: what it announced is nobody's to use."""
        self.sides[index].announced.clear()

    def _leave_direct(self, now: float) -> None:
        if self._direct_since is not None:
            for one in self.people:
                one.direct_s += now - self._direct_since
            self._direct_since = None
