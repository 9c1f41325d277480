"""A closing that reaches other nodes: when it is sure, and what is done where no word arrives.

    PENDING --speaker's node said ok, or all listeners' did--> SURE
    PENDING --1 s--> OVERDUE: beats to the silent ones stop, so that their leases end    OVERDUE --ok--> SURE

A voice stops at either end: at the node of who speaks by `grant`, at those of who listens by `gate`. Our own
routes are gone before anything is said (switch.py). Must never live here: why something closes, and what the
client is told.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final

from relay.core.machine import Machine, Table

ANSWER_S: Final = 1.0


class Certainty(Enum):
    """Whether nothing passes any more."""

    PENDING = "pending"
    SURE = "sure"  # the client hears that it is so
    OVERDUE = "overdue"  # the client hears INTERNAL, and asks again


class Confirmed:
    """One end of every route is known to be shut."""


class Overdue:
    """Somebody has been silent for too long."""


class Closing(Machine[Certainty]):
    """One closing. The speaker's node and those of all listeners are told at once; ours is not among them."""

    TRANSITIONS: ClassVar[Table[Certainty]] = {
        Certainty.PENDING: {Confirmed: Certainty.SURE, Overdue: Certainty.OVERDUE},
        Certainty.OVERDUE: {Confirmed: Certainty.SURE},
        Certainty.SURE: {},
    }

    def __init__(self, speaker: str | None, listeners: frozenset[str], now: float) -> None:
        """`speaker`: the node of who is heard no more, None: ours. `listeners`: the other nodes that hear."""
        super().__init__(Certainty.PENDING)
        self._speaker = speaker
        self._listeners = listeners
        self._shut: set[str] = set()
        self._is_speaker_shut = speaker is None
        self._until = now + ANSWER_S
        self._settle()

    def silent(self) -> frozenset[str]:
        """The nodes whose word is missing; nobody once it is sure."""
        if self._state is Certainty.SURE:
            return frozenset()
        speaker = frozenset() if self._speaker is None else frozenset({self._speaker})
        return speaker | self._listeners - self._shut

    def next_deadline(self) -> float | None:
        """When it is overdue."""
        return self._until if self._state is Certainty.PENDING else None

    def on_grant_taken(self, node: str) -> None:
        """The speaker's node said that the voice leaves it no more."""
        self._is_speaker_shut = self._is_speaker_shut or node == self._speaker
        self._settle()

    def on_gate_shut(self, node: str) -> None:
        """A listeners' node said that the voice is not heard there any more."""
        self._shut.add(node)
        self._settle()

    def on_lease_over(self, node: str) -> None:
        """A node had no beat for as long as a lease lasts, or is a new process: nothing is open there."""
        self.on_gate_shut(node)
        self.on_grant_taken(node)

    def on_timer(self, now: float) -> None:
        """Time went by."""
        if self._state is Certainty.PENDING and now >= self._until:
            self._move(Overdue)

    def _settle(self) -> None:
        if self._state is not Certainty.SURE and (self._is_speaker_shut or self._listeners <= self._shut):
            self._move(Confirmed)
