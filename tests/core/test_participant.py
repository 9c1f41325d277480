import dataclasses

import pytest

from pair import World
from relay.config import LimitsConfig
from relay.core.events import FlowCounters
from relay.core.participant import Participant, Presence
from relay.core.reasons import DropReason
from relay.errors import LocalError
from relay.protocol.ids import Sub

CLAIMS = World().call().claims()


def somebody() -> Participant:
    one = Participant(0, CLAIMS, LimitsConfig(), 0.0, 1000.0)
    one.on_joined(CLAIMS, 1, 0.0)
    return one


def accepted() -> Participant:
    one = somebody()
    one.on_accepted(1, (5,))
    return one


def test_devices_ring_together_until_one_accepts():
    one = somebody()
    one.on_joined(CLAIMS, 2, 1.0)
    assert one.legs == [1, 2]
    assert one.leg is None
    assert one.accept_by() == 45.0
    one.on_accepted(2, (5,))
    assert (one.state, one.legs, one.leg) == (Presence.ACCEPTED, [2], 2)
    assert one.accept_by() is None
    assert one.lapses_at(7.0) == 37.0


def test_an_accept_outlives_the_leg_for_60_seconds_and_the_place_for_90():
    one = accepted()
    assert one.accept_expires_at() is None
    assert one.gone_at() is None
    one.drop_leg(1)
    one.on_silenced(100.0)
    assert one.is_accepted
    assert one.leg is None
    assert (one.accept_expires_at(), one.gone_at(), one.ticket_at()) == (160.0, 190.0, None)
    one.on_accept_expired()
    assert (one.state, one.is_accepted, one.accept_expires_at()) == (Presence.ABSENT, False, None)


def test_who_returns_in_time_has_still_accepted_on_the_new_leg():
    one = accepted()
    one.drop_leg(1)
    one.on_silenced(100.0)
    one.on_returned(5, 120.0)
    assert (one.state, one.legs, one.leg, one.gone_at()) == (Presence.ACCEPTED, [5], 5, None)


def test_who_returns_on_the_same_leg_has_it_once():
    one = accepted()
    one.on_silenced(100.0)
    one.on_returned(1, 110.0)
    assert one.legs == [1]


def test_who_returns_too_late_rings_anew():
    one = accepted()
    one.on_silenced(100.0)
    one.on_accept_expired()
    one.on_returned(1, 170.0)
    assert (one.state, one.legs, one.accept_by()) == (Presence.JOINED, [1], 215.0)


def test_a_ringing_device_that_returns_is_one_more_device():
    one = somebody()
    one.on_returned(4, 1.0)
    assert one.legs == [1, 4]


def test_a_newer_join_needs_a_new_accept():
    one = accepted()
    one.drop_leg(1)
    one.on_joined(CLAIMS, 9, 50.0)
    assert (one.state, one.legs, one.accept_by()) == (Presence.JOINED, [9], 95.0)


def test_who_left_is_out_and_may_come_again():
    one = accepted()
    one.on_left("completed", 1100.0)
    assert not one.is_here
    assert (one.legs, one.why, one.left_wall) == ([], "completed", 1100.0)
    one.on_joined(CLAIMS, 3, 10.0)
    assert one.is_here
    assert one.left_wall is None


def test_tickets_are_due_every_30_seconds_while_there_is_a_leg():
    one = somebody()
    first = one.ticket_at()
    assert first is not None
    one.on_ticket(first)
    assert one.ticket_at() == first + 30.0


def test_first_tickets_are_spread_over_half_a_turn_so_that_those_who_came_together_are_no_burst():
    def first(draw: int) -> float | None:
        who = dataclasses.replace(CLAIMS, sub=Sub(bytes([draw]) + bytes(15)))
        one = Participant(0, who, LimitsConfig(), 100.0, 1000.0)
        one.on_joined(who, 1, 100.0)
        return one.ticket_at()

    assert [first(draw) for draw in (0, 128, 255)] == [116.0, 122.0, 129.0]


def test_tickets_of_many_are_due_at_the_same_moments_one_thirtieth_of_a_turn_apart():
    ones = [
        Participant(
            0, dataclasses.replace(CLAIMS, sub=Sub(bytes([draw]) + bytes(15))), LimitsConfig(), now, 0.0
        )
        for draw, now in enumerate((100.0, 100.3, 100.7, 101.1))
    ]
    for one in ones:
        one.on_joined(one.claims, 1, 100.0)
    first = [one.ticket_at() for one in ones]
    assert first == [116.0, 116.0, 116.0, 117.0]
    for one, at in zip(ones, first, strict=True):
        one.on_ticket(at + 0.004)
    assert [one.ticket_at() for one in ones] == [at + 30.0 for at in first]


def test_what_the_lane_counted_adds_up():
    one = somebody()
    one.count(FlowCounters(5, 3, 6, 1, {DropReason.MUTED: 2}))
    one.count(FlowCounters(1, 0, 0, 0, {DropReason.MUTED: 1}))
    assert one.totals == {"received": 6, "accepted": 3, "copies": 6, "lost": 1, "mended": 0}
    assert one.dropped == {"muted": 3}


def test_nobody_accepts_twice():
    one = accepted()
    with pytest.raises(LocalError):
        one.on_accepted(1, (5,))


def test_a_leg_that_is_left_carries_on_for_three_seconds_and_may_take_its_place_back():
    one = accepted()
    one.hearing = {1: 4}
    one.fade(10.0)
    one.on_returned(2, 10.0)
    assert one.beside is not None
    assert (one.legs, one.all_legs, one.beside.until, one.hearing) == ([2], [2, 1], 13.0, {})
    one.drop_leg(2)
    one.recall()
    assert (one.leg, one.all_legs, one.hearing) == (1, [1], {1: 4})
    one.fade(20.0)
    one.on_returned(3, 20.0)
    one.drop_leg(1)
    assert one.all_legs == [3]


def beside(way=None, now=10.0):
    one = accepted()
    one.hearing = {1: 4}
    one.fade(now)
    one.on_returned(2, now)
    one.hearing = {1: 5}
    if way is not None:
        one.divide(2, way, now)
        one.beside.settles = None
    return one


def carried(one):
    return [
        "".join(way[0] for way in ("up", "down") if one.carries(place, way)) or "-" for place in one.places
    ]


def test_one_leg_carries_all_and_so_do_two_in_a_move():
    one = accepted()
    assert (carried(one), one.leg_for("up"), one.leg_for("down")) == (["ud"], 1, 1)
    assert one.beside_until(5.0) is None
    one = beside()
    assert (carried(one), one.leg_for("up"), one.leg_for("down")) == (["ud", "ud"], 2, 2)
    assert one.beside_until(12.0) == 13.0


def test_divided_each_leg_carries_one_way_while_it_is_heard():
    one = beside("up")
    assert (carried(one), one.leg_for("up"), one.leg_for("down")) == (["u", "d"], 2, 1)
    one.divide(1, "up", 20.0)
    assert (carried(one), one.beside.settles) == (["ud", "ud"], 20.5)
    one.beside.settles = None
    assert (carried(one), one.leg_for("up"), one.leg_for("down")) == (["d", "u"], 1, 2)
    assert one.beside_until(40.0) == 70.0


@pytest.mark.parametrize("leg", [1, 2])
def test_united_one_leg_has_the_place_and_the_other_one_fades(leg):
    one = beside("up")
    assert one.unite(leg, 20.0)
    assert (one.all_legs, carried(one), one.beside_until(20.0)) == ([leg, 3 - leg], ["ud", "ud"], 23.0)
    assert (one.hearing, one.beside.hearing) == (({1: 4}, {1: 5}) if leg == 1 else ({1: 5}, {1: 4}))


def test_legs_carry_the_same_three_times_in_half_a_minute_at_most():
    one = beside()
    for now in (10.0, 11.0, 12.0):
        one.divide(2, "up", now)
        assert one.beside.settles is not None
    one.divide(2, "down", 13.0)
    assert one.beside.settles is None
    assert not one.unite(2, 14.0)
    one.divide(2, "up", 20.0)
    assert one.beside.settles == 20.5


@pytest.mark.parametrize(
    ("state", "away", "rings"),
    [(Presence.AWAY, 5.0, False), (Presence.ABSENT, 5.0, True), (Presence.LEFT, None, False)],
)
def test_somebody_known_from_another_node_is_away_since_then(state, away, rings):
    claims = World().call().claims()
    one = Participant.expected(
        1, claims, LimitsConfig(), 9.0, 100.0, state=state, since=5.0, ever_accepted=True
    )
    assert (one.state, one.away_at, one.is_expected, one.ever_accepted) == (state, away, True, True)
    assert (one.left_wall is not None) == (state is Presence.LEFT)
    assert (one.accept_by() is not None) == rings
    one.on_joined(claims, 7, 10.0)
    assert not one.is_expected
