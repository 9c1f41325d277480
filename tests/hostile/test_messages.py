"""Every hostile message of the table, said to the real engine with the real lane."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hostile import table_engine as table
from relay.core import events
from relay.errors import ErrorCode
from relay.protocol import control


def utter(cast: table.Cast, words: table.Words) -> None:
    """Say one thing, with an id so that it is answered."""
    if callable(words):
        words = words(cast)
    data = words if isinstance(words, bytes) else control.encode(words, 9)
    cast.world.feed(events.StreamReceived(cast.eve.leg, data))


@pytest.mark.parametrize("row", table.SAID, ids=lambda row: row.id)
def test_a_hostile_message_gets_its_code_and_only_a_fatal_one_ends_the_leg(row: table.Said) -> None:
    cast = row.state()
    eve = cast.eve
    eve.news()
    *before, last = row.words
    for words in before:
        utter(cast, words)
    assert not any(isinstance(one, control.Err) and one.code == row.code for one in eve.news())
    utter(cast, last)
    refusals = [one for one in eve.news() if isinstance(one, control.Err)]
    assert [(ErrorCode(one.code), one.fatal) for one in refusals] == [(row.code, row.fatal)]
    assert eve.closed == (row.code if row.fatal else None)
    cast.world.check()


@pytest.mark.parametrize("way", ["up", "down", "both"])
@pytest.mark.parametrize("state", [table.beside_two, table.returning], ids=lambda state: state.__name__)
def test_a_leg_that_is_nobodys_or_anothers_gets_no_way(state: Callable[[], table.Cast], way: str) -> None:
    cast = state()
    world, call = cast.world, cast.world.engine.node.calls[cast.eve.cid]
    world.run(1.0)
    before = [(list(seat.all_legs), seat.beside, dict(seat.hearing)) for seat in call.here()]
    world.outputs.clear()
    utter(cast, lambda cast: control.Carry(c=cast.eve.cid, way=way))  # type: ignore[arg-type]  # a word
    assert [(list(seat.all_legs), seat.beside, dict(seat.hearing)) for seat in call.here()] == before
    assert not [output for output in world.outputs if isinstance(output, events.Route | events.CloseLeg)]
    world.check()


@pytest.mark.parametrize("row", table.WAITED, ids=lambda row: row.id)
def test_a_leg_that_only_waits_is_closed_in_time(row: table.Waited) -> None:
    cast = row.state()
    cast.world.run(row.seconds - 0.01)
    assert cast.eve.closed is None
    cast.world.run(0.02)
    assert cast.eve.closed == row.code
    cast.world.check()


@pytest.mark.parametrize("row", table.PASSING, ids=lambda row: row.id)
def test_a_hostile_control_datagram_is_counted_and_never_fatal(row: table.Passing) -> None:
    cast = table.talking()
    world = cast.world
    *before, last = row.data
    for data in before:
        world.feed(events.DatagramReceived(cast.eve.leg, data))
    answers = len(cast.eve.datagrams)
    counted = world.engine.counters["dropped", row.reason.value]
    world.feed(events.DatagramReceived(cast.eve.leg, last))
    assert world.engine.counters["dropped", row.reason.value] == counted + 1
    assert len(cast.eve.datagrams) == answers
    assert cast.eve.closed is None
    world.check()


@pytest.mark.parametrize("row", table.SPOKEN, ids=lambda row: row.id)
def test_nobody_hears_what_the_gate_does_not_allow(row: table.Spoken) -> None:
    cast = row.state()
    row.before(cast)
    heard = len(cast.bob.heard) + len(cast.carol.heard)
    assert cast.eve.speak() is row.reason
    assert len(cast.bob.heard) + len(cast.carol.heard) == heard
    assert not cast.world.lane.counters.queued
    cast.world.check()
