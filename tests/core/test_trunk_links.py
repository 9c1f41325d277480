"""Connections and their ends: a trunk outlives one of its two paths, and not both."""

import pytest

from relay.core import events as ev
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.messages import Challenge, Ok
from relay.protocol.trunk_messages import Beat, Stop
from trunkpair import alone, both_up, closed, doubled, need, paths_up, trunks, up
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


@pytest.fixture
def two() -> Net:
    return both_up()


def test_a_silent_path_holds_up_no_message_and_nobody_is_suspect(two):
    two.freeze("a", "b", second=False)
    heard = []
    trunks(two, "a").ask("b", Stop(route=64), heard.append)
    two["a"].feed(ev.Tick())
    two.run(1.0)
    assert heard == [Ok()]
    assert trunks(two, "a").takes_halves("b")


def test_a_trunk_is_down_with_its_last_path_and_comes_back_by_the_second_address_too(two):
    two.cut_paths = {False}
    two.cut("a", "b")
    two.run(0.01)
    assert paths_up(two) == [(0, 0), (0, 0)]
    two.run(15.0)
    assert paths_up(two) == [(0, 1), (0, 1)]
    two.cut_paths = set()
    two.run(11.0)
    assert paths_up(two) == [(1, 1), (1, 1)]


def test_what_only_the_lost_path_had_ends_the_trunk(two):
    two.cut("a", "b", second=True)
    two.freeze("a", "b", second=False)
    trunks(two, "a").say("b", Beat(seq=1, halves=0, ok=0))
    two["a"].feed(ev.Tick())
    two.run(1.0)
    assert paths_up(two) == [(1, 1), (1, 1)]
    two.cut("a", "b", second=False)
    two.run(0.2)
    assert two["b"].engine.counters["trunk_down", ""] == 1
    two.run(11.0)
    assert paths_up(two) == [(1, 1), (1, 1)]


def test_a_fault_on_one_path_closes_both(two):
    leg = next(leg for leg, wire in two["a"].wires.items() if wire.second)
    two.send(
        two["a"], leg, lambda there: ev.StreamReceived(there, control.encode(Challenge(n=bytes(32), t=0)))
    )
    two.run(0.1)
    assert closed(two, "b")[:2] == [ErrorCode.PROTOCOL_VIOLATION] * 2


def test_a_path_to_be_is_let_go_with_the_trunk_that_it_was_to_join():
    net = doubled("a", "b")
    net.cut_paths = {True}
    up(net)
    net.run(3.0)
    assert paths_up(net) == [(1, 0), (1, 0)]
    net.cut("a", "b", second=False)
    net.run(2.0)
    assert ErrorCode.NO_ERROR in closed(net, "a")


def test_nothing_is_said_where_there_is_no_trunk(net):
    links = trunks(net, "a")._links
    assert not links.say("b", Stop(route=64))
    assert (links.legs("b"), links.give_up("b"), list(links.outputs)) == ([], None, [])
    up(net)
    assert links.say("b", Stop(route=64))
    assert links.legs("b") == [trunks(net, "a").leg_of("b")]


def test_a_connection_that_is_lost_before_both_have_met_is_dialed_again(net):
    need(net, "a", "b")
    (leg,) = net["a"].wires
    del net["a"].wires[leg]
    net["a"].feed(ev.LegLost(leg, 0))
    net.run(1.0)
    assert len([out for out in net["a"].outputs if isinstance(out, ev.DialTrunk)]) == 2
    assert trunks(net, "a").leg_of("b") is not None


def test_who_goes_without_a_greeting_changes_nothing(net):
    peer = alone(net, "a", 9)
    peer.feed(ev.TrunkOpened(9, None, 1200))
    assert trunks(net, "a")._links.strangers == 1
    peer.feed(ev.LegLost(9, 0))
    links = trunks(net, "a")._links
    assert (links.strangers, links.on_lost(9)) == (0, False)
    links.drop(9, ErrorCode.NO_ERROR)
    assert closed(net, "a") == []
