"""Call events for the product's back end: JSON lines, in order, at least once, to a file or a Unix socket.

    event() --bounded queue--> one thread --> spool (SQLite: sequence, survives restarts) --> file | socket
                                                 ^-- deleted once the file is synced / the reader acknowledged

A line: {"v":1, "id":"<log>-<seq>", "seq":N, "time":s, "node":..., "kind":..., "data":{...}, "issuer":...},
described by docs/events.schema.json. `id` is unique for ever, `seq` rises by one; after a crash the last
lines may come again with the same ids. What is dropped is counted by name and announced by the event
`events.lost`. Must never live here: what the events say.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import select
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from relay.config import EventsConfig
from relay.core.events import CallEvent
from relay.errors import ConfigError
from relay.ops.outlets import FileOutlet, Outlet, SocketOutlet
from relay.ops.snapshot import SinkCounters

log = logging.getLogger(__name__)

VERSION: Final = 1
LOST: Final = "events.lost"
BATCH: Final = 256
IDLE: Final = 0.5  # seconds the thread sleeps at most; a wake-up cuts it short
RETRY_EVERY: Final = 1.0

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spool (seq INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL);
"""


class Spool:
    """Events that are not yet delivered. AUTOINCREMENT never gives a number twice, whatever was deleted."""

    def __init__(self, path: str, node: str) -> None:
        self._node = node
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A number that was given out must not come back after a power cut: sync every commit.
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.executescript(SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('log', ?)", (secrets.token_hex(8),))
            self.log_id = str(self._db.execute("SELECT value FROM meta WHERE name = 'log'").fetchone()[0])
            count, size = self._db.execute("SELECT count(*), sum(length(line)) FROM spool").fetchone()
        except sqlite3.Error as error:
            raise ConfigError("events.spool", f"cannot be used: {error}", "name a writable file") from None
        self.waiting = int(count)
        self.size = int(size or 0)

    def append(self, events: list[CallEvent]) -> None:
        """Give each event its number and keep its line, all or none."""
        size = 0
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for event in events:
                seq = self._db.execute("INSERT INTO spool (line) VALUES ('')").lastrowid
                line = encode(event, self._node, self.log_id, int(seq or 0))
                self._db.execute("UPDATE spool SET line = ? WHERE seq = ?", (line, seq))
                size += len(line)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self.waiting += len(events)
        self.size += size

    def after(self, seq: int, limit: int = BATCH) -> list[tuple[int, str]]:
        """The next lines after a number."""
        return self._db.execute(
            "SELECT seq, line FROM spool WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
        ).fetchall()

    def delivered(self, seq: int) -> int:
        """Forget everything up to this number; how many lines."""
        rows = self._db.execute("SELECT count(*), sum(length(line)) FROM spool WHERE seq <= ?", (seq,))
        count, size = rows.fetchone()
        self._db.execute("DELETE FROM spool WHERE seq <= ?", (seq,))
        self.waiting -= int(count)
        self.size -= int(size or 0)
        return int(count)

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def encode(event: CallEvent, node: str, log_id: str, seq: int) -> str:
    """One line, without its line end."""
    line = {
        "v": VERSION,
        "id": f"{log_id}-{seq}",
        "seq": seq,
        "time": round(event.wall, 3),
        "node": node,
        "kind": event.kind,
        "data": dict(event.data),
    }
    if event.issuer:
        line["issuer"] = event.issuer
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False, default=str)


def _is_sound(event: CallEvent) -> bool:
    """Whether it can be a line at all; one that cannot is a bug of ours and must not stop the others."""
    try:
        encode(event, "", "", 0)
    except (TypeError, ValueError, RecursionError):
        log.exception("an event of kind %s is no JSON", event.kind)
        return False
    return True


def _name(error: OSError | sqlite3.Error) -> str:
    """What it is called in manuals: ENOSPC, SQLITE_FULL."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", None) or type(error).__name__
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


class EventWriter:
    """`event` never blocks; numbering, spooling and delivery happen on one thread of their own."""

    def __init__(self, config: EventsConfig, node: str, *, wall: Callable[[], float] = time.time) -> None:
        self.is_failing = False
        """Whether the spool, the file or the socket refused the last try."""
        self._config = config
        self._node = node
        self._wall = wall
        self._queue: deque[CallEvent] = deque()
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._stop = threading.Event()
        self._idle = threading.Condition()
        self._quiet = False
        self._refusal = ""  # why the last try failed, as it was told
        self._wake = -1
        self._spool: Spool
        self._outlet: Outlet
        self._thread = threading.Thread(target=self._run, name="relay-events", daemon=True)

    def start(self) -> None:
        """Open spool and file here and now (ConfigError), then start the thread. A socket may come later."""
        self._spool = Spool(self._config.spool, self._node)
        try:
            self._outlet = self._open_outlet()
        except BaseException:
            self._spool.close()
            raise
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()

    def event(self, event: CallEvent) -> None:
        """Take an event. Full queue: dropped, counted as queue_full."""
        if len(self._queue) >= self._config.queue:
            self._dropped["queue_full"] += 1
            return
        self._queue.append(event)
        self._poke()

    def counters(self) -> SinkCounters:
        """For the metrics."""
        waiting = len(self._queue) + (self._spool.waiting if self._wake >= 0 else 0)
        return SinkCounters(self._written, waiting, dict(self._dropped))

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything so far is delivered. Blocks: not for the event loop."""
        with self._idle:
            self._quiet = False
            self._poke()
            return self._idle.wait_for(lambda: self._quiet, timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Number and spool what waits, try to deliver it once, end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._poke()
            self._thread.join(timeout)
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def _open_outlet(self) -> Outlet:
        if self._config.sink == "socket":
            return SocketOutlet(self._config.path)
        return FileOutlet(self._config.path, self._config.max_bytes)

    def _poke(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._turn()
                self._wait()
            self._turn()
            self._dropped["write_error"] += len(self._queue)
        finally:
            self._outlet.close()
            self._spool.close()

    def _turn(self) -> None:
        """Spool what came, deliver what is spooled, as far as either goes without waiting."""
        try:
            while self._intake():
                pass
            moved = True
            while moved:
                moved = self._deliver()
            self.is_failing = self._outlet.is_failing
            self._tell("")
        except (OSError, sqlite3.Error) as error:
            self.is_failing = True
            self._tell(_name(error))
        with self._idle:
            self._quiet = not self._queue and not self._spool.waiting
            if self._quiet:
                self._idle.notify_all()

    def _tell(self, why: str) -> None:
        """A line for each new cause, not for each try, and one when it is over."""
        if why and why != self._refusal:
            log.warning("call events wait, they cannot be written: %s", why)
        elif self._refusal and not why:
            log.info("call events are written again")
        self._refusal = why

    def _intake(self) -> bool:
        events: list[CallEvent] = []
        while self._queue and len(events) < BATCH:
            event = self._queue.popleft()
            if _is_sound(event):
                events.append(event)
            else:
                self._dropped["write_error"] += 1
        if events and self._spool.size >= self._config.max_bytes:
            self._dropped["spool_full"] += len(events)
            return True
        lost = self._dropped - self._told
        if lost and self._spool.size < self._config.max_bytes:
            events.append(CallEvent(LOST, self._wall(), {"count": lost.total(), "reasons": dict(lost)}))
        if not events:
            return False
        try:
            self._spool.append(events)
        except sqlite3.Error:
            self._queue.extendleft(reversed([event for event in events if event.kind != LOST]))
            raise
        self._told += lost
        return bool(self._queue)

    def _deliver(self) -> bool:
        """One step of delivery; False when nothing moved."""
        acknowledged = self._outlet.push(self._spool.after)
        if acknowledged:
            self._written += self._spool.delivered(acknowledged)
        return bool(acknowledged)

    def _wait(self) -> None:
        readers: list[Any] = [self._wake]
        writers: list[Any] = []
        socket = self._outlet.fileno()
        if socket >= 0:
            readers.append(socket)
            if self._outlet.wants_write:
                writers.append(socket)
        pending = bool(self._queue) and not self._stop.is_set()
        select.select(readers, writers, [], RETRY_EVERY if pending else IDLE)
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
