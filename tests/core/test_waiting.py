"""Legs that stand by: let in by a hand-over ticket, waiting, needed, and the first to go."""

from __future__ import annotations

import dataclasses

import pytest

from pair import KEY, Client, Two, World, config
from relay.config import DrainConfig, LimitsConfig
from relay.core import events as ev
from relay.core.leg import LegState
from relay.core.shedding import LAST, Shed
from relay.core.waiting import AT_ONCE, EACH_S
from relay.errors import ErrorCode
from relay.protocol import control, token
from standing import stand, ticket


@pytest.fixture
def two() -> Two:
    return Two(World(), World(seed=2))


def states(two: Two) -> dict[str, int]:
    return dict(two.new.engine.legs)


def came(two: Two, what: str) -> int:
    return two.new.engine.counters["standby", what]


def test_it_waits_for_as_long_as_the_call_lasts_and_is_none(two: Two) -> None:
    ann, _ = two.old.talking(key=True)
    again = stand(two, ann)
    assert isinstance(again.got[-1], control.Welcome)
    two.new.run(3600, (again,))
    assert states(two) == {LegState.STANDBY.value: 1}
    assert (again.closed, two.new.engine.calls) == (None, 0)
    assert all(one.legs == 0 for one in two.new.engine.node.tenants.standings())


def test_needed_it_takes_its_place_by_a_newer_ticket_in_one_message(two: Two) -> None:
    ann, bob = two.old.talking(key=True)
    legs = [stand(two, one) for one in (ann, bob)]
    two.run(400, (ann, bob))
    two.new.run(0, legs)
    for leg, one in zip(legs, (ann, bob), strict=True):
        leg.ctr = one.ctr
        assert isinstance(leg.rejoin(ticket(two, one)), control.Joined)
    assert [leg.speak() for leg in legs] == [None, None]
    assert [len(leg.heard) for leg in legs] == [1, 1]
    assert (came(two, "came"), came(two, "called"), len(two.new.engine.node.waiting)) == (2, 2, 0)
    two.new.check()


def test_the_ticket_it_came_with_is_too_old_after_two_minutes(two: Two) -> None:
    ann, _ = two.old.talking(key=True)
    first = ticket(two, ann)
    again = stand(two, ann, first)
    two.run(130, (ann,))
    assert again.rejoin(first).code == ErrorCode.RESUME_UNKNOWN
    assert again.closed is ErrorCode.RESUME_UNKNOWN


def test_a_call_that_it_was_not_admitted_for_is_not_entered(two: Two) -> None:
    ann, _ = two.old.talking(key=True)
    eve, _ = two.old.talking(key=True)
    again = stand(two, ann)
    assert again.rejoin(ticket(two, eve)).code == ErrorCode.RESUME_UNKNOWN
    assert stand(two, ann).join().code == ErrorCode.PROTOCOL_VIOLATION


def test_who_was_revoked_meanwhile_is_not_let_in(two: Two) -> None:
    ann, _ = two.old.talking(key=True)
    again, shown = stand(two, ann), ticket(two, ann)
    assert ann.claims is not None
    node = two.new.engine.node
    judge = two.new.engine._admission
    judge.revoke(
        next(iter(node.keys.issuers)), jti=ann.claims.jti, person=None, kid=None, now=0.0, wall=two.new.wall
    )
    assert again.rejoin(shown).code == ErrorCode.TOKEN_INVALID


def test_only_a_hand_over_ticket_alone_stands_by(two: Two) -> None:
    ann, _ = two.new.talking(key=True)
    here = Client(two.new, ann.raw).open()
    here.send(control.Ping(t=1))
    pop = token.pop_sign(KEY, here.last(control.Challenge).n, ann.sub, ann.cid)
    answer = here.ask(control.Hello(resume=ann.ticket, stand=True, pop=pop))
    assert answer.code == ErrorCode.PROTOCOL_VIOLATION
    bob, _ = two.old.talking(key=True)
    fresh = token.mint(dataclasses.replace(bob.claims, jti=token.Jti(bytes(16))), bytes(range(32)))  # type: ignore[type-var, attr-defined]
    assert stand(two, bob, tok=fresh).got[-1].code == ErrorCode.PROTOCOL_VIOLATION  # type: ignore[attr-defined]


def test_of_one_person_the_newest_stands_by(two: Two) -> None:
    ann, _ = two.old.talking(key=True)
    first, second = stand(two, ann), stand(two, ann)
    assert (first.closed, second.closed) == (ErrorCode.REPLACED, None)
    assert (len(two.new.engine.node.waiting), came(two, "replaced")) == (1, 1)
    first.gone = True
    assert isinstance(second.rejoin(ticket(two, ann)), control.Joined)


def test_no_more_stand_by_than_may() -> None:
    two = Two(World(), World(config(limits=LimitsConfig(standby_legs=1)), seed=2))
    ann, bob = two.old.talking(key=True)
    first, second = stand(two, ann), stand(two, bob)
    assert first.closed is None
    assert second.closed is ErrorCode.QUOTA
    assert came(two, "refused") == 1
    first.lose()
    assert stand(two, bob).closed is None


def test_who_stands_by_gives_way_to_who_calls() -> None:
    two = Two(World(), World(config(limits=LimitsConfig(legs=2)), seed=2))
    ann, _ = two.old.talking(key=True)
    again = stand(two, ann)
    eve, dan = two.new.pair()
    assert again.closed is ErrorCode.OVERLOADED
    assert (eve.closed, dan.closed, came(two, "gave_way")) == (None, None, 1)
    last = two.new.client(two.new.call().token()).open()
    assert last.closed is ErrorCode.OVERLOADED


def test_they_go_first_when_the_node_is_full_a_few_at_a_time(two: Two) -> None:
    people = [two.old.talking(key=True)[0] for _ in range(AT_ONCE + 2)]
    legs = [stand(two, one) for one in people[1:]]
    eve, dan = two.new.talking()
    while two.new.engine.shedding is Shed.NOTHING:
        two.new.feed(ev.Pressed(1.5))
        two.new.now += 1.0
    assert stand(two, people[0]).closed is ErrorCode.OVERLOADED  # it is busy
    assert {leg.closed for leg in legs} == {None}
    while two.new.engine.shedding is not LAST:
        two.new.feed(ev.Pressed(1.5))
        two.new.now += 1.0
    assert [leg.closed for leg in legs[1:]] == [ErrorCode.OVERLOADED] * AT_ONCE
    two.new.run(2 * EACH_S, (eve, dan))
    assert legs[0].closed is ErrorCode.OVERLOADED
    assert (eve.closed, dan.closed) == (None, None)


def test_they_go_when_the_node_leaves() -> None:
    two = Two(World(), World(config(drain=DrainConfig(grace_s=60.0)), seed=2))
    ann, _ = two.old.talking(key=True)
    again = stand(two, ann)
    eve, dan = two.new.talking()
    two.new.feed(ev.DrainRequested())
    two.new.run(EACH_S, (eve, dan))
    assert again.closed is ErrorCode.DRAINING
    assert (eve.closed, two.new.engine.drain_state) == (None, "draining")
    assert stand(two, ann).closed is ErrorCode.DRAINING


def test_it_stands_by_for_some_hours(two: Two) -> None:
    ann, _ = two.old.talking(key=True)
    again = stand(two, ann)
    two.new.run(two.new.config.limits.standby_s + 1, (again,))
    assert again.closed is ErrorCode.TOKEN_EXPIRED
    assert len(two.new.engine.node.waiting) == 0


def test_who_came_for_nothing_may_come_again_when_it_is_needed(two: Two) -> None:
    ann, bob = two.old.talking(key=True)
    early = [stand(two, one) for one in (ann, bob)]
    for leg, one in zip(early, (ann, bob), strict=True):
        leg.rejoin(ticket(two, one))
    for leg in early:
        leg.ask(control.Moved(c=leg.cid, ok=True))  # their node spoke again
    two.run(30, (ann, bob))
    assert two.new.engine.calls == 0
    fresh = two.new.client(two.new.call(ann.cid).token()).open()
    fresh.hello()
    assert fresh.join().code == ErrorCode.CALL_ENDED, "it goes on elsewhere"
    legs = [stand(two, one) for one in (ann, bob)]
    for leg, one in zip(legs, (ann, bob), strict=True):
        leg.ctr = one.ctr
        assert isinstance(leg.rejoin(ticket(two, one)), control.Joined)
    assert legs[0].speak() is None
    two.new.check()
