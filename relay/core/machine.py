"""The one form of every state machine here: an Enum of states and a table of what each event does to it.

    class Door(Machine[DoorState]):
        TRANSITIONS = {DoorState.SHUT: {Opened: DoorState.OPEN}, ...}

A pair that is not in the table is a bug of ours and raises; what a peer may send when is decided before the
move. Must never live here: a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from relay.errors import LocalError

S = TypeVar("S", bound=Enum)

Table = Mapping[S, Mapping[type, S]]
"""state -> event class -> next state."""


class Machine(Generic[S]):
    """A state and the table that may change it."""

    TRANSITIONS: ClassVar[Table[Any]]

    def __init__(self, state: S) -> None:
        self._state = state

    @property
    def state(self) -> S:
        """Where the machine stands."""
        return self._state

    def _move(self, event: type) -> None:
        """Follow the table. LocalError when the state knows no such event."""
        try:
            self._state = self.TRANSITIONS[self._state][event]
        except KeyError:
            raise LocalError(f"{type(self).__name__} in {self._state.name} got {event.__name__}") from None
