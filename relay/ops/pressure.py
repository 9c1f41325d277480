"""How full the node is at this moment: what decides whether it gives something up.

    pressure = max(processors / 0.9, packets per second / limit, loop's delay / 250 ms,
                   min(0.99, busiest thread / 0.95))

All over five seconds, where stress (stress.py), which the region's health counts with, is of half a minute
and minds a delay that handshakes feel already. A thread alone never makes the node full: a flood of strangers
may fill the one that turns them away, and calls begin beside it all the same. Must never live here: what
follows (relay/core/shedding.py).
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CPU_FULL: Final = 0.9  # share of all processors; the rest is the kernel's and the neighbours'
THREAD_FULL: Final = 0.95  # of one: a thread has no more
THREAD_MOST: Final = 0.99
LAG_FULL_S: Final = 0.25
OVER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Look:
    """Sums since the start, and what holds at this moment."""

    cpu_s: float
    threads_s: dict[str, float]
    """Processor seconds of each thread."""
    packets: int
    lag_s: float
    """What 99 of 100 delays of the loop did not exceed."""


class Pressure:
    """Feed `on_look` about once a second."""

    def __init__(self, processors: int) -> None:
        self._processors = max(1, processors)
        self._looks: deque[tuple[float, Look]] = deque()
        self.ratio = 0.0
        """1 is full."""

    def on_look(self, now: float, look: Look, packets_per_s: int) -> float:
        """The ratio as of now. `packets_per_s`: what the machine bears; 0: nobody measured it."""
        self._looks.append((now, look))
        while len(self._looks) > 2 and self._looks[1][0] <= now - OVER_S:
            self._looks.popleft()
        found = [look.lag_s / LAG_FULL_S]
        since, first = self._looks[0]
        passed = now - since
        if passed > 0:
            found.append((look.cpu_s - first.cpu_s) / passed / self._processors / CPU_FULL)
            busy = (now_s - first.threads_s.get(name, now_s) for name, now_s in look.threads_s.items())
            found.append(min(THREAD_MOST, max(busy, default=0.0) / passed / THREAD_FULL))
            if packets_per_s:
                found.append((look.packets - first.packets) / passed / packets_per_s)
        self.ratio = max(found)
        return self.ratio


def threads_s(process: Path = Path("/proc/self")) -> dict[str, float]:
    """Processor seconds of each thread by its id; empty where the system does not say."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    try:
        for task in (process / "task").iterdir():
            fields = (
                (task / "stat").read_bytes().rpartition(b")")[2].split()
            )  # proc(5): a name may hold spaces
            found[task.name] = (int(fields[11]) + int(fields[12])) / tick
    except OSError:  # a thread ended meanwhile: what was read counts
        pass
    return found
