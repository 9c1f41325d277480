"""A half opens what its home says, and nothing without it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.trunk_half import (
    Attached,
    Closed,
    Half,
    HalfState,
    Known,
    LegGone,
    Opened,
    Orphaned,
    Rehomed,
    Shut,
)
from relay.errors import ErrorCode
from relay.protocol import trunk_messages
from relay.protocol.messages import Limits
from relay.protocol.trunk_control import TrunkCode

C = bytes(range(16))

# The table of docs/protocol.md, section 14, in the order of its columns.
EVENTS = (Attached, Opened, Shut, Orphaned, Known, Rehomed, LegGone, Closed)
TABLE = {
    "asked": "idle . . gone . . gone gone",
    "idle": ". open . orphan . asked gone gone",
    "open": ". . idle orphan . asked gone gone",
    "orphan": ". . . . idle asked gone gone",
    "gone": ". . . . . . . .",
}


def attached(term: int = 1, half: int = 3) -> trunk_messages.Attached:
    return trunk_messages.Attached(
        c=C,
        half=half,
        p=2,
        term=term,
        variant="control",
        joined=trunk_messages.Seat(),
        lim=Limits(up=80, dn=160, pps=100),
        standby=("x", "y"),
    )


def gate(*nodes: str, ep: int = 1) -> trunk_messages.Gate:
    """Participant i is heard, at the i-th of these nodes."""
    return trunk_messages.Gate(half=3, open=(1 << len(nodes)) - 1, ep=ep, at=dict(enumerate(nodes)))


def grant(*nodes: str) -> trunk_messages.Grant:
    return trunk_messages.Grant(half=3, to=nodes)


def idle() -> Half:
    half = Half(C, 7, "h", 100.0)
    half.on_attached(attached())
    return half


def opened() -> Half:
    half = idle()
    half.on_gate(gate("h"))
    half.on_grant(grant("h", "f"))
    return half


def is_shut(half: Half) -> bool:
    return not half.hears and not half.goes_to


def test_the_table_is_that_of_the_specification():
    found = {
        state.value: " ".join(
            "." if after is state else after.value for after in (row[event] for event in EVENTS)
        )
        for state, row in Half.TRANSITIONS.items()
    }
    assert found == TABLE
    assert all(set(row) == set(EVENTS) for row in Half.TRANSITIONS.values())
    assert set(Half.TRANSITIONS) == set(HalfState)


def test_a_half_is_asked_for_and_knows_its_place_then():
    half = Half(C, 7, "h", 100.0)
    assert (half.state, half.number, half.next_deadline()) == (HalfState.ASKED, None, 102.0)
    assert is_shut(half)
    half.on_attached(attached())
    assert (half.state, half.number, half.index, half.term) == (HalfState.IDLE, 3, 2, 1)
    assert (half.standby, half.next_deadline()) == (("x", "y"), None)
    assert is_shut(half)


def test_a_home_that_does_not_answer_in_two_seconds_is_overloaded():
    half = Half(C, 7, "h", 100.0)
    half.on_timer(101.9)
    assert half.state is HalfState.ASKED
    half.on_timer(102.0)
    assert (half.state, half.code, half.next_deadline()) == (HalfState.GONE, ErrorCode.OVERLOADED, None)


def test_a_refused_half_is_gone_for_that_reason():
    half = Half(C, 7, "h", 100.0)
    half.on_closed(TrunkCode.NOT_HOME)
    assert (half.state, half.code) == (HalfState.GONE, TrunkCode.NOT_HOME)


def test_the_home_opens_and_shuts():
    half = idle()
    half.on_gate(gate("h", "f", ep=5))
    assert (half.state, half.epoch) == (HalfState.OPEN, 5)
    assert (dict(half.hears), half.goes_to) == ({0: "h", 1: "f"}, frozenset())
    half.on_grant(grant("h"))
    assert half.goes_to == {"h"}
    half.on_gate(gate(ep=6))
    assert (half.state, dict(half.hears), half.goes_to) == (HalfState.OPEN, {}, {"h"})
    half.on_grant(grant())
    assert half.state is HalfState.IDLE
    assert is_shut(half)


def test_nothing_opens_before_the_half_is_attached():
    half = Half(C, 7, "h", 100.0)
    half.on_gate(gate("h"))
    half.on_grant(grant("h"))
    assert half.state is HalfState.ASKED
    assert is_shut(half)


def test_without_its_home_it_is_shut_at_once_and_gone_in_a_minute():
    half = opened()
    half.on_orphaned(200.0)
    assert (half.state, half.next_deadline()) == (HalfState.ORPHAN, 260.0)
    assert is_shut(half)
    half.on_gate(gate("h"))
    half.on_grant(grant("h"))
    assert is_shut(half)
    half.on_orphaned(230.0)
    assert half.next_deadline() == 260.0
    half.on_timer(260.0)
    assert (half.state, half.code) == (HalfState.GONE, TrunkCode.LEASE_LOST)


def test_a_home_that_is_back_begins_with_nothing_open():
    half = opened()
    half.on_orphaned(200.0)
    half.on_known()
    assert (half.state, half.number, half.next_deadline()) == (HalfState.IDLE, 3, None)
    assert is_shut(half)
    half.on_gate(gate("h"))
    assert dict(half.hears) == {0: "h"}


def test_a_home_that_was_not_missed_changes_nothing_by_being_there():
    half = opened()
    half.on_known()
    assert half.state is HalfState.OPEN
    asked = Half(C, 7, "h", 100.0)
    asked.on_known()
    assert (asked.state, asked.next_deadline()) == (HalfState.ASKED, 102.0)


def test_a_half_that_nobody_answered_is_gone_with_the_trunk():
    half = Half(C, 7, "h", 100.0)
    half.on_orphaned(101.0)
    assert (half.state, half.code) == (HalfState.GONE, TrunkCode.LEASE_LOST)


def test_what_is_open_stays_until_the_next_home_has_spoken():
    half = opened()
    assert half.on_rehomed("n", 2, 200.0)
    assert (half.state, half.home, half.term, half.number) == (HalfState.ASKED, "n", 2, None)
    assert (dict(half.hears), half.goes_to) == ({0: "h"}, {"h", "f"})
    half.on_attached(attached(term=2, half=9))
    assert (half.state, half.number) == (HalfState.IDLE, 9)
    half.on_grant(grant())
    assert (half.state, dict(half.hears), half.goes_to) == (HalfState.IDLE, {0: "h"}, frozenset())
    half.on_gate(gate("n"))
    assert (half.state, dict(half.hears), half.goes_to) == (HalfState.OPEN, {0: "n"}, frozenset())


def test_what_the_former_home_opened_ends_after_five_seconds():
    half = opened()
    half.on_rehomed("n", 2, 200.0)
    half.on_attached(attached(term=2))
    assert half.next_deadline() == 205.0
    half.on_timer(204.9)
    assert not is_shut(half)
    half.on_timer(205.0)
    assert (half.state, half.next_deadline()) == (HalfState.IDLE, None)
    assert is_shut(half)


def test_what_the_first_home_opened_outlives_no_chain_of_others():
    half = opened()
    half.on_rehomed("n", 2, 200.0)
    half.on_rehomed("o", 3, 204.0)
    assert not is_shut(half)
    half.on_timer(205.0)
    assert (half.state, half.next_deadline()) == (HalfState.ASKED, 206.0)
    assert is_shut(half)


def test_an_orphan_takes_nothing_along_to_its_next_home():
    half = opened()
    half.on_orphaned(200.0)
    assert half.on_rehomed("n", 2, 201.0)
    assert (half.state, half.next_deadline()) == (HalfState.ASKED, 203.0)
    assert is_shut(half)


@pytest.mark.parametrize("term", [0, 1])
def test_an_older_home_or_the_same_one_again_changes_nothing(term):
    half = opened()
    assert not half.on_rehomed("n", term, 200.0)
    assert (half.state, half.home) == (HalfState.OPEN, "h")


def test_who_is_gone_stays_so():
    half = opened()
    half.on_leg_gone(ErrorCode.IDLE_TIMEOUT)
    assert (half.state, half.code) == (HalfState.GONE, ErrorCode.IDLE_TIMEOUT)
    assert is_shut(half)
    assert not half.on_rehomed("n", 2, 200.0)
    half.on_closed(TrunkCode.OLD_TERM)
    half.on_attached(attached())
    half.on_gate(gate("h"))
    half.on_orphaned(200.0)
    half.on_known()
    half.on_timer(1000.0)
    assert (half.state, half.code, half.next_deadline()) == (
        HalfState.GONE,
        ErrorCode.IDLE_TIMEOUT,
        None,
    )


deeds = st.one_of(
    st.builds(lambda *n: ("on_gate", gate(*n)), st.sampled_from("hf")),
    st.just(("on_gate", gate())),
    st.just(("on_grant", grant("h"))),
    st.just(("on_grant", grant())),
    st.just(("on_known",)),
    st.sampled_from((("on_closed", 1), ("on_leg_gone", 2))),
    st.builds(lambda term: ("on_attached", attached(term)), st.integers(1, 4)),
    st.builds(lambda term: ("on_rehomed", "n", term), st.integers(0, 4)),
    st.just(("on_orphaned",)),
    st.builds(lambda seconds: ("on_timer", seconds), st.sampled_from((0.1, 1.0, 6.0, 61.0))),
)


@given(st.lists(deeds, max_size=30))
def test_whatever_comes_an_orphan_is_shut_patience_has_an_end_and_nothing_old_lasts(found):
    half, now, heard_at = Half(C, 7, "h", 0.0), 0.0, 0.0
    for name, *words in found:
        if name == "on_timer":
            now += words[0]
            half.on_timer(now)
        elif name in ("on_orphaned", "on_rehomed"):
            getattr(half, name)(*words, now)
        else:
            getattr(half, name)(*words)
        if name in ("on_gate", "on_grant", "on_rehomed"):
            heard_at = now
        if half.state in (HalfState.ORPHAN, HalfState.GONE):
            assert is_shut(half)
        if half.state in (HalfState.ASKED, HalfState.ORPHAN):
            assert half.next_deadline() is not None
        if half.state is HalfState.ASKED and name == "on_timer":
            assert is_shut(half) or now - heard_at < 5.0
        deadline = half.next_deadline()
        assert deadline is None or deadline > now or name != "on_timer"
