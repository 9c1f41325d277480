"""Connections to other nodes, in either lane: voices come and go by routes, and share packets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from lane.test_bounds import _Far, connect
from lanes import LANES, make_lane
from relay.core.adapt import Mode
from relay.core.events import FlowCounters, Repair, RouteCount
from relay.core.reasons import DropReason
from relay.edge.lane import ControlDatagram, Lane, RekeyWanted
from relay.edge.trunk_line import FRAMES, HOLD, LEAST_WINDOW, LONGEST_WAIT, QUEUE_BYTES
from relay.errors import LocalError
from relay.protocol import media, trunk
from relay.protocol.trunk import MAX_ROUTE, MIN_ROUTE

START = 100.0
PLENTY = 10**9
SPEAKER, LISTENER, TRUNK, OTHER = 1, 2, 3, 4
UP, DOWN, ROUTE = 4, 9, 64
VECTORS = load("trunk")
GOLDENS = [bytes.fromhex(row["datagram"]) for row in VECTORS["media"]]
GOLDENS += [bytes.fromhex(data) for data in VECTORS["hops"]]
INDEXES = {row["route"]: media.decode(bytes.fromhex(row["leg"])).kid >> 2 for row in VECTORS["media"]}


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return make_lane(request.param)


def voice(ctr: int, size: int = 100, *, flow: int = UP, kid: int = 0, repeat: bool = False) -> bytes:
    head = media.encode_header(flow, kid, ctr, repeat=repeat)
    return head + bytes((ctr % 256,)) * (size - len(head))


def carried(ctr: int, size: int = 100, *, route: int = ROUTE, kid: int = 0) -> bytes:
    return trunk.from_leg(voice(ctr, size, kid=kid), route)


class Node:
    """Leg 1 speaks as flow 4, leg 2 listens, 3 is a trunk, whose other end says nothing by itself."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.now = START
        self.clients = {leg: connect(lane, leg) for leg in (SPEAKER, LISTENER, TRUNK)}
        for client in self.clients.values():
            client.peer_cid = bytes(8)  # what its own end goes by
            client.tell(client.relay)
        for leg in (SPEAKER, LISTENER):
            lane.open_leg(leg, pps=PLENTY, up_bps=PLENTY, down_bps=PLENTY)
        lane.open_trunk(TRUNK)
        lane.open_flow(SPEAKER, UP, index=0, group=False)
        self.give(ROUTE)

    @property
    def far(self) -> _Far:
        return self.clients[TRUNK]

    def give(self, route: int) -> None:
        """A route by which leg 2 hears participant 0 of another node."""
        self.lane.open_route(TRUNK, route, index=0, group=False, pps=PLENTY, up_bps=PLENTY)
        self.lane.route(TRUNK, route, [(LISTENER, DOWN)], None)

    def send_on(self, *routes: int) -> None:
        """What leg 1 says goes onto these routes of the trunk."""
        self.lane.route(SPEAKER, UP, [(TRUNK, route) for route in routes], None)

    def say(self, ctr: int, size: int = 100) -> None:
        assert self.lane.deliver(SPEAKER, voice(ctr, size), self.now) is None

    def hold_up(self, is_held: bool = True) -> None:
        """The way to the other node takes nothing, or does again."""
        self.far.tell(self.far.relay, active=not is_held)

    def packets(self, leg: int = TRUNK) -> list[bytes]:
        """What leaves now for a leg or the trunk."""
        client = self.clients[leg]
        return [packet for _, packet, to in self.lane.flush(self.now) if to == client.address]

    def flush(self, leg: int = TRUNK) -> list[list[bytes]]:
        """The datagrams of each packet that leaves for it, without packets that have none."""
        path = self.clients[leg].path
        opened = [path.receive(packet, ("r", 1), 0, self.now) for packet in self.packets(leg)]
        found = [one.datagrams for one in opened]  # type: ignore[union-attr]  # they are its own
        return [datagrams for datagrams in found if datagrams]

    def acknowledge(self) -> None:
        """The other end acknowledges all that it opened."""
        packet = self.far.path.seal([], self.now)
        self.lane.receive(packet, self.far.address, self.far.sock, self.now)

    def settled(self) -> bool:
        lane = self.lane
        return not lane.counters.imbalance() and not lane.packets().imbalance()


@pytest.fixture
def node(lane: Lane) -> Node:
    return Node(lane)


def counters(datagrams: list[bytes]) -> list[tuple[int, int]]:
    """Route and counter of datagrams of a trunk."""
    read = [trunk.decode(data) for data in datagrams]
    return [(one.route, one.header.ctr) for one in read if isinstance(one, trunk.Carried)]


# ---------------------------------------------------------------- what leaves


def test_a_voice_leaves_on_its_route_with_one_hop_and_no_repeat(node: Node) -> None:
    node.send_on(16383)
    spoken = voice(7, repeat=True)
    assert node.lane.deliver(SPEAKER, spoken, node.now) is None
    assert node.flush() == []
    assert node.lane.next_ack() == pytest.approx(START + HOLD)
    node.now = START + HOLD
    assert node.flush() == [[trunk.from_leg(voice(7), 16383)]]
    assert trunk.from_leg(voice(7), 16383)[:3] == b"\x7f\xff\x01"
    assert node.settled()


def test_many_share_a_packet_that_leaves_when_it_is_full_and_the_last_waits_a_millisecond(node: Node) -> None:
    node.send_on(*range(64, 84))
    node.say(1)
    (first,) = node.flush()
    assert counters(first) == [(route, 1) for route in range(64, 74)]
    node.now += HOLD / 2
    assert node.flush() == []
    node.now = START + HOLD
    (second,) = node.flush()
    assert counters(second) == [(route, 1) for route in range(74, 84)]
    assert node.lane.packets().sent == 2
    assert node.settled()


def test_no_packet_is_longer_than_1200_bytes(node: Node) -> None:
    node.far.peer_cid = bytes(20)
    node.far.tell(node.far.relay)
    node.send_on(*range(64, 72))
    for ctr, size in enumerate((22, 61, 190, 300, 377, 378, 540, 569, 570, 1024)):
        node.say(ctr, size)
        node.now += 2 * HOLD
        assert max(len(packet) for packet in node.packets()) <= 1200
    assert node.lane.counters.sent == 80


def test_who_came_first_leaves_first_whatever_its_route(node: Node) -> None:
    node.lane.open_flow(SPEAKER, UP + 1, index=0, group=False)
    node.send_on(70)
    node.lane.route(SPEAKER, UP + 1, [(TRUNK, 69)], None)
    node.hold_up()
    for ctr, flow in enumerate((UP, UP + 1, UP, UP, UP + 1)):
        assert node.lane.deliver(SPEAKER, voice(ctr, flow=flow), node.now) is None
        node.now += 0.001
    assert node.flush() == []
    node.hold_up(False)
    node.say(9)
    (heard,) = node.flush()
    assert counters(heard) == [(70, 0), (69, 1), (70, 2), (70, 3), (69, 4), (70, 9)]


def test_of_one_route_five_wait_and_the_sixth_displaces_the_oldest_of_that_route(node: Node) -> None:
    node.hold_up()
    node.send_on(65)
    node.say(0)
    node.send_on(65, 66)
    for ctr in range(1, FRAMES + 1):
        node.say(ctr)
    assert node.lane.counters.queued == 2 * FRAMES
    assert node.lane.counters.dropped_out == {DropReason.QUEUE_FULL: 1}
    node.hold_up(False)
    node.now += HOLD
    heard = [each for packet in node.flush() for each in counters(packet)]
    assert heard == [(route, ctr) for ctr in range(1, FRAMES + 1) for route in (65, 66)]
    assert node.settled()


def test_a_batch_displaces_nothing_that_could_have_left(node: Node) -> None:
    node.send_on(ROUTE)
    for ctr in range(64):
        node.say(ctr, 40)
    node.now += HOLD
    assert sum(len(packet) for packet in node.flush()) == 64
    assert node.lane.counters.dropped_out == {}


def test_what_waited_for_more_than_60_ms_leaves_no_more(node: Node) -> None:
    node.hold_up()
    node.send_on(ROUTE)
    node.say(0)
    node.now = START + LONGEST_WAIT - 0.001
    node.say(1)
    assert node.lane.counters.queued == 2
    node.now += 0.002
    node.say(2)
    assert node.lane.counters.dropped_out == {DropReason.STALE: 1}
    node.now += LONGEST_WAIT - 0.001
    node.hold_up(False)
    (heard,) = node.flush()
    assert counters(heard) == [(ROUTE, 2)]
    assert node.lane.counters.dropped_out == {DropReason.STALE: 2}
    assert node.settled()


def test_what_waits_for_a_trunk_takes_two_mebibytes_at_most(node: Node) -> None:
    node.hold_up()
    node.send_on(*range(64, 2264))
    for ctr in range(FRAMES):
        node.say(ctr)
    fits = QUEUE_BYTES // 192  # buffers of voice
    assert node.lane.counters.queued == fits
    assert node.lane.counters.dropped_out == {DropReason.QUEUE_FULL: 2200 * FRAMES - fits}
    assert node.settled()


def test_no_right_of_the_leg_bounds_what_leaves(node: Node) -> None:
    node.lane.open_leg(TRUNK, pps=1, up_bps=8, down_bps=8)
    node.send_on(*range(64, 164))
    node.say(0)
    node.now += HOLD
    assert sum(len(packet) for packet in node.flush()) == 100


def test_64_kib_are_in_flight_at_first(node: Node) -> None:
    node.send_on(*range(64, 264))
    node.say(0, 1000)
    sent = len(node.packets())
    in_flight = node.far.relay.media_in_flight
    assert LEAST_WINDOW <= in_flight < LEAST_WINDOW + 1200
    assert sent == 64
    assert not node.far.relay.room(node.now)
    assert node.lane.counters.queued == 200 - 64


def test_the_window_grows_to_twice_what_a_round_trip_takes(node: Node) -> None:
    node.send_on(*range(64, 104))
    under_way: list[tuple[float, bytes]] = []
    dropped = 0
    for step in range(120):  # 40 kB in 10 ms, 100 ms there and back
        dropped = sum(node.lane.counters.dropped_out.values()) if step == 100 else dropped
        node.say(step, 1000)
        under_way += [(node.now, packet) for packet in node.packets()]
        came = [packet for at, packet in under_way if at <= node.now - 0.1]
        del under_way[: len(came)]
        for packet in came:
            node.far.path.receive(packet, ("r", 1), 0, node.now)
        if came:
            node.acknowledge()
        node.now += 0.01
    assert dropped > 0
    assert sum(node.lane.counters.dropped_out.values()) == dropped
    assert node.far.relay.media_in_flight > 5 * LEAST_WINDOW
    assert node.far.relay.media_lost == 0
    assert node.settled()


def test_nothing_leaves_on_a_route_that_was_taken_away(node: Node) -> None:
    node.hold_up()
    node.send_on(65, 66)
    node.say(0)
    node.lane.route(SPEAKER, UP, [(TRUNK, 66)], DropReason.MUTED)
    node.say(1)
    node.lane.route(SPEAKER, UP, [], DropReason.BLOCKED)
    node.hold_up(False)
    node.now += HOLD
    assert node.flush() == []
    assert node.lane.counters.dropped_out == {DropReason.MUTED: 1, DropReason.BLOCKED: 2}
    assert node.settled()


@pytest.mark.parametrize("classes", [{media.PP_REDUNDANT}, {media.PP_SPEECH}])
def test_what_a_full_node_gives_up_goes_to_no_other_node_either(node: Node, classes: set[int]) -> None:
    node.lane.shed(classes)
    node.send_on(ROUTE)
    node.say(0)
    assert node.lane.counters.queued == (media.PP_SPEECH not in classes)
    assert node.lane.counters.dropped_out[DropReason.SHED] == (media.PP_SPEECH in classes)


# ---------------------------------------------------------------- what comes


def test_a_voice_from_another_node_is_heard_as_a_flow_and_its_sealed_bytes_are_untouched(node: Node) -> None:
    ping = b"\0\1" + bytes(8)
    packet = node.far.path.seal([carried(1), ping, carried(2)], node.now)
    node.lane.receive(packet, node.far.address, node.far.sock, node.now)
    assert node.lane.take(9) == [ControlDatagram(TRUNK, ping)]
    heard = [copy for copies in node.flush(LISTENER) for copy in copies]
    assert heard == [media.with_flow(voice(ctr), DOWN, False) for ctr in (1, 2)]
    assert node.lane.counters.accepted == 2
    assert node.settled()


def test_so_it_is_when_it_came_through_aioquic(node: Node) -> None:
    assert node.lane.deliver(TRUNK, carried(1, 1024), node.now) is None
    assert node.flush(LISTENER) == [[media.with_flow(voice(1, 1024), DOWN, False)]]


GOOD = carried(1)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", DropReason.UNKNOWN_FLOW),
        (b"\x40", DropReason.UNKNOWN_FLOW),
        (voice(1), DropReason.UNKNOWN_FLOW),
        (b"\x40\x3f" + GOOD[2:], DropReason.UNKNOWN_FLOW),
        (carried(1, route=65), DropReason.UNKNOWN_FLOW),
        (b"\x80\0\0\x40" + GOOD[2:], DropReason.UNKNOWN_FLOW),
        (GOOD[:2], DropReason.MALFORMED),
        (GOOD[:23], DropReason.MALFORMED),
        (carried(1, 1024) + b"\0", DropReason.TOO_LARGE),
        (GOOD[:3] + b"\x80" + GOOD[4:], DropReason.BAD_VERSION),
        (GOOD[:3] + b"\x42" + GOOD[4:], DropReason.MALFORMED),  # a repeat
        *((GOOD[:2] + bytes((hop,)) + GOOD[3:], DropReason.HOP_LIMIT) for hop in (0, 2, 0x3F, 0xFF)),
        (GOOD[:2] + b"\x02\x42" + GOOD[4:], DropReason.MALFORMED),  # its header is judged first
        (carried(1, kid=4), DropReason.WRONG_SENDER),
    ],
)
def test_what_another_node_says_wrongly_is_dropped_by_name(
    node: Node, datagram: bytes, reason: DropReason
) -> None:
    assert node.lane.deliver(TRUNK, datagram, node.now) is reason
    assert node.lane.counters.dropped == {reason: 1}
    of_route = {} if reason is DropReason.UNKNOWN_FLOW else {reason: 1}
    assert node.lane.close_flow(TRUNK, ROUTE) == FlowCounters(received=len(of_route), dropped=of_route)
    assert node.settled()


def test_each_route_has_a_replay_window_of_its_own(node: Node) -> None:
    node.give(65)
    for route in (64, 65):
        assert node.lane.deliver(TRUNK, carried(200, route=route), node.now) is None
        assert node.lane.deliver(TRUNK, carried(200, route=route), node.now) is DropReason.DUPLICATE
        assert node.lane.deliver(TRUNK, carried(73, route=route), node.now) is None
        assert node.lane.deliver(TRUNK, carried(72, route=route), node.now) is DropReason.DUPLICATE


def test_each_route_has_the_budget_of_its_speaker(node: Node) -> None:
    for route in (64, 65):
        node.lane.open_route(TRUNK, route, index=0, group=False, pps=10, up_bps=PLENTY)
        node.lane.route(TRUNK, route, [(LISTENER, DOWN)], None)
        found = [node.lane.deliver(TRUNK, carried(ctr, route=route), node.now) for ctr in range(12)]
        assert found == [None] * 10 + [DropReason.OVER_BUDGET] * 2


def test_a_speaker_is_charged_for_as_many_bytes_as_by_the_node_before(node: Node) -> None:
    node.lane.open_route(TRUNK, 64, index=0, group=False, pps=1000, up_bps=8)
    node.lane.route(TRUNK, 64, [(LISTENER, DOWN)], None)
    assert node.lane.deliver(TRUNK, carried(1, 1024), node.now) is None
    assert node.lane.deliver(TRUNK, carried(2, 30), node.now) is DropReason.OVER_BUDGET


def test_nobody_hears_a_route_before_it_is_routed_nor_after(node: Node) -> None:
    node.lane.open_route(TRUNK, 65, index=0, group=False, pps=50, up_bps=PLENTY)
    assert node.lane.deliver(TRUNK, carried(1, route=65), node.now) is DropReason.GATE_CLOSED
    node.lane.route(TRUNK, 65, [(LISTENER, DOWN)], None)
    assert node.lane.deliver(TRUNK, carried(1, route=65), node.now) is None
    node.lane.route(TRUNK, 65, [], DropReason.MUTED)
    assert node.lane.deliver(TRUNK, carried(2, route=65), node.now) is DropReason.MUTED
    assert node.flush(LISTENER) == []
    assert node.lane.counters.dropped_out == {DropReason.MUTED: 1}
    assert node.settled()


def test_a_route_that_is_given_anew_begins_anew(node: Node) -> None:
    assert node.lane.deliver(TRUNK, carried(1), node.now) is None
    node.lane.open_route(TRUNK, ROUTE, index=1, group=False, pps=50, up_bps=PLENTY)
    assert node.flush(LISTENER) == []
    assert node.lane.deliver(TRUNK, carried(1, kid=4), node.now) is DropReason.GATE_CLOSED
    node.lane.route(TRUNK, ROUTE, [(LISTENER, DOWN)], None)
    assert node.lane.deliver(TRUNK, carried(1, kid=4), node.now) is None
    assert node.lane.deliver(TRUNK, carried(2), node.now) is DropReason.WRONG_SENDER
    assert node.settled()


def test_what_came_on_a_route_is_counted_and_since_when_it_is_heard(node: Node) -> None:
    assert node.lane.flowing([(TRUNK, ROUTE), (TRUNK, 65), (SPEAKER, 300)]) == {}
    for ctr in (1, 2, 4, 4):
        node.lane.deliver(TRUNK, carried(ctr), node.now)
        node.now += 0.02
    assert node.lane.flowing([(TRUNK, ROUTE)]) == {(TRUNK, ROUTE): (START, 3)}
    counted = node.lane.close_flow(TRUNK, ROUTE)
    assert counted == FlowCounters(
        received=4, accepted=3, copies=3, lost=1, dropped={DropReason.DUPLICATE: 1}, first=START
    )
    assert node.lane.close_flow(TRUNK, ROUTE) == FlowCounters()
    assert node.lane.close_flow(SPEAKER, 300) == FlowCounters()
    assert node.lane.deliver(TRUNK, carried(5), node.now) is DropReason.UNKNOWN_FLOW


def test_thousands_of_routes_are_told_apart(node: Node) -> None:
    given_routes = range(MIN_ROUTE, MAX_ROUTE + 1, 5)
    for route in given_routes:
        node.give(route)
    for route in given_routes:
        assert node.lane.deliver(TRUNK, carried(route, route=route), node.now) is None
        assert node.lane.deliver(TRUNK, carried(route, route=route + 1), node.now) is DropReason.UNKNOWN_FLOW
    for route in given_routes:
        assert node.lane.close_flow(TRUNK, route).accepted == 1
    assert node.settled()


# ---------------------------------------------------------------- what is a trunk


def test_what_came_by_a_trunk_leaves_by_legs_only(node: Node) -> None:
    connect(node.lane, OTHER)
    node.lane.open_trunk(OTHER)
    assert node.lane.deliver(TRUNK, carried(1), node.now) is None
    for target in ((TRUNK, 70), (OTHER, 70)):
        node.lane.route(TRUNK, ROUTE, [(LISTENER, DOWN)], None)
        with pytest.raises(LocalError):
            node.lane.route(TRUNK, ROUTE, [(LISTENER, DOWN), target], None)
        assert node.lane.deliver(TRUNK, carried(2), node.now) is DropReason.GATE_CLOSED
    assert node.flush(LISTENER) == []
    assert node.lane.counters.dropped_out == {DropReason.GATE_CLOSED: 1}
    assert node.settled()


def test_routes_and_flows_are_not_mistaken_for_each_other(node: Node) -> None:
    lane = node.lane
    wrong = [
        lambda: lane.open_trunk(77),  # there is no connection
        lambda: lane.open_trunk(SPEAKER),
        lambda: lane.open_flow(TRUNK, UP, index=0, group=False),
        lambda: lane.open_route(SPEAKER, ROUTE, index=0, group=False, pps=50, up_bps=PLENTY),
        lambda: lane.open_route(TRUNK, MIN_ROUTE - 1, index=0, group=False, pps=50, up_bps=PLENTY),
        lambda: lane.open_route(TRUNK, MAX_ROUTE + 1, index=0, group=False, pps=50, up_bps=PLENTY),
        lambda: lane.route(SPEAKER, UP, [(TRUNK, DOWN)], None),
        lambda: lane.route(SPEAKER, UP, [(TRUNK, MAX_ROUTE + 1)], None),
        lambda: lane.route(SPEAKER, UP, [(LISTENER, 256)], None),
        lambda: lane.route(SPEAKER, ROUTE, [(LISTENER, DOWN)], None),
        lambda: lane.route(TRUNK, UP, [(LISTENER, DOWN)], None),
    ]
    for act in wrong:
        with pytest.raises(LocalError):
            act()
    lane.open_trunk(TRUNK)  # it is one
    assert lane.deliver(TRUNK, carried(1), node.now) is None


def test_a_trunk_that_closes_takes_along_what_waits_on_both_sides(node: Node) -> None:
    node.hold_up()
    node.send_on(65, 66)
    node.say(0)
    assert node.lane.deliver(TRUNK, carried(1), node.now) is None
    node.lane.close_leg(TRUNK)
    assert node.lane.counters.dropped_out == {DropReason.PEER_GONE: 2, DropReason.GATE_CLOSED: 1}
    assert node.lane.deliver(TRUNK, carried(2), node.now) is DropReason.UNKNOWN_FLOW
    node.say(1)
    assert node.lane.counters.dropped_out == {DropReason.PEER_GONE: 4, DropReason.GATE_CLOSED: 1}
    assert node.flush(LISTENER) == []
    assert node.settled()
    node.lane.open_trunk(TRUNK)  # another life: who spoke to the one before is not heard there
    node.say(2)
    assert node.lane.counters.dropped_out[DropReason.PEER_GONE] == 6
    assert node.lane.counters.queued == 0


def test_a_trunk_is_no_leg_whose_way_somebody_adapts(node: Node) -> None:
    rule = Repair(mode=Mode.REPEATS, budget=1.0, depth=10.0, max_age=1.0)
    node.lane.tell_repair(TRUNK, rule)
    node.send_on(ROUTE)
    for ctr in range(8):
        node.say(ctr)
        node.now += 0.02
        packets = node.packets()
        for packet in packets if ctr else []:  # the first one is lost
            node.far.path.receive(packet, ("r", 1), 0, node.now)
    node.acknowledge()
    assert node.far.relay.media_lost == 1
    assert node.lane.troubled() == []
    assert node.lane.repairs.kept == 0
    (measured,) = node.lane.measure([TRUNK], node.now)
    assert (measured.leg, measured.acked, measured.lost) == (TRUNK, 7, 1)


def test_what_waits_is_measured(node: Node) -> None:
    node.hold_up()
    node.send_on(ROUTE)
    node.say(0)
    (measured,) = node.lane.measure([TRUNK], node.now + 0.03)
    assert measured.age == pytest.approx(0.03)
    assert node.lane.drain(TRUNK, node.now, 4096) == []  # nothing of a trunk leaves another way


def hear(node: Node, *ctrs: int, route: int = ROUTE, kid: int = 0) -> None:
    """These packets come from the other node."""
    for ctr in ctrs:
        assert node.lane.deliver(TRUNK, carried(ctr, route=route, kid=kid), node.now) is None


def count(node: Node, first: int = 0, most: int = 80) -> list[RouteCount]:
    return node.lane.count_routes(TRUNK, first, most)


def test_what_came_on_a_route_is_counted_once_and_a_route_in_silence_is_left_out(node: Node) -> None:
    assert count(node) == []
    hear(node, 1, 2, 3)
    assert count(node) == [RouteCount(ROUTE, newest=3, came=3, missing=0, late=0)]
    assert count(node) == []
    node.lane.deliver(TRUNK, carried(3), node.now)  # nothing new
    assert count(node) == []


def test_a_packet_is_missing_when_it_is_not_there_at_the_second_count_and_late_if_it_comes_then(
    node: Node,
) -> None:
    hear(node, 1, 2, 5)
    assert count(node) == [RouteCount(ROUTE, 5, 3, 0, 0)]
    hear(node, 4, 6, 8)
    assert count(node) == [RouteCount(ROUTE, 8, 3, 1, 0)]  # 3 is; 4 came in time, 7 has time
    hear(node, 3, 7)
    assert count(node) == [RouteCount(ROUTE, 8, 2, 0, 1)]


def test_what_is_128_behind_is_missing_at_once(node: Node) -> None:
    hear(node, 0, 300)
    assert count(node) == [RouteCount(ROUTE, 300, 2, 299 - 127, 0)]
    assert count(node) == [RouteCount(ROUTE, 300, 0, 127, 0)]


def test_another_key_counts_from_its_own_beginning(node: Node) -> None:
    hear(node, 1, 3)
    assert count(node) == [RouteCount(ROUTE, 3, 2, 0, 0)]
    hear(node, 0, 2, kid=1)
    assert count(node) == [RouteCount(ROUTE, 2, 2, 1, 0)]
    assert count(node) == [RouteCount(ROUTE, 2, 0, 1, 0)]


def test_figures_end_where_a_report_can_tell_no_more(node: Node) -> None:
    hear(node, 0, 70_000, 0xFFFF_FFFF)
    assert count(node) == [RouteCount(ROUTE, 0xFFFF_FFFF, 3, 0xFFFF, 0)]


def test_routes_are_counted_by_number_some_at_a_time(node: Node) -> None:
    for route in (16383, 900, 65):
        node.give(route)
        hear(node, 7, route=route)
    hear(node, 7)
    assert [line.route for line in count(node, most=2)] == [64, 65]
    assert [line.route for line in count(node, 66, 2)] == [900, 16383]
    assert count(node, 64) == count(node, MAX_ROUTE + 1) == []
    node.lane.close_flow(TRUNK, 900)
    node.give(900)
    hear(node, 7, route=900)
    assert count(node) == [RouteCount(900, 7, 1, 0, 0)]  # another voice, from its own beginning
    assert node.lane.count_routes(SPEAKER, 0, 9) == node.lane.count_routes(99, 0, 9) == []


def test_keys_change_in_the_middle_of_all_and_nothing_is_lost(node: Node) -> None:
    node.far.relay.update_after = 20
    node.send_on(64, 65)
    heard, wanted = 0, 0
    for ctr in range(200):
        node.say(ctr)
        node.now += 0.005
        heard += sum(len(datagrams) for datagrams in node.flush())
        node.acknowledge()
        assert node.lane.deliver(TRUNK, carried(ctr), node.now) is None
        for item in node.lane.take(9):
            assert item == RekeyWanted(TRUNK)
            wanted += 1
            renew(node.far)
    assert heard == 400
    assert wanted == node.far.relay.key_updates >= 8
    assert node.far.relay.media_lost == 0
    assert node.settled()


def renew(far: _Far) -> None:
    """Both ends go on with other keys."""
    key, iv = far.coming
    far.phase ^= 1
    far.renew()
    far.up = (key, iv, far.masks[0])
    far.relay.set_keys(far.suite, far.phase, far.up, far.down, far.coming)
    far.path.set_keys(far.suite, far.phase, far.down, far.up, far.coming)


@given(st.lists(anything(GOLDENS, max_size=1100), max_size=8))
def test_both_lanes_judge_alike_and_account_for_whatever_another_node_says(payloads: list[bytes]) -> None:
    found = []
    for name in LANES:
        lane = make_lane(name)
        lane.open_leg(LISTENER, pps=50, up_bps=PLENTY, down_bps=PLENTY)
        lane.open_path(TRUNK)
        lane.open_trunk(TRUNK)
        for route in (64, MAX_ROUTE):
            lane.open_route(TRUNK, route, index=INDEXES[route], group=False, pps=50, up_bps=PLENTY)
            lane.route(TRUNK, route, [(LISTENER, DOWN)], None)
        verdicts = [lane.deliver(TRUNK, payload, START) for payload in payloads]
        assert lane.counters.imbalance() == 0
        assert lane.counters.media_in == len(payloads)
        lines = [lane.count_routes(TRUNK, 0, 80) for _ in range(2)]
        closed = [lane.close_flow(TRUNK, route) for route in (64, MAX_ROUTE)]
        found.append((verdicts, lane.counters, lines, closed))
    assert found[0] == found[-1]
