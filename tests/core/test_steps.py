"""The ladder: one step down a second, one up in five, and patience after a step up that failed."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config_voice import AdaptConfig
from relay.core.steps import LONG_PACKETS, LOWEST, Steps, ladder

CONFIG = AdaptConfig()


def test_the_ladder_lengthens_packets_before_it_lowers_the_rate():
    assert ladder(CONFIG) == ((24_000, 20), (24_000, 40), (24_000, 60), (16_000, 60), (12_000, 60))
    assert len(ladder(CONFIG)) == LOWEST + 1
    assert ladder(CONFIG)[LONG_PACKETS].ptime == 60


def test_what_is_asked_for_follows_the_level():
    steps = Steps(CONFIG)
    asked = [steps.asked]
    for now in range(LOWEST):
        steps.down(float(now), to=LOWEST)
        asked.append(steps.asked)
    assert tuple(asked) == ladder(CONFIG)


def test_the_newest_step_down_is_remembered_and_neither_a_refused_one_nor_a_step_up_counts():
    steps = Steps(CONFIG)
    assert steps.lowered_at == -inf
    steps.down(3.0, to=1)
    steps.down(3.5, to=2)
    assert steps.lowered_at == 3.0
    steps.up(8.0, to=0)
    assert (steps.level, steps.lowered_at) == (0, 3.0)
    steps.undo(9.0)
    assert steps.lowered_at == 9.0


def test_steps_down_are_a_second_apart():
    steps = Steps(CONFIG)
    for now, level in ((0.0, 1), (0.9, 1), (1.0, 2), (2.0, 3), (3.0, 4), (4.0, 4)):
        steps.down(now, to=LOWEST)
        assert steps.level == level
    assert steps.speakers == 3


def test_congestion_goes_where_it_must_at_once_and_takes_a_speaker_per_step():
    steps = Steps(CONFIG)
    for now, to, level, speakers in (
        (0.0, 2, 2, 2),
        (0.9, 3, 2, 2),
        (1.0, 3, 3, 1),
        (2.0, 9, LOWEST, 1),
        (3.0, 9, LOWEST, 1),
    ):
        steps.down(now, to=to, at_once=True)
        assert (steps.level, steps.speakers) == (level, speakers)


def test_a_step_up_is_undone_at_once():
    steps = Steps(CONFIG)
    steps.down(0.0, to=1)
    steps.up(5.0, to=0)
    steps.down(5.1, to=1)
    assert steps.level == 1


def test_a_step_down_never_goes_up():
    steps = Steps(CONFIG)
    steps.down(0.0, to=LONG_PACKETS, at_once=True)
    steps.down(1.0, to=1)
    assert steps.level == 2
    steps.down(1.0, to=2)
    assert steps.level == 2


def lowest():
    steps = Steps(CONFIG)
    for now in range(3):
        steps.down(float(now), to=LONG_PACKETS + now, at_once=True)
    assert steps.level == LOWEST
    return steps  # moved at 2.0


def test_steps_up_are_five_seconds_apart_and_bring_the_speakers_back():
    steps = lowest()
    for now, level, speakers in (
        (6.9, 4, 1),
        (7.0, 3, 2),
        (11.9, 3, 2),
        (12.0, 2, 3),
        (17.0, 1, 3),
        (22.0, 1, 3),
    ):
        steps.up(now, to=1)
        assert (steps.level, steps.speakers) == (level, speakers)


def test_speakers_come_back_though_the_level_is_right():
    steps = Steps(CONFIG)
    steps.speakers = 1
    steps.up(0.0, to=0)
    assert (steps.level, steps.speakers) == (0, 2)


def test_a_failed_step_up_doubles_the_wait_up_to_its_ceiling():
    steps, now = lowest(), 2.0
    waits = []
    for _ in range(5):
        now += steps.wait_s
        steps.up(now, to=0)
        assert steps.level == 3
        now += 1.0
        steps.failed(now)
        steps.down(now, to=LOWEST)
        assert steps.level == LOWEST
        waits.append(steps.wait_s)
    assert waits == [8, 8, 8, 8, 8]


def test_a_step_up_that_lasted_ends_the_patience():
    steps = lowest()
    steps.up(7.0, to=0)
    steps.failed(8.0)
    assert steps.wait_s == 8
    steps.up(15.0, to=0)
    assert steps.level == 2
    steps.up(20.0, to=0)  # it lasted five seconds: it came after eight, the next comes after five
    assert (steps.level, steps.wait_s) == (1, 5)
    steps.up(25.0, to=0)
    assert steps.level == 0


def test_congestion_long_after_a_step_up_is_not_its_fault():
    steps = lowest()
    steps.up(7.0, to=0)
    steps.failed(12.0)
    assert steps.wait_s == 5
    steps.failed(12.1)
    assert steps.wait_s == 5


def test_a_step_that_is_undone_goes_one_further_and_comes_back_to_where_it_was_soon():
    steps = lowest()
    steps.up(7.0, to=0)
    steps.up(12.0, to=0)
    assert (steps.level, steps.is_on_trial(16.9), steps.is_on_trial(17.0)) == (2, True, False)
    steps.undo(13.0)
    assert (steps.level, steps.wait_s) == (4, 8)
    steps.up(14.9, to=0)
    assert steps.level == 4
    steps.up(15.0, to=0)
    assert (steps.level, steps.is_on_trial(15.0)) == (3, False)
    steps.up(20.9, to=0)
    assert steps.level == 3
    steps.up(21.0, to=0)
    assert (steps.level, steps.is_on_trial(21.0)) == (2, True)


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("dfux"), st.integers(0, LOWEST)), max_size=60))
def test_no_two_steps_come_faster_than_their_timers(moves):
    steps, now = Steps(CONFIG), 0.0
    moved = lowered = -100.0
    for pause, move, to in moves:
        now += pause
        before, speakers = steps.level, steps.speakers
        match move:
            case "d" | "f":
                steps.down(now, to=to, at_once=move == "f")
            case "u":
                steps.up(now, to=to)
            case "x":
                steps.failed(now)
        if (steps.level, steps.speakers) != (before, speakers):
            if steps.level < before or steps.speakers > speakers:
                assert now - moved >= CONFIG.up_s - 1e-9
            else:
                assert now - lowered >= CONFIG.down_s - 1e-9
                lowered = now
            assert before - steps.level <= 1
            assert abs(steps.speakers - speakers) <= 1
            moved = now
        assert CONFIG.up_s <= steps.wait_s <= CONFIG.up_most_s


@pytest.mark.parametrize("speakers", [1, 8])
def test_speakers_stay_between_one_and_what_is_configured(speakers):
    steps = Steps(AdaptConfig(speakers=speakers))
    for now in range(20):
        steps.down(float(now), to=LOWEST, at_once=True)
    assert steps.speakers == 1
