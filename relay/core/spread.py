"""How values are spread: counts in fixed buckets, so that sums over nodes and differences over time work.

The buckets are part of the metrics' contract (docs/operations.md): two nodes with other bounds could not be
added up. Must never live here: what is measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

Bounds = tuple[float, ...]

FIRST_AUDIO: Final[Bounds] = (0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 10)  # seconds
RESIDENCE: Final[Bounds] = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1)  # seconds
LOSS: Final[Bounds] = (0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.15, 0.3)  # shares
RTT: Final[Bounds] = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.8)  # seconds
LAG: Final[Bounds] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25)  # seconds


class Spread:
    """Counts of values: one per bucket (its upper bound belongs to it), and one for what lies above all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Bounds, counts: Sequence[int] = (), sum: float = 0.0) -> None:
        self.bounds = bounds
        self.counts = list(counts) or [0] * (len(bounds) + 1)
        self.sum = sum

    @property
    def total(self) -> int:
        """How many values."""
        return sum(self.counts)

    def place(self, value: float) -> int:
        """The bucket that the value falls into."""
        return bisect_left(self.bounds, value)

    def add(self, value: float, count: int = 1) -> None:
        """Count a value; -1 takes one back that was counted before."""
        self.counts[self.place(value)] += count
        self.sum += value * count

    def copy(self) -> Spread:
        """As of now."""
        return Spread(self.bounds, self.counts, self.sum)

    def since(self, earlier: Spread) -> Spread:
        """What came after the earlier copy."""
        counts = [now - then for now, then in zip(self.counts, earlier.counts, strict=True)]
        return Spread(self.bounds, counts, self.sum - earlier.sum)

    def plus(self, other: Spread) -> Spread:
        """Both together."""
        counts = [one + two for one, two in zip(self.counts, other.counts, strict=True)]
        return Spread(self.bounds, counts, self.sum + other.sum)
