"""Every hostile word of the table that another node can say, said to a real engine by one it has met."""

from __future__ import annotations

from typing import Any

import pytest

from hostile import table_trunks as table
from pair import Client
from relay.core import events as ev
from relay.core.reasons import DropReason
from relay.core.trunk_parts import MOST_PPS
from relay.protocol import control
from trunkrig import Net


class Stage:
    """Ann at the home `a` talks with Bob at `b`, a guest that misbehaves; Carol at `a` with Dan at `c`."""

    def __init__(self) -> None:
        self.net = net = Net("a", "b", "c")
        self.ann, self.bob = net.talking("a", "a", "b")
        self.carol, self.dan = net.talking("a", "a", "c")
        for guest in "bc":  # what they say of their own accord is not looked at here
            self.abroad(guest).visiting.parts.tell = lambda leg: None
        self.engine = net["a"].engine
        self.half = table.Half(
            self.abroad("b").visiting.half_of(self.bob.leg).number,
            self.bob.index,
            self.ann.index,
            self.abroad("c").visiting.half_of(self.dan.leg).number,
        )
        net["a"].outputs.clear()

    def abroad(self, name: str) -> Any:
        return self.net[name].engine.abroad

    def seat(self, one: Client) -> Any:
        return self.engine.node.calls[one.cid].seats[one.index]

    def say(self, make: Any, data: bytes) -> None:
        """To `a`, on the trunk of `b`."""
        peer = self.net["b"]
        (leg,) = peer.wires
        self.net.send(peer, leg, lambda there: make(there, data))

    @property
    def is_up(self) -> bool:
        closed = [out for out in self.net["a"].outputs if isinstance(out, ev.CloseLeg)]
        return len(self.net.wires("a", "b")) == 1 and not closed

    def check_gates(self) -> None:
        """Whoever heard somebody hears them, and nobody else does."""
        net = self.net
        for one, other in ((self.ann, self.bob), (self.carol, self.dan)):
            assert net.heard_of(one) == [other]
            assert net.heard_of(other) == [one]

    def standing(self, name: str) -> Any:
        return next(each for each in self.abroad("a").trunks.reports.standings() if each.node == name)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize("row", table.PARTS, ids=lambda row: row.id)
def test_what_a_guest_makes_up_of_its_people_stays_within_bounds_or_ends_the_trunk(
    row: table.Part, stage: Stage
) -> None:
    net = stage.net
    net.run(2.0)
    *before, last = row.words(stage.half)
    for words in before:
        stage.say(ev.StreamReceived, words)
        net.run(row.every_s)
    net.run(0.1)
    assert stage.is_up
    stage.say(ev.StreamReceived, last)
    net.run(0.1)
    closed = [out.code for out in net["a"].outputs if isinstance(out, ev.CloseLeg)]
    assert closed == ([] if row.code is None else [row.code])
    if row.code is not None:
        return
    net.run(1.0)
    stage.check_gates()
    _check_figures(stage)
    for one in (stage.ann, stage.carol):
        assert isinstance(net.ask(one, control.Hangup(c=one.cid)), control.Ok)
    net.run(5.0)
    _check_records(stage)


def _check_figures(stage: Stage) -> None:
    """Only Bob hears anything, only Ann, and no more than she can have said since all began."""
    passed = stage.net.now
    for one in (stage.ann, stage.carol, stage.dan):
        assert not stage.seat(one).hearings
    assert set(stage.seat(stage.bob).hearings) <= {stage.ann.index}
    for hearing in stage.seat(stage.bob).hearings.values():
        window = hearing.window
        assert 0 <= window.gaps <= window.expected <= MOST_PPS * passed
        assert window.lost_down is None or 0.0 <= window.lost_down <= 1.0
    assert stage.engine.vitals.judged_s <= passed


def _check_records(stage: Stage) -> None:
    records = {record.call: record for record in stage.net["a"].records}
    assert len(records) == 2
    honest = records[stage.dan.cid.hex()]
    assert [one.quality.get("mos") for one in honest.participants] == [None, None]
    assert honest.participants[1].accepted_packets <= 1  # what `check_gates` let be heard
    for one in records[stage.bob.cid.hex()].participants:
        mos = one.quality.get("mos")
        assert mos is None or 1.0 <= mos <= 5.0


@pytest.mark.parametrize("row", table.REPORTS, ids=lambda row: row.id)
def test_what_another_node_makes_up_of_our_voices_is_dropped_by_name_or_only_counts_there(
    row: table.Report, stage: Stage
) -> None:
    counters, net = stage.engine.counters, stage.net
    *before, last = row.data
    for data in before:
        stage.say(ev.DatagramReceived, data)
    net.run(0.1)
    dropped = sum(counters["dropped", each.value] for each in DropReason)
    named = 0 if row.reason is None else counters["dropped", row.reason.value]
    stage.say(ev.DatagramReceived, last)
    net.run(0.1)
    told = sum(counters["dropped", each.value] for each in DropReason) - dropped
    assert told == (row.reason is not None)
    assert row.reason is None or counters["dropped", row.reason.value] == named + 1
    assert stage.is_up
    assert (stage.standing("b").came, stage.standing("c").came) == (row.came, 0)
    assert stage.standing("b").delay_s is None or stage.standing("b").delay_s < 7
    assert stage.standing("c").delay_s is None
    net.run(12.0)
    assert stage.is_up
    assert not stage.standing("c").is_bad
    stage.check_gates()
