"""A call that nobody disturbs, beside all others: what goes wrong for it went wrong for the machine.

Must never live here: the calls that are judged.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from lab.people import Person
from lab.relaybox import RelayBox
from lab.talk import Talk
from lab.world import World

PLACES: Final = (("open", "a9"), ("open", "b9"))
BUSY_S: Final = 0.2  # ten frames: on a machine with time to spare this call is never silent so long


class Control:
    """Two people in networks without a fault, who talk by the relay all the time."""

    def __init__(self, world: World, box: RelayBox) -> None:
        self._world = world
        self._box = box
        first, second = (Person(world.net, world.sites[place]) for place in PLACES)
        self._people = (first, second)
        self._lock = threading.Lock()
        self._talk = self._begin()

    def gap(self, begin: float) -> float:
        """Its longest silence from `begin` until now, seconds."""
        with self._lock:  # pairs run beside each other, and all of them ask
            self._talk.collect()
            gap = self._talk.gap(begin, time.monotonic())
            if self._talk.lost is not None:
                self._talk = self._begin()
            return gap

    def _begin(self) -> Talk:
        return Talk.begin(self._world, self._box, self._people, relay_only=True)
