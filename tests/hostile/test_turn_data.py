"""Every hostile packet for an allocation: dropped by its name, and nobody else hears of it."""

from __future__ import annotations

import pytest

from hostile.table_turn import CHANNEL, CLIENT, DOOR, HOSTS, NOW, PEER, PPS, RELAYED, UNTIL, Relayed
from lanes import make_lane
from relay.edge.lane import Lane


@pytest.fixture
def lane() -> Lane:
    """Which lane; test_turn_native.py runs the same with the other."""
    return make_lane("python")


@pytest.mark.parametrize("row", RELAYED, ids=lambda row: row.id)
def test_a_hostile_packet_for_an_allocation_is_dropped_by_its_name(row: Relayed, lane: Lane) -> None:
    budget = {"fd": -1, "bps": 8 * 20_000}
    lane.open_relay(1, CLIENT, 0, relayed=DOOR, pps=PPS, **budget)
    lane.open_relay_stream(2, relayed=(DOOR[0], 50001), pps=1000, **budget)
    for allocation in (1, 2):
        lane.permit(allocation, HOSTS["peer"], UNTIL)
    lane.bind_channel(1, CHANNEL, PEER, UNTIL)
    row.act(lane)
    relays = lane.relays
    assert set(+(relays.up.dropped + relays.down.dropped)) == {row.reason}
    assert relays.imbalance() == lane.packets().imbalance() == 0
    assert {peer for _, _, peer in lane.flush_relays()} <= {PEER}
    assert {client for _, _, client in lane.flush(NOW)} <= {CLIENT}
