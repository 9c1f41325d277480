"""Signed commands of the product's back end or an operator: end, mute, remove, block, revoke.

    "VC1" || kid b8 || u16 length || msgpack map || Ed25519 signature b64                <= 1024 bytes

`id` makes each one single-use; iat and exp bound how long that must be remembered.
Must never live here: the clock, the memory of used ids, and the effect (core).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from relay.errors import LocalError, PeerError
from relay.protocol import signed, structure
from relay.protocol.ids import CallId, Jti, Kid, PersonId, Sub
from relay.protocol.signed import invalid

MAGIC: Final = b"VC1"
DOMAIN: Final = b"vrl-cmd-v1\0"

Op = Literal["end", "mute", "remove", "block", "revoke"]

# By operation: the fields it cannot do without. `revoke` wants at least one of its three instead.
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "end": ("cid",),
    "mute": ("cid", "sub"),
    "remove": ("cid", "sub"),
    "block": ("sub", "peer"),
    "revoke": (),
}
_REVOCABLE: Final = ("jti", "ru", "kid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One order. Which of the optional fields it needs depends on `op`:

    end (cid), mute and remove (cid, sub), block (sub, peer; in one call if cid is given),
    revoke (any of jti: a token, ru: a person, kid: an issuer key). `on` False undoes a mute or block.
    """

    op: Op
    cid: CallId | None = None
    sub: Sub | None = None
    peer: Sub | None = None
    ru: PersonId | None = field(default=None, repr=False)
    jti: Jti | None = None
    kid: Kid | None = None
    on: bool = True
    iat: int  # seconds since 1970, as exp
    exp: int
    id: Jti


_B8 = Annotated[bytes, Meta(min_length=8, max_length=8)]
_B16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Time = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class _Wire(msgspec.Struct, frozen=True, kw_only=True):
    op: Op
    cid: _B16 | None = None
    sub: _B16 | None = None
    peer: _B16 | None = None
    ru: _B16 | None = None
    jti: _B16 | None = None
    kid: _B8 | None = None
    on: bool = True
    iat: _Time
    exp: _Time
    id: _B16


_DECODER: Final = msgspec.msgpack.Decoder(_Wire)
_TYPES: Final = {"cid": CallId, "sub": Sub, "peer": Sub, "ru": PersonId, "jti": Jti, "kid": Kid, "id": Jti}


def decode_command(data: bytes) -> Command:
    """Decode a command map, verified or not; PeerError(TOKEN_INVALID) if strictness or `op` is violated."""
    try:
        structure.check(data)
        values = msgspec.structs.asdict(structure.decode(_DECODER, data))
    except PeerError as error:
        raise invalid(f"command, {error.message}") from error
    needs = _NEEDS[values["op"]]
    missing = any(values[name] is None for name in needs)
    if missing or (not needs and all(values[name] is None for name in _REVOCABLE)):
        raise invalid(f"{values['op']} lacks a field")
    for name, kind in _TYPES.items():
        if values[name] is not None:
            values[name] = kind(values[name])
    return Command(**values)


def encode_command(command: Command) -> bytes:
    """Return the msgpack map of `command`: keys in declared order, None left out."""
    named = ((each.name, getattr(command, each.name)) for each in fields(command))
    plain = ((name, bytes(value) if isinstance(value, bytes) else value) for name, value in named)
    return msgspec.msgpack.encode({name: value for name, value in plain if value is not None})


def mint(command: Command, seed: bytes) -> bytes:
    """Return `command` signed with an issuer's 32-byte seed; LocalError if no relay would take it."""
    body = encode_command(command)
    try:
        decode_command(body)
    except PeerError as error:
        raise LocalError("command out of range") from error
    return signed.seal(MAGIC, DOMAIN, body, seed)


def verify(raw: bytes, issuers: Mapping[Kid, bytes]) -> Command:
    """Return the command that one of `issuers` (key id to public key) signed; PeerError(TOKEN_INVALID)."""
    return decode_command(signed.check(DOMAIN, signed.split(MAGIC, raw), issuers))
