"""The store of one machine: an SQLite file that several processes share. No server.

A revision is a row. A commit is on the disk before `put` returns (WAL, synchronous=FULL). Watches look at
`PRAGMA data_version`, which costs no read of the file. All statements run on one thread of the store's own,
so that a disk that hangs holds up no loop. Must never live here: what a value means.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from relay.rollout.store import (
    ConflictError,
    Entry,
    StoreError,
    UnreachableError,
    check_key,
    check_put,
    known,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S: Final = 0.25
"""Between two looks of a watch, seconds."""
BUSY: Final = 5.0  # seconds that another process may hold the file
RETRY: Final = 0.01
COLUMNS: Final = "bucket, key, value, revision, ts, who, why"
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    ts REAL NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_key ON entries (bucket, key, revision);
"""


class SqliteStore:
    """A StateStore. `wall` and `clock` are seconds: since 1970, and monotonic."""

    def __init__(
        self,
        path: str | Path,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
    ) -> None:
        self._path = str(path)
        self._wall = wall
        self._clock = clock
        self._poll_s = poll_s
        self._db: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state-store")
        self._seen = float("-inf")
        self._writes = 0  # our own: data_version tells those of others only
        self._opened = 0
        self._inode: int | None = None
        self._closed = asyncio.Event()
        self._is_failing = False

    # ------------------------------------------------------------ the protocol

    async def get(self, bucket: str, key: str) -> Entry | None:
        """As StateStore."""
        known(bucket)
        check_key(key)
        return await self._run(lambda db: self._newest(db, bucket, key))

    async def put(self, bucket: str, key: str, value: bytes, *, expect: int, who: str, why: str) -> int:
        """As StateStore."""
        check_put(bucket, key, value, expect, who, why)
        revision = await self._run(lambda db: self._put(db, bucket, key, value, expect, who, why))
        self._writes += 1
        return revision

    async def watch(self, bucket: str, prefix: str = "") -> AsyncIterator[Entry]:
        """As StateStore."""
        known(bucket)
        last, seen = 0, (0, 0, 0)
        while not self._closed.is_set():
            try:
                version = await self._run(self._version)
                if version[0] != seen[0]:  # perhaps another file: its revisions are its own
                    last = 0
                if version != seen:
                    found = await self._run(partial(self._since, bucket, prefix, last))
                    seen = version
                    self._is_failing = False
                    for entry in found:
                        last = entry.revision
                        yield entry
            except UnreachableError as error:
                if not self._is_failing:
                    log.warning("a watch of the state waits for the store: %s", error)
                self._is_failing = True
            try:
                await asyncio.wait_for(self._closed.wait(), self._poll_s)
            except TimeoutError:
                continue

    async def history(self, bucket: str, key: str, limit: int = 64) -> list[Entry]:
        """As StateStore."""
        known(bucket)
        check_key(key)
        query = f"SELECT {COLUMNS} FROM entries WHERE bucket = ? AND key = ? ORDER BY revision DESC LIMIT ?"

        def read(db: sqlite3.Connection) -> list[Entry]:
            return [_entry(row) for row in db.execute(query, (bucket, key, limit)).fetchall()][::-1]

        return [entry for entry in await self._run(read) if self._lives(entry)]

    async def keys(self, bucket: str) -> list[str]:
        """As StateStore."""
        known(bucket)
        return sorted(entry.key for entry in await self._run(partial(self._since, bucket, "", 0)))

    def age(self) -> float:
        """As StateStore."""
        return self._clock() - self._seen

    async def close(self) -> None:
        """As StateStore."""
        if self._closed.is_set():
            return
        self._closed.set()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
        self._thread.shutdown()

    # ------------------------------------------------------------ on the thread

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def on_thread() -> T:
            if self._db is not None and _inode(self._path) != self._inode:
                self._let_go()  # somebody put another file there
            if self._db is None:
                self._db = _open(self._path)
                self._inode = _inode(self._path)
                self._opened += 1
            return work(self._db)

        if self._closed.is_set():
            raise UnreachableError("the store was closed")
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", None) or type(error).__name__
            # Opened anew at the next try: whatever is wrong may be over then.
            await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
            raise UnreachableError(f"{self._path}: {name}") from None
        self._seen = self._clock()
        return result

    def _let_go(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _version(self, db: sqlite3.Connection) -> tuple[int, int, int]:
        return self._opened, int(db.execute("PRAGMA data_version").fetchone()[0]), self._writes

    def _lives(self, entry: Entry) -> bool:
        ttl = known(entry.bucket).ttl_s
        return ttl is None or self._wall() - entry.ts < ttl

    def _newest(self, db: sqlite3.Connection, bucket: str, key: str) -> Entry | None:
        query = f"SELECT {COLUMNS} FROM entries WHERE bucket = ? AND key = ? ORDER BY revision DESC LIMIT 1"
        row = db.execute(query, (bucket, key)).fetchone()
        entry = _entry(row) if row is not None else None
        return entry if entry is not None and self._lives(entry) else None

    def _since(self, bucket: str, prefix: str, after: int, db: sqlite3.Connection) -> list[Entry]:
        """Keys whose newest revision is greater."""
        query = (
            f"SELECT {COLUMNS} FROM entries WHERE revision IN (SELECT max(revision) FROM entries "
            "WHERE bucket = ? GROUP BY key) AND revision > ? ORDER BY revision"
        )
        found = [_entry(row) for row in db.execute(query, (bucket, after)).fetchall()]
        return [entry for entry in found if entry.key.startswith(prefix) and self._lives(entry)]

    def _forget(self, db: sqlite3.Connection, bucket: str) -> None:
        """Keys whose time is over: each command has one of its own, so they would be ever more."""
        ttl = known(bucket).ttl_s
        if ttl is not None:
            db.execute("DELETE FROM entries WHERE bucket = ? AND ts <= ?", (bucket, self._wall() - ttl))

    def _put(
        self, db: sqlite3.Connection, bucket: str, key: str, value: bytes, expect: int, who: str, why: str
    ) -> int:
        db.execute("BEGIN IMMEDIATE")
        try:
            self._forget(db, bucket)
            newest = self._newest(db, bucket, key)
            actual = newest.revision if newest is not None else 0
            if actual != expect:
                raise ConflictError(bucket, key, expect, actual)
            if newest is None:
                _check_room(db, bucket)
            revision = db.execute(
                "INSERT INTO entries (bucket, key, value, ts, who, why) VALUES (?, ?, ?, ?, ?, ?)",
                (bucket, key, value, self._wall(), who, why),
            ).lastrowid
            db.execute(
                "DELETE FROM entries WHERE bucket = ? AND key = ? AND revision NOT IN (SELECT revision "
                "FROM entries WHERE bucket = ? AND key = ? ORDER BY revision DESC LIMIT ?)",
                (bucket, key, bucket, key, known(bucket).history),
            )
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        assert revision is not None
        return revision


def _check_room(db: sqlite3.Connection, bucket: str) -> None:
    """StoreError where a bucket takes no new key."""
    most = known(bucket).most
    query = "SELECT count(DISTINCT key) FROM entries WHERE bucket = ?"
    if most is not None and db.execute(query, (bucket,)).fetchone()[0] >= most:
        raise StoreError(f"{bucket}: {most} keys are there, and it holds no more (wait until some are over)")


def _open(path: str) -> sqlite3.Connection:
    """For this thread, which may wait: SQLite does not, where two make the same file at once."""
    until = time.monotonic() + BUSY
    while True:
        try:
            return _try_open(path)
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= until:
                raise
        time.sleep(RETRY)


def _try_open(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _entry(row: tuple[Any, ...]) -> Entry:
    bucket, key, value, revision, ts, who, why = row
    return Entry(bucket, key, bytes(value), revision, ts, who, why)
