"""The signed node list: one spelling, one signature, no way back to an older one."""

import base64
import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from relay.errors import LocalError
from relay.protocol import signed
from relay.protocol.ids import Kid
from relay.region import nodelist
from relay.region.nodelist import Health, Keeper, ListError, Node, NodeList, Refusal

VECTORS = load("nodelist")
SEED = bytes.fromhex(VECTORS["seed"])
KEYS = {Kid(bytes.fromhex(VECTORS["kid"])): signed.public_of(SEED)}
BEGIN = 1_700_000_000.0
LIST = NodeList(
    v=1, cluster="c", rev=3, issued_at=int(BEGIN), not_after=int(BEGIN) + 60,
    nodes=(Node(id="a", region="fra", urls=("quic://a:443",), version="1"),),
)  # fmt: skip


def refusal(call, *words):
    with pytest.raises(ListError) as caught:
        call(*words)
    return caught.value.reason


@pytest.mark.parametrize("row", VECTORS["accepted"], ids=lambda row: row["name"])
def test_a_list_that_was_signed_is_taken(row):
    found = nodelist.verify(row["document"].encode(), KEYS)
    assert (found.rev, [node.id for node in found.nodes]) == (row["rev"], row["nodes"])


def test_the_first_document_reads_as_it_was_meant_and_writes_the_same_bytes():
    raw = VECTORS["accepted"][0]["document"].encode()
    found = nodelist.verify(raw, KEYS)
    first, second, third = found.nodes
    assert first.health == Health(state="ok", score=98, stress=41, age_s=12)
    assert (second.variant, second.draining, second.health.score) == ("candidate", True, None)
    assert (third.variant, third.draining, third.health) == ("control", False, None)
    assert nodelist.seal(found, SEED) == raw


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["name"])
def test_anything_else_is_refused_by_name(row):
    assert refusal(nodelist.verify, row["document"].encode(), KEYS) == row["reason"]


def test_a_refusal_quotes_nothing_of_what_came():
    for row in VECTORS["refused"]:
        with pytest.raises(ListError) as caught:
            nodelist.verify(row["document"].encode(), KEYS)
        assert "fra" not in str(caught.value)


def test_a_document_beyond_a_mebibyte_is_not_looked_at():
    assert refusal(nodelist.verify, b" " * (nodelist.MAX_SIZE + 1), KEYS) is Refusal.TOO_LARGE


GOLDENS = [row["document"].encode() for row in VECTORS["accepted"]]


@given(anything(GOLDENS))
def test_whatever_comes_is_a_document_of_ours_or_refused_by_name(raw):
    with contextlib.suppress(ListError):  # nothing else may come out of it
        nodelist.verify(raw, KEYS)
        assert raw in GOLDENS


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"kid":1e999}', b"\xff", b'{"kid":NaN}'])
def test_odd_json_ends_in_a_name_too(raw):
    assert refusal(nodelist.verify, raw, KEYS) is Refusal.MALFORMED


@given(st.data())
def test_no_byte_of_a_document_may_change(data):
    raw = bytearray(nodelist.seal(LIST, SEED))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ListError):
        nodelist.verify(bytes(raw), KEYS)


def test_a_list_that_no_reader_would_take_is_not_signed():
    with pytest.raises(LocalError):
        nodelist.seal(msgspec.structs.replace(LIST, nodes=LIST.nodes * 2), SEED)


def test_the_signed_bytes_are_what_the_text_says():
    value = json.loads(nodelist.seal(LIST, SEED))
    body = json.dumps(value["list"], sort_keys=True, separators=(",", ":")).encode()
    signature = signed.sign(SEED, b"vrl-nodes-v1\0" + bytes.fromhex(value["kid"]) + body)
    assert signature == base64.b64decode(value["sig"])


def test_a_signature_has_one_spelling():
    text = json.loads(nodelist.seal(LIST, SEED))["sig"]
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = digits[digits.index(text[-3]) ^ 1]  # a spare bit set: the same 64 bytes
    assert base64.b64decode(text[:-3] + other + "==") == base64.b64decode(text)
    raw = nodelist.seal(LIST, SEED).replace(text.encode(), (text[:-3] + other + "==").encode())
    assert refusal(nodelist.verify, raw, KEYS) is Refusal.BAD_SIGNATURE


# ---------------------------------------------------------------- keeping


def keeper():
    return Keeper("c", KEYS)


def document(seed=SEED, **changes):
    return nodelist.seal(msgspec.structs.replace(LIST, **changes), seed)


def test_a_newer_revision_replaces_an_older_one_and_never_the_other_way_round():
    keep = keeper()
    assert not keep.is_current(BEGIN)
    assert keep.on_document(document(), BEGIN)
    assert keep.on_document(document(rev=5, nodes=()), BEGIN)
    assert refusal(keep.on_document, document(rev=4), BEGIN) is Refusal.OLDER
    assert (keep.list.rev, keep.list.nodes) == (5, ())


def test_the_same_document_again_says_nothing_new_and_another_of_its_revision_is_refused():
    keep = keeper()
    keep.on_document(document(), BEGIN)
    assert not keep.on_document(document(), BEGIN)
    assert refusal(keep.on_document, document(nodes=()), BEGIN) is Refusal.CONTRADICTS
    assert keep.list.nodes == LIST.nodes


def test_a_list_counts_from_an_hour_before_it_was_made_until_it_ends():
    assert refusal(keeper().on_document, document(), BEGIN - 3_600.5) is Refusal.TOO_EARLY
    assert keeper().on_document(document(), BEGIN - 3_600)
    assert keeper().on_document(document(), BEGIN + 59.5)
    assert refusal(keeper().on_document, document(), BEGIN + 60) is Refusal.EXPIRED


def test_past_its_time_a_list_is_kept_and_says_so():
    keep = keeper()
    keep.on_document(document(), BEGIN)
    assert keep.is_current(BEGIN + 59.5)
    assert not keep.is_current(BEGIN + 60)
    assert keep.list is not None


def test_another_clusters_list_is_refused():
    assert refusal(keeper().on_document, document(cluster="d"), BEGIN) is Refusal.OTHER_CLUSTER


def test_keys_rotate_while_the_list_stays():
    other = bytes(range(32, 64))
    new = {signed.kid_of(signed.public_of(other)): signed.public_of(other)}
    keep = keeper()
    keep.on_document(document(), BEGIN)
    assert refusal(keep.on_document, document(other, rev=4), BEGIN) is Refusal.UNKNOWN_KEY
    keep.on_keys(KEYS | new)
    assert keep.on_document(document(other, rev=4), BEGIN)
    keep.on_keys(new)
    assert refusal(keep.on_document, document(rev=5), BEGIN) is Refusal.UNKNOWN_KEY
    assert keep.list.rev == 4


def test_where_calls_of_a_region_may_go_is_signed_and_names_regions():
    ruled = msgspec.structs.replace(LIST, may_leave_to={"fra": ("ams",), "ams": ()})
    assert nodelist.verify(nodelist.seal(ruled, SEED), KEYS) == ruled
    with pytest.raises(LocalError):
        nodelist.seal(msgspec.structs.replace(LIST, may_leave_to={"a b": ()}), SEED)
