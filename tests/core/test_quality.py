"""The estimate against the check values it was specified with, and what the record says of a call."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config_voice import QualityConfig
from relay.core.quality import (
    BEST,
    WORST,
    Direction,
    Estimate,
    Grade,
    Window,
    delay_damage,
    estimate,
    grade,
    late_share,
    mos,
    playout_of,
)

CONFIG = QualityConfig()
FINE = Window(
    expected=250,
    seconds=5.0,
    ptime=20.0,
    bps=24_000,
    lost_up=0.0,
    lost_down=0.0,
    late=0.0,
    rtt_up=0.0,
    rtt_down=0.0,
    playout=30.0,
)
HIGH = 10.2
MIDDLE = 17.0
BPL = 5.5


@pytest.mark.parametrize(
    ("ie", "delay_ms", "loss_percent", "expected"),
    [
        *((HIGH, 100, loss, value) for loss, value in zip(
            (0, 0.5, 1, 2, 3, 5, 8, 10, 20),
            (4.41, 4.24, 4.04, 3.65, 3.31, 2.78, 2.28, 2.06, 1.55), strict=True)),
        *((HIGH, delay, 0, value) for delay, value in zip(
            (150, 200, 300, 400), (4.40, 4.34, 3.96, 3.55), strict=True)),
        *((HIGH, delay, 1, value) for delay, value in zip(
            (150, 200, 300, 400), (4.03, 3.92, 3.39, 2.91), strict=True)),
        *((MIDDLE, 100, loss, value) for loss, value in zip(
            (0, 1, 3, 5, 10), (4.30, 3.89, 3.16, 2.65, 1.99), strict=True)),
    ],
)  # fmt: skip
def test_the_form_gives_the_check_values_of_its_specification(ie, delay_ms, loss_percent, expected):
    assert mos(loss_percent, delay_ms, ie, BPL) == pytest.approx(expected, abs=0.005)


def test_a_codec_without_any_impairment_reaches_the_best_and_nothing_falls_below_the_worst():
    assert mos(0.0, 0.0, 0.0, BPL) == BEST
    assert mos(100.0, 1000.0, 131.0, BPL) == WORST


def test_delay_costs_nothing_up_to_a_hundred_milliseconds_and_ever_more_beyond():
    assert [delay_damage(ms) for ms in (0, 50, 100)] == [0, 0, 0]
    damages = [delay_damage(ms) for ms in range(101, 1000, 10)]
    assert damages == sorted(damages)
    assert damages[0] == pytest.approx(0, abs=0.001)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 2000))
def test_more_loss_never_sounds_better(one, other, delay_ms):
    less, more = sorted((one, other))
    assert mos(less, delay_ms, HIGH, BPL) >= mos(more, delay_ms, HIGH, BPL) - 1e-9


def test_delay_is_the_sum_of_everything_between_mouth_and_ear():
    window = replace(FINE, rtt_up=40.0, rtt_down=60.0, residence=2.0, playout=60.0)
    judged = estimate(window, CONFIG)
    assert judged is not None
    assert judged.delay_ms == 20 + 6.5 + 20 + 2 + 30 + 60 + 40


def test_losses_of_both_hops_and_of_the_buffer_multiply():
    judged = estimate(replace(FINE, lost_up=0.1, lost_down=0.2, late=0.5), CONFIG)
    assert judged is not None
    assert judged.loss == pytest.approx(1 - 0.9 * 0.8 * 0.5)


@pytest.mark.parametrize(("bps", "ie"), [(13_999, 23.0), (14_000, 17.0), (19_999, 17.0), (20_000, 10.2)])
def test_the_bit_rate_chooses_the_impairment(bps, ie):
    assert estimate(replace(FINE, bps=bps), CONFIG) == Estimate(mos(0, 96.5, ie, BPL), 0.0, 96.5)


def test_loss_weighs_less_while_the_sender_mostly_pauses():
    lossy = replace(FINE, lost_down=0.05)
    pausing = replace(lossy, expected=10)
    speaking, paused = estimate(lossy, CONFIG), estimate(pausing, CONFIG)
    assert speaking is not None
    assert paused is not None
    assert paused.mos == pytest.approx(mos(5 * (10 / 250) ** 0.5, 96.5, HIGH, BPL))
    assert paused.loss == speaking.loss


@pytest.mark.parametrize("name", ["lost_up", "lost_down", "late", "rtt_up", "rtt_down", "playout"])
def test_what_nobody_measured_is_unknown_and_never_good(name):
    assert estimate(replace(FINE, **{name: None}), CONFIG) is None
    direction = Direction(CONFIG)
    direction.on_window(FINE)
    assert direction.grade is Grade.GOOD
    assert direction.on_window(replace(FINE, **{name: None})) is None
    assert direction.grade is Grade.UNKNOWN


def test_a_sender_who_pauses_on_purpose_leaves_the_estimate_as_it_was():
    direction = Direction(CONFIG)
    direction.on_window(FINE)
    before = direction.mos
    assert direction.on_window(replace(FINE, expected=0, silence=5000.0)) is None
    assert direction.mos == before
    assert direction.summary().silence_s == 0
    assert estimate(replace(FINE, expected=0), CONFIG) is None


def test_it_falls_fast_and_rises_slowly():
    direction = Direction(CONFIG)
    good = direction.on_window(FINE)
    bad = direction.on_window(replace(FINE, lost_down=0.1))
    assert good is not None
    assert bad is not None
    down = good.mos + 0.8 * (bad.mos - good.mos)
    assert direction.mos == pytest.approx(down)
    direction.on_window(FINE)
    assert direction.mos == pytest.approx(down + 0.4 * (good.mos - down))


@pytest.mark.parametrize(
    ("value", "word"),
    [(None, Grade.UNKNOWN), (4.0, Grade.GOOD), (3.99, Grade.FAIR), (3.6, Grade.FAIR), (3.59, Grade.WEAK),
     (3.1, Grade.WEAK), (3.09, Grade.POOR), (2.6, Grade.POOR), (2.59, Grade.BAD), (1.0, Grade.BAD)],
)  # fmt: skip
def test_every_estimate_has_a_word(value, word):
    assert grade(value, CONFIG) is word


def judged(*windows):
    direction = Direction(CONFIG)
    for window in windows:
        direction.on_window(window)
    return direction.summary()


def test_nothing_measured_is_summed_up_as_unknown():
    nothing = judged()
    assert (nothing.grade, nothing.is_poor, nothing.mos) == (Grade.UNKNOWN, False, None)
    assert nothing.as_record() == {"poor": 0.0, "silence_ms": 0.0, "active_s": 0.0}


def test_a_call_is_poor_by_its_mean():
    lossy = replace(FINE, lost_down=0.05)
    assert judged(lossy, lossy).is_poor
    assert not judged(FINE, FINE).is_poor


def test_a_call_is_poor_when_more_than_a_fifth_of_its_windows_is():
    lossy = replace(FINE, lost_down=0.05)
    assert not judged(*[FINE] * 8, lossy, lossy).is_poor
    assert judged(*[FINE] * 7, lossy, lossy, lossy).is_poor


@pytest.mark.parametrize("lost_down", [0.0, None])
def test_a_call_is_poor_when_one_side_heard_nothing_for_long_even_if_nobody_measured_more(lost_down):
    silent = replace(FINE, lost_down=lost_down, silence=3001.0)
    assert judged(FINE, silent).is_poor
    assert not judged(FINE, replace(silent, silence=3000.0)).is_poor


def test_nobody_judges_a_few_seconds():
    lossy = replace(FINE, lost_down=0.5, silence=4000.0)
    assert not judged(lossy).is_poor
    assert judged(lossy, lossy).is_poor


def test_a_summary_is_ready_for_the_record():
    one = replace(FINE, lost_down=0.02, lost_raw=0.1, jitter=4.0, gaps=2, silence=120.0)
    other = replace(one, lost_down=0.0, lost_raw=0.2, jitter=None, gaps=1, silence=60.0)
    summary = judged(one, other)
    assert (summary.windows, summary.grade) == (2, Grade.GOOD)
    assert summary.as_record() == {
        "mos": 4.03,
        "poor": 0.0,
        "poor_share": 0.0,
        "residual_loss": 0.01,
        "raw_loss": 0.15,
        "path_jitter_ms": 4.0,
        "delay_ms": 96.5,
        "gaps_per_min": 18.0,
        "silence_ms": 120.0,
        "active_s": 10.0,
    }
    assert "raw_loss" not in judged(FINE).as_record()


def test_without_reports_what_the_buffer_does_not_absorb_counts_as_late():
    assert late_share([1.0, 10.0, 50.0, 70.0], 50.0) == 0.25
    assert late_share([], 50.0) is None


def test_without_reports_the_buffer_is_as_deep_as_the_delays_ask_for():
    assert playout_of(map(float, range(1, 101)), 20.0) == 95.0
    assert playout_of([1.0], 20.0) == 20.0
    assert playout_of([30.0], 20.0, distance=4) == 110.0
    assert playout_of([], 20.0) is None
