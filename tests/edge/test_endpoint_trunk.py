"""A connection that is a trunk: real handshakes and keys of aioquic, voices on routes beside its streams."""

from __future__ import annotations

from typing import Any

import pytest

from lanes import LANES
from quicnet import Client, Network
from relay.protocol import media, trunk

PLENTY = 10**7
NODE, LEG = 1, 2
ROUTES = (64, 65, 1000)


class Nodes(Network):
    """The first who connects is another node, the others are people."""

    def opened(self, leg: int, *rest: Any, **named: Any) -> None:
        if leg == NODE:
            self.facts.append(("opened", leg, True))
            self.lane.open_trunk(leg)
        else:
            super().opened(leg, *rest, **named)


def voice(ctr: int) -> bytes:
    return media.encode_header(4, 0, ctr) + bytes((ctr % 256,)) * 90


@pytest.fixture(params=LANES)
def net(request: pytest.FixtureRequest) -> Nodes:
    return Nodes(lane=request.param)


def joined(net: Nodes) -> tuple[Client, Client]:
    """Another node and a person: what the person says goes there on three routes, 64 is heard."""
    node = Client(net, 1001)
    net.run(1.0)
    person = Client(net, 1002)
    net.run(1.0)
    net.lane.open_flow(LEG, 4, index=0, group=False)
    net.lane.route(LEG, 4, [(NODE, route) for route in ROUTES], None)
    net.lane.open_route(NODE, 64, index=0, group=False, pps=500, up_bps=PLENTY)
    net.lane.route(NODE, 64, [(LEG, 9)], None)
    return node, person


def test_voices_go_both_ways_while_keys_change_and_none_is_lost(net: Nodes) -> None:
    node, person = joined(net)
    path = net.endpoint._by_leg[NODE].quic.path
    path.update_after = 40
    for ctr in range(400):
        person.say(voice(ctr))
        node.say(trunk.from_leg(voice(ctr), 64))
        if ctr % 50 == 0:
            node.write(b"beat")
        net.run(0.02)
    net.run(1.0)
    expected = [trunk.from_leg(voice(ctr), route) for ctr in range(400) for route in ROUTES]
    assert [data for data in node.got if data[0]] == expected
    assert person.got == [media.with_flow(voice(ctr), 9, False) for ctr in range(400)]
    assert path.key_updates >= 5
    assert path.media_lost == 0
    assert net.told("stream") == [(NODE, b"beat")] * 8
    assert net.told("lost") == []


def test_voices_that_come_together_leave_in_one_packet_within_two_milliseconds(net: Nodes) -> None:
    node, person = joined(net)
    person.say(voice(0))
    net.run(0.1)
    before = len(net.sent)
    net.lane.deliver(LEG, voice(1), net.now)
    net.endpoint.flush()
    net.run(0.002)
    packets = [data for data, address in net.sent[before:] if address == node.addr]
    assert len(packets) == 1
    assert len(packets[0]) > 3 * len(voice(1))


def test_what_waits_for_a_node_that_is_gone_is_dropped_and_the_leg_goes_on(net: Nodes) -> None:
    node, person = joined(net)
    node.quic.close()
    node.flush()
    net.run(1.0)
    assert [leg for leg, _ in net.told("lost")] == [NODE]
    person.say(voice(1))
    net.run(0.1)
    assert net.lane.counters.accepted == 1
    assert net.lane.counters.queued == 0
    assert sum(net.lane.counters.dropped_out.values()) == len(ROUTES)
