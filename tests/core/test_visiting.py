"""People at a node that is not their call's home: what they see is what they would see there."""

import pytest

from relay.core import events as ev
from relay.core.handover import read
from relay.core.trunk_half import HalfState as State
from relay.errors import ErrorCode
from relay.protocol import control, datagram
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Close, Gate, Grant, HalfState, Say
from trunkrig import Net

GROUP = (512, 512, 500, 32)


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


def visiting(net):
    return net["b"].engine.abroad.visiting


def tell(net, message):
    """What `a` would say as a home; the answer."""
    got = []
    assert net["a"].engine.abroad.trunks.ask("b", message, got.append)
    net["a"].feed(ev.Tick())
    net.run(0.5)
    return got[0] if got else None


def half(net, client):
    return visiting(net).half_of(client.leg)


def said(net, name, kind):
    """How often this node said something of a kind, by its type's number in the frame."""
    frames = [out.data for out in net[name].outputs if isinstance(out, ev.SendStream)]
    return sum(frame[3] == kind.TYPE for frame in frames)


# ---------------------------------------------------------------- coming in


def test_who_is_welcome_here_waits_for_the_home_before_being_in(net):
    bob = net.arrive("b", net.call("a"))
    assert (bob.joined, len(visiting(net)), half(net, bob).state) == (None, 1, State.ASKED)
    assert net["b"].engine.spent_tokens == 0
    net.run(1.0)
    assert bob.joined.rt is not None
    assert half(net, bob).state is State.IDLE


def test_a_leg_joins_once_and_its_own_call(net):
    ids = net.call("a")
    bob = net["b"].client(ids.token()).open()
    bob.hello()
    assert bob.ask(control.Join(c=bytes(16))).code == ErrorCode.CALL_NOT_FOUND
    eve = net.arrive("b", ids)
    assert eve.join().code == ErrorCode.PROTOCOL_VIOLATION
    net.run(1.0)
    assert len(visiting(net)) == 0


def test_a_call_has_one_home(net):
    net = Net("a", "b", "c")
    ids = net.call("a")
    net.enter("b", ids)
    eve = net["b"].client(ids.token(home="c")).open()
    assert isinstance(eve.hello(), control.Welcome)
    assert eve.join().code == ErrorCode.CALL_NOT_FOUND


def test_a_call_that_has_come_here_meanwhile_has_its_home_here(net):
    ids = net.call("a")
    bob = net["b"].client(ids.token()).open()
    bob.hello()
    net["b"].client(ids.token(home=None)).enter()
    assert bob.join().code == ErrorCode.CALL_NOT_FOUND


def test_who_goes_before_the_home_answers_leaves_nothing(net):
    bob = net.arrive("b", net.call("a"))
    bob.lose()
    net.run(1.0)
    assert len(visiting(net)) == 0
    net.run(130)
    net.check_empty()


def test_an_answer_for_who_has_gone_meanwhile_is_given_back(net):
    net.enter("b", net.call("a"))  # the trunk is there
    bob = net.arrive("b", net.call("a"))
    bob.lose()
    net.run(1.0)
    assert said(net, "b", Close) == 1
    assert net["a"].engine.node.calls[bob.cid].here()[0].legs == []


def test_a_refusal_for_who_has_gone_meanwhile_is_for_nobody(net):
    ids = net.call("a")
    bob = net.enter("b", ids)
    again = net["b"].client(bob.raw).open()
    again.hello()
    again.join()
    again.lose()
    net.run(1.0)
    assert again.closed is None


def test_a_node_that_is_not_the_home_after_all_is_named(net):
    ids = net.call("a")
    object.__setattr__(net["a"].engine.node.config.node, "id", "q")  # its trunk goes by another name
    bob = net.arrive("b", ids)
    net.run(1.0)
    answer = bob.last(control.Err)
    assert (answer.code, answer.data, bob.closed) == (
        ErrorCode.MOVED,
        {"node": "a", "to": []},
        ErrorCode.MOVED,
    )


def test_a_code_of_trunks_is_none_of_the_clients(net):
    bob = net.arrive("b", net.call("a"))
    visit = visiting(net)._visits[bob.leg]
    visiting(net)._refuse(visit, Err(code=TrunkCode.OLD_TERM))
    net["b"].feed(ev.Tick())
    assert bob.closed is ErrorCode.OVERLOADED


# ---------------------------------------------------------------- what is said


def test_what_is_the_guests_own_is_answered_here(net):
    bob = net.enter("b", net.call("a"))
    net.freeze("a", "b")
    assert bob.ask(control.Ping(t=5)) == control.Pong(t=5)
    bob.send(control.Pong(t=5))
    assert bob.ask(control.Carry(c=bob.cid, way="both")).code == ErrorCode.NOT_IN_CALL
    assert isinstance(bob.ask(control.Moved(c=bob.cid, ok=False)), control.Ok)
    assert bob.closed is None


def test_what_a_later_version_says_is_refused_if_it_wants_an_answer(net):
    bob = net.enter("b", net.call("a"))
    for id in (0, 9):
        frame = bytes((0x93, 0x7F, id, 0x80))
        net["b"].feed(ev.StreamReceived(bob.leg, len(frame).to_bytes(2, "big") + frame))
    assert [message.code for message in bob.all(control.Err)] == [ErrorCode.VERSION]


def test_what_no_client_says_in_a_call_ends_the_leg(net):
    bob = net.enter("b", net.call("a"))
    assert bob.join().code == ErrorCode.PROTOCOL_VIOLATION
    assert bob.closed is ErrorCode.PROTOCOL_VIOLATION


def test_words_about_another_call_go_nowhere(net):
    bob = net.enter("b", net.call("a"))
    before = said(net, "b", Say)
    assert bob.ask(control.Accept(c=bytes(16))).code == ErrorCode.CALL_NOT_FOUND
    assert said(net, "b", Say) == before


def test_what_is_too_long_for_a_trunk_is_too_large(net, monkeypatch):
    bob = net.enter("b", net.call("a"))
    monkeypatch.setattr("relay.core.visiting.MAX_SAID", 10)
    answer = bob.ask(control.Accept(c=bob.cid))
    assert (answer.code, answer.fatal) == (ErrorCode.TOO_LARGE, False)


def test_a_newer_token_counts_here_and_at_home(net):
    ids = net.call("a")
    bob = net.enter("b", ids)
    fresh = ids.token(sub=bob.sub, lim=(64, 64, 50, 2))
    assert isinstance(net.ask(bob, control.TokenUpdate(tok=fresh)), control.Ok)
    budgets = [out for out in net["b"].outputs if isinstance(out, ev.SetBudget)]
    assert budgets[-1].up_bps == 64_000
    assert net["a"].engine.node.legs[-1].claims.lim[0] == 64
    assert net["b"].engine.spent_tokens == 0


def test_a_report_by_datagram_goes_on_as_a_message(net):
    ann, bob = net.talking("a", "a", "b")
    rr = control.Rr(c=bob.cid, s=())
    net["b"].feed(ev.DatagramReceived(bob.leg, datagram.encode_datagram(datagram.NewestWins(rr.TYPE, 1, rr))))
    net.run(0.5)
    assert ann.last(control.Rr) == rr
    other = control.Rr(c=bytes(16), s=())
    net["b"].feed(
        ev.DatagramReceived(bob.leg, datagram.encode_datagram(datagram.NewestWins(rr.TYPE, 2, other)))
    )
    net.run(0.5)
    assert len(ann.all(control.Rr)) == 1


def test_a_word_of_the_home_that_passes_no_trunk_ends_the_trunk(net):
    bob = net.enter("b", net.call("a"))
    word = Say(half=half(net, bob).number, m=control.encode_body(control.Obs(ip="", port=1, seq=1)))
    net["a"].engine.abroad.trunks.say("b", word)
    net["a"].feed(ev.Tick())
    net.run(0.05)
    assert net["b"].engine.counters["refused", "protocol_violation"] == 1
    assert half(net, bob).state is State.ORPHAN


def test_what_is_said_of_halves_that_are_not_here_is_answered_so(net):
    net.enter("b", net.call("a"))
    for message in (
        Gate(half=9, open=0, ep=1, at={}),
        Grant(half=9, to=()),
        Close(half=9, why="failed", code=0),
    ):
        assert tell(net, message).code == TrunkCode.HALF_UNKNOWN
    assert tell(net, Say(half=9, m=control.encode_body(Ok()))) is None


def test_a_gate_is_told_to_the_client_on_numbers_that_stay(net):
    ids = net.call("a", lim=GROUP)
    bob = net.enter("b", ids)
    number = half(net, bob).number
    assert tell(net, Gate(half=number, open=0b110, ep=4, at={1: "a", 2: "a"})) == Ok()
    assert (bob.gate.open, bob.gate.ep, bob.gate.fl) == (0b110, 4, {1: 1, 2: 2})
    assert tell(net, Gate(half=number, open=0b100, ep=5, at={2: "a"})) == Ok()
    assert (bob.gate.open, bob.gate.fl) == (0b100, {1: 1, 2: 2})


def test_a_half_that_its_home_closes_closes_its_leg(net):
    bob = net.enter("b", net.call("a"))
    assert tell(net, Close(half=half(net, bob).number, why="removed", code=ErrorCode.REMOVED)) == Ok()
    assert (bob.closed, len(visiting(net))) == (ErrorCode.REMOVED, 0)


# ---------------------------------------------------------------- legs and homes


def test_a_leg_that_is_not_heard_is_reported_and_again_when_it_is(net):
    ann, _bob = net.talking("a", "a", "b")
    net.run(33.0, alive=(ann,))
    assert (said(net, "b", HalfState), ann.last(control.Peer).ev) == (1, "away")
    net.run(3.0, alive=(ann,))
    assert said(net, "b", HalfState) == 1
    net.run(2.0)
    assert (said(net, "b", HalfState), ann.last(control.Peer).ev) == (2, "back")
    visiting(net).on_leg_due(99)


def test_who_waits_for_a_trunk_is_asked_for_when_it_is_there(net):
    net.unreachable.add("a")
    bob = net.arrive("b", net.call("a"))
    net.run(1.0)
    net.unreachable.clear()
    net.cut("b", "a")
    net.run(0.9)
    assert bob.joined is not None


def test_a_home_that_does_not_know_a_list_leaves_its_halves_orphans(net):
    bob = net.enter("b", net.call("a"))
    listed = visiting(net)._listed("a")
    net.unreachable.add("a")
    net.cut("a", "b")
    listed(Err(code=1))
    assert half(net, bob).state is State.ORPHAN


@pytest.mark.parametrize("gone", [True, False])
def test_who_has_a_key_comes_back_with_a_ticket_alone(net, gone):
    ann, bob = net.talking("a", "a", "b", key=True)
    if gone:
        bob.lose()
        net.run(5.0)
    again = bob.resume()
    again.rejoin()
    net.run(5.0)
    assert again.joined.p == 1
    assert (net.heard_of(ann), net.heard_of(again)) == ([again], [ann])
    net.run(100)
    again.lose()
    net.run(100)
    late = again.resume()
    assert late.closed is ErrorCode.RESUME_UNKNOWN


def test_a_goodbye_and_a_move_go_to_the_home_and_end_the_leg(net):
    for message, code in ((control.Bye(), ErrorCode.NO_ERROR), (None, ErrorCode.MOVED)):
        ann, bob = net.talking("a", "a", "b")
        bob.send(message or control.Moved(c=bob.cid, ok=True))
        net.run(0.5)
        assert (bob.closed, half(net, bob)) == (code, None)
        assert ann.got[-1] == ann.last(control.Peer if message is None else control.Ended)


def test_a_home_that_is_not_heard_is_waited_for_and_then_given_up(net):
    bob = net.enter("b", net.call("a"))
    net.enter("b", net.call("a"))
    net.unreachable.add("a")
    net.cut("a", "b")
    answer = net.ask(bob, control.Accept(c=bob.cid))
    assert (answer.code, answer.fatal) == (ErrorCode.OVERLOADED, False)
    late = net.arrive("b", net.call("a"))
    net.run(6.0)
    assert late.closed is ErrorCode.OVERLOADED
    net.run(60.0)
    assert (bob.last(control.Ended).why, bob.closed) == ("failed", ErrorCode.GENERAL)


def test_a_trunk_that_comes_up_is_no_news_for_people_of_other_homes():
    net = Net("a", "b", "c")
    net.unreachable.add("c")
    late = net.arrive("b", net.call("c"))
    assert net.enter("b", net.call("a")).joined is not None
    assert late.joined is None


def test_people_here_are_asked_to_go_with_a_ticket_that_says_who_they_are_and_where_the_home_is(net):
    ann, bob = net.talking("a", "a", "b", key=True)
    there = visiting(net)
    assert there.calls() == [bob.cid]
    assert (there.home_of(bob.cid), there.home_of(bytes(16))) == ("a", None)
    late = net["b"].client(net.call("a").token()).open()
    late.hello()
    late.join()
    for cid in there.calls():
        there.ask(cid, ("quic://a.example:443",), 1.0, 2.0)
    net["b"].feed(ev.Tick())
    notice = bob.last(control.Drain)
    assert (notice.in_ms, notice.by_ms, notice.to) == (1000, 2000, ("quic://a.example:443",))
    told = read(net["b"].engine.node, notice.ht)
    assert (told.home, told.bearer.claims.sub) == ("a", bob.sub)
    assert not late.all(control.Drain)
    assert not ann.all(control.Drain)
