"""Somebody at another node is a leg like any other to the engine of the call's home."""

import pytest

from relay.config import LimitsConfig
from relay.core import events as ev
from relay.core import trunk_home
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.messages import Caps, Err, Ok
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Attach, Attached, Close, HalfState, Halves, Part, Say, Sum
from trunkrig import Net

GROUP = (512, 512, 500, 32)


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


def hosting(net):
    return net["a"].engine.abroad.hosting


def ask(net, message, seconds=0.5):
    """What `b` would say as a guest; the answer."""
    got = []
    trunks = net["b"].engine.abroad.trunks
    if trunks.leg_of("a") is None:
        trunks.need("a")
        net["b"].feed(ev.Tick())
        net.run(0.5)
    assert trunks.ask("a", message, got.append)
    net["b"].feed(ev.Tick())
    net.run(seconds)
    return got[0] if got else None


def attach(net, ids, **changes):
    claims = ids.claims()
    fields = {
        "c": claims.cid,
        "tok": ids.token(),
        "n": bytes(32),
        "leg": "quic",
        "caps": Caps(),
        "rtt": 40.0,
    }
    return ask(net, Attach(**fields | changes), seconds=0.1)


def half_of(net, client):
    return net["b"].engine.abroad.visiting.half_of(client.leg).number


# ---------------------------------------------------------------- coming in


def test_who_is_attached_sits_in_the_call_on_a_number_below_zero(net):
    ids = net.call("a")
    ann = net.enter("a", ids)
    answer = attach(net, ids)
    assert isinstance(answer, Attached)
    assert (answer.half, answer.p, answer.term, answer.variant) == (0, 1, 1, "")
    assert [entry.sub for entry in answer.joined.roster] == [ann.sub]
    assert (answer.joined.gate, answer.lim.up, answer.lim.pps) == (0, 512, 500)
    assert answer.joined.rt is not None
    leg = net["a"].engine.node.legs[-1]
    assert (leg.transport, leg.rtt, hosting(net).find(-1).half) == ("trunk", 0.04, 0)
    assert (len(hosting(net)), hosting(net).find(-2)) == (1, None)
    assert net["a"].engine.seated(ids.cid) == [ev.Seated(ann.leg, 0, "quic", 1)]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"c": bytes(16)}, ErrorCode.CALL_NOT_FOUND),
        ({"tok": b"V1" + bytes(90)}, ErrorCode.TOKEN_INVALID),
        ({"leg": "ws"}, ErrorCode.TRANSPORT_DENIED),
        ({"rt": bytes(40)}, ErrorCode.RESUME_UNKNOWN),
    ],
    ids=str,
)
def test_who_is_refused_hears_the_engines_word(net, changes, code):
    answer = attach(net, net.call("a"), **changes)
    assert (type(answer), answer.code) == (Err, code)
    net.run(1.0)
    assert len(hosting(net)) == 0
    net["a"].check()


def test_a_node_that_has_no_room_says_so_without_a_word_of_the_engine():
    net = Net("a", "b", limits=LimitsConfig(legs=1))
    ids = net.call("a")
    net.enter("a", ids)
    assert attach(net, ids).code == ErrorCode.OVERLOADED
    assert len(hosting(net)) == 0


def test_who_is_not_home_says_who_is(net):
    answer = attach(net, net.call("z"))
    assert (answer.code, answer.data) == (TrunkCode.NOT_HOME, {"node": "z", "to": []})


def test_a_call_of_a_variant_that_the_guest_does_not_serve_is_not_for_it(net):
    ids = net.call("a")
    net.enter("a", ids)
    net["a"].engine.node.calls[ids.cid].variant = "candidate"
    assert attach(net, ids).code == TrunkCode.NOT_SERVED
    net["a"].engine.node.calls[ids.cid].variant = "control"
    assert attach(net, ids).variant == "control"


def test_a_guest_has_only_so_many_halves(net, monkeypatch):
    monkeypatch.setattr(trunk_home, "MOST", 0)
    assert attach(net, net.call("a")).code == ErrorCode.OVERLOADED
    assert len(hosting(net)) == 0
    assert -1 not in net["a"].engine.node.legs


# ---------------------------------------------------------------- what is said


def test_a_guest_that_does_not_know_the_half_has_lost_its_person(net):
    ids = net.call("a", lim=GROUP)
    ann, eve = net.enter("a", ids), net.enter("a", ids)
    bob = net.enter("b", ids)
    for one in (ann, eve, bob):
        net.ask(one, control.Accept(c=ids.cid))
    net["b"].engine.abroad.visiting._guest._legs.clear()
    net.ask(ann, control.Mute(c=ids.cid, on=True))
    assert len(hosting(net)) == 0
    assert [message.ev for message in eve.all(control.Peer)][-1] == "away"


def test_turn_is_not_for_people_at_other_nodes(net):
    _, bob = net.talking("a", "a", "b")
    answer = net.ask(bob, control.Turn())
    assert answer.code == ErrorCode.NOT_ENABLED


def test_what_passes_no_trunk_ends_the_half(net):
    ann, bob = net.talking("a", "a", "b")
    say = Say(half=half_of(net, bob), m=control.encode_body(control.Join(c=bob.cid)), up=True)
    assert ask(net, say) is None
    assert (ann.last(control.Peer).ev, bob.closed) == ("away", ErrorCode.PROTOCOL_VIOLATION)


def test_words_for_a_half_that_is_not_there_fall_to_the_ground(net):
    assert ask(net, Say(half=9, m=control.encode_body(control.Bye()), up=True)) is None
    assert ask(net, HalfState(half=9, st="here")).code == TrunkCode.HALF_UNKNOWN
    assert ask(net, Close(half=9, why="failed", code=0, up=True)).code == TrunkCode.HALF_UNKNOWN


def test_what_the_guest_does_itself_is_not_said_to_it(net):
    _, bob = net.talking("a", "a", "b")
    node = net["a"].engine.node
    said = len(bob.got)
    for message in (
        control.LegStats(rtt=1.0),
        control.Drain(in_ms=1, by_ms=1),
        control.Gate(c=bob.cid, open=0, ep=1),
    ):
        node.send(-1, message)
    node.put(ev.AskRoundTrip(-1))
    node.put(ev.SendDatagram(-1, b""))
    node.send(-7, control.Pong(t=1))
    node.put(ev.SetBudget(-7, 1, 1, 1))
    node.put(ev.Route(-7, 1, ()))
    node.put(ev.CloseLeg(-7, ErrorCode.NO_ERROR))
    net["a"].feed(ev.Tick())
    net.run(0.5)
    # Where to go is the home's to say.
    assert {type(message) for message in bob.got[said:]} == {control.Drain, control.Gate}


# ---------------------------------------------------------------- how its leg is


def test_silent_is_away_and_here_is_back(net):
    ann, bob = net.talking("a", "a", "b")
    half = half_of(net, bob)
    assert ask(net, HalfState(half=half, st="silent")) == Ok()
    assert (ann.last(control.Peer).ev, net.heard_of(ann)) == ("away", [])
    net.run(10)
    assert ann.last(control.Peer).ev == "away"
    assert ask(net, HalfState(half=half, st="here")) == Ok()
    assert (ann.last(control.Peer).ev, net.heard_of(ann)) == ("back", [bob])
    assert ask(net, HalfState(half=half, st="here")) == Ok()


@pytest.mark.parametrize("st", ["lost", "gone"])
def test_a_leg_that_is_gone_leaves_its_person_away(net, st):
    ann, bob = net.talking("a", "a", "b")
    assert ask(net, HalfState(half=half_of(net, bob), st=st)) == Ok()
    assert (ann.last(control.Peer).ev, len(hosting(net))) == ("away", 0)


def test_a_leg_that_is_closed_by_its_node_leaves_its_person_away(net):
    ann, bob = net.talking("a", "a", "b")
    assert ask(net, Close(half=half_of(net, bob), why="failed", code=1, up=True)) == Ok()
    assert ann.last(control.Peer).ev == "away"


def test_who_has_moved_on_is_let_go(net):
    ann, bob = net.talking("a", "a", "b")
    assert isinstance(net.ask(bob, control.Moved(c=bob.cid, ok=True)), control.Ok)
    assert (ann.last(control.Peer).ev, bob.closed, len(hosting(net))) == ("away", ErrorCode.MOVED, 0)


def test_a_word_about_a_leg_that_the_engine_has_done_with_changes_nothing(net):
    _ann, bob = net.talking("a", "a", "b")
    half = half_of(net, bob)
    del net["a"].engine.node.legs[-1]
    assert ask(net, HalfState(half=half, st="here")) == Ok()


# ---------------------------------------------------------------- what a guest has


def test_what_we_do_not_know_of_a_list_is_closed_there_and_what_is_left_out_is_gone(net):
    ann, bob = net.talking("a", "a", "b")
    assert ask(net, Halves(of=((bob.cid, 1, 77),), more=True)) == Ok()
    assert len(hosting(net)) == 1
    assert ask(net, Halves(of=())) == Ok()
    assert (ann.last(control.Peer).ev, len(hosting(net))) == ("away", 0)


def test_a_guest_that_says_what_it_has_hears_all_of_it_anew(net):
    _, bob = net.talking("a", "a", "b")
    half = half_of(net, bob)
    before = len(net["a"].outputs)
    assert ask(net, Halves(of=((bob.cid, 1, half),))) == Ok()
    sent = [out for out in net["a"].outputs[before:] if isinstance(out, ev.SendStream)]
    assert len(sent) == 3  # ok, grant, gate


def test_beats_keep_a_person_there_and_their_end_is_the_end_of_that(net):
    ann, _bob = net.talking("a", "a", "b")
    net.run(60)
    assert net["a"].engine.node.legs[-1].heard > net.now - 6
    net.freeze("a", "b")
    net.unreachable.add("b")
    net.run(35)
    assert ann.last(control.Peer).ev == "away"


def test_a_beat_that_is_refused_proves_nothing(net):
    _, _bob = net.talking("a", "a", "b")
    beaten = hosting(net)._beaten("b", None)
    heard = net["a"].engine.node.legs[-1].heard
    beaten(Err(code=1))
    assert net["a"].engine.node.legs[-1].heard == heard


def test_a_person_who_hung_up_is_not_welcomed_back(net):
    ann, bob = net.talking("a", "a", "b")
    net.ask(ann, control.Hangup(c=ann.cid))
    assert ask(net, HalfState(half=half_of(net, bob), st="silent")) == Ok()
    assert ask(net, HalfState(half=half_of(net, bob), st="here")) == Ok()
    net.run(10)
    assert ask(net, HalfState(half=0, st="here")).code == TrunkCode.HALF_UNKNOWN
    net.check_empty()


def test_who_comes_back_by_the_guest_has_the_place_again(net):
    ann, bob = net.talking("a", "a", "b", key=True)
    net.cut("a", "b")
    net.run(2.0)
    again = bob.resume()
    again.rejoin()
    net.run(5.0)
    assert (again.joined.p, net.heard_of(ann)) == (1, [again])


def test_what_is_left_to_say_to_a_half_that_is_gone_is_not_said(net):
    net.talking("a", "a", "b")
    far = hosting(net).find(-1)
    outputs = net["a"].engine.abroad.trunks.outputs
    hosting(net).on_letter(-9, b"")
    far.half = None
    hosting(net).on_letter(-1, b"")
    del hosting(net)._legs[-1]
    hosting(net)._on_gone(far)
    assert not outputs
    net["a"].engine.node.put(ev.CloseFlow(-9, 1))
    net["a"].feed(ev.Tick())
    assert not outputs


def test_what_no_guest_confirmed_is_sure_when_their_leases_are_over():
    net = Net("a", "b", "c")
    bob, _ = net.talking("a", "b", "c")
    net.freeze("a", "b")
    net.freeze("a", "c")
    assert net["a"].command("end", cid=bob.cid) is ErrorCode.NO_ERROR
    net.run(1.5)
    assert net["a"].engine.abroad.granting.unsure
    net.run(20)
    assert not net["a"].engine.abroad.granting.unsure


# ---------------------------------------------------------------- what a half sent and heard

TOTAL = Sum(sent=9, came=9, drops={}, quality=())


def part(net, half):
    net["b"].engine.abroad.trunks.say("a", Part(half=half, sum=TOTAL))
    net["b"].feed(ev.Tick())
    net.run(0.5)


def test_the_sum_of_a_halfs_close_is_in_the_record(net):
    ann, bob = net.talking("a", "a", "b")
    close = Close(half=half_of(net, bob), why="failed", code=0, up=True, sum=TOTAL)
    assert isinstance(ask(net, close), Ok)
    net.ask(ann, control.Hangup(c=ann.cid))
    net.run(1.0)
    assert net["a"].records[0].participants[1].accepted_packets == 9


def test_a_part_of_no_half_or_of_one_that_the_engine_has_done_with_counts_nowhere(net):
    _, bob = net.talking("a", "a", "b")
    part(net, 777)
    far = hosting(net).find(-1)
    assert far.told.sent == 0
    part(net, half_of(net, bob))
    assert far.told.sent == 9
    far.told.sent = 0
    far.c = bytes(16)  # its call is over
    part(net, half_of(net, bob))
    assert far.told.sent == 0


def test_whose_voice_ended_is_waited_for_and_nobody_else(net):
    ids = net.call("a", lim=GROUP)
    ann, bob, carol = [net.enter(name, ids) for name in ("a", "b", "b")]
    for one in (ann, bob, carol):
        net.ask(one, control.Accept(c=ids.cid))
    net["b"].engine.abroad.visiting.parts.tell = lambda leg: None
    bob.ask(control.Hangup(c=ids.cid))
    net.run(0.2)
    waits = {far: hosting(net).waits(far) for far in (-1, -2, -9)}
    assert waits == {-1: True, -2: False, -9: False}
    net.run(1.5)
    assert not hosting(net).waits(-1)


def test_a_trunk_that_is_down_takes_the_waiting_for_its_own_people_alone():
    net = Net("a", "b", "c")
    net.talking("a", "b", "c")
    legs = [hosting(net).find(number) for number in (-1, -2)]
    for far in legs:
        far.waits_until = net.now + 1
    net.cut("a", "b")
    assert [(far.node, far.waits_until is None) for far in legs] == [("b", True), ("c", False)]
