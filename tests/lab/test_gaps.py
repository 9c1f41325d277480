"""The longest silence around a change."""

from __future__ import annotations

import pytest

from lab.gaps import longest_gap

STEADY = [n * 0.02 for n in range(101)]


def test_audio_without_a_hole_has_gaps_of_one_frame() -> None:
    assert longest_gap(STEADY, 0.5, 1.5) == pytest.approx(0.02)


def test_a_hole_counts_from_the_last_arrival_before_to_the_first_after() -> None:
    arrivals = [at for at in STEADY if not 0.99 < at < 1.19]
    assert longest_gap(arrivals, 1.0, 1.5) == pytest.approx(0.22)


def test_a_hole_that_outlasts_the_window_counts_to_its_end() -> None:
    arrivals = [at for at in STEADY if not 0.99 < at < 1.79]
    assert longest_gap(arrivals, 1.0, 1.5) == pytest.approx(0.82)


def test_audio_that_never_comes_back_is_silent_until_the_end() -> None:
    assert longest_gap([at for at in STEADY if at < 0.99], 1.0, 3.0) == pytest.approx(2.02)
    assert longest_gap([], 1.0, 3.0) == pytest.approx(2.0)
