"""Key files and what derives from the cluster key."""

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from golden import load
from relay.errors import ConfigError, LocalError
from relay.protocol.keys import ClusterKey, read_key, read_secret, write_key

VECTORS = load("keys")
KEY = bytes.fromhex(VECTORS["cluster_key"])


def test_a_key_file_is_one_line_that_reads_back():
    assert write_key(KEY) == VECTORS["text"]
    assert read_key(VECTORS["text"]) == KEY
    assert read_key(f"  {VECTORS['text']}\n") == KEY


@pytest.mark.parametrize(
    "text", ["", "AAAA", "no base64!", VECTORS["text"] * 2, "\N{DEGREE SIGN}" * 44, "A" * 43]
)
def test_a_bad_key_file_names_its_setting_and_a_cure(text):
    with pytest.raises(ConfigError) as caught:
        read_key(text, "cluster.key_file")
    assert caught.value.key == "cluster.key_file"
    assert "keygen" in caught.value.cure


def test_a_key_of_another_size_is_our_own_fault():
    for call in (write_key, ClusterKey):
        with pytest.raises(LocalError):
            call(bytes(31))


@pytest.mark.parametrize("label", VECTORS["derived"])
def test_each_label_has_a_key_of_its_own(label):
    cluster = ClusterKey.parse(VECTORS["text"])
    derived = cluster.derive(label)
    assert derived.hex() == VECTORS["derived"][label]
    other = HKDF(SHA256(), len(derived), b"vrl-cluster-v1", b"vrl " + label.encode()).derive(KEY)
    assert derived == other


def test_the_connection_id_key_is_an_aes_128_key_and_all_others_have_32_bytes():
    sizes = {label: len(ClusterKey(KEY).derive(label)) for label in VECTORS["derived"]}
    assert sizes == {"ticket": 32, "cid": 16, "reset": 32, "retry": 32, "turn": 32}


def test_an_unknown_label_is_our_own_fault():
    with pytest.raises(LocalError):
        ClusterKey(KEY).derive("tickets")


def test_a_cluster_key_is_not_printed():
    assert repr(ClusterKey(KEY)) == str(ClusterKey(KEY)) == "ClusterKey(…)"


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_a_config_error(text):
    with suppress(ConfigError):
        assert len(read_key(text)) == 32


def test_a_shared_secret_is_one_line():
    assert read_secret("  0123456789abcdef\n") == b"0123456789abcdef"


@pytest.mark.parametrize("text", ["", "0123456789abcde", "0123456789abcdef\n2", "0123456789abcdé"])
def test_a_shared_secret_that_is_short_or_no_line_is_refused_by_name(text):
    with pytest.raises(ConfigError) as caught:
        read_secret(text, "turn.secret_file")
    assert caught.value.key == "turn.secret_file"
    assert "01234" not in str(caught.value)
