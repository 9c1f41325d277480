import pytest

from pair import ADULT, TEEN, Two, World, config
from relay.config import LimitsConfig
from relay.core import events as ev
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.ids import Sub


@pytest.fixture
def world() -> World:
    return World()


def test_a_seat_charges_a_device_and_opens_an_uplink_that_nobody_hears(world):
    ann, bob = world.pair()
    node = world.engine.node
    assert node.device_quota.held((ann.cid, ann.sub)) == 1
    assert ev.OpenFlow(bob.leg, 1, 1, False) in world.outputs
    assert not [out for out in world.outputs if isinstance(out, ev.Route)]
    bob.lose()
    assert node.device_quota.held((bob.cid, bob.sub)) == 0
    assert ev.CloseFlow(bob.leg, 1) in world.outputs


def test_too_many_devices_of_one_person_are_refused(world):
    ids = world.call()
    clients = [world.client(ids.token(sub=Sub(bytes(16)))) for _ in range(5)]
    for one in clients:
        one.open()
        one.hello()
        one.join()
    assert clients[4].closed is ErrorCode.QUOTA


def test_the_roster_shows_state_mute_contact_and_relay_only(world):
    ids = world.call()
    lim = (512, 512, 500, 5)
    ann = world.client(ids.token(lim=lim)).enter()
    bob = world.client(ids.token(lim=lim, net=1, age=TEEN)).enter()
    bob.accept()
    bob.mute()
    cid = world.client(ids.token(lim=lim)).enter()
    cid.accept()
    cid.lose()
    dan = world.client(ids.token(lim=lim)).enter()
    roster = {entry.p: entry for entry in dan.joined.roster}
    assert [roster[p].st for p in range(3)] == ["joined", "accepted", "away"]
    assert [roster[p].mu for p in range(3)] == [False, True, False]
    assert roster[1].rly
    assert all(entry.ctc == 1 for entry in roster.values())
    assert dan.joined.rly  # a young person is there
    assert ann.joined.rly is False


@pytest.mark.parametrize(("changes", "hidden"), [({}, False), ({"net": 1}, True), ({"ctc": 0}, True)])
def test_addresses_stay_hidden_by_token_or_for_want_of_a_contact(world, changes, hidden):
    ann = world.client(world.call().token(age=ADULT, **changes)).enter()
    assert ann.joined.rly is hidden


def test_dismissed_and_replaced_legs_are_closed_with_their_codes(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    sub = Sub(b"s" * 16)
    phone, tablet = (world.client(ids.token(sub=sub)).enter() for _ in range(2))
    tablet.accept()
    assert phone.closed is ErrorCode.ANSWERED_ELSEWHERE
    world.client(ids.token(sub=sub)).enter()
    assert tablet.closed is ErrorCode.REPLACED
    assert ann.closed is None
    world.check()


def test_what_was_announced_goes_with_the_leg(world):
    ann, bob = world.talking(prm=15)
    bob.ask(control.Cand(c=bob.cid, to=0, gen=0, acl=(("192.0.2.1", 1),)))
    assert world.engine.node.guests.announced(ann.cid, 1, 0)
    bob.lose()
    [pair] = world.engine.node.calls[bob.cid].paths.values()
    assert not pair.sides[1].announced


def moving(world):
    ann, bob = world.talking(key=True)
    again = ann.resume()
    again.rejoin()
    return ann, again, bob


def test_in_a_move_both_legs_sit_until_one_is_done(world):
    ann, again, _ = moving(world)
    node = world.engine.node
    assert node.device_quota.held((ann.cid, ann.sub)) == 2
    third = again.resume()
    third.rejoin()
    assert (ann.closed, node.device_quota.held((ann.cid, ann.sub))) == (ErrorCode.MOVED, 2)
    third.lose()
    assert (again.closed, node.device_quota.held((ann.cid, ann.sub))) == (None, 1)
    assert again.speak() is None


def test_with_room_for_one_leg_the_old_one_goes_first():
    world = World(config(limits=LimitsConfig(ringing_legs=1)))
    ann, again, _ = moving(world)
    assert ann.closed is ErrorCode.MOVED
    assert again.speak() is None
    world.check()


def test_addresses_of_the_leg_that_was_left_are_forgotten_and_those_of_the_new_one_stay(world):
    ann, bob = world.talking(key=True, prm=15)
    cand = control.Cand(c=bob.cid, to=0, gen=0, acl=(("192.0.2.1", 1),))
    bob.ask(cand)
    again = bob.resume()
    again.rejoin()
    assert not world.engine.node.guests.announced(ann.cid, 1, 0)
    again.ask(cand)
    world.run(4.0, alive=(ann, again))
    assert bob.closed is ErrorCode.MOVED
    assert world.engine.node.guests.announced(ann.cid, 1, 0)


def test_addresses_of_a_leg_that_gives_its_place_to_the_other_of_two_are_forgotten(world):
    ann, bob = world.talking(key=True, prm=15)
    again = bob.resume()
    again.rejoin()
    again.ask(control.Cand(c=bob.cid, to=0, gen=0, acl=(("192.0.2.1", 1),)))
    for leg, way in ((again, "up"), (again, "both")):
        leg.ask(control.Carry(c=bob.cid, way=way))
        assert world.engine.node.guests.announced(ann.cid, 1, 0)
    bob.ask(control.Carry(c=bob.cid, way="both"))
    assert not world.engine.node.guests.announced(ann.cid, 1, 0)
    world.check()


def test_of_two_legs_the_second_takes_the_place_of_one_that_is_no_good(world):
    ann, again, bob = moving(world)
    again.ask(control.Carry(c=ann.cid, way="up"))
    assert isinstance(ann.rejoin(), control.Joined)
    assert again.closed is ErrorCode.MOVED
    assert bob.speak() is None
    assert len(ann.heard) == 1
    world.check()


def test_who_changes_ways_all_the_time_is_left_with_the_leg_that_takes_all(world):
    ann, again, _ = moving(world)
    for way in ("up", "down", "up", "both"):
        again.ask(control.Carry(c=ann.cid, way=way))
    assert (ann.closed, again.closed) == (ErrorCode.MOVED, None)
    assert world.engine.node.device_quota.held((ann.cid, ann.sub)) == 1
    world.check()


def test_the_first_to_sit_down_in_a_call_of_another_node_makes_it_ours():
    two = Two(World(), World(seed=2))
    ann, bob = two.old.talking(key=True)
    two.tell()
    assert two.new.kinds() == []
    for one in (ann, bob):
        two.go(one, one.ticket).rejoin()
    assert two.new.kinds().count("call.adopted") == 1
