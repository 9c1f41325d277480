"""People at guests count at the home as its own do, once and there alone; what a guest may say of them."""

import pytest

from core.test_visit_parts import flow, hear
from relay.core import events as ev
from relay.core.trunk_parts import MOST_PPS
from relay.protocol import control
from relay.protocol.trunk_messages import Heard, Part, Sum
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b", "c")


def vitals(net, name="a"):
    return net[name].engine.vitals


def setups(net, name="a"):
    return {result: count for (_, result), count in vitals(net, name).setups.items()}


def seat(net, one):
    (call,) = net["a"].engine.node.calls.values()
    return call.seats[one.index]


def say(net, one, **fields):
    """The guest says this of a half."""
    number = net["b"].engine.abroad.visiting.half_of(one.leg).number
    total = {"sent": 0, "came": 0, "drops": {}, "quality": ()} | fields
    net["b"].engine.abroad.trunks.say("a", Part(half=number, sum=Sum(**total)))
    net["b"].feed(ev.Tick())
    net.run(0.1)


def row(one, packets, **fields):
    return Heard(p=one.index, packets=packets, **{"loss": 0.0, "delay_ms": 80.0, "gaps": 0} | fields)


# ---------------------------------------------------------------- between two guests


def test_a_call_between_two_guests_has_audio_and_quality_at_the_home(net):
    ann, bob = net.talking("a", "b", "c")
    flow(net, ann, bob, packets=200)
    for _ in range(5):
        hear(net, bob, ann, 3.0)
        hear(net, ann, bob, 3.0)
    assert setups(net) == {"ok": 1}
    assert vitals(net).live_poor == [0, 1]
    assert vitals(net).judged_s > 20
    assert sum(vitals(net).live_loss["quic"].counts) == 2
    flow(net, ann, packets=1500)
    net.ask(ann, control.Hangup(c=ann.cid))
    net.run(40)
    (record,) = net["a"].records
    for one in record.participants:
        assert 3.5 < one.quality["mos"] < 4.5
        assert one.quality["residual_loss"] == 0
    assert [one.accepted_packets for one in record.participants] == [1500, 200]
    assert vitals(net).counted["poor_call"] == [0, 1]
    assert vitals(net).counted["one_way"] == [0, 1]
    for name in "bc":
        assert not net[name].records
        assert setups(net, name) == {}
        assert all(counted == [0, 0] for counted in vitals(net, name).counted.values())
        assert (vitals(net, name).judged_s, vitals(net, name).gaps) == (0, 0)
        assert net[name].engine.node.tallies.judged == 0
    net.check_empty()


def test_a_listener_at_a_guest_who_loses_much_makes_the_call_poor(net):
    ann, bob = net.talking("a", "a", "b")
    flow(net, ann, bob)
    hear(net, bob, ann, 40.0, lost=4)
    assert vitals(net).live_poor == [1, 1]
    assert vitals(net).gaps > 10
    net.ask(bob, control.Hangup(c=bob.cid))
    net.run(40)
    assert vitals(net).counted["poor_call"] == [1, 1]
    assert net["a"].records[0].participants[1].quality["mos"] < 3.1


def test_who_gets_nothing_of_a_speaker_though_their_client_tells_of_others_has_a_one_way_call(net):
    ann, bob = net.talking("a", "b", "c")
    flow(net, ann, bob, packets=60)
    net.run(1.0)
    for one in (ann, bob):
        one.world.engine.node.legs[one.leg].is_telling = True
    for _ in range(3):
        hear(net, bob, ann, 3.0)
        flow(net, ann, bob, packets=600)
    net.run(12.0)
    assert vitals(net).counted["one_way"] == [1, 1]


def test_without_a_word_of_the_guest_the_set_up_has_failed(net):
    net.talking("a", "b", "c")
    net.run(12.0)
    assert setups(net) == {"fail": 1}


# ---------------------------------------------------------------- the last word


def test_the_record_waits_for_the_last_word_of_a_guest(net):
    _, bob = net.talking("a", "a", "b")
    flow(net, bob, packets=400)
    bob.ask(control.Hangup(c=bob.cid))
    net.run(5.0)
    assert net["a"].records[0].participants[1].accepted_packets == 400


def test_it_waits_for_a_second_and_no_longer(net):
    _, bob = net.talking("a", "a", "b")
    net["b"].engine.abroad.visiting.parts.tell = lambda leg: None
    bob.ask(control.Hangup(c=bob.cid))
    net.run(0.5)
    assert not net["a"].records
    net.run(1.0)
    assert len(net["a"].records) == 1


def test_it_waits_for_no_trunk_that_is_down(net):
    ann, _ = net.talking("a", "a", "b")
    net.freeze("a", "b")
    ann.ask(control.Hangup(c=ann.cid))
    assert not net["a"].records
    net.cut("a", "b")
    assert len(net["a"].records) == 1


# ---------------------------------------------------------------- what a guest may say


def test_sums_become_windows(net):
    ann, bob = net.talking("a", "a", "b")
    net["b"].engine.abroad.visiting.parts.tell = lambda leg: None
    net.run(4.0)
    say(net, bob, quality=(row(ann, 200, loss=0.0, gaps=1),))
    net.run(10.0)
    say(net, bob, quality=(row(ann, 700, loss=0.1, gaps=5, silence_ms=300, pt=40),))
    window = seat(net, bob).hearings[ann.index].window
    assert (window.expected, window.gaps, window.silence, window.ptime) == (500, 4, 300.0, 40.0)
    assert window.lost_down == pytest.approx(70 / 500)
    assert window.seconds == pytest.approx(10.0, abs=0.3)
    assert (window.lost_up, window.late, window.playout) == (0.0, 0.0, 80.0)


def test_what_was_said_again_or_became_less_is_a_window_in_which_nobody_spoke(net):
    ann, bob = net.talking("a", "a", "b")
    for packets in (500, 500, 100):
        net.run(2.0)
        say(net, bob, quality=(row(ann, packets, loss=0.5, gaps=3, silence_ms=10**6),))
    window = seat(net, bob).hearings[ann.index].window
    assert (window.expected, window.lost_down, window.gaps, window.silence) == (0, None, 0, 0.0)


def test_words_in_quick_succession_make_one_window(net):
    ann, bob = net.talking("a", "a", "b")
    net.run(2.0)
    judged = vitals(net).judged_s
    for packets in range(100, 2000, 10):
        say(net, bob, quality=(row(ann, packets),))
    assert vitals(net).judged_s - judged < 25  # a tenth of a second each


def test_figures_that_no_leg_can_have_are_cut(net):
    ann, bob = net.talking("a", "a", "b")
    net.run(9.0)
    most = 2**53 - 1
    say(net, bob, sent=most, came=most, first_ms=2**32 - 1, quality=(row(ann, most, loss=1.0, gaps=most),))
    window = seat(net, bob).hearings[ann.index].window
    assert window.expected == window.gaps <= MOST_PPS * 20
    assert window.lost_down == 1.0
    assert vitals(net).first_audio["callee"].total == 1
    assert sum(vitals(net).first_audio["callee"].counts[:2]) == 1  # nobody speaks before the answer


def test_of_whom_it_does_not_know_nothing_counts(net):
    _, bob = net.talking("a", "a", "b")
    net.run(2.0)
    nobody = Heard(p=9, packets=100, loss=0.0, delay_ms=1.0, gaps=1)
    say(net, bob, quality=(nobody, row(bob, 100)))
    assert not seat(net, bob).hearings
    net["b"].engine.abroad.trunks.say("a", Part(half=777, sum=Sum(sent=1, came=1, drops={}, quality=())))
    net["b"].feed(ev.Tick())
    net.run(0.5)
    assert vitals(net).judged_s == 0
    assert len(net.wires("a", "b")) == 1


def test_audio_before_the_answer_is_nobodys(net):
    ids = net.call("a")
    net.enter("a", ids)
    bob = net.enter("b", ids)
    say(net, bob, sent=50, first_ms=10)
    assert setups(net) == {}
    assert sum(vitals(net).first_audio["callee"].counts) == 0


def test_a_speaker_whose_way_is_not_known_is_not_judged(net):
    ann, bob = net.talking("a", "a", "b")
    net["a"].engine.node.legs[ann.leg].rtt = None
    net.run(5.0)
    say(net, bob, quality=(row(ann, 250),))
    hearing = seat(net, bob).hearings[ann.index]
    assert hearing.window.rtt_up is None
    assert hearing.direction.summary().windows == 0
    net["a"].feed(ev.LegLost(ann.leg, 0))
    net.run(2.0)
    say(net, bob, quality=(row(ann, 350),))
    assert seat(net, bob).hearings[ann.index].window.expected == 100
