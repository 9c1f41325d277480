"""The part of `./scripts/lab restart` that kills: `kill -9` under calls, again and again.

    the service     `relay serve`, run by a supervisor that keeps sockets and memory as systemd does
    the people      SDK sessions of this process, each says a word (sealed, as media) several times a second
    some calls      in a tenth one side has muted itself; a few are not answered: nothing may pass there

A word is its sender's, the second it was said, and a number. After each kill: how long until the process says
it is ready, until the first word of each direction of each call, and until each person sits on a new leg and
has had an answer there. Must never live here: how the service is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from aioquic.quic.recovery import QuicPacketNumberWindow

from client.rig import Rig, prepare, public_of
from lab.nat import percentile
from load import report
from load.daemon import imbalance, scrape, total
from relay.client import Call, Session, connect
from supervisor import Supervisor

READY_MS: Final = 700.0
AUDIO_S: Final = 1.0
CONTROL_S: Final = 10.0
EVERY_S: Final = 0.4  # between two words of a person
AT_ONCE: Final = 4  # calls placed at the same time
RESTART_S: Final = 0.2  # RestartSec= of the unit
GIVE_UP_S: Final = 15.0
ROOM: Final = """
[limits]
initials_per_source_per_s = 10000
initials_per_source_burst = 10000
retry_above_half_open = 10000
retry_above_initials_per_s = 10000
half_open = 10000
"""
_WORD: Final = struct.Struct(">dI")


class Twice:
    """Counts packets that came under a number that had come before: on loopback only a sender makes these."""

    def __init__(self) -> None:
        self.count = 0
        contains = QuicPacketNumberWindow.__contains__

        def note(window: QuicPacketNumberWindow, number: int) -> bool:
            found = bool(contains(window, number))
            self.count += found
            return found

        QuicPacketNumberWindow.__contains__ = note  # type: ignore[method-assign]  # we listen


class Person:
    """One side of a call."""

    def __init__(self, session: Session, call: Call) -> None:
        self.session = session
        self.call = call
        self.said = 0
        self.words: list[tuple[float, float]] = []  # when heard, when said
        self.answered_at = 0.0
        call.on_app = self._hear

    def _hear(self, data: bytes) -> None:
        said, _ = _WORD.unpack(data)
        self.words.append((time.monotonic(), said))

    def say(self) -> None:
        """A word."""
        self.said += self.call.send_app(_WORD.pack(time.monotonic(), self.said))

    async def talk(self, start: float) -> None:
        """A word now and then, until cancelled."""
        await asyncio.sleep(start)
        while True:
            self.say()
            await asyncio.sleep(EVERY_S)

    async def come_back(self, moves: int) -> None:
        """Wait for a leg of the process that runs now, and for an answer there."""
        while self.session.moves == moves:  # noqa: ASYNC110  # the SDK does it by itself, and announces nothing
            await asyncio.sleep(0.02)
        await self.call.mute(self.call.is_muted)
        self.answered_at = time.monotonic()


class Place:
    """A service, its calls, and what each kill cost."""

    def __init__(self, rig: Rig, supervisor: Supervisor) -> None:
        self.rig = rig
        self.supervisor = supervisor
        self.calls: list[tuple[Person, Person]] = []
        self.ready_ms: list[float] = []
        self.audio_s: list[float] = []
        self.control_s: list[float] = []
        self.lost = 0

    def is_muted(self, index: int) -> bool:
        """In this call the first person has muted itself."""
        return index % 10 == 3

    def is_ringing(self, index: int) -> bool:
        """This call is never answered."""
        return index % 20 == 7

    async def place(self, stack: AsyncExitStack, count: int) -> None:
        """So many calls."""
        for first in range(0, count, AT_ONCE):
            indexes = range(first, min(first + AT_ONCE, count))
            self.calls += await asyncio.gather(*(self._place(stack, index) for index in indexes))
            report.say(f"  {len(self.calls)} calls")

    async def _place(self, stack: AsyncExitStack, index: int) -> tuple[Person, Person]:
        call = os.urandom(16)
        people = []
        for who in (1, 2):
            seed = os.urandom(32)
            token = self.rig.token(call, who, cnf=public_of(seed), sub=os.urandom(16))
            session = await stack.enter_async_context(
                connect(
                    self.rig.url,
                    token=token,
                    ca=self.rig.ca,
                    server_name="localhost",
                    pop_seed=seed,
                    direct=False,
                )
            )
            people.append(Person(session, await session.join()))
        one, two = people
        await asyncio.gather(*(person.call.keys_agreed() for person in people))
        await one.call.accept()
        if not self.is_ringing(index):
            await two.call.accept()
            await asyncio.gather(*(person.call.peer_accepted() for person in people))
        if self.is_muted(index):
            await one.call.mute(True)
        return one, two

    def directions(self) -> list[tuple[int, Person, Person]]:
        """Call, speaker and listener of each direction that is open."""
        found = []
        for index, (one, two) in enumerate(self.calls):
            if not self.is_ringing(index):
                found.append((index, two, one))
                if not self.is_muted(index):
                    found.append((index, one, two))
        return found

    async def crash(self) -> None:
        """Kill the process, start it again, and see what it cost."""
        people = [
            person for index, both in enumerate(self.calls) if not self.is_ringing(index) for person in both
        ]
        moves = [person.session.moves for person in people]
        killed = time.monotonic()
        await asyncio.to_thread(self.supervisor.kill)
        await asyncio.sleep(RESTART_S)
        began = time.monotonic()
        self.ready_ms.append(1000 * await asyncio.to_thread(self.supervisor.start))
        backs = [asyncio.create_task(one.come_back(n)) for one, n in zip(people, moves, strict=True)]
        done, pending = await asyncio.wait(backs, timeout=GIVE_UP_S)
        for task in pending:
            task.cancel()
        self.lost += len(pending) + sum(task.exception() is not None for task in done)
        self.control_s += [one.answered_at - began for one in people if one.answered_at > began]
        for _, _, listener in self.directions():
            after = [heard for heard, _ in listener.words if heard > killed + 0.001]
            first = min(after, default=None)
            self.audio_s.append(GIVE_UP_S if first is None else first - began)
            listener.words.clear()

    def wrongly_open(self) -> int:
        """Words that passed where nothing may."""
        passed = 0
        for index, (one, two) in enumerate(self.calls):
            if self.is_ringing(index):
                passed += len(one.words) + len(two.words)
            elif self.is_muted(index):
                passed += len(two.words)
        return passed


@asynccontextmanager
async def service(lane: str) -> AsyncIterator[Place]:
    """A service that runs."""
    with tempfile.TemporaryDirectory(prefix="relay-crash-") as folder:
        rig, command = prepare(Path(folder), lane=lane, more=ROOM)
        supervisor = Supervisor(command, Path(folder) / "log")
        try:
            await asyncio.to_thread(supervisor.start)
            yield Place(rig, supervisor)
        finally:
            await asyncio.to_thread(supervisor.close)


async def judge(out: report.Report, *, calls: int, kills: int, lane: str = "auto") -> None:
    """The whole stage."""
    twice = Twice()
    async with service(lane) as place, AsyncExitStack() as stack:
        await place.place(stack, calls)
        people = [person for both in place.calls for person in both]
        talks = [
            asyncio.create_task(person.talk(EVERY_S * number / len(people)))
            for number, person in enumerate(people)
        ]
        await asyncio.sleep(2.0)
        for number in range(kills):
            await place.crash()
            report.say(
                f"  kill {number + 1}/{kills}: ready {place.ready_ms[-1]:.0f} ms, "
                f"audio {max(place.audio_s[-2 * calls :]):.2f} s, control {max(place.control_s):.2f} s"
            )
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await _end(place, out)
    out.bar("ready after exec, worst, ms", max(place.ready_ms), "<=", READY_MS, is_speed=True)
    out.bar(
        "audio of every direction back, worst, s after exec", max(place.audio_s), "<=", AUDIO_S, is_speed=True
    )
    out.bar("control of everybody back, worst, s after exec", max(place.control_s), "<=", CONTROL_S)
    out.bar("people who did not come back", place.lost, "==", 0)
    out.bar("packets under a number that had come before", twice.count, "==", 0)
    out.bar("words where nothing may pass", place.wrongly_open(), "==", 0)
    out.detail(
        crash={
            "calls": calls,
            "kills": kills,
            "ready_ms_p50": percentile(place.ready_ms, 0.5),
            "audio_s_p50": percentile(place.audio_s, 0.5),
            "audio_s_p99": percentile(place.audio_s, 0.99),
            "control_s_p99": percentile(place.control_s, 0.99),
        }
    )


async def _end(place: Place, out: report.Report) -> None:
    """Everybody hangs up: nothing may be left."""
    with contextlib.suppress(Exception):
        await asyncio.gather(*(one.call.hangup() for one, _ in place.calls), return_exceptions=True)
    samples: dict[str, float] = {}
    for _ in range(100):
        samples = await asyncio.to_thread(scrape, f"http://127.0.0.1:{place.rig.metrics_port}")
        if not total(samples, "relay_calls"):
            break
        await asyncio.sleep(0.1)
    out.bar("calls left when all hung up", total(samples, "relay_calls"), "==", 0)
    out.bar("packets out of balance in the last process", imbalance(samples), "==", 0)
