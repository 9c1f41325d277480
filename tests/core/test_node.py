import pytest

from pair import PUBLIC, World, canaries, config
from relay.config import DrainConfig, LimitsConfig
from relay.core.events import CloseLeg, EngineKeys, SendStream
from relay.core.leg import Leg
from relay.core.node import HERE, Node
from relay.core.reasons import Refusal
from relay.core.record import EventKind
from relay.core.ringing import Why
from relay.errors import ErrorCode, PeerError
from relay.protocol import control
from relay.protocol.address import Address
from relay.protocol.ids import CallId
from relay.protocol.token import kid_of


@pytest.fixture
def node() -> Node:
    return Node(config(), EngineKeys({}, []), lambda size: bytes(size))


def leg_of(node: Node) -> Leg:
    leg = Leg(1, "quic", Address("192.0.2.1", 9), LimitsConfig(), 0.0)
    node.legs[1] = leg
    node.leg_quota.charge(HERE)
    node.watch_leg(leg)
    return leg


def sent(node: Node) -> list[control.Frame]:
    return [control.decode(out.data[2:]) for out in node.outputs if isinstance(out, SendStream)]


def test_an_answer_is_given_to_those_who_asked(node):
    leg = leg_of(node)
    node.answer(leg, 0)
    node.answer(leg, 7)
    assert sent(node) == [control.Frame(4, 7, control.Ok())]


def test_a_refusal_carries_what_the_peer_needs_and_is_counted(node):
    leg = leg_of(node)
    node.refuse(leg, PeerError(ErrorCode.RATE_LIMITED, "slowly", fatal=False, retry_ms=50), 3)
    assert sent(node) == [control.Frame(5, 3, control.Err(code=0x30, msg="slowly", retry_ms=50))]
    assert node.counters["refused", "rate_limited"] == 1


def test_a_closed_leg_leaves_nothing_behind(node):
    leg = leg_of(node)
    assert node.deadlines.next() == 5.0
    node.close_leg(leg, ErrorCode.BUSY, "why")
    assert node.is_closed(leg)
    assert (node.legs, node.leg_quota.total(), node.deadlines.next()) == ({}, 0, None)
    assert node.outputs[-1] == CloseLeg(1, ErrorCode.BUSY, "why")
    assert node.counters["leg_closed", "busy"] == 1


def test_a_transport_that_never_was_a_leg_is_closed_and_counted(node):
    node.refuse_transport(9, ErrorCode.OVERLOADED)
    assert list(node.outputs) == [CloseLeg(9, ErrorCode.OVERLOADED)]
    assert node.counters["leg_closed", "overloaded"] == 1


def test_what_is_over_or_removed_is_remembered_and_then_forgotten(node):
    claims = World().call().claims()
    node.check_memory(claims.cid, claims.sub)
    node.removed.add((claims.cid, claims.sub), 10.0, 0.0, 0.0)
    with pytest.raises(PeerError) as caught:
        node.check_memory(claims.cid, claims.sub)
    assert caught.value.code is ErrorCode.REMOVED
    node.ended.add(claims.cid, 10.0, 0.0, 0.0)
    with pytest.raises(PeerError) as caught:
        node.check_memory(claims.cid, claims.sub)
    assert caught.value.code is ErrorCode.CALL_ENDED
    node.now = node.wall = 10.0
    node.check_memory(claims.cid, claims.sub)


def test_a_call_is_watched_until_it_is_over():
    world = World()
    ann, _ = world.pair()
    node = world.engine.node
    call = node.calls[ann.cid]
    node.watch_call(call)
    due = node.deadlines.next()
    assert due == min(seat.ticket_at() for seat in call.here())
    call.on_ended(Why.FAILED, "", 0.0)
    node.deadlines.set(("call", call.cid), None)
    node.watch_call(call)
    assert node.deadlines.next() is None


def test_events_name_calls_and_people_by_pseudonym(node):
    world = World()
    ann, _ = world.pair()
    call = world.engine.node.calls[ann.cid]
    node.event(EventKind.RINGING, call, more=1)
    assert node.outputs[-1].data == {"call": ann.cid.hex(), "more": 1}
    world.engine.node.note(call, call.seats[0], EventKind.AWAY)
    assert world.engine.poll().data == {"call": ann.cid.hex(), "sub": ann.sub.hex()}


def test_a_word_about_a_call_is_its_issuers_while_it_is_known_and_else_the_speakers():
    world = World(canaries())
    ann, _ = world.pair()
    node, leg = world.engine.node, world.engine.node.legs[ann.leg]
    node.word(EventKind.FEEDBACK, leg, ann.cid, stars=1)
    told = node.outputs.pop()
    assert (told.data, told.issuer, told.is_canary) == ({"call": ann.cid.hex(), "stars": 1}, "canary", True)
    node.calls[ann.cid].issuer = "opener"
    node.word(EventKind.FEEDBACK, leg, ann.cid)
    assert node.outputs.pop().issuer == "opener"
    node.word(EventKind.FEEDBACK, leg, CallId(bytes(16)))
    assert node.outputs.pop().issuer == "canary"


def test_a_leg_that_was_charged_to_an_issuer_is_given_back_when_it_goes():
    world = World(canaries())
    ann, _ = world.pair()
    node = world.engine.node
    assert node.tenants.held(Refusal.LEGS, "canary") == 2
    ann.lose()
    assert node.tenants.held(Refusal.LEGS, "canary") == 1


def test_telling_reaches_every_device():
    world = World()
    ann, _ = world.pair()
    node = world.engine.node
    node.tell(node.calls[ann.cid].here(), control.Pong(t=1))
    assert [out.leg for out in node.outputs] == [1, 2]


def test_a_reload_moves_the_ceilings_and_the_table(node):
    node.on_config(
        config(limits=LimitsConfig(legs=1, calls=2, ringing_legs=3), drain=DrainConfig(close_s=9), policy=())
    )
    ceilings = (node.leg_quota.ceiling, node.call_quota.ceiling, node.device_quota.ceiling)
    assert ceilings == (1, 2, 3)
    with pytest.raises(KeyError):
        node.policy.alone(World().call().claims())


def test_a_running_node_is_not_closing(node):
    assert not node.is_closing


def test_a_changed_call_is_noted_only_where_calls_are_remembered(node):
    world = World()
    ann, _ = world.pair()
    call = world.engine.node.calls[ann.cid]
    node.note_change(call)
    assert list(node.changed) == []
    node.remembers = True
    for _ in range(2):
        node.note_change(call)
    assert list(node.changed) == [ann.cid]


def test_calls_of_a_canarys_issuer_have_sums_of_their_own_and_events_that_say_so():
    world = World(canaries())
    node = world.engine.node
    assert node.tenants.canaries == {kid_of(PUBLIC)}
    ann, bob = world.talking()
    (call,) = node.calls.values()
    assert call.is_canary
    assert node.vitals_of(call) is not node.vitals
    assert node.tallies_of(call) is not node.tallies
    assert world.engine.unheard() == node.vitals_of(call).unheard() != []
    ann.speak()
    bob.speak()
    world.flow()
    assert node.vitals_of(call).setups == {("quic", "ok"): 1}
    assert node.vitals.setups == {}
    ann.hangup()
    assert world.events
    assert all(event.is_canary for event in world.events)
    assert world.records[0].canary


def test_who_is_a_canary_may_change_with_a_reload_and_calls_stay_what_they_are():
    world = World()
    node = world.engine.node
    world.talking()
    (call,) = node.calls.values()
    node.on_config(canaries())
    assert node.tenants.canaries == {kid_of(PUBLIC)}
    assert node.vitals_of(call) is node.vitals
    assert node.tallies_of(call) is node.tallies
    assert not any(event.is_canary for event in world.events)


def test_a_call_that_changed_is_noted_for_standbys_where_there_are_any():
    world = World()
    node = world.engine.node
    world.talking()
    (call,) = node.calls.values()
    node.note_change(call)
    assert node.altered == {}
    node.has_spares = True
    node.note_change(call)
    assert list(node.altered) == [call.cid]


def test_whoever_is_here_for_another_nodes_call_is_missed_there(node):
    gone = []
    leg = leg_of(node)
    leg.home = "fra-1"
    node.visitor_gone = lambda leg, code: gone.append((leg.number, code))
    node.forget_leg(leg)
    assert gone == [(1, ErrorCode.NO_ERROR)]
