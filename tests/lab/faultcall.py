"""A call that is placed on purpose while something is wrong: what becomes of it, in a word.

    await try_call(rig)                          "" when both heard each other, else the name of the refusal
    await try_call(rig, tokens=..., at=..., ca=...)

Must never live here: what ought to become of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from client.rig import Rig
from relay.client import CallEndedError, RefusedError, SessionError, connect
from relay.client.errors import name_of

PATIENCE_S: Final = 10.0
WORD: Final = b"can you hear me?"


def tokens_of(rig: Rig, at: float | None = None) -> tuple[bytes, bytes]:
    """Two people of a fresh call; `at`: minted then. Each token admits once."""
    call = os.urandom(16)
    first, second = (rig.token(call, who, sub=os.urandom(16), at=at) for who in (1, 2))
    return first, second


async def try_call(
    rig: Rig, tokens: Sequence[bytes] = (), *, at: float | None = None, ca: str | None = None
) -> str:
    """Connect, agree on keys, accept, say a word each way, hang up. `ca`: verify the relay's certificate."""
    tokens = tokens or tokens_of(rig, at)
    try:
        async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
            await _call(stack, rig, tokens, ca)
    except (SessionError, RefusedError) as error:
        return name_of(error.code)
    except CallEndedError as error:
        return error.why
    except TimeoutError:
        return "timeout"
    return ""


async def _call(stack: AsyncExitStack, rig: Rig, tokens: Sequence[bytes], ca: str | None) -> None:
    sessions = [
        await stack.enter_async_context(
            connect(
                rig.url,
                token=token,
                ca=ca,
                insecure=ca is None,
                server_name="localhost",
                direct=False,
                fallbacks=(),
            )
        )
        for token in tokens
    ]
    calls = [await session.join() for session in sessions]
    await asyncio.gather(*(call.accept() for call in calls))
    await asyncio.gather(*(call.peer_accepted() for call in calls))
    heard = [asyncio.Event() for _ in calls]
    for call, event in zip(calls, heard, strict=True):
        call.on_app = lambda data, event=event: event.set() if data == WORD else None
    while not all(event.is_set() for event in heard):
        for call in calls:
            call.send_app(WORD)
        await asyncio.sleep(0.05)
    await calls[0].hangup()
