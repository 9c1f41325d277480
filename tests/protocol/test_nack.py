"""What is asked for by name: in time, not too often, of few, and each twice at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.protocol.datagram import Nack, decode_datagram, encode_datagram
from relay.protocol.nack import PERIOD_S, SAVED, SHARE, SPAN, TRIES, Asker, wants

RTT = 0.04
SLACK = 0.13


def ctrs(nack: Nack | None, near: int) -> list[int]:
    """What it asks for, of counters near this one."""
    if nack is None:
        return []
    return [ctr for ctr in range(max(0, near - 64), near + 1) if wants(nack, nack.kid, ctr)]


def test_what_is_missing_is_asked_for_at_once_and_once_more_after_a_round_trip() -> None:
    asker = Asker(9)
    assert asker.on_packet(3, 100, 0, 1.0, RTT, SLACK) is None
    assert asker.on_packet(3, 103, 0b11, 1.06, RTT, SLACK) == Nack(9, 3, 101, 0b11)
    assert asker.on_packet(3, 104, 0b110, 1.08, RTT, SLACK) is None
    assert ctrs(asker.on_packet(3, 105, 0b1100, 1.111, RTT, SLACK), 105) == [102]  # for 101 it is too late
    assert asker.on_packet(3, 106, 0b11000, 1.17, RTT, SLACK) is None


def test_what_came_meanwhile_is_not_asked_for_again() -> None:
    asker = Asker(9)
    asker.on_packet(3, 100, 0, 1.0, RTT, SLACK)
    asker.on_packet(3, 103, 0b11, 1.06, 0.01, SLACK)
    assert ctrs(asker.on_packet(3, 104, 0b010, 1.085, 0.01, SLACK), 104) == [102]


def test_where_a_repeat_would_come_too_late_none_is_asked_for() -> None:
    asker = Asker(9)
    asker.on_packet(3, 100, 0, 1.0, 0.125, SLACK)
    assert asker.on_packet(3, 102, 1, 1.04, 0.125, SLACK) is None
    assert asker.on_packet(3, 104, 0b101, 1.08, 0.08, SLACK) == Nack(9, 3, 103, 1)


def test_there_is_one_request_in_twenty_milliseconds() -> None:
    asker = Asker(9)
    asker.on_packet(3, 100, 0, 1.0, RTT, SLACK)
    assert asker.on_packet(3, 102, 1, 1.04, RTT, SLACK) is not None
    assert asker.on_packet(3, 104, 0b101, 1.05, RTT, SLACK) is None
    assert ctrs(asker.on_packet(3, 105, 0b1010, 1.06, RTT, SLACK), 105) == [103]


def test_one_packet_in_five_is_asked_for_and_no_more() -> None:
    asker = Asker(9)
    asked = 0
    for newest in range(0, 4000, 2):  # each second one is missing
        nack = asker.on_packet(3, newest, 1 if newest else 0, newest * 0.02, RTT, SLACK)
        asked += 0 if nack is None else nack.map.bit_count()
    assert asked <= SHARE * 4000 + SAVED
    assert asked > 0.9 * SHARE * 4000


def test_counters_go_round_at_65536_in_a_request() -> None:
    asker = Asker(9)
    asker.on_packet(3, 0x1FFFD, 0, 1.0, RTT, SLACK)
    nack = asker.on_packet(3, 0x20002, 0b1011, 1.08, RTT, 0.2)
    assert nack == Nack(9, 3, 0xFFFE, 0b1101)
    assert [ctr for ctr in range(0x1FFF0, 0x20010) if wants(nack, 3, ctr)] == [0x1FFFE, 0x20000, 0x20001]


def test_another_key_begins_anew() -> None:
    asker = Asker(9)
    asker.on_packet(3, 100, 0, 1.0, RTT, SLACK)
    assert asker.on_packet(4, 1, 1, 1.02, RTT, SLACK) == Nack(9, 4, 0, 1)
    assert not wants(Nack(9, 4, 0, 1), 3, 0)


@pytest.mark.parametrize("behind", [0, 15])
def test_a_request_names_sixteen_packets_from_its_base(behind: int) -> None:
    assert wants(Nack(1, 0, 10, 0xFFFF), 0, 10 + behind)
    assert not wants(Nack(1, 0, 10, 0xFFFF), 0, 10 + SPAN)
    assert not wants(Nack(1, 0, 10, 0xFFFF), 0, 9)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 0xFFFF), st.floats(0, 0.1), st.floats(0, 0.5)),
        max_size=60,
    )
)
def test_whatever_is_missing_no_packet_is_asked_for_three_times_and_no_two_requests_are_close(
    steps: list[tuple[int, int, float, float]],
) -> None:
    asker, newest, now, last = Asker(9), 20, 1.0, -1.0
    asked: dict[int, int] = {}
    for ahead, missing, seconds, slack in steps:
        newest, now = newest + ahead, now + seconds
        nack = asker.on_packet(3, newest, missing, now, RTT, slack)
        if nack is None:
            continue
        assert decode_datagram(encode_datagram(nack)) == nack
        assert now - last >= PERIOD_S - 0.002
        last = now
        for ctr in ctrs(nack, newest):
            assert missing >> (newest - 1 - ctr) & 1
            asked[ctr] = asked.get(ctr, 0) + 1
    # What came and went missing again is a lie of the network; of the others each is asked for twice at most.
    assert sum(asked.values()) <= SAVED + SHARE * (newest - 20) + 1
    assert TRIES == 2
