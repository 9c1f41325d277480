"""Counts, then asks the gate: one look at one place of a rollout that stands in a store.

    nodes or a report, days before --> Ledger in the store --> Trial --.
                                  standing, kill, freeze, rivals --+--> judge --> Look

Looking twice, or two at once, changes nothing of what is known: counts are cumulative, and the planned looks
stand in the ledger. Must never live here: what a verdict leads to (pilot.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from relay.rollout.collect import collect
from relay.rollout.counts import Ledger, Report, add, at_stage, fill, open_ledger, trial_in
from relay.rollout.course import Course, Helm
from relay.rollout.gate import Answer, Around, Stage, has_control, judge
from relay.rollout.plan import Document
from relay.rollout.prior import Earlier, earlier, hours_of, lack
from relay.rollout.readings import Reading
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
    """Calls of the days before, instead of those that were collected; None: as at the last time."""
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
    prior: Mapping[str, Any] = field(default_factory=dict)
    """Which calls of the days before stand for control, and if there are none, why. JSON value."""

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
        return {
            "rollout": self.course.plan.rollout.id,
            **self.answer.facts(),
            "prior": dict(self.prior),
            "nodes": nodes,
            "problems": list(self.problems),
        }


async def look(helm: Helm, id: str, place: str, source: Source, who: str) -> Look:
    """Count and judge. Nothing but the counts is changed.

    ConfigError: the place has not begun, or the source is not about it.
    """
    readings: list[Reading] = []
    problems: list[str] = []
    if source.nodes:
        readings, problems = await scrape(source.nodes, helm.wall)
        await collect(helm, readings, who)
    pages = await open_pages(source.alerts) if source.alerts else ()
    report = source.report() if source.report is not None else None
    while True:
        course = await helm.course(id)
        stage = course.stage(place)
        before, revision = await helm.ledger(id, place)
        found = await _earlier(helm, course.plan, stage, before) if source.nodes else None
        ledger = _counted(course.plan, before, stage, source, readings, report, pages, found)
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
        told = _prior(course.plan, stage, ledger, answer)
        return Look(answer, course, tuple(readings), tuple(problems), told)


async def _earlier(helm: Helm, plan: Document, stage: Stage, before: Ledger | None) -> Earlier | None:
    """The days before the rollout came to this place, taken once. None: there is no control."""
    if before is not None and before.earlier is not None:
        return before.earlier
    if not has_control(plan, stage.wave):
        return None
    days, _ = await helm.days(stage.place)
    return earlier(days, stage.since if before is None else before.since, plan.rollout.control)


def _counted(
    plan: Document,
    before: Ledger | None,
    stage: Stage,
    source: Source,
    readings: Sequence[Reading],
    report: Report | None,
    pages: tuple[str, ...],
    found: Earlier | None,
) -> Ledger | None:
    if before is None and not source.nodes and report is None:
        return None
    ledger = at_stage(plan, before if before is not None else open_ledger(plan, stage), stage)
    if source.nodes:
        ledger = msgspec.structs.replace(ledger, earlier=found, pages=pages)
        ledger = add(plan, ledger, readings, source.nodes, source.prior)
    return fill(plan, ledger, report) if report is not None else ledger


def _prior(plan: Document, stage: Stage, ledger: Ledger | None, answer: Answer) -> dict[str, Any]:
    """What is said of the days before. `calls`: of the guardrail that has most of them."""
    source, why, days = "none", "", 0
    hours: tuple[int, ...] = ()
    if not has_control(plan, stage.wave):
        why = "there is no control that they could stand for"
    elif not plan.gate.prior_calls:
        why = "gate.prior_calls is 0"
    elif ledger is None:
        why = "nothing was counted"
    elif ledger.said is not None:
        source = "file"
    elif ledger.earlier is None:
        source = "report" if ledger.memory.last.prior else "none"
        why = "" if ledger.memory.last.prior else "the report tells none"
    else:
        at = ledger.memory.last.at
        why = lack(ledger.earlier, ledger.since, at, plan.rollout.control)
        source, days = "none" if why else "nodes", ledger.earlier.days
        hours = hours_of(ledger.since, at)
    drift = [each.name for each in answer.findings if each.is_drifting]
    if drift:
        why = f"left out, since today contradicts them: {', '.join(drift)}"
    calls = max((each.prior[1] for each in answer.findings), default=0)
    return {"from": source, "calls": calls, "days": days, "hours": list(hours), "drift": drift, "why": why}


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
