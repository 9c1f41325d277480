"""The hostile packets for an allocation once more, with the native lane."""

from __future__ import annotations

import pytest

from hostile.test_turn_data import test_a_hostile_packet_for_an_allocation_is_dropped_by_its_name
from lanes import HAS_NATIVE, make_lane
from relay.edge.lane import Lane

__all__ = ["test_a_hostile_packet_for_an_allocation_is_dropped_by_its_name"]
pytestmark = pytest.mark.skipif(not HAS_NATIVE, reason="this build has no native lane")


@pytest.fixture
def lane() -> Lane:
    return make_lane("native")
