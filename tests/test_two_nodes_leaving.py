"""Calls whose people are at two nodes, when one of these restarts as planned: real daemons and the SDK."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from client.hearing import silence, until
from client.rig import Rig, free_port
from lab.generations import Box
from lanes import LANES
from relay.client import Call, Session
from test_two_nodes import SEEDS, people, settings, talk

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for
DRAIN = "grace_s = 0\nsmear_s = 0.2\ndeadline_s = 20"
HEARD_S = 10.0  # that the call goes on; how short the gap is, the simulated clock shows


@pytest.fixture(params=list(itertools.product(LANES, LANES)), ids="-".join)
def boxes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Box]]:
    """`fra-1` and `iad-1`, which know each other, and may be followed."""
    ports = {name: free_port(socket.SOCK_DGRAM) for name in SEEDS}
    with ExitStack() as stack:
        found: dict[str, Box] = {}
        for name, lane in zip(SEEDS, request.param, strict=True):
            folder = tmp_path / name
            folder.mkdir()
            more, beside = settings(folder, name, ports), next(iter(found.values()), None)
            box = Box(folder, lane=lane, drain=DRAIN, id=name, port=ports[name], more=more, beside=beside)
            found[name] = stack.enter_context(box)
            box.start()
        yield found


def rigs(boxes: dict[str, Box]) -> dict[str, Rig]:
    return {name: box.rig for name, box in boxes.items()}


async def succeeds(box: Box, found: list[tuple[Session, Call]], old: subprocess.Popen[bytes]) -> float:
    """One more generation takes over and the old one leaves; the longest silence meanwhile."""
    listening = [asyncio.create_task(silence(call, 5.0)) for _, call in found]
    await asyncio.to_thread(box.start)
    await until(lambda: old.poll() is not None)
    assert old.returncode == 0
    return max(await asyncio.gather(*listening))


async def more(call: Call) -> None:
    """It goes on."""
    before = call.stats().received
    await until(lambda: call.stats().received > before + 20)


async def test_a_planned_restart_of_the_home_and_of_the_guest_is_followed(boxes: dict[str, Box]) -> None:
    home, guest = boxes.values()
    async with people(rigs(boxes), "fra-1") as found:
        speaking = await talk(found)
        moves = [0, 0]
        for box, who in ((home, (0, 1)), (guest, (1,)), (home, (0, 1))):
            gap = await succeeds(box, found, box.processes[-1])
            assert gap <= HEARD_S
            for one in who:
                moves[one] += 1
            assert all(session.moves >= count for (session, _), count in zip(found, moves, strict=True))
            assert [session.error for session, _ in found] == [None, None]
            assert [call.stats().unopened for _, call in found] == [0, 0]
            for _, call in found:
                await more(call)
        assert guest.rig.metric("relay_calls") == 0
        await found[1][1].hangup()
        assert await found[0][1].ended() == "completed"
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)
    await until(lambda: len(home.records()) == 3)
    assert [outcome for _, outcome in home.records()] == ["moved", "moved", "completed"]
    assert guest.records() == []
    await until(lambda: home.rig.metric("relay_imbalance") == guest.rig.metric("relay_imbalance") == 0)
