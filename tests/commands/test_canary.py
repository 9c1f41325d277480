"""`relay canary`: which address comes next, what it writes, what it says, how it exits."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from pathlib import Path

import pytest

from relay.canary import call as placing
from relay.canary.judge import Direction, Facts
from relay.cli import DONE, FAILED, USAGE, main
from relay.commands.canary import following, targets_of
from relay.errors import ConfigError
from relay.ops.canary import Run, read
from relay.protocol.keys import write_key

HOST = "quic://relay.example"
TURNS = [(HOST, "quic"), ("wss://relay.example/vrl/1", "ws"), ("tls://relay.example", "tls")]
WAY = Direction(said=200, active_s=4.0, came=200, first_s=0.1, delays_ms=(45.0,) * 200)
GOOD = Facts(setup_s=0.1, ways=(WAY, WAY))


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "canary.key"
    path.write_text(write_key(os.urandom(32)))
    return str(path)


def said(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return main(["canary", *words]), out.getvalue(), err.getvalue()


def staged(monkeypatch: pytest.MonkeyPatch, *facts: Facts) -> list[str]:
    """Calls go as these; the last one for ever. Where they went is in the answer."""
    went: list[str] = []

    async def place(plan: placing.Plan) -> Facts:
        went.append(plan.url)
        return facts[min(len(went), len(facts)) - 1]

    monkeypatch.setattr(placing, "place", place)
    return went


def test_an_address_without_a_port_stands_for_all_rungs_and_any_other_for_itself() -> None:
    assert targets_of([HOST], None) == TURNS
    assert targets_of([HOST], "ws") == TURNS[1:2]
    both = ["quic://[::1]:4433", "wss://relay.example:8443"]
    assert targets_of(both, None) == [(both[0], "quic"), (both[1], "ws")]
    assert targets_of(["quic://[2001:db8::1]"], None)[1:] == [
        ("wss://[2001:db8::1]/vrl/1", "ws"),
        ("tls://[2001:db8::1]", "tls"),
    ]
    with pytest.raises(ConfigError, match="--rung"):
        targets_of(both, "tls")
    with pytest.raises(ConfigError, match="--url"):
        targets_of(["relay.example"], None)


def test_the_next_is_the_one_after_the_newest() -> None:
    def after(url: str, rung: str) -> tuple[str, str]:
        return following(TURNS, [Run(1.0, url, rung, ok=True)])  # type: ignore[arg-type]  # rungs all

    assert following(TURNS, []) == TURNS[0]
    assert [after(*turn) for turn in TURNS] == [*TURNS[1:], TURNS[0]]
    assert after("quic://elsewhere", "quic") == TURNS[0]


def test_runs_take_turns_and_are_written_down(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went = staged(monkeypatch, GOOD)
    out = str(tmp_path / "canary.json")
    for _ in range(4):
        status, text, err = said("--url", HOST, "--key", key, "--out", out)
        assert (status, err) == (DONE, "")
    assert went == [turn[0] for turn in (*TURNS, TURNS[0])]
    assert text.startswith("canary ok on quic: setup 0.1 s, first_audio 0.1 s, delay 111.5 ms, loss 0 %")
    book = read(out)
    assert book is not None
    assert [(run.url, run.rung) for run in book.runs] == [*TURNS, TURNS[0]]
    assert Path(key).read_text().strip() not in Path(out).read_text()


def test_a_failed_call_exits_with_1_and_says_check_value_and_bound(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Facts(setup_s=0.1, ways=(WAY, Direction(200, 4.0, 180, first_s=0.1, delays_ms=(45.0,))))
    staged(monkeypatch, bad)
    out = str(tmp_path / "canary.json")
    status, text, _ = said("--url", HOST, "--key", key, "--rung", "quic", "--out", out)
    assert status == FAILED
    assert "canary failed on quic: loss 10 % (at most 3 %)" in text
    assert len(text.splitlines()) == 1
    status, text, _ = said("--url", HOST, "--key", key, "--rung", "quic", "--out", out, "--json")
    facts = json.loads(text)
    assert (status, facts["ok"], facts["rung"], facts["runs_failing"]) == (FAILED, False, "quic", 2)
    assert facts["failed"][0] == {"check": "loss", "value": 0.1, "bound": 0.03}


def test_each_so_many_seconds_until_interrupted(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    went = staged(monkeypatch, GOOD)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("relay.commands.canary.time.sleep", sleep)
    status, text, err = said("--url", HOST, "--key", key, "--every", "60")
    assert (status, len(text.splitlines()), "interrupted" in err) == (FAILED, 3, True)
    assert went == [turn[0] for turn in TURNS]
    assert all(58 < wait <= 60 for wait in waits)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seconds", "3"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--every", "20"], "--every"),
        (["--key", "/nonexistent"], "--key"),
        (["--ca", "/nonexistent"], "--ca"),
        (["--out", "/nonexistent/canary.json"], "--out"),
        (["--url", "http://relay.example"], "--url"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_option(
    key: str, words: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    went = staged(monkeypatch, GOOD)
    status, out, err = said("--url", HOST, "--key", key, *words)
    assert (status, out, went) == (USAGE, "", [])
    assert named in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_something_else_is_not_overwritten(key: str, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("keep me")
    status, _, err = said("--url", HOST, "--key", key, "--out", str(other))
    assert (status, "--out" in err, other.read_text()) == (USAGE, True, "keep me")


def test_a_relay_that_is_not_there_is_one_line_and_exits_with_1(key: str) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        url = f"tls://127.0.0.1:{taken.getsockname()[1]}"
        status, out, err = said("--url", url, "--key", key)
    assert (status, err, len(out.splitlines())) == (FAILED, "", 1)
    assert out.startswith("canary failed on tls: reach: ")
