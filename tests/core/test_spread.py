import pytest

from relay.core.spread import LOSS, Spread


def test_a_bound_belongs_to_the_bucket_below_it():
    spread = Spread((1.0, 2.0))
    for value in (0.5, 1.0, 1.1, 2.0, 2.1):
        spread.add(value)
    assert (spread.counts, spread.total) == ([2, 2, 1], 5)
    assert spread.sum == pytest.approx(6.7)
    assert [spread.place(value) for value in (1.0, 2.0, 9.0)] == [0, 1, 2]


def test_what_was_counted_can_be_taken_back():
    spread = Spread(LOSS)
    spread.add(0.04, 3)
    spread.add(0.04, -1)
    assert spread.total == 2
    assert spread.sum == pytest.approx(0.08)


def test_what_came_after_a_copy_is_the_difference_and_both_together_are_the_sum():
    spread = Spread((1.0,))
    spread.add(0.5)
    before = spread.copy()
    spread.add(5.0)
    later = spread.since(before)
    assert (before.counts, later.counts, later.sum) == ([1, 0], [0, 1], 5.0)
    assert (before.plus(later).counts, before.plus(later).sum) == (spread.counts, spread.sum)
