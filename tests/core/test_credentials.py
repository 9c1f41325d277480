"""Users, passwords and nonces: all computed, none remembered."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from relay.core.credentials import Nonce, Nonces, TurnKeys, UserName, Via, mint, password_of
from relay.protocol import stun
from relay.protocol.address import Address

ANN = Via("udp", Address("7.7.7.7", 7000), 1)


def test_a_password_is_the_rest_forms() -> None:
    user, password = mint("ann", 1700000600, b"secret")
    assert user == "1700000600:ann"
    digest = hmac.new(b"secret", b"1700000600:ann", hashlib.sha1).digest()
    assert password == base64.b64encode(digest).decode()
    assert password_of(user.encode(), b"secret").decode() == password


def test_secrets_come_from_the_cluster_or_from_a_back_end_and_nonces_always_from_the_cluster() -> None:
    own, shared = TurnKeys.of([bytes(32), bytes([1] * 32)]), TurnKeys.of([bytes(32)], [b"new", b"old"])
    assert len(own.rest) == 2
    assert list(shared.rest) == [b"new", b"old"]
    assert own.nonce == shared.nonce
    assert own.nonce not in own.rest
    assert repr(own) == "TurnKeys()"


@pytest.mark.parametrize(
    "user",
    [b"", b"ann", b":ann", b"1700000000:", b"17x:ann", b"-1:ann", b"1234567890123:ann", "٣:ann".encode(),
     b"1700000000:" + bytes(500)],
)  # fmt: skip
def test_a_user_without_an_expiry_or_an_id_is_none(user: bytes) -> None:
    assert UserName.parse(user) is None


def test_a_user_is_an_expiry_and_an_id_that_may_hold_colons() -> None:
    assert UserName.parse(b"1700000600:ann:phone") == (1700000600, b"ann:phone")
    longest = b"1700000600:" + b"x" * 497
    assert UserName.parse(longest) == (1700000600, b"x" * 497)
    assert UserName.parse(longest + b"x") is None


def test_a_credential_that_ended_or_ends_too_far_ahead_is_not_live() -> None:
    name = UserName(1600, b"ann")
    assert [name.is_live(wall, 600) for wall in (999.9, 1000.0, 1599.9, 1600.0)] == [False, True, True, False]


# ---------------------------------------------------------------- nonces


def test_a_nonce_is_good_for_its_client_until_it_is_too_old() -> None:
    nonces = Nonces(bytes(32), 600)
    nonce = nonces.make(ANN, 1000.7)
    assert len(nonce) == 16
    assert nonces.judge(nonce, ANN, 1000.7) == (Nonce.GOOD, 0)
    assert nonces.judge(nonce, ANN, 1599.0) == (Nonce.GOOD, 0)
    assert nonces.judge(nonce, ANN, 1600.0) == (Nonce.STALE, 0)
    assert nonces.judge(nonce, ANN, 999.0) == (Nonce.STALE, 0)  # of a machine that started anew


@pytest.mark.parametrize(
    "other",
    [Via("udp", Address("7.7.7.7", 7001), 1), Via("udp", Address("7.7.7.8", 7000), 1),
     Via("tcp", Address("7.7.7.7", 7000), 1), Via("udp", Address("2600:7::7", 7000), 1)],
)  # fmt: skip
def test_a_nonce_is_nobody_elses(other: Via) -> None:
    nonces = Nonces(bytes(32), 600)
    assert nonces.judge(nonces.make(ANN, 0), other, 0)[0] is Nonce.FOREIGN
    assert Nonces(bytes([1] * 32), 600).judge(nonces.make(ANN, 0), ANN, 0)[0] is Nonce.FOREIGN


def test_a_nonce_holds_on_every_socket_of_the_node() -> None:
    nonces = Nonces(bytes(32), 600)
    assert nonces.judge(nonces.make(ANN, 0), ANN._replace(local=2), 0)[0] is Nonce.GOOD


def test_time_in_a_nonce_comes_round_without_an_error() -> None:
    nonces = Nonces(bytes(32), 600)
    nonce = nonces.make(ANN, 2**24 - 5)
    assert nonces.judge(nonce, ANN, 2**24 + 5) == (Nonce.GOOD, 0)
    assert nonces.judge(nonce, ANN, 2**24 + 600)[0] is Nonce.STALE


def test_features_are_part_of_a_nonce_and_nobody_can_take_them_out() -> None:
    nonces = Nonces(bytes(32), 600)
    rich = nonces.make(ANN, 0, stun.FEATURE_ALGORITHMS)
    assert rich.startswith(b"obMatJos2gAAA")
    assert len(rich) == 29
    assert nonces.judge(rich, ANN, 0) == (Nonce.GOOD, stun.FEATURE_ALGORITHMS)
    assert nonces.judge(rich[13:], ANN, 0) == (Nonce.FOREIGN, 0)
    assert nonces.judge(b"obMatJos2wAAA" + rich[13:], ANN, 0) == (Nonce.FOREIGN, 0)
    assert nonces.judge(b"obMatJos2gAAA" + nonces.make(ANN, 0), ANN, 0) == (Nonce.FOREIGN, 0)


@pytest.mark.parametrize(
    "nonce", [b"", b"short", b"!" * 16, b"A===" * 4, b"\xff" * 16, b"A" * 17, b"A" * 16, b"AAAAA" + b"!" * 11]
)
def test_noise_is_no_nonce(nonce: bytes) -> None:
    assert Nonces(bytes(32), 600).judge(nonce, ANN, 0) == (Nonce.FOREIGN, 0)


def test_a_stream_is_one_whose_address_is_proven() -> None:
    assert [ANN._replace(transport=each).is_stream for each in ("udp", "tcp", "tls")] == [False, True, True]
