"""`relay nodes`: what a hub makes, signs and puts, and what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from relay.cli import DONE, FAILED, USAGE, main
from relay.protocol.keys import read_key, write_key
from relay.protocol.signed import kid_of, public_of
from relay.protocol.trunk_proof import pin_of
from relay.region.making import Announcement, encode
from relay.region.nodelist import NodeList, verify
from relay.rollout.lastgood import LIFE_S, Body, seal
from relay.rollout.store_sqlite import SqliteStore
from test_daemon import until

T = TypeVar("T")

OPERATOR, HUB = bytes(32), b"\1" * 32
KEYS = {kid_of(public_of(HUB)): public_of(HUB)}
ROUTES: dict[str, Any] = {
    "fra": {
        "relays": {
            "fra-1": {"urls": ["quic://fra-1.example:443"]},
            "fra-2": {"urls": ["quic://fra-2.example:443"]},
        }
    }
}
BY = {"who": "anna", "why": "a test"}


class Hub:
    """Where lists are made."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.config, self.out, self.routes = folder / "relay.toml", folder / "nodes", folder / "routes.json"
        self.config.write_text(
            f'[state]\nkeys = ["{public_of(OPERATOR).hex()}"]\nstore = "{folder}/state.sqlite"\n'
            f'[nodes]\nkeys = ["{public_of(HUB).hex()}"]\n'
        )
        for name, seed in (("hub", HUB), ("operator", OPERATOR)):
            (folder / name).write_text(write_key(seed))
        sqlite3.connect(folder / "state.sqlite").close()
        self.write(ROUTES)

    def write(self, routes: Any) -> None:
        self.routes.write_text(json.dumps(routes))

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        status = main(["nodes", *words, "--config", str(self.config), "--json"])
        return status, json.loads(self.capsys.readouterr().out)

    def sign(self, *words: str, key: str = "hub") -> tuple[int, dict[str, Any]]:
        return self.run("sign", "--key", str(self.folder / key), *words)

    def store(self, work: Callable[[SqliteStore], Awaitable[T]]) -> T:
        async def run() -> T:
            store = SqliteStore(self.folder / "state.sqlite")
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def put(self, bucket: str, key: str, value: bytes) -> None:
        async def work(store: SqliteStore) -> None:
            standing = await store.get(bucket, key)
            expect = standing.revision if standing is not None else 0
            await store.put(bucket, key, value, expect=expect, **BY)

        self.store(work)

    def put_state(self, rev: int, routes: dict[str, Any]) -> None:
        now = int(time.time())
        self.put("rollout", "state", seal(Body(rev, now, now + LIFE_S, None, routes), OPERATOR))

    def announce(self, node: str, **facts: Any) -> None:
        told = {"version": "0.1.0", "state": "ok", "score": 90, "stress": 10} | facts
        self.put("health", node, encode(Announcement(node=node, **told)))

    def listed(self) -> NodeList:
        entry = self.store(lambda store: store.get("routes", "nodes"))
        assert entry is not None
        return verify(entry.value, KEYS)


@pytest.fixture
def hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Hub:
    return Hub(tmp_path, capsys)


def test_a_list_is_made_of_signed_routes_and_of_what_nodes_announced(hub: Hub) -> None:
    hub.put_state(1, ROUTES)
    hub.announce("fra-2", draining=True)
    hub.announce("mallory")
    hub.put("health", "fra-1", b"torn")
    status, facts = hub.sign()
    listed = hub.listed()
    assert (status, facts["rev"], facts["nodes"]) == (DONE, listed.rev, 2)
    one, two = listed.nodes
    assert (one.id, one.health, one.draining) == ("fra-1", None, False)
    assert (two.id, two.version, two.draining) == ("fra-2", "0.1.0", True)
    assert two.health is not None
    assert (two.health.score, two.health.stress) == (90, 10)
    assert (listed.cluster, listed.not_after - listed.issued_at) == ("relay", 86_400)


def test_each_list_is_newer_than_the_one_before_within_a_second_too(hub: Hub) -> None:
    hub.put_state(1, ROUTES)
    revisions = [hub.sign()[1]["rev"] for _ in range(3)]
    assert revisions == sorted(set(revisions))
    hub.put("routes", "nodes", b"spoilt")
    assert hub.sign()[1]["rev"] >= int(time.time()) - 5  # the time, where nothing is known


def test_what_another_node_says_under_a_name_that_is_not_its_own_is_passed_over(hub: Hub) -> None:
    hub.put_state(1, ROUTES)
    hub.put(
        "health", "fra-1", encode(Announcement(node="fra-2", version="1", state="bad", score=0, stress=999))
    )
    hub.sign()
    assert [node.health for node in hub.listed().nodes] == [None, None]


def test_a_few_nodes_need_no_store(hub: Hub) -> None:
    (hub.folder / "state.sqlite").unlink()
    status, first = hub.sign("--routes", str(hub.routes), "--out", str(hub.out), "--hours", "2")
    assert status == DONE
    listed = verify(hub.out.read_bytes(), KEYS)
    assert (listed.rev, listed.not_after - listed.issued_at) == (first["rev"], 7_200)
    hub.write({"fra": {**ROUTES["fra"], "drain": True}})
    _, again = hub.sign("--routes", str(hub.routes), "--out", str(hub.out))
    assert again["rev"] > first["rev"]
    assert all(node.draining for node in verify(hub.out.read_bytes(), KEYS).nodes)
    status, shown = hub.run("show", "--file", str(hub.out))
    assert (status, shown["list"]["rev"]) == (DONE, again["rev"])


def test_clients_get_a_list_without_health(hub: Hub) -> None:
    hub.put_state(1, ROUTES)
    hub.announce("fra-1")
    assert hub.sign("--out", str(hub.out), "--without-health")[0] == DONE
    listed = verify(hub.out.read_bytes(), KEYS)
    assert [node.health for node in listed.nodes] == [None, None]
    assert listed.nodes[0].version == "0.1.0"


def test_who_would_not_be_believed_signs_nothing(hub: Hub) -> None:
    status, told = hub.sign("--routes", str(hub.routes), "--out", str(hub.out), key="operator")
    assert (status, told["key"]) == (USAGE, "nodes.keys")
    assert not hub.out.exists()


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        ({"fra": {"relays": ["a"]}}, "does not fit"),
        ({"fra": {**ROUTES["fra"], "drian": True}}, "fra.drian means nothing"),
        ("fra", "--routes"),
    ],
)
def test_routes_that_cannot_be_meant_are_refused(hub: Hub, routes: Any, problem: str) -> None:
    hub.write(routes)
    status, told = hub.sign("--routes", str(hub.routes), "--out", str(hub.out))
    assert (status, told["key"]) == (USAGE, "--routes")
    assert problem in told["error"]


@pytest.mark.parametrize(
    ("words", "key"),
    [(("--every", "0.5"), "--every"), (("--hours", "0"), "--hours"), (("--hours", "9000"), "--hours")],
)
def test_a_pace_and_a_life_that_make_no_sense_are_refused(hub: Hub, words: tuple[str, str], key: str) -> None:
    status, told = hub.sign("--routes", str(hub.routes), "--out", str(hub.out), *words)
    assert (status, told["key"]) == (USAGE, key)


def test_without_a_state_without_a_store_and_without_a_list_the_command_says_what_to_do(hub: Hub) -> None:
    assert hub.sign()[1]["key"] == "--routes"
    status, told = hub.run("show")
    assert (status, told["ok"]) == (FAILED, False)
    assert "relay nodes sign" in told["error"]
    (hub.folder / "state.sqlite").unlink()
    assert hub.sign()[1]["key"] == "state.store"


def test_people_see_a_table(hub: Hub) -> None:
    hub.put_state(1, {"fra": {**ROUTES["fra"], "drain": True}})
    hub.announce("fra-1")
    hub.sign()
    assert main(["nodes", "show", "--config", str(hub.config)]) == DONE
    shown = hub.capsys.readouterr().out
    for word in ("fra-1", "fra-2", "draining", "90", "10 %", f"revision {hub.listed().rev}"):
        assert word in shown


def test_a_hub_that_goes_on_tells_at_once_who_is_marked_and_outlives_what_it_cannot_read(hub: Hub) -> None:
    hub.put_state(1, ROUTES)
    words = ["nodes", "sign", "--key", str(hub.folder / "hub"), "--every", "60", "--config", str(hub.config)]
    log = hub.folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "relay", *words], stdout=out, stderr=out)
    try:

        def stands() -> bool:
            return hub.store(lambda store: store.get("routes", "nodes")) is not None

        until(stands, "a first list")
        first = hub.listed().rev
        hub.put("rollout", "state", b"spoilt")
        until(lambda: "no new list" in log.read_text(), "a complaint")
        hub.put_state(2, {"fra": {**ROUTES["fra"], "drain": True}})
        until(lambda: hub.listed().rev > first, "the next list, long before a minute")
        assert all(node.draining for node in hub.listed().nodes)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        process.wait(20)


# ---------------------------------------------------------------- a node's key for trunks


def test_a_key_for_trunks_is_made_once_and_its_pin_can_be_asked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trunk.key"
    assert main(["nodes", "trunk-key", "--out", str(path), "--json"]) == DONE
    made = json.loads(capsys.readouterr().out)
    assert made == {"ok": True, "file": str(path), "pin": made["pin"]}
    assert path.stat().st_mode & 0o777 == 0o600
    seed = read_key(path.read_text())
    assert made["pin"] == pin_of(public_of(seed)).hex()
    assert main(["nodes", "trunk-key", "--show", str(path)]) == DONE
    assert f'pins = ["{made["pin"]}"]' in capsys.readouterr().out
    assert main(["nodes", "trunk-key", "--out", str(path), "--json"]) == USAGE
    assert json.loads(capsys.readouterr().out)["key"] == "--out"
    assert read_key(path.read_text()) == seed


def test_what_is_no_key_has_no_pin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").write_text("none")
    assert main(["nodes", "trunk-key", "--show", str(tmp_path / "none"), "--json"]) == USAGE
    assert json.loads(capsys.readouterr().out)["key"] == "--show"
