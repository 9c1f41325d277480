"""Half of what a daemon carries on this machine, for as long as something else is looked at.

    half = HalfLoad(daemon, cpus)
    await half.prepare()            calls are placed; what they get through is measured, as fast as goes
    await half.run(until)           half of that, minute by minute
    half.stop()                     the legs are silent from then on, as of people whose battery died

The daemon stands on one CPU, the native generator on another: at most is what the two can do here. Must never
live here: what is looked at meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from load import report
from load.arms import RelayArm, run, summary
from load.daemon import Daemon

VOICE_PPS = 50  # packets per second of a voice
MOST_LEGS = 1_000
PROBE_LEGS = 100
PROBE_S = 10.0
QUICK_PROBE_S = 1.0
AT_A_TIME_S = 60.0
LEAST_S = 0.5


class HalfLoad:
    """The calls and their generator."""

    def __init__(self, daemon: Daemon, cpus: Sequence[int], *, quick: bool) -> None:
        self._arm = RelayArm(daemon, cpus)
        self._probe_s = QUICK_PROBE_S if quick else PROBE_S
        self._most = PROBE_LEGS if quick else MOST_LEGS
        self.counts: Counter[str] = Counter()
        self.capacity = 0.0
        """Packets per second that came through at most."""
        self.busy = 0.0
        """CPU seconds of the daemon while half of that was carried; all that it did else is in it."""
        self.seconds = 0.0

    @property
    def legs(self) -> int:
        """How many there are."""
        return len(self._arm.generator)

    async def prepare(self) -> None:
        """Find out what half is, and have as many legs as voices would need for it, MOST_LEGS at most."""
        await self._arm.grow(PROBE_LEGS)
        result, _ = await run(self._arm, self._probe_s)
        self.capacity = summary(result)["delivered"] / result["seconds"]
        await self._arm.grow(min(self._most, round(self.capacity / 2 / VOICE_PPS) & ~1))

    async def run(self, until: float) -> None:
        """Carry it until this monotonic time."""
        while (left := until - time.monotonic()) > LEAST_S:
            result, cpu = await run(self._arm, min(left, AT_A_TIME_S), rate=self.capacity / 2)
            group = summary(result)
            self.busy += cpu
            self.seconds += result["seconds"]
            self.counts.update({name: group[name] for name in ("sent", "delivered", "wrong", "unopened")})

    def judge(self, out: report.Report) -> None:
        """What came of it."""
        sent, delivered = self.counts["sent"], self.counts["delivered"]
        out.bar("packets per second at half capacity", sent / self.seconds, ">=", 0.49 * self.capacity)
        out.bar("share of them that did not come", 1 - delivered / max(1, sent), "<=", 0.001, is_speed=True)
        out.bar(
            "packets not as sent at half capacity", self.counts["wrong"] + self.counts["unopened"], "==", 0
        )
        out.detail(
            half={
                "capacity_pps": round(self.capacity),
                "legs": self.legs,
                "daemon_cpu_share": round(self.busy / self.seconds, 3),
                **self.counts,
            }
        )

    def stop(self) -> None:
        """Silence."""
        self._arm.generator.stop()
