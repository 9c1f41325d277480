"""What a listener missed goes again, in either lane: beside others, alone in a pause, or at a distance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aioquic.quic.rangeset import RangeSet

from lane.test_bounds import _Far, connect
from lanes import LANES, make_lane
from relay.core.adapt import Mode
from relay.core.events import Measure, Repair
from relay.core.reasons import DropReason
from relay.edge.lane import Gap, Lane
from relay.edge.repeats import BESIDE, RING, RING_BYTES
from relay.protocol import frames, media
from relay.protocol.datagram import Nack

START = 100.0
PLENTY = 10**8
REPEATS = Repair(mode=Mode.REPEATS, budget=1.0, depth=50.0, max_age=0.12, ack_slack=0.010)
COPIES = replace(REPEATS, mode=Mode.COPIES, distances=(2,))


class Pair:
    """Leg 1 speaks, leg 2 hears it as flow 9 over 40 ms there and back; nothing passes by itself."""

    def __init__(self, lane: Lane, repair: Repair | None) -> None:
        self.lane = lane
        self.now = START
        for leg in (1, 2):
            lane.open_leg(leg, pps=1000, up_bps=PLENTY, down_bps=PLENTY)
        lane.open_flow(1, 4, index=0, group=False)
        lane.route(1, 4, [(2, 9)], None)
        self.speaker, self.listener = connect(lane, 1), connect(lane, 2)
        self.listener.peer_cid = bytes(8)  # what its own end goes by
        self.listener.tell(self.listener.relay)
        self.know_rtt()
        if repair is not None:
            lane.tell_repair(2, repair)

    def know_rtt(self) -> None:
        """So what is missed for 51 ms goes again."""
        self.listener.relay.set_rtt(0.04, 0.04, 0.0, 0.04)

    def say(self, ctr: int, size: int = 60, pp: int = media.PP_SPEECH) -> bytes:
        """The speaker's packet arrives; as the listener would hear it."""
        voice = media.encode_header(4, 0, ctr, pp=pp) + bytes((ctr % 256,)) * size
        assert self.lane.deliver(1, voice, self.now) is None
        return media.with_flow(voice, 9, False)

    def flush(self) -> list[list[bytes]]:
        """What leaves now: the datagrams of each packet."""
        heard = []
        for _, packet, _ in self.lane.flush(self.now):
            opened = self.listener.path.receive(packet, ("r", 1), 0, self.now)
            heard.append(opened.datagrams)  # type: ignore[union-attr]  # it is the listener's
        return heard

    def turn(self, ctr: int) -> list[bytes]:
        """20 ms later, one more packet: what leaves in it."""
        self.now += 0.02
        self.say(ctr)
        (heard,) = self.flush()
        return heard

    def acknowledge(self, *numbers: int) -> None:
        """These packets, by their numbers, came."""
        came = RangeSet()
        for number in numbers:
            came.add(number, number + 1)
        self.hear(self.listener, frames.encode_ack([(part.start, part.stop) for part in came], 0))
        self.know_rtt()

    def hear(self, client: _Far, plain: bytes) -> None:
        self.lane.receive(client.frames_packet(plain), client.address, client.sock, self.now)

    def measure(self) -> Measure:
        return self.lane.measure([2], self.now)[0]


def again(copy: bytes) -> bytes:
    return media.with_flow(copy, 9, True)


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return make_lane(request.param)


def test_nothing_goes_again_until_it_is_asked_for(lane: Lane) -> None:
    pair = Pair(lane, None)
    assert [len(pair.turn(ctr)) for ctr in range(12)] == [1] * 12
    assert lane.repairs.kept == 0


def test_what_was_missed_goes_again_beside_each_packet_until_one_is_acknowledged(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    missed = pair.say(0)
    pair.flush()
    assert [len(pair.turn(ctr)) for ctr in (1, 2)] == [1, 1]  # 40 ms: an acknowledgement may be on its way
    pair.acknowledge(1, 2)
    for ctr in (3, 4):
        assert pair.turn(ctr)[1:] == [again(missed)]
        pair.acknowledge(1, 2)
    pair.acknowledge(1, 2, 4)  # the second of the two came
    assert len(pair.turn(5)) == 1
    counted = lane.repairs
    assert (counted.beside, counted.alone, counted.bytes) == (2, 0, 2 * len(missed))
    assert (counted.kept, counted.acked, counted.late) == (6, 4, 0)
    assert counted.imbalance() == 0
    assert lane.counters.sent == 6
    assert (pair.measure().came, pair.measure().repeats) == (4, 2)


def test_two_go_beside_one_packet_those_first_that_have_least_time(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    missed = [pair.turn(ctr)[0] for ctr in range(3)]
    pair.now += 0.06
    pair.say(3)
    assert pair.flush()[0][1:] == [again(copy) for copy in missed[:2]]


def test_what_could_not_be_played_any_more_does_not_go_again(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    missed = pair.say(0)
    pair.flush()
    pair.now = START + 0.1
    assert pair.turn(1)[1:] == [again(missed)]  # 120 ms
    assert len(pair.turn(2)) == 1
    assert lane.repairs.late == 1
    assert pair.measure().late == 1


@pytest.mark.parametrize(
    ("pp", "size"), [(media.PP_COMFORT, 60), (media.PP_REDUNDANT, 60), (media.PP_SPEECH, 28)]
)
def test_silence_and_redundancy_do_not_go_again(lane: Lane, pp: int, size: int) -> None:
    pair = Pair(lane, REPEATS)
    pair.say(0, size, pp)
    pair.flush()
    pair.now += 0.06
    assert len(pair.turn(1)) == 1
    assert lane.repairs.kept == 1


def test_before_the_round_trip_is_known_nothing_goes_again(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    fresh = connect(lane, 3)
    fresh.peer_cid = bytes(8)
    fresh.tell(fresh.relay)
    lane.open_leg(3, pps=1000, up_bps=PLENTY, down_bps=PLENTY)
    lane.route(1, 4, [(3, 9)], None)
    lane.tell_repair(3, REPEATS)
    pair.listener = fresh
    assert [len(pair.turn(ctr)) for ctr in range(6)] == [1] * 6
    assert lane.repairs.kept == 6
    assert lane.next_ack() is None


def test_an_allowance_is_earned_by_what_is_sent(lane: Lane) -> None:
    pair = Pair(lane, replace(REPEATS, budget=0.5, depth=1.0))
    pair.say(0)
    pair.flush()
    pair.now += 0.03
    assert [len(pair.turn(ctr)) for ctr in (1, 2, 3, 4)] == [1, 2, 1, 2]


def test_another_allowance_cuts_what_was_saved_and_adds_nothing(lane: Lane) -> None:
    pair = Pair(lane, replace(REPEATS, budget=0.0, depth=1.0))
    lane.tell_repair(2, replace(REPEATS, budget=0.0, depth=50.0))
    pair.say(0)
    pair.flush()
    pair.now += 0.03
    assert [len(pair.turn(ctr)) for ctr in (1, 2, 3)] == [1, 2, 1]


def test_in_a_pause_one_repeat_leaves_alone_and_once(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    pair.turn(0)
    missed = pair.turn(1)[0]
    pair.acknowledge(0)
    due = lane.next_ack()
    assert due is not None
    pair.now = due
    assert pair.flush() == []  # one packet has left since: later
    due = lane.next_ack()
    assert due == pytest.approx(START + 0.04 + 0.072)
    pair.now = due
    assert pair.flush() == [[again(missed)]]
    assert lane.next_ack() is None
    pair.now += 0.01
    assert pair.flush() == []
    assert (lane.repairs.alone, lane.repairs.beside) == (1, 0)
    pair.now += 0.02
    assert len(pair.turn(2)) == 1  # too old by now
    assert lane.next_ack() is not None  # the next pause


def test_no_repeat_leaves_alone_when_all_came_or_the_path_takes_nothing(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    pair.turn(0)
    pair.acknowledge(0)
    pair.now += 1.0
    assert pair.flush() == []
    assert lane.next_ack() is None
    pair.turn(1)
    pair.listener.tell(pair.listener.relay, active=False)
    pair.now += 0.08
    assert pair.flush() == []
    assert lane.repairs.alone == 0


def test_in_a_pause_nothing_leaves_that_is_too_old_or_beyond_the_allowance(lane: Lane) -> None:
    pair = Pair(lane, replace(REPEATS, budget=0.0, depth=0.0))
    pair.turn(0)
    pair.now += 0.08
    assert pair.flush() == []
    lane.tell_repair(2, replace(REPEATS, max_age=0.06))
    pair.turn(1)
    pair.now += 0.08
    assert pair.flush() == []
    assert lane.repairs.imbalance() == 0


def test_at_a_distance_what_left_so_many_packets_ago_goes_again_whatever_came(lane: Lane) -> None:
    pair = Pair(lane, COPIES)
    copies = [pair.turn(ctr) for ctr in range(5)]
    assert [len(datagrams) for datagrams in copies] == [1, 1, 2, 2, 2]
    for ctr in (2, 3, 4):
        assert copies[ctr][1] == again(copies[ctr - 2][0])
    assert (lane.repairs.distant, lane.repairs.beside) == (3, 0)
    assert lane.next_ack() is None  # nothing waits for a pause


def test_of_two_copies_in_one_packet_each_brings_its_own_from_before(lane: Lane) -> None:
    pair = Pair(lane, replace(COPIES, distances=(4, 2)))
    before = [pair.turn(ctr)[0] for ctr in range(4)]
    pair.now += 0.02
    for ctr in (4, 6):
        pair.say(ctr)
    (heard,) = pair.flush()
    assert heard[2:] == [again(before[0]), again(before[2])]  # the second of both needs none again


def test_what_the_listeners_rights_do_not_allow_is_not_repeated(lane: Lane) -> None:
    for repair in (REPEATS, COPIES):
        pair = Pair(make_lane(lane.name), repair)
        pair.lane.open_leg(2, pps=1000, up_bps=PLENTY, down_bps=8)
        pair.lane.open_leg(2, pps=1000, up_bps=PLENTY, down_bps=8)
        for ctr in range(2):
            pair.say(ctr, 900)
            pair.flush()
        pair.now += 0.06
        assert len(pair.turn(2)) == 1
        assert pair.lane.repairs.refused == 1


def test_when_a_gate_closes_what_was_said_before_is_not_repeated(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    pair.turn(0)
    lane.route(1, 4, [], None)
    lane.route(1, 4, [(2, 9)], None)
    pair.now += 0.04
    assert len(pair.turn(1)) == 1
    assert lane.repairs.ended == 1


@pytest.mark.parametrize("way", ["off", "leg", "path"])
def test_what_is_over_is_not_kept(lane: Lane, way: str) -> None:
    pair = Pair(lane, REPEATS)
    pair.turn(0)
    if way == "off":
        lane.tell_repair(2, Repair())
        pair.now += 0.06
        assert len(pair.turn(1)) == 1
    elif way == "leg":
        lane.close_leg(2)
    else:
        lane.close_path(2)
    pair.now += 0.1
    assert pair.flush() == []
    assert (lane.repairs.kept, lane.repairs.ended, lane.repairs.holding) == (1, 1, 0)


def test_so_much_is_kept_of_a_flow_and_of_a_leg(lane: Lane) -> None:
    pair = Pair(lane, replace(REPEATS, max_age=60.0))
    for ctr in range(RING + 3):
        pair.say(ctr, 40)
        pair.flush()
    assert (lane.repairs.holding, lane.repairs.ended) == (RING, 3)
    for ctr in range(RING + 3, 2 * RING):
        pair.now += 1.1  # what is silent for so long is not in flight
        pair.say(ctr, 1000)
        pair.flush()
    assert lane.repairs.holding == RING_BYTES // (media.MAX_SIZE + BESIDE)


def test_a_leg_without_packets_repeats_nothing_and_is_not_measured(lane: Lane) -> None:
    lane.open_stream(5)
    lane.open_leg(5, pps=1000, up_bps=PLENTY, down_bps=PLENTY)
    lane.tell_repair(5, REPEATS)
    lane.tell_repair(6, REPEATS)
    assert lane.measure([5, 6], START) == []


def test_the_way_to_a_listener_is_measured(lane: Lane) -> None:
    pair = Pair(lane, None)
    for ctr in range(12):
        pair.turn(ctr)
    pair.acknowledge(0, 3, 6, 7, 8, 11)
    known = pair.measure()
    assert (known.leg, known.acked, known.lost, known.runs) == (2, 6, 4, 2)  # of the last two it is too early
    assert known.bytes_sent == 2 * known.bytes_acked > 0
    assert known.rtt is not None
    assert (known.age, known.ack_delay) == (0.0, 0.0)
    pair.listener.tell(pair.listener.relay, active=False)
    pair.say(12)
    pair.now += 0.03
    assert pair.measure().age == pytest.approx(0.03)
    (first, _), second = lane.measure([1, 2], pair.now), lane.measure([2], pair.now)
    assert (first.leg, second[0].leg) == (1, 2)


def test_a_peer_that_takes_its_time_to_acknowledge_is_noticed(lane: Lane) -> None:
    pair = Pair(lane, None)
    for number in range(28):
        pair.turn(number)
        pair.hear(pair.listener, frames.encode_ack([(number, number + 1)], 20_000 >> 3))
    assert pair.measure().ack_delay == pytest.approx(0.020, abs=0.002)


def test_a_way_on_which_a_packet_was_lost_is_named_once_until_it_was_measured(lane: Lane) -> None:
    pair = Pair(lane, None)
    for ctr in range(5):
        pair.turn(ctr)
    assert lane.troubled() == []
    pair.acknowledge(0)
    assert lane.troubled() == []
    pair.acknowledge(0, 4)
    assert lane.troubled() == [2]
    for ctr in range(5, 10):
        pair.turn(ctr)
    pair.acknowledge(9)
    assert lane.troubled() == []  # it was named
    pair.measure()
    assert lane.troubled() == []  # it was measured since
    for ctr in range(10, 15):
        pair.turn(ctr)
    pair.acknowledge(14)
    assert lane.troubled() == [2]


def test_a_way_on_which_round_trips_become_long_is_named_when_they_do(lane: Lane) -> None:
    pair = Pair(lane, None)
    named = []
    for ctr in range(24):
        pair.turn(ctr)
        pair.now += 0.04 if ctr < 10 else 0.2
        pair.hear(pair.listener, frames.encode_ack([(ctr, ctr + 1)], 0))
        if lane.troubled():
            named.append(ctr)
            pair.measure()
    assert len(named) == 1
    assert 10 <= named[0] < 14


def test_a_way_on_which_nothing_is_acknowledged_for_a_second_is_named(lane: Lane) -> None:
    pair = Pair(lane, None)
    named = []
    for ctr in range(60):
        pair.turn(ctr)
        if lane.troubled():
            named.append(ctr)
    assert named == [51]


def test_a_leg_whose_repair_is_over_keeps_nothing_and_begins_anew(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    pair.turn(0)
    assert lane.repairs.holding == 1
    lane.tell_repair(2, Repair())
    lane.tell_repair(2, Repair())
    assert (lane.repairs.holding, lane.repairs.ended) == (0, 1)
    for ctr in range(1, 6):
        assert len(pair.turn(ctr)) == 1
    assert lane.repairs.kept == 1
    assert lane.next_ack() is None or lane.flush(pair.now + 1) == []  # the pause that was waited for
    lane.tell_repair(2, REPEATS)
    pair.turn(6)
    assert (lane.repairs.kept, pair.measure().came) == (2, 0)


def test_time_that_a_packet_took_on_its_way_up_is_not_granted_again_on_the_way_down(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    for ctr in (0, 1, 2):
        pair.turn(ctr)
    pair.acknowledge(0, 1, 2)
    for ctr in (4, 5, 6):  # 3 is lost on its way up
        pair.turn(ctr)
    late = media.encode_header(4, 0, 3, repeat=True) + b"\3" * 60
    pair.now += 0.02
    pair.say(7)
    assert lane.deliver(1, late, pair.now) is None
    (left,) = pair.flush()
    assert media.with_flow(late, 9, False) in left
    at = pair.now
    heard: list[tuple[float, int]] = []
    for ctr in range(8, 14):  # nothing is acknowledged any more
        for datagram in pair.turn(ctr)[1:]:
            heard.append((pair.now - at, media.decode(datagram).ctr))
    # It came 80 ms late: of 120 ms 40 are left, and its acknowledgement alone takes 51.
    assert 3 not in {ctr for _, ctr in heard}
    assert {7} <= {ctr for _, ctr in heard}


def test_a_lost_packet_that_comes_as_a_repeat_goes_on_as_an_original_once_and_is_told(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    pair.turn(0)
    pair.turn(2)
    assert lane.troubled() == []
    late = media.encode_header(4, 0, 1, repeat=True) + b"\1" * 60
    assert lane.deliver(1, late, pair.now) is None
    assert pair.flush() == [[media.with_flow(late, 9, False)]]
    assert lane.deliver(1, late, pair.now) is DropReason.DUPLICATE
    assert lane.deliver(1, media.with_flow(late, 4, False), pair.now) is DropReason.DUPLICATE
    assert pair.flush() == []
    assert lane.troubled() == [1]
    assert lane.measure([1], pair.now)[0].mended == 1
    assert pair.measure().mended == 0
    counted = lane.close_flow(1, 4)
    assert (counted.received, counted.accepted, counted.mended, counted.lost) == (5, 3, 1, 0)


def ask(*ctrs: int, flow: int = 9, kid: int = 0) -> Nack:
    base = min(ctrs)
    return Nack(flow, kid, base & 0xFFFF, sum(1 << (ctr - base) for ctr in ctrs))


def test_what_a_listener_names_leaves_by_itself_and_each_twice_at_most(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    copies = [pair.turn(ctr)[0] for ctr in range(3)]
    for _ in range(2):
        assert lane.resend(2, ask(0, 2), pair.now) == 2
        assert pair.flush() == [[again(copies[0]), again(copies[2])]]
    assert lane.resend(2, ask(0, 2), pair.now) == 0
    assert pair.flush() == []
    assert (lane.repairs.asked, lane.repairs.alone, lane.repairs.beside) == (4, 0, 0)
    assert pair.measure().repeats == 4
    assert lane.repairs.imbalance() == 0
    pair.acknowledge(4)  # the second of the two packets: what was in it is settled
    assert lane.repairs.holding == 1


@pytest.mark.parametrize(
    "named", [ask(5, 6), ask(0, flow=10), ask(0, kid=4), ask(0x10000 - 16), Nack(9, 0, 0, 0)]
)
def test_a_request_for_what_was_never_sent_gets_nothing(lane: Lane, named: Nack) -> None:
    pair = Pair(lane, REPEATS)
    for ctr in range(3):
        pair.turn(ctr)
    assert lane.resend(2, named, pair.now) == 0
    assert lane.resend(77, named, pair.now) == 0
    assert pair.flush() == []


def test_requests_without_end_get_one_packet_in_five(lane: Lane) -> None:
    pair = Pair(lane, replace(REPEATS, budget=0.0, depth=0.0, max_age=1e9))
    served = 0
    for ctr in range(200):
        pair.turn(ctr)
        served += lane.resend(2, Nack(9, 0, max(0, ctr - 15), 0xFFFF), pair.now)
        pair.flush()
    assert served <= 0.2 * 200 + 10
    assert served > 0.2 * 200


def test_what_is_too_old_or_was_acknowledged_or_has_no_ring_does_not_leave(lane: Lane) -> None:
    pair = Pair(lane, REPEATS)
    pair.turn(0)
    pair.turn(1)
    pair.acknowledge(1)
    assert lane.resend(2, ask(0, 1), pair.now) == 1
    pair.flush()
    pair.now += 0.2
    assert lane.resend(2, ask(0, 1), pair.now) == 0
    lane.tell_repair(2, Repair())
    pair.turn(2)
    assert lane.resend(2, ask(2), pair.now) == 0


def test_named_repeats_are_within_the_listeners_rights_and_one_packet(lane: Lane) -> None:
    pair = Pair(lane, replace(REPEATS, max_age=10.0))
    for ctr in range(16):
        pair.say(ctr, size=400)
        pair.flush()
        pair.now += 0.02
    assert lane.resend(2, Nack(9, 0, 0, 0xFFFF), pair.now) == 2  # of 400 bytes no more fit
    pair.flush()
    lane.open_leg(2, pps=1000, up_bps=PLENTY, down_bps=8)
    lane.deliver(1, media.encode_header(4, 0, 16) + bytes(900), pair.now)
    pair.flush()
    for _ in range(60):
        lane.resend(2, Nack(9, 0, 0, 0xFFFF), pair.now)
    assert lane.repairs.refused >= 1


def test_of_a_watched_flow_it_is_told_what_is_missing_and_of_no_other(lane: Lane) -> None:
    pair = Pair(lane, None)
    lane.open_flow(1, 4, index=0, group=False, watched=True)
    lane.route(1, 4, [(2, 9)], None)

    def gaps() -> list[Gap]:
        return [item for item in lane.take(100) if isinstance(item, Gap)]

    for ctr in (10, 11, 14):
        pair.say(ctr)
    assert gaps() == [Gap(1, 4, 0, 14, 0b11)]
    pair.say(15)
    pair.say(13)
    assert gaps() == [Gap(1, 4, 0, 15, 0b110), Gap(1, 4, 0, 15, 0b100)]
    pair.say(12)
    assert gaps() == []
    pair.say(100)
    assert gaps() == [Gap(1, 4, 0, 100, 0xFFFF)]
    for ctr in range(101, 401, 3):
        pair.say(ctr)
    assert len(gaps()) == 32  # among the control datagrams that may wait
    lane.open_flow(1, 4, index=0, group=False)
    lane.route(1, 4, [(2, 9)], None)
    for ctr in (10, 14):
        pair.say(ctr)
    assert gaps() == []
