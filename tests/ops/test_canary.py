"""The canary's file: written whole, read with mistrust; how many failures run, when a canary is silent."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from relay.ops import canary
from relay.ops.canary import KEPT, MOST_BYTES, SILENT_S, Book, CanaryWatch, Failed, Run, read, running, write

QUIC, WS = "quic://relay.example", "wss://relay.example/vrl/1"
WALL = 1_700_000_000.0
LOSS = (Failed("loss", 0.2, 0.03),)


def run(after: float, *, ok: bool = True, url: str = QUIC) -> Run:
    rung = "quic" if url == QUIC else "ws"
    return Run(WALL + after, url, rung, ok, () if ok else LOSS, {"loss": 0.0 if ok else 0.2})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "canary.json"


def watching(path: Path, *runs: Run, at: float = 0.0) -> CanaryWatch:
    """One that has looked at these runs."""
    of = CanaryWatch(str(path), WALL)
    write(path, Book(runs=runs))
    of.look(WALL + at)
    return of


def test_what_is_written_comes_back_for_everybody_to_read_and_nothing_stays_beside_it(path: Path) -> None:
    book = Book(runs=(run(0), run(60, ok=False)))
    write(path, book)
    assert read(path) == book
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert os.listdir(path.parent) == [path.name]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_only_the_last_runs_are_kept(path: Path) -> None:
    runs = tuple(run(60.0 * number) for number in range(KEPT + 7))
    write(path, Book(runs=runs))
    book = read(path)
    assert book is not None
    assert book.runs == runs[7:]


def test_no_file_is_no_canary(path: Path) -> None:
    assert read(path) is None
    of = CanaryWatch(str(path), WALL)
    of.look(WALL)
    assert (of.counted(WALL), of.silent_s(WALL + 9999), of.counters(WALL), of.body(WALL)) == (
        None,
        0,
        None,
        None,
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b'{"version": 2, "runs": []}',
        b'{"runs": [{"time": "soon", "url": "u", "rung": "quic", "ok": true}]}',
        b'{"runs": [{"time": 1, "url": "u", "rung": "carrier pigeon", "ok": true}]}',
        b'{"runs": [{"time": 1, "url": "' + b"u" * 400 + b'", "rung": "quic", "ok": true}]}',
        b" " * (MOST_BYTES + 1),
        b"\xff\xfe",
    ],
    ids=["empty", "list", "cut", "version", "time", "rung", "long", "large", "binary"],
)
def test_what_is_no_such_file_is_refused_told_once_and_the_canary_falls_silent(
    path: Path, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    of = watching(path, run(0, ok=False))
    path.write_bytes(raw)
    with pytest.raises(ValueError):  # noqa: PT011 - which of its kinds is no matter
        read(path)
    with caplog.at_level(logging.WARNING):
        for after in (30, 60):
            of.look(WALL + after)
    assert len(caplog.records) == 1
    assert of.counted(WALL + 60) == (1, 1)
    assert of.silent_s(WALL + SILENT_S + 1) == SILENT_S + 1
    write(path, Book(runs=(run(0), run(400))))
    of.look(WALL + 410)
    assert of.counted(WALL + 410) == (0, 2)


def test_a_file_that_cannot_be_read_is_told_by_the_systems_word(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir()
    of = CanaryWatch(str(path), WALL)
    with caplog.at_level(logging.WARNING):
        of.look(WALL)
    assert vars(caplog.records[0])["why"] == "Is a directory"


@pytest.mark.parametrize(
    ("runs", "count"),
    [
        ([], 0),
        ([True], 0),
        ([False, False, True], 0),
        ([True, False, False], 2),
        ([False] * 12, 12),
    ],
)
def test_failures_run_until_the_first_success(runs: list[bool], count: int) -> None:
    assert running(run(60.0 * at, ok=ok) for at, ok in enumerate(runs)) == count


def test_one_rung_that_always_fails_counts_but_never_for_bad() -> None:
    def turns(number: int) -> list[Run]:
        return [run(60.0 * at, ok=at % 2 == 0, url=(QUIC, WS)[at % 2]) for at in range(2 * number)]

    assert running(turns(2)) == 2
    assert running(turns(3)) == 3
    assert running(turns(40)) == 9
    assert running([*turns(40), run(9999, url=WS)]) == 0


def test_a_canary_is_silent_when_its_newest_run_is_old_and_its_failures_count_no_more(path: Path) -> None:
    of = watching(path, *(run(60.0 * at, ok=False) for at in range(4)), at=180)
    assert of.counted(WALL + 180) == (4, 4)
    last = WALL + 180 + SILENT_S
    assert (of.counted(last), of.silent_s(last)) == ((4, 4), 0.0)
    assert (of.counted(last + 1), of.silent_s(last + 1)) == ((0, 0), SILENT_S + 1)
    body = of.body(last + 1)
    assert body is not None
    assert (body["is_silent"], body["age_s"], body["failed"]) == (True, SILENT_S + 1, ["loss"])


def test_a_file_that_goes_away_is_a_silent_canary_and_no_absent_one(path: Path) -> None:
    of = watching(path, run(0))
    path.unlink()
    of.look(WALL + 30)
    assert of.counted(WALL + 30) == (0, 1)
    assert of.counted(WALL + SILENT_S + 1) == (0, 0)


def test_failures_of_more_than_an_hour_ago_are_forgotten(path: Path) -> None:
    of = watching(path, *(run(60.0 * at, ok=False) for at in range(5)), run(3800, ok=False), at=3800)
    assert of.counted(WALL + 3800) == (2, 2)


def test_a_run_from_the_future_is_not_believed(path: Path) -> None:
    of = watching(path, run(0), run(canary.AHEAD_S + 1))
    assert of.counted(WALL + SILENT_S + 1) == (0, 0)


def test_runs_are_counted_once_and_none_from_before_the_start(path: Path) -> None:
    of = watching(path, run(-60, ok=False), run(60), run(120, ok=False), at=120)
    of.look(WALL + 150)
    write(path, Book(runs=(run(120, ok=False), run(180, ok=False, url=WS))))
    of.look(WALL + 180)
    told = of.counters(WALL + 190)
    assert told is not None
    assert told.runs == {("quic", "ok"): 1, ("quic", "fail"): 1, ("ws", "fail"): 1}
    assert (told.failures, told.running, told.age_s) == ({"loss": 2}, 2, 10.0)


def test_a_check_that_nobody_knows_is_counted_as_other(path: Path) -> None:
    strange = Run(WALL + 1, QUIC, "quic", ok=False, failed=(Failed("weather"),))
    told = watching(path, strange, at=1).counters(WALL + 1)
    assert told is not None
    assert told.failures == {"other": 1}


def test_another_file_is_another_canary_and_none_is_none(path: Path) -> None:
    of = watching(path, run(0))
    of.configure(str(path))
    assert of.counted(WALL) is not None
    of.configure("")
    of.look(WALL)
    assert of.counted(WALL) is None
