"""What of a queue on the way is not of our making: others fill it and empty it, and it must be borne.

    on_queue(ms, ...) each tick -> bearable ms

Two things show it. A queue that came and went twice while nobody was asked for less will come again. And what
stays long after senders were asked for little is not theirs. Both are believed for a while only. Must never
live here: what follows from it.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

from relay.config_voice import AdaptConfig

MARGIN: Final = 1.2  # crests differ
LEAST_S: Final = 0.3  # two looks: one late packet is no queue
_MOST: Final = 32  # crests


class Standing:
    """One way's. Milliseconds, and seconds of one monotonic clock."""

    def __init__(self, config: AdaptConfig) -> None:
        self._config = config
        self._stood = 0.0
        self._stood_at = -inf
        self._crests: deque[tuple[float, float]] = deque(
            maxlen=_MOST
        )  # when they had gone, how high they were
        self._crest = 0.0  # of the queue that is there now
        self._since = 0.0  # when it came

    def bearable(self, now: float) -> float:
        """What may wait without being congestion of ours."""
        oldest = now - self._config.probation_s
        crests = sorted(crest for at, crest in self._crests if at > oldest)
        came_again = (
            MARGIN * crests[-2] if len(crests) > 1 else 0.0
        )  # what was there once may never come again
        stood = self._stood if self._stood_at > oldest else 0.0
        return max(self._config.queue_ms, min(max(came_again, stood), self._config.stood_most_ms))

    def forget(self) -> None:
        """There is more than was ever borne."""
        self._crests.clear()
        self._crest = self._stood = 0.0
        self._stood_at = -inf

    def on_queue(
        self, queue: float, lowered_at: float, now: float, *, is_tight: bool, is_draining: bool
    ) -> None:
        """The queue now; senders were asked for less at `lowered_at` last, and `is_tight` while they are."""
        if queue >= self._config.queue_clear_ms:
            if not self._crest:
                self._since = now
            self._crest = max(self._crest, queue)
        elif self._crest:
            is_free = lowered_at < self._since and not is_tight
            if is_free and now - self._since >= LEAST_S:
                self._crests.append((now, self._crest))
            self._crest = 0.0
        if is_tight and not is_draining and now - lowered_at >= self._config.clear_s:
            if self._stood_at <= now - self._config.probation_s:
                self._stood = 0.0
            self._stood, self._stood_at = max(self._stood, queue), now
