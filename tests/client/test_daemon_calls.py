"""Two SDK clients and a real daemon on loopback: what a call is, end to end. Real time, real packets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from client.rig import Rig, daemon, public_of
from relay.client import (
    Call,
    CallbackSink,
    CallEndedError,
    CallState,
    PcmSource,
    RefusedError,
    Session,
    SessionError,
    ToneSource,
    connect,
)
from relay.errors import ErrorCode, LocalError
from relay.protocol.messages import Ping

TONE_S = 0.6


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@asynccontextmanager
async def joined(rig: Rig, call: bytes, who: int, **more: Any) -> AsyncIterator[tuple[Session, Call]]:
    token = rig.token(call, who, more.pop("cnf", None))
    async with connect(rig.url, token=token, ca=rig.ca, server_name="localhost", **more) as session:
        yield session, await session.join()


@asynccontextmanager
async def pair(rig: Rig, **more: Any) -> AsyncIterator[tuple[tuple[Session, Call], tuple[Session, Call]]]:
    call = os.urandom(16)
    async with joined(rig, call, 1, **more) as one, joined(rig, call, 2) as two:
        yield one, two


async def accept_both(one: Call, two: Call) -> None:
    await asyncio.gather(one.accept(), two.accept())
    await asyncio.gather(one.peer_accepted(), two.peer_accepted())


def ear() -> tuple[CallbackSink, list[bytes]]:
    got: list[bytes] = []
    return CallbackSink(got.append), got


def loud(steps: list[bytes]) -> int:
    """Steps of 20 ms with sound in them."""
    return sum(max(step) > 0 and len(set(step)) > 8 for step in steps)


async def test_two_people_hear_each_other_and_every_count_agrees(rig: Rig) -> None:
    before = {name: rig.metric(f"relay_media_{name}_total") for name in ("received", "sent")}
    async with pair(rig) as ((_, one), (_, two)):
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
        assert loud(at_one) >= 28
        assert loud(at_two) >= 28
        await one.hangup()
        assert await two.ended() == "completed"
        assert one.state is two.state is CallState.ENDED
        assert one.stats().as_dict()["sent"] == 30
    assert rig.metric("relay_media_received_total") - before["received"] == 60
    assert rig.metric("relay_media_sent_total") - before["sent"] == 60


async def test_nothing_is_carried_before_both_accepted(rig: Rig) -> None:
    async with pair(rig) as ((_, one), (_, two)):
        await asyncio.gather(one.keys_agreed(), two.keys_agreed())
        await one.accept()
        sent_before = rig.metric("relay_media_sent_total")
        await one.speak(ToneSource(440, 0.2), eager=True)
        await one.mute(False)  # an answer: the relay has seen what we sent before
        assert one.stats().sent == 10
        assert rig.metric("relay_media_sent_total") == sent_before
        assert two.stats().received == 0
        assert two.state is CallState.WANTED
        await two.accept()
        await asyncio.gather(one.peer_accepted(), two.peer_accepted())
        sink, heard = ear()
        await asyncio.gather(one.speak(ToneSource(440, 0.2)), two.talk(PcmSource(b""), sink))
        assert two.stats().received == 10
        assert loud(heard) >= 8


async def test_a_new_local_port_in_mid_call_costs_at_most_the_packet_under_way(rig: Rig) -> None:
    async with pair(rig) as ((session, one), (_, two)):
        await accept_both(one, two)
        (sink_one, _), (sink_two, heard) = ear(), ear()
        talking = asyncio.gather(
            one.talk(ToneSource(440, TONE_S), sink_one), two.talk(ToneSource(440, TONE_S), sink_two)
        )
        old = session.local_port
        new = await session.rebind()
        assert new not in (0, old)
        await talking
        assert one.stats().received >= 29
        assert two.stats().received >= 29
        assert loud(heard) >= 28
        assert session.observed == ("127.0.0.1", new)
        assert session.error is None


async def test_a_muted_voice_does_not_leave_and_comes_back(rig: Rig) -> None:
    async with pair(rig) as ((_, one), (_, two)):
        await accept_both(one, two)
        await one.mute(True)
        await one.speak(ToneSource(440, 0.1))
        assert (one.stats().sent, one.is_muted) == (0, True)
        await one.mute(False)
        sink, _ = ear()
        await asyncio.gather(one.speak(ToneSource(440, 0.1)), two.talk(PcmSource(b""), sink))
        assert two.stats().received == 5


async def test_a_lost_connection_is_replaced_with_the_ticket_and_keys_stay(rig: Rig) -> None:
    seed = os.urandom(32)
    async with pair(rig, cnf=public_of(seed), pop_seed=seed) as ((session, one), (_, two)):
        await accept_both(one, two)
        string = one.sas
        await one.speak(ToneSource(440, 0.1))
        await session.rejoin()
        assert one.state is CallState.OPEN
        (sink_one, _), (sink_two, _) = ear(), ear()
        await asyncio.gather(
            one.talk(ToneSource(440, 0.2), sink_one),
            two.talk(ToneSource(440, 0.2), sink_two),
        )
        assert (one.stats().received, two.stats().received) == (10, 15)
        assert (one.sas, two.sas) == (string, string)


async def test_a_rekey_in_mid_call_loses_nothing(rig: Rig) -> None:
    async with pair(rig) as ((_, one), (_, two)):
        await accept_both(one, two)
        (sink_one, _), (sink_two, _) = ear(), ear()
        talking = asyncio.gather(
            one.talk(ToneSource(440, TONE_S), sink_one), two.talk(ToneSource(440, TONE_S), sink_two)
        )
        one.rekey()
        await talking
        assert (one.stats().received, two.stats().received) == (30, 30)
        assert (one.stats().unopened, two.stats().unopened) == (0, 0)
        assert len(one.base_keys()) == 4


async def test_a_short_message_travels_sealed_like_speech(rig: Rig) -> None:
    async with pair(rig) as ((_, one), (_, two)):
        await asyncio.gather(one.keys_agreed(), two.keys_agreed())
        assert not one.send_app(b"too early")
        await accept_both(one, two)
        got: asyncio.Queue[bytes] = asyncio.Queue()
        two.on_app = got.put_nowait
        with pytest.raises(LocalError):
            one.send_app(bytes(1000))
        assert one.send_app(b"typing")
        assert await asyncio.wait_for(got.get(), 20) == b"typing"
        assert (one.peer_identity, two.peer_identity) != (None, None)
        await one.rate(5)
        one.bitrate = 12_000
        assert one.bitrate == 12_000


async def test_a_lost_leg_is_told_to_whoever_waits(rig: Rig) -> None:
    async with pair(rig) as ((session, one), _):
        waiting = asyncio.ensure_future(one.peer_accepted())
        asking = asyncio.ensure_future(session.request(Ping(t=1)))
        asyncio.get_running_loop().call_soon(session._main.on_closed, ErrorCode.REMOVED, "")
        for task in (waiting, asking):
            with pytest.raises(SessionError, match="REMOVED"):
                await task
        with pytest.raises(SessionError, match="REMOVED"):
            await one.accept()


async def test_a_declined_call_tells_both(rig: Rig) -> None:
    async with pair(rig) as ((_, one), (_, two)):
        await one.accept()
        await two.decline("busy")
        assert await one.ended() == "busy"
        with pytest.raises(CallEndedError):
            await one.peer_accepted()
        with pytest.raises(CallEndedError):
            await one.mute(True)
        await one.hangup()


async def test_a_block_ends_the_call_of_two(rig: Rig) -> None:
    async with pair(rig) as ((_, one), (_, two)):
        await accept_both(one, two)
        await one.report("spam")
        await one.block()
        await asyncio.gather(one.ended(), two.ended())
        assert two.state is CallState.ENDED


async def test_of_two_ringing_devices_one_takes_the_call_and_is_heard(rig: Rig) -> None:
    call = os.urandom(16)
    async with AsyncExitStack() as stack:
        _, caller = await stack.enter_async_context(joined(rig, call, 1))
        _, phone = await stack.enter_async_context(joined(rig, call, 2))
        _, tablet = await stack.enter_async_context(joined(rig, call, 2))
        await asyncio.gather(caller.accept(), phone.keys_agreed(), tablet.keys_agreed())
        await phone.accept()
        assert await tablet.ended() == "answered_elsewhere"
        await asyncio.gather(caller.peer_accepted(), phone.peer_accepted())
        (sink_one, _), (sink_two, _) = ear(), ear()
        await asyncio.gather(
            caller.talk(ToneSource(440, 0.2), sink_one),
            phone.talk(ToneSource(440, 0.2), sink_two),
        )
        assert caller.sas == phone.sas
        assert (caller.stats().received, phone.stats().received) == (10, 10)
        assert phone.stats().unopened == 0


async def test_a_token_of_another_issuer_is_refused_with_the_code(rig: Rig) -> None:
    stranger = Rig(rig.url, rig.ca, os.urandom(32), rig.metrics_port, rig.pid)
    with pytest.raises((RefusedError, SessionError)) as caught:
        async with joined(stranger, os.urandom(16), 1):
            pass
    assert getattr(caught.value, "code", None) == ErrorCode.TOKEN_INVALID


async def test_an_untrusted_certificate_is_refused(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(SessionError):
        async with connect(rig.url, token=rig.token(os.urandom(16), 1), server_name="localhost"):
            pass
    with pytest.raises(SessionError, match="CA file"):
        async with connect(rig.url, token=rig.token(os.urandom(16), 1), ca=tmp_path / "none.pem"):
            pass


async def test_a_token_with_a_key_needs_the_key(rig: Rig) -> None:
    with pytest.raises(SessionError, match="pop_seed"):
        async with connect(rig.url, token=rig.token(os.urandom(16), 1, public_of(bytes(32)))):
            pass
