"""The hop header of a media datagram: all that the relay reads of somebody's voice.

    flow   1     01-3E; 00 is a control datagram (datagram.py), 3F reserved
    H      1     7-6 version 01 | 5 L level present | 4 M talkspurt start | 3-2 PP drop class
                 | 1 R repeat on this hop | 0 zero
    LV     0/1   7 V voice | 6-0 level in -dBov, 127 silence (RFC 6464 section 3); only if L
    conf   1     X KKK Y CCC (RFC 9605 section 4.3)
    KID    0/1   1:1: index<<2 | epoch&3;  group: index<<3 | epoch&7
    CTR    0-4   counts up per KID
    then         ciphertext of at least 3 bytes, 16 bytes tag; 22-1024 bytes in all

A hop changes the flow byte and bit R, nothing else: `aad` names what the sender's end-to-end tag covers.
`decode` runs for every packet of every call, hence the table of config bytes and the flat code.

Must never live here: ciphers, and any judgement whether a packet may pass.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relay.errors import ErrorCode, LocalError, PeerError

MIN_SIZE: Final = 22  # flow, H, conf, 3 bytes of plaintext header, 16 bytes of tag
MAX_SIZE: Final = 1024
MIN_SEALED: Final = 19  # ts u16, F u8, tag b16
MIN_FLOW: Final = 0x01
MAX_FLOW: Final = 0x3E

VERSION_BITS: Final = 0x40
VERSION_MASK: Final = 0xC0
LEVEL_BIT: Final = 0x20
ONSET_BIT: Final = 0x10
PP_SHIFT: Final = 2
REPEAT_BIT: Final = 0x02
ZERO_BIT: Final = 0x01
VOICE_BIT: Final = 0x80
SILENCE: Final = 127

PP_SPEECH: Final = 0
PP_COMFORT: Final = 1  # comfort noise, or the refresh of a DTX pause
PP_REDUNDANT: Final = 2  # nothing but redundancy: the first to drop
PP_ONSET: Final = 3  # start of a talkspurt: the last to drop

MAX_KID: Final = 0xFF
MAX_CTR: Final = 0xFFFF_FFFF


class MediaHeader(msgspec.Struct, frozen=True, gc=False):
    """What a hop knows of a media datagram."""

    flow: int
    onset: bool
    pp: int
    repeat: bool
    level: int | None  # -dBov, 0 loudest, 127 silence; None: not told
    voice: bool
    kid: int
    ctr: int
    sframe_at: int  # offset of the SFrame header: 2 or 3
    size: int  # bytes before the ciphertext


def _config_table() -> tuple[tuple[int, int, int, int] | None, ...]:
    """By config byte: (KID bytes, KID, CTR bytes, CTR); None where the field sizes are not allowed."""
    table: list[tuple[int, int, int, int] | None] = []
    for conf in range(256):
        kid, ctr = conf >> 4 & 7, conf & 7
        kid_size = kid + 1 if conf & 0x80 else 0
        ctr_size = ctr + 1 if conf & 0x08 else 0
        allowed = kid_size <= 1 and ctr_size <= 4
        table.append((kid_size, kid, ctr_size, ctr) if allowed else None)
    return tuple(table)


_CONFIG: Final = _config_table()
# A value that took n bytes (index n) must not fit into fewer: one packet has one spelling.
_LEAST: Final = (0, 8, 1 << 8, 1 << 16, 1 << 24)


def decode(data: bytes | memoryview) -> MediaHeader:
    """Read the hop header of one media datagram.

    PeerError with TOO_LARGE above 1024 bytes, VERSION for another header version, else BAD_ENCODING.
    """
    total = len(data)
    if total < MIN_SIZE:
        raise PeerError(ErrorCode.BAD_ENCODING, "media datagram too short")
    if total > MAX_SIZE:
        raise PeerError(ErrorCode.TOO_LARGE, "media datagram too large")
    flow = data[0]
    if not MIN_FLOW <= flow <= MAX_FLOW:
        raise PeerError(ErrorCode.BAD_ENCODING, "not a media flow number")
    h = data[1]
    if h & VERSION_MASK != VERSION_BITS:
        raise PeerError(ErrorCode.VERSION, "media header version")
    if h & ZERO_BIT:
        raise PeerError(ErrorCode.BAD_ENCODING, "reserved header bit set")
    level: int | None = None
    voice = False
    sframe_at = 2
    if h & LEVEL_BIT:
        sframe_at = 3
        voice = data[2] >= VOICE_BIT
        level = data[2] & 0x7F
    entry = _CONFIG[data[sframe_at]]
    if entry is None:
        raise PeerError(ErrorCode.BAD_ENCODING, "SFrame field too long")
    kid_size, kid, ctr_size, ctr = entry
    at = sframe_at + 1
    if kid_size:
        kid = data[at]
        at += 1
    if ctr_size:
        ctr = int.from_bytes(data[at : at + ctr_size], "big")
        at += ctr_size
    if kid < _LEAST[kid_size] or ctr < _LEAST[ctr_size]:
        raise PeerError(ErrorCode.BAD_ENCODING, "SFrame value not in its shortest form")
    if total - at < MIN_SEALED:
        raise PeerError(ErrorCode.BAD_ENCODING, "no room for the authentication tag")
    return MediaHeader(
        flow,
        h & ONSET_BIT != 0,
        h >> PP_SHIFT & 3,
        h & REPEAT_BIT != 0,
        level,
        voice,
        kid,
        ctr,
        sframe_at,
        at,
    )


def encode_header(
    flow: int,
    kid: int,
    ctr: int,
    *,
    pp: int = PP_SPEECH,
    onset: bool = False,
    repeat: bool = False,
    level: int | None = None,
    voice: bool = False,
) -> bytes:
    """Return the bytes before the ciphertext. LocalError if a value does not fit its field."""
    if not (
        MIN_FLOW <= flow <= MAX_FLOW
        and 0 <= kid <= MAX_KID
        and 0 <= ctr <= MAX_CTR
        and 0 <= pp <= 3
        and (level is None or 0 <= level <= SILENCE)
    ):
        raise LocalError("media header field out of range")
    h = VERSION_BITS | pp << PP_SHIFT
    if onset:
        h |= ONSET_BIT
    if repeat:
        h |= REPEAT_BIT
    head = bytes((flow, h))
    if level is not None:
        head = bytes((flow, h | LEVEL_BIT, level | (VOICE_BIT if voice else 0)))
    kid_tail = b"" if kid < 8 else bytes((kid,))
    ctr_tail = b"" if ctr < 8 else ctr.to_bytes((ctr.bit_length() + 7) // 8, "big")
    conf = (0x80 if kid_tail else kid << 4) | (0x08 | len(ctr_tail) - 1 if ctr_tail else ctr)
    return head + bytes((conf,)) + kid_tail + ctr_tail


def with_flow(payload: bytes, flow: int, repeat: bool) -> bytes:
    """Return a listener's copy of a datagram that `decode` accepted: its own flow number, R as given."""
    h = payload[1]
    return bytes((flow, h | REPEAT_BIT if repeat else h & ~REPEAT_BIT)) + payload[2:]


def aad(payload: bytes, header: MediaHeader) -> bytes:
    """Return what the end-to-end tag covers besides the ciphertext: SFrame header, H without R, level."""
    h = bytes((payload[1] & ~REPEAT_BIT,))
    return payload[header.sframe_at : header.size] + h + payload[2 : header.sframe_at]


def index_of(kid: int, group: bool) -> int:
    """Return the participant index that key id `kid` claims: above 3 epoch bits in a group, 2 in a 1:1."""
    return kid >> (3 if group else 2)


def kid_of(index: int, epoch: int, group: bool) -> int:
    """Return the key id of participant `index` in key epoch `epoch`; LocalError if it takes over a byte."""
    kid = index << 3 | epoch & 7 if group else index << 2 | epoch & 3
    if not 0 <= kid <= MAX_KID:
        raise LocalError("participant index out of range")
    return kid
