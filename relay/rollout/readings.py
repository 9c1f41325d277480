"""What one node says of its calls at one moment, and what of that is new.

    page of metrics --scrape.py--> Reading --news--> counts that were not counted yet

A node counts from its own start. A figure that falls, or a start that is newer, means that the node began
anew, and all it says now is new. Must never live here: sums over nodes, how a node is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from relay.rollout.bucket import Variant

CALLS: Final = "calls"
"""Of a variant: those that ended."""
BEGAN: Final = "began"
FIRST_AUDIO: Final = "first_audio"
SIDES: Final = 2
"""Ways of a call that tell its first audio: the mean of both stands for the call."""
WORST: Final = ("bad", "degraded", "ok")


def bad(name: str) -> str:
    """Of a variant: bad events of an indicator."""
    return f"{name}.bad"


def valid(name: str) -> str:
    """Of a variant: all of them."""
    return f"{name}.valid"


def figure(variant: Variant, what: str) -> str:
    """The name of one figure."""
    return f"{variant.value}/{what}"


def of_class(name: str, client: str) -> str:
    """The same figure of one class of clients."""
    return f"{name}@{client}"


def class_of(name: str) -> str:
    """The class that a figure is of; "": of all."""
    return name.partition("@")[2]


def told_by(name: str) -> int:
    """How often a call is told in an indicator's figures."""
    return SIDES if name == FIRST_AUDIO else 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What one node says at one moment. Counts are cumulative since it started."""

    node: str
    """Its address, as it was asked."""
    at: float
    """When, Unix seconds."""
    started: float
    """When the node did, Unix seconds."""
    region: str
    """"": it does not say."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """By `figure`, and by `of_class` of what is told so. First audio: of both sides."""
    health: str = "unknown"
    """ok, degraded, bad or unknown."""
    state_age_s: float | None = None
    """Since the state by which it goes was known to be the newest; None: it has none."""
    state_rev: int | None = None
    version: str = ""
    """Of the relay that runs there."""


class Seen(msgspec.Struct, frozen=True):
    """What a node said last."""

    at: float
    started: float
    counts: dict[str, int]
    """Those that are not 0."""

    @classmethod
    def of(cls, reading: Reading) -> Seen:
        """What to remember of it."""
        counts = {name: count for name, count in reading.counts.items() if count}
        return cls(reading.at, reading.started, counts)


def news(now: Reading, seen: Seen | None, since: float) -> dict[str, int]:
    """What of each figure was not counted yet.

    `seen` is what was; None: nothing of this node, and then only one that started after `since`, Unix
    seconds, has said anything new.
    """
    if seen is None:
        return dict(now.counts) if now.started > since else dict.fromkeys(now.counts, 0)
    began_anew = now.started > seen.started + 1 or any(
        count < seen.counts.get(name, 0) for name, count in now.counts.items()
    )
    if began_anew:
        return dict(now.counts)
    return {name: count - seen.counts.get(name, 0) for name, count in now.counts.items()}
