import pytest

from pair import World
from relay.config import LimitsConfig
from relay.core.participant import Participant
from relay.core.paths import MAX_ANNOUNCED, MAX_MESSAGES, MAX_ROUNDS, ROUND_S, Pair, PathState
from relay.errors import ErrorCode, PeerError
from relay.protocol import control

IDS = World().call()


def people() -> tuple[Participant, Participant]:
    one, other = (Participant(n, IDS.claims(), LimitsConfig(), 0.0, 0.0) for n in (0, 1))
    return one, other


@pytest.fixture
def pair() -> Pair:
    return Pair(*people())


def told(gen: int = 0, *, end: bool = True, acl: tuple[tuple[str, int], ...] = ()) -> control.Cand:
    return control.Cand(c=IDS.cid, to=1, gen=gen, end=end, acl=acl)


def knocking(pair: Pair) -> Pair:
    for index in (0, 1):
        assert pair.on_addresses(index, told(), 1.0)
    return pair


def direct(pair: Pair) -> Pair:
    knocking(pair)
    for index in (0, 1):
        pair.on_report(index, True, 2.0)
    return pair


def test_rounds_begin_when_both_have_told_everything(pair):
    pair.on_addresses(0, told(end=False), 1.0)
    pair.on_addresses(1, told(), 1.0)
    assert (pair.state, pair.due) == (PathState.WAITING, None)
    pair.on_addresses(0, told(), 1.5)
    assert (pair.state, pair.due) == (PathState.KNOCKING, 1.5)


def test_there_are_four_rounds_a_second_apart_and_then_the_relay(pair):
    knocking(pair)
    for number in range(1, MAX_ROUNDS + 1):
        assert pair.on_round(float(number))
        assert (pair.round, pair.due) == (number, number + ROUND_S)
    assert not pair.on_round(5.0)
    assert (pair.state, pair.due) == (PathState.RELAYED, None)


def test_direct_is_what_both_call_so_and_one_is_enough_to_end_it(pair):
    knocking(pair)
    pair.on_report(0, True, 2.0)
    assert pair.state is PathState.KNOCKING
    pair.on_report(1, True, 2.0)
    pair.on_report(1, True, 3.0)
    assert (pair.state, pair.due) == (PathState.DIRECT, None)
    pair.on_report(0, False, 5.0)
    assert pair.state is PathState.RELAYED
    assert [one.direct_s for one in pair.people] == [3.0, 3.0]
    pair.on_report(0, True, 6.0)
    assert pair.state is PathState.RELAYED
    pair.on_report(1, True, 6.0)
    assert pair.state is PathState.DIRECT


def test_a_report_of_the_relay_before_anything_was_direct_changes_nothing(pair):
    pair.on_report(0, False, 1.0)
    assert pair.state is PathState.WAITING


def test_fresh_addresses_begin_again_and_end_what_was_direct(pair):
    direct(pair)
    assert pair.on_addresses(0, told(1), 6.0)
    assert (pair.state, pair.round) == (PathState.KNOCKING, 0)  # the other's are known still
    assert pair.people[0].direct_s == 4.0
    assert not pair.sides[0].is_direct


def test_addresses_older_than_those_known_are_not_passed_on(pair):
    assert pair.on_addresses(0, told(3), 1.0)
    assert not pair.on_addresses(0, told(2), 1.0)


def test_messages_of_a_generation_and_addresses_for_turn_have_a_ceiling(pair):
    for _ in range(MAX_MESSAGES):
        pair.on_addresses(0, told(end=False), 1.0)
    with pytest.raises(PeerError) as caught:
        pair.on_addresses(0, told(), 1.0)
    assert (caught.value.code, caught.value.fatal) == (ErrorCode.QUOTA, False)
    many = tuple(("192.0.2.1", port) for port in range(1, MAX_ANNOUNCED + 2))
    pair.on_addresses(1, told(acl=many[:-1]), 1.0)
    with pytest.raises(PeerError) as caught:
        pair.on_addresses(1, told(acl=many[-1:]), 1.0)
    assert caught.value.code is ErrorCode.QUOTA
    pair.on_addresses(1, told(1, acl=many[-1:]), 1.0)
    assert len(pair.sides[1].announced) == 1


def test_addresses_go_with_the_leg_that_announced_them(pair):
    pair.on_addresses(0, told(acl=(("192.0.2.1", 1),)), 1.0)
    pair.forget_addresses(0)
    assert not pair.sides[0].announced
    assert "192.0.2" not in repr(pair.sides[0])
