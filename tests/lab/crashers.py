"""People of calls whose daemon is killed: SDK sessions in a process of their own, a word each now and then.

    parent                                  child (python -m lab.crashers)
    orders on its standard input     -->    calls are placed; {"placed": n} when all stand
    {"killed": t}                    -->    words count that are said from then on; {} when that is noted
    {"began": t}                     -->    all speak more often, and come back: what it cost, one JSON line
    end of input                     -->    all hang up

Times are those of the monotonic clock, which is one for all processes of a machine. A word is the second it
was said, and a number. Must never live here: bars, daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import struct
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import uvloop
from aioquic.quic.recovery import QuicPacketNumberWindow

from client.rig import Rig
from lab.callers import calm_down, orders
from lab.child import Child
from relay.client import Call, Session, climb, connect, health
from relay.protocol.token import from_text

EVERY_S: Final = 4.0  # between two words of a person: whatever 600 people do takes a CPU
ANXIOUS_S: Final = 0.2  # the same, of one who may not be heard
APART_S: Final = 0.6  # between calls of a process that begin: one costs 80 ms of CPU
START_S: Final = 300.0
GIVE_UP_S: Final = 15.0
_WORD: Final = struct.Struct(">dI")


def order(rig: Rig, *, muted: bool, ringing: bool) -> dict[str, Any]:
    """A call to be placed. `muted`: its first person mutes itself. `ringing`: the second never answers."""
    [made] = orders(rig, ["words"], "crash")
    return {**made, "ca": rig.ca, "muted": muted, "ringing": ringing}


class Crashers(Child):
    """One child process with its calls, as the parent sees it; all hang up when it is stopped."""

    def __init__(self, calls: list[dict[str, Any]]) -> None:
        super().__init__("lab.crashers", calls)

    def wait_placed(self) -> int:
        """Until all calls stand; how many do."""
        return int(self.hear()["placed"])

    def note_killed(self, at: float) -> None:
        """Words count that are said after this moment."""
        self.say({"killed": at})
        self.hear()

    def ask_back(self, began: float) -> None:
        """The process that takes over was begun then: wait for everybody."""
        self.say({"began": began})

    def backs(self) -> dict[str, Any]:
        """What it cost: `audio` and `control` (seconds after `began`), `lost`, `twice`, `wrong` (counts)."""
        found: dict[str, Any] = self.hear()
        return found


# ---------------------------------------------------------------- the child


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
        self.heard = 0
        self.other: Person | None = None
        self.since = 0.0
        self.first_at: float | None = None  # the first word said after `since`
        self.moves = 0
        self.answered_at = 0.0
        self.is_anxious = asyncio.Event()
        call.on_app = self._hear

    def _hear(self, data: bytes) -> None:
        said, _ = _WORD.unpack(data)
        self.heard += 1
        if self.first_at is None and said > self.since:
            self.first_at = time.monotonic()
            if self.other is not None:
                self.other.is_anxious.clear()

    async def talk(self, start: float) -> None:
        """A word now and then, until cancelled; more often when told to, until the other has heard one."""
        await asyncio.sleep(start)
        while True:
            self.said += self.call.send_app(_WORD.pack(time.monotonic(), self.said))
            if self.is_anxious.is_set():
                await asyncio.sleep(ANXIOUS_S)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.is_anxious.wait(), EVERY_S)
                    await asyncio.sleep(random.uniform(0, ANXIOUS_S))  # people do not speak in chorus

    def on_killed(self, at: float) -> None:
        """What is said from then on counts."""
        self.since, self.first_at, self.moves = at, None, self.session.moves

    async def come_back(self) -> None:
        """Wait for a leg of the process that runs now, and for an answer there."""
        while self.session.moves == self.moves:  # noqa: ASYNC110  # the SDK does it by itself, and announces nothing
            await asyncio.sleep(0.05)
        await self.call.mute(self.call.is_muted)
        self.answered_at = time.monotonic()


class Pair:
    """A call."""

    def __init__(self, made: dict[str, Any]) -> None:
        self._made = made
        self.people: list[Person] = []
        self.muted = bool(made["muted"])
        self.ringing = bool(made["ringing"])

    async def place(self, stack: AsyncExitStack, after: float) -> None:
        """Connect, join, accept."""
        await asyncio.sleep(after)
        made = self._made
        for url, text, seed in zip(made["urls"], made["tokens"], made["seeds"], strict=True):
            session = await stack.enter_async_context(
                connect(
                    url,
                    token=from_text(text),
                    ca=made["ca"],
                    server_name="localhost",
                    pop_seed=bytes.fromhex(seed),
                    direct=False,
                )
            )
            self.people.append(Person(session, await session.join()))
        one, two = self.people
        one.other, two.other = two, one
        await asyncio.gather(*(person.call.keys_agreed() for person in self.people))
        await one.call.accept()
        if not self.ringing:
            await two.call.accept()
            await asyncio.gather(*(person.call.peer_accepted() for person in self.people))
        if self.muted:
            await one.call.mute(True)

    def listeners(self) -> list[Person]:
        """Who hears somebody."""
        if self.ringing:
            return []
        return self.people[:1] if self.muted else self.people

    def wrongly_heard(self) -> int:
        """Words that passed where nothing may."""
        may = self.listeners()
        return sum(person.heard for person in self.people if person not in may)


async def _bring_back(pairs: list[Pair], began: float, twice: Twice) -> dict[str, Any]:
    people = [person for pair in pairs if not pair.ringing for person in pair.people]
    for person in people:
        person.is_anxious.set()
    backs = [asyncio.create_task(person.come_back()) for person in people]
    done, pending = await asyncio.wait(backs, timeout=GIVE_UP_S)
    for task in pending:
        task.cancel()
    for pair in pairs:
        for person in pair.people:
            person.is_anxious.clear()
    firsts = [person.first_at for pair in pairs for person in pair.listeners()]
    return {
        "audio": [GIVE_UP_S if first is None else first - began for first in firsts],
        "control": [person.answered_at - began for person in people if person.answered_at > began],
        "lost": len(pending) + sum(task.exception() is not None for task in done),
        "twice": twice.count,
        "wrong": sum(pair.wrongly_heard() for pair in pairs),
    }


async def _main() -> None:
    calm_down()
    vars(climb)["STEP_S"], vars(health)["IDLE_S"] = 1.0, 4.0  # who is asked to come back need not look
    twice = Twice()
    loop = asyncio.get_running_loop()
    read: Callable[[], Any] = sys.stdin.readline
    async with AsyncExitStack() as stack:
        pairs = [Pair(made) for made in json.loads(await loop.run_in_executor(None, read))]
        async with asyncio.timeout(START_S):
            await asyncio.gather(*(pair.place(stack, APART_S * n) for n, pair in enumerate(pairs)))
        people = [person for pair in pairs for person in pair.people]
        talks = [
            asyncio.create_task(person.talk(EVERY_S * number / len(people)))
            for number, person in enumerate(people)
        ]
        gc.disable()  # through 150 sessions it takes half a second, and they all are late; a phone has one
        print(json.dumps({"placed": len(pairs)}), flush=True)
        while line := await loop.run_in_executor(None, read):
            told = json.loads(line)
            answer: dict[str, Any] = {}
            if "killed" in told:
                for person in people:
                    person.on_killed(told["killed"])
            else:
                answer = await _bring_back(pairs, told["began"], twice)
            print(json.dumps(answer), flush=True)
            if answer:
                gc.collect()
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await asyncio.gather(*(pair.people[0].call.hangup() for pair in pairs), return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(_main())
