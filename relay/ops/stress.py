"""How much of what the node can do is in use: the fullest of processor, packets and event loop.

    stress = max(processor / 0.9, packets per second / limit, 99 of 100 delays of the loop / 50 ms)

1 is all of it. Must never live here: where the figures come from, and what follows.
"""

from __future__ import annotations

from collections import deque
from typing import Final

CPU_FULL: Final = 0.9  # share of all processors; the rest is the kernel's and the neighbours'
LAG_FULL_S: Final = 0.05  # voice waits for the loop only in handshakes, and those bear that much
OVER_S: Final = 30.0


class Stress:
    """Feed `on_look` about once a second."""

    def __init__(self, processors: int) -> None:
        self._processors = max(1, processors)
        self._looks: deque[tuple[float, float, int]] = deque()

    def on_look(self, now: float, cpu_s: float, packets: int) -> None:
        """Processor seconds and packets since the start."""
        self._looks.append((now, cpu_s, packets))
        while len(self._looks) > 2 and self._looks[1][0] <= now - OVER_S:
            self._looks.popleft()

    def ratio(self, lag_p99_s: float, packets_per_s: int) -> float:
        """Of the last half minute. `packets_per_s`: what the machine bears; 0: nobody measured it."""
        found = [lag_p99_s / LAG_FULL_S]
        if len(self._looks) > 1:
            (since, cpu, packets), (now, cpu_now, packets_now) = self._looks[0], self._looks[-1]
            passed = max(now - since, 1e-9)
            found.append((cpu_now - cpu) / passed / self._processors / CPU_FULL)
            if packets_per_s:
                found.append((packets_now - packets) / passed / packets_per_s)
        return max(found)
