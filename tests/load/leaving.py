"""Thousands of legs leave at once: how long one turn of the daemon's loop gets, in CPU time of its thread.

Two ways to leave: every leg says so in one burst, and every leg falls silent at the same moment, so that all
idle timers run out together. Must never live here: the loop that measures (turns.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

from load import process
from load.daemon import Daemon, imbalance, total
from load.leg import HELD, Leg
from load.report import Report, say
from relay.config import LimitsConfig

MAX_TURN_MS = 5.0
AT_ONCE = 40  # calls being placed at a time
IDLE = 15.0
KEEPALIVE = 4.0
POLL = 1.0  # a scrape walks all legs: rarely, it is no part of what is measured


async def _place(daemon: Daemon, number: int, gate: asyncio.Semaphore) -> list[Leg]:
    call = os.urandom(16)
    async with gate:
        legs = [
            Leg(daemon.server, source=f"127.{20 + who}.{number // 250}.{number % 250 + 1}", ack_hold=HELD)
            for who in range(2)
        ]
        for leg in legs:
            await leg.connect(30)
            await leg.hello(daemon.token(call), 30)
            await leg.join(call, 30)
        for leg in legs:
            await leg.accept(call)
        for leg in legs:
            await leg.gate(30)
    return legs


async def _keep_alive(legs: list[Leg]) -> None:
    while True:
        await asyncio.sleep(KEEPALIVE)
        for leg in list(legs):
            leg.ping()


async def _settle(daemon: Daemon, seconds: float) -> float:
    """Wait until no leg is left; how long that took."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        await asyncio.sleep(POLL)
        if total(await asyncio.to_thread(daemon.metrics), "relay_legs") == 0:
            break
    return time.monotonic() - started


async def _turns(daemon: Daemon) -> dict[str, Any]:
    path = daemon.folder / "turns.json"
    os.kill(daemon.pid, signal.SIGUSR2)
    async with asyncio.timeout(10):
        while True:
            if path.exists():
                break
            await asyncio.sleep(0.02)
    facts: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return facts


async def _leave(daemon: Daemon, count: int, *, politely: bool) -> dict[str, Any]:
    placing = asyncio.Semaphore(AT_ONCE)
    legs: list[Leg] = []
    keeper = asyncio.create_task(_keep_alive(legs))
    started = time.monotonic()
    for done in asyncio.as_completed([_place(daemon, n, placing) for n in range(count // 2)]):
        legs += await done
    say(f"  {len(legs)} legs in {time.monotonic() - started:.1f} s")
    keeper.cancel()
    joining = await _turns(daemon)
    await asyncio.sleep(0.5)
    os.kill(daemon.pid, signal.SIGUSR1)
    started = time.monotonic()
    for leg in legs:
        if politely:
            leg.close()
        else:
            leg.ping()
            leg.vanish()
    burst = time.monotonic() - started
    gone = await _settle(daemon, IDLE + 20)
    await asyncio.sleep(1.0)
    samples = await asyncio.to_thread(daemon.metrics)
    return {
        "legs": len(legs),
        "burst_s": round(burst, 2),
        "gone_after_s": round(gone, 1),
        "leaving": await _turns(daemon),
        "joining": joining,
        "legs_left": total(samples, "relay_legs"),
        "imbalance": imbalance(samples),
        "rss": process.rss_bytes(daemon.pid),
    }


async def judge(out: Report, count: int) -> None:
    """Bars of mass leaving."""
    say(f"leaving: {count} legs of {count // 2} calls at once")
    results = {}
    for name, politely in (("close", True), ("silence", False)):
        with Daemon.start(LimitsConfig(idle_s=IDLE), command=("-m", "load.turns")) as daemon:
            result = results[name] = await _leave(daemon, count, politely=politely)
            worst = result["leaving"]["worst_ms"][-1]
            out.bar(
                f"{count} leave by {name}: ms of CPU in the worst loop turn",
                worst,
                "<=",
                MAX_TURN_MS,
                is_speed=True,
            )
            out.bar(f"{count} leave by {name}: legs left", result["legs_left"], "==", 0)
            result["complaints"] = daemon.complaints()[:3]
    out.detail(leaving=results)
