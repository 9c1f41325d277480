"""A call over a trunk of two paths: two real daemons, a network of their own on each path, and the SDK."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from client.proxy import Proxy
from client.rig import Rig, daemon, free_port
from client.test_direct_calls import until
from lanes import LANES
from relay.client import Call, Session
from relay.core.reasons import DropReason
from relay.protocol.keys import write_key
from test_two_nodes import PINS, SEEDS, WAIT_S, people, talk

SPEECH = 150  # packets, 3 s
PATHS = ("first", "second")


class Net:
    """Two nodes; `ways`: of each path, what stands before either node."""

    def __init__(self) -> None:
        self.nodes: dict[str, Rig] = {}
        self.ways: dict[str, list[Proxy]] = {path: [] for path in PATHS}

    def spoil(self, path: str, loss: float) -> None:
        for proxy in self.ways[path]:
            proxy.loss = loss

    def count(self, path: str) -> list[float]:
        return [rig.metric(f'relay_trunk_paths{{path="{path}"}}') for rig in self.nodes.values()]

    def dropped(self, reason: DropReason) -> float:
        name = f'relay_media_dropped_total{{reason="{reason}"}}'
        return sum(rig.metric(name) for rig in self.nodes.values())


def settings(folder: Path, own: str, places: dict[str, list[int]]) -> str:
    """The node's key, and by which two ways the other one is reached."""
    key = folder / "trunk.key"
    key.write_text(write_key(SEEDS[own]))
    key.chmod(0o600)
    rows = [
        f'{{ node = "{name}", address = "127.0.0.1:{first}", second = "127.0.0.1:{second}", '
        f'pins = ["{PINS[name]}"] }}'
        for name, (first, second) in places.items()
        if name != own
    ]
    return f'[trunks]\nkey = "{key}"\nnodes = [{", ".join(rows)}]\n'


@pytest.fixture(params=list(itertools.product(LANES, LANES)), ids="-".join)
async def net(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Net]:
    """`fra-1` and `iad-1`, each of which reaches the other by two networks."""
    made = Net()
    ports = {name: free_port(socket.SOCK_DGRAM) for name in SEEDS}
    places: dict[str, list[int]] = {name: [] for name in SEEDS}
    for path, (name, port) in itertools.product(PATHS, ports.items()):
        proxy = await Proxy(("127.0.0.1", port)).open()
        made.ways[path].append(proxy)
        places[name].append(proxy.port)
    with ExitStack() as stack:
        for name, lane in zip(SEEDS, request.param, strict=True):
            folder = tmp_path / name
            folder.mkdir()
            made.nodes[name] = stack.enter_context(
                daemon(
                    folder,
                    lane,
                    id=name,
                    port=ports[name],
                    more=settings(folder, name, places),
                    beside=next(iter(made.nodes.values()), None),
                    keeps=True,
                )
            )
        yield made
    for proxy in itertools.chain(*made.ways.values()):
        await proxy.close()


async def hear(found: list[tuple[Session, Call]], count: int) -> None:
    """Both hear so many packets more."""
    before = [call.stats().received for _, call in found]
    heard: Callable[[], int] = lambda: min(  # noqa: E731  # it is asked again and again
        call.stats().received - former for (_, call), former in zip(found, before, strict=True)
    )
    await until(lambda: heard() >= count, WAIT_S)


async def end(net: Net, found: list[tuple[Session, Call]], speaking: list[asyncio.Task[None]]) -> None:
    """They hang up while a path is as it is: each word was heard, none twice, and the books are even."""
    # One that one path lost may come by the other behind the next.
    await until(lambda: all(call.stats().lost == 0 for _, call in found), WAIT_S)
    await found[1][1].hangup()
    assert await found[0][1].ended() == "completed"
    for task in speaking:
        task.cancel()
    await asyncio.gather(*speaking, return_exceptions=True)
    for _, call in found:
        said = call.stats()
        assert (said.unopened, said.duplicates) == (0, 0)
    for rig in net.nodes.values():
        assert rig.metric("relay_imbalance") == 0


@pytest.mark.timeout(120)
async def test_all_goes_by_both_paths_and_is_heard_once(net: Net) -> None:
    async with people(net.nodes, "fra-1") as found:
        speaking = await talk(found)
        await until(lambda: net.count("first") == net.count("second") == [1, 1], WAIT_S)
        before = net.dropped(DropReason.SECOND_COPY)
        await hear(found, SPEECH)
        assert net.dropped(DropReason.SECOND_COPY) >= before + 1.5 * SPEECH
        assert net.dropped(DropReason.OVER_BUDGET) == 0  # a duplicate may be one that a speaker repeated
        await end(net, found, speaking)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", PATHS)
async def test_nobody_hears_that_a_path_is_cut_and_hanging_up_goes_by_the_other(net: Net, path: str) -> None:
    async with people(net.nodes, "fra-1") as found:
        speaking = await talk(found)
        await until(lambda: net.count("first") == net.count("second") == [1, 1], WAIT_S)
        net.spoil(path, 1.0)
        await hear(found, SPEECH)
        await end(net, found, speaking)


@pytest.mark.timeout(120)
async def test_nobody_hears_that_the_first_path_loses_a_third(net: Net) -> None:
    async with people(net.nodes, "fra-1") as found:
        speaking = await talk(found)
        await until(lambda: net.count("first") == net.count("second") == [1, 1], WAIT_S)
        net.spoil("first", 0.3)
        await hear(found, SPEECH)
        await end(net, found, speaking)
