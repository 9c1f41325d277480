"""How long copies stay, and since when flows are heard: the same figures from both lanes."""

from __future__ import annotations

import pytest

from lanes import LANES, make_lane
from relay.core.spread import RESIDENCE
from relay.edge.lane import Lane
from relay.protocol import media

A, B, UP = 1, 2, 4


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    """Two legs on TCP; A's flow reaches B."""
    made = make_lane(request.param)
    for leg in (A, B):
        made.open_stream(leg)
        made.open_leg(leg, pps=500, up_bps=512_000, down_bps=512_000)
        made.open_flow(leg, UP, index=leg - 1, group=False)
    made.route(A, UP, [(B, 9)], None)
    return made


def say(lane: Lane, ctr: int, now: float) -> None:
    assert lane.deliver(A, media.encode_header(UP, 0, ctr) + bytes(60), now) is None


def test_each_copy_that_leaves_is_counted_by_how_long_it_was_here(lane: Lane) -> None:
    stays = [0.0, 0.0004, 0.004, 0.02, 0.09, 0.15]
    for ctr, stay in enumerate(stays):
        say(lane, ctr, 10.0 + ctr)
        assert len(lane.drain(B, 10.0 + ctr + stay, 5_000)) == 1
    spread = lane.residence
    assert spread.bounds == RESIDENCE
    assert spread.counts == [1, 1, 0, 0, 1, 0, 1, 1, 1]
    assert spread.sum == pytest.approx(sum(stays), abs=1e-6)


def test_what_is_dropped_did_not_stay(lane: Lane) -> None:
    say(lane, 1, 10.0)
    assert lane.drain(B, 11.0, 5_000) == []
    assert lane.residence.total == 0


def test_a_flow_is_heard_from_its_first_datagram_that_went_on(lane: Lane) -> None:
    keys = [(A, UP), (B, UP), (A, 7), (9, UP)]
    assert lane.flowing(keys) == {}
    for ctr in range(3):
        say(lane, ctr, 12.0 + ctr)
    assert lane.flowing(keys) == {(A, UP): (12.0, 3)}
    assert lane.close_flow(A, UP).first == 12.0
    assert lane.flowing(keys) == {}
    assert lane.close_flow(B, UP).first is None
