"""The jitter buffer on a simulated clock: order, loss, lateness, growth, shrinking, wraps and pauses."""

from __future__ import annotations

from itertools import pairwise

import pytest

from relay.client.jitter import (
    MAX_BEHIND_MS,
    MAX_HELD,
    MAX_REQUIRED_MS,
    MAX_TARGET_MS,
    MIN_TARGET_MS,
    PAUSE_STEPS,
    Conceal,
    JitterBuffer,
)

TICKS = 8  # 20 ms


def name(n: int) -> bytes:
    return b"%d" % n


def play(
    arrivals: dict[int, float], steps: int, buffer: JitterBuffer | None = None, first_ts: int = 0
) -> tuple[list[bytes | Conceal | None], JitterBuffer]:
    """Frame n, said at n * 20 ms, arrives at `arrivals[n]` (s). Pull each 20 ms from 0; what came out."""
    buffer = buffer or JitterBuffer()
    waiting = sorted((at, n) for n, at in arrivals.items())
    out: list[bytes | Conceal | None] = []
    for step in range(steps):
        now = step * 0.020 + 0.001
        while waiting and waiting[0][0] <= now:
            at, n = waiting.pop(0)
            buffer.push((first_ts + n * TICKS) % 65536, TICKS, name(n), at)
        out.append(buffer.pull(now))
    return out, buffer


def test_a_steady_stream_plays_whole_and_in_order_after_the_target_delay() -> None:
    out, buffer = play({n: n * 0.020 for n in range(50)}, 60)
    assert out[:2] == [None, None]
    assert out[2:52] == [name(n) for n in range(50)]
    assert buffer.target_ms == MIN_TARGET_MS
    assert (buffer.stats.played, buffer.stats.late, buffer.stats.concealed) == (50, 0, 0)


def test_reordering_within_the_target_is_invisible() -> None:
    arrivals = {n: n * 0.020 for n in range(50)}
    arrivals[20], arrivals[21] = arrivals[21], arrivals[20]
    out, _ = play(arrivals, 52)
    assert out[2:52] == [name(n) for n in range(50)]


def test_a_lost_frame_asks_for_one_concealment_and_time_goes_on() -> None:
    out, buffer = play({n: n * 0.020 for n in range(50) if n != 20}, 52)
    assert out[22] is Conceal.STEP
    assert out[23] == name(21)
    assert buffer.stats.concealed == 1


def test_a_frame_behind_the_cursor_is_late_and_not_played() -> None:
    arrivals = {n: n * 0.020 for n in range(50)}
    arrivals[20] += 0.100
    out, buffer = play(arrivals, 52)
    assert out[22] is Conceal.STEP
    assert name(20) not in out
    assert buffer.stats.late == 1


def test_jitter_raises_the_target_and_the_buffer_waits_a_step() -> None:
    arrivals = {n: n * 0.020 + (0.070 if n >= 50 and n % 3 == 0 else 0.0) for n in range(300)}
    out, buffer = play(arrivals, 310)
    assert 80.0 <= buffer.target_ms <= MAX_TARGET_MS
    assert buffer.stats.late <= 10
    assert [item for item in out[-100:-10] if item is Conceal.STEP] == []


def test_the_target_stays_within_its_bounds_whatever_comes() -> None:
    arrivals = {n: n * 0.020 + (0.400 if n % 2 else 0.0) for n in range(100)}
    _, buffer = play(arrivals, 140)
    assert buffer.target_ms == MAX_TARGET_MS


def test_the_delay_shrinks_again_when_the_network_calms_down() -> None:
    arrivals = {n: n * 0.020 + (0.110 if n < 5 else 0.0) for n in range(1000)}
    _, buffer = play(arrivals, 1010)
    assert buffer.stats.skipped >= 1
    assert buffer.target_ms == MIN_TARGET_MS


def test_timestamps_wrap_without_a_gap() -> None:
    out, buffer = play({n: n * 0.020 for n in range(50)}, 52, first_ts=65536 - 20 * TICKS)
    assert out[2:52] == [name(n) for n in range(50)]
    assert buffer.stats.late == 0


def test_a_pause_ends_in_silence_and_speech_after_more_than_a_wrap_is_found() -> None:
    buffer = JitterBuffer()
    play({n: n * 0.020 for n in range(10)}, 12, buffer)
    now = 12 * 0.020
    pulled = [buffer.pull(now + n * 0.020) for n in range(PAUSE_STEPS + 3)]
    assert pulled.count(Conceal.STEP) == PAUSE_STEPS
    assert pulled[-1] is None
    assert not buffer.is_playing
    assert buffer.stats.concealed == 0
    later = 10_000  # frames; 200 s, more than the 163.84 s after which ts wraps
    for n in range(3):
        buffer.push((later + n) * TICKS % 65536, TICKS, name(n), (later + n) * 0.020)
    assert buffer.pull((later + 1) * 0.020) is None
    assert [buffer.pull((later + 2 + n) * 0.020) for n in range(3)] == [name(0), name(1), name(2)]
    assert buffer.stats.late == 0


def test_a_clock_that_jumps_by_less_than_a_step_costs_no_silence() -> None:
    buffer = JitterBuffer()
    for n in range(10):
        buffer.push(n * TICKS + (3 if n >= 5 else 0), TICKS, name(n), n * 0.020)
    out = [buffer.pull(0.040 + n * 0.020) for n in range(10)]
    assert out == [name(n) for n in range(10)]


def test_frames_of_forty_milliseconds_are_returned_once_each() -> None:
    buffer = JitterBuffer()
    for n in range(3):
        buffer.push(n * 16, 16, name(n), n * 0.040)
    assert [buffer.pull(0.080 + n * 0.040) for n in range(3)] == [name(n) for n in range(3)]


def test_a_duplicate_and_a_flood_change_nothing_and_hold_no_memory() -> None:
    buffer = JitterBuffer()
    assert buffer.push(0, TICKS, b"a", 0.0)
    assert not buffer.push(0, TICKS, b"b", 0.0)
    assert buffer.stats.duplicate == 1
    for n in range(1, MAX_HELD + 50):
        buffer.push(n * TICKS, TICKS, name(n), 0.0)
    assert buffer.stats.skipped == 50


def test_what_is_asked_for_is_held_though_it_is_half_a_step_more() -> None:
    buffer = JitterBuffer()
    play({n: n * 0.020 for n in range(10)}, 10, buffer)  # each is played 41 ms after it came
    buffer.require(50.0)
    arrivals = {n: n * 0.020 for n in range(10, 50) if n not in (20, 30)}
    played = []
    for step in range(10, 53):
        now = step * 0.020 + 0.001
        for n, at in arrivals.items():
            if now - 0.020 < at <= now:
                buffer.push(n * TICKS, TICKS, name(n), at)
        played.append(buffer.pull(now))
        if step == 32:
            buffer.push(30 * TICKS, TICKS, name(30), now + 0.005)  # 46 ms after its time
    assert played.count(Conceal.STEP) == 2  # both for the first that is missing: now 61 ms are held
    assert name(30) in played
    assert buffer.stats.late == 0


def test_the_relay_may_ask_for_more_delay_and_delays_are_reported_once() -> None:
    buffer = JitterBuffer()
    buffer.require(100)
    assert buffer.target_ms == 100
    buffer.require(900)
    assert buffer.target_ms == MAX_REQUIRED_MS
    for n in range(8):
        buffer.push(n * TICKS, TICKS, name(n), n * 0.020)
    assert buffer.target_ms == MAX_REQUIRED_MS
    buffer.require(0)
    for n in range(8, 16):
        buffer.push(n * TICKS, TICKS, name(n), n * 0.020)
    assert buffer.target_ms == MIN_TARGET_MS
    buffer = JitterBuffer()
    for n, extra in enumerate((0.0, 0.010, 0.020, 0.010)):
        buffer.push(n * TICKS, TICKS, name(n), n * 0.020 + extra)
    delays = buffer.delays()
    assert delays is not None
    assert delays == pytest.approx((0.0, 10.0, 20.0))
    assert buffer.delays() is None


def narrowing(n: int) -> float:
    """Arrival over a link that becomes narrow at frame 50: the queue grows by half of what passes."""
    return n * 0.020 + max(0.0, 0.010 * (n - 50))


def test_a_queue_that_grows_beyond_the_target_stretches_speech_and_mutes_nobody() -> None:
    out, buffer = play({n: narrowing(n) for n in range(80)}, 140)
    played = [n for n, item in enumerate(out) if isinstance(item, bytes)]
    assert [item for item in out if isinstance(item, bytes)] == [name(n) for n in range(80)]
    assert max(after - before for before, after in pairwise(played)) <= 4
    assert buffer.stats.late == 0


@pytest.mark.parametrize(("behind_ms", "is_late"), [(MAX_BEHIND_MS - 20, False), (MAX_BEHIND_MS + 20, True)])
def test_what_comes_later_than_is_worth_waiting_for_is_dropped(behind_ms: float, is_late: bool) -> None:
    buffer = JitterBuffer(max_target_ms=900.0)
    buffer.require(200.0)
    for n in range(15):
        buffer.push(n * TICKS, TICKS, name(n), 0.020 * n)
    at = 0.0
    while buffer._cursor is None or buffer._cursor < 15 * TICKS:
        buffer.pull(at)
        at += 0.020
    arrival = 15 * 0.020 + behind_ms / 1000
    buffer._cursor = 15 * TICKS + 1
    assert buffer.push(15 * TICKS, TICKS, name(15), arrival) is not is_late


def test_a_repeat_behind_what_was_played_or_beside_what_is_newer_does_not_turn_speech_back() -> None:
    arrivals = {n: n * 0.020 for n in range(50)}
    arrivals[20] = 22.9 * 0.020 + 0.001  # its place at the cursor has passed, and 21 and 22 have come
    out, buffer = play(arrivals, 60)
    assert buffer.stats.late == 1
    assert out[23] == name(21)


def test_longer_packets_are_no_queue_in_what_is_reported() -> None:
    buffer = JitterBuffer()
    for n in range(20):
        buffer.push(n * TICKS, TICKS, name(n), n * 0.020 + 0.020)
    assert buffer.delays() is not None
    for n in range(5):
        start = 20 + 3 * n
        buffer.push(start * TICKS, 3 * TICKS, name(start), start * 0.020 + 0.060)
    found = buffer.delays()
    assert found is not None
    assert found.p95 == pytest.approx(0.0, abs=0.001)
