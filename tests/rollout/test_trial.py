"""What tallies prove, when it is asked, and that asking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.rollout.plan import Gate, Guardrail
from relay.rollout.trial import Alarm, Begun, Look, Memory, Status, Tally, Trial, read, replay

SETUP = Guardrail("setup_fail", 0.01)
CONTROL = {"setup_fail": (240, 24_000)}


def trial(*rails: Guardrail, has_control: bool = True) -> Trial:
    made = Trial(rails or (SETUP,), Gate(), has_control=has_control)
    made.begin(Begun(0.0, 3600.0, 20.0))
    return made


def tally(at: float, calls: int, bad: int, control: dict[str, tuple[int, int]] = CONTROL) -> Tally:
    return Tally(at, calls, {"setup_fail": (bad, calls)}, control)


LATE = 3600.0


def test_equal_shares_are_shown_at_the_look_of_a_thousand_calls_and_not_before() -> None:
    found = trial()
    found.on_tally(tally(LATE, 475, 5))
    assert found.look is None
    found.on_tally(tally(LATE, 500, 5))
    assert found.look == Look(500, ("setup_fail",))
    found.on_tally(tally(LATE, 975, 10))
    assert found.look == Look(500, ("setup_fail",))
    found.on_tally(tally(LATE, 1000, 10))
    assert found.look == Look(1000, ())
    [finding] = found.findings()
    assert (finding.status, finding.high) == (Status.OK, pytest.approx(0.00839, abs=5e-6))
    found.on_tally(tally(LATE, 1999, 10))
    assert found.look == Look(1000, ())


def test_looks_are_at_doubled_numbers_until_the_last_one() -> None:
    found, seen = trial(), []
    for calls in range(25, 40_000, 25):
        found.on_tally(tally(LATE, calls, calls * 18 // 1000))  # neither as good nor worse
        if found.look is not None and found.look.calls not in seen:
            seen.append(found.look.calls)
    assert seen == [500, 1000, 2000, 4000, 8000, 16_000]
    assert found.is_spent


def test_before_its_time_is_over_there_is_no_look_and_at_its_end_there_is_one() -> None:
    found = trial()
    found.on_tally(tally(LATE - 1, 3_000, 30))
    assert found.look is None
    assert not found.is_baked
    found.on_tally(tally(LATE, 3_100, 31))
    assert found.look == Look(3_100, ())
    found.on_tally(tally(LATE + 1, 3_999, 31))
    assert found.look == Look(3_100, ())
    found.on_tally(tally(LATE + 2, 4_010, 31))
    assert found.look == Look(4_010, ())


def test_a_busy_region_has_its_look_at_the_end_of_its_time_though_all_numbers_are_past() -> None:
    found = trial()
    found.on_tally(tally(LATE, 100_000, 1_000))
    assert (found.look, found.is_spent) == (Look(100_000, ()), True)


def test_worse_is_asked_each_25_calls_from_50_on_and_stays_said() -> None:
    found = trial()
    found.on_tally(tally(1.0, 49, 12))
    assert found.alarm is None
    found.on_tally(tally(2.0, 60, 12))  # 11 more than the last batch
    assert found.alarm is None
    found.on_tally(tally(3.0, 74, 12))
    assert found.alarm == Alarm("setup_fail", Status.BREACH, 74)
    found.on_tally(tally(4.0, 10_000, 12))
    assert found.alarm == Alarm("setup_fail", Status.BREACH, 74)
    found.begin(Begun(5.0, 1.0, 50.0))
    assert found.alarm is not None


def test_what_is_worse_is_known_before_it_is_a_breach() -> None:
    found = trial()
    found.on_tally(tally(1.0, 500, 18))
    assert found.alarm == Alarm("setup_fail", Status.WORSE, 500)
    [finding] = found.findings()
    assert finding.llr == pytest.approx(9.17, abs=5e-3)
    assert finding.status is Status.WORSE


def test_too_few_control_calls_prove_nothing_worse_but_a_breach_needs_none() -> None:
    found = trial()
    found.on_tally(tally(1.0, 500, 18, {"setup_fail": (0, 499)}))
    assert found.alarm is None
    assert found.findings()[0].llr is None
    found.on_tally(tally(2.0, 600, 40, {"setup_fail": (0, 499)}))
    assert found.alarm == Alarm("setup_fail", Status.BREACH, 600)


def test_more_guardrails_ask_for_more_evidence() -> None:
    rails = (SETUP, Guardrail("drop"), Guardrail("poor_call"), Guardrail("one_way"), Guardrail("first_audio"))
    one, five = trial(), trial(*rails)
    for found in (one, five):
        found.on_tally(tally(1.0, 500, 15))  # LLR 5.74
    assert one.alarm is not None
    assert five.alarm is None


def test_an_indicator_that_nobody_counted_is_not_shown_to_be_good() -> None:
    found = trial(SETUP, Guardrail("drop"))
    found.on_tally(tally(LATE, 1000, 5))
    assert found.look == Look(1000, ("drop",))


def test_each_step_is_shown_by_its_own_calls_and_taken_back_by_all() -> None:
    found = trial()
    found.on_tally(tally(LATE, 1000, 10))
    assert found.look == Look(1000, ())
    found.begin(Begun(LATE, 60.0, 50.0))
    assert (found.look, found.calls) == (None, 0)
    found.on_tally(tally(LATE + 60, 1499, 12))
    assert found.look is None
    found.on_tally(tally(LATE + 60, 1500, 25))
    assert found.look == Look(500, ("setup_fail",))  # 15 of 500: alone it would be worse
    assert found.alarm is None
    assert found.findings()[0].candidate == (15, 500)
    assert found.findings()[0].control == (0, 0)  # there were none since


def test_a_step_may_need_more_calls_than_the_first_look() -> None:
    found = Trial((SETUP,), Gate(), has_control=True)
    found.begin(Begun(0.0, 0.0, 20.0, least=800))
    found.on_tally(tally(1.0, 799, 0))
    assert found.look is None
    found.on_tally(tally(1.0, 800, 0))
    assert found.look == Look(800, ())


# ---------------------------------------------------------------- the days before


def prior(now: tuple[int, int], before: tuple[int, int]) -> Tally:
    return Tally(LATE, 1000, {"setup_fail": (10, 1000)}, {"setup_fail": now}, {"setup_fail": before})


def test_calls_of_the_days_before_stand_for_control() -> None:
    found = trial()
    found.on_tally(prior((0, 50), (200, 20_000)))
    assert found.findings()[0].control == (200, 20_050)
    assert found.look == Look(1000, ())


def test_no_more_of_them_than_allowed() -> None:
    found = trial()
    found.on_tally(prior((0, 0), (400, 40_000)))
    assert found.findings()[0].control == (200, 20_000)


def test_few_calls_of_today_that_differ_by_chance_do_not_contradict_them() -> None:
    found = trial()
    found.on_tally(prior((2, 50), (200, 20_000)))  # 4 % against 1 %
    assert found.drifted == ()


@pytest.mark.parametrize("bad", [80, 0])
def test_where_today_contradicts_them_they_are_left_out(bad: int) -> None:
    found = trial()
    found.on_tally(prior((bad, 2000), (200, 20_000)))
    assert found.drifted == ("setup_fail",)
    assert found.findings()[0].control == (bad, 2000)


def test_a_difference_below_half_the_margin_is_no_contradiction_however_sure() -> None:
    found = trial()
    found.on_tally(prior((1400, 100_000), (200, 20_000)))
    assert found.drifted == ()


def test_without_them_too_few_calls_of_today_show_nothing() -> None:
    found = trial()
    found.on_tally(prior((12, 300), (200, 20_000)))
    assert found.look == Look(1000, ())  # 1 % against 4 %: better, and that is shown
    found = trial()
    found.on_tally(prior((0, 300), (600, 20_000)))
    assert found.look == Look(1000, ("setup_fail",))
    assert found.findings()[0].status is Status.DRIFT


# ---------------------------------------------------------------- without control


def absolute(calls: int, bad: int) -> Trial:
    found = trial(has_control=False)
    found.on_tally(Tally(LATE, calls, {"setup_fail": (bad, calls)}))
    return found


def test_without_control_the_promise_is_the_measure() -> None:
    assert absolute(1000, 5).look == Look(1000, ("setup_fail",))  # at most 1.17 %: not below 1 %
    good = absolute(2000, 10)
    assert good.look == Look(2000, ())
    [finding] = good.findings()
    assert (finding.control, finding.llr, finding.delta) == ((0, 0), None, 0.01)
    assert finding.high == pytest.approx(0.00918, abs=5e-5)
    assert absolute(1000, 25).alarm == Alarm("setup_fail", Status.WORSE, 1000)  # certainly above 1 %
    assert absolute(1000, 60).alarm == Alarm("setup_fail", Status.BREACH, 1000)  # certainly above 2 %
    assert absolute(49, 49).alarm is None


# ---------------------------------------------------------------- who got how many


def drawn(candidate: int, control: int) -> Trial:
    found = trial()
    found.on_tally(Tally(1.0, 0, assigned=(candidate, control)))
    return found


def test_a_ratio_as_ordered_is_no_mismatch() -> None:
    assert not drawn(200, 800).is_mismatched
    assert not drawn(240, 760).is_mismatched


@pytest.mark.parametrize("counts", [(150, 850), (260, 740), (0, 1000)])
def test_another_ratio_is(counts: tuple[int, int]) -> None:
    assert drawn(*counts).is_mismatched


def test_too_few_calls_say_nothing_of_their_ratio() -> None:
    assert drawn(0, 249).imbalance == 0.0
    assert drawn(0, 250).is_mismatched


def test_the_ratio_is_that_of_the_step() -> None:
    found = drawn(200, 800)
    found.begin(Begun(2.0, 1.0, 50.0))
    found.on_tally(Tally(3.0, 0, assigned=(700, 1300)))
    assert not found.is_mismatched
    found.on_tally(Tally(4.0, 0, assigned=(800, 1200)))  # 600 to 400
    assert found.is_mismatched


# ---------------------------------------------------------------- asking changes nothing


def known(found: Trial) -> tuple[object, ...]:
    return found.alarm, found.look, found.findings(), found.imbalance, found.calls, found.is_spent


LIVES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12), st.integers(0, 300)), max_size=40)


@given(LIVES, st.sets(st.integers(0, 40)))
def test_what_is_known_is_the_same_whoever_asked_before(
    steps: Sequence[tuple[int, int, int]], asked: set[int]
) -> None:
    at, calls, bad = 0.0, 0, 0
    tallies: list[Tally] = []
    for more, worse, seconds in steps:
        at, calls, bad = at + seconds, calls + more, bad + min(worse, more)
        tallies.append(tally(at, calls, bad))
    busy, quiet = trial(), trial()
    for place, one in enumerate(tallies):
        busy.on_tally(one)
        quiet.on_tally(one)
        if place in asked:
            known(busy)
    begun = Begun(0.0, 3600.0, 20.0)
    again = replay(Trial((SETUP,), Gate(), has_control=True), [*tallies, begun])
    assert known(busy) == known(quiet) == known(again)


def test_a_life_that_is_told_again_out_of_order_is_the_same() -> None:
    told = [Begun(0.0, 10.0, 20.0), tally(10.0, 1000, 10), Begun(10.5, 10.0, 50.0), tally(30.0, 1600, 16)]
    empty = [Trial((SETUP,), Gate(), has_control=True) for _ in range(2)]
    one, other = replay(empty[0], told), replay(empty[1], reversed(told))
    assert known(one) == known(other)
    assert one.calls == 600


# ---------------------------------------------------------------- tallies that were written down

TOLD = Tally(1.5, 30, {"drop": (1, 30)}, {"drop": (2, 60)}, {"drop": (3, 90)}, (31, 61), ("mos",))


def test_a_tally_survives_being_written_down() -> None:
    assert read(json.loads(json.dumps(asdict(TOLD)))) == TOLD


@pytest.mark.parametrize(
    "wrong",
    [
        replace(TOLD, candidate={"drop": (31, 30)}),
        replace(TOLD, control={"drop": (-1, 60)}),
        replace(TOLD, prior={"drop": (1, -90)}),
        replace(TOLD, calls=-1),
        replace(TOLD, assigned=(31, -1)),
    ],
)
def test_counts_that_cannot_be_are_no_tally(wrong: Tally) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(json.loads(json.dumps(asdict(wrong))))


@pytest.mark.parametrize("wrong", [None, [], {}, {"at": 1.0}, {"at": "x", "calls": 1}])
def test_what_is_no_tally_is_refused(wrong: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(wrong)


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 60)), min_size=2, max_size=12), st.integers(0, 11)
)
def test_a_trial_that_was_written_down_goes_on_as_if_it_had_not_been(
    batches: list[tuple[int, int]], pause: int
) -> None:
    straight, paused = trial(), trial()
    at, calls, bad = 0.0, 0, 0
    for place, (more, worse) in enumerate(batches):
        at, calls, bad = at + 900, calls + more, bad + min(more, worse)
        if place == pause:
            told = json.loads(msgspec.json.encode(paused.memory))
            paused = Trial((SETUP,), Gate(), has_control=True)
            paused.recall(msgspec.convert(told, Memory))
        for each in (straight, paused):
            each.on_tally(tally(at, calls, bad))
            if place == len(batches) // 2:
                each.begin(Begun(at, 1800.0, 40.0))
        assert paused.memory == straight.memory
        assert paused.findings() == straight.findings()
