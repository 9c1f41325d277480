"""What becomes of counters: restarts, newcomers, nodes that fall silent, other regions, others' counts."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from relay.errors import ConfigError
from relay.rollout.bucket import Variant
from relay.rollout.counts import (
    Ledger,
    add,
    at_stage,
    fill,
    open_ledger,
    parse_prior,
    parse_report,
    trial_in,
)
from relay.rollout.gate import Stage
from relay.rollout.readings import BEGAN, CALLS, Reading, bad, figure, of_class, valid
from relay.rollout.trial import Tally
from rollout.plans import opening, release

PLAN = release()
BEGUN = 10_000.0
STAGE = Stage("eu-1", 0, 0, BEGUN)
A, B = "http://a/metrics", "http://b/metrics"
CANDIDATE, CONTROL = Variant.CANDIDATE, Variant.CONTROL


def says(
    at: float,
    calls: int,
    poor: int = 0,
    control: int = 0,
    node: str = A,
    started: float = 0.0,
    **more: object,
) -> Reading:
    """A node that has carried so many candidate calls since it started, and control ones."""
    counts = {
        figure(CANDIDATE, CALLS): calls,
        figure(CANDIDATE, BEGAN): calls + 1,
        figure(CANDIDATE, valid("poor_call")): calls,
        figure(CANDIDATE, bad("poor_call")): poor,
        figure(CONTROL, BEGAN): control,
        figure(CONTROL, valid("poor_call")): control,
        figure(CONTROL, bad("poor_call")): 0,
    }
    return Reading(node, at, started, region="eu-1", counts=counts, **more)  # type: ignore[arg-type]


def after(*readings: Reading, asked: tuple[str, ...] = (A,), ledger: Ledger | None = None) -> Ledger:
    found = ledger or open_ledger(PLAN, STAGE)
    for each in readings:
        found = add(PLAN, found, [each], asked)
    return found


def tally(ledger: Ledger) -> Tally:
    return ledger.memory.last


def test_what_a_node_had_counted_before_the_rollout_came_is_no_part_of_it() -> None:
    first = after(says(BEGUN + 30, 700, 7, 9000))
    assert (tally(first).calls, tally(first).assigned) == (0, (0, 0))
    found = tally(after(says(BEGUN + 60, 720, 9, 9100), ledger=first))
    assert (found.at, found.calls, found.assigned) == (BEGUN + 60, 20, (20, 100))
    assert (found.candidate["poor_call"], found.control["poor_call"]) == ((2, 20), (0, 100))


def test_a_node_that_started_since_counts_whole() -> None:
    assert tally(after(says(BEGUN + 60, 50, started=BEGUN + 5))).calls == 50


@pytest.mark.parametrize("again", [says(BEGUN + 90, 5), says(BEGUN + 90, 30, 1, started=BEGUN + 80)])
def test_a_node_that_began_anew_adds_all_that_it_says(again: Reading) -> None:
    before = after(says(BEGUN + 30, 10), says(BEGUN + 60, 30))
    found = after(again, ledger=before)
    assert tally(found).calls == 20 + again.counts[figure(CANDIDATE, CALLS)]


def test_a_count_that_fell_makes_all_of_that_node_new_and_nothing_of_another() -> None:
    both = (A, B)
    before = after(says(BEGUN + 30, 10), says(BEGUN + 30, 0, node=B), says(BEGUN + 60, 30, 2), asked=both)
    found = after(says(BEGUN + 90, 40, 1), says(BEGUN + 90, 8, node=B), ledger=before, asked=both)
    assert tally(found).candidate["poor_call"] == (2 + 1, 20 + 40 + 8)  # since it fell: 40, and 1 poor


def test_the_same_reading_twice_or_late_counts_once() -> None:
    first, second = says(BEGUN + 30, 0), says(BEGUN + 60, 30)
    found = after(first, second, second, first)
    assert (tally(found).calls, tally(found).at) == (30, BEGUN + 60)


def test_counts_are_as_old_as_the_node_that_was_silent_longest() -> None:
    both = (A, B)
    found = after(says(BEGUN + 30, 0), says(BEGUN + 30, 0, node=B), asked=both)
    assert tally(found).at == BEGUN + 30
    found = after(says(BEGUN + 500, 40), ledger=found, asked=both)
    assert (tally(found).at, tally(found).calls) == (BEGUN + 30, 40)
    never = after(says(BEGUN + 30, 0), asked=both)
    assert tally(never).at == BEGUN
    assert tally(after(ledger=found, asked=both)).at == BEGUN + 30
    assert tally(add(PLAN, found, [], both)).at == BEGUN + 30  # nobody answered


def test_nodes_elsewhere_tell_only_how_their_region_is() -> None:
    here = says(BEGUN + 30, 0, health="ok", state_age_s=4.0)
    there = replace(says(BEGUN + 30, 99, node=B, health="bad", state_age_s=310.0), region="us-1")
    found = add(PLAN, open_ledger(PLAN, STAGE), [here, there], (A, B))
    assert found.health == {"eu-1": "ok", "us-1": "bad"}
    assert found.state_age_s == 310
    assert list(found.nodes) == [A]
    with pytest.raises(ConfigError) as error:
        add(PLAN, found, [there], (B,))
    assert error.value.key == "--from"
    assert "us-1" in str(error.value)


@pytest.mark.parametrize(
    ("states", "wanted"),
    [(("ok", "bad"), "bad"), (("ok", "unknown"), "ok"), (("unknown", "unknown"), "unknown")],
)
def test_a_region_is_as_its_worst_node_is_of_those_that_know(states: tuple[str, str], wanted: str) -> None:
    nodes = [says(BEGUN + 30, 0, node=node, health=state) for node, state in zip((A, B), states, strict=True)]
    assert add(PLAN, open_ledger(PLAN, STAGE), nodes, (A, B)).health == {"eu-1": wanted}


def test_first_audio_is_told_by_both_sides_and_counts_once_a_call() -> None:
    counts = {
        figure(CANDIDATE, valid("first_audio")): 200,
        figure(CANDIDATE, bad("first_audio")): 31,
        figure(CONTROL, BEGAN): 0,
    }
    found = after(Reading(A, BEGUN + 30, BEGUN + 1, "eu-1", counts))
    assert tally(found).candidate["first_audio"] == (15, 100)


def test_without_a_control_nothing_is_compared_and_no_ratio_asked() -> None:
    plan = opening()
    ledger = open_ledger(plan, Stage("eu-1", 1, 0, BEGUN))
    found = tally(add(plan, ledger, [says(BEGUN + 30, 50, control=90, started=BEGUN + 1)], (A,)))
    assert (found.calls, found.control, found.assigned) == (50, {}, (0, 0))


def test_a_group_is_counted_wherever_it_calls() -> None:
    plan = opening()
    nodes = [replace(says(BEGUN + 30, 20, node=node, started=BEGUN + 1), region=node) for node in (A, B)]
    assert tally(add(plan, open_ledger(plan, Stage("@dogfood", 0, 0, BEGUN)), nodes, (A, B))).calls == 40


def test_a_new_step_counts_from_where_the_last_one_ended() -> None:
    before = after(says(BEGUN + 30, 0), says(BEGUN + 3600, 600, 30, 24_000))
    stage = replace(STAGE, step=1, since=BEGUN + 3600)
    moved = at_stage(PLAN, before, stage)
    assert at_stage(PLAN, moved, stage) is moved
    assert trial_in(PLAN, before).calls == 600
    assert trial_in(PLAN, moved).calls == 0
    found = after(says(BEGUN + 3630, 650, 32, 25_000), ledger=moved)
    assert trial_in(PLAN, found).calls == 50
    assert tally(found).calls == 650


def test_calls_of_the_days_before_stay_told_until_others_are() -> None:
    first = add(PLAN, open_ledger(PLAN, STAGE), [says(BEGUN + 30, 0)], (A,), {"poor_call": (50, 1000)})
    again = add(PLAN, first, [says(BEGUN + 60, 0)], (A,))
    assert tally(again).prior == {"poor_call": (50, 1000)}
    other = add(PLAN, again, [says(BEGUN + 90, 0)], (A,), {})
    assert tally(other).prior == {}


def test_a_ledger_survives_being_written_down() -> None:
    found = after(says(BEGUN + 30, 0), says(BEGUN + 3660, 600, 30, 24_000))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Ledger) == found


# ---------------------------------------------------------------- who else counts

REPORT = {
    "tallies": [{"at": BEGUN + 60, "calls": 20, "candidate": {"poor_call": [1, 20]}}],
    "health": {"eu-1": "ok"},
    "pages": ["RelayRegionBad"],
}


def test_a_report_is_counted_once() -> None:
    report = parse_report(json.dumps(REPORT), "counts.json")
    found = fill(PLAN, open_ledger(PLAN, STAGE), report)
    assert (tally(found).calls, found.health, found.pages) == (20, {"eu-1": "ok"}, ("RelayRegionBad",))
    assert fill(PLAN, found, report) == found


def test_a_report_that_says_less_than_before_is_refused_by_field() -> None:
    found = fill(PLAN, open_ledger(PLAN, STAGE), parse_report(json.dumps(REPORT), "counts.json"))
    less = parse_report(json.dumps({"tallies": [{"at": BEGUN + 90, "calls": 19}]}), "counts.json")
    with pytest.raises(ConfigError) as error:
        fill(PLAN, found, less)
    assert error.value.key == "tallies[0].calls"


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ("{", "JSON"),
        ({"tallies": [{"at": 1}]}, "calls"),
        ({"tallies": [{"at": 1, "calls": 1, "candidate": {"drop": [2, 1]}}]}, "2 bad of 1"),
        ({"tallies": [], "health": {"eu-1": "fine"}}, "'fine' is none"),
        ({"tallies": [], "regions": {}}, "regions"),
    ],
)
def test_what_is_no_report_is_refused_by_what_is_wrong(wrong: object, what: str) -> None:
    text = wrong if isinstance(wrong, str) else json.dumps(wrong)
    with pytest.raises(ConfigError) as error:
        parse_report(text, "counts.json")
    assert error.value.key == "--from"
    if what != "JSON":
        assert what in str(error.value)


def test_prior_calls_are_counts_or_refused() -> None:
    assert parse_prior('{"drop": [1, 10]}', "prior.json") == {"drop": (1, 10)}
    for wrong in ("[]", '{"drop": [11, 10]}', '{"drop": 1}'):
        with pytest.raises(ConfigError) as error:
            parse_prior(wrong, "prior.json")
        assert error.value.key == "--prior"


# ---------------------------------------------------------------- classes of clients


def classed(at: float, calls: int, poor: int, node: str = A, **sdks: tuple[int, int]) -> Reading:
    """As `says`, and of some classes bad and valid events."""
    found = says(at, calls, poor, node=node)
    more = {}
    for sdk, (some, every) in sdks.items():
        more[of_class(figure(CANDIDATE, bad("poor_call")), sdk)] = some
        more[of_class(figure(CANDIDATE, valid("poor_call")), sdk)] = every
    return replace(found, counts={**found.counts, **more})


def test_classes_of_clients_are_counted_beside_all_those_too_that_do_not_call() -> None:
    both = (A, B)
    first = classed(BEGUN + 30, 100, 9, ios=(4, 60), web=(5, 40), py=(0, 0))
    other = classed(BEGUN + 30, 0, 0, node=B, ios=(0, 0))
    found = after(first, other, asked=both)
    found = after(
        classed(BEGUN + 60, 130, 11, ios=(5, 80), web=(6, 50), py=(0, 0)),
        classed(BEGUN + 60, 10, 1, node=B, ios=(1, 10)),
        asked=both,
        ledger=found,
    )
    sides = tally(found).classes
    assert {name: one.candidate["poor_call"] for name, one in sides.items()} == {
        "ios": (2, 30), "web": (1, 10), "py": (0, 0)
    }  # fmt: skip
    assert sides["ios"].control["poor_call"] == (0, 0)
    assert tally(found).candidate["poor_call"] == (3, 40)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Ledger) == found


def test_what_is_nothing_is_not_written_down_of_each_node() -> None:
    found = after(classed(BEGUN + 30, 0, 0, ios=(0, 0)))
    assert found.nodes[A].counts == {figure(CANDIDATE, BEGAN): 1}
