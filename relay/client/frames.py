"""What stands inside the ciphertext of a media packet, and how a packet is sealed and opened.

    ts u16   2.5 ms units of the sender's media clock, wraps after 163.84 s
    F  u8    7-6 kind: 0 Opus, 1 bundle, 2 app message | 5 padded: the last byte counts the padding | rest 0
    body

Must never live here: sockets, clocks, audio.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.client.keyring import KeyRing
from relay.errors import ErrorCode, PeerError
from relay.protocol import media

TICK_MS: Final = 2.5  # one unit of ts
KIND_OPUS: Final = 0
KIND_BUNDLE: Final = 1
KIND_APP: Final = 2
_PADDED: Final = 0x20
_HEAD: Final = 3
_MAX_EARLIER: Final = 3  # blocks a bundle carries beside its own frame


class MediaFrame(NamedTuple):
    """One opened packet: when it was said and what."""

    ts: int
    kind: int
    body: bytes


def encode_frame(frame: MediaFrame) -> bytes:
    """Plaintext of a packet."""
    return (frame.ts & 0xFFFF).to_bytes(2, "big") + bytes((frame.kind << 6,)) + frame.body


def decode_frame(plaintext: bytes) -> MediaFrame:
    """Read a plaintext. PeerError if the sender (who holds the key) wrote nonsense."""
    if len(plaintext) < _HEAD or plaintext[2] & 0x1F:
        raise PeerError(ErrorCode.BAD_ENCODING, "media frame header", fatal=False)
    body = plaintext[_HEAD:]
    if plaintext[2] & _PADDED:
        if not body or not 1 <= body[-1] <= len(body):
            raise PeerError(ErrorCode.BAD_ENCODING, "media frame padding", fatal=False)
        body = body[: -body[-1]]
    return MediaFrame(int.from_bytes(plaintext[:2], "big"), plaintext[2] >> 6, body)


def unbundle(frame: MediaFrame) -> list[MediaFrame]:
    """A bundle as its Opus frames, oldest first: n u8, n x {back u8, len u8}, the blocks, the primary."""
    body = frame.body
    count = body[0] if body else 0
    at = 1 + 2 * count
    if not 1 <= count <= _MAX_EARLIER or len(body) < at:
        raise PeerError(ErrorCode.BAD_ENCODING, "media bundle", fatal=False)
    found = []
    for n in range(count):
        back, size = body[1 + 2 * n], body[2 + 2 * n]
        if at + size > len(body):
            raise PeerError(ErrorCode.BAD_ENCODING, "media bundle block", fatal=False)
        found.append(MediaFrame(frame.ts - back & 0xFFFF, KIND_OPUS, body[at : at + size]))
        at += size
    return [*found, MediaFrame(frame.ts, KIND_OPUS, body[at:])]


def seal(ring: KeyRing, peer: int, flow: int, frame: MediaFrame, *, onset: bool, pp: int) -> bytes | None:
    """One media datagram for `peer` on uplink `flow`; None while there is no key."""
    sealer = ring.sealer(peer)
    if sealer is None:
        return None
    head = media.encode_header(flow, sealer.kid, sealer.next_ctr, pp=pp, onset=onset)
    header = media.MediaHeader(
        flow=flow,
        onset=onset,
        pp=pp,
        repeat=False,
        level=None,
        voice=False,
        kid=sealer.kid,
        ctr=sealer.next_ctr,
        sframe_at=2,
        size=len(head),
    )
    return head + sealer.seal(media.aad(head, header), encode_frame(frame))


def open_(ring: KeyRing, peer: int, header: media.MediaHeader, payload: bytes, now: float) -> bytes | None:
    """Plaintext of a datagram from `peer`, None for a replay; errors as `KeyRing.open`."""
    aad = media.aad(payload, header)
    return ring.open(peer, header.kid, header.ctr, aad, payload[header.size :], now)
