import itertools

import pytest

from relay.core.consent import SIZE, Fact, Gate, indexes
from relay.core.reasons import DropReason

NEEDED = (Fact.ACCEPTED, Fact.ALIVE, Fact.ADMITTED, Fact.SENDS, Fact.LISTENS)


def ready(*people: int) -> Gate:
    gate = Gate()
    for index, fact in itertools.product(people, NEEDED):
        gate.set(fact, index, True)
    return gate


def test_a_new_gate_is_closed_for_all_1024_bits():
    gate = Gate()
    assert all(gate.hearers(index) == 0 for index in range(SIZE))


def test_two_who_are_ready_hear_each_other_and_nobody_hears_himself():
    gate = ready(0, 31)
    assert gate.hearers(0) == 1 << 31
    assert gate.hearers(31) == 1
    assert gate.hearers(5) == 0


@pytest.mark.parametrize("fact", [Fact.ACCEPTED, Fact.ALIVE, Fact.ADMITTED])
@pytest.mark.parametrize("side", [0, 1])
def test_without_one_of_the_common_facts_on_either_side_both_directions_close(fact, side):
    gate = ready(0, 1)
    gate.set(fact, side, False)
    assert not gate.has(fact, side)
    assert gate.hearers(0) == gate.hearers(1) == 0


def test_a_listener_hears_and_is_not_heard():
    gate = ready(0, 1)
    gate.set(Fact.SENDS, 1, False)
    assert gate.hearers(0) == 2
    assert gate.hearers(1) == 0


def test_someone_who_may_not_listen_is_heard_and_does_not_hear():
    gate = ready(0, 1)
    gate.set(Fact.LISTENS, 1, False)
    assert gate.hearers(0) == 0
    assert gate.hearers(1) == 1


@pytest.mark.parametrize("mute", [Fact.MUTED, Fact.HARD_MUTED])
def test_either_mute_closes_and_keeps_consent(mute):
    gate = ready(0, 1)
    gate.set(mute, 0, True)
    assert gate.is_muted(0)
    assert gate.hearers(0) == 0
    assert gate.consented(0) == 2
    assert gate.why_closed(0) is DropReason.MUTED


def test_a_block_closes_both_directions_of_one_pair_only():
    gate = ready(0, 1, 2)
    gate.block(0, 1, True)
    assert gate.is_blocked(1, 0)
    assert (gate.hearers(0), gate.hearers(1), gate.hearers(2)) == (4, 4, 3)
    assert gate.why_closed(0) is DropReason.GATE_CLOSED
    gate.block(0, 1, False)
    assert gate.hearers(0) == 6


def test_who_is_blocked_cannot_take_the_block_back():
    gate = ready(0, 1)
    gate.block(0, 1, True)
    gate.block(1, 0, False)
    assert (gate.hearers(0), gate.hearers(1)) == (0, 0)
    gate.block(1, 0, True)
    gate.block(0, 1, False)
    assert gate.is_blocked(0, 1)
    gate.block(1, 0, False)
    assert (gate.hearers(0), gate.hearers(1)) == (2, 1)


def test_a_block_that_leaves_nobody_is_named():
    gate = ready(0, 1)
    gate.block(0, 1, True)
    assert gate.why_closed(0) is DropReason.BLOCKED


def test_who_leaves_takes_his_own_facts_and_not_what_others_decided():
    gate = ready(0, 1)
    gate.set(Fact.HARD_MUTED, 0, True)
    gate.set(Fact.MUTED, 0, True)
    gate.block(0, 1, True)
    gate.leave(0)
    assert not gate.has(Fact.ACCEPTED, 0)
    assert not gate.has(Fact.MUTED, 0)
    assert gate.has(Fact.HARD_MUTED, 0)
    assert gate.is_blocked(1, 0)


def test_a_cleared_index_starts_anew():
    gate = ready(0, 1)
    gate.set(Fact.HARD_MUTED, 0, True)
    gate.block(0, 1, True)
    gate.clear(0)
    assert not any(gate.has(fact, 0) for fact in Fact)
    assert not gate.is_blocked(1, 0)
    assert gate.has(Fact.ACCEPTED, 1)


def test_the_bits_of_a_mask_come_lowest_first():
    assert list(indexes(0b1000_0101)) == [0, 2, 7]
    assert list(indexes(0)) == []


def test_whom_one_shut_out_is_known_and_whose_word_it_was():
    gate = Gate()
    gate.block(1, 3, True)
    assert (gate.shut_out_by(1), gate.shut_out_by(3)) == (1 << 3, 0)
