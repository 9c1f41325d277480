"""Calls between clients of two QUIC stacks, through one daemon, while everything changes at once.

    outcome = play("python", seconds=6, program=...)

Each call talks and writes to its control stream; every few hundred milliseconds its two connections begin
a key phase, change connection ids and move to another port, all three together or crosswise. Then it waits
until nothing is under way, counts at the clients, in the relay's metrics and in its recovery, and hangs up.
Must never live here: judgement (the tests).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coexist.client import Client
from coexist.foreign import QuinnClient
from coexist.party import Party
from coexist.serve import FACTS
from coexist.stock import Spelling, StockClient
from load.daemon import Daemon

TICK = 0.35
QUIET_S = 10.0
TRIES = 3
MAX_LAG = 0.02  # seconds; loss timers here count in milliseconds, and on a machine of its own it is 0.005
ID_LIFETIME_MS = 900
INTERVALS = (0.005, 0.020, 0.020, 0.010)
AT_ONCE = 2  # calls at a time: losses must be the relay's doing, not of a starved machine
SIZES = (60, 96, 121, 140)
Server = tuple[str, int]
Make = Callable[[str, Server, Path | None], Awaitable[Client]]


async def _quinn(name: str, server: Server, program: Path | None) -> Client:
    assert program is not None
    return await QuinnClient.connect(program, name, server, "--id-lifetime-ms", str(ID_LIFETIME_MS))


async def _quinn_without_ids(name: str, server: Server, program: Path | None) -> Client:
    assert program is not None
    return await QuinnClient.connect(program, name, server, "--zero-length")


def _stock(*, zero_length: bool = False, sizes: tuple[int, ...] = (), bare: bool = False) -> Make:
    async def make(name: str, server: Server, program: Path | None) -> Client:
        spelling = Spelling(sizes, bare) if sizes else None
        client = StockClient(name, server, zero_length=zero_length, spelling=spelling)
        await client.connect()
        return client

    return make


PAIRINGS: dict[str, tuple[Make, Make]] = {
    "quinn-quinn": (_quinn, _quinn),
    "quinn-aioquic": (_quinn, _stock()),
    "aioquic-aioquic": (_stock(), _stock()),
    "zero-length-ids": (_quinn_without_ids, _stock(zero_length=True)),
    "chromium-numbers": (_stock(sizes=(1,), bare=True, zero_length=True), _quinn),
    "all-number-sizes": (_stock(sizes=(1, 2, 3, 4)), _stock(sizes=(4, 1, 3), bare=True)),
}


def without_quinn() -> list[str]:
    """Pairings that need no cargo."""
    return [
        name for name, makes in PAIRINGS.items() if _quinn not in makes and _quinn_without_ids not in makes
    ]


@dataclass
class Outcome:
    """What a scene left behind."""

    parties: dict[str, tuple[Party, Party]]
    metrics: dict[str, float]
    facts: dict[str, int]
    """Of the relay's own recovery, see serve.py."""
    complaints: list[dict[str, Any]]
    """Warnings and errors of the daemon's log."""
    lane: str = ""
    update_after: int = 0
    lag: float = 0.0
    """How late our loop or a thread of the relay was at worst, seconds: more than a little, and the machine
    was starved."""
    ticks: int = 0
    unanswered: list[str] = field(default_factory=list)


def play(lane: str, seconds: float, names: list[str], program: Path | None, update_after: int = 0) -> Outcome:
    """Run these pairings on a daemon of their own; again, a few times at most, while the machine is starved.

    What the relay does makes neither late; but who is late answers late, or reads answers late, and losses
    follow by right.
    """
    path = Path(__file__).with_name("serve.py")
    run = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    for _ in range(TRIES):
        with Daemon.start(command=("-c", run, lane, str(update_after))) as daemon:
            outcome = asyncio.run(_Scene(daemon, seconds, program).play(names))
        if outcome.lag < MAX_LAG:
            break
    outcome.lane, outcome.update_after = lane, update_after
    return outcome


class _Scene:
    def __init__(self, daemon: Daemon, seconds: float, program: Path | None) -> None:
        self._daemon = daemon
        self._seconds = seconds
        self._program = program
        self._ticks = 0
        self._lag = 0.0
        self._calls: dict[str, tuple[Party, Party]] = {}

    async def play(self, names: list[str]) -> Outcome:
        watch = asyncio.create_task(self._watch_lag())
        unanswered: list[str] = []
        try:
            for start in range(0, len(names), AT_ONCE):
                some = names[start : start + AT_ONCE]
                for number, name in enumerate(some, start):
                    self._calls[name] = await self._place(name, number)
                await asyncio.gather(*(self._talk(name, number) for number, name in enumerate(some, start)))
                unanswered += await self._quiet()
            metrics = await asyncio.to_thread(self._daemon.metrics)
            facts = await asyncio.to_thread(self._facts)
            for pair in self._calls.values():
                for party in pair:
                    party.counts = await party.client.count()
        finally:
            watch.cancel()
            parties = [party for pair in self._calls.values() for party in pair]
            await asyncio.gather(*(party.client.close() for party in parties))
        return Outcome(
            self._calls,
            metrics,
            facts,
            self._daemon.complaints(),
            lag=max(self._lag, facts.pop("late_us") / 1e6),
            ticks=self._ticks,
            unanswered=unanswered,
        )

    async def _watch_lag(self) -> None:
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            self._lag = max(self._lag, time.monotonic() - due)

    async def _place(self, name: str, number: int) -> tuple[Party, Party]:
        call = os.urandom(16)
        parties = []
        for side, make in enumerate(PAIRINGS[name]):
            client = await make(f"{name}/{side}", self._daemon.server, self._program)
            party = Party(client, call, 100 * number + side)
            parties.append(party)
            await party.enter(self._daemon.token(call))
        for party in parties:
            party.accept()
        for party in parties:
            await party.gate()
        return parties[0], parties[1]

    async def _talk(self, name: str, number: int) -> None:
        tasks = []
        for side, party in enumerate(self._calls[name]):
            slot = (number + 2 * side) % len(INTERVALS)
            tasks.append(party.speak(self._seconds, INTERVALS[slot], SIZES[slot]))
            tasks.append(party.chatter(self._seconds, 0.06))
        await asyncio.gather(*tasks, self._disturb(self._calls[name], number))

    async def _disturb(self, pair: tuple[Party, Party], seed: int) -> None:
        rng = random.Random(seed)
        until = time.monotonic() + self._seconds - TICK
        turn = seed
        while time.monotonic() < until:
            await asyncio.sleep(TICK * rng.uniform(0.8, 1.2))
            one, other = (party.client for party in (pair if turn % 2 else pair[::-1]))
            every = [step for client in (one, other) for step in _steps(client)]
            crosswise = [one.update_keys, other.rebind] if turn % 4 else [one.change_id, other.update_keys]
            steps = every if turn % 3 == 0 else crosswise
            rng.shuffle(steps)
            for step in steps:
                step()
            turn += 1
            self._ticks += 1

    async def _quiet(self) -> list[str]:
        """Wait until all is answered and two looks at the media agree; what is still open after a while."""
        until = time.monotonic() + QUIET_S
        before: list[int] = []
        while True:
            await asyncio.sleep(0.3)
            heard = [(await party.client.count()).heard for pair in self._calls.values() for party in pair]
            waiting = [
                party.client.name
                for pair in self._calls.values()
                for party, other in (pair, pair[::-1])
                if party.pongs < party.pings or len(party.blobs_heard) < len(other.blobs)
            ]
            if (heard == before and not waiting) or time.monotonic() > until:
                return waiting
            before = heard

    def _facts(self) -> dict[str, int]:
        path = self._daemon.folder / FACTS
        os.kill(self._daemon.pid, signal.SIGUSR1)
        until = time.monotonic() + QUIET_S
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.02)
        facts: dict[str, int] = json.loads(path.read_text())
        return facts


def _steps(client: Client) -> list[Callable[[], None]]:
    return [client.update_keys, client.change_id, client.rebind]
