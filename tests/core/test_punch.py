import pytest

from pair import World, config
from relay.config_turn import TurnConfig
from relay.core import events as ev
from relay.core.company import Owner
from relay.core.paths import ROUND_S, PathState
from relay.errors import ErrorCode
from relay.protocol import control, token
from relay.protocol.address import Address

MAY = token.MAY_SEND | token.MAY_RECEIVE | token.MAY_E2E | token.MAY_P2P
HOME = ("192.0.2.1", 40000)
TURN = TurnConfig(enabled=True, policy="strict", urls=("turn:relay.example:3478",))


@pytest.fixture
def world() -> World:
    return World()


def cand(client, to: int | None = None, **fields):
    base = {"gen": 0, "b": b"sealed", "kinds": ("host", "srflx"), "end": True}
    return client.ask(control.Cand(c=client.cid, to=1 - client.index if to is None else to, **base | fields))


def path(client, use: str, **fields):
    return client.ask(control.Path(c=client.cid, p=1 - client.index, use=use, **fields))


def refused(answer) -> ErrorCode:
    assert answer.fatal is False
    return ErrorCode(answer.code)


def trio(world):
    ids = world.call()
    people = [world.client(ids.token(lim=(512, 512, 500, 3), prm=MAY)).enter() for _ in range(3)]
    for one in people:
        one.accept()
    return people


def state(world, cid) -> PathState:
    [pair] = world.engine.node.calls[cid].paths.values()
    return pair.state


def test_sealed_addresses_pass_between_two_who_accepted_and_not_before(world):
    ann, bob = world.pair(prm=MAY)
    assert refused(cand(ann)) is ErrorCode.FORBIDDEN
    ann.accept()
    assert refused(cand(ann)) is ErrorCode.FORBIDDEN
    bob.accept()
    assert isinstance(cand(ann, acl=(HOME,)), control.Ok)
    [passed] = bob.all(control.Cand)
    assert passed == control.Cand(
        c=ann.cid, to=1, gen=0, b=b"sealed", kinds=("host", "srflx"), end=True, p=0
    )  # without what is for the relay alone
    assert not ann.all(control.Cand)


def test_nobody_sends_addresses_to_an_empty_seat_or_to_itself(world):
    ann, _ = world.talking(prm=MAY)
    assert refused(cand(ann, to=0)) is ErrorCode.NOT_IN_CALL
    assert refused(cand(ann, to=5)) is ErrorCode.NOT_IN_CALL


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"net": 1}, {}),
        ({}, {"net": 1}),
        ({"ctc": 0}, {}),
        ({}, {"ctc": 0}),
        ({"prm": 7}, {}),
        ({}, {"prm": 7}),
    ],
)
@pytest.mark.parametrize("kinds", [("host",), ("relay", "srflx"), ()])
def test_no_address_passes_if_one_of_the_two_hides(world, mine, theirs, kinds):
    ids = world.call()
    ann = world.client(ids.token(**{"prm": MAY} | mine)).enter()
    bob = world.client(ids.token(**{"prm": MAY} | theirs)).enter()
    ann.accept()
    bob.accept()
    assert refused(cand(ann, kinds=kinds)) is ErrorCode.P2P_DENIED
    assert not bob.all(control.Cand)
    assert isinstance(cand(ann, kinds=("relay",), acl=(HOME,)), control.Ok)
    assert isinstance(cand(ann, kinds=(), b=b""), control.Ok)
    assert len(bob.all(control.Cand)) == 2


def test_an_address_that_is_none_is_refused(world):
    ann, _ = world.talking(prm=MAY)
    for wrong in (("192.0.2.300", 1), ("relay.example", 1), ("192.0.2.1", 0)):
        assert refused(cand(ann, acl=(wrong,))) is ErrorCode.BAD_ENCODING


def test_older_addresses_are_dropped_and_blocked_ones_vanish(world):
    ann, bob, cid = trio(world)
    cand(ann, to=1, gen=2)
    assert isinstance(cand(ann, to=1, gen=1), control.Ok)
    assert world.engine.counters["dropped", "stale"] == 1
    bob.block(0)
    assert isinstance(cand(ann, to=1, gen=3), control.Ok)
    assert world.engine.counters["dropped", "blocked"] == 1
    assert len(bob.all(control.Cand)) == 1
    assert not cid.all(control.Cand)


def test_both_are_told_to_knock_at_once_each_as_much_later_as_the_other_is_farther(world):
    ann, bob = world.talking(prm=MAY)
    cand(ann)
    ping = ann.last(control.Ping)
    world.run(0.080)
    ann.send(control.Pong(t=ping.t + 7))  # not what was asked
    ann.send(control.Pong(t=ping.t))
    ann.send(control.Pong(t=ping.t))
    cand(bob, end=False)
    world.run(0.020)
    bob.send(control.Pong(t=bob.last(control.Ping).t))
    assert not ann.all(control.Punch)
    cand(bob)
    assert ann.last(control.Punch) == control.Punch(c=ann.cid, p=1, round=1, delay_ms=0)
    assert bob.last(control.Punch) == control.Punch(c=ann.cid, p=0, round=1, delay_ms=30)


def test_a_leg_that_did_not_answer_is_taken_for_as_far_as_the_other(world):
    ann, bob = world.talking(prm=MAY)
    cand(ann)
    world.run(3.0)
    ann.send(control.Pong(t=ann.last(control.Ping).t))
    cand(bob)
    assert [one.last(control.Punch).delay_ms for one in (ann, bob)] == [0, 0]


def test_nobody_waits_longer_than_half_a_second(world):
    ann, bob = world.talking(prm=MAY)
    cand(ann, end=False)
    ann.send(control.Pong(t=ann.last(control.Ping).t))
    cand(bob)
    world.run(8.0)
    bob.send(control.Pong(t=bob.last(control.Ping).t))
    cand(ann)
    assert [one.last(control.Punch).delay_ms for one in (ann, bob)] == [500, 0]


def test_rounds_go_on_until_both_are_direct_or_there_were_four(world):
    ann, bob = world.talking(prm=MAY)
    cand(ann)
    cand(bob)
    world.run(ROUND_S)
    assert [punch.round for punch in ann.all(control.Punch)] == [1, 2]
    for one in (ann, bob):
        assert isinstance(path(one, "direct", rtt=12.0, loss=0.0), control.Ok)
    assert state(world, ann.cid) is PathState.DIRECT
    world.run(5.0)
    assert len(bob.all(control.Punch)) == 2
    assert isinstance(path(ann, "relay"), control.Ok)
    assert state(world, ann.cid) is PathState.RELAYED
    cand(ann, gen=1)
    world.run(9.0)
    assert [punch.round for punch in bob.all(control.Punch)] == [1, 2, 1, 2, 3, 4]
    assert state(world, ann.cid) is PathState.RELAYED


def test_a_direct_path_needs_consent_too(world):
    ann, bob = world.pair(prm=MAY)
    ann.accept()
    assert refused(path(ann, "direct")) is ErrorCode.FORBIDDEN
    assert isinstance(path(ann, "relay"), control.Ok)
    assert refused(ann.ask(control.Path(c=ann.cid, p=0, use="relay"))) is ErrorCode.NOT_IN_CALL
    assert not bob.all(control.Path)


def test_nobody_is_told_to_knock_at_one_who_is_away(world):
    ann, bob = world.talking(prm=MAY)
    cand(ann)
    cand(bob)
    bob.lose()
    world.run(5.0)
    assert len(ann.all(control.Punch)) == 1
    assert state(world, ann.cid) is PathState.RELAYED


def test_a_block_or_a_host_who_waits_ends_the_rounds(world):
    ann, bob, cid = trio(world)
    for one, other in ((ann, 1), (bob, 0), (ann, 2), (cid, 0)):
        cand(one, to=other)
    bob.block(0)
    world.run(1.5)
    assert [punch.p for punch in ann.all(control.Punch)] == [1, 2, 2]
    assert len(bob.all(control.Punch)) == 1


def test_what_is_direct_is_told_in_the_record(world):
    ann, bob = world.talking(prm=MAY)
    for one in (ann, bob):
        path(one, "direct")
    world.run(12.0, alive=(ann, bob))
    ann.hangup()
    [record] = world.records
    assert [one.quality["direct_s"] for one in record.participants] == [12.0, 12.0]
    assert world.engine.next_deadline() is not None  # two legs that linger
    world.run(20.0)
    world.check()


def test_who_leaves_a_group_leaves_its_paths(world):
    ann, bob, cid = trio(world)
    for one, other in ((ann, 1), (bob, 0), (bob, 2), (cid, 1)):
        cand(one, to=other)
    ann.hangup()
    assert set(world.engine.node.calls[bob.cid].paths) == {(1, 2)}
    world.run(2.0)
    assert not [punch for punch in ann.news() if isinstance(punch, control.Punch) and punch.round > 1]


def reached(world, client, *hosts):
    """Which of `hosts` TURN would send to for `client`."""
    reach = world.engine.node.guests.reach(Owner(client.cid, client.sub))
    return [host for host in hosts if Address(host, 9).packed in reach]


def test_turn_may_relay_to_what_another_announced_for_this_one_while_both_consent(world):
    ann, bob, cid = trio(world)
    mine, other = (HOME[0], "192.0.2.9"), "2001:db8::1"
    assert reached(world, ann, *mine, other) == []
    cand(bob, to=0, acl=(HOME, ("::ffff:192.0.2.9", 7)))
    cand(cid, to=1, acl=(("2001:DB8::1", 9),))
    assert reached(world, ann, *mine, other) == [*mine]
    assert reached(world, bob, *mine, other) == [other]
    assert reached(world, cid, *mine, other) == []
    ann.block(1)
    assert reached(world, ann, *mine) == []
    ann.block(1, on=False)
    assert reached(world, ann, *mine) == [*mine]
    world.run(31.0, alive=(ann,))
    assert reached(world, ann, *mine) == []


def test_what_somebody_announced_dies_with_the_leg(world):
    ann, bob = world.talking(prm=MAY, key=True)
    cand(bob, acl=(HOME,))
    again = bob.resume()
    again.rejoin()
    assert reached(world, ann, HOME[0]) == []


def test_one_who_hides_opens_no_address_of_his_own_in_turn(world):
    ann, bob = world.talking(prm=MAY, ctc=0)
    cand(bob, kinds=("relay",), acl=(HOME,))
    assert reached(world, ann, HOME[0]) == []


def test_of_a_call_or_a_pair_that_nobody_spoke_of_nothing_is_announced(world):
    ann, _ = world.talking(prm=MAY)
    for cid in (ann.cid, world.call().cid):
        assert not world.engine.node.guests.announced(cid, 0, 1)


def test_the_turn_engine_is_told_whenever_announcements_change():
    world = World(config(turn=TURN))
    keys = world.engine.node.keys
    world.engine.node.keys = ev.EngineKeys(keys.issuers, keys.ticket_keys, (b"secret",))
    ann, bob = world.talking(prm=MAY | token.MAY_TURN, key=True)
    assert isinstance(ann.ask(control.Turn()), control.Turn)

    def changes():
        found = sum(isinstance(each, ev.CompanyChanged) for each in world.outputs)
        world.outputs.clear()
        return found

    changes()
    cand(bob, acl=(HOME,))
    assert changes() == 1
    cand(bob, gen=1)  # a generation without them
    assert (changes(), reached(world, ann, HOME[0])) == (1, [])
    cand(bob, gen=0, acl=(HOME,))  # late: nothing of it counts
    assert (changes(), reached(world, ann, HOME[0])) == (0, [])
    assert cand(bob, gen=2, acl=(("nowhere", 9),)).code == ErrorCode.BAD_ENCODING
    assert changes() == 0
    cand(bob, gen=2, acl=(HOME,))
    changes()
    again = bob.resume()
    again.rejoin()  # the leg that announced fades
    assert changes()
    assert reached(world, ann, HOME[0]) == []
    cand(again, gen=3, acl=(HOME,))
    changes()
    again.lose()
    bob.lose()
    assert changes()
    assert reached(world, ann, HOME[0]) == []


def test_addresses_stand_in_no_event_and_no_record(world):
    ann, bob = world.talking(prm=MAY)
    cand(bob, acl=(HOME,))
    ann.hangup()
    kept = [out for out in world.outputs if isinstance(out, ev.CallEvent | ev.CallRecord)]
    assert HOME[0] not in repr(kept)
