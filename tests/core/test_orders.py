import pytest

from pair import ISSUER, KID, PUBLIC, World, canaries
from relay.core import events as ev
from relay.core import orders
from relay.errors import ErrorCode
from relay.protocol import command, control, signed, token
from relay.protocol.ids import Jti, Kid, PersonId, Sub

THREE = (512, 512, 500, 3)


@pytest.fixture
def world() -> World:
    return World()


def order(world: World, **changes) -> command.Command:
    now = int(world.wall)
    base = {"op": "revoke", "ru": PersonId(bytes(16)), "iat": now, "exp": now + 60, "id": Jti(b"i" * 16)}
    return command.Command(**base | changes)


def test_end_ends_the_call(world):
    ann, bob = world.talking()
    assert world.command("end", cid=ann.cid) is ErrorCode.NO_ERROR
    assert bob.last(control.Ended).why == "completed"
    assert (world.records[0].outcome, world.records[0].reason) == ("completed", "command")
    news = next(event for event in world.events if event.kind == "command").data
    assert (news["op"], news["call"], news["code"]) == ("end", ann.cid.hex(), "no_error")


def test_mute_is_hard_and_can_be_undone(world):
    ann, _ = world.talking()
    assert world.command("mute", cid=ann.cid, sub=ann.sub) is ErrorCode.NO_ERROR
    assert ann.speak() == "muted"
    assert ann.mute(on=False).code == ErrorCode.FORBIDDEN
    world.command("mute", cid=ann.cid, sub=ann.sub, on=False)
    assert ann.speak() is None


def test_remove_takes_one_out_of_a_group(world):
    ann, bob = world.talking(lim=THREE)
    assert world.command("remove", cid=ann.cid, sub=bob.sub) is ErrorCode.NO_ERROR
    assert bob.closed is ErrorCode.REMOVED
    assert ann.closed is None


def test_block_of_a_pair_works_in_one_call_or_wherever_they_meet(world):
    ann, bob = world.talking(lim=THREE)
    assert world.command("block", cid=ann.cid, sub=ann.sub, peer=bob.sub) is ErrorCode.NO_ERROR
    assert ann.speak() == "blocked"
    assert world.command("block", sub=ann.sub, peer=bob.sub, on=False) is ErrorCode.NO_ERROR
    assert ann.speak() is None
    world.talking()
    assert world.command("block", sub=ann.sub, peer=bob.sub) is ErrorCode.NO_ERROR
    assert ann.speak() == "blocked"


def test_a_block_of_two_who_are_not_together_is_refused(world):
    ann, _ = world.talking()
    assert world.command("block", sub=ann.sub, peer=ann.sub) is ErrorCode.NOT_IN_CALL
    assert world.command("block", sub=ann.sub, peer=Sub(bytes(16))) is ErrorCode.NOT_IN_CALL
    assert world.command("block", cid=ann.cid, sub=ann.sub, peer=Sub(bytes(16))) is ErrorCode.NOT_IN_CALL


@pytest.mark.parametrize("by", ["jti", "ru", "kid"])
def test_revoke_ends_what_the_revoked_does_and_refuses_what_it_will(world, by):
    person = PersonId(b"p" * 16)
    ids = world.call()
    ann = world.client(ids.token(ru=person)).enter()
    bob = world.client(ids.token()).enter()
    waiting = world.client(world.call().token(ru=person)).open()
    waiting.hello()
    assert ann.claims is not None
    fields = {"jti": ann.claims.jti, "ru": person, "kid": KID}
    assert world.command("revoke", **{by: fields[by]}) is ErrorCode.NO_ERROR
    assert (ann.last(control.Ended).why, ann.closed) == ("revoked", ErrorCode.REMOVED)
    assert bob.closed is ErrorCode.REMOVED
    assert world.records[0].outcome == "revoked"
    later = world.client(world.call().token(ru=person)).open()
    expected = {"jti": None, "ru": ErrorCode.FORBIDDEN, "kid": ErrorCode.TOKEN_INVALID}[by]
    later.hello()
    assert (waiting.closed, later.closed) == (expected, expected)


@pytest.mark.parametrize("answered", [False, True])
def test_revoke_finds_the_token_of_each_device_of_a_person(world, answered):
    ids = world.call()
    bob = world.client(ids.token()).enter()
    phone, tablet = (world.client(ids.token(sub=Sub(b"s" * 16))).enter() for _ in range(2))
    if answered:
        phone.accept()
        bob.accept()
        assert world.command("revoke", jti=tablet.claims.jti) is ErrorCode.NO_ERROR
        assert phone.speak() is None
    assert world.command("revoke", jti=phone.claims.jti) is ErrorCode.NO_ERROR
    assert phone.closed is ErrorCode.REMOVED


def test_revoke_finds_who_is_away(world):
    ann, bob = world.talking()
    ann.lose()
    assert world.command("revoke", jti=ann.claims.jti) is ErrorCode.NO_ERROR
    assert bob.last(control.Ended).why == "revoked"


def test_revoke_in_a_group_ends_only_the_revoked(world):
    ids = world.call()
    person = PersonId(b"p" * 16)
    ann = world.client(ids.token(lim=THREE, ru=person)).enter()
    bob = world.client(ids.token(lim=THREE)).enter()
    opened = world.client(world.call().token()).open()
    world.command("revoke", ru=person)
    assert ann.closed is ErrorCode.REMOVED
    assert (bob.closed, opened.closed) == (None, None)


def test_neither_of_two_undoes_a_block_by_command(world):
    ids = world.call()
    ann, bob = (world.client(ids.token(lim=THREE)).enter() for _ in range(2))
    for one in (ann, bob):
        one.accept()
    world.command("block", cid=ann.cid, sub=ann.sub, peer=bob.sub, on=True)
    ann.block(bob.index, on=False)
    assert ann.speak() == "blocked"
    world.command("block", cid=ann.cid, sub=bob.sub, peer=ann.sub, on=False)
    ann.speak()
    assert len(bob.heard) == 1


def test_a_revoked_key_signs_no_command_either(world):
    assert world.command("revoke", kid=KID) is ErrorCode.NO_ERROR
    assert world.command("revoke", kid=KID, on=False) is ErrorCode.TOKEN_INVALID


def test_a_revocation_can_be_taken_back(world):
    person = PersonId(b"p" * 16)
    world.command("revoke", ru=person, kid=Kid(bytes(8)))
    world.command("revoke", ru=person, kid=Kid(bytes(8)), on=False)
    ann = world.client(world.call().token(ru=person)).open()
    assert isinstance(ann.hello(), control.Welcome)


def test_a_command_works_once(world):
    raw = command.mint(order(world), ISSUER)
    assert world.command_raw(raw) is ErrorCode.NO_ERROR
    assert world.command_raw(raw) is ErrorCode.TOKEN_REPLAYED
    world.run(91)
    assert world.command_raw(raw) is ErrorCode.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iat": 1_700_000_031, "exp": 1_700_000_060}, ErrorCode.TOKEN_INVALID),
        ({"exp": 1_700_000_301}, ErrorCode.TOKEN_INVALID),
        ({"exp": 1_700_000_000}, ErrorCode.TOKEN_INVALID),
        ({"iat": 1_699_999_900, "exp": 1_699_999_970}, ErrorCode.TOKEN_EXPIRED),
    ],
)
def test_a_command_out_of_its_time_is_refused(world, changes, code):
    assert world.command_raw(command.mint(order(world, **changes), ISSUER)) is code
    assert "command" not in world.kinds()


def test_a_command_of_a_stranger_and_one_that_is_none_are_refused(world):
    assert world.command_raw(command.mint(order(world), bytes(32))) is ErrorCode.TOKEN_INVALID
    assert world.command_raw(b"junk") is ErrorCode.TOKEN_INVALID
    as_token = token.mint(world.call().claims(), ISSUER)
    assert world.command_raw(as_token) is ErrorCode.TOKEN_INVALID


def test_too_many_commands_at_once_are_refused(world, monkeypatch):
    monkeypatch.setattr(orders, "REMEMBERED", 1)
    world = World()
    assert world.command("revoke", ru=PersonId(bytes(16))) is ErrorCode.NO_ERROR
    assert world.command("revoke", ru=PersonId(bytes(16))) is ErrorCode.OVERLOADED


def test_a_command_about_nobody_is_refused_and_recorded(world):
    ann, _ = world.talking()
    assert world.command("end", cid=world.call().cid) is ErrorCode.CALL_NOT_FOUND
    assert world.command("mute", cid=ann.cid, sub=Sub(bytes(16))) is ErrorCode.NOT_IN_CALL
    ids = world.call()
    bob = world.client(ids.token(lim=THREE)).enter()
    world.client(ids.token(lim=THREE)).enter()
    bob.hangup()
    assert world.command("remove", cid=bob.cid, sub=bob.sub) is ErrorCode.NOT_IN_CALL
    assert [event.data["code"] for event in world.events if event.kind == "command"] == [
        "call_not_found",
        "not_in_call",
        "not_in_call",
    ]


def test_no_event_names_a_person_or_the_command_socket(world):
    world.command("revoke", ru=PersonId(b"p" * 16))
    assert (b"p" * 16).hex() not in repr(world.events)
    assert ev.CommandDone(1, ErrorCode.NO_ERROR, "") in world.outputs
    assert signed.kid_of(PUBLIC) == KID


def test_a_canarys_key_gives_no_commands(world):
    ann, bob = world.talking()
    world.engine.node.on_config(canaries())
    assert world.command("end", cid=ann.cid) is ErrorCode.FORBIDDEN
    assert world.command("revoke", kid=KID) is ErrorCode.FORBIDDEN
    assert (ann.closed, bob.closed, world.kinds().count("command")) == (None, None, 0)


def test_an_order_of_the_fleet_is_obeyed_and_told_like_any_other(world):
    ann, bob = world.talking()
    assert world.command("end", is_fleet=True, cid=ann.cid) is ErrorCode.NO_ERROR
    assert bob.last(control.Ended).why == "completed"
    assert [event.data["code"] for event in world.events if event.kind == "command"] == ["no_error"]


def test_an_order_of_the_fleet_about_nobody_here_holds_and_is_told_by_nobody(world):
    ids = world.call()
    assert world.command("end", is_fleet=True, cid=ids.cid) is ErrorCode.CALL_NOT_FOUND
    two = {"sub": Sub(bytes(16)), "peer": Sub(b"p" * 16)}
    assert world.command("block", is_fleet=True, **two) is ErrorCode.NOT_IN_CALL
    assert "command" not in world.kinds()
    assert world.engine.counters["command", "call_not_found"] == 1
    late = world.client(ids.token()).open()
    late.hello()
    late.join()
    assert late.closed is ErrorCode.CALL_ENDED


def test_an_order_of_the_fleet_is_obeyed_once_and_not_when_it_is_over(world):
    ann, _ = world.talking(lim=THREE)
    mute = {"op": "mute", "ru": None, "cid": ann.cid, "sub": ann.sub}
    raw = command.mint(order(world, **mute), ISSUER)
    assert world.command_raw(raw, is_fleet=True) is ErrorCode.NO_ERROR
    world.command("mute", cid=ann.cid, sub=ann.sub, on=False)
    assert world.command_raw(raw, is_fleet=True) is ErrorCode.TOKEN_REPLAYED
    assert ann.speak() is None
    world.run(91)
    late = command.mint(order(world, **mute, iat=int(world.wall) - 200, exp=int(world.wall) - 100), ISSUER)
    assert world.command_raw(late, is_fleet=True) is ErrorCode.TOKEN_EXPIRED
    forged = command.mint(order(world, **mute), bytes(32))
    assert world.command_raw(forged, is_fleet=True) is ErrorCode.TOKEN_INVALID
    assert len(world.engine.node.held) == 1
