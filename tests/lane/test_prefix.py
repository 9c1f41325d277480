"""Datagrams of an HTTP/3 session, in either lane: its prefix before each, other datagrams are nobody's."""

from __future__ import annotations

import pytest

from lane.test_bounds import NOW, connect, send
from lanes import LANES, make_lane
from relay.core.reasons import DropReason
from relay.edge.lane import ControlDatagram, Lane
from relay.protocol import frames, media


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    made = make_lane(request.param)
    for leg in (1, 2):
        made.open_leg(leg, pps=1000, up_bps=10**8, down_bps=10**8)
    made.open_flow(1, 4, index=0, group=False)
    made.route(1, 4, [(2, 9)], None)
    return made


def voice(ctr: int, size: int = 60) -> bytes:
    return media.encode_header(4, 0, ctr) + bytes(size)


def test_what_stands_behind_the_prefix_is_heard_and_all_else_is_of_an_unknown_flow(lane: Lane) -> None:
    speaker, _ = connect(lane, 1), connect(lane, 2)
    speaker.relay.set_prefix(b"\1")
    for payload in (b"\1" + voice(0), voice(1), b"\0" + voice(2), b"\x40\1" + voice(3), b"\1", b""):
        send(lane, speaker, frames.encode_datagram(payload))
    send(lane, speaker, b"\x30\1" + voice(4))
    assert lane.counters.media_in == 7
    assert lane.counters.accepted == 2
    assert lane.counters.dropped == {DropReason.UNKNOWN_FLOW: 5}
    assert lane.counters.imbalance() == 0


def test_a_control_datagram_is_one_by_what_stands_behind_the_prefix(lane: Lane) -> None:
    speaker = connect(lane, 1)
    speaker.relay.set_prefix(b"\0")
    send(lane, speaker, frames.encode_datagram(b"\0" + voice(0)))
    send(lane, speaker, frames.encode_datagram(b"\0\0ping"))
    assert lane.take(9) == [ControlDatagram(1, b"\0ping")]
    assert lane.counters.accepted == 1


def test_copies_and_control_datagrams_leave_behind_the_listeners_prefix(lane: Lane) -> None:
    """As packets of a lane without prefix leave that has the prefix in its payloads."""
    speaker, listener = connect(lane, 1), connect(lane, 2)
    listener.relay.set_prefix(b"\2")
    send(lane, speaker, frames.encode_datagram(voice(0)))
    (packet,) = lane.flush(NOW)
    other = make_lane("python")
    plain = connect(other, 2)
    expected = plain.relay.seal([b"\2" + media.with_flow(voice(0), 9, False)], NOW)
    assert packet[1] == expected
    assert listener.relay.seal([b"\0pong"], NOW) == plain.relay.seal([b"\2\0pong"], NOW)


@pytest.mark.parametrize("size", [20, 61, 300, 340, 380, 540, 560, 580, 900, 1010])
def test_copies_in_one_packet_keep_within_its_size_with_their_prefixes(lane: Lane, size: int) -> None:
    speaker, listener = connect(lane, 1), connect(lane, 2)
    listener.relay.set_prefix(b"\2")
    listener.peer_cid = bytes(20)
    listener.tell(listener.relay)
    listener.relay.set_prefix(b"\2")
    for ctr in range(4):
        send(lane, speaker, frames.encode_datagram(voice(ctr, size)))
    packets = lane.flush(NOW)
    assert lane.counters.sent == 4
    assert max(len(packet) for _, packet, _ in packets) <= 1200


def test_a_prefix_has_one_byte_at_most(lane: Lane) -> None:
    client = connect(lane, 1)
    with pytest.raises(ValueError, match="one byte"):
        client.relay.set_prefix(b"\x40\1")
