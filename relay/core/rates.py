"""How many bits per second pass, over the last second; how long packets are; since when a report is owed.

Must never live here: what is done about it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

OVER_S: Final = 1.0
PTIMES: Final = (10, 20, 40, 60)  # ms of speech that senders put into a packet
_LEAST_PACKETS: Final = 3  # to tell their length
_NEAR: Final = 0.15
SELDOM: Final = 5  # slices without a word
SLICES: Final = 10  # of a second: memory does not grow with the packet rate


class ByteRate:
    """Bits per second over the last second, to a tenth of it: one for what is sent, one for what is acked."""

    def __init__(self) -> None:
        self._slices: deque[tuple[int, int]] = deque()  # number of the slice, bytes in it
        self._sum = 0
        self._told = 0  # the slice until which is known what passed

    def on_bytes(self, size: int, now: float) -> None:
        """So many bytes passed since this was told last; `now` in seconds, never earlier than before.

        Who tells it seldom means that they passed all along: they are laid over up to one second.
        """
        number = int(now * SLICES / OVER_S)
        told, self._told = self._told, number
        if not size:
            return
        self._sum += size
        if number - told > SELDOM:
            for earlier in range(max(told + 1, number - SLICES + 1), number):
                part = size // (number - earlier + 1)
                self._put(earlier, part)
                size -= part
        self._put(number, size)
        self._forget(number)

    def _put(self, number: int, size: int) -> None:
        slices = self._slices
        if slices and slices[-1][0] == number:
            slices[-1] = (number, slices[-1][1] + size)
        else:
            slices.append((number, size))

    def bps(self, now: float) -> float:
        """Over the ten slices up to now."""
        self._forget(int(now * SLICES / OVER_S))
        return 8 * self._sum / OVER_S

    def _forget(self, number: int) -> None:
        slices = self._slices
        while slices and slices[0][0] <= number - SLICES:
            self._sum -= slices.popleft()[1]


def packet_ms(packets: int, ms: int, before: int) -> int:
    """Speech in each packet, ms, when so many came in so long; `before` if that fits no length."""
    if packets < _LEAST_PACKETS:
        return before
    each = ms / packets
    return next((one for one in PTIMES if abs(each - one) <= _NEAR * one), before)


class Owed:
    """How long a listener has owed a report. It owes none while nothing is sent to it."""

    def __init__(self) -> None:
        self._since: float | None = None

    def on_sent(self, now: float) -> None:
        """A packet of media left for the listener."""
        if self._since is None:
            self._since = now

    def on_report(self) -> None:
        """The listener said what came."""
        self._since = None

    def age_ms(self, now: float) -> float:
        """Milliseconds since the first packet that no report followed; 0 if there is none."""
        return 0.0 if self._since is None else 1000 * (now - self._since)
