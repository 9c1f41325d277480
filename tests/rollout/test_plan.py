"""Plans as people write them, and what is said of those that cannot be."""

from __future__ import annotations

import json

import pytest

from relay.errors import ConfigError
from relay.ops.slis import BY_NAME as HEALTH
from relay.rollout.guardrails import LIMITS
from relay.rollout.plan import parse_plan, places_of
from rollout.plans import OPEN, RELEASE, opening, release


def test_a_plan_is_read_with_times_as_seconds_and_defaults_filled_in() -> None:
    plan = release()
    first, second, _ = plan.rollout.wave
    assert (plan.rollout.id, plan.rollout.kind, plan.rollout.holdback) == ("relay-0.4", "release", 5.0)
    assert [first.bake_s(step) for step in range(4)] == [3600, 3600, 3600, 43_200]
    assert second.bake_s(2) == 7200
    assert plan.gate.first_look == 500
    assert [(rail.name, rail.margin) for rail in plan.guardrails] == [("poor_call", 0.02)]
    assert (plan.wave_of("ap-1"), plan.wave_of("sa-1")) == (1, None)


def test_json_says_the_same_and_what_is_shown_can_be_read_again() -> None:
    plan = release()
    assert parse_plan(json.dumps(plan.facts()), "plan.json") == plan
    assert parse_plan(json.dumps(opening().facts()), "plan.json") == opening()


def test_without_guardrails_all_there_are_hold_with_their_usual_margins() -> None:
    rails = {rail.name: rail.margin for rail in opening().guardrails}
    assert rails == {each.name: each.delta for each in LIMITS}


def test_what_is_promised_and_bad_is_what_region_health_says() -> None:
    for each in LIMITS:
        if each.name != "first_audio":  # a percentile there, a share here
            sli = HEALTH[each.name]
            assert (each.slo, each.warn, each.bad, each.z) == (sli.slo, sli.warn, sli.bad, sli.z)


def test_a_hundred_percent_leave_a_holdback_but_not_for_a_group_or_without_control() -> None:
    assert [release().share(0, step) for step in range(4)] == [1, 5, 25, 95]
    assert opening().share(0, 0) == 100
    group = 'wave = [{ group = "beta", steps = [100] }, { regions = ["eu-1"], steps = [100] }]'
    told = RELEASE.partition("failover")[0] + group
    assert [parse_plan(told, "plan.toml").share(wave, 0) for wave in (0, 1)] == [100, 95]
    assert opening().share(1, 1) == 100


def test_waves_of_regions_are_numbered_from_1_and_a_group_s_is_0() -> None:
    assert [release().number(wave) for wave in range(3)] == [1, 2, 3]
    assert [opening().number(wave) for wave in range(2)] == [0, 1]
    assert [places_of(wave) for wave in opening().rollout.wave] == [("@dogfood",), ("eu-1",)]


WRONG = [
    ('id = "relay-0.4"', 'id = "a|b"', "rollout.id", "for example"),
    ('id = "relay-0.4"\n', "", "rollout.id", "for example"),
    ('salt = "s1"\n', "", "rollout.salt", "for example"),
    ('salt = "s1"', 'salt = "s|1"', "rollout.salt", "for example"),
    ('candidate = "0.4.0"\n', "", "rollout.candidate", "for example"),
    ('control = "0.3.2"', 'control = "0.4.0"', "rollout.control", "runs today"),
    ('salt = "s1"', 'salt = "s1"\nkind = "opening"', "rollout.kind", "open"),
    ('salt = "s1"', 'salt = "s1"\nkind = "open"', "rollout.candidate", "leave it out"),
    ("[1, 5, 25, 100]", "[1, 5, 5, 100]", "rollout.wave[0].steps[2]", "grow"),
    ("[1, 5, 25, 100]", "[1, 5, 25]", "rollout.wave[0].steps[2]", "end with 100"),
    ("[1, 5, 25, 100]", "[0.001, 100]", "rollout.wave[0].steps[0]", "0.01"),
    ("[1, 5, 25, 100]", "[0, 100]", "rollout.wave[0].steps[0]", ""),
    ("[1, 5, 25, 100]", "[101]", "rollout.wave[0].steps[0]", ""),
    ("steps = [1, 5, 25, 100]\n", "", "rollout.wave[0].steps", "for example"),
    ('bake = "1h"', 'bake = "soon"', "rollout.wave[0].bake", "90m"),
    ('bake = "1h"', 'bake = "0h"', "rollout.wave[0].bake", "1h"),
    ('bake = "1h"', "bake = -1", "rollout.wave[0].bake", ""),
    ('bake = "1h"', 'bakes = "1h"', "rollout.wave[0].bakes", "did you mean bake?"),
    ('regions = ["eu-1"]\n', "", "rollout.wave[0].regions", "eu-1"),
    ('regions = ["eu-1"]', 'regions = ["eu-1"]\ngroup = "beta"', "rollout.wave[0].regions", "write one"),
    ('regions = ["eu-1"]', 'group = "seventeen-letters"', "rollout.wave[0].group", "grp"),
    ('regions = ["eu-1"]', 'group = "emergency"', "rollout.wave[0].group", "take it out"),
    ('regions = ["eu-1"]', 'regions = ["eu-1", "sa-1"]', "rollout.wave[0].regions", "later wave"),
    ('"eu-2", "ap-1"]', '"eu-2", "ap-1", "a", "b"]', "rollout.wave[1].regions", "later wave"),
    ('"eu-2", "ap-1"]', '"eu-2", "eu-1"]', "rollout.wave[1].regions[1]", "once"),
    ('"eu-2", "ap-1"]', '"eu-2", "us-1"]', "rollout.wave[2].regions[0]", "once"),
    ('[["eu-2", "us-1"]]', '[["eu-2", "ap-1"]]', "rollout.wave[1].regions", "later wave"),
    ('[["eu-2", "us-1"]]', '[["eu-2", "us-2"]]', "rollout.failover[0]", "did you mean us-1?"),
    ('name = "poor_call"', 'name = "poor_cal"', "rollout.guardrail[0].name", "did you mean poor_call?"),
    ("delta = 0.02", "delta = 2", "rollout.guardrail[0].delta", ""),
    ("max_calls = 16000", "max_calls = 600\nfirst_look = 700", "gate.max_calls", "16000"),
    ("alpha = 0.01", 'alpha = "low"', "gate.alpha", "the default is 0.01"),
    ("[gate]", "[gates]", "gates", "did you mean gate?"),
]


@pytest.mark.parametrize(("old", "new", "key", "cure"), WRONG, ids=[f"{row[2]}: {row[1]}" for row in WRONG])
def test_what_cannot_be_is_refused_by_field_and_with_a_cure(old: str, new: str, key: str, cure: str) -> None:
    assert old in RELEASE
    with pytest.raises(ConfigError) as error:
        parse_plan(RELEASE.replace(old, new, 1), "plan.toml")
    assert error.value.key == key
    assert cure in error.value.cure


def test_waves_of_groups_come_first() -> None:
    late = OPEN + '\n[[rollout.wave]]\ngroup = "beta"\nsteps = [100]\n'
    with pytest.raises(ConfigError, match="put waves of groups first") as error:
        parse_plan(late, "plan.toml")
    assert error.value.key == "rollout.wave[2].group"


def test_a_guardrail_is_named_once() -> None:
    twice = RELEASE.replace("[gate]", '[[rollout.guardrail]]\nname = "poor_call"\n[gate]')
    with pytest.raises(ConfigError, match="twice") as error:
        parse_plan(twice, "plan.toml")
    assert error.value.key == "rollout.guardrail[1].name"


def test_a_plan_has_waves() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        parse_plan(RELEASE.partition("failover")[0], "plan.toml")


@pytest.mark.parametrize("text", ["{", "{]", "[rollout", "rollout = ", '{"rollout": 3}', "", "[]", "null"])
def test_what_is_no_plan_at_all_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_plan(text, "plan.toml")
