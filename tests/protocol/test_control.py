"""Control frames: the golden accept, every message both ways, and each way to be malformed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import control
from relay.protocol.control import FrameReader
from relay.protocol.ids import CallId

VECTORS = load("control")
GOLDEN = VECTORS["golden"]
FRAMES = [bytes.fromhex(row["frame"]) for row in VECTORS["frames"]]


def plain(value):
    """A message as the JSON of the vectors spells it."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        return {key: plain(getattr(value, name)) for name, key in names}
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def test_the_golden_accept_reads_and_writes_alike():
    frame = bytes.fromhex(GOLDEN["frame"])
    accept = control.Accept(c=bytes.fromhex(GOLDEN["c"]))
    assert control.encode(accept, GOLDEN["id"]) == frame
    assert control.decode(frame[2:]) == (GOLDEN["type"], GOLDEN["id"], accept)


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["name"])
def test_every_message_reads_as_its_fields_and_writes_back(row):
    frame = bytes.fromhex(row["frame"])
    number, id, body = control.decode(frame[2:])
    assert (number, id, type(body).__name__) == (row["type"], row["id"], row["name"])
    assert plain(body) == row["fields"]
    assert control.encode(body, id) == frame
    assert control.encode_body(body, id) == frame[2:]


@pytest.mark.parametrize("row", VECTORS["unknown"], ids=lambda row: row["name"])
def test_what_a_later_version_adds_is_ignored(row):
    number, _, body = control.decode(bytes.fromhex(row["body"]))
    assert body == (control.Ping(t=5) if number == control.Ping.TYPE else None)


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["name"])
def test_a_frame_that_breaks_the_format_is_refused_by_name(row):
    with pytest.raises(PeerError) as caught:
        control.decode(bytes.fromhex(row["body"]))
    assert caught.value.code.name == row["code"]


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["name"])
def test_type_and_id_are_read_without_the_body(row):
    assert control.peek(bytes.fromhex(row["frame"])[2:]) == (row["type"], row["id"])


def test_a_body_that_is_only_passed_on_may_be_of_any_type_and_must_be_a_map():
    assert control.peek(bytes.fromhex("93220781a16301")) == (0x22, 7)
    for body in ("932207c0", "93220780c0", "92220780", "93220782a17401a17401"):
        with pytest.raises(PeerError) as caught:
            control.peek(bytes.fromhex(body))
        assert caught.value.code is ErrorCode.BAD_ENCODING
    with pytest.raises(PeerError) as caught:
        control.peek(bytes(control.MAX_FRAME + 1))
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_a_refusal_names_the_field_and_quotes_nothing_of_the_peer():
    # decline, why "secret"
    body = bytes.fromhex("93120082a163c410") + bytes(16) + bytes.fromhex("a3776879a6736563726574")
    with pytest.raises(PeerError) as caught:
        control.decode(body)
    assert "$.why" in caught.value.message
    assert "secret" not in caught.value.message


def test_ids_may_be_written_where_bytes_are_meant():
    assert control.encode(control.Hangup(c=CallId(bytes(16)))) == control.encode(control.Hangup(c=bytes(16)))


def test_a_frame_larger_than_allowed_is_our_own_fault():
    # Constraints guard what comes in; what goes out is ours, and its size alone is checked.
    with pytest.raises(LocalError):
        control.encode(control.Bye(reason="x" * control.MAX_FRAME))


@pytest.mark.parametrize("id", [-1, 2**32])
def test_a_message_id_out_of_range_is_our_own_fault(id):
    with pytest.raises(LocalError):
        control.encode(control.Ok(), id)


def test_a_value_without_a_place_on_the_wire_is_our_own_fault():
    with pytest.raises(LocalError):
        control.encode(control.Err(code=1, data={"x": object()}))


def test_the_reader_finds_frames_wherever_the_stream_is_cut():
    stream = b"".join(FRAMES)
    whole = FrameReader().feed(stream)
    reader = FrameReader()
    byte_by_byte = [frame for i in range(len(stream)) for frame in reader.feed(stream[i : i + 1])]
    assert whole == byte_by_byte == [frame[2:] for frame in FRAMES]
    assert reader.pending == 0


def test_the_reader_holds_less_than_one_frame():
    reader = FrameReader()
    largest = control.MAX_FRAME.to_bytes(2, "big") + bytes(control.MAX_FRAME)
    assert reader.feed(largest[:-1]) == []
    assert reader.pending == control.MAX_FRAME + 1
    assert reader.feed(largest[-1:] + b"\x00") == [bytes(control.MAX_FRAME)]
    assert reader.pending == 1


def test_the_reader_refuses_a_length_as_soon_as_it_stands_there():
    reader = FrameReader()
    assert reader.feed(b"\x40") == []
    with pytest.raises(PeerError) as caught:
        reader.feed(b"\x01")
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_an_empty_frame_is_a_frame_and_bad_encoding():
    assert FrameReader().feed(b"\x00\x00") == [b""]
    with pytest.raises(PeerError) as caught:
        control.decode(b"")
    assert caught.value.code is ErrorCode.BAD_ENCODING


@given(anything([frame[2:] for frame in FRAMES]))
def test_any_bytes_are_a_frame_or_a_peer_error(data):
    try:
        frame = control.decode(data)
    except PeerError:
        return
    if frame.body is not None:
        # Compared as bytes: `data` of an `Err` may hold a NaN, which equals nothing.
        written = control.encode_body(frame.body, frame.id)
        assert control.encode_body(control.decode(written).body, frame.id) == written


@given(st.lists(st.binary(max_size=40), max_size=20), st.data())
def test_any_stream_gives_the_same_frames_however_it_is_cut(pieces, data):
    stream = b"".join(len(piece).to_bytes(2, "big") + piece for piece in pieces)
    reader, found = FrameReader(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert found == pieces
    assert reader.pending == 0


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_any_stream_is_frames_or_a_peer_error(chunks):
    reader = FrameReader()
    for chunk in chunks:
        try:
            frames = reader.feed(chunk)
        except PeerError:
            return
        assert all(len(frame) <= control.MAX_FRAME for frame in frames)
        assert reader.pending < control.MAX_FRAME + 2
