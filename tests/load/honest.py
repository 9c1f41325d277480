"""An honest client joins a real daemon while first packets flood it. Must never live here: the flood."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from load import process
from load.daemon import Daemon, imbalance, total
from load.leg import Leg
from load.report import Report, say

RATE = 5_000
LEAD = 2.0  # seconds of flood before the first honest join
AFTER = 7.0  # longer than the handshake deadline
MAX_JOIN_S = 1.0


async def join_once(daemon: Daemon) -> float:
    """Seconds from the first packet to `joined`."""
    call = os.urandom(16)
    leg = Leg(daemon.server)
    started = time.monotonic()
    try:
        await leg.connect(10)
        await leg.hello(daemon.token(call), 10)
        await leg.join(call, 10)
        return time.monotonic() - started
    finally:
        leg.close()


def _flooder(port: int, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "load.flood", str(port), str(RATE), str(seed)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def _line(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert child.stdout is not None
    line = await asyncio.to_thread(child.stdout.readline)
    result: dict[str, Any] = json.loads(line)
    return result


async def judge(out: Report, *, joins: int, seed: int) -> None:
    """Bars of the flood."""
    say(f"flood: {RATE} first packets/s from 127.0.0.0/8 against a daemon, {joins} honest joins")
    with Daemon.start() as daemon:
        calm = [await join_once(daemon) for _ in range(3)]
        rss = process.rss_bytes(daemon.pid)
        child = _flooder(daemon.server[1], seed)
        assert child.stdin is not None
        try:
            await _line(child)
            cpu, started = process.cpu_seconds(daemon.pid), time.monotonic()
            child.stdin.write(b"go\n")
            child.stdin.flush()
            await asyncio.sleep(LEAD)
            times: list[float] = []
            failed = 0
            for _ in range(joins):
                try:
                    times.append(await join_once(daemon))
                except Exception as error:
                    failed += 1
                    say(f"  honest join failed: {error!r}")
                await asyncio.sleep(0.25)
            used = (process.cpu_seconds(daemon.pid) - cpu) / (time.monotonic() - started)
            child.stdin.close()
            flood = await _line(child)
        finally:
            child.stdin.close()
            child.wait()
        await asyncio.sleep(AFTER)
        samples = daemon.metrics()
        growth = process.rss_bytes(daemon.pid) - rss
        out.bar("honest joins that failed during the flood", failed, "==", 0)
        slowest = max(times, default=None)
        out.bar("slowest honest join during the flood, s", slowest, "<=", MAX_JOIN_S, is_speed=True)
        out.bar("half-open handshakes after the flood", samples["relay_half_open"], "==", 0)
        out.bar("packets out of balance after the flood", imbalance(samples), "==", 0)
        out.bar("warnings in the daemon's log", len(daemon.complaints()), "==", 0)
        out.detail(
            flood={
                "sent": flood["sent"],
                "per_s": round(flood["sent"] / flood["seconds"]),
                "joins_s": [round(x, 4) for x in times],
                "joins_without_flood_s": [round(x, 4) for x in calm],
                "daemon_cpu_share": round(used, 3),
                "rss_growth_kib": growth // 1024,
                "kernel_dropped": samples["relay_udp_kernel_dropped_total"],
                "retries": samples.get('relay_udp_answered_total{kind="retry"}', 0),
                "handshakes_expired": samples["relay_handshakes_expired_total"],
                "legs": total(samples, "relay_legs"),
                "dropped": {k: v for k, v in samples.items() if v and k.startswith("relay_udp_dropped")},
                "complaints": daemon.complaints()[:3],
            }
        )
