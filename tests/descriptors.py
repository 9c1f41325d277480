"""A process that has no descriptor left for one more, as on a day when all of them are in use."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lowest_free(pid: int | str) -> int:
    """The lowest number that no descriptor of a process has: with this as the limit it can open none."""
    entries = list(Path(f"/proc/{pid}/fd").iterdir())
    used = {int(entry.name) for entry in entries if entry.is_symlink()}  # the one that listed them is closed
    return next(number for number in range(len(used) + 1) if number not in used)


@contextmanager
def none_left(pid: int = 0) -> Iterator[None]:
    """Within the block this process, or another one, can open nothing."""
    pid = pid or os.getpid()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free(pid), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
