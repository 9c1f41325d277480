"""Two who talk while their node dies, or is only silent: real daemons that share a cluster's key."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from client.conversation import People, conversation
from client.proxy import Proxy
from client.rig import Rig, daemon, public_of
from client.test_direct_calls import until
from client.test_following import are_at
from relay.client import call, connect, warm
from relay.client.leg import RelayLeg
from relay.client.rungs import Destination
from relay.region.nodelist import Node, NodeList, seal
from relay.rollout.lastgood_file import OsFiles, replace

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for
SEED = bytes(32)
WAIT_S = 60.0
SETTINGS = """
[drain]
grace_s = 0
[nodes]
file = "{folder}/nodes"
standbys = true
commands = "{folder}/commands"
keys = ["{key}"]
"""


@contextmanager
def cluster(folder: Path, names: str) -> Iterator[list[Rig]]:
    """Nodes of these names, each with the list of all."""
    more = SETTINGS.format(folder=folder, key=public_of(SEED).hex())
    with ExitStack() as stack:
        rigs: list[Rig] = []
        for name in names:
            (folder / name).mkdir()
            beside = rigs[0] if rigs else None
            rigs.append(stack.enter_context(daemon(folder / name, id=name, more=more, beside=beside)))
        listed = tuple(
            Node(id=name, region="local", urls=(rig.url,), version="1")
            for name, rig in zip(names, rigs, strict=True)
        )
        now = int(time.time())
        made = NodeList(v=1, cluster="test", rev=1, issued_at=now, not_after=now + 600, nodes=listed)
        replace(OsFiles(), str(folder / "nodes"), seal(made, SEED))
        yield rigs


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Rig, Rig]]:
    """Nodes `a` and `b`."""
    with cluster(tmp_path, "ab") as (a, b):
        yield a, b


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Legs stand by a moment after the answer."""
    monkeypatch.setattr(warm, "FIRST_S", (0.1, 0.3))


async def named(rig: Rig) -> None:
    """Wait until the node names standbys: it looks at its list once a second."""
    for _ in range(int(WAIT_S / 0.1)):
        async with connect(rig.url, token=rig.token(os.urandom(16), 0), insecure=True) as session:
            await session.join()
            assert session.main is not None
            if session._standby._said[session.main].places:
                return
        await asyncio.sleep(0.1)
    pytest.fail("no standby is named")


@asynccontextmanager
async def talking(
    rig: Rig, urls: tuple[str, str] = ("", ""), *, is_warm: bool = True
) -> AsyncIterator[People]:
    """Two who talk at this node, each with a standby."""
    await named(rig)
    call, seeds = os.urandom(16), (os.urandom(32), os.urandom(32))
    sessions = [
        connect(
            url or rig.url,
            token=rig.token(call, who, public_of(seed)),
            pop_seed=seed,
            insecure=True,
            direct=False,
            warm_standby=is_warm,
        )
        for who, (seed, url) in enumerate(zip(seeds, urls, strict=True))
    ]
    async with conversation(sessions) as people:
        await until(lambda: min(each.stats().received for _, each in people) > 20, WAIT_S)
        await until(lambda: all(session.has_standby for session, _ in people), WAIT_S)
        yield people


async def test_a_call_goes_on_at_the_standby_when_its_node_is_killed(nodes: tuple[Rig, Rig]) -> None:
    a, b = nodes
    async with talking(a) as people:
        os.kill(a.pid, signal.SIGKILL)
        before = [call.stats().received for _, call in people]
        begun = time.monotonic()
        # Some packets may be under way yet: audio is back when more comes than that.
        await until(
            lambda: all(
                call.stats().received > count + 20 for count, (_, call) in zip(before, people, strict=True)
            ),
            WAIT_S,
        )
        print(f"audio both ways {time.monotonic() - begun:.2f} s after the kill, 20 packets of it included")
        await until(lambda: are_at(people, b), WAIT_S)
        assert b.metric("relay_calls_moved_total") == 1
        assert b.metric("relay_imbalance") == 0
        assert [session.error for session, _ in people] == [None, None]
        await people[0][1].hangup()
        assert await people[1][1].ended() == "completed"


async def heard_again(people: People) -> None:
    before = [call.stats().received for _, call in people]
    await until(
        lambda: all(
            call.stats().received > count + 20 for count, (_, call) in zip(before, people, strict=True)
        ),
        WAIT_S,
    )


async def test_a_leg_that_stands_by_is_all_that_a_crash_needs(
    nodes: tuple[Rig, Rig], soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nodes
    monkeypatch.setattr(call, "DOUBT_S", WAIT_S)  # a busy machine may need more than a second until they hear
    async with talking(a) as people:
        await until(lambda: all(session.has_warm_standby for session, _ in people), WAIT_S)
        assert b.metric('relay_legs{state="standby"}') == 2
        assert b.metric("relay_calls") == 0
        opened = b.metric("relay_legs_opened_total")
        os.kill(a.pid, signal.SIGKILL)
        await until(lambda: are_at(people, b), WAIT_S)
        await heard_again(people)
        assert b.metric('relay_standby_legs_total{what="called"}') == 2
        assert b.metric("relay_legs_opened_total") == opened
        assert b.metric('relay_e2e_messages_total{kind="0"}') == 0, "they have their keys"
        assert [session.error for session, _ in people] == [None, None]
        await people[0][1].hangup()
        assert await people[1][1].ended() == "completed"


async def test_who_hears_nothing_of_one_who_is_back_offers_new_keys(
    nodes: tuple[Rig, Rig], soon: None
) -> None:
    a, b = nodes
    async with talking(a) as people:
        await until(lambda: all(session.has_warm_standby for session, _ in people), WAIT_S)
        for _, each in people:
            await each.mute(True)
        os.kill(a.pid, signal.SIGKILL)
        await until(lambda: are_at(people, b), WAIT_S)
        await until(lambda: b.metric('relay_e2e_messages_total{kind="0"}') > 0, WAIT_S)
        for _, each in people:
            await each.mute(False)
        await heard_again(people)


async def test_nothing_stands_by_once_the_call_is_over(nodes: tuple[Rig, Rig], soon: None) -> None:
    a, b = nodes
    async with talking(a) as people:
        await until(lambda: b.metric('relay_legs{state="standby"}') == 2, WAIT_S)
        await people[0][1].hangup()
        await until(lambda: b.metric('relay_legs{state="standby"}') == 0, WAIT_S)


async def test_switched_off_nothing_stands_by_and_the_call_goes_on_all_the_same(
    nodes: tuple[Rig, Rig], soon: None
) -> None:
    a, b = nodes
    async with talking(a, is_warm=False) as people:
        os.kill(a.pid, signal.SIGKILL)
        await until(lambda: are_at(people, b), WAIT_S)
        assert b.metric('relay_standby_legs_total{what="came"}') == 0
        assert not any(session.has_warm_standby for session, _ in people)


@pytest.mark.parametrize("is_warm", [True, False])
async def test_they_meet_at_the_second_standby_when_one_of_them_cannot_reach_the_first(
    tmp_path: Path, soon: None, is_warm: bool
) -> None:
    with cluster(tmp_path, "abc") as (a, *_rest):
        async with talking(a, is_warm=is_warm) as people:
            session = people[0][0]
            assert session.main is not None
            first, second = session._standby._said[session.main].places
            make, nowhere = session.make_leg_to, await Proxy((first.host, first.port)).open()
            nowhere.loss = 1.0

            def astray(to: Destination, rung: int) -> RelayLeg:
                return make(to._replace(port=nowhere.port) if to == first else to, rung)

            for leg in list(session._alive):
                if leg.to == first and leg is not session.main:
                    leg.close()  # it stood by
            session.make_leg_to = astray  # type: ignore[method-assign]  # a way that one of them has not
            try:
                os.kill(a.pid, signal.SIGKILL)
                await until(lambda: all(each.rung == second for each, _ in people), WAIT_S)
                await heard_again(people)
            finally:
                await nowhere.close()


async def test_who_alone_lost_the_way_to_the_node_comes_back_to_it(nodes: tuple[Rig, Rig]) -> None:
    a, b = nodes
    path = await Proxy(("127.0.0.1", int(a.url.rpartition(":")[2]))).open()
    try:
        async with talking(a, (path.url, "")) as people:
            session, call = people[0]
            path.loss = 1.0
            await until(lambda: b.metric("relay_calls_moved_total") == 1, WAIT_S)
            assert session.rung is not None
            assert session.rung.port == path.port  # it waits there, and has gone nowhere
            path.loss = 0.0
            before = [call.stats().received for _, call in people]
            await until(
                lambda: all(
                    call.stats().received > count + 20
                    for count, (_, call) in zip(before, people, strict=True)
                ),
                WAIT_S,
            )
            await until(lambda: b.metric("relay_transports") == 0, WAIT_S)  # called off
            assert [session.error for session, _ in people] == [None, None]
            await call.hangup()
            assert await people[1][1].ended() == "completed"
    finally:
        await path.close()


async def test_a_node_without_a_list_names_no_standby(tmp_path: Path) -> None:
    with daemon(tmp_path) as rig:
        seed = os.urandom(32)
        token = rig.token(os.urandom(16), 0, public_of(seed))
        async with connect(rig.url, token=token, pop_seed=seed, insecure=True) as session:
            await session.join()
            assert not session.has_standby
