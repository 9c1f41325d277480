"""What of a call outlives a crash, and how the next process goes on with it."""

import pytest

from pair import Client, World, config
from relay.config import LimitsConfig
from relay.core import events as ev
from relay.core.reasons import DropReason
from relay.core.remembering import AGAIN_S, AT_ONCE, EACH_S
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.datagram import NewestWins, decode_datagram


@pytest.fixture
def world() -> World:
    made = World()
    made.engine.remember()
    return made


def remembered(world: World) -> dict[bytes, bytes]:
    """What the edge has kept."""
    kept: dict[bytes, bytes] = {}
    for output in world.outputs:
        if isinstance(output, ev.Remember):
            kept[output.call] = output.data
    return {cid: data for cid, data in kept.items() if data}


def after(world: World, *, legs: set[int] | None = None, ago: float = 0.0) -> World:
    """The process that comes after a crash, `ago` seconds later; the lane carries these legs on, else all."""
    new = World(seed=2)
    new.engine.remember()
    new.now, new.wall = world.now + ago, world.wall + ago
    new.clients = world.clients
    carried = set(world.engine.node.legs) if legs is None else legs
    new.feed(ev.CallsRemembered(remembered(world), dict.fromkeys(carried, world.now), world.now))
    for client in world.clients.values():
        client.world = new
    new.run(0.0)
    return new


def notices(one: Client) -> list[control.Drain]:
    """What this person was asked by datagram."""
    told = [decode_datagram(data) for data in one.datagrams]
    return [
        each.body for each in told if isinstance(each, NewestWins) and isinstance(each.body, control.Drain)
    ]


def test_nothing_is_said_where_nobody_remembers():
    world = World()
    world.talking()
    assert remembered(world) == {}


def test_a_call_is_remembered_from_its_answer_to_its_end_and_before_anything_is_said(world):
    ann, bob = world.pair()
    assert remembered(world) == {}
    ann.accept()
    bob.accept()
    assert list(remembered(world)) == [ann.cid]
    before = len(world.outputs)
    ann.mute()
    assert isinstance(world.outputs[before], ev.Remember)
    before = len(world.outputs)
    world.feed(ev.Tick())
    assert world.outputs[before:] == []
    bob.hangup()
    world.run(400)
    assert remembered(world) == {}


def test_the_same_people_hear_each_other_on_the_legs_and_flows_that_they_had(world):
    ann, bob = world.talking()
    new = after(world)
    assert ann.speak() is None
    assert bob.speak() is None
    assert (len(ann.heard), len(bob.heard)) == (1, 1)
    assert ann.heard[0][0] in flows_to(world, ann)
    assert new.engine.counters["call_revived", ""] == 1
    new.check()


def flows_to(world: World, one: Client) -> list[int]:
    seats = world.engine.node.calls[one.cid].seats
    return [flow for seat in seats.values() if seat.leg == one.leg for flow in seat.hearing.values()]


def test_mutes_and_blocks_hold_and_who_was_away_is_away_for_as_long(world):
    ann, bob = world.talking()
    ann.mute()
    after(world)
    assert ann.speak() is DropReason.MUTED
    assert bob.speak() is None


def test_a_leg_that_the_lane_does_not_carry_on_is_away_since_the_crash(world):
    ann, bob = world.talking(key=True)
    new = after(world, legs={ann.leg}, ago=1.0)
    assert ann.speak() is DropReason.GATE_CLOSED
    [seat] = [seat for seat in new.engine.node.calls[ann.cid].seats.values() if seat.sub == bob.sub]
    assert seat.away_at == pytest.approx(world.now)
    new.run(200.0, (ann,))
    assert [record.outcome for record in new.records] == ["failed"]


def test_who_was_away_before_the_crash_has_as_long_as_without_it(world):
    ann, bob = world.talking(key=True)
    bob.lose()
    world.run(40.0, (ann,))
    new = after(world, ago=5.0)
    [seat] = [seat for seat in new.engine.node.calls[ann.cid].seats.values() if seat.sub == bob.sub]
    assert seat.away_at == pytest.approx(new.now - 45.0, abs=0.1)


def test_legs_on_tcp_are_not_remembered(world):
    ids = world.call()
    ann, bob = world.client(ids.token(net=2), "ws").enter(), world.client(ids.token()).enter()
    ann.accept()
    bob.accept()
    new = after(world, legs={bob.leg})
    assert set(new.engine.node.legs) == {bob.leg}


def test_people_are_asked_to_come_back_until_the_leg_is_gone(world):
    ann, bob = world.talking(key=True)
    new = after(world)
    new.run(1.0 + 3 * AGAIN_S, (ann, bob))
    assert len(notices(ann)) >= 3
    assert notices(ann)[0].ht is None
    ann.lose()
    count = len(notices(ann))
    new.run(3 * AGAIN_S, (bob,))
    assert len(notices(ann)) == count
    assert len(notices(bob)) > count


def test_of_many_people_one_after_the_other_is_asked(world):
    pairs = [world.talking(key=True) for _ in range(100)]
    people = [one for pair in pairs for one in pair]
    new = after(world)
    asked, tenth = [], EACH_S * len(people) / 10
    for _ in range(10):
        new.run(tenth)
        asked.append(sum(bool(notices(one)) for one in people))
    assert asked == pytest.approx(range(20, 201, 20), abs=1)


def test_calls_are_taken_up_a_few_at_a_time_and_at_once_when_somebody_asks(world):
    pairs = [world.talking(key=True) for _ in range(6 * AT_ONCE)]
    new = World(seed=2)
    new.now, new.wall, new.clients = world.now, world.wall, world.clients
    calls = remembered(world)
    legs = dict.fromkeys(set(world.engine.node.legs), world.now)
    new.feed(ev.CallsRemembered(calls, legs, world.now))
    taken = new.engine.calls
    assert 0 < taken < len(pairs)
    assert new.engine.is_taking_up
    last = list(calls)[-1]
    assert new.command("end", cid=last) is ErrorCode.NO_ERROR
    assert new.command("end", cid=last) is not ErrorCode.NO_ERROR
    new.run(0.0)
    assert not new.engine.is_taking_up
    assert new.engine.counters["call_revived", ""] == len(pairs)


def test_what_cannot_be_read_or_had_is_let_go_with_its_legs(world):
    ann, _ = world.talking()
    new = World(seed=2)
    new.clients = world.clients
    new.feed(ev.CallsRemembered({ann.cid: b"noise"}, dict.fromkeys(set(world.engine.node.legs), 0.0), 0.0))
    assert new.engine.counters["revive_refused", ""] == 1
    assert ann.closed is ErrorCode.RESUME_UNKNOWN
    assert ev.Remember(ann.cid, b"") in new.outputs


def test_legs_beyond_what_the_node_takes_now_are_let_go(world):
    ann, bob = world.talking(key=True)
    full = World(config(limits=LimitsConfig(legs=1)), seed=3)
    full.clients = world.clients
    legs = dict.fromkeys(set(world.engine.node.legs), world.now)
    full.feed(ev.CallsRemembered(remembered(world), legs, world.now))
    assert len(set(full.engine.node.legs)) == 1
    assert [one.closed for one in (ann, bob)].count(ErrorCode.RESUME_UNKNOWN) == 1
