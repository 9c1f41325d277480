"""One class of clients alone: what is worse for it is caught, equal ones promote, thin ones are listed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from relay.rollout.classes import CLASSED, LEAST, LEAST_CONTROL, Sides, Standing, findings, questions
from relay.rollout.gate import Around, Stage, Verdict, Why, judge
from relay.rollout.guardrails import LIMITS
from relay.rollout.plan import Document, Gate, Guardrail
from relay.rollout.trial import Alarm, Begun, Memory, Status, Tally, Trial, read
from rollout.plans import release

PLAN = release()
SETUP, POOR = Guardrail("setup_fail"), Guardrail("poor_call")
GATE = Gate()
SHARES = {"ios": 0.4, "android": 0.4, "web": 0.15, "py": 0.04, "other": 0.01}
"""Of all calls, by class."""
CONTROL, CANDIDATE = 4, 1
"""Calls of either side in each draw."""


def sides(kt: int, nt: int, kc: int, nc: int, name: str = "setup_fail") -> Sides:
    return Sides({name: (kt, nt)}, {name: (kc, nc)})


def standing(kt: int, nt: int, kc: int, nc: int) -> Standing:
    [found] = findings((SETUP,), GATE, {"ios": sides(kt, nt, kc, nc)}, {})
    return found.standing


def test_each_class_that_is_named_is_one_more_test_of_each_guardrail_that_is_counted_so() -> None:
    rails = tuple(Guardrail(each.name) for each in LIMITS)
    assert questions(rails, 0) == 5
    assert questions(rails, 5) == 5 + 5 * len(CLASSED)
    assert questions((Guardrail("first_audio"),), 5) == 1


def test_a_class_is_compared_with_its_own_control() -> None:
    assert standing(10, 1000, 40, 4000) is Standing.OK
    assert standing(100, 1000, 400, 4000) is Standing.OK  # ten per cent, on both sides: some clients are so
    assert standing(60, 1000, 40, 4000) is Standing.WORSE
    assert standing(0, 1000, 40, 4000) is Standing.OK


def test_what_is_surer_than_chance_and_less_than_twice_as_bad_is_suspect() -> None:
    [found] = findings((POOR,), GATE, {"ios": sides(700, 10_000, 500, 10_000, "poor_call")}, {})
    assert (found.standing, found.low > 0, found.llr is not None and found.llr < 0) == (
        Standing.SUSPECT, True, True
    )  # fmt: skip


@pytest.mark.parametrize(("calls", "control"), [(LEAST - 1, 10_000), (10_000, LEAST_CONTROL - 1), (0, 0)])
def test_a_class_with_few_calls_says_nothing_however_bad_they_are(calls: int, control: int) -> None:
    [found] = findings((SETUP,), GATE, {"py": sides(calls, calls, 0, control)}, {})
    assert (found.standing, found.llr, found.candidate) == (Standing.THIN, None, (calls, calls))


def test_the_interval_is_of_this_step_and_the_sequential_test_of_all() -> None:
    now, base = {"ios": sides(60, 1000, 40, 4000)}, {"ios": sides(60, 900, 10, 2000)}
    [found] = findings((SETUP,), GATE, now, base)
    assert found.standing is Standing.WORSE
    assert found.high < 0.1
    assert -0.05 < found.low < 0
    assert findings((Guardrail("first_audio"),), GATE, now, base) == ()


def test_more_classes_ask_for_more_evidence() -> None:
    now = {"ios": sides(26, 1000, 40, 4000)}
    [alone] = findings((SETUP,), GATE, now, {})
    many = now | {f"c{place}": Sides() for place in range(200)}
    [among] = [each for each in findings((SETUP,), GATE, many, {}) if each.client == "ios"]
    assert alone.llr == among.llr
    assert among.low < alone.low


# ---------------------------------------------------------------- in a trial


def trial(*rails: Guardrail) -> Trial:
    made = Trial(rails or (SETUP,), GATE, has_control=True)
    made.begin(Begun(0.0, 10.0, 20.0))
    return made


def calls(seed: int, worse: dict[str, float], base: float = 0.005, most: int = 4000) -> Iterator[Tally]:
    """Tallies, each 25 candidate calls: set-ups fail by chance, of some classes so many times as often."""
    draw = random.Random(seed)
    names, weights = list(SHARES), list(SHARES.values())
    counted = {name: [0, 0, 0, 0] for name in names}  # candidate bad and valid, control bad and valid
    for number in range(1, most + 1):
        for side in (0,) * CANDIDATE + (2,) * CONTROL:
            [name] = draw.choices(names, weights)
            share = base * (worse.get(name, 1.0) if side == 0 else 1.0)
            counted[name][side] += draw.random() < share
            counted[name][side + 1] += 1
        if number % 25 == 0:
            yield tally(float(number), number, counted)


def tally(at: float, number: int, counted: dict[str, list[int]]) -> Tally:
    def total(place: int) -> tuple[int, int]:
        return sum(one[place] for one in counted.values()), sum(one[place + 1] for one in counted.values())

    classes = {
        name: Sides({"setup_fail": (one[0], one[1])}, {"setup_fail": (one[2], one[3])})
        for name, one in counted.items()
    }
    return Tally(at, number, {"setup_fail": total(0)}, {"setup_fail": total(2)}, classes=classes)


def run(seed: int, worse: dict[str, float]) -> Trial:
    found = trial()
    for each in calls(seed, worse):
        found.on_tally(each)
    return found


def test_set_ups_that_fail_in_one_class_only_are_caught_and_it_is_named() -> None:
    """Ten times as often for a seventh of all: 1.2 % in all, within the margin of .75 pp."""
    found = [run(seed, {"web": 10.0}) for seed in range(12)]
    alarms = [one.alarm for one in found]
    named = [each for each in alarms if each is not None and each.client == "web"]
    assert len(named) >= 9
    assert all(each is not None for each in alarms)
    assert all(each.status is Status.WORSE for each in named)


def test_classes_that_are_equal_promote() -> None:
    found = [run(seed, {}) for seed in range(100, 140)]
    assert sum(one.alarm is not None for one in found) <= 1
    assert sum(one.look is not None and one.look.suspects != () for one in found) <= 1
    good = [one for one in found if one.look is not None and not one.look.failing and one.alarm is None]
    assert len(good) >= 36
    assert any(each.standing is Standing.THIN for each in good[0].classes())  # and that blocks nothing


def test_an_alarm_of_a_class_is_none_of_all_and_survives_being_written_down() -> None:
    found = trial()
    counted = {"ios": [30, 400, 10, 2000], "web": [0, 3600, 90, 18_000]}
    found.on_tally(tally(20.0, 4000, counted))
    assert found.alarm == Alarm("setup_fail", Status.WORSE, 4000, "ios")
    assert found.findings()[0].status is not Status.WORSE  # of all together nothing is shown
    assert found.look is not None
    assert found.look.suspects == ("setup_fail of ios",)
    memory = msgspec.json.decode(msgspec.json.encode(found.memory), type=Memory)
    again = trial()
    again.recall(memory)
    assert (again.alarm, again.look, again.classes()) == (found.alarm, found.look, found.classes())


def test_where_there_is_no_control_no_class_is_judged() -> None:
    made = Trial((SETUP,), GATE, has_control=False)
    made.begin(Begun(0.0, 1.0, 20.0))
    made.on_tally(tally(20.0, 4000, {"ios": [30, 400, 10, 2000], "web": [0, 3600, 90, 18_000]}))
    assert (made.alarm, made.classes()) == (None, ())


def test_counts_of_a_class_that_cannot_be_are_no_tally() -> None:
    raw = {"at": 1, "calls": 1, "classes": {"ios": {"candidate": {"drop": [2, 1]}}}}
    with pytest.raises(msgspec.ValidationError, match="2 bad of 1"):
        read(raw)


# ---------------------------------------------------------------- what the gate says


def asked(counted: dict[str, list[int]]) -> tuple[Document, Stage, Trial, Around]:
    rails = (SETUP,)
    plan = replace(PLAN, rollout=replace(PLAN.rollout, guardrail=rails))
    made = Trial(rails, plan.gate, has_control=True)
    made.begin(Begun(0.0, 3600.0, 20.0))
    made.on_tally(tally(3600.0, sum(one[1] for one in counted.values()), counted))
    return plan, Stage("eu-1", 0, 0, 0.0), made, Around(3600.0, {"eu-1": "ok"})


def test_a_class_that_is_worse_takes_the_region_back_and_the_reason_names_it() -> None:
    answer = judge(*asked({"ios": [30, 400, 10, 2000], "web": [10, 3600, 90, 18_000]}))
    assert answer.verdict is Verdict.ROLLBACK
    assert answer.reasons[0].why is Why.WORSE
    assert answer.reasons[0].detail == "setup_fail of ios clients, seen at 4000 candidate calls"
    rows = {row["client"]: row for row in answer.facts()["classes"]}
    assert (rows["ios"]["status"], rows["web"]["status"]) == ("worse", "ok")
    assert rows["ios"]["llr"] > 5


def test_a_class_that_is_suspect_is_not_promoted() -> None:
    answer = judge(*asked({"ios": [135, 9000, 360, 36_000], "web": [100, 11_000, 440, 44_000]}))
    assert (answer.verdict, answer.reasons[0].why) == (Verdict.INCONCLUSIVE, Why.SPENT)  # a person decides
    assert "setup_fail of ios clients: worse" in answer.reasons[1].detail


def test_thin_classes_are_listed_and_block_nothing() -> None:
    answer = judge(*asked({"ios": [20, 4000, 80, 16_000], "py": [5, 40, 0, 40], "other": [0, 0, 0, 0]}))
    assert answer.verdict is Verdict.PROMOTE
    rows = {row["client"]: row["status"] for row in answer.facts()["classes"]}
    assert rows == {"ios": "ok", "py": "thin", "other": "thin"}
