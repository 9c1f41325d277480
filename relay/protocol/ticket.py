"""Resume tickets: a participant's place in a call, sealed so that only nodes of the cluster can read it.

    nonce b24 || XChaCha20-Poly1305(msgpack [c, sub, p, accepted, exp, cnf, kind, variant])

A ticket alone is no credential: whoever shows it also proves the key in `cnf` or brings a fresh token.
Must never live here: the clock and the nonce's source; both are the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import structure
from relay.protocol.ids import CallId, Sub

KEY_SIZE: Final = 32
NONCE_SIZE: Final = 24
TAG_SIZE: Final = 16
MAX_SIZE: Final = 512  # a ticket of ours has some 150 bytes
_AAD: Final = b"vrl-ticket-v1\0"


@dataclass(frozen=True, slots=True)
class TicketBody:
    """What a ticket says. `exp` is wall-clock seconds; `kind` is rt (resume) or ht (hand-over to a node)."""

    c: CallId
    sub: Sub
    p: int  # participant index
    accepted: bool
    exp: int
    cnf: bytes | None = field(default=None, repr=False)  # Ed25519 public key that must sign the challenge
    kind: Literal["rt", "ht"] = "rt"
    variant: str = ""  # of the rollout


_B16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Wire = tuple[
    _B16,
    _B16,
    Annotated[int, Meta(ge=0, le=31)],
    bool,
    Annotated[int, Meta(ge=0, le=2**53 - 1)],
    Annotated[bytes, Meta(min_length=32, max_length=32)] | None,
    Literal["rt", "ht"],
    Annotated[str, Meta(max_length=32)],
]
_DECODER: Final = msgspec.msgpack.Decoder(_Wire)


def seal(body: TicketBody, key: bytes, nonce: bytes) -> bytes:
    """Return the ticket. `key` has 32 bytes; `nonce` 24 random ones, never used twice under one key."""
    if len(key) != KEY_SIZE or len(nonce) != NONCE_SIZE:
        raise LocalError("a ticket takes a key of 32 and a nonce of 24 bytes")
    cnf = None if body.cnf is None else bytes(body.cnf)
    ids = bytes(body.c), bytes(body.sub)
    plain = msgspec.msgpack.encode((*ids, body.p, body.accepted, body.exp, cnf, body.kind, body.variant))
    try:
        decode_body(plain)
    except PeerError as error:
        raise LocalError("ticket field out of range") from error
    return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(plain, _AAD, nonce, key)


def open(blob: bytes, keys: Sequence[bytes]) -> TicketBody:
    """Return the body of a ticket sealed under one of `keys`, newest first by custom.

    PeerError(RESUME_UNKNOWN) for all others, whatever is wrong with them.
    """
    if not NONCE_SIZE + TAG_SIZE < len(blob) <= MAX_SIZE:
        raise _unknown()
    nonce, sealed = blob[:NONCE_SIZE], blob[NONCE_SIZE:]
    for key in keys:
        if len(key) != KEY_SIZE:
            raise LocalError("a ticket key has 32 bytes")
        try:
            plain = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, _AAD, nonce, key)
        except CryptoError:
            continue
        return decode_body(plain)
    raise _unknown()


def decode_body(plain: bytes) -> TicketBody:
    """Decode the opened inside of a ticket; PeerError(RESUME_UNKNOWN)."""
    try:
        structure.check(plain)
        c, sub, p, accepted, exp, cnf, kind, variant = structure.decode(_DECODER, plain)
    except PeerError as error:
        raise _unknown() from error
    return TicketBody(CallId(c), Sub(sub), p, accepted, exp, cnf, kind, variant)


def _unknown() -> PeerError:
    return PeerError(ErrorCode.RESUME_UNKNOWN, "no ticket of ours")
