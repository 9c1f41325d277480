"""How much longer packets take than they could, and whether that rises.

    RelativeDelay.on_packet(sent_ms, arrived_ms) -> delay over its minimum of the last 10 s
    Trend.on_delay(ms) -> Kendall's tau of the last 5     Trend.rise -> ms, over the last 3

Sender and receiver need no common clock: a difference that stays is taken off with the minimum. Must never
live here: what is done about it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

HISTORY_MS: Final = 10_000
SLICE_MS: Final = 500  # minima are kept by slice: 20 numbers, whatever the packet rate
TREND_OVER: Final = 5
NOISE_MS: Final = 15.0  # between two looks: one late packet more or less is no fall
_RISE_OVER: Final = 3


class RelativeDelay:
    """Delay of one way over its least of the last 10 s."""

    def __init__(self) -> None:
        # Number of a slice, least in it, of those that may yet be the least: the first is.
        self._minima: deque[tuple[int, float]] = deque()
        self._number = 0

    def on_packet(self, sent_ms: float, arrived_ms: float) -> float:
        """Milliseconds, 0 for the fastest packet. The clocks may differ by anything that does not change."""
        raw = arrived_ms - sent_ms
        minima = self._minima
        self._number = number = max(self._number, int(arrived_ms // SLICE_MS))
        while minima and minima[-1][1] >= raw:
            minima.pop()
        if not minima or minima[-1][0] != number:
            minima.append((number, raw))
        while minima[0][0] <= number - HISTORY_MS // SLICE_MS:
            minima.popleft()
        return raw - minima[0][1]


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
    ordered, rising, pairs = list(values), 0, 0
    for at, earlier in enumerate(ordered):
        for later in ordered[at + 1 :]:
            pairs += 1
            if later > earlier:
                rising += 1
            elif later < earlier:
                rising -= 1
    return rising / pairs if pairs else 0.0
