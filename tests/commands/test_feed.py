"""`relay feed` at the terminal: what is shown and refused. The program: tests/feed/test_program.py."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from relay.cli import DONE, USAGE, main
from relay.config_feed import FeedConfig, WebhookConfig
from relay.feed.answers import Fate
from relay.feed.courier import Verdict
from relay.feed.letters import Event
from relay.feed.signing import parse_secret
from relay.feed.store import Store

LOG = "0f" * 8
HOOK = WebhookConfig("billing", "https://a.example/", "/s")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a feed with three dead letters and one that waits."""
    path = tmp_path / "relay.toml"
    path.write_text(
        f'[feed]\nstore = "{tmp_path}/feed.sqlite"\n'
        f'webhooks = [{{ name = "{HOOK.name}", url = "{HOOK.url}", secret_file = "/s" }}]\n'
    )
    store = Store(FeedConfig(webhooks=(HOOK,), store=str(tmp_path / "feed.sqlite")))
    store.register((HOOK,), 0.0)
    now = time.time()
    for seq, died in ((1, now - 7_200), (2, now - 60), (3, now - 60)):
        store.take([Event(LOG, seq, "report", b"{}")], died)
        letter = store.view(HOOK.name).first
        assert letter is not None
        store.settle(HOOK.name, letter, Verdict(Fate.DEAD, "refused"), "refused: HTTP 404", died)
    store.take([Event(LOG, 4, "report", b"{}")], now)
    store.close()
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status = main(["feed", *words, "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    return status, json.loads(line)


def test_what_is_listed_is_what_the_options_leave(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ids(*words: str) -> list[str]:
        status, facts = run(capsys, "list", "--config", str(config), *words)
        assert (status, facts["ok"]) == (DONE, True)
        return [each["id"].partition("-")[2] for each in facts["letters"]]

    assert ids() == ["1", "2", "3"]
    assert ids("--since", "1h") == ["2", "3"]
    assert ids("--limit", "1") == ["1"]
    assert ids("--id", f"{LOG}-3") == ["3"]
    assert ids("--endpoint", "other") == []


def test_people_see_tables(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feed", "status", "--config", str(config)]) == DONE
    assert "billing" in capsys.readouterr().out
    assert main(["feed", "list", "--config", str(config)]) == DONE
    shown = capsys.readouterr().out
    assert "3 dead letters" in shown
    assert "refused" in shown


def test_options_before_the_action_count_as_well(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feed", "--json", "--config", str(config), "status"]) == DONE
    [row] = json.loads(capsys.readouterr().out)["endpoints"]
    assert (row["endpoint"], row["waiting"], row["dead"]) == ("billing", 1, 3)
    assert row["last_error"] == "refused: HTTP 404"


@pytest.mark.parametrize("action", ["replay", "drop"])
def test_not_all_letters_are_meant_by_saying_nothing(
    config: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    assert run(capsys, action, "--config", str(config))[1]["key"] == "--all"
    word = {"replay": "replayed", "drop": "dropped"}[action]
    assert run(capsys, action, "--config", str(config), "--since", "30m")[1][word] == 2
    assert run(capsys, action, "--config", str(config), "--all")[1][word] == 1
    assert run(capsys, "list", "--config", str(config))[1]["letters"] == []
    [row] = run(capsys, "status", "--config", str(config))[1]["endpoints"]
    assert row["waiting"] == (4 if action == "replay" else 1)


@pytest.mark.parametrize("span", ["6", "h", "6w", "-1h", "1e3s"])
def test_a_span_that_is_none_is_refused(config: Path, capsys: pytest.CaptureFixture[str], span: str) -> None:
    status, facts = run(capsys, "list", "--config", str(config), f"--since={span}")
    assert (status, facts["key"]) == (USAGE, "--since")


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(f'[feed]\nstore = "{tmp_path}/none"\n')
    status, facts = run(capsys, "status", "--config", str(path))
    assert (status, facts["key"]) == (USAGE, "feed.store")
    assert not (tmp_path / "none").exists()


def test_a_secret_is_made_once_for_its_owner_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.secret"
    assert main(["feed", "secret", str(path)]) == DONE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(parse_secret(path.read_text(), "x")) == 32
    assert "whsec_" not in "".join(capsys.readouterr())
    assert main(["feed", "secret", str(path)]) == USAGE


def test_check_config_warns_of_a_feed_that_would_get_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sink, warned in (("file", True), ("socket", False)):
        assert main(["check-config", str(config), "--set", f"events.sink={sink}", "--json"]) == DONE
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        assert any(text.startswith("feed.webhooks: ") for text in warnings) == warned
