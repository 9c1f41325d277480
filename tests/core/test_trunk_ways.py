"""Ways to a node: which process of it is newest, and which way a connection to a process takes."""

import pytest

from relay.core import events as ev
from relay.core.trunk_ways import Ways
from trunkpair import greet, trunks, up
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


def test_a_process_before_that_dials_again_is_not_the_newest_for_that(net):
    up(net)
    old = net.restart("b")
    net.run(0.5)
    leg = old.engine.abroad.trunks.leg_of("a")
    del old.wires[leg]
    old.feed(ev.LegLost(leg, 0))
    old.engine.abroad.trunks.need("a")
    for _ in range(2):
        old.feed(ev.Tick())
    net.run(0.4)
    assert trunks(net, "a").newest("b") == "b+"
    assert trunks(net, "a").leg_of("b") is not None


def test_there_are_two_ways_to_each_node_that_we_know_and_none_to_ours():
    ways = Ways("a", ["a", "b", "c"])
    assert [there.way for there in ways] == ["b", "b+", "c", "c+"]
    assert [ways.knows(name) for name in "abz"] == [False, True, False]
    assert [ways.newest(name) for name in "bz"] == ["b", "z"]
    assert (ways.get("b+"), ways.get("z"), ways.there("b"), ways.there("z")) == (ways["b+"], None, None, None)


def test_another_process_is_the_newest_and_is_wanted_in_place_of_the_one_before():
    ways = Ways("a", ["b"])
    first, second, third = (greet("b", boot) for boot in (1, 2, 3))
    ways["b"].want(0.0)
    assert ways.process(first) is None
    assert ways.settle(first, 0.0) == (ways["b"], None)
    ways["b"].on_greeted(1, first, 0.0, 0.0)
    assert (ways.process(first), ways.there("b")) == (ways["b"], ways["b"])
    assert ways.settle(second, 1.0) == (ways["b+"], ways["b"])
    ways["b+"].on_greeted(2, second, 1.0, 0.0)
    assert (ways["b"].is_wanted, ways["b+"].is_wanted) == (False, True)
    assert (ways.newest("b"), ways.is_newest(ways["b"]), ways.is_newest(ways["b+"])) == ("b+", False, True)
    # Each of the two comes by its own way; a third one takes the place of the first.
    assert ways.settle(first, 2.0) == (ways["b"], None)
    assert ways.settle(second, 2.0) == (ways["b+"], None)
    assert ways.settle(third, 2.0) == (ways["b"], ways["b+"])


def test_who_is_not_there_gives_its_way_to_who_comes():
    ways = Ways("a", ["b"])
    ways["b"].on_greeted(1, greet("b", 1), 0.0, 0.0)
    ways["b"].on_lost(1, 1.0, 0.0)
    assert ways.settle(greet("b", 2), 1.0) == (ways["b"], None)


def test_nobody_wants_the_newest_if_nobody_wanted_the_one_before():
    ways = Ways("a", ["b"])
    ways["b"].on_greeted(1, greet("b", 1), 0.0, 0.0)
    assert ways.settle(greet("b", 2), 1.0) == (ways["b+"], ways["b"])
    assert not ways["b+"].is_wanted
