"""Pins and proofs of nodes."""

from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from golden import load
from relay.errors import LocalError
from relay.protocol import signed, trunk_proof

PROOF = load("trunk")["proof"]
SEED, KEY, PIN, N, POP = (
    bytes.fromhex(PROOF[key]) for key in ("dialer_seed", "dialer_key", "acceptor_pin", "n", "pop")
)
D, A = PROOF["dialer"], PROOF["acceptor"]


def test_the_golden_proof_is_made_and_holds():
    assert signed.public_of(SEED) == KEY
    assert trunk_proof.prove(SEED, N, PIN, D, A) == POP
    assert trunk_proof.holds(KEY, POP, N, PIN, D, A)


@pytest.mark.parametrize("side", ["dialer", "acceptor"])
def test_a_pin_is_the_sum_of_what_another_library_writes_as_the_key(side):
    seed = bytes.fromhex(PROOF[f"{side}_seed"])
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert trunk_proof.pin_of(signed.public_of(seed)) == sha256(info).digest()
    assert trunk_proof.pin_of(signed.public_of(seed)).hex() == PROOF[f"{side}_pin"]


@pytest.mark.parametrize(
    ("key", "pop", "n", "pin", "dialer", "acceptor"),
    [
        (signed.public_of(N), POP, N, PIN, D, A),
        (KEY, POP[:-1] + b"\0", N, PIN, D, A),
        (KEY, POP[:-1], N, PIN, D, A),
        (KEY, POP, bytes(32), PIN, D, A),
        (KEY, POP, N, bytes(32), D, A),
        (KEY, POP, N, PIN, "fra-2", A),
        (KEY, POP, N, PIN, D, "iad-2"),
        (KEY, POP, N, PIN, A, D),
    ],
)
def test_a_proof_holds_for_its_key_nonce_channel_and_nodes_alone(key, pop, n, pin, dialer, acceptor):
    assert not trunk_proof.holds(key, pop, n, pin, dialer, acceptor)


@pytest.mark.parametrize(("n", "pin", "node"), [(N[1:], PIN, D), (N, PIN + b"0", D), (N, PIN, "a\0b")])
def test_what_could_be_read_two_ways_is_never_signed(n, pin, node):
    with pytest.raises(LocalError):
        trunk_proof.prove(SEED, n, pin, node, A)


def test_a_key_has_32_bytes():
    with pytest.raises(LocalError):
        trunk_proof.pin_of(KEY[1:])
