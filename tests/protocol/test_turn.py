"""TURN's own bytes: attributes, and a stream cut wherever it may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import load
from relay.errors import PeerError
from relay.protocol import stun, turn
from relay.protocol.address import Address
from relay.protocol.relayed import encode_channel_data
from relay.protocol.stun import Attribute, Class
from relay.protocol.turn import FrameReader, Method

VECTORS = load("turn")
FRAMES = [bytes.fromhex(row["padded"]) for row in VECTORS["channel_data"]]
INDICATIONS = [bytes.fromhex(row["message"]) for row in VECTORS["indications"]]
TID = bytes(range(12))


# ---------------------------------------------------------------- attributes


def test_attributes_of_four_bytes_come_back() -> None:
    assert turn.u32_of(turn.lifetime(600).value) == 600
    assert turn.u8_of(turn.family(stun.IPV6).value) == stun.IPV6
    assert turn.u8_of(turn.transport().value) == turn.UDP == 17
    assert turn.channel_of(turn.channel_number(0x4ABC).value) == 0x4ABC
    assert turn.channel_number(0x4ABC) == Attribute(turn.CHANNEL_NUMBER, b"\x4a\xbc\0\0")
    types = [turn.lifetime(1), turn.family(1), turn.transport(), turn.channel_number(0x4000)]
    assert [each.type for each in types] == [0x000D, 0x0017, 0x0019, 0x000C]


@pytest.mark.parametrize("read", [turn.u8_of, turn.u32_of, turn.channel_of])
@pytest.mark.parametrize("size", [0, 1, 3, 5, 8])
def test_an_attribute_of_another_size_is_refused(read: object, size: int) -> None:
    with pytest.raises(PeerError):
        read(bytes(size))  # type: ignore[operator]  # one of three functions


def test_an_even_port_says_whether_the_one_above_is_wanted_too() -> None:
    assert [turn.wants_next(bytes((value,))) for value in (0x00, 0x7F, 0x80, 0xFF)] == [
        False,
        False,
        True,
        True,
    ]
    for value in (b"", b"\0\0"):
        with pytest.raises(PeerError):
            turn.wants_next(value)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_written_under_the_transaction(host: str) -> None:
    written = turn.xor_address(turn.XOR_PEER_ADDRESS, Address(host, 5004), TID)
    assert written.type == turn.XOR_PEER_ADDRESS
    assert stun.decode_xor_address(written.value, TID) == Address(host, 5004)


def test_methods_and_attributes_have_their_rfc_numbers() -> None:
    assert [int(method) for method in Method] == [1, 3, 4, 6, 7, 8, 9]
    numbers = (turn.XOR_PEER_ADDRESS, turn.DATA, turn.XOR_RELAYED_ADDRESS, turn.EVEN_PORT, turn.DONT_FRAGMENT)
    assert numbers == (0x12, 0x13, 0x16, 0x18, 0x1A)
    assert (turn.RESERVATION_TOKEN, turn.ADDITIONAL_ADDRESS_FAMILY) == (0x22, 0x8000)


def test_every_method_says_what_it_understands_and_none_promises_not_to_fragment() -> None:
    assert set(turn.UNDERSTOOD) == set(Method)
    assert all(turn.DONT_FRAGMENT not in known for known in turn.UNDERSTOOD.values())


# ---------------------------------------------------------------- streams

MESSAGES = [stun.build(1, Class.REQUEST, TID), stun.build(3, Class.REQUEST, TID, [turn.transport()])]


@given(st.lists(st.sampled_from(FRAMES + INDICATIONS + MESSAGES), max_size=8), st.data())
def test_a_stream_gives_the_same_frames_wherever_it_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    reader, found = FrameReader(), []
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        found += reader.feed(stream[at : at + step])
        at += step
    assert found == frames
    assert reader.pending == 0


@pytest.mark.parametrize(
    "start",
    ["02", "3f", "50", "ff", "16030100", "00010003", "00010002", "4000fffc", "0001fffc", "40000800"],
)
def test_a_stream_that_can_only_be_noise_ends_at_once(start: str) -> None:
    reader = FrameReader()
    with pytest.raises(PeerError):
        reader.feed(bytes.fromhex(start))
    assert reader.pending == 0


def test_noise_behind_a_whole_frame_ends_the_stream() -> None:
    with pytest.raises(PeerError):
        FrameReader().feed(FRAMES[1] + b"\xff")


def test_a_frame_as_long_as_a_packet_may_be_is_the_longest() -> None:
    frame = encode_channel_data(0x4000, bytes(turn.MAX_FRAME - 4), is_stream=True)
    assert FrameReader().feed(frame) == [frame]
    reader = FrameReader()
    assert reader.feed(frame[:-1]) == []
    assert reader.pending == turn.MAX_FRAME - 1


def test_one_byte_waits_for_the_others() -> None:
    reader = FrameReader()
    assert reader.feed(b"") == []
    assert [reader.feed(MESSAGES[0][:1]), reader.pending] == [[], 1]
    assert reader.feed(MESSAGES[0][1:] + b"\x40") == [MESSAGES[0]]
    assert reader.pending == 1
