"""The native lane's threads in a real daemon: several of them, and another number of them in mid-call."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab import threadless
from lanes import HAS_NATIVE
from load.daemon import Daemon, imbalance
from load.relay import End, place_call
from load.traffic import talk
from relay.config import ListenConfig
from relay.edge.generation import Places
from relay.edge.lane import PacketCounts

if not HAS_NATIVE:
    pytest.skip("this build has no native lane", allow_module_level=True)

from relay.edge.lane_native import NativeLane
from relay.edge.threads import LaneThreads

CALLS = 8
SERVE = "\nimport sys\nfrom relay.cli import main\nsys.exit(main(['serve', '--config', sys.argv[1]]))\n"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon.start(lane="native", lanes=2) as started:
        yield started


async def voices(daemon: Daemon) -> list[End]:
    return [end for _ in range(CALLS) for end in await place_call(daemon)]


async def settled(ends: list[End]) -> None:
    """Until all that was sent has come, bounded."""
    for _ in range(2000):
        if all(voice.heard.delivered == voice.sent for _, voice in ends):
            return
        await asyncio.sleep(0.01)


def judge(daemon: Daemon, ends: list[End]) -> None:
    assert sum(voice.sent for _, voice in ends) > 0
    assert [voice.heard.delivered for _, voice in ends] == [voice.sent for _, voice in ends]
    assert sum(voice.heard.wrong + voice.heard.repeated for _, voice in ends) == 0
    assert imbalance(daemon.metrics()) == 0
    assert daemon.complaints() == []
    for line, _ in ends:
        line.vanish()


def lanes_now(daemon: Daemon) -> int:
    changes = [line["lanes"] for line in daemon.log() if line.get("message") == "lanes changed"]
    return int(changes[-1]) if changes else 2


def test_threads_that_ended_by_themselves_are_missing() -> None:
    groups = [[socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)] for _ in range(2)]
    lane = NativeLane()
    lane.packets = lambda: PacketCounts(0, 0, 0, 0, 0, 0, {}, {}, threads=1)  # type: ignore[method-assign]  # as after two bugs
    threads = LaneThreads(cast("Any", None), lane, cast("Any", None), Places(groups))
    assert threads.missing == 2
    threads.close()


class Still(NativeLane):
    """A lane whose threads do nothing."""

    def start(self, lanes: list[list[int]], event_fd: int) -> None: ...


class Apart(Places):
    """Sockets that share no address, so that nothing is to be steered."""

    def steer(self, lanes: int | None = None) -> None: ...


async def test_what_the_kernel_dropped_stays_counted_when_lanes_go() -> None:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    sockets[2].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(200):
        sockets[0].sendto(bytes(1000), sockets[2].getsockname())
    with contextlib.suppress(BlockingIOError):
        while sockets[2].recv(2000):
            pass
    endpoint = cast("Any", SimpleNamespace(use_sockets=lambda *_: None))
    threads = LaneThreads(asyncio.get_running_loop(), Still(), endpoint, Apart([sockets]))
    before = threads.kernel_drops
    assert before > 100
    await threads.resize(2, ListenConfig())
    assert len(threads.sockets) == 2
    assert threads.kernel_drops == before
    threads.close()


def test_a_daemon_whose_threads_ended_says_so_and_ends_with_1() -> None:
    code = Path(threadless.__file__).read_text() + SERVE
    with Daemon.start(lane="native", lanes=2, command=("-c", code)) as daemon:
        os.kill(daemon.pid, signal.SIGUSR1)
        assert daemon.wait(30) == 1
        [line] = daemon.complaints()
        assert line["level"] == "critical"
        assert line["message"].startswith("the daemon cannot go on, and ends for a new one: lane threads")


async def test_calls_go_through_whichever_lane_their_packets_come_by(daemon: Daemon) -> None:
    ends = await voices(daemon)
    await talk(ends, 1.0)
    await settled(ends)
    judge(daemon, ends)
    assert daemon.metrics()["relay_lane_threads"] == 2


async def test_the_number_of_lanes_changes_in_mid_call_without_a_lost_packet(daemon: Daemon) -> None:
    ends = await voices(daemon)
    config = daemon.folder / "relay.toml"

    async def change() -> None:
        for lanes in (3, 2, 4):
            config.write_text(re.sub(r"(?m)^lanes = .*$", f"lanes = {lanes}", config.read_text()))
            os.kill(daemon.pid, signal.SIGHUP)
            for _ in range(2000):
                if lanes_now(daemon) == lanes:
                    break
                await asyncio.sleep(0.01)
            assert lanes_now(daemon) == lanes
            assert daemon.metrics()["relay_lane_threads"] == lanes

    changing = asyncio.create_task(change())
    while not changing.done():
        await talk(ends, 0.2)
    await changing
    await talk(ends, 0.3)
    await settled(ends)
    judge(daemon, ends)


async def test_from_one_lane_to_several_needs_a_restart(daemon: Daemon) -> None:
    config = daemon.folder / "relay.toml"
    config.write_text(re.sub(r"(?m)^lanes = .*$", "lanes = 1", config.read_text()))
    os.kill(daemon.pid, signal.SIGHUP)
    for _ in range(2000):
        refused = [line for line in daemon.log() if "listen.lanes" in str(line.get("message"))]
        if refused:
            break
        await asyncio.sleep(0.01)
    assert "restart the daemon" in refused[0]["message"]
