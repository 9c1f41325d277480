"""`relay command --fleet`: what is said of nodes that obeyed, had no such call, refused, or said nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.cli import main
from relay.commands.order_fleet import FAILED, OBEYED, SILENT, Outcome
from relay.feed.commands import Answer
from relay.protocol import command, signed
from relay.protocol.keys import write_key
from relay.region.nodelist import Node, NodeList, seal
from relay.rollout.store_sqlite import SqliteStore

SEED, HUB = bytes(range(32)), bytes(32)
CALL = "101112131415161718191a1b1c1d1e1f"
BY = {"who": "x", "why": "y"}
YES, NO, BAD = "NO_ERROR", "CALL_NOT_FOUND", "TOKEN_INVALID"


class Fleet:
    """A store, a configuration, nodes that are known, and what they answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.key = folder / "relay.toml", folder / "issuer.key"
        self.store = SqliteStore(folder / "state.sqlite", poll_s=0.02)
        self.says: dict[str, str] = {}
        self.given: list[bytes] = []
        self.key.write_text(write_key(SEED))
        public = signed.public_of(HUB).hex()
        state = f'[state]\nstore = "{folder}/state.sqlite"\n'
        self.config.write_text(f'{state}[nodes]\nkeys = ["{public}"]\n')

    async def know(self, *listed: str, heard: tuple[str, ...] = ()) -> None:
        now = int(time.time())
        nodes = tuple(Node(id=id, region="r", urls=("quic://a.example:443",), version="1") for id in listed)
        made = NodeList(v=1, cluster="relay", rev=1, issued_at=now, not_after=now + 600, nodes=nodes)
        await self.store.put("routes", "nodes", seal(made, HUB), expect=0, **BY)
        for id in heard:
            await self.store.put("health", id, b"{}", expect=0, **BY)

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        async def follow() -> None:
            async for entry in self.store.watch("commands"):
                self.given.append(base64.b64decode(entry.value))
                for node, code in self.says.items():
                    value = msgspec.json.encode(Answer(code, 250))
                    await self.store.put("answers", f"{entry.key}.{node}", value, expect=0, **BY)

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def order(self, *words: str, wait: str = "30") -> tuple[int, dict[str, Any]]:
        """Exit status, and the one object that it prints."""
        more = ["--fleet", "--config", str(self.config), "--wait", wait, "--json"]
        signing = [] if words and words[0] == "send" else ["--key", str(self.key)]
        out = await asyncio.to_thread(said, [*words, *signing, *more])
        return out[0], json.loads(out[1])


def said(words: list[str]) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return main(["command", *words]), out.getvalue()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    await fleet.store.keys("commands")  # it is there
    yield fleet
    await fleet.store.close()


async def test_who_obeyed_and_who_has_no_such_call_is_said(fleet: Fleet) -> None:
    await fleet.know("fra-1", heard=("fra-2",))
    fleet.says = {"fra-1": NO, "fra-2": YES}
    async with fleet.answering():
        status, facts = await fleet.order("end", "--call", CALL)
    assert status == OBEYED
    assert facts.pop("waited_s") < 30
    id = facts.pop("id")
    assert facts == {
        "ok": True, "obeyed": ["fra-2"], "absent": ["fra-1"], "refused": {}, "silent": [], "age_ms": 250,
    }  # fmt: skip
    [raw] = fleet.given
    order = command.verify(raw, {signed.kid_of(signed.public_of(SEED)): signed.public_of(SEED)})
    assert (order.op, order.id.hex(), order.exp - order.iat) == ("end", id, 300)
    entry = await fleet.store.get("commands", id)
    assert entry is not None
    assert entry.why == "relay command end"


async def test_who_does_not_answer_in_time_is_said(fleet: Fleet) -> None:
    await fleet.know("fra-1", "fra-2")
    fleet.says = {"fra-1": YES}
    async with fleet.answering():
        status, facts = await fleet.order("end", "--call", CALL, wait="3")
    assert (status, facts["ok"]) == (SILENT, False)
    assert "fra-2" in facts["silent"]


async def test_a_line_that_was_signed_elsewhere_is_given_and_twice_it_is_one(fleet: Fleet) -> None:
    await fleet.know("fra-1")
    fleet.says = {"fra-1": YES}
    line = fleet.folder / "line"
    words = ["end", "--call", CALL, "--key", str(fleet.key), "--print", "--fleet", "--json"]
    printed = await asyncio.to_thread(said, words)
    line.write_text(json.loads(printed[1])["line"])
    async with fleet.answering():
        first = await fleet.order("send", str(line))
        again = await fleet.order("send", str(line))
    assert (first[0], again[0]) == (OBEYED, OBEYED)
    assert first[1]["id"] == again[1]["id"]
    assert len(fleet.given) == 1


async def test_what_is_no_command_or_goes_two_ways_is_refused_before_anything_is_given(fleet: Fleet) -> None:
    junk = fleet.folder / "junk"
    junk.write_text("no base64")
    assert (await fleet.order("send", str(junk)))[1]["key"] == "BAD_ENCODING"
    junk.write_text(base64.b64encode(b"junk").decode())
    assert (await fleet.order("send", str(junk)))[1]["key"] == BAD
    assert (await fleet.order("end", "--call", CALL, "--socket", "x"))[1]["key"] == "--socket"
    assert (await fleet.order("end", "--call", CALL, wait="0"))[1]["key"] == "--wait"
    assert await fleet.store.keys("commands") == []


async def test_without_a_store_nothing_is_given_and_that_is_said(fleet: Fleet) -> None:
    await fleet.store.close()
    for each in fleet.folder.glob("state.sqlite*"):
        os.unlink(each)
    status, facts = await fleet.order("end", "--call", CALL)
    assert (status, facts["key"]) == (2, "state.store")


@pytest.mark.parametrize(
    ("known", "says", "status", "text"),
    [
        ("ab", {"a": YES, "b": NO}, OBEYED, "obeyed by a; nobody concerned at b"),
        ("ab", {"a": NO, "b": "NOT_IN_CALL"}, FAILED, "no node has it; all remember it"),
        ("ab", {"a": YES, "b": BAD}, FAILED, "refused by b (TOKEN_INVALID)"),
        ("a", {"a": BAD}, FAILED, "refused by a"),
        ("ab", {"a": YES}, SILENT, "no answer from b"),
        ("ab", {}, SILENT, "no answer from a, b"),
        ("", {"c": YES}, SILENT, "no node is known"),
        ("a", {"a": YES, "c": YES}, OBEYED, "obeyed by a, c"),
    ],
)
def test_the_exit_status_follows_from_the_answers(
    known: str, says: dict[str, str], status: int, text: str
) -> None:
    answers = {node: Answer(code, 1) for node, code in says.items()}
    outcome = Outcome("0f" * 16, frozenset(known), answers)
    assert outcome.status == status
    assert text in outcome.text()
    assert outcome.facts()["ok"] == (status == OBEYED)
