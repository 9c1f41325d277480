"""Measures of legs in calls become orders to the lane and a word to the listener, where that is on."""

from dataclasses import replace

import pytest

from pair import World, config
from relay.config_voice import AdaptConfig
from relay.core import events as ev
from relay.core.adapt import Mode
from relay.protocol import control, datagram
from trunkrig import Net

MEASURE = ev.Measure(0, 0, 0, 0, 0, 0, 0.005, 0.0, (0.04, 0.04, 0.002, 0.04), 0, 0, 0, 0, 0)
ON = AdaptConfig(enabled=True)
OFF = AdaptConfig(enabled=False)


@pytest.fixture
def world():
    return World(replace(config(), adapt=ON))


def pass_(world, leg, ticks, lost=0):
    """Ten packets in each 200 ms, so many of them lost in a row."""
    for _ in range(ticks):
        world.now += 0.2
        before = getattr(world, "measured", MEASURE)
        world.measured = before._replace(
            leg=leg,
            acked=before.acked + 10 - lost,
            lost=before.lost + lost,
            runs=before.runs + bool(lost),
            bytes_sent=before.bytes_sent + 1200,
            bytes_acked=before.bytes_acked + 1200,
        )
        world.feed(ev.Measured([world.measured]))


def orders(world):
    return [output for output in world.outputs if isinstance(output, ev.SetRepair)]


def test_a_leg_in_a_call_on_whose_way_something_goes_wrong_is_armed_and_no_other(world):
    _, bob = world.talking()
    lonely = world.client(world.call().token())
    lonely.open()
    world.feed(ev.Measured([MEASURE._replace(leg=leg) for leg in (bob.leg, lonely.leg, 999)]))
    (order,) = orders(world)
    assert (order.leg, order.repair.mode, order.repair.depth) == (bob.leg, Mode.REPEATS, 10.0)
    assert order.repair.max_age == 0.06
    assert bob.all(control.LegStats) == []


def test_a_lossy_way_gets_more_repair_and_its_listener_is_asked_to_wait_for_it(world):
    _, bob = world.talking()
    pass_(world, bob.leg, 20)
    pass_(world, bob.leg, 5, lost=3)
    assert [order.repair.budget for order in orders(world)] == [0.1, 1.0]
    stats = bob.last(control.LegStats)
    assert (stats.mp, stats.rtt) == (130, 40.0)
    assert stats.dn_loss > 1
    assert world.engine.watched() == [bob.leg]
    pass_(world, bob.leg, 120)
    assert bob.last(control.LegStats).mp == 0
    assert orders(world)[-1].repair.budget == 0.1
    counters = world.engine.counters
    assert (counters["leg_adapted", "lossy_b"], counters["leg_adapted", "clean"]) == (1, 1)


def test_a_leg_that_is_well_for_half_a_minute_is_as_one_that_never_suffered(world):
    ann, bob = world.talking()
    assert world.engine.watched() == []
    pass_(world, bob.leg, 148)
    assert world.engine.watched() == [bob.leg]
    pass_(world, bob.leg, 4)
    assert world.engine.watched() == []
    assert orders(world)[-1] == ev.SetRepair(bob.leg, ev.Repair())
    assert len(orders(world)) == 2
    pass_(world, bob.leg, 1, lost=1)
    assert (orders(world)[-1].repair.mode, world.engine.watched()) == (Mode.REPEATS, [bob.leg])
    ann.hangup()
    assert world.engine.watched() == []


def test_a_leg_on_which_nothing_is_wrong_is_due_once_a_second(world):
    _, bob = world.talking()
    assert world.engine.due(world.now) == []
    pass_(world, bob.leg, 1, lost=1)
    assert world.engine.due(world.now) == [bob.leg]
    pass_(world, bob.leg, 80)
    assert world.engine.watched() == [bob.leg]
    assert world.engine.due(world.now + 0.2) == []
    assert world.engine.due(world.now + 1.0) == [bob.leg]


def test_legs_may_be_armed_before_anything_goes_wrong_and_stay_so():
    world = World(replace(config(), adapt=AdaptConfig(enabled=True, always_armed=True)))
    ann, bob = world.talking()
    assert sorted(world.engine.watched()) == [ann.leg, bob.leg]
    for leg in (ann.leg, bob.leg):
        for _ in range(160):
            if leg in world.engine.watched():
                pass_(world, leg, 1)
    assert world.engine.watched() == []
    assert [order.repair.mode for order in orders(world)] == [Mode.REPEATS, Mode.REPEATS]
    pass_(world, bob.leg, 1, lost=1)
    assert len(orders(world)) == 2
    world.feed(ev.ConfigChanged(replace(world.config, adapt=OFF)))
    assert [order.repair for order in orders(world)[2:]] == [ev.Repair(), ev.Repair()]


def test_a_speaker_whose_listener_has_bursts_of_loss_is_asked_for_longer_packets(world):
    ann, bob = world.talking()
    pass_(world, bob.leg, 20)
    assert ann.all(control.Rate) == []
    pass_(world, bob.leg, 30, lost=3)
    asked = ann.last(control.Rate)
    assert (asked.bps, asked.pt, asked.fec, asked.ttl) == (24_000, 40, 0, 5000)
    assert bob.all(control.Rate) == []


def test_what_a_listener_reports_is_judged_once_its_way_was_measured(world):
    _, bob = world.talking()
    flow = datagram.FlowReport(1, 0, 0, 1, 0, 0, 0, 0, 90, 0, 0)
    report = ev.DatagramReceived(bob.leg, datagram.encode_datagram(datagram.LegReport(1, 0, (flow,))))
    world.feed(report)
    pass_(world, bob.leg, 1)
    world.feed(report)
    pass_(world, bob.leg, 1)
    assert [order.repair.max_age for order in orders(world)] == [0.06, 0.09]


def test_nothing_is_adapted_unless_it_is_switched_on():
    world = World(replace(config(), adapt=OFF))
    _, bob = world.talking()
    pass_(world, bob.leg, 30, lost=3)
    assert orders(world) == []


def test_switched_off_in_mid_call_repair_ends_and_listeners_hold_what_they_like(world):
    ann, bob = world.talking()
    pass_(world, bob.leg, 20)
    pass_(world, bob.leg, 5, lost=3)
    world.feed(ev.ConfigChanged(replace(world.config, limits=replace(world.config.limits, calls=9))))
    assert orders(world)[-1].repair.mode is Mode.REPEATS
    world.feed(ev.ConfigChanged(replace(world.config, adapt=OFF)))
    assert orders(world)[-1] == ev.SetRepair(bob.leg, ev.Repair())
    assert bob.last(control.LegStats).mp == 0
    assert ann.all(control.LegStats) == []
    count = len(orders(world))
    pass_(world, bob.leg, 5, lost=3)
    assert len(orders(world)) == count


def shapes(world):
    return [output.shape for output in world.outputs if isinstance(output, ev.SetShape)]


def test_a_congested_listener_gets_packets_that_are_shared_and_one_who_starves_two_frames_in_each(world):
    _, bob = world.talking()
    pass_(world, bob.leg, 1)
    assert shapes(world) == [ev.Shape(redundancy=False)]
    for rtt in range(60):
        world.measured = world.measured._replace(rtt=(0.1 + rtt / 100, 0.1 + rtt / 100, 0.002, 0.04))
        pass_(world, bob.leg, 1)
    assert shapes(world)[1] == ev.Shape(hold=0.005, redundancy=False)
    assert (shapes(world)[-1].frames, shapes(world)[-1].hold) == (2, 0.03)
    assert orders(world)[-1].repair.mode is Mode.OFF


def test_a_lossy_listener_gets_redundancy_and_one_who_is_let_go_all_there_is(world):
    _, bob = world.talking()
    pass_(world, bob.leg, 20)
    pass_(world, bob.leg, 5, lost=3)
    assert shapes(world)[-1] == ev.Shape()
    pass_(world, bob.leg, 120)
    assert shapes(world)[-1] == ev.Shape(redundancy=False)
    while world.engine.watched():
        pass_(world, bob.leg, 1)
    assert shapes(world)[-1] == ev.Shape()


def test_it_is_known_how_many_ways_stand_in_which_state(world):
    ann, bob = world.talking()
    assert world.engine.ways == {}
    pass_(world, bob.leg, 20)
    assert world.engine.ways == {"clean": 1}
    pass_(world, bob.leg, 5, lost=3)
    assert world.engine.ways == {"lossy_b": 1}
    ann.hangup()
    assert world.engine.ways == {}


def miss(client):
    """The listener says that something did not come."""
    nack = datagram.encode_datagram(datagram.Nack(1, 0, 7, 0b101))
    client.world.feed(ev.DatagramReceived(client.leg, nack))


def test_a_way_that_its_listener_complains_of_is_looked_at_until_it_was_well_for_half_a_minute(world):
    _, bob = world.talking()
    miss(bob)
    assert world.engine.watched() == [bob.leg]
    pass_(world, bob.leg, 148)
    assert [order.repair.mode for order in orders(world)] == [Mode.REPEATS]
    pass_(world, bob.leg, 4)
    assert world.engine.watched() == []


def test_a_complaint_of_a_way_that_is_looked_at_already_begins_the_half_minute_anew(world):
    _, bob = world.talking()
    pass_(world, bob.leg, 100)
    miss(bob)
    pass_(world, bob.leg, 148)
    assert world.engine.watched() == [bob.leg]
    pass_(world, bob.leg, 2)
    assert world.engine.watched() == []
    assert len(orders(world)) == 2


def press(world, pressure, seconds):
    for _ in range(seconds):
        world.now += 1.0
        world.feed(ev.Pressed(pressure))


def test_a_full_node_keeps_nothing_to_be_repeated_and_does_so_again_when_there_is_room(world):
    _, bob = world.talking()
    pass_(world, bob.leg, 20)
    pass_(world, bob.leg, 5, lost=3)
    assert orders(world)[-1].repair.budget == 1.0
    press(world, 0.9, 7)
    assert orders(world)[-1] == ev.SetRepair(bob.leg, ev.Repair())
    before = len(orders(world))
    pass_(world, bob.leg, 5, lost=3)
    assert len(orders(world)) == before
    assert world.engine.watched() == [bob.leg]  # senders are asked for less all the same
    press(world, 0.1, 20)
    pass_(world, bob.leg, 5, lost=3)
    assert orders(world)[-1].repair.mode is Mode.REPEATS
    steps = [output.classes for output in world.outputs if isinstance(output, ev.SetShedding)]
    assert steps == [{2}, set()]
    counters = world.engine.counters
    assert (counters["shed", "redundancy"], counters["shed", "nothing"]) == (1, 1)


def test_the_way_to_somebody_whose_call_is_another_nodes_is_looked_after_here():
    net = Net("a", "b", adapt=ON)
    _, bob = net.talking("a", "a", "b")
    guest = net["b"]
    pass_(guest, bob.leg, 20)
    pass_(guest, bob.leg, 5, lost=3)
    assert [order.repair.budget for order in orders(guest)] == [0.1, 1.0]
    assert guest.engine.counters["leg_adapted", "lossy_b"] == 1
    assert not guest.engine.node.tallies.state_s


def test_a_leg_of_a_half_has_no_way_of_ours():
    net = Net("a", "b", adapt=replace(ON, always_armed=True))
    ann, _ = net.talking("a", "a", "b")
    assert net["a"].engine.watched() == [ann.leg]
