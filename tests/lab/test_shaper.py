"""The lab's internet on a simulated clock: delay, order, loss, rate."""

from __future__ import annotations

import pytest

from lab.shaper import HALF_ACCESS_S, Conditions, Shaper

SIZE = 200


def deliver(shaper: Shaper[str], until: float) -> list[tuple[float, bytes]]:
    arrived = []
    while (at := shaper.next_deadline()) is not None and at <= until:
        arrived += [(at, packet) for _, packet in shaper.pop(at)]
    return arrived


def test_a_packet_takes_both_access_lines() -> None:
    shaper: Shaper[str] = Shaper(seed=1)
    shaper.push(1.0, b"x", "here", "there")
    assert shaper.pop(1.0 + 2 * HALF_ACCESS_S - 1e-6) == []
    assert shaper.pop(1.0 + 2 * HALF_ACCESS_S) == [("there", b"x")]
    assert shaper.next_deadline() is None


def test_nothing_overtakes_when_a_line_becomes_faster() -> None:
    shaper: Shaper[str] = Shaper(seed=1)
    shaper.set_conditions("here", Conditions(delay_s=0.5), Conditions())
    shaper.push(0.0, b"first", "here", "there")
    shaper.set_conditions("here", Conditions(delay_s=0.0), Conditions())
    shaper.push(0.1, b"second", "here", "there")
    assert [packet for _, packet in deliver(shaper, 1.0)] == [b"first", b"second"]


def test_the_share_that_a_line_loses_is_lost_and_counted() -> None:
    shaper: Shaper[str] = Shaper(seed=7)
    shaper.set_conditions("here", Conditions(loss=0.2), Conditions())
    for number in range(5000):
        shaper.push(number / 100, bytes(SIZE), "here", "there")
    arrived = len(deliver(shaper, 100.0))
    assert arrived + shaper.dropped == 5000
    assert shaper.dropped == pytest.approx(1000, abs=100)


def test_the_same_seed_loses_the_same_packets() -> None:
    runs = []
    for _ in range(2):
        shaper: Shaper[str] = Shaper(seed=3)
        shaper.set_conditions("here", Conditions(loss=0.5), Conditions())
        for number in range(100):
            shaper.push(number / 100, b"%d" % number, "here", "there")
        runs.append(deliver(shaper, 10.0))
    assert runs[0] == runs[1]


def test_a_limited_line_passes_its_rate_and_drops_what_would_wait_too_long() -> None:
    shaper: Shaper[str] = Shaper(seed=1)
    shaper.set_conditions("here", Conditions(delay_s=0.0, rate_bps=16_000, queue_s=0.5), Conditions())
    for _ in range(20):
        shaper.push(0.0, bytes(SIZE), "here", "there")  # 0.1 s each
    times = [at - HALF_ACCESS_S for at, _ in deliver(shaper, 10.0)]
    assert times == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert shaper.dropped == 14
