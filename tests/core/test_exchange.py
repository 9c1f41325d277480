import dataclasses

import pytest

from pair import ADULT, CHILD, ISSUER, TEEN, World, canaries, config
from relay.config import LimitsConfig
from relay.core import events as ev
from relay.core.reasons import DropReason
from relay.errors import ErrorCode
from relay.protocol import control, token
from relay.protocol.ids import CallId, Jti, PersonId, Sub
from tenancy import ALICE, caller, code_of, issuer, person, world_of

GROUP = (512, 512, 500, 32)


@pytest.fixture
def world() -> World:
    return World()


def refused(client) -> ErrorCode:
    answer = client.join()
    assert (answer.fatal, client.closed) == (True, answer.code)
    return ErrorCode(answer.code)


def ready(world: World, ids, **changes):
    client = world.client(ids.token(**changes)).open()
    client.hello()
    return client


# ---------------------------------------------------------------- join


def test_the_first_is_told_to_be_alone_and_hears_of_the_second(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    assert (ann.joined.p, ann.joined.up, ann.joined.roster, ann.joined.gate) == (0, 1, (), 0)
    bob = world.client(ids.token(ctc=0)).enter()
    assert bob.joined.p == 1
    entry = bob.joined.roster[0]
    assert (entry.p, entry.sub, entry.st, entry.mu, entry.ctc) == (0, ann.sub, "joined", False, 0)
    assert ann.last(control.Peer) == control.Peer(c=ann.cid, p=1, ev="join", sub=bob.sub)
    assert world.kinds()[:2] == ["call.ringing", "participant.joined"]


def test_another_call_than_the_tokens_is_not_found(world):
    ann = ready(world, world.call())
    answer = ann.ask(control.Join(c=bytes(16)))
    assert (answer.code, ann.closed) == (ErrorCode.CALL_NOT_FOUND, ErrorCode.CALL_NOT_FOUND)


def test_a_third_in_a_call_of_two_finds_it_full(world):
    ann, _ = world.pair()
    assert refused(ready(world, world.call(ann.cid))) is ErrorCode.CALL_FULL


def test_a_call_that_ended_is_remembered_for_five_minutes(world):
    ann, _ = world.pair()
    ann.hangup()
    assert refused(ready(world, world.call(ann.cid))) is ErrorCode.CALL_ENDED
    world.run(301)
    assert isinstance(ready(world, world.call(ann.cid)).join(), control.Joined)


def test_a_node_with_enough_calls_takes_no_more(world):
    world = World(config(limits=LimitsConfig(calls=1)))
    world.pair()
    assert refused(ready(world, world.call())) is ErrorCode.OVERLOADED
    world.check()


def test_a_full_node_begins_no_call_and_lets_people_into_those_there_are(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    for _ in range(30):
        world.now += 1.0
        world.feed(ev.Pressed(1.0))
        ann.ping()
    assert refused(ready(world, world.call())) is ErrorCode.OVERLOADED
    assert world.client(ids.token()).enter().joined.p == 1
    for _ in range(30):
        world.now += 1.0
        world.feed(ev.Pressed(0.1))
    assert isinstance(ready(world, world.call()).join(), control.Joined)
    world.check()


def test_a_token_opens_only_to_the_peers_it_names_in_either_direction(world):
    ids = world.call()
    friend = Sub(b"f" * 16)
    world.client(ids.token(peer=(friend,))).enter()
    assert refused(ready(world, ids)) is ErrorCode.CALL_NOT_FOUND
    assert refused(ready(world, ids, sub=friend, peer=(Sub(bytes(16)),))) is ErrorCode.CALL_NOT_FOUND
    assert isinstance(ready(world, ids, sub=friend).join(), control.Joined)


def test_a_group_token_does_not_fit_a_call_of_two(world):
    ids = world.call()
    world.client(ids.token()).enter()
    assert refused(ready(world, ids, lim=GROUP)) is ErrorCode.FORBIDDEN


def test_policy_decides_about_the_pair(world):
    ids = world.call()
    world.client(ids.token(age=ADULT, ctc=0)).enter()
    assert refused(ready(world, ids, age=TEEN, ctc=1)) is ErrorCode.FORBIDDEN
    assert ready(world, world.call(), age=CHILD).closed is ErrorCode.FORBIDDEN
    assert refused(ready(world, world.call(), age=TEEN, ctc=0)) is ErrorCode.FORBIDDEN
    assert world.engine.calls == 1


def test_a_leg_joins_once(world):
    ann, _ = world.pair()
    assert refused(ann) is ErrorCode.PROTOCOL_VIOLATION


def test_a_draining_node_lets_people_into_old_calls_only_and_a_moving_one_nobody(world):
    ids = world.call()
    world.client(ids.token()).enter()
    waiting = ready(world, ids)
    world.feed(ev.DrainRequested())
    assert refused(ready(world, world.call())) is ErrorCode.DRAINING
    assert isinstance(waiting.join(), control.Joined)
    world.feed(ev.DrainRequested())
    assert refused(ready(world, ids, sub=waiting.sub)) is ErrorCode.DRAINING


# ---------------------------------------------------------------- devices


def test_four_devices_ring_and_a_fifth_is_one_too_many(world):
    ids = world.call()
    sub = Sub(b"s" * 16)
    devices = [world.client(ids.token(sub=sub)).enter() for _ in range(4)]
    assert {device.index for device in devices} == {0}
    assert refused(ready(world, ids, sub=sub)) is ErrorCode.QUOTA
    world.check()


def test_the_rights_are_those_of_the_device_that_accepts(world):
    ids = world.call()
    bob = world.client(ids.token()).enter()
    sub = Sub(b"s" * 16)
    ear = world.client(ids.token(sub=sub, prm=token.MAY_RECEIVE)).enter()
    world.client(ids.token(sub=sub)).enter()
    ear.accept()
    bob.accept()
    assert ear.speak() is DropReason.GATE_CLOSED
    assert bob.speak() is None


def test_the_first_accept_wins_and_the_others_hear_answered_elsewhere(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    phone, tablet = (world.client(ids.token(sub=Sub(b"s" * 16))).enter() for _ in range(2))
    ann.accept()
    assert isinstance(tablet.accept(), control.Ok)
    assert phone.last(control.Ended).why == "answered_elsewhere"
    assert phone.closed is ErrorCode.ANSWERED_ELSEWHERE
    assert ann.speak() is None
    assert (len(tablet.heard), len(phone.heard)) == (1, 0)
    assert "device.ended" in world.kinds()


def test_after_the_accept_a_newer_join_replaces_the_leg_and_must_accept_anew(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    sub = Sub(b"s" * 16)
    bob = world.client(ids.token(sub=sub)).enter()
    ann.accept()
    bob.accept()
    newer = world.client(ids.token(sub=sub)).enter()
    assert bob.closed is ErrorCode.REPLACED
    assert (newer.index, newer.joined.roster[0].st) == (1, "accepted")
    assert ann.speak() == "gate_closed"
    newer.accept()
    assert ann.speak() is None
    assert len(newer.heard) == 1
    world.check()


def test_whose_accept_expired_is_replaced_by_a_newer_join_too(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    sub = Sub(b"s" * 16)
    bob = world.client(ids.token(sub=sub)).enter()
    ann.accept()
    bob.accept()
    world.run(30 + 61, alive=(ann,))
    world.client(ids.token(sub=sub)).enter().accept()
    assert bob.closed is ErrorCode.REPLACED
    assert ann.speak() is None


# ---------------------------------------------------------------- yes


def test_nothing_passes_before_both_accepted(world):
    ann, bob = world.pair()
    assert ann.speak() is DropReason.GATE_CLOSED
    ann.accept()
    assert ann.speak() is DropReason.GATE_CLOSED
    assert bob.speak() is DropReason.GATE_CLOSED
    assert not bob.heard
    assert world.lane.counters.queued == 0
    bob.accept()
    assert ann.speak() is None
    assert bob.speak() is None
    assert (len(ann.heard), len(bob.heard)) == (1, 1)
    assert (ann.hears, bob.hears) == (2, 1)
    assert ann.gate.fl == {1: ann.heard[0][0]}
    assert world.kinds()[-3:] == ["participant.accepted", "participant.accepted", "call.answered"]


def test_accepting_twice_is_accepting_once(world):
    ann, _ = world.talking()
    assert isinstance(ann.accept(), control.Ok)
    assert world.kinds().count("participant.accepted") == 2


def test_who_lapsed_cannot_accept_before_a_rejoin(world):
    ann, bob = world.talking()
    world.run(31, alive=(bob,))
    answer = ann.accept()
    assert (answer.code, answer.fatal) == (ErrorCode.CONSENT_EXPIRED, False)
    assert ann.speak() == "gate_closed"


def test_two_without_a_common_suite_cannot_talk(world):
    ann, bob = world.pair()
    ann.accept(suites=(5, 4))
    answer = bob.accept(suites=(0xF001,))
    assert (answer.code, answer.fatal) == (ErrorCode.E2E_UNSUPPORTED, False)
    assert isinstance(bob.accept(suites=(4,)), control.Ok)


def test_in_a_group_of_32_everyone_hears_everyone(world):
    ids = world.call()
    people = [world.client(ids.token(lim=GROUP)).enter() for _ in range(32)]
    for one in people:
        one.accept()
    assert [one.index for one in people] == list(range(32))
    assert people[0].hears == 0xFFFF_FFFE
    assert people[31].speak() is None
    assert sum(len(one.heard) for one in people) == 31
    assert people[0].gate.ep == 32
    assert refused(ready(world, ids, lim=GROUP)) is ErrorCode.CALL_FULL
    world.check()


# ---------------------------------------------------------------- no


@pytest.mark.parametrize(
    ("why", "outcome", "code"),
    [
        ("declined", "declined", ErrorCode.DECLINED),
        ("busy", "busy", ErrorCode.BUSY),
        ("permission", "declined", ErrorCode.DECLINED),
    ],
)
def test_a_decline_ends_the_call_for_all(world, why, outcome, code):
    ann, bob = world.pair()
    assert isinstance(bob.decline(why), control.Ok)
    assert ann.last(control.Ended) == control.Ended(c=ann.cid, why=outcome, code=int(code))
    assert (world.records[0].outcome, world.records[0].reason) == (outcome, why)


def test_a_caller_who_declines_has_cancelled(world):
    ann, _ = world.pair()
    ann.decline()
    assert world.records[0].outcome == "cancelled"


def test_a_device_without_a_microphone_leaves_the_others_ringing(world):
    ids = world.call()
    world.client(ids.token()).enter()
    phone, tablet = (world.client(ids.token(sub=Sub(b"s" * 16))).enter() for _ in range(2))
    assert isinstance(phone.decline("permission"), control.Ok)
    assert phone.closed is ErrorCode.DECLINED
    assert (tablet.closed, world.records) == (None, [])
    tablet.decline("permission")
    assert world.records[0].outcome == "declined"


@pytest.mark.parametrize(
    ("side", "answered", "outcome"),
    [(0, False, "cancelled"), (1, False, "declined"), (0, True, "completed"), (1, True, "completed")],
)
def test_a_hang_up_ends_a_call_of_two_with_the_right_word(world, side, answered, outcome):
    pair = world.talking() if answered else world.pair()
    assert isinstance(pair[side].hangup(), control.Ok)
    assert pair[1 - side].last(control.Ended).why == outcome
    assert world.records[0].outcome == outcome


# ---------------------------------------------------------------- glare

LOW, HIGH = CallId(bytes(16)), CallId(b"\1" * 16)
A, B = PersonId(b"a" * 16), PersonId(b"b" * 16)


@pytest.mark.parametrize(("mine", "yours"), [(LOW, HIGH), (HIGH, LOW)])
def test_of_two_calls_of_one_pair_the_smaller_id_survives(world, mine, yours):
    ann = world.client(world.call(mine).token(ru=A)).enter()
    bob = world.client(world.call(yours).token(ru=B)).enter()
    ann_rung = world.client(world.call(yours).token(ru=A)).enter()
    bob_rung = world.client(world.call(mine).token(ru=B)).enter()
    survivors = [one for one in (ann, bob, ann_rung, bob_rung) if one.cid == LOW]
    losers = [one for one in (ann, bob, ann_rung, bob_rung) if one.cid == HIGH]
    for one in losers:
        ended = one.last(control.Ended)
        assert (ended.why, ended.code, ended.data) == ("failed", ErrorCode.REPLACED, {"c": bytes(LOW)})
        assert one.closed is ErrorCode.REPLACED
    for one in survivors:
        assert isinstance(one.accept(), control.Ok)
    assert survivors[0].speak() is None
    assert (world.records[0].outcome, world.records[0].reason) == ("failed", "glare")
    world.check()


def test_a_call_that_was_answered_meets_no_glare(world):
    world.talking(ru=A)
    ann, bob = world.pair(ru=A)
    assert (ann.closed, bob.closed) == (None, None)


# ---------------------------------------------------------------- moved, rights


def test_who_moved_is_gone_without_an_end_and_with_the_last_the_record_is_written(world):
    ann, bob = world.talking()
    assert isinstance(ann.ask(control.Moved(c=ann.cid, ok=False)), control.Ok)
    assert ann.speak() is None
    ann.ask(control.Moved(c=ann.cid, ok=True))
    assert ann.closed is ErrorCode.MOVED
    assert (bob.last(control.Peer).ev, bob.all(control.Ended)) == ("away", [])
    assert bob.speak() == "gate_closed"
    bob.ask(control.Moved(c=bob.cid, ok=True))
    assert (world.records[0].outcome, world.records[0].reason) == ("moved", "moved")
    world.check()


def test_a_newer_token_is_judged_with_those_who_are_there(world):
    ids = world.call()
    ann = world.client(ids.token(age=TEEN)).enter()
    bob = world.client(ids.token()).enter()
    stranger = dataclasses.replace(bob.claims, jti=Jti(b"j" * 16), ctc=0)
    answer = bob.ask(control.TokenUpdate(tok=token.mint(stranger, ISSUER)))
    assert (answer.code, answer.fatal) == (ErrorCode.FORBIDDEN, False)
    assert ann.closed is None


def test_who_left_a_group_may_come_again_while_there_is_room(world):
    ids = world.call()
    lim = (512, 512, 500, 3)
    ann, bob, cid = (world.client(ids.token(lim=lim)).enter() for _ in range(3))
    bob.hangup()
    assert (ann.last(control.Peer).ev, ann.last(control.Peer).why) == ("left", "declined")
    again = ready(world, ids, lim=lim, sub=bob.sub)
    assert again.join().p == 1
    again.hangup()
    world.client(ids.token(lim=lim)).enter()
    assert refused(ready(world, ids, lim=lim, sub=bob.sub)) is ErrorCode.CALL_FULL
    assert cid.closed is None


def test_a_newer_token_may_take_rights_away(world):
    ann, bob = world.talking()
    quiet = dataclasses.replace(bob.claims, jti=Jti(b"j" * 16), prm=6)
    assert isinstance(bob.ask(control.TokenUpdate(tok=token.mint(quiet, ISSUER))), control.Ok)
    assert bob.speak() is DropReason.GATE_CLOSED
    assert ann.speak() is None


def moving(world):
    ann, bob = world.talking(key=True)
    again = ann.resume()
    again.rejoin()
    return ann, again, bob


def test_the_leg_that_was_left_is_let_go(world):
    ann, again, bob = moving(world)
    assert isinstance(ann.ask(control.Moved(c=ann.cid, ok=True)), control.Ok)
    assert (ann.closed, again.closed) == (ErrorCode.MOVED, None)
    assert not [peer for peer in bob.all(control.Peer) if peer.ev == "away"]


def test_a_move_that_did_not_work_is_answered_and_changes_nothing(world):
    ann, again, _ = moving(world)
    assert isinstance(ann.ask(control.Moved(c=ann.cid, ok=False)), control.Ok)
    assert (ann.closed, again.closed) == (None, None)
    world.check()


def test_a_hang_up_on_either_leg_of_a_move_ends_both(world):
    for which in (0, 1):
        ann, again, bob = moving(world)
        assert isinstance((ann, again)[which].hangup(), control.Ok)
        assert [len(one.all(control.Ended)) for one in (ann, again, bob)] == [1, 1, 1]
        world.run(6.0)
        assert ann.closed is again.closed is ErrorCode.NO_ERROR
        world.check()


def test_a_newer_join_replaces_both_legs_of_a_move(world):
    ann, again, bob = moving(world)
    newer = world.client(world.call(ann.cid).token(sub=ann.sub, key=True)).enter()
    assert ann.closed is again.closed is ErrorCode.REPLACED
    assert bob.speak() == "gate_closed"
    newer.accept()
    assert bob.speak() is None
    world.check()


def test_a_mute_and_a_block_hold_on_both_legs_of_a_move(world):
    ann, again, bob = moving(world)
    again.mute()
    assert (ann.speak(), again.speak()) == ("muted", "muted")
    again.mute(on=False)
    bob.mute()
    assert bob.speak() == "muted"
    assert not ann.heard
    bob.mute(on=False)
    assert bob.speak() is None
    assert (len(ann.heard), len(again.heard)) == (1, 1)
    world.check()


def test_who_left_a_group_in_a_move_is_heard_on_no_leg(world):
    lim = (512, 512, 500, 3)
    ids = world.call()
    people = [world.client(ids.token(lim=lim, key=True)).enter() for _ in range(3)]
    for one in people:
        one.accept()
    again = people[0].resume()
    again.rejoin()
    people[1].hangup()  # its flows to both legs end
    assert people[2].speak() is None
    again.send(control.Bye())
    assert len(people[2].all(control.Peer)) >= 1
    world.check()


def two_legs(world):
    ann, bob = world.talking(key=True)
    again = ann.resume()
    again.rejoin()
    return ann, again, bob


def test_who_has_one_leg_has_no_ways_to_share_out(world):
    ann, _ = world.talking()
    answer = ann.ask(control.Carry(c=ann.cid, way="up"))
    assert (answer.code, answer.fatal, ann.closed) == (ErrorCode.NOT_IN_CALL, False, None)
    assert ann.speak() is None


@pytest.mark.parametrize("chosen", [0, 1])
def test_one_leg_may_take_all_again_and_the_other_one_fades(world, chosen):
    ann, again, bob = two_legs(world)
    again.ask(control.Carry(c=ann.cid, way="up"))
    world.run(1.0, alive=(ann, again, bob))
    legs = (ann, again)
    assert isinstance(legs[chosen].ask(control.Carry(c=ann.cid, way="both")), control.Ok)
    for one in (*legs, bob):
        assert one.speak() is None
    assert [len(one.heard) for one in legs] == [1, 1]
    bob.mute()
    assert legs[chosen].last(control.Gate).open == 0
    world.run(3.0, alive=(ann, again, bob))
    assert legs[1 - chosen].closed is ErrorCode.MOVED
    assert legs[chosen].speak() is None
    world.check()


def test_the_leg_that_fades_may_be_let_go_at_once(world):
    ann, again, bob = two_legs(world)
    again.ask(control.Carry(c=ann.cid, way="up"))
    ann.ask(control.Carry(c=ann.cid, way="both"))
    again.ask(control.Moved(c=ann.cid, ok=True))
    assert (ann.closed, again.closed) == (None, ErrorCode.MOVED)
    assert ann.speak() is None
    assert bob.speak() is None


def test_who_changes_ways_all_the_time_gets_nothing_twice(world):
    ann, again, bob = two_legs(world)
    for way in ("up", "down") * 20:
        again.ask(control.Carry(c=ann.cid, way=way))
    for one in (ann, again, bob):
        one.speak()
    assert len(bob.heard) == len(ann.heard) + len(again.heard) == 1
    ann.ask(control.Carry(c=ann.cid, way="both"))
    assert again.closed is ErrorCode.MOVED
    assert ann.speak() is None
    world.check()


def test_a_canary_meets_no_people_and_people_no_canary(world):
    theirs, canarys = world.call(), world.call()
    ann = world.client(theirs.token()).enter()
    world.engine.node.on_config(canaries())
    eve = ready(world, theirs)
    assert refused(eve) is ErrorCode.CALL_NOT_FOUND
    one = world.client(canarys.token()).enter()
    world.client(canarys.token()).enter()
    world.engine.node.on_config(config())
    third = ready(world, canarys)
    assert refused(third) is ErrorCode.CALL_NOT_FOUND
    assert (ann.closed, one.closed) == (None, None)
    assert world.engine.counters["call_opened", "canary"] == 1
    assert world.engine.counters["call_opened", "pair"] == 1


def test_a_canarys_token_gives_nobody_new_rights(world):
    ann, _ = world.talking()
    world.engine.node.on_config(canaries())
    newer = dataclasses.replace(ann.claims, jti=Jti(b"n" * 16))
    answer = ann.ask(control.TokenUpdate(tok=token.mint(newer, ISSUER)))
    assert (answer.code, answer.fatal) == (ErrorCode.CALL_NOT_FOUND, False)
    assert ann.speak() is None


def test_a_call_above_its_issuers_number_is_refused_and_charged_to_nobody():
    world = world_of(issuer("a", ALICE, calls=1))
    caller(world, ALICE)
    assert code_of(person(world, ALICE)) is ErrorCode.QUOTA
    world.check()


def test_who_was_muted_before_they_came_hears_of_it(world):
    ids = world.call()
    sub = Sub(b"b" * 16)
    world.command("mute", is_fleet=True, cid=ids.cid, sub=sub)
    ann, bob = world.client(ids.token()).enter(), world.client(ids.token(sub=sub)).enter()
    assert [(told.p, told.on, told.hard) for told in bob.all(control.Mute)] == [(bob.index, True, True)]
    assert ann.all(control.Mute) == []
    assert bob.closed is None


def test_who_comes_to_a_call_of_two_that_was_blocked_elsewhere_finds_it_over(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    sub = Sub(b"b" * 16)
    world.command("block", is_fleet=True, cid=ids.cid, sub=sub, peer=ann.sub)
    bob = world.client(ids.token(sub=sub)).open()
    bob.hello()
    bob.join()
    assert bob.closed is ErrorCode.CALL_ENDED
