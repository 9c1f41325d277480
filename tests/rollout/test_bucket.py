"""Whom chance picks, what comes before chance, and that a greater share only adds units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.rollout.bucket import BUCKETS, Rule, Shares, Variant, bucket, decide, width


@pytest.mark.parametrize(
    ("rollout", "salt", "unit", "number"),
    [
        ("relay-0.4", "s1", "call-1", 364),
        ("relay-0.4", "s1", "call-2", 4376),
        ("relay-0.4", "s2", "call-1", 923),
        ("r1", "s1", "u1", 2336),
        ("r1", "s1", "u2", 9979),
        ("r2", "s1", "u1", 4338),
    ],
)
def test_a_bucket_depends_on_rollout_salt_and_unit_alone(
    rollout: str, salt: str, unit: str, number: int
) -> None:
    assert bucket(rollout, salt, unit) == number


def test_five_percent_of_many_units_are_about_five() -> None:
    below = sum(bucket("r1", "s1", f"u{place}") < 500 for place in range(20_000))
    assert below / 20_000 == pytest.approx(0.0494, abs=1e-9)


@pytest.mark.parametrize(
    ("pct", "buckets"), [(0, 0), (0.01, 1), (0.07, 7), (0.29, 29), (5, 500), (100, BUCKETS)]
)
def test_a_share_is_so_many_buckets_though_floats_round(pct: float, buckets: int) -> None:
    assert width(pct) == buckets


UNIT = "call-1"  # bucket 364 of relay-0.4, s1


def variant(shares: Shares, *groups: str, region: str = "eu-1") -> tuple[Variant, Rule]:
    found = decide("relay-0.4", "s1", UNIT, shares, region=region, groups=groups)
    return found.variant, found.rule


def test_the_region_s_share_decides_at_its_bucket_and_not_before() -> None:
    assert variant(Shares(regions={"eu-1": 3.64})) == (Variant.CONTROL, Rule.REGION)
    assert variant(Shares(regions={"eu-1": 3.65})) == (Variant.CANDIDATE, Rule.REGION)


def test_a_region_that_has_not_begun_gets_the_control() -> None:
    assert variant(Shares(regions={"eu-1": 100}), region="eu-2") == (Variant.CONTROL, Rule.REGION)


ALL = Shares(
    is_killed=True,
    never=frozenset({"emergency"}),
    always=frozenset({"dogfood"}),
    groups={"beta": 50.0, "slow": 1.0},
    regions={"eu-1": 0.0},
)


def without(**fields: object) -> Shares:
    values = {name: getattr(ALL, name) for name in ("is_killed", "never", "always", "groups", "regions")}
    return Shares(**(values | fields))


def test_each_rule_wins_over_those_below_it() -> None:
    everything = ("emergency", "dogfood", "beta")
    assert variant(ALL, *everything) == (Variant.CONTROL, Rule.KILL)
    alive = without(is_killed=False)
    assert variant(alive, *everything) == (Variant.CONTROL, Rule.NEVER)
    assert variant(alive, "dogfood", "slow") == (Variant.CANDIDATE, Rule.ALWAYS)
    assert variant(alive, "beta") == (Variant.CANDIDATE, Rule.GROUP)
    assert variant(alive) == (Variant.CONTROL, Rule.REGION)


def test_a_group_s_share_wins_over_the_region_s_also_where_it_is_less() -> None:
    shares = without(is_killed=False, regions={"eu-1": 100.0})
    assert variant(shares, "slow") == (Variant.CONTROL, Rule.GROUP)


def test_of_several_groups_the_greatest_share_counts() -> None:
    assert variant(without(is_killed=False), "slow", "beta") == (Variant.CANDIDATE, Rule.GROUP)


def test_only_units_for_which_the_region_s_share_decided_are_a_sample() -> None:
    alive = without(is_killed=False)
    told = {
        group: decide("r", "s", "u", alive, region="eu-1", groups=(group,)).is_sampled
        for group in ("emergency", "dogfood", "beta", "other")
    }
    assert told == {"emergency": False, "dogfood": False, "beta": False, "other": True}


@given(st.text(max_size=40), st.integers(0, 10_000), st.integers(0, 10_000))
def test_more_percent_only_add_units(unit: str, one: int, other: int) -> None:
    less, more = sorted((one / 100, other / 100))
    before, after = (
        decide("relay-0.4", "s1", unit, Shares(regions={"eu-1": pct}), region="eu-1").variant
        for pct in (less, more)
    )
    assert (before, after) != (Variant.CANDIDATE, Variant.CONTROL)


@given(st.text(max_size=40))
def test_nobody_is_in_at_0_and_everybody_at_100(unit: str) -> None:
    for pct, wanted in ((0.0, Variant.CONTROL), (100.0, Variant.CANDIDATE)):
        assert decide("r", "s", unit, Shares(regions={"eu-1": pct}), region="eu-1").variant is wanted


def test_a_new_salt_picks_others() -> None:
    units = [f"u{place}" for place in range(2_000)]
    one, other = ({unit for unit in units if bucket("r", salt, unit) < 1_000} for salt in ("s1", "s2"))
    assert len(one & other) < 0.02 * len(units)
    assert 0.07 * len(units) < len(one) < 0.13 * len(units)
