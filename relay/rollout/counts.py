"""What nodes count, made the tallies of one place: cumulative, and over restarts of nodes.

    Reading of each node --add--> Ledger: totals, what each node said last, what the trial knows --> the gate
    Report (who counts elsewhere) --fill--> Ledger

A node counts from its own start. What it had counted before the rollout came to the place is no part of it;
a figure that falls, or a start that is newer, means that the node began anew, and all it says now is new. A
ledger is as fresh as the node that was silent longest: one that does not answer may be just the one that is
worse. Must never live here: how a node is asked (scrape.py), a store, what counts prove (trial.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from relay.errors import ConfigError
from relay.rollout.bucket import Variant
from relay.rollout.gate import Stage, begun, has_control, trial_of
from relay.rollout.guardrails import LIMITS
from relay.rollout.plan import Document
from relay.rollout.stats import Count
from relay.rollout.trial import Memory, Tally, Trial, read

CALLS: Final = "calls"
"""Of a variant: those that ended."""
BEGAN: Final = "began"
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
    """By `figure`. First audio: of both sides."""
    health: str = "unknown"
    """ok, degraded, bad or unknown."""
    state_age_s: float | None = None
    """Since the state by which it goes was known to be the newest; None: it has none."""
    state_rev: int | None = None


class Seen(msgspec.Struct, frozen=True):
    """What a node said last."""

    at: float
    started: float
    counts: dict[str, int]


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
    prior: Mapping[str, Count] | None = None,
) -> Ledger:
    """Count what these nodes say. `asked`: all that were, those too that did not answer.

    Nodes of other regions count nothing and tell how those are. ConfigError: none of the place's is there.
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
        for name, count in each.counts.items():
            totals[name] = totals.get(name, 0) + count - _before(each, seen, ledger.since, name)
        nodes[each.node] = Seen(each.at, each.started, dict(each.counts))
    belong = [node for node in asked if node not in others]
    at = min(nodes[node].at if node in nodes else ledger.since for node in belong)
    trial = trial_in(plan, ledger)
    trial.on_tally(_tally(plan, ledger, totals, at, prior))
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


def _before(now: Reading, seen: Seen | None, since: float, name: str) -> int:
    """What of a figure was counted already, or before the rollout came."""
    if seen is None:
        return 0 if now.started > since else now.counts[name]
    began_anew = now.started > seen.started + 1 or any(
        count < seen.counts.get(each, 0) for each, count in now.counts.items()
    )
    return 0 if began_anew else seen.counts.get(name, 0)


def _tally(
    plan: Document, ledger: Ledger, totals: Mapping[str, int], at: float, prior: Mapping[str, Count] | None
) -> Tally:
    def counts(variant: Variant) -> dict[str, Count]:
        found = {}
        for each in LIMITS:
            some, every = (totals.get(figure(variant, what(each.name)), 0) for what in (bad, valid))
            part = SIDES if each.name == "first_audio" else 1
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
        dict(ledger.memory.last.prior if prior is None else prior),
        (candidate, control) if is_compared else (0, 0),
    )


def _health(readings: Sequence[Reading], place: str) -> dict[str, str]:
    """Of each region how its worst node is, of those of which it is known."""
    told: dict[str, list[str]] = {}
    for each in readings:
        told.setdefault(each.region or place, []).append(each.health)
    return {
        region: next((state for state in WORST if state in states), "unknown")
        for region, states in told.items()
    }
