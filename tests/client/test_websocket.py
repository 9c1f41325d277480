"""The SDK over WebSocket against a real daemon, with either lane: the same calls as over QUIC."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from client.rig import Rig, daemon
from client.test_daemon_calls import accept_both, ear, loud
from lanes import LANES
from proxy import proxy
from relay.client import Call, RefusedError, Session, SessionError, ToneSource, connect
from relay.errors import ErrorCode, LocalError

TONE_S = 0.6


@pytest.fixture(scope="module", params=LANES)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with daemon(tmp_path_factory.mktemp("daemon"), request.param) as running:
        yield running


async def enter(
    stack: AsyncExitStack, rig: Rig, url: str, call: bytes, who: int, proxy: str = ""
) -> tuple[Session, Call]:
    session = await stack.enter_async_context(
        connect(url, token=rig.token(call, who), ca=rig.ca, server_name="localhost", proxy=proxy)
    )
    return session, await session.join()


MEDIA = ("received", "accepted", "copies", "sent", "dropped", "dropped_out")


async def counted(rig: Rig) -> dict[str, float]:
    return {name: await asyncio.to_thread(rig.metric, f"relay_media_{name}_total") for name in MEDIA}


WAYS = [("ws", "ws"), ("quic", "ws"), ("ws", "quic"), ("tls", "tls"), ("quic", "tls"), ("ws", "tls")]


@pytest.mark.parametrize("ways", WAYS, ids="-".join)
async def test_two_people_hear_each_other_and_every_count_agrees(rig: Rig, ways: tuple[str, str]) -> None:
    before = await counted(rig)
    call = os.urandom(16)
    known = {"ws": rig.wss, "tls": rig.tls, "quic": rig.url}
    urls = [known[way] for way in ways]
    async with AsyncExitStack() as stack:
        session, one = await enter(stack, rig, urls[0], call, 1)
        _, two = await enter(stack, rig, urls[1], call, 2)
        assert session.transport == ways[0]
        assert session.welcome is not None
        assert session.welcome.ka == 5
        strings = await asyncio.gather(one.keys_agreed(), two.keys_agreed())
        assert strings[0] == strings[1]
        await accept_both(one, two)
        (sink_one, at_one), (sink_two, at_two) = ear(), ear()
        await asyncio.gather(
            one.talk(ToneSource(440, TONE_S), sink_one), two.talk(ToneSource(600, TONE_S), sink_two)
        )
        stats = one.stats(), two.stats()
        assert [(s.sent, s.received, s.lost, s.unopened) for s in stats] == [(30, 30, 0, 0)] * 2
        assert all(s.rtt_ms is not None and 0 < s.rtt_ms < 500 for s in stats)
        assert min(loud(at_one), loud(at_two)) >= 25
        for way in ("ws", "tls"):
            legs = await asyncio.to_thread(rig.metric, f'relay_transports{{transport="{way}"}}')
            assert legs == ways.count(way)
        await one.hangup()
        await two.ended()
    after = await counted(rig)
    change = {name: after[name] - before[name] for name in after}
    assert change == {
        "received": 60,
        "accepted": 60,
        "copies": 60,
        "sent": 60,
        "dropped": 0,
        "dropped_out": 0,
    }
    assert await asyncio.to_thread(rig.metric, "relay_imbalance") == 0


async def test_a_mute_holds_across_transports(rig: Rig) -> None:
    before = await counted(rig)
    call = os.urandom(16)
    async with AsyncExitStack() as stack:
        _, one = await enter(stack, rig, rig.wss, call, 1)
        _, two = await enter(stack, rig, rig.url, call, 2)
        await asyncio.gather(one.keys_agreed(), two.keys_agreed())
        await accept_both(one, two)
        await one.mute(True)
        await one.speak(ToneSource(440, 0.2), eager=True)
        await one.mute(False)
        await one.hangup()
        await two.ended()
    after = await counted(rig)
    assert after["sent"] == before["sent"]
    assert after["received"] - before["received"] == after["dropped"] - before["dropped"]


async def test_a_token_without_the_right_to_tcp_is_refused_by_name(rig: Rig) -> None:
    token = rig.token(os.urandom(16), 1, net=0)
    with pytest.raises(RefusedError) as refused:
        async with connect(rig.wss, token=token, ca=rig.ca, server_name="localhost", proxy=""):
            pass
    assert refused.value.code == ErrorCode.TRANSPORT_DENIED


async def test_a_call_goes_through_an_http_proxy(rig: Rig) -> None:
    call = os.urandom(16)
    async with proxy("anna:secret") as between, AsyncExitStack() as stack:
        _, one = await enter(stack, rig, rig.wss, call, 1, between.url)
        _, two = await enter(stack, rig, rig.url, call, 2)
        await asyncio.gather(one.keys_agreed(), two.keys_agreed())
        await accept_both(one, two)
        (sink_one, at_one), (sink_two, at_two) = ear(), ear()
        await asyncio.gather(
            one.talk(ToneSource(440, TONE_S), sink_one), two.talk(ToneSource(600, TONE_S), sink_two)
        )
        assert min(loud(at_one), loud(at_two)) >= 25
        await one.hangup()
    assert between.asked == [f"127.0.0.1:{rig.web_port}"]


async def test_the_environment_names_the_proxy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as between:
        monkeypatch.setenv("HTTPS_PROXY", between.url)
        monkeypatch.setenv("NO_PROXY", "")
        token = rig.token(os.urandom(16), 1)
        async with connect(rig.wss, token=token, ca=rig.ca, server_name="localhost") as session:
            await session.join()
            assert len(between.asked) == 1
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        token = rig.token(os.urandom(16), 1)
        async with connect(rig.wss, token=token, ca=rig.ca, server_name="localhost") as session:
            await session.join()
        assert len(between.asked) == 1


async def test_a_proxy_that_wants_to_know_who_we_are_is_named_in_the_error(rig: Rig) -> None:
    async with proxy("anna:secret") as between:
        bare = between.url.replace("anna:secret@", "")
        with pytest.raises(SessionError, match="the proxy answered with HTTP status 407"):
            async with connect(rig.wss, token=rig.token(os.urandom(16), 1), ca=rig.ca, proxy=bare):
                pass


async def test_a_leg_that_broke_comes_back_with_its_ticket_by_another_transport(rig: Rig) -> None:
    call = os.urandom(16)
    async with AsyncExitStack() as stack:
        session, one = await enter(stack, rig, rig.url, call, 1)
        _, two = await enter(stack, rig, rig.wss, call, 2)
        await asyncio.gather(one.keys_agreed(), two.keys_agreed())
        await accept_both(one, two)
        await session.rejoin(rig.wss, token=rig.token(call, 1))
        assert session.transport == "ws"
        (sink_one, at_one), (sink_two, at_two) = ear(), ear()
        await asyncio.gather(
            one.talk(ToneSource(440, TONE_S), sink_one), two.talk(ToneSource(600, TONE_S), sink_two)
        )
        assert min(loud(at_one), loud(at_two)) >= 25
        with pytest.raises(LocalError, match="rejoin"):
            await session.rebind()
        await one.hangup()


async def test_a_relay_that_is_not_trusted_or_not_there_is_an_error_by_name(rig: Rig, tmp_path: Path) -> None:
    token = rig.token(os.urandom(16), 1)
    with pytest.raises(SessionError, match="not trusted"):
        async with connect(rig.wss, token=token, proxy=""):
            pass
    with pytest.raises(SessionError, match="CA file"):
        async with connect(rig.wss, token=token, ca=tmp_path / "none", proxy=""):
            pass
    with pytest.raises(SessionError, match="cannot be reached"):
        async with connect("wss://127.0.0.1:9/vrl/1", token=token, ca=rig.ca, proxy=""):
            pass
    async with connect(rig.wss, token=token, insecure=True, proxy="") as session:
        assert session.local_port > 0


def resident(pid: int) -> int:
    """Bytes of a process's memory that are in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def test_a_client_that_stops_reading_costs_nobody_else_anything_and_is_closed(rig: Rig) -> None:
    async with proxy() as between, AsyncExitStack() as stack:
        stuck, other = os.urandom(16), os.urandom(16)
        _, one = await enter(stack, rig, rig.url, stuck, 1)
        _, two = await enter(stack, rig, rig.wss, stuck, 2, between.url)
        _, three = await enter(stack, rig, rig.wss, other, 3)
        _, four = await enter(stack, rig, rig.url, other, 4)
        await asyncio.gather(*(call.keys_agreed() for call in (one, two, three, four)))
        await asyncio.gather(accept_both(one, two), accept_both(three, four))
        between.stall()
        before = await counted(rig)
        memory = resident(rig.pid)
        talking = asyncio.create_task(one.speak(ToneSource(440, 40.0)))
        await asyncio.gather(
            three.talk(ToneSource(440, TONE_S), ear()[0]), four.talk(ToneSource(600, TONE_S), ear()[0])
        )
        assert [(s.sent, s.received) for s in (three.stats(), four.stats())] == [(30, 30)] * 2
        async with asyncio.timeout(30):
            ws = 'relay_transports{transport="ws"}'
            while await asyncio.to_thread(rig.metric, ws) != 1:  # noqa: ASYNC110  # the daemon's own ten seconds
                await asyncio.sleep(0.2)
        after = await counted(rig)
        assert after["dropped_out"] - before["dropped_out"] > 50
        assert resident(rig.pid) - memory < 8 << 20
        assert await asyncio.to_thread(rig.metric, "relay_imbalance") == 0
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        await asyncio.gather(one.hangup(), three.hangup())
