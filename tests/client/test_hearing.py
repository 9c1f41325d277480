"""What the machine holds up is told from what takes its time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.hearing import Machine, held_up, until, watched


async def test_time_in_which_this_process_did_not_run_is_none_that_something_took() -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.call_later(0.02, time.sleep, 1.0)
    loop.call_later(1.1, done.set)
    async with watched() as held:
        took = await until(done.is_set)
    assert 0 < took < 0.6
    assert held.worst > 0.9


async def test_what_never_comes_is_an_error() -> None:
    with pytest.raises(TimeoutError):
        await until(lambda: False, 0.05)


def test_threads_of_child_processes_are_seen_until_they_end() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not count for how long a thread waits")
    program = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        machine = Machine()
        thread = Path(f"/proc/{child.pid}/task/{child.pid}/schedstat")
        assert machine.waits()[thread] >= 0
    assert thread not in machine.waits()


def test_a_child_that_gives_way_to_others_is_not_looked_at() -> None:
    command = ["nice", "-n", "5", sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert not any(f"/{child.pid}/" in str(thread) for thread in Machine().waits())


def test_what_counts_is_the_thread_that_waited_longest() -> None:
    one, two, new = map(Path, "abc")
    before = {one: 5, two: 10**9}
    assert held_up(before, {one: 10**8 + 5, two: 3 * 10**9, new: 9 * 10**9}) == 2.0
    assert held_up({}, {new: 10**9}) == 0.0
