"""A budget per second, in the lane's plain twin. Must never live here: a clock, or what the budget is for."""

from __future__ import annotations


class Bucket:
    """A token bucket in its own unit per second; starts full."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = self._burst
        self._at = 0.0

    def fresh(self) -> Bucket:
        """Another one of the same rate and burst, full."""
        return Bucket(self._rate, self._burst)

    def change(self, rate: float, burst: float) -> None:
        """Another rate from now on; what was spent stays spent."""
        self._rate = rate
        self._burst = burst
        self._level = min(self._level, burst)

    def take(self, amount: float, now: float) -> bool:
        """Take `amount` at `now` (seconds, monotonic); False, and nothing taken, when there is less."""
        level = self._level
        if now > self._at:  # an earlier clock than the last gives nothing, and does not set this one back
            level = min(self._burst, level + (now - self._at) * self._rate)
            self._at = now
        if level < amount:
            self._level = level
            return False
        self._level = level - amount
        return True
