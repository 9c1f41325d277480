"""What people are given to go on elsewhere: two nodes by name, and a ticket that is never far behind."""

from __future__ import annotations

import pytest

from pair import CLUSTER, WALL, Client, Two, World, config
from relay.config import DrainConfig
from relay.config_nodes import NodesConfig
from relay.core.events import ConfigChanged, Directed
from relay.protocol import control
from relay.region.nodelist import Node, NodeList

NAMES = ("relay-1", "relay-2", "relay-3", "relay-4")


def list_of(names: tuple[str, ...]) -> NodeList:
    """These nodes, all well."""
    nodes = tuple(
        Node(id=name, region="local", urls=(f"quic://{name}.example:443",), version="1") for name in names
    )
    return NodeList(v=1, cluster=CLUSTER, rev=1, issued_at=int(WALL), not_after=int(WALL) + 99, nodes=nodes)


@pytest.fixture
def world() -> World:
    world = World(config(nodes=NodesConfig(standbys=True)))
    world.feed(Directed(list_of(NAMES), {"local": 0.0}, False))
    return world


def spares(one: Client) -> list[bytes]:
    """Tickets for standbys that it was given."""
    return [ticket.ht for ticket in one.all(control.Ticket) if ticket.ht is not None]


def test_both_of_a_call_hear_of_the_same_two_nodes(world: World) -> None:
    ann, bob = world.pair(key=True)
    assert ann.joined is not None
    assert bob.joined is not None
    assert ann.joined.standby == bob.joined.standby
    named = [entry.node for entry in ann.joined.standby]
    assert len(set(named)) == 2
    assert set(named) <= set(NAMES[1:])
    assert [entry.url for entry in ann.joined.standby] == [f"quic://{name}.example:443" for name in named]


def test_switched_off_nobody_hears_of_any_any_more(world: World) -> None:
    ann, _ = world.talking(key=True)
    world.run(1.0)
    before = len(spares(ann))
    assert before > 0
    world.feed(ConfigChanged(config()))
    eve, _ = world.talking(key=True)
    ann.mute(True)
    world.run(40.0)
    assert eve.joined is not None
    assert eve.joined.standby == ()
    assert spares(eve) == []
    assert len(spares(ann)) == before
    world.feed(ConfigChanged(config(nodes=NodesConfig(standbys=True))))
    world.run(40.0)
    assert len(spares(ann)) > before


def test_without_a_list_and_in_a_group_nobody_hears_of_any(world: World) -> None:
    ann, _ = World().pair(key=True)
    assert ann.joined is not None
    assert ann.joined.standby == ()
    eve, _ = world.talking(key=True, lim=(512, 512, 500, 4))
    world.run(1.0)
    assert eve.joined is not None
    assert eve.joined.standby == ()
    assert spares(eve) == []


def test_a_ticket_for_them_comes_with_the_answer_and_with_each_ticket(world: World) -> None:
    ann, bob = world.pair(key=True)
    ann.accept()
    world.run(1.0)
    assert spares(ann) == []  # it rings
    bob.accept()
    world.run(0.0)
    assert (len(spares(ann)), len(spares(bob))) == (1, 1)
    assert spares(ann) != spares(bob)  # each has their own
    world.run(10.0, alive=(ann, bob))
    assert len(spares(ann)) == 1  # nothing changed
    world.run(31.0, alive=(ann, bob))
    assert len(spares(ann)) == len(ann.all(control.Ticket)) >= 2


def test_what_changes_is_told_a_second_later_at_most_and_not_more_often(world: World) -> None:
    ann, bob = world.talking(key=True)
    world.run(0.0)
    for on in (True, False, True):
        ann.mute(on)
    world.run(0.5)
    assert len(spares(bob)) == 1
    world.run(0.6)
    assert len(spares(ann)) == len(spares(bob)) == 2
    world.run(5.0)
    assert len(spares(ann)) == 2


def test_who_has_no_key_to_prove_themselves_gets_none(world: World) -> None:
    ids = world.call()
    ann, bob = world.client(ids.token(key=True)).enter(), world.client(ids.token()).enter()
    ann.accept()
    bob.accept()
    world.run(1.0)
    assert len(spares(ann)) == 1
    assert bob.all(control.Ticket) == []


def test_with_their_tickets_two_meet_at_another_node_as_they_stood_here(world: World) -> None:
    ann, bob = world.talking(key=True)
    world.run(0.0)
    bob.mute()
    world.run(2.0)
    two = Two(world, World(seed=2))  # and from here on the old one says nothing
    ann2, bob2 = (two.go(one, ticket=spares(one)[-1]) for one in (ann, bob))
    for one in (ann2, bob2):
        assert isinstance(one.rejoin(), control.Joined)
    assert ann2.hears == 0  # bob muted himself before
    assert bob2.hears == 1 << ann2.index
    assert ann2.speak() is None
    assert len(bob2.heard) == 1


def taken_up(world: World, *, is_listed: bool = True) -> tuple[Client, Client]:
    """Two whose call another node takes up from its tickets; `is_listed`: one that knows standbys then."""
    ann, bob = world.talking(key=True)
    world.run(2.0)
    other = World(config(nodes=NodesConfig(standbys=True)), seed=2)
    if is_listed:
        other.feed(Directed(list_of(NAMES), {"local": 0.0}, False))
    two = Two(world, other)
    ann2, bob2 = (two.go(one, ticket=spares(one)[-1]) for one in (ann, bob))
    for one in (ann2, bob2):
        assert isinstance(one.rejoin(), control.Joined)
        other.run(0.3)
    return ann2, bob2


def test_a_node_that_takes_up_a_call_says_who_is_back_when_the_rush_is_over(world: World) -> None:
    ann, bob = taken_up(world)
    ann.world.run(4.0, alive=(ann, bob))
    assert (spares(ann), spares(bob)) == ([], [])
    ann.world.run(6.5, alive=(ann, bob))
    assert (len(spares(ann)), len(spares(bob))) == (1, 1)
    ann.world.run(10.0, alive=(ann, bob))
    assert (len(spares(ann)), len(spares(bob))) == (1, 1)


def test_what_a_gate_obeys_is_told_at_once_there_too(world: World) -> None:
    ann, bob = taken_up(world)
    ann.mute()
    ann.world.run(1.0, alive=(ann, bob))
    assert (len(spares(ann)), len(spares(bob))) == (1, 1)
    third = Two(ann.world, World(seed=3))
    ann3, bob3 = (third.go(one, ticket=spares(one)[-1]) for one in (ann, bob))
    for one in (ann3, bob3):
        assert isinstance(one.rejoin(), control.Joined)
    assert (ann3.hears, bob3.hears) == (1 << bob3.index, 0)


def test_what_changed_before_standbys_were_known_is_told_at_once(world: World) -> None:
    ann, bob = taken_up(world, is_listed=False)
    ann.mute()
    ann.world.run(20.0, alive=(ann, bob))
    ann.world.feed(Directed(list_of(NAMES), {"local": 0.0}, False))
    assert (spares(ann), spares(bob)) == ([], [])
    bob.mute()
    ann.world.run(1.0, alive=(ann, bob))
    assert (len(spares(ann)), len(spares(bob))) == (1, 1)


def test_a_call_that_was_answered_here_only_has_its_tickets_at_once() -> None:
    old = World(config(drain=DrainConfig(grace_s=0.0, smear_s=1.0)))
    ann, bob = old.pair(key=True)
    ann.accept()
    other = World(config(nodes=NodesConfig(standbys=True)), seed=2)
    other.feed(Directed(list_of(NAMES), {"local": 0.0}, False))
    two = Two(old, other)
    two.drain()
    ann2, bob2 = two.move(ann), two.move(bob)
    bob2.accept()
    other.run(0.1)
    assert (len(spares(ann2)), len(spares(bob2))) == (1, 1)


def test_a_call_that_ends_is_forgotten_and_asks_for_nothing_more(world: World) -> None:
    ann, _ = world.talking(key=True)
    world.run(0.0)
    ann.mute()
    ann.hangup()
    world.run(5.0)
    assert len(spares(ann)) == 1
    assert world.engine._spares._known == {}
    eve, _ = world.talking(key=True)
    world.run(0.0)
    call = world.engine.node.calls[eve.cid]
    call.flows[99, 1] = call.seats[0]  # a counter that is still on its way
    eve.mute()
    eve.hangup()
    world.run(5.0)
    assert len(spares(eve)) == 1
    del call.flows[99, 1]


def test_a_node_that_is_on_no_list_any_more_gives_out_no_more_of_them(world: World) -> None:
    ann, bob = world.talking(key=True)
    world.run(0.0)
    world.feed(Directed(None, {}, False))
    eve, _ = world.pair(key=True)
    assert eve.joined is not None
    assert eve.joined.standby == ()
    ann.mute()
    world.run(5.0, alive=(ann, bob))
    assert len(spares(ann)) == 1
    assert world.engine._spares._known == {}
