"""Put beside the daemon as `sitecustomize`: its lane's threads end when it is told to.

    SIGUSR1   they end, as after a panic that nothing contained; the process and its loop go on

Standard library only: it runs in the daemon's own interpreter. Must never live here: anything of ours.
"""

from __future__ import annotations

import asyncio
import signal


def end_threads(*_: object) -> None:
    """Find the daemon that runs here, and take its threads away behind its back."""
    for task in asyncio.all_tasks(asyncio.get_running_loop()):
        frame = getattr(task.get_coro(), "cr_frame", None)
        daemon = frame.f_locals.get("daemon") if frame is not None else None
        if daemon is not None:
            daemon.node.lane.stop()


signal.signal(signal.SIGUSR1, end_threads)
