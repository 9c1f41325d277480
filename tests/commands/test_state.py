"""`relay state`: what an operator signs, puts, kills and sees."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from relay.cli import DONE, FAILED, USAGE, main
from relay.config_state import StateConfig
from relay.protocol.keys import write_key
from relay.protocol.signed import public_of
from relay.rollout.lastgood import LIFE_S, accepted, parse
from relay.rollout.store import Entry
from relay.rollout.store_sqlite import SqliteStore
from rollout_store.servers import Server, needs_nats

SEED, OTHER = bytes(32), b"\1" * 32
KEYS = accepted([public_of(SEED), public_of(OTHER)])
OFFER = {"id": "r1", "salt": "s1", "always": ["dogfood"], "regions": {"eu-1": 5}}


class Desk:
    """Where an operator sits."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.config = folder / "relay.toml"
        self.configure(store=str(folder / "state.sqlite"))
        for name, seed in (("key", SEED), ("other", OTHER)):
            (folder / name).write_text(write_key(seed))
        sqlite3.connect(folder / "state.sqlite").close()
        self.offer(OFFER)

    def configure(self, keys: tuple[bytes, ...] = (SEED,), **settings: Any) -> None:
        whole = {"keys": [public_of(seed).hex() for seed in keys], **settings}
        lines = (f"{key} = {json.dumps(value)}\n" for key, value in whole.items())
        self.config.write_text("[state]\n" + "".join(lines))

    def offer(self, value: Any) -> None:
        (self.folder / "offer.json").write_text(json.dumps(value))

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        status = main(["state", *words, "--config", str(self.config), "--json"])
        return status, json.loads(self.capsys.readouterr().out)

    def put(self, *words: str, key: str = "key") -> tuple[int, dict[str, Any]]:
        return self.run("put", "--key", str(self.folder / key), "--who", "anna", "--why", "step 2", *words)

    def stored(self, key: str = "state") -> Entry:
        async def read() -> Entry | None:
            store = SqliteStore(self.folder / "state.sqlite")
            try:
                return await store.get("rollout", key)
            finally:
                await store.close()

        found = asyncio.run(read())
        assert found is not None
        return found


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def test_what_is_put_is_signed_and_what_is_not_given_stays(desk: Desk) -> None:
    offer, routes = str(desk.folder / "offer.json"), desk.folder / "routes.json"
    given = {"eu-1": {"relays": {"a": {"urls": ["quic://a.example:443"]}}}}
    routes.write_text(json.dumps(given))
    status, facts = desk.put("--rollout", offer, "--routes", str(routes))
    assert (status, facts["rev"], facts["rollout"]["regions"]) == (DONE, 1, {"eu-1": 5})
    body = parse(desk.stored().value, KEYS).body
    assert body.rollout is not None
    assert (body.rev, body.rollout.id, body.routes) == (1, "r1", given)
    assert body.not_after - body.issued_at == LIFE_S
    assert abs(body.issued_at - time.time()) < 60
    assert (desk.stored().who, desk.stored().why) == ("anna", "step 2")
    assert desk.put("--days", "1")[0] == DONE  # the same again
    again = parse(desk.stored().value, KEYS).body
    assert (again.rev, again.rollout, again.routes) == (2, body.rollout, body.routes)
    assert again.not_after - again.issued_at == 86_400
    assert desk.put("--rollout", "none")[0] == DONE
    last = parse(desk.stored().value, KEYS).body
    assert (last.rev, last.rollout, last.routes) == (3, None, body.routes)


def test_what_no_box_would_take_is_not_put(desk: Desk) -> None:
    offer = str(desk.folder / "offer.json")
    status, facts = desk.put("--rollout", offer, key="other")
    assert (status, facts["key"]) == (USAGE, "state.keys")
    assert public_of(OTHER).hex() in facts["error"]
    for wrong in (OFFER | {"regions": {"eu-1": 101}}, OFFER | {"salt": "a|b"}, {"id": "r1"}, [1]):
        desk.offer(wrong)
        status, facts = desk.put("--rollout", offer)
        assert (status, facts["key"]) == (USAGE, "--rollout"), wrong
    desk.offer(OFFER)
    assert desk.put("--rollout", offer, "--days", "8")[0] == USAGE
    assert desk.put("--rollout", str(desk.folder / "nothing"))[0] == USAGE
    slip = desk.folder / "routes.json"
    slip.write_text('{"eu-1": {"relays": {}, "drian": true}}')
    status, facts = desk.put("--routes", str(slip))
    assert (status, facts["key"], "eu-1.drian" in facts["error"]) == (USAGE, "--routes", True)
    assert desk.run("show")[1]["state"] is None
    desk.configure(store=str(desk.folder / "elsewhere"))
    status, facts = desk.put("--rollout", offer)
    assert (status, facts["key"]) == (USAGE, "state.store")
    assert "relay feed" in facts["error"]


def test_a_state_that_does_not_count_is_gone_over_only_on_purpose(desk: Desk) -> None:
    desk.configure((SEED, OTHER), store=str(desk.folder / "state.sqlite"))
    assert desk.put("--rollout", str(desk.folder / "offer.json"), "--rev", "40", key="other")[0] == DONE
    desk.configure((SEED,), store=str(desk.folder / "state.sqlite"))
    status, facts = desk.put()
    assert (status, "unknown_key" in facts["error"], "--rev" in facts["error"]) == (FAILED, True, True)
    status, facts = desk.put("--rev", "41", "--rollout", "none")
    assert (status, facts["rev"]) == (DONE, 41)


def test_a_kill_needs_no_key_and_is_shown_until_it_is_taken_back(desk: Desk) -> None:
    assert desk.put("--rollout", str(desk.folder / "offer.json"))[0] == DONE
    by = ("--who", "ben", "--why", "calls break")
    assert desk.run("kill", "r1", *by)[1] == {"ok": True, "id": "r1", "killed": True}
    assert desk.run("kill", "r2", *by)[0] == DONE
    status, facts = desk.run("show")
    assert (status, facts["kills"]) == (DONE, ["r1", "r2"])
    assert (facts["state"]["rev"], facts["state"]["who"], facts["state"]["why"]) == (1, "anna", "step 2")
    assert desk.run("kill", "r1", "--off", *by)[1]["killed"] is False
    assert desk.stored("r1/kill").value == b"false"
    assert desk.run("show")[1]["kills"] == ["r2"]
    assert desk.run("kill", "no such*id", *by)[0] == FAILED


def test_a_file_needs_no_buckets(desk: Desk) -> None:
    status, facts = desk.run("prepare", "--hub")
    assert (status, facts["key"]) == (USAGE, "state.backend")
    assert StateConfig().backend == "file"


@needs_nats
def test_buckets_are_made_at_the_hub_and_at_a_leaf(desk: Desk) -> None:
    hub, leaf = Server(desk.folder, "hub"), Server(desk.folder, "fra")
    leaf.leads_to(hub)
    with asyncio.Runner() as runner:  # commands have a loop of their own
        try:
            runner.run(hub.start())
            runner.run(leaf.start())
            desk.configure(backend="nats", servers=[hub.url])
            assert desk.run("prepare", "--hub", "--leaf", "fra")[0] == DONE
            assert desk.put("--rollout", str(desk.folder / "offer.json"))[0] == DONE
            desk.configure(backend="nats", servers=[leaf.url])
            assert desk.run("prepare")[1]["key"] == "--leaf"
            assert desk.run("prepare", "--leaf", "hub")[0] == DONE
            assert desk.run("kill", "r1", "--who", "a", "--why", "b")[0] == DONE
            for _ in range(100):  # the leaf hears of it a moment later
                facts = desk.run("show")[1]
                if facts.get("kills"):
                    break
            assert (facts["kills"], facts["state"]["rev"]) == (["r1"], 1)
        finally:
            runner.run(leaf.end())
            runner.run(hub.end())
    desk.configure(backend="nats", servers=["nats://127.0.0.1:1"])
    began = time.monotonic()
    status, facts = desk.run("show")
    assert (status, "no connection to NATS" in facts["error"]) == (FAILED, True)
    assert time.monotonic() - began < 10
