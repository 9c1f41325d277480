"""The two paths of a trunk: dialed, joined, lost; what is said on both is taken once, in order."""

import pytest

from relay.core.trunk_paths import ANSWER_S, MOST_AHEAD, Link, Path, Paths, State
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.control import Frame

FIRST, SECOND = False, True
N = bytes(32)


def begun(leg: int = 1) -> Paths:
    """A trunk that began on the first path."""
    return Paths(N, leg, FIRST)


def word(number: int) -> Frame:
    return Frame(6, number, None)


def taken(paths: Paths, leg: int, *numbers: int) -> list[int]:
    return [fresh.id for number in numbers for fresh in paths.fresh(leg, word(number))]


def test_a_path_that_is_down_is_dialed_at_once_and_again_ever_later():
    paths = begun()
    assert paths.next_deadline() == 0.0
    waits, now = [], 10.0
    for _ in range(5):
        assert paths.to_dial(now, 0.0) == [SECOND]
        assert paths[SECOND].is_asked
        paths[SECOND].on_dialed(7, now)
        assert (paths.pending, paths.up, paths.next_deadline()) == ([7], [1], None)
        paths.on_lost(7, now, 0.0)
        waits.append(paths.next_deadline() - now)
        assert paths.to_dial(now, 0.0) == []
        now = paths.next_deadline()
    assert waits == pytest.approx([0.2, 1.0, 2.0, 5.0, 5.0])
    paths.to_dial(now, 0.0)
    paths[SECOND].on_dialed(8, now)
    paths.on_lost(8, now, 1.0)
    assert paths.next_deadline() == pytest.approx(now + 2.5)


def test_what_the_edge_cannot_dial_is_tried_again():
    paths = begun()
    assert paths.to_dial(0.0, 0.0) == [SECOND]
    assert paths.next_deadline() == ANSWER_S
    assert paths.to_dial(ANSWER_S, 0.0) == []
    assert paths[SECOND].state is State.DOWN
    assert paths.to_dial(ANSWER_S + 0.2, 0.0) == [SECOND]


def test_a_path_is_up_by_the_newest_connection_that_joined():
    paths = begun()
    assert paths.on_joined(2, SECOND, 0) is None
    assert paths.up == [1, 2]
    assert paths.on_joined(3, SECOND, 0) == 2
    assert paths.up == [1, 3]
    assert paths.on_joined(3, SECOND, 0) is None
    paths.on_lost(2, 0.0, 0.0)
    assert paths.up == [1, 3]
    paths.on_lost(1, 0.0, 0.0)
    assert (paths.up, paths[FIRST].state) == ([3], State.DOWN)
    with pytest.raises(LocalError):
        paths[SECOND].on_dialed(4, 0.0)
    assert Path().on_lost(None, 0.0, 0.0) is False


def test_what_is_said_goes_by_a_connection_from_the_moment_at_which_it_joins():
    paths = begun()
    paths.sent = 5
    assert paths.join(2) == 5
    assert paths.join(2) == 5
    assert paths.legs == [1, 2]
    paths.on_lost(1, 0.0, 0.0)
    assert paths.legs == [2]


def test_each_message_is_taken_once_whichever_connection_is_ahead():
    paths = begun()
    assert taken(paths, 1, 0, 1) == [0, 1]
    paths.on_joined(2, SECOND, 2)
    assert taken(paths, 2, 2, 3) == [2, 3]
    assert taken(paths, 1, 2, 3, 4) == [4]
    assert taken(paths, 2, 4, 5) == [5]


def test_what_comes_by_who_joined_waits_for_what_was_said_before():
    paths = begun()
    assert taken(paths, 1, 0) == [0]
    paths.on_joined(2, SECOND, 3)
    assert taken(paths, 2, 3, 4) == []
    assert taken(paths, 1, 1, 2) == [1, 2, 3, 4]
    assert taken(paths, 1, 3, 4, 5) == [5]
    assert paths.is_whole


def test_what_only_a_lost_connection_had_is_missed():
    paths = begun()
    paths.on_joined(2, SECOND, 3)
    taken(paths, 2, 3)
    assert paths.is_whole
    paths.on_lost(1, 0.0, 0.0)
    assert not paths.is_whole


def test_not_everything_waits():
    paths = begun()
    paths.on_joined(2, SECOND, 1)
    for number in range(1, MOST_AHEAD + 1):
        paths.fresh(2, word(number))
    with pytest.raises(PeerError) as caught:
        paths.fresh(2, word(0))
    assert caught.value.code is ErrorCode.OVERLOADED


def test_a_connection_knows_by_which_one_its_trunk_began():
    one = Link(1, None)
    two = Link(2, None, began=one)
    assert (one.whole, two.whole) == (one, one)
