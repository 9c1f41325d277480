"""An internet without places: what each access line does to packets, on whatever clock the caller has.

    push(now, packet, source, target) -> later -> pop(now) -> [(target, packet), ...]

Packets of one way keep their order: nothing overtakes, as independent delays would only inflate the mean.
Must never live here: devices, the clock.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

Line = TypeVar("Line", bound=Hashable)
HALF_ACCESS_S: Final = 0.0125  # four of them make a round trip of 50 ms


@dataclass(slots=True)
class Conditions:
    """One direction of an access line."""

    delay_s: float = HALF_ACCESS_S
    loss: float = 0.0
    """Share of packets that vanish, 0 to 1."""
    rate_bps: float = 0.0
    """Bits per second; 0: no limit."""
    queue_s: float = 0.1
    """What would wait longer than this for its turn is dropped."""


@dataclass(slots=True)
class _Direction:
    conditions: Conditions = field(default_factory=Conditions)
    busy_until: float = 0.0


class Shaper(Generic[Line]):
    """Holds packets until they are due. `dropped` counts what was lost by purpose."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, Line, bytes]] = []
        self._number = 0
        self._up: dict[Line, _Direction] = {}
        self._down: dict[Line, _Direction] = {}
        self._newest: dict[tuple[Line, Line], float] = {}
        self.dropped = 0

    def set_conditions(self, line: Line, up: Conditions, down: Conditions) -> None:
        """From now on; what is under way stays as it was."""
        self._up.setdefault(line, _Direction()).conditions = up
        self._down.setdefault(line, _Direction()).conditions = down

    def push(self, now: float, packet: bytes, source: Line, target: Line) -> None:
        """A packet leaves `source` for `target`."""
        up = self._up.setdefault(source, _Direction())
        down = self._down.setdefault(target, _Direction())
        at: float | None = now
        for direction in (up, down):
            at = self._through(direction, at, len(packet)) if at is not None else None
        if at is None:
            self.dropped += 1
            return
        at = max(at, self._newest.get((source, target), 0.0))
        self._newest[source, target] = at
        self._number += 1  # of two that are due at once the first goes first
        heapq.heappush(self._heap, (at, self._number, target, packet))

    def pop(self, now: float) -> list[tuple[Line, bytes]]:
        """What has arrived by now."""
        arrived = []
        while self._heap and self._heap[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._heap)
            arrived.append((target, packet))
        return arrived

    def next_deadline(self) -> float | None:
        """When the next packet arrives."""
        return self._heap[0][0] if self._heap else None

    def _through(self, direction: _Direction, at: float, size: int) -> float | None:
        conditions = direction.conditions
        if conditions.loss and self._random.random() < conditions.loss:
            return None
        if conditions.rate_bps:
            begins = max(at, direction.busy_until)
            if begins - at > conditions.queue_s:
                return None
            at = direction.busy_until = begins + size * 8 / conditions.rate_bps
        return at + conditions.delay_s
