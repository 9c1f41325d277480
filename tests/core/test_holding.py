"""Whoever hears a voice that is repaired on its way up is asked to hold more, for as long as that lasts."""

from dataclasses import replace

import pytest

from core.test_adapting import MEASURE, OFF, ON, pass_
from pair import World, config
from relay.core import events as ev
from relay.protocol import control


@pytest.fixture
def world():
    return World(replace(config(), adapt=ON))


def mend(world, leg, packets):
    world.now += 0.2
    world.feed(ev.Measured([MEASURE._replace(leg=leg, mended=packets)]))


def asked(client):
    return [stats.mp for stats in client.all(control.LegStats)]


def test_who_hears_a_mended_voice_holds_more_until_it_has_been_whole_for_long(world):
    ann, bob = world.talking()
    mend(world, ann.leg, 0)
    assert asked(bob) == []
    mend(world, ann.leg, 3)
    assert (asked(bob), asked(ann)) == ([130], [])
    for _ in range(70):
        mend(world, ann.leg, 3)
    assert asked(bob) == [130]
    for _ in range(10):
        mend(world, ann.leg, 3)
    assert asked(bob) == [130, 0]
    mend(world, ann.leg, 4)
    assert asked(bob) == [130, 0, 130]


def test_of_what_both_ways_need_the_greater_counts(world):
    ann, bob = world.talking()
    pass_(world, bob.leg, 20)
    pass_(world, bob.leg, 5, lost=3)
    assert asked(bob) == [130]
    mend(world, ann.leg, 3)
    assert asked(bob) == [130]
    for _ in range(76):
        mend(world, ann.leg, 3)
    assert asked(bob) == [130]  # its own way still needs that


def test_switched_off_nobody_is_asked_for_anything_any_more(world):
    ann, bob = world.talking()
    mend(world, ann.leg, 3)
    world.feed(ev.ConfigChanged(replace(world.config, adapt=OFF)))
    assert asked(bob) == [130, 0]
    mend(world, ann.leg, 9)
    assert asked(bob) == [130, 0]


def test_somebody_who_left_hears_nobody(world):
    ann, bob = world.talking()
    ann.hangup()
    mend(world, ann.leg, 3)
    assert asked(bob) == []


def test_a_mended_voice_that_went_away_is_not_held_for(world):
    ann, bob = world.talking()
    mend(world, ann.leg, 3)
    assert asked(bob) == [130]
    ann.lose()
    pass_(world, bob.leg, 1)
    assert asked(bob) == [130, 0]


def test_of_a_voice_whose_leg_nobody_knows_any_more_nothing_is_expected_though_its_flow_is_open(world):
    ann, bob = world.talking()
    mend(world, ann.leg, 3)
    node = world.engine.node
    node.forget_leg(node.legs[ann.leg])
    assert ann.index in node.calls[bob.cid].seats[bob.index].hearing
    pass_(world, bob.leg, 1)
    assert asked(bob) == [130, 0]


def test_switched_off_a_leg_without_a_call_is_asked_for_nothing(world):
    ann, bob = world.talking()
    lonely = world.client(world.call().token()).open()
    mend(world, ann.leg, 3)
    world.feed(ev.ConfigChanged(replace(world.config, adapt=OFF)))
    assert (asked(bob), asked(lonely)) == ([130, 0], [])
