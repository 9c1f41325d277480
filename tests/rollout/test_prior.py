"""Days before a rollout: which calls are kept, which of them count at which hours, and what they decide."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from relay.rollout.bucket import Variant
from relay.rollout.counts import Ledger, add, open_ledger, trial_in
from relay.rollout.gate import Answer, Around, Stage, Verdict, Why, judge
from relay.rollout.prior import (
    GAP_S,
    KEPT_HOURS,
    MOST_SLOTS,
    Days,
    Earlier,
    Slot,
    calls_at,
    earlier,
    gather,
    hours_of,
    lack,
)
from relay.rollout.readings import BEGAN, CALLS, Reading, bad, figure, valid
from relay.rollout.trial import Status
from rollout.plans import release

PLAN = release()
CONTROL = PLAN.rollout.control
EIGHT = 1_800_000_000.0
"""08:00:00 UTC of some day."""
HOUR, DAY = 3_600.0, 86_400.0
A, B = "http://a/metrics", "http://b/metrics"


def says(
    at: float, calls: int, poor: int = 0, *, node: str = A, version: str = CONTROL, started: float = 0.0
) -> Reading:
    """A node that has carried so many control calls since it started."""
    counts = {
        figure(Variant.CONTROL, valid("poor_call")): calls,
        figure(Variant.CONTROL, bad("poor_call")): poor,
        figure(Variant.CONTROL, valid("first_audio")): 2 * calls,
        figure(Variant.CANDIDATE, valid("poor_call")): 7 * calls,
    }
    return Reading(node, at, started, "eu-1", counts, version=version)


def kept(*readings: Reading, days: Days | None = None) -> Days:
    found = days or Days()
    for each in readings:
        found = gather(found, [each], each.at)
    return found


def poor(days: Days) -> dict[tuple[int, str], tuple[int, int]]:
    """By hours from `EIGHT` on, and version."""
    first = int(EIGHT // HOUR)
    return {(each.hour - first, each.version): each.counts["poor_call"] for each in days.slots}


def week(share: float, *, version: str = CONTROL, until: float = EIGHT) -> Days:
    """Seven days that were asked each quarter of an hour, 60 calls in each."""
    found, at, calls = Days(), until - 7 * DAY - GAP_S, 0
    while at < until:
        found = gather(found, [says(at, calls, round(calls * share), version=version)], at)
        at, calls = at + GAP_S, calls + 60
    return found


def test_control_calls_are_kept_by_the_hour_in_which_they_were_told() -> None:
    found = kept(says(EIGHT + 60, 100, 5), says(EIGHT + 600, 130, 7), says(EIGHT + 1200, 150, 7))
    later = (says(EIGHT + 2000, 160, 7), says(EIGHT + 2800, 170, 8), says(EIGHT + 3650, 190, 9))
    found = kept(*later, days=found)
    assert poor(found) == {(0, CONTROL): (3, 70), (1, CONTROL): (1, 20)}
    assert all("setup_fail" not in each.counts for each in found.slots)  # of which nothing was told


def test_what_came_in_a_long_silence_belongs_to_no_hour() -> None:
    found = kept(says(EIGHT, 100), says(EIGHT + GAP_S + 1, 500), says(EIGHT + 2 * GAP_S, 530))
    assert poor(found) == {(0, CONTROL): (0, 30)}


def test_a_node_that_was_never_asked_counts_only_what_it_carried_since_it_started_a_moment_ago() -> None:
    assert poor(kept(says(EIGHT, 100))) == {}
    assert poor(kept(says(EIGHT, 100, started=EIGHT - GAP_S + 1))) == {(0, CONTROL): (0, 100)}


@pytest.mark.parametrize("again", [says(EIGHT + 600, 5), says(EIGHT + 600, 130, started=EIGHT + 300)])
def test_a_node_that_began_anew_counts_all_that_it_says(again: Reading) -> None:
    found = kept(says(EIGHT, 100), again)
    assert poor(found) == {(0, CONTROL): (0, again.counts[figure(Variant.CONTROL, valid("poor_call"))])}


def test_the_same_reading_twice_or_late_counts_once() -> None:
    first, second = says(EIGHT, 100), says(EIGHT + 600, 130)
    once = kept(first, second)
    assert gather(gather(once, [second], second.at), [first], second.at) == once


def test_nodes_add_up_and_versions_do_not() -> None:
    found = gather(kept(says(EIGHT, 0), says(EIGHT, 0, node=B)), [], EIGHT)
    both = [says(EIGHT + 60, 30), says(EIGHT + 60, 20, 1, node=B)]
    found = kept(says(EIGHT + 120, 40, version="0.4.0"), days=gather(found, both, EIGHT + 60))
    assert poor(found) == {(0, CONTROL): (1, 50), (0, "0.4.0"): (0, 10)}


def test_what_is_older_than_seven_days_is_let_go_and_so_is_who_fell_silent() -> None:
    found = kept(says(EIGHT, 0), says(EIGHT + 60, 10), says(EIGHT + 60, 0, node=B))
    later = gather(found, [says(EIGHT + 7 * DAY, 10, node="http://c")], EIGHT + 7 * DAY)
    assert poor(later) == {(0, CONTROL): (0, 10)}
    assert list(later.nodes) == ["http://c"]
    assert poor(gather(later, [], EIGHT + 7 * DAY + HOUR)) == {}


def test_however_many_versions_there_are_it_stays_within_its_bound() -> None:
    slots = tuple(
        Slot(int(EIGHT // HOUR) - ago, f"0.{version}", {"drop": (1, 10)})
        for ago in range(KEPT_HOURS, 0, -1)
        for version in range(9)
    )
    found = gather(Days(slots), [], EIGHT)
    assert len(found.slots) == MOST_SLOTS
    assert found.slots[-1] == slots[-1]  # the newest stay


# ---------------------------------------------------------------- what a rollout gets of them


def test_days_before_end_with_the_hour_before_the_one_in_which_the_rollout_came() -> None:
    found = kept(says(EIGHT - 1200, 0), says(EIGHT - 600, 30, 1), says(EIGHT + 60, 70), says(EIGHT + 300, 90))
    at_seven = {"poor_call": (1, 30), "first_audio": (0, 60)}
    assert earlier(found, EIGHT + 400, CONTROL) == Earlier({7: at_seven}, 1)
    assert earlier(found, EIGHT - 1, CONTROL) == Earlier()


def test_calls_of_another_version_are_no_control_and_are_named() -> None:
    found = kept(says(EIGHT - 1200, 0, version="0.2.9"), says(EIGHT - 600, 30, version="0.2.9"))
    before = earlier(found, EIGHT, CONTROL)
    assert before == Earlier(others=("0.2.9",))
    assert lack(before, EIGHT, EIGHT + 60, CONTROL) == "calls of the days before were of 0.2.9, none of 0.3.2"


def test_seven_days_are_seven_and_not_what_came_before_them() -> None:
    before = earlier(week(0.05), EIGHT, CONTROL)
    assert before.days == 7
    assert sorted(before.hours) == list(range(24))
    assert all(counts["poor_call"][1] == 7 * 4 * 60 for counts in before.hours.values())
    assert earlier(week(0.05, until=EIGHT - 7 * DAY), EIGHT, CONTROL) == Earlier()


@pytest.mark.parametrize(
    ("lasted", "wanted"),
    [
        (0, {8}),
        (HOUR - 1, {8}),
        (HOUR, {8, 9}),
        (17 * HOUR, {*range(8, 24), 0, 1}),
        (40 * HOUR, {*range(24)}),
    ],
)
def test_the_hours_that_count_are_those_that_the_rollout_has_seen(lasted: float, wanted: set[int]) -> None:
    assert set(hours_of(EIGHT, EIGHT + lasted)) == wanted
    found = Earlier({hour: {"poor_call": (1, 10), "first_audio": (3, 20)} for hour in range(24)}, 7)
    told = calls_at(found, EIGHT, EIGHT + lasted)
    part = len(wanted)
    assert told == {"poor_call": (part, 10 * part), "first_audio": (3 * part // 2, 10 * part)}


def test_it_is_said_why_there_are_none() -> None:
    night = Earlier({3: {"poor_call": (1, 10)}}, 1)
    assert lack(night, EIGHT, EIGHT + HOUR, CONTROL).endswith("hours of the day: 08, 09 UTC")
    assert lack(night, EIGHT, EIGHT + DAY, CONTROL) == ""
    assert "relay rollout collect" in lack(Earlier(), EIGHT, EIGHT, CONTROL)


def test_what_is_kept_survives_being_written_down() -> None:
    days = kept(says(EIGHT - 1200, 0), says(EIGHT - 600, 30, 1))
    assert msgspec.json.decode(msgspec.json.encode(days), type=Days) == days
    before = earlier(days, EIGHT, CONTROL)
    assert msgspec.json.decode(msgspec.json.encode(before), type=Earlier) == before


# ---------------------------------------------------------------- what they decide

STAGE = Stage("eu-1", 0, 3, EIGHT)
"""The step of 100, with a holdback of 5 %."""


def at_the_end(days: Days | None) -> tuple[Ledger, Answer]:
    """A candidate as good as its control, 5 % poor, after twelve hours of the step: 3800 calls, and 200."""
    ledger = open_ledger(PLAN, STAGE)
    if days is not None:
        ledger = msgspec.structs.replace(ledger, earlier=earlier(days, EIGHT, CONTROL))
    counts = {
        figure(Variant.CANDIDATE, CALLS): 3800,
        figure(Variant.CANDIDATE, BEGAN): 3800,
        figure(Variant.CANDIDATE, valid("poor_call")): 3800,
        figure(Variant.CANDIDATE, bad("poor_call")): 190,
        figure(Variant.CONTROL, BEGAN): 200,
        figure(Variant.CONTROL, valid("poor_call")): 200,
        figure(Variant.CONTROL, bad("poor_call")): 10,
    }
    at = EIGHT + 12 * HOUR
    reading = Reading(A, at, EIGHT + 1, "eu-1", counts, health="ok")
    ledger = add(PLAN, ledger, [reading], (A,))
    return ledger, judge(PLAN, STAGE, trial_in(PLAN, ledger), Around(at, {"eu-1": "ok"}))


def test_a_holdback_alone_cannot_decide() -> None:
    _, answer = at_the_end(None)
    assert (answer.verdict, {each.why for each in answer.reasons}) == (Verdict.HOLD, {Why.UNPROVEN})
    [row] = answer.facts()["guardrails"]
    assert (row["np"], row["prior"], row["nc"]) == (0, "none", 200)


def test_with_days_before_that_agree_it_does_and_no_more_than_20000_calls_count() -> None:
    ledger, answer = at_the_end(week(0.05))
    assert ledger.memory.last.prior["poor_call"][1] > 20_000
    assert (answer.verdict, answer.reasons) == (Verdict.PROMOTE, ())
    [row] = answer.facts()["guardrails"]
    assert (row["np"], row["prior"], row["nc"]) == (20_000, "used", 20_200)


def test_days_that_today_contradicts_are_left_out_and_it_holds() -> None:
    _, answer = at_the_end(week(0.15))
    assert (answer.verdict, {each.why for each in answer.reasons}) == (Verdict.HOLD, {Why.UNPROVEN})
    assert "today contradicts" in answer.reasons[0].detail
    [finding] = answer.findings
    assert (finding.status, finding.prior, finding.is_drifting) == (Status.DRIFT, (0, 0), True)
    [row] = answer.facts()["guardrails"]
    assert (row["np"], row["prior"], row["nc"]) == (0, "drift", 200)


def test_what_somebody_says_of_the_days_before_counts_instead_of_what_was_collected() -> None:
    ledger, _ = at_the_end(week(0.05))
    at = EIGHT + 12 * HOUR + 60
    reading = replace(Reading(A, at, EIGHT + 1, "eu-1", dict(ledger.nodes[A].counts)), health="ok")
    said = add(PLAN, ledger, [reading], (A,), {"poor_call": (1, 20)})
    assert said.memory.last.prior == {"poor_call": (1, 20)}
    later = add(PLAN, said, [replace(reading, at=at + 60)], (A,))
    assert later.memory.last.prior == {"poor_call": (1, 20)}
