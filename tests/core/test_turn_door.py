"""Who is let in, in the order of RFC 8489 section 9.2.4, and what he is told if not."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.company import OpenCompany
from relay.core.credentials import UserName, password_of
from relay.core.turn_door import OFFER, RICH_SIZE
from relay.protocol import stun, turn
from relay.protocol.stun import Attribute, Class
from relay.protocol.turn import Method
from turnrig import SECRET, Rig, TurnClient, TurnKeys, code_of, config

METHODS = [Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND]


def request(client: TurnClient, *attributes: Attribute, key: bytes | None = None, **options: Any) -> int:
    """The code that exactly these attributes get."""
    options.setdefault("sha256", False)
    data = stun.build(
        Method.ALLOCATE, Class.REQUEST, client.next_transaction(), attributes,
        key=client.key if key is None else key, **options,
    )  # fmt: skip
    return code_of(client.send(data))


def asked(rig: Rig, **fields: Any) -> tuple[TurnClient, dict[int, Attribute]]:
    """A client that knows a nonce, and the attributes of a right request."""
    client = rig.client(**fields).challenged()
    values = {
        turn.REQUESTED_TRANSPORT: turn.transport().value,
        stun.USERNAME: client.user.encode(),
        stun.REALM: client.realm,
        stun.NONCE: client.nonce,
    }
    return client, {type: Attribute(type, value) for type, value in values.items()}


def test_a_right_request_is_let_in() -> None:
    client, attributes = asked(Rig())
    assert request(client, *attributes.values()) == 0


@pytest.mark.parametrize("missing", [stun.USERNAME, stun.REALM, stun.NONCE])
def test_what_is_missing_is_400(missing: int) -> None:
    client, attributes = asked(Rig())
    del attributes[missing]
    assert request(client, *attributes.values()) == 400


@pytest.mark.parametrize(
    ("changes", "code"),
    [({stun.USERNAME: b"nobody"}, 401), ({stun.REALM: b"else"}, 401), ({stun.NONCE: b"A" * 16}, 438)],
)
def test_what_is_wrong_has_its_code_even_with_a_right_sum(changes: dict[int, bytes], code: int) -> None:
    rig = Rig()
    client, attributes = asked(rig)
    for type, value in changes.items():
        attributes[type] = Attribute(type, value)
    realm = attributes[stun.REALM].value
    password = stun.long_term_key(attributes[stun.USERNAME].value, realm, client.password.encode())
    assert request(client, *attributes.values(), key=password) == code
    assert len(rig.answers[client.via][-1]) == RICH_SIZE - 8  # these requests are long enough for the offer


def test_a_wrong_password_is_401() -> None:
    client, attributes = asked(Rig())
    assert request(client, *attributes.values(), key=b"wrong") == 401


def test_a_hashed_name_is_nobodys_since_none_was_asked_for() -> None:
    client, attributes = asked(Rig())
    del attributes[stun.USERNAME]
    hashed = Attribute(stun.USERHASH, stun.user_hash(client.user.encode(), client.realm))
    assert request(client, hashed, *attributes.values()) == 401


@pytest.mark.parametrize(("ttl", "code"), [(-1, 401), (0, 401), (1, 0), (600, 0), (601, 401), (10**6, 401)])
def test_a_credential_that_ended_or_ends_too_far_ahead_is_refused(ttl: int, code: int) -> None:
    assert code_of(Rig().client(ttl=ttl).allocate()) == code


@pytest.mark.parametrize("user", ["ann", "ann:1700000300", "1700000300:", ":ann"])
def test_a_name_that_is_no_expiry_and_id_is_refused(user: str) -> None:
    password = password_of(user.encode(), SECRET).decode()
    assert code_of(Rig().client(user=user, password=password).allocate()) == 401


class Nobody(OpenCompany):
    """A company that knows no one."""

    def owner_of(self, user: bytes, name: UserName) -> None:
        return None


def test_a_name_that_nobody_here_was_given_is_refused() -> None:
    assert code_of(Rig(company=Nobody(config().turn)).client().allocate()) == 401


def test_two_secrets_live() -> None:
    keys = TurnKeys.of([bytes(32)], [b"new", b"old"])
    for secret, code in ((b"new", 0), (b"old", 0), (b"older", 401)):
        rig = Rig(keys=keys)
        rig.keys = TurnKeys.of([bytes(32)], [secret])
        assert code_of(rig.client().allocate()) == code


def test_an_allocation_outlives_the_name_it_was_made_with() -> None:
    rig = Rig()
    ann = rig.client(ttl=60)
    ann.allocate()
    rig.run(120.0)
    assert code_of(ann.refresh(600)) == 0
    rig.run(590.0)
    assert code_of(ann.permit("8.8.8.8")) == 0  # with a fresh nonce and the old name
    assert code_of(ann.refresh(0)) == 0
    assert code_of(ann.allocate()) == 401


def test_a_stale_nonce_is_438_with_a_new_one_for_who_has_the_password() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    rig.run(590.0)
    ann.refresh(900)
    old = ann.nonce
    rig.run(10.0)
    answer = ann.send(ann.written(Method.REFRESH, [turn.lifetime(600)]))
    assert code_of(answer) == 438
    assert ann.learn(answer)
    assert ann.nonce != old
    assert code_of(ann.refresh(600)) == 0
    ann.nonce, ann.password = old, "wrong"
    assert code_of(ann.send(ann.written(Method.REFRESH, [turn.lifetime(600)]))) == 401


def test_a_nonce_of_somebody_else_is_438() -> None:
    rig = Rig()
    ann, bob = rig.client().challenged(), rig.client().challenged()
    bob.nonce = ann.nonce
    assert code_of(bob.send(bob.written(Method.ALLOCATE, [turn.transport()]))) == 438


# ---------------------------------------------------------------- SHA-256


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_on_a_stream_a_client_may_use_sha256_throughout(transport: str) -> None:
    rig = Rig()
    ann = rig.client(transport=transport)
    ann.wants_sha256 = ann.fingerprint = True
    assert code_of(ann.allocate()) == 0
    assert ann.algorithm == stun.SHA256
    assert code_of(ann.permit("8.8.8.8")) == 0
    assert code_of(ann.refresh(0)) == 0
    rig.check()


def test_the_offer_is_sha256_then_md5_behind_a_nonce_that_says_so() -> None:
    rig = Rig()
    ann = rig.client(transport="tcp").challenged()
    answer = stun.parse(rig.answers[ann.via][-1])
    assert answer.get(stun.PASSWORD_ALGORITHMS) == OFFER == bytes.fromhex("0002000000010000")
    assert ann.nonce.startswith(b"obMatJos2gAAA")
    assert len(answer.raw) == RICH_SIZE - 8


def test_md5_may_be_chosen_and_is_answered_with_the_stronger_sum() -> None:
    ann = Rig().client(transport="tcp").challenged()
    ann.algorithm = stun.MD5
    assert code_of(ann.allocate()) == 0


def test_a_client_that_knows_no_algorithms_is_served_as_ever() -> None:
    ann = Rig().client(transport="tcp")
    assert code_of(ann.allocate()) == 0
    assert ann.algorithm is None


@pytest.mark.parametrize(
    ("chosen", "offer"),
    [("00020000", None), (None, "0002000000010000"), ("00020000", "00020000"),
     ("00030000", "0002000000010000"),
     ("00010000", "0001000000020000"), ("0002000400000000", "0002000000010000"), ("", "0002000000010000")],
)  # fmt: skip
def test_algorithms_other_than_offered_are_400(chosen: str | None, offer: str | None) -> None:
    ann = Rig().client(transport="tcp").challenged()
    extra = [turn.transport()]
    if chosen is not None:
        extra.append(Attribute(stun.PASSWORD_ALGORITHM, bytes.fromhex(chosen)))
    if offer is not None:
        extra.append(Attribute(stun.PASSWORD_ALGORITHMS, bytes.fromhex(offer)))
    assert code_of(ann.send(ann.written(Method.ALLOCATE, extra))) == 400


def test_the_cookie_cut_from_a_nonce_makes_it_foreign() -> None:
    ann = Rig().client(transport="tcp").challenged()
    ann.nonce = ann.nonce[13:]
    assert code_of(ann.send(ann.written(Method.ALLOCATE, [turn.transport()]))) == 438


# ---------------------------------------------------------------- behind the door


@pytest.mark.parametrize("method", METHODS[1:])
def test_somebody_elses_allocation_is_441_whatever_is_asked(method: int) -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    ann.permit("8.8.8.8")
    before = dict(rig.permits)
    eve = rig.client(client=ann.via.client, id="eve")
    assert code_of(eve.request(method, turn.lifetime(0))) == 441
    assert rig.permits == before
    rig.check()


@pytest.mark.parametrize("method", METHODS)
def test_what_must_be_understood_and_is_not_is_420_with_a_list(method: int) -> None:
    ann = Rig().client()
    strange = [Attribute(type, b"") for type in (turn.DONT_FRAGMENT, 0x7777, 0xF777)]
    answer = ann.request(method, *strange)
    assert code_of(answer) == 420
    assert answer is not None
    assert answer.get(stun.UNKNOWN_ATTRIBUTES) == b"\0\x1a\x77\x77"


def test_an_allocate_where_somebody_else_holds_an_allocation_is_437() -> None:
    rig = Rig()
    ann = rig.client()
    ann.allocate()
    assert code_of(rig.client(client=ann.via.client, id="eve").allocate()) == 437
    rig.check()


def test_bytes_appended_behind_the_sum_change_nothing() -> None:
    rig = Rig(config())
    ann = rig.client().challenged()
    data = ann.written(Method.ALLOCATE, [turn.transport()])
    longer = data + bytes.fromhex("0019000406000000")
    answer = ann.send(longer[:2] + (len(longer) - 20).to_bytes(2, "big") + longer[4:])
    assert code_of(answer) == 0
