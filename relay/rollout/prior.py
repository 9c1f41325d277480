"""Control calls of the days before: what nodes counted, by region and hour, and what of it a gate may use.

    Reading of each node of a region --gather--> Days: seven days by hour and version, kept in the store
    Days --earlier, when a rollout comes to the region--> Earlier: by hour of the day, kept with its ledger
    Earlier --calls_at each count--> the calls at those hours of the day that the rollout has seen by then

A counter tells a sum, not when: what came between two readings that lie further apart than a quarter of an
hour belongs to no hour and is left out. So are calls of any version but the control's. Calls of the hour in
which the rollout came, and later ones, are no days before: the trial has them as control of its own. Must
never live here: whether today contradicts them (trial.py), a store, how a node is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from relay.rollout.bucket import Variant
from relay.rollout.guardrails import LIMITS
from relay.rollout.readings import Reading, Seen, bad, figure, news, told_by, valid
from relay.rollout.stats import Count

HOUR_S: Final = 3600
DAY_HOURS: Final = 24
DAYS: Final = 7
KEPT_HOURS: Final = DAYS * DAY_HOURS
GAP_S: Final = 900.0
"""Two readings of a node further apart say nothing of an hour."""
MOST_SLOTS: Final = 4 * KEPT_HOURS
"""Hours of versions that are kept: a week in which four of them run beside each other all the time."""

_FIGURES: Final = tuple(figure(Variant.CONTROL, what(each.name)) for each in LIMITS for what in (bad, valid))


class Slot(msgspec.Struct, frozen=True):
    """Control calls of one hour that one version carried."""

    hour: int
    """Since 1970, UTC."""
    version: str
    counts: dict[str, Count]
    """Indicator -> (bad, valid). First audio: of both sides."""


class Days(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is kept of one region. JSON value."""

    slots: tuple[Slot, ...] = ()
    """Oldest first."""
    nodes: dict[str, Seen] = {}
    """What was counted last of each node, those that answered within `GAP_S`."""


class Earlier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The seven days before a rollout came to a region. JSON value."""

    hours: dict[int, dict[str, Count]] = {}
    """Hour of the day, UTC -> indicator -> (bad, valid). First audio: of both sides."""
    days: int = 0
    """Of how many there is anything."""
    others: tuple[str, ...] = ()
    """Versions that carried calls then and are not the control."""


def gather(days: Days, readings: Sequence[Reading], now: float) -> Days:
    """Count what these nodes, all of one region, carried of control calls since the last time.

    `now`, Unix seconds: what is older than seven days is let go.
    """
    slots = {(each.hour, each.version): dict(each.counts) for each in days.slots}
    nodes = dict(days.nodes)
    for reading in readings:
        known = nodes.get(reading.node)
        if known is not None and known.at >= reading.at:
            continue  # somebody counted it meanwhile
        seen = known if known is not None and reading.at - known.at <= GAP_S else None
        own = replace(reading, counts={name: reading.counts.get(name, 0) for name in _FIGURES})
        _put(slots, own, news(own, seen, reading.at - GAP_S))
        nodes[reading.node] = Seen.of(own)
    first = int(now // HOUR_S) - KEPT_HOURS
    kept = sorted(key for key in slots if key[0] >= first)[-MOST_SLOTS:]
    return Days(
        tuple(Slot(hour, version, slots[hour, version]) for hour, version in kept),
        {name: seen for name, seen in nodes.items() if now - seen.at <= GAP_S},
    )


def earlier(days: Days, since: float, version: str) -> Earlier:
    """The days before `since`, Unix seconds, when a rollout with control `version` came to the region."""
    last = int(since // HOUR_S)  # the hour itself is over later
    before = [each for each in days.slots if last - KEPT_HOURS <= each.hour < last]
    hours: dict[int, dict[str, Count]] = {}
    own = [each for each in before if each.version == version]
    for slot in own:
        _sum(hours.setdefault(slot.hour % DAY_HOURS, {}), slot.counts)
    return Earlier(
        hours,
        len({(each.hour - last) // DAY_HOURS for each in own}),
        tuple(sorted({each.version for each in before} - {version})),
    )


def hours_of(since: float, at: float) -> tuple[int, ...]:
    """Hours of the day, UTC, that a rollout which came at `since` has seen by `at`, Unix seconds."""
    first, last = int(since // HOUR_S), int(at // HOUR_S)
    return tuple(sorted({hour % DAY_HOURS for hour in range(first, min(last, first + DAY_HOURS - 1) + 1)}))


def calls_at(found: Earlier, since: float, at: float) -> dict[str, Count]:
    """Indicator -> (bad, valid) of the days before, at the hours that the rollout has seen by `at`."""
    total: dict[str, Count] = {}
    for hour in hours_of(since, at):
        _sum(total, found.hours.get(hour, {}))
    return {
        name: (some // told_by(name), every // told_by(name))
        for name, (some, every) in total.items()
        if every
    }


def lack(found: Earlier, since: float, at: float, version: str) -> str:
    """Why `calls_at` has nothing to give; "": it has."""
    if calls_at(found, since, at):
        return ""
    if found.hours:
        told = ", ".join(f"{hour:02}" for hour in hours_of(since, at))
        return f"nothing was counted in the days before at these hours of the day: {told} UTC"
    if found.others:
        return f"calls of the days before were of {', '.join(found.others)}, none of {version}"
    return "nothing was counted in the seven days before (`relay rollout collect`)"


def _put(slots: dict[tuple[int, str], dict[str, Count]], reading: Reading, new: Mapping[str, int]) -> None:
    """Add what a node said to the hour in which it said so."""
    counts: dict[str, Count] = {}
    for each in LIMITS:
        some, every = (new[figure(Variant.CONTROL, what(each.name))] for what in (bad, valid))
        if every:
            counts[each.name] = min(some, every), every
    if counts:
        _sum(slots.setdefault((int(reading.at // HOUR_S), reading.version), {}), counts)


def _sum(total: dict[str, Count], more: Mapping[str, Count]) -> None:
    for name, (some, every) in more.items():
        before = total.get(name, (0, 0))
        total[name] = before[0] + some, before[1] + every
