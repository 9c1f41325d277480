"""What counts as a failed set-up, a dropped, poor or one-way call, and how far calls come: case by case."""

import pytest

from core.test_adoption import CONFIG
from pair import Two, World, canaries, config
from relay.config import ClientLists, LimitsConfig
from relay.core import events as ev
from relay.core.pulse import LOOK_S, PATIENCE_S, READY_S
from relay.core.spread import LOSS, RTT
from relay.core.vitals import rung_of
from relay.protocol import control, datagram

BEGUN = READY_S + LOOK_S


@pytest.fixture
def world():
    return World()


def vitals(world):
    return world.engine.vitals


def setups(world):
    return {result: count for (_, result), count in vitals(world).setups.items()}


def hear(world, *people, seconds=0.0):
    """Each says a word after so many seconds, and the edge tells of it."""
    world.run(seconds, alive=people)
    for one in people:
        one.speak()
    world.flow()


def only(world):
    (call,) = world.engine.node.calls.values()
    return call


# ---------------------------------------------------------------- set-ups


def test_a_set_up_succeeds_as_soon_as_both_were_heard(world):
    ann, bob = world.talking()
    hear(world, ann, seconds=0.5)
    assert setups(world) == {}
    hear(world, bob, seconds=0.5)
    assert setups(world) == {"ok": 1}
    assert vitals(world).setups["quic", "ok"] == 1
    assert vitals(world).counted["setup_fail"] == [0, 1]


def test_a_set_up_fails_when_one_was_not_heard_for_ten_seconds(world):
    ann, bob = world.talking()
    hear(world, ann)
    world.run(BEGUN, alive=(ann, bob))
    assert setups(world) == {"fail": 1}
    assert vitals(world).counted["setup_fail"] == [1, 1]
    bob.speak()
    ann.hangup()
    assert setups(world) == {"fail": 1}


def test_a_first_word_in_the_last_moment_counts_though_it_is_told_later(world):
    ann, bob = world.talking()
    world.run(READY_S - 0.1, alive=(ann, bob))
    ann.speak()
    bob.speak()
    world.run(0.5, alive=(ann, bob))
    world.flow()
    assert setups(world) == {"ok": 1}


def test_who_is_muted_need_not_be_heard(world):
    ann, bob = world.pair()
    ann.accept()
    ann.mute()
    bob.accept()
    hear(world, bob)
    assert setups(world) == {"ok": 1}


def test_who_mutes_before_the_first_word_need_not_be_heard_either(world):
    ann, bob = world.talking()
    ann.mute()
    ann.mute(on=False)
    hear(world, bob)
    assert setups(world) == {"ok": 1}


def test_who_mutes_after_the_first_word_was_heard(world):
    ann, bob = world.talking()
    hear(world, ann)
    ann.mute()
    hear(world, bob)
    assert vitals(world).first_audio["caller"].total == 1
    assert setups(world) == {"ok": 1}


@pytest.mark.parametrize("end", ["hangup", "decline", "cancel", "miss"])
def test_what_nobody_wanted_to_succeed_is_excluded(world, end):
    ann, bob = world.pair()
    if end == "miss":
        world.run(46.0, alive=(ann, bob))
    else:
        {"hangup": bob.hangup, "decline": bob.decline, "cancel": ann.hangup}[end]()
    assert setups(world) == {"excluded": 1}
    assert vitals(world).counted["setup_fail"] == [0, 0]


def test_a_hang_up_in_the_first_moments_is_excluded_and_later_one_without_audio_failed(world):
    for seconds, result in ((PATIENCE_S - 0.1, "excluded"), (PATIENCE_S, "fail")):
        world = World()
        ann, bob = world.talking()
        world.run(seconds, alive=(ann, bob))
        ann.hangup()
        assert setups(world) == {result: 1}


def test_a_call_that_broke_before_anybody_was_heard_failed(world):
    ann, _ = world.talking()
    world.run(1.0)
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    assert ann.closed is not None
    assert setups(world) == {"fail": 1}
    assert vitals(world).ended == {("quic", "drain"): 1}


def test_audio_that_only_the_last_counters_tell_of_counts(world):
    ann, bob = world.talking()
    ann.speak()
    bob.speak()
    world.run(1.0)
    ann.hangup()
    assert setups(world) == {"ok": 1}


def test_a_call_that_the_node_ended_before_the_answer_failed_and_a_phone_that_vanished_is_nobodys_fault():
    for name, result in (("drain", "fail"), ("gone", "excluded")):
        world = World()
        ann, _ = world.pair()
        if name == "gone":
            ann.lose()
            world.run(40.0)
            world.engine.node.calls and world.run(60.0)
        else:
            for _ in range(3):
                world.feed(ev.DrainRequested())
        (why,) = {reason for _, reason in vitals(world).ended}
        assert (why in (name, "missed", "cancelled"), setups(world)) == (True, {result: 1})


def test_first_audio_is_measured_from_the_answer_for_each_side(world):
    ann, bob = world.talking()
    hear(world, ann, seconds=0.3)
    hear(world, bob, seconds=1.0)
    first = vitals(world).first_audio
    assert (first["caller"].sum, first["callee"].sum) == (pytest.approx(0.3), pytest.approx(1.3))
    hear(world, ann, seconds=1.0)
    assert first["caller"].total == 1


def test_flows_are_asked_about_only_while_a_call_begins(world):
    ann, bob = world.talking()
    assert len(world.engine.unheard()) == 2
    world.run(BEGUN, alive=(ann, bob))
    assert world.engine.unheard() == []


def test_a_flow_that_is_nobodys_any_more_tells_nothing(world):
    ann, _ = world.talking()
    ann.hangup()
    world.feed(ev.Flowing({(ann.leg, 1): (0.5, 3)}))
    assert vitals(world).first_audio["caller"].total == 0


# ---------------------------------------------------------------- drops


def talk(world, seconds=BEGUN, **changes):
    """Two whose call has begun well."""
    ann, bob = world.talking(**changes)
    hear(world, ann, bob)
    world.run(seconds, alive=(ann, bob))
    return ann, bob


def test_a_call_that_ends_as_people_wish_is_not_dropped(world):
    ann, _ = talk(world)
    ann.hangup()
    assert vitals(world).counted["drop"] == [0, 1]


def test_a_call_shorter_than_ten_seconds_is_no_event(world):
    ann, _ = talk(world, READY_S - 0.1)
    ann.hangup()
    assert vitals(world).counted["drop"] == [0, 0]


def test_a_call_is_dropped_ten_seconds_after_somebody_was_cut_off_and_once(world):
    ann, bob = talk(world)
    ann.lose()
    world.run(READY_S - 0.1, alive=(bob,))
    assert vitals(world).counted["drop"] == [0, 0]
    world.run(0.1, alive=(bob,))
    assert vitals(world).counted["drop"] == [1, 1]
    world.run(100.0, alive=(bob,))
    assert not world.engine.node.calls
    assert vitals(world).counted["drop"] == [1, 1]


def test_who_comes_back_in_time_was_not_cut_off(world):
    ann, bob = talk(world, key=True)
    ann.lose()
    world.run(5.0, alive=(bob,))
    back = ann.resume()
    back.rejoin()
    world.run(20.0, alive=(back, bob))
    bob.hangup()
    assert vitals(world).counted["drop"] == [0, 1]


def test_when_both_vanish_and_one_returns_the_call_is_still_cut_off(world):
    ann, bob = talk(world, key=True)
    ann.lose()
    bob.lose()
    world.run(5.0)
    back = ann.resume()
    back.rejoin()
    world.run(6.0, alive=(back,))
    assert vitals(world).counted["drop"] == [1, 1]


def test_a_group_in_which_two_still_talk_is_not_dropped(world):
    ids = world.call()
    people = [world.client(ids.token(lim=(512, 512, 500, 3))).enter() for _ in range(3)]
    for one in people:
        one.accept()
    hear(world, *people)
    world.run(BEGUN, alive=tuple(people))
    people[0].lose()
    world.run(15.0, alive=tuple(people[1:]))
    assert vitals(world).counted["drop"] == [0, 0]


def test_somebody_lost_while_it_rings_is_no_drop(world):
    ann, _ = world.pair()
    ann.lose()
    world.run(15.0)
    assert vitals(world).counted["drop"] == [0, 0]


def test_a_call_that_the_node_closed_is_dropped(world):
    talk(world)
    for _ in range(3):
        world.feed(ev.DrainRequested())
    assert vitals(world).counted["drop"] == [1, 1]


# ---------------------------------------------------------------- transports


def test_a_call_counts_for_the_worst_transport_in_it_and_as_fallback_on_tcp(world):
    ids = world.call()
    ann = world.client(ids.token(net=2), "ws").enter()
    bob = world.client(ids.token()).enter()
    ann.accept()
    bob.accept()
    hear(world, ann, bob)
    assert rung_of(only(world)) == "ws"
    world.run(BEGUN, alive=(ann, bob))
    bob.hangup()
    assert vitals(world).counted["fallback"] == [1, 1]
    assert vitals(world).ended == {("ws", "completed"): 1}


def test_running_calls_are_told_by_transport(world):
    world.talking()
    world.pair()
    assert vitals(world).active() == {"quic": 1}


def test_a_transport_nobody_knows_counts_for_none(world):
    world.talking()
    for seat in only(world).everyone():
        seat.transport = "pigeon"
    assert rung_of(only(world)) == "quic"


def test_when_a_move_fails_the_call_counts_for_the_leg_that_was_left(world):
    ids = world.call()
    ann, bob = (world.client(ids.token(key=True, net=2)).enter() for _ in range(2))
    ann.accept()
    bob.accept()
    back = ann.resume()
    back.transport = "ws"
    world.engine.node.legs[back.leg].transport = "ws"
    back.rejoin()
    assert rung_of(only(world)) == "ws"
    back.lose()
    assert rung_of(only(world)) == "quic"


# ---------------------------------------------------------------- quality


def report(world, listener, speaker, seconds, lost=0, measured=True):
    """A report each 200 ms in which so many of ten packets are missing."""
    seat = only(world).seats[listener.index]
    flow = seat.hearing[speaker.index]
    hearing = seat.hearings.get(speaker.index)
    newest = 63 if hearing is None else hearing._newest[0]
    bits = sum(1 << bit for bit in range(64) if (63 - bit) % 10 < 10 - lost)
    for _ in range(round(seconds * 5)):
        world.now += 0.2
        world.feed(ev.Heard(dict.fromkeys(world.clients, world.now)))
        newest += 10
        if measured:
            world.feed(ev.RoundTrips(dict.fromkeys(world.clients, 0.05)))
        one = datagram.FlowReport(flow, 0, newest - 63, bits, 0, 10, 20, 0, 60, 0, 0)
        raw = datagram.encode_datagram(datagram.LegReport(newest, round(1000 * world.now), (one,)))
        world.feed(ev.DatagramReceived(listener.leg, raw))


def test_what_a_listener_loses_is_known_while_the_call_runs(world):
    ann, bob = world.talking()
    report(world, bob, ann, 11.0, lost=3)
    spread = vitals(world).live_loss["quic"]
    assert spread.total == 1
    assert spread.counts[spread.place(0.3)] + spread.counts[spread.place(0.31)] == 1
    assert vitals(world).live_rtt["quic"].counts == [0, 0, 1] + [0] * (len(RTT) - 2)
    assert vitals(world).judged_s > 9
    assert vitals(world).last_event == pytest.approx(world.now, abs=6)
    ann.hangup()
    assert vitals(world).live_loss["quic"].total == 0
    assert vitals(world).loss["quic"].total == 1
    assert len(vitals(world).loss["quic"].counts) == len(LOSS) + 1


def test_a_round_trip_that_nobody_measured_is_in_no_spread(world):
    ann, bob = world.talking()
    report(world, bob, ann, 11.0, measured=False)
    assert vitals(world).live_loss["quic"].total == 1
    assert vitals(world).live_rtt["quic"].total == 0
    ann.hangup()
    assert vitals(world).rtt["quic"].total == 0


def test_a_call_is_poor_while_it_is_poor_and_judged_in_the_end_by_all_of_it(world):
    ann, bob = world.talking()
    report(world, bob, ann, 16.0, lost=5)
    assert vitals(world).live_poor == [1, 1]
    ann.hangup()
    assert vitals(world).live_poor == [0, 0]
    assert vitals(world).counted["poor_call"] == [1, 1]


def test_a_call_that_has_got_poor_only_now_counts_already(world):
    ann, bob = world.talking()
    report(world, bob, ann, 60.0)
    assert vitals(world).live_poor == [0, 1]
    report(world, bob, ann, 11.0, lost=6)
    assert vitals(world).live_poor == [1, 1]
    report(world, bob, ann, 60.0)
    assert vitals(world).live_poor == [0, 1]
    ann.hangup()
    assert vitals(world).counted["poor_call"] == [0, 1]


def test_a_call_without_data_is_neither_poor_nor_good(world):
    ann, _ = talk(world)
    ann.hangup()
    assert vitals(world).counted["poor_call"] == [0, 0]


def test_how_it_sounds_is_told_when_it_changes_and_not_each_window(world):
    ann, bob = world.talking()
    report(world, bob, ann, 30.0)
    report(world, bob, ann, 20.0, lost=6)
    lines = [(kind, detail) for _, kind, detail in only(world).seats[bob.index].story.lines()]
    sounds = [detail for kind, detail in lines if kind == "sound"]
    assert sounds[0] == "of 0 good, loss 0.0 %, round trip 50 ms"
    assert len(sounds) in (2, 3)
    assert sounds[-1].startswith("of 0 bad, loss ")


def test_a_window_in_which_nobody_spoke_tells_nothing(world):
    ann, bob = world.talking()
    seat = only(world).seats[bob.index]
    report(world, bob, ann, 0.4)
    hearing = seat.hearings[ann.index]
    before = vitals(world).judged_s
    vitals(world).on_window(only(world), seat, ann.index, "quic", 0.05, hearing)
    assert vitals(world).judged_s == before == 0.0


# ---------------------------------------------------------------- one way


def chat(world, ann, bob, packets=80):
    """Ann speaks for 3 s and more; Bob's client is one that tells things."""
    for _ in range(packets):
        world.now += 0.05
        ann.speak()
    bob.ping()
    world.flow()


def test_a_speaker_whom_a_telling_listener_never_mentions_is_one_way_audio(world):
    ann, bob = world.talking()
    bob.speak()
    chat(world, ann, bob)
    world.run(BEGUN, alive=(ann, bob))
    assert vitals(world).counted["one_way"] == [1, 1]


@pytest.mark.parametrize("how", ["leg report", "receiver report"])
def test_who_is_mentioned_is_heard(world, how):
    ann, bob = world.talking()
    chat(world, ann, bob)
    if how == "leg report":
        report(world, bob, ann, 0.4)
    else:
        entry = control.RrEntry(p=ann.index, n=9, lost=0, late=0, jit=0, plc=0, hi=9)
        bob.send(control.Rr(c=bob.cid, s=(entry,)))
    world.run(BEGUN, alive=(ann, bob))
    assert vitals(world).counted["one_way"] == [0, 1]


@pytest.mark.parametrize("why", ["short", "few", "silent client", "away"])
def test_where_nothing_can_be_told_it_is_no_event(world, why):
    ann, bob = world.talking()
    if why == "short":
        world.run(8.5, alive=(ann, bob))
    chat(world, ann, bob, 40 if why in ("few", "short") else 80)
    if why == "silent client":
        for one in (ann, bob):
            world.engine.node.legs[one.leg].is_telling = False
    if why == "away":
        bob.lose()
    world.run(BEGUN, alive=(ann,) if why == "away" else (ann, bob))
    assert vitals(world).counted["one_way"] == [0, 0]


# ---------------------------------------------------------------- funnel and time


def test_the_way_of_a_call_is_counted_step_by_step_by_the_callers_device():
    world = World(config(clients=ClientLists(dev=("phone",))))
    ids = world.call()
    ann = world.client(ids.token())
    ann.open()
    ann.hello(cli=control.Cli(dev="phone"))
    ann.join()
    bob = world.client(ids.token()).enter()
    ann.accept()
    bob.accept()
    hear(world, ann, bob)
    world.run(BEGUN, alive=(ann, bob))
    ann.hangup()
    steps = ("invited", "joined", "accepted", "first_audio", "ten_seconds")
    assert vitals(world).funnel == {(step, "phone"): 1 for step in steps}
    assert vitals(world).leaks == {("ten_seconds", "completed", "phone"): 1}


def test_indicators_are_counted_by_the_callers_sdk_too_all_that_are_configured_from_the_start():
    world = World(config(clients=ClientLists(sdk=("ios", "web"))))
    assert vitals(world).classed()["drop", "ios"] == (0, 0)
    for sdk in ("ios", "mine"):
        ids = world.call()
        ann = world.client(ids.token())
        ann.open()
        ann.hello(cli=control.Cli(sdk=sdk))
        ann.join()
        bob = world.client(ids.token()).enter()
        ann.accept()
        bob.accept()
        hear(world, ann)
        if sdk == "ios":
            hear(world, bob)
        world.run(BEGUN, alive=(ann, bob))
        ann.hangup()
    told = vitals(world).classed()
    assert {sdk: told["setup_fail", sdk] for sdk in ("ios", "web", "other")} == {
        "ios": (0, 1), "web": (0, 0), "other": (1, 1)
    }  # fmt: skip
    assert vitals(world).counted["setup_fail"] == [1, 2]


def test_a_call_leaks_where_it_ends(world):
    ann, bob = world.pair()
    bob.decline()
    again = world.call()
    alone = world.client(again.token()).enter()
    alone.hangup()
    assert vitals(world).leaks == {("joined", "declined", "other"): 1, ("invited", "cancelled", "other"): 1}
    assert vitals(world).funnel["joined", "other"] == 1
    assert ann.closed is None


def test_a_call_of_ten_seconds_that_was_looked_at_too_early_comes_to_the_last_step_all_the_same(world):
    ann, _ = talk(world, READY_S + 0.1)
    ann.hangup()
    assert vitals(world).funnel["ten_seconds", "other"] == 1


def test_a_third_person_who_joins_is_no_second_step(world):
    ids = world.call()
    for _ in range(3):
        world.client(ids.token(lim=(512, 512, 500, 3))).enter()
    assert vitals(world).funnel["joined", "other"] == 1


def test_seconds_of_talk_are_counted_while_calls_run(world):
    ann, bob = world.talking()
    world.run(7.0, alive=(ann, bob))
    assert vitals(world).talked_s(world.now) == pytest.approx(7.0)
    ann.hangup()
    world.run(5.0)
    assert vitals(world).talked_s(world.now) == pytest.approx(7.0)


def test_stars_are_counted(world):
    ann, _ = world.talking()
    ann.ask(control.Feedback(c=ann.cid, stars=4))
    assert world.engine.counters["stars", "4"] == 1


def test_a_pulse_leaves_nothing_behind(world):
    world.run(0.0)
    ann, _ = talk(world)
    ann.hangup()
    assert world.engine.vitals.unheard() == []
    assert not world.engine.vitals._pulses
    assert LimitsConfig().ring_s > 0


# ---------------------------------------------------------------- calls that began elsewhere


def test_a_call_that_moves_is_counted_where_it_ends_and_its_beginning_where_it_began():
    two = Two(World(CONFIG), World(CONFIG, seed=2))
    ann, bob = two.old.talking(key=True)
    hear(two.old, ann, bob)
    two.old.run(BEGUN, alive=(ann, bob))
    two.new.run(BEGUN)
    two.drain()
    people = [two.move(ann), two.move(bob)]
    for one in (ann, bob):
        one.ask(control.Moved(c=one.cid, ok=True))
    old, new = two.old.engine.vitals, two.new.engine.vitals
    assert (old.ended, old.leaks, old.counted["drop"]) == ({}, {}, [0, 0])
    assert setups(two.old) == {"ok": 1}
    for one in people:
        one.speak()
    two.new.run(BEGUN, alive=tuple(people))
    assert new.talked_s(two.new.now) == pytest.approx(BEGUN)
    people[0].mute()
    people[0].hangup()
    assert new.ended == {("quic", "completed"): 1}
    assert (new.setups, new.funnel, new.leaks) == ({}, {}, {})
    assert new.counted["drop"] == [0, 1]
    assert old.counted["setup_fail"] == [0, 1]


def test_a_call_that_rings_on_at_another_node_is_answered_there_and_no_attempt_of_its():
    two = Two(World(CONFIG), World(CONFIG, seed=2))
    ann, bob = two.old.pair(key=True)
    two.drain()
    ann2, bob2 = two.move(ann), two.move(bob)
    ann2.accept()
    bob2.accept()
    hear(two.new, ann2, bob2)
    two.new.run(BEGUN, alive=(ann2, bob2))
    ann2.hangup()
    new = two.new.engine.vitals
    assert (new.setups, new.funnel, new.leaks) == ({}, {}, {})
    assert new.ended == {("quic", "completed"): 1}
    assert new.first_audio["caller"].total == 1
    for one in (ann, bob):
        one.ask(control.Moved(c=one.cid, ok=True))
    assert two.old.engine.vitals.setups == {("quic", "excluded"): 1}


def test_a_call_that_rings_on_elsewhere_and_is_not_answered_is_nobodys_attempt_here():
    two = Two(World(CONFIG), World(CONFIG, seed=2))
    ann, bob = two.old.pair(key=True)
    two.drain()
    ann2, _ = two.move(ann), two.move(bob)
    ann2.hangup()
    assert two.new.engine.vitals.setups == {}
    assert two.new.engine.vitals.ended == {("quic", "cancelled"): 1}


def test_a_call_that_moves_before_its_first_word_is_no_failed_set_up():
    two = Two(World(CONFIG), World(CONFIG, seed=2))
    ann, bob = two.old.talking(key=True)
    two.old.run(5.0, alive=(ann, bob))
    two.drain()
    for one in (ann, bob):
        two.move(one)
        one.ask(control.Moved(c=one.cid, ok=True))
    assert setups(two.old) == {"excluded": 1}


def test_a_call_that_was_announced_and_to_which_nobody_came_is_none():
    two = Two(World(CONFIG), World(CONFIG, seed=2))
    two.old.talking(key=True)
    two.tell()
    (call,) = two.new.engine.node.calls.values()
    two.new.engine.vitals.on_muted(call, 0)
    two.run(91)
    assert two.new.engine.vitals.ended == {}


def sums(world):
    """Everything that is counted of people."""
    of = vitals(world)
    spreads = {**of.first_audio, **of.loss, **of.live_loss, **of.rtt, **of.live_rtt}
    return (
        [dict(each) for each in (of.setups, of.ended, of.funnel, of.leaks, of.active())],
        [list(counts) for counts in of.counted.values()],
        [spread.total for spread in spreads.values()],
        (of.gaps, of.judged_s, of.talked_s(world.now), of.last_event, of.live_poor),
    )


def test_a_canarys_call_counts_nowhere_good_or_bad():
    for is_heard in (True, False):
        world = World(canaries())
        before = sums(world)
        ann, bob = world.talking()
        assert sums(world) == before
        if is_heard:
            hear(world, ann, bob)
        report(world, bob, ann, 11.0, lost=5)
        world.run(BEGUN, alive=(ann, bob))
        ann.mute()
        bob.lose()
        world.run(100, alive=(ann,))
        assert world.records
        assert sums(world)[:2] == before[:2]
        assert sums(world)[2:] == before[2:]


def test_beside_canaries_people_count_as_ever():
    world = World()
    ann, bob = world.talking()
    world.engine.node.on_config(canaries())
    cat, dan = world.talking()
    hear(world, ann, bob, cat, dan)
    assert setups(world) == {"ok": 1}
    assert vitals(world).active() == {"quic": 1}
    cat.hangup()
    assert vitals(world).active() == {"quic": 1}
    assert vitals(world).ended == {}


def test_audio_that_another_node_tells_of_counts_from_the_answer_on_and_once(world):
    ann, bob = world.pair()
    call = only(world)
    seats = [call.seats[one.index] for one in (ann, bob)]
    vitals(world).on_told_audio(call, seats[0], world.now, 5)
    assert setups(world) == {}  # nobody has answered
    ann.accept()
    bob.accept()
    for seat in seats:
        vitals(world).on_told_audio(call, seat, world.now - 60, 5)
    assert setups(world) == {"ok": 1}
    assert [spread.total for spread in vitals(world).first_audio.values()] == [1, 1]
    vitals(world).on_told_audio(call, seats[0], world.now, 9)
    assert vitals(world).first_audio["caller"].total == 1
    world.run(1.0, alive=(ann, bob))
    ann.hangup()
    vitals(world).on_told_audio(call, seats[0], world.now, 9)  # it is over


def test_a_call_that_was_answered_elsewhere_while_somebody_waits_here_began_there():
    world = World()
    ann, _ = world.pair()
    call = world.engine.node.calls[ann.cid]
    for _ in range(2):
        world.engine.vitals.on_answer_told(call)
    assert world.engine.vitals.setups["quic", "excluded"] == 1
    world.run(2.0)
    assert world.engine.vitals.talked_s(world.now) == 2.0


def test_one_that_was_taken_up_while_it_rang_and_was_answered_elsewhere_is_no_set_up_here():
    world = World()
    ann, _ = world.pair()
    call = world.engine.node.calls[ann.cid]
    world.engine.vitals.on_adopted(call)
    world.engine.vitals.on_answer_told(call)
    assert world.engine.vitals.setups == {}
    world.run(2.0)
    assert world.engine.vitals.talked_s(world.now) == 2.0
