import pytest

import standing
from pair import Two, World, config
from relay.config import LimitsConfig
from relay.core import events as ev
from relay.core.handover import seal
from relay.core.participant import SETTLE_S
from relay.core.reasons import DropReason
from relay.errors import ErrorCode
from relay.protocol import control, token
from relay.protocol.address import Address
from relay.protocol.ids import Sub

THREE = (512, 512, 500, 3)


@pytest.fixture
def world() -> World:
    return World()


def test_thirty_seconds_of_silence_close_both_directions(world):
    ann, bob = world.talking()
    world.run(29.9, alive=(bob,))
    assert bob.speak() is None
    world.run(0.2, alive=(bob,))
    assert bob.speak() == "gate_closed"
    assert ann.speak() == "gate_closed"
    assert (bob.last(control.Peer).ev, bob.last(control.Peer).p) == ("away", 0)
    assert "participant.away" in world.kinds()
    assert ann.closed is None


def test_being_heard_keeps_the_gate_open(world):
    ann, bob = world.talking()
    world.run(300, alive=(ann, bob))
    assert ann.speak() is None


def test_a_control_datagram_or_message_counts_as_being_heard(world):
    ann, bob = world.talking()
    for _ in range(4):
        world.run(20)
        ann.ping()
        bob.send(control.Ping(t=1))
    assert ann.speak() is None


def test_media_alone_does_not_bring_back_what_lapsed(world):
    ann, bob = world.talking()
    world.run(31, alive=(bob,))
    world.feed(ev.Heard({ann.leg: world.now}))
    assert ann.speak() == "gate_closed"


def test_a_rejoin_on_the_same_leg_brings_back_and_keeps_the_accept(world):
    ann, bob = world.talking()
    world.run(31, alive=(bob,))
    joined = ann.rejoin()
    assert (joined.p, joined.up) == (0, 1)
    assert bob.last(control.Peer).ev == "back"
    assert ann.speak() is None
    assert bob.speak() is None
    assert "participant.back" in world.kinds()


def test_a_rejoin_of_somebody_who_is_there_is_answered_and_is_no_news(world):
    ann, bob = world.talking()
    before = len(bob.got)
    assert isinstance(ann.rejoin(), control.Joined)
    assert len(bob.got) == before
    assert ann.speak() is None


def test_a_lost_leg_closes_at_once_and_a_new_one_takes_the_place(world):
    ann, bob = world.talking(key=True)
    ann.lose()
    assert bob.speak() == "gate_closed"
    again = ann.resume()
    assert bob.speak() == "gate_closed"
    joined = again.rejoin()
    assert (joined.p, joined.roster[0].st) == (0, "accepted")
    assert bob.speak() is None
    assert len(again.heard) == 1
    assert again.speak() is None
    world.check()


def moving(world):
    ann, bob = world.talking(key=True)
    again = ann.resume()
    again.rejoin()
    return ann, again, bob


def test_a_move_to_a_new_leg_lets_both_carry_until_the_old_one_is_let_go(world):
    ann, again, bob = moving(world)
    assert ann.speak() is None
    assert again.speak() is None
    assert len(bob.heard) == 2
    assert bob.speak() is None
    assert (len(ann.heard), len(again.heard)) == (1, 1)
    assert isinstance(ann.ask(control.Moved(c=ann.cid, ok=True)), control.Ok)
    assert ann.closed is ErrorCode.MOVED
    assert again.speak() is None
    assert bob.speak() is None
    assert (len(bob.heard), len(again.heard)) == (3, 2)
    assert not [peer for peer in bob.all(control.Peer) if peer.ev in ("away", "back")]
    world.check()


def test_who_does_not_let_go_of_the_old_leg_loses_it_after_three_seconds(world):
    ann, again, bob = moving(world)
    world.run(2.9, alive=(again, bob))
    assert ann.closed is None
    world.run(0.2)
    assert ann.closed is ErrorCode.MOVED
    assert again.speak() is None
    world.check()


def test_a_move_that_moves_again_leaves_the_first_leg(world):
    ann, again, bob = moving(world)
    third = again.resume()
    third.rejoin()
    assert (ann.closed, again.closed) == (ErrorCode.MOVED, None)
    for one in (again, third):
        assert one.speak() is None
    assert len(bob.heard) == 2
    world.check()


def test_a_new_leg_that_breaks_gives_its_place_back(world):
    ann, again, bob = moving(world)
    again.lose()
    assert ann.speak() is None
    assert bob.speak() is None
    assert (len(bob.heard), len(ann.heard)) == (1, 1)
    assert ann.last(control.Gate).open == 2
    world.run(5.0, alive=(ann, bob))
    assert ann.closed is None
    ann.hangup()
    assert world.records[0].outcome == "completed"
    world.check()


def test_the_old_leg_may_break_first(world):
    ann, again, bob = moving(world)
    ann.lose()
    assert again.speak() is None
    assert bob.speak() is None
    assert len(again.heard) == 1
    assert not [peer for peer in bob.all(control.Peer) if peer.ev == "away"]
    world.check()


def test_a_rejoin_on_the_old_leg_takes_the_place_back(world):
    ann, again, bob = moving(world)
    assert isinstance(ann.rejoin(), control.Joined)
    assert again.closed is ErrorCode.MOVED
    assert ann.speak() is None
    assert len(bob.heard) == 1
    world.check()


def test_who_falls_silent_in_a_move_loses_both_legs(world):
    ann, again, bob = moving(world)
    world.engine.node.calls[ann.cid].seats[0].beside.until = 99.0
    world.run(31.0, alive=(bob,))
    assert ann.closed is ErrorCode.MOVED
    assert again.speak() == "gate_closed"
    assert bob.last(control.Peer).ev == "away"
    world.check()


def divided(world, way="up"):
    """A person on two legs: the newer one carries `way`, the older one the other way."""
    ann, again, bob = moving(world)
    assert isinstance(carry(again, way), control.Ok)
    world.run(SETTLE_S, alive=(ann, again, bob))
    return ann, again, bob


def carry(leg, way):
    return leg.ask(control.Carry(c=leg.cid, way=way))


@pytest.mark.parametrize(("way", "up", "down"), [("up", 1, 0), ("down", 0, 1)])
def test_two_legs_carry_one_way_each_for_as_long_as_they_are_heard(world, way, up, down):
    ann, again, bob = divided(world, way)
    legs = (ann, again)
    world.run(300.0, alive=(ann, again, bob))
    assert legs[up].speak() is None
    assert legs[1 - up].speak() == "gate_closed"
    assert bob.speak() is None
    assert (len(bob.heard), len(legs[down].heard), len(legs[1 - down].heard)) == (1, 1, 0)
    world.check()


def test_while_ways_change_both_legs_carry_all(world):
    ann, again, bob = moving(world)
    carry(again, "up")
    for one in (ann, again, bob):
        assert one.speak() is None
    assert (len(bob.heard), len(ann.heard), len(again.heard)) == (2, 1, 1)
    world.run(SETTLE_S, alive=(ann, again, bob))
    assert ann.speak() == "gate_closed"


def test_a_leg_of_two_that_is_not_heard_for_thirty_seconds_leaves_all_to_the_other(world):
    for silent in (0, 1):
        world = World()
        ann, again, bob = divided(world)
        legs = (ann, again)
        world.run(31.0, alive=(legs[1 - silent], bob))
        assert legs[silent].closed is ErrorCode.MOVED
        assert legs[1 - silent].speak() is None
        assert bob.speak() is None
        assert len(legs[1 - silent].heard) == 1
        assert not [peer for peer in bob.all(control.Peer) if peer.ev == "away"]
        world.check()


def test_who_is_silent_on_both_legs_is_away(world):
    ann, again, bob = divided(world)
    world.run(31.0, alive=(bob,))
    assert (ann.closed, again.closed) == (ErrorCode.MOVED, None)
    assert again.speak() == "gate_closed"
    assert bob.last(control.Peer).ev == "away"
    world.check()


@pytest.mark.parametrize("gone", [0, 1])
def test_a_leg_of_two_that_breaks_leaves_all_to_the_other_at_once(world, gone):
    for way in ("up", "down"):
        world = World()
        ann, again, bob = divided(world, way)
        legs = (ann, again)
        legs[gone].lose()
        assert legs[1 - gone].speak() is None
        assert bob.speak() is None
        assert len(legs[1 - gone].heard) == 1
        assert legs[1 - gone].gate.open == 2
        world.check()
        legs[1 - gone].lose()
        assert bob.last(control.Peer).ev == "away"
        legs[1 - gone].resume().rejoin()
        assert bob.last(control.Peer).ev == "back"
        world.check()


def test_a_third_leg_comes_instead_of_the_second(world):
    ann, again, bob = divided(world)
    third = again.resume()
    third.rejoin()
    assert (ann.closed, again.closed) == (ErrorCode.MOVED, None)
    for one in (again, third):
        assert one.speak() is None
    assert bob.speak() is None
    assert (len(again.heard), len(third.heard)) == (1, 1)
    world.check()


def test_a_rejoin_on_one_of_two_legs_leaves_the_other(world):
    ann, again, bob = divided(world)
    assert isinstance(ann.rejoin(), control.Joined)
    assert again.closed is ErrorCode.MOVED
    assert ann.speak() is None
    assert bob.speak() is None
    assert len(ann.heard) == 1
    world.check()


def test_who_comes_back_from_away_is_heard_by_the_other_on_the_leg_that_carries(world):
    ann, again, bob = divided(world)
    bob.lose()
    back = bob.resume()
    back.rejoin()
    assert back.speak() is None
    assert (len(ann.heard), len(again.heard)) == (1, 0)
    assert ann.gate.fl != {}
    assert again.speak() is None
    assert len(back.heard) == 1
    world.check()


def test_mute_block_and_hang_up_hold_on_both_legs(world):
    ann, again, bob = divided(world)
    ann.mute()
    assert (ann.speak(), again.speak()) == ("muted", "muted")
    again.mute(on=False)
    assert again.speak() is None
    ann.hangup()
    for one in (ann, again, bob):
        assert one.speak() is not None
    assert world.records[0].outcome == "completed"
    world.check()


def test_without_room_for_two_legs_the_old_one_goes_first():
    world = World(config(limits=LimitsConfig(ringing_legs=1)))
    ann, again, bob = moving(world)
    assert ann.closed is ErrorCode.MOVED
    assert again.speak() is None
    assert bob.speak() is None
    world.check()


def test_the_accept_outlives_the_leg_for_sixty_seconds_and_is_then_asked_anew(world):
    ann, bob = world.talking(key=True)
    world.run(30, alive=(ann, bob))  # a fresh ticket
    ann.lose()
    world.run(59.9, alive=(bob,))
    assert isinstance(ann.resume().rejoin(), control.Joined)

    world = World()
    ann, bob = world.talking(key=True)
    world.run(30, alive=(ann, bob))
    ann.lose()
    world.run(60, alive=(bob,))
    again = ann.resume()
    again.rejoin()
    assert again.last(control.Err).code == ErrorCode.CONSENT_EXPIRED
    assert again.closed is None
    assert bob.speak() == "gate_closed"
    again.accept()
    assert bob.speak() is None


def test_whose_silent_leg_lost_its_accept_may_return_on_a_new_leg(world):
    ann, bob = world.talking(key=True)
    world.run(30 + 60, alive=(bob,))
    again = ann.resume()
    assert isinstance(again.rejoin(), control.Joined)
    assert ann.closed is ErrorCode.MOVED
    again.accept()
    assert bob.speak() is None
    world.check()


def test_after_ninety_seconds_nobody_can_come_back_and_a_call_of_two_fails(world):
    ann, bob = world.talking(key=True)
    ann.lose()
    world.run(90, alive=(bob,))
    assert (bob.last(control.Ended).why, bob.closed) == ("failed", ErrorCode.IDLE_TIMEOUT)
    assert (world.records[0].outcome, world.records[0].reason) == ("failed", "gone")
    assert ann.resume().closed is ErrorCode.CALL_ENDED


def test_in_a_group_the_others_go_on_without_whom_nobody_hears(world):
    ids = world.call()
    ann, bob, cid = (world.client(ids.token(lim=THREE)).enter() for _ in range(3))
    for one in (ann, bob, cid):
        one.accept()
    ann.lose()
    world.run(91, alive=(bob, cid))
    assert (bob.last(control.Peer).ev, bob.last(control.Peer).why) == ("left", "failed")
    assert bob.speak() is None
    world.check()


def test_a_ringing_call_is_missed_after_45_seconds(world):
    ann, bob = world.pair()
    ann.accept()
    world.run(44.9, alive=(ann, bob))
    assert not world.records
    world.run(0.1)
    assert (ann.last(control.Ended).why, bob.last(control.Ended).why) == ("missed", "missed")
    assert world.records[0].outcome == "missed"


def test_a_ringing_device_that_breaks_may_come_back_by_ticket(world):
    ann, bob = world.pair(key=True)
    ann.accept()
    bob.lose()
    assert ann.last(control.Peer).ev == "away"
    again = bob.resume()
    again.rejoin()
    assert again.all(control.Err) == []
    again.accept()
    assert ann.speak() is None


def test_one_broken_device_of_two_is_no_news(world):
    ids = world.call()
    ann = world.client(ids.token()).enter()
    phone, tablet = (world.client(ids.token(sub=Sub(b"s" * 16), key=True)).enter() for _ in range(2))
    before = len(ann.got)
    phone.lose()
    assert len(ann.got) == before
    again = phone.resume()
    again.rejoin()
    assert tablet.closed is None
    world.check()


def test_someone_who_joins_a_running_group_and_never_accepts_is_let_go(world):
    ids = world.call()
    ann, bob = (world.client(ids.token(lim=THREE)).enter() for _ in range(2))
    ann.accept()
    bob.accept()
    cid = world.client(ids.token(lim=THREE)).enter()
    world.run(45, alive=(ann, bob, cid))
    assert cid.last(control.Ended).why == "missed"
    assert ann.closed is None


def test_who_was_replaced_and_never_accepts_anew_ends_a_call_of_two(world):
    ids = world.call()
    ann, bob = world.client(ids.token()).enter(), world.client(ids.token()).enter()
    ann.accept()
    bob.accept()
    newer = world.client(ids.token(sub=bob.sub)).enter()
    world.run(45, alive=(ann, newer))
    assert ann.last(control.Ended).why == "completed"
    assert world.records[0].reason == "gone"


def test_the_longest_time_allowed_ends_the_call_as_expired(world):
    ann, bob = world.talking(dur=100)
    world.run(99.9, alive=(ann, bob))
    assert ann.speak() is None
    world.run(0.1)
    assert ann.last(control.Ended).why == "expired"
    assert world.records[0].outcome == "expired"


def test_strangers_have_an_hour(world):
    ann, bob = world.talking(ctc=0)
    world.run(3599, alive=(ann, bob))
    assert not world.records
    world.run(1)
    assert world.records[0].outcome == "expired"


def test_tickets_come_every_30_seconds_to_every_leg(world):
    ann, bob = world.pair()
    ann.accept()
    bob.accept()
    world.run(30, alive=(ann, bob))
    assert len(ann.all(control.Ticket)) == len(bob.all(control.Ticket)) == 1
    world.run(60, alive=(ann, bob))
    assert len(ann.all(control.Ticket)) == len(bob.all(control.Ticket)) == 3
    assert ann.last(control.Ticket).ttl == 90


def test_a_token_beside_the_ticket_brings_its_own_rights(world):
    ids = world.call()
    ann, bob = world.client(ids.token()).enter(), world.client(ids.token()).enter()
    ann.accept()
    bob.accept()
    again = ann.resume(ids.token(sub=ann.sub, prm=token.MAY_RECEIVE))
    again.rejoin()
    assert again.speak() is DropReason.GATE_CLOSED
    assert bob.speak() is None
    assert world.command("revoke", jti=again.claims.jti) is ErrorCode.NO_ERROR
    assert again.closed is ErrorCode.REMOVED


def test_a_token_beside_the_ticket_that_the_policy_forbids_takes_no_place(world):
    ids = world.call()
    ann, bob = world.client(ids.token()).enter(), world.client(ids.token()).enter()
    ann.accept()
    bob.accept()
    again = ann.resume(ids.token(sub=ann.sub, peer=(Sub(bytes(16)),)))
    assert again.rejoin().code == ErrorCode.CALL_NOT_FOUND
    assert (ann.closed, ann.speak()) == (None, None)


def test_a_ticket_of_somebody_else_takes_no_place(world):
    ann, bob = world.talking(key=True)
    answer = bob.rejoin(ann.ticket)
    assert (answer.code, bob.closed) == (ErrorCode.RESUME_UNKNOWN, ErrorCode.RESUME_UNKNOWN)


def test_a_rejoin_must_name_its_own_call(world):
    ann, _ = world.talking()
    answer = ann.ask(control.Rejoin(c=bytes(16), rt=ann.ticket))
    assert answer.code == ErrorCode.RESUME_UNKNOWN


def test_a_listener_who_waits_for_a_flow_number_gets_it_when_one_has_rested():
    world = World(config(limits=LimitsConfig(flow_rest_s=10.0)))
    ids = world.call()
    ann = world.client(ids.token(lim=THREE)).enter()
    ann.accept()
    numbers = world.engine.node.legs[ann.leg].downlinks
    flows = [numbers.allot(world.now) for _ in range(62)]
    numbers.free(flows[5], world.now)
    bob = world.client(ids.token(lim=THREE)).enter()
    bob.accept()
    assert ann.hears == 0
    world.run(10, alive=(ann, bob))
    assert (ann.hears, ann.gate.fl) == (2, {1: 6})
    assert bob.speak() is None


def test_a_leg_in_no_call_is_lost_without_a_word(world):
    ann = world.client(world.call().token()).open()
    ann.hello()
    ann.lose()
    assert not world.engine.legs
    _, bob = world.pair()
    bob.hangup()
    bob.lose()
    world.check()


def test_who_is_away_has_no_direct_path(world):
    ann, bob = world.talking(prm=15)
    for one, other in ((ann, 1), (bob, 0)):
        one.ask(control.Path(c=one.cid, p=other, use="direct"))
    [pair] = world.engine.node.calls[bob.cid].paths.values()
    assert pair.state.value == "direct"
    bob.lose()
    assert pair.state.value == "relayed"


def test_a_sleep_of_twenty_seconds_closes_no_gate(world):
    ann, bob = world.talking(key=True)
    world.run(20.0, alive=(bob,))
    assert bob.speak() is None
    world.feed(ev.AddressMoved(ann.leg, Address("198.51.100.9", 7)))
    assert ann.last(control.Obs).port == 7
    assert ann.speak() is None
    world.run(25.0, alive=(ann, bob))
    assert not [peer for peer in bob.all(control.Peer) if peer.ev == "away"]
    world.check()


def test_a_rejoin_by_the_ticket_of_another_node_takes_the_call_up():
    two = Two(World(), World(seed=2))
    ann, bob = two.old.talking(key=True)
    node = two.old.engine.node
    tickets = [seal(node, node.calls[ann.cid], seat) for seat in node.calls[ann.cid].seats.values()]
    ann2, bob2 = (two.go(one, ticket) for one, ticket in zip((ann, bob), tickets, strict=True))
    for one in (ann2, bob2):
        assert isinstance(one.rejoin(), control.Joined)
    assert (ann2.hears, bob2.hears) == (2, 1)


def test_a_rejoin_that_comes_with_an_old_ticket_of_another_node_is_too_late():
    two = Two(World(), World(seed=2))
    ann, _ = two.old.talking(key=True)
    node = two.old.engine.node
    ticket = seal(node, node.calls[ann.cid], node.calls[ann.cid].seats[0])
    two.run(91)
    again = two.go(ann, ticket)
    again.rejoin()
    assert again.closed is ErrorCode.RESUME_UNKNOWN


def test_a_leg_that_stood_by_comes_back_in_one_message() -> None:
    two = Two(World(), World(seed=2))
    ann, _ = two.old.talking(key=True)
    leg = standing.stand(two, ann)
    assert isinstance(leg.rejoin(standing.ticket(two, ann)), control.Joined)
    assert two.new.engine.calls == 1
