"""Orders of the fleet about calls that are not here yet: they hold for who comes by token or by ticket."""

from __future__ import annotations

import pytest

from pair import WALL, CallIds, Client, Two, World, config
from relay.config import DrainConfig, LimitsConfig
from relay.config_nodes import NodesConfig
from relay.core import held
from relay.core.events import Directed
from relay.errors import ErrorCode
from relay.protocol import command, control
from relay.protocol.ids import CallId, Jti, PersonId, Sub
from relay.region.nodelist import Node, NodeList
from tenancy import ALICE, BERT, code_of, issuer, person, world_of

GROUP = (512, 512, 500, 4)
ANN, BOB = Sub(b"a" * 16), Sub(b"b" * 16)
SETTINGS = config(drain=DrainConfig(grace_s=0.0, smear_s=1.0), nodes=NodesConfig(standbys=True))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def two() -> Two:
    """A node that names standbys, and one of these; the home's orders go to both of them."""
    found = Two(World(SETTINGS), World(SETTINGS, seed=2))
    nodes = tuple(
        Node(id=name, region="local", urls=(f"quic://{name}.example:443",), version="1")
        for name in ("relay-1", "relay-2")
    )
    life = {"issued_at": int(WALL), "not_after": int(WALL) + 900}
    listed = NodeList(v=1, cluster=SETTINGS.node.cluster, rev=1, nodes=nodes, **life)
    found.old.feed(Directed(listed, {"local": 0.0}, False))
    return found


def fleet(world: World, op: str, **fields: object) -> ErrorCode:
    return world.command(op, is_fleet=True, **fields)


def everywhere(two: Two, op: str, **fields: object) -> tuple[ErrorCode, ErrorCode]:
    """One order, to both."""
    return fleet(two.old, op, **fields), fleet(two.new, op, **fields)


def comes(world: World, ids: CallIds, **claims: object) -> Client:
    """Somebody who tries to get in."""
    one = world.client(ids.token(**claims)).open()
    one.hello()
    if one.closed is None:
        one.join()
    return one


def spare(one: Client) -> bytes:
    """The newest ticket for a standby that it was given."""
    return [told.ht for told in one.all(control.Ticket) if told.ht is not None][-1]


# ---------------------------------------------------------------- who comes by a token


def test_who_comes_to_a_call_that_was_ended_elsewhere_is_refused(world: World) -> None:
    ids, other = world.call(), world.call()
    assert fleet(world, "end", cid=ids.cid) is ErrorCode.CALL_NOT_FOUND
    assert len(world.engine.node.held) == 1
    assert comes(world, ids).closed is ErrorCode.CALL_ENDED
    assert comes(world, other).closed is None


def test_an_order_to_this_node_alone_is_not_remembered(world: World) -> None:
    ids = world.call()
    assert world.command("end", cid=ids.cid) is ErrorCode.CALL_NOT_FOUND
    assert comes(world, ids).closed is None


def test_it_is_remembered_for_as_long_as_tokens_of_then_could_be_used() -> None:
    world = World()
    ids = world.call()
    fleet(world, "end", cid=ids.cid)
    tokens = world.config.tokens
    assert world.engine.node.held.life_s == tokens.max_lifetime_s + 2 * tokens.skew_s
    world.run(world.engine.node.held.life_s - 1)
    assert comes(world, ids).closed is ErrorCode.CALL_ENDED
    world.run(1)
    assert comes(world, ids).closed is None
    assert len(world.engine.node.held) == 0
    longer = World(config(limits=LimitsConfig(removed_memory_s=900)))
    assert longer.engine.node.held.life_s == 900


def test_a_clock_that_jumps_lets_nobody_in(world: World) -> None:
    ids = world.call()
    raw = ids.token()
    fleet(world, "end", cid=ids.cid)
    world.now += 10_000  # the wall clock was set back meanwhile
    one = world.client(raw).open()
    one.hello()
    one.join()
    assert one.closed is ErrorCode.CALL_ENDED


def test_who_was_removed_elsewhere_is_refused_and_the_others_are_not(world: World) -> None:
    ids = world.call()
    assert fleet(world, "remove", cid=ids.cid, sub=BOB) is ErrorCode.CALL_NOT_FOUND
    assert comes(world, ids, sub=ANN, lim=GROUP).closed is None
    assert comes(world, ids, sub=BOB, lim=GROUP).closed is ErrorCode.REMOVED


def test_who_was_muted_elsewhere_comes_muted_until_that_is_taken_back(world: World) -> None:
    ids = world.call()
    fleet(world, "mute", cid=ids.cid, sub=BOB)
    ann, bob = (world.client(ids.token(sub=sub)).enter() for sub in (ANN, BOB))
    for one in (ann, bob):
        one.accept()
    assert (ann.speak(), bob.speak()) == (None, "muted")
    assert bob.mute(on=False).code == ErrorCode.FORBIDDEN
    assert fleet(world, "mute", cid=ids.cid, sub=BOB, on=False) is ErrorCode.NO_ERROR
    assert bob.speak() is None
    assert len(world.engine.node.held) == 0


def test_a_mute_that_somebody_lifted_here_does_not_come_back_with_the_next_device(world: World) -> None:
    ids = world.call()
    host = world.client(ids.token(sub=ANN, rol=1, lim=GROUP)).enter()
    bob = world.client(ids.token(sub=BOB, lim=GROUP)).enter()
    for one in (host, bob):
        one.accept()
    assert fleet(world, "mute", cid=ids.cid, sub=BOB) is ErrorCode.NO_ERROR
    host.mod("unmute", bob.index)
    again = world.client(ids.token(sub=BOB, lim=GROUP)).enter()
    again.accept()
    assert again.speak() is None


@pytest.mark.parametrize("is_named", [True, False])
def test_two_of_a_group_who_are_kept_apart_hear_each_other_nowhere(world: World, is_named: bool) -> None:
    ids = world.call()
    where = {"cid": ids.cid} if is_named else {}
    expected = ErrorCode.CALL_NOT_FOUND if is_named else ErrorCode.NOT_IN_CALL
    assert fleet(world, "block", sub=ANN, peer=BOB, **where) is expected
    ann, bob, eve = (
        world.client(ids.token(sub=sub, lim=GROUP)).enter() for sub in (ANN, BOB, Sub(b"e" * 16))
    )
    for one in (ann, bob, eve):
        one.accept()
    assert (ann.hears, bob.hears) == (1 << eve.index, 1 << eve.index)
    ann.block(bob.index, on=False)
    assert (ann.hears, bob.hears) == (1 << eve.index, 1 << eve.index), "neither alone undoes it"
    assert fleet(world, "block", sub=BOB, peer=ANN, on=False, **where) is ErrorCode.NO_ERROR
    fleet(world, "block", sub=ANN, peer=BOB, on=False, **where)
    assert ann.hears == 1 << bob.index | 1 << eve.index
    assert len(world.engine.node.held) == 0


def test_two_alone_who_are_kept_apart_have_no_call(world: World) -> None:
    ids = world.call()
    ann = world.client(ids.token(sub=ANN)).enter()
    assert fleet(world, "block", cid=ids.cid, sub=ANN, peer=BOB) is ErrorCode.NOT_IN_CALL
    assert comes(world, ids, sub=BOB).closed is ErrorCode.CALL_ENDED
    assert ann.closed is None


def test_a_revocation_is_remembered_where_tokens_are_judged(world: World) -> None:
    who = PersonId(b"p" * 16)
    assert fleet(world, "revoke", ru=who) is ErrorCode.NO_ERROR
    assert len(world.engine.node.held) == 0
    assert comes(world, world.call(), ru=who).closed is ErrorCode.FORBIDDEN


def test_what_one_tenant_orders_is_nothing_to_calls_of_another() -> None:
    world = world_of(issuer("alice", ALICE, apart=True), issuer("bert", BERT, apart=True))
    cid = CallId(bytes(16))
    order = command.Command(op="end", cid=cid, iat=int(WALL), exp=int(WALL) + 60, id=Jti(bytes(16)))
    assert world.command_raw(command.mint(order, BERT), is_fleet=True) is ErrorCode.CALL_NOT_FOUND
    assert code_of(person(world, ALICE, cid)) is None
    assert code_of(person(world, BERT, cid)) is ErrorCode.CALL_ENDED


def test_more_than_can_be_remembered_is_refused_and_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "CEILING", 1)
    world = World()
    first = world.call()
    assert fleet(world, "end", cid=first.cid) is ErrorCode.CALL_NOT_FOUND
    ann, bob = world.talking()
    assert fleet(world, "end", cid=ann.cid) is ErrorCode.OVERLOADED
    assert bob.last(control.Ended).why == "completed"
    assert fleet(world, "end", cid=first.cid) is ErrorCode.CALL_NOT_FOUND  # that one is known
    assert comes(world, first).closed is ErrorCode.CALL_ENDED


# ---------------------------------------------------------------- who comes by a ticket


def test_after_the_end_of_a_call_nobody_goes_on_at_its_standby(two: Two) -> None:
    ann, bob = two.old.talking(key=True)
    two.run(1.0, (ann, bob))
    tickets = [spare(one) for one in (ann, bob)]
    assert everywhere(two, "end", cid=ann.cid) == (ErrorCode.NO_ERROR, ErrorCode.CALL_NOT_FOUND)
    for one, ticket in zip((ann, bob), tickets, strict=True):
        assert two.go(one, ticket).closed is ErrorCode.CALL_ENDED
    assert two.new.engine.node.calls == {}
    two.run(119.0)
    assert two.go(ann, tickets[0]).closed is not None, "for as long as the ticket is good"
    two.new.check()


def test_a_block_made_at_home_holds_at_the_standby(two: Two) -> None:
    ann, bob = two.old.talking(key=True)
    two.run(1.0, (ann, bob))
    tickets = [spare(one) for one in (ann, bob)]
    assert everywhere(two, "block", sub=ann.sub, peer=bob.sub) == (ErrorCode.NO_ERROR, ErrorCode.NOT_IN_CALL)
    for one, ticket in zip((ann, bob), tickets, strict=True):
        again = two.go(one, ticket)
        again.rejoin()
        assert again.closed is ErrorCode.CALL_ENDED
    two.new.check()


def test_who_was_removed_or_revoked_at_home_comes_to_no_standby(two: Two) -> None:
    who = PersonId(b"p" * 16)
    ids = two.old.call()
    ann, bob = (two.old.client(ids.token(key=True, **more)).enter() for more in ({}, {"ru": who}))
    for one in (ann, bob):
        one.accept()
    two.run(1.0, (ann, bob))
    tickets = [spare(one) for one in (ann, bob)]
    everywhere(two, "revoke", ru=who)
    assert two.go(bob, tickets[1]).closed is ErrorCode.FORBIDDEN
    everywhere(two, "remove", cid=bob.cid, sub=bob.sub)
    assert two.go(bob, tickets[1]).closed is ErrorCode.REMOVED
    alone = two.go(ann, tickets[0])
    alone.rejoin()
    assert alone.closed is ErrorCode.CALL_ENDED, "of a call of two nobody is left"


def test_a_standby_that_was_there_first_obeys_at_once(two: Two) -> None:
    ann, bob = two.old.talking(key=True)
    two.run(1.0, (ann, bob))
    again = two.go(ann, spare(ann))
    assert isinstance(again.rejoin(), control.Joined)
    assert everywhere(two, "end", cid=ann.cid) == (ErrorCode.NO_ERROR, ErrorCode.NO_ERROR)
    assert again.last(control.Ended).why == "completed"


def test_in_a_group_that_moves_each_order_finds_its_people(two: Two) -> None:
    ids = two.old.call()
    ann, bob, eve = (two.old.client(ids.token(key=True, lim=GROUP)).enter() for _ in range(3))
    for one in (ann, bob, eve):
        one.accept()
    two.drain()
    for op, fields in (("mute", {"sub": ann.sub}), ("remove", {"sub": eve.sub})):
        assert fleet(two.new, op, cid=ids.cid, **fields) is ErrorCode.CALL_NOT_FOUND
    ann2, bob2 = two.move(ann), two.move(bob)
    assert (ann2.speak(), bob2.speak()) == ("muted", None)
    assert two.go(eve).closed is ErrorCode.REMOVED
    assert [seat.is_here for seat in two.new.engine.node.calls[ids.cid].seats.values()] == [True, True, False]
    assert fleet(two.new, "block", cid=ids.cid, sub=ann.sub, peer=bob.sub) is ErrorCode.NO_ERROR
    two.new.check()


def test_a_call_that_was_ended_is_not_taken_up_by_word_of_another_generation(two: Two) -> None:
    ann, _ = two.old.talking(key=True)
    fleet(two.new, "end", cid=ann.cid)
    two.tell()
    assert ann.cid not in two.new.engine.node.calls
    assert two.new.engine.counters["handover_refused", "call_ended"] == 1
