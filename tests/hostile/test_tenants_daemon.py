"""One issuer floods a running daemon with joins, calls and commands; another one's people notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median

import pytest

from lanes import LANES
from load.daemon import Daemon, mint
from load.leg import Leg
from relay.config import IssuerConfig, LimitsConfig
from relay.protocol.signed import public_of

TESTS = Path(__file__).parents[1]
FLOODER, QUIET = b"f" * 32, b"q" * 32
RATE, CALLS = 5, 10
FLOOD_S = 4.0
JOINS = 25
MAX_JOIN_S, MEDIAN_JOIN_S = 1.0, 0.25
"""From the first packet to `joined`, on a machine with nothing else to do, where it takes 20 ms without a
flood. What a join at an undisturbed daemon takes meanwhile is the machine's doing: twice that is added."""
LIMITS = LimitsConfig(calls=60, initials_per_source_per_s=100_000, initials_per_source_burst=100_000)
ISSUERS = (
    IssuerConfig(
        "flooder",
        public_of(FLOODER).hex(),
        apart=True,
        joins_per_s=RATE,
        commands_per_s=RATE,
        calls=CALLS,
    ),
    IssuerConfig("quiet", public_of(QUIET).hex(), apart=True, reserved_percent=50),
)


@pytest.fixture(params=LANES)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with Daemon.start(limits=LIMITS, issuers=ISSUERS, lane=request.param) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[Daemon]:
    with Daemon.start(limits=LIMITS, issuers=ISSUERS) as started:
        yield started


@contextlib.asynccontextmanager
async def flooding(daemon: Daemon) -> AsyncIterator[asyncio.subprocess.Process]:
    """Its people, in a process of their own."""
    words = ("-m", "hostile.flooder", str(daemon.server[1]), FLOODER.hex())
    child = await asyncio.create_subprocess_exec(
        sys.executable, *words, str(daemon.folder / "commands.sock"), str(FLOOD_S),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        cwd=TESTS, env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def quiet_join(daemon: Daemon) -> float:
    """Seconds from the first packet to `joined`. RefusedError."""
    leg, call = Leg(daemon.server), os.urandom(16)
    started = time.monotonic()
    try:
        await leg.connect()
        await leg.hello(mint(QUIET, call))
        await leg.join(call)
        return time.monotonic() - started
    finally:
        leg.close()


async def test_a_flood_of_one_issuer_refuses_and_delays_nobody_of_another(
    daemon: Daemon, undisturbed: Daemon
) -> None:
    async with flooding(daemon) as child:
        times, calm = [], []
        for _ in range(JOINS):
            times.append(await quiet_join(daemon))
            calm.append(await quiet_join(undisturbed))
            await asyncio.sleep(FLOOD_S / JOINS / 2)
        assert child.stdout is not None
        flood = json.loads(await asyncio.wait_for(child.stdout.readline(), 60))
        metrics = await asyncio.to_thread(daemon.metrics)
    joins = {name: [round(each, 3) for each in sorted(one)] for name, one in (("b", times), ("calm", calm))}
    seen = f"joins {joins}, the flood {flood}"

    def refused(issuer: str, reason: str) -> float:
        return metrics[f'relay_issuer_refused_total{{issuer="{issuer}",reason="{reason}"}}']

    assert max(times) < MAX_JOIN_S + 2 * max(calm), seen
    assert median(times) < MEDIAN_JOIN_S + 2 * median(calm), seen
    assert all(refused("quiet", reason) == 0 for reason in ("joins", "legs", "calls", "shared", "commands"))
    assert metrics['relay_issuer_admitted_total{issuer="quiet"}'] == JOINS
    assert metrics['relay_issuer_calls{issuer="flooder"}'] == flood["joined"] == CALLS, seen
    assert refused("flooder", "joins") > 0, seen
    assert refused("flooder", "calls") > 0, seen
    assert refused("flooder", "joins") + refused("flooder", "calls") == flood["refused"], seen
    assert refused("flooder", "commands") == flood["commands"]["RATE_LIMITED"] > 0, seen
    assert flood["commands"]["NO_ERROR"] > 0, seen
    assert daemon.complaints() == []
