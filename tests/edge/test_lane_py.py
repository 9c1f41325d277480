"""The plain lane meets a bug of its own: who pays for it, and that nothing is left uncounted."""

from __future__ import annotations

from typing import Any

import pytest

from quicnet import Client, Network
from relay.core.reasons import DropReason
from relay.protocol import media


def frame(ctr: int) -> bytes:
    return media.encode_header(1, 0, ctr) + bytes(90)


@pytest.fixture
def net() -> Network:
    return Network()


def three(net: Network) -> list[Client]:
    """Legs 2 and 3 hear flow 1 of leg 1."""
    clients = [Client(net, port) for port in (1001, 1002, 1003)]
    net.run(1.0)
    net.lane.open_flow(1, 1, index=0, group=False)
    net.lane.route(1, 1, [(2, 2), (3, 2)], None)
    return clients


class Rotten(dict[Any, Any]):
    """A table that cannot be read, as no input leaves one."""

    def get(self, *_: object) -> Any:
        raise ZeroDivisionError


def spoil(net: Network, leg: int, name: str) -> None:
    lane: Any = net.lane
    setattr(lane._legs[leg], name, Rotten())


def settled(net: Network) -> bool:
    return not net.lane.counters.imbalance() and not net.endpoint.imbalance()


@pytest.mark.parametrize("way", ["packet path", "aioquic"])
def test_a_bug_met_over_a_listener_costs_it_and_the_others_hear(net: Network, way: str) -> None:
    speaker, _, other = three(net)
    spoil(net, 2, "queues")
    if way == "packet path":
        speaker.say(frame(1))
    else:
        assert net.lane.deliver(1, frame(1), net.now) is None
        net.endpoint.flush()
    net.run(0.1)
    assert len(other.got) == 1
    assert [leg for leg, _ in net.told("lost")] == [2]
    assert net.endpoint.internal_errors == 1
    assert +net.lane.counters.dropped_out == {DropReason.INTERNAL: 1}
    assert settled(net)


@pytest.mark.parametrize("way", ["packet path", "aioquic"])
def test_a_bug_met_over_a_speaker_costs_it_and_nobody_else(net: Network, way: str) -> None:
    speaker, _, other = three(net)
    spoil(net, 1, "flows")
    if way == "packet path":
        speaker.say(frame(1))
    else:
        assert net.lane.deliver(1, frame(1), net.now) is DropReason.INTERNAL
        net.endpoint.flush()
    net.run(0.1)
    assert [leg for leg, _ in net.told("lost")] == [1]
    assert net.endpoint.internal_errors == 1
    assert +net.lane.counters.dropped == {DropReason.INTERNAL: 1}
    other.write(b"still here")
    net.run(0.1)
    assert net.told("stream") == [(3, b"still here")]
    assert settled(net)


def test_a_bug_met_over_a_held_acknowledgement_costs_its_leg_only(net: Network) -> None:
    clients = three(net)

    def explode(*_: object) -> bytes:
        raise ZeroDivisionError

    setattr(net.endpoint._by_leg[1].quic.path, "seal", explode)  # noqa: B010 - a method, on one object
    for client in clients:
        client.say(b"\0\0")  # acknowledged by itself, as no audio comes back
    net.run(0.2)
    assert [leg for leg, _ in net.told("lost")] == [1]
    assert clients[2].quic._loss.bytes_in_flight == 0
    assert settled(net)
