"""Voices between two lanes: granted, pulled, routed to legs alone, and shut before anybody hears of it."""

import pytest

from relay.core import events as ev
from relay.core.reasons import DropReason
from relay.core.trunk_sending import Voice
from relay.core.trunk_voices import Rights
from relay.errors import LocalError
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Attached, Limits, Pull, Seat, Stop
from trunkrig import Net

C = bytes(range(16))
ANN, BEN = Voice(C, 0), Voice(C, 1)
RIGHTS = Rights(False, 64_000, 100)
SPEAKER, EAR = (105, 1), (107, 1)  # at `a`, at `b`


class Stage:
    """Two nodes with a trunk; a flow at `a`, an ear at `b`."""

    def __init__(self, *others):
        self.net = Net("a", "b", *others)
        self.here, self.there = (self.net[name].engine.abroad.voices for name in "ab")
        self.net["a"].table.legs.update((SPEAKER[0], SPEAKER[0] + 1))
        self.net["a"].table.open_flow(*SPEAKER)
        self.net["a"].table.open_flow(SPEAKER[0] + 1, 1)
        self.net["b"].engine.abroad.trunks.need("a")
        self.settle()

    def settle(self, seconds=1.0):
        for node in self.net.nodes.values():
            node.feed(ev.Tick())
        self.net.run(seconds)

    def speak(self, nodes="b", voice=ANN, targets=(), closed=DropReason.MUTED, source=SPEAKER, term=1):
        self.here.speak(voice, term, *source, targets=targets, nodes=frozenset(nodes), closed=closed)
        self.settle()

    def hear(self, targets=(EAR,), voice=ANN, node="a", seconds=1.0, term=1):
        self.there.hear(voice, term, node, targets, RIGHTS)
        self.settle(seconds)

    def out(self, source=SPEAKER):
        """Where the speaker's voice goes, and why nowhere."""
        table = self.net["a"].table
        return table.targets.get(source), table.closed.get(source)

    def into(self):
        """What comes by trunks at `b`, and who hears it."""
        table = self.net["b"].table
        return {key: table.targets.get(key) for key, is_route in table.open.items() if is_route}


@pytest.fixture
def stage():
    return Stage()


def test_what_is_granted_and_pulled_goes_by_the_number_that_the_listener_gave(stage):
    stage.speak()
    assert stage.out() == ((), DropReason.MUTED)
    stage.hear()
    (route,) = stage.into()
    assert (route[1], stage.into()[route]) == (64, (EAR,))
    ((leg, number),) = stage.out()[0]
    assert (stage.out()[1], number) == (None, 64)
    assert stage.net["a"].wires[leg].other(stage.net["a"])[1] == route[0]
    assert stage.here.voice_of(*SPEAKER) == ANN
    assert stage.there.routes() == {route}
    assert (len(stage.here), len(stage.there)) == (1, 1)


def test_listeners_here_are_copied_to_beside_other_nodes(stage):
    stage.net["a"].table.legs.add(9)
    stage.speak(targets=((9, 3),), closed=None)
    assert stage.out() == (((9, 3),), None)
    stage.hear()
    assert [target[1] for target in stage.out()[0]] == [3, 64]
    outputs = len(stage.net["a"].outputs)
    stage.here.speak(ANN, 1, *SPEAKER, targets=((9, 3),), nodes=frozenset("b"), closed=None)
    stage.settle(0)
    assert not [out for out in stage.net["a"].outputs[outputs:] if isinstance(out, ev.Route)]


def test_a_pull_that_comes_before_the_grant_is_tried_again(stage):
    stage.hear(seconds=0.1)
    assert stage.out() == (None, None)
    stage.speak()
    assert len(stage.out()[0]) == 1


def test_what_is_granted_no_more_ends_at_both(stage):
    stage.speak()
    stage.hear()
    stage.speak(nodes=())
    assert stage.out() == ((), DropReason.MUTED)
    assert stage.into() == {}
    stage.hear()
    stage.speak()
    assert [key[1] for key in stage.into()] == [65]


def test_what_nobody_hears_any_more_ends_at_both(stage):
    stage.speak()
    stage.hear()
    stage.hear(targets=())
    stage.hear(targets=())
    assert stage.out() == ((), DropReason.MUTED)
    assert (stage.into(), len(stage.there)) == ({}, 0)
    closed = [out for out in stage.net["b"].outputs if isinstance(out, ev.CloseFlow)]
    assert len(closed) == 1


def test_of_a_person_on_two_legs_each_is_routed_and_the_last_one_ends_it(stage):
    second = (SPEAKER[0] + 1, 1)
    stage.speak()
    stage.speak(source=second)
    stage.hear()
    assert len(stage.out()[0]) == len(stage.out(second)[0]) == 1
    stage.here.hush(*SPEAKER)
    stage.settle()
    assert len(stage.out(second)[0]) == 1
    stage.here.hush(*second)
    stage.here.hush(*second)
    stage.settle()
    assert (len(stage.here), stage.into()) == (0, {})


def test_a_voice_that_is_at_another_node_now_is_pulled_there():
    stage = Stage("c")
    stage.speak()
    stage.hear()
    (before,) = stage.into()
    stage.hear(node="c")
    assert len(stage.net["c"].wires) == 1
    # Until it comes from there it comes from where it was, to whoever hears it now.
    assert (len(stage.out()[0]), stage.into()[before]) == (1, (EAR,))
    stage.hear(node="c", targets=((EAR[0], 2),))
    assert stage.into()[before] == ((EAR[0], 2),)
    there = stage.net["c"]
    there.table.legs.add(SPEAKER[0])
    there.table.open_flow(*SPEAKER)
    there.engine.abroad.voices.speak(
        ANN, 1, *SPEAKER, targets=(), nodes=frozenset("b"), closed=DropReason.MUTED
    )
    stage.settle()
    assert stage.out() == ((), DropReason.MUTED)
    assert list(stage.into().values()) == [((EAR[0], 2),)]
    assert stage.there.comes_from(ANN) == "c"


def test_a_voice_on_its_way_to_another_node_ends_at_both(stage):
    stage.speak()
    stage.hear()
    stage.hear(node="c")
    stage.hear(targets=())
    assert (stage.out()[0], stage.into(), len(stage.there)) == ((), {}, 0)


def test_where_a_voice_was_may_end_it_before_it_comes_from_elsewhere(stage):
    stage.speak()
    stage.hear()
    stage.hear(node="c")
    stage.speak(nodes=())
    assert stage.into() == {}
    stage.hear(targets=())
    assert len(stage.there) == 0


def test_a_trunk_that_is_lost_takes_along_what_was_about_to_come_from_elsewhere(stage):
    stage.speak()
    stage.hear()
    stage.hear(node="c")
    stage.net.cut("a", "b")
    stage.settle(0)
    assert (stage.into(), stage.there.comes_from(ANN)) == ({}, "c")


def test_what_came_by_a_trunk_goes_to_no_trunk(stage):
    with pytest.raises(LocalError):
        stage.there.hear(ANN, 1, "a", ((7, 64),), RIGHTS)


def test_a_trunk_that_is_lost_takes_its_routes_along_and_one_that_is_back_brings_them_again(stage):
    stage.speak()
    stage.hear()
    stage.net.cut("a", "b")
    stage.settle(0)
    assert (stage.out()[0], stage.into()) == ((), {})
    assert not [out for out in stage.net["b"].outputs if isinstance(out, ev.CloseFlow)]
    stage.settle(3.0)
    assert len(stage.out()[0]) == 1
    assert list(stage.into().values()) == [(EAR,)]


def test_a_pull_that_nobody_answers_is_given_up(stage):
    stage.settle()
    stage.net.freeze("a", "b")
    stage.hear(seconds=0)
    assert len(stage.into()) == 1
    stage.hear(voice=BEN, seconds=0)
    stage.settle(3.0)
    stage.net.thaw("a", "b")  # the trunk is well again, and what was said is lost
    stage.settle(2.5)
    assert stage.into() == {}


def test_a_pull_that_is_refused_shuts_the_number(stage):
    stage.speak(term=2)
    stage.hear(term=1)
    assert stage.into() == {}


def test_a_pull_is_answered_once_the_lane_was_told(stage):
    stage.speak()
    pull = Pull(c=C, p=0, term=1, route=70)
    assert stage.here.on_pull("b", pull) == Ok()
    assert isinstance(stage.net["a"].engine.abroad.trunks.outputs[-1], ev.Route)
    assert stage.here.on_pull("b", Pull(c=C, p=0, term=0, route=71)) == Err(code=TrunkCode.OLD_TERM)


def test_stops_of_what_is_not_there_mean_nothing(stage):
    stage.here.on_stop("b", Stop(route=99))
    stage.here.on_stop("b", Stop(route=99, out=True))
    assert not stage.net["a"].engine.abroad.trunks.outputs


def test_what_the_lane_counted_of_a_route_is_told_by_voice(stage):
    stage.speak()
    stage.hear()
    (route,) = stage.into()
    assert stage.there.on_counted(*route) is None
    stage.there.hear(ANN, 1, "a", (), RIGHTS)
    assert stage.there.is_counting(ANN)
    assert stage.there.on_counted(*route) == ANN
    assert not stage.there.is_counting(ANN)


def test_a_leg_that_carries_nothing_to_a_node_is_not_routed_there(stage):
    second = (SPEAKER[0] + 1, 1)
    stage.speak()
    stage.speak(source=second, nodes=())
    stage.hear()
    assert (len(stage.out()[0]), stage.out(second)[0]) == (1, ())


def test_an_answer_to_a_pull_that_was_taken_back_means_nothing(stage):
    stage.speak()
    stage.there.hear(ANN, 1, "a", (EAR,), RIGHTS)
    stage.there.hear(ANN, 1, "a", (), RIGHTS)
    stage.settle()
    assert (stage.into(), stage.out()[0]) == ({}, ())


def test_an_answer_that_is_none_to_a_pull_means_nothing(stage):
    pull = Pull(c=C, p=0, term=1, route=64)
    seat = Attached(
        c=C, half=0, p=0, term=1, variant="", joined=Seat(), lim=Limits(up=0, dn=0, pps=0), standby=()
    )
    stage.there._then("a", pull)(seat)
    assert stage.into() == {}


def test_what_ends_at_one_process_of_a_node_is_looked_for_at_the_other_one_once(stage):
    stage.speak()
    stage.hear()
    stage.net.restart("a")
    stage.net.run(0.5)
    stage.speak(nodes=())
    assert stage.there.comes_from(ANN) == "a+"
    stage.settle(10.0)
    assert stage.there.comes_from(ANN) == "a+"
    assert stage.into() == {}
