"""The SFrame header, X KKK Y CCC (RFC 9605 section 4.3), of any size the RFC allows.

    config   1      X(1) K(3) Y(1) C(3)
    KID      0-8    X 0: K is the key id; X 1: K + 1 bytes follow
    CTR      0-8    Y 0: C is the counter; Y 1: C + 1 bytes follow

A header is read in one spelling only, the shortest: two spellings of one (KID, CTR) would be two packets to
whoever compares bytes. Media datagrams allow less than the RFC; media.py has that narrower, faster reading.

Must never live here: keys or ciphers. The relay can name what it forwards, it cannot open it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.wire import Reader

MAX_VALUE: Final = (1 << 64) - 1
INLINE: Final = 7  # values to here stand in the config byte itself


class SframeHeader(NamedTuple):
    """Key id and counter; `size` is how many bytes the header takes."""

    kid: int
    ctr: int
    size: int


def _spell(value: int) -> tuple[int, bytes]:
    """Return (four config bits, following bytes) of one value."""
    if not 0 <= value <= MAX_VALUE:
        raise LocalError("SFrame value out of range")
    if value <= INLINE:
        return value, b""
    tail = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return 8 | (len(tail) - 1), tail


def encode_header(kid: int, ctr: int) -> bytes:
    """Return the header of key `kid` and counter `ctr`, both 0 to 2^64-1, else LocalError."""
    kid_bits, kid_tail = _spell(kid)
    ctr_bits, ctr_tail = _spell(ctr)
    return bytes((kid_bits << 4 | ctr_bits,)) + kid_tail + ctr_tail


def _read(reader: Reader, bits: int) -> int:
    if bits < 8:
        return bits
    tail = reader.take((bits & 7) + 1)
    value = int.from_bytes(tail, "big")
    if value <= INLINE or (len(tail) > 1 and tail[0] == 0):
        raise PeerError(ErrorCode.BAD_ENCODING, "SFrame value not in its shortest form")
    return value


def decode_header(data: bytes | memoryview) -> SframeHeader:
    """Read the header at the start of `data`; PeerError(BAD_ENCODING) if cut short or not shortest."""
    reader = Reader(data)
    config = reader.u8()
    kid = _read(reader, config >> 4)
    ctr = _read(reader, config & 0x0F)
    return SframeHeader(kid, ctr, reader.at)
