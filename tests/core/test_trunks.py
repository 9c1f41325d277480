"""All trunks of a node together, as the parts above know them."""

import pytest

from relay.core import events as ev
from relay.protocol.messages import Ok
from relay.protocol.trunk_messages import Say, Stop
from trunkpair import doubled, paths_up, sent, trunks, up
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


def test_a_process_that_nobody_here_needs_takes_the_other_way_too(net):
    up(net)
    trunks(net, "a").spare("b")
    net.restart("b")
    net.run(0.5)
    assert trunks(net, "a").newest("b") == "b+"


def test_a_node_that_leaves_goes_on_with_what_it_has(net):
    up(net)
    trunks(net, "a").drain()
    assert (trunks(net, "a").takes_halves("b"), trunks(net, "a").leg_of("b")) == (False, 1)


def test_a_call_goes_on_when_either_path_is_lost_and_so_does_what_is_said():
    for second in (False, True):
        net = doubled("a", "b")
        ann, bob = net.talking("a", "a", "b")
        assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
        net.cut_paths = {second}
        net.cut("a", "b", second=second)
        for _ in range(6):
            net.run(10.0)
            assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
            ann.ping()
            bob.ping()
        assert paths_up(net) == [(int(second), int(not second))] * 2
        net.cut_paths = set()
        net.run(11.0)
        assert paths_up(net) == [(1, 1), (1, 1)]
        net.cut("a", "b", second=not second)
        net.run(1.0)
        assert (net.heard_of(ann), net.heard_of(bob)) == ([bob], [ann])
        assert net["a"].engine.counters["trunk_down", ""] == 0


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


def test_what_wants_no_answer_gets_none(net):
    up(net)
    assert trunks(net, "a").say("b", Say(half=1, m=b""))
    trunks(net, "a").answer("b", 0, Ok())
    net["a"].feed(ev.Tick())
    assert sent(net, "a", Say) == [(Say(half=1, m=b""), 0)]
    assert sent(net, "a", Ok) == [(Ok(), 1)]  # to what `b` said first of all


def test_a_trunk_that_is_down_has_no_loss_any_more(net):
    up(net)
    (leg,) = net["a"].wires
    for acked, lost in ((0, 0), (100, 100)):
        net["a"].feed(ev.TrunkCounted(leg, acked, lost, ()))
    assert [one.loss for one in net["a"].engine.trunks] == [0.5]
    net.cut("a", "b")
    assert [one.loss for one in net["a"].engine.trunks] == [0.0]


def test_the_round_trip_to_a_node_is_known_once_something_was_acknowledged(net):
    assert [trunks(net, "a").round_trip(name) for name in "bz"] == [0, 0]
    up(net)
    assert trunks(net, "a").round_trip("b") == pytest.approx(0.04)
