"""Loss as the controller needs it: rate, runs, gaps, and packets settled once from overlapping reports."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.losses import Gaps, Losses, Settled


def fed(pattern, every=0.02, count=1000):
    losses = Losses()
    for n in range(count):
        losses.on_packet(pattern(n), n * every)
    return losses


def test_fewer_than_forty_packets_tell_nothing():
    assert fed(lambda n: True, count=39).rate is None
    assert fed(lambda n: True, count=40).rate == 1.0
    assert Losses().run == 1.0


def test_the_rate_and_the_run_are_those_of_what_happened():
    losses = fed(lambda n: n % 50 in (10, 11, 12))
    assert losses.rate == pytest.approx(0.06, abs=0.015)
    assert losses.run == pytest.approx(3, abs=0.05)
    single = fed(lambda n: n % 10 == 0)
    assert single.rate == pytest.approx(0.1, abs=0.01)
    assert single.run == 1.0


def test_what_is_two_seconds_old_weighs_a_third():
    losses = Losses()
    for n in range(1000):
        losses.on_packet(True, n * 0.02)
    for n in range(100):
        losses.on_packet(False, 20 + n * 0.02)
    assert losses.rate == pytest.approx(0.368, abs=0.01)


@pytest.mark.parametrize("every", [0.06, 0.4, 10.0])
def test_rare_packets_are_averaged_over_forty_of_them(every):
    losses = fed(lambda n: True, every, 400)
    for n in range(40):
        losses.on_packet(False, (400 + n) * every)
    assert losses.rate == pytest.approx(0.368, abs=0.01)


def test_a_clock_that_stands_still_fades_nothing():
    losses = Losses()
    for n in range(100):
        losses.on_packet(n < 50, 1.0)
    assert losses.rate == 0.5


def gaps_in(pattern, ptime=20.0):
    gaps = Gaps(60.0)
    for letter in pattern:
        gaps.on_packet(letter == "x", ptime)
    return gaps.take()


def test_a_gap_counts_once_and_from_sixty_milliseconds_on():
    assert gaps_in("xx..xx..x") == 0
    assert gaps_in("xx...xx") == 1
    assert gaps_in("xx.......x...") == 2
    assert gaps_in("x.x.x", 60.0) == 2


def test_taken_gaps_are_not_told_again_and_an_open_gap_goes_on():
    gaps = Gaps(60.0)
    for _ in range(2):
        gaps.on_packet(False, 20.0)
    assert gaps.take() == 0
    gaps.on_packet(False, 20.0)
    assert gaps.take() == 1
    gaps.on_packet(False, 20.0)
    assert gaps.take() == 0


def report(came):
    """(base, map) of the newest 64 of the packets numbered by `came`."""
    newest = max(came)
    base = max(0, newest - 63)
    return base, sum(1 << (ctr - base) for ctr in came if ctr >= base)


def test_a_packet_is_settled_when_it_is_too_old_to_come():
    settled = Settled(10)
    assert settled.on_report(*report({0, 1, 2})) == []
    assert settled.on_report(*report({0, 2, *range(3, 14)})) == [True, False, True, True]
    assert settled.on_report(*report({0, 2, *range(3, 14)})) == []


def test_what_nobody_saw_is_not_made_up():
    settled = Settled(0)
    assert len(settled.on_report(*report(set(range(10))))) == 10
    told = settled.on_report(*report(set(range(1000))))
    assert told == [True] * 64


def test_an_older_report_that_comes_late_settles_nothing_again():
    settled = Settled(4)
    settled.on_report(*report(set(range(100))))
    assert settled.on_report(*report(set(range(90)))) == []


def test_a_sender_that_begins_anew_is_followed():
    settled = Settled(2)
    settled.on_report(*report(set(range(1000))))
    assert settled.on_report(*report(set(range(5)))) == [True, True, True]


@given(st.integers(0, 2**32), st.integers(0, 20), st.integers(1, 40))
def test_overlapping_reports_tell_every_packet_once(seed, patience, step):
    dice = random.Random(seed)
    came = {ctr for ctr in range(300) if dice.random() < 0.8} | {0}
    settled = Settled(patience)
    told = []
    for upto in range(1, 300, step):
        told += settled.on_report(*report({ctr for ctr in came if ctr <= upto}))
    assert told == [ctr in came for ctr in range(len(told))]


def test_packets_that_are_settled_at_once_count_like_those_one_by_one():
    one_by_one, at_once = fed(lambda n: n % 10 in (3, 4)), Losses()
    for batch in range(100):
        at_once.on_batch(8, 2, 1, batch * 0.2)
        at_once.on_batch(0, 0, 0, batch * 0.2)
    assert at_once.rate == pytest.approx(one_by_one.rate, abs=0.01)
    assert at_once.run == pytest.approx(2.0)
    few = Losses()
    few.on_batch(30, 9, 3, 0.0)
    assert few.rate is None
