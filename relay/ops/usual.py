"""What share of calls usually ends on TCP at this hour: the mean of the same hour of the last seven days.

    ended calls, hour by hour --> usual(now)

Some networks always block UDP, and more of them in the evening; only what exceeds that is news. Must never
live here: what is judged by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HOUR_S: Final = 3600
DAY: Final = 24  # hours
WEEK: Final = 7 * DAY
ENOUGH: Final = 100  # calls; of fewer nothing is usual


class Usual:
    """Hours since 1970, each with its calls and how many of them ended on TCP."""

    def __init__(self, otherwise: float) -> None:
        self._otherwise = otherwise
        self._hours: dict[int, tuple[int, int]] = {}

    def add(self, wall: float, on_tcp: int, calls: int) -> None:
        """So many calls ended at this time."""
        hour = int(wall // HOUR_S)
        before = self._hours.get(hour, (0, 0))
        self._hours[hour] = before[0] + on_tcp, before[1] + calls
        if len(self._hours) > WEEK + DAY:
            self._hours = {known: of for known, of in self._hours.items() if known > hour - WEEK - 1}

    def load(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """Hours of before the start: (hour, on TCP, calls)."""
        self._hours.update({hour: (on_tcp, calls) for hour, on_tcp, calls in rows})

    def share(self, wall: float) -> float:
        """What is usual at this time of day; what was given for otherwise, where too little is known."""
        hour = int(wall // HOUR_S)
        same = [self._hours.get(hour - DAY * day, (0, 0)) for day in range(1, 8)]
        on_tcp, calls = (sum(column) for column in zip(*same, strict=True))
        return on_tcp / calls if calls >= ENOUGH else self._otherwise
