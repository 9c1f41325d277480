"""Hand-over tickets: a whole call in a bounded size, and nothing else passes for one."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from anybytes import anything
from golden import load
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import handover, ticket
from relay.protocol.handover import HandedCall, HandedSeat
from relay.protocol.ids import CallId, Jti, Kid, Sub
from relay.protocol.messages import MAX_HANDOVER
from relay.protocol.token import Claims

VECTORS = load("handover")
KEY, NONCE = bytes.fromhex(VECTORS["key"]), bytes.fromhex(VECTORS["nonce"])
SEALED = bytes.fromhex(VECTORS["ticket"])
CALL = CallId(bytes(range(16, 32)))


def seat(index: int, **changes: object) -> HandedSeat:
    claims = Claims(
        iss="app",
        aud="relay-eu",
        sub=Sub(bytes([index]) * 16),
        cid=CALL,
        iat=1_700_000_000,
        nbf=1_700_000_000,
        exp=1_700_000_120,
        jti=Jti(bytes([64 + index]) * 16),
        cnf=bytes([128 + index]) * 32,
    )
    fields = {"claims": claims, "state": handover.ACCEPTED, "suites": (5, 4)} | changes
    return HandedSeat(
        index=index,
        kid=Kid(bytes(range(8))),
        since=0,
        joined=1_700_000_001_000,
        facts=4,
        shuts=0,
        accepted_once=True,
        **fields,
    )


BODY = HandedCall(
    aud="relay-eu",
    c=CALL,
    p=1,
    made=1_700_000_060_000,
    exp=1_700_000_180,
    started=1_700_000_001_000,
    answered=1_700_000_004_000,
    terms=(True, 720, False, True),
    size=2,
    flags=handover.IS_PAIR,
    epoch=2,
    seats=(seat(0), seat(1, state=handover.AWAY)),
    out=(Sub(bytes(16)),),
)


def sealed(plain: bytes) -> bytes:
    return NONCE + crypto_aead_xchacha20poly1305_ietf_encrypt(plain, b"vrl-handover-v1\0", NONCE, KEY)


def refused(blob: bytes, keys: list[bytes] | None = None) -> None:
    with pytest.raises(PeerError) as caught:
        handover.open(blob, [KEY] if keys is None else keys)
    assert caught.value.code is ErrorCode.RESUME_UNKNOWN


def test_the_golden_ticket_seals_and_opens_alike():
    assert handover.seal(BODY, KEY, NONCE) == SEALED
    assert handover.open(SEALED, [bytes(32), KEY]) == BODY
    assert BODY.bearer == BODY.seats[1]


def test_a_call_of_two_fits_a_packet():
    assert len(SEALED) < 1000


def test_a_full_group_fits_and_what_does_not_fit_is_refused_here():
    group = replace(BODY, seats=tuple(seat(index) for index in range(32)), size=32)
    assert len(handover.seal(group, KEY, NONCE)) <= MAX_HANDOVER
    peers = tuple(Sub(bytes([index]) * 16) for index in range(32))
    heavy = tuple(replace(one, claims=replace(one.claims, peer=peers)) for one in group.seats)
    with pytest.raises(LocalError):
        handover.seal(replace(group, seats=heavy), KEY, NONCE)


@pytest.mark.parametrize(
    "blob",
    [b"", SEALED[:-1], SEALED[:40], SEALED + bytes(MAX_HANDOVER), bytes((SEALED[0] ^ 1,)) + SEALED[1:]],
)
def test_anything_else_is_an_unknown_ticket(blob):
    refused(blob)


def test_neither_kind_of_ticket_passes_for_the_other():
    refused(ticket.seal(ticket.TicketBody(CALL, Sub(bytes(16)), 0, True, 1), KEY, NONCE))
    with pytest.raises(PeerError):
        ticket.open(SEALED, [KEY])


def test_other_keys_open_nothing():
    refused(SEALED, [])
    refused(SEALED, [bytes(32)])


@pytest.mark.parametrize(
    "body",
    [
        replace(BODY, seats=(seat(1), seat(0))),
        replace(BODY, seats=(seat(0), seat(2))),
        replace(BODY, seats=(seat(0), seat(1, claims=seat(0).claims))),
        replace(BODY, aud="relay-us"),
        replace(BODY, c=CallId(bytes(16))),
        replace(BODY, p=2),
        replace(BODY, size=1),
        replace(BODY, seats=()),
        replace(BODY, seats=(seat(0, state=5),), p=0),
    ],
)
def test_a_call_that_contradicts_itself_is_neither_sealed_nor_read(body):
    with pytest.raises(LocalError):
        handover.seal(body, KEY, NONCE)
    refused(sealed(handover.encode_body(body)))


def test_a_later_format_is_unknown():
    refused(sealed(b"\x90"))


@given(anything([handover.encode_body(BODY)]))
def test_any_inside_is_a_call_or_unknown(plain):
    with contextlib.suppress(PeerError):
        assert isinstance(handover.decode_body(plain), HandedCall)


def test_it_takes_a_key_and_a_nonce_of_their_sizes():
    for key, nonce in ((bytes(31), NONCE), (KEY, bytes(23))):
        with pytest.raises(LocalError):
            handover.seal(BODY, key, nonce)


def test_who_is_in_it_is_not_printed():
    assert "sub" not in repr(BODY)


def test_where_a_call_stays_its_ticket_names_the_home():
    elsewhere = seat(1, claims=replace(seat(1).claims, home="fra-1"))
    call = replace(BODY, seats=(seat(0), elsewhere))
    assert call.home is None
    for flag in (handover.STAYS, handover.OF_GUEST):
        assert replace(call, flags=call.flags | flag).home == "fra-1"
        assert replace(call, flags=call.flags | flag, p=7).home is None  # nobody's
