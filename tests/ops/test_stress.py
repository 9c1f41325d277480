"""What counts as a full machine."""

from __future__ import annotations

import pytest

from relay.ops.stress import OVER_S, Stress


def test_of_processor_packets_and_loop_the_fullest_counts() -> None:
    stress = Stress(2)
    stress.on_look(0.0, 10.0, 1_000)
    stress.on_look(10.0, 19.0, 51_000)
    assert stress.ratio(0.0, 0) == pytest.approx(0.45 / 0.9)
    assert stress.ratio(0.0, 10_000) == pytest.approx(0.5)
    assert stress.ratio(0.0, 6_250) == pytest.approx(0.8)
    assert stress.ratio(0.045, 6_250) == pytest.approx(0.9)


def test_before_the_second_look_only_the_loop_tells() -> None:
    stress = Stress(0)
    assert stress.ratio(0.025, 100) == 0.5
    stress.on_look(0.0, 0.0, 0)
    assert stress.ratio(0.0, 100) == 0.0


def test_what_is_longer_ago_than_half_a_minute_is_over() -> None:
    stress = Stress(1)
    for second in range(100):
        stress.on_look(float(second), min(second, 50) * 0.9, 0)
    assert stress.ratio(0.0, 0) == 0.0
    assert OVER_S == 30.0
