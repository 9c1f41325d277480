"""Calls whose people are at two nodes, when the way between the nodes is cut, and when the home is killed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.conversation import People, conversation
from client.proxy import Proxy
from client.rig import Rig, daemon, free_port, public_of
from client.test_direct_calls import until
from client.test_standby import named
from relay.client import connect
from relay.protocol import trunk_proof
from relay.protocol.keys import write_key
from relay.region.nodelist import Node, NodeList, seal
from relay.rollout.lastgood_file import OsFiles, replace

WAIT_S = 20.0
SEED = bytes(32)
NAMES = ("home", "guest", "spare")
SEEDS = {name: bytes((number,)) * 32 for number, name in enumerate(NAMES, 1)}
SETTINGS = """
[drain]
grace_s = 0
[nodes]
file = "{folder}/nodes"
standbys = true
commands = "{folder}/commands"
keys = ["{key}"]
[trunks]
key = "{trunk_key}"
nodes = [{peers}]
"""


@dataclass
class Stage:
    """Three nodes; those of the call dial each other through proxies."""

    nodes: dict[str, Rig]
    between: list[Proxy]

    def cut(self) -> None:
        for proxy in self.between:
            proxy.loss = 1.0


def settings(folder: Path, own: str, ports: dict[str, int]) -> str:
    key = folder / f"{own}.key"
    key.write_text(write_key(SEEDS[own]))
    key.chmod(0o600)
    pins = {name: trunk_proof.pin_of(public_of(seed)).hex() for name, seed in SEEDS.items()}
    peers = ", ".join(
        f'{{ node = "{name}", address = "127.0.0.1:{port}", pins = ["{pins[name]}"] }}'
        for name, port in ports.items()
        if name != own
    )
    return SETTINGS.format(folder=folder, key=public_of(SEED).hex(), trunk_key=key, peers=peers)


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    ports = {name: free_port(socket.SOCK_DGRAM) for name in NAMES}
    async with AsyncExitStack() as proxies:
        between = {}
        for name in ("home", "guest"):
            between[name] = await Proxy(("127.0.0.1", ports[name])).open()
            proxies.push_async_callback(between[name].close)
        far = {name: proxy.port for name, proxy in between.items()}
        with ExitStack() as stack:
            nodes: dict[str, Rig] = {}
            for name in NAMES:
                (folder / name).mkdir()
                nodes[name] = stack.enter_context(
                    daemon(
                        folder / name,
                        id=name,
                        port=ports[name],
                        more=settings(folder, name, ports | far),
                        beside=next(iter(nodes.values()), None),
                        keeps=True,
                    )
                )
            listed = tuple(
                Node(id=name, region="local", urls=(rig.url,), version="1") for name, rig in nodes.items()
            )
            now = int(time.time())
            made = NodeList(v=1, cluster="test", rev=1, issued_at=now, not_after=now + 600, nodes=listed)
            replace(OsFiles(), str(folder / "nodes"), seal(made, SEED))
            for rig in nodes.values():
                await named(rig)
            yield Stage(nodes, list(between.values()))


@asynccontextmanager
async def talking(nodes: dict[str, Rig]) -> AsyncIterator[People]:
    """One at the home and one at the guest, who hear each other, and know where to go."""
    call, seeds = os.urandom(16), (os.urandom(32), os.urandom(32))
    sessions = [
        connect(
            nodes[name].url,
            token=nodes[name].token(call, who, public_of(seed), home="home"),
            pop_seed=seed,
            insecure=True,
            direct=False,
        )
        for who, (seed, name) in enumerate(zip(seeds, ("home", "guest"), strict=True))
    ]
    async with conversation(sessions) as people:
        await until(lambda: min(each.stats().received for _, each in people) > 50, WAIT_S)
        await until(lambda: all(session.has_standby for session, _ in people), WAIT_S)
        yield people


async def heard_at(people: People, *rigs: Rig) -> None:
    """Both are at one of these nodes, the same one, and hear each other there."""
    ports = {int(rig.url.rpartition(":")[2]) for rig in rigs}

    def are_there() -> bool:
        at = {None if session.rung is None else session.rung.port for session, _ in people}
        return len(at) == 1 and at <= ports

    await until(are_there, WAIT_S)
    before = [call.stats().received for _, call in people]
    await until(
        lambda: all(
            call.stats().received > count + 50 for count, (_, call) in zip(before, people, strict=True)
        ),
        WAIT_S,
    )
    assert [session.error for session, _ in people] == [None, None]


@pytest.mark.timeout(180)
async def test_when_the_trunk_is_cut_the_call_goes_on_at_its_home(tmp_path: Path) -> None:
    async with stage(tmp_path) as made, talking(made.nodes) as people:
        home, guest = made.nodes["home"], made.nodes["guest"]
        assert guest.metric("relay_people_referred_total") == 0
        made.cut()
        await heard_at(people, home)
        assert guest.metric("relay_trunks_suspect_total") == 1
        assert guest.metric("relay_people_referred_total") >= 1
        await people[1][1].hangup()
        assert await people[0][1].ended() == "completed"


@pytest.mark.timeout(180)
async def test_when_the_home_is_killed_both_meet_at_the_same_standby(tmp_path: Path) -> None:
    async with stage(tmp_path) as made, talking(made.nodes) as people:
        made.cut()  # the system would tell of a port that is closed; a machine that is gone tells nobody
        os.kill(made.nodes["home"].pid, signal.SIGKILL)
        await heard_at(people, made.nodes["spare"], made.nodes["guest"])
        await people[1][1].hangup()
        assert await people[0][1].ended() == "completed"
