"""Signed commands: each operation, and what each cannot do without."""

import pytest
from hypothesis import given

from anybytes import anything
from golden import load
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import command, signed
from relay.protocol.command import Command
from relay.protocol.ids import CallId, Jti, Kid, PersonId, Sub

VECTORS = load("command")
SEED = bytes.fromhex(VECTORS["issuer_seed"])
PUBLIC = signed.public_of(SEED)
ISSUERS = {signed.kid_of(PUBLIC): PUBLIC}
TYPES = {"cid": CallId, "sub": Sub, "peer": Sub, "ru": PersonId, "jti": Jti, "kid": Kid, "id": Jti}
GENUINE = [bytes.fromhex(row["command"]) for row in VECTORS["commands"]]


def command_of(fields):
    read = {name: TYPES[name](bytes.fromhex(v["hex"])) if name in TYPES else v for name, v in fields.items()}
    return Command(**read)


@pytest.mark.parametrize("row", VECTORS["commands"], ids=lambda row: row["name"])
def test_every_operation_reads_and_writes_alike(row):
    order = command_of(row["fields"])
    assert command.mint(order, SEED).hex() == row["command"]
    assert command.verify(bytes.fromhex(row["command"]), ISSUERS) == order


FULL = {
    "cid": CallId(bytes(16)),
    "sub": Sub(bytes(16)),
    "peer": Sub(bytes(16)),
    "jti": Jti(bytes(16)),
}
ENDS = {"iat": 0, "exp": 60, "id": Jti(bytes(16))}
LACKING = [("end", "cid"), ("mute", "cid"), ("mute", "sub"), ("remove", "cid"), ("remove", "sub")]
LACKING += [("block", "sub"), ("block", "peer"), ("revoke", "jti")]


@pytest.mark.parametrize(("op", "lacking"), LACKING)
def test_an_operation_without_what_it_needs_is_refused_on_both_sides(op, lacking):
    command.mint(Command(op=op, **FULL, **ENDS), SEED)
    order = Command(op=op, **(FULL | {lacking: None}), **ENDS)
    with pytest.raises(LocalError):
        command.mint(order, SEED)
    forged = signed.seal(command.MAGIC, command.DOMAIN, command.encode_command(order), SEED)
    with pytest.raises(PeerError) as caught:
        command.verify(forged, ISSUERS)
    assert caught.value.code is ErrorCode.TOKEN_INVALID


def test_a_person_or_a_key_can_be_revoked_as_well_as_a_token():
    for what in ({"ru": PersonId(bytes(16))}, {"kid": Kid(bytes(8))}):
        order = Command(op="revoke", **what, **ENDS)
        assert command.verify(command.mint(order, SEED), ISSUERS) == order


@pytest.mark.parametrize(
    "body",
    ["80", "81a26f70a3656e64", "81a26f70a46f70656e", "82a26f70a3656e64a26f70a3656e64", "c0", ""],
)
def test_what_is_no_command_is_token_invalid(body):
    with pytest.raises(PeerError) as caught:
        command.verify(signed.seal(command.MAGIC, command.DOMAIN, bytes.fromhex(body), SEED), ISSUERS)
    assert caught.value.code is ErrorCode.TOKEN_INVALID


def test_a_token_signature_is_no_command_signature():
    body = signed.split(command.MAGIC, GENUINE[0]).body
    with pytest.raises(PeerError):
        command.verify(signed.seal(command.MAGIC, b"vrl-cap-v1\0", body, SEED), ISSUERS)


def test_a_repr_of_a_command_names_no_person():
    assert "ru=" not in repr(Command(op="revoke", ru=PersonId(bytes(16)), **ENDS))


@given(anything(GENUINE))
def test_any_bytes_are_a_command_or_a_peer_error(data):
    try:
        command.verify(data, ISSUERS)
    except PeerError:
        return
    assert data in GENUINE


@given(anything([signed.split(command.MAGIC, each).body for each in GENUINE]))
def test_any_signed_bytes_are_a_command_or_a_peer_error(data):
    try:
        order = command.decode_command(data)
    except PeerError:
        return
    assert command.decode_command(command.encode_command(order)) == order
