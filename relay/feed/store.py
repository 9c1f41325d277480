"""What waits for its endpoint, what is dead, and how far the daemon's events were taken: one SQLite file.

    take(events)   position and letters in one transaction: what is acknowledged afterwards is on the disk
    view, body     what an endpoint's courier looks at; settle writes its verdict down
    list_dead, replay, drop, status   for people, from another process, while the feed runs

Everything commits with a sync. Erased means gone: freed pages are overwritten. Must never live here: which
letter is next, sockets.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final

from relay.config_feed import FeedConfig, WebhookConfig
from relay.errors import ConfigError
from relay.feed.answers import Fate
from relay.feed.courier import Letter, Verdict, View
from relay.feed.letters import Draft, Event, pack

BUSY: Final = 5.0  # seconds to wait for another process
DAY: Final = 86_400.0
DEATHS: Final = ("refused", "gone", "age", "attempts", "full", "removed")
"""Why a letter is dead."""
ERASURES: Final = ("age", "full")
"""Why a letter is erased, by itself: dead for too long or kept longer than its region allows; no room."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS logs (log TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS endpoints (
    name TEXT PRIMARY KEY, url TEXT NOT NULL DEFAULT '', closed REAL,
    delivered REAL, failed REAL, why TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS letters (
    n INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, state TEXT NOT NULL, id TEXT NOT NULL,
    kinds TEXT NOT NULL, events INTEGER NOT NULL, body BLOB NOT NULL, born REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0,
    size INTEGER NOT NULL, why TEXT NOT NULL DEFAULT '', died REAL, came REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS lines ON letters (endpoint, state, n);
CREATE INDEX IF NOT EXISTS ids ON letters (id);
"""
LETTER: Final = "SELECT n, born, attempts, due, state = 'aside' FROM letters WHERE endpoint = ? AND state = ?"
LIVE: Final = "state IN ('waiting', 'aside')"
HEAD: Final = 256  # bytes that a letter takes beside its body, about


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: those that everything given here is true of."""

    endpoint: str = ""
    id: str = ""
    since: float | None = None
    """Unix time of death, or later."""

    def sql(self) -> tuple[str, tuple[Any, ...]]:
        """A condition and its values."""
        parts: list[tuple[str, Any]] = []
        if self.endpoint:
            parts.append(("endpoint = ?", self.endpoint))
        if self.id:
            parts.append(("id = ?", self.id))
        if self.since is not None:
            parts.append(("died >= ?", self.since))
        return " AND ".join(["state = 'dead'", *(part for part, _ in parts)]), tuple(v for _, v in parts)


class Store:
    """The file, for one thread. sqlite3.Error when the disk refuses: then nothing of the step was done."""

    def __init__(self, config: FeedConfig, *, create: bool = True) -> None:
        self.dead: Counter[tuple[str, str]] = Counter()
        """Letters that died here, by endpoint and why."""
        self.erased: Counter[tuple[str, str]] = Counter()
        """Letters that were erased by themselves, by endpoint and why."""
        self._config = config
        self._weights: dict[tuple[str, bool], int] = {}
        self._version = -1
        if not create and not Path(config.store).exists():
            raise ConfigError("feed.store", f"{config.store} does not exist", "`relay feed` makes it")
        try:
            self._db = sqlite3.connect(config.store, timeout=BUSY, isolation_level=None)
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
            self._widen()
        except sqlite3.Error as error:
            raise ConfigError("feed.store", f"cannot be used: {error}", "name a writable file") from None

    def _widen(self) -> None:
        """An earlier version did not write down when letters first came, before they were replayed."""
        with self._transaction():
            if "came" not in {row[1] for row in self._db.execute("PRAGMA table_info(letters)")}:
                self._db.execute("ALTER TABLE letters ADD COLUMN came REAL NOT NULL DEFAULT 0")
            self._db.execute("UPDATE letters SET came = born WHERE came = 0")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ------------------------------------------------------------ what comes in

    def register(self, webhooks: Sequence[WebhookConfig], now: float) -> None:
        """Know the endpoints. One whose URL is another one than before is open again.

        What waits for one that is not there any more is dead.
        """
        with self._transaction():
            known = {webhook.name for webhook in webhooks}
            for (name,) in self._db.execute("SELECT DISTINCT endpoint FROM letters").fetchall():
                if name not in known:
                    self._die(LIVE, (), name, "removed", now)
            for webhook in webhooks:
                url = hashlib.sha256(webhook.url.encode()).hexdigest()  # a URL may hold a secret
                self._db.execute(
                    "INSERT INTO endpoints (name, url) VALUES (?, ?) ON CONFLICT (name) DO UPDATE "
                    "SET url = excluded.url, closed = iif(url = excluded.url, closed, NULL)",
                    (webhook.name, url),
                )

    def take(self, events: Sequence[Event], now: float) -> int:
        """Make letters of events that are new; how many came before. All or none."""
        new: list[Event] = []
        with self._transaction():
            for event in events:
                row = self._db.execute("SELECT seq FROM logs WHERE log = ?", (event.log,)).fetchone()
                if row is None or event.seq > row[0]:
                    self._db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?)", (event.log, event.seq))
                    new.append(event)
            for webhook in self._config.webhooks:
                self._enqueue(webhook.name, pack(new, webhook), now)
        return len(events) - len(new)

    def _enqueue(self, name: str, drafts: Sequence[Draft], now: float) -> None:
        if not drafts:
            return
        is_closed = self.is_closed(name)
        end = ("dead", "gone", now) if is_closed else ("waiting", "", None)
        rows = [
            (name, draft.id, draft.kinds, draft.events, draft.body, len(draft.body) + HEAD, now, *end, now)
            for draft in drafts
        ]
        self._db.executemany(
            "INSERT INTO letters (endpoint, id, kinds, events, body, size, born, state, why, died, came) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._add(name, is_closed, sum(int(row[5]) for row in rows))
        if is_closed:
            self.dead[name, "gone"] += len(rows)
        self._bound(name, now)

    def _bound(self, name: str, now: float) -> None:
        """The oldest that wait for an endpoint die while there are too many; the oldest dead are erased."""
        for number in self._excess(name, LIVE):
            self._die("n = ?", (number,), name, "full", now)
        for number in self._excess(name, "state = 'dead'"):
            self.erased[name, "full"] += self._erase("n = ?", (number,), name)

    def _excess(self, name: str, where: str) -> list[int]:
        """The oldest letters above the bound."""
        excess = self._weight(name, where != LIVE) - self._config.max_bytes
        found: list[int] = []
        if excess > 0:
            query = f"SELECT n, size FROM letters WHERE endpoint = ? AND {where} ORDER BY n"
            for number, size in self._db.execute(query, (name,)):
                found.append(number)
                excess -= size
                if excess <= 0:
                    break
        return found

    # ------------------------------------------------------------ what a courier sees and does

    def view(self, name: str) -> View:
        """The ends of an endpoint's line."""
        line = self._db.execute(f"{LETTER} ORDER BY n LIMIT 2", (name, "waiting")).fetchall()
        aside = self._db.execute(f"{LETTER} ORDER BY due LIMIT 1", (name, "aside")).fetchone()
        letters = [_letter(row) for row in line]
        return View(
            letters[0] if letters else None,
            letters[1] if len(letters) > 1 else None,
            _letter(aside) if aside is not None else None,
        )

    def content(self, number: int) -> tuple[str, bytes]:
        """Id and body of a letter. KeyError if somebody dropped it meanwhile."""
        row = self._db.execute("SELECT id, body FROM letters WHERE n = ?", (number,)).fetchone()
        if row is None:
            raise KeyError(number)
        return str(row[0]), bytes(row[1])

    def is_closed(self, name: str) -> bool:
        """Whether the endpoint said that it wants no letters."""
        row = self._db.execute("SELECT closed FROM endpoints WHERE name = ?", (name,)).fetchone()
        return row is not None and row[0] is not None

    def settle(self, name: str, letter: Letter, verdict: Verdict, told: str, now: float) -> None:
        """Write down what became of a try; `told` says for people how it failed."""
        with self._transaction():
            this = ("n = ?", (letter.number,), name)
            match verdict.fate:
                case Fate.DONE:
                    self._erase(*this)
                case Fate.DEAD:
                    self._count_try(letter, verdict)
                    self._die(*this, verdict.why, now)
                case Fate.CLOSE:
                    self._db.execute("UPDATE endpoints SET closed = ? WHERE name = ?", (now, name))
                    self._count_try(letter, verdict)
                    self._die(LIVE, (), name, "gone", now)
                case Fate.AGAIN:
                    self._count_try(letter, verdict)
            if verdict.set_aside is not None:
                self._db.execute(
                    "UPDATE letters SET state = 'aside', due = 0 WHERE n = ? AND state = 'waiting'",
                    (verdict.set_aside,),
                )
            column = "delivered" if verdict.fate is Fate.DONE else "failed"
            self._db.execute(f"UPDATE endpoints SET {column} = ? WHERE name = ?", (now, name))
            if verdict.fate is not Fate.DONE:
                self._db.execute("UPDATE endpoints SET why = ? WHERE name = ?", (told, name))

    def expire(self, name: str, before: float, now: float) -> None:
        """Letters that are too old are dead."""
        with self._transaction():
            self._die(f"{LIVE} AND born <= ?", (before,), name, "age", now)

    def clear_old(self, now: float, keep_days: float = inf) -> None:
        """Erase dead letters that are too old, and all that first came over `keep_days` ago."""
        with self._transaction():
            before = now - self._config.dead_days * DAY
            for (name,) in self._db.execute("SELECT DISTINCT endpoint FROM letters").fetchall():
                self.erased[name, "age"] += self._erase("state = 'dead' AND died <= ?", (before,), name)
                if keep_days < inf:
                    last = now - keep_days * DAY
                    self.erased[name, "age"] += self._erase("came <= ?", (last,), name)

    def _count_try(self, letter: Letter, verdict: Verdict) -> None:
        self._db.execute(
            "UPDATE letters SET attempts = attempts + 1, due = ? WHERE n = ?", (verdict.due, letter.number)
        )

    # ------------------------------------------------------------ what people ask for

    def list_dead(self, select: Selection, limit: int = -1) -> list[dict[str, Any]]:
        """Dead letters, oldest first, without their bodies."""
        where, values = select.sql()
        columns = ("endpoint", "id", "kinds", "events", "born", "died", "attempts", "why")
        rows = self._db.execute(
            f"SELECT {', '.join(columns)} FROM letters WHERE {where} ORDER BY n LIMIT ?", (*values, limit)
        )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def replay(self, select: Selection, now: float) -> int:
        """Dead letters of configured endpoints wait again, as if they had come now; their ids stay.

        Endpoints of theirs, and the one that is named, are open again.
        """
        where, values = select.sql()
        known = [webhook.name for webhook in self._config.webhooks]
        where += f" AND endpoint IN ({', '.join('?' * len(known))})"
        values = (*values, *known)
        with self._transaction():
            names = self._db.execute(
                f"SELECT DISTINCT endpoint FROM letters WHERE {where}", values
            ).fetchall()
            if select.endpoint:
                names.append((select.endpoint,))
            self._db.executemany("UPDATE endpoints SET closed = NULL WHERE name = ?", names)
            self._weights.clear()
            return self._db.execute(
                "UPDATE letters SET state = 'waiting', why = '', died = NULL, attempts = 0, due = 0, "
                f"born = ? WHERE {where}",
                (now, *values),
            ).rowcount

    def drop(self, select: Selection) -> int:
        """Erase dead letters."""
        where, values = select.sql()
        with self._transaction():
            self._weights.clear()
            return self._db.execute(f"DELETE FROM letters WHERE {where}", values).rowcount

    def status(self, now: float) -> list[dict[str, Any]]:
        """Each endpoint that is configured or has letters: lengths, ages, how the last tries went."""
        names = [webhook.name for webhook in self._config.webhooks]
        rows = self._db.execute("SELECT DISTINCT endpoint FROM letters ORDER BY endpoint")
        names += [row[0] for row in rows if row[0] not in names]
        return [self._standing(name, now) for name in names]

    def _standing(self, name: str, now: float) -> dict[str, Any]:
        row = self._db.execute(
            "SELECT closed, delivered, failed, why FROM endpoints WHERE name = ?", (name,)
        ).fetchone()
        closed, delivered, failed, why = row or (None, None, None, "")
        waiting, oldest = self._db.execute(
            f"SELECT count(*), min(born) FROM letters WHERE endpoint = ? AND {LIVE}", (name,)
        ).fetchone()
        query = "SELECT count(*) FROM letters WHERE endpoint = ? AND state = ?"
        dead, aside = (self._db.execute(query, (name, state)).fetchone()[0] for state in ("dead", "aside"))
        return {
            "endpoint": name,
            "is_configured": any(webhook.name == name for webhook in self._config.webhooks),
            "is_closed": closed is not None,
            "waiting": waiting,
            "aside": aside,
            "oldest_s": max(0.0, now - oldest) if oldest is not None else 0.0,
            "dead": dead,
            "delivered_at": delivered,
            "failed_at": failed,
            "last_error": why,
        }

    # ------------------------------------------------------------ inside

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        dead, erased = self.dead.copy(), self.erased.copy()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._weights.clear()
            self.dead, self.erased = dead, erased
            raise

    def _die(self, where: str, values: tuple[Any, ...], name: str, why: str, now: float) -> None:
        moved, count = self._db.execute(
            f"SELECT coalesce(sum(size), 0), count(*) FROM letters WHERE endpoint = ? AND {where}",
            (name, *values),
        ).fetchone()
        self._db.execute(
            f"UPDATE letters SET state = 'dead', why = ?, died = ? WHERE endpoint = ? AND {where}",
            (why, now, name, *values),
        )
        self._add(name, False, -moved)
        self._add(name, True, moved)
        self.dead[name, why] += count

    def _erase(self, where: str, values: tuple[Any, ...], name: str) -> int:
        rows = self._db.execute(
            f"DELETE FROM letters WHERE endpoint = ? AND {where} RETURNING state = 'dead', size",
            (name, *values),
        ).fetchall()
        for is_dead, size in rows:
            self._add(name, bool(is_dead), -size)
        return len(rows)

    def _weight(self, name: str, is_dead: bool) -> int:
        """Bytes of an endpoint's letters. Counted along, and anew when another process changed the file."""
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version = version
            self._weights.clear()
        if (name, is_dead) not in self._weights:
            where = "state = 'dead'" if is_dead else LIVE
            query = f"SELECT coalesce(sum(size), 0) FROM letters WHERE endpoint = ? AND {where}"
            self._weights[name, is_dead] = self._db.execute(query, (name,)).fetchone()[0]
        return self._weights[name, is_dead]

    def _add(self, name: str, is_dead: bool, size: int) -> None:
        if (name, is_dead) in self._weights:
            self._weights[name, is_dead] += size


def _letter(row: tuple[Any, ...]) -> Letter:
    number, born, attempts, due, is_aside = row
    return Letter(number, born, attempts, due, bool(is_aside))
