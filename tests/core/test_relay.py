import dataclasses

import pytest

from core.test_adapting import ON
from pair import CLUSTER, ISSUER, KID, PUBLIC, TICKET_KEY, WALL, World, config
from relay.config import IssuerConfig, LimitsConfig, NodeConfig, TokenConfig
from relay.config_nodes import NodesConfig
from relay.core import events as ev
from relay.core import handover
from relay.core.company import Owner
from relay.core.relay import EngineKeys, issuers_of
from relay.core.shedding import Shed
from relay.errors import ErrorCode
from relay.protocol import control, datagram, signed, token
from relay.protocol.address import Address
from relay.protocol.ids import CallId, Jti
from relay.region.nodelist import Node, NodeList
from relay.rollout.lastgood import Offer, Serving
from relay.rollout.mandate import Mandate
from trunkrig import Net


@pytest.fixture
def world() -> World:
    return World()


def opened(world: World, **changes):
    return world.client(world.call().token(**changes)).open()


# ---------------------------------------------------------------- a whole call


def test_nothing_is_taken_up_where_no_process_was_before(world):
    assert not world.engine.is_taking_up


def test_two_people_call_talk_and_hang_up(world):
    ids = world.call()
    ann, bob = world.client(ids.token()).enter(), world.client(ids.token(), "wt").enter()
    ann.accept()
    bob.accept()
    assert ann.speak() is None
    assert bob.speak() is None
    assert world.engine.legs == {"in_call": 2}
    assert world.engine.transports == {"quic": 1, "wt": 1}
    assert world.engine.calls_by_stage == {"active": 1}
    ann.hangup()
    assert world.engine.calls == 0
    world.run(5)
    assert not world.engine.legs
    assert (world.engine.spent_tokens, world.engine.drain_state) == (2, "running")
    assert not world.engine.is_draining
    assert world.engine.next_deadline() is None
    assert world.engine.poll() is None
    world.check()


def test_the_engine_takes_a_stream_byte_by_byte(world):
    ann = opened(world)
    for byte in control.encode(control.Hello(tok=ann.raw), 1) + control.encode(control.Join(c=ann.cid), 2):
        world.feed(ev.StreamReceived(ann.leg, bytes((byte,))))
    assert isinstance(ann.answers[1], control.Welcome)
    assert isinstance(ann.answers[2], control.Joined)


def test_a_monotonic_clock_that_steps_back_stands_still(world):
    world.now = 100.0
    ann, _ = world.pair()
    world.now = 50.0
    world.feed(ev.Tick())
    assert world.engine.node.now == 100.0
    assert ann.closed is None


# ---------------------------------------------------------------- before hello


@pytest.mark.parametrize(
    "message",
    [control.Join(c=bytes(16)), control.Pong(t=1), control.Feedback(c=bytes(16), stars=1), control.Ok()],
)
def test_before_hello_nothing_else_is_heard(world, message):
    ann = opened(world)
    answer = ann.ask(message)
    assert (answer.code, ann.closed) == (ErrorCode.AUTH_REQUIRED, ErrorCode.AUTH_REQUIRED)


def test_there_is_one_challenge(world):
    ann = opened(world)
    ann.send(control.Ping(t=1))
    ann.send(control.Ping(t=2))
    assert len(ann.all(control.Challenge)) == 1
    assert ann.closed is ErrorCode.AUTH_REQUIRED


def test_a_second_hello_is_a_violation(world):
    ann = opened(world)
    ann.hello()
    assert ann.hello().code == ErrorCode.PROTOCOL_VIOLATION
    assert ann.closed is ErrorCode.PROTOCOL_VIOLATION


def test_a_goodbye_before_hello_is_a_goodbye(world):
    ann = opened(world)
    ann.send(control.Bye())
    assert ann.closed is ErrorCode.NO_ERROR


# ---------------------------------------------------------------- messages


def test_an_unknown_type_is_ignored_or_answered_and_never_fatal(world):
    ann, _ = world.pair()
    before = len(ann.got)
    world.feed(ev.StreamReceived(ann.leg, b"\x00\x04\x93\x7f\x00\x80"))
    assert len(ann.got) == before
    world.feed(ev.StreamReceived(ann.leg, b"\x00\x04\x93\x7f\x05\x80"))
    assert ann.answers[5].code == ErrorCode.VERSION
    assert ann.closed is None


@pytest.mark.parametrize(
    "message", [control.Ok(), control.Ended(c=bytes(16), why="failed"), control.Challenge(n=bytes(32), t=0)]
)
def test_what_only_the_relay_says_is_a_violation(world, message):
    ann, _ = world.pair()
    assert ann.ask(message).code == ErrorCode.PROTOCOL_VIOLATION
    assert ann.closed is ErrorCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff", ErrorCode.TOO_LARGE),
        (b"\x00\x01\xc1", ErrorCode.BAD_ENCODING),
        (b"\x00\x00", ErrorCode.BAD_ENCODING),
    ],
)
def test_garbage_on_the_stream_closes_with_its_code(world, data, code):
    ann, bob = world.pair()
    world.feed(ev.StreamReceived(ann.leg, data))
    assert ann.closed is code
    assert bob.last(control.Peer).ev == "away"


def test_what_follows_a_fatal_message_in_the_same_bytes_is_not_read(world):
    ann, _ = world.pair()
    data = b"\x00\x01\xc1" + control.encode(control.Accept(c=ann.cid), 9)
    world.feed(ev.StreamReceived(ann.leg, data))
    assert 9 not in ann.answers
    ann = opened(world)
    data = control.encode(control.Bye()) + control.encode(control.Hello(tok=ann.raw), 9)
    world.feed(ev.StreamReceived(ann.leg, data))
    assert 9 not in ann.answers


def test_the_control_stream_must_not_end(world):
    ann = opened(world)
    world.feed(ev.StreamReceived(ann.leg, b"", end=True))
    assert ann.closed is ErrorCode.PROTOCOL_VIOLATION


def test_more_than_200_messages_at_once_are_too_many(world):
    ann, _ = world.pair()
    for _ in range(198):
        ann.send(control.Ping(t=1))
    assert ann.closed is None
    ann.send(control.Ping(t=1))
    assert ann.closed is ErrorCode.RATE_LIMITED
    assert ann.last(control.Err).retry_ms == 20


def test_a_ping_is_answered_with_its_own_time(world):
    ann, _ = world.pair()
    assert ann.ask(control.Ping(t=77)) == control.Pong(t=77)
    ann.send(control.Pong(t=1))
    assert ann.closed is None


def test_before_the_join_and_after_the_end_call_messages_are_refused_gently(world):
    ann = opened(world)
    ann.hello()
    assert ann.accept().code == ErrorCode.NOT_IN_CALL
    assert ann.ask(control.Feedback(c=ann.cid, stars=1)).code == ErrorCode.NOT_IN_CALL
    ann.join()
    assert ann.ask(control.Accept(c=bytes(16))).code == ErrorCode.CALL_NOT_FOUND
    ann.hangup()
    assert ann.accept().code == ErrorCode.CALL_ENDED
    assert ann.rejoin().code == ErrorCode.CALL_ENDED
    assert ann.closed is None


def test_a_goodbye_hangs_up_and_one_with_an_error_does_not(world):
    ann, bob = world.talking()
    ann.ask(control.Bye())
    assert ann.closed is ErrorCode.NO_ERROR
    assert bob.last(control.Ended).why == "completed"
    ann, bob = world.talking()
    ann.send(control.Bye(code=2))
    assert ann.closed is ErrorCode.NO_ERROR
    assert bob.last(control.Peer).ev == "away"


def test_a_goodbye_of_one_device_leaves_the_others(world):
    ids = world.call()
    world.client(ids.token()).enter()
    phone = world.client(ids.token()).enter()
    tablet = world.client(ids.token(sub=phone.sub)).enter()
    phone.send(control.Bye())
    assert phone.closed is ErrorCode.NO_ERROR
    assert isinstance(tablet.accept(), control.Ok)


def test_a_goodbye_of_the_last_of_two_who_are_ordered_out_closes_once(world):
    ids = world.call()
    ann = world.client(ids.token(lim=(512, 512, 500, 3))).enter()
    ann.send(control.Bye())
    assert ann.closed is ErrorCode.NO_ERROR
    world.check()


# ---------------------------------------------------------------- datagrams, addresses, hearing


def test_a_ping_datagram_is_answered_with_our_clock(world):
    ann, _ = world.pair()
    world.now = 12.5
    world.feed(ev.DatagramReceived(ann.leg, datagram.encode_datagram(datagram.Ping(1, 2))))
    assert datagram.decode_datagram(ann.datagrams[0]) == datagram.Pong(1, 2, 12_500)


def test_a_tally_says_which_pings_came(world):
    ann, _ = world.pair()
    for seq in (10, 11, 13):
        world.feed(ev.DatagramReceived(ann.leg, datagram.encode_datagram(datagram.Ping(1, seq))))
    world.feed(ev.DatagramReceived(ann.leg, datagram.encode_datagram(datagram.Tally(10))))
    assert datagram.decode_datagram(ann.datagrams[-1]) == datagram.Tallied(10, 0b1011)


def test_a_listeners_request_is_the_lanes_and_its_way_is_counted_among_those_looked_at():
    world = World(config(adapt=ON))
    _, bob = world.talking()
    assert world.engine.ways == {}
    wish = datagram.Nack(1, 0, 7, 0b101)
    world.feed(ev.DatagramReceived(bob.leg, datagram.encode_datagram(wish)))
    assert world.outputs[-1] == ev.Resend(bob.leg, wish)
    assert world.engine.ways == {"clean": 1}
    assert world.engine.watched() == [bob.leg]
    assert world.engine.due(world.now) == [bob.leg]


@pytest.mark.parametrize("data", [b"\0", b"\0\x01\x00", b"\x01\x02", b"\0" * 2000])
def test_a_damaged_datagram_is_counted_and_never_fatal(world, data):
    ann, _ = world.pair()
    world.feed(ev.DatagramReceived(ann.leg, data))
    assert world.engine.counters["dropped", "malformed"] == 1
    assert ann.closed is None


def test_datagrams_that_say_nothing_to_us_are_taken_note_of(world):
    ann, _ = world.pair()
    unknown = b"\0\x7f"
    other = datagram.encode_datagram(datagram.NewestWins(control.Pong.TYPE, 1, control.Pong(t=1)))
    foreign = datagram.encode_datagram(datagram.NewestWins(control.Rr.TYPE, 1, control.Rr(c=bytes(16), s=())))
    for data in (unknown, other, foreign, datagram.encode_datagram(datagram.Padding(5))):
        world.feed(ev.DatagramReceived(ann.leg, data))
    assert world.engine.counters["control_datagram", "newestwins"] == 2
    assert world.engine.counters["control_datagram", "padding"] == 1


def test_a_report_by_datagram_of_someone_in_no_call_is_ignored(world):
    ann = opened(world)
    report = datagram.NewestWins(control.Rr.TYPE, 1, control.Rr(c=ann.cid, s=()))
    world.feed(ev.DatagramReceived(ann.leg, datagram.encode_datagram(report)))
    assert ann.closed is None


def test_a_flood_of_datagrams_is_dropped_and_not_answered(world):
    ann, _ = world.pair()
    for _ in range(250):
        ann.ping()
    assert len(ann.datagrams) == 200
    assert world.engine.counters["dropped", "over_budget"] == 50


def test_a_new_address_is_told_to_those_who_are_in(world):
    ann, _ = world.pair()
    world.feed(ev.AddressMoved(ann.leg, Address("198.51.100.9", 7)))
    assert ann.last(control.Obs) == control.Obs(ip="198.51.100.9", port=7, seq=1)
    stranger = opened(world)
    world.feed(ev.AddressMoved(stranger.leg, Address("198.51.100.9", 8)))
    assert stranger.got == []


def test_what_is_said_of_legs_that_are_gone_is_ignored(world):
    address = Address("192.0.2.1", 1)
    for event in (
        ev.StreamReceived(99, b"x"),
        ev.DatagramReceived(99, b"x"),
        ev.LegLost(99, 0),
        ev.AddressMoved(99, address),
        ev.Heard({99: 1.0}),
    ):
        world.feed(event)
    assert world.outputs == []


def test_nobody_was_heard_in_the_future(world):
    ann, _ = world.pair()
    world.feed(ev.Heard({ann.leg: 1e9}))
    assert world.engine.node.legs[ann.leg].heard == world.now


def test_a_report_names_people_who_sit_there_now(world):
    ann, bob = world.pair()
    assert isinstance(ann.ask(control.Report(c=ann.cid, p=1, reason="x")), control.Ok)
    assert world.events[-1].data["peer"] == bob.sub.hex()


def test_a_leg_report_is_heard_in_a_call_and_harmless_before(world):
    one = datagram.FlowReport(1, 0, 0, 1, 0, 0, 0, 0, 60, 0, 0)
    raw = datagram.encode_datagram(datagram.LegReport(1, 200, (one,)))
    early = opened(world)
    world.feed(ev.DatagramReceived(early.leg, raw))
    ann, bob = world.talking()
    (call,) = (call for call in world.engine.node.calls.values() if bob.index in call.seats)
    flow = call.seats[bob.index].hearing[ann.index]
    raw = datagram.encode_datagram(datagram.LegReport(1, 200, (one._replace(flow=flow),)))
    world.feed(ev.DatagramReceived(bob.leg, raw))
    assert list(call.seats[bob.index].hearings) == [ann.index]
    assert world.engine.watched() == []


# ---------------------------------------------------------------- settings


def test_a_reload_changes_keys_and_limits_and_leaves_calls_alone(world):
    ann, _ = world.talking()
    seed = bytes(range(1, 33))
    public = signed.public_of(seed)
    new_config = dataclasses.replace(config(limits=LimitsConfig(calls=1)), tokens=TokenConfig(skew_s=0))
    keys = EngineKeys({token.kid_of(public): public}, [bytes(32), TICKET_KEY])
    world.feed(ev.ConfigChanged(new_config, keys))
    assert opened(world).hello().code == ErrorCode.TOKEN_INVALID
    claims = world.call().claims()
    bob = world.client(token.mint(claims, seed)).open()
    assert isinstance(bob.hello(), control.Welcome)
    assert bob.join().code == ErrorCode.OVERLOADED
    assert ann.speak() is None
    assert isinstance(ann.rejoin(), control.Joined)


def test_a_reload_without_keys_keeps_them(world):
    world.feed(ev.ConfigChanged(config()))
    assert isinstance(opened(world).hello(), control.Welcome)


def test_issuers_come_from_the_configuration_by_key_id():
    issuer = IssuerConfig(public_key=PUBLIC.hex())
    settings = config(tokens=TokenConfig(issuers=(issuer,)), node=NodeConfig(cluster=CLUSTER))
    assert issuers_of(settings) == {KID: PUBLIC}
    assert len(ISSUER) == 32


# ---------------------------------------------------------------- everything has its place


def test_close_codes_that_peers_invent_count_as_one(world):
    for code in (2**61, 9999):
        opened(world).lose(code=code)
    assert world.engine.counters["leg_lost", "other"] == 2


def test_a_lost_leg_is_gone_from_the_books(world):
    ann, bob = world.pair()
    ann.lose(code=0x33)
    assert world.engine.counters["leg_lost", "idle_timeout"] == 1
    assert bob.last(control.Peer).ev == "away"
    world.check()


def test_reports_by_stream_and_datagram_reach_the_other(world):
    ann, bob = world.talking()
    body = control.Rr(c=ann.cid, s=(control.RrEntry(p=1, hi=1, n=1, lost=0),))
    assert isinstance(ann.ask(body), control.Ok)
    data = datagram.encode_datagram(datagram.NewestWins(control.Rr.TYPE, 3, body))
    world.feed(ev.DatagramReceived(ann.leg, data))
    world.feed(ev.DatagramReceived(ann.leg, data))
    assert len(bob.all(control.Rr)) == 2
    assert world.engine.counters["dropped", "stale"] == 1


@pytest.mark.parametrize("joined", [False, True])
def test_a_newer_token_counts_before_and_in_a_call(world, joined):
    ann = opened(world)
    ann.hello()
    if joined:
        ann.join()
    newer = dataclasses.replace(ann.claims, jti=Jti(b"j" * 16))
    assert isinstance(ann.ask(control.TokenUpdate(tok=token.mint(newer, ISSUER))), control.Ok)


def test_a_leg_joins_once(world):
    ann, _ = world.pair()
    assert ann.join().code == ErrorCode.PROTOCOL_VIOLATION


def test_a_host_who_says_goodbye_after_being_removed_elsewhere_is_closed_once(world):
    ann, bob = world.talking()
    bob.hangup()
    ann.send(control.Bye())
    assert ann.closed is ErrorCode.NO_ERROR
    world.check()


def test_a_patience_that_ends_closes_the_leg_by_its_state(world):
    silent, idle = opened(world), opened(world)
    idle.hello()
    world.run(5)
    assert (silent.closed, idle.closed) == (ErrorCode.AUTH_REQUIRED, None)
    world.run(150)
    assert idle.closed is ErrorCode.TOKEN_EXPIRED


def test_the_drains_deadlines_are_kept(world):
    ann, _ = world.talking()
    world.feed(ev.DrainRequested())
    world.run(30, alive=(ann,))
    assert world.engine.drain_state == "moving"
    assert len(ann.all(control.Drain)) == 1
    for _ in range(2):
        world.feed(ev.DrainRequested())
    world.run(1)
    assert world.is_stopped


def test_what_one_process_remembers_the_next_takes_up_and_asks_its_people_back(world):
    world.engine.remember()
    ann, bob = world.talking()
    kept = {out.call: out.data for out in world.outputs if isinstance(out, ev.Remember)}
    assert list(kept) == [ann.cid]
    new = World(seed=2)
    new.clients = world.clients
    new.feed(ev.CallsRemembered(kept, {ann.leg: 0.0, bob.leg: 0.0}, 0.0))
    assert new.engine.calls_by_stage == {"active": 1}
    assert new.engine.legs == {"in_call": 2}
    new.run(1.0)
    for one in (ann, bob):
        notice = datagram.decode_datagram(one.datagrams[0])
        assert isinstance(notice, datagram.NewestWins)
        assert notice.body == control.Drain(in_ms=0, by_ms=30_000)
    new.check()


def test_many_deadlines_at_once_are_kept_a_few_at_a_time(world):
    people = [opened(world) for _ in range(10)]
    world.now = 5.0
    world.feed(ev.Tick())
    assert sum(one.closed is not None for one in people) == 4
    assert world.engine.next_deadline() == 5.0
    world.run(0)
    assert all(one.closed is ErrorCode.AUTH_REQUIRED for one in people)


def test_a_wish_for_turn_needs_a_call_and_a_node_that_has_it():
    world = World()
    ann = world.client(world.call().token()).open()
    ann.hello()
    assert ann.ask(control.Turn()).code == ErrorCode.NOT_IN_CALL
    ann.join()
    assert ann.ask(control.Turn()).code == ErrorCode.NOT_ENABLED
    assert ann.closed is None


def test_rounds_of_knocking_are_kept(world):
    ann, bob = world.talking(prm=15)
    for one, other in ((ann, 1), (bob, 0)):
        one.ask(control.Cand(c=one.cid, to=other, gen=0, acl=(("192.0.2.1", 1),), end=True))
    world.run(1.5)
    assert [punch.round for punch in ann.all(control.Punch)] == [1, 2]
    assert Address("192.0.2.1", 1).packed in world.engine.node.guests.reach(Owner(ann.cid, ann.sub))


def test_the_turn_engine_is_told_of_the_people_of_its_calls(world):
    assert world.engine.guests is world.engine.node.guests


def test_how_calls_are_and_which_flows_to_look_at_can_be_asked(world):
    ann, _ = world.talking()
    assert (ann.leg, ann.joined.up) in world.engine.unheard()
    assert world.engine.vitals.counted["setup_fail"] == [0, 0]


def test_legs_of_a_call_are_known_while_it_is_not_over(world):
    ann, bob = world.talking(key=True)
    told = world.engine.seated(ann.cid)
    assert [(one.leg, one.index, one.transport) for one in told] == [
        (ann.leg, 0, "quic"),
        (bob.leg, 1, "quic"),
    ]
    assert {(one.leg, one.up) for one in told} == set(world.engine.node.calls[ann.cid].flows)
    again = bob.resume()
    again.rejoin()  # both carry media for a moment
    assert [one.leg for one in world.engine.seated(ann.cid)] == [ann.leg, again.leg, bob.leg]
    for leg in (again.leg, bob.leg):
        world.feed(ev.LegLost(leg, 0))
    assert [one.leg for one in world.engine.seated(ann.cid)] == [ann.leg]
    words = control.encode(control.Hangup(c=ann.cid), 9)
    world.engine.handle(ev.StreamReceived(ann.leg, words), world.now, world.wall)
    assert world.engine.calls == 1  # the lane has not told its counters yet
    assert world.engine.seated(ann.cid) is None
    world.feed(ev.Tick())
    assert world.engine.calls == 0
    assert world.engine.seated(ann.cid) is None
    assert world.engine.seated(CallId(bytes(16))) is None


def test_the_other_generation_is_told_of_the_calls_that_are_not_over(world):
    (ann, _), (eve, _) = world.talking(), world.talking()
    assert world.engine.call_ids() == [ann.cid, eve.cid]
    told = handover.read(world.engine.node, world.engine.describe(ann.cid))
    assert (told.c, told.p) == (ann.cid, None)
    ann.hangup()
    assert world.engine.call_ids() == [eve.cid]
    assert world.engine.describe(ann.cid) is None
    assert world.engine.describe(CallId(bytes(16))) is None


def test_a_state_of_rollouts_is_obeyed_from_the_moment_it_is_told(world):
    offer = Offer("o1", "s1", always=("staff",), kind="open", on_kill="end")
    world.feed(ev.MandateChanged(Mandate(Serving.STATE, offer)))
    ann, _ = world.talking(grp=("staff",))
    world.feed(ev.MandateChanged(Mandate(Serving.KILLED, offer, is_killed=True)))
    assert ann.last(control.Ended).why == "completed"
    assert world.records[0].reason == "killed"


def test_how_full_the_node_is_decides_what_it_gives_up(world):
    for _ in range(30):
        world.now += 1.0
        world.feed(ev.Pressed(1.0))
    assert world.engine.shedding is Shed.CALLS
    assert world.engine.counters["shed", "calls"] == 1
    assert [out.classes for out in world.outputs if isinstance(out, ev.SetShedding)][-1] == {1, 2}


def test_standbys_hear_of_a_call_by_its_people_when_it_changed():
    world = World(config(nodes=NodesConfig(standbys=True)))
    nodes = tuple(
        Node(id=f"relay-{number}", region="local", urls=("quic://a.example:443",), version="1")
        for number in (1, 2)
    )
    made = NodeList(v=1, cluster=CLUSTER, rev=1, issued_at=int(WALL), not_after=int(WALL) + 99, nodes=nodes)
    world.feed(ev.Directed(made, {"local": 0.0}, False))
    ann, _ = world.talking(key=True)
    world.run(2.0)
    assert [ticket for ticket in ann.all(control.Ticket) if ticket.ht is not None]


# ---------------------------------------------------------------- calls of other nodes


def test_a_person_of_another_nodes_call_is_heard_there_and_comes_back_by_ticket():
    net = Net("a", "b")
    ann, bob = net.talking("a", "a", "b", key=True)
    rr = control.Rr(c=bob.cid, s=())
    net["b"].feed(ev.DatagramReceived(bob.leg, datagram.encode_datagram(datagram.NewestWins(rr.TYPE, 1, rr))))
    net.run(0.5)
    assert ann.last(control.Rr) == rr
    again = bob.resume()
    again.rejoin()
    net.run(5.0)
    assert again.joined.p == 1
    assert net["b"].engine.abroad is not None
    assert net["a"].engine.unheard() == [(ann.leg, ann.joined.up)]
    assert [seat.leg for seat in net["a"].engine.seated(ann.cid)] == [ann.leg]


def test_a_visitors_reports_and_how_trunks_are_belong_to_what_knows_of_other_nodes():
    assert (World().engine.trunks, World().engine.met) == ([], [])
    net = Net("a", "b")
    ann, bob = net.talking("a", "a", "b")
    assert [one.node for one in net["a"].engine.trunks] == net["a"].engine.met == ["b"]
    row = datagram.FlowReport(bob.gate.fl[ann.index], 0, 5, (1 << 64) - 1, 0, 10, 20, 0, 40, 0, 0)
    net["b"].feed(ev.DatagramReceived(bob.leg, datagram.encode_datagram(datagram.LegReport(1, 0, (row,)))))
    net.run(2.0)
    assert net["a"].engine.node.legs[-1].is_telling
