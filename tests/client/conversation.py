"""Two in a call of real daemons: they come, accept, and speak a tone to each other until it is left.

    async with conversation(sessions) as people: ...     sessions that are not open yet
    async with speaking(*calls): ...                     calls that they have joined

Must never live here: daemons, and who is at which.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from relay.client import Call, CallbackSink, Session, ToneSource

People = list[tuple[Session, Call]]


@asynccontextmanager
async def speaking(*calls: Call) -> AsyncIterator[None]:
    """All accept, and once each knows it of the other they speak."""
    await asyncio.gather(*(each.accept() for each in calls))
    await asyncio.gather(*(each.peer_accepted() for each in calls))
    tasks = [
        asyncio.create_task(each.talk(ToneSource(440, None), CallbackSink(lambda pcm: None)))
        for each in calls
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def conversation(sessions: Sequence[Session]) -> AsyncIterator[People]:
    """Two sessions with their calls, which speak."""
    async with sessions[0] as one, sessions[1] as two:
        people = [(one, await one.join()), (two, await two.join())]
        async with speaking(*(call for _, call in people)):
            yield people
