"""Which of the legs of a session carries what."""

from __future__ import annotations

from typing import Any

from relay.client.footing import Footing


class Leg:
    """A leg that only counts."""

    def __init__(self) -> None:
        self.error: object = None
        self.unsent = 0
        self.repeated = 0

    def forgive(self) -> None:
        self.unsent = 0


def footing(*legs: Any) -> Footing:
    made = Footing()
    for leg in legs:
        made.step(leg)
    return made


def test_on_no_leg_nothing_is_sent_and_nothing_heard():
    none = Footing()
    assert (none.legs, none.mouths, none.ear, none.carrier("up"), none.unsent) == ((), (), None, None, 0)


def test_one_leg_carries_all_and_so_do_two_in_a_move_until_the_old_one_is_left():
    old, new = Leg(), Leg()
    one = footing(old)
    assert (one.mouths, one.ear, one.carrier("up")) == ((old,), old, old)
    assert one.step(new) is old
    assert (one.mouths, one.ear, one.main) == ((new, old), new, new)
    one.leave()
    assert (one.mouths, one.ear, one.legs) == ((new,), new, (new,))


def test_a_leg_that_is_closed_is_not_kept_beside():
    old, new = Leg(), Leg()
    old.error = "closed"
    one = footing(old)
    assert one.step(new) is None
    assert one.legs == (new,)


def test_divided_each_leg_carries_one_way_once_that_is_settled():
    old, new = Leg(), Leg()
    for way, mouth, ear in (("down", new, old), ("up", old, new)):
        one = footing(old, new)
        one.divide(way)
        assert (one.mouths, one.ear) == ((new, old), ear)
        one.settle()
        assert (one.mouths, one.ear) == ((mouth,), ear)
        assert (one.carrier("up"), one.carrier("down")) == (mouth, ear)


def test_united_the_chosen_leg_is_the_main_one_and_both_carry_until_the_other_is_left():
    old, new = Leg(), Leg()
    for chosen, other in ((old, new), (new, old)):
        one = footing(old, new)
        one.divide("down")
        one.settle()
        one.unsettle()
        assert one.mouths == (new, old)
        assert one.unite(chosen) is other
        assert (one.main, one.ear, set(one.mouths)) == (chosen, chosen, {old, new})
        one.settle()  # a timer of the time before: it changes nothing
        assert len(one.mouths) == 2
        one.leave()
        assert one.legs == (chosen,)


def test_a_leg_that_dies_leaves_all_to_the_other_whatever_it_carried():
    for way in ("up", "down"):
        for dies in (0, 1):
            legs = Leg(), Leg()
            one = footing(*legs)
            one.divide(way)
            one.settle()
            one.on_closed(legs[dies])
            left = legs[1 - dies]
            assert (one.mouths, one.ear, one.main, one.way) == ((left,), left, left, None)
    alone = footing(legs[0])
    alone.on_closed(legs[0])
    assert alone.main is legs[0]  # who else
    alone.on_closed(legs[1])
    assert alone.main is legs[0]


def test_what_was_not_sent_is_counted_once_and_not_where_another_leg_sent_it():
    old, new = Leg(), Leg()
    one = footing(old)
    old.unsent = 3
    one.step(new)
    assert one.unsent == 3
    old.unsent = 5  # the new one sends the same
    one.divide("up")
    one.settle()
    assert one.unsent == 3
    old.unsent = 2
    assert one.unsent == 5
    one.leave()
    assert one.unsent == 5
    new.unsent = 1
    assert one.unsent == 6


def test_what_went_again_is_counted_of_every_leg_once():
    old, new, newest = Leg(), Leg(), Leg()
    one = footing(old)
    old.repeated = 2
    one.step(new)
    new.repeated = 3
    assert one.repeated == 5
    one.leave()
    assert one.repeated == 5
    new.error = "gone"
    one.step(newest)
    newest.repeated = 1
    assert one.repeated == 6
    one.step(Leg())
    one.on_closed(one.main)
    assert one.repeated == 6
