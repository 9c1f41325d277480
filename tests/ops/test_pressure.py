"""What counts as full, of looks that tests make up; and a look at this very process."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from relay.ops.pressure import OVER_S, Look, Pressure, threads_s


def look(cpu: float = 0.0, packets: int = 0, lag: float = 0.0, **threads: float) -> Look:
    return Look(cpu, threads, packets, lag)


def test_the_fullest_counts_and_a_thread_alone_never_fills_the_node() -> None:
    def after(second: Look, packets_per_s: int = 0) -> float:
        pressure = Pressure(2)
        pressure.on_look(0.0, look(10.0, 1_000, a=5.0, b=5.0), packets_per_s)
        return pressure.on_look(2.0, second, packets_per_s)

    assert after(look(10.0, 1_000, a=5.0, b=5.0)) == 0.0
    assert after(look(13.6, 1_000)) == pytest.approx(1.0)  # 1.8 of two processors
    assert after(look(10.0, 3_000), 1_000) == pytest.approx(1.0)
    assert after(look(10.0, 3_000), 0) == 0.0
    assert after(look(10.0, 1_000, 0.125)) == pytest.approx(0.5)
    assert after(look(10.0, 1_000, a=5.95, b=5.1)) == pytest.approx(0.5)
    assert after(look(10.0, 1_000, a=9.0, b=5.0)) == 0.99
    assert after(look(10.0, 1_000, c=99.0)) == 0.0  # a thread that began meanwhile


def test_what_is_longer_ago_than_five_seconds_is_over() -> None:
    pressure = Pressure(1)
    for second in range(20):
        pressure.on_look(float(second), look(min(second, 10) * 0.9), 0)
    assert (pressure.ratio, OVER_S) == (0.0, 5.0)


def test_the_first_look_tells_of_the_loop_alone() -> None:
    assert Pressure(0).on_look(0.0, look(99.0, 99, 0.25, a=99.0), 1) == pytest.approx(1.0)


def test_each_thread_of_a_process_is_seen_by_its_id(tmp_path: Path) -> None:
    halt = threading.Event()
    thread = threading.Thread(target=halt.wait, name="a) b")
    thread.start()
    try:
        found = threads_s()
        assert {str(os.getpid()), str(thread.native_id)} <= set(found)
        assert 0 < found[str(os.getpid())] < 100_000
    finally:
        halt.set()
        thread.join()
    assert threads_s(tmp_path) == {}
