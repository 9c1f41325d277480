"""Who was here for another node's call comes back with a ticket alone, for as long as one is good."""

import dataclasses

from pair import World
from relay.core.admission import Verdict
from relay.core.visited import Visited

WORLD = World()
CLAIMS = WORLD.call().claims(home="fra-1")
NEWER = dataclasses.replace(CLAIMS, lim=(64, 64, 50, 2))
VERDICT = Verdict(CLAIMS, None)


def find(visited, now):
    return visited.find(CLAIMS.cid, CLAIMS.sub, now)


def test_somebody_is_known_while_here_and_for_ninety_seconds_more():
    visited = Visited()
    assert find(visited, 0.0) is None
    visited.enter(VERDICT)
    assert find(visited, 1000.0) is VERDICT
    visited.leave(CLAIMS, 1000.0, 90.0)
    assert find(visited, 1089.0) is VERDICT
    assert find(visited, 1090.0) is None
    assert len(visited) == 0


def test_of_two_legs_the_last_counts_and_of_two_tokens_the_newer():
    visited = Visited()
    visited.enter(VERDICT)
    visited.enter(Verdict(NEWER, None))
    visited.leave(CLAIMS, 0.0, 90.0)
    assert find(visited, 100.0) == (NEWER, None)


def test_who_came_back_and_left_again_has_the_whole_time_once_more():
    visited = Visited()
    for now in (0.0, 50.0):
        visited.enter(VERDICT)
        visited.leave(CLAIMS, now, 90.0)
    visited.enter(VERDICT)
    assert find(visited, 90.0) is VERDICT
    visited.leave(CLAIMS, 100.0, 90.0)
    assert find(visited, 140.0) is VERDICT
    assert find(visited, 190.0) is None


def test_an_end_that_comes_twice_is_one():
    visited = Visited()
    for _ in range(2):
        visited.enter(VERDICT)
        visited.leave(CLAIMS, 0.0, 90.0)
    assert find(visited, 90.0) is None
