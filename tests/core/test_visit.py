"""Somebody whose call has its home elsewhere: the tickets they need there, and which nodes they need."""

import pytest

from relay.core.visit import Visit
from relay.errors import PeerError
from relay.protocol import control
from relay.protocol.messages import Ok
from relay.protocol.trunk_messages import Gate, Grant
from trunkrig import Net


def test_the_newest_ticket_counts_and_one_for_any_node_before_one_for_the_home() -> None:
    visit = Visit(1, "a", control.Hello())
    assert visit.way_on is None
    visit.ticket = b"first"
    assert visit.way_on == b"first"
    visit.on_ticket(control.encode_body(control.Ticket(rt=b"second", ttl=60)))
    assert visit.way_on == b"second"
    visit.on_ticket(control.encode_body(control.Ticket(rt=b"third", ttl=60, ht=b"anywhere")))
    visit.on_ticket(control.encode_body(control.Ticket(rt=b"fourth", ttl=60)))
    assert (visit.way_on, visit.ticket) == (b"anywhere", b"fourth")


def test_what_is_no_ticket_changes_nothing() -> None:
    visit = Visit(1, "a", control.Hello(), ticket=b"first")
    visit.on_ticket(control.encode_body(Ok()))
    assert visit.way_on == b"first"
    with pytest.raises(PeerError):
        visit.on_ticket(b"no message")


def test_a_person_needs_the_home_and_the_nodes_of_whom_they_hear_and_who_hears_them() -> None:
    net = Net("a", "b")
    bob = net.arrive("b", net.call("a"))
    visit = net["b"].engine.abroad.visiting._visits[bob.leg]
    assert not visit.needs("a", is_newest=True)  # nothing came of it yet
    net.run(1.0)
    assert visit.needs("a", is_newest=True)
    assert visit.needs("a", is_newest=False)  # it is this very process of the home
    assert not visit.needs("a+", is_newest=True)
    assert not visit.needs("c", is_newest=True)
    assert visit.half is not None
    visit.half.on_gate(Gate(half=visit.half.number, open=1, ep=2, at={0: "c"}))
    assert (visit.needs("c", is_newest=True), visit.needs("c", is_newest=False)) == (True, False)
    visit.half.on_gate(Gate(half=visit.half.number, open=0, ep=3, at={}))
    visit.half.on_grant(Grant(half=visit.half.number, to=("d",)))
    assert (visit.needs("c", is_newest=True), visit.needs("d", is_newest=True)) == (False, True)
    assert not Visit(2, "a", control.Hello()).needs("a", is_newest=True)
