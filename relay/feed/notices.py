"""What the log says of an endpoint: few lines, however many tries fail and letters die.

    on_try       an outage is a line when it begins and one when it ends
    on_deaths    a reason for which letters die is a line at once; the next after ten minutes, with the count

Must never live here: a logger, a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final

from relay.feed.answers import Fate
from relay.feed.courier import Verdict

EVERY: Final = 600.0  # seconds; metrics and `relay feed list` have all of them
BY_LIMIT: Final = ("age", "attempts", "full")
"""Why a letter dies while its endpoint takes none."""
REASONS: Final = ("refused", *BY_LIMIT)
"""The others are told of by those who ask for them (relay.feed.rounds, an operator)."""


class Outage(Enum):
    """News of it."""

    BEGAN = auto()
    ENDED = auto()


class Notices:
    """Of one endpoint."""

    def __init__(self) -> None:
        self._is_failing = False
        self._told: Counter[str] = Counter()
        self._silent_until: dict[str, float] = {}

    def on_try(self, verdict: Verdict) -> Outage | None:
        """A try ended; the news, if it is any. A letter that dies of it ends no outage."""
        was = self._is_failing
        self._is_failing = verdict.fate is Fate.AGAIN or (
            verdict.fate is Fate.DEAD and verdict.why in BY_LIMIT
        )
        if self._is_failing and not was:
            return Outage.BEGAN
        return Outage.ENDED if was and verdict.fate is Fate.DONE else None

    def on_deaths(self, dead: Mapping[str, int], now: float) -> Iterator[tuple[str, int]]:
        """Reasons to be told now and how many letters died since last told. `dead`: all, ever, by reason."""
        for why in REASONS:
            count = dead.get(why, 0) - self._told[why]
            if count > 0 and now >= self._silent_until.get(why, now):
                self._told[why] += count
                self._silent_until[why] = now + EVERY
                yield why, count
