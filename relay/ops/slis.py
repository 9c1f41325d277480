"""What "well" means for a region: each indicator with its limits, and the arithmetic that judges it.

    ratio      bad of valid events        judged by the lower Wilson bound: few calls are no proof
    quantile   a percentile of a spread   judged by the value that at least so many certainly exceed
    level      one figure                 judged as it is
    steps      a count                    degraded from its `warn` on, bad from its `bad` on

All others score 100 up to `warn`, 0 from `bad` on, and in between by the straight line. Higher is worse for
all of them. Must never live here: counting, time, what a state is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from relay.core.spread import Spread
from relay.rollout.stats import wilson

FEW: Final = 100  # valid events below which an indicator says nothing
HALF: Final = 50.0  # a score in the midst of what is called degraded
USUAL_FALLBACK: Final = 0.15  # of calls end on TCP where no week has been seen yet


@dataclass(frozen=True, slots=True)
class Sli:
    """One indicator. Shares are 0-1, times seconds."""

    name: str
    warn: float
    bad: float
    slo: float
    """What is promised: healthy regions stay at or below it."""
    z: float = 3.0
    """How sure the bound is, in standard deviations."""
    quantile: float | None = None
    """The percentile that counts, of those with a spread."""
    is_media: bool = True
    """Whether it tells that people hear each other; all of these without data make a region unknown."""
    has_steps: bool = False
    """Whether nothing lies between its limits."""


SLIS: Final[tuple[Sli, ...]] = (
    Sli("setup_fail", 0.01, 0.02, 0.005, is_media=False),
    Sli("first_audio", 2.0, 4.0, 1.5, quantile=0.95),
    Sli("drop", 0.02, 0.04, 0.01, is_media=False),
    Sli("poor_call", 0.08, 0.12, 0.05),
    Sli("one_way", 0.005, 0.01, 0.002, z=4.0),  # rare, so that a bound of 3 would cry wolf
    Sli("residence", 0.010, 0.030, 0.005, quantile=0.99),
    Sli("leg_loss", 0.03, 0.08, 0.01, quantile=0.95),
    Sli("gaps", 3.0, 8.0, 1.0),
    Sli("leg_rtt", 0.25, 0.40, 0.15, quantile=0.95),
    Sli("fallback", 0.05, 0.15, 0.0, is_media=False),
    Sli("stale", 0.01, 0.03, 0.001),
    Sli("saturation", 0.8, 0.95, 0.7, is_media=False),
    Sli("canary", 3, 10, 0, is_media=False, has_steps=True),  # failures running
)
BY_NAME: Final = {sli.name: sli for sli in SLIS}
CLEAR_SATURATION: Final = 0.72  # once it counted against the region, it does so until it falls below


@dataclass(frozen=True, slots=True)
class Reading:
    """One indicator over the window."""

    value: float
    """The plain estimate, for people."""
    x: float
    """What is judged: the bound that is certainly exceeded."""
    events: int
    """Valid ones."""
    detail: str = ""
    """Of which part it is the worst, where there are several."""


def wilson_lower(bad: float, valid: float, z: float) -> float:
    """Lower end of Wilson's interval for a share; 0 without events."""
    return wilson(bad, valid, z)[0]


def score(x: float, sli: Sli) -> float:
    """0 to 100, higher is better."""
    if sli.has_steps:
        return 100.0 if x < sli.warn else HALF if x < sli.bad else 0.0
    return 100 * min(1.0, max(0.0, (sli.bad - x) / (sli.bad - sli.warn)))


def ratio(bad: int, valid: int, sli: Sli, usual: float = 0.0) -> Reading:
    """A share of events, less what is usual."""
    share = bad / valid if valid else 0.0
    return Reading(share - usual, max(0.0, wilson_lower(bad, valid, sli.z) - usual), valid)


def quantile(spread: Spread, sli: Sli) -> Reading:
    """A percentile; the value that is judged is exceeded by the share beyond it with certainty `z`."""
    assert sli.quantile is not None  # of those with a spread
    beyond, total = 1 - sli.quantile, spread.total
    return Reading(_exceeded(spread, beyond, 0.0), _exceeded(spread, beyond, sli.z), total)


def _exceeded(spread: Spread, share: float, z: float) -> float:
    """The greatest value that more than `share` lie above, by straight lines within buckets."""
    total = spread.total
    above = total
    before, bound_before = 1.0, 0.0
    for bound, count in zip(spread.bounds, spread.counts, strict=False):
        above -= count
        certain = wilson_lower(above, total, z)
        if certain <= share:
            # `before` is greater than the share, so the line has a slope.
            return bound_before + (before - share) / (before - certain) * (bound - bound_before)
        before, bound_before = certain, bound
    return bound_before  # it lies above all bounds; how far, nobody knows


def worst(readings: Sequence[Reading], sli: Sli) -> Reading:
    """Of several parts that which scores least, of those with enough events; else the one with most."""
    told = [one for one in readings if one.events >= FEW]
    if told:
        return max(told, key=lambda one: (one.x, one.value))
    return max(readings, key=lambda one: one.events, default=Reading(0.0, 0.0, 0))
