"""Events of issuers with a place of their own go there alone, and no place holds up another."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from relay.config import Config, EventsConfig, IssuerConfig, TokenConfig
from relay.core.events import CallEvent
from relay.errors import ConfigError
from relay.ops.events import EventWriter
from relay.ops.sinks import EventSinks

CALL = "c0" * 16


def configured(folder: Path, own: str = "own.jsonl", **events: object) -> Config:
    """An issuer `own` with a file of its own, and one without."""
    issuers = IssuerConfig("own", "ab" * 32, events=str(folder / own)), IssuerConfig("app", "cd" * 32)
    section = {"path": str(folder / "events.jsonl"), "spool": str(folder / "spool"), **events}
    return Config(events=EventsConfig(**section), tokens=TokenConfig(issuers))  # type: ignore[arg-type]


def event(issuer: str) -> CallEvent:
    return CallEvent("call.answered", 1.0, {"call": CALL}, issuer=issuer)


def told(path: Path) -> list[tuple[int, str | None]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["seq"], line.get("issuer")) for line in lines]


def test_an_issuers_events_go_to_its_own_file_and_all_others_to_the_common_one(tmp_path: Path) -> None:
    sinks = EventSinks.of(configured(tmp_path))
    assert sinks is not None
    sinks.start()
    for issuer in ("app", "own", "", "own"):
        sinks.event(event(issuer))
    sinks.close()
    assert told(tmp_path / "own.jsonl") == [(1, "own"), (2, "own")]
    assert told(tmp_path / "events.jsonl") == [(1, "app"), (2, None)]
    assert (tmp_path / "spool.own").exists()
    assert sinks.counters().written == 4
    assert not sinks.is_failing


def test_one_place_that_takes_nothing_fills_no_other(tmp_path: Path) -> None:
    """A flood of one issuer's events while its reader is gone: another's are written, none is dropped."""
    config = configured(tmp_path, sink="socket", max_bytes=65_536, path=str(tmp_path / "nobody.sock"))
    sinks = EventSinks.of(config)
    assert sinks is not None
    sinks.start()
    for _ in range(2_000):
        sinks.event(event("own"))
    sinks.event(event("app"))
    sinks.close()
    assert sinks.counters().dropped["spool_full"] > 0
    assert sinks._own["own"].counters().dropped == sinks.counters().dropped
    assert "spool_full" not in sinks._common.counters().dropped
    with contextlib.closing(sqlite3.connect(tmp_path / "spool")) as database:
        assert database.execute("SELECT count(*) FROM spool").fetchone() == (1,)
    assert sinks.is_failing


def test_two_generations_have_spools_of_their_own(tmp_path: Path) -> None:
    sinks = EventSinks.of(configured(tmp_path), ".odd")
    assert sinks is not None
    sinks.start()
    sinks.close()
    assert sorted(path.name for path in tmp_path.glob("spool*")) == ["spool.odd", "spool.own.odd"]


def test_a_place_that_cannot_be_had_is_named_by_its_issuer_and_the_others_are_closed(tmp_path: Path) -> None:
    sinks = EventSinks.of(configured(tmp_path, own="no/such/folder"))
    assert sinks is not None
    with pytest.raises(ConfigError, match="events of own: cannot be written"):
        sinks.start()
    assert not sinks._common._thread.is_alive()
    common = EventsConfig(path=str(tmp_path / "no/such"), spool=str(tmp_path / "s2"))
    with pytest.raises(ConfigError, match=r"^events\.path: cannot be written"):
        EventSinks(EventWriter(common, "n1"), {}).start()


def test_where_no_events_are_wanted_there_are_no_sinks() -> None:
    assert EventSinks.of(Config(events=EventsConfig(sink="off"))) is None
