import pytest

from pair import World
from relay.config import LimitsConfig
from relay.core.call import Call, Stage
from relay.core.consent import Fact
from relay.core.participant import Participant, Presence
from relay.core.paths import Pair
from relay.core.policy import Terms
from relay.core.ringing import Why
from relay.errors import ErrorCode, PeerError
from relay.protocol import token
from relay.protocol.ids import PersonId, Sub

IDS = World().call()
GROUP = (512, 512, 500, 32)


def call(**changes) -> Call:
    return Call(IDS.cid, IDS.claims(**changes), LimitsConfig(), 0.0, 1000.0)


def sit(one: Call, leg: int, **changes):
    claims = IDS.claims(**changes)
    seat = one.seat(claims, 0.0, 1000.0)
    seat.on_joined(claims, leg, 0.0)
    one.admit_rights(seat)
    return seat


def test_a_call_of_two_takes_two_and_a_third_finds_it_full():
    one = call()
    first, second = sit(one, 1), sit(one, 2)
    assert (one.is_pair, first.index, second.index) == (True, 0, 1)
    assert one.is_caller(first)
    assert not one.is_caller(second)
    with pytest.raises(PeerError) as caught:
        sit(one, 3)
    assert caught.value.code is ErrorCode.CALL_FULL


def test_a_group_takes_as_many_as_its_opener_said_and_32_at_most():
    one = call(lim=(512, 512, 500, 99))
    for leg in range(32):
        assert sit(one, leg, lim=GROUP).index == leg
    with pytest.raises(PeerError):
        sit(one, 33, lim=GROUP)


def test_a_token_with_a_smaller_limit_comes_into_a_smaller_call_only():
    one = call(lim=GROUP)
    for leg in range(3):
        sit(one, leg, lim=GROUP)
    with pytest.raises(PeerError):
        sit(one, 4, lim=(512, 512, 500, 3))


def test_a_seat_keeps_its_index_until_all_indexes_were_used():
    one = call(lim=GROUP)
    seats = [sit(one, leg, lim=GROUP) for leg in range(31)]
    one.gate.set(Fact.HARD_MUTED, 4, True)
    seats[7].on_left("completed", 1001.0)
    seats[4].on_left("completed", 1000.5)
    assert one.seat_of(seats[4].sub) is seats[4]
    assert sit(one, 40, lim=GROUP).index == 31
    newcomer = sit(one, 41, lim=GROUP)
    assert newcomer.index == 4
    assert one.seat_of(seats[4].sub) is None
    assert one.seat_of(newcomer.sub) is newcomer
    assert not one.gate.has(Fact.HARD_MUTED, 4)
    assert seats[4] in list(one.everyone())
    assert not one.is_caller(one.seats[0])


def test_the_rights_of_a_token_become_facts():
    one = call(lim=GROUP)
    rows = [({"prm": 1}, True, False), ({"prm": 2}, False, True), ({"rol": token.ROLE_LISTENER}, False, True)]
    for leg, (changes, sends, listens) in enumerate(rows):
        seat = sit(one, leg, lim=GROUP, **changes)
        assert one.gate.has(Fact.SENDS, seat.index) is sends
        assert one.gate.has(Fact.LISTENS, seat.index) is listens
        assert one.gate.has(Fact.ADMITTED, seat.index)


def test_where_the_host_admits_only_the_host_is_in_by_itself():
    one = call(lim=GROUP, gate=token.GATE_HOST_ADMITS)
    guest, host = sit(one, 1, lim=GROUP), sit(one, 2, lim=GROUP, rol=token.ROLE_HOST)
    assert not one.gate.has(Fact.ADMITTED, guest.index)
    assert one.gate.has(Fact.ADMITTED, host.index)


def test_ringing_ends_after_45_seconds_or_with_the_answer_or_the_end():
    one = call()
    assert one.ring_until() == 45.0
    assert not one.was_answered
    assert one.ends_at() is None
    one.on_answered(10.0, 1010.0)
    assert (one.state, one.ring_until(), one.was_answered) == (Stage.ACTIVE, None, True)
    other = call()
    other.on_ended(Why.MISSED, "", 1045.0)
    assert other.ring_until() is None


def test_the_shortest_time_allowed_ends_the_call():
    one = call()
    sit(one, 1, dur=500)
    sit(one, 2, dur=90)
    one.on_answered(10.0, 1010.0)
    assert one.ends_at() == 100.0
    one.terms = Terms(allow=True, minutes=1, relay_only=False, attachments=True)
    assert one.ends_at() == 70.0
    one.on_ended(Why.EXPIRED, "", 1060.0)
    assert one.ends_at() is None


def test_without_any_limit_a_call_has_no_end():
    one = call()
    one.on_answered(10.0, 1010.0)
    assert one.ends_at() is None


def test_the_next_deadline_is_the_nearest_of_all_seats():
    one = call()
    first, second = sit(one, 1), sit(one, 2)
    heard = {1: 3.0, 2: 4.0}.__getitem__
    first_ticket = one.next_deadline(heard)
    assert first_ticket == min(first.ticket_at(), second.ticket_at())
    assert 15.0 <= first_ticket < 30.0
    first.on_ticket(40.0)
    second.on_ticket(40.0)
    assert one.next_deadline(heard) == 45.0
    first.on_accepted(1, (5,))
    assert one.next_deadline(heard) == 33.0
    second.on_accepted(2, (5,))
    one.on_answered(5.0, 1005.0)
    assert first.state is Presence.ACCEPTED
    assert one.next_deadline({1: 300.0, 2: 300.0}.__getitem__) == 70.0
    first.on_silenced(33.0)
    assert one.next_deadline({1: 300.0, 2: 300.0}.__getitem__) == 70.0
    one.on_ended(Why.COMPLETED, "", 1010.0)
    one.on_settled()
    assert one.is_over


def test_a_pair_is_known_by_persons_and_pseudonyms_once_both_are_there():
    a, b = PersonId(b"a" * 16), PersonId(b"b" * 16)
    one = call()
    first = sit(one, 1, ru=a)
    assert one.pairs() == []
    second = sit(one, 2, ru=b)
    assert one.pairs() == [frozenset({first.sub, second.sub}), frozenset({bytes(a), bytes(b)})]
    one.on_answered(1.0, 1001.0)
    assert one.pairs() == []


def test_a_pair_without_person_ids_is_known_by_its_pseudonyms_only():
    one = call()
    first, second = sit(one, 1, ru=PersonId(bytes(16))), sit(one, 2)
    assert one.pairs() == [frozenset({first.sub, second.sub})]


def test_a_caller_whose_token_names_the_other_is_a_pair_alone():
    peer = Sub(b"x" * 16)
    one = call()
    first = sit(one, 1, peer=(peer,))
    assert one.pairs() == [frozenset({first.sub, peer})]


def test_a_group_is_no_pair():
    one = call(lim=GROUP)
    sit(one, 1, lim=GROUP)
    sit(one, 2, lim=GROUP)
    assert one.pairs() == []
    assert one.others(one.seats[0]) == [one.seats[1]]


def test_who_is_out_has_no_path_to_anybody():
    one = call(lim=GROUP)
    seats = [sit(one, leg, lim=GROUP) for leg in range(3)]
    for low, high in ((0, 1), (0, 2), (1, 2)):
        one.paths[low, high] = Pair(seats[low], seats[high])
    assert len(one.paths_of(1)) == 2
    one.part_paths(1, 5.0)
    assert set(one.paths) == {(0, 2)}


def test_a_leg_that_is_left_is_waited_for():
    one = call()
    seat = sit(one, 1)
    seat.on_accepted(1, (5,))
    seat.fade(2.0)
    seat.on_returned(2, 2.0)
    assert one.next_deadline(lambda leg: 2.0) == 5.0


def test_a_seat_that_another_node_gave_takes_the_place_of_one_that_nobody_came_for():
    world = World()
    ann, _ = world.talking()
    call = world.engine.node.calls[ann.cid]
    other = world.call().claims()
    for claims in (other, world.call().claims()):
        one = Participant.expected(
            2, claims, LimitsConfig(), 0.0, 0.0, state=Presence.AWAY, since=0.0, ever_accepted=True
        )
        call.expect(one)
    assert call.seat_of(other.sub) is None
    assert call.seats[2] is one
    assert call.seat_of(one.sub) is one


def test_a_call_that_rang_elsewhere_rings_for_what_is_left_and_an_answered_one_not_at_all():
    world = World()
    ann, bob = world.pair()
    call = world.engine.node.calls[ann.cid]
    call.rang_elsewhere(40)
    assert call.ring_until() == 5.0
    ann.accept()
    bob.accept()
    call.rang_elsewhere(40)
    assert call.ring_until() is None
