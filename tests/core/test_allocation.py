"""One allocation: its life, its permissions, its channels, and when each is over."""

from __future__ import annotations

import pytest

from relay.core.allocation import CHANNEL_S, OPENING_S, PERMISSION_S, REST_S, Allocation, Stage
from relay.core.company import Owner
from relay.core.credentials import Via
from relay.errors import LocalError
from relay.protocol.address import Address

PEER, OTHER = Address("8.8.8.8", 9), Address("8.8.4.4", 9)


def made(now: float = 0.0) -> Allocation:
    via = Via("udp", Address("7.7.7.7", 7000), 1)
    return Allocation(1, via, Owner(None, b"ann"), b"1:ann", b"secret", 4, now)


def live() -> Allocation:
    allocation = made()
    allocation.on_opened(Address("9.9.9.9", 50000), 600.0)
    return allocation


def test_it_opens_lives_and_is_gone() -> None:
    allocation = made(10.0)
    assert (allocation.state, allocation.is_live, allocation.until) == (
        Stage.OPENING,
        False,
        10.0 + OPENING_S,
    )
    allocation.on_opened(Address("9.9.9.9", 50000), 610.0)
    assert (allocation.state, allocation.is_live, allocation.until) == (Stage.LIVE, True, 610.0)
    allocation.on_ended()
    assert allocation.state is Stage.GONE
    assert not allocation.is_live


def test_what_is_not_in_the_table_is_a_bug() -> None:
    allocation = live()
    with pytest.raises(LocalError):
        allocation.on_opened(Address("9.9.9.9", 50000), 600.0)
    allocation.on_ended()
    with pytest.raises(LocalError):
        allocation.on_ended()


def test_one_that_fails_to_open_is_gone_too() -> None:
    allocation = made()
    allocation.on_ended()
    assert allocation.state is Stage.GONE


def test_a_permission_lasts_five_minutes_from_its_last_request() -> None:
    allocation = live()
    allocation.permit(PEER.packed, 0.0).told = PERMISSION_S
    assert allocation.new_among({PEER.packed, OTHER.packed}) == 1
    allocation.permit(PEER.packed, 200.0)
    assert allocation.expire(499.9) == ([], [])
    assert allocation.next_deadline(499.9) == 500.0
    assert allocation.expire(500.0) == ([PEER.packed], [])
    assert allocation.permissions == {}


def test_a_permission_the_lane_was_not_told_of_ends_silently() -> None:
    allocation = live()
    allocation.permit(PEER.packed, 0.0)
    assert allocation.expire(PERMISSION_S) == ([], [])
    assert allocation.permissions == {}


def test_a_channel_lasts_ten_minutes_and_its_number_rests_five() -> None:
    allocation = live()
    allocation.until = 10_000.0
    allocation.bind(0x4000, PEER, 0.0).told = CHANNEL_S
    assert [number for number, _ in allocation.bound(CHANNEL_S - 1)] == [0x4000]
    assert allocation.next_deadline(0.0) == CHANNEL_S
    assert allocation.expire(CHANNEL_S) == ([], [0x4000])
    assert list(allocation.bound(CHANNEL_S)) == []
    assert allocation.channel_clash(0x4000, OTHER)
    assert allocation.next_deadline(CHANNEL_S) == CHANNEL_S + REST_S
    assert allocation.expire(CHANNEL_S + REST_S - 1) == ([], [])
    assert allocation.expire(CHANNEL_S + REST_S) == ([], [])
    assert allocation.channels == {}
    assert not allocation.channel_clash(0x4000, OTHER)


def test_a_channel_that_still_runs_is_left_alone() -> None:
    allocation = live()
    allocation.bind(0x4000, PEER, 0.0).told = CHANNEL_S
    assert allocation.expire(CHANNEL_S - 1) == ([], [])
    assert allocation.channels[0x4000].told == CHANNEL_S


def test_a_resting_channel_wakes_for_its_own_peer() -> None:
    allocation = live()
    allocation.bind(0x4000, PEER, 0.0)
    allocation.expire(CHANNEL_S)
    assert not allocation.channel_clash(0x4000, PEER)
    allocation.bind(0x4000, PEER, CHANNEL_S)
    assert [number for number, _ in allocation.bound(CHANNEL_S)] == [0x4000]


def test_a_number_has_one_peer_and_a_peer_one_number() -> None:
    allocation = live()
    assert not allocation.channel_clash(0x4000, PEER)
    allocation.bind(0x4000, PEER, 0.0)
    assert not allocation.channel_clash(0x4000, PEER)
    assert allocation.channel_clash(0x4000, OTHER)
    assert allocation.channel_clash(0x4001, PEER)
    assert not allocation.channel_clash(0x4001, OTHER)
    assert not allocation.channel_clash(0x4001, PEER._replace(port=10))  # another port is another peer


def test_the_end_of_the_allocation_is_its_last_deadline() -> None:
    allocation = live()
    assert allocation.next_deadline(0.0) == 600.0
    allocation.permit(PEER.packed, 0.0)
    assert allocation.next_deadline(0.0) == PERMISSION_S
