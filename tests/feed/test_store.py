"""The feed's file: positions, bounds, deaths, and what people ask for."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config_feed import FeedConfig, WebhookConfig
from relay.errors import ConfigError
from relay.feed.answers import Fate
from relay.feed.courier import Letter, Verdict
from relay.feed.letters import Event
from relay.feed.store import DAY, HEAD, Selection, Store

LOG = "0f" * 8
A, B = WebhookConfig("a", "https://a.example/"), WebhookConfig("b", "https://b.example/")


def event(seq: int, size: int = 10, log: str = LOG) -> Event:
    return Event(log, seq, "report", b"x" * size)


def config(folder: Path, **more: object) -> FeedConfig:
    whole = {"store": str(folder / "feed.sqlite"), "webhooks": (A, B), **more}
    return FeedConfig(**whole)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(config(tmp_path))
    one.register((A, B), 0.0)
    yield one
    one.close()


def first(store: Store, name: str = "a") -> Letter:
    letter = store.view(name).first
    assert letter is not None
    return letter


def ids(store: Store, name: str = "a") -> list[str]:
    """What waits, by delivering all of it."""
    found = []
    while (letter := store.view(name).first) is not None:
        found.append(store.content(letter.number)[0])
        store.settle(name, letter, Verdict(Fate.DONE, "taken"), "", 9.0)
    return found


def test_what_came_before_is_counted_and_left_out_over_restarts_and_per_numbering(tmp_path: Path) -> None:
    store = Store(config(tmp_path))
    assert store.take([event(1), event(2)], 0.0) == 0
    store.close()
    store = Store(config(tmp_path))
    assert store.take([event(2), event(3)], 0.0) == 1
    assert store.take([event(1, log="ee" * 8)], 0.0) == 0
    assert ids(store) == ids(store, "b") == [f"{LOG}-1", f"{LOG}-2", f"{LOG}-3", f"{'ee' * 8}-1"]
    store.close()


def test_a_disk_that_refuses_keeps_nothing_of_the_step(store: Store) -> None:
    store._db.execute("CREATE TRIGGER full BEFORE INSERT ON letters WHEN NEW.endpoint = 'b' "
                      "BEGIN SELECT raise(FAIL, 'full'); END")  # fmt: skip
    with pytest.raises(sqlite3.Error, match="full"):
        store.take([event(1)], 0.0)
    assert store.view("a").first is None
    store._db.execute("UPDATE endpoints SET closed = 1 WHERE name = 'a'")
    with pytest.raises(sqlite3.Error, match="full"):
        store.take([event(1)], 0.0)
    assert not store.dead
    store._db.execute("UPDATE endpoints SET closed = NULL")
    store._db.execute("DROP TRIGGER full")
    assert store.take([event(1)], 0.0) == 0  # it is not taken for one that came before
    assert ids(store) == ids(store, "b") == [f"{LOG}-1"]


def test_above_the_bound_the_oldest_die_and_then_the_oldest_dead_are_erased(tmp_path: Path) -> None:
    size = 1_000
    room = 65_536 // (size + HEAD)
    store = Store(config(tmp_path, webhooks=(A,), max_bytes=65_536))
    for seq in range(1, room + 4):
        store.take([event(seq, size)], 1.0)
    assert [each["id"] for each in store.list_dead(Selection())] == [f"{LOG}-{seq}" for seq in (1, 2, 3)]
    assert {each["why"] for each in store.list_dead(Selection())} == {"full"}
    assert store.dead["a", "full"] == 3
    for seq in range(room + 4, 2 * room + 6):
        store.take([event(seq, size)], 2.0)
    assert store.list_dead(Selection())[0]["id"] == f"{LOG}-6"
    assert store.erased["a", "full"] == 5
    assert len(ids(store)) == room
    store.close()


def test_one_endpoints_bound_costs_no_other_its_letters(tmp_path: Path) -> None:
    store = Store(config(tmp_path, max_bytes=65_536))
    store.take([event(1, 40_000)], 0.0)
    assert ids(store, "b") == [f"{LOG}-1"]
    store.take([event(2, 40_000)], 0.0)
    assert ids(store, "b") == [f"{LOG}-2"]
    assert store.dead == {("a", "full"): 1}
    store.close()


def test_dead_letters_are_erased_after_their_days(store: Store) -> None:
    store.take([event(1), event(2)], 0.0)
    store.expire("a", 0.0, 10.0)
    store.clear_old(10.0 + 7 * DAY - 1)
    assert len(store.list_dead(Selection())) == 2
    store.clear_old(10.0 + 7 * DAY)
    assert store.list_dead(Selection()) == []
    assert store.erased["a", "age"] == 2
    assert len(ids(store, "b")) == 2


def test_what_a_region_may_not_keep_any_longer_is_erased_dead_or_waiting_and_replayed_or_not(
    store: Store,
) -> None:
    store.take([event(1), event(2)], 0.0)
    store.expire("a", 0.0, 10.0)
    assert store.replay(Selection(), 2 * DAY) == 2
    store.expire("b", 0.0, 2 * DAY)
    store.take([event(3)], 2 * DAY)
    store.clear_old(3 * DAY - 1, 3.0)
    assert [(row["waiting"], row["dead"]) for row in store.status(3 * DAY)] == [(3, 0), (1, 2)]
    store.clear_old(3 * DAY, 3.0)
    assert [(row["waiting"], row["dead"]) for row in store.status(3 * DAY)] == [(1, 0), (1, 0)]
    assert ids(store, "a") == ids(store, "b") == [f"{LOG}-3"]
    assert (store.erased["a", "age"], store.erased["b", "age"]) == (2, 2)


def test_a_file_of_an_earlier_version_knows_when_its_letters_came(tmp_path: Path) -> None:
    store = Store(config(tmp_path))
    store.register((A, B), 0.0)
    store.take([event(1)], DAY)
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "feed.sqlite", isolation_level=None)) as db:
        db.execute("ALTER TABLE letters DROP COLUMN came")
    store = Store(config(tmp_path))
    store.clear_old(4 * DAY - 1, 3.0)
    assert store.status(4 * DAY)[0]["waiting"] == 1
    store.clear_old(4 * DAY, 3.0)
    assert store.status(4 * DAY)[0]["waiting"] == 0
    store.close()


def test_a_selection_needs_all_that_it_names(store: Store) -> None:
    store.take([event(1), event(2)], 0.0)
    for name, when in (("a", 10.0), ("b", 20.0)):
        store.expire(name, 0.0, when)
    chosen = Selection("b", f"{LOG}-2", 20.0)
    assert [(each["endpoint"], each["id"]) for each in store.list_dead(chosen)] == [("b", f"{LOG}-2")]
    assert len(store.list_dead(Selection(since=15.0))) == 2
    assert store.drop(chosen) == 1
    assert store.replay(Selection(endpoint="a"), 30.0) == 2
    assert first(store).born == 30.0
    assert len(store.list_dead(Selection())) == 1


def test_a_letter_set_aside_leaves_the_line_and_comes_back_at_its_time(store: Store) -> None:
    store.take([event(1), event(2), event(3)], 0.0)
    view = store.view("a")
    assert view.first is not None
    assert view.second is not None
    store.settle("a", view.second, Verdict(Fate.DONE, "taken", set_aside=view.first.number), "", 1.0)
    after = store.view("a")
    assert after.aside is not None
    assert (after.aside.number, after.aside.is_aside) == (view.first.number, True)
    store.settle("a", after.aside, Verdict(Fate.AGAIN, "fault", due=77.0), "fault: HTTP 500", 2.0)
    aside = store.view("a").aside
    assert aside is not None
    assert (aside.due, aside.attempts) == (77.0, 1)
    assert store.status(100.0)[0] == {
        "endpoint": "a", "is_configured": True, "is_closed": False, "waiting": 2, "aside": 1,
        "oldest_s": 100.0, "dead": 0, "delivered_at": 1.0, "failed_at": 2.0, "last_error": "fault: HTTP 500",
    }  # fmt: skip


def test_a_closed_endpoint_opens_with_another_url_and_not_with_the_same(store: Store) -> None:
    store.take([event(1)], 0.0)
    store.settle("a", first(store), Verdict(Fate.CLOSE, "gone"), "gone: HTTP 410", 1.0)
    store.take([event(2)], 2.0)
    assert [each["why"] for each in store.list_dead(Selection())] == ["gone", "gone"]
    store.register((A, B), 3.0)
    assert store.is_closed("a")
    store.register((WebhookConfig("a", "https://other.example/"), B), 3.0)
    assert not store.is_closed("a")


def test_what_waits_for_an_endpoint_that_is_there_no_more_is_dead_and_is_not_replayed(tmp_path: Path) -> None:
    store = Store(config(tmp_path))
    store.take([event(1)], 0.0)
    store.close()
    store = Store(config(tmp_path, webhooks=(A,)))
    store.register((A,), 5.0)
    assert [(each["endpoint"], each["why"]) for each in store.list_dead(Selection())] == [("b", "removed")]
    assert store.replay(Selection(), 6.0) == 0
    assert store.status(7.0)[1]["is_configured"] is False
    store.close()


def test_letters_that_another_process_drops_or_replays_are_seen(store: Store, tmp_path: Path) -> None:
    store.take([event(1, 60_000)], 0.0)
    store.expire("a", 0.0, 1.0)
    other = Store(config(tmp_path), create=False)
    assert other.drop(Selection()) == 1
    other.close()
    store._config = config(tmp_path, max_bytes=65_536)
    store.take([event(2, 60_000)], 2.0)
    store.expire("a", 2.0, 3.0)
    store.take([event(3)], 4.0)
    assert store.erased["a", "full"] == 0  # room was counted anew
    with pytest.raises(KeyError):
        store.content(1)


def test_a_file_that_is_not_there_or_none_of_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        Store(config(tmp_path), create=False)
    assert caught.value.key == "feed.store"
    (tmp_path / "feed.sqlite").write_bytes(b"no database, but long enough to be looked at" * 40)
    with pytest.raises(ConfigError, match="cannot be used"):
        Store(config(tmp_path))
