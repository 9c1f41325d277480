"""The daemon on a loop that weighs its turns: `python -m load.turns CONFIG`.

asyncio's own loop in place of uvloop, since a selector of ours can stand between two turns there: thread CPU
time from the return of one `select` to the call of the next. All else is the daemon as shipped. SIGUSR1
forgets what was measured, SIGUSR2 writes it as JSON to `turns.json` beside the configuration.
Must never live here: load, bars.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from relay import daemon
from relay.config import load

OVER = 0.002  # turns above this are counted


class TurnSelector(selectors.EpollSelector):
    """Measures what happens between two selects."""

    def __init__(self) -> None:
        super().__init__()
        self._since: float | None = None
        self.forget()

    def forget(self) -> None:
        """Start again."""
        self.turns = self.over = 0
        self.worst: list[float] = [0.0] * 10

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the selector's own; the turn before it ends here."""
        if self._since is not None:
            spent = time.thread_time() - self._since
            self.turns += 1
            self.over += spent > OVER
            if spent > self.worst[0]:
                self.worst = sorted((*self.worst[1:], spent))
        ready = super().select(timeout)
        self._since = time.thread_time()
        return ready

    def facts(self) -> dict[str, Any]:
        """What was measured since the last `forget`."""
        return {
            "turns": self.turns,
            "over_2_ms": self.over,
            "worst_ms": [round(x * 1e3, 3) for x in self.worst],
        }


def main(path: str) -> int:
    """Serve; the daemon's exit status."""
    selector = TurnSelector()
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
