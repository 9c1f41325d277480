"""Frames of control messages.

    stream frame                   u16 length || msgpack [type, id, body]      <= 16384 bytes of msgpack
    WebSocket, raw TLS record      C0 || msgpack [type, id, body]              (`encode_body`)

`id` other than 0 asks for `Ok` or `Err` with the same id. The messages stand in messages.py and can be
imported from here. Must never live here: who may send what and when; that is decided in core.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import structure
from relay.protocol.messages import (
    MAX_E2E,
    MESSAGES,
    U8,
    U32,
    VERSION,
    Accept,
    Block,
    Bye,
    Cand,
    Caps,
    Carry,
    Challenge,
    Cli,
    Decline,
    Drain,
    E2e,
    Ended,
    Err,
    Feedback,
    Gate,
    Hangup,
    Hello,
    Join,
    Joined,
    LegStats,
    Limits,
    Message,
    Mod,
    Moved,
    Mute,
    Obs,
    Ok,
    Path,
    Peer,
    Ping,
    Pong,
    Punch,
    Rate,
    Rejoin,
    Report,
    RosterEntry,
    Rr,
    RrEntry,
    StandbyEntry,
    Ticket,
    TokenUpdate,
    Turn,
    Want,
    Welcome,
)

__all__ = [
    "MAX_E2E",
    "MAX_FRAME",
    "MESSAGES",
    "VERSION",
    "Accept",
    "Block",
    "Bye",
    "Cand",
    "Caps",
    "Carry",
    "Challenge",
    "Cli",
    "Decline",
    "Drain",
    "E2e",
    "Ended",
    "Err",
    "Feedback",
    "Frame",
    "FrameReader",
    "Gate",
    "Hangup",
    "Hello",
    "Join",
    "Joined",
    "LegStats",
    "Limits",
    "Message",
    "Mod",
    "Moved",
    "Mute",
    "Obs",
    "Ok",
    "Path",
    "Peer",
    "Ping",
    "Pong",
    "Punch",
    "Rate",
    "Rejoin",
    "Report",
    "RosterEntry",
    "Rr",
    "RrEntry",
    "StandbyEntry",
    "Ticket",
    "TokenUpdate",
    "Turn",
    "Want",
    "Welcome",
    "decode",
    "decode_map",
    "decoders",
    "encode",
    "encode_body",
    "peek",
]

MAX_FRAME: Final = 16384  # bytes of msgpack in one frame
MAX_ID: Final = 2**32 - 1


class Frame(NamedTuple):
    """A decoded frame. `body` is None for an unknown type: ignore it, or answer `Err` if `id` is set."""

    type: int
    id: int
    body: Message | None


def _plain(value: object) -> bytes:
    """Let the id types of `ids` be written where bytes are meant."""
    if isinstance(value, bytes):
        return bytes(value)
    raise LocalError(f"{type(value).__name__} has no place in a control message")


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
_ENVELOPE: Final = msgspec.msgpack.Decoder(tuple[U8, U32, msgspec.Raw])

Decoders = Mapping[int, msgspec.msgpack.Decoder[Message]]
"""What reads a body, by the number of its type."""


def decoders(messages: Mapping[int, type[Message]]) -> Decoders:
    """What reads the bodies of these types, for `decode`: a trunk has others than a leg."""
    return {number: msgspec.msgpack.Decoder(cls) for number, cls in messages.items()}


_LEG: Final = decoders(MESSAGES)


def encode_body(message: Message, id: int = 0) -> bytes:
    """Return msgpack [type, id, body] without a length, as a WebSocket message carries it behind C0."""
    if not 0 <= id <= MAX_ID:
        raise LocalError("message id out of range")
    data = _ENCODER.encode((message.TYPE, id, message))
    if len(data) > MAX_FRAME:
        raise LocalError(f"{type(message).__name__} makes a frame of {len(data)} bytes")
    return data


def encode(message: Message, id: int = 0) -> bytes:
    """Return the stream frame of `message`: u16 length, then shortest msgpack, keys in declared order."""
    data = encode_body(message, id)
    return len(data).to_bytes(2, "big") + data


def decode(frame: bytes, types: Decoders = _LEG) -> Frame:
    """Decode one frame without its length, as `FrameReader.feed` yields it.

    PeerError(TOO_LARGE) above 16384 bytes, PeerError(BAD_ENCODING) for everything else that is not a message.
    """
    number, id, raw = _open(frame)
    return Frame(number, id, decode_map(number, raw, types))


def peek(frame: bytes) -> tuple[int, int]:
    """Return type and id of one frame whose body is for somebody else; errors as those of `decode`.

    That the body is a map of the allowed shape is checked, what its keys mean is not.
    """
    number, id, raw = _open(frame)
    decode_map(number, raw, {})
    return number, id


def _open(frame: bytes) -> tuple[int, int, bytes]:
    if len(frame) > MAX_FRAME:
        raise PeerError(ErrorCode.TOO_LARGE, "control frame too large")
    structure.check(frame)
    number, id, raw = structure.decode(_ENVELOPE, frame)
    return number, id, bytes(raw)


def decode_map(number: int, raw: bytes, types: Decoders = _LEG) -> Message | None:
    """Decode the body map of message type `number`, its structure already checked; None if unknown."""
    if not raw or not (0x80 <= raw[0] <= 0x8F or raw[0] in (0xDE, 0xDF)):
        raise PeerError(ErrorCode.BAD_ENCODING, "body is not a map")
    decoder = types.get(number)
    if decoder is None:
        return None
    return structure.decode(decoder, raw)


class FrameReader:
    """Cuts a control stream into frames. Never holds more than one frame that is still incomplete."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not complete: at most 16385."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the frames they complete, without their lengths.

        PeerError(TOO_LARGE) as soon as a length above 16384 is seen: the stream has no next frame then.
        """
        self._buffer += data
        frames: list[bytes] = []
        at = 0
        while len(self._buffer) - at >= 2:
            length = int.from_bytes(self._buffer[at : at + 2], "big")
            if length > MAX_FRAME:
                raise PeerError(ErrorCode.TOO_LARGE, "control frame too large")
            if len(self._buffer) - at - 2 < length:
                break
            frames.append(bytes(self._buffer[at + 2 : at + 2 + length]))
            at += 2 + length
        del self._buffer[:at]
        return frames
