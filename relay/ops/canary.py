"""What canary calls told: the file that `relay canary` writes and the daemon reads.

    relay canary --runs--> file --CanaryWatch--> failures running, age, counters --> region, metrics, /health

Failures running are those without a success since. Where several addresses or rungs are tried in turn, one of
them that always fails counts as well, but never for more than "degraded": the others work. A file that was
there and went away, cannot be read, or is old, is a canary that fell silent: that is told, and counts for
nothing. Must never live here: how a canary call goes, what follows from its failures.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from relay.ops.slis import BY_NAME
from relay.ops.snapshot import CanaryCounters

log = logging.getLogger(__name__)

SILENT_S: Final = 300.0  # of one a minute that is five
RECENT_S: Final = 3600.0
AHEAD_S: Final = 60.0  # what a clock may be ahead; a run from later than that is not believed
KEPT: Final = 100  # runs in the file
MOST_BYTES: Final = 1 << 20
LONGEST: Final = 300  # characters of a text in it

CHECKS: Final = (
    "reach",  # there was no leg
    "token",  # or it was not admitted
    "setup",
    "first_audio",
    "loss",
    "delay",
    "one_way",
    "stale",
    "mos",
    "ended",  # the call ended before its time
)
"""What a run may fail."""
Rung = Literal["quic", "ws", "tls"]
RUNGS: Final[tuple[Rung, ...]] = ("quic", "ws", "tls")


class Failed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A check that did not hold. `value` and `bound` are None where it is no measure."""

    check: str
    value: float | None = None
    bound: float | None = None
    detail: str = ""


class Run(msgspec.Struct, frozen=True):
    """One canary call. No token, no person, no address but the relay's own URL."""

    time: float
    """Wall clock, seconds, at its end."""
    url: str
    rung: Rung
    ok: bool
    failed: tuple[Failed, ...] = ()
    numbers: dict[str, float | None] = {}


class Book(msgspec.Struct, frozen=True):
    """The file: the newest run last."""

    version: Literal[1] = 1
    runs: tuple[Run, ...] = ()


_DECODER: Final = msgspec.json.Decoder(Book)


def read(path: str | Path) -> Book | None:
    """The file's runs; None when there is none. ValueError: it is no such file. OSError: not readable."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(raw) > MOST_BYTES:
        raise ValueError("too large")
    book = _DECODER.decode(raw)  # its error is a ValueError
    texts = [text for run in book.runs for text in (run.url, *(one.check for one in run.failed))]
    if any(len(text) > LONGEST for text in texts):
        raise ValueError("a text in it is too long")
    return book


def write(path: str | Path, book: Book) -> None:
    """Put the newest runs there in one piece, for everybody to read. OSError when that cannot be."""
    target = Path(path)
    kept = Book(runs=book.runs[-KEPT:])
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def running(runs: Iterable[Run]) -> int:
    """Failures without a success since, oldest run first; see above for several addresses."""
    all_of_them = 0
    by_target: Counter[tuple[str, str]] = Counter()
    for run in runs:
        target = run.url, run.rung
        all_of_them = 0 if run.ok else all_of_them + 1
        by_target[target] = 0 if run.ok else by_target[target] + 1
    below_bad = int(BY_NAME["canary"].bad) - 1
    return max(all_of_them, min(below_bad, max(by_target.values(), default=0)))


class CanaryWatch:
    """Follows one file. `wall` is wall-clock seconds; only `look` reads, and it blocks for a small file."""

    def __init__(self, path: str, wall: float) -> None:
        self._path = path
        self._counted_to = wall
        """Runs up to then are counted, or from before our start."""
        self._runs: tuple[Run, ...] = ()
        self._problem = ""
        self._counts: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[str] = Counter()

    def configure(self, path: str) -> None:
        """A reload. Another file is another canary."""
        if path != self._path:
            self._path, self._runs, self._problem = path, (), ""

    def look(self, wall: float) -> None:
        """Read the file again. What is wrong with it is logged once, and then it is silent."""
        try:
            book = read(self._path) if self._path else None
        except (OSError, ValueError) as error:
            problem = (error.strerror or "unreadable") if isinstance(error, OSError) else "not what it writes"
            if problem != self._problem:
                log.warning("the canary's file cannot be used", extra={"why": problem})
            self._problem = problem
            return
        self._problem = ""
        if book is None:
            return
        self._runs = tuple(sorted((run for run in book.runs if run.time <= wall + AHEAD_S), key=_when))
        for run in self._runs:
            if run.time > self._counted_to:
                self._count(run)
        self._counted_to = max((self._counted_to, *map(_when, self._runs)))

    def _count(self, run: Run) -> None:
        self._counts[run.rung, "ok" if run.ok else "fail"] += 1
        self._failures.update({one.check if one.check in CHECKS else "other" for one in run.failed})

    def counted(self, wall: float) -> tuple[int, int] | None:
        """Failures running and recent runs, for the region: (0, 0) when it is silent, None without one."""
        if not self._runs:
            return None
        if self.silent_s(wall):
            return 0, 0
        recent = self._recent(wall)
        return running(recent), len(recent)

    def silent_s(self, wall: float) -> float:
        """For how long nothing came from a canary that was there, seconds; 0 while it speaks."""
        age = self._age(wall)
        return age if self._runs and age > SILENT_S else 0.0

    def counters(self, wall: float) -> CanaryCounters | None:
        """For the metrics; None without a canary."""
        if not self._runs:
            return None
        return CanaryCounters(
            dict(self._counts), dict(self._failures), running(self._recent(wall)), self._age(wall)
        )

    def body(self, wall: float) -> dict[str, Any] | None:
        """JSON value for /health; None without a canary."""
        if not self._runs:
            return None
        newest, recent = self._runs[-1], self._recent(wall)
        return {
            "is_silent": self.silent_s(wall) > 0,
            "age_s": round(self._age(wall), 1),
            "ok": newest.ok,
            "rung": newest.rung,
            "failed": [one.check for one in newest.failed],
            "failing": running(recent),
            "runs": len(recent),
            "problem": self._problem,
        }

    def _age(self, wall: float) -> float:
        return max(0.0, wall - self._runs[-1].time) if self._runs else 0.0

    def _recent(self, wall: float) -> list[Run]:
        return [run for run in self._runs if run.time > wall - RECENT_S]


def _when(run: Run) -> float:
    return run.time
