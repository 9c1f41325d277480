"""Every hostile packet of the table, given to the real front, endpoint, QUIC stack and lane."""

from __future__ import annotations

from typing import TypeVar

import pytest

from hostile import table_edge as table
from hostile.scenes import STRANGER, Stage
from hostile.table_edge import DOWN, INDEX, UP
from lanes import make_lane
from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.lane import Lane
from relay.edge.lane_py import PyLane
from relay.protocol.trunk import MIN_ROUTE

L = TypeVar("L", bound=Lane)


@pytest.fixture
def lane() -> str:
    """Which lane; test_packets_native.py runs the same with the other."""
    return "python"


@pytest.mark.parametrize("row", table.PACKETS, ids=lambda row: row.id)
def test_a_packet_of_a_stranger_is_dropped_by_name_or_answered_with_less(
    row: table.Packet, lane: str
) -> None:
    stage = Stage(limits=dict(row.limits), lane=lane)
    data = row.data if isinstance(row.data, bytes) else row.data(stage)
    legs = len(stage.endpoint)
    stage.sent.clear()
    assert stage.verdict(data) == [row.outcome]
    answers = [answer for answer, addr in stage.sent if addr == STRANGER]
    assert len(answers) == (not isinstance(row.outcome, DropReason))
    assert sum(map(len, answers)) <= len(data)
    assert len(stage.endpoint) <= legs


@pytest.mark.parametrize("row", table.FRAMES, ids=lambda row: row.id)
def test_frames_against_the_rules_close_the_connection_with_their_code(row: table.Frames, lane: str) -> None:
    stage = Stage(lane=lane)
    visitor = stage.visit()
    assert visitor.closed is None
    for payload in row.payloads:
        visitor.inject(bytes.fromhex(payload), reserved=row.reserved)
    assert visitor.closed == row.code
    stage.run(5.0)
    assert (len(stage.endpoint), sum(stage.node.engine.legs.values())) == (0, 0)


@pytest.mark.parametrize("row", table.TAMPERED, ids=lambda row: row.id)
def test_a_tampered_packet_moves_and_closes_nothing(row: table.Tampered, lane: str) -> None:
    stage = Stage(lane=lane)
    visitor = stage.visit()
    heard = stage.endpoint.last_heard(1)
    stage.run(0.5)
    packets = row.change(visitor.packet(b"\x01" + bytes(40)))
    verdicts = [stage.verdict(packet, visitor.addr) for packet in packets]
    assert verdicts[-1] == [row.outcome]
    assert (stage.endpoint.last_heard(1) == heard) == (len(packets) == 1)
    assert visitor.closed is None
    assert len(stage.endpoint) == 1


def prepare(made: L) -> L:
    """Leg 1 owns uplink 4 as participant 2; leg 2 may hear it."""
    for leg in (1, 2):
        made.open_leg(leg, pps=500, up_bps=512_000, down_bps=8_000_000)
    return made


@pytest.mark.parametrize("row", table.MEDIA, ids=lambda row: row.id)
def test_a_hostile_datagram_reaches_nobody(row: table.Media, lane: str) -> None:
    made = prepare(make_lane(lane))
    made.open_flow(1, UP, index=INDEX, group=row.group)
    made.route(1, UP, [] if row.closed else [(2, DOWN)], row.closed)
    *before, last = row.datagrams
    for datagram in before:
        made.deliver(1, datagram, 0.0)
    accepted = made.counters.accepted
    assert made.deliver(1, last, 0.0) is row.reason
    assert made.counters.accepted == accepted
    assert made.counters.imbalance() == 0


@pytest.mark.parametrize("row", table.CARRIED, ids=lambda row: row.id)
def test_what_a_hostile_node_sends_on_a_trunk_reaches_nobody(row: table.Carried, lane: str) -> None:
    made = prepare(make_lane(lane))
    held = made.open_path(3)  # the lane lets go of a path that nobody holds
    made.open_trunk(3)
    made.open_route(3, MIN_ROUTE, index=INDEX, group=False, pps=500, up_bps=512_000)
    made.route(3, MIN_ROUTE, [(2, DOWN)], None)
    by, other = 3, made.open_path(4)
    if row.second:
        by = 4
        made.join_trunk(4, 3, second=True)
    *before, last = row.datagrams
    for datagram in before:
        made.deliver(3, datagram, 0.0)
    accepted = made.counters.accepted
    assert made.deliver(by, last, 0.0) is row.reason
    assert made.counters.accepted == accepted == len(before)
    assert made.counters.imbalance() == 0
    assert held is not None
    assert other is not None


@pytest.mark.parametrize("row", table.COPIES, ids=lambda row: row.id)
def test_a_copy_that_cannot_arrive_is_dropped_by_name(row: table.Copies) -> None:
    made = prepare(PyLane(LimitsConfig()))
    made.open_flow(1, UP, index=INDEX, group=False)
    made.route(1, UP, [(2, DOWN)], None)
    row.act(made)
    assert set(+made.counters.dropped_out) == {row.reason}
    assert made.counters.imbalance() == 0


@pytest.mark.parametrize("row", table.MANNERS, ids=lambda row: row.id)
def test_a_connection_without_manners_meets_its_limit(row: table.Manner, lane: str) -> None:
    assert row.act(Stage(limits=dict(row.limits), lane=lane)) == row.outcome
