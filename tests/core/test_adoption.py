"""A call goes on at another node, by a ticket that only the cluster can have made."""

import dataclasses

import pytest

from pair import KEY, TICKET_KEY, WALL, Client, Two, World, canaries, config
from relay.config import DrainConfig, NodeConfig
from relay.core import events as ev
from relay.core import handover as telling
from relay.errors import ErrorCode
from relay.protocol import control, handover
from tenancy import ALICE, BERT, issuer, world_of

OTHER_KEY = bytes(reversed(KEY))
CONFIG = config(drain=DrainConfig(grace_s=0.0, smear_s=1.0))
GROUP = (512, 512, 500, 4)


@pytest.fixture
def two() -> Two:
    return Two(World(CONFIG), World(CONFIG, seed=2))


def talk(*people: Client) -> None:
    for one in people:
        assert one.speak() is None


def test_a_call_goes_on_where_both_have_come(two):
    ann, bob = two.old.talking(key=True)
    two.drain()
    ann2 = two.move(ann)
    assert ann2.joined.p == ann.index
    assert ann2.joined.roster[0].st == "away"
    assert ann2.speak() is not None  # bob is not there
    talk(ann, bob)  # and here they go on
    bob2 = two.move(bob)
    assert (ann2.hears, bob2.hears) == (1 << bob.index, 1 << ann.index)
    talk(ann2, bob2, ann, bob)
    assert len(ann2.heard) == len(bob2.heard) == 1
    for one in (ann, bob):
        one.ask(control.Moved(c=one.cid, ok=True))
    assert two.old.engine.drain_state == "closing"
    talk(ann2, bob2)
    two.new.check()
    two.old.check()


def test_both_parts_are_one_call_to_who_counts(two):
    ann, bob = two.old.talking(key=True)
    two.run(10, (ann, bob))
    two.drain()
    ann2, bob2 = two.move(ann), two.move(bob)
    for one in (ann, bob):
        one.ask(control.Moved(c=one.cid, ok=True))
    two.run(5, (ann2, bob2))
    ann2.hangup()
    first, second = two.old.records[0], two.new.records[0]
    assert (first.call, first.outcome) == (second.call, "moved")
    assert second.outcome == "completed"
    assert (first.started_at, first.answered_at) == (second.started_at, second.answered_at)
    assert "call.ended" not in two.old.kinds()
    assert [kind for kind in two.new.kinds() if kind.startswith("call.")] == ["call.adopted", "call.ended"]
    assert two.old.engine.counters["call_moved", "out"] == two.new.engine.counters["call_moved", "in"] == 1
    assert two.new.engine.counters["call_opened", "pair"] == 0


def test_mutes_hard_ones_too_and_blocks_hold_at_the_next_node(two):
    ids = two.old.call()
    people = [two.old.client(ids.token(key=True, lim=(512, 512, 500, 4), **more)).enter()
              for more in ({"rol": 1}, {}, {})]  # fmt: skip
    host, ann, bob = people
    for one in people:
        one.accept()
    host.mute(p=ann.index, hard=True)
    bob.mute()
    ann.block(bob.index)
    two.drain()
    host2, ann2, bob2 = (two.move(one) for one in people)
    assert host2.hears == 0
    assert (ann2.hears, bob2.hears) == (1 << host.index, 1 << host.index)
    ann2.mute(on=False)
    assert host2.hears == 0, "only a moderator lifts it"
    bob2.mute(on=False)
    assert host2.hears == 1 << bob.index
    assert ann2.hears == 1 << host.index, "still blocked"
    host2.mod("unmute", ann.index)
    assert host2.hears == 1 << ann.index | 1 << bob.index


def test_the_longest_time_goes_on_and_so_does_what_policy_said(two):
    ann, bob = two.old.talking(key=True, dur=60, ctc=0)
    two.run(40, (ann, bob))
    two.drain()
    ann2, bob2 = two.move(ann), two.move(bob)
    call = two.new.engine.node.calls[ann.cid]
    assert call.terms.relay_only
    assert not call.terms.attachments
    two.run(18, (ann2, bob2))
    assert ann2.all(control.Ended) == []
    two.run(2, (ann2, bob2))
    assert ann2.last(control.Ended).why == "expired"


def test_who_does_not_come_is_away_by_the_clock_of_the_ticket(two):
    ann, bob = two.old.talking(key=True)
    two.drain()
    two.run(20, (ann, bob))
    ann2 = two.move(ann)
    two.run(38.5, (ann2,))
    seat = two.new.engine.node.calls[ann.cid].seats[bob.index]
    assert seat.is_accepted
    two.run(1.1, (ann2,))
    assert not seat.is_accepted
    late = two.go(bob, bob.all(control.Drain)[0].ht)
    assert isinstance(late.rejoin(), control.Joined)
    assert late.last(control.Err).code == ErrorCode.CONSENT_EXPIRED
    assert ann2.hears == 0
    late.accept()
    assert ann2.hears == 1 << bob.index


def test_a_newer_ticket_vouches_for_who_is_still_at_the_old_node(two):
    ann, bob = two.old.talking(key=True)
    two.drain()
    ann2 = two.move(ann)
    two.run(61, (ann, bob, ann2))
    bob2 = two.move(bob)
    assert bob2.all(control.Err) == []
    assert ann2.hears == 1 << bob.index


def test_nobody_comes_after_ninety_seconds(two):
    ann, bob = two.old.talking(key=True)
    two.drain()
    two.run(92, (ann, bob))
    ticket = ann.all(control.Drain)[0].ht
    again = two.go(ann, ticket)
    assert isinstance(again.rejoin(), control.Err)
    assert again.closed is ErrorCode.RESUME_UNKNOWN


def test_requests_to_move_come_again_with_fresh_tickets(two):
    ann, _ = two.old.talking(key=True)
    two.drain()
    two.run(65, (ann,))
    notices = ann.all(control.Drain)
    assert len(notices) == 3
    assert len({notice.ht for notice in notices}) == 3


def test_a_ticket_is_no_credential_by_itself(two):
    ann, bob = two.old.talking()
    two.drain()
    assert two.go(ann).closed is ErrorCode.AUTH_REQUIRED
    fresh = two.old.call(ann.cid).token(sub=ann.sub)
    again = two.go(ann, tok=fresh)
    assert isinstance(again.rejoin(), control.Joined)
    stranger = two.old.call(ann.cid).token()
    assert two.go(bob, tok=stranger).closed is ErrorCode.RESUME_UNKNOWN


def test_a_foreign_hand_and_a_forged_or_stale_ticket_open_nothing(two):
    ann, _ = two.old.talking(key=True)
    two.drain()
    good = ann.last(control.Drain).ht
    assert two.go(ann, key=OTHER_KEY).closed is ErrorCode.POP_FAILED
    bent = good[:-1] + bytes((good[-1] ^ 1,))
    assert two.go(ann, bent).closed is ErrorCode.RESUME_UNKNOWN
    body = handover.open(good, [two.old.engine.node.keys.ticket_keys[0]])
    forged = handover.seal(body, bytes(32), bytes(24))
    assert two.go(ann, forged).closed is ErrorCode.RESUME_UNKNOWN
    two.run(125)
    assert two.go(ann, good).closed is ErrorCode.RESUME_UNKNOWN
    assert two.new.engine.calls == 0


def test_a_ticket_of_another_cluster_with_the_same_key_is_refused():
    elsewhere = dataclasses.replace(CONFIG, node=NodeConfig(cluster="relay-elsewhere"))
    two = Two(World(CONFIG), World(elsewhere, seed=2))
    ann, _ = two.old.talking(key=True)
    two.drain()
    assert two.go(ann).closed is ErrorCode.RESUME_UNKNOWN


def test_a_ticket_shown_by_its_owner_with_anothers_key_in_it_is_anothers(two):
    ann, bob = two.old.talking(key=True)
    two.drain()
    thief = two.go(bob, ann.last(control.Drain).ht)  # bob's signature, over bob's pseudonym
    assert thief.closed is ErrorCode.POP_FAILED


def test_a_ticket_that_comes_twice_is_the_same_place(two):
    ann, bob = two.old.talking(key=True)
    two.drain()
    ann2, bob2 = two.move(ann), two.move(bob)
    again = two.move(ann)
    assert again.index == ann2.index
    assert len(two.new.engine.node.calls) == 1
    again.speak()
    assert len(bob2.heard) == 1
    ann2.ask(control.Moved(c=ann.cid, ok=True))
    assert ann2.closed is ErrorCode.MOVED
    two.new.check()


def test_a_ticket_of_a_call_that_ended_there_opens_it_no_more(two):
    ann, bob = two.old.talking(key=True)
    two.drain()
    two.move(ann)
    two.move(bob).hangup()
    assert two.go(ann).closed is ErrorCode.CALL_ENDED


def test_who_was_removed_after_the_ticket_was_made_stays_out(two):
    ids = two.old.call()
    people = [two.old.client(ids.token(key=True, lim=(512, 512, 500, 4), **more)).enter()
              for more in ({"rol": 1}, {}, {})]  # fmt: skip
    host, ann, bob = people
    for one in people:
        one.accept()
    two.drain()
    early = ann.last(control.Drain).ht
    ann2, bob2 = two.move(ann), two.move(bob)
    host.mod("remove", bob.index)  # by who is still at the old node
    assert ann2.hears == 1 << bob.index, "nobody has told the new node"
    two.run(30.1, (ann2, bob2, host))  # the next tickets know
    host2 = two.move(host)
    assert host2.joined is not None
    assert bob2.closed is ErrorCode.REMOVED
    assert ann2.hears == 1 << host.index
    assert two.go(bob).closed is ErrorCode.REMOVED
    assert two.go(ann, early).closed is None


def test_the_other_generation_hears_of_a_removal_at_once(two):
    ids = two.old.call()
    people = [two.old.client(ids.token(key=True, lim=(512, 512, 500, 4), **more)).enter()
              for more in ({"rol": 1}, {}, {})]  # fmt: skip
    host, ann, bob = people
    for one in people:
        one.accept()
    two.drain()
    ann2, bob2 = two.move(ann), two.move(bob)
    two.run(0.1)
    host.mod("remove", bob.index)
    two.tell()
    assert bob2.closed is ErrorCode.REMOVED
    assert ann2.hears == 0


def test_a_call_that_was_only_told_of_takes_its_people_in_by_their_usual_tickets(two):
    ann, bob = two.old.talking(key=True)
    two.tell()
    ann2 = two.go(ann, ann.ticket)
    assert isinstance(ann2.rejoin(), control.Joined)
    bob2 = two.go(bob, bob.ticket)
    assert isinstance(bob2.rejoin(), control.Joined)
    talk(ann2, bob2)


def test_a_call_that_was_only_told_of_ends_without_a_trace(two):
    two.old.talking(key=True)
    two.tell()
    two.run(91)
    assert two.new.engine.calls == 0
    assert two.new.records == two.new.events == []
    two.new.check()


def test_who_is_called_finds_the_ringing_call_at_the_next_node(two):
    ids = two.old.call()
    ann = two.old.client(ids.token(key=True)).enter()
    two.tell()
    bob = two.new.client(ids.token(key=True)).enter()
    assert bob.index == 1
    two.drain()
    ann2 = two.move(ann)
    assert ann2.index == 0
    assert ann2.joined.roster[0].sub == bob.sub
    ann2.accept()
    bob.accept()
    talk(ann2, bob)


def test_a_ringing_call_goes_on_ringing_for_what_is_left(two):
    ann, bob = two.old.pair(key=True)
    two.run(30, (ann, bob))
    two.old.feed(ev.DrainRequested())
    two.run(0.0)
    ann2, bob2 = two.move(ann), two.move(bob)
    assert ann2.joined.roster[0].st == "away"
    two.run(14.9, (ann2, bob2))
    assert ann2.all(control.Ended) == []
    two.run(0.2, (ann2, bob2))
    assert ann2.last(control.Ended).why == "missed"


def test_two_nodes_with_one_half_each_carry_nothing(two):
    third = World(CONFIG, seed=3)
    ann, bob = two.old.talking(key=True)
    two.drain()
    third.wall, third.now = two.new.wall, 0.0
    ann2 = two.move(ann)
    elsewhere = Two(two.old, third)
    bob2 = elsewhere.move(bob)
    assert ann2.hears == bob2.hears == 0
    assert ann2.speak() is not None
    assert bob2.speak() is not None
    two.new.run(91, (ann2,))
    assert ann2.last(control.Ended).why == "failed"


def test_who_stays_is_told_that_it_failed_and_the_record_says_moved(two):
    ann, bob = two.old.talking(key=True)
    two.drain()
    ann2 = two.move(ann)
    ann.ask(control.Moved(c=ann.cid, ok=True))
    two.run(300, (bob, ann2))
    assert bob.last(control.Ended).why == "failed"
    assert bob.closed is ErrorCode.DRAIN_TIMEOUT
    assert two.old.records[0].outcome == "moved"
    assert two.new.records[0].outcome == "failed"


def test_a_node_that_leaves_itself_takes_up_no_call(two):
    ann, _ = two.old.talking(key=True)
    two.drain()
    two.new.talking()
    two.new.feed(ev.DrainRequested())
    again = two.go(ann)
    assert isinstance(again.rejoin(), control.Err)
    assert again.closed is ErrorCode.DRAINING


def test_a_full_node_takes_up_no_call():
    few = dataclasses.replace(CONFIG, limits=dataclasses.replace(CONFIG.limits, calls=1))
    two = Two(World(CONFIG), World(few, seed=2))
    two.new.talking()
    ann, _ = two.old.talking(key=True)
    two.drain()
    again = two.go(ann)
    again.rejoin()
    assert again.closed is ErrorCode.OVERLOADED
    two.tell()
    assert two.new.engine.counters["handover_refused", "overloaded"] == 1


def test_a_token_that_was_used_at_the_old_node_opens_no_second_place(two):
    ann, _ = two.old.talking()
    two.tell()
    thief = two.new.client(ann.raw).open()
    thief.hello()
    assert thief.closed is ErrorCode.TOKEN_REPLAYED


def test_what_is_no_ticket_is_counted(two):
    two.new.feed(ev.CallTold(b"nonsense"))
    assert two.new.engine.counters["handover_refused", "resume_unknown"] == 1


def test_a_ticket_of_nobody_opens_no_leg(two):
    ann, _ = two.old.talking(key=True)
    blob = telling.seal(two.old.engine.node, two.old.engine.node.calls[ann.cid], None)
    assert two.go(ann, blob).closed is ErrorCode.RESUME_UNKNOWN


def test_times_are_those_of_the_first_node(two):
    ann, bob = two.old.talking(key=True)
    two.run(100, (ann, bob))
    two.tell()
    call = two.new.engine.node.calls[ann.cid]
    assert call.started_wall == call.answered_wall == WALL
    assert call.ends_at() == pytest.approx(two.new.now - 100 + 720 * 60)


def told(two: Two, one: Client, **changes: object) -> None:
    """The new node hears a later word of the old one about this call."""
    call = two.old.engine.node.calls[one.cid]
    body = telling.describe(two.old.engine.node, call, None)
    younger = max(body.made, (call.handed_at or 0) + 1)  # than what it said last, as `seal` makes it
    changed = dataclasses.replace(body, **{"made": younger, **changes})
    two.new.feed(ev.CallTold(handover.seal(changed, TICKET_KEY, two.old.random.randbytes(24))))


def group(two: Two, count: int) -> list[Client]:
    ids = two.old.call()
    people = [two.old.client(ids.token(key=True, lim=GROUP, rol=int(not n))).enter() for n in range(count)]
    for one in people:
        one.accept()
    return people


def test_what_a_moderator_says_at_the_old_node_holds_for_who_is_here_already(two):
    host, ann, bob = group(two, 3)
    two.tell()
    ann2, bob2 = two.go(ann, ann.ticket), two.go(bob, bob.ticket)
    for one in (ann2, bob2):
        one.rejoin()
    host.mute(p=ann.index, hard=True)
    two.tell()
    assert bob2.hears == 0
    assert ann2.hears == 1 << bob.index
    two.new.check()


def test_who_came_or_left_at_the_old_node_since_is_known_here_too(two):
    people = group(two, 3)
    two.tell()
    ids = two.old.call(people[0].cid)
    people[1].hangup()
    late = two.old.client(ids.token(key=True, lim=GROUP)).enter()
    two.tell()
    two.tell()
    seats = two.new.engine.node.calls[late.cid].seats
    assert [seat.is_here for seat in seats.values()] == [True, False, True, True]
    assert seats[3].sub == late.sub
    gone = two.go(people[1], people[1].ticket)
    assert gone.closed is ErrorCode.RESUME_UNKNOWN


def test_news_of_a_seat_that_somebody_else_has_here_change_nothing_for_that_one(two):
    people = group(two, 2)
    two.tell()
    newcomer = two.new.client(two.new.call(people[0].cid).token(lim=GROUP)).enter()
    other = two.old.client(two.old.call(people[0].cid).token(lim=GROUP)).enter()
    assert newcomer.index == other.index
    people[0].mute(p=other.index, hard=True)
    two.tell()
    call = two.new.engine.node.calls[newcomer.cid]
    assert call.seats[newcomer.index].sub == newcomer.sub
    assert not call.gate.is_muted(newcomer.index)


def test_a_call_of_two_whose_other_was_removed_elsewhere_ends(two):
    ann, bob = two.old.talking(key=True)
    two.tell()
    ann2 = two.go(ann, ann.ticket)
    ann2.rejoin()
    told(two, ann, out=(bob.sub,))
    assert ann2.last(control.Ended).why == "removed"
    told(two, ann)
    assert two.new.engine.calls == 0
    two.new.check()


def test_who_was_thrown_out_before_is_neither_seated_nor_let_in(two):
    host, ann, bob = group(two, 3)
    host.mod("remove", bob.index)
    two.tell()
    assert not two.new.engine.node.calls[ann.cid].seats[bob.index].is_here
    fresh = two.new.client(two.new.call(ann.cid).token(sub=bob.sub, lim=GROUP)).open()
    fresh.hello()
    assert isinstance(fresh.join(), control.Err)
    assert fresh.closed is ErrorCode.REMOVED


def test_a_token_that_has_ended_is_not_remembered(two):
    ann, bob = two.old.talking(key=True)
    two.run(200, (ann, bob))
    two.tell()
    assert two.new.engine.spent_tokens == 0


def test_a_call_that_began_here_hears_nothing_from_elsewhere(two):
    ann, bob = two.old.talking(key=True)
    two.new.client(two.new.call(ann.cid).token()).enter()
    two.tell()
    assert two.new.engine.node.calls[ann.cid].seat_of(bob.sub) is None


def test_a_call_rung_elsewhere_is_answered_here_when_it_was_there(two):
    ann, bob = two.old.pair(key=True)
    two.tell()
    assert not two.new.engine.node.calls[ann.cid].was_answered
    ann.accept()
    bob.accept()
    two.tell()
    assert two.new.engine.node.calls[ann.cid].was_answered


def test_who_waits_where_a_call_was_told_may_be_lost_after_it_was_answered_elsewhere(two):
    ann, bob = two.old.pair(key=True)
    two.tell()
    ann.accept()
    again = two.go(ann, ticket=ann.ticket)
    assert isinstance(again.rejoin(), control.Joined)
    bob.accept()
    two.tell()
    assert two.new.engine.node.calls[ann.cid].was_answered
    again.lose()
    two.run(15.0)
    assert two.new.engine.vitals.talked_s(two.new.now) > 0


def test_a_canarys_call_is_one_where_it_goes_on_too(two):
    for world in (two.old, two.new):
        world.engine.node.on_config(canaries())
    two.old.talking(key=True)
    two.tell()
    (call,) = two.new.engine.node.calls.values()
    assert call.is_canary


def test_a_call_that_another_issuer_has_reserved_the_room_of_is_refused_and_charged_to_nobody():
    rows = issuer("a", ALICE), issuer("b", BERT, reserved_percent=100)
    old, new = World(), world_of(*rows)
    old.talking()
    Two(old, new).tell()
    assert new.engine.counters["handover_refused", "overloaded"] == 1
    new.check()
