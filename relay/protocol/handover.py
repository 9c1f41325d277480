"""Hand-over tickets: a whole call as one node knew it, sealed so that another node takes it up.

    nonce b24 || XChaCha20-Poly1305(msgpack [aud, c, p, made, exp, started, answered, terms, size, flags,
                                             epoch, seats, out])

`p` is the index of the one person who may show it; a ticket without it speaks for nobody, and passes between
nodes only. It is no credential: who shows it also proves the key in that person's claims, or brings a fresh
token. Must never live here: the clock, the nonce's source, what a node does with a call (core/handover.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import structure, token
from relay.protocol.ids import CallId, Kid, Sub
from relay.protocol.messages import MAX_HANDOVER
from relay.protocol.signed import MAX_SIZE
from relay.protocol.ticket import KEY_SIZE, NONCE_SIZE, TAG_SIZE
from relay.protocol.token import Claims

TTL_S: Final = 120  # seconds: a hand-over takes some ten
MAX_PEOPLE: Final = 32
_AAD: Final = b"vrl-handover-v1\0"

IS_PAIR: Final = 1
HOST_ADMITS: Final = 2
IN_ROLLOUT: Final = 4  # bits that an older node passes over: it knows the call all the same, without these
IS_CANDIDATE: Final = 8
IS_SAMPLED: Final = 16
STAYS: Final = (
    32  # the call stays with its home's next process: who shows it at another node is a guest there
)
OF_GUEST: Final = 64  # of a guest, for one person: it says where the home is, and nothing of the call

JOINED: Final = 0
ACCEPTED: Final = 1
AWAY: Final = 2
ABSENT: Final = 3
LEFT: Final = 4


@dataclass(frozen=True, slots=True)
class HandedSeat:
    """One person, as the node knew them that sealed the ticket."""

    index: int
    kid: Kid | None
    claims: Claims
    state: int  # JOINED to LEFT
    since: int  # ms for which nothing was heard, when it was sealed
    joined: int  # wall clock, ms
    facts: int  # bit per core.consent.Fact
    shuts: int  # mask of those this person blocked
    accepted_once: bool
    suites: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HandedCall:
    """What a ticket says. Times are wall-clock milliseconds but for `exp`, which is seconds."""

    aud: str  # the cluster
    c: CallId
    p: int | None  # whose ticket it is
    made: int
    exp: int
    started: int
    answered: int | None
    terms: tuple[bool, int | None, bool, bool]  # allowed, longest minutes, relay only, attachments
    size: int
    flags: int
    epoch: int
    seats: tuple[HandedSeat, ...] = field(repr=False)
    out: tuple[Sub, ...] = ()
    """Who was thrown out."""

    @property
    def home(self) -> str | None:
        """The node that decides about this call, wherever the ticket is shown; None: who is shown it."""
        bearer = self.bearer
        is_elsewhere = self.flags & (STAYS | OF_GUEST) and bearer is not None
        return bearer.claims.home if is_elsewhere and bearer is not None else None

    @property
    def bearer(self) -> HandedSeat | None:
        """Whose ticket it is; None if nobody's."""
        return next((seat for seat in self.seats if seat.index == self.p), None)


_B8 = Annotated[bytes, Meta(min_length=8, max_length=8)]
_B16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Index = Annotated[int, Meta(ge=0, le=MAX_PEOPLE - 1)]
_Time = Annotated[int, Meta(ge=0, le=2**53 - 1)]
_U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
_U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
_Seat = tuple[
    _Index,
    _B8 | None,
    Annotated[bytes, Meta(max_length=MAX_SIZE)],
    Annotated[int, Meta(ge=JOINED, le=LEFT)],
    _Time,
    _Time,
    _U16,
    _U32,
    bool,
    Annotated[tuple[_U16, ...], Meta(max_length=16)],
]
_Wire = tuple[
    Annotated[str, Meta(min_length=1, max_length=64)],
    _B16,
    _Index | None,
    _Time,
    _Time,
    _Time,
    _Time | None,
    tuple[bool, Annotated[int, Meta(ge=0, le=1_440)] | None, bool, bool],
    Annotated[int, Meta(ge=2, le=MAX_PEOPLE)],
    Annotated[int, Meta(ge=0, le=0xFF)],
    _U32,
    Annotated[tuple[_Seat, ...], Meta(min_length=1, max_length=MAX_PEOPLE)],
    Annotated[tuple[_B16, ...], Meta(max_length=MAX_PEOPLE)],
]
_DECODER: Final = msgspec.msgpack.Decoder(_Wire)


def seal(body: HandedCall, key: bytes, nonce: bytes) -> bytes:
    """Return the ticket. `key` has 32 bytes; `nonce` 24 random ones, never used twice under one key.

    LocalError for a call that does not fit MAX_HANDOVER bytes: a large one whose tokens list many peers.
    """
    if len(key) != KEY_SIZE or len(nonce) != NONCE_SIZE:
        raise LocalError("a ticket takes a key of 32 and a nonce of 24 bytes")
    if not _is_whole(body):
        raise LocalError("a ticket's call contradicts itself")
    plain = encode_body(body)
    if len(plain) > MAX_HANDOVER - NONCE_SIZE - TAG_SIZE:
        raise LocalError("the call is too large for a ticket")
    try:
        structure.decode(_DECODER, plain)  # all but the claims: they were decoded when they came
    except PeerError as error:
        raise LocalError("ticket field out of range") from error
    return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(plain, _AAD, nonce, key)


def open(blob: bytes, keys: Sequence[bytes]) -> HandedCall:
    """Return the body of a ticket sealed under one of `keys`; PeerError(RESUME_UNKNOWN) for all others."""
    if not NONCE_SIZE + TAG_SIZE < len(blob) <= MAX_HANDOVER:
        raise _unknown()
    nonce, sealed = blob[:NONCE_SIZE], blob[NONCE_SIZE:]
    for key in keys:
        try:
            plain = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, _AAD, nonce, key)
        except CryptoError:
            continue
        return decode_body(plain)
    raise _unknown()


def encode_body(body: HandedCall) -> bytes:
    """The inside of a ticket."""
    seats = [
        (
            seat.index,
            None if seat.kid is None else bytes(seat.kid),
            token.encode_claims(seat.claims),
            seat.state,
            seat.since,
            seat.joined,
            seat.facts,
            seat.shuts,
            seat.accepted_once,
            seat.suites,
        )
        for seat in body.seats
    ]
    return msgspec.msgpack.encode(
        (
            body.aud,
            bytes(body.c),
            body.p,
            body.made,
            body.exp,
            body.started,
            body.answered,
            body.terms,
            body.size,
            body.flags,
            body.epoch,
            seats,
            [bytes(sub) for sub in body.out],
        )
    )


def decode_body(plain: bytes) -> HandedCall:
    """Decode the opened inside of a ticket; PeerError(RESUME_UNKNOWN).

    Also for seats that are not numbered 0, 1, 2 ..., two for one person, or of another call.
    """
    try:
        structure.check(plain)
        wire = structure.decode(_DECODER, plain)
        seats = tuple(_seat(one) for one in wire[11])
    except PeerError as error:
        raise _unknown() from error
    body = HandedCall(
        aud=wire[0],
        c=CallId(wire[1]),
        p=wire[2],
        made=wire[3],
        exp=wire[4],
        started=wire[5],
        answered=wire[6],
        terms=wire[7],
        size=wire[8],
        flags=wire[9],
        epoch=wire[10],
        seats=seats,
        out=tuple(Sub(sub) for sub in wire[12]),
    )
    if not _is_whole(body):
        raise _unknown()
    return body


def _is_whole(body: HandedCall) -> bool:
    """Whether its parts fit each other."""
    seats = body.seats
    people = {seat.claims.sub for seat in seats}
    of_guest = body.flags & OF_GUEST and len(seats) == 1 and body.p == seats[0].index
    return (
        bool(of_guest or [seat.index for seat in seats] == list(range(len(seats))))
        and len(people) == len(seats)
        and all((seat.claims.cid, seat.claims.aud) == (body.c, body.aud) for seat in seats)
        and bool(of_guest or body.p is None or body.p < len(seats))
    )


def _seat(wire: _Seat) -> HandedSeat:
    return HandedSeat(
        index=wire[0],
        kid=None if wire[1] is None else Kid(wire[1]),
        claims=token.decode_claims(wire[2]),
        state=wire[3],
        since=wire[4],
        joined=wire[5],
        facts=wire[6],
        shuts=wire[7],
        accepted_once=wire[8],
        suites=wire[9],
    )


def _unknown() -> PeerError:
    return PeerError(ErrorCode.RESUME_UNKNOWN, "no ticket of ours")
