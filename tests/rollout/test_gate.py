"""The gate's verdicts: precedence, freezes, and what it says of every guardrail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from relay.rollout.gate import (
    EXIT,
    PRECEDENCE,
    Around,
    Stage,
    Verdict,
    Why,
    begun,
    is_shifted,
    judge,
    trial_of,
)
from relay.rollout.trial import Tally, Trial
from rollout.plans import opening, release

PLAN = release()
STAGE = Stage("eu-1", 0, 1, 0.0)
HOUR = 3600.0
AROUND = Around(HOUR, {"eu-1": "ok", "us-1": "degraded"}, state_rev=7)


def counted(calls: int, bad: int, at: float = HOUR, **more: object) -> Trial:
    found = trial_of(PLAN, STAGE.wave)
    found.begin(begun(PLAN, STAGE))
    found.on_tally(Tally(at, calls, {"poor_call": (bad, calls)}, {"poor_call": (1200, 24_000)}, **more))
    return found


GOOD = (1000, 50)
WORSE = (200, 22)
BREACH = (200, 60)


def whys(trial: Trial | None, around: Around = AROUND, stage: Stage = STAGE) -> list[Why]:
    return [each.why for each in judge(PLAN, stage, trial, around).reasons]


def verdict(trial: Trial | None, around: Around = AROUND, stage: Stage = STAGE) -> Verdict:
    return judge(PLAN, stage, trial, around).verdict


def test_a_candidate_that_is_as_good_is_promoted_to_the_next_step() -> None:
    answer = judge(PLAN, STAGE, counted(*GOOD), AROUND)
    assert (answer.verdict, answer.reasons, answer.exit_status) == (Verdict.PROMOTE, (), 0)
    assert (answer.pct, answer.next_step, answer.next_pct) == (5, 2, 25)


def test_at_the_last_step_there_is_no_next_one() -> None:
    last = replace(STAGE, step=3)
    answer = judge(PLAN, last, counted(*GOOD), AROUND)
    assert (answer.pct, answer.next_step, answer.next_pct) == (95, None, None)


def test_what_machines_read_has_every_field() -> None:
    facts = json.loads(json.dumps(judge(PLAN, STAGE, counted(*GOOD), AROUND).facts()))
    assert facts == {
        "verdict": "promote",
        "stage": {"place": "eu-1", "wave": 0, "step": 1, "pct": 5.0},
        "next_stage": {"place": "eu-1", "wave": 0, "step": 2, "pct": 25.0},
        "reasons": [],
        "guardrails": [
            {
                "name": "poor_call",
                "nc": 24_000,
                "kc": 1200,
                "nt": 1000,
                "kt": 50,
                "kp": 0,
                "np": 0,
                "prior": "none",
                "diff": 0.0,
                "lo": pytest.approx(-0.012203, abs=1e-6),
                "hi": pytest.approx(0.015548, abs=1e-6),
                "delta": 0.02,
                "llr": -18.294,
                "status": "ok",
            }
        ],
        "classes": [],
        "srm_chi2": 0.0,
        "data_age_s": 0.0,
        "evaluated_at": HOUR,
        "state_rev": 7,
        "page_after_s": None,
    }


def test_each_verdict_has_its_exit_status_and_none_is_that_of_a_crash_or_of_wrong_usage() -> None:
    assert EXIT == {"promote": 0, "hold": 10, "inconclusive": 10, "rollback": 20, "no_data": 30}
    assert set(PRECEDENCE) == set(Why)


# ---------------------------------------------------------------- what goes before what

OFF = {"assigned": (600, 400)}
REASONS: list[tuple[Why, Trial | None, Around]] = [
    (Why.KILLED, counted(*GOOD), replace(AROUND, is_killed=True)),
    (Why.BREACH, counted(*BREACH), AROUND),
    (Why.NO_COUNTS, None, AROUND),
    (Why.OLD_COUNTS, counted(*GOOD), replace(AROUND, now=HOUR + 91)),
    (Why.SAMPLE_RATIO, counted(*GOOD, **OFF), AROUND),
    (Why.WORSE, counted(*WORSE), AROUND),
    (Why.SPENT, counted(16_000, 1100, at=3 * HOUR), replace(AROUND, now=3 * HOUR)),
    (Why.REGION_BAD, counted(*GOOD), replace(AROUND, health={"eu-1": "ok", "us-1": "bad"})),
    (Why.STALE_STATE, counted(*GOOD), replace(AROUND, state_age_s=301)),
    (Why.OPEN_PAGE, counted(*GOOD), replace(AROUND, pages=("RelayBurn",))),
    (Why.WINDOW, counted(*GOOD), replace(AROUND, window="holidays")),
    (Why.RIVAL, counted(*GOOD), replace(AROUND, rivals={"eu-1": "other"})),
    (Why.UNKNOWN_HEALTH, counted(*GOOD), replace(AROUND, health={"eu-1": "unknown"})),
    (Why.BAKING, counted(*GOOD, at=HOUR - 1), AROUND),
    (Why.FEW, counted(499, 10), AROUND),
    (Why.UNPROVEN, counted(500, 27), AROUND),
    (Why.SHIFTED, counted(*GOOD, shifted=("mos",)), AROUND),
]


@pytest.mark.parametrize(("why", "trial", "around"), REASONS, ids=[row[0] for row in REASONS])
def test_each_reason_alone_gives_its_verdict(why: Why, trial: Trial | None, around: Around) -> None:
    answer = judge(PLAN, STAGE, trial, around)
    assert answer.reasons[0].why is why
    assert answer.reasons[0].detail
    assert answer.verdict is PRECEDENCE[why]
    assert answer.exit_status == EXIT[PRECEDENCE[why]]


def test_precedence_is_that_of_the_table() -> None:
    everything = replace(
        AROUND,
        is_killed=True,
        now=HOUR + 91,
        health={"eu-1": "bad"},
        pages=("p",),
        window="w",
        state_age_s=301,
    )
    worse = counted(*WORSE, **OFF)
    assert verdict(worse, everything) is Verdict.ROLLBACK
    alive = replace(everything, is_killed=False)
    assert verdict(counted(*BREACH, **OFF), alive) is Verdict.ROLLBACK
    assert verdict(worse, alive) is Verdict.NO_DATA
    assert verdict(counted(*WORSE), replace(alive, now=HOUR)) is Verdict.ROLLBACK
    assert verdict(counted(*GOOD), replace(AROUND, pages=("p",))) is Verdict.HOLD


FREEZES = (Why.REGION_BAD, Why.STALE_STATE, Why.OPEN_PAGE, Why.WINDOW, Why.RIVAL)


@pytest.mark.parametrize("around", [each for why, _, each in REASONS if why in FREEZES])
def test_a_freeze_never_stops_a_rollback(around: Around) -> None:
    assert verdict(counted(*GOOD), around) is Verdict.HOLD
    assert verdict(counted(*WORSE), around) is Verdict.ROLLBACK


@pytest.mark.parametrize("health", [{}, {"eu-1": "unknown"}, {"us-1": "ok"}])
def test_unknown_health_never_promotes(health: dict[str, str]) -> None:
    assert verdict(counted(*GOOD), replace(AROUND, health=health)) is Verdict.HOLD


def test_a_degraded_region_may_go_on() -> None:
    assert verdict(counted(*GOOD), replace(AROUND, health={"eu-1": "degraded"})) is Verdict.PROMOTE


# ---------------------------------------------------------------- time and patience


def test_what_stays_undecided_pages_at_once_and_no_data_after_half_an_hour() -> None:
    late = replace(AROUND, now=3 * HOUR)
    spent = judge(PLAN, STAGE, counted(16_000, 1100, at=3 * HOUR), late)
    assert (spent.verdict, spent.facts()["page_after_s"]) == (Verdict.INCONCLUSIVE, 0)
    assert judge(PLAN, STAGE, None, AROUND).facts()["page_after_s"] == 1800


def test_after_three_times_its_time_a_failing_look_is_inconclusive() -> None:
    assert verdict(counted(500, 27, at=3 * HOUR - 1), replace(AROUND, now=3 * HOUR - 1)) is Verdict.HOLD
    assert verdict(counted(500, 27, at=3 * HOUR), replace(AROUND, now=3 * HOUR)) is Verdict.INCONCLUSIVE


def test_too_few_calls_at_night_are_no_page_until_the_day_has_passed() -> None:
    day = 24 * HOUR
    assert whys(counted(499, 10, at=day - 1), replace(AROUND, now=day - 1)) == [Why.FEW, Why.UNPROVEN]
    assert verdict(counted(499, 10, at=day), replace(AROUND, now=day)) is Verdict.INCONCLUSIVE


def test_a_trial_that_never_heard_of_the_step_cannot_be_promoted() -> None:
    assert verdict(counted(*GOOD, at=HOUR), stage=replace(STAGE, since=-HOUR)) is Verdict.PROMOTE
    deaf = trial_of(PLAN, 0)
    deaf.begin(replace(begun(PLAN, STAGE), at=HOUR))
    deaf.on_tally(Tally(HOUR, 1000, {"poor_call": (50, 1000)}, {"poor_call": (1200, 24_000)}))
    assert verdict(deaf) is Verdict.HOLD


# ---------------------------------------------------------------- groups, plans without control, values


def test_a_group_s_step_waits_for_a_person_and_is_taken_back_without() -> None:
    plan = opening()
    stage = Stage("@dogfood", 0, 0, 0.0)
    day = 24 * HOUR

    def answer(calls: int, bad: int, at: float = day) -> tuple[Verdict, list[Why]]:
        found = trial_of(plan, 0)
        found.begin(begun(plan, stage))
        found.on_tally(Tally(at, calls, {rail.name: (bad, calls) for rail in plan.guardrails}))
        told = judge(plan, stage, found, Around(at))
        return told.verdict, [each.why for each in told.reasons]

    assert answer(60, 0) == (Verdict.HOLD, [Why.CONFIRM])
    assert answer(49, 0) == (Verdict.HOLD, [Why.FEW, Why.CONFIRM])
    assert answer(60, 0, at=day - 1) == (Verdict.HOLD, [Why.BAKING, Why.CONFIRM])
    assert answer(60, 30)[0] is Verdict.ROLLBACK


def test_a_plan_without_control_is_promoted_by_what_is_promised() -> None:
    plan = opening()
    stage = Stage("eu-1", 1, 0, 0.0)
    found = trial_of(plan, 1)
    found.begin(begun(plan, stage))
    found.on_tally(Tally(HOUR, 4000, {rail.name: (4, 4000) for rail in plan.guardrails}))
    answer = judge(plan, stage, found, AROUND)
    assert (answer.verdict, answer.next_pct) == (Verdict.PROMOTE, 100)
    assert answer.findings[0].control == (0, 0)


def test_values_that_are_certainly_and_notably_higher_hold() -> None:
    control = [1 + (place % 100) / 100 for place in range(1000)]
    assert is_shifted([value * 1.2 for value in control], control)
    assert not is_shifted(control, control)
    assert not is_shifted([value / 2 for value in control], control)
    assert not is_shifted([], control)
    assert not is_shifted([1.0, 3.0, 2.0], [1.0, 1.1, 2.0])  # higher, and not certain


def test_a_shift_that_is_sure_but_tiny_does_not() -> None:
    control = [1 + place / 1e6 for place in range(1000)]
    assert not is_shifted([value * 1.01 for value in control], control)
    assert is_shifted([value * 1.06 for value in control], control)
