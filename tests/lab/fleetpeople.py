"""People of a region: SDK sessions in a process of their own there, each one end of a call.

    parent                                       child (python -m lab.fleetpeople), in the region's namespace
    {"ca", "calm", "nice"}                -->    its first line
    {"do": "place", "people": [...]}      -->    they join, accept; {"placed": n, "failed": [why, ...]}
    {"do": "since", "at": t}              -->    words count that are said from then on, and delays; {}
    {"do": "anxious"}                     -->    their node is gone: once elsewhere they speak more often,
                                                 until the other has heard a word; {}
    {"do": "look"}                        -->    how each one fares, a list
    end of input                          -->    its end

The other end may be in another region, so each person is placed by itself. A word is sealed media: when
it was said, by the monotonic clock, which is one for all processes of a machine, and a number. Who has a
`voice` speaks Opus besides. Must never live here: bars, daemons, where calls go.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import uvloop

from lab.callers import calm_down
from lab.child import Child
from lab.fleetnodes import Fleet
from relay.client import Call, CallbackSink, CallState, Session, ToneSource, climb, connect, health, standby
from relay.protocol.token import from_text

SLOW_S: Final = 1.0  # between two words of a person
QUICK_S: Final = 0.1
ANXIOUS_S: Final = 0.2
LOOK_S: Final = 0.1
START_S: Final = 60.0
END_S: Final = 10.0
YIELDING: Final = 10
MOST_DELAYS: Final = 2_000
TONE_HZ: Final = 440.0
_WORD: Final = struct.Struct(">dI")


def call_of(
    fleet: Fleet,
    call: bytes,
    url: str,
    *,
    voice: bool = False,
    every: float = SLOW_S,
    after: float = 0.0,
    home: str | None = None,
) -> list[dict[str, Any]]:
    """Both people of a call at this address, as `place` wants them; `home`: whom their tokens name."""
    made = []
    for side in (0, 1):
        seed = os.urandom(32)
        made.append(
            {
                "call": call.hex(),
                "side": side,
                "url": url,
                "token": fleet.token(call, seed, home),
                "seed": seed.hex(),
                "voice": voice,
                "every": every,
                "after": after,
            }
        )
    return made


class People(Child):
    """One child process in a region, as the parent sees it; all hang up when it is stopped."""

    def __init__(self, fleet: Fleet, place: str, *, is_calm: bool = True, yields: bool = False) -> None:
        """`yields`: so many that they would starve the daemons, who do not share a machine with phones."""
        first = {"ca": fleet.ca, "calm": is_calm, "nice": YIELDING if yields else 0}
        super().__init__("lab.fleetpeople", first, fleet.ground.within(place))

    def ask(self, do: str, **more: Any) -> Any:
        """An order and its answer."""
        self.say({"do": do, **more})
        return self.hear()

    def look(self) -> list[dict[str, Any]]:
        """How each one fares."""
        found: list[dict[str, Any]] = self.ask("look")
        return found


def place(groups: Sequence[tuple[People, list[dict[str, Any]]]]) -> list[str]:
    """Place people of several processes at once, as both ends of a call need each other; why some failed."""
    for child, people in groups:
        child.say({"do": "place", "people": people})
    return [why for child, _ in groups for why in child.hear()["failed"]]


# ---------------------------------------------------------------- the child


class Person:
    """One end of a call."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made
        self.session: Session | None = None
        self.call: Call | None = None
        self.other: Person | None = None
        """Where the other end is in this process, too."""
        self.is_anxious = False
        self._roused = asyncio.Event()
        self._moves = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._opened_at = 0.0
        self._first_at: float | None = None
        self._numbers: set[int] = set()
        self._said = 0
        self._since = 0.0
        self._back_at: float | None = None
        self._delays: list[float] = []

    async def enter(self, stack: AsyncExitStack, ca: str) -> None:
        """Connect, join, accept, and begin to speak."""
        made = self.made
        await asyncio.sleep(made["after"])
        self.session = await stack.enter_async_context(
            connect(
                made["url"],
                token=from_text(made["token"]),
                ca=ca,
                server_name="localhost",
                pop_seed=bytes.fromhex(made["seed"]),
                direct=False,
            )
        )
        call = self.call = await self.session.join()
        call.on_app = self._hear
        await call.keys_agreed()
        await call.accept()
        await call.peer_accepted()
        self._opened_at = time.monotonic()
        self._tasks.append(asyncio.create_task(self._talk(call)))
        if made["voice"]:
            sink = CallbackSink(lambda pcm: None)
            self._tasks.append(asyncio.create_task(call.talk(ToneSource(TONE_HZ, None), sink)))

    async def _talk(self, call: Call) -> None:
        while True:
            if not self.is_anxious or self._has_moved:  # nobody is where it was before
                self._said += call.send_app(_WORD.pack(time.monotonic(), self._said))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._roused.wait()
            self._roused.clear()

    def _pause(self) -> float:
        if not self.is_anxious:
            every: float = self.made["every"]
            return every
        return ANXIOUS_S if self._has_moved else LOOK_S / 2  # a voice goes on at once

    @property
    def _has_moved(self) -> bool:
        """Since its node is gone."""
        return self.session is not None and self.session.moves > self._moves

    def _hear(self, data: bytes) -> None:
        now = time.monotonic()
        said, number = _WORD.unpack(data)
        self._numbers.add(number)
        self._first_at = self._first_at or now
        if said > self._since:
            if len(self._delays) < MOST_DELAYS:
                self._delays.append(now - said)
            if self._back_at is None:
                self._back_at = now
                if self.other is not None:
                    self.other.is_anxious = False

    def rouse(self) -> None:
        """Its node is gone: from its move on it speaks more often, until the other has heard a word."""
        self.is_anxious, self._moves = True, self.session.moves if self.session is not None else 0
        self._roused.set()

    def on_since(self, at: float) -> None:
        """What is said from then on counts."""
        self._since, self._back_at = at, None
        self._delays.clear()

    def look(self) -> dict[str, Any]:
        """How this one fares."""
        assert self.session is not None
        assert self.call is not None
        rung, stats = self.session.rung, self.call.stats()
        delays = sorted(self._delays)
        span = max(self._numbers) - min(self._numbers) + 1 if self._numbers else 0
        return {
            "call": self.made["call"],
            "side": self.made["side"],
            "alive": self.session.error is None and self.call.state is CallState.OPEN,
            "state": self.call.state.name,
            "why": self.call.why,
            "host": rung.host if rung is not None else "",
            "moves": self.session.moves,
            "has_standby": self.session.has_standby,
            "is_warm": self.session.has_warm_standby,
            "first_s": None if self._first_at is None else self._first_at - self._opened_at,
            "heard": len(self._numbers),
            "lost": span - len(self._numbers),
            "back_s": None if self._back_at is None else self._back_at - self._since,
            "delay_p99_ms": 1000 * delays[int(0.99 * (len(delays) - 1))] if delays else None,
            "delays": len(delays),
            "voice": {"received": stats.received, "lost": stats.lost} if self.made["voice"] else None,
            "unopened": stats.unopened,
        }

    async def leave(self) -> None:
        """Hang up, if there is still somebody to."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.call is not None and self.call.state is not CallState.ENDED:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(END_S):
                    await self.call.hangup()


class Room:
    """All people of the process."""

    def __init__(self, first: dict[str, Any]) -> None:
        self._ca: str = first["ca"]
        self._people: list[Person] = []
        self._stack = AsyncExitStack()

    async def do(self, order: dict[str, Any]) -> Any:
        """One order."""
        match order["do"]:
            case "place":
                return await self._place([Person(made) for made in order["people"]])
            case "since":
                for person in self._people:
                    person.on_since(order["at"])
            case "anxious":
                for person in self._people:
                    person.rouse()
            case "look":
                return [person.look() for person in self._people]
        return {}

    async def _place(self, people: list[Person]) -> dict[str, Any]:
        async def enter(person: Person) -> str:
            try:
                async with asyncio.timeout(START_S + person.made["after"]):
                    await person.enter(self._stack, self._ca)
            except Exception as error:  # whatever it is, the parent says so
                return f"{person.made['url']}: {type(error).__name__}: {error}"
            return ""

        why = await asyncio.gather(*(enter(person) for person in people))
        self._people += [person for person, failed in zip(people, why, strict=True) if not failed]
        by_call: dict[str, list[Person]] = {}
        for person in self._people:
            by_call.setdefault(person.made["call"], []).append(person)
        for both in by_call.values():
            if len(both) == 2:
                both[0].other, both[1].other = both[1], both[0]
        gc.collect()
        gc.freeze()  # through hundreds of sessions a full collection takes a while, and all are late
        failed = [reason for reason in why if reason]
        return {"placed": len(people) - len(failed), "failed": failed}

    async def leave(self) -> None:
        """All hang up."""
        await asyncio.gather(*(person.leave() for person in self._people))
        with contextlib.suppress(Exception):
            await self._stack.aclose()


async def _main() -> None:
    loop = asyncio.get_running_loop()
    read: Callable[[], Any] = sys.stdin.readline
    first = json.loads(await loop.run_in_executor(None, read))
    os.nice(first["nice"])
    if first["calm"]:
        # A node that is gone is found out by pings, so these stay as they are while all is well. Who looks at
        # them does so half as often, and a node that is silent is asked no more often than one that speaks:
        # what 300 people do to find it again would be paid by two processors, and not by 300 phones.
        pings = health.IDLE_S
        calm_down()
        vars(health).update(IDLE_S=pings, BUSY_S=pings)
        vars(climb)["STEP_S"] = vars(standby)["LOOK_S"] = LOOK_S
    room = Room(first)
    while line := await loop.run_in_executor(None, read):
        print(json.dumps(await room.do(json.loads(line))), flush=True)
    await room.leave()


if __name__ == "__main__":
    uvloop.run(_main())
