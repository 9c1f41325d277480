"""The same hostile packets against the native lane, fed packet by packet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import pytest

from hostile import table_edge as table
from hostile import test_packets as same
from lanes import HAS_NATIVE


class Row(Protocol):
    """Of any table."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Row)
pytestmark = pytest.mark.skipif(not HAS_NATIVE, reason="this build has no native lane")
OF_THE_TWIN = {
    # A defect is put into methods that stand in Rust here.
    "a defect on the media path, met by one connection",
    "a defect met by a packet of nobody",
    # The native front reads the machine's wall clock (its tests in Rust simulate it) ...
    "an address token of 11 seconds ago",
    # ... and judges packets with unknown ids at once, so none of them waits.
    "a flood that fills the queue of unknown packets",
}


def both(rows: Sequence[T]) -> list[T]:
    """Those of the rows that the native lane can be given."""
    return [row for row in rows if row.id not in OF_THE_TWIN]


@pytest.mark.parametrize("row", both(table.PACKETS), ids=lambda row: row.id)
def test_a_packet_of_a_stranger(row: table.Packet) -> None:
    same.test_a_packet_of_a_stranger_is_dropped_by_name_or_answered_with_less(row, "native")


@pytest.mark.parametrize("row", table.FRAMES, ids=lambda row: row.id)
def test_frames_against_the_rules(row: table.Frames) -> None:
    same.test_frames_against_the_rules_close_the_connection_with_their_code(row, "native")


@pytest.mark.parametrize("row", table.TAMPERED, ids=lambda row: row.id)
def test_a_tampered_packet(row: table.Tampered) -> None:
    same.test_a_tampered_packet_moves_and_closes_nothing(row, "native")


@pytest.mark.parametrize("row", table.MEDIA, ids=lambda row: row.id)
def test_a_hostile_datagram(row: table.Media) -> None:
    same.test_a_hostile_datagram_reaches_nobody(row, "native")


@pytest.mark.parametrize("row", table.CARRIED, ids=lambda row: row.id)
def test_what_a_hostile_node_sends(row: table.Carried) -> None:
    same.test_what_a_hostile_node_sends_on_a_trunk_reaches_nobody(row, "native")


@pytest.mark.parametrize("row", both(table.MANNERS), ids=lambda row: row.id)
def test_a_connection_without_manners(row: table.Manner) -> None:
    same.test_a_connection_without_manners_meets_its_limit(row, "native")
