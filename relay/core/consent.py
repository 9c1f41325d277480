"""The consent gate of one call: who may be heard by whom, 32 x 32 bits, closed unless everything says open.

    open(a to b) = a and b accepted, are alive and admitted; a may send, b may listen; neither blocked
                   the other; a is not muted

Facts are bit masks over participant indexes, so one look at a pair is a few integer operations. Consent in
the sense of RFC 7675: it lapses with silence (`ALIVE` goes) and needs both the network's and the user's yes.
Must never live here: legs, flows, or time.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, auto

from relay.core.reasons import DropReason

SIZE = 32


class Fact(IntEnum):
    """What is known about one participant."""

    ACCEPTED = 0
    """The user said yes, and that yes is young enough."""
    ALIVE = auto()
    """The leg exists and was heard lately."""
    ADMITTED = auto()
    """Not waiting for the host."""
    SENDS = auto()
    """The token allows sending."""
    LISTENS = auto()
    """The token allows receiving."""
    MUTED = auto()
    """Muted by itself."""
    HARD_MUTED = auto()
    """Muted by a moderator."""


def indexes(mask: int) -> Iterator[int]:
    """The set bits, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class Gate:
    """All facts of a call, and the bits that follow from them."""

    __slots__ = ("_blocked", "_facts", "_shuts_out")

    def __init__(self) -> None:
        self._facts = [0] * len(Fact)
        self._shuts_out = [0] * SIZE  # by the one who said so
        self._blocked = [0] * SIZE  # what follows from it, the same from both sides

    def set(self, fact: Fact, index: int, value: bool) -> None:
        """State one fact about one participant."""
        bit = 1 << index
        self._facts[fact] = self._facts[fact] | bit if value else self._facts[fact] & ~bit

    def has(self, fact: Fact, index: int) -> bool:
        """What was stated."""
        return bool(self._facts[fact] >> index & 1)

    def block(self, one: int, other: int, on: bool) -> None:
        """`one` shuts `other` out or takes that back. The pair is blocked while either of them wants it."""
        bit = 1 << other
        self._shuts_out[one] = self._shuts_out[one] | bit if on else self._shuts_out[one] & ~bit
        for a, b in ((one, other), (other, one)):
            if on:
                self._blocked[a] |= 1 << b
            elif not self._shuts_out[other] >> one & 1:
                self._blocked[a] &= ~(1 << b)

    def shut_out_by(self, one: int) -> int:
        """Mask of those whom `one` blocked."""
        return self._shuts_out[one]

    def is_blocked(self, one: int, other: int) -> bool:
        """Whether the pair is blocked."""
        return bool(self._blocked[one] >> other & 1)

    def leave(self, index: int) -> None:
        """Its owner is out. What others decided about it, hard mute and blocks, waits for a return."""
        for fact in Fact:
            if fact is not Fact.HARD_MUTED:
                self.set(fact, index, False)

    def clear(self, index: int) -> None:
        """Forget everything about an index: it gets another owner."""
        keep = ~(1 << index)
        for fact in Fact:
            self._facts[fact] &= keep
        self._shuts_out[index] = self._blocked[index] = 0
        self._shuts_out = [mask & keep for mask in self._shuts_out]
        self._blocked = [mask & keep for mask in self._blocked]

    def _ready(self) -> int:
        facts = self._facts
        return facts[Fact.ACCEPTED] & facts[Fact.ALIVE] & facts[Fact.ADMITTED]

    def consented(self, index: int) -> int:
        """Mask of those who would hear `index` if it were not muted."""
        ready = self._ready()
        if not ready & self._facts[Fact.SENDS] & 1 << index:
            return 0
        return ready & self._facts[Fact.LISTENS] & ~self._blocked[index] & ~(1 << index)

    def hearers(self, index: int) -> int:
        """Mask of those who may hear `index` now."""
        return 0 if self.is_muted(index) else self.consented(index)

    def is_muted(self, index: int) -> bool:
        """Muted by anyone."""
        return bool((self._facts[Fact.MUTED] | self._facts[Fact.HARD_MUTED]) >> index & 1)

    def why_closed(self, index: int) -> DropReason:
        """Why nobody hears `index`, for the counter of what is dropped."""
        if self.is_muted(index):
            return DropReason.MUTED
        if self._blocked[index] and not self.consented(index):
            return DropReason.BLOCKED
        return DropReason.GATE_CLOSED
