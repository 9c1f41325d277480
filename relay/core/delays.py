"""How much longer packets take than they could, and whether that rises.

    RelativeDelay.on_packet(sent_ms, arrived_ms) -> delay over its minimum of the last 10 s
    Trend.on_delay(ms) -> Kendall's tau of the last 5     Trend.rise -> ms, over the last 3

Sender and receiver need no common clock: a difference that stays is taken off with the minimum. Must never
live here: what is done about it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import combinations
from typing import Final

HISTORY_MS: Final = 10_000
SLICE_MS: Final = 500  # minima are kept by slice: 20 numbers, whatever the packet rate
TREND_OVER: Final = 5
NOISE_MS: Final = 15.0  # between two looks: one late packet more or less is no fall
_RISE_OVER: Final = 3


class RelativeDelay:
    """Delay of one way over its least of the last 10 s."""

    def __init__(self) -> None:
        self._minima: deque[tuple[int, float]] = deque()  # number of the slice, least in it

    def on_packet(self, sent_ms: float, arrived_ms: float) -> float:
        """Milliseconds, 0 for the fastest packet. The clocks may differ by anything that does not change."""
        raw = arrived_ms - sent_ms
        number = int(arrived_ms // SLICE_MS)
        minima = self._minima
        if minima and number <= minima[-1][0]:
            minima[-1] = (minima[-1][0], min(minima[-1][1], raw))
        else:
            minima.append((number, raw))
        while minima[0][0] <= minima[-1][0] - HISTORY_MS // SLICE_MS:
            minima.popleft()
        return raw - min(least for _, least in minima)


class Trend:
    """Whether the last delays rise."""

    def __init__(self) -> None:
        self._delays: deque[float] = deque(maxlen=TREND_OVER)

    def note(self, delay_ms: float) -> None:
        """One more, of which nobody asks now."""
        self._delays.append(delay_ms)

    @property
    def rise(self) -> float:
        """By how much the last three grew, ms; 0 unless they went up and stayed there."""
        if len(self._delays) < _RISE_OVER:
            return 0.0
        first, second, third = list(self._delays)[-_RISE_OVER:]
        return max(0.0, third - first) if second > first and third > second - NOISE_MS else 0.0

    def on_delay(self, delay_ms: float) -> float:
        """-1 all fall, 1 all rise; 0 until there are five."""
        self.note(delay_ms)
        return kendall(self._delays) if len(self._delays) == TREND_OVER else 0.0


def kendall(values: Sequence[float]) -> float:
    """Kendall's tau (a) of values against their order: rising pairs less falling ones, over all pairs."""
    pairs = list(combinations(values, 2))
    if not pairs:
        return 0.0
    return sum((later > earlier) - (later < earlier) for earlier, later in pairs) / len(pairs)
