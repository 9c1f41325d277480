"""The shape of msgpack that may come in."""

from contextlib import suppress
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from relay.errors import ErrorCode, PeerError
from relay.protocol.structure import MAX_DEPTH, MAX_KEYS, check, decode

GOOD = {
    "nil": "c0",
    "booleans": "92c2c3",
    "every width of unsigned": "957fccffcdffffceffffffffcf" + "ff" * 8,
    "every width of signed": "95e0d080d18000d280000000d380" + "00" * 7,
    "floats": "92ca00000000cb0000000000000000",
    "every width of text": "94a161d90161da000161db0000000161",
    "every width of binary": "93c40161c5000161c60000000161",
    "every width of array": "9390dc0000dd00000000",
    "every width of map": "9380de0000df00000000",
    "map with text and integer keys": (
        "88" "a16101" "d9016202" "da00016303" "db000000016404" "0505" "ff06" "cc8007" "d18ad008"
    ),
}  # fmt: skip

BAD = {
    "nothing": "",
    "two values": "c0c0",
    "the unused type": "c1",
    "fixext 1": "d40100",
    "ext 8": "c7010100",
    "timestamp": "d6ff00000000",
    "text cut short": "a261",
    "text length cut short": "da00",
    "binary cut short": "c40261",
    "integer cut short": "cd01",
    "array cut short": "92c0",
    "array count cut short": "dc00",
    "map without its value": "81a161",
    "map without its key": "81",
    "map count cut short": "df000000",
    "key cut short": "81a2",
    "key is nil": "81c0c0",
    "key is a float": "81ca00000000c0",
    "key is an array": "8190c0",
    "key is a map": "8180c0",
    "key is binary": "81c40161c0",
    "text key twice": "82a161c0a161c0",
    "integer key twice": "8201c001c0",
    "integer key twice in two widths": "8201c0cc01c0",
    "negative key twice in two widths": "82ffc0d0ffc0",
    "key twice in an inner map": "8101" "82a161c0a161c0",
}  # fmt: skip


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
def test_plain_msgpack_passes(data):
    check(bytes.fromhex(data))
    msgspec.msgpack.decode(bytes.fromhex(data), type=object)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_anything_else_is_bad_encoding(data):
    with pytest.raises(PeerError) as caught:
        check(bytes.fromhex(data))
    assert caught.value.code is ErrorCode.BAD_ENCODING


def test_text_and_integer_keys_are_different_keys():
    check(bytes.fromhex("8201c0a101c0"))


def test_the_same_key_may_stand_in_two_maps():
    check(bytes.fromhex("8201" "8101c0" "028101c0"))  # fmt: skip


def test_eight_levels_pass_and_nine_do_not():
    check(b"\x91" * (MAX_DEPTH - 1) + b"\x90")
    with pytest.raises(PeerError):
        check(b"\x91" * MAX_DEPTH + b"\x90")


def test_a_map_has_at_most_256_keys():
    def of(count):
        return msgspec.msgpack.encode({f"k{i}": 0 for i in range(count)})

    check(of(MAX_KEYS))
    with pytest.raises(PeerError):
        check(of(MAX_KEYS + 1))


def test_a_deep_bomb_is_refused_before_it_is_built():
    with pytest.raises(PeerError):
        check(b"\x91" * 16000)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-(2**63), 2**64 - 1), inner),
    max_leaves=20,
)


@given(json_like)
def test_whatever_an_honest_encoder_writes_passes(value):
    check(msgspec.msgpack.encode(value), max_depth=100)


@given(anything([bytes.fromhex(data) for data in GOOD.values()]))
def test_any_bytes_pass_or_are_a_peer_error_and_what_passes_decodes(data):
    try:
        check(data)
    except PeerError:
        return
    # Text that is no UTF-8 is the one thing left to the typed decoder.
    with suppress(PeerError):
        decode(msgspec.msgpack.Decoder(), data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("81a16ba1ff", "msgpack: text is not UTF-8"),
        ("81a16ba162", "msgpack: `$[...]` does not fit"),
        ("01", "msgpack: does not fit"),
    ],
)
def test_the_typed_decoder_says_where_but_not_what(data, message):
    check(bytes.fromhex(data))
    with pytest.raises(PeerError) as caught:
        decode(msgspec.msgpack.Decoder(dict[str, Literal["a"]]), bytes.fromhex(data))
    assert caught.value.message == message
    assert caught.value.code is ErrorCode.BAD_ENCODING
