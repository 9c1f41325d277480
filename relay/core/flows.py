"""Flow numbers of one leg in one direction: 1-62, each resting after use; a trunk's routes are other numbers.

A number that comes back too soon would let late packets of its former stream into the new one. The byte
before the header is a 1-byte varint: 0 is the control channel, 63 is reserved (media datagrams of the
wire format). Must never live here: who is heard on a flow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from relay.errors import LocalError

FIRST = 1
LAST = 62


class FlowNumbers:
    """Gives out the lowest unused number first, then rested ones, oldest first."""

    __slots__ = ("_first", "_fresh", "_last", "_rest_s", "_resting", "_used")

    def __init__(self, rest_s: float, first: int = FIRST, last: int = LAST) -> None:
        self._rest_s = rest_s
        self._first = self._fresh = first
        self._last = last
        self._used: set[int] = set()
        self._resting: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._used)

    def allot(self, now: float) -> int | None:
        """A number nobody uses; None while all are in use or at rest."""
        if self._fresh <= self._last:
            flow = self._fresh
            self._fresh += 1
        elif self._resting and self._resting[0][0] <= now:
            flow = self._resting.popleft()[1]
        else:
            return None
        self._used.add(flow)
        return flow

    def take(self, flows: Collection[int], now: float) -> None:
        """These are in use already; others below them rest. LocalError for numbers that are none."""
        if not all(self._first <= flow <= self._last for flow in flows):
            raise LocalError("no flow number")
        self._used.update(flows)
        beyond = max(flows, default=self._first - 1) + 1
        rested = [flow for flow in range(self._fresh, beyond) if flow not in self._used]
        self._resting += [(now + self._rest_s, flow) for flow in rested]
        self._fresh = max(self._fresh, beyond)

    def free(self, flow: int, now: float) -> None:
        """The stream is over; the number rests. LocalError for one that is not in use."""
        if flow not in self._used:
            raise LocalError(f"flow {flow} is not in use")
        self._used.remove(flow)
        self._resting.append((now + self._rest_s, flow))

    def next_free(self) -> float | None:
        """When the next resting number may be used, None if none rests."""
        return self._resting[0][0] if self._resting else None
