"""The records of a leg in bare TLS, each one datagram or one control message, as a WebSocket carries them.

    u16 length | 00-3F... a datagram, or C0 msgpack: one control message without its length

Must never live here: what a record means, sockets.
"""

from __future__ import annotations

from typing import Final

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.control import MAX_FRAME

CONTROL: Final = 0xC0
LAST_DATAGRAM: Final = 0x3F
MAX_RECORD: Final = 1 + MAX_FRAME
_LENGTH: Final = 2


def encode_record(record: bytes) -> bytes:
    """Return it with its length in front. LocalError for one that no reader takes."""
    if not 1 <= len(record) <= MAX_RECORD:
        raise LocalError(f"a record of {len(record)} bytes")
    return len(record).to_bytes(_LENGTH, "big") + record


class RecordReader:
    """Cuts a stream into records, one when asked, so that many small ones take no more than their bytes."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes held: what was fed and not asked for."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next record; None when it is not whole yet.

        PeerError as soon as its length or first byte shows that it is none: the stream has no next one then.
        """
        buffer = self._buffer
        if len(buffer) < _LENGTH:
            return None
        size = int.from_bytes(buffer[:_LENGTH], "big")
        if not size:
            raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "an empty record")
        if size > MAX_RECORD:
            raise PeerError(ErrorCode.TOO_LARGE, "a record is too long")
        if len(buffer) > _LENGTH and LAST_DATAGRAM < buffer[_LENGTH] != CONTROL:
            raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "neither a datagram nor a control message")
        if len(buffer) < _LENGTH + size:
            return None
        record = bytes(buffer[_LENGTH : _LENGTH + size])
        del buffer[: _LENGTH + size]
        return record
