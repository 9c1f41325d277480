"""Calls over last miles that change by plan, in a process of their own: both talk, one listener is watched.

The parent writes its orders as one JSON line. The child prints {"began"} when all talk (the monotonic clock,
which processes share), each second {"at", ...} of itself if a call is ordered `told`, and at the end what
each call came to. Must never live here: bars, the relay, what the weather will be (weather.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import uvloop

from lab.lastmile import LastMile
from lab.voicecall import START_S, Lag
from lab.weather import CLEAR, Change, nets
from relay.client import Call, CallbackSink, Session, ToneSource, connect
from relay.client.audio import Decoder, Encoder, opus_ticks
from relay.client.jitter import JitterBuffer
from relay.protocol.token import from_text

LOOK_S: Final = 0.02
TELL_S: Final = 1.0
TAIL_S: Final = 1.0  # what was said last is on its way, and so is what is held
WORTH_MS: Final = 60.0  # a pause in what is played that is shorter is not told
_TICK_MS: Final = 2.5


@dataclass(frozen=True)
class Order:
    """One call to be placed."""

    port: int
    """Of the relay, on loopback."""
    tokens: list[str]
    rtt_ms: float
    seed: int
    plan: list[dict[str, Any]]
    """`weather.Change`s of the last mile of the second person."""
    seconds: float
    told: bool = False
    """Tell each second, and keep no trace: for hours."""


@dataclass
class Watch:
    """What the listener's network and ears and the speaker's encoder were like. Seconds since the begin."""

    queue: list[tuple[float, float]] = field(default_factory=list)
    """(when, ms) that a packet would wait at the bottleneck; only while one would."""
    asked: list[tuple[float, int, int]] = field(default_factory=list)
    """(when, bits per second, ms in a packet) of the speaker's encoder, at each change."""
    mutes: list[tuple[float, float]] = field(default_factory=list)
    """(when it ended, ms) in which nothing of what was said was played."""
    playout: float = 0.0
    """The longest that a frame was played after its earliest moment, ms."""
    queue_now: float = 0.0

    def attach(self, jitter: JitterBuffer, began: float) -> None:
        """Watch what is played; nothing is changed."""
        pull = jitter.pull
        audible_until: float | None = None

        def watched(now: float) -> object:
            nonlocal audible_until
            cursor = jitter._cursor
            item = pull(now)
            if isinstance(item, bytes):
                at = time.monotonic() - began
                if audible_until is not None and 1000 * (at - audible_until) >= WORTH_MS:
                    self.mutes.append((round(at, 3), round(1000 * (at - audible_until), 1)))
                audible_until = at + opus_ticks(item) * _TICK_MS / 1000
                if cursor is not None:
                    self.playout = max(self.playout, jitter._delay_of(cursor, now))
            return item

        jitter.pull = watched  # type: ignore[method-assign]  # watched, not changed

    def look(self, path: LastMile, speaker: Call, began: float, *, keeps: bool) -> None:
        """Each 20 ms."""
        now = time.monotonic()
        at = round(now - began, 3)
        self.queue_now = path.down.link.queue_ms(now)
        if keeps and self.queue_now > 0:
            self.queue.append((at, round(self.queue_now, 1)))
        asked = asked_of(speaker)
        if not self.asked or self.asked[-1][1:] != asked:
            self.asked.append((at, *asked))


def asked_of(speaker: Call) -> tuple[int, int]:
    """Bits per second and ms in a packet that the relay asks of somebody now."""
    wishes, now = speaker._wishes, speaker._loop.time()
    return wishes.bitrate(speaker.bitrate, now), 20 * wishes.steps(now)


@dataclass
class Placed:
    """One call that stands."""

    order: Order
    path: LastMile
    sessions: list[Session]
    calls: list[Call]
    sources: list[ToneSource]
    watch: Watch = field(default_factory=Watch)

    async def talk(self, began: float) -> dict[str, Any]:
        """Until the plan is over; what it came to."""
        speaker, listener = self.calls
        order, watch, path = self.order, self.watch, self.path
        peer = listener._peer
        assert peer is not None
        watch.attach(listener._reception.heard(peer).jitter, began)
        before = path.down.bytes
        tasks = [asyncio.create_task(call.listen(CallbackSink(lambda pcm: None))) for call in self.calls]
        voices = [
            asyncio.create_task(call.speak(source))
            for call, source in zip(self.calls, self.sources, strict=True)
        ]
        changes = [Change(**change) for change in order.plan]
        while time.monotonic() - began < order.seconds:
            while changes and time.monotonic() - began >= changes[0].at:
                path.spoil(*nets(changes.pop(0).name))
            watch.look(path, speaker, began, keeps=not order.told)
            await asyncio.sleep(LOOK_S)
        path.spoil(*nets(CLEAR))
        await _end(voices)
        await asyncio.sleep(TAIL_S)
        told = {
            **{name: value for name, value in asdict(watch).items() if name != "queue_now"},
            "bytes": path.down.bytes - before,
            "states": [call.state.value for call in self.calls],
            "errors": [str(session.error or "") for session in self.sessions],
            "stats": [call.stats().as_dict() for call in self.calls],
            "links": [
                {name: getattr(way.link, name) for name in ("sent", "lost", "overflowed", "doubled")}
                | {"delivered": way.delivered, "flying": len(way.link)}
                for way in (path.down, path.up)
            ],
        }
        await _end(tasks)
        with contextlib.suppress(Exception):  # told by its state
            await speaker.hangup()
        return told


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def stand(order: Order, stack: AsyncExitStack) -> Placed:
    """Both people connected, accepted, keys agreed."""
    relay = "127.0.0.1", order.port
    path = await LastMile(relay, order.rtt_ms, order.seed, keeps_times=False).open()
    stack.push_async_callback(path.close)
    sessions, calls = [], []
    for port, text in zip((order.port, path.port), order.tokens, strict=True):
        session = connect(f"quic://127.0.0.1:{port}", token=from_text(text), insecure=True, direct=False)
        sessions.append(await stack.enter_async_context(session))
        calls.append(await sessions[-1].join())
    await asyncio.gather(*(call.accept() for call in calls))
    await asyncio.gather(*(call.peer_accepted() for call in calls))
    return Placed(order, path, sessions, calls, [ToneSource(440.0, None) for _ in calls])


async def tell(placed: list[Placed], began: float) -> None:
    """Each second, until cancelled: what this process takes, and what each call is like."""
    while True:
        await asyncio.sleep(TELL_S)
        say(
            at=round(time.monotonic() - began, 2),
            rss_kb=rss_kb(os.getpid()),
            fds=len(os.listdir("/proc/self/fd")),
            tasks=len(asyncio.all_tasks()),
            cpu_s=round(resource.getrusage(resource.RUSAGE_SELF).ru_utime, 2),
            asked=[[asked_of(call) for call in one.calls] for one in placed],
            received=[[call.stats().received for call in one.calls] for one in placed],
            states=[[call.state.value for call in one.calls] for one in placed],
        )


def rss_kb(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def say(**what: Any) -> None:
    """One line for the parent."""
    print(json.dumps(what), flush=True)


async def _watch(lag: Lag) -> None:
    """Until cancelled, but for the first second, in which codecs warm up and nothing is judged."""
    await asyncio.sleep(1.0)
    await lag.watch()


async def place_all(orders: list[Order]) -> None:
    """All at once."""
    lag = Lag()
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(START_S):
            placed = [await stand(order, stack) for order in orders]
        Encoder(), Decoder()  # their library is loaded at the first: not while they talk
        began = time.monotonic()
        say(began=began)
        helpers = [asyncio.create_task(_watch(lag))]
        if any(order.told for order in orders):
            helpers.append(asyncio.create_task(tell(placed, began)))
        calls = await asyncio.gather(*(one.talk(began) for one in placed))
        await _end(helpers)
        say(calls=calls, lag=asdict(lag))


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # clients and last mile are punctual even when both CPUs are busy
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    uvloop.run(place_all([Order(**order) for order in json.loads(sys.stdin.readline())]))
