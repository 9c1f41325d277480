"""People who talk while daemons come and go: SDK sessions of many calls in a process of their own.

    parent                                    child (python -m lab.callers)
    orders on its standard input      -->     calls are placed; {"talking": n} when all talk
    "mark"                            -->     what every direction counted so far, one JSON line
    "tidy"                            -->     garbage is collected, now and not before the next time; the same
    end of input                      -->     all hang up

Two kinds of calls, by what they send: `voice`, a packet of Opus every 20 ms, encoded, sealed, played by the
jitter buffer; `quiet`, a sealed packet a second, as between two who listen. Must never live
here: bars, daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from client.rig import Rig, public_of
from lab.child import Child
from relay import client
from relay.client import Call, Session, climb, health, leg, reports
from relay.client.life import CallState
from relay.protocol.token import from_text, to_text

TONE_HZ = 440.0
QUIET_S = 1.0  # Opus in DTX says something each 0.4 s; 400 people at that pace are too many for two cores
APART_S = 1.0  # between calls of a process that begin: one costs 80 ms of CPU
START_S = 150.0
LOOK_S = 1.0
FRAME_MS = 20
TIDIED_S = 0.5  # after a collection: what came meanwhile is read, or has been missed
NOTE = b"still here, and not a word spoken all the while"


def orders(rig: Rig, kinds: Sequence[str], group: str) -> list[dict[str, Any]]:
    """One entry per call: kind, addresses, tokens and device keys of both people."""
    made: list[dict[str, Any]] = []
    for kind in kinds:
        call, seeds = os.urandom(16), [os.urandom(32), os.urandom(32)]
        tokens = [
            to_text(rig.token(call, who, public_of(seed), sub=os.urandom(16)))  # two alike would be glare
            for who, seed in enumerate(seeds)
        ]
        keys = [seed.hex() for seed in seeds]
        urls = [rig.url, rig.url]
        made.append({"urls": urls, "kind": kind, "group": group, "tokens": tokens, "seeds": keys})
    return made


class Callers(Child):
    """One child process with its calls, as the parent sees it; all hang up when it is stopped."""

    def __init__(self, calls: list[dict[str, Any]]) -> None:
        super().__init__("lab.callers", calls)

    def wait_talking(self) -> int:
        """Until all calls talk; how many do."""
        return int(self.hear()["talking"])

    def mark(self) -> list[dict[str, Any]]:
        """What each direction counted up to now."""
        return self._ask("mark")

    def tidy(self) -> list[dict[str, Any]]:
        """Collect garbage now, and not before this is said again; what each direction missed by that.

        Through 100 sessions a collection takes some hundred milliseconds, in which all stand still: a phone
        has one session.
        """
        return self._ask("tidy")

    def _ask(self, what: str) -> list[dict[str, Any]]:
        self.say(what)
        found: list[dict[str, Any]] = self.hear()
        return found


# ---------------------------------------------------------------- the child


class Direction:
    """What one person hears of the other."""

    def __init__(self, order: dict[str, Any], session: Session, call: Call) -> None:
        self.order, self.session, self.call = order, session, call
        self._before = (0, 0, 0)

    def mark(self) -> dict[str, Any]:
        """What is missing since the last mark, and how the call stands."""
        stats = self.call.stats()
        now = (stats.lost, stats.concealed, stats.received)
        lost, concealed, received = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        is_voice = self.order["kind"] == "voice"
        missing = max(lost, concealed) if is_voice else lost
        return {
            "kind": self.order["kind"],
            "group": self.order["group"],
            "gap_ms": FRAME_MS * max(0, missing),
            "received": received,
            "moves": self.session.moves,
            "alive": self.session.error is None and self.call.state is CallState.OPEN,
            "unopened": stats.unopened,
        }


async def _murmur(call: Call) -> None:
    while True:
        call.send_app(NOTE)
        await asyncio.sleep(QUIET_S)


async def _one(order: dict[str, Any], after: float, over: asyncio.Event, ready: asyncio.Queue[Any]) -> None:
    await asyncio.sleep(after)
    async with contextlib.AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(
                client.connect(
                    url,
                    token=from_text(text),
                    pop_seed=bytes.fromhex(seed),
                    insecure=True,
                    direct=False,
                )
            )
            for url, text, seed in zip(order["urls"], order["tokens"], order["seeds"], strict=True)
        ]
        calls = [await session.join() for session in sessions]
        await asyncio.gather(*(call.accept() for call in calls))
        await asyncio.gather(*(call.peer_accepted() for call in calls))
        if order["kind"] == "voice":
            sink = client.CallbackSink(lambda pcm: None)
            talks = [call.talk(client.ToneSource(TONE_HZ, None), sink) for call in calls]
        else:
            talks = [_murmur(call) for call in calls]
        tasks = [asyncio.create_task(talk) for talk in talks]
        await ready.put([Direction(order, *pair) for pair in zip(sessions, calls, strict=True)])
        await over.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def calm_down() -> None:
    """What 400 people ask and report costs more than there is on two cores: let them do it less often.

    Whatever a move consists of is as it is.
    """
    paces: dict[Any, dict[str, float]] = {
        climb: {"STEP_S": 0.5, "LOOK_S": 30.0},
        leg: {"LOOK_S": 0.8},
        health: {"IDLE_S": 2.0},
        reports: {"REPORT_S": 1.0, "CALM_REPORT_S": 5.0, "RR_S": 5.0, "PING_S": 5.0},
    }
    for module, values in paces.items():
        vars(module).update(values)


async def _main() -> None:
    calm_down()
    loop = asyncio.get_running_loop()
    made = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    over, ready = asyncio.Event(), asyncio.Queue[list[Direction]]()
    tasks = [asyncio.create_task(_one(order, APART_S * n, over, ready)) for n, order in enumerate(made)]
    directions: list[Direction] = []
    async with asyncio.timeout(START_S):
        while len(directions) < 2 * len(made):
            for task in tasks:
                if task.done():
                    task.result()  # why it ended before it talked
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    directions += await ready.get()
    print(json.dumps({"talking": len(made)}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if json.loads(line) == "tidy":
            gc.disable()
            gc.collect()
            await asyncio.sleep(TIDIED_S)
        print(json.dumps([direction.mark() for direction in directions]), flush=True)
    over.set()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(_main())
