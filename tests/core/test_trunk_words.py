"""What is said on trunks: answers to who asked, each message once, goodbyes, nonsense, datagrams."""

import pytest

from relay.core import events as ev
from relay.core import trunk_words
from relay.errors import ErrorCode
from relay.protocol import control, datagram, trunk
from relay.protocol.messages import Bye, Challenge, Err, Ok, Ping, Pong
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Beat, Stop
from trunkpair import both_up, closed, need, say, sent, trunks, up
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


@pytest.fixture
def two() -> Net:
    return both_up()


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
    monkeypatch.setattr(trunk_words, "MOST_ASKED", 2)
    net.freeze("a", "b")
    assert [trunks(net, "a").ask("b", Stop(route=64)) for _ in range(3)] == [True, True, False]
    net["a"].feed(ev.Tick())
    assert closed(net, "a") == [ErrorCode.OVERLOADED]


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


def test_what_comes_by_both_is_taken_once(two):
    heard = []
    trunks(two, "a").ask("b", Stop(route=64), heard.append)
    two["a"].feed(ev.Tick())
    two.run(1.0)
    assert heard == [Ok()]
    assert [id for _, id in sent(two, "b", Ok)].count(2) == 2  # one answer, on both


def test_nothing_is_taken_behind_the_word_that_ends_a_trunk(two):
    leg = next(leg for leg, wire in two["a"].wires.items() if wire.second)
    paths = trunks(two, "b")._links.begun("a").paths
    paths._ahead[paths._taken + 1] = control.Frame(Stop.TYPE, 9, Stop(route=64))
    over = control.encode(Bye(code=0))
    two.send(two["a"], leg, lambda there: ev.StreamReceived(there, over))
    two.run(0.1)
    assert 9 not in [id for _, id in sent(two, "b", Ok)]


def test_a_ping_is_answered_and_a_pong_is_not(net):
    up(net)
    say(net, "b", Ping(t=5), 7)
    say(net, "b", Pong(t=5), 8)
    assert sent(net, "a", Pong) == [(Pong(t=5), 7)]


def test_nobody_is_asked_where_there_is_no_trunk(net):
    assert not trunks(net, "a").ask("b", Stop(route=64))
    assert not trunks(net, "a").outputs
