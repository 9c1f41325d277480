"""Whose voice a report is about, which round trips belong to it, and where the judgement goes."""

import pytest

from pair import World, canaries
from relay.core import events as ev
from relay.protocol import control, datagram


@pytest.fixture
def world():
    return World()


def report(world, listener, flow, seconds=11.0, measured=True):
    """A report each 200 ms, of all packets."""
    newest = 63
    for seq in range(round(seconds * 5)):
        world.now += 0.2
        newest += 10
        if measured:
            world.feed(ev.RoundTrips(dict.fromkeys([*world.clients, 999], 0.05)))
        one = datagram.FlowReport(flow, 0, newest - 63, (1 << 64) - 1, 0, 10, 20, 0, 60, 0, 0)
        raw = datagram.encode_datagram(datagram.LegReport(seq, 200 * seq, (one,)))
        world.feed(ev.DatagramReceived(listener.leg, raw))


def seat(world, client):
    (call,) = world.engine.node.calls.values()
    return call.seats[client.index]


def flow_of(world, listener, speaker):
    return seat(world, listener).hearing[speaker.index]


def test_a_listeners_judgement_of_a_speaker_is_in_its_part_of_the_record(world):
    ann, bob = world.talking()
    report(world, bob, flow_of(world, bob, ann))
    ann.hangup()
    world.run(10)
    quality = {part.index: part.quality for part in world.records[0].participants}
    assert quality[bob.index]["mos"] > 4.0
    assert quality[bob.index]["delay_ms"] == pytest.approx(20 + 6.5 + 50 + 60 + 40)
    assert quality[ann.index] == {}
    asked = {output.leg for output in world.outputs if isinstance(output, ev.AskRoundTrip)}
    assert asked == {ann.leg, bob.leg}


def test_a_flow_that_is_nobodys_tells_nothing(world):
    ann, bob = world.talking()
    report(world, bob, flow_of(world, bob, ann) + 1)
    assert seat(world, bob).hearings == {}


def test_before_the_accept_there_is_no_leg_of_media(world):
    _, bob = world.pair()
    report(world, bob, 1)
    assert seat(world, bob).hearings == {}


def test_round_trips_that_no_acknowledgements_tell_may_be_known_by_a_ping(world):
    for known in (False, True):
        world = World()
        ann, bob = world.talking()
        if known:
            for client in (ann, bob):
                world.engine.node.legs[client.leg].rtt = 0.05
        report(world, bob, flow_of(world, bob, ann), measured=False)
        summary = seat(world, bob).hearings[ann.index].direction.summary()
        assert summary.windows == (2 if known else 0)


def test_a_speaker_who_is_away_has_no_round_trip(world):
    ann, bob = world.talking()
    flow = flow_of(world, bob, ann)
    ann.lose()
    report(world, bob, flow)
    hearings = seat(world, bob).hearings
    assert all(one.direction.summary().windows == 0 for one in hearings.values())


def test_a_speaker_between_two_legs_is_asked_for_no_round_trip(world):
    ann, bob = world.talking()
    seat(world, ann).legs.clear()
    report(world, bob, flow_of(world, bob, ann), seconds=1.0)
    asked = [output.leg for output in world.outputs if isinstance(output, ev.AskRoundTrip)]
    assert asked == [bob.leg]


def test_of_two_legs_the_one_that_brings_media_is_listened_to(world):
    ann, bob = world.talking(key=True)
    again = bob.resume()
    again.rejoin()
    again.ask(control.Carry(c=bob.cid, way="up"))
    report(world, again, seat(world, bob).hearing[0], seconds=1.0)
    assert seat(world, bob).hearings == {}
    report(world, bob, seat(world, bob).beside.hearing[0], seconds=1.0)
    assert list(seat(world, bob).hearings) == [ann.index]


def test_round_trips_of_calls_are_counted_and_those_of_canaries_and_of_nobody_are_not():
    for settings, counted in ((None, 1), (canaries(), 0)):
        world = World(settings)
        ann, _ = world.talking()
        world.feed(ev.RoundTrips({ann.leg: 0.05}))
        assert world.engine.node.tallies.rtt["quic"].cumulative()[-1] == counted
        ann.hangup()
        world.feed(ev.RoundTrips({ann.leg: 0.05}))
        assert world.engine.node.tallies.rtt["quic"].cumulative()[-1] == counted
