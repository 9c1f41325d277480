"""Two daemons of a cluster, signed routes: a mark empties one of them, and people go where the routes say."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.rig import Rig, daemon, public_of
from client.test_direct_calls import until
from client.test_following import are_at, talking
from relay.client import connect
from relay.client.errors import RefusedError
from relay.errors import ErrorCode
from relay.region.nodelist import Node, NodeList, seal
from relay.rollout.lastgood import LIFE_S, Body, accepted
from relay.rollout.lastgood import seal as seal_state
from relay.rollout.lastgood_file import OsFiles, copy, replace

SEED = bytes(32)
WAIT_S = 20.0
SETTINGS = """
[drain]
grace_s = 0
smear_s = 0.2
deadline_s = 30
[state]
file = "{folder}/state"
floor_file = "{folder}/floor"
kill_file = ""
without = "all"
keys = ["{key}"]
[nodes]
file = "{folder}/nodes"
keys = ["{key}"]
"""


class Pair:
    """Node `a`, which reads what is signed, and node `b` beside it."""

    def __init__(self, folder: Path, a: Rig, b: Rig) -> None:
        self.folder, self.a, self.b = folder, a, b
        self.rev = 0

    def put_routes(self, **marks: bool) -> None:
        """Sign routes with both nodes, of which some are marked."""
        self.rev += 1
        relays = {
            name: {"urls": [rig.url], "drain": marks.get(name, False)}
            for name, rig in (("a", self.a), ("b", self.b))
        }
        now = int(time.time())
        raw = seal_state(Body(self.rev, now, now + LIFE_S, None, {"local": {"relays": relays}}), SEED)
        copy(OsFiles(), str(self.folder / "state"), raw, accepted([public_of(SEED)]))

    def put_list(self) -> None:
        """A node list with both, by a hub."""
        nodes = tuple(
            Node(id=name, region="local", urls=(rig.url,), version="1")
            for name, rig in (("a", self.a), ("b", self.b))
        )
        now = int(time.time())
        made = NodeList(v=1, cluster="test", rev=1, issued_at=now, not_after=now + 600, nodes=nodes)
        replace(OsFiles(), str(self.folder / "nodes"), seal(made, SEED))

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.a.metrics_port}/health", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def state(self) -> str:
        return str(self.health()["drain"])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Pair]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    settings = SETTINGS.format(folder=tmp_path, key=public_of(SEED).hex())
    with daemon(tmp_path / "b", id="b") as b, daemon(tmp_path / "a", id="a", more=settings, beside=b) as a:
        yield Pair(tmp_path, a, b)


async def test_a_mark_in_the_routes_moves_calls_to_the_node_they_name_and_taken_back_opens_it(
    nodes: Pair,
) -> None:
    nodes.put_routes()
    async with talking(nodes.a) as people:
        nodes.put_routes(a=True)
        await until(lambda: are_at(people, nodes.b), WAIT_S)
        assert nodes.b.metric("relay_calls_moved_total") == 1
        assert nodes.state() == "emptying"
        before = people[1][1].stats().received
        await until(lambda: people[1][1].stats().received > before + 20, WAIT_S)
    with pytest.raises(RefusedError) as refused:
        async with connect(nodes.a.url, token=nodes.a.token(os.urandom(16), 0), insecure=True) as late:
            await late.join()
    assert refused.value.code == ErrorCode.DRAINING
    nodes.put_routes()
    await until(lambda: nodes.state() == "running", WAIT_S)
    async with talking(nodes.a) as people:
        assert are_at(people, nodes.a)


async def test_a_node_that_is_told_to_leave_names_the_next_one_by_the_node_list(nodes: Pair) -> None:
    nodes.put_list()
    await until(lambda: nodes.a.metric("relay_nodes_revision") == 1, WAIT_S)
    async with talking(nodes.a) as people:
        os.kill(nodes.a.pid, signal.SIGTERM)
        await until(lambda: are_at(people, nodes.b), WAIT_S)
        assert nodes.b.metric("relay_imbalance") == 0
