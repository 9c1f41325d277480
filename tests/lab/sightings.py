"""What was seen of an incident, and the questions that its bars ask. Times are seconds of the wall clock.

Must never live here: asking daemons and Prometheus.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Look:
    """/health at one moment."""

    at: float
    state: str
    worst: str
    score: float | None
    set_ups: int
    """Valid events of setup_fail in the window."""
    age_s: float | None

    @classmethod
    def of(cls, at: float, body: Mapping[str, Any]) -> Look:
        """From the body of an answer."""
        events = body["slis"].get("setup_fail", {}).get("events", 0)
        return cls(at, body["state"], body["worst"], body["score"], events, body["age_s"])


def became(looks: Iterable[Look], states: Sequence[str], since: float) -> Look | None:
    """The first look from `since` on at which the region was in one of these states."""
    return next((look for look in looks if look.at >= since and look.state in states), None)


def words(looks: Iterable[Look]) -> list[str]:
    """The states in order, each once until it changes."""
    found: list[str] = []
    for look in looks:
        if not found or found[-1] != look.state:
            found.append(look.state)
    return found


def fired(matrix: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Alerts by name, and indicator where there is one, and when each fired first, of series of `ALERTS`."""
    found: dict[str, float] = {}
    for series in matrix:
        labels = series["metric"]
        if labels["alertstate"] != "firing" or not series["values"]:
            continue
        name = " ".join(filter(None, (labels["alertname"], labels.get("sli"))))
        first = float(series["values"][0][0])
        found[name] = min(first, found.get(name, first))
    return found


def known(name: str, expected: Iterable[str]) -> bool:
    """Whether an alert is one of these; a name without an indicator stands for all of them."""
    return name in expected or name.split(" ")[0] in expected


def worst_minute(late: Sequence[float], minute: int) -> float:
    """The worst 99th percentile of so many looks in a row, as a daemon judges its loop; 0 of nothing."""
    found = 0.0
    for begin in range(0, max(1, len(late) - minute + 1), max(1, minute // 6)):
        part = sorted(late[begin : begin + minute])
        found = max(found, part[len(part) * 99 // 100] if part else 0.0)
    return found


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    label: str
    points: tuple[tuple[float, float], ...]
    """(when, value); what has no value is left out."""


def series_of(answer: Iterable[Mapping[str, Any]], legend: str) -> list[Series]:
    """Of a range query, labelled as the dashboard does (`{{label}}`)."""
    made = []
    for one in answer:
        labels = one["metric"]
        text = re.sub(r"{{(\w+)}}", lambda word, its=labels: its.get(word[1], ""), legend).strip()
        points = ((float(at), float(value)) for at, value in one["values"])
        told = tuple((at, value) for at, value in points if not math.isnan(value))
        if told:
            made.append(Series(text, told))
    return made
