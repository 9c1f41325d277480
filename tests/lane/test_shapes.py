"""What a listener's way bears: copies that wait for each other, and redundancy that goes no further."""

from __future__ import annotations

import pytest

from lane.test_bounds import connect
from lane.test_repairs import Pair
from lanes import LANES, make_lane
from relay.core.events import Shape
from relay.core.reasons import DropReason
from relay.edge.lane import Lane
from relay.protocol import media

PLENTY = 10**8
COALESCED = Shape(hold=0.005)
PAIRED = Shape(hold=0.07, frames=2)


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return make_lane(request.param)


class Three(Pair):
    """Legs 1 and 3 speak, leg 2 hears them as flows 9 and 10."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(lane, None)
        lane.open_leg(3, pps=1000, up_bps=PLENTY, down_bps=PLENTY)
        lane.open_flow(3, 4, index=1, group=False)
        lane.route(3, 4, [(2, 10)], None)
        connect(lane, 3)

    def also_say(self, ctr: int) -> None:
        assert self.lane.deliver(3, media.encode_header(4, 4, ctr) + bytes(60), self.now) is None


def flows(packets: list[list[bytes]]) -> list[list[int]]:
    return [[datagram[0] for datagram in packet] for packet in packets]


def test_what_two_say_within_five_milliseconds_shares_a_packet(lane: Lane) -> None:
    three = Three(lane)
    lane.shape(2, COALESCED)
    three.say(0)
    three.also_say(0)
    assert flows(three.flush()) == [[9, 10]]
    three.now += 0.02
    three.say(1)
    assert three.flush() == []
    assert lane.next_ack() == pytest.approx(three.now + 0.005)
    three.now += 0.003
    three.also_say(1)
    assert flows(three.flush()) == [[9, 10]]  # both are there: nothing more is waited for


def test_what_one_says_alone_leaves_after_five_milliseconds(lane: Lane) -> None:
    three = Three(lane)
    three.say(0)
    three.also_say(0)
    three.flush()
    lane.shape(2, COALESCED)
    three.say(1)
    assert three.flush() == []
    three.now += 0.0035
    assert three.flush() == []
    three.now += 0.001
    assert flows(three.flush()) == [[9]]
    assert lane.counters.imbalance() == 0


def test_where_one_is_heard_nothing_waits_for_others(lane: Lane) -> None:
    pair = Pair(lane, None)
    lane.shape(2, COALESCED)
    pair.say(0)
    assert flows(pair.flush()) == [[9]]


def test_two_frames_of_a_starved_listener_leave_together_or_after_their_time(lane: Lane) -> None:
    pair = Pair(lane, None)
    lane.shape(2, PAIRED)
    for ctr in range(4):
        pair.say(ctr)
        assert flows(pair.flush()) == ([[9, 9]] if ctr % 2 else [])
        pair.now += 0.06
    pair.say(4)
    assert pair.flush() == []
    pair.now += 0.07
    assert flows(pair.flush()) == [[9]]


def test_a_listener_who_is_as_before_waits_for_nothing(lane: Lane) -> None:
    pair = Pair(lane, None)
    lane.shape(2, PAIRED)
    pair.say(0)
    assert pair.flush() == []
    lane.shape(2, Shape())
    pair.say(1)
    assert flows(pair.flush()) == [[9, 9]]
    lane.shape(77, PAIRED)


@pytest.mark.parametrize("shape", [Shape(redundancy=False), Shape()])
def test_mere_redundancy_goes_no_further_where_it_is_not_wanted(lane: Lane, shape: Shape) -> None:
    pair = Pair(lane, None)
    lane.shape(2, shape)
    for ctr, pp in enumerate((media.PP_SPEECH, media.PP_COMFORT, media.PP_REDUNDANT, media.PP_ONSET)):
        pair.say(ctr, pp=pp)
    (heard,) = pair.flush()
    assert len(heard) == 3 + shape.redundancy
    assert lane.counters.dropped_out[DropReason.NOT_WANTED] == 1 - shape.redundancy
    assert lane.counters.imbalance() == 0


@pytest.mark.parametrize("classes", [set(), {media.PP_REDUNDANT}, {media.PP_REDUNDANT, media.PP_COMFORT}])
def test_what_a_full_node_gives_up_goes_to_nobody_and_is_counted(lane: Lane, classes: set[int]) -> None:
    pair = Pair(lane, None)
    lane.shed({media.PP_SPEECH})
    lane.shed(classes)
    for ctr, pp in enumerate((media.PP_SPEECH, media.PP_COMFORT, media.PP_REDUNDANT, media.PP_ONSET)):
        pair.say(ctr, pp=pp)
    (heard,) = pair.flush()
    assert [datagram[1] >> media.PP_SHIFT & 3 for datagram in heard] == [
        pp
        for pp in (media.PP_SPEECH, media.PP_COMFORT, media.PP_REDUNDANT, media.PP_ONSET)
        if pp not in classes
    ]
    assert lane.counters.dropped_out[DropReason.SHED] == len(classes)
    assert lane.counters.imbalance() == 0


def test_what_waits_leaves_when_the_leg_closes_as_what_nobody_got(lane: Lane) -> None:
    pair = Pair(lane, None)
    lane.shape(2, PAIRED)
    pair.say(0)
    pair.flush()
    lane.close_leg(2)
    pair.now += 1.0
    assert pair.flush() == []
    assert lane.counters.dropped_out[DropReason.PEER_GONE] == 1
