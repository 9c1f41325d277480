"""Put beside the daemon as `sitecustomize`: makes its loop hang, or very busy, when it is told to.

    SIGUSR1   the loop's thread sleeps for good; other threads go on
    SIGRTMIN  it computes for good, and gives the interpreter to nobody for long
    SIGUSR2   for 20 s it does 0.4 s of work at a time, with 50 ms between

Standard library only: it runs in the daemon's own interpreter. Must never live here: anything of ours.
"""

from __future__ import annotations

import asyncio
import signal
import time

BUSY_S, WORK_S, BETWEEN_S = 20.0, 0.4, 0.05


def sleep(*_: object) -> None:
    """Never come back, idle."""
    while True:
        time.sleep(3600)


def spin(*_: object) -> None:
    """Never come back, computing."""
    while True:
        pass


def be_busy(*_: object) -> None:
    """Come back late, for a while."""
    loop = asyncio.get_running_loop()
    until = time.monotonic() + BUSY_S

    def work() -> None:
        time.sleep(WORK_S)
        if time.monotonic() < until:
            loop.call_later(BETWEEN_S, work)

    loop.call_soon(work)


signal.signal(signal.SIGUSR1, sleep)
signal.signal(signal.SIGRTMIN, spin)
signal.signal(signal.SIGUSR2, be_busy)
