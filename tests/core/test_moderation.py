import pytest

from pair import World
from relay.errors import ErrorCode
from relay.protocol import control, token

THREE = (512, 512, 500, 3)


@pytest.fixture
def world() -> World:
    return World()


def trio(world: World):
    """A host, two guests, all accepted."""
    ids = world.call()
    host = world.client(ids.token(lim=THREE, rol=token.ROLE_HOST)).enter()
    guests = [world.client(ids.token(lim=THREE)).enter() for _ in range(2)]
    for one in (host, *guests):
        one.accept()
    return host, *guests


def forbidden(answer) -> bool:
    return (answer.code, answer.fatal) == (ErrorCode.FORBIDDEN, False)


def test_a_mute_holds_before_it_is_answered_and_the_others_hear_of_it(world):
    ann, bob = world.talking()
    assert isinstance(ann.mute(), control.Ok)
    assert ann.speak() == "muted"
    assert bob.last(control.Mute) == control.Mute(c=bob.cid, p=0, on=True, hard=False)
    assert ann.all(control.Mute) == []
    assert bob.speak() is None
    assert isinstance(ann.mute(on=False), control.Ok)
    assert ann.speak() is None
    assert world.kinds().count("participant.muted") == 2


def test_a_moderators_mute_is_lifted_by_a_moderator_only(world):
    host, ann, bob = trio(world)
    assert isinstance(host.mute(p=ann.index, hard=True), control.Ok)
    assert ann.last(control.Mute).hard
    assert ann.speak() == "muted"
    assert forbidden(ann.mute(on=False))
    assert isinstance(ann.mute(), control.Ok)
    host.mod("unmute", ann.index)
    assert ann.speak() == "muted"  # his own still holds
    assert isinstance(ann.mute(on=False), control.Ok)
    assert ann.speak() is None
    host.mod("mute", bob.index)
    assert bob.speak() == "muted"


def test_a_hard_mute_outlives_a_leave(world):
    host, ann, _ = trio(world)
    host.mod("mute", ann.index)
    ann.hangup()
    again = world.client(world.call(ann.cid).token(lim=THREE, sub=ann.sub)).enter()
    again.accept()
    assert again.index == ann.index
    assert again.speak() == "muted"


def test_nobody_moderates_without_the_right(world):
    _, ann, bob = trio(world)
    assert forbidden(ann.mute(p=bob.index))
    assert forbidden(ann.mute(hard=True))
    for op in ("mute", "unmute", "remove", "admit", "end"):
        assert forbidden(ann.mod(op, bob.index))
    assert bob.speak() is None


def test_permission_32_is_as_good_as_the_role(world):
    ann, bob = world.talking(prm=39)
    assert isinstance(ann.mod("end"), control.Ok)
    assert bob.last(control.Ended).why == "completed"
    assert world.records[0].reason == "moderator"


def test_a_removed_person_is_out_at_once(world):
    host, ann, bob = trio(world)
    assert isinstance(host.mod("remove", ann.index), control.Ok)
    assert ann.closed is ErrorCode.REMOVED
    assert host.last(control.Peer).why == "removed"
    assert bob.speak() is None
    assert len(ann.heard) == 0


def test_where_the_host_admits_nobody_is_heard_before(world):
    ids = world.call()
    host = world.client(ids.token(lim=THREE, rol=token.ROLE_HOST, gate=2)).enter()
    guest = world.client(ids.token(lim=THREE, gate=2)).enter()
    host.accept()
    guest.accept()
    assert guest.speak() == "gate_closed"
    assert host.speak() == "gate_closed"
    assert isinstance(host.mod("admit", guest.index), control.Ok)
    assert guest.speak() is None
    assert host.speak() is None


def test_an_empty_seat_is_nobody(world):
    host, ann, _ = trio(world)
    assert host.mod("mute", 9).code == ErrorCode.NOT_IN_CALL
    ann.hangup()
    assert host.mute(p=ann.index).code == ErrorCode.NOT_IN_CALL


def test_a_moderation_of_nobody_in_particular_is_malformed(world):
    host, _, _ = trio(world)
    assert host.mod("mute").code == ErrorCode.BAD_ENCODING
    assert host.closed is ErrorCode.BAD_ENCODING


def test_who_is_blocked_cannot_undo_it(world):
    _, ann, bob = trio(world)
    ann.block(bob.index)
    bob.block(ann.index, on=False)
    bob.speak()
    ann.speak()
    assert (ann.heard, bob.heard) == ([], [])


def test_a_block_in_a_group_clears_the_pair_in_both_directions_and_can_be_undone(world):
    host, ann, bob = trio(world)
    assert isinstance(ann.block(bob.index), control.Ok)
    assert ann.speak() is None
    assert bob.speak() is None
    assert (len(bob.heard), len(ann.heard), len(host.heard)) == (0, 0, 2)
    ann.block(bob.index, on=False)
    ann.speak()
    assert len(bob.heard) == 1


@pytest.mark.parametrize(("side", "answered", "outcome"), [(0, True, "completed"), (1, False, "declined")])
def test_a_block_ends_a_call_of_two_and_looks_like_a_hang_up(world, side, answered, outcome):
    pair = world.talking() if answered else world.pair()
    assert isinstance(pair[side].block(1 - side), control.Ok)
    assert pair[1 - side].last(control.Ended).why == outcome
    assert world.records[0].reason == "blocked"
    assert "pair.blocked" in world.kinds()


def test_unblocking_in_a_call_of_two_ends_nothing(world):
    ann, bob = world.talking()
    assert isinstance(ann.block(1, on=False), control.Ok)
    assert ann.speak() is None
    assert len(bob.heard) == 1


def test_nobody_blocks_himself(world):
    ann, _ = world.talking()
    assert ann.block(0).code == ErrorCode.NOT_IN_CALL


def test_a_block_by_command_needs_no_answer_on_a_leg(world):
    host, ann, bob = trio(world)
    assert world.command("block", cid=host.cid, sub=ann.sub, peer=bob.sub) is ErrorCode.NO_ERROR
    ann.speak()
    assert (len(bob.heard), len(host.heard)) == (0, 1)
