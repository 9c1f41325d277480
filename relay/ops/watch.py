"""Looks at the live counters each half minute and says how the region is.

    engine's vitals, lane's counters, stress --Sample--> Region --Standing--> /health, metrics, `relay status`

Must never live here: what an indicator means, sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relay import __version__
from relay.core.reasons import DropReason
from relay.core.spread import Spread
from relay.core.vitals import Vitals
from relay.ops.canary import CanaryWatch
from relay.ops.region import EVERY_S, Region, Sample, Standing
from relay.ops.slis import USUAL_FALLBACK
from relay.ops.snapshot import MediaCounters, TalkCounters
from relay.ops.stress import Stress
from relay.ops.usual import Usual

EARLY_S: Final = 0.5  # half of what is between two calls of `on_second`


@dataclass(frozen=True, slots=True)
class Facts:
    """What the daemon knows about itself at one moment, beside its calls."""

    cpu_s: float
    packets: int
    lag_p99_s: float
    packets_per_s: int
    """What the machine bears; 0: nobody measured it."""


class Watch:
    """One daemon's. Feed `on_second`."""

    def __init__(
        self,
        region: str,
        vitals: Vitals,
        media: Callable[[], MediaCounters],
        residence: Callable[[], Spread],
        processors: int,
        canary: CanaryWatch | None = None,
        variant: str = "control",
    ) -> None:
        self.usual = Usual(USUAL_FALLBACK)
        self._region = Region(region, __version__, variant)
        self._variant = variant
        self._vitals = vitals
        self._media = media
        self._residence = residence
        self._stress = Stress(processors)
        self._fallback = (0, 0)
        self.canary = canary or CanaryWatch("", 0.0)
        self.stress = 0.0
        """Of the last half minute; 1 is all that the node can do."""

    @property
    def sampled_at(self) -> float:
        """When the counters were looked at last, monotonic seconds; -infinity before the first time."""
        return self._region.sampled_at

    def on_second(self, facts: Facts, now: float, wall: float) -> None:
        """Look at the machine, and each half minute at the calls."""
        self._stress.on_look(now, facts.cpu_s, facts.packets)
        self.stress = self._stress.ratio(facts.lag_p99_s, facts.packets_per_s)
        if now >= self._region.sampled_at + EVERY_S - EARLY_S:
            on_tcp, calls = self._vitals.counted["fallback"]
            self.usual.add(wall, on_tcp - self._fallback[0], calls - self._fallback[1])
            self._fallback = on_tcp, calls
            self.canary.look(wall)
            self._region.on_sample(self.sample(now, wall))

    def sample(self, now: float, wall: float) -> Sample:
        """Everything that the region is judged by, as of now."""
        vitals, media = self._vitals, self._media()
        down = {rung: f"{rung} down" for rung in vitals.loss}
        return Sample(
            at=now,
            last_event=vitals.last_event,
            counted=self._counted(media),
            live={"poor_call": (vitals.live_poor[0], vitals.live_poor[1])},
            spread={
                "first_audio": {side: spread.copy() for side, spread in vitals.first_audio.items()},
                "residence": {"": self._residence().copy()},
                "leg_loss": {part: vitals.loss[rung].copy() for rung, part in down.items()},
                "leg_rtt": {part: vitals.rtt[rung].copy() for rung, part in down.items()},
            },
            live_spread={
                "leg_loss": {part: vitals.live_loss[rung].copy() for rung, part in down.items()},
                "leg_rtt": {part: vitals.live_rtt[rung].copy() for rung, part in down.items()},
            },
            gaps=vitals.gaps,
            judged_s=vitals.judged_s,
            saturation=self.stress,
            usual_fallback=self.usual.share(wall),
            canary=self.canary.counted(wall),
        )

    def _counted(self, media: MediaCounters) -> dict[str, tuple[int, int]]:
        counted = {name: (bad, valid) for name, (bad, valid) in self._vitals.counted.items()}
        stale = media.dropped_out.get(DropReason.STALE, 0)
        return counted | {"stale": (stale, stale + media.sent)}

    def standing(self, now: float) -> Standing:
        """How the region is."""
        return self._region.standing(now)

    def talk(self, now: float) -> TalkCounters:
        """What the metrics show of calls."""
        vitals = self._vitals
        return TalkCounters(
            variant=self._variant,
            setups=dict(vitals.setups),
            ended=dict(vitals.ended),
            active=vitals.active(),
            counted=self._counted(self._media()),
            classed=vitals.classed(),
            first_audio={side: spread.copy() for side, spread in vitals.first_audio.items()},
            funnel=dict(vitals.funnel),
            leaks=dict(vitals.leaks),
            talked_s=vitals.talked_s(now),
            judged_s=vitals.judged_s,
        )
