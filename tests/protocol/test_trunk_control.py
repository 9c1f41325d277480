"""Frames of trunks: every message both ways, and what of legs passes in them."""

import pytest
from hypothesis import given

from anybytes import anything
from golden import load
from protocol.test_control import plain
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, messages, trunk_control, trunk_messages
from relay.protocol.trunk_control import DOWN, UP, TrunkCode

VECTORS = load("trunk")
FRAMES = [bytes.fromhex(row["frame"]) for row in VECTORS["frames"]]


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["name"])
def test_every_message_reads_as_its_fields_and_writes_back(row):
    frame = bytes.fromhex(row["frame"])
    number, id, body = trunk_control.decode(frame[2:])
    assert (number, id, type(body).__name__) == (row["type"], row["id"], row["name"])
    assert plain(body) == row["fields"]
    assert control.encode(body, id) == frame


@pytest.mark.parametrize("row", VECTORS["unknown"], ids=lambda row: row["name"])
def test_what_is_not_of_trunks_is_ignored(row):
    number, id, body = trunk_control.decode(bytes.fromhex(row["body"]))
    assert id == 1
    assert body == (trunk_messages.Stop(route=64) if number == trunk_messages.Stop.TYPE else None)


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["name"])
def test_a_frame_that_breaks_the_format_is_refused_by_name(row):
    with pytest.raises(PeerError) as caught:
        trunk_control.decode(bytes.fromhex(row["body"]))
    assert caught.value.code.name == row["code"]


def test_a_frame_above_its_limit_is_too_large():
    with pytest.raises(PeerError) as caught:
        trunk_control.decode(bytes(control.MAX_FRAME + 1))
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_no_leg_reads_a_message_of_trunks():
    for row in VECTORS["frames"]:
        if row["type"] in trunk_messages.OWN:
            assert control.decode(bytes.fromhex(row["frame"])[2:]).body is None


def test_the_longest_message_of_a_leg_that_passes_fits_a_frame():
    longest = messages.E2e(c=bytes(16), to=31, k=2, b=bytes(messages.MAX_E2E), p=31)
    said = control.encode_body(longest, 2**32 - 1)
    assert len(said) < trunk_messages.MAX_SAID
    full = trunk_messages.Say(half=65535, m=bytes(trunk_messages.MAX_SAID))
    assert len(control.encode_body(full, 2**32 - 1)) <= control.MAX_FRAME


@pytest.mark.parametrize(("key", "types"), [("up", UP), ("down", DOWN)])
def test_what_passes_is_told_by_its_type(key, types):
    for said in map(bytes.fromhex, VECTORS[key]):
        assert trunk_control.said(said, types) == control.decode(said).type


@pytest.mark.parametrize("said", VECTORS["neither"])
def test_nothing_else_passes_either_way(said):
    for types in (UP, DOWN):
        with pytest.raises(PeerError) as caught:
            trunk_control.said(bytes.fromhex(said), types)
        assert caught.value.code is ErrorCode.PROTOCOL_VIOLATION


def test_what_is_no_message_does_not_pass():
    with pytest.raises(PeerError) as caught:
        trunk_control.said(b"\x93\x11\x07", UP)
    assert caught.value.code is ErrorCode.BAD_ENCODING


def test_everything_a_client_says_passes_or_is_the_guests_own():
    own = {"Hello", "Ping", "Pong", "Join", "Rejoin", "Moved", "Carry"}
    from_relay = {"Challenge", "Welcome", "Ok", "Err", "Ticket", "Joined", "Gate", "Peer", "Ended"}
    from_relay |= {"Rate", "LegStats", "Obs", "Punch", "Drain"}
    names = {cls.__name__ for cls in messages.MESSAGES.values()}
    assert {messages.MESSAGES[number].__name__ for number in UP} == names - own - from_relay


def test_codes_of_trunks_are_no_codes_of_legs():
    assert {int(code) for code in TrunkCode}.isdisjoint(int(code) for code in ErrorCode)


@given(anything([frame[2:] for frame in FRAMES] + [bytes.fromhex(row["body"]) for row in VECTORS["refused"]]))
def test_any_bytes_are_a_frame_or_a_peer_error(data):
    try:
        frame = trunk_control.decode(data)
    except PeerError:
        return
    if frame.body is not None:
        # Compared as bytes: `data` of an `Err` may hold a NaN, which equals nothing.
        written = control.encode_body(frame.body, frame.id)
        assert control.encode_body(trunk_control.decode(written).body, frame.id) == written


@pytest.mark.parametrize("code", [*ErrorCode, *TrunkCode])
def test_a_connection_is_closed_with_the_code_that_was_named(code):
    assert trunk_control.code_of(int(code)) is code


def test_a_code_that_nobody_knows_is_a_general_one():
    assert trunk_control.code_of(0xFFFF) is ErrorCode.GENERAL
