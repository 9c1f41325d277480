"""Pairs beside each other: each runs once, none beside one that it would disturb."""

from __future__ import annotations

import threading

import pytest

from lab.turns import Pair, Turns

GRID = [(a, b) for a in "wxyz" for b in "wxyz"]


def needs(pair: Pair) -> frozenset[str]:
    """Their places, and one outer address for whoever is behind the carrier z."""
    return frozenset({f"{pair[0]} a", f"{pair[1]} b", *(["carrier"] if "z" in pair else [])})


def test_the_first_that_disturbs_nobody_goes_first() -> None:
    turns = Turns(GRID, needs)
    assert turns.begin() == ("w", "w")
    assert turns.begin() == ("x", "x")  # w's place a, and b's, are taken
    turns.end(("w", "w"))
    assert turns.begin() == ("w", "y")
    assert turns.begin() == ("y", "w")
    turns.end(("x", "x"))
    assert turns.begin() == ("x", "z")
    turns.end(("x", "z"))
    turns.end(("y", "w"))
    assert turns.begin() == ("x", "w")


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_pair_runs_once_and_none_beside_one_that_it_would_disturb(workers: int) -> None:
    turns, lock = Turns(GRID, needs), threading.Lock()
    running: list[Pair] = []
    done: list[Pair] = []
    wrong: list[Pair] = []

    def work() -> None:
        while (pair := turns.begin()) is not None:
            with lock:
                wrong.extend(other for other in running if needs(other) & needs(pair))
                running.append(pair)
            with lock:
                running.remove(pair)
                done.append(pair)
            turns.end(pair)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(GRID)
    assert wrong == []


def test_nobody_waits_for_a_turn_when_it_is_over() -> None:
    turns = Turns([("w", "w"), ("w", "x")], needs)
    assert turns.begin() == ("w", "w")
    waiting = threading.Thread(target=turns.begin)
    waiting.start()
    turns.stop()
    waiting.join()
    assert turns.begin() is None
