"""Where voices may go and whom halves hear, as their nodes are told; and closings between two other nodes."""

import pytest

from relay.core import events as ev
from relay.errors import ErrorCode
from relay.protocol import control, token
from relay.protocol.messages import Err
from relay.protocol.trunk_messages import Gate, Grant
from trunkrig import Net

GROUP = (512, 512, 500, 32)


@pytest.fixture
def net() -> Net:
    return Net("a", "b", "c")


def granting(net):
    return net["a"].engine.abroad.granting


def said(net, kind):
    """What the home said of a kind, newest last."""
    frames = [out.data[2:] for out in net["a"].outputs if isinstance(out, ev.SendStream)]
    return [frame for frame in frames if frame[1] == kind.TYPE]


def test_two_guests_pull_from_each_other_and_the_home_carries_nothing():
    net = Net("a", "b", "c")
    bob, cid = net.talking("a", "b", "c")
    assert (net.heard_of(bob), net.heard_of(cid)) == ([cid], [bob])
    assert not net["a"].table.open
    assert isinstance(net.ask(bob, control.Hangup(c=bob.cid)), control.Ok)
    net.run(10)
    assert len(net["a"].records) == 1
    net.check_empty()


def test_two_people_at_one_guest_hear_each_other_there():
    net = Net("a", "b")
    bob, eve = net.talking("a", "b", "b")
    assert (net.heard_of(bob), net.heard_of(eve)) == ([eve], [bob])
    assert not net["a"].table.open
    net.ask(eve, control.Hangup(c=eve.cid))
    net.run(10)
    net.check_empty()


def test_a_group_at_three_nodes_hears_itself_and_is_left_one_by_one():
    net = Net("a", "b", "c")
    people = net.talking("a", "a", "b", "b", "c", lim=GROUP)
    for one in people:
        assert set(net.heard_of(one)) == set(people) - {one}
    net.ask(people[1], control.Hangup(c=people[0].cid))
    for one in people:
        assert set(net.heard_of(one)) == (set() if one is people[1] else set(people) - {one, people[1]})
    net.ask(people[3], control.Mute(c=people[0].cid, on=True))
    assert net.heard_of(people[3]) == []
    for one in (people[0], people[2], people[3]):
        net.ask(one, control.Hangup(c=people[0].cid))
    net.run(10)
    net.check_empty()


def test_a_hang_up_that_the_other_guest_does_not_confirm_is_still_answered_since_the_speakers_did():
    net = Net("a", "b", "c")
    bob, _cid = net.talking("a", "b", "c")
    net.freeze("a", "c")
    bob.ask(control.Mute(c=bob.cid, on=True))
    net.run(0.5)
    assert isinstance(bob.answers[bob._id], control.Ok)
    assert net.heard_of(bob) == []


def test_a_mute_that_reaches_neither_end_is_answered_with_internal_and_holds_once_the_lease_is_over():
    net = Net("a", "b", "c")
    ids = net.call("a", lim=GROUP, prm=7 | token.MAY_MODERATE)
    ann, bob, cid = (net.enter(name, ids) for name in "abc")
    for one in (ann, bob, cid):
        net.ask(one, control.Accept(c=ids.cid))
    net.run(1.0)
    assert set(net.heard_of(bob)) == {ann, cid}
    net.freeze("a", "b")
    net.freeze("a", "c")
    ann.ask(control.Mod(c=ids.cid, op="mute", p=1))
    net.run(0.9)
    assert ann.answers.get(ann._id) is None
    net.run(0.2)
    answer = ann.answers[ann._id]
    assert (answer.code, answer.fatal, answer.retry_ms) == (ErrorCode.INTERNAL, False, 1000)
    assert net.heard_of(bob) == [cid]
    net.run(15)
    assert net.heard_of(bob) == []
    net.run(5)
    assert not net["a"].engine.abroad.granting.unsure


def test_an_end_by_order_that_no_guest_confirms_is_known_to_hold_once_the_leases_are_over():
    net = Net("a", "b", "c")
    bob, cid = net.talking("a", "b", "c")
    net.freeze("a", "c")
    net.freeze("a", "b")
    assert net["a"].command("end", cid=bob.cid) is ErrorCode.NO_ERROR
    net.run(1.5)
    assert net["a"].engine.abroad.granting.unsure
    net.run(20)
    assert not net["a"].engine.abroad.granting.unsure
    assert (net.heard_of(bob), net.heard_of(cid)) == ([], [])


def test_who_is_at_home_is_told_of_where_the_others_are(net):
    people = net.talking("a", "a", "b", "c", lim=GROUP)
    assert [one.hears for one in people] == [0b110, 0b101, 0b011]
    assert granting(net)
    voice = net["a"].engine.abroad.voices.voice_of(people[0].leg, 1)
    assert not granting(net).hosts(voice)
    assert granting(net).hosts(voice._replace(p=1))
    assert not granting(net).hosts(voice._replace(c=bytes(16)))


def test_nobody_is_told_twice_and_nothing_that_says_nothing(net):
    ids = net.call("a", lim=GROUP)
    bob = net.enter("b", ids)
    assert (said(net, Grant), said(net, Gate)) == ([], [])
    ann = net.enter("a", ids)
    for one in (ann, bob):
        net.ask(one, control.Accept(c=ids.cid))
    net.run(1.0)
    before = len(said(net, Grant)), len(said(net, Gate))
    granting(net)._dirty[ids.cid] = None
    net["a"].feed(ev.Tick())
    assert (len(said(net, Grant)), len(said(net, Gate))) == before


def test_what_is_said_while_there_is_no_trunk_is_said_when_it_is_there(net):
    ann, bob = net.talking("a", "a", "b", lim=GROUP)
    net.unreachable.add("a")
    net.cut("a", "b")
    assert isinstance(net.ask(ann, control.Block(c=ann.cid, p=1, on=True)), control.Ok)
    net.unreachable.clear()
    net.run(15.0)
    assert (net.heard_of(ann), net.heard_of(bob)) == ([], [])
    net.ask(ann, control.Block(c=ann.cid, p=1, on=False))
    assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])


def test_a_person_who_moves_from_home_to_a_guest_is_heard_there(net):
    ann, bob = net.talking("a", "a", "b")
    ids = net.call("a")
    ids.cid = ann.cid
    again = net["c"].client(ids.token(sub=ann.sub)).open()
    again.ticket = ann.ticket
    again.hello(resume=ann.ticket)
    again.rejoin()
    net.run(0.5)
    ann.send(control.Moved(c=ann.cid, ok=True))
    net.run(5.0)
    assert ann.closed is ErrorCode.MOVED
    assert (net.heard_of(again), net.heard_of(bob)) == ([bob], [again])
    assert not net["a"].table.open


def test_an_answer_that_is_no_word_on_the_half_proves_nothing(net):
    _, _bob = net.talking("a", "a", "b")
    far = net["a"].engine.abroad.hosting.find(-1)

    assert not granting(net)._is_done(far, Err(code=ErrorCode.INTERNAL))
    granting(net)._granted(far, None, [1])(Err(code=ErrorCode.INTERNAL))
    granting(net)._gated(far, None, [1])(Err(code=ErrorCode.INTERNAL))
    assert net["a"].engine.abroad.hosting.find(-1) is far


def test_a_leg_that_never_sat_leaves_nothing(net):
    _, _bob = net.talking("a", "a", "b")
    far = net["a"].engine.abroad.hosting.find(-1)
    granting(net).leave(far)
    granting(net).leave(far)
    granting(net).settle()
    assert granting(net).hosts(net["a"].engine.abroad.voices.voice_of(1, 1)._replace(p=1)) is False


def test_a_call_of_this_node_alone_is_told_to_nobody(net):
    ids = net["a"].call()
    one, two = (net["a"].client(ids.token()).enter() for _ in range(2))
    one.accept()
    two.accept()
    assert net.heard_of(one) == [two]
    one.hangup()
    granting(net)._dirty[bytes(16)] = None
    net.run(10)
    net.check_empty()


def test_a_half_that_its_node_does_not_know_is_given_up(net):
    ids = net.call("a", lim=GROUP)
    ann, _, bob = net.enter("a", ids), net.enter("a", ids), net.enter("b", ids)
    for one in (ann, bob):
        net.ask(one, control.Accept(c=ids.cid))
    net["b"].engine.abroad.visiting._guest._legs.clear()
    net.ask(ann, control.Mute(c=ids.cid, on=True))
    assert len(net["a"].engine.abroad.hosting) == 0


def test_one_of_two_listeners_nodes_is_not_enough():
    net = Net("a", "b", "c", "d")
    ids = net.call("a", lim=GROUP, prm=7 | token.MAY_MODERATE)
    ann, *others = (net.enter(name, ids) for name in "abcd")
    for one in (ann, *others):
        net.ask(one, control.Accept(c=ids.cid))
    net.run(1.0)
    net.freeze("a", "b")
    net.freeze("a", "d")
    ann.ask(control.Mod(c=ids.cid, op="mute", p=1))
    net.run(0.9)
    assert ann.answers.get(ann._id) is None
    net.run(0.2)
    assert ann.answers[ann._id].code == ErrorCode.INTERNAL
