import pytest

from pair import Two, World
from relay.core import events as ev
from relay.core.leg import LINGER_S
from relay.errors import ErrorCode
from relay.protocol import control

THREE = (512, 512, 500, 3)


@pytest.fixture
def world() -> World:
    return World()


def test_one_record_per_call_with_what_the_lane_counted(world):
    ann, bob = world.pair()
    ann.speak()
    ann.accept()
    bob.accept()
    for _ in range(3):
        ann.speak()
    bob.speak()
    world.run(2)
    ann.hangup()
    (record,) = world.records
    first, second = record.participants
    assert (record.outcome, record.answered_at, record.ended_at) == (
        "completed",
        1_700_000_000.0,
        1_700_000_002.0,
    )
    assert (first.received, first.accepted_packets, first.copies) == (4, 3, 3)
    assert first.dropped == {"gate_closed": 1}
    assert (second.received, second.accepted_packets) == (1, 1)
    assert (first.why, second.why) == ("completed", "completed")
    assert world.engine.calls == 0
    world.check()


def test_ok_comes_after_the_gate_and_before_ended(world):
    ann, _ = world.talking()
    ann.news()
    ann.hangup()
    assert [type(message) for message in ann.news()] == [control.Gate, control.Ok, control.Ended]


def test_an_ended_leg_has_five_seconds_for_a_last_word_and_is_then_closed(world):
    ann, bob = world.talking()
    bob.hangup()
    assert isinstance(ann.ask(control.Feedback(c=ann.cid, stars=5)), control.Ok)
    assert ann.accept().code == ErrorCode.CALL_ENDED
    assert ann.closed is None
    world.run(LINGER_S)
    assert ann.closed is ErrorCode.NO_ERROR
    world.check()


def test_who_was_removed_gets_no_last_word(world):
    ann, bob = world.talking(prm=39)
    ann.mod("remove", 1)
    assert bob.last(control.Ended) == control.Ended(c=bob.cid, why="removed", code=int(ErrorCode.REMOVED))
    assert bob.closed is ErrorCode.REMOVED
    assert world.records[0].outcome == "removed"


def test_a_group_goes_on_until_the_last_one_left(world):
    ids = world.call()
    ann, bob, cid = (world.client(ids.token(lim=THREE)).enter() for _ in range(3))
    for one in (ann, bob, cid):
        one.accept()
    ann.hangup()
    assert ann.last(control.Ended).why == "completed"
    assert (bob.last(control.Peer).ev, bob.last(control.Peer).p) == ("left", 0)
    assert bob.speak() is None
    bob.hangup()
    assert not world.records
    cid.hangup()
    assert world.records[0].outcome == "completed"
    assert world.kinds().count("participant.left") == 2
    world.check()


def test_removed_from_a_group_is_remembered(world):
    ids = world.call()
    ann, bob = (world.client(ids.token(lim=THREE)).enter() for _ in range(2))
    ann.accept()
    bob.accept()
    assert world.command("remove", cid=ann.cid, sub=bob.sub) is ErrorCode.NO_ERROR
    again = world.client(ids.token(lim=THREE, sub=bob.sub)).open()
    again.hello()
    assert again.join().code == ErrorCode.REMOVED


def test_counters_of_a_flow_that_nobody_knows_are_ignored(world):
    world.feed(ev.FlowClosed(77, 1, ev.FlowCounters(received=5)))
    assert not world.records


def test_the_last_of_a_group_who_never_comes_back_ends_it(world):
    ids = world.call()
    ann, bob = (world.client(ids.token(lim=THREE)).enter() for _ in range(2))
    ann.accept()
    bob.accept()
    ann.hangup()
    bob.lose()
    world.run(90)
    assert (world.records[0].outcome, world.records[0].reason) == ("failed", "gone")


def test_a_call_without_anybody_left_in_it_is_recorded_at_once(world):
    ann, bob = world.talking()
    ann.lose()
    bob.lose()
    world.run(90)
    (record,) = world.records
    assert (record.outcome, record.reason) == ("failed", "gone")
    assert world.engine.calls == 0


def test_who_never_comes_back_or_never_accepts_leaves_a_group_with_the_right_word(world):
    ids = world.call()
    ann, bob, cid = (world.client(ids.token(lim=THREE)).enter() for _ in range(3))
    ann.accept()
    bob.accept()
    bob.lose()
    world.run(45, alive=(ann, cid))
    assert cid.last(control.Ended).why == "missed"
    world.run(45, alive=(ann,))
    assert (ann.last(control.Peer).p, ann.last(control.Peer).why) == (1, "failed")
    assert ann.closed is None


def test_what_ends_after_somebody_moved_has_moved_and_those_who_stayed_hear_that_it_failed():
    world = World()
    ann, bob = world.talking()
    ann.ask(control.Moved(c=ann.cid, ok=True))
    world.run(31)
    world.run(91)
    assert bob.last(control.Ended).why == "failed"
    assert world.records[0].outcome == "moved"
    assert world.kinds()[-1] == "call.moved"
    assert world.engine.counters["call_moved", "out"] == 1


def test_a_call_that_nobody_came_for_ends_without_record_event_or_memory():
    two = Two(World(), World(seed=2))
    ann, _ = two.old.talking(key=True)
    two.tell()
    two.run(91)
    assert two.new.engine.calls == 0
    assert two.new.records == two.new.events == []
    assert not two.new.engine.node.ended.knows(ann.cid, two.new.now, two.new.wall)
