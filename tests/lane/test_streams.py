"""Legs without packets, in either lane: what waits is told once, kept 200 ms, handed over in pieces."""

from __future__ import annotations

import pytest

from lanes import LANES, make_lane
from relay.core.reasons import DropReason
from relay.edge.lane import Lane, Waiting
from relay.protocol import media

A, B, C = 1, 2, 3
UP, DOWN = 4, 9
PLENTY = 1 << 20


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    """A's flow 4 reaches B, which is on a stream, as flow 9."""
    made = make_lane(request.param)
    made.open_stream(B)
    for leg in (A, B, C):
        made.open_leg(leg, pps=500, up_bps=512_000, down_bps=8_000_000)
    made.open_flow(A, UP, index=0, group=False)
    made.route(A, UP, [(B, DOWN)], None)
    return made


def packet(ctr: int, size: int = 80) -> bytes:
    head = media.encode_header(UP, 0, ctr)
    return head + bytes(size - len(head))


def heard(ctr: int, size: int = 80) -> bytes:
    return bytes((DOWN,)) + packet(ctr, size)[1:]


def settled(lane: Lane) -> None:
    assert lane.counters.imbalance() == 0
    assert lane.packets().imbalance() == 0


def test_the_loop_is_told_once_until_it_finds_nothing(lane: Lane) -> None:
    for ctr in range(3):
        assert lane.deliver(A, packet(ctr), 0.0) is None
    assert lane.take(10) == [Waiting(B)]
    assert lane.drain(B, 0.0, PLENTY) == [heard(0), heard(1), heard(2)]
    lane.deliver(A, packet(3), 0.0)
    assert lane.take(10) == []
    assert lane.drain(B, 0.0, PLENTY) == [heard(3)]
    assert lane.drain(B, 0.0, PLENTY) == []
    lane.deliver(A, packet(4), 0.0)
    assert lane.take(10) == [Waiting(B)]
    assert lane.counters.sent == 4
    settled(lane)


def test_a_drain_stops_when_its_room_is_used(lane: Lane) -> None:
    for ctr in range(5):
        lane.deliver(A, packet(ctr), 0.0)
    assert lane.drain(B, 0.0, 81) == [heard(0), heard(1)]
    assert lane.drain(B, 0.0, 1) == [heard(2)]
    assert lane.counters.queued == 2
    settled(lane)


def test_frames_for_a_stream_wait_200_ms_and_not_longer(lane: Lane) -> None:
    for ctr, at in enumerate((0.0, 0.05, 0.199)):
        lane.deliver(A, packet(ctr), at)
    assert lane.drain(B, 0.2505, PLENTY) == [heard(2)]
    assert lane.counters.dropped_out == {DropReason.STALE: 2}
    settled(lane)


def test_the_eleventh_waiting_frame_pushes_out_the_oldest(lane: Lane) -> None:
    for ctr in range(12):
        lane.deliver(A, packet(ctr), 0.0)
    assert lane.drain(B, 0.0, PLENTY) == [heard(ctr) for ctr in range(2, 12)]
    assert lane.counters.dropped_out == {DropReason.QUEUE_FULL: 2}
    settled(lane)


def test_what_waits_for_a_stream_takes_10_kib_of_all_flows_together(lane: Lane) -> None:
    lane.open_flow(C, UP, index=1, group=False)
    lane.route(C, UP, [(B, DOWN + 1)], None)
    for ctr in range(8):
        lane.deliver(A, packet(ctr, 1000), 0.0)
    for ctr in range(4):
        lane.deliver(C, media.encode_header(UP, 1 << 2, ctr) + bytes(900), 0.0)
    copies = lane.drain(B, 0.0, PLENTY)
    assert [copy[0] for copy in copies] == [DOWN] * 8 + [DOWN + 1] * 2
    assert lane.counters.dropped_out == {DropReason.QUEUE_FULL: 2}
    settled(lane)


def test_the_budget_of_a_listener_holds_on_a_stream_too(lane: Lane) -> None:
    lane.open_leg(B, pps=50, up_bps=8_000, down_bps=8_000)
    lane.close_leg(B)
    lane.open_leg(B, pps=50, up_bps=8_000, down_bps=8_000)
    lane.route(A, UP, [(B, DOWN)], None)
    for ctr in range(5):
        lane.deliver(A, packet(ctr, 1000), 10.0)
    assert len(lane.drain(B, 10.0, PLENTY)) == 2
    assert lane.counters.dropped_out[DropReason.OVER_BUDGET] == 3
    settled(lane)


def test_nothing_of_a_gate_that_closed_is_handed_over(lane: Lane) -> None:
    lane.deliver(A, packet(1), 0.0)
    lane.route(A, UP, [], DropReason.MUTED)
    assert lane.drain(B, 0.0, PLENTY) == []
    assert lane.counters.dropped_out == {DropReason.MUTED: 1}
    settled(lane)


def test_copies_for_a_stream_that_ended_are_dropped_as_peer_gone(lane: Lane) -> None:
    lane.deliver(A, packet(1), 0.0)
    lane.close_path(B)
    lane.close_leg(B)
    assert lane.drain(B, 0.0, PLENTY) == []
    lane.deliver(A, packet(2), 0.0)
    assert lane.counters.dropped_out == {DropReason.PEER_GONE: 2}
    assert lane.take(10) == [Waiting(B)]  # told before it ended; nobody is there any more
    settled(lane)


def test_a_leg_that_is_no_stream_has_nothing_to_drain(lane: Lane) -> None:
    lane.route(A, UP, [(C, DOWN)], None)
    lane.deliver(A, packet(1), 0.0)
    assert lane.take(10) == []
    assert lane.drain(C, 0.0, PLENTY) == []
    assert lane.drain(77, 0.0, PLENTY) == []
    assert lane.counters.queued == 1
    settled(lane)


def test_waiting_copies_are_told_before_packets_that_only_aioquic_can_judge(lane: Lane) -> None:
    lane.receive(b"\x40" * 40, ("192.0.2.1", 5), 0, 0.0)
    lane.open_path(A)
    lane.own(A, bytes(8))
    lane.receive(b"\x40" + bytes(39), ("192.0.2.1", 5), 0, 0.0)
    lane.deliver(A, packet(1), 0.0)
    items = lane.take(10)
    assert items[0] == Waiting(B)
    assert len(items) == 3
    settled(lane)
