"""What the relay asks our encoder for (`rate`), as long as that holds, within what a voice can bear.

Must never live here: the codec, clocks.
"""

from __future__ import annotations

from typing import Final

from relay.protocol.messages import Rate

LEAST_BPS: Final = 12_000
STEP_MS: Final = 20
MOST_STEPS: Final = 3  # 60 ms of speech in one packet


class Wishes:
    """The newest. `now` is seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._rate: Rate | None = None
        self._until = 0.0

    def on_rate(self, message: Rate, now: float) -> None:
        """The relay asks."""
        self._rate = message
        self._until = now + message.ttl / 1000

    def bitrate(self, own: int, now: float) -> int:
        """Bits per second: the application's own, or less."""
        rate = self._holds(now)
        return own if rate is None else min(own, max(LEAST_BPS, rate.bps))

    def steps(self, now: float) -> int:
        """Steps of 20 ms in each packet."""
        rate = self._holds(now)
        return 1 if rate is None else min(max(1, rate.pt // STEP_MS), MOST_STEPS)

    def _holds(self, now: float) -> Rate | None:
        return self._rate if now < self._until else None
