"""The SFrame header against RFC 9605 appendix C.1; and no decryption on the relay's side."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import sframe

VECTORS = load("sframe")
U64 = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("row", VECTORS["headers"], ids=lambda row: row["encoded"])
def test_the_headers_of_the_rfc_read_and_write_alike(row):
    data = bytes.fromhex(row["encoded"])
    assert sframe.encode_header(row["kid"], row["ctr"]) == data
    assert sframe.decode_header(data + b"ciphertext") == (row["kid"], row["ctr"], len(data))


@pytest.mark.parametrize("data", VECTORS["not_shortest"] + VECTORS["cut"])
def test_a_second_spelling_or_a_cut_header_is_bad_encoding(data):
    with pytest.raises(PeerError) as caught:
        sframe.decode_header(bytes.fromhex(data))
    assert caught.value.code is ErrorCode.BAD_ENCODING


@pytest.mark.parametrize(("kid", "ctr"), [(-1, 0), (0, -1), (2**64, 0), (0, 2**64)])
def test_a_value_above_64_bit_is_our_own_fault(kid, ctr):
    with pytest.raises(LocalError):
        sframe.encode_header(kid, ctr)


@given(U64, U64, st.binary(max_size=4))
def test_what_was_written_is_read(kid, ctr, after):
    data = sframe.encode_header(kid, ctr)
    assert sframe.decode_header(data + after) == (kid, ctr, len(data))


@given(anything([bytes.fromhex(row["encoded"]) for row in VECTORS["headers"]], max_size=20))
def test_any_bytes_are_one_header_in_its_only_spelling_or_a_peer_error(data):
    try:
        header = sframe.decode_header(data)
    except PeerError:
        return
    assert sframe.encode_header(header.kid, header.ctr) == data[: header.size]


def test_the_wire_modules_load_no_cipher_that_could_open_a_frame():
    # In a process of its own: this one has loaded everything.
    script = (
        "import pkgutil, importlib, sys, relay.protocol as p\n"
        "[importlib.import_module(f'relay.protocol.{m.name}') for m in pkgutil.iter_modules(p.__path__)]\n"
        "print([m for m in sys.modules if m.startswith('relay.client') or m.endswith('ciphers.aead')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
