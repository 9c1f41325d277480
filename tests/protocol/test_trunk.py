"""Datagrams of trunks: voices on routes, and the hop report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from relay.errors import LocalError, PeerError
from relay.protocol import media, trunk
from relay.protocol.datagram import Padding, Ping, Pong
from relay.protocol.trunk import HOP, MAX_DATAGRAM, MAX_MEDIA, Carried, HopReport, RouteReport

VECTORS = load("trunk")
MEDIA = [bytes.fromhex(row["datagram"]) for row in VECTORS["media"]]
ONE = RouteReport(64, 0x012345, 48, 2, 1, 31)
GOLDEN = bytes.fromhex("000800070001e24001004000012345003000020001001f")


@pytest.mark.parametrize("row", VECTORS["media"], ids=lambda row: row["route"])
def test_a_voice_goes_onto_a_route_and_to_a_listener_with_what_its_tag_covers_untouched(row):
    leg, data = bytes.fromhex(row["leg"]), bytes.fromhex(row["datagram"])
    assert trunk.from_leg(leg, row["route"]) == data
    carried = trunk.decode(data)
    assert isinstance(carried, Carried)
    assert (carried.route, carried.hop) == (row["route"], HOP)
    before = media.decode(leg)
    assert (carried.header.kid, carried.header.ctr) == (before.kid, before.ctr)
    copy = trunk.to_leg(data, row["flow"])
    assert copy.hex() == row["copy"]
    after = media.decode(copy)
    assert (after.flow, after.repeat) == (row["flow"], False)
    assert media.aad(copy, after) == media.aad(leg, before)
    assert copy[after.size :] == leg[before.size :]
    assert media.aad(data[2:], carried.header) == media.aad(leg, before)


@pytest.mark.parametrize("data", VECTORS["hops"])
def test_what_passed_another_number_of_relays_is_read_and_says_so(data):
    raw = bytes.fromhex(data)
    carried = trunk.decode(raw)
    assert carried.hop == raw[2] != HOP
    assert carried.header == trunk.decode(MEDIA[0]).header


@pytest.mark.parametrize("row", VECTORS["datagrams"], ids=lambda row: row["name"])
def test_every_kind_of_control_reads_and_writes_alike(row):
    data = bytes.fromhex(row["datagram"])
    value = trunk.decode(data)
    assert type(value).__name__ == row["name"]
    assert trunk.encode(value) == data


def test_the_golden_hop_report_reads_as_its_fields():
    assert trunk.decode(GOLDEN) == HopReport(7, 123456, (ONE,))


def test_an_unmeasured_delay_travels_as_ffff():
    report = HopReport(0, 0, (ONE._replace(delay_p95=None),))
    assert trunk.encode(report).endswith(b"\xff\xff")
    assert trunk.decode(trunk.encode(report)) == report


def test_the_largest_of_each_fit_a_packet_with_its_frame():
    full = HopReport(0, 0, tuple(ONE._replace(route=64 + i) for i in range(80)))
    assert len(trunk.encode(full)) == MAX_DATAGRAM == 1129
    longest = trunk.from_leg(media.encode_header(1, 0, 0) + bytes(1021), 64)
    assert len(longest) == MAX_MEDIA == 1026
    assert trunk.decode(longest).route == 64
    # Of a packet: first byte, an id of 8, number of at most 4, AEAD tag; of a frame: type and length.
    assert MAX_DATAGRAM + 1 + 8 + 4 + 16 + 1 + 2 <= 1200


@pytest.mark.parametrize("data", VECTORS["unknown_datagrams"])
def test_a_kind_of_legs_or_of_a_later_version_is_ignored(data):
    assert trunk.decode(bytes.fromhex(data)) is None


@pytest.mark.parametrize("row", VECTORS["refused_datagrams"], ids=lambda row: row["name"])
def test_a_datagram_that_breaks_its_format_is_refused_by_name(row):
    with pytest.raises(PeerError) as caught:
        trunk.decode(bytes.fromhex(row["datagram"]))
    assert caught.value.code.name == row["code"]


@pytest.mark.parametrize(
    "value",
    [
        *(Padding(1), Ping(-1, 0), Pong(0, 0, 2**32)),
        *(HopReport(0, 0, ()), HopReport(0, 0, (ONE, ONE)), HopReport(65536, 0, (ONE,))),
        HopReport(0, 0, tuple(ONE._replace(route=64 + i) for i in range(81))),
        *(HopReport(0, 0, (ONE._replace(route=route),)) for route in (63, 16384)),
        *(HopReport(0, 0, (ONE._replace(**{field: -1}),)) for field in ("newest", "came", "missing", "late")),
        HopReport(0, 0, (ONE._replace(delay_p95=65536),)),
    ],
    ids=repr,
)
def test_a_value_that_does_not_fit_is_our_own_fault(value):
    with pytest.raises(LocalError):
        trunk.encode(value)


@pytest.mark.parametrize("route", [63, 16384])
def test_a_voice_goes_onto_no_other_number(route):
    with pytest.raises(LocalError):
        trunk.from_leg(bytes.fromhex(VECTORS["media"][0]["leg"]), route)


u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
routes = st.integers(64, 16383)
reports = st.builds(RouteReport, routes, u32, u16, u16, u16, st.none() | st.integers(0, 0xFFFE))
values = st.one_of(
    st.builds(Padding, st.integers(2, 1024)),
    st.builds(Ping, u32, u32),
    st.builds(Pong, u32, u32, u32),
    st.builds(
        HopReport,
        u16,
        u32,
        st.lists(reports, min_size=1, max_size=80, unique_by=lambda each: each.route).map(tuple),
    ),
)


@given(values)
def test_what_was_written_is_read(value):
    assert trunk.decode(trunk.encode(value)) == value


headers = st.builds(
    media.encode_header,
    st.integers(1, 62),
    u8,
    u32,
    pp=st.integers(0, 3),
    onset=st.booleans(),
    repeat=st.booleans(),
    level=st.none() | st.integers(0, 127),
    voice=st.booleans(),
)


@given(headers, st.binary(min_size=19, max_size=1012), routes, st.integers(1, 62))
def test_any_voice_comes_out_as_it_went_in_but_for_flow_and_repeat(header, sealed, route, flow):
    leg = header + sealed
    data = trunk.from_leg(leg, route)
    assert trunk.decode(data)[:2] == (route, HOP)
    assert trunk.to_leg(data, flow) == media.with_flow(leg, flow, False)


@given(anything([*MEDIA, GOLDEN, *(bytes.fromhex(row["datagram"]) for row in VECTORS["datagrams"])]))
def test_any_bytes_are_a_datagram_or_a_peer_error(data):
    try:
        value = trunk.decode(data)
    except PeerError:
        return
    if isinstance(value, Carried):
        assert media.decode(trunk.to_leg(data, 9)).ctr == value.header.ctr
    elif value is not None:
        assert trunk.decode(trunk.encode(value)) == value
