"""Calls whose people are at two nodes, when one of these restarts as planned, or leaves."""

import dataclasses
import itertools

import pytest

from pair import CLUSTER, WALL
from relay.config import DrainConfig
from relay.core import events as ev
from relay.core.trunk_half import HalfState
from relay.errors import ErrorCode
from relay.protocol import control
from relay.region.nodelist import Node, NodeList
from trunkrig import Net, url_of


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


def heard(net: Net, listeners, speaker):
    """How often each of these hears what one person says, by whichever of that one's legs."""
    found = [each for leg in speaker for each in net.heard_of(leg)]
    return sum(any(each is one for one in listeners) for each in found)


def always(net: Net, seconds: float, people) -> None:
    """All of these, each known by all their legs, hear each other without a break."""
    for _ in range(round(seconds / 0.01)):
        net.run(0.01)
        for one, other in itertools.permutations(people, 2):
            assert heard(net, one, other) > 0, f"silence at {net.now:.2f}"


def move(net: Net, people) -> None:
    """Each goes where they were asked to go, and stays on both legs until the other is there, too."""
    for legs in people:
        legs.append(net.follow(legs[-1]))
        always(net, 0.3, people)
    for legs in people:
        legs.pop(0).send(control.Moved(c=legs[0].cid, ok=True))
        always(net, 0.2, people)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_planned_restart_of_home_or_guest_is_heard_by_nobody(net, name, order):
    people = [[one] for one in net.talking("a", "a", "b", key=True)]
    for _ in range(3):
        old = net.restart(name)
        always(net, 1.2, people)
        asked = [legs for legs in people if legs[0].all(control.Drain)]
        assert len(asked) == (2 if name == "a" else 1)
        move(net, asked[::order])
        always(net, 2.0, people)
        assert old.is_stopped
        assert {legs[0].world.name for legs in people} == {"a", "b"}
    assert net["a"].records == []
    hanging_up, (ann, bob) = people[0][0], people[1::-1]
    assert isinstance(net.ask(hanging_up, control.Hangup(c=hanging_up.cid)), control.Ok)
    assert {ann[0].last(control.Ended).why, bob[0].last(control.Ended).why} == {"completed"}
    net.run(60)
    net.check_empty()


# ---------------------------------------------------------------- nodes that leave for good


def directed(*names: str) -> ev.Directed:
    nodes = tuple(Node(id=name, region="r", urls=(url_of(name),), version="1") for name in names)
    made = NodeList(v=1, cluster=CLUSTER, rev=1, issued_at=int(WALL), not_after=int(WALL) + 999, nodes=nodes)
    return ev.Directed(made, {"r": 0.0}, is_left=False)


def test_a_home_that_leaves_names_one_node_to_its_own_people_and_to_those_at_others():
    net = Net("a", "b", "c")
    net["a"].feed(directed("a", "c"))
    people = [[one] for one in net.talking("a", "a", "b", key=True)]
    net.leave(net["a"])
    net.run(0.5)
    assert [legs[0].last(control.Drain).to for legs in people] == [(url_of("c"),)] * 2
    move(net, people)
    assert [legs[0].world.name for legs in people] == ["c", "c"]
    net.run(5.0)
    assert [record.outcome for record in net["a"].records] == ["moved"]
    assert net["a"].is_stopped
    assert not net["b"].engine.abroad.visiting
    ann, bob = people
    assert isinstance(net.ask(ann[0], control.Hangup(c=ann[0].cid)), control.Ok)
    assert bob[0].last(control.Ended).why == "completed"
    net.run(60)
    net.check_empty()


def test_a_home_may_leave_to_its_own_guest():
    net = Net("a", "b")
    net["a"].feed(directed("a", "b"))
    people = [[one] for one in net.talking("a", "a", "b", key=True)]
    net.leave(net["a"])
    net.run(0.5)
    move(net, people)
    assert [legs[0].world.name for legs in people] == ["b", "b"]
    assert len(net["b"].engine.node.calls) == 1
    net.run(5.0)
    assert net["a"].is_stopped
    net.ask(people[0][0], control.Hangup(c=people[0][0].cid))
    net.run(60)
    net.check_empty()


@pytest.mark.parametrize("to", ["a", "c"])
def test_a_guest_that_leaves_sends_its_people_home_or_to_who_will_be_a_guest_of_that_home(to):
    net = Net("a", "b", "c", drain=DrainConfig(to=(url_of("c"),)))
    if to == "a":
        net["b"].feed(directed("a", "b", "c"))
    people = [[one] for one in net.talking("a", "a", "b", key=True)]
    net.leave(net["b"])
    net.run(0.5)
    assert not people[0][0].all(control.Drain)
    assert people[1][0].last(control.Drain).to == (url_of(to),)
    move(net, people[1:])
    always(net, 1.0, people)
    assert people[1][0].world.name == to
    assert not net["c"].engine.node.calls
    net.run(5.0)
    assert net["b"].is_stopped
    assert isinstance(net.ask(people[1][0], control.Hangup(c=people[1][0].cid)), control.Ok)
    assert people[0][0].last(control.Ended).why == "completed"
    net.run(60)
    net.check_empty()
    assert [record.outcome for record in net["a"].records] == ["completed"]


def test_who_has_no_key_goes_with_a_fresh_token_beside_the_ticket(net):
    people = [[one] for one in net.talking("a", "a", "b")]
    net.restart("b")
    net.run(1.5)
    bob = people[1][0]
    ids = net.call("a")
    ids.cid = bob.cid
    refused = net.follow(bob)
    assert refused.closed is ErrorCode.AUTH_REQUIRED
    people[1].append(net.follow(bob, token=ids.token(sub=bob.sub)))
    always(net, 1.0, people)
    assert people[1][1].joined is not None


def test_a_guests_ticket_tells_its_home_nothing_and_begins_no_call_there(net):
    ann, bob = net.talking("a", "a", "b", key=True)
    net.restart("b")
    net.run(1.5)
    net.ask(ann, control.Hangup(c=ann.cid))
    late = net.follow(bob)
    net.run(1.0)
    assert late.joined is None
    assert late.closed is not None
    net.run(60)
    net.check_empty()


def test_a_node_that_is_emptied_asks_its_visitors_too_and_may_stay_after_all(net):
    _ann, bob = net.talking("a", "a", "b", key=True)
    marked = directed("a", "b")
    net["b"].feed(dataclasses.replace(marked, is_left=True))
    net.run(6.0)
    assert bob.last(control.Drain).to == (url_of("a"),)
    net["b"].feed(marked)
    net.run(60.0)
    assert len(bob.all(control.Drain)) == 1


def test_a_process_that_is_killed_while_another_one_is_there_is_found_out(net):
    ann, bob = net.talking("a", "a", "b", key=True)
    old = net.restart("a")
    net.run(0.5)
    trunks = net["b"].engine.abroad.trunks
    assert trunks.newest("a") == "a+"
    assert None not in (trunks.leg_of("a"), trunks.leg_of("a+"))
    for wire in [wire for wire in old.wires.values()]:
        wire.stands = True
    net.run(1.0)
    assert trunks.leg_of("a") is None
    assert net["b"].engine.abroad.visiting.half_of(bob.leg).state is HalfState.ORPHAN
    assert net.heard_of(ann) == []


def test_whoever_comes_while_a_process_leaves_comes_to_the_newest(net):
    net.talking("a", "a", "b", key=True)
    net.restart("a")
    net.run(2.0)
    net.talking("a", "a", "b")
    assert len(net["a"].engine.node.calls) == 2
    assert net["a"].engine.abroad.hosting


def test_nodes_that_cannot_be_met_are_not_dialed_for_ever(net):
    net.talking("a", "a", "b", key=True)
    net.unreachable.add("b")
    net.restart("a")
    net.run(29.0)
    dials = sum(isinstance(out, ev.DialTrunk) for out in net["a"].outputs)
    assert dials > 3
    net.run(60.0)
    assert sum(isinstance(out, ev.DialTrunk) for out in net["a"].outputs) <= dials + 2
