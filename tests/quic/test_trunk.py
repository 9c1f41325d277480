"""The certificate of a node's key, and how it is recognised."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from quicpair import certificate
from relay.protocol import signed, trunk_proof
from relay.protocol.trunk_control import ALPN
from relay.quic.trunk import certificate_of, dialing, key_of, pin_of, served

SEED = bytes(range(32))


def test_a_certificate_is_of_the_seed_signed_by_itself_and_always_the_same() -> None:
    made = certificate_of(SEED)
    assert made.public_bytes(Encoding.DER) == certificate_of(SEED).public_bytes(Encoding.DER)
    key = made.public_key()
    assert isinstance(key, Ed25519PublicKey)
    key.verify(made.signature, made.tbs_certificate_bytes)
    assert made.not_valid_before_utc < datetime.datetime.now(datetime.UTC) < made.not_valid_after_utc
    assert certificate_of(bytes(32)).public_bytes(Encoding.DER) != made.public_bytes(Encoding.DER)


def test_key_and_pin_of_a_certificate_are_those_of_the_proof() -> None:
    public = signed.public_of(SEED)
    assert key_of(certificate_of(SEED)) == public
    assert pin_of(certificate_of(SEED)) == trunk_proof.pin_of(public)
    # (docs/protocol.md section 14, "By example".)
    assert pin_of(certificate_of(SEED)).hex().startswith("a050837d85070582")


def test_a_certificate_of_another_kind_has_a_pin_and_no_key(tmp_path: Path) -> None:
    path, _ = certificate(tmp_path)
    other = x509.load_pem_x509_certificate(Path(path).read_bytes())
    assert key_of(other) is None
    assert len(pin_of(other)) == 32


def test_a_seed_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        certificate_of(bytes(31))


def test_trunks_have_a_protocol_of_their_own_and_one_version() -> None:
    assert list(served(SEED)) == [ALPN]
    assert dialing().alpn_protocols == [ALPN]
    assert dialing().supported_versions == [QuicProtocolVersion.VERSION_1]
