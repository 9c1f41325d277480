"""Two SDK clients who find each other past a real daemon on loopback. Real time, real packets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from client.conversation import speaking
from client.hearing import silence, until
from client.rig import Rig, daemon
from relay.client import Call, Session, carrier, connect, direct, nat64
from relay.client.carrier import Way
from relay.protocol.address import Address

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for
ALLOWED = 15  # send, receive, e2e, direct paths


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with daemon(tmp_path_factory.mktemp("direct")) as running:
        yield running


@asynccontextmanager
async def joined(
    rig: Rig, call: bytes, who: int, prm: int, **more: Any
) -> AsyncIterator[tuple[Session, Call]]:
    token = rig.token(call, who, prm=prm)
    async with connect(rig.url, token=token, ca=rig.ca, server_name="localhost", **more) as session:
        yield session, await session.join()


@asynccontextmanager
async def talking(rig: Rig, prm: int = ALLOWED, **more: Any) -> AsyncIterator[list[tuple[Session, Call]]]:
    """Two people who accepted and hear each other's tone all the time."""
    call = os.urandom(16)
    async with (
        joined(rig, call, 1, prm, **more) as one,
        joined(rig, call, 2, prm, **more) as two,
        speaking(one[1], two[1]),
    ):
        yield [one, two]


def all_by(way: Way, people: list[tuple[Session, Call]]) -> bool:
    return all(call.way is way for _, call in people)


async def test_two_who_may_find_the_direct_path_and_lose_nothing_on_the_way(rig: Rig) -> None:
    async with talking(rig) as people:
        await until(lambda: all_by(Way.DIRECT, people))
        before = rig.metric("relay_media_received_total")
        received = people[0][1].stats().received
        await until(lambda: people[0][1].stats().received >= received + 25)
        assert rig.metric("relay_media_received_total") - before <= 2  # the relay stands by
        for _, call in people:
            stats = call.stats()
            assert (stats.lost, stats.unopened) == (0, 0)
            assert stats.duplicates > 0  # both ways carried for the switch


async def test_a_machine_without_ipv4_reaches_the_other_by_its_networks_translator(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[Any] = []

    def reach(addresses: list[Address], prefix: Any) -> list[Address]:
        reached.append(prefix)
        return addresses  # on loopback nothing translates

    async def discover() -> Any:
        return "the network's own"

    monkeypatch.setattr(direct, "has_ipv4", lambda: False)
    monkeypatch.setattr(nat64, "discover", discover)
    monkeypatch.setattr(nat64, "reach", reach)
    async with talking(rig) as people:
        await until(lambda: all_by(Way.DIRECT, people))
        assert reached == ["the network's own"] * 2


def blackhole(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that this client sends to the other person arrives any more."""
    assert call._direct is not None
    assert call._direct._transport is not None
    peer, port = call._direct._transport.peer, call._direct._transport.port
    assert port is not None
    send = port.send
    monkeypatch.setattr(port, "send", lambda data, to: None if to == peer else send(data, to))


@pytest.mark.parametrize("both", [True, False], ids=["both directions", "one direction"])
async def test_the_relay_takes_over_within_300_ms_when_the_direct_path_dies(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    async with talking(rig) as people:
        await until(lambda: all_by(Way.DIRECT, people))
        for _, call in people[: 2 if both else 1]:
            blackhole(call, monkeypatch)
        gaps = await asyncio.gather(*(silence(call, 1.0) for _, call in people))
        assert max(gaps) <= 0.300
        await until(lambda: all_by(Way.RELAY, people))
        assert all(call.stats().unopened == 0 for _, call in people)


def stands_on_one_leg(session: Session) -> bool:
    return [leg.error for leg in session._alive].count(None) == 1


@pytest.mark.parametrize("rung", ["url", "wss"])
async def test_the_direct_path_lives_on_when_the_relay_carries_on_another_leg(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, rung: str
) -> None:
    async with talking(rig, proxy="") as people:
        await until(lambda: all_by(Way.DIRECT, people))
        transports = [call._direct._transport for _, call in people if call._direct is not None]
        for who, (session, call) in enumerate(people, start=1):
            await session.rejoin(getattr(rig, rung), rig.token(call.id, who, prm=ALLOWED))
            await until(partial(stands_on_one_leg, session))
        assert [call._direct._transport for _, call in people if call._direct is not None] == transports
        assert all_by(Way.DIRECT, people)
        received = people[0][1].stats().received
        await until(lambda: people[0][1].stats().received >= received + 25)
        assert [(call.stats().lost, call.stats().unopened) for _, call in people] == [(0, 0)] * 2
        for _, call in people:
            blackhole(call, monkeypatch)
        gaps = await asyncio.gather(*(silence(call, 1.0) for _, call in people))
        assert max(gaps) <= 0.300
        await until(lambda: all_by(Way.RELAY, people))


async def test_who_left_the_port_of_a_direct_path_tells_the_new_one_when_the_other_begins_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking(rig, proxy="") as people:
        await until(lambda: all_by(Way.DIRECT, people))
        (one, call), (two, other) = people
        await one.rejoin(rig.url, rig.token(call.id, 1, prm=ALLOWED))
        await until(partial(stands_on_one_leg, one))
        await two.rebind()
        for each in (call, other):
            blackhole(each, monkeypatch)
        await until(lambda: all_by(Way.RELAY, people))
        monkeypatch.undo()
        took = await until(lambda: all_by(Way.DIRECT, people))
        assert took < direct.ROUNDS_S  # and not when its own patience ends


def hears_nothing_by_the_relay(call: Call) -> bool:
    assert call._direct is not None
    return asyncio.get_running_loop().time() - call._direct._relayed_at > direct.QUIET_S


async def test_a_path_that_outlives_a_move_of_ours_is_kept_and_both_sides_doubt_it_for_a_moment(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "TRUST_S", 2.0)  # that both are seen to doubt, whenever they are looked at
    async with talking(rig) as people:
        await until(lambda: all_by(Way.DIRECT, people))
        transports = [call._direct._transport for _, call in people if call._direct is not None]
        for session, _ in people:
            await until(lambda: all(hears_nothing_by_the_relay(call) for _, call in people))
            gap = asyncio.gather(*(silence(call, 1.0) for _, call in people))
            await session.rebind()
            await until(lambda: all_by(Way.DOUBT, people))  # one by what the relay brings
            assert max(await gap) <= 0.100
            await until(lambda: all_by(Way.DIRECT, people))
        assert [call._direct._transport for _, call in people if call._direct is not None] == transports


async def test_after_a_rebinding_the_two_find_each_other_again(rig: Rig) -> None:
    async with talking(rig) as people:
        await until(lambda: all_by(Way.DIRECT, people))
        for session, _ in people:
            gap = asyncio.gather(*(silence(call, 1.0) for _, call in people))
            await session.rebind()
            assert max(await gap) <= 0.300
            await until(lambda: all_by(Way.DIRECT, people))


@pytest.mark.parametrize(("prm", "more"), [(7, {}), (ALLOWED, {"direct": False})])
async def test_without_permission_or_wish_no_address_is_told_and_the_relay_carries(
    rig: Rig, prm: int, more: dict[str, Any]
) -> None:
    async with talking(rig, prm, **more) as people:
        await until(lambda: all(call.stats().received > 25 for _, call in people))
        assert all_by(Way.RELAY, people)
        assert all(call.stats().duplicates == 0 for _, call in people)


async def test_media_on_the_direct_path_obeys_the_gate_of_the_relay(rig: Rig) -> None:
    async with talking(rig) as ((_, one), (_, two)):
        await until(lambda: one.way is two.way is Way.DIRECT)
        await one.mute(True)
        one._muted = False  # a client that breaks its word
        await until(lambda: two.gate_open == 0)
        received = two.stats().received
        await asyncio.sleep(0.2)
        assert two.stats().received == received
        await one.mute(False)
        await until(lambda: two.stats().received > received + 5)
        await one.hangup()
        assert await two.ended() == "completed"
        assert one._direct is two._direct is None
