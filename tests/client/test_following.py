"""Sessions that follow a node that leaves: two real daemons of a cluster, one is drained in mid-call."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.conversation import conversation
from client.hearing import silence, until
from client.rig import Rig, daemon, public_of
from relay.client import Call, Session, connect
from relay.client.carrier import Way

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for
DRAIN = '[drain]\ngrace_s = 0\nsmear_s = 0.2\ndeadline_s = 20\nto = ["{}"]\n'


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[Rig, Rig]]:
    """A node, and the one that its people go to; one certificate is shown by both."""
    (folder / "new").mkdir()
    (folder / "old").mkdir()
    with daemon(folder / "new") as new, daemon(folder / "old", more=DRAIN.format(new.url), beside=new) as old:
        yield old, new


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Rig, Rig]]:
    with cluster(tmp_path) as running:
        yield running


@asynccontextmanager
async def talking(
    rig: Rig,
    *,
    direct: bool = False,
    movable: tuple[bool, bool] = (True, True),
    url: str = "",
    **more: Any,
) -> AsyncIterator[list[tuple[Session, Call]]]:
    call, seeds = os.urandom(16), (os.urandom(32), os.urandom(32))
    sessions = [
        connect(
            url or rig.url,
            token=rig.token(call, who, public_of(seed) if moves else None, **more),
            pop_seed=seed if moves else None,
            insecure=True,
            direct=direct,
        )
        for who, (seed, moves) in enumerate(zip(seeds, movable, strict=True))
    ]
    async with conversation(sessions) as people:
        await until(lambda: min(each.stats().received for _, each in people) > 20)
        yield people


def are_at(people: list[tuple[Session, Call]], rig: Rig) -> bool:
    return all(
        session.rung is not None and rig.url.endswith(f":{session.rung.port}") for session, _ in people
    )


async def test_a_node_that_leaves_costs_its_callers_nothing(nodes: tuple[Rig, Rig]) -> None:
    old, new = nodes
    async with talking(old) as people:
        listening = [asyncio.create_task(silence(call, 3.0)) for _, call in people]
        os.kill(old.pid, signal.SIGTERM)
        await until(lambda: are_at(people, new))
        assert max(await asyncio.gather(*listening)) <= 0.120  # as in a planned move, on a busy machine
        for session, call in people:
            assert (call.stats().lost, call.stats().unopened) == (0, 0)
            assert (session.moves, session.error, session.drain) == (1, None, None)
        assert new.metric("relay_calls_moved_total") == 1
        assert new.metric("relay_imbalance") == 0
        before = people[1][1].stats().received
        await until(lambda: people[1][1].stats().received > before + 20)
        await people[0][1].hangup()
        assert await people[1][1].ended() == "completed"


async def test_who_cannot_move_is_heard_at_the_old_node_to_its_end(nodes: tuple[Rig, Rig]) -> None:
    old, new = nodes
    async with talking(old, movable=(True, False)) as people:
        os.kill(old.pid, signal.SIGTERM)
        await until(lambda: new.metric("relay_calls_moved_total") == 1)
        assert max(await asyncio.gather(*(silence(call, 2.0) for _, call in people))) <= 0.120
        assert are_at(people, old)
        await people[0][1].mute(True)
        silent = people[1][1].stats().received
        await asyncio.sleep(0.3)
        assert people[1][1].stats().received <= silent + 1
        await people[0][1].hangup()
        assert await people[1][1].ended() == "completed"


async def test_a_direct_path_stays_while_the_relay_changes(nodes: tuple[Rig, Rig]) -> None:
    old, new = nodes
    async with talking(old, direct=True, prm=15) as people:
        await until(lambda: all(call.way is Way.DIRECT for _, call in people))
        os.kill(old.pid, signal.SIGTERM)
        await until(lambda: are_at(people, new))
        assert max(await asyncio.gather(*(silence(call, 1.0) for _, call in people))) <= 0.120
        assert all(call.way is Way.DIRECT for _, call in people)


async def test_who_muted_themselves_on_the_way_stays_muted(nodes: tuple[Rig, Rig]) -> None:
    old, new = nodes
    async with talking(old) as people:
        os.kill(old.pid, signal.SIGTERM)
        await people[0][1].mute(True)
        await until(lambda: are_at(people, new))
        silent = people[1][1].stats().received
        await asyncio.sleep(0.3)
        assert people[1][1].stats().received <= silent + 1
        await people[0][1].mute(False)
        await until(lambda: people[1][1].stats().received > silent + 20)
