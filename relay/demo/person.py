"""One of the two people: joins, talks, listens, and reports. Orders come on stdin, answers leave on stdout.

Must never live here: the relay's side.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from relay import client
from relay.protocol.token import from_text

RATE = 16_000


async def person(spec: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Join, agree on keys, talk early if told to, accept, talk, report, hang up. Orders come on stdin."""
    orders = await _stdin_lines()
    async with client.connect(
        spec["url"],
        token=from_text(spec["token"]),
        ca=spec["ca"],
        server_name="localhost",
        client=client.ClientInfo(app="relay-demo"),
    ) as session:
        call = await session.join()
        sas = await call.keys_agreed()
        say({"is": "joined", "sas": sas, "transport": session.transport})
        async for order in orders:
            if order == "early":
                await call.accept()
                await call.speak(client.FileSource(spec["early"], RATE), eager=True)
                say({"is": "early", "sent": call.stats().sent})
            elif order == "accept":
                await call.accept()
                say({"is": "accepted"})
            elif order == "talk":
                await call.peer_accepted()
                await call.talk(
                    client.FileSource(spec["speech"], RATE), client.WavSink(spec["heard"], RATE), linger_s=1.0
                )
                say({"is": "talked", "stats": call.stats().as_dict()})
            elif order == "leave":
                say({"is": "left", "keys": [key.hex() for key in call.base_keys()], "why": call.why})
                await call.hangup()
                return


async def _stdin_lines() -> AsyncIterator[str]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def lines() -> AsyncIterator[str]:
        while line := await reader.readline():
            yield line.decode().strip()

    return lines()


def main() -> None:
    """Entry of the process."""

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), flush=True)

    asyncio.run(person(json.loads(sys.argv[1]), say))


if __name__ == "__main__":
    main()
