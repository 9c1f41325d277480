"""SFrame against the RFC's own vectors, and the replay window at its edges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.client.e2ee import CTR_LIMIT, REPLAY_WINDOW, OpenKey, ReplayWindow, SealKey, Suite, derive, nonce
from relay.errors import LocalError, PeerError

VECTORS = Path(__file__).parent.parent / "vectors"
RFC = json.loads((VECTORS / "sframe-rfc9605.json").read_text())["vectors"]
BASE_KEY = bytes(range(64))
SUITE = Suite.AES_256_GCM_SHA512_128


@pytest.mark.parametrize("row", RFC, ids=lambda row: f"suite{row['suite']}")
def test_the_rfc_vectors_derive_and_seal_to_the_same_bytes(row: dict[str, Any]) -> None:
    secrets = derive(Suite(row["suite"]), bytes.fromhex(row["base_key"]), row["kid"])
    assert secrets.secret.hex() == row["secret"]
    assert secrets.key.hex() == row["key"]
    assert secrets.salt.hex() == row["salt"]
    assert nonce(secrets.salt, row["ctr"]).hex() == row["nonce"]
    aad = bytes.fromhex(row["aad"])
    header = aad.removesuffix(bytes.fromhex(row["metadata"]))
    body = AESGCM(secrets.key).encrypt(bytes.fromhex(row["nonce"]), bytes.fromhex(row["pt"]), aad)
    assert (header + body).hex() == row["ct"]
    opener = OpenKey(Suite(row["suite"]), bytes.fromhex(row["base_key"]), row["kid"])
    opened = opener.open(row["ctr"], aad, body)
    assert opened is not None
    assert opened.hex() == row["pt"]


def test_what_one_key_seals_the_other_opens_once() -> None:
    sealer, opener = SealKey(SUITE, BASE_KEY, 1), OpenKey(SUITE, BASE_KEY, 1)
    sealed = [sealer.seal(b"aad", bytes([n])) for n in range(3)]
    assert [opener.open(n, b"aad", sealed[n]) for n in (2, 0, 1)] == [b"\2", b"\0", b"\1"]
    assert opener.open(1, b"aad", sealed[1]) is None


def test_a_forgery_raises_and_does_not_block_the_genuine_packet() -> None:
    sealer, opener = SealKey(SUITE, BASE_KEY, 1), OpenKey(SUITE, BASE_KEY, 1)
    sealed = sealer.seal(b"aad", b"hello")
    for forged in (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", sealed[:15]):
        with pytest.raises(PeerError):
            opener.open(0, b"aad", forged)
    with pytest.raises(PeerError):
        opener.open(0, b"AAD", sealed)
    assert opener.open(0, b"aad", sealed) == b"hello"


def test_the_replay_window_reaches_exactly_its_size_back() -> None:
    window = ReplayWindow(128)
    window.mark(1000)
    assert window.is_fresh(1000 - 127)
    assert not window.is_fresh(1000 - 128)
    assert not window.is_fresh(1000)
    window.mark(1000 - 127)
    assert not window.is_fresh(1000 - 127)
    window.mark(1001)
    assert not window.is_fresh(1000)
    assert window.is_fresh(999)
    window.mark(5000)
    assert window.is_fresh(4999)
    assert window.newest == 5000
    assert REPLAY_WINDOW >= 128


def test_a_sealing_key_refuses_the_counter_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.client.e2ee.CTR_LIMIT", 2)
    sealer = SealKey(SUITE, BASE_KEY, 1)
    sealer.seal(b"", b"")
    sealer.seal(b"", b"")
    with pytest.raises(LocalError):
        sealer.seal(b"", b"")
    assert CTR_LIMIT == 1 << 32


def test_keys_do_not_print_themselves() -> None:
    text = repr(SealKey(SUITE, BASE_KEY, 1)) + repr(OpenKey(SUITE, BASE_KEY, 1))
    assert BASE_KEY.hex()[:16] not in text
