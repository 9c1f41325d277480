"""Resume tickets: only the cluster reads them, and nothing else passes for one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from anybytes import anything
from golden import load
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import ticket
from relay.protocol.ids import CallId, Sub
from relay.protocol.ticket import TicketBody

VECTORS = load("ticket")
KEY, NONCE = bytes.fromhex(VECTORS["key"]), bytes.fromhex(VECTORS["nonce"])
SEALED = bytes.fromhex(VECTORS["ticket"])
FIELDS = {
    name: bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
    for name, value in VECTORS["fields"].items()
}
BODY = TicketBody(**(FIELDS | {"c": CallId(FIELDS["c"]), "sub": Sub(FIELDS["sub"])}))


def test_the_golden_ticket_seals_and_opens_alike():
    assert ticket.seal(BODY, KEY, NONCE) == SEALED
    assert ticket.open(SEALED, [KEY]) == BODY


def test_a_ticket_opens_under_the_previous_key_too():
    assert ticket.open(SEALED, [bytes(32), KEY]) == BODY


@pytest.mark.parametrize(
    ("blob", "keys"),
    [
        (SEALED, []),
        (SEALED, [bytes(32)]),
        (SEALED[:-1], [KEY]),
        (SEALED[:40], [KEY]),
        (b"", [KEY]),
        (SEALED + bytes(512), [KEY]),
        (bytes((SEALED[0] ^ 1,)) + SEALED[1:], [KEY]),
    ],
)
def test_anything_else_is_an_unknown_ticket(blob, keys):
    with pytest.raises(PeerError) as caught:
        ticket.open(blob, keys)
    assert caught.value.code is ErrorCode.RESUME_UNKNOWN


def test_a_ticket_of_a_later_format_is_unknown():
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(b"\x90", b"vrl-ticket-v1\0", NONCE, KEY)
    with pytest.raises(PeerError) as caught:
        ticket.open(NONCE + sealed, [KEY])
    assert caught.value.code is ErrorCode.RESUME_UNKNOWN


def test_key_and_nonce_of_another_size_are_our_own_fault():
    for key, nonce in ((KEY[1:], NONCE), (KEY, NONCE[1:])):
        with pytest.raises(LocalError):
            ticket.seal(BODY, key, nonce)
    with pytest.raises(LocalError):
        ticket.open(SEALED, [KEY[1:]])


@pytest.mark.parametrize(
    "change", [{"p": 32}, {"exp": -1}, {"cnf": bytes(31)}, {"kind": "x"}, {"variant": "v" * 33}]
)
def test_a_field_that_does_not_fit_is_our_own_fault(change):
    with pytest.raises(LocalError):
        ticket.seal(replace(BODY, **change), KEY, NONCE)


def test_a_repr_of_a_ticket_hides_the_key_it_names():
    assert "cnf" not in repr(BODY)


sixteen = st.binary(min_size=16, max_size=16)
bodies = st.builds(
    TicketBody,
    sixteen.map(CallId),
    sixteen.map(Sub),
    st.integers(0, 31),
    st.booleans(),
    st.integers(0, 2**53 - 1),
    st.none() | st.binary(min_size=32, max_size=32),
    st.sampled_from(["rt", "ht"]),
    st.text(max_size=32),
)


@given(bodies, st.binary(min_size=24, max_size=24))
def test_what_was_sealed_opens(body, nonce):
    blob = ticket.seal(body, KEY, nonce)
    assert len(blob) <= ticket.MAX_SIZE
    assert ticket.open(blob, [KEY]) == body


@given(anything([SEALED]))
def test_any_bytes_are_the_ticket_that_was_sealed_or_a_peer_error(data):
    try:
        ticket.open(data, [KEY])
    except PeerError as error:
        code = error.code
    else:
        assert data == SEALED
        return
    assert code is ErrorCode.RESUME_UNKNOWN


@given(st.binary(max_size=200))
def test_any_opened_bytes_are_a_body_or_a_peer_error(data):
    with pytest.raises(PeerError):
        ticket.decode_body(data)
