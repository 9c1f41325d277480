"""The statistics a gate decides by, as plain functions of counts and values.

    wilson               a share's interval                 (Wilson 1927)
    newcombe             a difference of two shares         (Newcombe 1998, method 10)
    likelihood, limit    a sequential test of a share       (Wald 1945)
    imbalance            whether both got their share of the calls (chi squared, one degree of freedom)
    shift                how far one set of values lies above another (Mann-Whitney, Hodges-Lehmann)

A count is (bad, valid). Shares are 0-1. Must never live here: which test asks what (trial.py), a limit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from statistics import NormalDist
from typing import Final

Count = tuple[int, int]
"""Bad events, valid events."""

MISMATCH: Final = 10.83  # chi squared at p = .001
_HALVINGS: Final = 60  # of a range of values: finer than a float of it


def wilson(bad: float, valid: float, z: float) -> tuple[float, float]:
    """Both ends of Wilson's interval for a share, `z` standard deviations wide; (0, 1) without events."""
    if valid <= 0:
        return 0.0, 1.0
    share, weight = bad / valid, z * z / valid
    middle = share + weight / 2
    half = z * sqrt(share * (1 - share) / valid + weight / (4 * valid))
    return max(0.0, (middle - half) / (1 + weight)), min(1.0, (middle + half) / (1 + weight))


def newcombe(tested: Count, control: Count, z: float) -> tuple[float, float]:
    """Both ends of the interval for the tested share less the control's; (-1, 1) where one has no events."""
    if tested[1] <= 0 or control[1] <= 0:
        return -1.0, 1.0
    pt, pc = tested[0] / tested[1], control[0] / control[1]
    lt, ut = wilson(*tested, z)
    lc, uc = wilson(*control, z)
    return pt - pc - sqrt((pt - lt) ** 2 + (uc - pc) ** 2), pt - pc + sqrt((ut - pt) ** 2 + (pc - lc) ** 2)


def likelihood(bad: int, valid: int, p0: float, p1: float) -> float:
    """How much likelier the counts are with the share p1 than with p0: the logarithm of the ratio.

    0 < p0 < p1. Where p1 is 1 or more, a single good event rules it out: -infinity.
    """
    good = valid - bad
    if p1 >= 1:
        return -inf if good else bad * -log(p0)
    return bad * log(p1 / p0) + good * log((1 - p1) / (1 - p0))


def limit(alpha: float, beta: float, tests: int) -> float:
    """What `likelihood` must exceed, where `tests` of them share `alpha` (Wald, Bonferroni)."""
    return log((1 - beta) * tests / alpha)


def imbalance(tested: int, control: int, share: float) -> float:
    """Chi squared of how many calls the tested got, where its part should be `share`, 0 < share < 1."""
    calls = tested + control
    if not calls:
        return 0.0
    return (tested - calls * share) ** 2 / (calls * share * (1 - share))


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much the values of one lie above those of another."""

    estimate: float
    """Hodges-Lehmann: the median of all differences."""
    low: float
    high: float
    u: float
    """Pairs in which the tested one is greater; ties count half."""
    p: float
    """Of no shift at all, two-sided, corrected for continuity and ties."""


def shift(tested: Sequence[float], control: Sequence[float], confidence: float) -> Shift | None:
    """Mann and Whitney's test by its normal approximation, turned into an interval; None: one is empty.

    The values of a call are one value. O((n + m) log m) a halving, so that no table of pairs is made.
    """
    if not tested or not control:
        return None
    xs, ys = sorted(tested), sorted(control)
    pairs, total = len(xs) * len(ys), len(xs) + len(ys)
    spread = sqrt(pairs * (total + 1 - _ties(xs, ys) / (total * (total - 1))) / 12)
    u = _above(xs, ys, 0.0)
    off = abs(u - pairs / 2)
    normal = NormalDist()
    p = 1.0 if spread == 0 else min(1.0, 2 * normal.cdf(-max(0.0, off - 0.5) / spread))
    reach = normal.inv_cdf((1 + confidence) / 2) * spread
    return Shift(
        _solve(xs, ys, pairs / 2),
        _solve(xs, ys, pairs / 2 + reach),
        _solve(xs, ys, pairs / 2 - reach),
        u,
        p,
    )


def _above(xs: Sequence[float], ys: Sequence[float], by: float) -> float:
    """Pairs with x - by > y, ties half."""
    return sum((bisect_left(ys, x - by) + bisect_right(ys, x - by)) / 2 for x in xs)


def _solve(xs: Sequence[float], ys: Sequence[float], wanted: float) -> float:
    """The shift that leaves `wanted` pairs above: fewer are, the greater it is."""
    low, high = xs[0] - ys[-1], xs[-1] - ys[0]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _above(xs, ys, middle) > wanted else (low, middle)
    return (low + high) / 2


def _ties(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Sum of t^3 - t over groups of t equal values."""
    every = sorted((*xs, *ys))
    told, at = 0.0, 0
    while at < len(every):
        end = bisect_right(every, every[at], at)
        told += (end - at) ** 3 - (end - at)
        at = end
    return told
