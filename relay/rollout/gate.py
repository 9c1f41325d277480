"""The gate: may this step be followed by the next one, does it have to be taken back, or does it stay?

    Trial (counts), Around (all else) --judge--> Answer: one verdict, every reason, each guardrail

    reasons, by precedence                           verdict        exit status
    killed, breach                                   rollback       20
    no_counts, old_counts, sample_ratio              no_data        30
    worse                                            rollback       20
    spent                                            inconclusive   10, and a page
    freezes, unknown_health, baking, few,
    unproven, shifted, confirm                       hold           10
    none of them                                     promote        0

Statuses 1 and 2 stay those of a crash and of wrong usage. A freeze never stops a rollback. Must never live
here: statistics (trial.py), the change that follows (steps.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from relay.rollout.classes import ClassFinding
from relay.rollout.plan import Document
from relay.rollout.stats import shift
from relay.rollout.trial import Begun, Finding, Status, Trial

STALE_S: Final = 300.0  # a state store that nobody has confirmed for so long may hide a kill
PATIENCE: Final = 3  # times its least time that a step may stay undecided
QUIET_S: Final = 86_400.0  # a step without enough calls has a day and a night at least
CONFIDENCE: Final = 0.98  # of the interval of a shift, as Kayenta has it
BAND: Final = 0.25  # of the shift itself that its lower end must exceed, as Kayenta has it
NOTABLE: Final = 0.05  # of the control's median: less is no reason to stay, however sure it is


class Verdict(StrEnum):
    """What the gate says."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLLBACK = "rollback"
    NO_DATA = "no_data"
    INCONCLUSIVE = "inconclusive"


EXIT: Final[Mapping[Verdict, int]] = {
    Verdict.PROMOTE: 0,
    Verdict.HOLD: 10,
    Verdict.INCONCLUSIVE: 10,
    Verdict.ROLLBACK: 20,
    Verdict.NO_DATA: 30,
}
PAGE_AFTER_S: Final[Mapping[Verdict, float]] = {Verdict.INCONCLUSIVE: 0.0, Verdict.NO_DATA: 1800.0}


class Why(StrEnum):
    """Reasons against the next step, by precedence."""

    KILLED = "killed"
    BREACH = "breach"
    NO_COUNTS = "no_counts"
    OLD_COUNTS = "old_counts"
    SAMPLE_RATIO = "sample_ratio"
    WORSE = "worse"
    SPENT = "spent"
    REGION_BAD = "region_bad"
    STALE_STATE = "stale_state"
    OPEN_PAGE = "open_page"
    WINDOW = "window"
    RIVAL = "rival"
    UNKNOWN_HEALTH = "unknown_health"
    BAKING = "baking"
    FEW = "few"
    UNPROVEN = "unproven"
    SHIFTED = "shifted"
    CONFIRM = "confirm"


PRECEDENCE: Final[Mapping[Why, Verdict]] = {
    Why.KILLED: Verdict.ROLLBACK,
    Why.BREACH: Verdict.ROLLBACK,
    Why.NO_COUNTS: Verdict.NO_DATA,
    Why.OLD_COUNTS: Verdict.NO_DATA,
    Why.SAMPLE_RATIO: Verdict.NO_DATA,
    Why.WORSE: Verdict.ROLLBACK,
    Why.SPENT: Verdict.INCONCLUSIVE,
    Why.REGION_BAD: Verdict.HOLD,
    Why.STALE_STATE: Verdict.HOLD,
    Why.OPEN_PAGE: Verdict.HOLD,
    Why.WINDOW: Verdict.HOLD,
    Why.RIVAL: Verdict.HOLD,
    Why.UNKNOWN_HEALTH: Verdict.HOLD,
    Why.BAKING: Verdict.HOLD,
    Why.FEW: Verdict.HOLD,
    Why.UNPROVEN: Verdict.HOLD,
    Why.SHIFTED: Verdict.HOLD,
    Why.CONFIRM: Verdict.HOLD,
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a place: a region, or a group everywhere (`@` and its name)."""

    place: str
    wave: int
    """Position in the plan, from 0."""
    step: int
    since: float
    """When it began, Unix seconds."""


@dataclass(frozen=True, slots=True)
class Around:
    """What counts beside the counts, at one moment."""

    now: float
    """Unix seconds."""
    health: Mapping[str, str] = field(default_factory=dict)
    """Region -> ok, degraded, bad or unknown, of every region there is."""
    state_age_s: float = 0.0
    """Since the state store was last known to answer."""
    state_rev: int = 0
    is_killed: bool = False
    pages: tuple[str, ...] = ()
    """Alerts that page at present."""
    window: str = ""
    """Why an operator wants no change now; "": may change."""
    rivals: Mapping[str, str] = field(default_factory=dict)
    """Region -> another rollout that runs there."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, and what it is about."""

    why: Why
    detail: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gate says of a step, whole."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    stage: Stage
    next_step: int | None
    """None: this is the last one of its wave."""
    pct: float
    next_pct: float | None
    findings: tuple[Finding, ...]
    chi2: float
    data_age_s: float | None
    """None: nothing was ever counted."""
    around: Around
    classes: tuple[ClassFinding, ...] = ()
    """Each class of clients alone, thin ones too."""

    @property
    def exit_status(self) -> int:
        """For a program that asks."""
        return EXIT[self.verdict]

    def facts(self) -> dict[str, Any]:
        """JSON value."""
        stage = {"place": self.stage.place, "wave": self.stage.wave}
        next_stage = (
            None if self.next_step is None else stage | {"step": self.next_step, "pct": self.next_pct}
        )
        return {
            "verdict": self.verdict.value,
            "stage": stage | {"step": self.stage.step, "pct": self.pct},
            "next_stage": next_stage,
            "reasons": [{"reason": each.why.value, "detail": each.detail} for each in self.reasons],
            "guardrails": [_row(finding) for finding in self.findings],
            "classes": [_class(finding) for finding in self.classes],
            "srm_chi2": round(self.chi2, 3),
            "data_age_s": self.data_age_s,
            "evaluated_at": self.around.now,
            "state_rev": self.around.state_rev,
            "page_after_s": PAGE_AFTER_S.get(self.verdict),
        }


def has_control(plan: Document, wave: int) -> bool:
    """Whether there is a control. A group is not drawn by chance: nothing stands beside it."""
    return plan.rollout.kind == "release" and not plan.rollout.wave[wave].group


def trial_of(plan: Document, wave: int) -> Trial:
    """An empty trial for a place of this wave."""
    return Trial(plan.guardrails, plan.gate, has_control=has_control(plan, wave))


def begun(plan: Document, stage: Stage) -> Begun:
    """What a trial has to know of a step that begins."""
    wave = plan.rollout.wave[stage.wave]
    return Begun(stage.since, wave.bake_s(stage.step), plan.share(stage.wave, stage.step), wave.min_calls)


def judge(plan: Document, stage: Stage, trial: Trial | None, around: Around) -> Answer:
    """The verdict of this moment; `trial` None: nothing was counted. It depends on no earlier verdict."""
    reasons = tuple(sorted(_reasons(plan, stage, trial, around), key=lambda each: _ORDER[each.why]))
    steps = plan.rollout.wave[stage.wave].steps
    following = stage.step + 1 if stage.step + 1 < len(steps) else None
    return Answer(
        PRECEDENCE[reasons[0].why] if reasons else Verdict.PROMOTE,
        reasons,
        stage,
        following,
        plan.share(stage.wave, stage.step),
        None if following is None else plan.share(stage.wave, following),
        trial.findings() if trial else (),
        trial.imbalance if trial else 0.0,
        around.now - trial.tally.at if trial else None,
        around,
        trial.classes() if trial else (),
    )


def is_shifted(tested: Sequence[float], control: Sequence[float]) -> bool:
    """Whether values of calls (higher is worse) are certainly and notably higher than the control's.

    For what is no share: residence, CPU per call, MOS with a minus. It holds a step and never takes one back.
    """
    found = shift(tested, control, CONFIDENCE)
    if found is None:
        return False
    median = sorted(control)[len(control) // 2]
    return found.low > BAND * abs(found.estimate) and found.estimate > NOTABLE * abs(median)


_ORDER: Final = {why: place for place, why in enumerate(PRECEDENCE)}


def _reasons(plan: Document, stage: Stage, trial: Trial | None, around: Around) -> Iterator[Reason]:
    if around.is_killed:
        yield Reason(Why.KILLED, f"{plan.rollout.id} was killed")
    yield from _freezes(plan, stage, around)
    if trial is None:
        yield Reason(Why.NO_COUNTS, f"nothing was counted at {stage.place}")
        return
    age = around.now - trial.tally.at
    if age > plan.gate.max_age:
        yield Reason(Why.OLD_COUNTS, f"counted {age:.0f} s ago, limit {plan.gate.max_age:g} s")
    if trial.is_mismatched:
        yield Reason(
            Why.SAMPLE_RATIO, f"chi squared {trial.imbalance:.1f}: calls went elsewhere than ordered"
        )
    if trial.alarm is not None:
        why = Why.BREACH if trial.alarm.status is Status.BREACH else Why.WORSE
        of = f" of {trial.alarm.client} clients" if trial.alarm.client else ""
        yield Reason(why, f"{trial.alarm.name}{of}, seen at {trial.alarm.calls} candidate calls")
    yield from _pending(plan, stage, trial)


def _freezes(plan: Document, stage: Stage, around: Around) -> Iterator[Reason]:
    """What stops every widening, and no rollback."""
    bad = sorted(region for region, state in around.health.items() if state == "bad")
    if bad:
        yield Reason(Why.REGION_BAD, ", ".join(bad))
    if around.state_age_s > STALE_S:
        yield Reason(Why.STALE_STATE, f"the state is {around.state_age_s:.0f} s old, limit {STALE_S:g} s")
    if around.pages:
        yield Reason(Why.OPEN_PAGE, ", ".join(around.pages))
    if around.window:
        yield Reason(Why.WINDOW, around.window)
    if stage.place in around.rivals:
        yield Reason(Why.RIVAL, f"{around.rivals[stage.place]} runs at {stage.place}, too")
    is_region = not plan.rollout.wave[stage.wave].group
    if is_region and around.health.get(stage.place, "unknown") == "unknown":
        yield Reason(Why.UNKNOWN_HEALTH, f"nobody knows how {stage.place} is")


def _pending(plan: Document, stage: Stage, trial: Trial) -> Iterator[Reason]:
    """What a passing look still lacks."""
    wave = plan.rollout.wave[stage.wave]
    least = wave.min_calls if wave.confirm else max(wave.min_calls, plan.gate.first_look)
    lasted, bake = trial.tally.at - stage.since, wave.bake_s(stage.step)
    if lasted < bake:
        yield Reason(Why.BAKING, f"{bake - lasted:.0f} s to go of {bake:g} s")
    if trial.calls < least:
        yield Reason(Why.FEW, f"{trial.calls} candidate calls of {least}")
    if wave.confirm:
        yield Reason(Why.CONFIRM, "a person has to say yes")
        return
    look = trial.look
    if look is None:
        yield Reason(Why.UNPROVEN, "no look yet")
        if lasted >= max(PATIENCE * bake, QUIET_S):
            yield Reason(Why.SPENT, f"no look after {lasted:.0f} s")
        return
    for name in look.failing:
        alone = ", without the days before, which today contradicts" if name in trial.drifted else ""
        yield Reason(Why.UNPROVEN, f"{name}: not shown to be as good at {look.calls} candidate calls{alone}")
    for name in look.suspects:
        told = f"{name} clients: worse than their control's at {look.calls} candidate calls"
        yield Reason(Why.UNPROVEN, told)
    for name in look.shifted:
        yield Reason(Why.SHIFTED, f"{name}: higher than the control's")
    is_open = bool(look.failing or look.shifted or look.suspects)
    if is_open and (trial.is_spent or lasted >= PATIENCE * bake):
        yield Reason(Why.SPENT, f"{look.calls} candidate calls in {lasted:.0f} s decide nothing")


def _row(finding: Finding) -> dict[str, Any]:
    (kc, nc), (kt, nt) = finding.control, finding.candidate
    share = kt / nt if nt else 0.0
    return {
        "name": finding.name,
        "nc": nc,
        "kc": kc,
        "nt": nt,
        "kt": kt,
        "kp": finding.prior[0],
        "np": finding.prior[1],
        "prior": "drift" if finding.is_drifting else "used" if finding.prior[1] else "none",
        "diff": round(share - (kc / nc if nc else 0.0), 6),
        "lo": round(finding.low, 6),
        "hi": round(finding.high, 6),
        "delta": finding.delta,
        "llr": None if finding.llr is None else round(finding.llr, 3),
        "status": finding.status.value,
    }


def _class(finding: ClassFinding) -> dict[str, Any]:
    (kc, nc), (kt, nt) = finding.control, finding.candidate
    return {
        "client": finding.client,
        "name": finding.name,
        "nc": nc,
        "kc": kc,
        "nt": nt,
        "kt": kt,
        "lo": round(finding.low, 6),
        "hi": round(finding.high, 6),
        "llr": None if finding.llr is None else round(finding.llr, 3),
        "status": finding.standing.value,
    }
