"""TURN on top of STUN (RFC 8656): methods, attributes, and messages and ChannelData cut out of a byte stream.

    ChannelData: number u16 (4000-4FFF) | length u16 | data [| padding to 4, always on a stream]
    stream:      first byte 00 or 01 is a STUN message, 40-4F a ChannelData, anything else ends the stream

What ChannelData and indications carry is read in relay/protocol/relayed.py. Must never live here: which
allocations, permissions and channels exist, and where packets may go.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from relay.errors import ErrorCode, PeerError
from relay.protocol import stun
from relay.protocol.address import Address
from relay.protocol.stun import Attribute


class Method(IntEnum):
    """RFC 8656 section 17, and the one of STUN itself."""

    BINDING = stun.BINDING
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006  # indication only
    DATA = 0x007  # indication only
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


CHANNEL_NUMBER: Final = 0x000C  # number u16 | 0 u16
LIFETIME: Final = 0x000D  # s u32
XOR_PEER_ADDRESS: Final = 0x0012  # as XOR-MAPPED-ADDRESS
DATA: Final = 0x0013  # bytes
XOR_RELAYED_ADDRESS: Final = 0x0016  # as XOR-MAPPED-ADDRESS
REQUESTED_ADDRESS_FAMILY: Final = 0x0017  # family u8 | 0 u24
EVEN_PORT: Final = 0x0018  # R u1 | 0 u7
REQUESTED_TRANSPORT: Final = 0x0019  # protocol u8 | 0 u24
DONT_FRAGMENT: Final = 0x001A  # empty
RESERVATION_TOKEN: Final = 0x0022  # b8
ADDITIONAL_ADDRESS_FAMILY: Final = 0x8000  # family u8 | 0 u24

UDP: Final = 17  # the only REQUESTED-TRANSPORT
FIRST_CHANNEL: Final = 0x4000
LAST_CHANNEL: Final = 0x4FFF  # RFC 8656 section 12
CHANNEL_HEADER: Final = 4
MAX_FRAME: Final = 2048  # of a stream: as large as the largest UDP packet that is looked at

_CREDENTIAL: Final = frozenset(
    {
        *(stun.USERNAME, stun.USERHASH, stun.REALM, stun.NONCE),
        *(stun.PASSWORD_ALGORITHM, stun.MESSAGE_INTEGRITY, stun.MESSAGE_INTEGRITY_SHA256),
    }
)
_WANTED: Final = frozenset({REQUESTED_ADDRESS_FAMILY, EVEN_PORT, REQUESTED_TRANSPORT, RESERVATION_TOKEN})

UNDERSTOOD: Final[dict[int, frozenset[int]]] = {
    Method.BINDING: _CREDENTIAL,
    Method.ALLOCATE: _CREDENTIAL | _WANTED | {LIFETIME},
    Method.REFRESH: _CREDENTIAL | {LIFETIME, REQUESTED_ADDRESS_FAMILY},
    Method.CREATE_PERMISSION: _CREDENTIAL | {XOR_PEER_ADDRESS},
    Method.CHANNEL_BIND: _CREDENTIAL | {XOR_PEER_ADDRESS, CHANNEL_NUMBER},
    Method.SEND: frozenset({XOR_PEER_ADDRESS, DATA}),
    Method.DATA: frozenset({XOR_PEER_ADDRESS, DATA}),
}
"""Attributes that each method's messages may carry; any other that must be understood is error 420.

DONT-FRAGMENT is not among them: a relay that cannot promise it says so that way (RFC 8656 section 7.2)."""


# ---------------------------------------------------------------- attributes


def u8_of(value: bytes) -> int:
    """First byte of a value of 4 bytes whose rest is reserved (family, transport). PeerError if not 4."""
    return _sized(value, 4)[0]


def u32_of(value: bytes) -> int:
    """A LIFETIME in seconds."""
    return int.from_bytes(_sized(value, 4), "big")


def channel_of(value: bytes) -> int:
    """A CHANNEL-NUMBER, whether or not one may bind it."""
    return int.from_bytes(_sized(value, 4)[:2], "big")


def _sized(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise PeerError(ErrorCode.BAD_ENCODING, "an attribute of the wrong size")
    return value


def wants_next(value: bytes) -> bool:
    """Whether an EVEN-PORT asks to hold the port above as well. PeerError if it is not one byte."""
    return bool(_sized(value, 1)[0] & 0x80)


def lifetime(seconds: int) -> Attribute:
    """LIFETIME."""
    return Attribute(LIFETIME, seconds.to_bytes(4, "big"))


def family(number: int) -> Attribute:
    """REQUESTED-ADDRESS-FAMILY."""
    return Attribute(REQUESTED_ADDRESS_FAMILY, bytes((number, 0, 0, 0)))


def transport(protocol: int = UDP) -> Attribute:
    """REQUESTED-TRANSPORT."""
    return Attribute(REQUESTED_TRANSPORT, bytes((protocol, 0, 0, 0)))


def channel_number(number: int) -> Attribute:
    """CHANNEL-NUMBER."""
    return Attribute(CHANNEL_NUMBER, number.to_bytes(2, "big") + bytes(2))


def xor_address(type: int, address: Address, transaction: bytes) -> Attribute:
    """XOR-PEER-ADDRESS, XOR-RELAYED-ADDRESS or XOR-MAPPED-ADDRESS."""
    return Attribute(type, stun.encode_xor_address(address, transaction))


# ---------------------------------------------------------------- streams


class FrameReader:
    """Cuts STUN messages and ChannelData (padding included) out of a stream, wherever it was cut."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame; never more than a frame."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Whole frames, in order. PeerError when the stream can only be closed; nothing is held then."""
        self._pending += data
        frames: list[bytes] = []
        at = 0
        try:
            while len(self._pending) - at >= CHANNEL_HEADER:
                size = self._size(at)
                if len(self._pending) - at < size:
                    break
                frames.append(bytes(self._pending[at : at + size]))
                at += size
            if len(self._pending) > at:
                self._check_first(self._pending[at])
        except PeerError:
            self._pending.clear()
            raise
        del self._pending[:at]
        return frames

    def _size(self, at: int) -> int:
        self._check_first(self._pending[at])
        length = int.from_bytes(self._pending[at + 2 : at + 4], "big")
        if self._pending[at] >= FIRST_CHANNEL >> 8:
            size = CHANNEL_HEADER + (length + 3 & ~3)
        elif length % 4:
            raise PeerError(ErrorCode.BAD_ENCODING, "wrong length")
        else:
            size = stun.HEADER + length
        if size > MAX_FRAME:
            raise PeerError(ErrorCode.TOO_LARGE, "a frame is too long")
        return size

    @staticmethod
    def _check_first(first: int) -> None:
        if first > 1 and not FIRST_CHANNEL >> 8 <= first <= LAST_CHANNEL >> 8:
            raise PeerError(ErrorCode.BAD_ENCODING, "neither STUN nor a channel")
