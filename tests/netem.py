"""A faulty network from a seed: loss in bursts, duplicates, jitter (hence reordering), a bottleneck rate.

    link.send(data, now)      link.next_deadline()      link.due(now) -> [data, ...]

The same seed and the same calls give the same faults. Must never live here: a clock of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Weather:
    """How bad it is. Probabilities 0-1, times in seconds, `rate` in bytes per second (0: no limit)."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0  # in the good state
    burst_loss: float = 0.0  # in the bad state (Gilbert-Elliott)
    to_bad: float = 0.0
    to_good: float = 1.0
    duplicate: float = 0.0
    rate: float = 0.0


CLEAR = Weather()
POOR = Weather(
    delay=0.03, jitter=0.04, loss=0.02, burst_loss=0.6, to_bad=0.02, to_good=0.3, duplicate=0.03, rate=64_000
)


class Link(Generic[T]):
    """One direction of a path for things that have a length."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self.weather = weather
        self.sent = self.lost = self.duplicated = 0
        self._random = random.Random(seed)
        self._is_bad = False
        self._free_at = 0.0
        self._order = 0
        self._flying: list[tuple[float, int, T]] = []

    def __len__(self) -> int:
        return len(self._flying)

    def send(self, data: T, size: int, now: float) -> None:
        """Give one datagram to the network."""
        self.sent += 1
        weather, dice = self.weather, self._random
        self._is_bad = dice.random() >= weather.to_good if self._is_bad else dice.random() < weather.to_bad
        if dice.random() < (weather.burst_loss if self._is_bad else weather.loss):
            self.lost += 1
            return
        copies = 1 + (dice.random() < weather.duplicate)
        self.duplicated += copies - 1
        for _ in range(copies):
            self._free_at = max(self._free_at, now) + (size / weather.rate if weather.rate else 0.0)
            self._order += 1
            arrival = self._free_at + weather.delay + weather.jitter * dice.random()
            heappush(self._flying, (arrival, self._order, data))

    def next_deadline(self) -> float | None:
        """When the next datagram arrives."""
        return self._flying[0][0] if self._flying else None

    def due(self, now: float) -> list[T]:
        """What has arrived by `now`, in order of arrival."""
        arrived = []
        while self._flying and self._flying[0][0] <= now:
            arrived.append(heappop(self._flying)[2])
        return arrived
