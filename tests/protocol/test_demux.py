"""One UDP port for STUN, channels and QUIC: who gets which packet."""

import random

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import encode_quic_version_negotiation, pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.cid import CidCodec
from relay.protocol.demux import (
    QUIC_V1,
    QUIC_V2,
    Kind,
    LongType,
    StreamKind,
    classify,
    classify_stream,
    parse_long,
    stateless_reset,
    version_negotiation,
)
from relay.protocol.wire import encode_varint

COOKIE = bytes.fromhex("2112a442")
STUN = b"\x00\x01\x00\x00" + COOKIE + bytes(12)
DCID, SCID = bytes(range(8)), bytes(range(8, 16))


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (b"", Kind.DROP),
        (b"\x40" * 2048, Kind.QUIC_SHORT),
        (b"\x40" * 2049, Kind.DROP),
        (b"\xc0" * 2049, Kind.DROP),
        (STUN, Kind.STUN),
        (STUN[:3] + b"\x04" + STUN[4:] + bytes(4), Kind.STUN),
        (STUN[:19], Kind.DROP),
        (STUN + bytes(4), Kind.DROP),
        (STUN[:3] + b"\x02" + STUN[4:] + bytes(2), Kind.DROP),
        (STUN[:4] + bytes(16), Kind.DROP),
        *((bytes((first,)) + STUN[1:], Kind.STUN) for first in (1, 2, 3)),
        *((bytes((first,)) + STUN[1:], Kind.DROP) for first in (4, 63, 128, 191)),
        *((bytes((first,)) + bytes(30), Kind.QUIC_SHORT) for first in (64, 79, 80, 127)),
        *((bytes((first,)) + bytes(8), Kind.QUIC_SHORT) for first in (64, 127)),
        *((bytes((first,)) + bytes(7), Kind.DROP) for first in (64, 127)),
        *((bytes((first,)) + bytes(30), Kind.QUIC_LONG) for first in (192, 255)),
        (b"\xc0", Kind.QUIC_LONG),
    ],
)
def test_the_first_bytes_say_who_gets_a_packet(packet, kind):
    assert classify(packet) is classify(memoryview(packet)) is kind


@pytest.mark.parametrize(
    ("alpn", "first", "kind"),
    [
        ("http/1.1", None, StreamKind.WEB),
        ("stun.turn", None, StreamKind.TURN),
        ("vrl/1", None, StreamKind.RAW),
        ("vrl/1", 0x00, StreamKind.RAW),
        ("http/1.1", 0x00, StreamKind.WEB),
        ("stun.turn", 0x47, StreamKind.TURN),
        (None, None, None),
        (None, 0x00, StreamKind.TURN),
        (None, 0x01, StreamKind.TURN),
        (None, 0x02, StreamKind.WEB),
        (None, 0x40, StreamKind.WEB),
        (None, 0x47, StreamKind.WEB),
        (None, 0xFF, StreamKind.WEB),
        ("h2", None, None),
        ("h2", 0x01, StreamKind.TURN),
        ("", 0x50, StreamKind.WEB),
    ],
)
def test_a_stream_is_what_tls_agreed_on_and_without_that_what_its_first_byte_says(
    alpn: str | None, first: int | None, kind: StreamKind | None
) -> None:
    assert classify_stream(alpn, first) is kind


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (b"\x40\x00\x00\x00", Kind.CHANNEL),
        (b"\x40\x00\x00\x05abcde", Kind.CHANNEL),
        (b"\x40\x00\x00\x05abcde\0\0\0", Kind.CHANNEL),
        (b"\x40\x00\x00\x05abcde\0", Kind.QUIC_SHORT),
        (b"\x40\x00\x00\x05abcd\0", Kind.CHANNEL),
        (b"\x40\x00\x00\x06abcde", Kind.QUIC_SHORT),
        (b"\x40\x01\x00\x05abcde", Kind.QUIC_SHORT),
        (b"\x50\x00\x00\x05abcde", Kind.QUIC_SHORT),
        (b"\x40\x00\x00", Kind.DROP),
    ],
)
def test_channel_data_needs_a_bound_number_and_its_exact_length(packet, kind):
    assert classify(packet, {0x4000, 0x5000}) is kind


def test_quic_and_channel_data_on_one_five_tuple_are_never_confused():
    rng = random.Random(7)
    channels = set(range(0x4000, 0x5000))  # the worst case: every number is bound here
    codec = CidCodec(rng.randbytes(16), rng.randbytes(3))
    cids = [cid for cid in (codec.encode(rng.randbytes(4)) for _ in range(3000)) if cid is not None]
    for _ in range(50_000):
        short = bytes((rng.randrange(0x40, 0x80),)) + rng.choice(cids) + rng.randbytes(rng.randrange(17, 40))
        assert classify(short, channels) is Kind.QUIC_SHORT
        size = rng.randrange(0, 60)
        channel = rng.choice((0x4000, 0x4ABC, 0x4FFF)).to_bytes(2, "big") + size.to_bytes(2, "big")
        padding = bytes(-size % 4 if rng.random() < 0.5 else 0)
        assert classify(channel + rng.randbytes(size) + padding, channels) is Kind.CHANNEL


def long_packet(version, first, dcid=DCID, scid=SCID, rest=b""):
    ids = bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid
    return bytes((first,)) + version.to_bytes(4, "big") + ids + rest


def numbered(payload=b"\0" * 20, token=None):
    return (
        (b"" if token is None else encode_varint(len(token)) + token) + encode_varint(len(payload)) + payload
    )


TYPES = [
    (QUIC_V1, 0xC0, LongType.INITIAL),
    (QUIC_V1, 0xD0, LongType.ZERO_RTT),
    (QUIC_V1, 0xE0, LongType.HANDSHAKE),
    (QUIC_V1, 0xF0, LongType.RETRY),
    (QUIC_V2, 0xD0, LongType.INITIAL),
    (QUIC_V2, 0xE0, LongType.ZERO_RTT),
    (QUIC_V2, 0xF0, LongType.HANDSHAKE),
    (QUIC_V2, 0xC0, LongType.RETRY),
]
REST = {LongType.INITIAL: numbered(token=b"token"), LongType.RETRY: b"token" + bytes(16)}


@pytest.mark.parametrize(("version", "first", "kind"), TYPES)
def test_a_long_header_of_either_version_is_read(version, first, kind):
    packet = long_packet(version, first, rest=REST.get(kind, numbered()))
    header = parse_long(packet)
    token = b"token" if kind in REST else b""
    assert header == (version, kind, DCID, SCID, token, len(packet))
    assert header.is_initial is (kind is LongType.INITIAL)


@pytest.mark.parametrize(("version", "first", "kind"), TYPES)
def test_the_quic_library_reads_the_same_header(version, first, kind):
    packet = long_packet(version, first, rest=REST.get(kind, numbered()))
    other, ours = pull_quic_header(Buffer(data=packet), host_cid_length=8), parse_long(packet)
    assert (other.version, other.packet_type.name) == (ours.version, ours.type.name)
    assert (other.destination_cid, other.source_cid) == (ours.dcid, ours.scid)
    assert other.token == ours.token


def test_a_second_packet_in_the_datagram_starts_where_the_first_ends():
    first = long_packet(QUIC_V1, 0xC0, rest=numbered(token=b""))
    assert parse_long(first + long_packet(QUIC_V1, 0xE0, rest=numbered())).end == len(first)


def test_of_an_unknown_version_only_the_invariants_are_read():
    header = parse_long(long_packet(0x1A2A3A4A, 0x80, bytes(255), bytes(21)))
    assert (header.type, len(header.dcid), len(header.scid), header.token) == (LongType.OTHER, 255, 21, b"")


@pytest.mark.parametrize(
    "packet",
    [
        *(b"", b"\x40" + bytes(30), b"\xc0\0\0\0", b"\xc0\0\0\0\x01\x08abc"),
        long_packet(QUIC_V1, 0x80, rest=numbered(token=b"")),  # fixed bit
        long_packet(QUIC_V1, 0xC0, dcid=bytes(21), rest=numbered(token=b"")),
        long_packet(QUIC_V1, 0xC0, scid=bytes(21), rest=numbered(token=b"")),
        long_packet(QUIC_V1, 0xC0, rest=b"\x05abc"),
        long_packet(QUIC_V1, 0xC0, rest=b"\x00\x40\x20" + bytes(31)),
        long_packet(QUIC_V1, 0xE0),
        long_packet(QUIC_V1, 0xF0, rest=bytes(15)),
    ],
)
def test_a_long_header_that_breaks_its_format_is_bad_encoding(packet):
    with pytest.raises(PeerError) as caught:
        parse_long(packet)
    assert caught.value.code is ErrorCode.BAD_ENCODING


def test_version_negotiation_is_that_of_the_quic_library():
    header = parse_long(long_packet(0x1A2A3A4A, 0xC0))
    ours = version_negotiation(header, (QUIC_V1, QUIC_V2), 0x2A)
    theirs = encode_quic_version_negotiation(
        source_cid=DCID, destination_cid=SCID, supported_versions=[QUIC_V1, QUIC_V2]
    )
    assert ours[0] == 0xEA
    assert ours[1:] == theirs[1:]
    assert parse_long(ours).type is LongType.NEGOTIATION


def test_version_negotiation_is_never_answered_with_another():
    header = parse_long(long_packet(0, 0xC0))
    with pytest.raises(LocalError):
        version_negotiation(header, (QUIC_V1,), 0)
    with pytest.raises(LocalError):
        version_negotiation(parse_long(long_packet(5, 0xC0)), (), 0)


def test_a_stateless_reset_looks_like_a_short_header_and_ends_with_its_token():
    token = bytes(range(16))
    packet = stateless_reset(token, b"\xff" * 5)
    assert packet == b"\x7f" + b"\xff" * 4 + token
    assert classify(packet) is Kind.QUIC_SHORT
    assert stateless_reset(token, bytes(26))[:1] == b"\x40"


def test_a_stateless_reset_below_its_least_size_is_our_own_fault():
    for token, noise in ((bytes(16), bytes(4)), (bytes(15), bytes(5))):
        with pytest.raises(LocalError):
            stateless_reset(token, noise)


GOLDENS = [STUN, *(long_packet(v, f, rest=REST.get(k, numbered())) for v, f, k in TYPES)]


@given(anything(GOLDENS))
def test_any_bytes_are_a_long_header_or_a_peer_error(data):
    try:
        header = parse_long(data)
    except PeerError:
        return
    assert classify(data) is Kind.QUIC_LONG or header.version not in (QUIC_V1, QUIC_V2)
    assert header.end <= len(data)


@given(anything(GOLDENS), st.sets(st.integers(0x4000, 0x4FFF)))
def test_any_bytes_have_exactly_one_owner(data, channels):
    assert isinstance(classify(data, channels), Kind)
