"""The inside of a media packet, and the golden packets sealed and opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relay.client.e2ee import OpenKey, SealKey, Suite
from relay.client.frames import KIND_BUNDLE, KIND_OPUS, MediaFrame, decode_frame, encode_frame, unbundle
from relay.errors import PeerError
from relay.protocol import media

GOLDEN = json.loads((Path(__file__).parent.parent / "vectors" / "media-sealed.json").read_text())
BASE_KEY = bytes.fromhex(GOLDEN["base_key"])
PLAINTEXT = bytes.fromhex(GOLDEN["plaintext"])
SUITE = Suite(GOLDEN["suite"])


@pytest.mark.parametrize("row", GOLDEN["packets"], ids=lambda row: row["name"])
def test_the_golden_packets_seal_and_open_with_and_without_the_repeat_bit(row: dict[str, Any]) -> None:
    datagram = bytes.fromhex(row["datagram"])
    header = media.decode(datagram)
    assert (header.flow, header.kid, header.ctr) == (row["flow"], row["kid"], row["ctr"])
    aad = media.aad(datagram, header)
    sealed = SealKey(SUITE, BASE_KEY, row["kid"], row["ctr"]).seal(aad, PLAINTEXT)
    assert datagram[: header.size] + sealed == datagram
    repeat = media.with_flow(datagram, 9, repeat=True)
    again = media.decode(repeat)
    opener = OpenKey(SUITE, BASE_KEY, row["kid"])
    assert opener.open(again.ctr, media.aad(repeat, again), repeat[again.size :]) == PLAINTEXT


def open_datagram(datagram: bytes) -> bytes | None:
    header = media.decode(datagram)
    opener = OpenKey(SUITE, BASE_KEY, header.kid)
    return opener.open(header.ctr, media.aad(datagram, header), datagram[header.size :])


@pytest.mark.parametrize("row", GOLDEN["packets"], ids=lambda row: row["name"])
@pytest.mark.parametrize("bit", [0, 2, 3, 4, 5, 6, 7])
def test_any_other_bit_of_the_hop_byte_is_sealed(row: dict[str, Any], bit: int) -> None:
    datagram = bytearray.fromhex(row["datagram"])
    datagram[1] ^= 1 << bit
    with pytest.raises(PeerError):
        open_datagram(bytes(datagram))


def test_frames_survive_a_round_trip_and_padding_is_taken_off() -> None:
    frame = MediaFrame(0xFFFF, KIND_OPUS, b"abc")
    assert decode_frame(encode_frame(frame)) == frame
    assert decode_frame(bytes.fromhex("123420") + b"abc\0\0\3") == MediaFrame(0x1234, KIND_OPUS, b"abc")
    assert decode_frame(PLAINTEXT).ts == 0x1234


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0", b"\0\0\1x", b"\0\0\x20", b"\0\0\x20\0", b"\0\0\x20a\4"], ids=lambda raw: raw.hex()
)
def test_nonsense_inside_the_ciphertext_is_a_peer_error(raw: bytes) -> None:
    with pytest.raises(PeerError):
        decode_frame(raw)


def test_a_bundle_opens_into_its_frames_oldest_first() -> None:
    body = bytes((2, 16, 2, 8, 1)) + b"aa" + b"b" + b"ccc"
    frames = unbundle(MediaFrame(10, KIND_BUNDLE, body))
    assert [(frame.ts, frame.body) for frame in frames] == [(65530, b"aa"), (2, b"b"), (10, b"ccc")]


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\4" + bytes(8), b"\1\1", b"\1\1\5ab"], ids=lambda raw: raw.hex()
)
def test_a_broken_bundle_is_a_peer_error(body: bytes) -> None:
    with pytest.raises(PeerError):
        unbundle(MediaFrame(10, KIND_BUNDLE, body))
