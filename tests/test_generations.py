"""Generations of the daemon that follow each other on the same addresses: real processes, real calls."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.hearing import silence, until
from client.test_following import talking
from lab.generations import Box
from relay.client import Call, Session
from relay.protocol.cid import CID_SIZE, FIRST_BYTE

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for
DRAIN = "grace_s = 0\nsmear_s = 0.2\ndeadline_s = 20"
BUSY_LOST = (
    5  # packets, all that a machine with too much to do drops for its age; the lab judges on a quiet one
)
HEARD_S = 0.200  # 20 ms of voice, the pace of the look, and a process that starts on the same two cores


def sound(people: list[tuple[Session, Call]], moves: int) -> bool:
    """All have moved so often at least (a busy machine makes the ladder move, too), and missed nothing."""
    assert all(session.moves >= moves for session, _ in people)
    assert [(session.error, call.stats().unopened) for session, call in people] == [(None, 0)] * 2
    return max(call.stats().lost for _, call in people) <= BUSY_LOST


async def succeeds(box: Box, people: list[tuple[Session, Call]], old: subprocess.Popen[bytes]) -> float:
    """One more generation takes over and the old one leaves; the longest silence meanwhile."""
    listening = [asyncio.create_task(silence(call, 4.0)) for _, call in people]
    await asyncio.to_thread(box.start)
    await until(lambda: old.poll() is not None)
    assert old.returncode == 0
    return max(await asyncio.gather(*listening))


@pytest.mark.parametrize(
    ("lane", "lanes", "inherit"),
    [("native", 1, 0), ("native", 2, 4), ("python", 1, 2), ("python", 1, 0)],
)
async def test_a_planned_restart_is_heard_by_nobody(
    tmp_path: Path, lane: str, lanes: int, inherit: int
) -> None:
    with Box(tmp_path, lane=lane, lanes=lanes, inherit=inherit, drain=DRAIN) as box:
        old = box.start()
        async with talking(box.rig) as people:
            for number in (1, 2):
                assert await succeeds(box, people, old) <= HEARD_S
                assert sound(people, number)
                old = box.processes[-1]
                assert box.rig.metric("relay_imbalance") == 0
                assert box.rig.metric("relay_calls_moved_total") == 1
            await people[0][1].hangup()
            assert await people[1][1].ended() == "completed"
        assert all('"imbalance": 0' in box.log(number) for number in (0, 1))
        await until(lambda: len(box.records()) == 3)
        assert [outcome for _, outcome in box.records()] == ["moved", "moved", "completed"]
        assert len({call for call, _ in box.records()}) == 1


@pytest.mark.parametrize(("lane", "last_bit"), [("native", 0), ("native", 1), ("python", 0), ("python", 1)])
async def test_who_chose_an_id_like_those_of_a_generation_comes_to_the_new_one_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: str, last_bit: int
) -> None:
    def like_ours(size: int) -> bytes:
        drawn = os.urandom(size)
        ours = bytes((FIRST_BYTE,)) + drawn[1:-1] + bytes((drawn[-1] & 0xFE | last_bit,))
        return ours if size == CID_SIZE else drawn

    monkeypatch.setattr("aioquic.quic.connection.os", SimpleNamespace(urandom=like_ours))
    with Box(tmp_path, lane=lane, drain=DRAIN) as box:
        old = box.start()
        async with talking(box.rig) as people:
            for number in (1, 2):
                assert await succeeds(box, people, old) <= HEARD_S
                assert sound(people, number)
                old = box.processes[-1]
        assert [outcome for _, outcome in box.records()][:2] == ["moved", "moved"]


async def test_legs_on_tcp_stay_until_they_move_and_new_ones_come_to_the_new_generation(
    tmp_path: Path,
) -> None:
    with Box(tmp_path, drain=DRAIN) as box:
        old = box.start()
        async with talking(box.rig, url=box.rig.wss) as people:
            assert await succeeds(box, people, old) <= HEARD_S
            assert sound(people, 1)
            assert {session.transport for session, _ in people} == {"ws"}


async def test_a_third_generation_waits_until_the_first_has_left(tmp_path: Path) -> None:
    with Box(tmp_path, drain="grace_s = 0\nsmear_s = 5\ndeadline_s = 30") as box:
        old = box.start()
        async with talking(box.rig, movable=(True, False)):
            await asyncio.to_thread(box.start)
            third = await asyncio.to_thread(box.start, False)
            assert await asyncio.to_thread(third.wait, 30) == 1
            assert "older generation is still leaving" in box.log(2)
            await until(lambda: '"moving"' in box.log(0))
            old.send_signal(signal.SIGTERM)  # the second one: it is moving already
            assert await asyncio.to_thread(old.wait, 30) == 0
        await asyncio.to_thread(box.start)


async def test_a_successor_that_dies_on_its_way_in_costs_nothing(tmp_path: Path) -> None:
    with Box(tmp_path, drain=DRAIN) as box:
        old = box.start()
        async with talking(box.rig) as people:
            good = box.config.read_text()
            box.config.write_text(good.replace(str(box.commands), str(box.folder / "no" / "such")))
            failed = await asyncio.to_thread(box.start, False)
            assert await asyncio.to_thread(failed.wait, 30) != 0
            box.config.write_text(good)
            await until(lambda: "we go on" in box.log(0))
            await until(lambda: box.rig.metric("relay_calls") == 1)
            assert old.poll() is None
            assert await succeeds(box, people, old) <= HEARD_S
            assert sound(people, 1)


async def test_a_generation_whose_successor_was_killed_is_followed_by_another(tmp_path: Path) -> None:
    with Box(tmp_path, drain="grace_s = 0\nsmear_s = 2\ndeadline_s = 30") as box:
        box.start()
        async with talking(box.rig) as people:
            second = await asyncio.to_thread(box.start)
            second.kill()
            second.wait()
            third = await asyncio.to_thread(box.start)
            await until(lambda: all(session.moves >= 1 for session, _ in people))
            assert third.poll() is None
            assert await silence(people[0][1], 1.0) <= HEARD_S


async def test_the_command_drains_and_shows_how_far_it_is(tmp_path: Path) -> None:
    with Box(tmp_path, drain=DRAIN) as box:
        old = box.start()
        order = [sys.executable, "-m", "relay", "drain", "--config", str(box.config), "--json"]
        done = await asyncio.to_thread(subprocess.run, order, capture_output=True, text=True, timeout=20)
        facts = json.loads(done.stdout.splitlines()[-1])
        assert facts["gone"]
        assert facts["last"]["state"] == "stopped"
        assert old.wait(30) == 0
        again = await asyncio.to_thread(subprocess.run, order, capture_output=True, text=True, timeout=20)
        assert again.returncode == 1


def test_one_inherited_socket_of_an_address_cannot_serve_two_generations(tmp_path: Path) -> None:
    with Box(tmp_path, inherit=1) as box:
        process = box.start(wait=False)
        assert process.wait(30) == 1
        assert "two generations" in box.log(0)
