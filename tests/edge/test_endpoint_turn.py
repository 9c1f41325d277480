"""What the endpoint does for TURN: STUN to whoever answers it, bytes to streams, packets to peers."""

from __future__ import annotations

from typing import Any, cast

import pytest

from lanes import LANES
from quicnet import Network
from relay.core.reasons import DropReason
from relay.protocol.relayed import encode_channel_data

STUN = bytes.fromhex("000300002112a442") + bytes(12)
CLIENT, PEER, RELAYED = ("192.0.2.7", 5000), ("198.51.100.9", 7000), ("203.0.113.1", 50000)
CHANNEL, UNTIL = 0x4001, 1e6


class Turn:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def stun(self, data: bytes, address: Any, sock: int) -> None:
        self.told.append(("stun", data, address, sock))

    def to_client(self, allocation: int, data: bytes) -> None:
        self.told.append(("to_client", allocation, data))


class Door:
    """A relayed socket; it may be full."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.is_full = False

    def sendto(self, data: bytes, address: Any) -> None:
        if self.is_full:
            raise BlockingIOError
        self.sent.append((data, address))


@pytest.fixture(params=LANES)
def net(request: pytest.FixtureRequest) -> Network:
    return Network(lane=request.param)


@pytest.fixture
def turn(net: Network) -> Turn:
    made = Turn()
    net.endpoint.attach_turn(made)
    return made


def arrive(net: Network, data: bytes) -> None:
    net.endpoint.receive(data, CLIENT, 0, net.now)
    net.run(0.01)


def allow(net: Network) -> None:
    net.lane.permit(1, bytes((198, 51, 100, 9)), UNTIL)
    net.lane.bind_channel(1, CHANNEL, PEER, UNTIL)


def test_stun_is_malformed_until_somebody_answers_it_and_again_when_nobody_does(
    net: Network, turn: Turn
) -> None:
    arrive(net, STUN)
    assert turn.told == [("stun", STUN, CLIENT, 0)]
    assert net.endpoint.handled["stun"] == 1
    net.endpoint.attach_turn(None)
    arrive(net, STUN)
    assert len(turn.told) == 1
    assert net.endpoint.dropped == {DropReason.MALFORMED: 1}
    assert net.endpoint.imbalance() == 0


def test_stun_that_waited_while_turn_was_switched_off_is_malformed(net: Network, turn: Turn) -> None:
    net.endpoint.receive(STUN, CLIENT, 0, net.now)
    net.endpoint.attach_turn(None)
    net.run(0.01)
    assert turn.told == []
    assert net.endpoint.dropped == {DropReason.MALFORMED: 1}
    assert net.endpoint.imbalance() == 0


def test_a_bug_met_by_a_stun_packet_costs_that_packet_only(
    net: Network, turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(turn, "stun", fail)
        arrive(net, STUN)
    assert net.endpoint.internal_errors == 1
    arrive(net, STUN)
    assert len(turn.told) == 1
    assert net.endpoint.imbalance() == 0


def test_packets_for_peers_leave_by_the_door_of_their_allocation(net: Network) -> None:
    door = Door()
    net.endpoint.outbox.doors[1] = cast(Any, door)
    net.lane.open_relay(1, CLIENT, 0, relayed=RELAYED, fd=-1, pps=1000, bps=10**8)
    allow(net)
    message = encode_channel_data(CHANNEL, b"hello", is_stream=False)
    arrive(net, message)
    assert door.sent == [(b"hello", PEER)]
    assert net.endpoint.handled["relayed"] == 1
    door.is_full = True
    arrive(net, message)
    del net.endpoint.outbox.doors[1]
    arrive(net, message)
    assert (net.lane.packets().sent, net.lane.packets().send_errors) == (1, 2)


def test_what_peers_say_to_a_client_on_a_stream_is_handed_over(net: Network, turn: Turn) -> None:
    net.lane.open_relay_stream(1, relayed=RELAYED, fd=-1, pps=1000, bps=10**8)
    allow(net)
    message = encode_channel_data(CHANNEL, b"hello", is_stream=True)
    for _ in range(2):
        net.lane.receive_relay(1, b"hello", PEER, net.now)
    net.endpoint.flush()
    net.run(0.01)
    assert turn.told == [("to_client", 1, message * 2)]
