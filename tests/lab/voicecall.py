"""Calls of the voice lab, many at once, in a process of their own: both people, and the listener's last mile.

The parent writes its orders as one JSON line; the child prints one when all talk and one with what each call
came to, and leaves what was heard as WAV files. Must never live here: schemes, scores, the relay.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

import uvloop

from impair import NETS
from lab.ear import Ear
from lab.lastmile import LastMile
from lab.schemes import SCHEMES, speak
from lab.speech import RATE
from relay.client import CallbackSink, PcmSource, connect
from relay.client.audio import SAMPLE_SIZE, read_pcm, write_wav
from relay.protocol.token import from_text

START_S: Final = 30.0
TAIL_S: Final = 0.6  # the last word is on its way
APART_S: Final = 0.023  # calls begin so far apart: their packets shall not come at one moment
WATCH_S: Final = 0.005
TOLD: Final = (
    "repeats", "first_age", "first_over", "repeat_age", "repeat_over", "hold", "play_over"
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """One call to be placed."""

    scheme: str
    net: str
    rtt_ms: float
    seed: int
    port: int
    """Of the relay, on loopback."""
    tokens: list[str]
    lead: str
    """Speech before what counts."""
    lead_s: float
    """So much of its end."""
    speech: str
    heard: str
    """Where the WAV goes."""


@dataclass
class Lag:
    """How late this process is: timers on a machine that is too busy come late, and so does audio."""

    worst_s: float = 0.0
    late: int = 0
    looks: int = 0

    async def watch(self) -> None:
        """Until cancelled."""
        due = time.monotonic()
        while True:
            due += WATCH_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            behind = time.monotonic() - due
            self.looks += 1
            self.late += behind > WATCH_S
            self.worst_s = max(self.worst_s, behind)
            due = max(due, time.monotonic() - WATCH_S)


async def place(order: Order, number: int, ready: asyncio.Barrier) -> dict[str, Any]:
    """One call, from the first packet to the last word."""
    scheme = SCHEMES[order.scheme]
    lead = read_pcm(order.lead, RATE)[-round(order.lead_s * RATE) * SAMPLE_SIZE :] if order.lead_s else b""
    source = PcmSource(lead + read_pcm(order.speech, RATE), RATE)
    ear = Ear()
    path = await LastMile(("127.0.0.1", order.port), order.rtt_ms, order.seed).open()
    try:
        async with AsyncExitStack() as stack:
            sessions, calls = [], []
            for port, text in zip((order.port, path.port), order.tokens, strict=True):
                url = f"quic://127.0.0.1:{port}"
                session = connect(url, token=from_text(text), insecure=True, direct=False)
                sessions.append(await stack.enter_async_context(session))
                calls.append(await sessions[-1].join())
            speaker, listener = calls
            await asyncio.gather(*(call.accept() for call in calls))
            await asyncio.gather(*(call.peer_accepted() for call in calls))
            send = speaker._send

            def watch_send(payload: bytes) -> None:
                ear.on_sent(payload)
                send(payload)

            speaker._send = watch_send  # watched, not changed
            ear.attach(sessions[1], listener, path)
            await ready.wait()
            await asyncio.sleep(number * APART_S)
            before = path.down.bytes, path.down.packets, path.down.link.sent
            path.spoil(NETS[order.net])
            listening = asyncio.create_task(listener.listen(CallbackSink(ear.pcm.extend, RATE)))
            await speak(speaker, source, scheme)
            await asyncio.sleep(TAIL_S)
            listening.cancel()
            link = path.down.link
            told = {
                "bytes": path.down.bytes - before[0],
                "packets": path.down.packets - before[1],
                "link_sent": link.sent - before[2],
                "link_lost": link.lost,
                "sent": speaker.stats().sent,
                "unsent": speaker.stats().unsent,
                **{f"heard_{name}": value for name, value in listener.stats().as_dict().items()},
                **{name: value for name, value in asdict(ear).items() if name in TOLD},
            }
            path.spoil(NETS["clean"])
            await speaker.hangup()
    finally:
        await path.close()
    write_wav(order.heard, bytes(ear.pcm), RATE)
    return told


async def place_all(orders: list[Order]) -> dict[str, Any]:
    """All at once; what each came to, in their order, and how late this process was."""
    ready = asyncio.Barrier(len(orders) + 1)
    lag = Lag()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(place(order, at, ready)) for at, order in enumerate(orders)]
        async with asyncio.timeout(START_S):
            await ready.wait()
        watching = asyncio.create_task(lag.watch())
        await asyncio.wait(tasks)
        watching.cancel()
    return {"calls": [task.result() for task in tasks], "lag": asdict(lag)}


if __name__ == "__main__":
    wanted = [Order(**order) for order in json.loads(sys.stdin.readline())]
    print(json.dumps(uvloop.run(place_all(wanted))), flush=True)
