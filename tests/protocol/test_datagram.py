"""Control datagrams: the golden leg report, sizes, and what is ignored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybytes import anything
from golden import load
from relay.errors import LocalError, PeerError
from relay.protocol import control
from relay.protocol.datagram import (
    FlowReport,
    LegReport,
    Nack,
    NewestWins,
    Padding,
    Ping,
    Pong,
    Tallied,
    Tally,
    decode_datagram,
    encode_datagram,
)

VECTORS = load("datagram")
GOLDEN = VECTORS["leg_report"]
ONE = FlowReport(1, 0, 0, 1, None, None, None, 0, 0, 0, 0)
RR = control.Rr(c=bytes(16), s=())


def test_the_golden_leg_report_reads_as_its_fields_and_writes_back():
    data = bytes.fromhex(GOLDEN["datagram"])
    report = decode_datagram(data)
    assert isinstance(report, LegReport)
    assert (report.seq, report.t) == (GOLDEN["seq"], GOLDEN["t"])
    (flow,) = report.flows
    for name in ("flow", "kid", "newest", "delay_min", "delay_mean", "delay_p95"):
        assert getattr(flow, name) == GOLDEN[name]
    for name in ("age_ms", "jb_ms", "late", "recovered"):
        assert getattr(flow, name) == GOLDEN[name]
    assert sorted(flow.newest - ctr for ctr in flow.missing()) == GOLDEN["missing_behind_newest"]
    assert encode_datagram(report) == data


@pytest.mark.parametrize("row", VECTORS["datagrams"], ids=lambda row: row["name"])
def test_every_kind_reads_and_writes_alike(row):
    data = bytes.fromhex(row["datagram"])
    value = decode_datagram(data)
    assert type(value).__name__ == row["name"]
    assert encode_datagram(value) == data


@pytest.mark.parametrize("data", VECTORS["unknown"])
def test_a_type_of_a_later_version_is_ignored(data):
    value = decode_datagram(bytes.fromhex(data))
    assert value is None or (isinstance(value, NewestWins) and value.body is None)


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["name"])
def test_a_datagram_that_breaks_its_format_is_refused_by_name(row):
    with pytest.raises(PeerError) as caught:
        decode_datagram(bytes.fromhex(row["datagram"]))
    assert caught.value.code.name == row["code"]


@pytest.mark.parametrize(
    "value",
    [
        *(Padding(1), Padding(1025), Ping(-1, 0), Ping(0, 2**32), Pong(0, 0, None), Nack(1, 256, 0, 0)),
        *(LegReport(0, 0, ()), LegReport(0, 0, (ONE,) * 9), LegReport(65536, 0, (ONE,))),
        LegReport(0, 0, (ONE._replace(late=65536),)),
        *(Tally(-1), Tally(2**32), Tallied(0, 2**64), Tallied(0, -1)),
        *(NewestWins(0x22, 1, None), NewestWins(0x24, -1, RR)),
    ],
    ids=repr,
)
def test_a_value_that_does_not_fit_is_our_own_fault(value):
    with pytest.raises(LocalError):
        encode_datagram(value)


def test_a_message_too_large_for_a_datagram_is_our_own_fault():
    entries = tuple(control.RrEntry(p=i, hi=2**32 - 1, n=2**32, lost=2**32) for i in range(32))
    with pytest.raises(LocalError):
        encode_datagram(NewestWins(0x24, 1, control.Rr(c=bytes(16), s=entries)))


def test_an_unmeasured_delay_travels_as_ffff():
    data = encode_datagram(LegReport(0, 0, (ONE,)))
    assert data.count(b"\xff\xff") == 3
    assert decode_datagram(data).flows == (ONE,)


u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
flow_numbers = st.integers(1, 62)
delays = st.none() | st.integers(0, 0xFFFE)


@st.composite
def flow_reports(draw):
    newest = draw(u32)
    base = max(0, newest - 63)
    bits = draw(st.integers(0, 2 ** (newest - base) - 1)) | 1 << (newest - base)
    rest = (draw(delays), draw(delays), draw(delays), draw(u16), draw(u16), draw(u16), draw(u16))
    return FlowReport(draw(flow_numbers), draw(u8), base, bits, *rest)


values = st.one_of(
    st.builds(Padding, st.integers(2, 1024)),
    st.builds(Ping, u32, u32),
    st.builds(Pong, u32, u32, u32),
    st.builds(Nack, flow_numbers, u8, u16, u16),
    st.builds(Tally, u32),
    st.builds(Tallied, u32, u64),
    st.builds(LegReport, u16, u32, st.lists(flow_reports(), min_size=1, max_size=8).map(tuple)),
    st.builds(NewestWins, st.just(0x24), u32, st.just(RR)),
)


@given(values)
def test_what_was_written_is_read(value):
    assert decode_datagram(encode_datagram(value)) == value


@given(flow_reports())
def test_a_flow_report_names_its_newest_and_each_gap_once(report):
    missing = report.missing()
    assert report.map >> (report.newest - report.base) == 1
    assert len(missing) + report.map.bit_count() == report.newest - report.base + 1


@given(anything([bytes.fromhex(row["datagram"]) for row in VECTORS["datagrams"] + VECTORS["refused"]]))
def test_any_bytes_are_a_datagram_or_a_peer_error(data):
    try:
        value = decode_datagram(data)
    except PeerError:
        return
    if value is not None and not (isinstance(value, NewestWins) and value.body is None):
        assert decode_datagram(encode_datagram(value)) == value
