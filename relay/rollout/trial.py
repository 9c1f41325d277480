"""The trial of a candidate in one region: counts come in, and it is known what they prove.

    Tally, cumulative --each `batch` candidate calls--> is it worse?   once yes, always yes
                      --at planned looks only--------> is it as good?  the last look counts

Looks are planned by the number of candidate calls of this step (500, 1000, 2000, ...), and one at the moment
its time is over, if there are enough calls by then. So who asks, when and how often, changes nothing: what is
known is a function of the tallies, and tallies are written by those who count. Being worse is asked of all
calls in the region since the rollout began, being as good of those of the step. Must never live here: what
follows from it (gate.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

from relay.rollout.classes import ClassFinding, Counts, Sides, Standing, questions
from relay.rollout.classes import findings as findings_of
from relay.rollout.guardrails import BY_NAME
from relay.rollout.plan import Gate, Guardrail
from relay.rollout.stats import MISMATCH, Count, imbalance, likelihood, limit, newcombe, wilson

LEAST: Final = 50  # candidate calls below which nothing is called worse
LEAST_CONTROL: Final = 500
LEAST_SPLIT: Final = 50  # calls that either side should have before their ratio is asked
SURE: Final = 1.96  # standard deviations of what counts as proven
CERTAIN: Final = 2.58  # of days before that are contradicted: asked at each batch, so rarer by chance
NONE: Final[Count] = (0, 0)


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted in a region since the rollout began, of calls for which chance decided."""

    at: float
    """When, Unix seconds."""
    calls: int
    """Candidate calls that ended."""
    candidate: Counts = field(default_factory=dict)
    control: Counts = field(default_factory=dict)
    """Calls at the same time."""
    prior: Counts = field(default_factory=dict)
    """Calls of the days before, at the same hours; they stand for control."""
    assigned: tuple[int, int] = (0, 0)
    """Calls that began: candidate, control."""
    shifted: tuple[str, ...] = ()
    """Values of calls (no shares) that are notably higher than the control's (gate.py)."""
    classes: Mapping[str, Sides] = field(default_factory=dict)
    """The same by class of clients, those too that have no calls yet."""


class Status(StrEnum):
    """What is known of one guardrail."""

    OK = "ok"  # as good as the control, shown at the last look
    OPEN = "open"  # not shown
    THIN = "thin"  # too few calls to say anything
    DRIFT = "drift"  # control of today contradicts the days before, which are left out: not shown
    WORSE = "worse"  # the sequential test has said so
    BREACH = "breach"  # certainly worse than bad, whatever the control does


@dataclass(frozen=True, slots=True)
class Finding:
    """One guardrail as it stands at the last tally. Shares 0-1; counts are those of this step."""

    name: str
    control: Count
    """What it is compared with, prior calls included; (0, 0) where there is no control."""
    candidate: Count
    low: float
    high: float
    """Interval of the difference; of a plan without control, of the share itself."""
    delta: float
    """What `high` must stay below to be as good."""
    llr: float | None
    """Of the sequential test, over all steps; None: too few calls, or no control."""
    status: Status
    prior: Count = NONE
    """What of `control` are calls of the days before."""
    is_drifting: bool = False
    """Whether these were left out, since today contradicts them."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """That the candidate is worse, and when that was seen."""

    name: str
    status: Status
    calls: int
    client: str = ""
    """For which class of clients alone; "": for all together."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a planned look has shown."""

    calls: int
    """Candidate calls of this step."""
    failing: tuple[str, ...]
    """Guardrails that are not shown to be as good."""
    shifted: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    """Guardrails of a class of clients, "NAME of CLASS", by which it is worse than its own control."""


@dataclass(frozen=True, slots=True)
class Begun:
    """That a step began."""

    at: float
    """When, Unix seconds."""
    bake_s: float
    """Its least time, seconds."""
    pct: float
    """Share that was ordered, percent."""
    least: int = 0
    """Candidate calls that it needs at least."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a trial knows, whole, for who keeps it between two tallies."""

    base: Tally
    """What was counted when the step began."""
    last: Tally
    batch: Tally
    """The last one at which it was asked whether to roll back."""
    baked_at: float
    due: int
    """Candidate calls of the step at the next look."""
    share: float
    alarm: Alarm | None
    look: Look | None


class Trial:
    """One rollout in one region. Feed `on_tally`; `begin` at each step."""

    def __init__(self, rails: Sequence[Guardrail], gate: Gate, *, has_control: bool) -> None:
        self._rails = tuple(rails)
        self._gate = gate
        self._has_control = has_control
        self._base = Tally(0.0, 0)
        self._last = self._base
        self._batch = self._base
        self._baked_at = 0.0
        self._next = gate.first_look
        self._share = 0.0
        self.alarm: Alarm | None = None
        self.look: Look | None = None

    def begin(self, begun: Begun) -> None:
        """A new step: its looks begin anew, what was worse stays so."""
        self._base = self._last
        self._baked_at = begun.at + begun.bake_s
        self._share = begun.pct / 100
        self._next = max(self._gate.first_look, begun.least)
        self.look = None

    def on_tally(self, tally: Tally) -> None:
        """What was counted by now. Never fewer than before."""
        self._last = tally
        if tally.calls - self._batch.calls >= self._gate.batch:
            self._batch = tally
            if self.alarm is None:
                self.alarm = self._worse(tally)
        calls = tally.calls - self._base.calls
        if calls >= self._next and tally.at >= self._baked_at and self._has_looks:
            self._take(tally, calls)

    @property
    def memory(self) -> Memory:
        """All that it knows; `recall` in another trial of the same plan goes on from there."""
        return Memory(
            self._base,
            self._last,
            self._batch,
            self._baked_at,
            self._next,
            self._share,
            self.alarm,
            self.look,
        )

    def recall(self, memory: Memory) -> None:
        """Know this, and nothing else."""
        self._base, self._last, self._batch = memory.base, memory.last, memory.batch
        self._baked_at, self._next, self._share = memory.baked_at, memory.due, memory.share
        self.alarm, self.look = memory.alarm, memory.look

    @property
    def tally(self) -> Tally:
        """The last one."""
        return self._last

    @property
    def calls(self) -> int:
        """Candidate calls of this step."""
        return self._last.calls - self._base.calls

    @property
    def is_baked(self) -> bool:
        """Whether this step has lasted long enough, by the last tally."""
        return self._last.at >= self._baked_at

    @property
    def is_spent(self) -> bool:
        """Whether there are no more looks."""
        return not self._has_looks

    @property
    def imbalance(self) -> float:
        """Chi squared of who got how many calls at this step; 0 while too few began to say."""
        tested, control = (
            now - then for now, then in zip(self._last.assigned, self._base.assigned, strict=True)
        )
        fewest = (tested + control) * min(self._share, 1 - self._share)
        return imbalance(tested, control, self._share) if fewest >= LEAST_SPLIT else 0.0

    @property
    def is_mismatched(self) -> bool:
        """Whether calls went to the two sides in another ratio than was ordered."""
        return self.imbalance > MISMATCH

    @property
    def drifted(self) -> tuple[str, ...]:
        """Guardrails whose control of today contradicts that of the days before."""
        return tuple(rail.name for rail in self._rails if self._drifts(self._last, rail))

    def classes(self) -> tuple[ClassFinding, ...]:
        """Every class of clients as it stands, by each guardrail that is counted so."""
        return self._classes(self._last)

    def findings(self) -> tuple[Finding, ...]:
        """Every guardrail as it stands."""
        return tuple(self._finding(rail) for rail in self._rails)

    @property
    def _has_looks(self) -> bool:
        return self.look is None or self._next <= self._gate.max_calls

    def _take(self, tally: Tally, calls: int) -> None:
        """A planned look; the next one is at the next of the planned numbers, not at a multiple of this."""
        while self._next <= calls:
            self._next *= 2
        failing = tuple(rail.name for rail in self._rails if not self._is_as_good(tally, rail))
        suspects = tuple(
            f"{each.name} of {each.client}"
            for each in self._classes(tally)
            if each.standing in (Standing.SUSPECT, Standing.WORSE)
        )
        self.look = Look(calls, failing, tally.shifted, suspects)

    def _worse(self, tally: Tally) -> Alarm | None:
        gate = self._gate
        most = limit(gate.alpha, gate.beta, questions(self._rails, len(tally.classes)))
        for rail in self._rails:
            bad, valid = tally.candidate.get(rail.name, NONE)
            if valid < LEAST:
                continue
            limits = BY_NAME[rail.name]
            certain = wilson(bad, valid, limits.z)[0]
            if certain > limits.bad:
                return Alarm(rail.name, Status.BREACH, tally.calls)
            if self._has_control:
                llr = self._llr(tally, rail)
                is_worse = llr is not None and llr > most
            else:
                is_worse = certain > limits.warn
            if is_worse:
                return Alarm(rail.name, Status.WORSE, tally.calls)
        worse = (each for each in self._classes(tally) if each.standing is Standing.WORSE)
        return next((Alarm(each.name, Status.WORSE, tally.calls, each.client) for each in worse), None)

    def _classes(self, tally: Tally) -> tuple[ClassFinding, ...]:
        if not self._has_control:
            return ()
        return findings_of(self._rails, self._gate, tally.classes, self._base.classes)

    def _llr(self, tally: Tally, rail: Guardrail) -> float | None:
        bad, valid = tally.candidate.get(rail.name, NONE)
        control = self._control(tally, rail, NONE)
        if valid < LEAST or control[1] < LEAST_CONTROL:
            return None
        p0 = wilson(*control, 1.0)[1]
        return likelihood(bad, valid, p0, max(2 * p0, p0 + 2 * rail.margin))

    def _is_as_good(self, tally: Tally, rail: Guardrail) -> bool:
        return self._interval(tally, rail)[1] < self._most(rail)

    def _most(self, rail: Guardrail) -> float:
        return rail.margin if self._has_control else BY_NAME[rail.name].warn

    def _interval(self, tally: Tally, rail: Guardrail) -> tuple[float, float]:
        """Of the difference at this step; without control, of the share."""
        tested, control = self._counts(tally, rail)
        return newcombe(tested, control, SURE) if self._has_control else wilson(*tested, SURE)

    def _counts(self, tally: Tally, rail: Guardrail) -> tuple[Count, Count]:
        """Of this step: candidate, control."""
        base = self._base
        tested = _less(tally.candidate.get(rail.name, NONE), base.candidate.get(rail.name, NONE))
        if not self._has_control:
            return tested, NONE
        return tested, self._control(tally, rail, base.control.get(rail.name, NONE))

    def _control(self, tally: Tally, rail: Guardrail, since: Count) -> Count:
        """Control calls since then, with those of the days before unless today contradicts them."""
        now = _less(tally.control.get(rail.name, NONE), since)
        if self._drifts(tally, rail):
            return now
        before = self._prior(tally, rail)
        return now[0] + before[0], now[1] + before[1]

    def _prior(self, tally: Tally, rail: Guardrail) -> Count:
        bad, valid = tally.prior.get(rail.name, NONE)
        most = self._gate.prior_calls
        return (bad, valid) if valid <= most else (round(bad * most / valid), most)

    def _drifts(self, tally: Tally, rail: Guardrail) -> bool:
        """By half the margin at least, and certainly: few control calls differ from many by chance."""
        now, before = tally.control.get(rail.name, NONE), self._prior(tally, rail)
        if not now[1] or not before[1] or abs(now[0] / now[1] - before[0] / before[1]) < rail.margin / 2:
            return False
        low, high = newcombe(now, before, CERTAIN)
        return low > 0 or high < 0

    def _finding(self, rail: Guardrail) -> Finding:
        last = self._last
        tested, control = self._counts(last, rail)
        low, high = self._interval(last, rail)
        llr = self._llr(last, rail) if self._has_control else None
        is_drifting = self._has_control and self._drifts(last, rail)
        prior = self._prior(last, rail) if self._has_control and not is_drifting else NONE
        return Finding(
            rail.name,
            control,
            tested,
            low,
            high,
            self._most(rail),
            llr,
            self._status(rail),
            prior,
            is_drifting,
        )

    def _status(self, rail: Guardrail) -> Status:
        if self.alarm is not None and (self.alarm.name, self.alarm.client) == (rail.name, ""):
            return self.alarm.status
        if self.look is not None and rail.name not in self.look.failing:
            return Status.OK
        if self._has_control and self._drifts(self._last, rail):
            return Status.DRIFT
        if self.look is not None:
            return Status.OPEN
        return Status.THIN if self.calls < self._gate.first_look else Status.OPEN


def read(raw: Any) -> Tally:
    """A tally of its JSON value. msgspec.ValidationError: it is none, or some count cannot be."""
    found = msgspec.convert(raw, Tally)
    sides = (counts for each in found.classes.values() for counts in (each.candidate, each.control))
    for counts in (found.candidate, found.control, found.prior, *sides):
        for name, (bad, valid) in counts.items():
            if not 0 <= bad <= valid:
                raise msgspec.ValidationError(f"{name}: {bad} bad of {valid}")
    if min(found.calls, *found.assigned) < 0:
        raise msgspec.ValidationError("fewer calls than none")
    return found


def replay(trial: Trial, told: Iterable[Begun | Tally]) -> Trial:
    """What a trial knows after all of this; in order of time, a step before the tally of its moment."""
    for each in sorted(told, key=lambda one: (one.at, isinstance(one, Tally))):
        if isinstance(each, Begun):
            trial.begin(each)
        else:
            trial.on_tally(each)
    return trial


def _less(now: Count, then: Count) -> Count:
    return now[0] - then[0], now[1] - then[1]
