"""Capability tokens: the golden one, and each claim wrong once."""

import hashlib
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import signed, token
from relay.protocol.ids import CallId, Jti, PersonId, Sub
from relay.protocol.token import Claims

VECTORS = load("token")
GOLDEN = VECTORS["golden"]
SEED, CNF_SEED = bytes.fromhex(GOLDEN["issuer_seed"]), bytes.fromhex(GOLDEN["cnf_seed"])
PUBLIC = bytes.fromhex(GOLDEN["public"])
ISSUERS = {token.kid_of(PUBLIC): PUBLIC}
TOKEN = bytes.fromhex(GOLDEN["token"])
NONCE = bytes.fromhex(GOLDEN["pop_nonce"])
TYPES = {"sub": Sub, "cid": CallId, "jti": Jti, "ru": PersonId, "cnf": bytes}
MINT_TS = Path(__file__).parents[2] / "scripts" / "mint-token.ts"


def claims_of(row):
    """Claims from their JSON form."""
    values = dict(row)
    for name, kind in TYPES.items():
        if name in values:
            values[name] = kind(bytes.fromhex(values[name]["hex"]))
    if "peer" in values:
        values["peer"] = tuple(Sub(bytes.fromhex(each["hex"])) for each in values["peer"])
    for name in {"lim", "grp"} & values.keys():
        values[name] = tuple(values[name])
    return Claims(**values)


CLAIMS = claims_of(GOLDEN["claims"])
OTHERS = VECTORS["others"]


def test_the_golden_keys_have_their_ids():
    assert signed.public_of(SEED) == PUBLIC
    assert token.kid_of(PUBLIC).hex() == GOLDEN["kid"]


def test_the_golden_token_is_minted_byte_for_byte():
    assert len(token.encode_claims(CLAIMS)) == GOLDEN["claims_size"]
    minted = token.mint(CLAIMS, SEED)
    assert len(minted) == GOLDEN["token_size"]
    assert hashlib.sha256(minted).hexdigest() == GOLDEN["sha256"]
    assert minted == TOKEN


def test_the_golden_token_gives_its_claims_back():
    assert token.verify(TOKEN, ISSUERS) == CLAIMS
    unverified = token.parse(TOKEN)
    assert unverified.kid.hex() == GOLDEN["kid"]
    assert token.decode_claims(unverified.body) == CLAIMS


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row["name"])
def test_other_tokens_read_and_write_alike(row):
    assert token.verify(bytes.fromhex(row["token"]), ISSUERS) == claims_of(row["claims"])
    assert token.mint(claims_of(row["claims"]), SEED).hex() == row["token"]


def test_the_golden_proof_of_possession():
    proof = token.pop_sign(CNF_SEED, NONCE, CLAIMS.sub, CLAIMS.cid)
    assert proof.hex() == GOLDEN["pop"]
    assert proof.hex().startswith(GOLDEN["pop_begins"])
    assert token.pop_verify(CLAIMS.cnf, NONCE, CLAIMS.sub, CLAIMS.cid, proof)


def test_a_proof_holds_for_one_challenge_one_person_one_call_and_one_key():
    proof = bytes.fromhex(GOLDEN["pop"])
    assert not token.pop_verify(CLAIMS.cnf, bytes(32), CLAIMS.sub, CLAIMS.cid, proof)
    assert not token.pop_verify(CLAIMS.cnf, NONCE, Sub(bytes(16)), CLAIMS.cid, proof)
    assert not token.pop_verify(CLAIMS.cnf, NONCE, CLAIMS.sub, CallId(bytes(16)), proof)
    assert not token.pop_verify(PUBLIC, NONCE, CLAIMS.sub, CLAIMS.cid, proof)
    assert not token.pop_verify(CLAIMS.cnf, NONCE, CLAIMS.sub, CLAIMS.cid, proof[:-1])


def test_a_challenge_of_another_size_is_our_own_fault():
    with pytest.raises(LocalError):
        token.pop_sign(CNF_SEED, bytes(31), CLAIMS.sub, CLAIMS.cid)


def signed_map(**changes):
    """The golden claims with changes, None taking a claim out, signed as they are."""
    values = msgspec.msgpack.decode(token.encode_claims(CLAIMS)) | changes
    body = msgspec.msgpack.encode({name: value for name, value in values.items() if value is not None})
    return signed.seal(token.MAGIC, token.DOMAIN, body, SEED)


REQUIRED = (
    "v",
    "iss",
    "aud",
    "sub",
    "cid",
    "rol",
    "prm",
    "iat",
    "nbf",
    "exp",
    "jti",
    "lim",
    "gate",
    "net",
    "age",
)
WRONG = [
    *({name: None} for name in REQUIRED),
    *(
        {"v": 0},
        {"v": 2},
        {"v": "1"},
        {"iss": ""},
        {"iss": "x" * 65},
        {"iss": b"app"},
        {"aud": ""},
        {"aud": 1},
    ),
    *({name: bytes(size)} for name in ("sub", "cid", "jti", "ru") for size in (15, 17)),
    *({name: "0" * 16} for name in ("sub", "cid", "jti")),
    *({"rol": -1}, {"rol": 3}, {"prm": -1}, {"prm": 65536}, {"prm": True}),
    *({name: wrong} for name in ("iat", "nbf", "exp") for wrong in (-1, 2**53, 1.5, "0")),
    *({"lim": [1, 2, 3]}, {"lim": [1, 2, 3, 4, 5]}, {"lim": [1, 2, 3, -1]}, {"lim": {}}),
    *({"gate": 0}, {"gate": 3}, {"net": -1}, {"net": 256}, {"dur": -1}, {"rgn": ""}, {"rgn": "r" * 65}),
    *({"peer": [bytes(15)]}, {"peer": [bytes(16)] * 33}, {"peer": bytes(16)}),
    *({"grp": ["g"] * 9}, {"grp": ["g" * 17]}, {"grp": [""]}, {"grp": "beta"}),
    *({"age": -1}, {"age": 4}, {"ctc": -1}, {"ctc": 2}, {"ctc": True}),
    *({"cnf": bytes(31)}, {"cnf": bytes(33)}),
    *({"home": ""}, {"home": "a b"}, {"home": "n" * 65}, {"stb": ["a"] * 3}, {"stb": [""]}, {"stb": "a"}),
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_each_claim_wrong_once_is_token_invalid(change):
    with pytest.raises(PeerError) as caught:
        token.verify(signed_map(**change), ISSUERS)
    assert caught.value.code is ErrorCode.TOKEN_INVALID


def test_an_unknown_claim_is_ignored():
    assert token.verify(signed_map(later={"a": [1]}), ISSUERS) == CLAIMS


def test_an_absent_contact_claim_means_stranger():
    assert token.verify(signed_map(ctc=None), ISSUERS).ctc == 0


def test_a_claim_that_stands_twice_is_token_invalid():
    body = bytearray(token.encode_claims(CLAIMS))
    count = int.from_bytes(body[1:3], "big") if body[0] == 0xDE else body[0] & 0x0F
    twice = b"\xde" + (count + 1).to_bytes(2, "big") + body[3 if body[0] == 0xDE else 1 :] + b"\xa3age\x02"
    with pytest.raises(PeerError) as caught:
        token.verify(signed.seal(token.MAGIC, token.DOMAIN, bytes(twice), SEED), ISSUERS)
    assert caught.value.code is ErrorCode.TOKEN_INVALID


def test_a_command_is_no_token():
    body = token.encode_claims(CLAIMS)
    with pytest.raises(PeerError):
        token.verify(signed.seal(token.MAGIC, b"vrl-cmd-v1\0", body, SEED), ISSUERS)


def test_claims_no_relay_would_take_are_not_minted():
    with pytest.raises(LocalError):
        token.mint(replace(CLAIMS, age=4), SEED)
    with pytest.raises(LocalError):
        token.mint(replace(CLAIMS, peer=tuple(Sub(bytes(16)) for _ in range(33))), SEED)


def test_a_repr_of_claims_names_no_person_and_no_age():
    text = repr(replace(CLAIMS, ru=PersonId(bytes(16))))
    assert not any(f"{hidden}=" in text for hidden in ("ru", "age", "cnf"))
    assert CLAIMS.sub.hex() not in text


def test_the_text_form_reads_back_with_white_space_around():
    assert token.to_text(TOKEN) == GOLDEN["text"]
    assert token.from_text(f"\n  {GOLDEN['text']} \n") == TOKEN


@pytest.mark.parametrize(
    "text", ["a", "ab=", "ab==", "a b", "ab+/", "a\N{DEGREE SIGN}", "QQ=A", "QR", "A" * 5]
)
def test_another_spelling_of_the_text_is_token_invalid(text):
    with pytest.raises(PeerError) as caught:
        token.from_text(text)
    assert caught.value.code is ErrorCode.TOKEN_INVALID


@given(st.binary(max_size=200))
def test_any_bytes_survive_the_text_form(data):
    assert token.from_text(token.to_text(data)) == data


@given(st.text(max_size=80))
def test_any_text_is_bytes_or_a_peer_error(text):
    try:
        data = token.from_text(text)
    except PeerError:
        return
    assert token.to_text(data) == text.strip()


ids = {"sub": Sub, "cid": CallId, "jti": Jti}
claims = st.builds(
    Claims,
    iss=st.text(min_size=1, max_size=20),
    aud=st.text(min_size=1, max_size=20),
    **{name: st.binary(min_size=16, max_size=16).map(kind) for name, kind in ids.items()},
    **{name: st.integers(0, 2**53 - 1) for name in ("iat", "nbf", "exp")},
    rol=st.integers(0, 2),
    prm=st.integers(0, 127),
    lim=st.tuples(*[st.integers(0, 2**32 - 1)] * 4),
    gate=st.integers(1, 2),
    net=st.integers(0, 7),
    peer=st.none() | st.lists(st.binary(min_size=16, max_size=16).map(Sub), max_size=4).map(tuple),
    ru=st.none() | st.binary(min_size=16, max_size=16).map(PersonId),
    dur=st.none() | st.integers(0, 2**32 - 1),
    rgn=st.none() | st.text(min_size=1, max_size=10),
    grp=st.none() | st.lists(st.text(min_size=1, max_size=8), max_size=4).map(tuple),
    age=st.integers(0, 3),
    ctc=st.integers(0, 1),
    cnf=st.none() | st.binary(min_size=32, max_size=32),
    home=st.none() | st.from_regex(r"[0-9A-Za-z._-]{1,64}", fullmatch=True),
    stb=st.none() | st.lists(st.sampled_from(["fra-1", "iad-1"]), max_size=2).map(tuple),
)


@given(claims)
def test_what_was_minted_is_verified(value):
    assert token.verify(token.mint(value, SEED), ISSUERS) == value


GENUINE = [TOKEN, *(bytes.fromhex(row["token"]) for row in OTHERS)]


@given(anything(GENUINE))
def test_any_bytes_are_a_token_or_a_peer_error(data):
    try:
        token.verify(data, ISSUERS)
    except PeerError as error:
        code = error.code
    else:
        assert data in GENUINE
        return
    assert code is ErrorCode.TOKEN_INVALID


@given(anything([token.encode_claims(CLAIMS)]))
def test_any_signed_bytes_are_claims_or_a_peer_error(data):
    try:
        value = token.decode_claims(data)
    except PeerError:
        return
    assert token.decode_claims(token.encode_claims(value)) == value


@pytest.mark.skipif(shutil.which("node") is None, reason="the TypeScript example needs node")
def test_the_typescript_example_mints_the_golden_token():
    names = [each.name for each in fields(Claims) if each.name in GOLDEN["claims"]]
    ordered = {name: GOLDEN["claims"][name] for name in names}
    done = subprocess.run(
        ["node", "--input-type=module", "-", msgspec.json.encode(ordered).decode(), GOLDEN["issuer_seed"]],
        input=MINT_TS.read_text(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert token.from_text(done.stdout) == TOKEN
