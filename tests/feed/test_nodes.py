"""The part of the feed that brings the node list to the daemon's file, and what daemons say to the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from feed.test_program import Feed, until
from feed.test_state import Full
from relay.config import Config
from relay.config_nodes import NodesConfig
from relay.feed import nodes as feed_nodes
from relay.feed.nodes import NodesFeed, announcement
from relay.protocol.signed import public_of
from relay.region.making import Announcement, decode
from relay.region.nodelist import Node, NodeList, Refusal, seal
from relay.rollout.store import StateStore
from relay.rollout.store_sqlite import SqliteStore

SEED, OTHER = bytes(32), b"\1" * 32
BY = {"who": "hub", "why": "each 10 s"}
HEALTH = {
    "node": "fra-1",
    "version": "0.1.0",
    "state": "ok",
    "score": 97.4,
    "stress": 0.254,
    "drain": "running",
    "slis": {},
}


def document(rev: int, seed: bytes = SEED) -> bytes:
    now = int(time.time())
    one = Node(id="fra-1", region="fra", urls=("quic://fra-1.example:443",), version="1.0")
    return seal(
        NodeList(v=1, cluster="relay", rev=rev, issued_at=now, not_after=now + 600, nodes=(one,)), seed
    )


class Box:
    """A store, the feed's part, and the file."""

    def __init__(self, folder: Path) -> None:
        self.store_path, self.path = folder / "state.sqlite", folder / "nodes"
        nodes = NodesConfig(file=str(self.path), keys=(public_of(SEED).hex(),))
        self.config = replace(Config(), nodes=nodes)
        self.hub = SqliteStore(self.store_path)
        self.files = Full()
        self.part: NodesFeed

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        store: StateStore = SqliteStore(self.store_path)
        self.part = NodesFeed(self.config, store, self.files)
        task = asyncio.create_task(self.part.run())
        try:
            yield
        finally:
            self.part.stop()
            await task

    async def put(self, value: bytes) -> None:
        standing = await self.hub.get("routes", "nodes")
        expect = standing.revision if standing is not None else 0
        await self.hub.put("routes", "nodes", value, expect=expect, **BY)

    def holds(self, raw: bytes) -> bool:
        return self.path.exists() and self.path.read_bytes() == raw


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path)
    yield box
    await box.hub.close()


async def test_a_list_of_the_store_becomes_the_file_and_so_does_each_newer_one(box: Box) -> None:
    async with box.running():
        for rev in (1, 2):
            raw = document(rev)
            await box.put(raw)
            await until(lambda raw=raw: box.holds(raw))
            assert box.part.revision == rev
    assert box.path.stat().st_mode & 0o777 == 0o644  # the daemon is another user


async def test_what_does_not_count_leaves_the_file_as_it_is(box: Box) -> None:
    good = document(5)
    async with box.running():
        await box.put(good)
        await until(lambda: box.holds(good))
        for raw, why in ((document(9, OTHER), Refusal.UNKNOWN_KEY), (document(4), Refusal.OLDER)):
            await box.put(raw)
            await until(lambda why=why: box.part.refused[why] == 1)
            assert box.holds(good)


async def test_a_list_older_than_the_file_does_not_take_its_place_after_a_restart(box: Box) -> None:
    newer = document(7)
    await asyncio.to_thread(box.path.write_bytes, newer)
    await box.put(document(6))
    async with box.running():
        await until(lambda: box.part.refused[Refusal.OLDER] == 1)
        assert box.holds(newer)


async def test_a_file_that_was_lost_or_spoilt_comes_back_at_the_next_start(box: Box) -> None:
    raw = document(3)
    await box.put(raw)
    await asyncio.to_thread(box.path.write_bytes, b"torn")
    async with box.running():
        await until(lambda: box.holds(raw))


async def test_what_a_full_disk_refused_is_written_when_there_is_room(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_nodes, "RETRY_S", 0.05)
    async with box.running():
        box.files.is_full = True
        raw = document(1)
        await box.put(raw)
        await until(lambda: box.part._is_failing)
        assert not box.path.exists()
        box.files.is_full = False
        await until(lambda: box.holds(raw))


@contextlib.asynccontextmanager
async def answering(body: Any) -> AsyncIterator[str]:
    """A daemon's listener; what it answers can be changed by changing `body`."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text=json.dumps(body))

    app = web.Application()
    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_how_a_daemon_is_stands_in_the_store_and_is_renewed(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert feed_nodes.EVERY_S == 10.0
    monkeypatch.setattr(feed_nodes, "EVERY_S", 0.05)
    body = dict(HEALTH)
    async with answering(body) as url:
        box.config = replace(box.config, nodes=NodesConfig(announce=(url,)))

        async def told() -> Announcement | None:
            entry = await box.hub.get("health", "fra-1")
            return decode(entry.value) if entry is not None else None

        async with box.running():
            await until(lambda: box.part.announced >= 1)
            assert await told() == Announcement(
                node="fra-1", version="0.1.0", state="ok", score=97, stress=25, draining=False
            )
            body.update(drain="draining", score=None, state="unknown")
            before = box.part.announced
            await until(lambda: box.part.announced >= before + 2)
            assert await told() == Announcement(
                node="fra-1", version="0.1.0", state="unknown", stress=25, draining=True
            )


async def test_a_daemon_that_says_something_else_or_nothing_is_announced_by_nobody(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_nodes, "EVERY_S", 0.05)
    async with answering({"hello": "world"}) as url:
        gone = "http://127.0.0.1:1"
        box.config = replace(box.config, nodes=NodesConfig(announce=(url, gone)))
        async with box.running():
            await until(lambda: box.part.unheard >= 4)
            assert box.part.announced == 0
    assert await box.hub.keys("health") == []


@pytest.mark.parametrize(
    "change",
    [
        {"node": "a b"},
        {"version": ""},
        {"state": "fine"},
        {"stress": "much"},
        {"stress": float("inf")},
        {"score": 101},
        {"drain": None, "node": 1},
    ],
)
def test_an_answer_that_does_not_fit_is_no_announcement(change: dict[str, Any]) -> None:
    assert announcement(json.dumps(HEALTH).encode()) is not None
    assert announcement(json.dumps(HEALTH | change).encode()) is None


def test_an_answer_without_a_field_or_of_another_kind_is_none() -> None:
    for name in ("node", "version", "state", "score", "stress", "drain"):
        assert announcement(json.dumps({k: v for k, v in HEALTH.items() if k != name}).encode()) is None
    for raw in (b"torn", b"[]", b"3", b"\xff"):
        assert announcement(raw) is None
    busy = announcement(json.dumps(HEALTH | {"stress": 77.0}).encode())
    assert busy is not None
    assert busy.stress == 1_000


async def test_the_program_copies_the_list_without_any_endpoint(box: Box, tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    feed.configure()
    with feed.config.open("a") as file:
        file.write(f'[state]\nstore = "{box.store_path}"\n')
        file.write(f'[nodes]\nfile = "{box.path}"\nkeys = ["{public_of(SEED).hex()}"]\n')
    raw = document(7)
    await box.put(raw)
    await feed.start()
    try:
        await until(lambda: box.holds(raw))
        await until(lambda: feed.metric("relay_feed_nodes_revision") == 7)
        assert feed.metric("relay_feed_nodes_refused_total") == 0
        assert feed.metric("relay_feed_announced_total") == 0
        assert await feed.end() == 0
    finally:
        if feed.process is not None:
            await feed.end(9)
