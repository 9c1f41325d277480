"""A half: what a guest has of a call whose home is another node; one leg, and what the home lets it do.

    ASKED --attached--> IDLE <--gate, grant--> OPEN        IDLE, OPEN --no beat, or trunk down--> ORPHAN
    IDLE, OPEN, ORPHAN --another home--> ASKED             ORPHAN --trunk up, half known--> IDLE
    any --leg gone, closed, or too late--> GONE

A guest opens nothing by itself: without its home a half hears nobody and is heard by nobody. Must never live
here: messages to the client, routes (trunk_sending.py, trunk_receiving.py), other halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import ClassVar, Final

from relay.core.machine import Machine, Table
from relay.errors import ErrorCode
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Attached as AttachedMessage
from relay.protocol.trunk_messages import Gate, Grant

ANSWER_S: Final = 2.0  # until the home has answered `attach`: clients have five seconds' patience with us
ORPHAN_S: Final = 60.0  # as long as a consent outlives a lost leg (docs/protocol.md, section 8)
KEPT_S: Final = 5.0  # what the former home opened stays at most, until the next one has spoken

_NOBODY: Final[Mapping[int, str]] = MappingProxyType({})
_NOWHERE: Final[frozenset[str]] = frozenset()


class HalfState(Enum):
    """How far the half is a part of its call."""

    ASKED = "asked"  # `attach` is under way
    IDLE = "idle"  # in the call, no routes
    OPEN = "open"  # routes as told
    ORPHAN = "orphan"  # all gates shut, leg kept
    GONE = "gone"  # ended with `code`


class Attached:
    """The home knows the half."""


class Opened:
    """The half hears somebody, or may be heard."""


class Shut:
    """Neither."""


class Orphaned:
    """The home is not heard: no beat for 15 s, or no trunk."""


class Known:
    """It is heard again, and knows the half still."""


class Rehomed:
    """Another node is home now."""


class LegGone:
    """The person's leg is no more, and nobody came back for 30 s."""


class Closed:
    """The home says that it is over, or refused."""


class Half(Machine[HalfState]):
    """One half. Each state has a line for each event: what changes nothing may come at any time."""

    TRANSITIONS: ClassVar[Table[HalfState]] = {
        HalfState.ASKED: {
            Attached: HalfState.IDLE,
            Opened: HalfState.ASKED,
            Shut: HalfState.ASKED,
            Orphaned: HalfState.GONE,
            Known: HalfState.ASKED,
            Rehomed: HalfState.ASKED,
            LegGone: HalfState.GONE,
            Closed: HalfState.GONE,
        },
        HalfState.IDLE: {
            Attached: HalfState.IDLE,
            Opened: HalfState.OPEN,
            Shut: HalfState.IDLE,
            Orphaned: HalfState.ORPHAN,
            Known: HalfState.IDLE,
            Rehomed: HalfState.ASKED,
            LegGone: HalfState.GONE,
            Closed: HalfState.GONE,
        },
        HalfState.OPEN: {
            Attached: HalfState.OPEN,
            Opened: HalfState.OPEN,
            Shut: HalfState.IDLE,
            Orphaned: HalfState.ORPHAN,
            Known: HalfState.OPEN,
            Rehomed: HalfState.ASKED,
            LegGone: HalfState.GONE,
            Closed: HalfState.GONE,
        },
        HalfState.ORPHAN: {
            Attached: HalfState.ORPHAN,
            Opened: HalfState.ORPHAN,
            Shut: HalfState.ORPHAN,
            Orphaned: HalfState.ORPHAN,
            Known: HalfState.IDLE,
            Rehomed: HalfState.ASKED,
            LegGone: HalfState.GONE,
            Closed: HalfState.GONE,
        },
        HalfState.GONE: {
            Attached: HalfState.GONE,
            Opened: HalfState.GONE,
            Shut: HalfState.GONE,
            Orphaned: HalfState.GONE,
            Known: HalfState.GONE,
            Rehomed: HalfState.GONE,
            LegGone: HalfState.GONE,
            Closed: HalfState.GONE,
        },
    }

    def __init__(self, cid: bytes, leg: int, home: str, now: float) -> None:
        """Somebody on `leg` wants into call `cid`, and `home` is asked."""
        super().__init__(HalfState.ASKED)
        self.cid = cid
        self.leg = leg
        self.home = home
        """The way there: each process of a node by itself."""
        self.asked_at = now
        """When the home was asked."""
        self.number: int | None = None
        """What the home calls it, once attached."""
        self.index = 0
        """Place in the call, once attached."""
        self.term = 0
        self.standby: tuple[str, ...] = ()
        self.epoch = 0
        """Of the newest gate."""
        self.code = 0
        """Why it is gone."""
        self._until: float | None = now + ANSWER_S
        self._at: Mapping[int, str] = _NOBODY
        self._to = _NOWHERE
        self._kept_until: float | None = None
        self._kept_at: Mapping[int, str] = _NOBODY
        self._kept_to = _NOWHERE

    @property
    def hears(self) -> Mapping[int, str]:
        """Whom the person hears: participant to the node where that one is."""
        return self._at or self._kept_at

    @property
    def goes_to(self) -> frozenset[str]:
        """To which nodes the person's voice may go."""
        return self._to or self._kept_to

    # ------------------------------------------------------------ what the home says

    def on_attached(self, attached: AttachedMessage) -> None:
        """The home took it. What it opens comes by itself."""
        self._move(Attached)
        if self._state is HalfState.IDLE:
            self.number, self.index, self.term = attached.half, attached.p, attached.term
            self.standby = attached.standby
            self._until = None

    def on_gate(self, gate: Gate) -> None:
        """Whom it hears from now on, those alone."""
        if self._is_told():
            self.epoch = gate.ep
            self._at, self._kept_at = dict(gate.at), _NOBODY
            self._settle()

    def on_grant(self, grant: Grant) -> None:
        """Where its voice may go from now on, there alone."""
        if self._is_told():
            self._to, self._kept_to = frozenset(grant.to), _NOWHERE
            self._settle()

    def on_rehomed(self, home: str, term: int, now: float) -> bool:
        """Another node is home, in a later term: ask there. What is open stays for the moment of the change.

        False, and nothing changes, for an older term, or when it is gone.
        """
        if self._state is HalfState.GONE or term <= self.term:
            return False
        at, to = self.hears, self.goes_to
        self._move(Rehomed)
        self._at, self._to = _NOBODY, _NOWHERE
        self._kept_at, self._kept_to = at, to
        if self._kept_until is None:  # however often the home changes
            self._kept_until = now + KEPT_S
        self.home, self.term, self.number, self.asked_at = home, term, None, now
        self._until = now + ANSWER_S
        return True

    def on_closed(self, code: int) -> None:
        """The home says that it is over, or does not take it."""
        self._go(Closed, code)

    # ------------------------------------------------------------ what happens to home and leg

    def on_orphaned(self, now: float) -> None:
        """The home is not heard any more: everything shuts, at once."""
        if self._state is HalfState.ASKED:
            self._go(Orphaned, TrunkCode.LEASE_LOST)
        elif self._is_told():
            self._move(Orphaned)
            self._shut()
            self._until = now + ORPHAN_S

    def on_known(self) -> None:
        """The home is heard, and said that it knows its halves; gates come anew."""
        if self._state is HalfState.ORPHAN:
            self._until = None
        self._move(Known)

    def on_leg_gone(self, code: int) -> None:
        """The person is out."""
        self._go(LegGone, code)

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When patience with the home ends, or what the former one opened."""
        found = [when for when in (self._until, self._kept_until) if when is not None]
        return min(found, default=None)

    def on_timer(self, now: float) -> None:
        """Time went by."""
        if self._kept_until is not None and now >= self._kept_until:
            self._kept_at, self._kept_to, self._kept_until = _NOBODY, _NOWHERE, None
        if self._until is not None and now >= self._until:
            is_asked = self._state is HalfState.ASKED
            self._go(Closed, ErrorCode.OVERLOADED if is_asked else TrunkCode.LEASE_LOST)

    # ------------------------------------------------------------

    def _is_told(self) -> bool:
        """Whether this home may open and shut now."""
        return self._state in (HalfState.IDLE, HalfState.OPEN)

    def _settle(self) -> None:
        self._move(Opened if self._at or self._to else Shut)

    def _shut(self) -> None:
        self._at, self._to = _NOBODY, _NOWHERE
        self._kept_at, self._kept_to, self._kept_until = _NOBODY, _NOWHERE, None

    def _go(self, event: type, code: int) -> None:
        if self._state is not HalfState.GONE:
            self._move(event)
            self._shut()
            self.code = int(code)
            self._until = None
