"""The smallest pieces: variable-length integers and a cursor that never reads past the end.

Must never live here: any message. What the pieces mean stands in the modules that use them.
"""

from __future__ import annotations

from typing import Final

from relay.errors import ErrorCode, LocalError, PeerError

MAX_VARINT: Final = (1 << 62) - 1  # RFC 9000 section 16

_TOP: Final = {1: 0x00, 2: 0x40, 4: 0x80, 8: 0xC0}  # two bits in front say how many bytes follow


def varint_size(value: int) -> int:
    """Return how many bytes (1, 2, 4 or 8) the shortest varint of `value` takes (RFC 9000 section 16)."""
    if value < 0 or value > MAX_VARINT:
        raise LocalError("varint out of range")
    if value < 0x40:
        return 1
    if value < 0x4000:
        return 2
    return 4 if value < 0x4000_0000 else 8


def encode_varint(value: int) -> bytes:
    """Return the shortest varint of `value`, 0 to 2^62-1, else LocalError."""
    size = varint_size(value)
    return (value | _TOP[size] << (8 * (size - 1))).to_bytes(size, "big")


def decode_varint(data: bytes | memoryview, at: int = 0) -> tuple[int, int]:
    """Read the varint at offset `at`; return (value, offset behind it). Longer spellings are legal."""
    if not 0 <= at < len(data):
        raise PeerError(ErrorCode.BAD_ENCODING, "varint cut short")
    first = data[at]
    size = 1 << (first >> 6)
    end = at + size
    if end > len(data):
        raise PeerError(ErrorCode.BAD_ENCODING, "varint cut short")
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * size - 2)) - 1), end


class Reader:
    """A cursor over received bytes. Every read that would pass the end is PeerError(BAD_ENCODING)."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def at(self) -> int:
        """Offset of the next unread byte."""
        return self._at

    @property
    def left(self) -> int:
        """How many bytes are still unread."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Read exactly `count` bytes."""
        if count < 0:
            raise LocalError("cannot take a negative count")
        if count > self.left:
            raise PeerError(ErrorCode.BAD_ENCODING, "cut short")
        start = self._at
        self._at = start + count
        return bytes(self._data[start : self._at])

    def u8(self) -> int:
        """Read an unsigned byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Read a big-endian unsigned 16-bit number."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Read a big-endian unsigned 32-bit number."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Read a big-endian unsigned 64-bit number."""
        return int.from_bytes(self.take(8), "big")

    def varint(self) -> int:
        """Read a variable-length integer (RFC 9000 section 16)."""
        value, self._at = decode_varint(self._data, self._at)
        return value

    def finish(self) -> None:
        """PeerError(BAD_ENCODING) unless everything has been read."""
        if self.left:
            raise PeerError(ErrorCode.BAD_ENCODING, "bytes left over")
