"""Who gets the candidate: a number of each unit, and who of groups and regions lies below which.

    kill > `never` groups > `always` groups > group's share > region's share

The number of a unit depends on the rollout's id and salt alone, so every node finds the same one, and a
greater share only adds units. Must never live here: where shares come from (steps.py), what a unit is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

BUCKETS: Final = 10_000  # a hundredth of a percent each


class Variant(StrEnum):
    """What a unit gets."""

    CONTROL = "control"
    CANDIDATE = "candidate"


class Rule(StrEnum):
    """What decided, in the order in which they are asked."""

    KILL = "kill"
    NO_STATE = "no_state"  # there is a rollout, but no state of it that counts (mandate.py)
    NEVER = "never"
    ALWAYS = "always"
    GROUP = "group"
    REGION = "region"


@dataclass(frozen=True, slots=True)
class Shares:
    """Who gets the candidate at present. Shares in percent, 0-100, in steps of 0.01."""

    is_killed: bool = False
    never: frozenset[str] = frozenset()
    always: frozenset[str] = frozenset()
    groups: Mapping[str, float] = field(default_factory=dict)
    regions: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one unit gets, and why."""

    variant: Variant
    rule: Rule
    bucket: int
    pct: float
    """The share that was asked, percent."""

    @property
    def is_sampled(self) -> bool:
        """Whether chance alone decided: calls of groups that were named are no sample for the gate."""
        return self.rule is Rule.REGION

    def facts(self) -> dict[str, Any]:
        """JSON value."""
        return {
            "variant": self.variant.value,
            "rule": self.rule.value,
            "bucket": self.bucket,
            "pct": self.pct,
            "sampled": self.is_sampled,
        }


def bucket(rollout: str, salt: str, unit: str) -> int:
    """The number of a unit in a rollout, 0 to 9999. There is no "|" in rollout and salt (plan.py)."""
    digest = sha256(f"{rollout}|{salt}|{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def width(pct: float) -> int:
    """How many buckets a share in percent takes; rounded, since 0.07 * 100 is more than 7 as a float."""
    return round(pct * BUCKETS / 100)


def decide(
    rollout: str, salt: str, unit: str, shares: Shares, *, region: str, groups: Iterable[str] = ()
) -> Decision:
    """What this unit gets. A unit of several groups with a share has the greatest of them."""
    number, own = bucket(rollout, salt, unit), frozenset(groups)
    if shares.is_killed:
        return Decision(Variant.CONTROL, Rule.KILL, number, 0.0)
    if own & shares.never:
        return Decision(Variant.CONTROL, Rule.NEVER, number, 0.0)
    if own & shares.always:
        return Decision(Variant.CANDIDATE, Rule.ALWAYS, number, 100.0)
    told = [shares.groups[name] for name in own if name in shares.groups]
    rule, pct = (Rule.GROUP, max(told)) if told else (Rule.REGION, shares.regions.get(region, 0.0))
    variant = Variant.CANDIDATE if number < width(pct) else Variant.CONTROL
    return Decision(variant, rule, number, pct)
