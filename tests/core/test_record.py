from dataclasses import replace

from pair import World
from relay.config import Config, LimitsConfig
from relay.core.call import Call
from relay.core.events import FlowCounters
from relay.core.hearing import Hearing
from relay.core.quality import Window
from relay.core.record import EventKind, judged_of, quality_of, record_call
from relay.core.ringing import Why

IDS = World().call()


def test_no_report_is_no_quality():
    assert quality_of([]) == {}


def test_quality_sums_up_what_was_heard_of_everybody():
    reports = [{"n": 90, "lost": 10, "late": 1, "jit": 125, "plc": 200}, {"n": 100, "lost": 0, "jit": 30}]
    assert quality_of(reports) == {"loss": 0.05, "jitter_ms": 12.5, "concealed_ms": 200.0, "late": 1.0}


def test_a_report_of_silence_divides_by_nothing():
    assert quality_of([{"n": 0, "lost": 0}])["loss"] == 0.0


def test_a_record_names_everyone_who_was_there():
    call = Call(IDS.cid, IDS.claims(), LimitsConfig(), 0.0, 1000.0)
    stayed, left = (call.seat(IDS.claims(), 0.0, 1001.0) for _ in range(2))
    left.on_left("removed", 1005.0)
    call.on_ended(Why.COMPLETED, "command", 1010.0)
    record = record_call(call, "eu")
    assert (record.call, record.outcome, record.reason, record.region) == (
        IDS.cid.hex(),
        "completed",
        "command",
        "eu",
    )
    assert (record.started_at, record.answered_at, record.ended_at) == (1000.0, None, 1010.0)
    first, second = record.participants
    assert (first.sub, first.why, first.left_at, first.accepted) == (
        stayed.sub.hex(),
        "completed",
        1010.0,
        False,
    )
    assert (second.sub, second.why, second.left_at) == (left.sub.hex(), "removed", 1005.0)


def test_a_record_says_how_many_packets_came_as_repeats_alone():
    call = Call(IDS.cid, IDS.claims(), LimitsConfig(), 0.0, 1000.0)
    mended, whole = (call.seat(IDS.claims(), 0.0, 1001.0) for _ in range(2))
    mended.count(FlowCounters(received=9, accepted=9, mended=2))
    mended.count(FlowCounters(received=5, accepted=5, mended=1))
    whole.count(FlowCounters(received=9, accepted=9))
    assert [one.quality.get("mended") for one in record_call(call, "eu").participants] == [3.0, None]


def test_a_call_that_is_not_over_can_still_be_looked_at():
    call = Call(IDS.cid, IDS.claims(), LimitsConfig(), 0.0, 1000.0)
    assert (record_call(call, "eu").outcome, record_call(call, "eu").ended_at) == ("", 1000.0)


def test_event_kinds_are_words_with_a_dot_or_none():
    assert all(kind.value == kind.value.lower() for kind in EventKind)


def test_of_several_directions_the_worst_is_recorded_and_one_that_nobody_judged_only_alone():
    good, bad, silent, unheard = (Hearing(Config(), 0.0) for _ in range(4))
    window = Window(250, 5.0, 20.0, 24_000.0, 0.0, 0.0, 0.0, 40.0, 40.0, 60.0)
    good.direction.on_window(window)
    bad.direction.on_window(replace(window, lost_down=0.1))
    for _ in range(2):
        silent.direction.on_window(replace(window, playout=None))
    assert judged_of([]) == judged_of([unheard]) == {}
    assert judged_of([good, silent, bad, silent])["residual_loss"] == 0.1
    assert judged_of([silent, unheard, silent]) == {"poor": 0.0, "silence_ms": 0.0, "active_s": 10.0}


def story(world, index):
    return [(kind, detail) for _, kind, detail in world.records[0].participants[index].story]


def test_a_record_tells_each_persons_story_in_order():
    world = World()
    ids = world.call()
    ann, bob = (world.client(ids.token(key=True)).enter() for _ in range(2))
    ann.accept()
    bob.accept()
    world.run(1.0)
    ann.speak()
    world.flow()
    ann.mute()
    ann.mute(on=False)
    bob.lose(code=0)
    world.run(2.0, alive=(ann,))
    back = bob.resume()
    back.rejoin()
    ann.hangup()
    assert story(world, 0) == [
        ("leg", "quic"),
        ("accepted", ""),
        ("heard", "1.0 s after the answer"),
        ("muted", "self"),
        ("unmuted", "self"),
    ]
    assert story(world, 1) == [
        ("leg", "quic"),
        ("accepted", ""),
        ("lost", "no_error"),
        ("away", ""),
        ("leg", "quic"),
        ("back", ""),
    ]
    times = [at for at, _, _ in world.records[0].participants[1].story]
    assert times == [0.0, 0.0, 1.0, 1.0, 3.0, 3.0]
    assert {one.transport for one in world.records[0].participants} == {"quic"}


def test_a_move_and_one_that_fails_are_told():
    world = World()
    ids = world.call()
    ann, bob = (world.client(ids.token(key=True)).enter() for _ in range(2))
    ann.accept()
    bob.accept()
    back = ann.resume()
    back.rejoin()
    back.lose()
    bob.hangup()
    assert [kind for kind, _ in story(world, 0)] == ["leg", "accepted", "moving", "leg", "lost", "stayed"]
