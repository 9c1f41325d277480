"""A lease ends at the guest when its home thinks so, or before, however slow the network is."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.trunk_lease import BEAT_S, LEASE_S, Beats, Lease
from relay.protocol.trunk_messages import Beat


def test_beats_come_every_five_seconds_and_name_what_was_answered():
    beats = Beats(100.0)
    assert beats.next_deadline() == 105.0
    assert beats.due(3, 104.9) is None
    first = beats.due(3, 105.0)
    assert first == Beat(seq=1, halves=3, ok=0)
    assert beats.next_deadline() == 110.0
    beats.on_ok(first, 105.1)
    assert beats.heard_at == 105.1
    assert beats.due(2, 110.0) == Beat(seq=2, halves=2, ok=1)


def test_a_lease_lasts_from_the_answer_that_the_home_has():
    lease = Lease(100.0)
    assert lease.ends_at == 115.0
    lease.on_beat(Beat(seq=1, halves=1, ok=0), 105.0)
    assert lease.ends_at == 115.0
    lease.on_beat(Beat(seq=2, halves=1, ok=1), 110.0)
    assert lease.ends_at == 120.0
    lease.on_beat(Beat(seq=3, halves=1, ok=2), 119.0)
    assert lease.ends_at == 125.0


def test_a_beat_that_names_nothing_we_said_prolongs_nothing():
    lease = Lease(100.0)
    lease.on_beat(Beat(seq=7, halves=1, ok=6), 105.0)
    assert lease.ends_at == 115.0


def test_answers_that_are_late_or_come_twice_are_not_newer():
    beats = Beats(100.0)
    first, second = beats.due(1, 105.0), beats.due(1, 110.0)
    beats.on_ok(second, 111.0)
    beats.on_ok(first, 112.0)
    beats.on_ok(second, 113.0)
    assert beats.heard_at == 111.0
    assert beats.due(1, 115.0).ok == 2


def test_while_withheld_no_beat_is_due_and_afterwards_one_is_at_once():
    beats = Beats(100.0)
    beats.on_ok(beats.due(1, 105.0), 105.1)
    assert beats.over_at == 115.0
    beats.withhold()
    assert beats.is_withheld
    assert beats.seq == 1
    assert beats.next_deadline() is None
    assert beats.due(1, 200.0) is None
    assert beats.over_at == 115.0
    beats.resume(200.0)
    assert not beats.is_withheld
    assert beats.next_deadline() == 200.0
    assert beats.due(1, 200.0) == Beat(seq=2, halves=1, ok=1)
    beats.resume(201.0)
    assert beats.next_deadline() == 205.0


def test_on_a_quiet_network_ten_seconds_are_left_when_a_beat_comes():
    lease, beats, now = Lease(99.9), Beats(100.0), 100.0
    for _ in range(20):
        now += BEAT_S
        beat = beats.due(1, now)
        lease.on_beat(beat, now + 0.05)
        beats.on_ok(beat, now + 0.1)
    assert lease.ends_at == now - BEAT_S + 0.05 + LEASE_S
    assert beats.over_at == now - BEAT_S + 0.1 + LEASE_S


@given(
    st.lists(
        st.tuples(st.sampled_from(("wait", "down", "up", "withhold", "resume")), st.floats(0.0, 9.0)),
        max_size=60,
    )
)
def test_no_delay_makes_the_guests_lease_outlast_what_the_home_thinks(steps):
    """Beats and answers wait in streams, in order, for as long as they like."""
    now = 100.0
    lease, beats = Lease(now), Beats(now)
    down: list[Beat] = []
    up: list[Beat] = []
    for what, seconds in steps:
        now += seconds
        beat = beats.due(1, now)
        if beat is not None:
            down.append(beat)
        if what == "down" and down:
            lease.on_beat(down[0], now)
            up.append(down.pop(0))
        elif what == "up" and up:
            beats.on_ok(up.pop(0), now)
        elif what == "withhold":
            beats.withhold()
        elif what == "resume":
            beats.resume(now)
        assert lease.ends_at <= beats.over_at
        assert beats.over_at <= now + LEASE_S
