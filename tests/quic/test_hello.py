"""A ClientHello is read as aioquic reads it, whatever its bytes."""

from __future__ import annotations

import pytest
from aioquic import tls
from aioquic._buffer import Buffer, BufferReadError
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.quic.hello import ClientHello, parse

NUMBERS = st.lists(st.integers(0, 0xFFFF), max_size=6)
SHARES = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=70)), max_size=4)
NAMES = st.lists(st.text("abc/1", max_size=8), max_size=4)
KNOWN = set(tls.ExtensionType)
OTHERS = st.dictionaries(
    st.integers(0, 0xFFFF).filter(lambda kind: kind not in KNOWN), st.binary(max_size=40), max_size=3
)


@st.composite
def hellos(draw: st.DrawFn) -> bytes:
    """A ClientHello that aioquic wrote."""
    buf = Buffer(capacity=4096)
    hello = tls.ClientHello(
        random=draw(st.binary(min_size=32, max_size=32)),
        legacy_session_id=draw(st.binary(max_size=32)),
        cipher_suites=draw(NUMBERS),
        legacy_compression_methods=draw(st.lists(st.integers(0, 255), max_size=3)),
        alpn_protocols=draw(st.none() | NAMES),
        key_share=draw(SHARES),
        psk_key_exchange_modes=draw(st.none() | st.just([1])),
        server_name=draw(st.none() | st.just("localhost")),
        signature_algorithms=draw(NUMBERS),
        supported_groups=draw(NUMBERS),
        supported_versions=draw(NUMBERS),
        other_extensions=list(draw(OTHERS).items()),
        early_data=draw(st.booleans()),
    )
    tls.push_client_hello(buf, hello)
    return buf.data


def theirs(message: bytes) -> tls.ClientHello | None:
    """What aioquic makes of it."""
    buf = Buffer(data=message)
    try:
        hello = tls.pull_client_hello(buf)
    except (tls.Alert, BufferReadError, AssertionError):
        return None
    return hello if buf.eof() else None


def ours(message: bytes) -> ClientHello | None:
    """What we make of it; anything but an alert is a bug."""
    try:
        return parse(message)
    except tls.Alert:
        return None


def assert_equal(mine: ClientHello, other: tls.ClientHello) -> None:
    assert mine.random == other.random
    assert mine.session_id == other.legacy_session_id
    assert list(mine.suites) == other.cipher_suites
    assert list(mine.compressions) == other.legacy_compression_methods
    for numbers, expected in (
        (mine.versions, other.supported_versions),
        (mine.signatures, other.signature_algorithms),
    ):
        assert (None if numbers is None else list(numbers)) == expected
    assert mine.shares == other.key_share
    if mine.protocols is not None:
        assert other.alpn_protocols is not None
        assert [name for name in mine.protocols if name.isascii()] == [
            name.encode() for name in other.alpn_protocols
        ]
    for kind, body in other.other_extensions:
        assert mine.extensions[kind] == body


@given(hellos())
def test_what_aioquic_wrote_is_read_as_aioquic_reads_it(message: bytes) -> None:
    mine, other = ours(message), theirs(message)
    assert mine is not None
    assert other is not None
    assert_equal(mine, other)


@settings(max_examples=400)
@given(hellos(), st.lists(st.tuples(st.integers(4, 4000), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_bytes_are_read_alike_or_refused(message: bytes, damage: list[tuple[int, int]]) -> None:
    data = bytearray(message)
    for at, value in damage:
        data[4 + at % (len(data) - 4)] = value
    mine, other = ours(bytes(data)), theirs(bytes(data))
    if mine is not None and other is not None:
        assert_equal(mine, other)


@given(hellos(), st.integers(0, 4000))
def test_a_hello_cut_short_is_refused(message: bytes, at: int) -> None:
    cut = message[: at % len(message)]
    assert ours(cut[:1] + (len(cut[4:])).to_bytes(3, "big") + cut[4:]) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_hello_or_an_alert(body: bytes) -> None:
    ours(b"\1" + len(body).to_bytes(3, "big") + body)
    ours(b"\1\0\0\0\3\3" + body)


def hello_with(*extensions: bytes) -> bytes:
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    joined = b"".join(extensions)
    body += len(joined).to_bytes(2, "big") + joined
    return b"\1" + len(body).to_bytes(3, "big") + body


def test_an_extension_that_stands_there_twice_is_refused() -> None:
    unknown = b"\xab\xcd\0\1x"
    assert parse(hello_with(unknown)).extensions == {0xABCD: b"x"}
    with pytest.raises(tls.AlertIllegalParameter, match="twice"):
        parse(hello_with(unknown, unknown))


def test_nothing_may_follow_a_pre_shared_key() -> None:
    psk = b"\0\x29\0\0"
    assert parse(hello_with(psk)).shares is None
    with pytest.raises(tls.AlertIllegalParameter, match="last"):
        parse(hello_with(psk, b"\xab\xcd\0\0"))
