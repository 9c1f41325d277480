"""Each indicator's limits, the bounds that few calls are judged by, and percentiles of spreads."""

from __future__ import annotations

import pytest

from relay.core.spread import FIRST_AUDIO, LOSS, RESIDENCE, Spread
from relay.ops.slis import BY_NAME, SLIS, Reading, quantile, ratio, score, wilson_lower, worst


def test_the_indicators_and_their_limits_are_those_that_operations_document() -> None:
    limits = {sli.name: (sli.slo, sli.warn, sli.bad) for sli in SLIS}
    assert limits == {
        "setup_fail": (0.005, 0.01, 0.02),
        "first_audio": (1.5, 2.0, 4.0),
        "drop": (0.01, 0.02, 0.04),
        "poor_call": (0.05, 0.08, 0.12),
        "one_way": (0.002, 0.005, 0.01),
        "residence": (0.005, 0.010, 0.030),
        "leg_loss": (0.01, 0.03, 0.08),
        "gaps": (1.0, 3.0, 8.0),
        "leg_rtt": (0.15, 0.25, 0.40),
        "fallback": (0.0, 0.05, 0.15),
        "stale": (0.001, 0.01, 0.03),
        "saturation": (0.7, 0.8, 0.95),
        "canary": (0, 3, 10),
    }


@pytest.mark.parametrize(("share", "points"), [(0.025, 75), (0.035, 25), (0.02, 100), (0.04, 0), (0.5, 0)])
def test_a_share_of_dropped_calls_scores_on_the_line_from_warn_to_bad(share: float, points: float) -> None:
    assert score(share, BY_NAME["drop"]) == pytest.approx(points)


@pytest.mark.parametrize(
    ("bad", "valid", "z", "bound"),
    [(10, 1000, 1.96, 0.005441), (240, 24_000, 1.0, 0.009378), (50, 100, 3.0, 0.356326), (3, 3, 3.0, 0.25)],
)
def test_wilsons_lower_bound_has_its_known_values(bad: int, valid: int, z: float, bound: float) -> None:
    found = wilson_lower(bad, valid, z)
    assert found == pytest.approx(bound, abs=1e-6)
    # What defines it: the share that was seen lies z standard deviations above it.
    assert bad / valid - found == pytest.approx(z * (found * (1 - found) / valid) ** 0.5)


def test_where_nothing_bad_was_seen_the_bound_is_zero() -> None:
    assert wilson_lower(0, 100, 3.0) == 0.0


def test_without_events_the_bound_is_zero_and_with_certainty_0_it_is_the_share() -> None:
    assert wilson_lower(0, 0, 3.0) == 0.0
    assert wilson_lower(3, 100, 0.0) == pytest.approx(0.03)


def test_three_failures_of_a_hundred_are_no_proof_and_thirty_of_a_thousand_are() -> None:
    sli = BY_NAME["setup_fail"]
    assert score(ratio(3, 100, sli).x, sli) == 100
    assert score(ratio(30, 1000, sli).x, sli) < 70


def test_one_way_audio_needs_more_certainty_than_the_others() -> None:
    assert {sli.z for sli in SLIS if sli.name != "one_way"} == {3.0}
    assert BY_NAME["one_way"].z == 4.0


def test_fallback_is_judged_by_what_exceeds_the_usual() -> None:
    one = ratio(200, 1000, BY_NAME["fallback"], usual=0.15)
    assert one.value == pytest.approx(0.05)
    assert one.x == pytest.approx(wilson_lower(200, 1000, 3.0) - 0.15)
    assert ratio(100, 1000, BY_NAME["fallback"], usual=0.15).x == 0.0


def test_a_percentile_lies_on_the_line_within_its_bucket() -> None:
    spread = Spread(FIRST_AUDIO, [0, 0, 0, 900, 0, 100, 0, 0, 0])  # 100 of 1000 between 1.5 and 3 s
    assert quantile(spread, BY_NAME["first_audio"]).value == pytest.approx(2.25)


def test_a_percentile_is_judged_by_what_is_certainly_exceeded() -> None:
    few = quantile(Spread(LOSS, [94, 0, 0, 0, 0, 0, 0, 6, 0, 0]), BY_NAME["leg_loss"])
    assert few.value > 0.08
    assert few.x < 0.03
    many = quantile(Spread(LOSS, [9000, 0, 0, 0, 0, 0, 0, 1000, 0, 0]), BY_NAME["leg_loss"])
    assert many.x > 0.08


def test_what_lies_above_all_buckets_counts_as_the_last_bound() -> None:
    assert quantile(Spread(RESIDENCE, [0] * 8 + [500]), BY_NAME["residence"]).value == 0.1


def test_an_empty_spread_reads_zero() -> None:
    assert quantile(Spread(LOSS), BY_NAME["leg_loss"]) == Reading(0.0, 0.0, 0)


def test_of_several_parts_the_worst_with_enough_events_counts() -> None:
    sli = BY_NAME["leg_loss"]
    parts = [Reading(0.5, 0.4, 99, "ws"), Reading(0.02, 0.02, 100, "quic"), Reading(0.01, 0.01, 999, "wt")]
    assert worst(parts, sli).detail == "quic"
    assert worst(parts[:1], sli).detail == "ws"
    assert worst([], sli) == Reading(0.0, 0.0, 0)


@pytest.mark.parametrize(("running", "points"), [(0, 100), (2, 100), (3, 50), (9, 50), (10, 0), (30, 0)])
def test_a_canary_scores_by_failures_running_in_steps(running: int, points: float) -> None:
    assert score(running, BY_NAME["canary"]) == points
