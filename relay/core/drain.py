"""How a node leaves: each state takes less work than the one before; and how it is emptied, and comes back.

    RUNNING --request--> DRAINING --grace over, nobody left, or request--> MOVING
       ^ |                  ^   --all moved, time up, or request--> CLOSING --last frames out--> STOPPED
       | '--mark--> EMPTYING --request'
       '--mark taken back--'

Must never live here: calls, legs, or who is asked to move where.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from relay.config import DrainConfig
from relay.core.machine import Machine, Table


class DrainState(Enum):
    """What the node still takes."""

    RUNNING = "running"  # everything
    EMPTYING = "emptying"  # people into calls that exist; these are asked to go elsewhere, and the node stays
    DRAINING = "draining"  # people into calls that exist
    MOVING = "moving"  # nobody; those who are here are asked to go elsewhere
    CLOSING = "closing"  # nobody; those who are still here are closed
    STOPPED = "stopped"  # the process may exit


class Requested:
    """SIGTERM or an operator; a second one skips a state."""


class Marked:
    """The signed routes say that the node shall be empty."""


class Unmarked:
    """They say so no more."""


class StepOver:
    """The state's time is up, or there is nothing left for it to wait for."""


class Drain(Machine[DrainState]):
    """The node's own life."""

    TRANSITIONS: ClassVar[Table[DrainState]] = {
        DrainState.RUNNING: {Requested: DrainState.DRAINING, Marked: DrainState.EMPTYING},
        DrainState.EMPTYING: {Requested: DrainState.DRAINING, Unmarked: DrainState.RUNNING},
        DrainState.DRAINING: {Requested: DrainState.MOVING, StepOver: DrainState.MOVING},
        DrainState.MOVING: {Requested: DrainState.CLOSING, StepOver: DrainState.CLOSING},
        DrainState.CLOSING: {Requested: DrainState.CLOSING, StepOver: DrainState.STOPPED},
        DrainState.STOPPED: {Requested: DrainState.STOPPED},
    }

    def __init__(self, config: DrainConfig) -> None:
        super().__init__(DrainState.RUNNING)
        self._config = config
        self._until: float | None = None
        self.ends_at = 0.0
        """Monotonic second at which everybody is closed, once draining."""

    @property
    def takes_calls(self) -> bool:
        """Whether new calls may start."""
        return self._state is DrainState.RUNNING

    @property
    def takes_joins(self) -> bool:
        """Whether people may come into calls that exist."""
        return self._state in (DrainState.RUNNING, DrainState.EMPTYING, DrainState.DRAINING)

    def next_deadline(self) -> float | None:
        """When the present state is over."""
        return self._until

    def on_config(self, config: DrainConfig) -> None:
        """A reload; it counts from the next state on."""
        self._config = config

    def on_request(self, now: float) -> None:
        """Begin to leave, or hurry."""
        if self._state in (DrainState.RUNNING, DrainState.EMPTYING):
            self.ends_at = now + self._config.deadline_s
        before = self._state
        self._move(Requested)
        if self._state is not before:
            self._enter(now)

    def on_mark(self, is_marked: bool) -> bool:
        """What the signed routes say; whether it changes anything. Who leaves for good, leaves."""
        event = Marked if is_marked else Unmarked
        if event not in self.TRANSITIONS[self._state]:
            return False
        self._move(event)
        return True

    def on_step_over(self, now: float) -> None:
        """Go on to the next state."""
        self._move(StepOver)
        self._enter(now)

    def _enter(self, now: float) -> None:
        lasts: dict[DrainState, float | None] = {
            DrainState.DRAINING: now + self._config.grace_s,
            DrainState.MOVING: max(now, self.ends_at - self._config.close_s),
            DrainState.CLOSING: now + self._config.close_s,
        }
        self._until = lasts.get(self._state)
