"""Connections that greet: they begin a trunk, join one, take the place of another, or are refused."""

import pytest

from relay.core import events as ev
from relay.core import trunk_meeting
from relay.errors import ErrorCode
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Greet
from trunkpair import alone, both_up, closed, need, paths_up, sent, trunks, up
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


@pytest.fixture
def two() -> Net:
    return both_up()


def test_a_connection_that_a_new_process_dials_replaces_one_that_stands_still(net):
    up(net)
    net.freeze("a", "b")
    former = trunks(net, "a").leg_of("b")
    net["b"].begin()
    need(net, "b", "a")
    net.run(2.0)
    assert trunks(net, "a").leg_of(trunks(net, "a").newest("b")) not in (None, former)
    assert trunks(net, "a").leg_of("b") is None
    assert TrunkCode.GLARE in closed(net, "a")
    assert net["a"].engine.counters["trunk_up", ""] == 2


def test_two_who_dial_each_other_at_once_end_with_one_connection(net):
    need(net, "a", "b")
    need(net, "b", "a")
    net.run(2.0)
    assert len(net.wires("a", "b")) == 1
    assert TrunkCode.GLARE in closed(net, "a") + closed(net, "b")
    (wire,) = net.wires("a", "b")
    assert wire.ends[0][0].name == "a"
    assert trunks(net, "a").takes_halves("b")


def test_who_has_another_key_is_refused(net):
    net.keys["b"] = bytes(32)
    need(net, "a", "b")
    net.run(0.5)
    assert closed(net, "a")[0] is TrunkCode.PEER_UNKNOWN
    assert net["a"].engine.counters["trunk_refused", ""] > 0


def test_strangers_are_let_wait_in_a_small_number_and_not_for_long(net, monkeypatch):
    monkeypatch.setattr(trunk_meeting, "MOST_GREETING", 2)
    peer = alone(net, "a", 11, 12, 13)
    for leg in (11, 12, 13):
        peer.feed(ev.TrunkOpened(leg, None, 1200))
    assert closed(net, "a") == [ErrorCode.OVERLOADED]
    peer.now += 5.0
    peer.feed(ev.Tick())
    assert closed(net, "a") == [ErrorCode.OVERLOADED, ErrorCode.AUTH_REQUIRED, ErrorCode.AUTH_REQUIRED]


def test_a_process_that_begins_anew_takes_the_place_of_the_former(net):
    up(net)
    net.crash("a")
    need(net, "a", "b")
    net.run(2.0)
    assert trunks(net, "b").takes_halves("a")
    assert len(net.wires("a", "b")) == 1


def test_who_cannot_dial_takes_the_connection_of_who_can(net):
    dial, net.dial = net.dial, lambda *_: None
    need(net, "b", "a")
    net.dial = dial
    up(net)
    assert paths_up(net) == [(1, 0), (1, 0)]


def test_who_names_no_second_address_says_what_it_always_said_and_dials_once():
    net = up(Net("a", "b"))
    assert paths_up(net) == [(1, 0), (1, 0)]
    for name in ("a", "b"):
        for greet, _ in sent(net, name, Greet):
            assert (greet.path, greet.joins, greet.at) == (None, None, None)


def test_a_second_path_needs_both(net):
    net["a"].engine.abroad.trunks._links.two = {"b"}
    up(net)
    assert paths_up(net) == [(1, 0), (1, 0)]


def test_who_joins_a_trunk_that_the_other_one_does_not_know_is_refused(two):
    paths = trunks(two, "b")._links.begun("a").paths
    paths.nonce = bytes(32)
    two.cut("a", "b", second=True)
    two.run(1.0)
    assert TrunkCode.GLARE in closed(two, "b")
    assert paths_up(two)[0] == (1, 0)


def test_a_new_connection_of_a_path_takes_the_place_of_the_old_one(two):
    """The dialer has seen it end, the other one has not."""
    leg, wire = next((leg, wire) for leg, wire in two["a"].wires.items() if wire.second)
    wire.stands = True
    del two["a"].wires[leg]
    two["a"].feed(ev.LegLost(leg, 0))
    two.run(1.0)
    assert paths_up(two) == [(1, 1), (1, 1)]
    assert TrunkCode.GLARE in closed(two, "b")


def test_who_names_no_second_address_any_more_refuses_a_path(two):
    trunks(two, "b")._links.two.clear()
    two.cut("a", "b", second=True)
    two.run(1.0)
    assert ErrorCode.NOT_ENABLED in closed(two, "b")
    assert paths_up(two) == [(1, 0), (1, 0)]


def test_another_connection_of_the_same_process_ends_what_went_on_the_first(net):
    up(net)
    leg, wire = next(iter(net["a"].wires.items()))
    wire.stands = True  # it has seen it end, the other one has not
    del net["a"].wires[leg]
    net["a"].feed(ev.LegLost(leg, 0))
    net.run(1.5)
    assert (trunks(net, "b").newest("a"), TrunkCode.GLARE in closed(net, "b")) == ("a", True)
    assert trunks(net, "a").leg_of("b") is not None
