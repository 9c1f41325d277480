"""Wishes of listeners become what their speakers are told, seldom, and by the right leg."""

import pytest

from pair import World
from relay.core import events as ev
from relay.core.asking import Asking
from relay.core.hints import Hint, Wish
from relay.protocol import control

USUAL = Hint(24_000, 20)
LOW = Hint(16_000, 60)


class Life:
    """Two people, and the machine by itself."""

    def __init__(self):
        self.world = World()
        self.ann, self.bob = self.world.talking()
        self.node = self.world.engine.node
        self.asking = Asking(self.node)

    def wish(self, client, wish):
        self.asking.on_wish(self.node.legs[client.leg], Wish(wish))

    def pass_(self, seconds):
        for _ in range(round(seconds * 5)):
            self.world.now += 0.2
            self.node.now = self.world.now
            self.asking.on_turn()
        self.world.feed(ev.Tick())

    def told(self, client):
        return [(rate.bps, rate.pt) for rate in client.all(control.Rate)]


@pytest.fixture
def life():
    return Life()


def test_nobody_is_told_what_is_done_anyway(life):
    life.wish(life.bob, USUAL)
    life.pass_(10)
    assert life.told(life.ann) == []


def test_whom_one_hears_is_told_at_once_and_again_before_it_is_void(life):
    life.wish(life.bob, LOW)
    life.pass_(0.2)
    assert life.told(life.ann) == [(16_000, 60)]
    assert life.ann.last(control.Rate).ttl == 5000
    life.wish(life.bob, LOW)
    life.pass_(9)
    assert life.told(life.ann) == [(16_000, 60)] * 3
    assert life.told(life.bob) == []


def test_a_wish_that_comes_soon_after_another_is_told_a_second_after_that(life):
    life.wish(life.bob, LOW)
    life.pass_(0.4)
    life.wish(life.bob, Hint(12_000, 60))
    life.pass_(0.6)
    assert life.told(life.ann) == [(16_000, 60)]
    life.pass_(0.4)
    assert life.told(life.ann) == [(16_000, 60), (12_000, 60)]


def test_when_all_is_well_again_that_is_told_once(life):
    life.wish(life.bob, LOW)
    life.pass_(0.2)
    life.wish(life.bob, USUAL)
    life.pass_(20)
    assert life.told(life.ann) == [(16_000, 60), (24_000, 20)]
    assert life.node.legs[life.bob.leg].wish is None
    assert not life.asking._open


def test_a_wish_of_somebody_who_hears_nobody_reaches_nobody(life):
    lonely = life.world.client(life.world.call().token()).enter()
    life.wish(lonely, LOW)
    stranger = life.world.client(life.world.call().token())
    stranger.open()
    life.wish(stranger, LOW)
    life.pass_(1)
    assert not life.asking._open


def test_a_speaker_who_is_gone_is_told_nothing(life):
    life.wish(life.bob, LOW)
    life.ann.lose()
    life.pass_(1)
    assert life.told(life.ann) == []
    assert not life.asking._open


def test_a_call_that_is_over_is_forgotten(life):
    life.wish(life.bob, LOW)
    life.ann.hangup()
    life.world.run(30)
    life.pass_(1)
    assert not life.asking._open


def test_a_seat_that_nobody_has_wishes_nothing(life):
    leg = life.node.legs[life.bob.leg]
    life.node.calls[leg.call].seats.pop(leg.index)
    life.wish(life.bob, LOW)
    assert not life.asking._open
