"""What nodes count, made the tallies of one place: cumulative, and over restarts of nodes.

    Reading of each node --add--> Ledger: totals, what each node said last, what the trial knows --> the gate
    Report (who counts elsewhere) --fill--> Ledger

What a node had counted before the rollout came to the place is no part of it. A ledger is as fresh as the
node that was silent longest: one that does not answer may be just the one that is worse. Must never live
here: how a node is asked (scrape.py), what of a reading is new (readings.py), a store, what counts prove
(trial.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from relay.errors import ConfigError
from relay.rollout.bucket import Variant
from relay.rollout.classes import CLASSED, Sides
from relay.rollout.gate import Stage, begun, has_control, trial_of
from relay.rollout.guardrails import LIMITS
from relay.rollout.plan import Document
from relay.rollout.prior import Earlier, calls_at
from relay.rollout.readings import (
    BEGAN,
    CALLS,
    WORST,
    Reading,
    Seen,
    bad,
    class_of,
    figure,
    news,
    of_class,
    told_by,
    valid,
)
from relay.rollout.stats import Count
from relay.rollout.trial import Memory, Tally, Trial, read


class Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is known of one place. JSON value, kept in the store."""

    since: float
    """When the rollout began there, Unix seconds."""
    stage: Stage
    """The step that `memory` is about."""
    memory: Memory
    totals: dict[str, int] = {}
    nodes: dict[str, Seen] = {}
    health: dict[str, str] = {}
    """Region -> how it was at the last count."""
    pages: tuple[str, ...] = ()
    state_age_s: float = 0.0
    """The oldest state that any node goes by."""
    earlier: Earlier | None = None
    """Control calls of the days before, as they were when the rollout came. None: nobody looked yet."""
    said: dict[str, Count] | None = None
    """What somebody said these calls are, instead: guardrail -> (bad, valid). None: nobody did."""


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody counted who is no node: cumulative tallies in order of time, and how regions are."""

    tallies: tuple[Tally, ...]
    health: dict[str, str] = {}
    pages: tuple[str, ...] = ()


def parse_report(text: str, source: str) -> Report:
    """A report of its JSON text. ConfigError names the field."""
    try:
        report = msgspec.json.decode(text, type=Report)
        for tally in report.tallies:
            read(msgspec.to_builtins(tally))
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        cure = "docs/rollout.md says what a report holds"
        raise ConfigError("--from", f"{source}: {error}", cure) from None
    wrong = sorted(set(report.health.values()) - {*WORST, "unknown"})
    if wrong:
        known = ", ".join((*WORST, "unknown"))
        raise ConfigError("--from", f"{source}: health {wrong[0]!r} is none", f"write one of {known}")
    return report


def parse_prior(text: str, source: str) -> dict[str, Count]:
    """Calls of the days before: guardrail -> [bad, valid], JSON. ConfigError names what is wrong."""
    try:
        found = msgspec.json.decode(text, type=dict[str, Count])
        read({"at": 0, "calls": 0, "prior": found})
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        cure = 'for example {"setup_fail": [95, 20000]}'
        raise ConfigError("--prior", f"{source}: {error}", cure) from None
    return found


def open_ledger(plan: Document, stage: Stage) -> Ledger:
    """Of a place where nothing was counted yet."""
    trial = trial_of(plan, stage.wave)
    trial.begin(begun(plan, stage))
    return Ledger(stage.since, stage, trial.memory)


def at_stage(plan: Document, ledger: Ledger, stage: Stage) -> Ledger:
    """The same at this step: if it is a new one, looks begin anew and what was worse stays so."""
    if ledger.stage == stage:
        return ledger
    trial = trial_in(plan, ledger)
    trial.begin(begun(plan, stage))
    return msgspec.structs.replace(ledger, stage=stage, memory=trial.memory)


def trial_in(plan: Document, ledger: Ledger) -> Trial:
    """What the ledger proves."""
    trial = trial_of(plan, ledger.stage.wave)
    trial.recall(ledger.memory)
    return trial


def add(
    plan: Document,
    ledger: Ledger,
    readings: Sequence[Reading],
    asked: Sequence[str],
    said: Mapping[str, Count] | None = None,
) -> Ledger:
    """Count what these nodes say. `asked`: all that were, those too that did not answer.

    Nodes of other regions count nothing and tell how those are. `said`: what calls of the days before are,
    from now on; None: as before. ConfigError: none of the place's nodes is there.
    """
    place = ledger.stage.place
    own = [each for each in readings if place.startswith("@") or each.region in ("", place)]
    others = {each.node for each in readings} - {each.node for each in own}
    if not own and len(others) == len(asked):
        known = ", ".join(sorted({each.region for each in readings}))
        told = f"no node of {place} is among them, but of {known}"
        raise ConfigError("--from", told, "name its nodes, too")
    totals, nodes = dict(ledger.totals), dict(ledger.nodes)
    for each in own:
        seen = nodes.get(each.node)
        if seen is not None and seen.at >= each.at:
            continue  # somebody counted it meanwhile
        for name, count in news(each, seen, ledger.since).items():
            totals[name] = totals.get(name, 0) + count
        nodes[each.node] = Seen.of(each)
    belong = [node for node in asked if node not in others]
    at = min(nodes[node].at if node in nodes else ledger.since for node in belong)
    ledger = ledger if said is None else msgspec.structs.replace(ledger, said=dict(said))
    trial = trial_in(plan, ledger)
    trial.on_tally(_tally(plan, ledger, totals, at))
    ages = [each.state_age_s for each in readings if each.state_age_s is not None]
    return msgspec.structs.replace(
        ledger,
        memory=trial.memory,
        totals=totals,
        nodes=nodes,
        health=_health(readings, place),
        state_age_s=max(ages, default=0.0),
    )


def fill(plan: Document, ledger: Ledger, report: Report) -> Ledger:
    """Count what somebody else has counted; tallies that are known already change nothing.

    ConfigError: a tally says less than an earlier one did.
    """
    trial = trial_in(plan, ledger)
    for at, tally in enumerate(report.tallies):
        if tally.at <= trial.tally.at:
            continue
        if tally.calls < trial.tally.calls:
            told = f"{tally.calls}, and {trial.tally.calls} were counted before"
            cure = "tallies are cumulative since the rollout began in the region"
            raise ConfigError(f"tallies[{at}].calls", told, cure)
        trial.on_tally(tally)
    return msgspec.structs.replace(ledger, memory=trial.memory, health=report.health, pages=report.pages)


def _tally(plan: Document, ledger: Ledger, totals: Mapping[str, int], at: float) -> Tally:
    def counts(variant: Variant) -> dict[str, Count]:
        found = {}
        for each in LIMITS:
            some, every = (totals.get(figure(variant, what(each.name)), 0) for what in (bad, valid))
            part = told_by(each.name)
            found[each.name] = (some // part, every // part)
        return found

    is_compared = has_control(plan, ledger.stage.wave)
    candidate, control = (
        totals.get(figure(variant, BEGAN), 0) for variant in (Variant.CANDIDATE, Variant.CONTROL)
    )
    return Tally(
        at,
        totals.get(figure(Variant.CANDIDATE, CALLS), 0),
        counts(Variant.CANDIDATE),
        counts(Variant.CONTROL) if is_compared else {},
        _prior(ledger, at),
        (candidate, control) if is_compared else (0, 0),
        classes=_classes(totals) if is_compared else {},
    )


def _classes(totals: Mapping[str, int]) -> dict[str, Sides]:
    """By class of clients, of all that any node names."""

    def counts(variant: Variant, client: str) -> dict[str, Count]:
        found = {}
        for name in CLASSED:
            some, every = (
                totals.get(of_class(figure(variant, what(name)), client), 0) for what in (bad, valid)
            )
            found[name] = (some, every)
        return found

    clients = sorted({class_of(name) for name in totals} - {""})
    return {
        client: Sides(counts(Variant.CANDIDATE, client), counts(Variant.CONTROL, client))
        for client in clients
    }


def _prior(ledger: Ledger, at: float) -> dict[str, Count]:
    """Control calls of the days before that count at this moment."""
    if ledger.said is not None:
        return dict(ledger.said)
    return {} if ledger.earlier is None else calls_at(ledger.earlier, ledger.since, at)


def _health(readings: Sequence[Reading], place: str) -> dict[str, str]:
    """Of each region how its worst node is, of those of which it is known."""
    told: dict[str, list[str]] = {}
    for each in readings:
        told.setdefault(each.region or place, []).append(each.health)
    return {
        region: next((state for state in WORST if state in states), "unknown")
        for region, states in told.items()
    }
