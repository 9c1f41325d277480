"""Things remembered for a while: spent token ids, ended calls, removed people.

A spent token id must be known for as long as its token could pass the clock checks, and wall clocks jump.
So an entry dies only when both clocks say so, and how far the forgetting went is kept: what ended by then
is over for good, also when the wall clock is set back afterwards. Neither a jump forward nor one back revives
a token.
Must never live here: what the memory is used for.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Memory(Generic[K]):
    """A set whose members expire, with a ceiling."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.horizon = float("-inf")  # latest wall second of an end that was forgotten
        self._until: dict[K, float] = {}  # wall second of the end
        self._heap: list[tuple[float, int, K]] = []  # monotonic second of the next look, order, key
        self._order = 0

    def __len__(self) -> int:
        return len(self._until)

    def knows(self, key: K, now: float, wall: float) -> bool:
        """Whether the key is remembered still."""
        self._expire(now, wall)
        return key in self._until

    def has_room(self, now: float, wall: float) -> bool:
        """Forget what is over, then say whether one more fits."""
        self._expire(now, wall)
        return len(self._until) < self.ceiling

    def add(self, key: K, ttl_s: float, now: float, wall: float) -> None:
        """Remember for `ttl_s` seconds of both clocks. At the ceiling the first to end makes room."""
        if not self.has_room(now, wall) and key not in self._until:
            self._drop_nearest()
        known = key in self._until
        self._until[key] = max(wall + ttl_s, self._until.get(key, wall))
        if not known:
            self._push(now + ttl_s, key)

    def discard(self, key: K) -> None:
        """Forget now."""
        self._until.pop(key, None)  # its heap entry dies when it surfaces

    def _push(self, when: float, key: K) -> None:
        self._order += 1
        heappush(self._heap, (when, self._order, key))

    def _drop_nearest(self) -> None:
        # Every member has a heap entry, so the heap cannot run dry before the set does.
        while self._until.pop(heappop(self._heap)[2], None) is None:
            continue

    def _expire(self, now: float, wall: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            _, _, key = heappop(self._heap)
            until = self._until.get(key)
            if until is None:
                continue
            if until <= wall:
                del self._until[key]
                self.horizon = max(self.horizon, until)
            else:
                self._push(now + (until - wall), key)


class Memories(Generic[K]):
    """A memory for each owner, made when it is first asked for, all with the same ceiling.

    What one owner remembers takes no room of another's, and is nothing to it. Owners come from the
    configuration, so there are few.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._of: dict[str, Memory[K]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    @property
    def ceiling(self) -> int:
        """Of each."""
        return self._ceiling

    @ceiling.setter
    def ceiling(self, ceiling: int) -> None:
        self._ceiling = ceiling
        for memory in self._of.values():
            memory.ceiling = ceiling

    def of(self, owner: str) -> Memory[K]:
        """That owner's."""
        if owner not in self._of:
            self._of[owner] = Memory(self._ceiling)
        return self._of[owner]
