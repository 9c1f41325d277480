"""Stages of the voice lab in which networks change: plans, what is read off a course, which bars hold."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from impair import NETS
from lab import beside, steps, voice, walk
from lab.livecall import Watch, rss_kb
from lab.walk import Course, Look
from lab.weather import BAD_S, CLEAR, GOOD_S, Change, nets, step
from lab.weather import walk as spells_of
from load.report import Report
from relay.client.jitter import JitterBuffer
from relay.core.adapt import State


class Bars(Report):
    """Which bars were missed."""

    def __init__(self) -> None:
        super().__init__("test", seed=1, quick=False)

    @property
    def missed(self) -> list[str]:
        return [bar["name"] for bar in self._bars if not bar["ok"]]


# ---------------------------------------------------------------- weather


def test_a_step_is_narrow_for_as_long_as_it_was_asked_for() -> None:
    assert step(10, 8) == [Change(0, "rate:100000"), Change(8, "rate:40000"), Change(18, "rate:100000")]
    down, up = nets("rate:40000")
    assert (down.rates, down.queue, up.rates) == (((0, 40_000.0),), 300.0, ())


def test_a_walk_of_half_an_hour_meets_every_kind_and_each_call_in_an_order_of_its_own() -> None:
    one, other = spells_of(1, 0, 1800), spells_of(1, 1, 1800)
    assert spells_of(1, 0, 1800) == one != spells_of(2, 0, 1800)
    assert [(spell.at, spell.until) for spell in one] == [(spell.at, spell.until) for spell in other]
    assert [spell.name for spell in one] != [spell.name for spell in other]
    names = {spell.name for spell in one}
    assert {"b10_60", "international", "spiky", "rate:30000", "dark:8"} <= names
    assert set(NETS) - names <= {"clean", "capacity", "iid1", "iid5"}
    assert all(BAD_S[0] <= spell.until - spell.at <= BAD_S[1] for spell in one)
    assert one[-1].good_until <= 1800 < one[-1].good_until + BAD_S[1] + GOOD_S
    assert spells_of(1, 0, 30) == []


def test_every_spell_is_of_networks_that_there_are_and_ends_in_good_weather() -> None:
    for spell in spells_of(3, 0, 3600):
        changes = spell.changes()
        assert changes[0].at == spell.at
        assert changes[-1].name == CLEAR
        assert changes[-1].at <= spell.until
        assert [change.at for change in changes] == sorted(change.at for change in changes)
        for change in changes:
            nets(change.name)


# ---------------------------------------------------------------- steps


def told(**changes: Any) -> dict[str, Any]:
    """A call with a drop at 8 s and a rise at 18 s that just holds every bar."""
    queue = [(8 + n / 50, 200.0) for n in range(101)]
    asked = [(0.0, 24_000, 20), (8.8, 16_000, 60), (30.0, 24_000, 40), (38.0, 24_000, 20)]
    links = [{"overflowed": 3}, {"overflowed": 0}]
    stats = [{}, {"lost": 0, "late": 0, "concealed": 0}]
    whole = {"queue": queue, "asked": asked, "mutes": [(9.0, 200.0)], "links": links, "stats": stats}
    return {**whole, "playout": 300.0, **changes}


def missed_of(one: dict[str, Any]) -> list[str]:
    bars = Bars()
    steps.judge(bars, "native", [steps.outcome(one, 8, 18)], quick=False)
    return [name.removeprefix("native_") for name in bars.missed]


def test_times_over_the_bound_are_joined_when_they_are_close() -> None:
    queue = [(1.0, 70.0), (1.2, 90.0), (1.4, 10.0), (1.6, 60.0), (5.0, 61.0)]
    assert steps.over(queue) == [(1.0, 1.6), (5.0, 5.0)]


def test_a_call_that_just_holds_misses_nothing() -> None:
    found = steps.outcome(told(), 8, 18)
    assert (found["queue_gone_after_s"], found["restored_after_s"], found["mute_ms"]) == (2.0, 20.0, 200.0)
    assert found["least_asked"] == (16_000, 60)
    assert missed_of(told()) == []


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"queue": [(8 + n / 50, 60.0) for n in range(103)]}, "queue_gone_after_s"),
        ({"queue": [(12 + n / 50, 60.0) for n in range(103)]}, "later_over_s"),
        ({"mutes": [(9.0, 201.0)]}, "mute_ms"),
        ({"asked": [(0.0, 24_000, 20), (9.0, 16_000, 60), (38.1, 24_000, 20)]}, "restored_after_s"),
        ({"asked": [(0.0, 24_000, 20), (9.0, 16_000, 60)]}, "restored_after_s"),
    ],
)
def test_each_bar_of_a_step_can_be_missed(changes: dict[str, Any], missed: str) -> None:
    assert missed_of(told(**changes)) == [missed]


def test_a_speaker_who_was_never_asked_for_less_proves_nothing() -> None:
    one = told(asked=[(0.0, 24_000, 20)], queue=[])
    assert missed_of(one) == ["speakers_were_asked_for_less"]


def test_a_pause_in_what_is_played_is_a_mute_and_long_packets_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, items = [0.0], [b"\x18", None, None, b"\x08", b"\x08"]  # 60 ms, and two of 20
    monkeypatch.setattr("lab.livecall.time.monotonic", lambda: now[0])
    jitter = JitterBuffer()
    monkeypatch.setattr(jitter, "pull", lambda _: items.pop(0))
    watch = Watch()
    watch.attach(jitter, 0.0)
    for at in (0.0, 0.06, 0.08, 0.20, 0.22):
        now[0] = at
        jitter.pull(at)
    assert watch.mutes == [(0.2, 140.0)]


# ---------------------------------------------------------------- beside


def test_tcp_gets_its_share_of_what_the_call_leaves() -> None:
    found = beside.shares(call_bytes=1_000_000, tcp_bytes=7_000_000, seconds=88.0)
    assert found["tcp_share"] == 0.7
    assert found["call_kbps"] == pytest.approx(90.9)


# ---------------------------------------------------------------- walk


def look(at: float, client: dict[str, Any] | None = None, **changes: Any) -> Look:
    """A second of a walk in which all is well but for `changes`, those of the process of the calls apart."""
    count = round(50 * at)
    well = {"rss_kb": 50_000, "fds": 20, "tasks": 9, "asked": [[[24_000, 20], [24_000, 20]]]}
    theirs = {**well, "received": [[count, count]], **(client or {})}
    one = Look(at, 70_000, 30, 6, 0.0, {state.value: 0 for state in State}, theirs)
    return replace(one, **changes)


def missed_in(*looks: Look, **changes: Any) -> list[str]:
    link = {"sent": 10, "doubled": 1, "delivered": 8, "lost": 2, "overflowed": 1, "flying": 0}
    stats = {"sent": 90, "unsent": 10, "received": 95, "lost": 5}
    call = {"states": ["open", "open"], "stats": [stats, stats], "links": [link, link], **changes}
    bars = Bars()
    walk.judge(bars, Course(list(looks), [call]), spells_of(1, 0, 100))
    return [name.removeprefix("walk_") for name in bars.missed]


def test_a_walk_after_which_all_is_as_before_misses_nothing() -> None:
    assert missed_in(*map(look, range(100))) == []


@pytest.mark.parametrize(
    ("later", "missed"),
    [
        ({"rss_kb": 74_200}, "relay_growth_kb"),
        ({"fds": 31}, "relay_descriptors"),
        ({"tasks": 7}, "relay_tasks"),
        ({"imbalance": 1.0}, "imbalance"),
        ({"ways": {"congested": 1, "clean": 1}}, "good_spells_not_good"),
        ({"client": {"rss_kb": 54_200}}, "calls_growth_kb"),
        ({"client": {"fds": 21}}, "calls_descriptors"),
        ({"client": {"tasks": 10}}, "calls_tasks"),
        ({"client": {"asked": [[[24_000, 40], [24_000, 20]]]}}, "good_spells_not_good"),
        ({"client": {"received": [[2000, 2000]]}}, "good_spells_not_good"),
    ],
)
def test_each_bar_over_time_can_be_missed(later: dict[str, Any], missed: str) -> None:
    looks = [look(at, **(later if at >= 50 else {})) for at in range(100)]
    assert missed_in(*looks) == [missed]


def test_a_good_spell_at_whose_end_nobody_looked_is_none() -> None:
    (spell,) = spells_of(1, 0, 100)
    assert missed_in(*map(look, range(round(spell.good_until) - 5))) == ["good_spells_not_good"]


def test_each_bar_of_the_calls_can_be_missed() -> None:
    well = [look(at) for at in range(100)]
    assert missed_in(*well, states=["open", "away"]) == ["people_gone"]
    short = [{"sent": 90, "unsent": 10, "received": 94, "lost": 5}] * 2
    assert missed_in(*well, stats=short) == ["packets_unaccounted"]


def test_the_memory_of_a_process_is_known() -> None:
    assert rss_kb(os.getpid()) > 10_000


# ---------------------------------------------------------------- which stages


def test_by_default_all_stages_run_that_can() -> None:
    assert voice.default_stages(quick=False, is_root=True) == ["clips", "steps", "mixed", "beside", "walk"]
    assert voice.default_stages(quick=False, is_root=False) == ["clips", "steps", "mixed", "walk"]
    assert voice.default_stages(quick=True, is_root=True) == ["clips", "steps", "mixed"]
