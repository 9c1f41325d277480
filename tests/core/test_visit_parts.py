"""What a guest tells the home of its halves: when, and what."""

import pytest

from relay.core import events as ev
from relay.core.visit_parts import EVERY_S, SOON_S
from relay.protocol import control, datagram, trunk_control
from relay.protocol.trunk_messages import Part
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b", "c")


def parts(net, name):
    return net[name].engine.abroad.visiting.parts


def told(net, name):
    """The parts that this node said, in order."""
    outs = [out for out in net[name].outputs if isinstance(out, ev.SendStream) and out.leg in net[name].wires]
    frames = [control.decode(out.data[2:], trunk_control._TYPES).body for out in outs]
    return [frame.sum for frame in frames if isinstance(frame, Part)]


def hear(net, listener, speaker, seconds, *, lost=0, measured=True):
    """The listener's client reports five times a second, of ten packets each, so many of them missing."""
    node = listener.world
    flow = listener.gate.fl[speaker.index]
    bits = sum(1 << bit for bit in range(64) if (63 - bit) % 10 < 10 - lost)
    for _ in range(round(seconds * 5)):
        net.run(0.2)
        listener.newest = getattr(listener, "newest", 63) + 10
        for one in (listener, speaker) if measured else ():
            one.world.feed(ev.RoundTrips({one.leg: 0.06}))
        # A flow that is nobody's beside it tells nothing.
        rows = tuple(
            datagram.FlowReport(number, 0, listener.newest - 63, bits, 0, 10, 20, 0, 40, 0, 0)
            for number in (flow, flow + 1)
        )
        report = datagram.LegReport(listener.newest, round(1000 * net.now), rows)
        node.feed(ev.DatagramReceived(listener.leg, datagram.encode_datagram(report)))


def flow(net, *people, packets=50, ago=0.0):
    """The lane says that so many of each were heard, since so long ago."""
    for one in people:
        one.world.feed(ev.Flowing({(one.leg, one.joined.up): (net.now - ago, packets)}))


def test_a_half_is_told_each_ten_seconds(net):
    net.talking("a", "a", "b")
    net["b"].outputs.clear()
    net.run(4 * EVERY_S)
    assert len(told(net, "b")) == 4
    assert not told(net, "a")


def test_the_edge_is_asked_for_the_flows_of_visitors(net):
    _, bob = net.talking("a", "a", "b")
    assert net["b"].engine.unheard() == [(bob.leg, bob.joined.up)]
    assert len(net["a"].engine.unheard()) == 1  # that of who is there


def test_the_first_packet_that_is_heard_is_told_within_a_second(net):
    _, bob = net.talking("a", "a", "b")
    net.run(0.5)
    net["b"].outputs.clear()
    flow(net, bob, packets=30, ago=0.4)
    flow(net, bob, packets=50, ago=0.4)
    net.run(SOON_S + 0.1)
    (first,) = told(net, "b")
    assert (first.sent, first.first_ms) == (50, pytest.approx(1400, abs=5))
    net["b"].feed(ev.Flowing({(99, 1): (0.0, 5), (bob.leg, 62): (0.0, 5)}))
    assert parts(net, "b")._halves[bob.leg].sent == 50


def test_how_each_speaker_sounds_is_told_as_sums(net):
    ann, bob = net.talking("a", "a", "b")
    hear(net, bob, ann, 22.0, lost=2)
    last = told(net, "b")[-1]
    (row,) = last.quality
    assert (row.p, row.pt) == (ann.index, 20)
    assert row.loss == pytest.approx(0.2, abs=0.02)
    assert 150 < row.packets < 1100
    assert last.came == pytest.approx(row.packets * 0.8, rel=0.05)
    assert row.gaps == 0  # two in a row are 40 ms
    assert row.silence_ms == 40
    # Half the trunk's 40 ms, half the listener's 60 ms, and what its buffer holds.
    assert row.delay_ms == pytest.approx(20 + 30 + 40)
    assert last.tells


def test_of_who_reports_no_delay_none_is_told(net):
    ann, bob = net.talking("a", "a", "b")
    net["b"].engine.node.legs[bob.leg].rtt = None
    hear(net, bob, ann, 12.0, measured=False)
    assert told(net, "b")[-1].quality[0].delay_ms is None


def test_a_client_that_reports_nothing_is_said_to_tell_nothing(net):
    net.talking("a", "a", "b")
    net.run(EVERY_S)
    last = told(net, "b")[-1]
    assert (last.tells, last.quality, last.first_ms) == (False, (), None)


def test_a_window_in_which_nothing_was_sent_tells_nothing(net):
    ann, bob = net.talking("a", "a", "b")
    hear(net, bob, ann, 6.0)
    bob.newest -= 10
    for _ in range(3):
        net.run(5.0)
        bob.newest -= 10
        hear(net, bob, ann, 0.2)
    (row,) = told(net, "b")[-1].quality
    assert row.loss == 0


def test_the_end_of_all_that_is_open_is_told_at_once(net):
    _, bob = net.talking("a", "a", "b")
    flow(net, bob, packets=77)
    net["b"].outputs.clear()
    net.ask(bob, control.Hangup(c=bob.cid))
    assert [one.sent for one in told(net, "b")] == [77]
    net.run(40)
    assert len(parts(net, "b")) == 0
    parts(net, "b").tell(bob.leg)
    assert parts(net, "b").next_deadline() is None


@pytest.mark.parametrize("way", ["bye", "lost", "moved"])
def test_who_leaves_is_told_before_that_they_do(net, way):
    _, bob = net.talking("a", "a", "b")
    flow(net, bob, packets=77)
    net["b"].outputs.clear()
    if way == "bye":
        bob.send(control.Bye(code=0))
    elif way == "moved":
        bob.send(control.Moved(c=bob.cid, ok=True))
    else:
        net["b"].feed(ev.LegLost(bob.leg, 0))
    assert [one.sent for one in told(net, "b")][:1] == [77]


def test_while_the_home_is_not_heard_nothing_is_told(net):
    net.talking("a", "a", "b")
    net.freeze("a", "b")
    net.run(30)
    net["b"].outputs.clear()
    net.unreachable.add("a")
    net.cut("a", "b")
    net.run(2 * EVERY_S)
    assert not told(net, "b")


def test_a_report_of_somebody_who_is_in_no_call_yet_tells_nothing(net):
    ids = net.call("a")
    bob = net["b"].client(ids.token()).open()
    bob.hello()
    row = datagram.FlowReport(1, 0, 5, (1 << 64) - 1, 0, 10, 20, 0, 40, 0, 0)
    raw = datagram.encode_datagram(datagram.LegReport(1, 0, (row,)))
    net["b"].feed(ev.DatagramReceived(bob.leg, raw))
    assert len(parts(net, "b")) == 0


def test_what_is_told_in_a_moment_is_not_put_off_by_news(net):
    _, bob = net.talking("a", "a", "b")
    half = parts(net, "b")._halves[bob.leg]
    half.due = net.now + SOON_S / 2
    flow(net, bob)
    assert half.due == net.now + SOON_S / 2
