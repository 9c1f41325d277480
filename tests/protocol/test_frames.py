"""The frames the packet path reads itself, against the QUIC library's own reading."""

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_ack_frame
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from relay.protocol import frames
from relay.protocol.frames import Ack, Payload
from relay.protocol.wire import encode_varint

ACK = b"\x02" + bytes((10, 0, 1, 2, 1, 3))  # 8-10, then 2-5


@pytest.mark.parametrize(
    ("payload", "parsed"),
    [
        (b"\x00", Payload([], None, False)),
        (b"\x00\x00\x01\x00", Payload([], None, True)),
        (b"\x30", Payload([b""], None, True)),
        (b"\x30abc", Payload([b"abc"], None, True)),
        (b"\x31\x03abc\x30de", Payload([b"abc", b"de"], None, True)),
        (b"\x31\x40\x03abc\x31\x00\x00", Payload([b"abc", b""], None, True)),
        (ACK, Payload([], Ack(((8, 11), (2, 6)), 0), False)),
        (ACK + b"\x30x", Payload([b"x"], Ack(((8, 11), (2, 6)), 0), True)),
    ],
)
def test_padding_ping_ack_and_datagrams_are_read(payload, parsed):
    assert frames.parse(payload) == parsed


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        *(bytes((kind,)) + bytes(8) for kind in (0x03, 0x04, 0x06, 0x08, 0x1C, 0x40)),
        b"\x01\x06\x00\x00",
        ACK + ACK,
        b"\x31",
        b"\x31\x04abc",
        b"\x31\x40",
        b"\x31\x80\x00\x00",
        *(ACK[:size] for size in range(1, len(ACK))),
        b"\x02\x01\x00\x00\x02",  # below zero in the first range
        b"\x02\x05\x00\x01\x00\x04\x00",  # below zero in the second
        b"\x02" + encode_varint(9) + b"\x00" + encode_varint(frames.MAX_RANGES) + b"\x00" + bytes(400),
    ],
)
def test_anything_else_in_a_payload_leaves_it_to_the_quic_stack(payload):
    assert frames.parse(payload) is None


def test_an_ack_body_alone_is_read_or_refused():
    assert frames.parse_ack(ACK[1:]) == Ack(((8, 11), (2, 6)), 0)
    assert frames.parse_ack(ACK[1:4]) is None


def test_an_ack_tells_of_the_newest_ranges_only():
    ranges = [(i * 10, i * 10 + 3) for i in range(20)]
    ack = frames.parse(frames.encode_ack(ranges, 7, most=4)).ack
    assert ack == Ack(tuple(reversed(ranges[-4:])), 7)


@pytest.mark.parametrize("size", [0, 63, 64, 1170])
def test_a_datagram_may_be_followed_by_others(size):
    payload = frames.encode_datagram(bytes(size)) * 2
    assert frames.parse(payload).datagrams == [bytes(size)] * 2


@st.composite
def received(draw):
    """Ascending ranges of packet numbers with at least one missing between two."""
    ranges, at = [], draw(st.integers(0, 2**40))
    for _ in range(draw(st.integers(1, 12))):
        size = draw(st.integers(1, 100))
        ranges.append((at, at + size))
        at += size + draw(st.integers(1, 2**30))
    return ranges


@given(received(), st.integers(0, 2**20))
def test_the_quic_library_reads_our_acks_as_we_do(ranges, delay):
    frame = frames.encode_ack(ranges, delay)
    theirs, their_delay = pull_ack_frame(Buffer(data=frame[1:]))
    assert [(r.start, r.stop) for r in theirs] == ranges
    assert their_delay == delay
    assert frames.parse_ack(frame[1:]) == Ack(tuple(reversed(ranges)), delay)


def test_a_packet_number_of_any_width_is_written():
    for largest in (63, 64, 2**14, 2**30, 2**61):
        frame = frames.encode_ack([(largest, largest + 1)], 0)
        assert frames.parse_ack(frame[1:]).ranges == ((largest, largest + 1),)


@given(anything([ACK, ACK + b"\x31\x03abc\x30de", b"\x01\x00\x00"]))
def test_any_bytes_are_a_payload_or_none(data):
    payload = frames.parse(data)
    if payload is not None:
        assert sum(map(len, payload.datagrams)) < len(data)
        assert payload.ack is None or all(0 <= low < high for low, high in payload.ack.ranges)
    frames.parse_ack(data)
