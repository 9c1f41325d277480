"""How a rollout goes on: steps, waves, caps, and every way back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.rollout.gate import Answer, Around, Reason, Stage, Verdict, Why
from relay.rollout.plan import Document
from relay.rollout.steps import (
    TRANSITIONS,
    Change,
    Changed,
    Entry,
    Order,
    Phase,
    Place,
    Refusal,
    Refused,
    Spot,
    Standing,
    World,
    apply,
    follow,
    read,
    shares,
)
from rollout.plans import opening, release

PLAN = release()
TRAFFIC = {"eu-1": 0.08, "eu-2": 0.2, "ap-1": 0.2, "us-1": 0.3}
WORLD = World(1000.0, TRAFFIC)
HALF_HOUR = 1800.0


def order(standing: Standing, change: Change, place: str = "", **more: object) -> Order:
    return Order(change, "kim", "because", standing.revision, place, **more)


def answer(
    standing: Standing,
    place: str,
    now: float,
    verdict: Verdict = Verdict.PROMOTE,
    reasons: Iterable[Why] = (),
) -> Answer:
    at = standing.places[place]
    told = tuple(Reason(why, "told") for why in reasons)
    stage = Stage(place, at.wave, at.step, at.since)
    return Answer(verdict, told, stage, None, 0.0, None, (), 0.0, 0.0, Around(now))


def done(plan: Document, standing: Standing, wanted: Order, world: World = WORLD) -> Standing:
    found = apply(plan, standing, wanted, world)
    assert isinstance(found, Changed), found
    assert found.entry.revision == found.standing.revision == standing.revision + 1
    assert (found.entry.who, found.entry.why) == (wanted.who, wanted.why)
    return found.standing


def refused(plan: Document, standing: Standing, wanted: Order, world: World = WORLD) -> Refusal:
    found = apply(plan, standing, wanted, world)
    assert isinstance(found, Refused), found
    assert found.problem
    assert found.cure
    return found.refusal


def begun(plan: Document = PLAN, world: World = WORLD) -> Standing:
    standing = Standing(plan.rollout.id)
    return done(plan, standing, order(standing, Change.BEGIN), world)


def advanced(plan: Document, standing: Standing, place: str, now: float) -> Standing:
    wanted = order(standing, Change.ADVANCE, place, answer=answer(standing, place, now))
    return done(plan, standing, wanted, replace(WORLD, now=now))


def shown(standing: Standing, plan: Document = PLAN) -> dict[str, float]:
    return dict(shares(plan, standing).regions)


def through(standing: Standing, *places: str, plan: Document = PLAN) -> Standing:
    """After the wave of these places, each step of each a day after the one before."""
    now = 100_000.0 * (standing.revision + 1)
    for place in places:
        while standing.places[place].spot is Spot.STEPPING:
            now += 86_400
            standing = advanced(plan, standing, place, now)
    return standing


def test_before_the_first_wave_nobody_gets_the_candidate_not_even_who_always_does() -> None:
    told = shares(PLAN, Standing("relay-0.4"))
    assert (told.regions, told.always, told.never) == ({}, frozenset(), frozenset({"emergency"}))
    assert shares(PLAN, begun()).always == frozenset({"dogfood"})


def test_a_region_goes_from_step_to_step_and_keeps_a_holdback_until_its_wave_is_closed() -> None:
    standing, seen, now = begun(), [], 1000.0
    while standing.phase is Phase.RUNNING:
        seen.append(shown(standing))
        now += HALF_HOUR
        standing = advanced(PLAN, standing, "eu-1", now)
    assert seen == [{"eu-1": 1}, {"eu-1": 5}, {"eu-1": 25}, {"eu-1": 95}]
    assert (standing.phase, standing.wave, shown(standing)) == (Phase.WAITING, 1, {"eu-1": 100})


def test_a_wave_closes_when_its_last_region_has_passed_and_until_then_all_keep_the_holdback() -> None:
    standing = through(begun(), "eu-1")
    standing = done(PLAN, standing, order(standing, Change.BEGIN))
    standing = through(standing, "eu-2")
    assert standing.places["eu-2"].spot is Spot.PASSED
    assert shown(standing) == {"eu-1": 100, "eu-2": 95, "ap-1": 10}
    standing = through(standing, "ap-1")
    assert shown(standing) == {"eu-1": 100, "eu-2": 100, "ap-1": 100}
    assert standing.phase is Phase.WAITING


def test_after_the_last_wave_it_is_done() -> None:
    standing = begun()
    for places in (("eu-1",), ("eu-2", "ap-1")):
        standing = through(standing, *places)
        standing = done(PLAN, standing, order(standing, Change.BEGIN))
    standing = through(standing, "us-1")
    assert standing.phase is Phase.DONE
    assert set(shown(standing).values()) == {100}


def test_every_change_is_an_entry_with_who_why_and_share() -> None:
    standing = begun()
    wanted = order(standing, Change.ADVANCE, "eu-1", answer=answer(standing, "eu-1", 2800))
    found = apply(PLAN, standing, wanted, World(2800, TRAFFIC))
    assert isinstance(found, Changed)
    assert found.entry == Entry(2, 2800, Change.ADVANCE, "eu-1", "kim", "because", Phase.RUNNING, 5.0)


def test_a_standing_survives_being_written_down() -> None:
    standing = begun()
    assert read(json.loads(json.dumps(standing.facts()))) == standing


# ---------------------------------------------------------------- what is refused


def test_who_looked_at_an_older_revision_is_refused_unless_it_narrows() -> None:
    standing = begun()
    old = replace(order(standing, Change.FREEZE), expect=standing.revision - 1)
    assert refused(PLAN, standing, old) is Refusal.CONFLICT
    for change, place in ((Change.KILL, ""), (Change.ROLLBACK, "eu-1")):
        done(PLAN, standing, replace(order(standing, change, place), expect=0))


def test_without_the_gate_s_yes_to_this_very_step_nothing_widens() -> None:
    standing = begun()
    world = replace(WORLD, now=5000.0)
    yes = answer(standing, "eu-1", 5000.0)
    wrong = (
        None,
        replace(yes, verdict=Verdict.HOLD),
        replace(yes, verdict=Verdict.INCONCLUSIVE),
        replace(yes, verdict=Verdict.ROLLBACK),
        replace(yes, stage=replace(yes.stage, step=1)),
        replace(yes, stage=replace(yes.stage, place="eu-2")),
        replace(yes, stage=replace(yes.stage, since=0.0)),
        replace(yes, around=Around(5000.0 - 91)),
    )
    for each in wrong:
        wanted = order(standing, Change.ADVANCE, "eu-1", answer=each, is_confirmed=True)
        assert refused(PLAN, standing, wanted, world) is Refusal.GATE
    done(PLAN, standing, order(standing, Change.ADVANCE, "eu-1", answer=yes), world)


def test_there_is_one_step_in_half_an_hour_and_region() -> None:
    standing = begun()
    now = 1000.0 + HALF_HOUR
    soon = order(standing, Change.ADVANCE, "eu-1", answer=answer(standing, "eu-1", now - 1))
    assert refused(PLAN, standing, soon, replace(WORLD, now=now - 1)) is Refusal.TOO_SOON
    assert shown(advanced(PLAN, standing, "eu-1", now)) == {"eu-1": 5}


@pytest.mark.parametrize("place", ["", "us-1", "eu-2"])
def test_a_place_that_has_not_begun_takes_no_step_in_either_direction(place: str) -> None:
    standing = begun()
    for change in (Change.ADVANCE, Change.ROLLBACK):
        assert refused(PLAN, standing, order(standing, change, place)) is Refusal.PLACE


def test_a_region_of_a_second_rollout_does_not_begin() -> None:
    standing = Standing("relay-0.4")
    world = replace(WORLD, rivals={"eu-1": "other"})
    assert refused(PLAN, standing, order(standing, Change.BEGIN), world) is Refusal.RIVAL


def test_before_the_second_wave_a_tenth_of_all_calls_is_the_most() -> None:
    large = replace(WORLD, traffic={"eu-1": 0.15})
    standing = begun(PLAN, large)
    for now in (10_000.0, 20_000.0):
        wanted = order(standing, Change.ADVANCE, "eu-1", answer=answer(standing, "eu-1", now))
        standing = done(PLAN, standing, wanted, replace(large, now=now))
    assert shown(standing) == {"eu-1": 25}
    wanted = order(standing, Change.ADVANCE, "eu-1", answer=answer(standing, "eu-1", 30_000.0))
    assert refused(PLAN, standing, wanted, replace(large, now=30_000.0)) is Refusal.EARLY_CAP


def test_the_end_of_a_holdback_counts_against_the_cap_as_well() -> None:
    standing = replace(begun(), places={"eu-1": Place(0, 3, 0.0)})
    wanted = order(standing, Change.ADVANCE, "eu-1", answer=answer(standing, "eu-1", 1e5))
    world = World(1e5, {"eu-1": 0.104})  # 95 % of it are 9.9 % of all, 100 % are not
    assert refused(PLAN, standing, wanted, world) is Refusal.EARLY_CAP
    done(PLAN, standing, wanted, replace(world, traffic={"eu-1": 0.1}))


def test_from_the_third_wave_on_a_third_of_all_calls_is_the_most_a_wave_carries() -> None:
    standing = begun()
    for places in (("eu-1",), ("eu-2", "ap-1")):
        standing = through(standing, *places)
        if standing.wave < 2:
            standing = done(PLAN, standing, order(standing, Change.BEGIN))
    world = replace(WORLD, traffic=TRAFFIC | {"us-1": 0.35})
    assert refused(PLAN, standing, order(standing, Change.BEGIN), world) is Refusal.WAVE_CAP
    done(PLAN, standing, order(standing, Change.BEGIN))


@pytest.mark.parametrize("traffic", [{}, {"eu-2": 0.1}])
def test_a_share_that_nobody_knows_is_none_within_a_cap(traffic: dict[str, float]) -> None:
    standing = Standing("relay-0.4")
    world = World(0.0, traffic)
    assert refused(PLAN, standing, order(standing, Change.BEGIN), world) is Refusal.UNKNOWN_TRAFFIC


# ---------------------------------------------------------------- back


def test_a_rollback_gives_its_region_the_control_and_halts_all_others_where_they_are() -> None:
    standing = through(begun(), "eu-1")
    standing = done(PLAN, standing, order(standing, Change.BEGIN))
    found = apply(PLAN, standing, order(standing, Change.ROLLBACK, "eu-2"), WORLD)
    assert isinstance(found, Changed)
    assert (found.entry.pct, found.standing.phase) == (0, Phase.HALTED)
    assert shown(found.standing) == {"eu-1": 100, "eu-2": 0, "ap-1": 10}
    now = 1e6
    wanted = order(found.standing, Change.ADVANCE, "ap-1", answer=answer(found.standing, "ap-1", now))
    assert refused(PLAN, found.standing, wanted, replace(WORLD, now=now)) is Refusal.PHASE


def test_after_a_person_resumes_the_others_go_on_without_it() -> None:
    standing = through(begun(), "eu-1")
    standing = done(PLAN, standing, order(standing, Change.BEGIN))
    standing = done(PLAN, standing, order(standing, Change.ROLLBACK, "eu-2"))
    standing = done(PLAN, standing, order(standing, Change.RESUME))
    assert standing.phase is Phase.RUNNING
    standing = through(standing, "ap-1")
    assert (standing.phase, standing.wave) == (Phase.WAITING, 2)
    assert shown(standing) == {"eu-1": 100, "eu-2": 0, "ap-1": 100}


def test_where_a_whole_wave_was_taken_back_nobody_resumes() -> None:
    standing = begun()
    standing = done(PLAN, standing, order(standing, Change.ROLLBACK, "eu-1"))
    assert refused(PLAN, standing, order(standing, Change.RESUME)) is Refusal.PLACE


def test_a_frozen_rollout_stays_but_goes_back() -> None:
    standing = begun()
    frozen = done(PLAN, standing, order(standing, Change.FREEZE))
    wanted = order(frozen, Change.ADVANCE, "eu-1", answer=answer(frozen, "eu-1", 1e5))
    assert refused(PLAN, frozen, wanted, replace(WORLD, now=1e5)) is Refusal.PHASE
    assert done(PLAN, frozen, order(frozen, Change.ROLLBACK, "eu-1")).phase is Phase.HALTED
    thawed = done(PLAN, frozen, order(frozen, Change.THAW))
    assert shown(advanced(PLAN, thawed, "eu-1", 1e5)) == {"eu-1": 5}


def test_a_kill_is_for_good_and_gives_everybody_the_control() -> None:
    standing = begun()
    killed = done(PLAN, standing, order(standing, Change.KILL))
    assert shares(PLAN, killed).is_killed
    assert killed.phase is Phase.KILLED
    for change in set(Change) - {Change.KILL}:
        assert refused(PLAN, killed, order(killed, change, "eu-1")) is Refusal.PHASE


def test_from_every_phase_there_is_a_way_to_kill_and_from_every_one_with_places_to_roll_back() -> None:
    assert all(Change.KILL in row for row in TRANSITIONS.values())
    assert {phase for phase, row in TRANSITIONS.items() if Change.ROLLBACK not in row} == {Phase.KILLED}
    assert set(TRANSITIONS) == set(Phase)


def test_a_verdict_asks_for_its_order_or_for_none() -> None:
    standing = begun()
    told = {
        verdict: follow(answer(standing, "eu-1", 0.0, verdict, (Why.WORSE,)), standing, "timer")
        for verdict in Verdict
    }
    assert {verdict: each and each.change for verdict, each in told.items()} == {
        Verdict.PROMOTE: Change.ADVANCE,
        Verdict.ROLLBACK: Change.ROLLBACK,
        Verdict.HOLD: None,
        Verdict.INCONCLUSIVE: None,
        Verdict.NO_DATA: None,
    }
    back = told[Verdict.ROLLBACK]
    assert back is not None
    assert (back.who, back.why, back.place, back.expect) == ("timer", "worse: told", "eu-1", 1)


def test_a_group_s_wave_needs_a_person_and_nothing_else_may_be_open() -> None:
    plan = opening()
    world = World(0.0, {"@dogfood": 0.01, "eu-1": 0.05})
    standing = begun(plan, world)
    assert shares(plan, standing).groups == {"dogfood": 100}
    later = replace(world, now=1e5)
    held = answer(standing, "@dogfood", 1e5, Verdict.HOLD, (Why.CONFIRM,))
    early = answer(standing, "@dogfood", 1e5, Verdict.HOLD, (Why.FEW, Why.CONFIRM))
    for told, is_confirmed in ((held, False), (early, True)):
        wanted = order(standing, Change.ADVANCE, "@dogfood", answer=told, is_confirmed=is_confirmed)
        assert refused(plan, standing, wanted, later) is Refusal.GATE
    wanted = order(standing, Change.ADVANCE, "@dogfood", answer=held, is_confirmed=True)
    standing = done(plan, standing, wanted, later)
    assert (standing.phase, standing.wave) == (Phase.WAITING, 1)
    standing = done(plan, standing, order(standing, Change.BEGIN), later)
    assert shares(plan, standing).regions == {"eu-1": 10}
    assert shares(plan, standing).groups == {"dogfood": 100}


# ---------------------------------------------------------------- whatever happens

PLACES = st.sampled_from(["eu-1", "eu-2", "ap-1", "us-1", ""])
ONE = st.tuples(st.sampled_from(list(Change)), PLACES, st.integers(0, 4000), st.booleans())
ORDERS = st.lists(ONE, max_size=60)


@settings(max_examples=200)
@given(ORDERS)
def test_whatever_is_ordered_shares_grow_by_the_plan_only_and_never_after_a_kill(
    orders: list[tuple[Change, str, int, bool]],
) -> None:
    standing, now = Standing("relay-0.4"), 0.0
    for change, place, seconds, says_yes in orders:
        now += seconds
        told = answer(standing, place, now) if says_yes and place in standing.places else None
        found = apply(PLAN, standing, order(standing, change, place, answer=told), replace(WORLD, now=now))
        if isinstance(found, Refused):
            continue
        before, after = shares(PLAN, standing), shares(PLAN, found.standing)
        for region, pct in after.regions.items():
            if pct > before.regions.get(region, 0.0):
                assert change in (Change.BEGIN, Change.ADVANCE)
                assert not after.is_killed
                wave = PLAN.rollout.wave[found.standing.places[region].wave]
                assert pct in (*wave.steps, 95)
        early = sum(pct * TRAFFIC[region] for region, pct in after.regions.items())
        if found.standing.wave == 0:
            assert early <= 10
        assert after.is_killed >= before.is_killed
        standing = found.standing
