"""One heap of deadlines for all machines, so that ten thousand of them cost nothing while nothing is due.

A key has one deadline at most; setting it again replaces it. Old heap entries die when they surface, or all
at once when they outnumber the living. Must never live here: what happens when a deadline passes.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64  # dead entries that are not worth a rebuild


class Deadlines(Generic[K]):
    """Keys and the monotonic second at which each is due."""

    def __init__(self) -> None:
        self._when: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = 0  # ties go in order of setting, and keys need no ordering

    def __len__(self) -> int:
        return len(self._when)

    def set(self, key: K, when: float | None) -> None:
        """Replace the key's deadline; None forgets it."""
        if when is None:
            self._when.pop(key, None)
            return
        if self._when.get(key) == when:
            return
        self._when[key] = when
        self._order += 1
        heappush(self._heap, (when, self._order, key))
        if len(self._heap) > 2 * len(self._when) + _SLACK:
            self._heap = [entry for entry in self._heap if self._when.get(entry[2]) == entry[0]]
            heapify(self._heap)

    def next(self) -> float | None:
        """The nearest deadline."""
        heap = self._heap
        while heap:
            when, _, key = heap[0]
            if self._when.get(key) == when:
                return when
            heappop(heap)
        return None

    def pop(self, now: float) -> K | None:
        """One key that is due at `now`, its deadline forgotten."""
        when = self.next()
        if when is None or when > now:
            return None
        key = heappop(self._heap)[2]
        del self._when[key]
        return key
