"""One wish out of many, told seldom enough."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relay.core.hints import LEAST_S, REFRESH_S, TTL_S, Hint, Teller, Wish, combine

USUAL = Hint(24_000, 20)
LONG = Hint(24_000, 60)
LOW = Hint(12_000, 60)


def test_without_listeners_the_uplink_decides():
    assert combine(LONG, []) == LONG


def wishes(*hints, lossy=()):
    """One per listener; of those whose places are `lossy` for loss alone."""
    return [Wish(hint, place in lossy) for place, hint in enumerate(hints)]


def test_a_single_listener_counts_fully():
    assert combine(USUAL, wishes(LOW)) == LOW
    assert combine(LOW, wishes(USUAL)) == LOW
    assert combine(USUAL, wishes(LONG, lossy=[0])) == LONG


def test_one_bad_listener_of_five_does_not_spoil_it_for_all_and_two_do():
    assert combine(USUAL, wishes(USUAL, LOW, USUAL, USUAL, USUAL)) == USUAL
    assert combine(USUAL, wishes(USUAL, LOW, USUAL, LOW, USUAL)) == LOW


def test_of_a_few_one_that_only_loses_changes_nothing_for_the_others_and_one_that_carries_no_more_does():
    for count in (2, 3, 4):
        others = [USUAL] * (count - 1)
        assert combine(USUAL, wishes(LONG, *others, lossy=[0])) == USUAL
        assert combine(USUAL, wishes(LOW, *others)) == LOW
    assert combine(USUAL, wishes(LONG, LONG, lossy=[0, 1])) == LONG
    assert combine(USUAL, wishes(LONG, LOW, USUAL, lossy=[0])) == LOW


def test_of_uplink_and_listeners_the_more_careful_value_counts_in_each_field():
    uplink = Hint(16_000, 20, fec=5, red=0, dtx=True)
    assert combine(uplink, wishes(Hint(24_000, 40, fec=2, red=1, dtx=False))) == Hint(16_000, 40, 5, 1, False)


def told(hints, every=0.2):
    """(second, hint) that was sent."""
    teller = Teller(USUAL)
    sent = [(round(n * every, 1), teller.on_hint(hint, n * every)) for n, hint in enumerate(hints)]
    return [(at, hint) for at, hint in sent if hint is not None]


def test_a_sender_that_does_what_it_shall_is_told_nothing():
    assert told([USUAL] * 100) == []


def test_a_hint_that_holds_is_told_again_before_it_is_void():
    assert [at for at, _ in told([LONG] * 100)] == [0.0, 4.0, 8.0, 12.0, 16.0]
    assert REFRESH_S < TTL_S


def test_changes_are_a_second_apart_and_the_newest_is_told():
    assert told([LONG, LOW, LOW, LONG, LOW, LOW, LOW]) == [(0.0, LONG), (1.0, LOW)]


def test_the_way_back_to_what_is_usual_is_told_once():
    assert told([LOW] * 6 + [USUAL] * 60) == [(0.0, LOW), (1.2, USUAL)]


def test_less_than_a_tenth_is_not_worth_a_message():
    assert told([Hint(22_000, 20)] * 20) == []
    assert told([Hint(21_600, 20)] * 20) == [(0.0, Hint(21_600, 20))]
    assert told([Hint(24_000, 20, dtx=False)] * 20)[0][0] == 0.0


def test_what_was_void_is_forgotten():
    teller = Teller(USUAL)
    teller.on_hint(LOW, 0.0)
    assert teller.on_hint(USUAL, 5.0) is None
    assert teller.on_hint(LOW, 5.2) == LOW


def test_after_a_hint_there_is_nothing_to_say_for_a_second_and_then_at_each_look():
    teller = Teller(USUAL)
    assert teller.again_at(10.0) == 10.0 + LEAST_S
    teller.on_hint(LOW, 10.0)
    assert teller.again_at(10.4) == 10.0 + LEAST_S
    assert teller.again_at(11.5) == 11.5 + LEAST_S
    assert teller.again_at(13.5) == 10.0 + REFRESH_S
    assert teller.again_at(14.1) == 14.1


def test_one_that_is_looked_at_when_it_says_so_is_told_again_before_its_hint_is_void():
    dice = random.Random(1)
    teller, now, look_at, told = Teller(USUAL), 0.0, 0.0, []
    while now < 400.0:
        now += 0.3 + 0.02 * dice.random()  # turns of a busy node
        if now >= look_at:
            if teller.on_hint(LOW, now) is not None:
                told.append(now)
            look_at = teller.again_at(now)
    assert max(later - earlier for earlier, later in pairwise(told)) < 4.7


def test_a_sender_that_was_told_nothing_or_the_usual_does_the_usual():
    teller = Teller(USUAL)
    assert teller.is_usual
    teller.on_hint(LOW, 0.0)
    assert not teller.is_usual
    teller.on_hint(USUAL, 1.0)
    assert teller.is_usual


def test_what_was_told_last_is_known_and_before_that_what_is_usual():
    teller = Teller(USUAL)
    assert teller.told == USUAL
    teller.on_hint(LOW, 0.0)
    assert teller.told == LOW
    teller.on_hint(LONG, 0.5)  # too soon to be told
    assert teller.told == LOW
    teller.on_hint(USUAL, TTL_S)
    assert teller.told == USUAL


ANY = st.builds(
    Hint, st.integers(6_000, 64_000), st.sampled_from([20, 40, 60]), st.integers(0, 30), st.integers(0, 2),
    st.booleans(),
)  # fmt: skip


@given(st.lists(ANY, max_size=60))
def test_no_two_hints_come_within_a_second(hints):
    at = [at for at, _ in told(hints)]
    assert all(later - earlier >= 0.99 for earlier, later in pairwise(at))


@given(ANY, st.lists(st.builds(Wish, ANY, st.booleans()), min_size=1, max_size=32))
def test_no_sender_is_asked_for_more_than_its_uplink_bears(uplink, downlinks):
    hint = combine(uplink, downlinks)
    assert hint.bps <= uplink.bps
    assert hint.ptime >= uplink.ptime
    worse = sum(wish.hint.weight < hint.weight for wish in downlinks if not wish.is_for_loss)
    assert worse <= len(downlinks) / 5
