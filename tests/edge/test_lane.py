"""The lane: what passes, what is dropped by which name, and that nothing is ever unaccounted for."""

from __future__ import annotations

import pytest

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.flow import WINDOW
from relay.edge.lane import Lane
from relay.edge.lane_py import PyLane
from relay.errors import LocalError
from relay.protocol import media

A, B, C = 1, 2, 3
UP, DOWN = 4, 9


@pytest.fixture(params=[PyLane])
def lane(request: pytest.FixtureRequest) -> Lane:
    """A lane with three legs; A's flow 4 reaches B as flow 9."""
    made: Lane = request.param(LimitsConfig())
    for leg in (A, B, C):
        made.open_leg(leg, pps=500, up_bps=512_000, down_bps=8_000_000)
    made.open_flow(A, UP, index=0, group=False)
    made.route(A, UP, [(B, DOWN)], None)
    return made


def packet(ctr: int, *, flow: int = UP, kid: int = 0, size: int = 80, repeat: bool = False) -> bytes:
    head = media.encode_header(flow, kid, ctr, repeat=repeat)
    return head + bytes(size - len(head))


def settled(lane: Lane) -> None:
    assert lane.counters.imbalance() == 0


def test_a_packet_reaches_the_listener_with_its_flow_number_and_nothing_else_changed(lane: Lane) -> None:
    assert lane.deliver(A, packet(1), 0.0) is None
    copy = lane.dequeue(B, 0.0)
    assert copy == bytes((DOWN,)) + packet(1)[1:]
    assert lane.dequeue(B, 0.0) is None
    settled(lane)


def test_ready_legs_are_told_once(lane: Lane) -> None:
    lane.deliver(A, packet(1), 0.0)
    lane.deliver(A, packet(2), 0.0)
    assert lane.take_ready() == [B]
    assert lane.take_ready() == []


def test_the_repeat_mark_stays_on_its_hop(lane: Lane) -> None:
    lane.deliver(A, packet(1, repeat=True), 0.0)
    copy = lane.dequeue(B, 0.0)
    assert copy is not None
    assert not media.decode(copy).repeat


def test_a_closed_gate_drops_and_queues_nothing(lane: Lane) -> None:
    lane.route(A, UP, [], DropReason.GATE_CLOSED)
    assert lane.deliver(A, packet(1), 0.0) is DropReason.GATE_CLOSED
    lane.route(A, UP, [(B, DOWN)], None)
    assert lane.dequeue(B, 0.0) is None
    settled(lane)


@pytest.mark.parametrize("reason", [DropReason.MUTED, DropReason.BLOCKED, DropReason.GATE_CLOSED])
def test_the_reason_of_a_closed_route_is_the_reason_of_the_drop(lane: Lane, reason: DropReason) -> None:
    lane.route(A, UP, [], reason)
    assert lane.deliver(A, packet(1), 0.0) is reason
    assert lane.counters.dropped[reason] == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", DropReason.UNKNOWN_FLOW),
        (packet(1, flow=5), DropReason.UNKNOWN_FLOW),
        (packet(1)[:21], DropReason.MALFORMED),
        (packet(1, size=1025), DropReason.TOO_LARGE),
        (bytes((UP, 0x80)) + packet(1)[2:], DropReason.BAD_VERSION),
        (packet(1, kid=4), DropReason.WRONG_SENDER),
    ],
)
def test_bad_datagrams_are_dropped_by_name(lane: Lane, payload: bytes, reason: DropReason) -> None:
    assert lane.deliver(A, payload, 0.0) is reason
    settled(lane)


def test_what_waits_when_the_gate_closes_never_leaves(lane: Lane) -> None:
    lane.route(A, UP, [(B, DOWN), (C, 11)], None)
    lane.deliver(A, packet(1), 0.0)
    lane.deliver(A, packet(2), 0.0)
    lane.route(A, UP, [(C, 11)], DropReason.BLOCKED)
    assert lane.dequeue(B, 0.0) is None
    assert lane.queue_depth(C) == 2
    lane.route(A, UP, [], DropReason.MUTED)
    assert lane.dequeue(C, 0.0) is None
    assert lane.counters.dropped_out == {DropReason.BLOCKED: 2, DropReason.MUTED: 2}
    settled(lane)


@pytest.mark.parametrize("end", ["close_flow", "open_flow", "close_leg"])
def test_nothing_of_a_flow_that_ended_leaves(lane: Lane, end: str) -> None:
    lane.open_flow(C, UP, index=0, group=False)
    lane.route(C, UP, [(B, DOWN + 1)], None)
    lane.deliver(A, packet(1), 0.0)
    lane.deliver(C, packet(1), 0.0)
    if end == "close_flow":
        assert lane.close_flow(A, UP).copies == 1
    elif end == "open_flow":
        lane.open_flow(A, UP, index=0, group=False)
    else:
        lane.close_leg(A)
    assert lane.dequeue(B, 0.0) == bytes((DOWN + 1,)) + packet(1)[1:]
    assert lane.dequeue(B, 0.0) is None
    assert lane.counters.dropped_out[DropReason.GATE_CLOSED] == 1
    settled(lane)


def test_an_unknown_leg_has_no_flows(lane: Lane) -> None:
    assert lane.deliver(77, packet(1), 0.0) is DropReason.UNKNOWN_FLOW
    settled(lane)


def test_a_duplicate_passes_once(lane: Lane) -> None:
    assert lane.deliver(A, packet(5), 0.0) is None
    assert lane.deliver(A, packet(5), 0.0) is DropReason.DUPLICATE
    assert lane.deliver(A, packet(5, repeat=True), 0.0) is DropReason.DUPLICATE


def test_reordered_packets_pass_within_the_window_and_not_beyond(lane: Lane) -> None:
    assert lane.deliver(A, packet(1000), 0.0) is None
    assert lane.deliver(A, packet(1000 - WINDOW + 1), 0.0) is None
    assert lane.deliver(A, packet(1000 - WINDOW), 0.0) is DropReason.DUPLICATE


def test_a_jump_far_ahead_forgets_the_window(lane: Lane) -> None:
    lane.deliver(A, packet(1), 0.0)
    assert lane.deliver(A, packet(100_000), 0.0) is None
    assert lane.deliver(A, packet(100_001), 0.0) is None
    assert lane.deliver(A, packet(100_000), 0.0) is DropReason.DUPLICATE


def test_each_key_has_a_window_of_its_own_and_keys_are_bounded(lane: Lane) -> None:
    for kid in range(4):
        assert lane.deliver(A, packet(1, kid=kid), 0.0) is None
    lane.open_flow(A, 7, index=0, group=True)
    lane.route(A, 7, [(B, DOWN)], None)
    for kid in range(8):
        assert lane.deliver(A, packet(1, flow=7, kid=kid), 0.0) is None


def test_a_key_id_that_comes_round_again_starts_a_new_window(lane: Lane) -> None:
    for kid in (0, 1, 2, 3):
        for ctr in range(1000, 1003):
            assert lane.deliver(A, packet(ctr, kid=kid), 0.0) is None
            lane.dequeue(B, 0.0)
    assert lane.deliver(A, packet(0, kid=3), 0.0) is DropReason.DUPLICATE
    assert lane.deliver(A, packet(0, kid=0), 0.0) is None
    assert lane.close_flow(A, UP).lost == 0


def test_the_sixth_waiting_frame_pushes_out_the_oldest(lane: Lane) -> None:
    for ctr in range(7):
        lane.deliver(A, packet(ctr), ctr * 0.001)
    assert lane.counters.dropped_out[DropReason.QUEUE_FULL] == 2
    first = lane.dequeue(B, 0.01)
    assert first is not None
    assert media.decode(first).ctr == 2
    settled(lane)


def test_a_frame_older_than_100_ms_is_never_sent(lane: Lane) -> None:
    lane.deliver(A, packet(1), 0.0)
    lane.deliver(A, packet(2), 0.05)
    copy = lane.dequeue(B, 0.101)
    assert copy is not None
    assert media.decode(copy).ctr == 2
    assert lane.counters.dropped_out[DropReason.STALE] == 1
    settled(lane)


def test_the_uplink_budget_allows_its_rate_and_a_burst(lane: Lane) -> None:
    lane.open_leg(A, pps=50, up_bps=100_000, down_bps=1_000_000)
    results = [lane.deliver(A, packet(ctr), 10.0) for ctr in range(20)]
    assert results.count(None) == 10
    assert results[-1] is DropReason.OVER_BUDGET
    assert lane.deliver(A, packet(30), 10.1) is None
    settled(lane)


def test_the_uplink_budget_counts_bytes_too(lane: Lane) -> None:
    lane.open_leg(A, pps=500, up_bps=8_000, down_bps=1_000_000)
    assert lane.deliver(A, packet(1, size=1000), 10.0) is None
    assert lane.deliver(A, packet(2, size=1000), 10.0) is DropReason.OVER_BUDGET


def test_the_downlink_budget_drops_by_name(lane: Lane) -> None:
    lane.open_leg(B, pps=50, up_bps=8_000, down_bps=8_000)
    for ctr in range(5):
        lane.deliver(A, packet(ctr, size=1000), 10.0)
    taken = []
    while (copy := lane.dequeue(B, 10.0)) is not None:
        taken.append(copy)
    assert len(taken) == 2
    assert lane.counters.dropped_out[DropReason.OVER_BUDGET] == 3
    settled(lane)


def test_new_rights_keep_the_flows(lane: Lane) -> None:
    lane.open_leg(A, pps=10, up_bps=10_000, down_bps=10_000)
    assert lane.deliver(A, packet(1), 0.0) is None


def test_a_copy_that_does_not_fit_waits(lane: Lane) -> None:
    lane.deliver(A, packet(1, size=500), 0.0)
    assert lane.dequeue(B, 0.0, room=499) is None
    assert lane.queue_depth(B) == 1
    assert lane.dequeue(B, 0.0, room=500) is not None


def test_copies_for_a_leg_that_closes_are_dropped_as_peer_gone(lane: Lane) -> None:
    lane.deliver(A, packet(1), 0.0)
    lane.close_leg(B)
    assert lane.counters.dropped_out[DropReason.PEER_GONE] == 1
    lane.deliver(A, packet(2), 0.0)
    assert lane.counters.dropped_out[DropReason.PEER_GONE] == 2
    assert lane.queue_depth(B) == 0
    assert lane.dequeue(B, 0.0) is None
    lane.close_leg(B)
    settled(lane)


def test_one_flow_reaches_many_listeners(lane: Lane) -> None:
    lane.route(A, UP, [(B, DOWN), (C, 11)], None)
    lane.deliver(A, packet(1), 0.0)
    assert lane.counters.copies == 2
    copy = lane.dequeue(C, 0.0)
    assert copy is not None
    assert copy[0] == 11
    settled(lane)


def test_the_counters_of_a_closed_flow_tell_what_happened(lane: Lane) -> None:
    for ctr in (10, 11, 14, 11):
        lane.deliver(A, packet(ctr), 0.0)
    lane.route(A, UP, [], DropReason.MUTED)
    lane.deliver(A, packet(15), 0.0)
    counters = lane.close_flow(A, UP)
    assert (counters.received, counters.accepted, counters.copies, counters.lost) == (5, 3, 3, 2)
    assert counters.dropped == {DropReason.DUPLICATE: 1, DropReason.MUTED: 1}
    assert lane.close_flow(A, UP).received == 0
    assert lane.close_flow(99, UP).received == 0
    assert lane.deliver(A, packet(16), 0.0) is DropReason.UNKNOWN_FLOW


def test_routes_and_flows_of_unknown_legs_are_our_own_bug(lane: Lane) -> None:
    with pytest.raises(LocalError):
        lane.open_flow(99, 1, index=0, group=False)
    with pytest.raises(LocalError):
        lane.route(99, 1, [], None)
    with pytest.raises(LocalError):
        lane.route(A, UP, [(99, 1)], None)


def test_a_route_that_names_a_leg_that_is_not_there_closes_the_flow(lane: Lane) -> None:
    lane.route(A, UP, [(B, DOWN), (C, 11)], None)
    lane.deliver(A, packet(1), 0.0)
    with pytest.raises(LocalError):  # C shall hear no more, which must hold although 99 cannot begin to
        lane.route(A, UP, [(B, DOWN), (99, 1)], None)
    assert (lane.queue_depth(B), lane.queue_depth(C)) == (0, 0)
    assert lane.counters.dropped_out == {DropReason.GATE_CLOSED: 2}
    assert lane.deliver(A, packet(2), 0.0) is DropReason.GATE_CLOSED
    settled(lane)
