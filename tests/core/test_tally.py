"""What a leg remembers of pings, and how the relay tells it."""

from pair import World
from relay.core import events as ev
from relay.core.tally import SPAN, WINDOW, Pings
from relay.protocol import datagram

OURS = 0x8000_0000


def came(*numbers: int) -> Pings:
    pings = Pings()
    for number in numbers:
        pings.on_ping(number)
    return pings


def test_what_came_is_marked_and_what_did_not_is_not():
    assert came(1, 2, 4).map(1) == 0b1011
    assert came(1, 2, 4).map(4) == 0b1
    assert Pings().map(1) == 0


def test_order_and_repeats_change_nothing():
    assert came(4, 1, 2, 2).map(1) == came(1, 2, 4).map(1)


def test_an_answer_tells_of_64_pings_and_128_are_remembered():
    pings = came(*range(1, 2 * WINDOW + 1))
    assert pings.map(WINDOW + 1) == (1 << SPAN) - 1
    assert pings.map(WINDOW) == (1 << SPAN) - 2
    assert pings.map(1) == 0
    pings.on_ping(1)  # too old to be remembered
    assert pings.map(1) == 0
    assert pings.map(2 * WINDOW + 1) == 0


def test_pings_of_another_count_are_not_mixed_up_with_it():
    pings = came(7, OURS + 1, 8, OURS + 3)
    assert pings.map(OURS + 1) == 0b101
    assert pings.map(7) == 0
    far = came(1)
    far.on_ping(2**32 - 1)
    assert far.map(2**32 - 1) == 1


def test_the_relay_says_which_pings_of_a_leg_came_even_before_it_said_hello():
    world = World()
    ann = world.client(world.call().token()).open()
    bob = world.client(world.call().token()).open()
    for leg, seq in ((ann.leg, 1), (ann.leg, 3), (bob.leg, 2)):
        world.feed(ev.DatagramReceived(leg, datagram.encode_datagram(datagram.Ping(0, OURS + seq))))
    world.feed(ev.DatagramReceived(ann.leg, datagram.encode_datagram(datagram.Tally(OURS + 1))))
    assert datagram.decode_datagram(ann.datagrams[-1]) == datagram.Tallied(OURS + 1, 0b101)
    assert len(ann.datagrams) == 3


def test_what_only_a_relay_says_is_not_answered():
    world = World()
    ann = world.client(world.call().token()).open()
    world.feed(ev.DatagramReceived(ann.leg, datagram.encode_datagram(datagram.Tallied(1, 1))))
    assert ann.datagrams == []
