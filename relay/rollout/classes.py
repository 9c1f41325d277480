"""Classes of clients, each alone: what is worse for one of them drowns in the sum of all.

    Sides of each class (candidate, control at the same time) --finding--> worse, suspect, ok or thin

A class is what clients call their SDK, of the list that nodes have in their configuration. It is compared
with its own control and with nothing else: some kinds of client are worse than others whatever runs, so no
absolute limit holds for one, and days before are not known by class. Each class that nodes name is one more
test of each guardrail, so that the error that the plan allows is divided among all of them. A class with too
few calls says nothing: it neither holds nor promotes, and is listed. Must never live here: when it is asked
(trial.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Final

from relay.rollout.plan import Gate, Guardrail
from relay.rollout.stats import Count, likelihood, limit, newcombe, wilson

LEAST: Final = 50  # candidate calls of a class below which it is thin
LEAST_CONTROL: Final = 500
CLASSED: Final = ("setup_fail", "drop", "poor_call", "one_way")
"""Guardrails that nodes count by class."""
NONE: Final[Count] = (0, 0)

Counts = Mapping[str, Count]
"""Indicator -> (bad, valid)."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What was counted of one class since the rollout began."""

    candidate: Counts = field(default_factory=dict)
    control: Counts = field(default_factory=dict)


class Standing(StrEnum):
    """What is known of one class by one guardrail."""

    OK = "ok"  # nothing speaks against it
    SUSPECT = "suspect"  # worse at this step, surer than chance explains: the step stays
    THIN = "thin"  # too few calls to say anything
    WORSE = "worse"  # the sequential test says so: the candidate is taken back


@dataclass(frozen=True, slots=True)
class ClassFinding:
    """One guardrail of one class, by all its calls since the rollout began."""

    client: str
    name: str
    control: Count
    candidate: Count
    low: float
    """Interval of the difference at this step, corrected for how many are looked at."""
    high: float
    llr: float | None
    """None: thin."""
    standing: Standing


def questions(rails: Iterable[Guardrail], classes: int) -> int:
    """How many questions share the error: each guardrail of all calls, and of each class that is counted."""
    rails = tuple(rails)
    return len(rails) + classes * sum(rail.name in CLASSED for rail in rails)


def findings(
    rails: Iterable[Guardrail], gate: Gate, now: Mapping[str, Sides], base: Mapping[str, Sides]
) -> tuple[ClassFinding, ...]:
    """Every class by every guardrail that is counted so, thin ones too; `base`: when this step began."""
    rails = tuple(rails)
    count = questions(rails, len(now))
    most = limit(gate.alpha, gate.beta, count)
    z = NormalDist().inv_cdf(1 - gate.alpha / (2 * count))
    return tuple(
        _finding(client, rail, now[client], base.get(client, Sides()), most, z)
        for client in sorted(now)
        for rail in rails
        if rail.name in CLASSED
    )


def _finding(client: str, rail: Guardrail, now: Sides, base: Sides, most: float, z: float) -> ClassFinding:
    tested, control = now.candidate.get(rail.name, NONE), now.control.get(rail.name, NONE)
    low, high = newcombe(
        _less(tested, base.candidate.get(rail.name, NONE)),
        _less(control, base.control.get(rail.name, NONE)),
        z,
    )
    if tested[1] < LEAST or control[1] < LEAST_CONTROL:
        return ClassFinding(client, rail.name, control, tested, low, high, None, Standing.THIN)
    p0 = wilson(*control, 1.0)[1]
    llr = likelihood(*tested, p0, max(2 * p0, p0 + 2 * rail.margin))
    standing = Standing.WORSE if llr > most else Standing.SUSPECT if low > 0 else Standing.OK
    return ClassFinding(client, rail.name, control, tested, low, high, llr, standing)


def _less(now: Count, then: Count) -> Count:
    return now[0] - then[0], now[1] - then[1]
