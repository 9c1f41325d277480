"""A region that leaves: never more than 2 % of its calls in a second, all nodes in step, and it gets done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.region.pace import RegionDrain


def region(*sizes):
    return {f"n{node}": [f"{node:x}-{k}" for k in range(size)] for node, size in enumerate(sizes)}


def run(drain, looks):
    """Moves as (time, move) of a loop that looks at these times."""
    return [(now, move) for now in looks for move in drain.due(now)]


def most_in_a_second(times):
    return max((sum(1 for other in times if at <= other < at + 1.0) for at in times), default=0)


def test_two_per_cent_a_second_until_all_were_asked():
    drain = RegionDrain(region(600, 300, 100), 5.0)
    assert drain.per_second == 20
    moves = run(drain, [5.0 + 0.01 * step for step in range(5_100)])
    times = [now for now, _ in moves]
    assert len(moves) == 1_000
    assert drain.left == 0
    assert drain.next_deadline() is None
    assert times[-1] - times[0] == pytest.approx(50.0, abs=0.2)
    assert most_in_a_second(times) == 20


def test_all_nodes_are_empty_together():
    moves = run(RegionDrain(region(600, 300, 100), 0.0), [0.05 * step for step in range(1_100)])
    half = [move.node for _, move in moves[:500]]
    assert {node: half.count(node) for node in ("n0", "n1", "n2")} == {"n0": 300, "n1": 150, "n2": 50}


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=4),
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=120),
)
def test_however_the_loop_wakes_no_second_holds_more(sizes, pauses):
    drain = RegionDrain(region(*sizes), 0.0)
    looks, now = [], 0.0
    for pause in pauses:
        now += pause
        looks.append(now)
    moves = run(drain, looks)
    assert most_in_a_second([at for at, _ in moves]) <= max(1, 0.02 * sum(sizes))
    assert len({move.call for _, move in moves}) == len(moves) == sum(sizes) - drain.left


def test_by_its_own_deadlines_it_is_done_in_time():
    drain = RegionDrain(region(1_000), 0.0)
    now, moves = 0.0, []
    while (due := drain.next_deadline()) is not None:
        now = max(now, due)
        moves += drain.due(now)
    assert len(moves) == 1_000
    assert 49.0 <= now <= 52.0


def test_what_a_sleeping_loop_missed_is_shifted():
    drain = RegionDrain(region(1_000), 0.0)
    assert len(drain.due(0.0)) == 1
    assert len(drain.due(30.0)) <= 3
    assert drain.left >= 996


def test_a_small_region_leaves_one_a_second():
    drain = RegionDrain(region(3), 0.0)
    assert [len(drain.due(now)) for now in (0.0, 0.5, 1.0, 1.9, 2.0, 9.0)] == [1, 0, 1, 0, 1, 0]


def test_calls_that_end_are_not_asked():
    drain = RegionDrain({"n": ["a", "b", "c"]}, 0.0)
    drain.on_ended("b")
    drain.on_ended("of somebody else")
    assert drain.left == 2
    assert [move.call for _, move in run(drain, [0.0, 1.0, 2.0])] == ["a", "c"]


def test_an_empty_region_has_left_already():
    drain = RegionDrain({"n": []}, 0.0)
    assert drain.due(0.0) == []
    assert drain.next_deadline() is None


def test_a_clock_that_steps_back_releases_nothing():
    drain = RegionDrain(region(1_000), 100.0)
    assert drain.due(50.0) == []
    assert drain.due(100.0)
