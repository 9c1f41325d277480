"""How much is lost and how many in a row, from packets told in the order in which they were sent.

    Losses.on_packet(was_lost, now)     rate, mean run
    Gaps.on_packet(came, ptime)         pauses of at least 60 ms
    Settled.on_report(base, map)        leg reports -> packets that can no longer come, each once

Must never live here: what is done about it.
"""

from __future__ import annotations

from math import exp
from typing import Final

OVER_S: Final = 2.0
LEAST: Final = 40  # packets: fewer tell nothing about one per cent
_WINDOW: Final = 64  # bits of a leg report's map


class Losses:
    """Share lost, averaged over 2 s, or over 40 packets if those take longer."""

    def __init__(self) -> None:
        self._packets = self._lost = self._runs = 0.0
        self._seen = 0
        self._at: float | None = None
        self._was_lost = False

    def on_packet(self, was_lost: bool, now: float) -> None:
        """The next packet is settled; `now` in seconds."""
        pause = 0.0 if self._at is None else max(0.0, now - self._at)
        fade = exp(-min(pause / OVER_S, 1 / LEAST))
        self._packets = self._packets * fade + 1
        self._lost = self._lost * fade + was_lost
        self._runs = self._runs * fade + (was_lost and not self._was_lost)
        self._was_lost = was_lost
        self._at = now
        self._seen = min(self._seen + 1, LEAST)

    def on_batch(self, came: int, lost: int, runs: int, now: float) -> None:
        """So many are settled at once, lost in so many runs: as `on_packet` for each, but for their order."""
        count = came + lost
        if not count:
            return
        pause = 0.0 if self._at is None else max(0.0, now - self._at)
        fade = exp(-min(pause / OVER_S, count / LEAST))
        self._packets = self._packets * fade + count
        self._lost = self._lost * fade + lost
        self._runs = self._runs * fade + runs
        self._was_lost = False
        self._at = now
        self._seen = min(self._seen + count, LEAST)

    @property
    def rate(self) -> float | None:
        """0-1; None before 40 packets."""
        return self._lost / self._packets if self._seen >= LEAST else None

    @property
    def run(self) -> float:
        """Mean number lost in a row, at least 1."""
        return max(1.0, self._lost / self._runs) if self._runs else 1.0


class Gaps:
    """Counts pauses of at least `least_ms` in what came."""

    def __init__(self, least_ms: float) -> None:
        self._least = least_ms
        self._missing = 0.0
        self._count = 0

    def on_packet(self, came: bool, ptime: float) -> None:
        """The next packet, of `ptime` ms. A gap counts once, when it is long enough."""
        if came:
            self._missing = 0.0
            return
        before, self._missing = self._missing, self._missing + ptime
        self._count += before < self._least <= self._missing

    def take(self) -> int:
        """Gaps since the last `take`."""
        count, self._count = self._count, 0
        return count


class Settled:
    """Leg reports of one flow and key: which packets came, once they are too old to come.

    A report shows the newest 64; what several lost reports would have shown is not made up.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience  # packets behind the newest, as long as a repeat may come in time
        self._next: int | None = None

    def on_report(self, base: int, bits: int) -> list[bool]:
        """Whether each packet came that is settled now, oldest first; `base` and `bits` as in the report."""
        newest = base + bits.bit_length() - 1
        end = newest - self._patience + 1
        begin = base if self._next is None or self._next - newest > _WINDOW else max(base, self._next)
        if end <= begin:
            if self._next is None:
                self._next = base
            return []
        self._next = end
        return [bool(bits >> (ctr - base) & 1) for ctr in range(begin, end)]
