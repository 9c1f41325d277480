"""What the data path of TURN reads and writes: ChannelData, Send and Data indications (RFC 8656).

    ChannelData   u16 number 0x4000-0x4FFF | u16 length | payload | padding to 4, on streams or by choice
    STUN          u16 type | u16 length | cookie | transaction 12 | attributes
    attribute     u16 type | u16 length | value | padding to 4

Must never live here: requests and their answers, and which channels and permissions exist.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.protocol.demux import STUN_COOKIE

SEND: Final = 0x0016  # the indication by which a client sends without a channel
_DATA_INDICATION: Final = 0x0017
_XOR_PEER_ADDRESS: Final = 0x0012
_DATA: Final = 0x0013
# Attributes of who proves himself: an indication needs none, and one that has them is not stranger by it.
_CREDENTIALS: Final = frozenset((0x0006, 0x0008, 0x0014, 0x0015, 0x001C, 0x001E))
_OPTIONAL: Final = 0x8000  # from here on an attribute that nobody knows is skipped (RFC 8489 section 14)
_HEADER: Final = 20
_FAMILIES: Final = {1: 4, 2: 16}  # and the bytes of their addresses


class PeerAddress(NamedTuple):
    """The address of a peer: 4 or 16 bytes in network order, and a port that is not 0."""

    host: bytes
    port: int


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _padded(size: int) -> int:
    return (size + 3) & ~3


def parse_channel_data(data: bytes) -> tuple[int, bytes] | None:
    """Channel number and payload, if this has the form of ChannelData: number and length fit.

    No short header of ours has it: bytes 1 and 2 of our ids read 4096 or more.
    """
    size = _word(data, 2)
    if len(data) < 4 or not 0x40 <= data[0] <= 0x4F or len(data) - 4 not in (size, _padded(size)):
        return None
    return _word(data, 0), data[4 : 4 + size]


def message_type(data: bytes) -> int | None:
    """The type of a STUN message, if this has the form of one (RFC 8489 section 5): cookie and length fit."""
    size = len(data) - _HEADER
    if size < 0 or size % 4 or data[0] > 3 or data[4:8] != STUN_COOKIE or _word(data, 2) != size:
        return None
    return _word(data, 0)


def parse_send(data: bytes) -> tuple[PeerAddress, bytes] | None:
    """Whom a Send indication is for, and what it carries; the first attribute of each kind counts.

    None when something is missing or malformed, or when it has an attribute that must be understood and is
    not (RFC 8656 section 11.2).
    """
    if message_type(data) != SEND:
        return None
    peer: PeerAddress | None = None
    payload: bytes | None = None
    at = _HEADER
    while at < len(data):
        kind, size = _word(data, at), _word(data, at + 2)
        value = data[at + 4 : at + 4 + size]
        at += 4 + _padded(size)
        if at > len(data):
            return None
        if kind == _XOR_PEER_ADDRESS:
            peer = peer or _parse_address(value, data[4:_HEADER])
            if peer is None:
                return None
        elif kind == _DATA:
            payload = value if payload is None else payload
        elif kind < _OPTIONAL and kind not in _CREDENTIALS:
            return None
    return None if peer is None or payload is None else (peer, payload)


def _masked(host: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(host, mask, strict=False))


def _parse_address(value: bytes, mask: bytes) -> PeerAddress | None:
    """An address under the cookie, or of IPv6 under cookie and transaction id (RFC 8489 section 14.2)."""
    host = _masked(value[4:], mask)
    port = _word(value, 2) ^ _word(mask, 0)
    if len(value) < 8 or _FAMILIES.get(value[1]) != len(value) - 4 or port == 0:
        return None
    return PeerAddress(host, port)


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _padding(size: int) -> bytes:
    return bytes(-size % 4)


def encode_channel_data(channel: int, payload: bytes, *, is_stream: bool) -> bytes:
    """ChannelData; on a stream it is padded (RFC 8656 section 12.5)."""
    message = channel.to_bytes(2, "big") + _field(payload)
    return message + _padding(len(payload)) if is_stream else message


def encode_data_indication(serial: int, peer: PeerAddress, payload: bytes) -> bytes:
    """A Data indication. `serial` is its transaction id: nobody answers it, it only is another each time."""
    mask = STUN_COOKIE + serial.to_bytes(12, "big")
    family = 1 if len(peer.host) == 4 else 2
    port = peer.port ^ _word(mask, 0)
    address = bytes((0, family)) + port.to_bytes(2, "big") + _masked(peer.host, mask)
    body = _XOR_PEER_ADDRESS.to_bytes(2, "big") + _field(address)
    body += _DATA.to_bytes(2, "big") + _field(payload) + _padding(len(payload))
    return _DATA_INDICATION.to_bytes(2, "big") + len(body).to_bytes(2, "big") + mask + body
