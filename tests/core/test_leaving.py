import pytest

import standing
from pair import CLUSTER, WALL, Client, Two, World, config
from relay.config import DrainConfig
from relay.core import events as ev
from relay.errors import ErrorCode
from relay.protocol import control
from relay.region.nodelist import Node, NodeList
from trunkrig import Net

TO = ("quic://next.example:443",)


@pytest.fixture
def world() -> World:
    return World(config(drain=DrainConfig(to=TO)))


def states(world: World) -> list[str]:
    return [event.data["state"] for event in world.events if event.kind == "node.drain"]


def test_an_empty_node_stops_after_the_last_frames_are_out(world):
    world.feed(ev.DrainRequested())
    assert world.engine.drain_state == "closing"
    assert not world.is_stopped
    world.run(1.0)
    assert world.is_stopped
    assert states(world) == ["draining", "moving", "closing", "stopped"]


def test_calls_go_on_are_asked_to_move_and_closed_at_the_end(world):
    ann, bob = world.talking(dur=10_000)
    world.feed(ev.DrainRequested())
    assert world.engine.is_draining
    world.run(29.9, alive=(ann, bob))
    assert ann.all(control.Drain) == []
    world.run(0.2, alive=(ann, bob))
    notice = ann.last(control.Drain)
    assert (notice.in_ms, notice.by_ms, notice.to) == (10_000, 270_000, TO)
    assert notice.ht is not None
    assert ann.speak() is None
    world.run(268.8, alive=(ann, bob))
    assert ann.closed is None
    world.run(0.1)
    assert (ann.closed, bob.closed) == (ErrorCode.DRAIN_TIMEOUT, ErrorCode.DRAIN_TIMEOUT)
    assert (world.records[0].outcome, world.records[0].reason) == ("failed", "drain")
    world.run(1)
    assert world.is_stopped


def test_the_requests_are_spread_over_ten_seconds_call_by_call(world):
    pairs = [world.talking() for _ in range(4)]
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    told = []
    for _ in range(40):
        told.append(sum(bool(ann.all(control.Drain)) for ann, bob in pairs))
        assert all(len(ann.all(control.Drain)) == len(bob.all(control.Drain)) for ann, bob in pairs)
        world.run(0.25)
    assert (told[0], told[9], told[11], told[21], told[-1]) == (1, 1, 2, 3, 4)


def test_who_is_in_no_call_is_sent_away_when_the_moving_begins(world):
    ann, bob = world.talking()
    idle = world.client(world.call().token()).open()
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    assert idle.closed is ErrorCode.DRAINING
    assert ann.closed is None
    for one in (ann, bob):
        one.ask(control.Moved(c=one.cid, ok=True))
    assert world.engine.drain_state == "closing"
    assert world.records[0].reason == "moved"


def test_a_call_that_ended_before_its_turn_is_not_asked(world):
    world.talking()
    ann, bob = world.talking()
    cid, _ = world.talking()
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    ann.hangup()
    world.run(10)
    assert bob.all(control.Drain) == []
    assert cid.all(control.Drain) != []


def test_a_third_request_closes_everyone(world):
    ann, _ = world.talking()
    lingering, other = world.talking()
    other.hangup()
    for _ in range(3):
        world.feed(ev.DrainRequested())
    assert ann.closed is ErrorCode.DRAIN_TIMEOUT
    assert lingering.closed is ErrorCode.DRAINING
    world.feed(ev.DrainRequested())
    assert states(world) == ["draining", "moving", "closing"]
    world.run(1)
    assert world.is_stopped
    world.check()


def test_a_person_in_a_moving_call_may_still_come_back(world):
    ann, _ = world.talking(key=True)
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    ann.lose()
    assert isinstance(ann.resume().rejoin(), control.Joined)


def test_a_leg_that_opens_late_is_closed_with_the_rest(world):
    world.talking()
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    late = world.client(world.call().token()).open()
    assert late.closed is None
    world.feed(ev.DrainRequested())
    assert late.closed is ErrorCode.DRAIN_TIMEOUT


def test_a_call_that_rings_is_asked_at_once_and_who_is_away_not_at_all(world):
    world.talking()
    for _ in range(3):
        ann, bob = world.pair()
    bob.lose()
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    assert ann.all(control.Drain) != []
    assert bob.all(control.Drain) == []


def test_a_call_that_is_over_but_not_recorded_is_asked_for_nothing(world):
    ann, bob = world.talking()
    call = world.engine.node.calls[ann.cid]
    call.flows[99, 1] = call.seats[0]  # a counter that is still on its way
    ann.hangup()
    eve, _ = world.talking()
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    world.run(1)
    assert bob.all(control.Drain) == []
    assert eve.all(control.Drain) != []
    del call.flows[99, 1]


# ---------------------------------------------------------------- emptied, because the signed routes say so


NEXT = ("quic://relay-2.example:443",)


def directed(*names: str, is_left: bool = True) -> ev.Directed:
    nodes = tuple(
        Node(id=name, region="local", urls=(f"quic://{name}.example:443",), version="1") for name in names
    )
    made = NodeList(v=1, cluster=CLUSTER, rev=1, issued_at=int(WALL), not_after=int(WALL) + 99, nodes=nodes)
    return ev.Directed(made, {"local": 0.0}, is_left)


MARKED, UNMARKED = directed("relay-1", "relay-2"), directed("relay-1", "relay-2", is_left=False)


def asked(pairs: list[tuple[Client, Client]]) -> int:
    return sum(bool(ann.all(control.Drain)) for ann, _ in pairs)


def test_a_marked_node_asks_its_calls_at_the_regions_pace_and_names_the_next_node(world):
    pairs = [world.talking() for _ in range(3)]
    world.feed(MARKED)
    told = []
    for _ in range(6):
        told.append(asked(pairs))
        world.run(0.5)
    assert told == [1, 1, 2, 2, 3, 3]  # of so few, one a second
    for one in (one for pair in pairs for one in pair):
        notice = one.last(control.Drain)
        assert (notice.to, notice.by_ms, notice.ht is not None) == (NEXT, 300_000, True)
        assert one.closed is None
    assert states(world) == ["emptying"]


def test_no_call_begins_at_a_marked_node_and_who_is_called_still_comes(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    world.feed(MARKED)
    late = world.client(world.call().token()).open()
    late.hello()
    late.join()
    assert late.closed is ErrorCode.DRAINING
    bob = world.client(ids.token()).enter()
    ann.accept()
    bob.accept()
    assert ann.speak() is None
    assert ann.all(control.Drain) == []  # it rang
    world.run(5.0, alive=(ann, bob))
    assert ann.last(control.Drain).to == bob.last(control.Drain).to == NEXT


def test_who_stays_is_asked_again_and_nobody_is_closed(world):
    ann, bob = world.talking(dur=10_000)
    world.feed(MARKED)
    world.run(29.9, alive=(ann, bob))
    assert len(ann.all(control.Drain)) == 1
    world.run(0.2, alive=(ann, bob))
    assert len(ann.all(control.Drain)) == 2
    world.run(400.0, alive=(ann, bob))
    assert (ann.closed, bob.closed, world.is_stopped) == (None, None, False)
    assert {notice.to for notice in ann.all(control.Drain)} == {NEXT}


def test_a_mark_that_is_taken_back_asks_nobody_any_more(world):
    pairs = [world.talking(dur=10_000) for _ in range(3)]
    world.feed(MARKED)
    world.feed(UNMARKED)
    world.run(100.0, alive=tuple(one for pair in pairs for one in pair))
    assert asked(pairs) == 1
    assert len(pairs[0][0].all(control.Drain)) == 1
    assert states(world) == ["emptying", "running"]
    assert world.client(world.call().token()).enter().closed is None


def test_a_call_that_ended_before_its_turn_is_passed_over(world):
    pairs = [world.talking() for _ in range(3)]
    world.feed(MARKED)
    first = next(at for at, (ann, _) in enumerate(pairs) if ann.all(control.Drain))
    others = [pair for at, pair in enumerate(pairs) if at != first]
    others[0][0].hangup()
    world.run(2.0)
    assert others[0][1].all(control.Drain) == []
    assert others[1][1].all(control.Drain) != []


def test_a_marked_node_without_calls_waits_and_is_not_stopped(world):
    world.feed(MARKED)
    world.run(1_000.0)
    assert world.engine.drain_state == "emptying"
    assert not world.is_stopped


def test_a_marked_node_that_is_told_to_leave_leaves(world):
    pairs = [world.talking() for _ in range(3)]
    world.feed(MARKED)
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    world.run(10.0)
    assert asked(pairs) == 3
    assert {ann.last(control.Drain).to for ann, _ in pairs} == {NEXT}
    world.feed(UNMARKED)
    assert states(world) == ["emptying", "draining", "moving"]


def test_a_node_that_leaves_names_the_next_one_by_the_list(world):
    ann, bob = world.talking()
    world.feed(UNMARKED)
    world.feed(ev.DrainRequested())
    world.feed(ev.DrainRequested())
    assert ann.last(control.Drain).to == bob.last(control.Drain).to == NEXT


def test_people_of_other_nodes_calls_are_asked_too_and_may_go_before():
    net = Net("a", "b", drain=DrainConfig(to=TO))
    _ann, bob = net.talking("a", "a", "b", key=True)
    _dan, eve = net.talking("a", "a", "b", key=True)
    net["b"].feed(ev.DrainRequested())
    net["b"].feed(ev.DrainRequested())
    net.run(1.0)
    assert bob.last(control.Drain).to == TO
    assert not eve.all(control.Drain)
    eve.send(control.Moved(c=eve.cid, ok=True))
    net.run(31.0)
    assert len(bob.all(control.Drain)) == 2
    assert not eve.all(control.Drain)


def test_people_of_other_nodes_calls_are_asked_while_a_node_is_emptied():
    net = Net("relay-1", "relay-2", "relay-3")
    ann, bob = net.talking("relay-2", "relay-2", "relay-1", key=True)
    _dan, _eve = net.talking("relay-1", "relay-1", "relay-1", key=True)
    net["relay-1"].feed(MARKED)
    net.run(60.0)
    assert bob.last(control.Drain).to == ("quic://relay-2.example:443",)
    assert not ann.all(control.Drain)


def test_who_stands_by_is_let_go_before_anybody_is_asked_to_move() -> None:
    two = Two(World(), World(config(drain=DrainConfig(grace_s=60.0)), seed=2))
    ann, _ = two.old.talking(key=True)
    leg = standing.stand(two, ann)
    eve, dan = two.new.talking()
    two.new.feed(ev.DrainRequested())
    two.new.run(1.0, (eve, dan))
    assert (leg.closed, eve.closed) == (ErrorCode.DRAINING, None)
