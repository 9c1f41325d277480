"""What a daemon does again and again while it serves, each as a task of its own.

None may end by an error: a daemon that went on without it would be half dead, and nobody would see it. Must
never live here: what is done each second for people (daemon.py), decisions.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from relay.core.adapt import TICK_S
from relay.edge import manager
from relay.edge.assembly import Node
from relay.edge.lane import PacketCounts
from relay.edge.pulse import LOOK_S, Probe, Progress, Pulse
from relay.errors import LocalError

log = logging.getLogger("relay.daemon")
TRUNKS_S = 0.1  # a third of what a silent trunk that carries voices is borne
TIDYING = 0.05  # seconds between collections of young garbage
FULL_COLLECTION = 12_000  # of these between full ones
TELL_AGAIN = 60.0  # seconds between lines about bugs that the lane survives
FEW = 64  # legs at most during a full collection: a pause of some 10 ms for them, once in ten minutes
YOUNG = 5_000  # objects that a collection takes 1 to 2 ms for
NO_PROBE = "no packet of ours comes back by our own address: the watchdog can judge the loop alone"
LOOKS_UNTIL_HEARD = 40  # 10 s after the start


class Tasks:
    """The tasks of one daemon. `failed` is called when the first of them ends by an error."""

    def __init__(self, failed: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *rounds: Coroutine[Any, Any, None]) -> None:
        """Run these, too."""
        for each in rounds:
            task = asyncio.create_task(each)
            task.add_done_callback(self._on_end)
            self._tasks.append(task)

    async def stop(self) -> BaseException | None:
        """Run none any more. What the first met that ended by an error."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._error

    def _on_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None or self._error is not None:
            return
        self._error = error
        log.critical("the daemon cannot go on, and ends for a new one: %s", error, exc_info=error)
        self._failed()


async def watch_threads(
    counted: Callable[[], PacketCounts],
    wanted: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """LocalError as soon as a thread of the lane ended by itself: nobody reads its sockets any more.

    What its threads survived is told at once, and then once a minute while more comes. `wanted`: threads.
    """
    told, tell_at = 0, float("-inf")
    for _ in itertools.count():
        counts, now = counted(), clock()
        if counts.panics > told and now >= tell_at:
            facts = {"panics": counts.panics, "place": counts.panicked_at}
            log.error("the lane met a bug of ours and goes on: please report it", extra=facts)
            told, tell_at = counts.panics, now + TELL_AGAIN
        if counts.threads < wanted():
            raise LocalError(f"lane threads that ended by themselves: {wanted() - counts.threads}")
        await asyncio.sleep(LOOK_S)


async def adapt(node: Node) -> None:
    """Five times a second: what the ways are like on which something went wrong."""
    while True:
        await asyncio.sleep(TICK_S)
        for _ in node.driver.measure_ways(adapts=node.config.adapt.enabled):
            await asyncio.sleep(0)


async def watch_trunks(node: Node) -> None:
    """Ten times a second: which trunks are alive. One that is not is found out in a third of one."""
    while True:
        await asyncio.sleep(TRUNKS_S)
        for _ in node.driver.report_trunks():
            await asyncio.sleep(0)


async def collect(node: Node) -> None:
    """Young garbage, before it is enough to cost a pause."""
    for turn in itertools.count(1):
        await asyncio.sleep(TIDYING)
        legs = len(node.endpoint) + len(node.streams)
        tidy(turn % FULL_COLLECTION == 0 and legs <= FEW)


async def feed_watchdog(node: Node, sockets: Callable[[], Iterable[socket.socket]]) -> None:
    """Tell the service manager's watchdog, from the loop, each time that the node was proven to work.

    `sockets`: one of each address, the first of those that are read.
    """
    if manager.watchdog_interval() is None:
        return
    pulse, probe = Pulse(), Probe(node.endpoint, os.urandom)
    due = time.monotonic()
    for look in itertools.count(1):
        probe.send(sockets())
        due += LOOK_S
        await asyncio.sleep(due - time.monotonic())
        now = time.monotonic()
        late, due = now - due, now
        counts = node.lane.packets()
        progress = Progress(counts.received, counts.taken, counts.waiting, probe.heard)
        if pulse.look(late, node.config.health.lag_ms / 1000, progress):
            manager.notify("WATCHDOG=1")
        if look == LOOKS_UNTIL_HEARD and not pulse.is_armed:
            log.warning(NO_PROBE)


def tidy(full: bool) -> None:
    """Collect garbage in cycles without a pause that a voice could hear.

    The youngest objects are collected if they are few, and then set aside, so that no later collection walks
    over the thousands of objects of each living connection. What dies among those set aside waits for a
    full collection; connections break their own cycles, so that this is little.

    The collector's count falls with each death of an object set aside, too: when thousands of legs leave it
    says 1 while 10,000 young objects stand there each second. So this is done often, lest they be many.
    """
    if full:
        gc.unfreeze()
        gc.collect()
    elif gc.get_count()[0] < YOUNG:
        gc.collect(0)
    gc.freeze()
