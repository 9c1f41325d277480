"""What every store of state keeps to, by each back end: SQLite, a hub of NATS, a leaf whose hub is there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from relay.rollout import store as store_module
from relay.rollout import store_nats
from relay.rollout.store import (
    BUCKETS,
    MOST_VALUE,
    ConflictError,
    Entry,
    StateStore,
    StoreError,
    UnreachableError,
)
from relay.rollout.store_nats import NatsStore
from relay.rollout.store_sqlite import SqliteStore
from rollout_store.servers import Server, needs_nats

WAIT_S = 20.0
BY = {"who": "anna@ops", "why": "step 2, gate said so"}
KINDS = ["sqlite", pytest.param("hub", marks=needs_nats), pytest.param("leaf", marks=needs_nats)]


class Clocks:
    """Both, set by hand. The servers' own go on meanwhile."""

    wall = 1_800_000_000.0
    now = 50.0


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@contextlib.asynccontextmanager
async def hub_and_leaf(folder: Path) -> AsyncIterator[tuple[Server, Server]]:
    """Both with their buckets."""
    hub, leaf = Server(folder, "hub"), Server(folder, "leaf")
    leaf.leads_to(hub)
    try:
        for server in (hub, leaf):
            await server.start()
            store = await server.store()
            for _ in range(2):  # to make them again changes nothing
                await (store.make_hub([leaf.name]) if server is hub else store.make_leaf(hub.name))
            await store.close()
        yield hub, leaf
    finally:
        for server in (leaf, hub):
            await server.end()


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clocks: Clocks) -> AsyncIterator[StateStore]:
    by_hand = {"wall": lambda: clocks.wall, "clock": lambda: clocks.now}
    if request.param == "sqlite":
        made: StateStore = SqliteStore(tmp_path / "state.sqlite", poll_s=0.02, **by_hand)
        yield made
        await made.close()
        return
    async with hub_and_leaf(tmp_path) as (hub, leaf):
        made = await (hub if request.param == "hub" else leaf).store(poll_s=0.02, **by_hand)
        yield made
        await made.close()


async def until(holds: Callable[[], object], why: str = "") -> None:
    for _ in range(int(WAIT_S / 0.02)):
        if holds():
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"not within {WAIT_S:g} s: {why}")


async def settled(store: StateStore, bucket: str, key: str, revision: int) -> Entry:
    """The entry, once the server that we read from has it: a mirror is a moment behind."""
    for _ in range(int(WAIT_S / 0.02)):
        with contextlib.suppress(UnreachableError):
            found = await store.get(bucket, key)
            if found is not None and found.revision >= revision:
                return found
        await asyncio.sleep(0.02)
    pytest.fail(f"no revision {revision}")


@contextlib.asynccontextmanager
async def watched(store: StateStore, bucket: str, prefix: str = "") -> AsyncIterator[list[Entry]]:
    """What a watch told so far."""
    told: list[Entry] = []

    async def follow() -> None:
        async for entry in store.watch(bucket, prefix):
            told.append(entry)

    task = asyncio.create_task(follow())
    try:
        yield told
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def at(server: Server, **more: float) -> AsyncIterator[NatsStore]:
    """A store there."""
    store = await server.store(**more)
    try:
        yield store
    finally:
        await store.close()


async def test_what_was_put_is_got_with_who_and_why(store: StateStore, clocks: Clocks) -> None:
    value = bytes(range(256)) * 8
    assert await store.get("rollout", "r1/steps") is None
    first = await store.put("rollout", "r1/steps", value, expect=0, **BY)
    found = await settled(store, "rollout", "r1/steps", first)
    assert found == Entry("rollout", "r1/steps", value, first, clocks.wall, **BY)
    assert await store.get("rollout", "r1/step") is None
    assert await store.get("routes", "r1/steps") is None
    other = await store.put("rollout", "relay-0.4/kill", b"", expect=0, who="björn", why="Ärger in fra ☎")
    assert other > first
    got = await settled(store, "rollout", "relay-0.4/kill", other)
    assert (got.value, got.who, got.why) == (b"", "björn", "Ärger in fra ☎")


async def test_only_who_has_seen_the_newest_revision_writes(store: StateStore) -> None:
    first = await store.put("rollout", "k", b"1", expect=0, **BY)
    await settled(store, "rollout", "k", first)
    with pytest.raises(ConflictError) as error:
        await store.put("rollout", "k", b"2", expect=0, **BY)
    assert (error.value.expected, error.value.actual) == (0, first)
    second = await store.put("rollout", "k", b"2", expect=first, **BY)
    await settled(store, "rollout", "k", second)
    for stale in (first, second + 1):
        with pytest.raises(ConflictError) as error:
            await store.put("rollout", "k", b"3", expect=stale, **BY)
        assert error.value.actual == second
    with pytest.raises(ConflictError):
        await store.put("rollout", "none", b"", expect=second, **BY)
    assert (await settled(store, "rollout", "k", second)).value == b"2"


async def test_of_many_who_write_at_once_one_does(store: StateStore) -> None:
    done = await asyncio.gather(
        *(store.put("routes", "eu-1", b"%d" % n, expect=0, **BY) for n in range(8)), return_exceptions=True
    )
    won = [n for n, each in enumerate(done) if isinstance(each, int)]
    assert len(won) == 1
    assert sum(isinstance(each, ConflictError) for each in done) == 7
    revision = done[won[0]]
    assert isinstance(revision, int)
    assert (await settled(store, "routes", "eu-1", revision)).value == b"%d" % won[0]


async def test_history_is_the_newest_that_are_kept_oldest_first(store: StateStore) -> None:
    revision, made = 0, []
    for n in range(BUCKETS["rollout"].history + 3):
        revision = await store.put("rollout", "k", b"%d" % n, expect=revision, **BY)
        made.append(revision)
    await settled(store, "rollout", "k", revision)
    kept = await store.history("rollout", "k", 1000)
    assert [entry.revision for entry in kept] == made[3:]
    assert [entry.value for entry in kept[:2]] == [b"3", b"4"]
    assert [entry.revision for entry in await store.history("rollout", "k", 2)] == made[-2:]
    assert await store.history("rollout", "none") == []


async def test_a_watch_tells_what_stands_and_then_what_changes(store: StateStore) -> None:
    one = await store.put("rollout", "r1/steps", b"old", expect=0, **BY)
    one = await store.put("rollout", "r1/steps", b"1", expect=one, **BY)
    two = await store.put("rollout", "r2/steps", b"2", expect=0, **BY)
    await settled(store, "rollout", "r2/steps", two)
    assert await store.keys("rollout") == ["r1/steps", "r2/steps"]
    async with watched(store, "rollout") as all_told, watched(store, "rollout", "r1/") as some_told:
        await until(lambda: len(all_told) == 2 and len(some_told) == 1, "what stands")
        assert [(entry.value, entry.revision) for entry in all_told] == [(b"1", one), (b"2", two)]
        kill = await store.put("rollout", "r1/kill", b"kill", expect=0, **BY)
        await store.put("rollout", "r2/steps", b"3", expect=two, **BY)
        await store.put("routes", "r1/x", b"of another bucket", expect=0, **BY)
        await until(lambda: len(all_told) == 4 and len(some_told) == 2, "what changed")
        assert [entry.value for entry in all_told[2:]] == [b"kill", b"3"]
        assert (some_told[1].key, some_told[1].revision) == ("r1/kill", kill)
        assert (all_told[2].who, all_told[2].why) == (BY["who"], BY["why"])


async def test_health_is_gone_after_its_time(store: StateStore, clocks: Clocks) -> None:
    first = await store.put("health", "eu-1", b"ok", expect=0, **BY)
    clocks.wall += 89
    assert (await settled(store, "health", "eu-1", first)).value == b"ok"
    assert await store.keys("health") == ["eu-1"]
    clocks.wall += 1
    assert await store.get("health", "eu-1") is None
    assert await store.keys("health") == []
    assert await store.history("health", "eu-1") == []
    async with watched(store, "health") as told:
        second = await store.put("health", "eu-1", b"bad", expect=0, **BY)  # as if it had never been there
        await until(lambda: told, "the new one")
        assert [entry.revision for entry in told] == [second]
    rollout = await store.put("rollout", "r1/steps", b"", expect=0, **BY)
    clocks.wall += 1e9
    await settled(store, "rollout", "r1/steps", rollout)


async def test_commands_are_gone_after_their_time(store: StateStore, clocks: Clocks) -> None:
    first = await store.put("commands", "a1", b"x", expect=0, **BY)
    clocks.wall += 359
    assert (await settled(store, "commands", "a1", first)).value == b"x"
    clocks.wall += 1
    assert await store.get("commands", "a1") is None
    assert await store.keys("commands") == []
    async with watched(store, "commands") as told:
        await store.put("commands", "b2", b"y", expect=0, **BY)
        await until(lambda: [entry.key for entry in told] == ["b2"], "what stands")


async def test_a_watch_of_what_begins_with_a_dot_at_the_end_tells_nothing_else(store: StateStore) -> None:
    async with watched(store, "answers", "a1.") as told:
        for key in ("a1.fra-1", "a11.fra-1", "a2.fra-1", "a1.fra-2.eu"):
            await store.put("answers", key, b"", expect=0, **BY)
        await until(lambda: len(told) == 2, "both")
        last = await store.put("answers", "a1.fra-3", b"", expect=0, **BY)
        await until(lambda: told[-1].revision == last, "the last")
    assert [entry.key for entry in told] == ["a1.fra-1", "a1.fra-2.eu", "a1.fra-3"]


async def test_age_is_since_the_last_contact(store: StateStore, clocks: Clocks) -> None:
    assert store.age() == float("inf")
    revision = await store.put("rollout", "k", b"", expect=0, **BY)
    assert store.age() == 0
    clocks.now += 40
    assert store.age() == 40
    await settled(store, "rollout", "k", revision)
    assert store.age() < 10  # a mirror counts from when it heard of its origin


@pytest.mark.parametrize(
    ("bucket", "key", "change", "told"),
    [
        ("nonsense", "k", {}, "rollout, routes, health"),
        ("rollout", "", {}, "key"),
        ("rollout", ".k", {}, "key"),
        ("rollout", "a..b", {}, "key"),
        ("rollout", "a b", {}, "key"),
        ("rollout", "a*", {}, "key"),
        ("rollout", "a>", {}, "key"),
        ("rollout", "k" * 201, {}, "key"),
        ("rollout", "k", {"value": bytes(MOST_VALUE + 1)}, str(MOST_VALUE)),
        ("rollout", "k", {"expect": -1}, "0: the key is not there"),
        ("rollout", "k", {"who": ""}, "who"),
        ("rollout", "k", {"why": "two\nlines"}, "why"),
        ("rollout", "k", {"why": "x" * 401}, "why"),
    ],
)
async def test_what_not_every_store_can_hold_none_takes(
    tmp_path: Path, bucket: str, key: str, change: dict[str, object], told: str
) -> None:
    store = SqliteStore(tmp_path / "state.sqlite")
    words = {"value": b"", "expect": 0, **BY, **change}
    with pytest.raises(StoreError, match=told.replace(".", r"\.")):
        await store.put(bucket, key, **words)  # type: ignore[arg-type]
    await store.close()


async def test_the_largest_that_is_allowed_fits(store: StateStore) -> None:
    value = b"\xff" * MOST_VALUE
    revision = await store.put("rollout", "k" * 200, value, expect=0, who="w" * 400, why="☎" * 400)
    assert (await settled(store, "rollout", "k" * 200, revision)).value == value


async def test_a_store_that_was_closed_says_so_and_its_watches_end(store: StateStore) -> None:
    revision = await store.put("rollout", "k", b"", expect=0, **BY)
    await settled(store, "rollout", "k", revision)
    watch = store.watch("rollout")
    await anext(watch)
    await store.close()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    with pytest.raises(UnreachableError, match="closed"):
        await store.get("rollout", "k")


# ---------------------------------------------------------------- SQLite


async def test_two_processes_share_a_file_and_what_was_put_is_there_after_all_are_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.sqlite"
    one, two = SqliteStore(path, poll_s=0.02), SqliteStore(path, poll_s=0.02)
    async with watched(two, "rollout") as told:
        first = await one.put("rollout", "k", b"1", expect=0, **BY)
        await until(lambda: told)
        second = await two.put("rollout", "k", b"2", expect=first, **BY)
        with pytest.raises(ConflictError):
            await one.put("rollout", "k", b"3", expect=first, **BY)
        await until(lambda: len(told) == 2)
    await one.close()
    await two.close()
    again = SqliteStore(path)
    assert [entry.revision for entry in await again.history("rollout", "k")] == [first, second]
    mode = await again._run(lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS])
    assert mode == ["wal", 2]
    await again.close()


async def test_those_who_make_the_file_at_the_same_moment_all_have_it(tmp_path: Path) -> None:
    for attempt in range(10):
        stores = [SqliteStore(tmp_path / f"{attempt}.sqlite") for _ in range(8)]
        try:
            await asyncio.gather(
                *(each.put("rollout", f"k{n}", b"", expect=0, **BY) for n, each in enumerate(stores))
            )
            assert len(await stores[0].keys("rollout")) == 8
        finally:
            for each in stores:
                await each.close()


PRAGMAS = ("journal_mode", "synchronous")


async def test_a_watch_outlives_a_file_that_is_spoilt_and_sees_the_one_in_its_place(tmp_path: Path) -> None:
    path, good = tmp_path / "state.sqlite", tmp_path / "other.sqlite"
    other = SqliteStore(good)
    await other.put("rollout", "k", b"restored", expect=0, **BY)
    await other.close()
    clock = itertools.count()
    store = SqliteStore(path, poll_s=0.02, clock=lambda: float(next(clock)))
    for n in range(3):
        await store.put("rollout", f"k{n}", b"", expect=0, **BY)
    async with watched(store, "rollout") as told:
        await until(lambda: len(told) == 3)
        (tmp_path / "junk").write_bytes(b"no database at all" * 500)
        (tmp_path / "junk").replace(path)
        for end in ("-wal", "-shm"):
            (tmp_path / f"state.sqlite{end}").unlink()
        with pytest.raises(UnreachableError, match=r"SQLITE_NOTADB.*nothing was written"):
            await store.put("rollout", "k", b"", expect=0, **BY)
        assert store.age() > 0
        good.replace(path)
        await until(lambda: len(told) == 4, "the file in its place, though its revisions are lower")
        assert told[3].value == b"restored"
    await store.close()


async def test_a_bucket_with_a_bound_takes_no_more_until_some_are_over(
    tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = store_module.BUCKETS["commands"]
    bounded = {**store_module.BUCKETS, "commands": replace(rules, most=2)}
    monkeypatch.setattr(store_module, "BUCKETS", bounded)
    store = SqliteStore(tmp_path / "state.sqlite", wall=lambda: clocks.wall)
    first = await store.put("commands", "a", b"", expect=0, **BY)
    await store.put("commands", "b", b"", expect=0, **BY)
    with pytest.raises(StoreError, match="holds no more"):
        await store.put("commands", "c", b"", expect=0, **BY)
    await store.put("commands", "a", b"again", expect=first, **BY)
    await store.put("rollout", "c", b"", expect=0, **BY)
    clocks.wall += 360
    await store.put("commands", "c", b"", expect=0, **BY)
    assert await store.keys("commands") == ["c"]
    counted = "SELECT count(*) FROM entries WHERE bucket = 'commands'"
    assert await store._run(lambda db: db.execute(counted).fetchone()[0]) == 1, "on the disk, too"
    await store.close()


@needs_nats
async def test_a_bound_holds_at_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = store_module.BUCKETS["commands"]
    bounded = {**store_module.BUCKETS, "commands": replace(rules, most=2)}
    monkeypatch.setattr(store_nats, "BUCKETS", bounded)
    async with hub_and_leaf(tmp_path) as (hub, leaf), at(hub) as there, at(leaf) as here:
        await there.put("commands", "a", b"", expect=0, **BY)
        last = await here.put("commands", "b", b"", expect=0, **BY)
        for store in (there, here):
            with pytest.raises(StoreError, match="maximum messages"):
                await store.put("commands", "c", b"", expect=0, **BY)
        await settled(here, "commands", "b", last)


# ---------------------------------------------------------------- NATS


@needs_nats
async def test_without_the_hub_a_leaf_reads_refuses_to_write_and_catches_up(tmp_path: Path) -> None:
    async with hub_and_leaf(tmp_path) as (hub, leaf), at(leaf, poll_s=0.02) as here:
        first = await here.put("rollout", "r1/steps", b"1", expect=0, **BY)  # by the leaf's own connection
        await settled(here, "rollout", "r1/steps", first)
        async with watched(here, "rollout") as told:
            await until(lambda: told)
            await hub.end(signal.SIGKILL)
            assert (await settled(here, "rollout", "r1/steps", first)).value == b"1"
            assert [entry.value for entry in await here.history("rollout", "r1/steps")] == [b"1"]
            with pytest.raises(UnreachableError, match="nothing was written") as error:
                await here.put("rollout", "r1/kill", b"", expect=0, **BY)
            assert error.value.is_written is False
            mine = await here.put("health", "eu-1", b"bad", expect=0, **BY)  # its own bucket
            assert (await settled(here, "health", "eu-1", mine)).value == b"bad"
            before = here.age()
            await until(lambda: here.age() > before + 1, "age, while the mirror hears nothing")
            await hub.start()
            async with at(hub) as there:
                kill = await there.put("rollout", "r1/kill", b"stop", expect=0, **BY)
                assert (
                    await settled(there, "rollout", "r1/steps", first)
                ).value == b"1"  # after SIGKILL, too
                await until(lambda: told[-1].revision == kill, "the kill key at the leaf")
                await until(lambda: here.age() < 2, "age, once it hears again")
                assert len({entry.revision for entry in told}) == len(told) == 2
                second = await here.put("rollout", "r1/steps", b"2", expect=first, **BY)
                await until(lambda: told[-1].revision == second)
                entry = await settled(there, "health", "eu-1", 1)  # gathered by the hub
                assert entry.value == b"bad"


@needs_nats
async def test_the_first_question_waits_for_the_connection(tmp_path: Path) -> None:
    server = Server(tmp_path, "hub")
    await server.start()
    store = await NatsStore.connect([server.url])
    try:
        await store.make_hub()
        assert await store.get("rollout", "k") is None
    finally:
        await store.close()
        await server.end()


@needs_nats
async def test_a_store_waits_for_its_server_and_a_watch_outlives_it(tmp_path: Path) -> None:
    server = Server(tmp_path, "hub")
    store = await NatsStore.connect([server.url], poll_s=0.02)
    try:
        with pytest.raises(UnreachableError, match="no connection"):
            await store.get("rollout", "k")
        async with watched(store, "rollout") as told:
            await server.start()
            for _ in range(int(WAIT_S / 0.02)):
                with contextlib.suppress(UnreachableError):
                    await store.make_hub()
                    break
                await asyncio.sleep(0.02)
            first = await store.put("rollout", "k", b"1", expect=0, **BY)
            await until(lambda: told)
            await server.end(signal.SIGKILL)
            with pytest.raises(UnreachableError):
                await store.put("rollout", "k", b"2", expect=first, **BY)
            await server.start()
            await settled(store, "rollout", "k", first)
            second = await store.put("rollout", "k", b"2", expect=first, **BY)
            await until(lambda: told[-1].revision == second)
    finally:
        await store.close()
        await server.end()


@needs_nats
async def test_what_others_put_there_is_read_and_what_they_deleted_is_gone(tmp_path: Path) -> None:
    async with hub_and_leaf(tmp_path) as (hub, _), at(hub, poll_s=0.02) as store:
        library = store._client.jetstream()
        kv = await library.key_value("rollout")  # its own view of a bucket
        first = await kv.put("k", b"by hand")
        found = await settled(store, "rollout", "k", first)
        assert (found.value, found.who, found.why) == (b"by hand", "", "")
        assert found.ts > 1.7e9
        second = await store.put("rollout", "k", b"ours", expect=first, **BY)
        assert (await kv.get("k")).revision == second
        await kv.delete("k")
        assert await store.get("rollout", "k") is None
        assert await store.keys("rollout") == []
        third = await store.put("rollout", "k", b"again", expect=0, **BY)
        assert [entry.value for entry in await store.history("rollout", "k")] == [
            b"by hand",
            b"ours",
            b"again",
        ]
        async with watched(store, "rollout") as told:
            await until(lambda: told)
            await library.delete_key_value("rollout")
            await store.make_hub()
            fourth = await store.put("rollout", "k", b"anew", expect=0, **BY)
            assert fourth < third
            await until(lambda: told[-1].revision == fourth, "a bucket that was made anew")
