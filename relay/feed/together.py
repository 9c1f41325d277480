"""Several rounds of one part of the feed, until it is stopped or one of them fails.

Must never live here: what a round does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

Round = Coroutine[Any, Any, None]


async def together(rounds: Sequence[Round], stop: asyncio.Event) -> None:
    """Run all until `stop` is set; the first that ends ends the others, and what it raised is raised here."""
    tasks = [asyncio.create_task(each) for each in rounds]
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for error in results:
        if isinstance(error, Exception):
            raise error
