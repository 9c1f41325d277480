"""A region's state: hysteresis, thin and old data, seeded incidents, and 1,000 healthy hours."""

from __future__ import annotations

import dataclasses
from itertools import islice
from math import inf

import pytest

from relay.core import spread
from relay.core.spread import Spread
from relay.ops.region import EVERY_S, OLD_S, Region, Sample, State, settle, state_of, thin
from traffic_model import Incident, Model, Traffic

OK, DEGRADED, BAD, UNKNOWN = State.OK, State.DEGRADED, State.BAD, State.UNKNOWN
BUSY = Model(per_minute=60.0, swing=0.0)
HOUR = 3600.0


def region() -> Region:
    return Region("fra", "1.2.3")


def run(of: Region, samples: list[Sample]) -> list[State]:
    """The state after each sample."""
    states = []
    for sample in samples:
        of.on_sample(sample)
        states.append(of.standing(sample.at).state)
    return states


def healthy(count: int, start: float = 0.0) -> list[Sample]:
    """Samples of 20 calls each half minute to which nothing ever happens."""

    def one(step: int) -> Sample:
        calls, at = 20 * step, start + step * EVERY_S
        return Sample(
            at=at,
            last_event=at,
            counted={name: (0, calls) for name in ("setup_fail", "drop", "poor_call", "one_way", "fallback")}
            | {"stale": (0, 1000 * calls)},
            spread={"leg_loss": {"quic down": Spread(spread.LOSS, [calls] + [0] * 9)}},
            saturation=0.2,
        )

    return [one(step) for step in range(count)]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("value", "state"), [(100, OK), (70, OK), (69.9, DEGRADED), (30, DEGRADED), (29.9, BAD), (0, BAD)]
)
def test_a_score_has_its_word(value: float, state: State) -> None:
    assert state_of(value) is state


@pytest.mark.parametrize(
    ("current", "looks", "state"),
    [
        (OK, [OK, OK, BAD], OK),
        (OK, [OK, BAD, BAD], BAD),
        (OK, [BAD, OK, BAD], BAD),
        (OK, [OK, DEGRADED, BAD], DEGRADED),
        (BAD, [BAD, OK, DEGRADED], DEGRADED),
        (BAD, [BAD, BAD, OK], BAD),
        (BAD, [BAD, OK, OK], OK),
        (BAD, [BAD, OK, UNKNOWN], BAD),
        (UNKNOWN, [OK], UNKNOWN),
        (UNKNOWN, [UNKNOWN, OK, OK], OK),
        (UNKNOWN, [BAD, OK, UNKNOWN], UNKNOWN),
        (OK, [OK, UNKNOWN, OK], OK),
        (OK, [OK, UNKNOWN, UNKNOWN], UNKNOWN),
        (OK, [OK], OK),
    ],
)
def test_a_change_needs_two_of_three_looks(current: State, looks: list[State], state: State) -> None:
    assert settle(current, looks) is state


# ---------------------------------------------------------------- data


def test_a_region_begins_unknown_and_becomes_ok_with_two_looks_at_a_hundred_calls() -> None:
    states = run(region(), healthy(8))
    assert states == [UNKNOWN] * 6 + [OK] * 2  # 100 calls at the sixth sample, seen twice at the seventh


def test_fewer_than_a_hundred_set_ups_in_the_window_are_unknown() -> None:
    model = Model(per_minute=3.0, swing=0.0)
    assert set(run(region(), list(Traffic(3, 5, model).samples()))) == {UNKNOWN}


def test_without_any_indicator_of_media_a_region_is_unknown() -> None:
    bare = [
        dataclasses.replace(
            one, counted={k: v for k, v in one.counted.items() if k in ("setup_fail", "drop")}, spread={}
        )
        for one in healthy(12)
    ]
    assert set(run(region(), bare)) == {UNKNOWN}


def test_indicators_with_few_events_are_left_out_and_listed() -> None:
    of = region()
    run(of, healthy(12))
    standing = of.standing(11 * EVERY_S)
    assert standing.state is OK
    assert standing.thin == ("first_audio", "residence", "gaps", "leg_rtt")
    assert thin(standing.readings) == standing.thin


def test_what_few_events_tell_has_no_score() -> None:
    of = region()
    run(of, healthy(12))
    slis = of.standing(11 * EVERY_S).body()["slis"]
    none = {name for name, one in slis.items() if one["score"] is None}
    assert none == {"first_audio", "residence", "gaps", "leg_rtt"}
    assert slis["first_audio"]["events"] == 0
    assert {one["score"] for name, one in slis.items() if name not in none} == {100.0}


def test_a_region_has_a_score_just_while_its_state_is_known() -> None:
    of, found = region(), []
    samples = healthy(10)
    samples += [dataclasses.replace(samples[-1], at=samples[-1].at + step * EVERY_S) for step in range(1, 6)]
    for sample in samples:
        of.on_sample(sample)
        standing = of.standing(sample.at)
        found.append((standing.state, standing.body()["score"]))
    assert set(found) == {(UNKNOWN, None), (OK, 100.0)}
    assert [state for state, _ in found] == [UNKNOWN] * 6 + [OK] * 6 + [UNKNOWN] * 3
    blind = region()
    run(blind, healthy(10))
    assert blind.standing(9 * EVERY_S + OLD_S).score == 100.0
    assert blind.standing(9 * EVERY_S + OLD_S + 1).score is None


def test_when_the_calls_stop_the_region_is_unknown_within_90_seconds() -> None:
    of = region()
    samples = list(Traffic(1, 3, BUSY).samples(Incident(begin=1800.0, end=HOUR, no_calls=True)))
    states = dict(zip((one.at for one in samples), run(of, samples), strict=True))
    assert states[1800.0] is OK
    first = min(at for at, state in states.items() if at > 1800 and state is UNKNOWN)
    assert first - 1800 <= 90


@pytest.mark.parametrize("moment", range(0, 30, 5))
def test_data_that_stop_at_any_moment_between_two_looks_are_old_within_90_seconds(moment: float) -> None:
    of = region()
    samples = healthy(20)
    stop = samples[-1].at - EVERY_S + moment
    run(of, samples[:-1])
    last = dataclasses.replace(samples[-1], last_event=stop)
    looks = [dataclasses.replace(last, at=last.at + step * EVERY_S) for step in range(4)]
    for look in looks:
        of.on_sample(look)
        if of.standing(look.at).state is UNKNOWN:
            assert look.at - stop <= 90
            break
    else:
        pytest.fail("never unknown")


def test_a_region_that_nobody_looks_at_any_more_is_unknown_at_once() -> None:
    of = region()
    last = healthy(12)[-1].at
    run(of, healthy(12))
    assert of.standing(last + OLD_S).state is OK
    assert of.standing(last + OLD_S + 1).state is UNKNOWN


def test_before_the_first_look_a_region_is_unknown_and_can_be_told() -> None:
    standing = region().standing(5.0)
    assert (standing.state, standing.score, standing.age_s) == (UNKNOWN, None, inf)
    assert standing.body()["age_s"] is None
    assert standing.body()["slis"] == {}


def test_what_is_published() -> None:
    of = region()
    samples = healthy(12)
    run(of, samples)
    body = of.standing(samples[-1].at + 5).body()
    assert {key: body[key] for key in ("region", "variant", "version", "state", "score", "worst")} == {
        "region": "fra",
        "variant": "control",
        "version": "1.2.3",
        "state": "ok",
        "score": 100.0,
        "worst": "",
    }
    assert (body["revision"], body["age_s"]) == (1, 5.0)
    assert body["slis"]["drop"] == {
        "value": 0.0,
        "judged": 0.0,
        "events": 220,
        "score": 100.0,
        "warn": 0.02,
        "bad": 0.04,
    }
    assert body["slis"]["leg_loss"]["of"] == "quic down"


def test_what_happened_before_the_window_is_forgotten() -> None:
    of = region()
    samples = healthy(60)
    bad = {"drop": (15, 20)}
    hurt = [
        dataclasses.replace(
            one, counted=dict(one.counted) | {k: (b, one.counted[k][1]) for k, (b, _) in bad.items()}
        )
        for one in samples[1:]
    ]
    states = run(of, [samples[0], *hurt])
    assert DEGRADED in states[6:12] or BAD in states[6:12]
    assert states[-1] is OK


# ---------------------------------------------------------------- saturation


def stressed(values: list[float]) -> list[State]:
    calm = healthy(10 + len(values))
    calls = calm[:10] + [
        dataclasses.replace(one, saturation=value) for one, value in zip(calm[10:], values, strict=True)
    ]
    return run(region(), calls)[10:]


def test_saturation_alone_makes_a_region_bad_even_without_calls() -> None:
    of = region()
    empty = [Sample(at=step * EVERY_S, saturation=1.2) for step in range(4)]
    assert run(of, empty) == [UNKNOWN, BAD, BAD, BAD]
    assert of.standing(90.0).worst == "saturation"


def test_saturation_counts_until_it_is_clearly_over() -> None:
    assert stressed([0.9, 0.9, 0.75, 0.75, 0.75]) == [OK] + [DEGRADED] * 4
    assert stressed([0.9, 0.9, 0.71, 0.71])[-1] is OK
    assert stressed([0.75, 0.75, 0.75]) == [OK] * 3


# ---------------------------------------------------------------- incidents and peace


@pytest.mark.parametrize(
    ("incident", "name"),
    [
        ({"setup_fail": 0.5}, "setup_fail"),
        ({"loss": 0.2}, "leg_loss"),
        ({"residence": 0.05}, "residence"),
    ],
)
def test_an_incident_makes_the_region_bad_within_two_minutes_and_names_what_is_wrong(
    incident: dict[str, float], name: str
) -> None:
    of = region()
    told = Incident(begin=1800.0, end=HOUR, **incident)  # type: ignore[arg-type]  # floats and nothing else
    samples = list(Traffic(1, 7, BUSY).samples(told))
    states = dict(zip((one.at for one in samples), run(of, samples), strict=True))
    assert states[1800.0] is OK
    first = min(at for at, state in states.items() if state is BAD)
    assert first - 1800 <= 120
    again = region()
    run(again, [one for one in samples if one.at <= first])
    assert again.standing(first).worst == name


def test_a_small_incident_degrades_the_region_and_does_not_make_it_bad() -> None:
    samples = list(Traffic(1, 7, BUSY).samples(Incident(begin=1200.0, end=HOUR, setup_fail=0.025)))
    states = run(region(), samples)
    assert BAD not in states
    assert DEGRADED in states[50:]


@pytest.mark.timeout(240)
def test_a_thousand_healthy_hours_are_never_bad() -> None:
    of = region()
    seen = dict.fromkeys(State, 0)
    for sample in islice(Traffic(1000, 11).samples(), None):
        of.on_sample(sample)
        seen[of.standing(sample.at).state] += 1
    assert seen[BAD] == 0
    assert seen[OK] > 80_000


# ---------------------------------------------------------------- canary calls


def with_canary(samples: list[Sample], *running: int, known: int = 20) -> list[Sample]:
    """The same, and so many canary calls failed before each; the last figure holds on."""
    return [
        dataclasses.replace(one, canary=(running[min(step, len(running) - 1)], known))
        for step, one in enumerate(samples)
    ]


def nobody_calls(count: int) -> list[Sample]:
    return [Sample(at=step * EVERY_S, saturation=0.1) for step in range(count)]


@pytest.mark.parametrize(
    ("running", "state"), [(0, UNKNOWN), (2, UNKNOWN), (3, DEGRADED), (9, DEGRADED), (10, BAD)]
)
def test_where_nobody_calls_failing_canaries_tell_and_working_ones_do_not(running: int, state: State) -> None:
    of = region()
    samples = with_canary(nobody_calls(8), running)
    assert run(of, samples) == [state] * 8
    standing = of.standing(samples[-1].at)
    assert standing.worst == ("" if state is UNKNOWN else "canary")
    assert standing.body()["slis"]["canary"]["value"] == running
    assert of.standing(samples[-1].at + OLD_S + 1).state is UNKNOWN  # nobody looks any more


def test_failing_canaries_are_a_floor_at_once_and_a_success_lifts_it() -> None:
    of = region()
    states = run(of, with_canary(healthy(12), 0, 0, 0, 1, 2, 3, 10, 10, 0))
    assert states[:5].count(UNKNOWN) == 5  # too few calls yet
    assert states[5:8] == [DEGRADED, BAD, BAD]
    assert states[8:] == [BAD, OK, OK, OK]  # two of three looks


def test_a_region_that_is_bad_by_its_calls_is_no_better_by_its_canaries() -> None:
    of = region()
    samples = [
        dataclasses.replace(one, counted=dict(one.counted) | {"drop": (20 * step, 20 * step)})
        for step, one in enumerate(healthy(12))
    ]
    assert run(of, with_canary(samples, 0))[-1] is BAD
    assert of.standing(samples[-1].at).worst == "drop"
    of = region()
    assert run(of, with_canary(samples, 3))[-1] is BAD


def test_a_silent_canary_counts_for_nothing_and_is_listed() -> None:
    of = region()
    samples = with_canary(healthy(12), 10, known=0)
    assert run(of, samples)[-1] is OK
    assert "canary" in of.standing(samples[-1].at).thin


def test_where_there_is_no_canary_none_is_told_of() -> None:
    of = region()
    run(of, healthy(12))
    assert "canary" not in of.standing(0.0).body()["slis"]
