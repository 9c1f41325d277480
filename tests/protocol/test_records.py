"""Records of a leg in bare TLS: cut the same however the stream was cut, refused as early as can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.records import MAX_RECORD, RecordReader, encode_record

FIRST = st.sampled_from([*range(0x40), 0xC0])
RECORDS = st.lists(st.builds(lambda first, rest: bytes((first,)) + rest, FIRST, st.binary(max_size=300)))


def drained(reader: RecordReader) -> list[bytes]:
    return list(iter(reader.next, None))


@given(RECORDS, st.integers(1, 50))
def test_records_come_out_as_they_went_in_however_the_stream_was_cut(records: list[bytes], size: int) -> None:
    data = b"".join(map(encode_record, records))
    whole, reader = RecordReader(), RecordReader()
    whole.feed(data)
    got = []
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])
        got += drained(reader)
    assert got == drained(whole) == records
    assert reader.pending == whole.pending == 0


def test_a_record_is_two_bytes_of_length_and_what_a_websocket_message_would_be() -> None:
    assert encode_record(b"\xc0\x93").hex() == "0002c093"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0\0", ErrorCode.PROTOCOL_VIOLATION),
        ((MAX_RECORD + 1).to_bytes(2, "big"), ErrorCode.TOO_LARGE),
        (b"\xff\xff", ErrorCode.TOO_LARGE),
        (b"\0\x09\x40", ErrorCode.PROTOCOL_VIOLATION),
        (b"\0\x09\xc1", ErrorCode.PROTOCOL_VIOLATION),
        (b"\0\x09\xbf", ErrorCode.PROTOCOL_VIOLATION),
    ],
)
def test_what_cannot_be_a_record_is_refused_before_it_is_whole(data: bytes, code: ErrorCode) -> None:
    reader = RecordReader()
    reader.feed(encode_record(b"\0\1good") + data)
    assert reader.next() == b"\0\1good"
    with pytest.raises(PeerError) as caught:
        reader.next()
    assert caught.value.code == code


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\x02", b"\0\x02\x3f", b"\x40\x01\xc0"])
def test_what_may_become_a_record_is_waited_for(data: bytes) -> None:
    reader = RecordReader()
    reader.feed(data)
    assert reader.next() is None
    assert reader.pending == len(data)


@pytest.mark.parametrize("size", [0, MAX_RECORD + 1])
def test_no_record_is_written_that_nobody_reads(size: int) -> None:
    with pytest.raises(LocalError):
        encode_record(bytes(size))
    assert len(encode_record(bytes(MAX_RECORD))) == MAX_RECORD + 2
