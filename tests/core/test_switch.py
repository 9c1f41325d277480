import pytest

from pair import World
from relay.core import events as ev
from relay.core.reasons import DropReason
from relay.core.switch import Switch, _earlier
from relay.protocol import control

FOUR = (512, 512, 500, 4)


@pytest.fixture
def world() -> World:
    return World()


def routes(world: World) -> list[ev.Route]:
    found = [out for out in world.outputs if isinstance(out, ev.Route)]
    world.outputs.clear()
    return found


def test_only_what_changed_is_said(world):
    ann, bob = world.talking()
    assert {(out.leg, out.targets) for out in routes(world)} == {
        (ann.leg, ((bob.leg, 1),)),
        (bob.leg, ((ann.leg, 1),)),
    }
    ann.accept()
    assert routes(world) == []


def test_a_mute_keeps_the_flow_number_and_names_the_reason(world):
    ann, bob = world.talking()
    flow = bob.gate.fl[0]
    routes(world)
    ann.mute()
    assert routes(world) == [ev.Route(ann.leg, 1, (), DropReason.MUTED)]
    assert (bob.gate.open, bob.gate.fl) == (0, {0: flow})
    ann.mute(on=False)
    assert routes(world) == [ev.Route(ann.leg, 1, ((bob.leg, flow),), None)]


def test_the_lane_is_told_before_anybody_is(world):
    ann, bob = world.talking()
    for ask in (ann.mute, ann.hangup):
        world.outputs.clear()
        ask()
        kinds = [type(out) for out in world.outputs]
        assert kinds.index(ev.Route) < kinds.index(ev.SendStream)
    assert bob.last(control.Ended).why == "completed"


def test_a_lapse_frees_the_number_and_the_next_one_is_another(world):
    ann, bob = world.talking()
    world.run(31, alive=(bob,))
    assert (bob.gate.open, bob.gate.fl) == (0, {})
    ann.rejoin()
    assert (bob.gate.open, bob.gate.fl) == (1, {0: 2})
    assert ann.gate.fl == {1: 2}


def test_a_listener_without_a_free_number_is_left_out_until_one_has_rested(world):
    ids = world.call()
    ann, bob = (world.client(ids.token(lim=FOUR)).enter() for _ in range(2))
    numbers = world.engine.node.legs[ann.leg].downlinks
    while numbers.allot(0.0) is not None:
        pass
    ann.accept()
    bob.accept()
    assert (ann.hears, bob.hears) == (0, 1)
    call = world.engine.node.calls[ann.cid]
    assert call.retry_flows_at is None
    numbers.free(9, 0.0)
    bob.mute()
    bob.mute(on=False)
    assert call.retry_flows_at == 30.0


def test_an_uplink_without_a_free_number_is_none(world):
    ann, _ = world.pair()
    node = world.engine.node
    leg, call = node.legs[ann.leg], node.calls[ann.cid]
    while leg.uplinks.allot(0.0) is not None:
        pass
    assert Switch(node).open_uplink(call, call.seats[0], leg) is None


def test_closing_a_closed_uplink_says_nothing(world):
    ann, _ = world.pair()
    node = world.engine.node
    leg = node.legs[ann.leg]
    switch = Switch(node)
    switch.close_uplink(leg)
    switch.close_uplink(leg)
    assert [out for out in node.outputs if isinstance(out, ev.CloseFlow)] == [ev.CloseFlow(ann.leg, 1)]


def test_in_a_group_every_change_of_membership_is_told(world):
    ids = world.call()
    ann, bob, cid = (world.client(ids.token(lim=FOUR)).enter() for _ in range(3))
    for one in (ann, bob, cid):
        one.accept()
    assert (ann.gate.ep, ann.gate.open) == (3, 0b110)
    bob.hangup()
    assert (ann.gate.ep, ann.gate.open) == (4, 0b100)
    assert world.engine.node.calls[ann.cid].is_pair is False


def test_someone_without_a_leg_has_no_route_and_gets_no_gate(world):
    ids = world.call()
    ann, bob, cid = (world.client(ids.token(lim=FOUR)).enter() for _ in range(3))
    for one in (ann, bob, cid):
        one.accept()
    ann.lose()
    routes(world)
    bob.mute()
    assert [out.leg for out in routes(world)] == [bob.leg]


def test_of_two_times_the_earlier_counts_and_none_is_never():
    assert _earlier(None, None) is None
    assert _earlier(2.0, None) == 2.0
    assert _earlier(2.0, 1.0) == 1.0


def test_who_moves_is_heard_and_hears_on_both_legs_until_one_is_done(world):
    ids = world.call()
    ann, bob, cid = (world.client(ids.token(lim=FOUR, key=True)).enter() for _ in range(3))
    for one in (ann, bob, cid):
        one.accept()
    again = ann.resume()
    routes(world)
    again.rejoin()
    found = {out.leg: {leg for leg, _ in out.targets} for out in routes(world)}
    assert found == {
        bob.leg: {ann.leg, again.leg, cid.leg},
        cid.leg: {ann.leg, again.leg, bob.leg},
        again.leg: {bob.leg, cid.leg},
    }
    again.mute()
    assert {(out.leg, out.closed) for out in routes(world)} == {(ann.leg, "muted"), (again.leg, "muted")}
    cid.hangup()
    assert {out.leg: {leg for leg, _ in out.targets} for out in routes(world)}[bob.leg] == {
        ann.leg,
        again.leg,
    }
    ann.ask(control.Moved(c=ann.cid, ok=True))
    assert [(out.leg, {leg for leg, _ in out.targets}) for out in routes(world)] == [(bob.leg, {again.leg})]


def test_of_two_legs_each_is_told_its_flows_and_one_is_silent_each_way(world):
    ids = world.call()
    ann, bob, cid = (world.client(ids.token(lim=FOUR, key=True)).enter() for _ in range(3))
    ann.accept()
    bob.accept()
    again = ann.resume()
    again.rejoin()
    again.ask(control.Carry(c=ann.cid, way="up"))
    world.run(1.0, alive=(ann, again, bob, cid))
    routes(world)
    cid.accept()
    assert ann.gate.open == again.gate.open == 0b110
    found = {out.leg: {leg for leg, _ in out.targets} for out in routes(world)}
    assert found == {bob.leg: {ann.leg, cid.leg}, cid.leg: {ann.leg, bob.leg}, again.leg: {bob.leg, cid.leg}}
    again.mute()
    assert {(out.leg, out.closed) for out in routes(world)} == {(ann.leg, "muted"), (again.leg, "muted")}
    cid.hangup()
    assert ann.gate.fl == again.gate.fl == {1: 1}
