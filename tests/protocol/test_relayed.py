"""ChannelData, Send and Data indications: what they are, and what only looks like them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import load
from relay.protocol.relayed import (
    SEND,
    PeerAddress,
    encode_channel_data,
    encode_data_indication,
    message_type,
    parse_channel_data,
    parse_send,
)

VECTORS = load("turn")
COOKIE = bytes.fromhex("2112a442")
FOUR = bytes.fromhex("0012000800 01a147e112a643".replace(" ", ""))  # 192.0.2.1:32853, RFC 5769 section 2.2
DATA = b"\x00\x13\x00\x05hello\0\0\0"
PEERS = st.builds(
    PeerAddress,
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
    st.integers(1, 65535),
)


def message(body: bytes, kind: int = SEND) -> bytes:
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + COOKIE + b"\7" * 12 + body


@given(st.integers(0x4000, 0x4FFF), st.binary(max_size=50), st.booleans())
def test_channel_data_reads_back_with_padding_or_without(number: int, payload: bytes, stream: bool) -> None:
    data = encode_channel_data(number, payload, is_stream=stream)
    assert parse_channel_data(data) == (number, payload)
    assert len(data) % 4 == 0 or not stream


@pytest.mark.parametrize(
    "data", [b"", b"\x40\0\0", b"\x40\0\0\x01a\0", b"\x40\0\0\x02a", b"\x50\0\0\0", b"\x3f\0\0\0"]
)
def test_what_does_not_fit_is_no_channel_data(data: bytes) -> None:
    assert parse_channel_data(data) is None


@given(PEERS, st.binary(max_size=50), st.integers(0, 2**64 - 1))
def test_an_indication_reads_back_as_peer_and_payload(peer: PeerAddress, payload: bytes, serial: int) -> None:
    data = encode_data_indication(serial, peer, payload)
    assert message_type(data) == 0x0017
    assert parse_send(data) is None
    assert parse_send(b"\x00\x16" + data[2:]) == (peer, payload)


def test_the_first_peer_and_payload_count_and_proofs_are_skipped() -> None:
    other = FOUR[:-1] + b"\0"
    proof = b"\x00\x08\x00\x04abcd\x80\x22\x00\x01a\0\0\0"
    host = ip_address("192.0.2.1").packed
    assert parse_send(message(FOUR + proof + other + DATA + DATA[:4] + b"other\0\0\0")) == (
        PeerAddress(host, 32853),
        b"hello",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        FOUR,
        DATA,
        FOUR + DATA + b"\x00\x1a\x00\x00",
        FOUR + b"\x00\x13\x00\x05",
        DATA + b"\x00\x12\x00\x04\x00\x01\xa1\x47",
        DATA + b"\x00\x12\x00\x08\x00\x03" + FOUR[6:],
        DATA + b"\x00\x12\x00\x08\x00\x02" + FOUR[6:],
        DATA + b"\x00\x12\x00\x08\x00\x01\x21\x12" + FOUR[8:],
    ],
)
def test_what_lacks_something_or_asks_too_much_is_no_send_indication(body: bytes) -> None:
    assert message_type(message(body)) == SEND
    assert parse_send(message(body)) is None


@pytest.mark.parametrize(
    "data",
    [b"", message(DATA)[:-1], message(DATA)[:-4], b"\x04" + message(b"")[1:], message(b"")[:7] + bytes(13)],
)
def test_what_has_not_the_form_is_no_stun(data: bytes) -> None:
    assert message_type(data) is None
    assert parse_send(data) is None


# ---------------------------------------------------------------- golden


@pytest.mark.parametrize("row", VECTORS["indications"], ids=lambda row: row["message"][:24])
def test_golden_indications_are_read_and_written(row: dict) -> None:
    data, payload, host = bytes.fromhex(row["message"]), bytes.fromhex(row["payload"]), row["peer"][0]
    peer = PeerAddress(ip_address(host).packed, row["peer"][1])
    assert message_type(data) == (SEND if row["method"] == 6 else 0x0017)
    assert parse_send(SEND.to_bytes(2, "big") + data[2:]) == (peer, payload)
    if "why" not in row:
        serial = int.from_bytes(bytes.fromhex(row["transaction"]), "big")
        assert encode_data_indication(serial, peer, payload)[2:] == data[2:]


@pytest.mark.parametrize("row", VECTORS["refused_indications"], ids=lambda row: row["why"])
def test_golden_messages_that_are_no_whole_indication_are_refused(row: dict) -> None:
    assert parse_send(bytes.fromhex(row["message"])) is None


@pytest.mark.parametrize("row", VECTORS["channel_data"], ids=lambda row: row["packet"][:12])
def test_golden_channel_data_is_read_and_written_padded_or_not(row: dict) -> None:
    wanted = (row["channel"], bytes.fromhex(row["payload"]))
    for key, is_stream in (("packet", False), ("padded", True)):
        data = bytes.fromhex(row[key])
        assert parse_channel_data(data) == wanted
        assert encode_channel_data(*wanted, is_stream=is_stream) == data


@pytest.mark.parametrize("row", VECTORS["refused_channel_data"], ids=lambda row: row["why"])
def test_golden_packets_that_are_no_channel_data_are_refused(row: dict) -> None:
    assert parse_channel_data(bytes.fromhex(row["packet"])) is None
