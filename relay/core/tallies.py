"""How calls and networks were, counted for the whole node: what metrics show of quality.

    Direction windows --> loss, gaps      call over --> MOS, poor, one way      round trips, states of ways

Buckets are fixed, so that sums over nodes work. No label names a person or a call. Must never live here: how
any of it is judged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Final

from relay.core.quality import Summary, Window

MOS: Final = (1.5, 2.0, 2.6, 3.1, 3.6, 4.0, 4.2, 4.5)
LOSS: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.15, 0.3)
RTT: Final = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.8)  # s


class Histogram:
    """How many values were at most as large as each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.total = 0.0
        """Sum of the values."""
        self._counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """One more."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """Values up to each bound, and all."""
        found, count = [], 0
        for one in self._counts:
            count += one
            found.append(count)
        return found


class Tallies:
    """Of one node, since it started."""

    def __init__(self) -> None:
        self.mos = Histogram(MOS)
        """Of each direction of a call that was judged, its mean."""
        self.loss: defaultdict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(LOSS))
        """By transport and direction. Down: of windows, what a listener missed of a speaker, both hops, after
        repair. Up: of each uplink flow that ended, what never came to us."""
        self.rtt: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(RTT))
        """By transport."""
        self.judged = self.poor = self.one_way = 0
        """Calls of which at least one direction was judged; in which one was poor; in which one side heard
        nothing for long while the other was sending."""
        self.gaps = 0
        """Pauses in what listeners got."""
        self.state_s: defaultdict[str, float] = defaultdict(float)
        """Seconds that ways which were looked at spent in each state."""

    def copy(self) -> Tallies:
        """As it is now."""
        return deepcopy(self)

    def on_window(self, window: Window, transport: str) -> None:
        """Some seconds of one direction, to a listener on this transport."""
        self.gaps += window.gaps
        if window.lost_down is not None:
            self.loss[transport, "down"].add(window.lost_down)

    def on_uplink(self, came: int, lost: int, transport: str) -> None:
        """An uplink flow ended."""
        if came:
            self.loss[transport, "up"].add(lost / (came + lost))

    def on_round_trip(self, seconds: float, transport: str) -> None:
        """A packet took so long to a leg and back."""
        self.rtt[transport].add(seconds)

    def on_state(self, state: str, seconds: float) -> None:
        """A way was in this state for so long."""
        self.state_s[state] += seconds

    def on_call(self, directions: Iterable[Summary], silence_s: float) -> None:
        """A call is over; `silence_s`: from which on nobody may call it a pause."""
        known = [one for one in directions if one.windows or one.active_s]
        for one in known:
            if one.mos is not None:
                self.mos.add(one.mos)
        self.judged += bool(known)
        self.poor += any(one.is_poor for one in known)
        self.one_way += any(one.silence_s > silence_s for one in known)
