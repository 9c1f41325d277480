"""A live stage: a daemon as shipped, people who call each other, and a Prometheus that scrapes it.

    async with live(seed) as scene:
        scene.looks, await scene.until(("ok",), 180), await scene.alerts(), await scene.series()

Must never live here: what breaks, and what is judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab import gauges
from lab.crowd import Crowd
from lab.sightings import Look, Series, became, fired
from load import report, tasks
from load.daemon import Daemon
from prometheus.server import Prometheus, serving
from relay.ops.health import LAG_EVERY

PER_S: Final = 2.0  # calls that begin
SDK_CALLS: Final = 5
CERTIFICATE_DAYS: Final = 90  # so that no alert asks for a new one
_STARTING: Final = (
    threading.Lock()
)  # a configuration is written by ast, which CPython 3.11 cannot do twice at once


@dataclass
class Scene:
    """One live stage while it runs."""

    daemon: Daemon
    prometheus: Prometheus
    crowd: Crowd
    looks: list[Look] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    begin: float = 0.0
    """Of what breaks."""
    marks: dict[str, float] = field(default_factory=dict)
    """What happened when, for the picture."""

    late: list[float] = field(default_factory=list)
    """By how much each look at the clock came too late, seconds: what this machine does to a process."""

    async def tick(self) -> None:
        """Look at the clock until cancelled, as often as the daemon does."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self.late.append(loop.time() - due)

    async def watch(self) -> None:
        """Look each second until cancelled; what does not answer in time is looked at again."""
        while True:
            with contextlib.suppress(OSError):
                body = await asyncio.to_thread(_health, self.daemon)
                self.looks.append(Look.of(time.time(), body))
            await asyncio.sleep(1.0)

    async def until(self, states: tuple[str, ...], within: float, since: float | None = None) -> Look | None:
        """The first look at one of these states, as soon as there is one."""
        since = time.time() if since is None else since
        while True:
            found = became(self.looks, states, since)
            if found is not None or time.time() > since + within:
                return found
            await asyncio.sleep(0.5)

    async def alerts(self) -> dict[str, float]:
        """All that fired so far, and when."""
        answer = await asyncio.to_thread(
            self.prometheus.get, "query", query='ALERTS{alertstate="firing"}[1h]'
        )
        return fired(answer["result"])

    async def series(self) -> dict[str, list[Series]]:
        """Of the panels that are drawn."""
        now = time.time()
        return {
            panel["title"]: await asyncio.to_thread(gauges.read, self.prometheus, panel, self.began, now)
            for panel in gauges.panels()
        }


def _start() -> Daemon:
    with _STARTING:
        return Daemon.start(certificate_days=CERTIFICATE_DAYS)


def _health(daemon: Daemon) -> dict[str, Any]:
    with urllib.request.urlopen(daemon.metrics_url + "/health", timeout=5) as answer:
        body: dict[str, Any] = json.loads(answer.read())
        return body


@asynccontextmanager
async def live(
    seed: int, *, per_s: float = PER_S, sdk: int = SDK_CALLS, by_proxies: bool = False, mute: float = 0.0
) -> AsyncIterator[Scene]:
    """A daemon, a Prometheus that scrapes it, and people who call."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-incidents-"))
        daemon = stack.enter_context(await asyncio.to_thread(_start))
        target = daemon.metrics_url.removeprefix("http://")
        prometheus = await asyncio.to_thread(stack.enter_context, serving(Path(folder), target, every=None))
        crowd = Crowd(daemon, per_s=per_s, seed=seed, by_proxies=by_proxies)
        crowd.mute_share = mute
        scene = Scene(daemon, prometheus, crowd)
        busy = tasks.cpu_seconds(daemon.pid), time.process_time()
        helpers = [asyncio.create_task(job) for job in (scene.watch(), scene.tick(), crowd.run())]
        try:
            if sdk:
                await crowd.add_sdk(sdk)
            yield scene
        finally:
            await crowd.stop()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            seconds = time.time() - scene.began
            spent = [tasks.cpu_seconds(daemon.pid) - busy[0], time.process_time() - busy[1]]
            report.say(
                f"  cpus: daemon {spent[0] / seconds:.2f}, lab {spent[1] / seconds:.2f}; {crowd.facts()}"
            )
