"""Half of what a daemon carries on this machine, for as long as something else is looked at.

    half = HalfLoad(daemon, cpus)
    await half.prepare()            calls are placed; what they get through is measured, beside all else
    await half.run(until)           half of that, minute by minute
    half.stop()                     the legs are silent from then on, as of people whose battery died

What it carries is its throughput as RFC 2544 section 26.1 has it, but that one packet of a thousand may be
lost: the highest of rising rates, each tried up to three times. The daemon stands on one CPU, the native
generator on another: at most is what the two can do here. Must never live here: what is looked at meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from load import report
from load.arms import RelayArm, run, summary
from load.daemon import Daemon

MOST_LEGS = 1_000
QUICK_LEGS = 100
FIRST_PPS = 40_000.0
STEP = 1.15
TRIES = 3
PROBE_S = 3.0
QUICK_PROBE_S = 0.5
LOST = 0.001
"""Share of packets that may be lost at a rate that counts as carried."""
HELD = 0.95
"""Of a rate that the generator has to reach; else it is the generator that is full."""
AT_A_TIME_S = 60.0
LEAST_S = 0.5


class HalfLoad:
    """The calls and their generator."""

    def __init__(self, daemon: Daemon, cpus: Sequence[int], *, quick: bool) -> None:
        self._arm = RelayArm(daemon, cpus)
        self._probe_s = QUICK_PROBE_S if quick else PROBE_S
        self._most = QUICK_LEGS if quick else MOST_LEGS
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
        """Place the calls, and find out what half is."""
        await self._arm.grow(self._most)
        rate = FIRST_PPS
        while (carried := await self._carried(rate)) is not None:
            self.capacity = carried
            rate *= STEP
        if not self.capacity:
            raise RuntimeError(f"not even {FIRST_PPS:.0f} packets/s come through")

    async def _carried(self, rate: float) -> float | None:
        """Packets per second that came, of so many; None: too few of them in each try."""
        for _ in range(TRIES):
            result, _ = await run(self._arm, self._probe_s, rate=rate)
            group, seconds = summary(result), result["seconds"]
            is_whole = group["delivered"] >= (1 - LOST) * group["sent"]
            if is_whole and group["sent"] / seconds >= HELD * rate:
                return float(group["delivered"] / seconds)
        return None

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
        out.bar("share of them that did not come", 1 - delivered / max(1, sent), "<=", LOST, is_speed=True)
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
