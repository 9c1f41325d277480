"""How fast the demands on a sender may change: one step down a second, one step up in five or more.

    level 0  24k, 20 ms packets | 1  24k, 40 ms | 2  24k, 60 ms | 3  16k, 60 ms | 4  12k, 60 ms

Longer packets come first: headers are more than half of a 20 ms packet. A step up that ends in congestion has
failed, and the next one waits twice as long. Must never live here: why a step is wanted.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from relay.config_voice import AdaptConfig

LONG_PACKETS: Final = 2  # the first level with packets of 60 ms
LOWEST: Final = 4


class Level(NamedTuple):
    """What a sender is asked for."""

    bps: int
    ptime: int  # ms


def ladder(config: AdaptConfig) -> tuple[Level, ...]:
    """The levels, best first."""
    return (
        Level(config.high_bps, 20),
        Level(config.high_bps, 40),
        Level(config.high_bps, 60),
        Level(config.mid_bps, 60),
        Level(config.low_bps, 60),
    )


class Steps:
    """Where one leg stands on the ladder, and how many speakers it takes."""

    def __init__(self, config: AdaptConfig) -> None:
        self._config = config
        self._ladder = ladder(config)
        self._moved_at = self._lowered_at = -inf
        self._tried_at: float | None = None  # a step up that has not proved itself
        self._wait = config.up_s
        self._proven = LOWEST  # worse levels than this are left as soon as there is no queue
        self.level = 0
        self.speakers = config.speakers

    @property
    def wait_s(self) -> float:
        """How long the next step up waits, seconds."""
        return self._wait

    @property
    def lowered_at(self) -> float:
        """When the newest step down was."""
        return self._lowered_at

    @property
    def asked(self) -> Level:
        """What a sender is asked for at this level."""
        return self._ladder[self.level]

    def down(self, now: float, *, to: int, at_once: bool = False) -> None:
        """A step towards level `to`, if it is time; in congestion `at_once`, which takes a speaker away too.

        Only other steps down are waited for: what a step up did wrong is undone without delay.
        """
        if now - self._lowered_at < self._config.down_s:
            return
        to = min(to, LOWEST)
        speakers = max(1, self.speakers - 1) if at_once else self.speakers
        if to <= self.level and speakers == self.speakers:
            return
        self.level = max(self.level, to if at_once else self.level + 1)
        self._proven = LOWEST
        self.speakers = speakers
        self._moved_at = self._lowered_at = now

    def up(self, now: float, *, to: int) -> bool:
        """A step back towards level `to` and all speakers, if it is time; whether it is one on trial."""
        if self._tried_at is not None and not self.is_on_trial(now):
            self._tried_at, self._wait = None, self._config.up_s
        if to >= self.level and self.speakers == self._config.speakers:
            return False
        if self.level > max(to, self._proven):
            if now - self._moved_at >= self._config.clear_s:
                self.level -= 1
            return False
        if now - self._moved_at < self._wait:
            return False
        self.level = min(self.level, max(to, self.level - 1))
        self.speakers = min(self._config.speakers, self.speakers + 1)
        self._moved_at = self._tried_at = now
        return True

    def is_on_trial(self, now: float) -> bool:
        """The newest step was one up, and has not proved itself."""
        return self._tried_at is not None and now - self._tried_at < self._config.up_s

    def undo(self, now: float) -> None:
        """The step up on trial is more than the way bears: one further down until its queue is gone."""
        self.failed(now)
        self._proven = min(self.level + 1, LOWEST)
        self.level = min(self.level + 2, LOWEST)
        self._moved_at = self._lowered_at = now

    def failed(self, now: float) -> None:
        """Congestion begins: if it follows a step up, that was too much."""
        if self.is_on_trial(now):
            self._wait = min(2 * self._wait, self._config.up_most_s)
        self._tried_at = None
