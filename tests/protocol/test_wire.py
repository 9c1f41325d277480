"""Varints and the bounded cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import load
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.wire import MAX_VARINT, Reader, decode_varint, encode_varint, varint_size

VECTORS = load("varint")


@pytest.mark.parametrize("row", VECTORS["values"], ids=lambda row: row["hex"])
def test_the_golden_varints_read_and_write_alike(row):
    data = bytes.fromhex(row["hex"])
    assert encode_varint(row["value"]) == data
    assert decode_varint(data) == (row["value"], len(data))
    assert varint_size(row["value"]) == len(data)


def test_a_longer_spelling_is_read_too():
    row = VECTORS["longer"][0]
    assert decode_varint(bytes.fromhex(row["hex"]))[0] == row["value"]


@pytest.mark.parametrize("cut", VECTORS["cut"])
def test_a_varint_cut_short_is_bad_encoding(cut):
    with pytest.raises(PeerError) as caught:
        decode_varint(bytes.fromhex(cut))
    assert caught.value.code is ErrorCode.BAD_ENCODING


@pytest.mark.parametrize("value", [-1, MAX_VARINT + 1])
def test_a_number_that_is_no_varint_is_our_own_fault(value):
    with pytest.raises(LocalError):
        encode_varint(value)


def test_a_negative_offset_reads_nothing():
    with pytest.raises(PeerError):
        decode_varint(b"\x01", -1)


@given(st.integers(0, MAX_VARINT), st.binary(max_size=4))
def test_what_was_written_is_read_with_the_same_length(value, after):
    data = encode_varint(value)
    assert decode_varint(data + after) == (value, len(data))


@given(st.binary(max_size=12), st.integers(-2, 14))
def test_any_bytes_are_a_varint_or_a_peer_error(data, at):
    try:
        value, end = decode_varint(data, at)
    except PeerError:
        return
    assert 0 <= value <= MAX_VARINT
    assert at < end <= len(data)


def test_the_reader_takes_numbers_in_network_order():
    reader = Reader(bytes(range(1, 16)) + b"\x40\x25")
    assert reader.u8() == 0x01
    assert reader.u16() == 0x0203
    assert reader.u32() == 0x04050607
    assert reader.u64() == 0x08090A0B0C0D0E0F
    assert (reader.at, reader.left) == (15, 2)
    assert reader.varint() == 37
    reader.finish()


def test_the_reader_works_on_a_view_without_keeping_it():
    taken = Reader(memoryview(b"abc")).take(2)
    assert taken == b"ab"
    assert isinstance(taken, bytes)


@pytest.mark.parametrize("read", ["u8", "u16", "u32", "u64", "varint"])
def test_no_read_passes_the_end(read):
    reader = Reader(bytes({"u8": 0, "varint": 0, "u16": 1, "u32": 3, "u64": 7}[read]))
    with pytest.raises(PeerError) as caught:
        getattr(reader, read)()
    assert caught.value.code is ErrorCode.BAD_ENCODING


def test_bytes_left_over_are_an_error_when_the_end_is_announced():
    with pytest.raises(PeerError):
        Reader(b"\x00").finish()


def test_a_negative_count_is_our_own_fault():
    with pytest.raises(LocalError):
        Reader(b"\x00").take(-1)
