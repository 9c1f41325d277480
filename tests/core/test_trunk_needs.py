"""Who is needed, and who is to be met: dialed while it is so, and not any more after."""

import pytest

from relay.core import events as ev
from trunkpair import trunks, up
from trunkrig import Net


@pytest.fixture
def net() -> Net:
    return Net("a", "b")


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


def test_who_cannot_be_met_is_given_up(net):
    up(net)
    net.unreachable.add("a")
    net.restart("b")
    net.run(29.0)
    dials = sum(isinstance(out, ev.DialTrunk) for out in net["b"].outputs)
    assert dials > 3
    net.run(60.0)
    assert sum(isinstance(out, ev.DialTrunk) for out in net["b"].outputs) <= dials + 2


def test_who_is_not_configured_is_not_dialed_and_not_to_be_met(net):
    one = trunks(net, "a")
    one.need("z")
    one.spare("z")
    one.meet(["z", "a"])
    assert (one.next_deadline(), list(one.outputs)) == (None, [])


def test_whom_two_need_is_dialed_again_as_long_as_one_does(net):
    up(net)
    one = trunks(net, "a")
    one.need("b+")  # by whatever way somebody knows it
    one.spare("b")
    net.cut("a", "b")
    net.run(1.0)
    assert one.leg_of("b") is not None


def test_whom_we_are_to_meet_is_dialed_and_left_alone_once_it_knows_us(net):
    net["a"].feed(ev.TrunksKnown(("b",)))
    net.run(1.0)
    assert trunks(net, "b").peer_of("a") is not None
    net.cut("a", "b")
    net.run(40.0)
    assert trunks(net, "a").leg_of("b") is None
