"""CPU time of all threads of a process in nanoseconds; one CPU for them all.

/proc/PID/task/TID/schedstat counts what the scheduler gave each thread, in nanoseconds; user and system time
in /proc/PID/stat come in ticks of 10 ms. The kernel's network work that runs inside a thread's system call is
in both, unless the kernel keeps interrupt time apart. Must never live here: starting processes.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

SOURCE = "sum of /proc/PID/task/*/schedstat (ns on CPU: user, system and network work done in its calls)"


def _ids(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/task")


def cpu_seconds(pid: int, named: str = "") -> float:
    """CPU time of all living threads so far whose names begin so; a thread that ends takes its own along."""
    nanos = 0
    for task in _ids(pid):
        with contextlib.suppress(OSError):
            if named and not Path(f"/proc/{pid}/task/{task}/comm").read_text().startswith(named):
                continue
            nanos += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return nanos / 1e9


def pin(pid: int, cpu: int) -> bool:
    """Keep all threads on one CPU. False: not allowed."""
    try:
        for task in _ids(pid):
            os.sched_setaffinity(int(task), {cpu})
    except OSError:
        return False
    return True


def raise_descriptor_limit() -> int:
    """As many descriptors as the hard limit allows; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
