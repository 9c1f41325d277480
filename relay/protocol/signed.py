"""The envelope that tokens and commands share: a body signed by an issuer's Ed25519 key.

    magic || kid b8 || u16 length || body || signature b64          <= 1024 bytes

The signature covers `domain || kid || body`, the bytes as received, so nothing is decoded before it holds.
There is no algorithm field: nothing to negotiate, nothing to downgrade. Every refusal has the same code, so
that a forger learns nothing from it. Must never live here: what a body means.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.ids import Kid

MAX_SIZE: Final = 1024
SEED_SIZE: Final = 32
PUBLIC_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64


class Unverified(NamedTuple):
    """An envelope taken apart; nobody has checked the signature yet."""

    kid: Kid
    body: bytes
    signature: bytes


def invalid(why: str) -> PeerError:
    """Return the one error for a token or command that does not hold."""
    return PeerError(ErrorCode.TOKEN_INVALID, why)


def kid_of(public: bytes) -> Kid:
    """Return the key id of an Ed25519 public key: the first 8 bytes of its SHA-256."""
    if len(public) != PUBLIC_SIZE:
        raise LocalError("an Ed25519 public key has 32 bytes")
    return Kid(sha256(public).digest()[: Kid.SIZE])


def public_of(seed: bytes) -> bytes:
    """Return the Ed25519 public key (32 bytes) of a private seed (32 bytes)."""
    return bytes(_signing_key(seed).verify_key)


def sign(seed: bytes, message: bytes) -> bytes:
    """Return the 64-byte Ed25519 signature of `message` under the key of `seed`."""
    return _signing_key(seed).sign(message).signature


def holds(public: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether `signature` over `message` is that of `public`; LocalError if the key is no 32 bytes."""
    if len(public) != PUBLIC_SIZE:
        raise LocalError("an Ed25519 public key has 32 bytes")
    if len(signature) != SIGNATURE_SIZE:
        return False
    try:
        VerifyKey(public).verify(message, signature)
    except BadSignatureError:
        return False
    return True


def seal(magic: bytes, domain: bytes, body: bytes, seed: bytes) -> bytes:
    """Return the signed envelope of `body`; LocalError above 1024 bytes."""
    kid = kid_of(public_of(seed))
    signature = sign(seed, domain + kid + body)
    envelope = magic + kid + len(body).to_bytes(2, "big") + body + signature
    if len(envelope) > MAX_SIZE:
        raise LocalError(f"a signed envelope of {len(envelope)} bytes")
    return envelope


def split(magic: bytes, envelope: bytes) -> Unverified:
    """Take an envelope apart after checking size, magic, length, in this order; PeerError(TOKEN_INVALID)."""
    body_at = len(magic) + Kid.SIZE + 2
    if not body_at + SIGNATURE_SIZE <= len(envelope) <= MAX_SIZE:
        raise invalid("size")
    if not envelope.startswith(magic):
        raise invalid("magic")
    length = int.from_bytes(envelope[body_at - 2 : body_at], "big")
    if body_at + length + SIGNATURE_SIZE != len(envelope):
        raise invalid("length")
    kid = Kid(envelope[len(magic) : len(magic) + Kid.SIZE])
    return Unverified(kid, envelope[body_at : body_at + length], envelope[body_at + length :])


def check(domain: bytes, unverified: Unverified, issuers: Mapping[Kid, bytes]) -> bytes:
    """Return the body if a known issuer signed it; `issuers` maps key ids to public keys."""
    public = issuers.get(unverified.kid)
    if public is None:
        raise invalid("unknown key")
    if not holds(public, domain + unverified.kid + unverified.body, unverified.signature):
        raise invalid("signature")
    return unverified.body


def _signing_key(seed: bytes) -> SigningKey:
    if len(seed) != SEED_SIZE:
        raise LocalError("an Ed25519 seed has 32 bytes")
    return SigningKey(seed)
