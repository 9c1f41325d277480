"""A call whose people are at two nodes: two real daemons that hold a trunk, and the SDK at each."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from client.rig import Rig, daemon, free_port, public_of
from client.test_direct_calls import until
from lanes import LANES
from relay.client import Call, CallbackSink, RefusedError, Session, SessionError, ToneSource, connect
from relay.errors import ErrorCode
from relay.protocol import trunk_proof
from relay.protocol.keys import write_key

WAIT_S = 20.0
SEEDS = {"fra-1": bytes(range(32)), "iad-1": bytes(range(32, 64))}
PINS = {name: trunk_proof.pin_of(public_of(seed)).hex() for name, seed in SEEDS.items()}


def settings(folder: Path, own: str, ports: dict[str, int]) -> str:
    """The node's key, and where the others are."""
    key = folder / "trunk.key"
    key.write_text(write_key(SEEDS[own]))
    key.chmod(0o600)
    rows = [
        f'{{ node = "{name}", address = "127.0.0.1:{port}", pins = ["{PINS[name]}"] }}'
        for name, port in ports.items()
        if name != own
    ]
    return f'[trunks]\nkey = "{key}"\nnodes = [{", ".join(rows)}]\n'


@contextmanager
def running(
    folder: Path, name: str, ports: dict[str, int], beside: Rig | None, lane: str = "auto"
) -> Iterator[Rig]:
    """One of the nodes, with its files in a folder of its own."""
    folder.mkdir()
    more = settings(folder, name, ports)
    with daemon(folder, lane, id=name, port=ports[name], more=more, beside=beside, keeps=True) as rig:
        yield rig


@pytest.fixture(params=list(itertools.product(LANES, LANES)), ids="-".join)
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Rig]]:
    """`fra-1` and `iad-1`, which know each other."""
    ports = {name: free_port(socket.SOCK_DGRAM) for name in SEEDS}
    with ExitStack() as stack:
        found: dict[str, Rig] = {}
        for name, lane in zip(SEEDS, request.param, strict=True):
            beside = next(iter(found.values()), None)
            found[name] = stack.enter_context(running(tmp_path / name, name, ports, beside, lane))
        yield found


@asynccontextmanager
async def people(nodes: dict[str, Rig], home: str) -> AsyncIterator[list[tuple[Session, Call]]]:
    """One at each node, in a call of this home; both have joined."""
    call, seeds = os.urandom(16), (os.urandom(32), os.urandom(32))
    sessions = [
        connect(
            rig.url,
            token=rig.token(call, who, public_of(seed), home=home),
            pop_seed=seed,
            insecure=True,
            direct=False,
        )
        for who, (seed, rig) in enumerate(zip(seeds, nodes.values(), strict=True))
    ]
    async with sessions[0] as one, sessions[1] as two:
        yield [(one, await one.join()), (two, await two.join())]


async def talk(found: list[tuple[Session, Call]]) -> list[asyncio.Task[None]]:
    """Both accept, and speak until they are cancelled; both have heard the other."""
    await asyncio.gather(*(call.accept() for _, call in found))
    await asyncio.gather(*(call.peer_accepted() for _, call in found))
    speaking = [
        asyncio.create_task(call.talk(ToneSource(440, None), CallbackSink(lambda pcm: None)))
        for _, call in found
    ]
    await until(lambda: min(call.stats().received for _, call in found) > 50, WAIT_S)
    return speaking


@pytest.mark.timeout(120)
async def test_two_at_two_nodes_hear_each_other_and_hang_up(nodes: dict[str, Rig]) -> None:
    home, guest = nodes.values()
    async with people(nodes, "fra-1") as found:
        speaking = await talk(found)
        for node in (home, guest):  # a second later each hears from the other what came of its voice
            await until(lambda node=node: node.metric("relay_trunk_datagrams_total") > 50, WAIT_S)  # type: ignore[misc]  # bound now
        assert [session.error for session, _ in found] == [None, None]
        await found[1][1].hangup()
        assert await found[0][1].ended() == "completed"
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)
        assert [call.stats().unopened for _, call in found] == [0, 0]
    await until(lambda: home.metric("relay_calls") == guest.metric("relay_calls") == 0, WAIT_S)
    assert (home.metric("relay_imbalance"), guest.metric("relay_imbalance")) == (0, 0)
    await until(lambda: home.metric("relay_records_written_total") == 1, WAIT_S)
    # Both were heard, who is at the guest as well; the call is counted at its home and nowhere else.
    assert [node.metric("relay_first_audio_seconds_count") for node in (home, guest)] == [2, 0]
    assert [node.metric("relay_call_setups_total") for node in (home, guest)] == [1, 0]
    assert guest.metric("relay_records_written_total") == 0


@pytest.mark.timeout(120)
async def test_nothing_passes_a_trunk_before_both_have_accepted(nodes: dict[str, Rig]) -> None:
    home, guest = nodes.values()
    async with people(nodes, "iad-1") as found:
        await found[0][1].accept()
        assert home.metric("relay_media_sent_total") == guest.metric("relay_media_sent_total") == 0
        await found[1][1].decline()
        assert await found[0][1].ended() == "declined"
    assert home.metric("relay_media_sent_total") == guest.metric("relay_media_sent_total") == 0


@pytest.mark.timeout(120)
async def test_who_comes_while_the_home_is_gone_does_not_wait_for_it(nodes: dict[str, Rig]) -> None:
    home, guest = nodes.values()
    os.kill(home.pid, signal.SIGKILL)
    token = guest.token(os.urandom(16), 0, home="fra-1")
    with pytest.raises((SessionError, RefusedError)) as caught:
        async with connect(guest.url, token=token, insecure=True, direct=False) as session:
            await session.join()
    assert caught.value.code == ErrorCode.OVERLOADED  # not the SDK's own patience, which is longer


async def gets_in(rig: Rig) -> bool:
    """Somebody new comes to this node, into a call whose home is `fra-1`."""
    token = rig.token(os.urandom(16), 0, home="fra-1")
    try:
        async with connect(rig.url, token=token, insecure=True, direct=False) as session:
            await session.join()
    except (SessionError, RefusedError):
        return False
    return True


@pytest.mark.timeout(120)
async def test_a_home_that_was_killed_is_met_again_soon_after_it_is_back(tmp_path: Path) -> None:
    ports = {name: free_port(socket.SOCK_DGRAM) for name in SEEDS}
    with ExitStack() as stack, ExitStack() as first:
        home = first.enter_context(running(tmp_path / "home", "fra-1", ports, None))
        guest = stack.enter_context(running(tmp_path / "guest", "iad-1", ports, home))
        async with people({"fra-1": home, "iad-1": guest}, "fra-1") as found:
            speaking = await talk(found)
            first.close()  # kills it
            stack.enter_context(running(tmp_path / "again", "fra-1", ports, guest))
            begun = time.monotonic()
            while not await gets_in(guest):
                # The old connection is idle for 30 s before it ends by itself.
                assert time.monotonic() < begun + WAIT_S
            print(f"met {time.monotonic() - begun:.1f} s after its start")
            for task in speaking:
                task.cancel()
            await asyncio.gather(*speaking, return_exceptions=True)
