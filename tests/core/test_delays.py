"""Delay over its minimum, and its trend."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.delays import RelativeDelay, Trend, kendall


@given(st.lists(st.floats(0, 500), min_size=1, max_size=200), st.integers(-(10**9), 10**9))
def test_clocks_that_differ_do_not_matter_and_the_fastest_counts_as_none(delays, offset):
    relative = RelativeDelay()
    least = float("inf")
    arrivals = sorted((n * 20 + delay, n * 20) for n, delay in enumerate(delays))
    for arrived, sent in arrivals:
        least = min(least, arrived - sent)
        assert relative.on_packet(sent + offset, arrived) == pytest.approx(arrived - sent - least, abs=1e-4)


def test_a_longer_way_is_the_new_normal_after_ten_seconds():
    relative = RelativeDelay()
    for n in range(100):
        assert relative.on_packet(n * 20, n * 20 + 30) == 0
    later = [relative.on_packet(n * 20, n * 20 + 80) for n in range(100, 700)]
    assert later[400] == 50
    assert later[550] == 0


def test_a_clock_that_drifts_leaves_no_queue_behind():
    relative = RelativeDelay()
    seen = [relative.on_packet(n * 20, n * 20 * 1.0001) for n in range(5000)]
    assert max(seen) < 1.1


def test_a_packet_from_before_counts_with_the_newest_slice():
    relative = RelativeDelay()
    relative.on_packet(1000, 1100)
    assert relative.on_packet(400, 450) == 0
    assert relative.on_packet(1000, 1100) == 50


def test_kendall_counts_pairs():
    assert kendall([1, 2, 3, 4, 5]) == 1
    assert kendall([5, 4, 3, 2, 1]) == -1
    assert kendall([1, 1, 1]) == 0
    assert kendall([1, 3, 2, 4, 5]) == pytest.approx(0.8)
    assert kendall([1]) == 0


def test_a_trend_needs_five_delays_and_forgets_the_sixth():
    trend = Trend()
    assert [trend.on_delay(delay) for delay in (9, 8, 10, 20, 30)][:4] == [0, 0, 0, 0]
    assert trend.on_delay(40) == 1.0
    assert trend.on_delay(0) == pytest.approx(0.2)


def test_a_rise_is_over_two_looks_and_none_if_it_did_not_last():
    trend = Trend()
    rises = []
    for delay in (5, 20, 40, 30, 400, 390, 200, 250):
        trend.note(delay)
        rises.append(trend.rise)
    assert rises == [0.0, 0.0, 35, 10, 0.0, 360, 0.0, 0.0]
