"""What a UDP packet or a TCP stream is, from its first bytes, and the two answers that need no connection.

    longer than 2048      drop
    00-03                 STUN, if cookie and lengths fit, else drop          (RFC 8489 section 5)
    40-4F                 ChannelData, if the number is bound on this 5-tuple and the length fits
    40-7F                 QUIC short header, connection id in bytes 1-8
    C0-FF                 QUIC long header
    anything else         drop

A stream in TLS says by ALPN what it is (RFC 7301); without one that we know, and in clear, by its first byte:

    00-01                 STUN, TURN
    anything else         HTTP

Must never live here: which ids and channels exist; the caller knows.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from enum import Enum, IntEnum
from typing import Final, NamedTuple

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.cid import CID_SIZE, RESET_TOKEN_SIZE
from relay.protocol.wire import Reader

MAX_PACKET: Final = 2048  # no path we serve carries more; a longer read is noise
MIN_INITIAL: Final = 1200  # a client's first datagram is padded to this (RFC 9000 section 14.1)
STUN_COOKIE: Final = bytes.fromhex("2112a442")
QUIC_V1: Final = 0x0000_0001
QUIC_V2: Final = 0x6B33_43CF  # RFC 9369 section 3.1
MAX_CID: Final = 20  # in versions we know (RFC 9000 section 17.2)
RETRY_TAG_SIZE: Final = 16
MIN_RESET: Final = 21  # RFC 9000 section 10.3


class Kind(Enum):
    """Who handles a packet."""

    STUN = "stun"
    QUIC_LONG = "quic_long"
    QUIC_SHORT = "quic_short"
    CHANNEL = "channel"
    DROP = "drop"


def classify(packet: bytes | memoryview, channels: Container[int] = ()) -> Kind:
    """Say who handles a packet. `channels` are the TURN channel numbers bound on its 5-tuple."""
    size = len(packet)
    if size == 0 or size > MAX_PACKET:
        return Kind.DROP
    first = packet[0]
    if first >= 0xC0:
        return Kind.QUIC_LONG
    if 0x40 <= first <= 0x7F:
        if first <= 0x4F and _is_channel_data(packet, channels):
            return Kind.CHANNEL
        return Kind.QUIC_SHORT if size > CID_SIZE else Kind.DROP
    return Kind.STUN if first <= 3 and _is_stun(packet) else Kind.DROP


def _is_channel_data(packet: bytes | memoryview, channels: Container[int]) -> bool:
    size = len(packet)
    if size < 4 or packet[0] << 8 | packet[1] not in channels:
        return False
    length = packet[2] << 8 | packet[3]
    return size in (4 + length, 4 + (length + 3 & ~3))


def _is_stun(packet: bytes | memoryview) -> bool:
    size = len(packet)
    if size < 20 or size % 4 or packet[2] << 8 | packet[3] != size - 20:
        return False
    return bytes(packet[4:8]) == STUN_COOKIE


class LongType(IntEnum):
    """The type of a long-header packet, whatever bits its version spells it with."""

    INITIAL = 0
    ZERO_RTT = 1
    HANDSHAKE = 2
    RETRY = 3
    NEGOTIATION = 4  # version 0
    OTHER = 5  # of a version we do not know: only the invariants were read


# The two type bits, by version (RFC 9000 section 17.2, RFC 9369 section 3.2).
_TYPES: Final = {
    QUIC_V1: (LongType.INITIAL, LongType.ZERO_RTT, LongType.HANDSHAKE, LongType.RETRY),
    QUIC_V2: (LongType.RETRY, LongType.INITIAL, LongType.ZERO_RTT, LongType.HANDSHAKE),
}


class LongHeader(NamedTuple):
    """The first packet of a datagram, as far as its header is readable without keys."""

    version: int
    type: LongType
    dcid: bytes
    scid: bytes
    token: bytes  # of an Initial or a Retry
    end: int  # offset behind this packet; another may follow

    @property
    def is_initial(self) -> bool:
        """An Initial packet of a version we know."""
        return self.type is LongType.INITIAL


class StreamKind(Enum):
    """Who handles a TCP stream, by the ALPN that names him.

    Of several that are offered the first here is taken: coturn's client offers http/1.1 as well.
    """

    TURN = "stun.turn"  # RFC 7443
    RAW = "vrl/1"  # records, relay/protocol/records.py
    WEB = "http/1.1"


_BY_ALPN: Final = {kind.value: kind for kind in StreamKind}
_LAST_STUN: Final = 0x01  # a request's or an indication's first byte: methods have a high byte of 0 or 1


def classify_stream(alpn: str | None, first: int | None) -> StreamKind | None:
    """Say who handles a stream: what TLS agreed on (None: nothing, or in clear), the first byte inside.

    None: it cannot be told before the first byte is there.
    """
    named = _BY_ALPN.get(alpn or "")
    if named is not None or first is None:
        return named
    return StreamKind.TURN if first <= _LAST_STUN else StreamKind.WEB


def parse_long(packet: bytes | memoryview) -> LongHeader:
    """Read a long header (RFC 8999 section 5.1, RFC 9000 section 17.2); PeerError(BAD_ENCODING) if none."""
    reader = Reader(packet)
    first = reader.u8()
    if first < 0x80:
        raise _bad("not a long header")
    version = reader.u32()
    types = _TYPES.get(version)
    limit = MAX_CID if types else 0xFF
    dcid = _cid(reader, limit)
    scid = _cid(reader, limit)
    if types is None:
        kind = LongType.OTHER if version else LongType.NEGOTIATION
        return LongHeader(version, kind, dcid, scid, b"", len(packet))
    if not first & 0x40:
        raise _bad("fixed bit is zero")
    kind = types[first >> 4 & 3]
    if kind is LongType.RETRY:
        token = reader.take(max(reader.left - RETRY_TAG_SIZE, 0))
        reader.take(RETRY_TAG_SIZE)
        return LongHeader(version, kind, dcid, scid, token, len(packet))
    token = reader.take(reader.varint()) if kind is LongType.INITIAL else b""
    reader.take(reader.varint())
    return LongHeader(version, kind, dcid, scid, token, reader.at)


def _cid(reader: Reader, limit: int) -> bytes:
    size = reader.u8()
    if size > limit:
        raise _bad("connection id too long")
    return reader.take(size)


def _bad(why: str) -> PeerError:
    return PeerError(ErrorCode.BAD_ENCODING, f"QUIC: {why}")


def version_negotiation(header: LongHeader, versions: Sequence[int], noise: int) -> bytes:
    """Return the answer to a packet of an unknown version (RFC 9000 section 17.2.1); `noise`: a random byte.

    Never answer a negotiation with one: LocalError, as for an empty list of versions.
    """
    if header.type is LongType.NEGOTIATION or not versions:
        raise LocalError("no version negotiation for this")
    # Bit 6 stays set, so that whoever shares the port still sees QUIC.
    head = bytes((0xC0 | noise & 0x3F, 0, 0, 0, 0, len(header.scid)))
    ids = header.scid + bytes((len(header.dcid),)) + header.dcid
    return head + ids + b"".join(version.to_bytes(4, "big") for version in versions)


def stateless_reset(token: bytes, noise: bytes) -> bytes:
    """Return a stateless reset (RFC 9000 section 10.3) of len(noise) + 16 bytes, at least 21.

    `noise` is random. The caller keeps the result shorter than the packet it answers, so that two nodes
    that reset each other fall silent.
    """
    if len(token) != RESET_TOKEN_SIZE or len(noise) + RESET_TOKEN_SIZE < MIN_RESET:
        raise LocalError("a stateless reset takes a token of 16 and noise of at least 5 bytes")
    return bytes((0x40 | noise[0] & 0x3F,)) + noise[1:] + token
