"""Which pair's turn it is: as many at once as a machine bears, none beside one that it would disturb.

    begin() -> the next pair that may run, None when there is none left         end(pair)

Two pairs disturb each other if they need one place, or places behind one outer address: mappings are dropped
before each pair, and the relay's box counts by that address. Must never live here: calls, threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

Pair = tuple[str, str]
AT_ONCE: Final = 2  # four clients, two of the control, the relay and the internet: what two CPUs bear


class Turns:
    """The pairs that wait and those that run; any thread may ask."""

    def __init__(self, pairs: Iterable[Pair], needs: Callable[[Pair], frozenset[str]]) -> None:
        self._waiting = list(pairs)
        self._needs = needs
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    def begin(self) -> Pair | None:
        """Wait for a pair that disturbs none that runs: the first of those that wait."""
        with self._changed:
            while self._waiting:
                for pair in self._waiting:
                    if self._taken.isdisjoint(self._needs(pair)):
                        self._waiting.remove(pair)
                        self._taken |= self._needs(pair)
                        return pair
                self._changed.wait()
            return None

    def end(self, pair: Pair) -> None:
        """It is done, however it ended."""
        with self._changed:
            self._taken -= self._needs(pair)
            self._changed.notify_all()

    def stop(self) -> None:
        """No more."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()
