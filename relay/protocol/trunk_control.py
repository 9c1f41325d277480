"""Frames of a trunk's control stream, and which messages of legs pass in them.

    u16 length || msgpack [type, id, body]     as on a leg's stream, with the types of trunk_messages.py

Cut by `control.FrameReader`, written by `control.encode`. Must never live here: who may send what and when.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from relay.errors import ErrorCode, PeerError
from relay.protocol import control, messages, trunk_messages
from relay.protocol.control import Frame

ALPN: Final = "vrl-t/1"
VERSION: Final = 1

UP: Final = frozenset(
    cls.TYPE
    for cls in (
        *(messages.Accept, messages.Decline, messages.Hangup, messages.Bye, messages.Mod, messages.Block),
        *(messages.Mute, messages.Rr, messages.Feedback, messages.Report, messages.Cand, messages.Path),
        *(messages.Turn, messages.E2e, messages.TokenUpdate),
    )
)
"""Types of a client's messages that a guest passes to the home."""

DOWN: Final = frozenset(
    cls.TYPE
    for cls in (
        *(messages.Peer, messages.Ended, messages.Mute, messages.Cand, messages.Punch, messages.E2e),
        *(messages.Ticket, messages.Rr, messages.Ok, messages.Err, messages.Drain),
    )
)
"""Types of the home's messages that a guest passes to its client."""


class TrunkCode(IntEnum):
    """Why a trunk or a half ends, or a request is refused, beside the codes of legs (errors.py)."""

    GLARE = 0x50  # trunk: of two connections the other one stays
    PEER_UNKNOWN = 0x51  # trunk: not configured, another node's key, wrong proof
    NOT_HOME = 0x52  # answer to `Attach`
    OLD_TERM = 0x53  # answer, half: there is a younger home
    HALF_UNKNOWN = 0x54  # answer: no such half here
    ROUTE_LIMIT = 0x55  # answer to `Pull`: no number is free
    LEASE_LOST = 0x56  # half: no beat for 15 s
    NOT_SERVED = 0x57  # answer to `Attach`: the guest does not serve the variant


_TYPES: Final = control.decoders(trunk_messages.OWN | trunk_messages.SHARED)


def decode(frame: bytes) -> Frame:
    """Decode one frame without its length; errors as those of `control.decode`."""
    return control.decode(frame, _TYPES)


def said(m: bytes, types: frozenset[int]) -> int:
    """Return the type of a leg's message in a `Say`, which is one of `types`: `UP` or `DOWN`.

    PeerError(PROTOCOL_VIOLATION) for another one, and as `control.peek` for what is no message.
    """
    number, _ = control.peek(m)
    if number not in types:
        raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "a message that does not pass trunks")
    return number


def code_of(code: int) -> ErrorCode | TrunkCode:
    """Return what a connection is closed with for this code, whoever named it; GENERAL for an unknown one."""
    if code in _TRUNK_CODES:
        return TrunkCode(code)
    return ErrorCode(code) if code in _CODES else ErrorCode.GENERAL


_TRUNK_CODES: Final = frozenset(int(code) for code in TrunkCode)
_CODES: Final = frozenset(int(code) for code in ErrorCode)
