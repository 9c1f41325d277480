"""The daemon on a loop that weighs its turns: `python -m load.turns CONFIG`.

asyncio's own loop in place of uvloop, since a selector of ours can stand between two turns there: thread CPU
time from the return of one `select` to the call of the next, and which callbacks and collections of garbage
the worst turns went to. All else is the daemon as shipped. SIGUSR1 forgets what was measured, SIGUSR2 writes
it as JSON to `turns.json` beside the configuration. Must never live here: load, bars.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import uvloop

from relay import daemon
from relay.config import load

OVER = 0.002  # turns above this are counted
WORST = 10
EXPLAINED = 3  # of those
WORTH_A_NAME = 0.0002  # callbacks below this have no name in the account of a turn


def _name(callback: Callable[..., object]) -> str:
    """Whose code a callback of the loop runs: the coroutine of a task, else the function."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return getattr(owner.get_coro(), "__qualname__", "a task")
    return getattr(callback, "__qualname__", repr(callback))


class TurnSelector(selectors.EpollSelector):
    """Measures what happens between two selects."""

    def __init__(self) -> None:
        super().__init__()
        self._since: float | None = None
        self._at = 0.0
        self.parts: list[tuple[str, float]] = []
        self.forget()

    def forget(self) -> None:
        """Start again."""
        self.turns = self.over = 0
        self.worst: list[tuple[float, dict[str, Any]]] = [(0.0, {})] * WORST

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the selector's own; the turn before it ends here."""
        if self._since is not None:
            spent = time.thread_time() - self._since
            self.turns += 1
            self.over += spent > OVER
            if spent > self.worst[0][0]:
                self.worst = sorted((*self.worst[1:], (spent, self._explain())), key=itemgetter(0))
        self.parts.clear()
        ready = super().select(timeout)
        self._at = time.monotonic()
        self._since = time.thread_time()
        return ready

    def _explain(self) -> dict[str, Any]:
        """What the turn that ends was made of."""
        named = [(name, round(spent * 1e3, 3)) for name, spent in self.parts if spent >= WORTH_A_NAME]
        return {
            "wall_ms": round((time.monotonic() - self._at) * 1e3, 3),
            "callbacks": sum(not name.startswith("gc") for name, _ in self.parts),
            "ms_of_each": named,
        }

    def facts(self) -> dict[str, Any]:
        """What was measured since the last `forget`."""
        return {
            "turns": self.turns,
            "over_2_ms": self.over,
            "worst_ms": [round(spent * 1e3, 3) for spent, _ in self.worst],
            "worst": [account for _, account in self.worst[-EXPLAINED:]],
        }


def weigh(selector: TurnSelector) -> None:
    """Note the CPU time of each callback of the loop, and of each collection, in the selector's `parts`."""
    run = asyncio.Handle._run

    def weighed(handle: asyncio.Handle) -> None:
        callback = handle._callback
        since = time.thread_time()
        run(handle)
        selector.parts.append((_name(callback), time.thread_time() - since))

    started = 0.0

    def collected(phase: str, facts: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.thread_time()
        else:
            selector.parts.append((f"gc {facts['generation']}", time.thread_time() - started))

    asyncio.Handle._run = weighed
    gc.callbacks.append(collected)


def main(path: str) -> int:
    """Serve; the daemon's exit status."""
    selector = TurnSelector()
    weigh(selector)
    target = Path(path).with_name("turns.json")

    def write(*_: object) -> None:
        part = target.with_suffix(".part")
        part.write_text(json.dumps(selector.facts()))
        os.replace(part, target)

    signal.signal(signal.SIGUSR1, lambda *_: selector.forget())
    signal.signal(signal.SIGUSR2, write)
    uvloop.new_event_loop = lambda: asyncio.SelectorEventLoop(selector)
    return daemon.run(load(path), path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
