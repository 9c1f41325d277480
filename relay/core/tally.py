"""Which pings came on a leg, so that the other side can tell a ping that was lost from a lost answer.

    on_ping(seq)      map(base) -> bit i: base + i came

Two numbers, whatever anybody sends. Must never live here: pings of our own, clocks.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 128  # pings remembered: five seconds of 25 a second
SPAN: Final = 64  # pings that one answer tells of
_ALL: Final = (1 << WINDOW) - 1


class Pings:
    """The newest ones that came; sequence numbers that are far behind are nobody's."""

    __slots__ = ("_map", "_newest")

    def __init__(self) -> None:
        self._newest = 0
        self._map = 0  # bit i: newest - i came

    def on_ping(self, seq: int) -> None:
        """One came, in whatever order."""
        behind = self._newest - seq
        if behind < 0:
            self._map = (self._map << min(-behind, WINDOW)) & _ALL | 1
            self._newest = seq
        elif behind < WINDOW:
            self._map |= 1 << behind

    def map(self, base: int) -> int:
        """Bit i, lowest first: the ping base + i came, as far as is remembered."""
        return sum(1 << i for i in range(SPAN) if self._came(base + i))

    def _came(self, seq: int) -> bool:
        behind = self._newest - seq
        return 0 <= behind < WINDOW and bool(self._map >> behind & 1)
