"""What may be sent to an address that has proven nothing: how often, and how much for how much.

Whoever forges a source makes us write to a victim. So such answers have budgets per source and in all, in a
fixed array that no number of sources can make grow, and none is sent for a request too small to deserve it.
Must never live here: what the answers say.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import Final

from relay.core.limits import TokenBucket
from relay.protocol.address import Address

BUCKETS: Final = 4096  # 64 KiB; sources that fall into one bucket share its budget
FACTOR: Final = 2.0  # a refusal of 56 bytes for a request of 28: the least Allocate and Refresh there is


class Unproven:
    """Budgets for answers to sources that may be forged."""

    def __init__(self, per_source_per_s: float, per_s: float, key: bytes) -> None:
        self._rate = per_source_per_s
        self._burst = per_source_per_s  # a second's worth at once
        self._key = key[:32]
        self._level = array("d", [self._burst]) * BUCKETS
        self._at = array("d", [0.0]) * BUCKETS
        self._all = TokenBucket(per_s, per_s, 0.0)

    def take(self, source: Address, now: float) -> bool:
        """Whether one more answer may go there. Ports are not looked at, nor the lower half of an IPv6."""
        digest = blake2b(source.prefix(), digest_size=2, key=self._key).digest()
        slot = int.from_bytes(digest, "big") % BUCKETS
        level = self._level[slot]
        if now > self._at[slot]:
            level = min(self._burst, level + (now - self._at[slot]) * self._rate)
            self._at[slot] = now
        self._level[slot] = level
        # A flood from one place is stopped by its own bucket and takes nothing from all others'.
        if level < 1 or not self._all.take(1, now):
            return False
        self._level[slot] = level - 1
        return True
