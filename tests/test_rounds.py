"""What a daemon does again and again: no task ends unseen, what the lane survived is told without a flood."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

import pytest

from relay import rounds
from relay.edge.lane import PacketCounts
from relay.errors import LocalError


def counts(threads: int = 2, panics: int = 0) -> PacketCounts:
    return PacketCounts(0, 0, 0, 0, 0, 0, {}, {}, threads=threads, panics=panics, panicked_at="seal.rs:7")


def following(*found: PacketCounts) -> Callable[[], PacketCounts]:
    return iter(found).__next__


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "LOOK_S", 0.0)


async def test_a_thread_that_ended_by_itself_ends_the_watch() -> None:
    counted = following(counts(), counts(), counts(threads=1))
    with pytest.raises(LocalError, match="ended by themselves: 1"):
        await rounds.watch_threads(counted, lambda: 2)


async def test_other_numbers_of_threads_that_are_wanted_end_nothing() -> None:
    numbers = iter((2, 3, 3))
    counted = following(counts(2), counts(3), counts(3))
    with pytest.raises((StopIteration, RuntimeError)):  # the test's own end
        await rounds.watch_threads(counted, lambda: next(numbers))


async def test_what_the_lane_survived_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    panics = [0, 1, 5, 90, 90, 100, 100, 100]
    times = itertools.chain([0.0, 1.0, 2.0, 60.9, 61.0, 61.5, 121.0], itertools.repeat(500.0))
    counted = following(*(counts(panics=number) for number in panics), counts(threads=0))
    with pytest.raises(LocalError):
        await rounds.watch_threads(counted, lambda: 2, clock=lambda: next(times))
    told = [(vars(record)["panics"], vars(record)["place"]) for record in caplog.records]
    assert told == [(1, "seal.rs:7"), (90, "seal.rs:7"), (100, "seal.rs:7")]


async def _forever() -> None:
    await asyncio.Event().wait()


async def _fails(after: asyncio.Event, text: str) -> None:
    await after.wait()
    raise LocalError(text)


async def test_the_first_task_that_fails_is_told_in_one_line_and_stops_the_daemon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed, now = asyncio.Event(), asyncio.Event()
    tasks = rounds.Tasks(failed.set)
    tasks.start(_forever(), _fails(now, "first"), _fails(now, "second"))
    now.set()
    await asyncio.wait_for(failed.wait(), 5)
    await asyncio.sleep(0)
    assert str(await tasks.stop()) == "first"
    [record] = caplog.records
    assert record.levelno == logging.CRITICAL
    assert "first" in record.getMessage()


async def test_tasks_that_are_stopped_or_done_have_not_failed() -> None:
    failed = asyncio.Event()
    tasks = rounds.Tasks(failed.set)
    tasks.start(_forever(), asyncio.sleep(0))
    await asyncio.sleep(0)
    assert await tasks.stop() is None
    assert not failed.is_set()
