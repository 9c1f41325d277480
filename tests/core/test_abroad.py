import pytest

from pair import World
from relay.core import events as ev
from relay.core.trunk_half import HalfState
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.trunk_messages import Ask, Mirror
from trunkrig import Net

GROUP = (512, 512, 500, 32)


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


# ---------------------------------------------------------------- two nodes


def test_two_people_at_two_nodes_hear_each_other_once_both_accepted(net):
    ids = net.call("a")
    ann = net.enter("a", ids)
    bob = net.enter("b", ids)
    assert (bob.joined.p, bob.joined.up) == (1, 1)
    assert [entry.sub for entry in bob.joined.roster] == [ann.sub]
    assert ann.last(control.Peer) == control.Peer(c=ids.cid, p=1, ev="join", sub=bob.sub)
    assert isinstance(net.ask(bob, control.Accept(c=ids.cid)), control.Ok)
    assert ann.last(control.Peer).ev == "accept"
    assert (net.heard_of(ann), net.heard_of(bob)) == ([], [])
    assert isinstance(net.ask(ann, control.Accept(c=ids.cid)), control.Ok)
    assert bob.last(control.Peer).ev == "accept"
    assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
    assert (ann.hears, bob.hears) == (0b10, 0b01)
    assert bob.gate.fl == {0: 1}


def test_a_hang_up_at_home_ends_it_there_and_at_the_guest(net):
    ann, bob = net.talking("a", "a", "b")
    assert isinstance(net.ask(ann, control.Hangup(c=ann.cid)), control.Ok)
    assert (net.heard_of(ann), net.heard_of(bob)) == ([], [])
    assert [one.last(control.Ended).why for one in (ann, bob)] == ["completed", "completed"]
    net.run(10)
    assert (ann.closed, bob.closed) == (ErrorCode.NO_ERROR, ErrorCode.NO_ERROR)
    record = net["a"].records[0]
    assert record.outcome == "completed"
    assert [one.transport for one in record.participants] == ["quic", "trunk"]
    assert not net["b"].records
    net.check_empty()


def test_a_hang_up_at_the_guest_is_answered_by_the_home(net):
    ann, bob = net.talking("a", "a", "b")
    assert isinstance(net.ask(bob, control.Hangup(c=bob.cid)), control.Ok)
    assert [one.last(control.Ended).why for one in (ann, bob)] == ["completed", "completed"]
    net.run(10)
    net.check_empty()


def test_a_goodbye_at_the_guest_ends_the_call(net):
    ann, bob = net.talking("a", "a", "b")
    bob.send(control.Bye())
    net.run(1)
    assert (bob.closed, ann.last(control.Ended).why) == (ErrorCode.NO_ERROR, "completed")
    net.run(10)
    net.check_empty()


def test_a_mute_shuts_the_way_and_opens_it_again_on_the_same_numbers(net):
    ann, bob = net.talking("a", "a", "b")
    flows = dict(bob.gate.fl)
    assert isinstance(net.ask(ann, control.Mute(c=ann.cid, on=True)), control.Ok)
    assert (net.heard_of(ann), bob.hears) == ([], 0)
    assert bob.last(control.Mute).on
    net.ask(ann, control.Mute(c=ann.cid, on=False))
    assert (net.heard_of(ann), bob.gate.fl) == ([bob], flows)
    assert isinstance(net.ask(bob, control.Mute(c=ann.cid, on=True)), control.Ok)
    assert (net.heard_of(bob), net.heard_of(ann)) == ([], [bob])


def test_blobs_between_the_two_pass(net):
    ann, bob = net.talking("a", "a", "b")
    assert isinstance(net.ask(bob, control.E2e(c=bob.cid, to=0, k=0, b=b"up")), control.Ok)
    assert ann.last(control.E2e).b == b"up"
    assert isinstance(net.ask(ann, control.E2e(c=ann.cid, to=1, k=0, b=b"down")), control.Ok)
    assert bob.last(control.E2e).b == b"down"


def test_a_trunk_that_is_lost_shuts_all_and_one_that_returns_opens_it_again(net):
    ann, bob = net.talking("a", "a", "b")
    net.cut("a", "b")
    assert (net.heard_of(ann), net.heard_of(bob)) == ([], [])
    half = net["b"].engine.abroad.visiting.half_of(bob.leg)
    assert half.state is HalfState.ORPHAN
    net.run(0.01)
    assert bob.hears == 0
    net.run(3.0)
    assert half.state is HalfState.OPEN
    assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
    assert bob.hears == 1


def test_what_a_client_says_while_the_home_is_not_heard_is_to_be_said_again(net):
    _ann, bob = net.talking("a", "a", "b")
    net.unreachable.add("a")
    net.cut("a", "b")
    answer = net.ask(bob, control.Mute(c=bob.cid, on=True))
    assert (answer.code, answer.fatal, answer.retry_ms) == (ErrorCode.OVERLOADED, False, 1000)


def test_a_home_that_stays_away_ends_the_call_for_the_guests_people_after_a_minute(net):
    ann, bob = net.talking("a", "a", "b")
    net.unreachable.add("a")
    net.cut("a", "b")
    net.run(59)
    assert bob.closed is None
    net.run(2)
    assert (bob.last(control.Ended).why, bob.closed) == ("failed", ErrorCode.GENERAL)
    net.run(120)  # and at home the person is away, and then gone
    assert ann.closed is not None
    net.run(10)
    net.unreachable.clear()
    net.check_empty()


def test_a_silent_trunk_shuts_the_guest_within_fifteen_seconds(net):
    _ann, bob = net.talking("a", "a", "b")
    net.freeze("a", "b")
    net.unreachable.add("a")
    net.run(15.1)
    assert net["b"].engine.abroad.visiting.half_of(bob.leg).state is HalfState.ORPHAN
    assert not net["b"].table.targets.get((bob.leg, bob.joined.up))


def test_a_call_goes_on_by_another_connection_when_the_one_in_use_stands_still(net):
    ann, bob = net.talking("a", "a", "b")
    net.freeze("a", "b")
    net.run(6.0)
    assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
    net.ask(ann, control.Hangup(c=ann.cid))
    net.run(10)
    net.check_empty()


def test_who_comes_when_the_home_was_killed_and_is_there_again_gets_in_at_the_guest(net):
    net.talking("a", "a", "b")
    net.kill("a")
    net.run(2.0)
    net.start("a")
    net.run(3.0)
    ids = net.call("a")
    ann, bob = net.enter("a", ids), net.enter("b", ids)
    assert {entry.p for entry in bob.joined.roster} >= {ann.index}


def test_a_leg_lost_at_the_guest_makes_its_person_away_at_home(net):
    ann, bob = net.talking("a", "a", "b")
    bob.lose()
    net.run(0.5)
    assert ann.last(control.Peer).ev == "away"
    assert net.heard_of(ann) == []
    net.run(100)
    assert ann.last(control.Ended).why == "failed"
    net.run(10)
    net.check_empty()


def test_who_is_silent_at_the_guest_is_away_at_home_and_back_when_heard(net):
    ann, bob = net.talking("a", "a", "b")
    net.run(31, alive=(ann,))
    net.run(1.0, alive=(ann,))
    assert ann.last(control.Peer).ev == "away"
    assert (net.heard_of(ann), net.heard_of(bob)) == ([], [])
    net.run(7.0)
    assert ann.last(control.Peer).ev == "back"
    assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])


def test_a_person_may_come_back_to_the_guest_with_a_token_and_the_ticket(net):
    ann, bob = net.talking("a", "a", "b")
    bob.lose()
    net.run(1.0)
    ids = net.call("a")
    ids.cid = bob.cid
    fresh = ids.token(sub=bob.sub)
    again = bob.resume(fresh)
    again.rejoin()
    net.run(1.0)
    assert (again.joined.p, ann.last(control.Peer).ev) == (1, "back")
    assert (net.heard_of(ann), net.heard_of(again)) == ([again], [ann])


def test_the_record_counts_what_came_from_the_other_node(net):
    _ann, bob = net.talking("a", "a", "b")
    for _ in range(5):
        net.heard_of(bob)
    net.ask(bob, control.Hangup(c=bob.cid))
    net.run(10)
    record = net["a"].records[0]
    assert [one.received for one in record.participants] == [0, 5]


def test_a_call_on_one_node_is_none_of_the_trunks_business(net):
    ids = net["a"].call()
    one, two = (net["a"].client(ids.token()).enter() for _ in range(2))
    one.accept()
    two.accept()
    assert net.heard_of(one) == [two]
    assert not net["a"].engine.abroad.granting
    assert not net["a"].wires
    one.hangup()
    net.run(10)
    net.check_empty()


def test_a_node_that_leaves_takes_no_half_and_says_nothing_of_a_later_version(net):
    ids = net.call("a")
    ann, bob = net.enter("a", ids), net.enter("b", ids)
    trunks = net["b"].engine.abroad.trunks
    got = []
    trunks.say("a", Mirror(c=ids.cid, term=1, over=True))
    trunks.ask("a", Ask(c=ids.cid, p=0, bps=1, pt=20, ttl=1), got.append)
    net["b"].feed(ev.Tick())
    net.run(0.5)
    assert [answer.code for answer in got] == [ErrorCode.VERSION]
    net["a"].engine.node.put(ev.AskRoundTrip(-1))
    net["a"].feed(ev.DrainRequested())
    assert not net["a"].engine.abroad.trunks.takes_halves("b")
    assert (ann.joined.p, bob.joined.p) == (0, 1)


def test_what_must_be_remembered_is_said_before_all_else(net):
    net["a"].engine.remember()
    ann, bob = net.talking("a", "a", "b")
    before = len(net["a"].outputs)
    net.ask(ann, control.Mute(c=ann.cid, on=True))
    assert isinstance(net["a"].outputs[before], ev.Remember)
    assert net.heard_of(bob) == [ann]


def test_an_answer_that_waits_for_other_nodes_is_given_in_its_time():
    net = Net("a", "b", "c")
    bob, _ = net.talking("a", "b", "c")
    assert isinstance(net.ask(bob, control.Mute(c=bob.cid, on=True)), control.Ok)
    net["a"].engine.abroad.on_due("held", 0)


# ---------------------------------------------------------------- who is let in


def test_a_home_that_is_not_configured_sends_the_client_there(net):
    client = net["b"].client(net.call("a").token(home="elsewhere")).open()
    answer = client.hello()
    assert (answer.code, answer.data) == (ErrorCode.MOVED, {"node": "elsewhere", "to": []})
    assert client.closed is ErrorCode.MOVED


def test_a_home_that_is_not_there_is_waited_for_two_seconds(net):
    net.unreachable.add("a")
    bob = net.arrive("b", net.call("a"))
    net.run(1.9)
    assert bob.closed is None
    net.run(0.2)
    assert (bob.last(control.Err).code, bob.closed) == (ErrorCode.OVERLOADED, ErrorCode.OVERLOADED)
    net.check_empty()


def test_the_home_judges_the_token_again_and_spends_it(net):
    ids = net.call("a")
    raw = ids.token()
    bob = net["b"].client(raw).open()
    bob.hello()
    bob.join()
    net.run(1.0)
    assert bob.joined is not None
    again = net["b"].client(raw).open()
    assert isinstance(again.hello(), control.Welcome)
    again.join()
    net.run(1.0)
    assert (again.last(control.Err).code, again.closed) == (ErrorCode.TOKEN_REPLAYED,) * 2


def test_a_proof_of_possession_is_checked_by_both(net):
    ids = net.call("a")
    bob = net.enter("b", ids, key=True)
    assert bob.joined.p == 0


def test_a_call_that_ended_is_refused_in_the_homes_words(net):
    ann, _bob = net.talking("a", "a", "b")
    net.ask(ann, control.Hangup(c=ann.cid))
    ids = net.call("a")
    ids.cid = ann.cid
    late = net.arrive("b", ids)
    net.run(1.0)
    assert (late.last(control.Err).code, late.closed) == (ErrorCode.CALL_ENDED,) * 2


def test_an_engine_without_trunks_sends_people_to_their_home():
    world = World()
    assert world.engine.abroad is None
    client = world.client(world.call().token(home="relay-9")).open()
    assert (client.hello().code, client.closed) == (ErrorCode.MOVED, ErrorCode.MOVED)


def test_what_the_lane_says_of_visitors_flows_reaches_their_home(net):
    _, bob = net.talking("a", "a", "b")
    net["b"].feed(ev.Flowing({(bob.leg, bob.joined.up): (net.now, 5)}))
    net.run(2.0)
    assert net["a"].engine.abroad.hosting.find(-1).told.sent == 5


def test_a_flow_of_a_leg_that_nobody_has_is_closed_without_counts(net):
    net["a"].engine.node.put(ev.CloseFlow(-9, 1))
    net["a"].feed(ev.Tick())
    assert not net["a"].records
