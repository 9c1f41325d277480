"""What a rollout must not make worse: shares of calls, with what is promised and how much worse is too much.

Region health (relay/ops/slis.py) judges by the same promises and limits; where both know an indicator, a test
holds them together. Must never live here: counting, a test (stats.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Watched = Literal["setup_fail", "drop", "poor_call", "one_way", "first_audio"]


@dataclass(frozen=True, slots=True)
class Limits:
    """One indicator. All are shares of calls, 0-1; higher is worse."""

    name: str
    slo: float
    """What is promised."""
    warn: float
    bad: float
    """Nobody may get what is certainly worse than this, whatever the control does."""
    delta: float
    """How much worse than the control still counts as equal, unless a plan says otherwise."""
    z: float = 3.0
    """How sure a breach must be, in standard deviations."""


LIMITS: Final[tuple[Limits, ...]] = (
    Limits("setup_fail", slo=0.005, warn=0.01, bad=0.02, delta=0.0075),
    Limits("drop", slo=0.01, warn=0.02, bad=0.04, delta=0.01),
    Limits("poor_call", slo=0.05, warn=0.08, bad=0.12, delta=0.02),
    Limits("one_way", slo=0.002, warn=0.005, bad=0.01, delta=0.003, z=4.0),
    # Calls whose first audio took more than 1.5 s. Health judges a percentile in seconds, so these shares are
    # our own: what is promised plus the margin, and twice what is promised.
    Limits("first_audio", slo=0.05, warn=0.065, bad=0.10, delta=0.015),
)
BY_NAME: Final = {each.name: each for each in LIMITS}
