"""The hop header: goldens, limits, and that a hop changes nothing the sender sealed."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from relay.core.reasons import DropReason
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import media, sframe

VECTORS = load("media")
GOLDEN = VECTORS["golden"]
A, B = (bytes.fromhex(GOLDEN[name]["datagram"]) for name in "AB")
SUITE = 5
SEALED = bytes(media.MIN_SEALED)


def header_of(row):
    return media.MediaHeader(**row["header"])


def suite_5(kid):
    """AEAD key and salt of a key id (RFC 9605 section 4.4.2); the relay itself has no such function."""
    number = kid.to_bytes(8, "big") + SUITE.to_bytes(2, "big")
    secret = HKDF.extract(SHA512(), b"", bytes.fromhex(GOLDEN["base_key"]))
    key = HKDFExpand(SHA512(), 32, b"SFrame 1.0 Secret key " + number).derive(secret)
    salt = HKDFExpand(SHA512(), 12, b"SFrame 1.0 Secret salt " + number).derive(secret)
    return key, salt


def open_golden(datagram):
    header = media.decode(datagram)
    key, salt = suite_5(header.kid)
    nonce = (int.from_bytes(salt, "big") ^ header.ctr).to_bytes(12, "big")
    return AESGCM(key).decrypt(nonce, datagram[header.size :], media.aad(datagram, header))


@pytest.mark.parametrize("name", ["A", "B"])
def test_a_golden_datagram_reads_as_its_fields_and_writes_back(name):
    datagram = bytes.fromhex(GOLDEN[name]["datagram"])
    header = media.decode(datagram)
    assert header == header_of(GOLDEN[name])
    written = media.encode_header(
        *(header.flow, header.kid, header.ctr),
        pp=header.pp,
        onset=header.onset,
        repeat=header.repeat,
        level=header.level,
        voice=header.voice,
    )
    assert written == datagram[: header.size]


@pytest.mark.parametrize("datagram", [A, B], ids="AB")
def test_a_golden_datagram_opens_with_and_without_the_repeat_bit(datagram):
    plain = bytes.fromhex(GOLDEN["plaintext"])
    assert open_golden(datagram) == plain
    for repeat in (False, True):
        assert open_golden(media.with_flow(datagram, 9, repeat)) == plain


@pytest.mark.parametrize("name", ["A", "B"])
def test_a_golden_datagram_begins_as_written_on_flow_9_as_a_repeat(name):
    copy = media.with_flow(bytes.fromhex(GOLDEN[name]["datagram"]), 9, repeat=True)
    assert copy[:2].hex() == GOLDEN[name]["on_flow_9_as_repeat"]


@pytest.mark.parametrize("datagram", [A, B], ids="AB")
@pytest.mark.parametrize("bit", [1 << i for i in range(8) if 1 << i != media.REPEAT_BIT])
def test_every_other_bit_of_h_is_sealed_by_the_sender(datagram, bit):
    header = media.decode(datagram)
    changed = bytes((datagram[0], datagram[1] ^ bit)) + datagram[2:]
    key, salt = suite_5(header.kid)
    nonce = (int.from_bytes(salt, "big") ^ header.ctr).to_bytes(12, "big")
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(nonce, datagram[header.size :], media.aad(changed, header))


def test_the_level_is_sealed_by_the_sender():
    changed = B[:2] + bytes((B[2] ^ 1,)) + B[3:]
    with pytest.raises(InvalidTag):
        open_golden(changed)


@pytest.mark.parametrize("row", VECTORS["accepted"], ids=lambda row: row["name"])
def test_a_datagram_at_the_edge_of_the_format_is_read(row):
    data = bytes.fromhex(row["datagram"])
    assert media.decode(data) == media.decode(memoryview(data)) == header_of(row)


# The one place where a close code and the reason of the drop are set side by side.
REASONS = {
    ErrorCode.VERSION: DropReason.BAD_VERSION,
    ErrorCode.TOO_LARGE: DropReason.TOO_LARGE,
    ErrorCode.BAD_ENCODING: DropReason.MALFORMED,
}


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["name"])
def test_a_datagram_that_breaks_the_format_is_refused_by_name(row):
    with pytest.raises(PeerError) as caught:
        media.decode(bytes.fromhex(row["datagram"]))
    assert caught.value.code.name == row["code"]
    assert REASONS[caught.value.code] == row["reason"]


@pytest.mark.parametrize(
    "fields",
    [
        *({"flow": 0}, {"flow": 63}, {"kid": -1}, {"kid": 256}, {"ctr": -1}, {"ctr": 2**32}),
        *({"pp": -1}, {"pp": 4}, {"level": -1}, {"level": 128}),
    ],
    ids=str,
)
def test_a_field_that_does_not_fit_is_our_own_fault(fields):
    with pytest.raises(LocalError):
        media.encode_header(**({"flow": 1, "kid": 0, "ctr": 0} | fields))


headers = st.fixed_dictionaries(
    {
        "flow": st.integers(media.MIN_FLOW, media.MAX_FLOW),
        "kid": st.integers(0, media.MAX_KID),
        "ctr": st.integers(0, media.MAX_CTR),
        "pp": st.integers(0, 3),
        "onset": st.booleans(),
        "repeat": st.booleans(),
        "level": st.none() | st.integers(0, 127),
        "voice": st.booleans(),
    }
)


@given(headers, st.binary(min_size=19, max_size=60))
def test_what_was_written_is_read(fields, sealed):
    head = media.encode_header(**fields)
    header = media.decode(head + sealed)
    assert header.size == len(head)
    read = {name: getattr(header, name) for name in fields}
    assert read == fields | {"voice": fields["voice"] and fields["level"] is not None}


@given(headers, st.integers(media.MIN_FLOW, media.MAX_FLOW), st.booleans())
def test_a_copy_differs_in_flow_and_repeat_bit_only(fields, flow, repeat):
    datagram = media.encode_header(**fields) + SEALED
    copy = media.with_flow(datagram, flow, repeat)
    header = media.decode(copy)
    assert (header.flow, header.repeat) == (flow, repeat)
    assert copy[2:] == datagram[2:]
    assert (copy[1] ^ datagram[1]) & ~media.REPEAT_BIT == 0
    assert media.aad(copy, header) == media.aad(datagram, media.decode(datagram))


@given(anything([A, B, *(bytes.fromhex(row["datagram"]) for row in VECTORS["refused"])]))
def test_any_bytes_are_a_header_or_a_peer_error(data):
    try:
        header = media.decode(data)
    except PeerError:
        return
    assert len(data) - header.size >= media.MIN_SEALED
    # What this narrow reading accepts, the general SFrame codec reads alike.
    assert sframe.decode_header(data[header.sframe_at :])[:2] == (header.kid, header.ctr)


def test_the_index_stands_above_two_epoch_bits_in_a_pair_and_three_in_a_group():
    assert media.index_of(1, group=False) == 0
    assert media.index_of(74, group=True) == 9
    for group, last, epochs in ((False, 63, 4), (True, 31, 8)):
        for index in (0, 1, last):
            for epoch in range(epochs + 1):
                kid = media.kid_of(index, epoch, group)
                assert media.index_of(kid, group) == index
        with pytest.raises(LocalError):
            media.kid_of(last + 1, 0, group)


def test_a_pair_needs_no_byte_for_its_key_id():
    longest = max(len(media.encode_header(1, media.kid_of(i, e, False), 0)) for i in (0, 1) for e in range(4))
    assert longest == 3
