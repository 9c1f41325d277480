"""How fast a whole region may be emptied: at most 2 % of its calls in any second.

The regions that take the calls feel each of them as joins, and so does what stands between. All nodes of the
region leave in step, each with the same share of its calls gone, so that none is last. Who comes late does
not catch up: beyond a tenth of a second, what was missed is shifted. Must never live here: who takes the
calls, tickets and asking again (core/leaving.py), clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

SHARE: Final = 0.02
"""Of the calls that there were when it began, per second: a region takes 50 s at least to leave."""
CATCH_UP_S: Final = 0.1
"""A loop that looks this often still reaches the pace."""


class Move(NamedTuple):
    """A call whose people are to be asked now."""

    node: str
    call: str


class RegionDrain:
    """One drain of a region. `calls` are those of each node that run when it begins, ids in hexadecimal."""

    def __init__(self, calls: Mapping[str, Sequence[str]], now: float, share: float = SHARE) -> None:
        # The k-th of a node's n calls comes when (k + 1/2) / n of all have gone.
        order = sorted(
            ((k + 0.5) / len(each), node, call) for node, each in calls.items() for k, call in enumerate(each)
        )
        self._waiting = {call: node for _, node, call in order}
        self.per_second = max(1, int(len(self._waiting) * share))
        """Calls asked in any one second; 1 at least, or a small region would never be empty."""
        self._asked: deque[float] = deque(maxlen=self.per_second)
        self._turn = now

    @property
    def left(self) -> int:
        """Calls that nobody was asked for yet and that run."""
        return len(self._waiting)

    def on_ended(self, call: str) -> None:
        """A call is over and needs no move. One that was asked already, or is not ours, changes nothing."""
        self._waiting.pop(call, None)

    def due(self, now: float) -> list[Move]:
        """Calls to ask now. A clock that steps back gives none until it has caught up."""
        moves: list[Move] = []
        self._turn = max(self._turn, now - CATCH_UP_S)
        while self._waiting and now >= self._next():
            call = next(iter(self._waiting))
            moves.append(Move(self._waiting.pop(call), call))
            self._asked.append(now)
            self._turn += 1 / self.per_second
        return moves

    def next_deadline(self) -> float | None:
        """When `due` has the next one; None when it never will."""
        return self._next() if self._waiting else None

    def _next(self) -> float:
        is_full = len(self._asked) == self.per_second
        return max(self._turn, self._asked[0] + 1.0) if is_full else self._turn
