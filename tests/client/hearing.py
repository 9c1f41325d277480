"""What people in a call hear of each other, as far as the machine lets them: it may have other work.

    await until(lambda: ...)          waits for a condition, bounded; how long it took
    await silence(call, 1.5)          the longest time in which nothing new was heard
    async with watched() as held:     held.worst: the longest that the machine held anybody up

The first two do not count what the machine held up: time in which this process did not run, and time for
which a thread of a daemon beside it was ready and was not let run (proc(5), schedstat). Must never live
here: bars.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.client import Call

PATIENCE_S = 20.0
LOOK_S = 0.004
LOOKED_AFTER = 0.010  # seconds that a look may take; more is the machine's
ANEW = 25  # readings after which processes that began or ended are seen


class Machine:
    """How long the threads of our child processes were ready and were not let run.

    Not of those that give way to others, as the fuzzing beside the tests does: they always wait.
    """

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._read = 0

    def waits(self) -> dict[Path, int]:
        """Of each thread since it began, nanoseconds; nothing where the kernel does not say."""
        if self._read % ANEW == 0:
            self._files = list(_threads())
        self._read += 1
        found = {}
        for file in self._files:
            with contextlib.suppress(OSError):  # it has ended
                found[file] = int(file.read_text().split()[1])
        return found


def _threads() -> Iterator[Path]:
    """Where the kernel counts for each thread of our children."""
    own, niceness = Path("/proc/self/task"), os.getpriority(os.PRIO_PROCESS, 0)
    for one in os.listdir(own):
        with contextlib.suppress(OSError):  # a thread, or a child, that has ended; a kernel that does not say
            for child in (own / one / "children").read_text().split():
                if os.getpriority(os.PRIO_PROCESS, int(child)) == niceness:
                    threads = Path(f"/proc/{child}/task")
                    yield from (threads / thread / "schedstat" for thread in os.listdir(threads))


def held_up(before: Mapping[Path, int], after: Mapping[Path, int]) -> float:
    """Seconds that the thread waited that waited longest between two readings."""
    return max((after[file] - before[file] for file in after.keys() & before.keys()), default=0) / 1e9


@dataclass
class Held:
    """What the machine did meanwhile."""

    worst: float = 0.0
    """Seconds: how late this process was at most, or a daemon's thread in a tenth of a second."""


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[Held]:
    """Look at the machine while the body runs."""
    held, machine, loop = Held(), Machine(), asyncio.get_running_loop()

    async def look() -> None:
        last, before = loop.time(), machine.waits()
        for number in itertools.count(1):
            await asyncio.sleep(LOOK_S)
            now = loop.time()
            held.worst = max(held.worst, now - last - LOOK_S)
            last = now
            if number % ANEW == 0:
                after = machine.waits()
                held.worst = max(held.worst, held_up(before, after))
                before = after

    looking = asyncio.create_task(look())
    try:
        yield held
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


async def until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> float:
    """Wait for a condition; how long it took, without what this process did not run. TimeoutError."""
    loop = asyncio.get_running_loop()
    took, last = 0.0, loop.time()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(LOOK_S)
            now = loop.time()
            took += min(now - last, LOOKED_AFTER)
            last = now
    return took


async def silence(call: Call, seconds: float) -> float:
    """The longest time in which nothing new was heard, less what the machine made of it; seconds."""
    loop, machine = asyncio.get_running_loop(), Machine()
    begun = last = loop.time()
    count, longest, gap, before = call.stats().received, 0.0, 0.0, machine.waits()
    while last - begun < seconds:
        await asyncio.sleep(LOOK_S)
        now = loop.time()
        gap += min(now - last, LOOKED_AFTER)  # both people speak and hear on this loop
        last = now
        if call.stats().received > count:
            after = machine.waits()
            longest = max(longest, gap - held_up(before, after))
            count, gap, before = call.stats().received, 0.0, after
    return max(longest, gap - held_up(before, machine.waits()))
