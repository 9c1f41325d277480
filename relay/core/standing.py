"""What of a queue on the way is not of our making: others fill it and empty it, and it must be borne.

    on_queue(ms, ...) each tick -> bearable ms

Two things show it. A queue that came and went while nobody was asked for less will come again. And what stays
long after senders were asked for little is not theirs. Both are believed for a while only. Must never live
here: what follows from it.
"""

from __future__ import annotations

from math import inf
from typing import Final

from relay.config_voice import AdaptConfig

MARGIN: Final = 1.2  # crests differ


class Standing:
    """One way's. Milliseconds, and seconds of one monotonic clock."""

    def __init__(self, config: AdaptConfig) -> None:
        self._config = config
        self._borne = 0.0
        self._borne_at = -inf
        self._crest = 0.0  # of the queue that is there now
        self._since = 0.0  # when it came

    def bearable(self, now: float) -> float:
        """What may wait without being congestion of ours."""
        is_fresh = now - self._borne_at < self._config.probation_s
        return max(self._config.queue_ms, self._borne if is_fresh else 0.0)

    def forget(self) -> None:
        """There is more than was ever borne."""
        self._borne = self._crest = 0.0
        self._borne_at = -inf

    def on_queue(
        self, queue: float, lowered_at: float, now: float, *, is_tight: bool, is_draining: bool
    ) -> None:
        """The queue now; senders were asked for less at `lowered_at` last, and `is_tight` while they are."""
        if queue >= self._config.queue_clear_ms:
            if not self._crest:
                self._since = now
            self._crest = max(self._crest, queue)
        elif self._crest:
            if lowered_at < self._since and not is_tight:
                self._bear(MARGIN * self._crest, now)
            self._crest = 0.0
        if is_tight and not is_draining and now - lowered_at >= self._config.clear_s:
            self._bear(queue, now)

    def _bear(self, queue: float, now: float) -> None:
        if now - self._borne_at >= self._config.probation_s:
            self._borne = 0.0
        self._borne = max(self._borne, min(queue, self._config.stood_most_ms))
        self._borne_at = now
