"""Each cause of a 503, each warning, and the meter of the loop's lag on a simulated clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from descriptors import none_left
from relay.config import HealthConfig
from relay.core.shedding import Shed
from relay.ops.health import Facts, LagMeter, free_descriptors, judge

CONFIG = HealthConfig()
DAY = 86_400.0


def test_a_node_without_findings_is_alive_and_ready() -> None:
    report = judge(Facts(), CONFIG)
    assert report.is_alive
    assert report.is_ready
    assert report.body(True) == {"ok": True, "findings": []}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"state": "draining"}, "draining"),
        ({"state": "moving"}, "draining"),
        ({"lag_s": 0.251}, "loop_lag"),
        ({"free_descriptors": 63}, "descriptors"),
        ({"legs": 10, "max_legs": 10}, "full"),
        ({"issuers": 0}, "no_issuer"),
        ({"dead_threads": 1}, "threads"),
        ({"shedding": Shed.CALLS}, "overload"),
        ({"health_age_s": 60.1}, "stale_health"),
        ({"certificate_until": 100.0, "wall": 100.0}, "certificate"),
    ],
)
def test_a_cause_makes_the_node_unready_but_not_dead(change: dict[str, object], name: str) -> None:
    report = judge(dataclasses.replace(Facts(), **change), CONFIG)
    assert [finding.name for finding in report.findings] == [name]
    assert report.is_alive
    assert not report.is_ready


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"datapath": "python", "wants_native": True}, "lane"),
        ({"internal_errors": 1}, "internal"),
        ({"certificate_until": 2.9 * DAY, "wall": 0.0}, "certificate"),
        ({"sinks_failing": ("events",)}, "events_failing"),
        ({"turn_is_lab": True}, "turn_lab"),
        ({"shedding": Shed.REDUNDANCY}, "overload"),
        ({"shedding": Shed.SILENCE}, "overload"),
    ],
)
def test_a_warning_is_told_and_leaves_the_node_ready(change: dict[str, object], name: str) -> None:
    report = judge(dataclasses.replace(Facts(), **change), CONFIG)
    assert [(finding.name, finding.severity) for finding in report.findings] == [(name, "warning")]
    assert report.is_ready


@pytest.mark.parametrize(
    "change",
    [
        {"lag_s": 0.25},
        {"free_descriptors": 64},
        {"stats_age_s": 5.0},
        {"health_age_s": 60.0},
        {"legs": 9, "max_legs": 10},
        {"certificate_until": 3 * DAY, "wall": 0.0},
        {"datapath": "python"},
    ],
)
def test_a_limit_itself_is_no_finding(change: dict[str, object]) -> None:
    assert judge(dataclasses.replace(Facts(), **change), CONFIG).findings == ()


def test_stale_statistics_mean_dead() -> None:
    report = judge(Facts(stats_age_s=5.1), CONFIG)
    assert not report.is_alive
    assert not report.is_ready


def test_all_findings_are_told_at_once() -> None:
    report = judge(Facts(state="closing", lag_s=1.0, issuers=0), CONFIG)
    names = [finding["name"] for finding in report.body(False)["findings"]]  # type: ignore[index, attr-defined]
    assert names == ["draining", "loop_lag", "no_issuer"]


class SimulatedClock:
    """An event loop's clock that jumps where the test says, and calls late as told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> SimulatedClock:
        self.timers.append((when, callback))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def step(self, late: float = 0.0) -> None:
        """Run the next timer, `late` seconds after it was due."""
        when, callback = self.timers.pop(0)
        self.now = when + late
        callback()


def test_the_meter_shows_the_worst_lag_of_the_last_five_seconds() -> None:
    clock = SimulatedClock()
    meter = LagMeter(clock)
    meter.start()
    clock.step(late=0.3)
    assert meter.worst_s == pytest.approx(0.3)
    for _ in range(49):
        clock.step(late=0.001)
    assert meter.worst_s == pytest.approx(0.3)
    clock.step(late=0.001)
    assert meter.worst_s == pytest.approx(0.001)


def test_the_meter_tells_what_99_of_100_looks_of_a_minute_did_not_exceed() -> None:
    clock = SimulatedClock()
    meter = LagMeter(clock)
    assert meter.p99_s == 0.0
    meter.start()
    for step in range(600):
        clock.step(late=0.2 if step % 100 < 2 else 0.001)
    assert meter.p99_s == pytest.approx(0.2)
    for step in range(600):
        clock.step(late=0.2 if step % 200 == 0 else 0.001)
    assert meter.p99_s == pytest.approx(0.001)


def test_a_look_that_is_overdue_counts_already() -> None:
    clock = SimulatedClock()
    meter = LagMeter(clock)
    meter.start()
    clock.now = 2.1
    assert meter.worst_s == pytest.approx(2.0)


def test_a_stopped_meter_leaves_no_timer() -> None:
    clock = SimulatedClock()
    meter = LagMeter(clock)
    assert meter.worst_s == 0.0
    meter.start()
    meter.stop()
    meter.stop()
    assert not clock.timers
    assert meter.worst_s == 0.0


def test_free_descriptors_shrink_when_one_is_opened(tmp_path: Path) -> None:
    before = free_descriptors()
    with (tmp_path / "file").open("w"):
        assert free_descriptors() == before - 1


def test_none_is_free_where_none_is_left_to_look_with() -> None:
    with none_left():
        assert free_descriptors() == 0


def test_without_proc_the_limit_itself_is_assumed(tmp_path: Path) -> None:
    assert free_descriptors(tmp_path / "nothing") > free_descriptors()
