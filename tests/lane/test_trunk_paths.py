"""Trunks of two paths, in either lane: what leaves goes by both, of what comes the first copy is heard."""

from __future__ import annotations

import pytest

from lane.test_bounds import connect
from lane.test_trunks import LISTENER, PLENTY, ROUTE, SPEAKER, TRUNK, UP, Node, carried, counters
from lanes import LANES, make_lane
from relay.core.events import FlowCounters
from relay.core.reasons import DropReason
from relay.edge.trunk_line import FRAMES, HOLD
from relay.errors import LocalError

SECOND, THIRD = 4, 5


class Twice(Node):
    """Leg 4 is the second path of trunk 3."""

    def link(self, leg: int) -> None:
        client = self.clients[leg] = connect(self.lane, leg)
        client.peer_cid = bytes(8)
        client.tell(client.relay)

    def join(self, leg: int, *, second: bool) -> None:
        self.link(leg)
        self.lane.join_trunk(leg, TRUNK, second=second)

    def leaves(self, *legs: int) -> list[list[int]]:
        """Which packets of the voice leave by each of these connections."""
        self.now += HOLD
        packets = self.lane.flush(self.now)
        found = []
        for leg in legs:
            client = self.clients[leg]
            mine = [packet for _, packet, to in packets if to == client.address]
            opened = [client.path.receive(packet, ("r", 1), 0, self.now) for packet in mine]
            found.append([ctr for one in opened for _, ctr in counters(one.datagrams)])  # type: ignore[union-attr]
        return found

    def comes(self, leg: int, *ctrs: int) -> None:
        """Packets of the voice come by this connection."""
        client = self.clients[leg]
        packet = client.path.seal([carried(ctr) for ctr in ctrs], self.now)
        self.lane.receive(packet, client.address, client.sock, self.now)

    def cut(self, leg: int) -> None:
        """The connection is over for QUIC, and the trunk goes on."""
        self.lane.close_path(leg)


@pytest.fixture(params=LANES)
def node(request: pytest.FixtureRequest) -> Twice:
    node = Twice(make_lane(request.param))
    node.join(SECOND, second=True)
    return node


def test_what_is_said_leaves_by_both_paths_and_each_copy_is_counted(node: Twice) -> None:
    node.send_on(ROUTE)
    node.say(1)
    assert node.leaves(TRUNK, SECOND) == [[1], [1]]
    assert (node.lane.counters.copies, node.lane.counters.sent) == (2, 2)
    assert node.lane.packets().sent == 2
    assert node.settled()


def test_the_first_copy_is_heard_by_whichever_path_it_came_and_the_other_is_dropped_by_name(
    node: Twice,
) -> None:
    node.comes(TRUNK, 1)
    node.comes(SECOND, 1, 2)
    node.comes(TRUNK, 2, 3)
    heard = [copy[5] for copies in node.flush(LISTENER) for copy in copies]
    assert len(heard) == 3
    assert node.lane.counters.dropped == {DropReason.SECOND_COPY: 2}
    counted = node.lane.close_flow(TRUNK, ROUTE)
    dropped = {DropReason.SECOND_COPY: 2}
    assert (counted.received, counted.accepted, counted.lost, counted.dropped) == (5, 3, 0, dropped)
    assert node.settled()


def test_so_it_is_when_it_came_through_aioquic(node: Twice) -> None:
    assert node.lane.deliver(SECOND, carried(1), node.now) is None
    assert node.lane.deliver(TRUNK, carried(1), node.now) is DropReason.SECOND_COPY
    assert node.lane.deliver(SECOND, carried(1, route=ROUTE + 1), node.now) is DropReason.UNKNOWN_FLOW
    assert len(node.flush(LISTENER)) == 1
    assert node.settled()


def test_each_path_has_the_budget_of_the_speaker_so_that_copies_use_up_nobodys(node: Twice) -> None:
    node.lane.open_route(TRUNK, ROUTE, index=0, group=False, pps=10, up_bps=PLENTY)
    node.lane.route(TRUNK, ROUTE, [(LISTENER, 9)], None)
    found = [
        (node.lane.deliver(SECOND, carried(ctr), node.now), node.lane.deliver(TRUNK, carried(ctr), node.now))
        for ctr in range(12)
    ]
    assert found == [(None, DropReason.SECOND_COPY)] * 10 + [(DropReason.OVER_BUDGET,) * 2] * 2


def test_a_path_that_takes_nothing_costs_the_other_nothing(node: Twice) -> None:
    node.hold_up()
    node.send_on(ROUTE)
    for ctr in range(2 * FRAMES):
        node.say(ctr)
        assert node.leaves(TRUNK, SECOND) == [[], [ctr]]
    assert node.lane.counters.dropped_out == {DropReason.QUEUE_FULL: FRAMES}
    assert node.settled()


def test_a_trunk_outlives_its_first_connection_and_what_joins_takes_its_place(node: Twice) -> None:
    node.send_on(ROUTE)
    node.hold_up()
    node.say(1)
    node.cut(TRUNK)
    assert node.lane.counters.dropped_out == {DropReason.PEER_GONE: 1}
    node.say(2)
    assert node.leaves(SECOND) == [[1, 2]]
    node.comes(SECOND, 1)
    node.join(THIRD, second=False)
    node.comes(THIRD, 1, 2)
    node.say(3)
    assert node.leaves(SECOND, THIRD) == [[3], [3]]
    assert node.lane.counters.accepted == 3 + 2  # what was said here, and what came
    assert node.lane.counters.dropped == {DropReason.SECOND_COPY: 1}
    assert node.lane.counters.copies == 2 + 1 + 2 + 2
    assert node.settled()


def test_the_newest_connection_of_a_path_carries(node: Twice) -> None:
    node.send_on(ROUTE)
    node.join(THIRD, second=False)
    node.say(1)
    assert node.leaves(TRUNK, SECOND, THIRD) == [[], [1], [1]]
    node.lane.close_leg(THIRD)
    node.say(2)
    assert node.leaves(TRUNK, SECOND) == [[2], [2]]
    node.lane.close_leg(SECOND)
    node.say(3)
    assert node.leaves(TRUNK, SECOND) == [[3], []]
    assert node.settled()


def test_a_trunk_that_began_by_the_second_path_is_joined_by_the_first(node: Twice) -> None:
    node.lane.close_leg(TRUNK)
    node.link(THIRD)
    node.lane.open_trunk(THIRD, second=True)
    node.lane.open_route(THIRD, ROUTE, index=0, group=False, pps=10, up_bps=PLENTY)
    node.lane.route(THIRD, ROUTE, [(LISTENER, 9)], None)
    node.link(6)
    node.lane.join_trunk(6, THIRD, second=False)
    node.lane.route(SPEAKER, UP, [(THIRD, ROUTE)], None)
    node.say(1)
    assert node.leaves(THIRD, 6) == [[1], [1]]
    node.comes(6, 1)
    node.comes(THIRD, 1)
    assert node.lane.counters.dropped == {DropReason.SECOND_COPY: 1}
    assert node.settled()


def test_nothing_leaves_by_any_path_on_a_route_that_was_taken_away(node: Twice) -> None:
    node.hold_up()
    second = node.clients[SECOND]
    second.tell(second.relay, active=False)
    node.send_on(ROUTE)
    node.say(1)
    node.lane.route(SPEAKER, UP, [], DropReason.MUTED)
    node.hold_up(False)
    second.tell(second.relay)
    assert node.leaves(TRUNK, SECOND) == [[], []]
    assert node.lane.counters.dropped_out == {DropReason.MUTED: 2}
    assert node.settled()


def test_a_trunk_that_ended_has_no_routes_for_what_yet_comes_by_its_other_path(node: Twice) -> None:
    node.lane.close_leg(TRUNK)
    node.comes(SECOND, 1)
    assert node.lane.counters.dropped == {DropReason.UNKNOWN_FLOW: 1}
    assert node.lane.close_flow(TRUNK, ROUTE) == FlowCounters()
    node.lane.close_leg(SECOND)
    assert node.settled()


def test_what_is_no_connection_or_no_trunk_joins_nothing(node: Twice) -> None:
    node.link(THIRD)
    for leg, trunk in (
        (77, TRUNK),
        (THIRD, 77),
        (THIRD, SPEAKER),
        (THIRD, SECOND),
        (SPEAKER, TRUNK),
        (TRUNK, TRUNK),
    ):
        with pytest.raises(LocalError):
            node.lane.join_trunk(leg, trunk, second=True)
    with pytest.raises(LocalError):
        node.lane.open_route(SECOND, ROUTE, index=0, group=False, pps=1, up_bps=8)
    with pytest.raises(LocalError):
        node.lane.route(SPEAKER, UP, [(SECOND, ROUTE)], None)
