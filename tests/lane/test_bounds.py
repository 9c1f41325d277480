"""What one connection may have waiting for the loop, in either lane: nobody takes the room of others."""

from __future__ import annotations

import random

import pytest

from lanes import HAS_NATIVE, LANES, make_lane
from relay.core.reasons import DropReason
from relay.edge.lane import AckShown, ControlDatagram, Known, Lane, Unknown
from relay.protocol import frames, media
from relay.quic.space import PathState

if not HAS_NATIVE:
    pytest.skip("its clients are those of the comparison with the native lane", allow_module_level=True)

from lane.differential import _Client

NOW = 100.0


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return make_lane(request.param)


class _Far(_Client):
    """A client, and the relay's path to it."""

    relay: PathState


def connect(lane: Lane, leg: int, confirmed: bool = True) -> _Far:
    client = _Far(random.Random(leg), leg)
    client.host_cid = bytes((0x40, 0x20)) + leg.to_bytes(6, "big")
    client.relay = path = lane.open_path(leg)
    lane.own(leg, client.host_cid)
    path.set_keys(client.suite, 0, client.up, client.down, client.coming)
    path.confirmed = confirmed
    client.tell(path)
    client.ready()
    return client


def send(lane: Lane, client: _Client, plain: bytes) -> None:
    lane.receive(client.frames_packet(plain), client.address, client.sock, NOW)


def test_control_datagrams_beyond_a_legs_share_are_lost_and_counted(lane: Lane) -> None:
    one, other = connect(lane, 1), connect(lane, 2)
    for _ in range(11):
        send(lane, one, b"\x31\x01\0" * 380)
    send(lane, other, b"\x08\0stream")
    send(lane, other, frames.encode_datagram(b"\0ping"))
    assert lane.packets().notes_lost == 11 * 380 - 32
    assert lane.packets().dropped == {}
    items = lane.take(100)
    assert [type(item) for item in items] == [ControlDatagram] * 32 + [Known, ControlDatagram]
    send(lane, one, frames.encode_datagram(b"\0ping"))
    assert len(lane.take(100)) == 1
    assert lane.packets().imbalance() == 0


def test_acknowledgements_of_one_leg_wait_as_one(lane: Lane) -> None:
    client = connect(lane, 1)
    path = client.relay
    for _ in range(3):
        path.seal([b"\0ping"], NOW)
    path.outstanding = True
    for ranges, delay in (([(0, 1)], 9), ([(2, 3)], 7), ([(0, 1)], 5)):
        send(lane, client, frames.encode_ack(ranges, delay))
    assert lane.take(9) == [AckShown(1, ((2, 3), (0, 1)), 7, NOW)]
    for _ in range(5000):
        send(lane, client, frames.encode_ack([(0, 1)], 1))
    assert [type(item) for item in lane.take(5000)].count(AckShown) == 1
    assert lane.packets().notes_lost == 0


def test_half_open_strangers_do_not_crowd_out_running_calls(lane: Lane) -> None:
    running = connect(lane, 1)
    for leg in range(100, 400):
        stranger = connect(lane, leg, confirmed=False)
        for _ in range(20):
            lane.receive(b"\xc0\0\0\0\1\x08" + stranger.host_cid, stranger.address, 0, NOW)
    lane.receive(b"\x40" * 40, ("192.0.2.9", 9), 0, NOW)
    assert lane.packets().waiting == 4097
    assert lane.packets().dropped == {DropReason.OVER_BUDGET: 300 * 20 - 4096}
    send(lane, running, b"\x08\0stream")
    items = lane.take(5000)
    assert len(items) == 4098
    assert [item.leg for item in items if isinstance(item, Known)].count(100) == 16
    assert isinstance(items[0], Known)
    assert items[0].leg == 1
    assert isinstance(items[-1], Unknown)
    assert lane.packets().imbalance() == 0


def test_copies_leave_when_the_window_opens(lane: Lane) -> None:
    speaker, listener = connect(lane, 1), connect(lane, 2)
    for leg in (1, 2):
        lane.open_leg(leg, pps=1000, up_bps=10**8, down_bps=10**8)
    lane.open_flow(1, 4, index=0, group=False)
    lane.route(1, 4, [(2, 9)], None)
    for ctr in range(40):
        voice = media.encode_header(4, 0, ctr) + bytes(900)
        send(lane, speaker, frames.encode_datagram(voice))
        lane.flush(NOW)
    assert lane.counters.queued == 5
    send(lane, listener, frames.encode_ack([(0, 18)], 0))
    assert len(lane.flush(NOW)) == 5
    assert lane.counters.queued == 0
