"""A command by the store of the fleet: real NATS servers, two daemons and their feeds, people who talk."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from client.rig import Rig, daemon
from client.test_following import talking
from feed.program import Feed
from relay.client import connect
from relay.client.errors import RefusedError
from relay.errors import ErrorCode
from relay.protocol.keys import write_key
from rollout_store.servers import Server, needs_nats
from rollout_store.test_store import at, hub_and_leaf

pytestmark = [needs_nats, pytest.mark.timeout(180)]  # a busy machine is waited for
WAIT_S = 30.0


class Box:
    """A daemon, the feed beside it, and the NATS server beside both."""

    def __init__(self, folder: Path, rig: Rig, server: Server) -> None:
        (folder / "feed").mkdir()
        self.rig, self.feed = rig, Feed(folder / "feed")
        self.feed.configure()
        with self.feed.config.open("a") as file:
            file.write(f'[state]\nbackend = "nats"\nservers = ["{server.url}"]\n')
            file.write(f'[nodes]\ncommands = "{folder}/commands"\n')
            file.write(f'announce = ["http://127.0.0.1:{rig.metrics_port}"]\n')

    def metric(self, name: str) -> float:
        return self.rig.metric(name)


class Fleet:
    """Box `a` at a leaf, box `b` at the hub, and an operator at the hub."""

    def __init__(self, folder: Path, a: Box, b: Box, hub: Server) -> None:
        self.a, self.b, self._folder = a, b, folder
        (folder / "issuer.key").write_text(write_key(a.rig.seed))
        (folder / "hub.toml").write_text(f'[state]\nbackend = "nats"\nservers = ["{hub.url}"]\n')

    async def order(self, *words: str, wait: float = WAIT_S) -> tuple[int, dict[str, Any]]:
        """`relay command ... --fleet` at the hub: its exit status and what it prints."""
        config, key = str(self._folder / "hub.toml"), str(self._folder / "issuer.key")
        where = ["--fleet", "--config", config, "--key", key]
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "relay", "command", *words, *where, "--wait", str(wait), "--json"],
            capture_output=True, text=True, timeout=3 * WAIT_S, check=False,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, found


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        hub, leaf = await stack.enter_async_context(hub_and_leaf(folder))
        boxes: dict[str, Box] = {}
        for name, server in (("b", hub), ("a", leaf)):
            (folder / name).mkdir()
            more = f'[nodes]\ncommands = "{folder}/{name}/commands"\n'
            beside = boxes["b"].rig if boxes else None
            rig = stack.enter_context(daemon(folder / name, id=name, more=more, beside=beside))
            boxes[name] = Box(folder / name, rig, server)
        for box in boxes.values():
            await box.feed.start()
            stack.push_async_callback(ended, box.feed)
        async with at(hub) as store:
            await until(store.keys, "health", ["a", "b"])
        yield Fleet(folder, boxes["a"], boxes["b"], hub)


async def ended(feed: Feed) -> None:
    if feed.process is not None:
        await feed.end(9)


async def until(ask: Any, what: str, expected: Any) -> None:
    found = None
    for _ in range(int(WAIT_S / 0.05)):
        found = await ask(what)
        if found == expected:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{what}: {found}, not {expected}")


async def refusal(rig: Rig, call: bytes) -> int:
    """How somebody with a fresh token for this call is refused."""
    with pytest.raises(RefusedError) as refused:
        async with connect(rig.url, token=rig.token(call, 0), insecure=True) as late:
            await late.join()
    return refused.value.code


async def test_a_command_given_at_one_place_ends_a_call_at_whichever_node_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as fleet:
        for here, there in ((fleet.a, fleet.b), (fleet.b, fleet.a)):
            names = ("a", "b") if here is fleet.a else ("b", "a")
            async with talking(here.rig) as people:
                id = people[0][1].id
                status, facts = await fleet.order("end", "--call", id.hex())
                assert (status, facts["obeyed"], facts["absent"]) == (0, [names[0]], [names[1]]), facts
                for _, call in people:
                    assert await asyncio.wait_for(call.ended(), WAIT_S) == "completed"
                print(f"at {names[0]}: after {facts['age_ms']} ms, all said after {facts['waited_s']} s")
            for box in (here, there):
                assert await refusal(box.rig, bytes(id)) == ErrorCode.CALL_ENDED
            assert there.metric("relay_fleet_held") >= 1
        assert await fleet.a.feed.end() == 0
        assert await fleet.b.feed.end() == 0


async def test_who_was_away_when_a_command_was_given_obeys_it_later(tmp_path: Path) -> None:
    async with running(tmp_path) as fleet:
        await fleet.a.feed.end()
        call = os.urandom(16)
        status, facts = await fleet.order("end", "--call", call.hex(), wait=3.0)
        assert (status, facts["obeyed"]) == (3, [])
        assert "a" in facts["silent"]
        assert fleet.a.metric("relay_fleet_commands_total") == 0
        await fleet.a.feed.start()

        async def told(name: str) -> float:
            return await asyncio.to_thread(fleet.a.metric, name)

        await until(told, "relay_fleet_commands_total", 1)
        assert await refusal(fleet.a.rig, call) == ErrorCode.CALL_ENDED
