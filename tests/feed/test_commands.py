"""The part of the feed that brings commands of the fleet to daemons, and what came of them to the store."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feed.test_program import Feed, until
from relay.config import Config
from relay.config_nodes import NodesConfig
from relay.errors import ErrorCode
from relay.feed import commands as feed_commands
from relay.feed.commands import Answer, CommandsFeed, Refusal
from relay.ops.fleet import FleetWatch
from relay.ops.health import Report
from relay.ops.http import OpsServer
from relay.ops.nodes import Answer as NodesAnswer
from relay.protocol import command, dispatch
from relay.protocol.dispatch import Dispatched
from relay.protocol.ids import CallId, Jti
from relay.rollout.lastgood_file import OsFiles
from relay.rollout.store import StateStore
from relay.rollout.store_sqlite import SqliteStore

SEED = bytes(range(32))
BY = {"who": "back end", "why": "a report"}


def order(number: int, *, life: int = 60, ago: float = 0.0) -> bytes:
    iat = int(time.time() - ago)
    id = Jti(number.to_bytes(16, "big"))
    made = command.Command(op="end", cid=CallId(bytes(16)), iat=iat, exp=iat + life, id=id)
    return command.mint(made, SEED)


class Full(OsFiles):
    """A disk that is full while `is_full`."""

    is_full = False

    def write(self, fd: int, data: bytes) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(fd, data)


class Box:
    """A store, the feed's part, the file, and daemons that read it."""

    def __init__(self, folder: Path) -> None:
        self.store_path, self.path = folder / "state.sqlite", folder / "commands"
        self.config = replace(Config(), nodes=NodesConfig(commands=str(self.path)))
        self.back_end = SqliteStore(self.store_path)
        self.files = Full(feed_commands.MODE)
        self.part: CommandsFeed

    @contextlib.asynccontextmanager
    async def running(self, wall: Callable[[], float] = time.time) -> AsyncIterator[None]:
        store: StateStore = SqliteStore(self.store_path, poll_s=0.02)
        self.part = CommandsFeed(self.config, store, self.files, wall)
        task = asyncio.create_task(self.part.run())
        try:
            yield
        finally:
            self.part.stop()
            await task

    async def give(self, raw: bytes, key: str = "") -> None:
        id = key or dispatch.take(raw, 0.0).id.hex()
        await self.back_end.put("commands", id, base64.b64encode(raw), expect=0, **BY)

    def read(self) -> list[Dispatched]:
        return [dispatch.read(line) for line in dispatch.lines(self.path.read_bytes())]

    def numbers(self) -> list[int]:
        return [int.from_bytes(one.id, "big") for one in self.read()] if self.path.exists() else [-1]


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path)
    yield box
    await box.back_end.close()


@contextlib.asynccontextmanager
async def daemon(box: Box, node: str, says: Callable[[bytes], ErrorCode]) -> AsyncIterator[str]:
    """What a daemon has of it: its look at the file, and its listener. The address of that."""
    got: list[bytes] = []

    def submit(raw: bytes, done: Any) -> None:
        got.append(raw)
        done(says(raw), "")

    async def metrics(_: str) -> tuple[bytes, str]:
        return b"", "text/plain"

    watch = FleetWatch(lambda: box.config.nodes, submit, lambda: 0)
    server = OpsServer(
        metrics,
        lambda: Report(()),
        dict,
        lambda: NodesAnswer(404, b""),
        lambda run, since: {"node": node, **watch.answers(run, since)},
    )
    await server.start("127.0.0.1:0")
    task = asyncio.create_task(watch.run())
    try:
        yield f"http://{server.address}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()
    assert len(set(got)) == len(got), "each once"


async def test_commands_come_into_the_file_in_the_order_in_which_they_were_given(box: Box) -> None:
    raws = [order(number) for number in (3, 1, 2)]
    await box.give(raws[0])
    async with box.running():
        await box.give(raws[1])
        await box.give(raws[2])
        await until(lambda: box.numbers() == [3, 1, 2])
        assert [one.raw for one in box.read()] == raws
        assert abs(box.read()[0].at - time.time()) < 60
        assert len(box.part) == box.part.taken == 3
    assert box.path.stat().st_mode & 0o777 == 0o640  # it names people


async def test_what_stands_in_the_file_stays_after_a_restart_and_without_its_store(box: Box) -> None:
    async with box.running():
        await box.give(order(1))
        await until(lambda: box.numbers() == [1])
    await box.back_end.close()
    for each in box.store_path.parent.glob("state.sqlite*"):
        each.unlink()
    box.back_end = SqliteStore(box.store_path)
    async with box.running():
        await box.give(order(2))
        await until(lambda: box.numbers() == [1, 2])


async def test_there_is_a_file_before_there_is_a_command_so_that_daemons_know_of_the_way(box: Box) -> None:
    async with box.running():
        await until(lambda: box.numbers() == [])


async def test_what_no_daemon_would_take_is_left_out_and_counted(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "MOST", 2)
    await box.back_end.put("commands", "junk", b"junk", expect=0, **BY)
    await box.give(order(1), key=f"{2:032x}")
    await box.give(order(3, life=10, ago=100.0))
    async with box.running():
        for number in (4, 5, 6):
            await box.give(order(number))
        await until(lambda: box.part.refused[Refusal.FULL] == 1)
        await until(lambda: box.numbers() == [4, 5])
        assert dict(box.part.refused) == dict.fromkeys(Refusal, 1)


async def test_a_command_is_taken_out_when_its_time_is_over(box: Box) -> None:
    ahead = 0.0
    async with box.running(lambda: time.time() + ahead):
        await box.give(order(1, life=10))
        await box.give(order(2, life=200))
        await until(lambda: box.numbers() == [1, 2])
        ahead = 100.0
        await until(lambda: box.numbers() == [2])


async def test_none_stays_for_longer_than_any_may_live_whatever_it_says(box: Box) -> None:
    ahead = 0.0
    async with box.running(lambda: time.time() + ahead):
        await box.give(order(1, life=100_000))
        await until(lambda: box.numbers() == [1])
        ahead = 350.0
        await until(lambda: box.numbers() == [])


async def test_what_a_full_disk_refused_is_written_when_there_is_room(box: Box) -> None:
    async with box.running():
        await until(lambda: box.numbers() == [])
        box.files.is_full = True
        await box.give(order(1))
        await until(lambda: box.part._is_failing)
        assert box.numbers() == []
        box.files.is_full = False
        await until(lambda: box.numbers() == [1])


async def test_what_came_of_a_command_at_each_daemon_stands_in_the_store(box: Box) -> None:
    id = f"{1:032x}"
    async with (
        daemon(box, "fra-1", lambda _: ErrorCode.NO_ERROR) as one,
        daemon(box, "fra-2", lambda _: ErrorCode.CALL_NOT_FOUND) as two,
    ):
        box.config = replace(box.config, nodes=replace(box.config.nodes, announce=(one, two)))
        async with box.running():
            await box.give(order(1))
            await until(lambda: box.part.answered == 2)
            assert await box.back_end.keys("answers") == [f"{id}.fra-1", f"{id}.fra-2"]
            entry = await box.back_end.get("answers", f"{id}.fra-2")
            assert entry is not None
            said = msgspec.json.decode(entry.value, type=Answer)
            assert said.code == "CALL_NOT_FOUND"
            assert 0 <= said.age_ms < 60_000
            await box.give(order(2))
            await until(lambda: box.part.answered == 4)
        async with box.running():  # started again: daemons are not asked for what nobody waits for
            await box.give(order(3))
            await until(lambda: box.part.answered == 2)
            assert box.part.unanswered == 0


async def test_a_daemon_that_does_not_answer_is_given_up_and_holds_up_no_other(box: Box) -> None:
    async with daemon(box, "fra-1", lambda _: ErrorCode.NO_ERROR) as one:
        box.config = replace(
            box.config, nodes=replace(box.config.nodes, announce=("http://127.0.0.1:1", one))
        )
        async with box.running():
            await box.give(order(1))
            await until(lambda: box.part.answered == 1)
            await until(lambda: box.part.unanswered == 1)


async def test_the_program_brings_commands_without_any_endpoint(box: Box, tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    feed.configure()
    with feed.config.open("a") as file:
        file.write(f'[state]\nstore = "{box.store_path}"\n[nodes]\ncommands = "{box.path}"\n')
    await box.give(order(1))
    await feed.start()
    try:
        await until(lambda: box.numbers() == [1])
        await until(lambda: feed.metric("relay_feed_commands_total") == 1)
        assert feed.metric("relay_feed_commands_kept") == 1
        assert feed.metric("relay_feed_commands_refused_total") == 0
        assert await feed.end() == 0
    finally:
        if feed.process is not None:
            await feed.end(9)
