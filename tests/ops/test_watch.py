"""From live counters to a standing: what a running engine and lane look like to the region's judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from pair import World, canaries
from relay.core.reasons import DropReason
from relay.ops.canary import Book, CanaryWatch, Failed, Run, write
from relay.ops.region import State
from relay.ops.watch import Facts, Watch


@pytest.fixture
def world() -> World:
    return World()


def watch(world: World) -> Watch:
    return Watch("fra", world.engine.vitals, lambda: world.lane.counters, lambda: world.lane.residence, 2)


def facts(at: float, busy: float = 0.1) -> Facts:
    return Facts(cpu_s=at * busy, packets=int(100 * at), lag_p99_s=0.001, packets_per_s=1_000)


def call(world: World, seconds: float = 12.0, *, count: int = 1, is_heard: bool = True) -> None:
    """So many calls at once, from the answer to the hang-up."""
    pairs = [world.talking() for _ in range(count)]
    people = tuple(one for pair in pairs for one in pair)
    if is_heard:
        for one in people:
            one.speak()
    world.flow()
    world.run(seconds, alive=people)
    for ann, _ in pairs:
        ann.hangup()


def test_calls_of_a_running_engine_are_in_the_next_sample(world: World) -> None:
    of = watch(world)
    call(world)
    world.lane.counters.dropped_out[DropReason.STALE] += 1
    of.on_second(facts(0.0), world.now, world.wall)
    sample = of.sample(world.now, world.wall)
    assert sample.counted["setup_fail"] == (0, 1)
    assert sample.counted["drop"] == (0, 1)
    assert sample.counted["stale"] == (1, 3)
    assert sample.spread["residence"][""].total == 2
    assert sample.spread["first_audio"]["caller"].total == 1
    assert sample.last_event == world.now
    talk = of.talk(world.now)
    assert (talk.setups, talk.talked_s) == ({("quic", "ok"): 1}, 12.0)
    assert talk.counted["stale"] == (1, 3)


def test_the_counters_are_looked_at_each_half_minute_and_the_machine_each_second(world: World) -> None:
    of = watch(world)
    looks = []
    for second in range(95):
        of.on_second(facts(float(second)), float(second), world.wall + second)
        looks.append(of.sampled_at)
    assert sorted(set(looks)) == [0.0, 30.0, 60.0, 90.0]
    assert of.stress == pytest.approx(0.1, abs=0.01)


def test_failing_set_ups_make_the_region_bad_within_two_minutes_of_live_counters(world: World) -> None:
    of = watch(world)
    broken_at = None
    while broken_at is None or of.standing(world.now).state is not State.BAD:
        is_heard = world.now < 1_000
        if not is_heard and broken_at is None:
            broken_at = world.now
            assert of.standing(world.now).state is State.OK
        call(world, 11.0, count=5, is_heard=is_heard)
        of.on_second(facts(world.now), world.now, world.wall)
        assert world.now < 2_000
    assert world.now - broken_at <= 120
    assert of.standing(world.now).worst == "setup_fail"


def test_what_ends_on_tcp_becomes_what_is_usual(world: World) -> None:
    of = watch(world)
    call(world)
    of.on_second(facts(0.0), world.now, world.wall)
    call(world)
    of.on_second(facts(40.0), world.now + 40, world.wall)
    assert list(of.usual._hours.values()) == [(0, 2)]


def canary_call(world: World) -> None:
    ann, bob = world.talking()
    for one in (ann, bob):
        one.speak()
    world.flow()
    world.run(12.0, alive=(ann, bob))
    ann.hangup()


def test_calls_of_canaries_are_in_no_indicator_but_those_of_the_lane() -> None:
    world = World(canaries())
    of = watch(world)
    before = of.sample(world.now, world.wall)
    canary_call(world)
    after = of.sample(world.now, world.wall)
    assert world.records[0].outcome == "completed"
    counted = {name: counts for name, counts in after.counted.items() if name != "stale"}
    assert counted == {name: (0, 0) for name in counted}
    assert (after.last_event, after.live, after.gaps) == (before.last_event, before.live, before.gaps)
    assert all(not spread.total for spread in after.spread["first_audio"].values())
    talk = of.talk(world.now)
    assert (talk.setups, talk.ended, talk.funnel, talk.leaks) == ({}, {}, {}, {})
    assert (talk.talked_s, talk.active) == (0.0, {})


def test_the_canarys_file_is_read_at_each_look_and_failures_in_it_are_a_floor(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "canary.json"
    of = Watch(
        "fra",
        world.engine.vitals,
        lambda: world.lane.counters,
        lambda: world.lane.residence,
        2,
        CanaryWatch(str(path), world.wall),
    )
    runs: list[Run] = []
    states = {}
    for second in range(0, 700):
        if second and second % 60 == 0:
            at = world.wall + second
            runs.append(
                Run(at, "quic://relay.example", "quic", ok=False, failed=(Failed("loss", 0.5, 0.03),))
            )
            write(path, Book(runs=tuple(runs)))
        of.on_second(facts(float(second)), float(second), world.wall + second)
        states[second] = of.standing(float(second)).state
    assert states[170] is State.UNKNOWN
    assert states[181] is State.DEGRADED
    assert states[590] is State.DEGRADED
    assert states[601] is State.BAD
    assert of.standing(699.0).worst == "canary"
    write(path, Book(runs=(*runs, Run(world.wall + 720, "quic://relay.example", "quic", ok=True))))
    for second in range(700, 760):
        of.on_second(facts(float(second)), float(second), world.wall + second)
    assert of.standing(759.0).state is State.UNKNOWN
