"""One person in a call, by whichever SDK is first on PYTHONPATH: only names that both versions have.

    python person.py '{"url": ..., "token": hex, "seed": hex}'

Says one JSON line when it is in the call, and one for each line of its input: `accept`, `stats`, `hangup`, or
`ended`. Must never live here: what is asserted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

from aioquic.quic import connection as quic

import relay
from relay.client import CallbackSink, ToneSource, connect

OURS = 7  # the first byte of the ids that relays issue


def say(**facts: Any) -> None:
    """One line."""
    print(json.dumps(facts), flush=True)


def draw(size: int) -> bytes:
    """As os.urandom, but for what begins like an id of a relay's.

    Of the version before, a generation that leaves keeps whoever chose such an id, one in 512.
    """
    drawn = os.urandom(size)
    return bytes((OURS ^ 0x80,)) + drawn[1:] if drawn[:1] == bytes((OURS,)) else drawn


async def main(url: str, token: str, seed: str) -> None:
    """Join, then do as told."""
    orders: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: orders.put_nowait(sys.stdin.readline().strip()))
    session = connect(
        url, token=bytes.fromhex(token), pop_seed=bytes.fromhex(seed), insecure=True, direct=False
    )
    async with session as one:
        call = await one.join()
        say(code=relay.__file__)
        talk: asyncio.Task[None] | None = None
        while order := await orders.get():
            if order == "accept":
                await call.accept()
                await call.peer_accepted()
                talk = asyncio.create_task(call.talk(ToneSource(440, None), CallbackSink(lambda pcm: None)))
                say(accepted=True)
            elif order == "stats":
                stats, error = call.stats(), one.error
                say(
                    received=stats.received,
                    lost=stats.lost,
                    unopened=stats.unopened,
                    moves=one.moves,
                    transport=one.transport,
                    error=None if error is None else str(error),
                )
            elif order == "hangup":
                await call.hangup()
                say(hung_up=True)
            else:
                say(why=await call.ended())
        if talk is not None:
            talk.cancel()


quic.os = SimpleNamespace(urandom=draw)
asyncio.run(main(**json.loads(sys.argv[1])))
