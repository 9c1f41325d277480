"""Issuers beside each other: each with its limits, and apart from each other where they say so."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pair import ISSUER, KEY, PUBLIC, Two, World
from relay.config import LimitsConfig
from relay.core.reasons import Refusal
from relay.core.relay import issuers_of
from relay.core.tenants import CANARIES, COMMON, Tenants, kids_of
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, signed, token
from relay.protocol.ids import Jti, PersonId
from tenancy import (
    ALICE,
    BERT,
    KIDS,
    LONE,
    OTHER,
    caller,
    code_of,
    issuer,
    order,
    person,
    refused,
    reload,
    settings,
    world_of,
)

# ---------------------------------------------------------------- who


def test_a_key_names_its_issuer_before_and_after_a_rotation() -> None:
    old = issuer("a", ALICE)
    rotated = issuer("a", BERT, previous_public_key=old.public_key)
    tenants = Tenants(settings(rotated))
    assert kids_of(rotated) == [KIDS[BERT], KIDS[ALICE]]
    assert [tenants.name_of(KIDS[seed]) for seed in (ALICE, BERT, OTHER)] == ["a", "a", ""]
    assert tenants.name_of(None) == ""
    assert set(issuers_of(settings(rotated))) == {KIDS[ALICE], KIDS[BERT]}


def test_issuers_are_one_unless_they_are_apart_or_of_canaries() -> None:
    rows = issuer("a", ALICE), issuer("b", BERT, apart=True), issuer("c", OTHER, canary=True)
    tenants = Tenants(settings(*rows))
    circles = [tenants.circle_of(kid) for kid in (KIDS[ALICE], KIDS[BERT], KIDS[OTHER], KIDS[LONE], None)]
    assert circles == [COMMON, "b", CANARIES, COMMON, COMMON]
    homes = [tenants.home_of(kid) for kid in (KIDS[ALICE], KIDS[BERT], KIDS[OTHER], KIDS[LONE], None)]
    assert homes == [COMMON, "b", COMMON, COMMON, COMMON]
    reached = [
        [tenants.may_order(KIDS[by], circle) for circle in (COMMON, "b", CANARIES)] for by in (ALICE, BERT)
    ]
    assert reached == [[True, False, True], [False, True, False]]
    assert tenants.canaries == {KIDS[OTHER]}


def test_both_keys_of_a_rotation_let_people_into_one_call_apart_or_not() -> None:
    old = signed.public_of(ALICE).hex()
    world = world_of(issuer("a", BERT, previous_public_key=old, apart=True))
    ann = caller(world, ALICE)
    ben = caller(world, BERT, ann.cid)
    assert ben.joined is not None
    assert [each.calls for each in world.engine.node.tenants.standings()] == [1]
    world.check()


# ---------------------------------------------------------------- rates


def test_tokens_above_an_issuers_rate_are_refused_by_name_and_not_spent() -> None:
    world = world_of(issuer("a", ALICE, joins_per_s=2, joins_burst=3), issuer("b", BERT))
    assert [code_of(person(world, ALICE)) for _ in range(3)] == [None] * 3
    late = person(world, ALICE)
    assert code_of(late) is ErrorCode.RATE_LIMITED
    (told,) = late.all(control.Err)
    assert (told.code, told.retry_ms) == (ErrorCode.RATE_LIMITED, 500)
    assert refused(world, "a") == {"joins": 1}
    assert [code_of(person(world, BERT)) for _ in range(20)] == [None] * 20
    assert refused(world, "b") == {}
    world.run(0.5)
    assert code_of(world.client(late.raw)) is None  # its id was not spent
    world.check()


def test_without_a_burst_those_of_one_second_may_come_at_once() -> None:
    world = world_of(issuer("a", ALICE, joins_per_s=2))
    codes = [code_of(person(world, ALICE)) for _ in range(3)]
    assert codes == [None, None, ErrorCode.RATE_LIMITED]


def test_a_return_costs_no_join_and_counts_as_a_leg() -> None:
    world = world_of(issuer("a", ALICE, joins_per_s=1, legs=1))
    ann = caller(world, ALICE, key=True, cnf=signed.public_of(KEY))
    again = ann.resume()
    assert again.closed is None
    assert isinstance(again.rejoin(), control.Joined)
    assert world.engine.node.tenants.held(Refusal.LEGS, "a") == len(world.engine.node.legs) == 2
    assert code_of(person(world, ALICE)) is ErrorCode.QUOTA
    world.check()


def test_commands_have_a_rate_of_their_own_after_the_signature() -> None:
    world = world_of(issuer("a", ALICE, commands_per_s=1, commands_burst=2), issuer("b", BERT))
    jtis = [Jti(bytes([number]) * 16) for number in range(3)]
    codes = [order(world, ALICE, "revoke", jti=jti) for jti in jtis]
    assert codes == [ErrorCode.NO_ERROR, ErrorCode.NO_ERROR, ErrorCode.RATE_LIMITED]
    assert order(world, BERT, "revoke", jti=jtis[0]) is ErrorCode.NO_ERROR
    assert refused(world, "a") == {"commands": 1}
    assert order(world, OTHER, "revoke", jti=jtis[0]) is ErrorCode.TOKEN_INVALID
    assert refused(world, "b") == {}


def test_a_reload_keeps_the_bucket_of_a_rate_that_stays_and_begins_a_changed_one_anew() -> None:
    rows = issuer("a", ALICE, joins_per_s=1), issuer("b", BERT, joins_per_s=1)
    world = world_of(*rows)
    for seed in (ALICE, BERT):
        assert code_of(person(world, seed)) is None
    reload(world, settings(rows[0], issuer("b", BERT, joins_per_s=2)))
    assert code_of(person(world, ALICE)) is ErrorCode.RATE_LIMITED
    assert [code_of(person(world, BERT)) for _ in range(3)] == [None, None, ErrorCode.RATE_LIMITED]
    reload(world, settings(rows[0], issuer("b", BERT)))
    assert code_of(person(world, BERT)) is None


# ---------------------------------------------------------------- what is held


def test_an_issuer_has_its_number_of_legs_and_others_theirs() -> None:
    world = world_of(issuer("a", ALICE, legs=2), issuer("b", BERT))
    ann, ben = caller(world, ALICE), caller(world, ALICE)
    assert code_of(person(world, ALICE)) is ErrorCode.QUOTA
    assert refused(world, "a") == {"legs": 1}
    assert [code_of(person(world, BERT)) for _ in range(5)] == [None] * 5
    ann.send(control.Bye(code=0))
    assert code_of(person(world, ALICE)) is None
    ben.lose()
    assert world.engine.node.tenants.held(Refusal.LEGS, "a") == 1
    world.check()


def test_an_issuer_has_its_number_of_calls_and_who_joins_one_opens_none() -> None:
    world = world_of(issuer("a", ALICE, calls=1), issuer("b", BERT))
    ann = caller(world, ALICE)
    assert code_of(person(world, ALICE)) is ErrorCode.QUOTA
    assert refused(world, "a") == {"calls": 1}
    assert code_of(person(world, ALICE, ann.cid)) is None
    assert code_of(person(world, BERT)) is None
    assert world.engine.node.call_quota.total() == 2
    ann.hangup()
    assert code_of(person(world, ALICE)) is None
    world.check()


def test_what_is_reserved_for_one_is_there_while_another_floods() -> None:
    rows = issuer("a", ALICE), issuer("b", BERT, reserved_percent=50)
    world = world_of(*rows, limits=LimitsConfig(legs=100, calls=8))
    codes = [code_of(person(world, ALICE)) for _ in range(9)]
    assert codes == [None] * 4 + [ErrorCode.OVERLOADED] * 5
    assert refused(world, "a") == {"shared": 5}
    assert [code_of(person(world, BERT)) for _ in range(4)] == [None] * 4
    assert code_of(person(world, BERT)) is ErrorCode.OVERLOADED
    world.check()


def test_legs_before_their_hello_are_nobodys_and_take_no_reserve() -> None:
    rows = issuer("a", ALICE), issuer("b", BERT, reserved_percent=50)
    world = world_of(*rows, limits=LimitsConfig(legs=4))
    silent = [person(world, ALICE).open() for _ in range(3)]
    assert world.engine.node.tenants.held(Refusal.LEGS, "a") == 0
    assert code_of(person(world, BERT)) is None
    for one in silent:
        one.ask(control.Hello(tok=one.raw))
    assert [one.closed for one in silent] == [None, None, ErrorCode.OVERLOADED]
    assert refused(world, "a") == {"shared": 1}
    assert code_of(person(world, BERT)) is None
    world.check()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=60))
def test_whoever_is_below_its_reserve_gets_in_whatever_the_other_does(steps: list[tuple[str, bool]]) -> None:
    rows = issuer("a", ALICE, reserved_percent=30, calls=7), issuer("b", BERT, reserved_percent=50)
    tenants = Tenants(settings(*rows, limits=LimitsConfig(calls=10)))
    kids, reserved = {"a": KIDS[ALICE], "b": KIDS[BERT]}, {"a": 3, "b": 5}
    for name, comes in steps:
        before = tenants.held(Refusal.CALLS, name)
        if not comes:
            if before:
                tenants.release(Refusal.CALLS, name)
            continue
        try:
            assert tenants.take(Refusal.CALLS, kids[name]) == name
        except PeerError:
            assert before >= reserved[name]
        assert tenants.held(Refusal.CALLS, "a") <= 7
        assert sum(tenants.held(Refusal.CALLS, each) for each in "ab") <= 10


def test_calls_from_another_node_are_taken_up_above_the_number_but_not_from_the_reserve() -> None:
    rows = issuer("a", ALICE, calls=1), issuer("b", BERT, reserved_percent=50)
    old, new = World(), world_of(*rows, limits=LimitsConfig(calls=4))
    for _ in range(3):
        old.talking()
    Two(old, new).tell()
    assert new.engine.node.tenants.held(Refusal.CALLS, "a") == 2
    assert new.engine.counters["handover_refused", "overloaded"] == 1
    assert refused(new, "a") == {"shared": 1}
    new.check()


def test_after_a_reload_without_the_issuer_what_it_holds_is_still_given_back() -> None:
    world = world_of(issuer("a", ALICE), issuer("b", BERT))
    ann = caller(world, ALICE)
    reload(world, settings(issuer("b", BERT)))
    tenants = world.engine.node.tenants
    assert [each.name for each in tenants.standings()] == ["b"]
    assert tenants.held(Refusal.LEGS, "a") == 1
    ann.hangup()
    ann.lose()
    assert (tenants.held(Refusal.LEGS, "a"), tenants.held(Refusal.CALLS, "a")) == (0, 0)
    world.check()


def test_what_was_there_before_a_crash_is_held_whatever_the_limits_say() -> None:
    tenants = Tenants(settings(issuer("a", ALICE, legs=1)))
    assert [tenants.restore(Refusal.LEGS, KIDS[ALICE]) for _ in range(2)] == ["a", "a"]
    assert tenants.held(Refusal.LEGS, "a") == 2


def test_a_grant_is_cut_to_the_lesser_of_the_nodes_and_the_issuers_limit() -> None:
    cut = issuer("a", ALICE, max_up_kbps=64, max_down_kbps=10**7, max_pps=20)
    world = world_of(cut, issuer("b", BERT))
    grants = [caller(world, seed).last(control.Welcome).lim for seed in (ALICE, BERT)]
    assert [(grant.up, grant.dn, grant.pps) for grant in grants] == [(64, 512, 20), (512, 512, 500)]
    limits = world.engine.node.tenants.limits_of(KIDS[ALICE], world.config.limits)
    assert limits == dataclasses.replace(world.config.limits, max_up_kbps=64, max_pps=20)


# ---------------------------------------------------------------- apart


@pytest.fixture
def apart() -> World:
    """Two tenants, and a third issuer that is not apart."""
    return world_of(issuer("a", ALICE, apart=True), issuer("b", BERT, apart=True), issuer("c", OTHER))


def test_a_tenants_people_meet_nobody_of_another_one(apart: World) -> None:
    ann = caller(apart, ALICE)
    for stranger in (BERT, OTHER):
        assert code_of(person(apart, stranger, ann.cid)) is ErrorCode.CALL_NOT_FOUND
    assert code_of(person(apart, ALICE, ann.cid)) is None


def test_issuers_that_are_not_apart_meet_as_ever() -> None:
    world = world_of(issuer("a", ALICE), issuer("b", BERT))
    ann = caller(world, ALICE)
    assert code_of(person(world, BERT, ann.cid)) is None
    assert order(world, BERT, "end", cid=ann.cid) is ErrorCode.NO_ERROR


@pytest.mark.parametrize("op", ["end", "mute", "remove", "block"])
def test_a_command_reaches_the_calls_of_its_own_tenant_alone(apart: World, op: str) -> None:
    ann = caller(apart, ALICE)
    ben = caller(apart, ALICE, ann.cid)
    named = {
        "end": {},
        "mute": {"sub": ann.sub},
        "remove": {"sub": ann.sub},
        "block": {"sub": ann.sub, "peer": ben.sub},
    }
    for stranger in (BERT, OTHER):
        assert order(apart, stranger, op, cid=ann.cid, **named[op]) is ErrorCode.CALL_NOT_FOUND
    assert order(apart, ALICE, op, cid=ann.cid, **named[op]) is ErrorCode.NO_ERROR


def test_a_block_without_a_call_looks_into_the_tenants_own_calls_alone(apart: World) -> None:
    ann = caller(apart, ALICE)
    ben = caller(apart, ALICE, ann.cid)
    assert order(apart, BERT, "block", sub=ann.sub, peer=ben.sub) is ErrorCode.NOT_IN_CALL
    assert order(apart, ALICE, "block", sub=ann.sub, peer=ben.sub) is ErrorCode.NO_ERROR


def test_a_revocation_reaches_the_tenants_own_people_alone(apart: World) -> None:
    who = PersonId(b"p" * 16)
    ann = caller(apart, ALICE, ru=who)
    waits = person(apart, ALICE, ru=who).open()
    waits.ask(control.Hello(tok=waits.raw))
    assert ann.claims is not None
    assert order(apart, BERT, "revoke", ru=who, jti=ann.claims.jti) is ErrorCode.NO_ERROR
    assert (ann.closed, waits.closed) == (None, None)
    assert code_of(person(apart, ALICE, ru=who)) is None
    assert code_of(person(apart, BERT, ru=who)) is ErrorCode.FORBIDDEN
    assert order(apart, ALICE, "revoke", ru=who) is ErrorCode.NO_ERROR
    assert waits.closed is ErrorCode.FORBIDDEN
    assert code_of(person(apart, ALICE, ru=who)) is ErrorCode.FORBIDDEN
    assert order(apart, BERT, "revoke", ru=who, on=False) is ErrorCode.NO_ERROR
    assert code_of(person(apart, ALICE, ru=who)) is ErrorCode.FORBIDDEN


def test_nobody_revokes_or_pardons_the_key_of_another_tenant(apart: World) -> None:
    for stranger in (BERT, OTHER):
        assert order(apart, stranger, "revoke", kid=KIDS[ALICE]) is ErrorCode.FORBIDDEN
    assert code_of(person(apart, ALICE)) is None
    assert order(apart, OTHER, "revoke", kid=KIDS[OTHER]) is ErrorCode.NO_ERROR
    assert order(apart, ALICE, "revoke", kid=KIDS[OTHER], on=False) is ErrorCode.FORBIDDEN
    assert code_of(person(apart, OTHER)) is ErrorCode.TOKEN_INVALID


def test_a_tenant_that_fills_its_memory_of_tokens_or_commands_fills_nobody_elses(apart: World) -> None:
    small = dataclasses.replace(apart.config.tokens, replay_entries=2)
    reload(apart, dataclasses.replace(apart.config, tokens=small))
    codes = [code_of(person(apart, ALICE)) for _ in range(3)]
    assert codes == [None, None, ErrorCode.OVERLOADED]
    assert code_of(person(apart, BERT)) is None
    ids = Jti(b"j" * 16)
    now = int(apart.wall)
    for seed, code in ((ALICE, None), (BERT, None), (ALICE, ErrorCode.OVERLOADED)):
        assert code_of(person(apart, seed, jti=ids, exp=now + 1)) in (code, ErrorCode.OVERLOADED)
    assert [order(apart, seed, "revoke", jti=ids, id=ids) for seed in (ALICE, BERT, ALICE)] == [
        ErrorCode.NO_ERROR,
        ErrorCode.NO_ERROR,
        ErrorCode.TOKEN_REPLAYED,
    ]


def test_the_same_token_id_of_two_tenants_is_two(apart: World) -> None:
    ids = Jti(b"j" * 16)
    assert code_of(person(apart, ALICE, jti=ids)) is None
    assert code_of(person(apart, BERT, jti=ids)) is None
    assert code_of(person(apart, ALICE, jti=ids)) is ErrorCode.TOKEN_REPLAYED


def test_two_tenants_who_call_their_people_alike_meet_no_glare(apart: World) -> None:
    one, other = PersonId(b"1" * 16), PersonId(b"2" * 16)
    pairs = []
    for seed in (ALICE, BERT):
        ann = caller(apart, seed, ru=one)
        pairs.append((ann, caller(apart, seed, ann.cid, ru=other)))
    assert [each.closed for pair in pairs for each in pair] == [None] * 4
    again = caller(apart, ALICE, ru=one)
    caller(apart, ALICE, again.cid, ru=other)
    assert any(record.reason == "glare" for record in apart.records)


def test_a_ticket_with_a_token_of_another_tenant_beside_it_is_refused(apart: World) -> None:
    ann = caller(apart, ALICE)
    ids = apart.call(ann.cid)
    theirs = token.mint(ids.claims(sub=ann.sub), BERT)
    assert ann.resume(theirs).closed is ErrorCode.RESUME_UNKNOWN
    ours = token.mint(ids.claims(sub=ann.sub), ALICE)
    assert ann.resume(ours).closed is None


# ---------------------------------------------------------------- what is told


def test_events_and_records_name_the_issuer_whose_call_it_was() -> None:
    world = world_of(issuer("a", ALICE), issuer("b", BERT))
    ann = caller(world, ALICE)
    ben = caller(world, BERT, ann.cid)
    ann.accept()
    ben.accept()
    ben.ask(control.Feedback(c=ben.cid, stars=4))
    assert order(world, BERT, "end", cid=ann.cid) is ErrorCode.NO_ERROR
    assert {event.issuer for event in world.events if event.kind != "command"} == {"a"}
    assert [event.issuer for event in world.events if event.kind == "command"] == ["b"]
    assert [record.issuer for record in world.records] == ["a"]
    ben.ask(control.Feedback(c=ben.cid, stars=5))
    assert [event.issuer for event in world.events][-1] == "b"  # the call is forgotten: who spoke tells


def test_how_issuers_stand_is_told_in_the_order_of_the_configuration() -> None:
    world = world_of(issuer("b", BERT), issuer("a", ALICE, calls=1))
    caller(world, ALICE)
    code_of(person(world, ALICE))
    stand = list(world.engine.node.tenants.standings())
    assert [(one.name, one.legs, one.calls, one.allocations, one.admitted) for one in stand] == [
        ("b", 0, 0, 0, 0),
        ("a", 1, 1, 0, 2),
    ]
    assert set(stand[0].refused) == set(Refusal)


def test_a_world_of_one_issuer_knows_no_limits_beyond_the_nodes() -> None:
    assert KIDS[ISSUER] == token.kid_of(PUBLIC)
    world = world_of(issuer("a", ALICE), limits=LimitsConfig(calls=2))
    codes = [code_of(person(world, ALICE)) for _ in range(3)]
    assert codes == [None, None, ErrorCode.OVERLOADED]
    assert refused(world, "a") == {}
