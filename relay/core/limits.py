"""What anyone may use: token buckets for rates, quotas for things that are held.

A quota is charged when a thing comes to life and released when it is gone, by the same owner, so that
charges equal resources at any moment. Must never live here: the numbers (they are in the configuration).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

from relay.errors import LocalError

K = TypeVar("K", bound=Hashable)


class TokenBucket:
    """`burst` units at once, refilled at `rate` units per second. A clock that steps back refills nothing."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def take(self, amount: float, now: float) -> bool:
        """Take `amount` units, or nothing at all."""
        if now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
            self._at = now
        if amount > self._level:
            return False
        self._level -= amount
        return True

    def wait_ms(self, amount: float) -> int:
        """Milliseconds from the last `take` until `amount` would pass; for `retry_ms`."""
        return max(1, round(1000 * (min(amount, self._burst) - self._level) / self._rate))


class Quota(Generic[K]):
    """How many things each key holds, and the greatest number it may hold."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self._held: Counter[K] = Counter()

    def held(self, key: K) -> int:
        """What the key holds now."""
        return self._held[key]

    def total(self) -> int:
        """What all keys hold now."""
        return self._held.total()

    def keys(self) -> int:
        """How many keys hold something: this, not the number ever seen, is what the quota costs."""
        return len(self._held)

    def charge(self, key: K) -> bool:
        """Take one for the key; False when it holds its full share already."""
        if self._held[key] >= self.ceiling:
            return False
        self._held[key] += 1
        return True

    def release(self, key: K) -> None:
        """Give one back. LocalError when the key holds none: a charge was released twice."""
        left = self._held[key] - 1
        if left < 0:
            raise LocalError("a quota was released that was never charged")
        if left:
            self._held[key] = left
        else:
            del self._held[key]


class Full(Enum):
    """What stands in the way of one more."""

    OWN = "own"  # the sharer's own ceiling
    SHARED = "shared"  # the common one, less what others have in reserve


class Share(NamedTuple):
    """Of one sharer: `most` at once (None: no ceiling of its own), of which `reserved` are nobody else's."""

    most: int | None = None
    reserved: int = 0


NO_SHARE = Share()


class Shares:
    """One ceiling for several sharers, each with a ceiling and a reserve of its own.

    While ceiling and shares stand, held + sum(max(0, reserved - held)) <= ceiling: who is below its reserve
    and its own ceiling is never refused, whatever the others do.
    """

    def __init__(self, ceiling: int, shares: Mapping[str, Share]) -> None:
        self.ceiling = ceiling
        self.shares = shares
        self._held: Counter[str] = Counter()

    def held(self, name: str) -> int:
        """What the sharer holds now."""
        return self._held[name]

    def lacks(self, name: str, *, is_return: bool = False) -> Full | None:
        """Why one more cannot be had; None: it can. What returns passes its own ceiling, not the reserves."""
        most = self.shares.get(name, NO_SHARE).most
        if most is not None and not is_return and self._held[name] >= most:
            return Full.OWN
        rest = sum(
            max(0, share.reserved - self._held[other])
            for other, share in self.shares.items()
            if other != name
        )
        return Full.SHARED if self._held.total() + rest >= self.ceiling else None

    def take(self, name: str) -> None:
        """One more is held; the caller asked before, or restores what was there."""
        self._held[name] += 1

    def release(self, name: str) -> None:
        """Give one back. LocalError when the sharer holds none: it was released twice."""
        left = self._held[name] - 1
        if left < 0:
            raise LocalError("a share was released that was never taken")
        if left:
            self._held[name] = left
        else:
            del self._held[name]
