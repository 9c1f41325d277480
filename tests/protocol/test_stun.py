"""STUN: the RFCs' own bytes, what counts behind which guard, and nothing read past the end."""

from __future__ import annotations

import hmac
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from relay.errors import LocalError, PeerError
from relay.protocol import stun
from relay.protocol.address import Address
from relay.protocol.stun import Attribute, Class

VECTORS = load("stun")
MESSAGES = [bytes.fromhex(row["message"]) for row in VECTORS["messages"]]
TID = bytes(range(12))
KEY = b"key"


def written(*attributes: Attribute, **options: object) -> bytes:
    return stun.build(1, Class.REQUEST, TID, attributes, **options)  # type: ignore[arg-type]  # as build's


def relength(data: bytes) -> bytes:
    """The same with the length its bytes have."""
    return data[:2] + (len(data) - 20).to_bytes(2, "big") + data[4:]


def raw(type: int, value: bytes) -> bytes:
    return type.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) & 3)


@pytest.mark.parametrize("row", VECTORS["messages"], ids=lambda row: row["name"])
def test_the_vectors_of_the_rfcs_are_read_and_their_sums_hold(row: dict) -> None:
    message = stun.parse(bytes.fromhex(row["message"]))
    assert (message.method, message.cls) == (row["method"], row["class"])
    assert stun.integrity_holds(message, bytes.fromhex(row["key"]))
    assert not stun.integrity_holds(message, b"another")
    assert message.has_integrity
    if "mapped" in row:
        mapped = message.get(stun.XOR_MAPPED_ADDRESS)
        assert mapped is not None
        assert stun.decode_xor_address(mapped, message.transaction) == Address(*row["mapped"])
    if "username" in row:
        assert message.get(stun.USERNAME) == bytes.fromhex(row["username"])


@pytest.mark.parametrize("row", VECTORS["messages"][1:], ids=lambda row: row["name"])
def test_the_vectors_of_the_rfcs_are_written_byte_for_byte_but_for_padding(row: dict) -> None:
    message = stun.parse(bytes.fromhex(row["message"]))
    again = stun.build(
        message.method, message.cls, message.transaction, message.attributes,
        key=bytes.fromhex(row["key"]),
        sha256=stun.MESSAGE_INTEGRITY_SHA256 in message.guards,
        fingerprint=message.has_fingerprint,
    )  # fmt: skip
    if b"vector" in again:  # padded with spaces in RFC 5769, with zeros by us: other sums, the same values
        assert [*stun.parse(again).attributes] == [*message.attributes]
    else:
        assert again == message.raw


@pytest.mark.parametrize("row", VECTORS["keys"], ids=lambda row: row["algorithm"])
def test_keys_of_long_term_credentials_are_the_rfcs(row: dict) -> None:
    words = (row[name].encode() for name in ("user", "realm", "password"))
    assert stun.long_term_key(*words, row["algorithm"]).hex() == row["key"]


def test_a_key_of_an_unknown_algorithm_is_our_own_fault() -> None:
    with pytest.raises(LocalError):
        stun.long_term_key(b"u", b"r", b"p", 3)


def test_the_hash_of_a_user_is_the_rfcs() -> None:
    row = VECTORS["user_hash"]
    assert stun.user_hash(row["user"].encode(), row["realm"].encode()).hex() == row["hash"]


def test_the_vector_with_the_wrong_length_is_refused_as_a_message_and_right_as_a_sum() -> None:
    row = VECTORS["mac_only"]
    covered = bytes.fromhex(row["covered"])
    with pytest.raises(PeerError):
        stun.parse(covered + raw(stun.MESSAGE_INTEGRITY_SHA256, bytes.fromhex(row["mac"])))
    # Its sum is ours over the header as it stands there.
    assert hmac.digest(bytes.fromhex(row["key"]), covered, "sha256").hex() == row["mac"]


# ---------------------------------------------------------------- what is refused

WHOLE = written(Attribute(stun.USERNAME, b"ann"))
REFUSED = {
    "nothing": b"",
    "a header cut short": WHOLE[:19],
    "another cookie": WHOLE[:4] + bytes(4) + WHOLE[8:],
    "the first two bits": b"\x40" + WHOLE[1:],
    "a length too small": WHOLE[:2] + b"\0\4" + WHOLE[4:],
    "a length too large": WHOLE[:2] + b"\0\x0c" + WHOLE[4:],
    "a length that is no multiple of 4": relength(WHOLE + b"\0"),
    "an attribute that passes the end": relength(WHOLE[:20] + b"\0\6\0\5" + bytes(4)),
    "an attribute of 65535": relength(WHOLE[:20] + b"\0\6\xff\xff"),
    "a short integrity": relength(WHOLE + raw(stun.MESSAGE_INTEGRITY, bytes(16))),
    "a long integrity": relength(WHOLE + raw(stun.MESSAGE_INTEGRITY, bytes(24))),
    "a SHA-256 of 12": relength(WHOLE + raw(stun.MESSAGE_INTEGRITY_SHA256, bytes(12))),
    "a SHA-256 of 18": relength(WHOLE + raw(stun.MESSAGE_INTEGRITY_SHA256, bytes(18))),
    "a SHA-256 of 36": relength(WHOLE + raw(stun.MESSAGE_INTEGRITY_SHA256, bytes(36))),
    "a fingerprint of 8": relength(WHOLE + raw(stun.FINGERPRINT, bytes(8))),
    "a wrong fingerprint": written(fingerprint=True)[:-1] + b"\0",
    "something behind the fingerprint": relength(written(fingerprint=True) + raw(stun.SOFTWARE, b"")),
    "two fingerprints": relength(written(fingerprint=True) + written(fingerprint=True)[20:]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_refused(name: str) -> None:
    with pytest.raises(PeerError):
        stun.parse(REFUSED[name])


@given(anything([*MESSAGES, WHOLE]))
def test_any_bytes_are_a_message_or_the_peers_fault(data: bytes) -> None:
    with suppress(PeerError):
        message = stun.parse(data)
        again = stun.build(message.method, message.cls, message.transaction, message.attributes)
        assert stun.parse(again).attributes == message.attributes
        stun.integrity_holds(message, KEY)


@given(st.integers(0, 0xFFF), st.sampled_from(Class), st.binary(min_size=12, max_size=12))
def test_method_and_class_are_woven_together_and_apart(method: int, cls: Class, transaction: bytes) -> None:
    data = stun.build(method, cls, transaction)
    message = stun.parse(data)
    assert (message.method, message.cls, message.transaction) == (method, cls, transaction)
    assert not message.has_integrity
    assert not message.has_fingerprint
    assert not stun.integrity_holds(message, KEY)


def test_the_classes_of_binding_have_their_rfc_numbers() -> None:
    assert [stun.build(1, cls, TID)[:2].hex() for cls in Class] == ["0001", "0011", "0101", "0111"]


# ---------------------------------------------------------------- what counts


def test_of_two_of_a_type_the_first_counts() -> None:
    message = stun.parse(written(Attribute(stun.USERNAME, b"ann"), Attribute(stun.USERNAME, b"eve")))
    assert message.get(stun.USERNAME) == b"ann"
    assert message.all(stun.USERNAME) == [b"ann", b"eve"]
    assert message.get(stun.REALM) is None


@pytest.mark.parametrize("sha256", [False, True])
def test_bytes_behind_an_integrity_change_nothing(sha256: bool) -> None:
    guarded = written(Attribute(stun.USERNAME, b"ann"), key=KEY, sha256=sha256)
    longer = relength(
        guarded + raw(stun.REALM, b"evil") + raw(0x7777, b"") + raw(stun.MESSAGE_INTEGRITY, b"x")
    )
    message = stun.parse(longer)
    assert message.attributes == stun.parse(guarded).attributes
    assert message.unknown(()) == [stun.USERNAME]
    assert stun.integrity_holds(message, KEY)


def test_behind_an_integrity_its_stronger_twin_and_a_fingerprint_count() -> None:
    guarded = written(Attribute(stun.USERNAME, b"ann"), key=KEY)
    at = len(guarded)
    front = guarded[:2] + (at + 36 - 20).to_bytes(2, "big") + guarded[4:]
    both = front + raw(stun.MESSAGE_INTEGRITY_SHA256, hmac.digest(b"stronger", front, "sha256"))
    message = stun.parse(both)
    assert stun.integrity_holds(message, b"stronger")
    assert not stun.integrity_holds(message, KEY)  # the stronger one speaks for the message
    assert [*message.guards] == [stun.MESSAGE_INTEGRITY, stun.MESSAGE_INTEGRITY_SHA256]


@pytest.mark.parametrize("size", [16, 20, 24, 28, 32])
def test_a_truncated_sha256_is_compared_over_what_is_there(size: int) -> None:
    front = written(Attribute(stun.USERNAME, b"ann"))
    front = front[:2] + (len(front) + 4 + size - 20).to_bytes(2, "big") + front[4:]
    mac = hmac.digest(KEY, front, "sha256")[:size]
    assert stun.integrity_holds(stun.parse(front + raw(stun.MESSAGE_INTEGRITY_SHA256, mac)), KEY)
    wrong = mac[:-1] + bytes((mac[-1] ^ 1,))
    assert not stun.integrity_holds(stun.parse(front + raw(stun.MESSAGE_INTEGRITY_SHA256, wrong)), KEY)


@pytest.mark.parametrize("sha256", [False, True])
def test_a_guarded_message_with_a_fingerprint_is_read_with_both(sha256: bool) -> None:
    data = written(Attribute(stun.USERNAME, b"annabelle"), key=KEY, sha256=sha256, fingerprint=True)
    message = stun.parse(data)
    assert message.has_fingerprint
    assert stun.integrity_holds(message, KEY)
    with pytest.raises(PeerError):
        stun.parse(data[:24] + b"X" + data[25:])


def test_types_that_must_be_understood_are_listed_once_and_optional_ones_never() -> None:
    message = stun.parse(
        written(*(Attribute(type, b"") for type in (0x7FFF, 0x0006, 0x7FFF, 0x8000, 0xFFFF, 0x0030)))
    )
    assert message.unknown({stun.USERNAME}) == [0x7FFF, 0x0030]
    assert stun.encode_unknown(message.unknown({stun.USERNAME})) == b"\x7f\xff\0\x30"


# ---------------------------------------------------------------- values


@given(st.ip_addresses(), st.integers(0, 0xFFFF), st.binary(min_size=12, max_size=12))
def test_an_address_comes_back_from_both_forms(ip: object, port: int, transaction: bytes) -> None:
    address = Address.parse((str(ip), port))
    assert stun.decode_address(stun.encode_address(address)) == address
    hidden = stun.encode_xor_address(address, transaction)
    assert stun.decode_xor_address(hidden, transaction) == address
    assert hidden[:2] == stun.encode_address(address)[:2]


def test_an_ipv4_mapped_address_is_the_ipv4_address() -> None:
    value = b"\0\2" + (5).to_bytes(2, "big") + bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 1))
    assert stun.decode_address(value) == Address("192.0.2.1", 5)


@pytest.mark.parametrize(
    "value", ["", "0001", "000100", "00010005c0000201ff", "00020005c0000201", "00030005c0000201"]
)
def test_what_is_no_address_is_refused(value: str) -> None:
    with pytest.raises(PeerError):
        stun.decode_address(bytes.fromhex(value))
    with pytest.raises(PeerError):
        stun.decode_xor_address(bytes.fromhex(value), TID)


@pytest.mark.parametrize("code", [300, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 486, 500, 508])
def test_an_error_code_comes_back_and_has_no_reason(code: int) -> None:
    value = stun.encode_error(code)
    assert len(value) == 4
    assert stun.decode_error(value + b"why") == code


@pytest.mark.parametrize("value", ["", "000004", "00000201", "00000701", "00000464"])
def test_what_is_no_error_code_is_refused(value: str) -> None:
    with pytest.raises(PeerError):
        stun.decode_error(bytes.fromhex(value))


def test_algorithms_come_back_with_their_parameters() -> None:
    assert stun.decode_algorithms(stun.encode_algorithms((2, 1))) == ((2, b""), (1, b""))
    assert stun.decode_algorithms(bytes.fromhex("00090003aabbcc0000010000")) == (
        (9, b"\xaa\xbb\xcc"),
        (1, b""),
    )
    assert stun.decode_algorithms(bytes.fromhex("00090003aabbcc")) == ((9, b"\xaa\xbb\xcc"),)
    assert stun.decode_algorithms(b"") == ()


@pytest.mark.parametrize("value", ["00", "000100", "00010001", "0001000000"])
def test_algorithms_cut_short_are_refused(value: str) -> None:
    with pytest.raises(PeerError):
        stun.decode_algorithms(bytes.fromhex(value))


@pytest.mark.parametrize(("text", "bits"), VECTORS["features"])
def test_feature_bits_are_spelled_as_in_the_rfc(text: str, bits: int) -> None:
    nonce = stun.with_features("abc", bits)
    assert nonce == f"obMatJos2{text}abc"
    assert stun.split_features(nonce.encode()) == (bits, b"abc")


def test_the_names_of_the_feature_bits_are_those_of_the_vectors() -> None:
    assert (stun.FEATURE_ALGORITHMS, stun.FEATURE_ANONYMITY) == (1 << 23, 1 << 22)


@pytest.mark.parametrize(
    "nonce", [b"", b"abc", b"obMatJos2", b"obMatJos2gA=", b"obMatJos2gA==", b"obMatJos2g!AA"]
)
def test_a_nonce_without_feature_bits_has_none(nonce: bytes) -> None:
    assert stun.split_features(nonce) == (0, nonce)


@pytest.mark.parametrize(("method", "transaction"), [(-1, TID), (0x1000, TID), (1, TID[1:])])
def test_what_cannot_be_written_is_our_own_fault(method: int, transaction: bytes) -> None:
    with pytest.raises(LocalError):
        stun.build(method, Class.REQUEST, transaction)


def test_an_attribute_that_fits_no_message_is_our_own_fault() -> None:
    with pytest.raises(LocalError):
        written(Attribute(stun.USERNAME, bytes(65536)))


def test_a_repr_shows_no_name_address_or_password() -> None:
    assert repr(stun.parse(WHOLE)) == f"Message(method=1, cls=<Class.REQUEST: 0>, transaction={TID!r})"
