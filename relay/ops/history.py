"""Call records in SQLite: who by pseudonym, when, how it ended, quality. Never content, never an address.

    record(CallRecord) --bounded queue--> one thread --> SQLite (WAL)       the loop never waits for the disk

What cannot be written is tried again; what does not fit the queue is dropped and counted. Deleted rows are
overwritten. Must never live here: what a record contains (relay/core/events.py).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from relay.core.events import CallRecord, ParticipantRecord, Rated
from relay.errors import ConfigError
from relay.ops.snapshot import SinkCounters
from relay.protocol.ids import reference

log = logging.getLogger(__name__)

DAY: Final = 86_400.0
PRUNE_EVERY: Final = 3_600.0  # seconds between two looks for records past their retention
RETRY_EVERY: Final = 1.0  # seconds between two tries to write while the disk refuses
BATCH: Final = 100
CACHE_KIB: Final = 256  # of SQLite's pages; with its 2 MB the daemon would grow for the first 2,000 calls
BUSY: Final = 5.0  # seconds to wait for another process, such as `relay records erase`

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY,
    call TEXT NOT NULL,
    node TEXT NOT NULL,
    region TEXT NOT NULL,
    started_at REAL NOT NULL,
    answered_at REAL,
    ended_at REAL NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    canary INTEGER NOT NULL DEFAULT 0,
    issuer TEXT NOT NULL DEFAULT '',
    rollout TEXT NOT NULL DEFAULT '',
    variant TEXT NOT NULL DEFAULT '',
    sampled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS calls_by_call ON calls (call);
CREATE INDEX IF NOT EXISTS calls_by_end ON calls (ended_at);
CREATE TABLE IF NOT EXISTS participants (
    record INTEGER NOT NULL REFERENCES calls (id) ON DELETE CASCADE,
    sub TEXT NOT NULL,
    "index" INTEGER NOT NULL,
    joined_at REAL NOT NULL,
    left_at REAL NOT NULL,
    accepted INTEGER NOT NULL,
    why TEXT NOT NULL,
    client TEXT NOT NULL,
    received INTEGER NOT NULL,
    accepted_packets INTEGER NOT NULL,
    copies INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    dropped TEXT NOT NULL,
    quality TEXT NOT NULL,
    transport TEXT NOT NULL DEFAULT '',
    story TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX IF NOT EXISTS participants_by_record ON participants (record);
CREATE INDEX IF NOT EXISTS participants_by_sub ON participants (sub);
"""

LATER: Final = (
    ("participants", "transport", "TEXT NOT NULL DEFAULT ''"),
    ("participants", "story", "TEXT NOT NULL DEFAULT '[]'"),
    ("calls", "canary", "INTEGER NOT NULL DEFAULT 0"),
    ("calls", "issuer", "TEXT NOT NULL DEFAULT ''"),
    ("calls", "rollout", "TEXT NOT NULL DEFAULT ''"),
    ("calls", "variant", "TEXT NOT NULL DEFAULT ''"),
    ("calls", "sampled", "INTEGER NOT NULL DEFAULT 0"),
)
"""Columns that files of earlier versions lack."""

_PERSON: Final = tuple(f.name for f in dataclasses.fields(ParticipantRecord))
_JSON: Final = ("client", "dropped", "quality", "story")


@contextmanager
def database(path: str | Path, *, create: bool = True) -> Iterator[sqlite3.Connection]:
    """An open records file. ConfigError("records.path") when it cannot be one."""
    if not create and not Path(path).exists():
        raise ConfigError("records.path", f"{path} does not exist", "name the file that the daemon writes")
    try:
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    except sqlite3.Error as error:
        raise ConfigError("records.path", f"cannot be opened: {error}", "name a writable file") from None
    with closing(connection):
        try:
            # Erased means gone: freed pages are overwritten, and the log of changes is not kept around.
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            connection.executescript(SCHEMA)
            _widen(connection)
        except sqlite3.Error as error:
            raise ConfigError("records.path", f"is no records file: {error}", "name another file") from None
        connection.row_factory = sqlite3.Row
        yield connection


_CALL: Final = (
    "region", "started_at", "answered_at", "ended_at", "outcome", "reason", "canary", "issuer",
    "rollout", "variant", "sampled",
)  # fmt: skip


def _widen(connection: sqlite3.Connection) -> None:
    """Add the columns that an older file lacks."""
    for table, name, kind in LATER:
        if name not in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")


def insert(connection: sqlite3.Connection, node: str, record: CallRecord) -> None:
    """Write one call; the caller owns the transaction."""
    cursor = connection.execute(
        f"INSERT INTO calls (call, node, {', '.join(_CALL)}) VALUES (?, ?{', ?' * len(_CALL)})",
        (record.call, node, *(getattr(record, name) for name in _CALL)),
    )
    columns = ", ".join(f'"{name}"' for name in ("record", *_PERSON))
    marks = ", ".join("?" * (1 + len(_PERSON)))
    for person in record.participants:
        values = [getattr(person, name) for name in _PERSON]
        values = [
            json.dumps(v if n == "story" else dict(v), sort_keys=True) if n in _JSON else v
            for n, v in zip(_PERSON, values, strict=True)
        ]
        connection.execute(
            f"INSERT INTO participants ({columns}) VALUES ({marks})", (cursor.lastrowid, *values)
        )


def rate(connection: sqlite3.Connection, rated: Rated) -> None:
    """Add stars to the newest record of that call; nothing if there is none."""
    connection.execute(
        "UPDATE participants SET quality = json_set(quality, '$.stars', ?) WHERE sub = ? AND record ="
        " (SELECT id FROM calls WHERE call = ? ORDER BY id DESC LIMIT 1)",
        (float(rated.stars), rated.sub, rated.call),
    )


def prune(connection: sqlite3.Connection, before: float) -> int:
    """Erase calls that ended before this wall-clock second; how many."""
    erased = connection.execute("DELETE FROM calls WHERE ended_at < ?", (before,)).rowcount
    if erased:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return erased


def erase(connection: sqlite3.Connection, sub: str) -> int:
    """Erase a pseudonym (hex) everywhere, and calls nobody is left in; how many rows named it."""
    connection.execute("BEGIN IMMEDIATE")
    erased = connection.execute("DELETE FROM participants WHERE sub = ?", (sub.lower(),)).rowcount
    connection.execute("DELETE FROM calls WHERE id NOT IN (SELECT record FROM participants)")
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return erased


def query(
    connection: sqlite3.Connection,
    *,
    call: str | None = None,
    reference: str | None = None,
    sub: str | None = None,
    since: float | None = None,
    outcome: str | None = None,
    limit: int = 100,
    canaries: bool = True,
    issuer: str | None = None,
) -> list[dict[str, Any]]:
    """Newest calls first, as JSON values, each with its participants; without `canaries` only people's."""
    where = ["1" if canaries else "canary = 0"]
    values: list[Any] = []
    for clause, value in (
        ("call = ?", call and call.lower()),
        ("call GLOB ?", reference and reference.lower() + "*"),
        ("id IN (SELECT record FROM participants WHERE sub = ?)", sub and sub.lower()),
        ("ended_at >= ?", since),
        ("outcome = ?", outcome),
        ("issuer = ?", issuer),
    ):
        if value is not None:
            where.append(clause)
            values.append(value)
    rows = connection.execute(
        f"SELECT * FROM calls WHERE {' AND '.join(where)} ORDER BY ended_at DESC, id DESC LIMIT ?",
        (*values, limit),
    ).fetchall()
    return [_call(connection, row) for row in rows]


def fallback_by_hour(connection: sqlite3.Connection, since: float) -> list[tuple[int, int, int]]:
    """Of answered calls of 10 s and more: hour since 1970, calls in which somebody ended on TCP, calls."""
    rows = connection.execute(
        "SELECT CAST(ended_at / 3600 AS INTEGER) AS hour, SUM(on_tcp), COUNT(*) FROM ("
        " SELECT ended_at, EXISTS (SELECT 1 FROM participants"
        "  WHERE record = calls.id AND transport IN ('ws', 'tls')) AS on_tcp"
        " FROM calls WHERE ended_at >= ? AND ended_at - answered_at >= 10 AND canary = 0"
        ") GROUP BY hour",
        (since,),
    ).fetchall()
    return [(row[0], row[1], row[2]) for row in rows]


def _call(connection: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Any]:
    people = connection.execute(
        'SELECT * FROM participants WHERE record = ? ORDER BY "index"', (row["id"],)
    ).fetchall()
    call = {name: row[name] for name in row.keys() if name != "id"}  # noqa: SIM118 - a Row iterates its values
    call |= {name: bool(call[name]) for name in ("canary", "sampled")}
    call["participants"] = [
        {name: json.loads(person[name]) if name in _JSON else person[name] for name in _PERSON}
        | {"accepted": bool(person["accepted"])}
        for person in people
    ]
    return call


def summary(record: CallRecord) -> dict[str, Any]:
    """One line of the log: the call's reference and what became of it; no person, no whole id."""
    people = record.participants
    talked = record.ended_at - record.answered_at if record.answered_at is not None else 0.0
    came, lost = sum(one.received for one in people), sum(one.lost for one in people)
    marks = [one.quality["mos"] for one in people if "mos" in one.quality]
    dropped: Counter[str] = Counter()
    for one in people:
        dropped.update(one.dropped)
    told: dict[str, Any] = {
        "call": reference(bytes.fromhex(record.call)),
        "outcome": record.outcome,
        "seconds": round(talked, 1),
        "people": len(people),
        "transports": sorted({one.transport for one in people}),
        "packets": came,
        "lost": round(lost / (came + lost), 4) if came + lost else 0.0,
    }
    told |= {"reason": record.reason} if record.reason else {}
    told |= {"mos": min(marks)} if marks else {}
    told |= {"canary": True} if record.canary else {}
    told |= {"variant": record.variant} if record.variant else {}
    return told | ({"dropped": dict(dropped)} if dropped else {})


class History:
    """The writer. `record` never blocks; everything else happens on one thread of its own."""

    def __init__(
        self,
        path: str | Path,
        node: str,
        *,
        retention_days: float,
        queue_size: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.retention_days = retention_days
        """May be changed at any time. Shorter: what is older then is erased at once."""
        self.is_failing = False
        """Whether the last try to write failed."""
        self._path = path
        self._node = node
        self._wall = wall
        self._queue: queue.Queue[CallRecord | Rated | threading.Event] = queue.Queue(queue_size)
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._refusal = ""  # why the last try failed, as it was told
        self._kept_days = retention_days  # by which old records were last looked for
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay-records", daemon=True)

    def start(self) -> None:
        """Make or check the file here and now (ConfigError), then start the thread."""
        with database(self._path) as connection:
            prune(connection, self._wall() - self.retention_days * DAY)
        self._thread.start()

    def fallback_by_hour(self) -> list[tuple[int, int, int]]:
        """What share of the last week's calls ended on TCP; see the function of that name. Blocks."""
        with database(self._path) as connection:
            return fallback_by_hour(connection, self._wall() - 8 * DAY)

    def record(self, record: CallRecord | Rated) -> None:
        """Take a finished call, or stars for one. Full queue: dropped, counted as queue_full."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped["queue_full"] += 1

    def counters(self) -> SinkCounters:
        """For the metrics."""
        return SinkCounters(self._written, self._queue.qsize(), dict(self._dropped))

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything recorded so far is on disk. Blocks: not for the event loop."""
        done = threading.Event()
        try:
            self._queue.put(done, timeout=timeout)
        except queue.Full:
            return False
        return done.wait(timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits, once, and end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not (self._stop.is_set() and self._queue.empty()):
            try:
                with database(self._path) as connection:
                    self._serve(connection)
            except ConfigError as error:  # it was fine at the start; somebody took it away
                self._refuse(error.problem)
                if self._stop.wait(RETRY_EVERY):
                    return

    def _serve(self, connection: sqlite3.Connection) -> None:
        prune_at = time.monotonic() + PRUNE_EVERY
        while not (self._stop.is_set() and self._queue.empty()):
            batch = self._take()
            self._write(connection, [one for one in batch if not isinstance(one, threading.Event)])
            for one in batch:
                if isinstance(one, threading.Event):
                    one.set()
            if time.monotonic() >= prune_at or self.retention_days < self._kept_days:
                prune_at = time.monotonic() + PRUNE_EVERY
                self._kept_days = self.retention_days
                self._prune(connection)

    def _take(self) -> list[CallRecord | Rated | threading.Event]:
        try:
            batch = [self._queue.get(timeout=0.25)]  # so that close() and pruning are noticed
        except queue.Empty:
            return []
        while len(batch) < BATCH:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch

    def _write(self, connection: sqlite3.Connection, records: list[CallRecord | Rated]) -> None:
        while records:
            try:
                connection.execute("BEGIN IMMEDIATE")
                for record in records:
                    if isinstance(record, Rated):
                        rate(connection, record)
                    else:
                        insert(connection, self._node, record)
                connection.execute("COMMIT")
            except (TypeError, ValueError):  # a bug of ours; it must not stop what comes after
                connection.execute("ROLLBACK")
                self._dropped["write_error"] += len(records)
                log.exception("call records that are no values of SQLite or JSON")
                return
            except sqlite3.Error as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._refuse(error.sqlite_errorname)
                if self._stop.wait(RETRY_EVERY):
                    self._dropped["write_error"] += len(records)
                    return
            else:
                self._written += len(records)
                self._succeed()
                return

    def _refuse(self, why: str) -> None:
        """A line for each new cause, not for each try."""
        self.is_failing = True
        if why != self._refusal:
            log.warning("call records wait, they cannot be written: %s", why)
        self._refusal = why

    def _succeed(self) -> None:
        self.is_failing = False
        if self._refusal:
            log.info("call records are written again")
        self._refusal = ""

    def _prune(self, connection: sqlite3.Connection) -> None:
        try:
            prune(connection, self._wall() - self.retention_days * DAY)
        except sqlite3.Error as error:
            log.warning("old call records cannot be erased: %s", error.sqlite_errorname)
