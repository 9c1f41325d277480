"""Who is sent on when the trunk to a call's home is silent, where to, and that they hear each other there."""

from __future__ import annotations

import pytest

from pair import CLUSTER, WALL, Client
from relay.config_nodes import NodesConfig
from relay.core.events import Directed
from relay.core.referral import AT_ONCE, EACH_S, Referral
from relay.core.trunk import CARRYING_S
from relay.core.visit import Visit
from relay.protocol import control
from relay.region.nodelist import Node, NodeList
from trunkrig import Net

NAMES = ("a", "b", "c", "d")


def url(name: str) -> str:
    return f"quic://{name}.example:443"


def listed(*names: str) -> NodeList:
    nodes = tuple(Node(id=name, region="local", urls=(url(name),), version="1") for name in names)
    return NodeList(v=1, cluster=CLUSTER, rev=1, issued_at=int(WALL), not_after=int(WALL) + 99, nodes=nodes)


@pytest.fixture
def net() -> Net:
    net = Net(*NAMES, nodes=NodesConfig(standbys=True))
    for name in NAMES:
        net[name].feed(Directed(listed(*NAMES), {"local": 0.0}, False))
    return net


def drains(one: Client) -> list[control.Drain]:
    return one.all(control.Drain)


def go(net: Net, one: Client, name: str, ticket: bytes | None = None) -> Client:
    """This client goes to another node by what it was told, and rejoins there."""
    ticket = ticket or drains(one)[-1].ht
    there = net[name].client(one.raw).open()
    assert isinstance(there.hello(tok=None, resume=ticket), control.Welcome), there.got
    there.rejoin(ticket)
    net.run(0.5)
    assert there.joined is not None, there.got
    return there


# ---------------------------------------------------------------- the trunk is cut


def test_a_silent_trunk_sends_its_people_to_the_home_and_then_to_the_standbys(net: Net) -> None:
    ann, bob = net.talking("a", "a", "b", key=True)
    assert ann.joined is not None
    net.freeze("a", "b")
    net.run(CARRYING_S + 0.25)
    (told,) = drains(bob)
    assert told.to == (url("a"), *(entry.url for entry in ann.joined.standby))
    assert (told.in_ms, told.stb, drains(ann)) == (0, 2, [])
    there = go(net, bob, "a")
    assert (net.heard_of(ann), net.heard_of(there)) == ([there], [ann])


def test_the_leg_that_was_left_ends_and_nobody_is_thrown_out(net: Net) -> None:
    ann, bob = net.talking("a", "a", "b", key=True)
    net.freeze("a", "b")
    net.run(CARRYING_S + 0.25)
    there = go(net, bob, "a")
    net.ask(bob, control.Moved(c=bob.cid, ok=True))
    assert bob.closed is not None
    net.run(120.0, alive=(ann, there))
    assert (net.heard_of(ann), net.heard_of(there)) == ([there], [ann])
    assert len(net["b"].engine.abroad.visiting) == 0


def test_who_has_not_gone_when_the_trunk_comes_back_is_heard_where_they_are(net: Net) -> None:
    ann, bob = net.talking("a", "a", "b", key=True)
    net.freeze("a", "b")
    net.run(CARRYING_S + 0.25)
    net.cut("a", "b")  # both see it, and dial anew
    net.run(5.0)
    told = len(drains(bob))
    assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
    net.run(30.0)
    assert len(drains(bob)) == told


def test_two_guests_that_cannot_hear_each_other_meet_at_the_home(net: Net) -> None:
    bob, eve = net.talking("a", "b", "c", key=True)
    net.freeze("b", "c")
    net.run(CARRYING_S + 0.25)
    assert len(drains(bob)) == len(drains(eve)) == 1
    one = go(net, bob, "a")
    two = go(net, eve, "a")
    assert (net.heard_of(one), net.heard_of(two)) == ([two], [one])


def test_people_of_other_trunks_are_let_be(net: Net) -> None:
    _, bob = net.talking("a", "a", "b", key=True)
    _, eve = net.talking("c", "c", "b", key=True)
    net.freeze("a", "b")
    net.run(2.0)
    assert (len(drains(bob)), drains(eve)) == (1, [])


def test_without_a_list_nobody_can_be_told_where_to_go() -> None:
    net = Net("a", "b")
    _, bob = net.talking("a", "a", "b", key=True)
    net.freeze("a", "b")
    net.run(2.0)
    assert drains(bob) == []
    assert bob.joined is not None
    assert bob.joined.standby == ()


# ---------------------------------------------------------------- the home is gone


def test_both_of_a_call_know_the_same_standby_when_the_home_is_gone(net: Net) -> None:
    ann, bob = net.talking("a", "a", "b", key=True)
    assert ann.joined is not None
    first = ann.joined.standby[0].node
    spare = ann.last(control.Ticket).ht
    net.freeze("a", "b")
    net.run(CARRYING_S + 0.25)
    assert drains(bob)[0].to[1] == url(first)
    one = go(net, ann, first, spare)
    two = go(net, bob, first)
    net.run(1.0)
    assert (net.heard_of(one), net.heard_of(two)) == ([two], [one])


def test_a_home_that_ends_its_connection_and_does_not_come_back_is_left_too(net: Net) -> None:
    _, bob = net.talking("a", "a", "b", key=True)
    net.unreachable.add("a")
    net.cut("a", "b")
    net.run(0.1)
    assert drains(bob) == []
    net.run(0.2)
    assert len(drains(bob)) == 1


def test_who_sits_at_a_guest_knows_the_home_as_the_first_standby(net: Net) -> None:
    ann, bob = net.talking("a", "a", "b", key=True)
    assert ann.joined is not None
    assert bob.joined is not None
    assert [entry.node for entry in bob.joined.standby] == ["a", ann.joined.standby[0].node]
    assert bob.last(control.Ticket).ht is not None


def test_a_home_that_no_list_names_is_no_standby(net: Net) -> None:
    net["b"].feed(Directed(listed("b", "c", "d"), {"local": 0.0}, False))
    ann, bob = net.talking("a", "a", "b", key=True)
    assert ann.joined is not None
    assert bob.joined is not None
    assert "a" not in [entry.node for entry in bob.joined.standby]


# ---------------------------------------------------------------- many


def test_of_very_many_each_waits_for_their_turn(net: Net) -> None:
    node = net["b"].engine.node
    _, bob = net.talking("a", "a", "b", key=True)
    known = net["b"].engine.abroad.visiting._visits[bob.leg]
    visits = {leg: known for leg in range(AT_ONCE + 1)}
    referral = Referral(node, visits, lambda name: (url(name),), lambda name: name)
    before = node.counters["referred", ""]
    everybody = [Visit(leg, "a", known.hello) for leg in visits]
    referral.refer(everybody)
    referral.refer(everybody[-1:])  # who waits, waits once
    assert node.counters["referred", ""] == before + AT_ONCE
    due = referral.next_deadline()
    assert due == node.now + EACH_S
    referral.on_timer(node.now)
    assert node.counters["referred", ""] == before + AT_ONCE
    del visits[AT_ONCE]  # gone meanwhile
    node.now = due
    referral.on_timer(due)
    assert (node.counters["referred", ""], referral.next_deadline()) == (before + AT_ONCE, None)


def test_who_is_not_in_yet_is_sent_nowhere(net: Net) -> None:
    bob = net.arrive("b", net.call("a"))
    visiting = net["b"].engine.abroad.visiting
    visit = visiting._visits[bob.leg]
    visiting.referral.refer([visit])
    assert visiting.referral.standbys(visit) == ()
    assert drains(bob) == []
