"""A neighbour that takes the processor from under the lane: python -m lab.hog PID CPU SECONDS SLICE_MS GAP_MS

The lane's threads of process PID stand on one CPU from now on, and this process, of real-time priority, runs
there: SLICE_MS at a time, with GAP_MS between. A turn in whose middle a slice begins goes on after it, with
all the packets that it had read. It ends after SECONDS whatever happens. Needs root (or CAP_SYS_NICE).
Must never live here: what the relay says of it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

LANE = "lane-"


def lane_threads(pid: int) -> list[int]:
    """Thread ids of the native lane's threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith(LANE):
            found.append(int(task.name))
    return found


def main(pid: int, cpu: int, seconds: float, slice_ms: float, gap_ms: float) -> None:
    """Hog."""
    end = time.monotonic() + seconds
    threads = lane_threads(pid)
    if not threads:
        raise SystemExit("no thread of the native lane there")
    for thread in threads:
        os.sched_setaffinity(thread, {cpu})
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while time.monotonic() < end:
        until = time.monotonic() + slice_ms / 1000
        while time.monotonic() < until:
            pass
        time.sleep(gap_ms / 1000)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:6]))
