"""Call events: every kind fits the schema; at least once, in order, over restarts, full disks, liars."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from relay.config import EventsConfig
from relay.core.events import CallEvent
from relay.core.record import EventKind
from relay.errors import ConfigError
from relay.ops import events as events_module
from relay.ops.events import LOST, EventWriter, Spool, encode

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "events.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
CALL, SUB, PEER = "c0" * 16, "50" * 16, "51" * 16

SAMPLES: dict[str, dict[str, Any]] = {
    EventKind.RINGING: {"call": CALL, "sub": SUB},
    EventKind.ANSWERED: {"call": CALL},
    EventKind.ENDED: {
        "call": CALL,
        "outcome": "completed",
        "reason": "",
        "rollout": "r1",
        "variant": "candidate",
    },
    EventKind.MOVED: {"call": CALL, "rollout": "", "variant": "control"},
    EventKind.ADOPTED: {"call": CALL},
    EventKind.JOINED: {"call": CALL, "sub": SUB, "index": 0, "device": 1},
    EventKind.ACCEPTED: {"call": CALL, "sub": SUB},
    EventKind.AWAY: {"call": CALL, "sub": SUB},
    EventKind.BACK: {"call": CALL, "sub": SUB},
    EventKind.ARRIVED: {"call": CALL, "sub": SUB},
    EventKind.LEFT: {"call": CALL, "sub": SUB, "why": "completed"},
    EventKind.DEVICE_ENDED: {"call": CALL, "sub": SUB, "why": "answered_elsewhere"},
    EventKind.MUTED: {"call": CALL, "sub": SUB, "on": True, "hard": False},
    EventKind.BLOCKED: {"call": CALL, "sub": SUB, "peer": PEER, "on": True},
    EventKind.REPORT: {"call": CALL, "sub": SUB, "peer": PEER, "reason": "abuse"},
    EventKind.FEEDBACK: {"call": CALL, "sub": SUB, "stars": 4},
    EventKind.COMMAND: {"call": CALL, "op": "end", "on": True, "id": "0f" * 16, "code": "no_error"},
    EventKind.DRAIN: {"state": "draining"},
    LOST: {"count": 2, "reasons": {"queue_full": 2}},
}


def event(number: int = 0, kind: str = EventKind.ANSWERED) -> CallEvent:
    return CallEvent(kind, 1000.0 + number, {"call": f"{number:032x}"})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [int(line["data"]["call"], 16) for line in found if line["kind"] != LOST]


@pytest.fixture
def config(tmp_path: Path) -> EventsConfig:
    return EventsConfig(
        sink="file",
        path=str(tmp_path / "events.jsonl"),
        spool=str(tmp_path / "spool"),
        max_bytes=65_536,
        queue=50,
    )


@contextlib.contextmanager
def running(config: EventsConfig) -> Iterator[EventWriter]:
    writer = EventWriter(config, "n1", wall=lambda: 5.0)
    writer.start()
    try:
        yield writer
    finally:
        writer.close()


def until_failing(writer: EventWriter) -> None:
    """Wait for its thread to find that it cannot deliver, bounded."""
    for _ in range(2000):
        if writer.is_failing:
            return
        time.sleep(0.01)
    pytest.fail("not within 20 s")


# ---------------------------------------------------------------- the schema


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_kind_has_a_sample_and_stands_in_the_schema() -> None:
    described = {kind["properties"]["kind"]["const"] for kind in SCHEMA["oneOf"]}
    assert described == {kind.value for kind in EventKind} | {LOST} == set(SAMPLES)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_line_of_every_kind_fits_the_schema(kind: str) -> None:
    line = json.loads(encode(CallEvent(kind, 1700000000.1234, SAMPLES[kind]), "n1", "ab" * 8, 3))
    VALIDATOR.validate(line)
    assert "issuer" not in line
    mine = CallEvent(kind, 1700000000.1234, SAMPLES[kind], issuer="shop")
    line = json.loads(encode(mine, "n1", "ab" * 8, 3))
    VALIDATOR.validate(line)
    assert line["issuer"] == "shop"
    assert line["id"] == "ab" * 8 + "-3"
    assert line["time"] == 1700000000.123


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_missing_or_a_strange_field_does_not_fit_the_schema(kind: str) -> None:
    for data in ({**SAMPLES[kind], "address": "192.0.2.1"}, dict(list(SAMPLES[kind].items())[1:])):
        line = json.loads(encode(CallEvent(kind, 1.0, data), "n1", "ab" * 8, 3))
        if kind == EventKind.COMMAND and "address" not in data:
            continue  # which ids a command names depends on the order
        assert not VALIDATOR.is_valid(line)


# ---------------------------------------------------------------- a file


def test_events_stand_in_the_file_in_order(config: EventsConfig) -> None:
    with running(config) as writer:
        for number in range(20):
            writer.event(event(number))
        assert writer.flush()
        assert writer.counters().written == 20
        assert writer.counters().waiting == 0
    found = lines(Path(config.path))
    assert numbers(found) == list(range(20))
    assert [line["seq"] for line in found] == list(range(1, 21))
    for line in found:
        VALIDATOR.validate(line)


def test_the_sequence_goes_on_after_a_restart(config: EventsConfig) -> None:
    for number in range(3):
        with running(config) as writer:
            writer.event(event(number))
    found = lines(Path(config.path))
    assert [line["seq"] for line in found] == [1, 2, 3]
    assert len({line["id"].partition("-")[0] for line in found}) == 1


def test_the_sequence_goes_on_even_when_the_file_was_taken_away(config: EventsConfig) -> None:
    with running(config) as writer:
        writer.event(event(0))
        assert writer.flush()
        os.rename(config.path, config.path + ".taken")  # as logrotate does
        writer.event(event(1))
        assert writer.flush()
        Path(config.path).unlink()
        writer.event(event(2))
    assert [line["seq"] for line in lines(Path(config.path))] == [3]


def test_a_lost_spool_shows_in_new_ids(config: EventsConfig) -> None:
    with running(config) as writer:
        writer.event(event(0))
    for file in Path(config.spool).parent.glob("spool*"):
        file.unlink()
    with running(config) as writer:
        writer.event(event(1))
    first, second = lines(Path(config.path))
    assert first["seq"] == second["seq"] == 1
    assert first["id"] != second["id"]


def test_events_that_were_spooled_before_a_crash_are_delivered_after_it(config: EventsConfig) -> None:
    spool = Spool(config.spool, "n1")
    spool.append([event(0), event(1)])
    spool.close()
    with running(config) as writer:
        writer.event(event(2))
    assert numbers(lines(Path(config.path))) == [0, 1, 2]


def test_a_line_cut_by_a_crash_is_ended_and_comes_again(config: EventsConfig) -> None:
    Path(config.path).write_text('{"v":1,"id":"0')
    with running(config) as writer:
        writer.event(event(0))
    cut, whole = Path(config.path).read_text().splitlines()
    assert cut == '{"v":1,"id":"0'
    assert json.loads(whole)["seq"] == 1


def test_a_file_that_grew_too_large_is_turned_over(config: EventsConfig) -> None:
    with running(config) as writer:
        for number in range(500):
            writer.event(event(number))
            if number % 40 == 39:
                assert writer.flush()
    assert Path(config.path + ".1").stat().st_size >= config.max_bytes
    assert Path(config.path).stat().st_size < config.max_bytes
    found = lines(Path(config.path + ".1")) + lines(Path(config.path))
    assert numbers(found) == list(range(500))


def test_the_file_is_the_owners_alone(config: EventsConfig) -> None:
    with running(config):
        pass
    assert Path(config.path).stat().st_mode & 0o777 == 0o600


def test_a_full_disk_delays_loses_nothing_and_is_told_once(
    config: EventsConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(events_module, "IDLE", 0.01)
    real, room = os.write, {"bytes": 100}

    def write(fd: int, data: bytes) -> int:
        part = data[: room["bytes"]]
        if not part:
            raise OSError(28, "No space left on device")
        room["bytes"] -= len(part)
        return real(fd, part)

    with running(config) as writer:
        monkeypatch.setattr(os, "write", write)
        for number in range(5):
            writer.event(event(number))
        assert not writer.flush(timeout=0.2)
        until_failing(writer)
        room["bytes"] = 1_000_000
        assert writer.flush()
        assert not writer.is_failing
    good = [json.loads(line) for line in Path(config.path).read_text().splitlines() if line.endswith("}")]
    assert sorted({line["seq"] for line in good}) == [1, 2, 3, 4, 5]
    assert [record.getMessage() for record in caplog.records] == [
        "call events wait, they cannot be written: ENOSPC",
        "call events are written again",
    ]


def test_a_full_queue_drops_counts_and_tells(config: EventsConfig) -> None:
    writer = EventWriter(config, "n1", wall=lambda: 5.0)  # not started: nothing is taken out
    for number in range(53):
        writer.event(event(number))
    assert writer.counters().dropped == {"queue_full": 3}
    writer.start()
    writer.close()
    *before, told = lines(Path(config.path))
    assert numbers(before) == list(range(50))
    assert (told["kind"], told["data"]) == (LOST, {"count": 3, "reasons": {"queue_full": 3}})
    VALIDATOR.validate(told)


def test_a_refusing_spool_keeps_events_in_memory(
    config: EventsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = Spool.append, [True]

    def append(self: Spool, events: list[CallEvent]) -> None:
        if broken[0]:
            raise sqlite3.OperationalError("database is locked")
        real(self, events)

    monkeypatch.setattr(Spool, "append", append)
    monkeypatch.setattr(events_module, "RETRY_EVERY", 0.01)
    with running(config) as writer:
        writer.event(event(0))
        writer.event(event(1))
        assert not writer.flush(timeout=0.1)
        until_failing(writer)
        broken[0] = False
        assert writer.flush()
    assert numbers(lines(Path(config.path))) == [0, 1]


def test_an_event_that_is_no_json_does_not_stop_the_others(config: EventsConfig) -> None:
    with running(config) as writer:
        writer.event(event(0))
        writer.event(CallEvent("call.answered", 1.0, {("no", "key"): 1}))  # type: ignore[dict-item]  # the bug
        writer.event(event(1))
        assert writer.flush()
    assert writer.counters().dropped == {"write_error": 1}
    assert numbers(lines(Path(config.path))) == [0, 1]


def test_a_batch_is_spooled_whole_or_not_at_all(
    config: EventsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(config.spool, "n1")
    spool.append([event(0)])
    real = events_module.encode

    def fail_second(one: CallEvent, node: str, log_id: str, seq: int) -> str:
        if seq == 3:
            raise sqlite3.OperationalError("disk I/O error")
        return real(one, node, log_id, seq)

    monkeypatch.setattr(events_module, "encode", fail_second)
    with pytest.raises(sqlite3.OperationalError):
        spool.append([event(1), event(2)])
    assert [seq for seq, _ in spool.after(0)] == [1]
    assert spool.waiting == 1
    spool.close()


def test_what_never_reached_the_spool_is_counted_at_the_end(
    config: EventsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(self: Spool, events: list[CallEvent]) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Spool, "append", append)
    with running(config) as writer:
        writer.event(event(0))
    assert writer.counters().dropped == {"write_error": 1}


def test_a_file_or_spool_that_cannot_be_had_is_refused_by_name(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no" / "folder")
    with pytest.raises(ConfigError, match=r"events\.spool: cannot be used"):
        EventWriter(EventsConfig(path=str(tmp_path / "e"), spool=nowhere), "n1").start()
    with pytest.raises(ConfigError, match=r"events\.path: cannot be written"):
        EventWriter(EventsConfig(path=nowhere, spool=str(tmp_path / "s")), "n1").start()


# ---------------------------------------------------------------- a socket


class Reader:
    """A back end: takes lines, acknowledges when told."""

    def __init__(self, path: str) -> None:
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(path)
        self.server.listen()
        self.server.settimeout(10)
        self.connection: socket.socket | None = None

    def accept(self) -> None:
        if self.connection is not None:
            self.hang_up()
        self.connection, _ = self.server.accept()
        self.connection.settimeout(10)
        self.file = self.connection.makefile("rb")

    def take(self, count: int) -> list[dict[str, Any]]:
        return [json.loads(self.file.readline()) for _ in range(count)]

    def acknowledge(self, seq: int | bytes) -> None:
        assert self.connection is not None
        self.connection.sendall(b"%d\n" % seq if isinstance(seq, int) else seq)

    def hang_up(self) -> None:
        assert self.connection is not None
        self.file.close()
        self.connection.close()

    def is_left(self) -> bool:
        """Whether the daemon closed the connection."""
        return self.file.readline() == b""

    def close(self) -> None:
        if self.connection is not None:
            self.hang_up()
        self.server.close()


@pytest.fixture
def by_socket(tmp_path: Path) -> EventsConfig:
    return EventsConfig(
        sink="socket",
        path=str(tmp_path / "e.sock"),
        spool=str(tmp_path / "spool"),
        max_bytes=65_536,
        queue=50,
    )


@pytest.fixture
def reader(by_socket: EventsConfig) -> Iterator[Reader]:
    reader = Reader(by_socket.path)
    yield reader
    reader.close()


def test_a_reader_gets_lines_and_acknowledges_them(by_socket: EventsConfig, reader: Reader) -> None:
    with running(by_socket) as writer:
        for number in range(3):
            writer.event(event(number))
        reader.accept()
        found = reader.take(3)
        assert numbers(found) == [0, 1, 2]
        assert not writer.flush(timeout=0.05)  # delivered means acknowledged
        reader.acknowledge(found[-1]["seq"])
        assert writer.flush()
        assert writer.counters().written == 3


def test_what_was_not_acknowledged_comes_again_after_a_reconnect(
    by_socket: EventsConfig, reader: Reader
) -> None:
    with running(by_socket) as writer:
        for number in range(4):
            writer.event(event(number))
        reader.accept()
        first = reader.take(4)
        reader.acknowledge(first[1]["seq"])
        reader.hang_up()
        reader.accept()
        again = reader.take(2)
        assert again == first[2:]
        reader.acknowledge(again[-1]["seq"])
        assert writer.flush()


def test_what_was_not_acknowledged_comes_again_after_a_restart(
    by_socket: EventsConfig, reader: Reader
) -> None:
    with running(by_socket) as writer:
        writer.event(event(0))
        writer.event(event(1))
        reader.accept()
        first = reader.take(2)
        reader.acknowledge(first[0]["seq"])
        while writer.counters().written == 0:
            writer.flush(timeout=0.01)
    reader.hang_up()
    with running(by_socket) as writer:
        writer.event(event(2))
        reader.accept()
        again = reader.take(2)
        assert again[0] == first[1]
        assert again[1]["seq"] == 3


def test_a_reader_that_comes_late_misses_nothing(by_socket: EventsConfig) -> None:
    with running(by_socket) as writer:
        for number in range(3):
            writer.event(event(number))
        assert not writer.flush(timeout=0.05)
        until_failing(writer)
        late = Reader(by_socket.path)
        late.accept()
        assert numbers(late.take(3)) == [0, 1, 2]
        late.acknowledge(3)
        assert writer.flush()
        late.close()


@pytest.mark.parametrize("lie", [b"99\n", b"abc\n", b"-1\n", b"\n", b"1" * 40, b"1" * 33 + b"\n"])
def test_a_reader_that_lies_is_left_and_gets_everything_again(
    by_socket: EventsConfig, reader: Reader, lie: bytes
) -> None:
    with running(by_socket) as writer:
        writer.event(event(0))
        reader.accept()
        reader.take(1)
        reader.acknowledge(lie)
        assert reader.is_left()
        reader.accept()
        assert numbers(reader.take(1)) == [0]


def test_a_reader_that_never_acknowledges_fills_the_spool_and_no_more(
    by_socket: EventsConfig, reader: Reader
) -> None:
    count = 2 * by_socket.max_bytes // 100  # twice what the spool takes
    # The queue takes them all, however late the thread is: what is lost, is lost to the spool.
    with running(dataclasses.replace(by_socket, queue=count)) as writer:
        reader.accept()
        for number in range(count):
            writer.event(event(number))
        while not writer.counters().dropped.get("spool_full"):
            writer.flush(timeout=0.01)
        assert writer.counters().dropped.keys() == {"spool_full"}
        size = sum(file.stat().st_size for file in Path(by_socket.spool).parent.glob("spool*"))
        assert size < 30 * by_socket.max_bytes  # the write-ahead log included
        # Once there is room again, the reader is told what it missed, in sequence.
        last = 0
        while True:
            (line,) = reader.take(1)
            assert line["seq"] == last + 1
            last = line["seq"]
            if line["kind"] == LOST:
                break
            if last % 50 == 0:
                reader.acknowledge(last)
        assert line["data"]["reasons"]["spool_full"] >= 1
