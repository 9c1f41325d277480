"""What is given up when, and when it comes back, on a clock that tests move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.config_overload import OverloadConfig
from relay.core.shedding import Shed, Shedding
from relay.protocol.media import PP_COMFORT, PP_REDUNDANT

CONFIG = OverloadConfig()


def last(shedding: Shedding, pressure: float, since: int, until: int) -> list[Shed]:
    """What was given up after each second, where that changed."""
    return [
        shedding.level
        for second in range(since, until)
        if shedding.on_pressure(pressure, float(second), CONFIG)
    ]


def test_a_full_node_gives_up_one_thing_after_the_other_and_takes_them_back_in_turn() -> None:
    shedding = Shedding()
    assert last(shedding, 2.0, 0, 5) == []
    assert last(shedding, 2.0, 5, 60) == [Shed.REDUNDANCY, Shed.SILENCE, Shed.CALLS]
    assert shedding.classes == {PP_REDUNDANT, PP_COMFORT}
    assert last(shedding, 0.79, 60, 75) == []
    assert last(shedding, 0.79, 75, 200) == [Shed.SILENCE, Shed.REDUNDANCY, Shed.NOTHING]
    assert shedding.classes == frozenset()


@pytest.mark.parametrize(
    ("pressure", "level", "classes"),
    [
        (0.89, Shed.NOTHING, set()),
        (0.9, Shed.REDUNDANCY, {PP_REDUNDANT}),
        (0.95, Shed.SILENCE, {PP_REDUNDANT, PP_COMFORT}),
        (0.99, Shed.SILENCE, {PP_REDUNDANT, PP_COMFORT}),
        (1.0, Shed.CALLS, {PP_REDUNDANT, PP_COMFORT}),
    ],
)
def test_how_far_it_goes_depends_on_how_full_the_node_is(
    pressure: float, level: Shed, classes: set[int]
) -> None:
    shedding = Shedding()
    last(shedding, pressure, 0, 100)
    assert (shedding.level, shedding.classes) == (level, classes)


def test_what_is_given_up_stays_so_between_the_two_bounds() -> None:
    shedding = Shedding()
    last(shedding, 1.0, 0, 100)
    assert last(shedding, 0.8, 100, 300) == []
    assert shedding.level is Shed.CALLS


def test_a_moment_of_pressure_or_of_room_changes_nothing() -> None:
    shedding = Shedding()
    for second in range(100):
        assert not shedding.on_pressure(0.0 if second % 5 == 4 else 9.0, float(second), CONFIG)
    last(shedding, 9.0, 100, 106)
    for second in range(106, 300):
        assert not shedding.on_pressure(0.85 if second % 15 == 14 else 0.0, float(second), CONFIG)
    assert shedding.level is Shed.REDUNDANCY


def test_switched_off_it_gives_nothing_up_and_gives_all_back_at_once() -> None:
    shedding, off = Shedding(), replace(CONFIG, enabled=False)
    assert not any(shedding.on_pressure(9.0, float(second), off) for second in range(60))
    last(shedding, 9.0, 60, 100)
    assert shedding.level is Shed.CALLS
    assert shedding.on_pressure(9.0, 100.0, off)
    assert shedding.level is Shed.NOTHING
    assert last(shedding, 9.0, 101, 106) == []  # what was before does not count
