"""The same hostile packets against the native lane, fed packet by packet."""

from __future__ import annotations

import pytest

from hostile import table_edge as table
from hostile import test_packets as same
from lanes import HAS_NATIVE

pytestmark = pytest.mark.skipif(not HAS_NATIVE, reason="this build has no native lane")
# A defect is put into the packet path's own methods there: native ones cannot be replaced.
OF_THE_TWIN = {"a defect on the media path, met by one connection"}


@pytest.mark.parametrize("row", table.PACKETS, ids=lambda row: row.id)
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


@pytest.mark.parametrize(
    "row", [row for row in table.MANNERS if row.id not in OF_THE_TWIN], ids=lambda row: row.id
)
def test_a_connection_without_manners(row: table.Manner) -> None:
    same.test_a_connection_without_manners_meets_its_limit(row, "native")
