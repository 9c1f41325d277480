"""Only one way of UDP is bad: two legs carry one way each. A real daemon, both lanes, bad paths there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from client.hearing import until
from client.proxy import Proxy
from client.rig import Rig, daemon
from client.test_moves import gaps, paths, talking
from lanes import LANES
from relay.client import Call, Session, ladder
from relay.client.errors import RefusedError
from relay.client.leg import RelayLeg
from relay.errors import ErrorCode
from relay.protocol.datagram import LegReport
from relay.protocol.messages import Carry, Message

pytestmark = pytest.mark.timeout(180)  # a busy machine is waited for
LOSS = 0.3
MOVES_S = 45.0  # a client that a busy machine starves takes that for its network, for a while
WAYS = {"up": ("ws", "quic"), "down": ("quic", "ws")}  # which way is bad: what carries up, what carries down


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stands lower looks up every three seconds."""
    monkeypatch.setattr(ladder, "CLIMB_EVERY_S", 3.0)


@pytest.fixture(scope="module", params=LANES)
def rig(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Rig]:
    # What is repeated to a listener whose acknowledgements are lost comes twice, and is no matter here.
    unrepaired = "[adapt]\nenabled = false"
    with daemon(tmp_path_factory.mktemp("ways"), lane=request.param, more=unrepaired) as running:
        yield running


@asynccontextmanager
async def divided(rig: Rig, bad: str) -> AsyncIterator[tuple[Session, Call, Call, Proxy]]:
    """Two who talk, and one way of the first one's UDP is bad: the ladder has seen to that."""
    async with paths(rig, 1) as rungs, talking(rig, rungs, rig.wss) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        setattr(rungs[0], bad, LOSS)
        await until(lambda: session.up != session.down, MOVES_S)
        await until(lambda: session._footing._is_settled)
        yield session, one, two, rungs[0]


async def hear_each_other(*calls: Call) -> bool:
    """Whether nobody hears a silence, once the machine lets them for a second and a half."""
    return any([await gaps(calls, 1.5) <= 0.200 for _ in range(3)])


def damage(*calls: Call) -> list[tuple[int, int]]:
    return [(call.stats().duplicates, call.stats().lost) for call in calls]


def stands(session: Session) -> tuple[str, str]:
    assert session.up is not None
    assert session.down is not None
    return session.up.transport, session.down.transport


@pytest.mark.parametrize("bad", WAYS)
async def test_only_the_bad_way_falls_back_and_climbs_when_it_is_good_again(rig: Rig, bad: str) -> None:
    async with divided(rig, bad) as (session, one, two, path):
        assert stands(session) == WAYS[bad]
        assert await hear_each_other(one, two)  # and the relay's own half second is over
        before = damage(one, two)
        await gaps((one, two), 2.0)
        after = damage(one, two)
        assert (
            max(now[0] - then[0] for now, then in zip(after, before, strict=True)) <= 5
        )  # once and not twice
        assert max(now[1] - then[1] for now, then in zip(after, before, strict=True)) <= 10  # not 30
        assert rig.metric('relay_transports{transport="ws"}') == 1
        setattr(path, bad, 0.0)
        await until(lambda: session.up == session.down, MOVES_S)
        assert session.transport == "quic"
        assert await hear_each_other(one, two)
        assert session.error is None
        await until(lambda: rig.metric('relay_transports{transport="ws"}') == 0)
        assert rig.metric("relay_imbalance") == 0


async def test_from_websocket_only_the_way_climbs_that_is_good_on_udp(rig: Rig) -> None:
    async with paths(rig, 1) as rungs:
        rungs[0].loss = 1.0
        async with talking(rig, rungs, rig.wss) as (session, one, two):
            assert session.transport == "ws"
            rungs[0].loss, rungs[0].up = 0.0, LOSS
            await until(lambda: session.up != session.down, MOVES_S)
            assert stands(session) == WAYS["up"]
            assert session.transport == "quic"  # where the talk with the relay is
            await until(lambda: session._footing._is_settled)
            assert await hear_each_other(one, two)
            rungs[0].up = 0.0
            await until(lambda: session.up == session.down, MOVES_S)
            assert stands(session) == ("quic", "quic")
            assert session.error is None


@pytest.mark.parametrize("bad", WAYS)
async def test_when_udp_dies_altogether_the_other_leg_carries_both_ways(rig: Rig, bad: str) -> None:
    async with divided(rig, bad) as (session, one, two, path):
        path.loss = 1.0
        assert await until(lambda: session.second is None) <= 3.0
        assert session.transport == "ws"
        assert await hear_each_other(one, two)
        assert session.error is None


@pytest.mark.parametrize("bad", WAYS)
async def test_when_the_connection_over_tcp_breaks_udp_carries_both_ways_again(rig: Rig, bad: str) -> None:
    async with divided(rig, bad) as (session, one, two, path):
        setattr(path, bad, 0.0)
        [tcp] = [leg for leg in session._footing.legs if leg.quic is None]
        assert tcp.transport is not None
        tcp.transport.close(ErrorCode.GENERAL, "as a router does that forgot a connection")
        await until(lambda: session.second is None)
        received = one.stats().received, two.stats().received
        await until(lambda: one.stats().received > received[0] + 10)
        await until(lambda: two.stats().received > received[1] + 10)
        assert session.error is None


async def test_reports_tell_of_the_flows_on_the_leg_that_brings_media(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, LegReport]] = []
    original = Session.send_control

    def send_control(self: Session, datagram: Any) -> None:
        if isinstance(datagram, LegReport) and self._footing.ear is not None:
            flows = {flow for leg, flow in self.call._reception._flows if leg == self._footing.ear.number}
            assert {report.flow for report in datagram.flows} <= flows
            sent.append((self._footing.ear.to.transport, datagram))
        original(self, datagram)

    monkeypatch.setattr(Session, "send_control", send_control)
    async with divided(rig, "up") as (session, *_):
        sent.clear()
        await until(lambda: len(sent) > 2)
        assert stands(session) == ("ws", "quic")
        assert {transport for transport, _ in sent} == {"quic"}


async def test_with_a_relay_that_knows_no_carry_all_goes_by_the_new_leg(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RelayLeg.request

    async def request(self: RelayLeg, message: Message) -> Message:
        if isinstance(message, Carry):
            raise RefusedError(ErrorCode.VERSION, "unknown message type")
        return await original(self, message)

    monkeypatch.setattr(RelayLeg, "request", request)
    async with paths(rig, 1) as rungs, talking(rig, rungs, rig.wss) as (session, one, two):
        await until(lambda: min(one.stats().received, two.stats().received) > 20)
        rungs[0].up = LOSS
        await until(lambda: session.transport == "ws", MOVES_S)
        await until(lambda: session._footing.beside is None)
        assert stands(session) == ("ws", "ws")
        assert await hear_each_other(one, two)
