"""The halves of a node: open under a lease, shut without it, and back when the home knows them still."""

import pytest

from relay.core.trunk_guest import Guest
from relay.core.trunk_half import Half, HalfState
from relay.core.trunk_lease import BEAT_S, LEASE_S, Beats
from relay.errors import ErrorCode, LocalError
from relay.protocol import control, trunk_control
from relay.protocol.messages import Limits
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import MAX_HALVES, Attached, Beat, Gate, Grant, Halves, Seat

C = bytes(range(16))


def attached(half: int = 3, term: int = 1) -> Attached:
    return Attached(
        c=C,
        half=half,
        p=0,
        term=term,
        variant="control",
        joined=Seat(),
        lim=Limits(up=80, dn=160, pps=100),
        standby=(),
    )


def gate(*nodes: str, half: int = 3) -> Gate:
    return Gate(half=half, open=(1 << len(nodes)) - 1, ep=1, at=dict(enumerate(nodes)))


def add(guest: Guest, leg: int = 7, home: str = "h", number: int = 3, now: float = 100.0) -> Half:
    """A half that hears somebody and may be heard, at its home."""
    half = guest.attach(C, leg, home, now)
    assert guest.on_attached(leg, attached(number))
    guest.on_gate(half, gate(home, half=number))
    guest.on_grant(half, Grant(half=number, to=(home,)))
    assert half.state is HalfState.OPEN
    guest.changed()
    return half


def is_shut(half: Half) -> bool:
    return not half.hears and not half.goes_to


def test_a_half_is_found_by_leg_and_by_what_its_home_calls_it():
    guest = Guest()
    one, other = add(guest), add(guest, leg=8, home="i", number=3)
    assert (guest.half_of(7), guest.half_of(9)) == (one, None)
    assert (guest.find("h", 3), guest.find("i", 3), guest.find("h", 4)) == (one, other, None)
    assert len(guest) == 2


def test_a_leg_is_in_one_call():
    guest = Guest()
    add(guest)
    with pytest.raises(LocalError):
        guest.attach(C, 7, "h", 100.0)


def test_what_happened_is_told_once():
    guest = Guest()
    half = guest.attach(C, 7, "h", 100.0)
    assert guest.changed() == (half,)
    assert guest.changed() == ()
    guest.on_attached(7, attached())
    guest.on_gate(half, gate("h"))
    assert guest.changed() == (half,)
    guest.on_closed(half, ErrorCode.CALL_ENDED)
    assert guest.changed() == (half,)
    assert (half.state, half.code, len(guest)) == (HalfState.GONE, ErrorCode.CALL_ENDED, 0)


def test_an_answer_for_who_is_gone_is_no_half():
    guest = Guest()
    half = guest.attach(C, 7, "h", 100.0)
    assert guest.on_leg_gone(7, ErrorCode.IDLE_TIMEOUT) is half
    assert guest.on_leg_gone(7, ErrorCode.IDLE_TIMEOUT) is None
    assert not guest.on_attached(7, attached())
    add(guest, leg=8)
    assert not guest.on_attached(8, attached())


def test_a_number_means_one_half():
    guest = Guest()
    half = add(guest)
    other = guest.attach(C, 8, "h", 100.0)
    assert not guest.on_attached(8, attached())
    assert (guest.find("h", 3), other.state) == (half, HalfState.ASKED)


def test_patience_with_a_silent_home_ends_by_the_clock():
    guest = Guest()
    half = guest.attach(C, 7, "h", 100.0)
    assert guest.next_deadline() == 102.0
    guest.on_timer(101.0)
    assert half.state is HalfState.ASKED
    guest.on_timer(102.0)
    assert (half.state, half.code) == (HalfState.GONE, ErrorCode.OVERLOADED)
    assert guest.next_deadline() is None


def test_without_a_beat_all_halves_of_a_home_are_shut_15_s_after_the_question_that_it_answered():
    guest = Guest()
    one, two = add(guest), add(guest, leg=8, number=4, now=110.0)
    other = add(guest, leg=9, home="i", now=112.0)
    assert guest.next_deadline() == 115.0
    guest.on_timer(114.9)
    assert guest.changed() == ()
    guest.on_timer(115.0)
    assert guest.changed() == (one, two)
    assert one.state is two.state is HalfState.ORPHAN
    assert is_shut(one)
    assert is_shut(two)
    assert other.state is HalfState.OPEN
    guest.on_timer(175.0)
    assert (one.code, two.code) == (TrunkCode.LEASE_LOST, TrunkCode.LEASE_LOST)
    assert guest.half_of(7) is None


def test_beats_keep_them_open():
    guest, beats, now = Guest(), Beats(100.0), 100.0
    half = add(guest)
    for _ in range(10):
        now += BEAT_S
        beat = beats.due(1, now)
        guest.on_timer(now)
        assert guest.on_beat("h", beat, now) == ()
        beats.on_ok(beat, now)
    assert half.state is HalfState.OPEN
    assert guest.next_deadline() == now - BEAT_S + LEASE_S


def test_a_new_half_prolongs_no_lease_that_the_home_lets_end():
    guest = Guest()
    half = add(guest)
    add(guest, leg=8, number=4, now=114.0)
    guest.on_timer(115.0)
    assert half.state is HalfState.ORPHAN


def test_when_the_last_half_of_a_home_is_gone_so_is_its_lease():
    guest = Guest()
    guest.on_closed(add(guest), ErrorCode.CALL_ENDED)
    assert guest.next_deadline() is None
    add(guest, leg=8, now=114.0)
    assert guest.next_deadline() == 129.0


def test_a_trunk_that_is_down_shuts_all_at_once_and_one_that_is_up_again_finds_out_what_is_known():
    guest = Guest()
    half, other = add(guest), add(guest, leg=9, home="i")
    asked = guest.attach(C, 8, "h", 101.0)
    guest.changed()
    guest.on_down("h", 102.0)
    assert guest.changed() == (half, asked)
    assert (half.state, asked.state, other.state) == (HalfState.ORPHAN, HalfState.GONE, HalfState.OPEN)
    assert is_shut(half)
    assert guest.on_up("h", 110.0) == (Halves(of=((C, 1, 3),)),)
    assert half.state is HalfState.ORPHAN
    guest.on_listed("h")
    assert half.state is HalfState.IDLE
    assert is_shut(half)
    assert guest.next_deadline() == 115.0  # that of the other home
    guest.on_down("i", 111.0)
    assert guest.next_deadline() == 110.0 + LEASE_S


def test_an_answer_from_before_the_trunk_was_lost_means_nothing():
    guest = Guest()
    half = add(guest)
    guest.on_down("h", 102.0)
    guest.on_up("h", 103.0)
    guest.on_down("h", 104.0)
    guest.on_listed("h")
    assert half.state is HalfState.ORPHAN


def test_a_home_of_nobody_here_is_told_so_first_and_nothing_afterwards():
    guest = Guest()
    assert guest.on_up("h", 100.0) == (Halves(of=()),)
    guest.on_listed("h")
    assert guest.on_beat("h", Beat(seq=1, halves=0, ok=0), 105.0) == ()
    assert guest.next_deadline() is None


def test_many_halves_are_told_in_pieces():
    guest = Guest()
    for leg in range(2 * MAX_HALVES + 1):
        add(guest, leg=leg, number=leg)
    pieces = guest.on_up("h", 101.0)
    assert [(len(piece.of), piece.more) for piece in pieces] == [(256, True), (256, True), (1, False)]
    for piece in pieces:
        frame = control.encode(piece, 1)
        assert trunk_control.decode(frame[2:]).body == piece


@pytest.mark.parametrize("halves", [0, 2])
def test_who_counts_differently_is_told_what_we_have(halves):
    guest = Guest()
    half = add(guest)
    assert guest.on_beat("h", Beat(seq=9, halves=halves, ok=0), 105.0) == (Halves(of=((C, 1, 3),), seq=9),)
    guest.on_listed("h")
    assert half.state is HalfState.OPEN
    assert guest.next_deadline() == 115.0  # no lease is longer for that


def test_a_beat_to_orphans_asks_whether_they_are_known():
    guest = Guest()
    half = add(guest)
    guest.on_timer(115.0)
    assert guest.on_beat("h", Beat(seq=1, halves=1, ok=0), 120.0) == (Halves(of=((C, 1, 3),), seq=1),)
    guest.on_listed("h")
    assert (half.state, guest.next_deadline()) == (HalfState.IDLE, 135.0)


def test_a_half_that_moves_to_another_home_takes_no_lease_along():
    guest = Guest()
    half = add(guest)
    assert guest.on_rehomed(half, "n", 2, 101.0)
    assert not guest.on_rehomed(half, "o", 2, 101.0)
    assert (half.home, half.asked_at) == ("n", 101.0)
    assert guest.find("h", 3) is None
    assert guest.on_attached(7, attached(half=9, term=2))
    assert guest.find("n", 9) is half
    guest.on_timer(106.0)
    assert guest.next_deadline() == 116.0
    guest.on_down("h", 107.0)
    assert half.state is HalfState.IDLE
