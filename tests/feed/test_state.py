"""The part of the feed that brings rollouts' state from its store to the daemon's file."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest

from feed.test_program import Feed, until
from relay.config import NodeConfig
from relay.config_state import StateConfig
from relay.feed.state import StateCopier, keep_days
from relay.protocol.signed import public_of
from relay.rollout.lastgood import LIFE_S, Body, Offer, Refusal, accepted, seal
from relay.rollout.lastgood_file import Files, Follower, OsFiles, Places
from relay.rollout.store import UnreachableError
from relay.rollout.store_sqlite import SqliteStore

SEED, OTHER = bytes(32), b"\1" * 32
BY = {"who": "anna", "why": "next step"}


def state(rev: int, share: float, seed: bytes = SEED) -> bytes:
    now = int(time.time())
    return seal(Body(rev, now, now + LIFE_S, Offer("r1", "s1", regions={"eu-1": share})), seed)


class Full(OsFiles):
    """A disk that is full while `is_full`."""

    is_full = False

    def write(self, fd: int, data: bytes) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(fd, data)


class Box:
    """A store, a copier, and what a daemon beside it would go by."""

    def __init__(self, folder: Path) -> None:
        self.store_path, self.path = folder / "state.sqlite", folder / "lastgood"
        keys = (public_of(SEED).hex(),)
        self.config = StateConfig(file=str(self.path), keys=keys, store=str(self.store_path))
        self.operator = SqliteStore(self.store_path)
        places = Places(str(self.path), str(folder / "floor"), (f"{self.path}.kill",))
        self.daemon = Follower(places, accepted([public_of(SEED)]))
        self.copier: StateCopier
        self.files = Full()

    @contextlib.asynccontextmanager
    async def copying(self, wall: Callable[[], float] = time.time) -> AsyncIterator[None]:
        files: Files = self.files
        self.copier = StateCopier(self.config, SqliteStore(self.store_path), files, wall)
        task = asyncio.create_task(self.copier.run())
        try:
            yield
        finally:
            self.copier.stop()
            await task

    async def put(self, key: str, value: bytes) -> None:
        standing = await self.operator.get("rollout", key)
        expect = standing.revision if standing is not None else 0
        await self.operator.put("rollout", key, value, expect=expect, **BY)

    def share(self) -> float | None:
        self.daemon.look()
        offer = self.daemon.stand(time.time()).offer
        return None if offer is None else offer.regions["eu-1"]

    async def soon(self, share: float | None) -> float:
        """Until the daemon goes by it; how long that took, seconds."""
        began = time.monotonic()
        await until(lambda: self.share() == share)
        return time.monotonic() - began


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    one = Box(tmp_path)
    yield one
    await one.operator.close()


async def test_what_is_put_in_the_store_is_in_the_file_within_a_second(box: Box) -> None:
    async with box.copying():
        took = []
        for rev, share in ((1, 1.0), (2, 5.0), (3, 0.0)):
            await box.put("state", state(rev, share))
            took.append(await box.soon(share))
        assert min(took) < 1  # a busy machine takes its time, but not each time
        assert box.copier.revision == 3
        assert box.path.stat().st_mode & 0o777 == 0o644


async def test_while_the_store_is_away_the_file_stays_and_grows_old(box: Box) -> None:
    async with box.copying():
        await box.put("state", state(1, 5))
        await box.soon(5)
        await box.operator.close()
        for end in ("-wal", "-shm"):
            box.store_path.with_name(box.store_path.name + end).unlink()
        box.store_path.with_name("junk").write_bytes(b"no database" * 900)
        box.store_path.with_name("junk").replace(box.store_path)
        await until(lambda: box.copier.age() > 1)
        assert box.share() == 5
        with pytest.raises(UnreachableError):
            await SqliteStore(box.store_path).get("rollout", "state")
    async with box.copying():  # a feed that starts without a store leaves it, too
        await asyncio.sleep(0)
        assert box.share() == 5


async def test_the_files_time_is_until_when_the_store_had_no_newer_one(box: Box) -> None:
    ahead = 1_000.0
    async with box.copying(wall=lambda: time.time() + ahead):
        await box.put("state", state(1, 5))
        await until(lambda: box.path.exists() and abs(box.path.stat().st_mtime - time.time() - ahead) < 5)
        await box.put("state", state(2, 25, OTHER))
        await until(lambda: box.copier.refused[Refusal.UNKNOWN_KEY] == 1)
        ahead = 9_000.0
        await box.copier._touch()
        assert box.path.stat().st_mtime < time.time() + 2_000  # it is not the newest: nobody vouches for it


async def test_a_state_that_nobody_signed_or_that_is_older_stays_in_the_store(box: Box) -> None:
    async with box.copying():
        await box.put("state", state(2, 5))
        await box.soon(5)
        for wrong, why in (
            (state(3, 100, OTHER), Refusal.UNKNOWN_KEY),
            (state(1, 100), Refusal.LOWER_REV),
            (state(2, 100), Refusal.OTHER_BYTES),
            (b"{}", Refusal.MALFORMED),
        ):
            await box.put("state", wrong)
            await until(lambda why=why: box.copier.refused[why] == 1)
            assert box.share() == 5
        await box.put("state", state(3, 25))
        await box.soon(25)


async def test_a_kill_in_the_store_needs_no_signature_and_lasts_until_it_is_taken_back(box: Box) -> None:
    kills = Path(f"{box.path}.kill")
    async with box.copying():
        await box.put("state", state(1, 5))
        await box.soon(5)
        await box.put("r1/kill", b"calls break")
        await box.soon(None)
        await box.put("r2/kill", b"")
        await until(lambda: kills.read_text() == "r1\nr2\n")
        await box.put("r2/kill", b"false")
        await until(lambda: kills.read_text() == "r1\n")
    await asyncio.to_thread(kills.write_text, "r1\nr9\n")
    async with box.copying():  # what a store does not know of is not taken back by a restart
        await box.put("r8/kill", b"")
        await until(lambda: kills.read_text() == "r1\nr8\nr9\n")
        assert box.share() is None
        for id in ("r8", "r9", "r1"):
            await box.put(f"{id}/kill", b"false")
        await until(lambda: not kills.exists())
        await box.soon(5)


async def test_what_a_full_disk_refused_is_written_when_there_is_room(box: Box) -> None:
    async with box.copying():
        await box.put("state", state(1, 5))
        await box.soon(5)
        box.files.is_full = True
        await box.put("state", state(2, 25))
        await box.put("r9/kill", b"")
        await until(lambda: box.copier._is_failing)
        assert box.share() == 5
        box.files.is_full = False
        await box.soon(25)
        await until(lambda: Path(f"{box.path}.kill").exists())


async def test_the_program_copies_without_any_endpoint_and_says_how_it_is(tmp_path: Path) -> None:
    box, feed = Box(tmp_path), Feed(tmp_path)
    feed.configure()
    config = box.config
    with feed.config.open("a") as file:
        file.write(
            f'[state]\nfile = "{config.file}"\nkeys = ["{config.keys[0]}"]\nstore = "{config.store}"\n'
        )
    await box.put("state", state(7, 5))
    await feed.start()
    try:
        await until(lambda: box.share() == 5)
        await until(lambda: feed.metric("relay_feed_state_revision") == 7)
        assert feed.metric("relay_feed_state_age_seconds") < 5
        assert feed.metric("relay_feed_state_refused_total") == 0
        assert await feed.end() == 0
    finally:
        if feed.process is not None:
            await feed.end(9)
        await box.operator.close()
    assert "a state was copied" in feed.log()


# ---------------------------------------------------------------- rules of regions


def test_how_long_this_node_may_keep_letters_stands_in_the_state_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "lastgood"
    config = StateConfig(file=str(path), keys=(public_of(SEED).hex(),))
    node = NodeConfig(id="a", region="far")

    def kept(routes: dict[str, Any]) -> float | None:
        now = int(time.time())
        path.write_bytes(seal(Body(1, now, now + LIFE_S, None, routes), SEED))
        return keep_days(config, node)

    rules = {"may_leave_to": [], "keep_in": ["near"], "keep_days": 7}
    assert keep_days(config, node) is None
    assert kept({"near": {"relays": {}, "rules": rules}}) == inf  # another region's
    here = {"a": {"urls": ["quic://a.example:443"]}}
    assert kept({"near": {"relays": here, "rules": rules}}) == 7  # the operator has it there
    assert kept({"near": {"relays": [], "rules": rules}}) is None
    path.write_bytes(b"spoilt")
    assert keep_days(config, node) is None
