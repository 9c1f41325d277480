"""Connection ids: the published vector, and none that looks like ChannelData."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import load
from relay.errors import LocalError
from relay.protocol.cid import CidCodec, reset_token

VECTORS = load("cid")
SERVER = bytes.fromhex(VECTORS["server_id"])
CODEC = CidCodec(bytes.fromhex(VECTORS["key"]), SERVER)


@pytest.mark.parametrize("row", [VECTORS["golden"], *VECTORS["rows"]], ids=lambda row: row["nonce"])
def test_the_vectors_read_and_write_alike(row):
    nonce, cid = bytes.fromhex(row["nonce"]), bytes.fromhex(row["cid"])
    assert CODEC.encode(nonce) == cid
    assert CODEC.decode(cid) == (SERVER, nonce)


@pytest.mark.parametrize("nonce", VECTORS["not_issued"])
def test_a_nonce_whose_id_could_look_like_channel_data_gives_none(nonce):
    assert CODEC.encode(bytes.fromhex(nonce)) is None


def test_no_id_of_many_has_a_second_byte_below_16_and_none_repeats():
    ids = [CODEC.encode(number.to_bytes(4, "big")) for number in range(20_000)]
    issued = [cid for cid in ids if cid is not None]
    assert len(set(issued)) == len(issued) > 18_000
    assert all(cid[0] == 7 and cid[1] >= 0x10 for cid in issued)


@pytest.mark.parametrize(
    "cid", ["", "0720b1d07b359d", "0720b1d07b359d3c00", "0820b1d07b359d3c", "0700b1d07b359d3c"]
)
def test_an_id_of_another_form_is_not_ours(cid):
    assert CODEC.decode(bytes.fromhex(cid)) is None


def test_another_key_reads_another_server():
    cid = bytes.fromhex(VECTORS["golden"]["cid"])
    assert CidCodec(bytes(16), SERVER).decode(cid) != CODEC.decode(cid)


def test_key_server_id_and_nonce_have_one_size_each():
    for key, server in ((bytes(15), SERVER), (bytes(16), SERVER[1:])):
        with pytest.raises(LocalError):
            CidCodec(key, server)
    with pytest.raises(LocalError):
        CODEC.encode(bytes(5))


def test_a_reset_token_belongs_to_one_id_and_one_key():
    row = VECTORS["reset"]
    key, cid = bytes.fromhex(row["key"]), bytes.fromhex(row["cid"])
    assert reset_token(key, cid).hex() == row["token"]
    assert reset_token(key, bytes(8)) != reset_token(key, cid) != reset_token(b"\x01" * 32, cid)


@given(
    st.binary(min_size=16, max_size=16), st.binary(min_size=3, max_size=3), st.binary(min_size=4, max_size=4)
)
def test_what_was_encoded_is_decoded(key, server, nonce):
    codec = CidCodec(key, server)
    cid = codec.encode(nonce)
    if cid is not None:
        assert codec.decode(cid) == (server, nonce)


@given(st.binary(max_size=12))
def test_any_bytes_are_the_one_id_of_their_plain_text_or_not_ours(data):
    found = CODEC.decode(data)
    if found is not None:
        server, nonce = found
        assert CidCodec(bytes.fromhex(VECTORS["key"]), server).encode(nonce) == data
