"""Sessions that move by themselves between rungs and networks: a real daemon, bad paths on loopback."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from client.conversation import speaking
from client.hearing import silence, until
from client.proxy import Proxy
from client.rig import Rig, daemon, public_of
from relay.client import (
    Call,
    RefusedError,
    Session,
    SessionError,
    climb,
    connect,
    ladder,
    transport,
)
from relay.errors import ErrorCode

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with daemon(tmp_path_factory.mktemp("moves")) as running:
        yield running


@asynccontextmanager
async def paths(rig: Rig, count: int) -> AsyncIterator[list[Proxy]]:
    parts = urlsplit(rig.url)
    assert parts.hostname is not None
    assert parts.port is not None
    found = [await Proxy((parts.hostname, parts.port)).open() for _ in range(count)]
    try:
        yield found
    finally:
        for path in found:
            await path.close()


@asynccontextmanager
async def talking(rig: Rig, rungs: list[Proxy], *more: str) -> AsyncIterator[tuple[Session, Call, Call]]:
    """Ann on these rungs, the addresses in `more` last; Bob straight at the relay. Both speak."""
    call, seed = os.urandom(16), os.urandom(32)
    trust: dict[str, Any] = {"ca": rig.ca, "server_name": "localhost", "direct": False}
    ann = connect(
        rungs[0].url,
        token=rig.token(call, 1, public_of(seed)),
        pop_seed=seed,
        fallbacks=[*(path.url for path in rungs[1:]), *more],
        proxy="",
        **trust,
    )
    bob = connect(rig.url, token=rig.token(call, 2), **trust)
    async with ann as session, bob as other:
        calls = (await session.join(), await other.join())
        async with speaking(*calls):
            yield session, *calls


async def gaps(calls: tuple[Call, ...], seconds: float) -> float:
    """The longest silence that anybody heard."""
    return max(await asyncio.gather(*(silence(call, seconds) for call in calls)))


async def test_the_next_rung_is_taken_where_the_first_does_not_answer(rig: Rig) -> None:
    async with paths(rig, 2) as rungs:
        rungs[0].loss = 1.0
        loop = asyncio.get_running_loop()
        begun = loop.time()
        trust = {"ca": rig.ca, "server_name": "localhost"}
        token = rig.token(os.urandom(16), 1)
        async with connect(rungs[0].url, token=token, fallbacks=[rungs[1].url], **trust) as session:
            assert session.rung is not None
            assert session.rung.port == rungs[1].port
            assert loop.time() - begun < transport.HANDSHAKE_S  # and not when the first has given up
            await session.join()


async def test_where_no_rung_answers_the_reason_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.client.transport.HANDSHAKE_S", 0.2)
    async with paths(rig, 2) as rungs:
        for path in rungs:
            path.loss = 1.0
        with pytest.raises(SessionError) as caught:
            async with connect(
                rungs[0].url, token=rig.token(os.urandom(16), 1), fallbacks=[rungs[1].url], ca=rig.ca
            ):
                pass
        assert caught.value.code == ErrorCode.IDLE_TIMEOUT


async def test_a_planned_move_is_heard_by_nobody(rig: Rig) -> None:
    async with paths(rig, 1) as rungs, talking(rig, rungs) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        listening = asyncio.gather(gaps((one, two), 1.5), return_exceptions=True)
        await session.rejoin()
        [gap] = await listening
        assert session.moves == 1
        assert gap <= 0.120  # 20 ms of voice, the pace of the test's look, and a busy machine
        assert [(call.stats().lost, call.stats().unopened) for call in (one, two)] == [(0, 0)] * 2
        assert min(one.stats().duplicates, two.stats().duplicates) > 0  # both legs carried
        assert rig.metric("relay_imbalance") == 0


async def test_a_session_leaves_a_rung_that_is_bad_and_climbs_back_when_it_is_good_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "CLIMB_EVERY_S", 3.0)
    async with paths(rig, 2) as rungs, talking(rig, rungs) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        rungs[0].loss = 0.3
        await until(lambda: session.rung is not None and session.rung.port == rungs[1].port, 20)
        assert await gaps((one, two), 1.0) <= 0.200
        rungs[0].loss = 0.0
        await until(lambda: session.rung is not None and session.rung.port == rungs[0].port, 20)
        assert session.error is None
        assert session.moves >= 2


async def test_a_rung_that_is_blocked_in_mid_call_is_left_within_two_seconds(rig: Rig) -> None:
    async with paths(rig, 2) as rungs, talking(rig, rungs) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        rungs[0].loss = 1.0
        took = await until(lambda: session.moves == 1)
        assert took <= 3.0
        assert await gaps((one, two), 1.0) <= 0.200


async def test_where_udp_is_blocked_the_ladder_lands_on_websocket(rig: Rig) -> None:
    async with paths(rig, 2) as rungs:
        for path in rungs:
            path.loss = 1.0
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with talking(rig, rungs, rig.wss) as (session, one, two):
            assert loop.time() - begun < transport.HANDSHAKE_S  # and not when the others have given up
            assert session.transport == "ws"
            await until(lambda: min(one.stats().received, two.stats().received) > 20)
            assert await gaps((one, two), 0.5) <= 0.200
            assert session.error is None


async def test_a_session_falls_back_to_websocket_where_udp_is_bad_and_climbs_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "CLIMB_EVERY_S", 3.0)
    async with paths(rig, 1) as rungs, talking(rig, rungs, rig.wss) as (session, one, two):
        assert session.transport == "quic"
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        rungs[0].loss = 0.3
        await until(lambda: session.transport == "ws", 20)
        await until(lambda: session._footing.beside is None)
        assert await gaps((one, two), 1.0) <= 0.200
        rungs[0].loss = 0.0
        await until(lambda: session.transport == "quic", 20)
        assert await gaps((one, two), 1.0) <= 0.200
        assert session.error is None
        assert session.moves >= 2
        await until(lambda: rig.metric('relay_transports{transport="ws"}') == 0)
        assert rig.metric("relay_imbalance") == 0


async def test_a_leg_that_is_closed_under_a_call_is_replaced_before_silence_would_be_noticed(
    rig: Rig,
) -> None:
    async with paths(rig, 2) as rungs, talking(rig, rungs) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        assert session.main is not None
        assert session.main.transport is not None
        session.main.transport.close(ErrorCode.GENERAL, "as a router does that forgot a connection")
        assert await until(lambda: session.moves == 1) < ladder.SILENT_S
        assert await gaps((one, two), 0.5) <= 0.200
        assert session.error is None


async def test_a_move_whose_answer_never_came_does_not_end_the_session_when_the_old_leg_is_let_go(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with paths(rig, 2) as rungs, talking(rig, rungs) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        old, on_joined = session.main, session._on_joined
        assert old is not None
        lost = session.make_leg(1)
        await lost.open(session._trust)
        monkeypatch.setattr(session, "_on_joined", lambda leg, joined: leg is lost or on_joined(leg, joined))
        await session.move_to(lost)  # for the relay we sit there now; we know of nothing
        rungs[1].loss = 1.0
        await until(lambda: old.error is not None)
        assert old.error is not None
        assert (old.error.code, session.error) == (ErrorCode.MOVED, None)
        await until(lambda: session.moves == 1)
        assert session.error is None
        assert session.main not in (old, lost)
        received = one.stats().received, two.stats().received
        await until(lambda: one.stats().received > received[0] + 25)
        await until(lambda: two.stats().received > received[1] + 25)


async def test_who_is_told_that_it_moved_and_did_not_is_out(rig: Rig) -> None:
    async with paths(rig, 1) as rungs, talking(rig, rungs) as (session, *_):
        assert session.main is not None
        session.main.on_closed(ErrorCode.MOVED, "on another device")
        assert session.error is not None
        assert session.error.code == ErrorCode.MOVED
        assert not session.is_talking  # the ladder does not fight for the place


async def test_on_a_new_network_a_leg_on_tcp_comes_back_over_a_new_connection(rig: Rig) -> None:
    async with paths(rig, 1) as rungs:
        rungs[0].loss = 1.0
        async with talking(rig, rungs, rig.wss) as (session, one, two):
            await until(lambda: min(one.stats().received, two.stats().received) > 20)
            before = session.local_port
            assert await session.rebind() == session.local_port != before
            assert (session.transport, session.moves, session.error) == ("ws", 1, None)
            assert await gaps((one, two), 0.5) <= 0.200


async def test_a_trial_that_the_token_does_not_allow_is_no_end(rig: Rig) -> None:
    call, seed = os.urandom(16), os.urandom(32)
    trust: dict[str, Any] = {"ca": rig.ca, "server_name": "localhost", "direct": False, "proxy": ""}
    token = rig.token(call, 1, public_of(seed), net=0)
    async with paths(rig, 1) as rungs:
        ann = connect(rungs[0].url, token=token, pop_seed=seed, fallbacks=[rig.wss], **trust)
        async with ann as session, connect(rig.url, token=rig.token(call, 2), **trust) as other:
            calls = (await session.join(), await other.join())
            await asyncio.gather(*(each.accept() for each in calls))
            await asyncio.gather(*(each.peer_accepted() for each in calls))
            moves: asyncio.Queue[tuple[int, bool]] = asyncio.Queue()
            on_moved = session._climber._ladder.on_moved if session._climber else None
            assert session._climber is not None

            def moved(rung: int, now: float, *, ok: bool) -> None:
                assert on_moved is not None
                on_moved(rung, now, ok=ok)
                moves.put_nowait((rung, ok))

            session._climber._ladder.on_moved = moved  # type: ignore[method-assign]  # only to hear of it
            # Bad, never silent for long, and no second leg comes up there: with random losses such a leg, if
            # it was lucky with its few pings, was sometimes the one that was taken.
            rungs[0].outages, rungs[0].is_shut = (0.2, 0.6), True
            async with asyncio.timeout(60):
                assert await moves.get() == (1, False)  # WebSocket, which the token does not allow
            rungs[0].outages, rungs[0].is_shut = None, False
            assert (session.transport, session.error, session.moves) == ("quic", None, 0)
            await calls[0].hangup()
            assert await calls[1].ended() == "completed"


async def test_a_nat_that_forgets_costs_at_most_200_ms(rig: Rig) -> None:
    async with paths(rig, 1) as rungs, talking(rig, rungs) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        seen = session.observed
        listening = asyncio.gather(gaps((one, two), 1.5))
        rungs[0].rebind()
        [gap] = await listening
        assert gap <= 0.200
        await until(lambda: session.observed != seen)
        assert session.moves == 0


async def test_another_address_of_our_own_is_told_to_the_relay_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ["127.0.0.1"]
    monkeypatch.setattr(climb, "source_toward", lambda host: source[0])
    monkeypatch.setattr(climb, "LOOK_S", 0.05)
    async with paths(rig, 1) as rungs, talking(rig, rungs) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        told: list[None] = []
        quic = session._main.quic if session._main else None
        assert quic is not None
        announce = quic.announce_move
        monkeypatch.setattr(quic, "announce_move", lambda: (told.append(None), announce()))
        rungs[0].rebind()
        source[0] = "127.0.0.2"
        await until(lambda: bool(told))
        assert await gaps((one, two), 1.0) <= 0.300


async def test_a_network_that_is_gone_for_a_while_is_survived(rig: Rig) -> None:
    async with paths(rig, 1) as rungs, talking(rig, rungs) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        rungs[0].loss = 1.0
        await gaps((one, two), 4.0)
        rungs[0].loss = 0.0
        rungs[0].rebind()
        received = one.stats().received, two.stats().received
        await until(lambda: one.stats().received > received[0] + 25, 15)
        await until(lambda: two.stats().received > received[1] + 25, 15)
        assert session.error is None
        assert await gaps((one, two), 0.5) <= 0.200


async def test_without_a_key_a_fresh_token_moves_the_session(rig: Rig) -> None:
    call = os.urandom(16)
    trust: dict[str, Any] = {"ca": rig.ca, "server_name": "localhost", "direct": False}
    asked: list[None] = []

    async def fresh() -> bytes:
        asked.append(None)
        return rig.token(call, 1)

    async with paths(rig, 2) as rungs:
        ann = connect(
            rungs[0].url, token=rig.token(call, 1), fallbacks=[rungs[1].url], fresh_token=fresh, **trust
        )
        async with ann as session, connect(rig.url, token=rig.token(call, 2), **trust) as other:
            calls = (await session.join(), await other.join())
            await asyncio.gather(*(each.accept() for each in calls))
            await asyncio.gather(*(each.peer_accepted() for each in calls))
            rungs[0].loss = 1.0
            await until(lambda: session.moves == 1)
            assert asked
            assert session.error is None
            await calls[0].hangup()
            assert await calls[1].ended() == "completed"


async def test_without_key_and_without_token_a_lost_leg_is_the_applications_business(rig: Rig) -> None:
    trust: dict[str, Any] = {"ca": rig.ca, "server_name": "localhost"}
    async with connect(rig.url, token=rig.token(os.urandom(16), 1), **trust) as session:
        await session.join()
        assert session._climber is None
        assert session._main is not None
        session._main.on_closed(ErrorCode.IDLE_TIMEOUT, "gone")
        assert session.error is not None
        with pytest.raises(RefusedError, match="AUTH_REQUIRED"):
            await session.rejoin()
