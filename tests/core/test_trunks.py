"""Connections between nodes: dialed, proven, chosen between, kept awake, refused; and what passes on them."""

import pytest

from relay.config_trunks import TrunkNode, TrunksConfig
from relay.core import events as ev
from relay.core import trunks as core_trunks
from relay.errors import ErrorCode
from relay.protocol import control, datagram, trunk
from relay.protocol.messages import Bye, Challenge, Err, Ok, Ping, Pong
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Beat, Greet, Say, Stop
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


def trunks(net, name):
    return net[name].engine.abroad.trunks


def need(net, name, other):
    trunks(net, name).need(other)
    for _ in range(2):  # the deadline that it is due at, and what is due
        net[name].feed(ev.Tick())


def up(net):
    """A trunk that `a` dialed."""
    need(net, "a", "b")
    net.run(1.0)
    assert trunks(net, "a").leg_of("b") is not None
    assert trunks(net, "b").leg_of("a") is not None
    return net


def say(net, name, message, id=0):
    """Something that this node would never say on its connection."""
    peer = net[name]
    (leg,) = peer.wires
    net.send(peer, leg, lambda there: ev.StreamReceived(there, control.encode(message, id)))
    net.run(0.5)


def sent(net, name, kind):
    """What this node said of a kind, with its id."""
    frames = [
        control.decode(out.data[2:], core_trunks.trunk_control._TYPES)
        for out in net[name].outputs
        if isinstance(out, ev.SendStream) and out.leg not in net[name].clients
    ]
    return [(frame.body, frame.id) for frame in frames if isinstance(frame.body, kind)]


def closed(net, name):
    return [out.code for out in net[name].outputs if isinstance(out, ev.CloseLeg)]


def alone(net, name, *legs):
    """These connections of a node have nobody at the other end."""
    net.close = lambda *_: None
    for leg in legs:
        net[name].wires[leg] = object()
    return net[name]


# ---------------------------------------------------------------- connections


def test_who_is_needed_is_dialed_and_both_know_each_other(net):
    up(net)
    assert (trunks(net, "b").peer_of("a").node, trunks(net, "a").peer_of("b").node) == ("a", "b")
    assert trunks(net, "a").takes_halves("b")
    assert [trunks(net, "a").knows(name) for name in "baz"] == [True, False, False]
    assert [out for out in net["a"].outputs if isinstance(out, ev.CarryTrunk)] == [ev.CarryTrunk(1)]


def test_nobody_is_asked_about_who_is_not_configured(net):
    one = trunks(net, "a")
    one.need("z")
    one.carry("z", True)
    one.spare("z")
    assert (one.leg_of("z"), one.peer_of("z")) == (None, None)
    assert not one.takes_halves("z")
    assert not one.say("z", Ok())
    assert not one.ask("z", Stop(route=64))
    one.answer("z", 1, Ok())
    assert not one.outputs


def test_two_who_dial_each_other_at_once_end_with_one_connection(net):
    need(net, "a", "b")
    need(net, "b", "a")
    net.run(2.0)
    assert len(net.wires("a", "b")) == 1
    assert TrunkCode.GLARE in closed(net, "a") + closed(net, "b")
    (wire,) = net.wires("a", "b")
    assert wire.ends[0][0].name == "a"
    assert trunks(net, "a").takes_halves("b")


def test_an_edge_that_cannot_dial_is_asked_again_later(net):
    net.nodes.pop("b")
    need(net, "a", "b")
    for _ in range(40):
        net["a"].now += 0.5
        net["a"].feed(ev.Tick())
    dials = [out for out in net["a"].outputs if isinstance(out, ev.DialTrunk)]
    assert 3 <= len(dials) <= 12


def test_a_connection_that_nobody_wants_any_more_is_closed(net):
    peer = alone(net, "a", 9, 10)
    peer.feed(ev.TrunkDialed("b", 9))
    peer.feed(ev.TrunkDialed("z", 10))
    assert closed(net, "a") == [ErrorCode.NO_ERROR] * 2


def test_a_node_that_nobody_answers_is_given_five_seconds_and_dialed_again(net):
    net.unreachable.add("b")
    need(net, "a", "b")
    net.run(20)
    dials = [out for out in net["a"].outputs if isinstance(out, ev.DialTrunk)]
    assert len(dials) >= 3
    assert set(closed(net, "a")) == {ErrorCode.AUTH_REQUIRED}


def test_one_that_is_not_needed_any_more_is_not_dialed_again(net):
    up(net)
    one = trunks(net, "a")
    one.need("b")
    one.spare("b")
    one.spare("b")
    net.cut("a", "b")
    net.run(20)
    assert one.leg_of("b") is None
    assert len([out for out in net["a"].outputs if isinstance(out, ev.DialTrunk)]) == 1


def test_who_has_another_key_is_refused(net):
    net.keys["b"] = bytes(32)
    need(net, "a", "b")
    net.run(0.5)
    assert closed(net, "a")[0] is TrunkCode.PEER_UNKNOWN
    assert net["a"].engine.counters["trunk_refused", ""] > 0


def test_strangers_are_let_wait_in_a_small_number_and_not_for_long(net, monkeypatch):
    monkeypatch.setattr(core_trunks, "MOST_GREETING", 2)
    peer = alone(net, "a", 11, 12, 13)
    for leg in (11, 12, 13):
        peer.feed(ev.TrunkOpened(leg, None, 1200))
    assert closed(net, "a") == [ErrorCode.OVERLOADED]
    peer.now += 5.0
    peer.feed(ev.Tick())
    assert closed(net, "a") == [ErrorCode.OVERLOADED, ErrorCode.AUTH_REQUIRED, ErrorCode.AUTH_REQUIRED]


def test_a_process_that_begins_anew_takes_the_place_of_the_former(net):
    up(net)
    net.crash("a")
    need(net, "a", "b")
    net.run(2.0)
    assert trunks(net, "b").takes_halves("a")
    assert len(net.wires("a", "b")) == 1


def test_a_connection_that_a_new_process_dials_replaces_one_that_stands_still(net):
    up(net)
    net.freeze("a", "b")
    former = trunks(net, "a").leg_of("b")
    net["b"].begin()
    need(net, "b", "a")
    net.run(2.0)
    assert trunks(net, "a").leg_of(trunks(net, "a").newest("b")) not in (None, former)
    assert trunks(net, "a").leg_of("b") is None
    assert TrunkCode.GLARE in closed(net, "a")
    assert net["a"].engine.counters["trunk_up", ""] == 2


def test_a_node_that_leaves_dials_nobody(net):
    net.unreachable.add("b")
    need(net, "a", "b")
    net["a"].feed(ev.DrainRequested())
    assert closed(net, "a") == [ErrorCode.DRAINING]
    net.run(20)
    assert len([out for out in net["a"].outputs if isinstance(out, ev.DialTrunk)]) == 1


def test_a_node_that_leaves_goes_on_with_what_it_has(net):
    up(net)
    trunks(net, "a").drain()
    assert (trunks(net, "a").takes_halves("b"), trunks(net, "a").leg_of("b")) == (False, 1)


# ---------------------------------------------------------------- what is said


def test_a_trunk_is_kept_awake_and_seen_to_be_silent(net):
    up(net)
    net.run(20)
    assert 3 <= len(sent(net, "a", Ping)) <= 8
    assert sent(net, "b", Pong)
    trunks(net, "a").carry("b", True)
    net["a"].feed(ev.Tick())
    net.run(2.0)
    probes = [out for out in net["a"].outputs if isinstance(out, ev.SendDatagram)]
    assert 17 <= len(probes) <= 21
    net.freeze("a", "b")
    net.run(1.5)
    assert trunks(net, "a").leg_of("b") is not None
    assert not trunks(net, "a").takes_halves("b")


def test_an_answer_comes_to_who_asked_and_once(net):
    up(net)
    got = []
    assert trunks(net, "a").ask("b", Stop(route=64), got.append)
    net["a"].feed(ev.Tick())
    net.run(0.5)
    assert got == [Ok()]
    ((_, id),) = sent(net, "a", Stop)
    say(net, "b", Ok(), id)
    say(net, "b", Err(code=1), 77)
    assert got == [Ok()]


def test_a_peer_that_never_answers_is_left(net, monkeypatch):
    up(net)
    monkeypatch.setattr(core_trunks, "MOST_ASKED", 2)
    net.freeze("a", "b")
    assert [trunks(net, "a").ask("b", Stop(route=64)) for _ in range(3)] == [True, True, False]
    net["a"].feed(ev.Tick())
    assert closed(net, "a") == [ErrorCode.OVERLOADED]


def test_what_wants_no_answer_gets_none(net):
    up(net)
    assert trunks(net, "a").say("b", Say(half=1, m=b""))
    trunks(net, "a").answer("b", 0, Ok())
    net["a"].feed(ev.Tick())
    assert sent(net, "a", Say) == [(Say(half=1, m=b""), 0)]
    assert sent(net, "a", Ok) == [(Ok(), 1)]  # to what `b` said first of all


@pytest.mark.parametrize(
    ("message", "id"), [(Challenge(n=bytes(32), t=1), 0), (Beat(seq=1, halves=0, ok=0), 0)], ids=str
)
def test_what_is_not_for_now_ends_the_trunk(net, message, id):
    up(net)
    say(net, "b", message, id)
    assert closed(net, "a") == [ErrorCode.PROTOCOL_VIOLATION]
    assert net["a"].engine.counters["refused", "protocol_violation"] == 1


def test_what_a_later_version_says_is_refused_if_it_wants_an_answer(net):
    up(net)
    peer = net["b"]
    (leg,) = peer.wires
    for id in (0, 5):
        frame = bytes((0x93, 0x7F, id, 0x80))
        data = len(frame).to_bytes(2, "big") + frame
        net.send(peer, leg, lambda there, data=data: ev.StreamReceived(there, data))
    net.run(0.5)
    assert sent(net, "a", Err) == [(Err(code=ErrorCode.VERSION), 5)]


@pytest.mark.parametrize(
    ("code", "seen"), [(TrunkCode.GLARE, TrunkCode.GLARE), (0, ErrorCode.NO_ERROR), (999, ErrorCode.GENERAL)]
)
def test_a_goodbye_closes(net, code, seen):
    up(net)
    say(net, "b", Bye(code=code))
    assert closed(net, "a") == [seen]


def test_garbage_and_an_end_of_the_stream_close(net):
    for data, end in ((b"\xff\xff", False), (b"", True)):
        net = up(Net("a", "b"))
        (leg,) = net["a"].wires
        net["a"].feed(ev.StreamReceived(leg, data, end))
        assert closed(net, "a") in ([ErrorCode.TOO_LARGE], [ErrorCode.PROTOCOL_VIOLATION])


def test_datagrams_are_answered_once_both_have_met(net):
    ping = trunk.encode(datagram.Ping(7, 8))
    need(net, "a", "b")
    (leg,) = net["a"].wires
    net["a"].feed(ev.DatagramReceived(leg, ping))
    net["a"].feed(ev.DatagramReceived(99, ping))
    net["a"].feed(ev.StreamReceived(99, b""))
    assert not [out for out in net["a"].outputs if isinstance(out, ev.SendDatagram)]
    net.run(1.0)
    net["a"].feed(ev.DatagramReceived(leg, b""))
    assert net["a"].engine.counters["dropped", "malformed"] == 1
    net["a"].feed(ev.DatagramReceived(leg, ping))
    (pong,) = [out.data for out in net["a"].outputs if isinstance(out, ev.SendDatagram)]
    assert trunk.decode(pong)[:2] == (7, 8)


def test_what_came_by_a_trunk_is_told_to_its_other_end_and_known_there(net):
    up(net)
    (leg,) = net["b"].wires
    net["b"].feed(ev.DatagramReceived(leg, trunk.encode(datagram.Ping(5, 1))))
    lines = (ev.RouteCount(64, 9, 48, 2, 1), ev.RouteCount(70, 5, 1, 0, 0))
    net["b"].feed(ev.TrunkCounted(leg, 500, 0, lines))
    net["b"].feed(ev.TrunkCounted(leg, 500, 0, ()))
    net["b"].feed(ev.TrunkCounted(99, 500, 0, lines))
    net.run(0.5)
    (one,) = net["a"].engine.trunks
    assert (one.node, one.region, one.came, one.missing, one.late) == ("b", "r", 49, 2, 1)
    assert [other.came for other in net["b"].engine.trunks] == [0]


def test_a_hop_report_of_nonsense_changes_figures_and_nothing_else(net):
    up(net)
    (leg,) = net["a"].wires
    before = len(net["a"].outputs)
    worst = tuple(trunk.RouteReport(route, 0xFFFFFFFF, *[0xFFFF] * 3, 0) for route in range(64, 144))
    good = trunk.encode(trunk.HopReport(1, 0, worst))
    for data in (good, good[:-1], good[:8] + b"\0" + good[9:], good + good[-14:], good[:2]):
        net["a"].feed(ev.DatagramReceived(leg, data))
    assert net["a"].engine.counters["dropped", "malformed"] == 4
    assert [one.came for one in net["a"].engine.trunks] == [80 * 0xFFFF]
    assert len(net["a"].outputs) == before
    assert trunks(net, "a").takes_halves("b")


def test_a_hop_report_of_who_has_not_greeted_tells_nothing(net):
    need(net, "a", "b")
    (leg,) = net["a"].wires
    line = trunk.RouteReport(64, 9, 48, 2, 1, 0)
    net["a"].feed(ev.DatagramReceived(leg, trunk.encode(trunk.HopReport(0, 0, (line,)))))
    assert net["a"].engine.trunks == []


def test_a_trunk_that_is_down_has_no_loss_any_more(net):
    up(net)
    (leg,) = net["a"].wires
    for acked, lost in ((0, 0), (100, 100)):
        net["a"].feed(ev.TrunkCounted(leg, acked, lost, ()))
    assert [one.loss for one in net["a"].engine.trunks] == [0.5]
    net.cut("a", "b")
    assert [one.loss for one in net["a"].engine.trunks] == [0.0]


def test_acknowledgements_of_who_is_no_trunk_mean_nothing(net):
    net["a"].feed(ev.TrunkAcknowledged({5: 0.1}))
    assert trunks(net, "a").next_deadline() is None


def test_a_planned_restart_keeps_the_way_to_the_process_before_as_long_as_it_answers(net):
    up(net)
    old = net.restart("b")
    net.run(0.5)
    there = trunks(net, "a")
    assert (there.newest("b"), there.newest("z"), there.met()) == ("b+", "z", ["b"])
    first, second = there.leg_of("b"), there.leg_of("b+")
    assert None not in (first, second)
    assert old.engine.abroad.trunks.leg_of("a") is not None
    # A process that we know comes again: it is not the newest for that.
    need(net, "a", "b")
    net.run(0.5)
    assert there.leg_of("b+") == second
    for wire in old.wires.values():
        wire.stands = True
    there.say("b", Ping(t=1))
    net["a"].feed(ev.Tick())
    net.run(1.0)
    assert (there.leg_of("b"), there.leg_of("b+")) == (None, second)
    net.cut("a", "b")
    net.run(2.0)
    assert there.leg_of("b+") is not None


def test_a_process_before_that_dials_again_is_not_the_newest_for_that(net):
    up(net)
    old = net.restart("b")
    net.run(0.5)
    leg = old.engine.abroad.trunks.leg_of("a")
    del old.wires[leg]
    old.feed(ev.LegLost(leg, 0))
    old.engine.abroad.trunks.need("a")
    for _ in range(2):
        old.feed(ev.Tick())
    net.run(0.4)
    assert trunks(net, "a").newest("b") == "b+"
    assert trunks(net, "a").leg_of("b") is not None


def test_a_process_that_nobody_here_needs_takes_the_other_way_too(net):
    up(net)
    trunks(net, "a").spare("b")
    net.restart("b")
    net.run(0.5)
    assert trunks(net, "a").newest("b") == "b+"


def test_another_connection_of_the_same_process_ends_what_went_on_the_first(net):
    up(net)
    leg, wire = next(iter(net["a"].wires.items()))
    wire.stands = True  # it has seen it end, the other one has not
    del net["a"].wires[leg]
    net["a"].feed(ev.LegLost(leg, 0))
    net.run(1.5)
    assert (trunks(net, "b").newest("a"), TrunkCode.GLARE in closed(net, "b")) == ("a", True)
    assert trunks(net, "a").leg_of("b") is not None


def test_who_cannot_be_met_is_given_up(net):
    up(net)
    net.unreachable.add("a")
    net.restart("b")
    net.run(29.0)
    dials = sum(isinstance(out, ev.DialTrunk) for out in net["b"].outputs)
    assert dials > 3
    net.run(60.0)
    assert sum(isinstance(out, ev.DialTrunk) for out in net["b"].outputs) <= dials + 2


# ---------------------------------------------------------------- two paths


def _two(*names, **changes):
    """Nodes that name a second address for each other."""
    rows = tuple(TrunkNode(name, "", (), "a second address") for name in names)
    return Net(*names, **{"trunks": TrunksConfig("/k", rows), **changes})


def _paths(net):
    return [(trunks(net, name).paths["first"], trunks(net, name).paths["second"]) for name in ("a", "b")]


@pytest.fixture
def two():
    net = _two("a", "b")
    up(net)
    assert _paths(net) == [(1, 1), (1, 1)]
    assert [out.second for out in net["a"].outputs if isinstance(out, ev.DialTrunk)] == [False, True]
    return net


def test_who_names_no_second_address_says_what_it_always_said_and_dials_once():
    net = up(Net("a", "b"))
    assert _paths(net) == [(1, 0), (1, 0)]
    for name in ("a", "b"):
        for greet, _ in sent(net, name, Greet):
            assert (greet.path, greet.joins, greet.at) == (None, None, None)


def test_a_second_path_needs_both(net):
    net["a"].engine.abroad.trunks._two = {"b"}
    up(net)
    assert _paths(net) == [(1, 0), (1, 0)]


def test_a_call_goes_on_when_either_path_is_lost_and_so_does_what_is_said():
    for second in (False, True):
        net = _two("a", "b")
        ann, bob = net.talking("a", "a", "b")
        assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
        net.cut_paths = {second}
        net.cut("a", "b", second=second)
        for _ in range(6):
            net.run(10.0)
            assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
            ann.ping()
            bob.ping()
        assert _paths(net) == [(int(second), int(not second))] * 2
        net.cut_paths = set()
        net.run(11.0)
        assert _paths(net) == [(1, 1), (1, 1)]
        net.cut("a", "b", second=not second)
        net.run(1.0)
        assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
        assert net["a"].engine.counters["trunk_down", ""] == 0


def test_a_silent_path_holds_up_no_message_and_nobody_is_suspect(two):
    two.freeze("a", "b", second=False)
    heard = []
    trunks(two, "a").ask("b", Stop(route=64), heard.append)
    two["a"].feed(ev.Tick())
    two.run(1.0)
    assert heard == [Ok()]
    assert trunks(two, "a").takes_halves("b")


def test_what_comes_by_both_is_taken_once(two):
    heard = []
    trunks(two, "a").ask("b", Stop(route=64), heard.append)
    two["a"].feed(ev.Tick())
    two.run(1.0)
    assert heard == [Ok()]
    assert [id for _, id in sent(two, "b", Ok)].count(2) == 2  # one answer, on both


def test_a_trunk_is_down_with_its_last_path_and_comes_back_by_the_second_address_too(two):
    two.cut_paths = {False}
    two.cut("a", "b")
    two.run(0.01)
    assert _paths(two) == [(0, 0), (0, 0)]
    two.run(15.0)
    assert _paths(two) == [(0, 1), (0, 1)]
    two.cut_paths = set()
    two.run(11.0)
    assert _paths(two) == [(1, 1), (1, 1)]


def test_what_only_the_lost_path_had_ends_the_trunk(two):
    two.cut("a", "b", second=True)
    two.freeze("a", "b", second=False)
    trunks(two, "a").say("b", Beat(seq=1, halves=0, ok=0))
    two["a"].feed(ev.Tick())
    two.run(1.0)
    assert _paths(two) == [(1, 1), (1, 1)]
    two.cut("a", "b", second=False)
    two.run(0.2)
    assert two["b"].engine.counters["trunk_down", ""] == 1
    two.run(11.0)
    assert _paths(two) == [(1, 1), (1, 1)]


def test_a_fault_on_one_path_closes_both(two):
    leg = next(leg for leg, wire in two["a"].wires.items() if wire.second)
    two.send(
        two["a"], leg, lambda there: ev.StreamReceived(there, control.encode(Challenge(n=bytes(32), t=0)))
    )
    two.run(0.1)
    assert closed(two, "b")[:2] == [ErrorCode.PROTOCOL_VIOLATION] * 2


def test_a_path_to_be_is_let_go_with_the_trunk_that_it_was_to_join():
    net = _two("a", "b")
    net.cut_paths = {True}
    up(net)
    net.run(3.0)
    assert _paths(net) == [(1, 0), (1, 0)]
    net.cut("a", "b", second=False)
    net.run(2.0)
    assert ErrorCode.NO_ERROR in closed(net, "a")


def test_who_joins_a_trunk_that_the_other_one_does_not_know_is_refused(two):
    paths = trunks(two, "b")._whole["a"].paths
    paths.nonce = bytes(32)
    two.cut("a", "b", second=True)
    two.run(1.0)
    assert TrunkCode.GLARE in closed(two, "b")
    assert _paths(two)[0] == (1, 0)


def test_a_new_connection_of_a_path_takes_the_place_of_the_old_one(two):
    """The dialer has seen it end, the other one has not."""
    leg, wire = next((leg, wire) for leg, wire in two["a"].wires.items() if wire.second)
    wire.stands = True
    del two["a"].wires[leg]
    two["a"].feed(ev.LegLost(leg, 0))
    two.run(1.0)
    assert _paths(two) == [(1, 1), (1, 1)]
    assert TrunkCode.GLARE in closed(two, "b")


def test_who_names_no_second_address_any_more_refuses_a_path(two):
    trunks(two, "b")._two.clear()
    two.cut("a", "b", second=True)
    two.run(1.0)
    assert ErrorCode.NOT_ENABLED in closed(two, "b")
    assert _paths(two) == [(1, 0), (1, 0)]


def test_nothing_is_taken_behind_the_word_that_ends_a_trunk(two):
    leg = next(leg for leg, wire in two["a"].wires.items() if wire.second)
    paths = trunks(two, "b")._whole["a"].paths
    paths._ahead[paths._taken + 1] = control.Frame(Stop.TYPE, 9, Stop(route=64))
    over = control.encode(Bye(code=0))
    two.send(two["a"], leg, lambda there: ev.StreamReceived(there, over))
    two.run(0.1)
    assert 9 not in [id for _, id in sent(two, "b", Ok)]


def test_who_cannot_dial_takes_the_connection_of_who_can(net):
    dial, net.dial = net.dial, lambda *_: None
    need(net, "b", "a")
    net.dial = dial
    up(net)
    assert _paths(net) == [(1, 0), (1, 0)]


def test_the_round_trip_to_a_node_is_known_once_something_was_acknowledged(net):
    assert [trunks(net, "a").round_trip(name) for name in "bz"] == [0, 0]
    up(net)
    assert trunks(net, "a").round_trip("b") == pytest.approx(0.04)
