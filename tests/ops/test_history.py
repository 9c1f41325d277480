"""Call records: written off the loop, kept as long as told, erased for good."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from relay.core.events import CallRecord, ParticipantRecord, Rated
from relay.errors import ConfigError
from relay.ops import history
from relay.ops.history import DAY, History, database, erase, insert, prune, query, summary

ANN, BOB, EVE = ("aa" * 16, "bb" * 16, "ee" * 16)


def person(sub: str, index: int = 0) -> ParticipantRecord:
    return ParticipantRecord(
        sub=sub,
        index=index,
        joined_at=100.0,
        left_at=160.5,
        accepted=True,
        why="completed",
        client={"sdk": "py", "os": "linux"},
        received=3000,
        accepted_packets=2990,
        copies=2990,
        lost=10,
        dropped={"duplicate": 10},
        quality={"loss": 0.003},
        transport="quic",
        story=((0.0, "leg", "quic"), (1.5, "accepted", "")),
    )


def call(number: int = 1, *subs: str, ended: float = 160.5, outcome: str = "completed") -> CallRecord:
    return CallRecord(
        call=f"{number:032x}",
        started_at=100.0,
        answered_at=101.0,
        ended_at=ended,
        outcome=outcome,
        reason="",
        region="eu-1",
        participants=tuple(person(sub, index) for index, sub in enumerate(subs or (ANN, BOB))),
    )


def writer(path: Path, **changes: object) -> History:
    options: dict[str, object] = {"retention_days": 30.0, "queue_size": 10, "wall": lambda: 1000.0}
    return History(path, "n1", **(options | changes))  # type: ignore[arg-type]  # the tests name real options


def until_failing(records: History) -> None:
    """Wait for its thread to find that it cannot write, bounded."""
    for _ in range(2000):
        if records.is_failing:
            return
        time.sleep(0.01)
    pytest.fail("not within 20 s")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


def test_a_record_comes_back_whole(path: Path) -> None:
    records = writer(path)
    records.start()
    records.record(call(7))
    assert records.flush()
    records.close()
    with database(path) as connection:
        (found,) = query(connection)
    people = found.pop("participants")
    assert found == {
        "call": f"{7:032x}",
        "node": "n1",
        "region": "eu-1",
        "started_at": 100.0,
        "answered_at": 101.0,
        "ended_at": 160.5,
        "outcome": "completed",
        "reason": "",
        "canary": False,
        "issuer": "",
        "rollout": "",
        "variant": "",
        "sampled": False,
    }
    assert [one["sub"] for one in people] == [ANN, BOB]
    assert people[0] == {
        "sub": ANN,
        "index": 0,
        "joined_at": 100.0,
        "left_at": 160.5,
        "accepted": True,
        "why": "completed",
        "client": {"sdk": "py", "os": "linux"},
        "received": 3000,
        "accepted_packets": 2990,
        "copies": 2990,
        "lost": 10,
        "dropped": {"duplicate": 10},
        "quality": {"loss": 0.003},
        "transport": "quic",
        "story": [[0.0, "leg", "quic"], [1.5, "accepted", ""]],
    }


def test_closing_writes_what_waits(path: Path) -> None:
    records = writer(path)
    records.start()
    for number in range(10):
        records.record(call(number))
    records.close()
    assert records.counters().written == 10
    assert records.counters().waiting == 0


def test_a_full_queue_drops_and_counts_instead_of_waiting(path: Path) -> None:
    records = writer(path, queue_size=2)  # its thread is not started: nothing is taken out
    for number in range(5):
        records.record(call(number))
    counters = records.counters()
    assert (counters.waiting, counters.dropped) == (2, {"queue_full": 3})
    assert not records.flush(timeout=0.01)
    records.close()


def test_a_busy_database_is_tried_again_and_told_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(history, "BUSY", 0.01)
    monkeypatch.setattr(history, "RETRY_EVERY", 0.01)
    records = writer(path)
    records.start()
    with database(path) as other:
        other.execute("BEGIN IMMEDIATE")
        records.record(call())
        until_failing(records)
        time.sleep(0.1)  # for more tries
        assert records.counters().written == 0
        other.execute("COMMIT")
    assert records.flush()
    assert records.counters().written == 1
    assert not records.is_failing
    assert [record.getMessage() for record in caplog.records] == [
        "call records wait, they cannot be written: SQLITE_BUSY",
        "call records are written again",
    ]
    records.close()


def test_a_record_that_cannot_be_stored_does_not_stop_the_others(path: Path) -> None:
    records = writer(path)
    records.start()
    strange = dataclasses.replace(person(ANN), client={(): 1})  # type: ignore[dict-item]  # the bug
    records.record(dataclasses.replace(call(1), participants=(strange,)))
    assert records.flush()
    records.record(call(2))
    records.close()
    assert records.counters().dropped == {"write_error": 1}
    assert records.counters().written == 1


def test_a_file_that_cannot_be_opened_any_more_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RETRY_EVERY", 0.01)
    real, broken = database, [True]

    def refuse(where: Path) -> object:
        if broken[0] and threading.current_thread() is not threading.main_thread():
            raise ConfigError("records.path", "cannot be opened")
        return real(where)

    monkeypatch.setattr(history, "database", refuse)
    records = writer(path)
    records.start()
    records.record(call(1))
    assert not records.flush(timeout=0.05)
    until_failing(records)
    broken[0] = False
    assert records.flush()
    records.close()
    assert records.counters().written == 1


def test_what_cannot_be_written_until_the_end_is_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "BUSY", 0.01)
    records = writer(path)
    records.start()
    with database(path) as other:
        other.execute("BEGIN IMMEDIATE")
        records.record(call())
        records.close()
    assert records.counters().dropped == {"write_error": 1}


def test_records_past_their_retention_are_erased_at_start(path: Path) -> None:
    with database(path) as connection:
        insert(connection, "n1", call(1, ended=40 * DAY))
        insert(connection, "n1", call(2, ended=69.5 * DAY))
    records = writer(path, wall=lambda: 71 * DAY)
    records.start()
    records.close()
    with database(path) as connection:
        assert [one["call"] for one in query(connection)] == [f"{2:032x}"]
        assert connection.execute("SELECT count(*) FROM participants").fetchone()[0] == 2


def test_records_past_their_retention_are_erased_while_running(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PRUNE_EVERY", 0.0)
    records = writer(path, wall=lambda: 100 * DAY)
    records.start()
    records.record(call(1, ended=1.0))
    records.record(call(2, ended=99.9 * DAY))
    records.flush()
    records.flush()  # the look for old records comes after the write
    records.close()
    with database(path) as connection:
        assert [one["call"] for one in query(connection)] == [f"{2:032x}"]


def test_records_that_may_not_be_kept_any_more_are_erased_at_once(path: Path) -> None:
    records = writer(path, wall=lambda: 100 * DAY)
    records.start()
    records.record(call(1, ended=90 * DAY))
    records.record(call(2, ended=99 * DAY))
    assert records.flush()
    records.retention_days = 5.0
    for _ in range(2000):
        with database(path) as connection:
            left = [one["call"] for one in query(connection)]
        if left == [f"{2:032x}"]:
            break
        time.sleep(0.01)
    else:
        pytest.fail("not within 20 s")
    records.close()


def test_erasing_a_pseudonym_takes_the_person_and_empty_calls(path: Path) -> None:
    with database(path) as connection:
        insert(connection, "n1", call(1, ANN, BOB))
        insert(connection, "n1", call(2, ANN))
        insert(connection, "n1", call(3, BOB, EVE))
        assert erase(connection, ANN.upper()) == 2
        assert erase(connection, ANN) == 0
        calls = query(connection)
    assert [(one["call"][-1], [p["sub"] for p in one["participants"]]) for one in calls] == [
        ("3", [BOB, EVE]),
        ("1", [BOB]),
    ]


def test_what_was_erased_is_in_no_file_any_more(path: Path) -> None:
    with database(path) as connection:
        for number in range(50):
            insert(connection, "n1", call(number, ANN, BOB))
        erase(connection, ANN)
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert ANN.encode() not in left
    assert BOB.encode() in left


def test_erasing_works_beside_a_running_daemon(path: Path) -> None:
    records = writer(path)
    records.start()
    records.record(call(1))
    assert records.flush()
    with database(path, create=False) as connection:
        assert erase(connection, ANN) == 1
    records.record(call(2))
    assert records.flush()
    records.close()
    with database(path) as connection:
        assert len(query(connection, sub=ANN)) == 1


def test_a_query_narrows_by_each_field(path: Path) -> None:
    with database(path) as connection:
        insert(connection, "n1", call(1, ANN, BOB, ended=10.0))
        insert(connection, "n1", call(2, EVE, ended=20.0, outcome="missed"))
        insert(connection, "n1", call(3, EVE, ANN, ended=30.0))

        def numbers(**options: object) -> list[str]:
            return [one["call"][-1] for one in query(connection, **options)]  # type: ignore[arg-type]

        assert numbers() == ["3", "2", "1"]
        assert numbers(call=f"{2:032X}") == ["2"]
        assert numbers(sub=ANN) == ["3", "1"]
        assert numbers(since=20.0) == ["3", "2"]
        assert numbers(outcome="missed") == ["2"]
        assert numbers(sub=EVE, outcome="completed") == ["3"]
        assert numbers(limit=1) == ["3"]
        assert prune(connection, 20.0) == 1
        assert numbers() == ["3", "2"]


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear database, " * 100)
    with pytest.raises(ConfigError, match=r"records\.path: is no records file"), database(path):
        pass
    with pytest.raises(ConfigError, match=r"records\.path: .* does not exist"):
        database(tmp_path / "nothing", create=False).__enter__()
    with pytest.raises(ConfigError, match=r"records\.path: cannot be opened"):
        writer(tmp_path / "no" / "folder").start()


def test_records_are_not_readable_as_content_addresses_or_stable_ids(path: Path) -> None:
    with database(path) as connection:
        columns = {
            row[1]
            for table in ("calls", "participants")
            for row in connection.execute(f"PRAGMA table_info({table})")
        }
    assert not columns & {"ip", "address", "port", "ru", "age", "token", "key", "audio"}


def test_the_file_is_in_write_ahead_mode(path: Path) -> None:
    with database(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA secure_delete").fetchone()[0] == 1
        assert isinstance(connection, sqlite3.Connection)


def test_what_was_written_does_not_stay_in_memory(path: Path) -> None:
    with database(path) as opened:
        [kib] = opened.execute("PRAGMA cache_size").fetchone()
    assert -256 <= kib < 0  # negative: KiB, not pages


def test_stars_that_come_after_the_record_are_added_to_the_newest_of_that_call(path: Path) -> None:
    records = writer(path)
    records.start()
    records.record(call(7))
    records.record(call(7))
    records.record(call(8))
    records.record(Rated(f"{7:032x}", BOB, 4))
    records.record(Rated(f"{99:032x}", BOB, 1))
    assert records.flush()
    records.close()
    with database(path) as connection:
        found = query(connection, call=f"{7:032x}")
    stars = [[one["quality"].get("stars") for one in record["participants"]] for record in found]
    assert stars == [[None, 4.0], [None, None]]
    assert found[0]["participants"][1]["quality"]["loss"] == 0.003
    assert records.counters().written == 5


def test_a_file_of_the_first_version_gets_the_columns_that_it_lacks(path: Path) -> None:
    with sqlite3.connect(path) as old:
        old.executescript(
            history.SCHEMA.replace(",\n    transport TEXT NOT NULL DEFAULT ''", "").replace(
                ",\n    story TEXT NOT NULL DEFAULT '[]'", ""
            )
        )
    for _ in range(2):
        with database(path) as connection:
            insert(connection, "n1", call(1))
    with database(path) as connection:
        found = query(connection)[0]["participants"][0]
    assert (found["transport"], found["story"]) == ("quic", [[0.0, "leg", "quic"], [1.5, "accepted", ""]])


def test_a_call_is_found_by_its_reference_and_by_nothing_that_looks_like_a_pattern(path: Path) -> None:
    with database(path) as connection:
        insert(connection, "n1", dataclasses.replace(call(1), call="ab" * 16))
        insert(connection, "n1", dataclasses.replace(call(2), call="cd" * 16))
        assert [one["call"] for one in query(connection, reference="ABABABAB")] == ["ab" * 16]
        assert query(connection, reference="babababa") == []


def test_the_share_of_calls_on_tcp_is_known_by_hour_of_talks_of_ten_seconds(path: Path) -> None:
    def on(transport: str, number: int, ended: float, answered: float | None) -> CallRecord:
        people = tuple(dataclasses.replace(one, transport=transport) for one in call(number).participants)
        return dataclasses.replace(call(number), participants=people, ended_at=ended, answered_at=answered)

    records = [
        on("quic", 1, 3 * 3600 + 20.0, 3 * 3600 + 1.0),
        on("ws", 2, 3 * 3600 + 30.0, 3 * 3600 + 1.0),
        on("tls", 3, 4 * 3600 + 30.0, 4 * 3600 + 1.0),
        on("ws", 4, 4 * 3600 + 30.0, None),
        on("ws", 5, 4 * 3600 + 30.0, 4 * 3600 + 25.0),
        on("ws", 6, 1 * 3600.0, 0.0),
    ]
    with database(path) as connection:
        for one in records:
            insert(connection, "n1", one)
        assert history.fallback_by_hour(connection, 2 * 3600.0) == [(3, 1, 2), (4, 1, 1)]
    writer_of = writer(path, wall=lambda: 8 * DAY + 2 * 3600)
    assert writer_of.fallback_by_hour() == [(3, 1, 2), (4, 1, 1)]


def test_the_line_of_a_log_says_what_became_of_a_call_and_names_nobody() -> None:
    ended = dataclasses.replace(call(7), outcome="failed", reason="gone")
    first, second = ended.participants
    heard = dataclasses.replace(second, quality={"mos": 3.2}, transport="ws")
    told = history.summary(dataclasses.replace(ended, participants=(first, heard)))
    assert told == {
        "call": "000000000000",
        "outcome": "failed",
        "reason": "gone",
        "seconds": 59.5,
        "people": 2,
        "transports": ["quic", "ws"],
        "packets": 6000,
        "lost": 0.0033,
        "mos": 3.2,
        "dropped": {"duplicate": 20},
    }
    assert not {ANN, BOB} & set(map(str, told.values()))
    alone = dataclasses.replace(call(7), answered_at=None, participants=())
    assert history.summary(alone) == {
        "call": "000000000000", "outcome": "completed", "seconds": 0.0, "people": 0, "transports": [],
        "packets": 0, "lost": 0.0,
    }  # fmt: skip


def test_calls_of_canaries_are_marked_and_stay_out_of_what_is_usual(path: Path) -> None:
    talk = dataclasses.replace(
        call(1), started_at=3 * 3600.0, answered_at=3 * 3600.0, ended_at=3 * 3600.0 + 20
    )
    canary = dataclasses.replace(talk, call=f"{2:032x}", canary=True)
    with database(path) as connection:
        for one in (talk, canary):
            insert(connection, "n1", one)
        assert [one["canary"] for one in query(connection)] == [True, False]
        assert [one["call"] for one in query(connection, canaries=False)] == [talk.call]
        assert history.fallback_by_hour(connection, 0.0) == [(3, 0, 1)]
    assert history.summary(canary)["canary"] is True
    assert "canary" not in history.summary(talk)


def test_a_file_from_before_canaries_holds_calls_of_people(path: Path) -> None:
    with database(path) as connection:
        insert(connection, "n1", call())
        connection.execute("ALTER TABLE calls DROP COLUMN canary")
    with database(path) as connection:
        assert [one["canary"] for one in query(connection, canaries=False)] == [False]


def test_a_call_of_a_rollout_is_told_as_such_and_a_file_from_before_rollouts_has_none(path: Path) -> None:
    mine = dataclasses.replace(call(1), rollout="r1", variant="candidate", sampled=True)
    with database(path) as connection:
        insert(connection, "n1", mine)
        (found,) = query(connection)
        assert (found["rollout"], found["variant"], found["sampled"]) == ("r1", "candidate", True)
        for name in ("rollout", "variant", "sampled"):
            connection.execute(f"ALTER TABLE calls DROP COLUMN {name}")
    with database(path) as connection:
        (found,) = query(connection)
        assert (found["rollout"], found["variant"], found["sampled"]) == ("", "", False)
    assert summary(mine)["variant"] == "candidate"
    assert "variant" not in summary(call(2))


def test_calls_are_found_by_their_issuer_and_a_file_from_before_issuers_names_none(path: Path) -> None:
    mine = dataclasses.replace(call(1), issuer="shop")
    with database(path) as connection:
        for one in (mine, call(2)):
            insert(connection, "n1", one)
        assert [one["call"] for one in query(connection, issuer="shop")] == [mine.call]
        assert [one["issuer"] for one in query(connection)] == ["", "shop"]
        connection.execute("ALTER TABLE calls DROP COLUMN issuer")
    with database(path) as connection:
        assert [one["issuer"] for one in query(connection)] == ["", ""]
