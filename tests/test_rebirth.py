"""kill -9 under real calls of the SDK: audio goes on at once, and control comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from client.hearing import until
from client.rig import Rig, prepare, public_of
from relay.client import Call, CallbackSink, Session, ToneSource, connect
from supervisor import Supervisor

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for
SOON_S = 1.0  # from READY=1 to audio
BACK_S = 20.0  # to a leg with control, on a machine that does other things
START_S = 15.0  # on such a machine, too
DRAIN = "[drain]\ngrace_s = 0\nsmear_s = 0.2\ndeadline_s = 20\n"
Node = tuple[Rig, Supervisor]


@pytest.fixture(params=["native", "python"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    rig, command = prepare(tmp_path, lane=request.param)
    supervisor = Supervisor(command, tmp_path / "log")
    try:
        supervisor.start()
        yield rig, supervisor
    finally:
        supervisor.close()


async def in_call(stack: AsyncExitStack, rig: Rig) -> list[tuple[Session, Call]]:
    call = os.urandom(16)
    people = []
    for who in (1, 2):
        seed = os.urandom(32)
        token = rig.token(call, who, cnf=public_of(seed))
        session = await stack.enter_async_context(
            connect(rig.url, token=token, ca=rig.ca, server_name="localhost", pop_seed=seed, direct=False)
        )
        people.append((session, await session.join()))
    await asyncio.gather(*(call.accept() for _, call in people))
    await asyncio.gather(*(call.peer_accepted() for _, call in people))
    return people


@asynccontextmanager
async def talking(people: list[tuple[Session, Call]]) -> AsyncIterator[None]:
    sink = CallbackSink(lambda pcm: None)
    talks = [asyncio.create_task(call.talk(ToneSource(440.0, 60.0), sink)) for _, call in people]
    try:
        await until(lambda: min(call.stats().received for _, call in people) >= 20)
        yield
    finally:
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def crash(supervisor: Supervisor, people: list[tuple[Session, Call]]) -> None:
    """Kill it and start it again: everybody hears the other soon after."""
    await asyncio.to_thread(supervisor.kill)
    before = [call.stats().received for _, call in people]
    took = await asyncio.to_thread(supervisor.start)
    assert took < START_S
    heard = [(call, n) for (_, call), n in zip(people, before, strict=True)]
    assert await until(lambda: all(call.stats().received >= n + 5 for call, n in heard)) <= SOON_S


async def test_a_crash_costs_a_call_the_time_of_a_start_and_control_comes_back(node: Node) -> None:
    rig, supervisor = node
    async with AsyncExitStack() as stack:
        people = await in_call(stack, rig)
        (ann, of_ann), (bob, of_bob) = people
        async with talking(people):
            await crash(supervisor, people)
            await until(lambda: min(session.moves for session in (ann, bob)) >= 1, BACK_S)
            await of_ann.mute(True)
        await of_bob.hangup()
        assert rig.metric("relay_calls_revived_total") == 1
        assert rig.metric("relay_calls_lost_by_crash_total") == 0
        assert rig.metric("relay_imbalance") == 0


async def test_a_service_that_stopped_as_told_leaves_nothing_behind(node: Node) -> None:
    rig, supervisor = node
    assert "memory" in supervisor.stored
    await asyncio.to_thread(supervisor.kill, signal.SIGTERM)
    assert "memory" not in supervisor.stored
    await asyncio.to_thread(supervisor.start)
    assert rig.metric("relay_calls_revived_total") == 0


@pytest.mark.parametrize("lane", ["native", "python"])
async def test_a_generation_that_crashes_comes_back_as_itself_and_is_followed_by_the_other(
    tmp_path: Path, lane: str
) -> None:
    rig, command = prepare(tmp_path, lane=lane, more=DRAIN)
    config = tmp_path / "relay.toml"
    handover = f'command_socket = ""\nhandover_socket = "{tmp_path / "handover"}"'
    config.write_text(config.read_text().replace('command_socket = ""', handover))
    with (
        closing(Supervisor(command, tmp_path / "log.even")) as even,
        closing(Supervisor(command, tmp_path / "log.odd")) as odd,
    ):
        for service in (even, odd):
            await asyncio.to_thread(service.start)
        await until(lambda: not even.runs, BACK_S)
        assert rig.metric("relay_generation") == 1
        async with AsyncExitStack() as stack:
            people = await in_call(stack, rig)
            async with talking(people):
                await crash(odd, people)
                assert rig.metric("relay_generation") == 1
                assert rig.metric("relay_calls_revived_total") == 1
                await until(lambda: min(session.moves for session, _ in people) >= 1, BACK_S)
                moves = [session.moves for session, _ in people]
                await asyncio.to_thread(even.start)
                await until(lambda: not odd.runs, BACK_S)
                assert all(session.moves > n for (session, _), n in zip(people, moves, strict=True))
                assert rig.metric("relay_generation") == 0
            await people[0][1].mute(True)
            assert people[0][0].error is None
            assert rig.metric("relay_imbalance") == 0
