"""What is missing of a web page's audio is asked for by name, and what its person misses goes again."""

from dataclasses import replace

import pytest

from core.test_adapting import OFF, ON
from pair import World, config
from relay.core import events as ev
from relay.protocol import control, datagram
from relay.protocol.datagram import Nack

ASK = Nack(1, 0, 7, 0b101)


@pytest.fixture
def world():
    return World(replace(config(), adapt=ON))


def talking(world, **caps):
    """Both, the first with these abilities."""
    world.caps = control.Caps(**caps)
    ann, bob = world.talking()
    world.feed(ev.RoundTrips({ann.leg: 0.04, bob.leg: 0.04}))
    return ann, bob


def of(world, kind):
    return [output for output in world.outputs if isinstance(output, kind)]


def ask(client):
    client.world.feed(ev.DatagramReceived(client.leg, datagram.encode_datagram(ASK)))


def gap(world, client, newest, missing, flow=None):
    flow = flow or next(one.flow for one in of(world, ev.OpenFlow) if one.leg == client.leg)
    world.feed(ev.Gap(client.leg, flow, 0, newest, missing))
    return [datagram.decode_datagram(data) for data in client.datagrams]


def test_an_uplink_is_watched_whose_client_sees_no_acknowledgements_and_no_other(world):
    talking(world, nack=True)
    assert {flow.watched for flow in of(world, ev.OpenFlow)} == {True}
    plain = World(replace(config(), adapt=ON))
    talking(plain)
    off = World(replace(config(), adapt=OFF))
    talking(off, nack=True)
    assert {flow.watched for one in (plain, off) for flow in of(one, ev.OpenFlow)} == {False}


def test_what_is_missing_is_asked_for_by_name_and_not_more_often_than_the_rule_says(world):
    ann, _ = talking(world, nack=True)
    assert gap(world, ann, 9, 0) == []
    asked = gap(world, ann, 12, 0b11)
    assert asked == [Nack(asked[0].flow, 0, 10, 0b11)]
    assert gap(world, ann, 13, 0b110) == asked
    assert world.engine.counters["nack", "sent"] == 1


def test_before_the_round_trip_is_known_it_is_asked_for_that_instead(world):
    world.caps = control.Caps(nack=True)
    ann, _ = world.talking()
    assert gap(world, ann, 12, 0b11) == []
    assert of(world, ev.AskRoundTrip)[-1].leg == ann.leg


def test_gaps_of_other_flows_of_legs_that_are_gone_and_where_it_is_off_are_nothing(world):
    ann, _ = talking(world, nack=True)
    assert gap(world, ann, 12, 0b11, flow=60) == []
    world.feed(ev.Gap(99, 1, 0, 12, 0b11))
    world.feed(ev.ConfigChanged(replace(world.config, adapt=OFF)))
    assert gap(world, ann, 12, 0b11) == []
    world.feed(ev.ConfigChanged(replace(world.config, adapt=ON)))
    ann.hangup()
    assert gap(world, ann, 14, 0b11) == []


def test_a_listeners_request_is_the_lanes_and_its_way_is_looked_at(world):
    _, bob = talking(world)
    ask(bob)
    assert of(world, ev.Resend) == [ev.Resend(bob.leg, ASK)]
    assert world.engine.watched() == [bob.leg]


def test_requests_outside_a_call_and_where_it_is_off_are_ignored(world):
    lonely = world.client(world.call().token())
    lonely.open()
    ask(lonely)
    off = World(replace(config(), adapt=OFF))
    _, bob = talking(off)
    ask(bob)
    assert of(world, ev.Resend) == of(off, ev.Resend) == []


def test_a_flood_of_requests_costs_its_sender_the_budget_of_its_control_datagrams(world):
    _, bob = talking(world)
    for _ in range(1000):
        ask(bob)
    assert len(of(world, ev.Resend)) == world.config.limits.control_burst
    assert world.engine.counters["dropped", "over_budget"] == 1000 - world.config.limits.control_burst
