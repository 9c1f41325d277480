"""Capability tokens: what one person may do in one call, signed by the product's back end.

    "V1" || kid b8 || u16 length || claims (msgpack map) || Ed25519 signature b64        <= 1024 bytes

Checked offline. Here: size, magic, key, signature, strict decode, version, in this order. Names are those of
RFC 7519, 8392 and 7800. Must never live here: the clock, and whether the claims suffice (core/admission.py).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from relay.errors import LocalError, PeerError
from relay.protocol import signed, structure
from relay.protocol.ids import CallId, Jti, Kid, PersonId, Sub
from relay.protocol.signed import Unverified, invalid, kid_of

__all__ = [
    "Claims",
    "Unverified",
    "decode_claims",
    "encode_claims",
    "from_text",
    "kid_of",
    "mint",
    "parse",
    "pop_sign",
    "pop_verify",
    "to_text",
    "verify",
]

VERSION: Final = 1
MAGIC: Final = b"V1"
DOMAIN: Final = b"vrl-cap-v1\0"
POP_DOMAIN: Final = b"vrl-pop-v1\0"
NONCE_SIZE: Final = 32  # of a challenge

ROLE_PEER: Final = 0
ROLE_HOST: Final = 1
ROLE_LISTENER: Final = 2

MAY_SEND: Final = 1
MAY_RECEIVE: Final = 2
MAY_E2E: Final = 4
MAY_P2P: Final = 8
MAY_TURN: Final = 16
MAY_MODERATE: Final = 32
MAY_INVITE: Final = 64

GATE_PAIRWISE: Final = 1
GATE_HOST_ADMITS: Final = 2

NET_RELAY_ONLY: Final = 1
NET_TCP_LEGS: Final = 2
NET_TURN: Final = 4

AGE_UNKNOWN: Final = 0
AGE_UNDER_16: Final = 1
AGE_16_17: Final = 2
AGE_ADULT: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The claims of a token, in wire order. Optional ones are None when absent.

    What names a person or an age is left out of the repr.
    """

    v: int = VERSION
    iss: str
    aud: str  # the cluster
    sub: Sub
    cid: CallId
    rol: int = ROLE_PEER
    prm: int = MAY_SEND | MAY_RECEIVE | MAY_E2E
    iat: int  # seconds since 1970, as nbf and exp
    nbf: int
    exp: int
    jti: Jti
    lim: tuple[int, int, int, int] = (64, 64, 120, 2)  # up kbit/s, down kbit/s, packets/s, participants
    gate: int = GATE_PAIRWISE
    net: int = 0
    peer: tuple[Sub, ...] | None = None  # may be opened to these only
    ru: PersonId | None = field(default=None, repr=False)
    dur: int | None = None  # longest call, s
    rgn: str | None = None
    grp: tuple[str, ...] | None = None
    age: int = field(default=AGE_UNKNOWN, repr=False)
    ctc: int = 0  # 1: accepted contact
    cnf: bytes | None = field(default=None, repr=False)  # Ed25519 public key of the device
    home: str | None = None  # the node that decides about the call
    stb: tuple[str, ...] | None = None  # who does when that one is gone


_B16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
_Time = Annotated[int, Meta(ge=0, le=2**53 - 1)]
_Name = Annotated[str, Meta(min_length=1, max_length=64)]
_Group = Annotated[str, Meta(min_length=1, max_length=16)]
_NodeId = Annotated[str, Meta(pattern=r"^[0-9A-Za-z._-]{1,64}\Z")]


class _Wire(msgspec.Struct, frozen=True, kw_only=True):
    """The claims as they stand in the map; `Claims` gives them their id types."""

    v: _U32
    iss: _Name
    aud: _Name
    sub: _B16
    cid: _B16
    rol: Annotated[int, Meta(ge=0, le=ROLE_LISTENER)]
    prm: Annotated[int, Meta(ge=0, le=0xFFFF)]
    iat: _Time
    nbf: _Time
    exp: _Time
    jti: _B16
    lim: tuple[_U32, _U32, _U32, _U32]
    gate: Annotated[int, Meta(ge=GATE_PAIRWISE, le=GATE_HOST_ADMITS)]
    net: Annotated[int, Meta(ge=0, le=0xFF)]
    peer: Annotated[tuple[_B16, ...], Meta(max_length=32)] | None = None
    ru: _B16 | None = None
    dur: _U32 | None = None
    rgn: _Name | None = None
    grp: Annotated[tuple[_Group, ...], Meta(max_length=8)] | None = None
    age: Annotated[int, Meta(ge=AGE_UNKNOWN, le=AGE_ADULT)]
    ctc: Annotated[int, Meta(ge=0, le=1)] = 0
    cnf: Annotated[bytes, Meta(min_length=32, max_length=32)] | None = None
    home: _NodeId | None = None
    stb: Annotated[tuple[_NodeId, ...], Meta(max_length=2)] | None = None


_DECODER: Final = msgspec.msgpack.Decoder(_Wire)


def encode_claims(claims: Claims) -> bytes:
    """Return the msgpack map of `claims`: keys in declared order, shortest forms, None left out."""
    named = ((each.name, getattr(claims, each.name)) for each in fields(claims))
    return msgspec.msgpack.encode({name: _plain(value) for name, value in named if value is not None})


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def decode_claims(data: bytes) -> Claims:
    """Decode a claims map that may or may not have been verified; PeerError(TOKEN_INVALID).

    Strict: no key twice, every size and range; unknown claims are ignored.
    """
    try:
        structure.check(data)
        wire = structure.decode(_DECODER, data)
    except PeerError as error:
        raise invalid(f"claims, {error.message}") from error
    if wire.v != VERSION:
        raise invalid("version")
    values = msgspec.structs.asdict(wire)
    values |= {"sub": Sub(wire.sub), "cid": CallId(wire.cid), "jti": Jti(wire.jti)}
    if wire.peer is not None:
        values["peer"] = tuple(Sub(each) for each in wire.peer)
    if wire.ru is not None:
        values["ru"] = PersonId(wire.ru)
    return Claims(**values)


def mint(claims: Claims, seed: bytes) -> bytes:
    """Return the token of `claims` signed with an issuer's 32-byte seed.

    LocalError for claims that every relay would refuse, and for a token above 1024 bytes.
    """
    body = encode_claims(claims)
    try:
        decode_claims(body)
    except PeerError as error:
        raise LocalError("claims out of range") from error
    return signed.seal(MAGIC, DOMAIN, body, seed)


def parse(token: bytes) -> Unverified:
    """Take a token apart without trusting it; PeerError(TOKEN_INVALID) if it is none."""
    return signed.split(MAGIC, token)


def verify(token: bytes, issuers: Mapping[Kid, bytes]) -> Claims:
    """Return the claims of a token that one of `issuers` (key id to public key) signed.

    PeerError(TOKEN_INVALID) for every other one. Times, audience and use are not looked at.
    """
    return decode_claims(signed.check(DOMAIN, parse(token), issuers))


def pop_sign(seed: bytes, n: bytes, sub: Sub, cid: CallId) -> bytes:
    """Return the proof that the holder of `seed` answers challenge `n` for this token."""
    return signed.sign(seed, _pop_message(n, sub, cid))


def pop_verify(public: bytes, n: bytes, sub: Sub, cid: CallId, sig: bytes) -> bool:
    """Say whether `sig` proves possession of the token's `cnf` key `public` (RFC 7800 section 3)."""
    return signed.holds(public, _pop_message(n, sub, cid), sig)


def _pop_message(n: bytes, sub: Sub, cid: CallId) -> bytes:
    if len(n) != NONCE_SIZE:
        raise LocalError("a challenge has 32 bytes")
    return POP_DOMAIN + n + Sub(sub) + CallId(cid)


def to_text(token: bytes) -> str:
    """Return the token as base64url without padding (RFC 4648 section 5)."""
    return urlsafe_b64encode(token).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """Read what `to_text` wrote, white space around it allowed; PeerError(TOKEN_INVALID) otherwise."""
    core = text.strip()
    try:
        token = urlsafe_b64decode(core.encode("ascii") + b"=" * (-len(core) % 4))
    except ValueError as error:
        raise invalid("text") from error
    # The decoder skips what is no base64 and forgives stray bits; only the one true spelling counts.
    if to_text(token) != core:
        raise invalid("text")
    return token
