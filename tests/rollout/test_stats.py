"""The gate's statistics, by values that others have computed and by what defines them."""

from __future__ import annotations

import random
from math import inf, log

import pytest

from relay.ops.slis import wilson_lower
from relay.rollout.stats import MISMATCH, imbalance, likelihood, limit, newcombe, shift, wilson

CONTROL = (240, 24_000)


@pytest.mark.parametrize(
    ("bad", "valid", "z"), [(10, 1000, 1.96), (0, 50, 1.96), (50, 50, 3.0), (240, 24_000, 1.0)]
)
def test_the_ends_of_wilson_s_interval_are_z_deviations_from_what_was_seen(
    bad: int, valid: int, z: float
) -> None:
    low, high = wilson(bad, valid, z)
    for end in (low, high):
        assert abs(bad / valid - end) == pytest.approx(z * (end * (1 - end) / valid) ** 0.5, abs=1e-12)
    assert 0 <= low <= bad / valid <= high <= 1


def test_region_health_judges_by_the_same_lower_end() -> None:
    assert wilson_lower(7, 900, 3.0) == wilson(7, 900, 3.0)[0]


def test_without_events_a_share_may_be_anything() -> None:
    assert wilson(0, 0, 1.96) == (0.0, 1.0)
    assert newcombe((0, 0), CONTROL, 1.96) == newcombe((3, 10), (0, 0), 1.96) == (-1.0, 1.0)


def test_the_difference_of_equal_shares_is_shown_to_be_small_by_a_thousand_calls() -> None:
    low, high = newcombe((10, 1000), CONTROL, 1.96)
    assert (low, high) == (pytest.approx(-0.00475, abs=5e-6), pytest.approx(0.00839, abs=5e-6))


def test_twice_the_share_is_not() -> None:
    assert newcombe((20, 1000), CONTROL, 1.96)[1] == pytest.approx(0.0208, abs=5e-5)


def test_newcombe_s_interval_is_the_one_of_his_paper() -> None:
    # Newcombe 1998, table II, row (a): 56/70 less 48/80, method 10.
    assert newcombe((56, 70), (48, 80), 1.959964) == (
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )


def test_the_sequential_test_has_its_known_values() -> None:
    p0 = wilson(*CONTROL, 1.0)[1]
    assert p0 == pytest.approx(0.010663, abs=5e-7)
    p1 = max(2 * p0, p0 + 0.02)
    assert p1 == pytest.approx(0.030663, abs=5e-7)
    assert likelihood(20, 500, p0, p1) == pytest.approx(11.32, abs=5e-3)


def test_its_limit_grows_with_the_number_of_tests_that_share_the_error() -> None:
    assert limit(0.01, 0.05, 1) == pytest.approx(4.55, abs=5e-3)
    assert limit(0.01, 0.05, 5) == pytest.approx(6.16, abs=5e-3)


def test_a_share_of_all_is_ruled_out_by_one_good_event() -> None:
    assert likelihood(10, 11, 0.5, 1.0) == -inf
    assert likelihood(10, 10, 0.5, 1.0) == pytest.approx(10 * log(2))


def test_a_ratio_as_ordered_is_no_mismatch_and_another_is() -> None:
    assert imbalance(50, 950, 0.05) == 0.0
    assert imbalance(0, 0, 0.05) == 0.0
    assert imbalance(60, 40, 0.5) == pytest.approx(4.0)
    assert imbalance(620, 380, 0.5) > MISMATCH > imbalance(545, 455, 0.5)


# ClickHouse's test of its mannWhitneyUTest: 223.0, 0.5426959774289482.
LEFT = [310, 195, 530, 155, 530, 245, 385, 450, 465, 545, 170, 180, 125, 180, 230, 75, 430, 480, 495, 295]
RIGHT = [116, 171, 176, 421, 111, 326, 481, 111, 346, 441, 261, 411, 206, 521, 456, 446, 296, 51, 426, 261]


def test_mann_and_whitney_s_test_has_the_values_of_another_program() -> None:
    found = shift(LEFT, RIGHT, 0.98)
    assert found is not None
    assert (found.u, found.p) == (223.0, pytest.approx(0.5426959774289482, abs=1e-12))
    assert found.low < 0 < found.high


def test_the_shift_is_the_median_of_all_differences() -> None:
    found = shift(LEFT, RIGHT, 0.98)
    assert found is not None
    differences = sorted(x - y for x in LEFT for y in RIGHT)
    assert found.estimate == pytest.approx((differences[199] + differences[200]) / 2, abs=1e-9)


def test_a_shift_is_found_and_its_interval_holds_it() -> None:
    chance = random.Random(1)
    control = [chance.lognormvariate(0, 1) for _ in range(400)]
    found = shift([value + 0.5 for value in control], control, 0.98)
    assert found is not None
    assert found.low < 0.5 < found.high
    assert found.low > 0
    assert found.estimate == pytest.approx(0.5, abs=0.1)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    chance = random.Random(2)
    missed = 0
    for _ in range(300):
        one, other = ([chance.gauss(0, 1) for _ in range(size)] for size in (30, 60))
        found = shift(one, other, 0.9)
        assert found is not None
        missed += not found.low <= 0 <= found.high
    assert 15 <= missed <= 45


def test_equal_values_show_no_shift_and_nothing_shows_nothing() -> None:
    found = shift([3.0] * 20, [3.0] * 30, 0.98)
    assert found is not None
    assert (found.estimate, found.p) == (0.0, 1.0)
    assert shift([], [1.0], 0.98) is None
    assert shift([1.0], [], 0.98) is None
