"""The envelope of tokens and commands."""

import pytest
from hypothesis import given

from anybytes import anything
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import signed

SEED = bytes(range(32))
PUBLIC = signed.public_of(SEED)
KID = signed.kid_of(PUBLIC)
ISSUERS = {KID: PUBLIC}
ENVELOPE = signed.seal(b"V1", b"domain\0", b"body", SEED)


def test_what_was_sealed_is_checked_and_returned():
    assert signed.check(b"domain\0", signed.split(b"V1", ENVELOPE), ISSUERS) == b"body"


def test_an_envelope_is_taken_apart_without_trust():
    kid, body, signature = signed.split(b"V1", ENVELOPE)
    assert (kid, body, len(signature)) == (KID, b"body", 64)


@pytest.mark.parametrize(
    ("magic", "envelope", "why"),
    [
        (b"V1", b"", "size"),
        (b"V1", ENVELOPE[:75], "size"),
        (b"V1", ENVELOPE + bytes(1024), "size"),
        (b"VC1", ENVELOPE, "magic"),
        (b"V1", ENVELOPE + b"\0", "length"),
        (b"V1", ENVELOPE[:-1], "length"),
    ],
)
def test_size_magic_and_length_are_checked_in_this_order(magic, envelope, why):
    with pytest.raises(PeerError) as caught:
        signed.split(magic, envelope)
    assert (caught.value.code, caught.value.message) == (ErrorCode.TOKEN_INVALID, why)


def test_an_unknown_key_is_refused():
    with pytest.raises(PeerError, match="unknown key"):
        signed.check(b"domain\0", signed.split(b"V1", ENVELOPE), {})


def test_a_signature_holds_in_its_own_domain_only():
    with pytest.raises(PeerError, match="signature"):
        signed.check(b"other\0", signed.split(b"V1", ENVELOPE), ISSUERS)


@pytest.mark.parametrize("at", [2, 12, 16, len(ENVELOPE) - 1])
def test_no_bit_of_key_id_body_or_signature_can_be_changed(at):
    changed = bytearray(ENVELOPE)
    changed[at] ^= 1
    unverified = signed.split(b"V1", bytes(changed))
    with pytest.raises(PeerError):
        signed.check(b"domain\0", unverified, {KID: PUBLIC, unverified.kid: PUBLIC})


def test_an_envelope_above_its_limit_is_our_own_fault():
    fits = 1024 - len(ENVELOPE) + 4
    assert len(signed.seal(b"V1", b"d", bytes(fits), SEED)) == 1024
    with pytest.raises(LocalError):
        signed.seal(b"V1", b"d", bytes(fits + 1), SEED)


def test_a_signature_of_another_size_does_not_hold():
    assert not signed.holds(PUBLIC, b"m", signed.sign(SEED, b"m")[:-1])
    assert signed.holds(PUBLIC, b"m", signed.sign(SEED, b"m"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: signed.sign(bytes(31), b"m"),
        lambda: signed.public_of(bytes(33)),
        lambda: signed.kid_of(bytes(31)),
        lambda: signed.holds(bytes(31), b"m", bytes(64)),
    ],
)
def test_a_key_of_another_size_is_our_own_fault(call):
    with pytest.raises(LocalError):
        call()


@given(anything([ENVELOPE]))
def test_any_bytes_are_the_one_body_that_was_signed_or_a_peer_error(data):
    try:
        body = signed.check(b"domain\0", signed.split(b"V1", data), ISSUERS)
    except PeerError as error:
        code = error.code
    else:
        assert (data, body) == (ENVELOPE, b"body")
        return
    assert code is ErrorCode.TOKEN_INVALID
