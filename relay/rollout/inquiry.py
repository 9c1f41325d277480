"""Counts, then asks the gate: one look at one place of a rollout that stands in a store.

    nodes or a report --> Ledger in the store --> Trial --.
                          standing, kill, freeze, rivals --+--> judge --> Look

Looking twice, or two at once, changes nothing of what is known: counts are cumulative, and the planned looks
stand in the ledger. Must never live here: what a verdict leads to (pilot.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.rollout.counts import Ledger, Reading, Report, add, at_stage, fill, open_ledger, trial_in
from relay.rollout.course import Course, Helm
from relay.rollout.gate import Answer, Around, Stage, judge
from relay.rollout.plan import Document
from relay.rollout.scrape import open_pages, scrape
from relay.rollout.stats import Count
from relay.rollout.store import ConflictError


@dataclass(frozen=True, slots=True)
class Source:
    """Where counts come from. Neither: what stands in the store is judged."""

    nodes: tuple[str, ...] = ()
    """Addresses of metrics."""
    report: Callable[[], Report] | None = None
    """What somebody else has counted by now."""
    prior: Mapping[str, Count] | None = None
    """Calls of the days before; None: as at the last time."""
    alerts: str = ""
    """Address of a Prometheus whose open pages hold a step; "": none is asked."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the gate said, and by what."""

    answer: Answer
    course: Course
    readings: tuple[Reading, ...] = ()
    problems: tuple[str, ...] = ()
    """Nodes that did not answer, and why."""

    def facts(self) -> dict[str, Any]:
        """JSON value."""
        nodes = [
            {
                "node": each.node,
                "region": each.region,
                "health": each.health,
                "state_rev": each.state_rev,
                "state_age_s": each.state_age_s,
            }
            for each in self.readings
        ]
        id = self.course.plan.rollout.id
        return {"rollout": id, **self.answer.facts(), "nodes": nodes, "problems": list(self.problems)}


async def look(helm: Helm, id: str, place: str, source: Source, who: str) -> Look:
    """Count and judge. Nothing but the counts is changed.

    ConfigError: the place has not begun, or the source is not about it.
    """
    readings: list[Reading] = []
    problems: list[str] = []
    if source.nodes:
        readings, problems = await scrape(source.nodes, helm.wall)
    pages = await open_pages(source.alerts) if source.alerts else ()
    report = source.report() if source.report is not None else None
    while True:
        course = await helm.course(id)
        stage = course.stage(place)
        before, revision = await helm.ledger(id, place)
        ledger = _counted(course.plan, before, stage, source, readings, report, pages)
        if ledger is not None and ledger != before:
            try:
                await helm.put_ledger(id, ledger, revision, who)
            except ConflictError:
                continue  # the same readings again, on top of what somebody else has counted
        answer = judge(
            course.plan,
            stage,
            None if ledger is None else trial_in(course.plan, ledger),
            await _around(helm, course, ledger),
        )
        return Look(answer, course, tuple(readings), tuple(problems))


def _counted(
    plan: Document,
    before: Ledger | None,
    stage: Stage,
    source: Source,
    readings: Sequence[Reading],
    report: Report | None,
    pages: tuple[str, ...],
) -> Ledger | None:
    if before is None and not source.nodes and report is None:
        return None
    ledger = at_stage(plan, before if before is not None else open_ledger(plan, stage), stage)
    if source.nodes:
        ledger = add(plan, ledger, readings, source.nodes, source.prior)
        ledger = msgspec.structs.replace(ledger, pages=pages)
    return fill(plan, ledger, report) if report is not None else ledger


async def _around(helm: Helm, course: Course, ledger: Ledger | None) -> Around:
    now = helm.wall()
    return Around(
        now=now,
        health=ledger.health if ledger is not None else {},
        state_age_s=max(helm.store.age(), ledger.state_age_s if ledger is not None else 0.0),
        state_rev=course.standing.revision,
        is_killed=course.is_killed,
        pages=ledger.pages if ledger is not None else (),
        window=course.window(now),
        rivals=await helm.rivals(course.plan.rollout.id),
    )
