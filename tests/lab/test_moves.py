"""When a run of moves is void: only what failed, and only where the untouched call broke that bound too."""

from __future__ import annotations

from typing import Any

import pytest

from lab import moves
from lab.changes import Weather
from lab.moves import Campaign, disturbed, kind_of_switch, timed

NAMES = ("sending", "silent", "addresses", "weather")


def campaigns(**gaps_ms: float) -> dict[str, Campaign]:
    return {name: Campaign(name, gaps_ms=[gaps_ms[name]] if name in gaps_ms else []) for name in NAMES}


def untouched(gap_ms: float) -> Campaign:
    return Campaign("control", gaps_ms=[gap_ms])


def test_a_bar_that_holds_makes_no_run_void_however_busy_the_machine() -> None:
    assert disturbed(campaigns(sending=150.0), untouched(400.0)) == []


def test_a_bar_that_fails_on_a_quiet_machine_has_failed() -> None:
    assert disturbed(campaigns(sending=250.0), untouched(30.0)) == []


def test_a_bar_that_fails_where_the_control_does_too_says_nothing() -> None:
    assert disturbed(campaigns(sending=250.0, silent=450.0), untouched(210.0)) == [
        "rebinding_gap_sending_p99_ms"
    ]


def test_what_was_not_measured_has_no_value() -> None:
    assert {value for _, value, _ in timed(campaigns())} == {None}
    assert disturbed(campaigns(), Campaign("control")) == []


def test_a_stage_is_judged_by_its_own_bars_alone() -> None:
    weather = Campaign("weather", planned_ms=[40.0, 70.0])
    assert timed({"weather": weather}) == [("planned_switch_gap_p99_ms", 70.0, 60.0)]
    assert disturbed({"weather": weather}, untouched(80.0)) == ["planned_switch_gap_p99_ms"]
    assert len(timed(campaigns())) == 4


@pytest.mark.parametrize(
    ("gaps_ms", "runs"), [((250.0, 250.0, 250.0), 3), ((250.0, 150.0), 2), ((150.0,), 1)]
)
def test_only_the_stage_that_is_void_is_made_again_and_twice_at_most(
    monkeypatch: pytest.MonkeyPatch, gaps_ms: tuple[float, ...], runs: int
) -> None:
    made = [({"sending": Campaign("sending", gaps_ms=[gap])}, untouched(210.0)) for gap in gaps_ms]
    left = iter(made)
    monkeypatch.setattr(moves, "run", lambda *_: next(left))
    voids: list[list[str]] = []
    nobody: Any = None
    assert moves.run_until_judged(nobody, nobody, nobody, False, voids) == made[-1]
    assert len(voids) == runs - 1
    assert next(left, None) is None


def test_a_switch_is_planned_unless_udp_is_gone_or_the_new_rung_is_as_bad() -> None:
    phases: list[tuple[float, Weather]] = [(10.0, "bad"), (25.0, "blocked"), (40.0, "good")]
    assert kind_of_switch(5.0, "quic-3478", phases) == "planned"
    assert kind_of_switch(12.0, "ws-443", phases) == "planned"
    assert kind_of_switch(12.0, "quic-3478", phases) == "stormy"
    assert kind_of_switch(26.0, "ws-443", phases) == "rescued"
    assert kind_of_switch(39.0, "ws-443", phases) == "rescued"
    assert kind_of_switch(100.0, "quic-443", phases) == "planned"


def test_each_way_goes_by_what_the_weather_leaves_it() -> None:
    assert moves.stands_as_it_should("bad up", {"up": "ws-443", "down": "quic-3478"})
    assert not moves.stands_as_it_should("bad up", {"up": "ws-443", "down": "ws-443"})
    assert moves.stands_as_it_should("bad down", {"up": "quic-443", "down": "ws-443"})
    assert moves.stands_as_it_should("good", {"up": "quic-443", "down": "quic-443"})
    assert not moves.stands_as_it_should("good", {"up": None, "down": "quic-443"})


def test_switches_of_one_way_have_the_bound_of_planned_ones() -> None:
    ways = Campaign("ways", planned_ms=[40.0, 70.0])
    assert timed({"ways": ways}) == [("one_way_switch_gap_p99_ms", 70.0, 60.0)]
    assert disturbed({"ways": ways}, untouched(50.0)) == []


def test_a_way_that_stood_wrong_says_nothing_where_clients_starved() -> None:
    ways = Campaign("ways", planned_ms=[40.0], landed=[True, False])
    assert disturbed({"ways": ways}, untouched(250.0)) == ["ways_that_stood_wrong"]
    assert disturbed({"ways": ways}, untouched(150.0)) == []
