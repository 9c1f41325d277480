"""Trunks as time goes by: dialed and dialed anew, kept awake, seen to be silent; and when we leave."""

import pytest

from relay.core import events as ev
from relay.errors import ErrorCode
from relay.protocol.messages import Ping, Pong
from trunkpair import alone, both_up, closed, need, paths_up, sent, trunks, up
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


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


def test_a_node_that_leaves_dials_nobody(net):
    net.unreachable.add("b")
    need(net, "a", "b")
    net["a"].feed(ev.DrainRequested())
    assert closed(net, "a") == [ErrorCode.DRAINING]
    net.run(20)
    assert len([out for out in net["a"].outputs if isinstance(out, ev.DialTrunk)]) == 1


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


def test_acknowledgements_of_who_is_no_trunk_mean_nothing(net):
    net["a"].feed(ev.TrunkAcknowledged({5: 0.1}))
    assert trunks(net, "a").next_deadline() is None


def test_a_path_that_is_lost_is_dialed_again_and_joins():
    net = both_up()
    net.cut("a", "b", second=True)
    assert paths_up(net) == [(1, 0), (1, 0)]
    net.run(1.0)
    assert paths_up(net) == [(1, 1), (1, 1)]
    assert [out.second for out in net["a"].outputs if isinstance(out, ev.DialTrunk)] == [False, True, True]


def test_voices_to_who_is_not_configured_keep_nothing_awake(net):
    trunks(net, "a").carry("z", True)
    assert trunks(net, "a").next_deadline() is None


@pytest.mark.parametrize("carries", [True, False])
def test_a_cut_of_three_seconds_ends_nothing(net, carries):
    up(net)
    trunks(net, "a").carry("b", carries)
    net["a"].feed(ev.Tick())
    leg = trunks(net, "a").leg_of("b")
    trunks(net, "a").say("b", Ping(t=1))  # or nobody would notice
    net.freeze("a", "b")
    net["a"].feed(ev.Tick())
    net.run(3.0)
    assert not trunks(net, "a").takes_halves("b")
    net.thaw("a", "b")
    net.run(20.0)
    assert (trunks(net, "a").leg_of("b"), trunks(net, "a").takes_halves("b")) == (leg, True)
    assert net["a"].engine.counters["trunk_down", ""] == 0


def test_a_silent_path_beside_one_that_speaks_is_not_given_up():
    net = both_up()
    net.freeze("a", "b", second=False)
    net.run(20.0)
    assert paths_up(net) == [(1, 1), (1, 1)]
    assert net["a"].engine.counters["trunk_down", ""] == 0


@pytest.mark.parametrize("gone_s", [0.5, 3.0, 12.0, 25.0])
def test_who_was_killed_and_started_again_is_met_within_five_seconds_of_its_start(net, gone_s):
    up(net)
    trunks(net, "a").carry("b", True)
    net["a"].feed(ev.Tick())
    net.run(1.0)
    net.kill("b")
    net.run(gone_s)
    net.start("b")
    net.run(5.0)
    assert trunks(net, "a").takes_halves("b")
    assert trunks(net, "b").peer_of("a") is not None
    assert ErrorCode.IDLE_TIMEOUT in closed(net, "a")
