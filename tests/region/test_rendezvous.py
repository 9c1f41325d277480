"""Rendezvous hashing: the check values, and that what changes moves only what it must."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import load
from relay.errors import LocalError
from relay.region import rendezvous

VECTORS = load("rendezvous")
WEIGHTS = VECTORS["weights"]
STEPS = st.integers(1, rendezvous.STEPS).map(lambda n: n / rendezvous.STEPS)
FLEETS = st.dictionaries(st.text("abcdefgh0123-", min_size=1, max_size=6), STEPS, min_size=1, max_size=12)
CALLS = st.binary(min_size=16, max_size=16).map(bytes.hex)


@pytest.mark.parametrize("row", VECTORS["calls"], ids=lambda row: row["call"])
def test_scores_and_order_are_those_of_the_vectors(row):
    for node, expected in row["scores"].items():
        assert rendezvous.score(row["call"], node, WEIGHTS[node]) == pytest.approx(expected, abs=1e-6)
    assert rendezvous.ranked(row["call"], WEIGHTS) == row["ranked"]


def test_each_node_gets_calls_by_its_weight():
    counts = Counter(rendezvous.ranked(f"c{number}", WEIGHTS)[0] for number in range(70_000))
    assert counts == {node: VECTORS["counts"][node] for node in WEIGHTS}


@pytest.mark.parametrize(("stress", "placed", "expected"), VECTORS["stress_placed_weight"])
def test_a_weight_is_what_is_left_in_sixteenths(stress, placed, expected):
    assert rendezvous.weight(stress, placed) == expected


@given(FLEETS, CALLS, st.text("xyz", min_size=1, max_size=4), STEPS)
def test_a_node_that_comes_moves_only_what_it_wins(fleet, call, new, weight):
    before = rendezvous.ranked(call, fleet)
    after = rendezvous.ranked(call, fleet | {new: weight})
    assert [node for node in after if node != new] == before
    if after[0] != new:
        assert after[0] == before[0]


@given(FLEETS, CALLS)
def test_a_node_that_goes_leaves_its_calls_to_the_next_in_order(fleet, call):
    first, *others = rendezvous.ranked(call, fleet)
    assert rendezvous.ranked(call, {node: w for node, w in fleet.items() if node != first}) == others


@given(FLEETS, CALLS, st.data())
def test_a_weight_that_falls_moves_only_calls_of_that_node(fleet, call, data):
    node = data.draw(st.sampled_from(sorted(fleet)))
    lighter = fleet | {node: data.draw(st.sampled_from([n / 16 for n in range(17) if n / 16 <= fleet[node]]))}
    before, after = rendezvous.ranked(call, fleet)[0], (rendezvous.ranked(call, lighter) or [None])[0]
    assert after == before or before == node


@given(FLEETS, CALLS)
def test_the_order_in_which_nodes_are_named_changes_nothing(fleet, call):
    assert rendezvous.ranked(call, dict(reversed(fleet.items()))) == rendezvous.ranked(call, fleet)


def test_without_weight_a_node_gets_nothing():
    assert rendezvous.ranked("call-1", {"a": 0.0, "b": 0.25}) == ["b"]
    assert rendezvous.ranked("call-1", {}) == []


def test_a_call_cannot_pretend_to_be_another_call_on_another_node():
    with pytest.raises(LocalError):
        rendezvous.score("call|a", "b", 1.0)


def test_the_greatest_draw_is_a_number(monkeypatch):
    class Greatest:
        def __init__(self, text):
            pass

        def digest(self):
            return b"\xff" * 32

    monkeypatch.setattr(rendezvous, "sha256", Greatest)
    assert rendezvous.score("call-1", "a", 1.0) == pytest.approx(2**53, rel=1e-3)
