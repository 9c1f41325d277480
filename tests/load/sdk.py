"""Calls placed with the SDK, in a process of their own: real keys, Opus, SFrame, stock aioquic underneath.

The parent makes `Callers(daemon, calls, seconds)`; the child (`python -m load.sdk`) reads its orders on
standard input and prints a JSON line when all talk, and one with what each person counted.
Must never live here: load other than the SDK's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import uvloop

from load.daemon import Daemon
from relay import client
from relay.protocol.token import from_text, to_text

START_SECONDS = 30.0
TONE_HZ = 440.0


class Callers:
    """A process with both people of some calls."""

    def __init__(self, daemon: Daemon, calls: int, seconds: float) -> None:
        tokens = []
        for _ in range(calls):
            call = os.urandom(16)
            tokens.append([to_text(daemon.token(call)), to_text(daemon.token(call))])
        orders = {"url": "quic://{}:{}".format(*daemon.server), "tokens": tokens, "seconds": seconds}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "load.sdk"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(orders).encode() + b"\n")
        self._process.stdin.close()
        self.pid = self._process.pid

    async def talking(self) -> None:
        """Wait until all calls talk."""
        await self._line()

    async def finish(self) -> list[dict[str, Any]]:
        """Wait for the end; what each person sent, and what of it the other opened."""
        people: list[dict[str, Any]] = await self._line()
        await asyncio.to_thread(self._process.wait)
        return people

    async def _line(self) -> Any:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            await asyncio.to_thread(self._process.wait)
            raise RuntimeError("the SDK's process ended early")
        return json.loads(line)


async def _one_call(
    url: str, texts: list[str], seconds: float, ready: asyncio.Barrier
) -> list[dict[str, Any]]:
    tokens = [from_text(text) for text in texts]
    async with (
        client.connect(url, token=tokens[0], insecure=True) as first,
        client.connect(url, token=tokens[1], insecure=True) as second,
    ):
        calls = await first.join(), await second.join()
        sas = await asyncio.gather(*(call.keys_agreed() for call in calls))
        await asyncio.gather(*(call.accept() for call in calls))
        await asyncio.gather(*(call.peer_accepted() for call in calls))
        await ready.wait()
        sink = client.CallbackSink(lambda pcm: None)
        await asyncio.gather(
            *(call.talk(client.ToneSource(TONE_HZ, seconds), sink, linger_s=0.5) for call in calls)
        )
        stats = [call.stats() for call in calls]
        await calls[0].hangup()
        return [
            {
                "sent": mine.sent,
                "opened": other.received,
                "lost": other.lost,
                "unopened": other.unopened,
                "rtt_ms": mine.rtt_ms,
                "sas_agrees": sas[0] == sas[1],
            }
            for mine, other in (stats, stats[::-1])
        ]


async def _main() -> None:
    orders = json.loads(sys.stdin.readline())
    ready = asyncio.Barrier(len(orders["tokens"]) + 1)
    calls = [
        asyncio.create_task(_one_call(orders["url"], texts, orders["seconds"], ready))
        for texts in orders["tokens"]
    ]
    async with asyncio.timeout(START_SECONDS):
        await ready.wait()
    print(json.dumps({"talking": len(calls)}), flush=True)
    people = [person for both in await asyncio.gather(*calls) for person in both]
    print(json.dumps(people), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
