"""What halves hear becomes routes, and is told to their clients once."""

import pytest

from pair import CLUSTER, World
from relay.core import events as ev
from relay.core.trunk_greeting import Identity
from relay.core.trunk_half import Half
from relay.core.trunk_sending import Voice
from relay.core.trunk_voices import Rights, Voices
from relay.core.trunks import Trunks
from relay.core.visit_routes import Ear, VisitRoutes
from relay.protocol import control
from relay.protocol.trunk_messages import Attached, Gate, Grant, Limits, Seat

C = bytes(range(16))


class Stage:
    def __init__(self):
        self.world = World()
        node = self.world.engine.node
        own = Identity("g", CLUSTER, "r", "1", ("control",), bytes(8), bytes(32))
        self.voices = Voices(node, Trunks(node, own, {}, self))
        self.routes = VisitRoutes(node, "g", self.voices, lambda node: node)
        self.ears = []

    @property
    def heard(self):
        """By participant: at which node, on which legs, within what."""
        found = self.voices._inlets
        return {voice.p: (inlet.node, inlet.targets, inlet.rights) for voice, inlet in found.items()}

    @property
    def spoken(self):
        """By participant: its leg and flow, who hears it here, to which nodes it may go."""
        found = self.voices._sources
        return {
            voice.p: (*key, source.targets, set(source.nodes))
            for voice, sources in found.items()
            for key, source in sources.items()
        }

    def sit(self, index):
        client = self.world.client(self.world.call().token()).open()
        client.hello()
        half = Half(C, client.leg, "h", 0.0)
        half.on_attached(
            Attached(
                c=C,
                half=index,
                p=index,
                term=1,
                variant="",
                joined=Seat(),
                lim=Limits(up=1, dn=1, pps=1),
                standby=(),
            )
        )
        self.ears.append(Ear(client.leg, half, 1))
        return client

    def open(self, place, at=None, to=()):
        half = self.ears[place].half
        if at is not None:
            half.on_gate(Gate(half=half.number, open=sum(1 << index for index in at), ep=5, at=at))
        half.on_grant(Grant(half=half.number, to=tuple(to)))
        self.routes.follow(C, self.ears)
        self.routes.tell(self.ears[place])

    def gates(self):
        outs = []
        while (out := self.world.engine.poll()) is not None:
            assert isinstance(out, ev.SendStream)
            outs.append((out.leg, control.decode(out.data[2:]).body))
        return outs


@pytest.fixture
def stage():
    return Stage()


def test_a_voice_from_elsewhere_goes_to_who_hears_it_within_what_the_node_allows(stage):
    ann = stage.sit(0)
    stage.open(0, at={1: "f"}, to=("f",))
    node, targets, rights = stage.heard[1]
    assert (node, targets) == ("f", ((ann.leg, 1),))
    limits = stage.world.config.limits
    assert rights == (False, 1000 * limits.max_up_kbps, limits.max_pps)
    assert stage.spoken == {0: (ann.leg, 1, (), {"f"})}
    assert stage.gates() == [(ann.leg, control.Gate(c=C, open=2, ep=5, fl={1: 1}))]
    stage.open(0, to=("f",))
    assert stage.gates() == []
    stage.open(0, at={})
    assert stage.heard == {}
    assert stage.gates() == [(ann.leg, control.Gate(c=C, open=0, ep=5, fl={1: 1}))]


def test_two_here_hear_each_other_without_a_trunk_if_both_may(stage):
    ann, bob = stage.sit(0), stage.sit(1)
    stage.open(0, at={1: "g"}, to=())
    assert stage.spoken[1] == (bob.leg, 1, (), set())
    stage.open(1, at={}, to=("g",))
    assert stage.spoken[1] == (bob.leg, 1, ((ann.leg, 1),), set())
    assert stage.heard == {}


def test_of_two_who_hear_one_from_different_nodes_the_first_counts(stage):
    ann, bob = stage.sit(0), stage.sit(1)
    stage.open(0, at={2: "f"})
    stage.open(1, at={2: "e"})
    assert stage.heard[2][:2] == ("f", ((ann.leg, 1),))
    stage.open(1, at={2: "f"})
    assert stage.heard[2][1] == ((ann.leg, 1), (bob.leg, 1))


def test_a_leg_without_a_number_hears_nothing_more(stage):
    ann = stage.sit(0)
    numbers = stage.world.engine.node.legs[ann.leg].downlinks
    while numbers.allot(0.0) is not None:
        pass
    stage.open(0, at={1: "f"})
    assert stage.heard == {}
    assert stage.gates() == [(ann.leg, control.Gate(c=C, open=0, ep=5))]


def test_somebody_at_a_third_node_is_heard_by_the_process_that_they_are_heard_by_now(stage):
    stage.sit(0)
    stage.voices.hear(Voice(C, 2), 1, "f+", ((1, 1),), Rights(False, 64_000, 100))
    stage.open(0, at={2: "f"})
    assert stage.heard[2][0] == "f+"


def test_the_home_itself_is_the_process_that_has_the_half(stage):
    stage.sit(0)
    stage.ears[0].half.home = "h+"
    stage.open(0, at={2: "h"})
    assert stage.heard[2][0] == "h+"
