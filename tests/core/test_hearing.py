"""Reports of one direction become windows, and what was lost on either hop counts once."""

import pytest

from relay.config import Config
from relay.core.hearing import Hearing
from relay.core.quality import Grade
from relay.protocol.datagram import FlowReport

ALL = 0x3FF


class Life:
    """A report each 200 ms, of ten packets of 20 ms."""

    def __init__(self) -> None:
        self.hearing = Hearing(Config(), 100.0)
        self.now = 100.0
        self.newest = -1
        self.late = 0xFFFF
        self.asked = 0
        self.got: set[int] = set()

    def report(self, count=1, *, came=ALL, late=0, delays=(0, 20), jb=60, kid=0, rtt=0.04, bps=None):
        for _ in range(count):
            self.now += 0.2
            self.newest += 10
            self.late = self.late + late & 0xFFFF
            self.got |= {self.newest - 9 + bit for bit in range(10) if came >> bit & 1}
            base = max(0, self.newest - 63)
            bits = sum(1 << ctr - base for ctr in self.got if ctr >= base)
            flow = FlowReport(9, kid, base, bits, delays[0], delays[1], delays[1], 0, jb, self.late, 0)
            self.asked += self.hearing.on_report(flow, round(1000 * self.now), rtt, rtt, self.now, bps=bps)
        return self.hearing.direction.summary()


def test_before_a_window_is_over_nothing_is_known():
    summary = Life().report(24)
    assert (summary.windows, summary.grade) == (0, Grade.UNKNOWN)


def test_a_direction_without_loss_is_good():
    summary = Life().report(50)
    assert (summary.windows, summary.grade, summary.loss, summary.gaps_per_min) == (2, Grade.GOOD, 0.0, 0.0)
    assert summary.jitter_ms == 2.0
    assert summary.silence_s == 0.0
    assert not summary.is_poor


def test_a_speaker_who_is_asked_for_little_is_heard_less_well_in_that_window():
    life = Life()
    usual = life.report(25)
    life.report(5, bps=12_000)
    low = life.report(20)
    assert (usual.windows, low.windows) == (1, 2)
    assert low.mos < usual.mos - 0.1
    assert life.report(25).mos > low.mos


def test_what_is_missing_counts_and_what_was_too_late_too():
    life = Life()
    life.report(25)
    summary = life.report(75, came=ALL & ~0b1)
    assert summary.loss == pytest.approx(0.075, abs=0.005)  # a tenth in three windows of four
    late = Life().report(25, late=1)
    assert late.loss == pytest.approx(0.1, abs=0.02)  # the newest are not settled
    assert late.mos < 4.0


def test_pauses_are_gaps_and_the_longest_is_the_silence():
    summary = Life().report(75, came=ALL & ~0b1110)
    assert summary.silence_s == 0.06
    assert summary.gaps_per_min == pytest.approx(300, rel=0.05)


def test_without_delays_or_round_trips_it_stays_unknown_how_good_it_was():
    summary = Life().report(50, delays=(None, None), rtt=None)
    assert (summary.windows, summary.grade, summary.jitter_ms) == (0, Grade.UNKNOWN, None)
    assert summary.active_s == pytest.approx(10, abs=0.5)
    assert Life().report(50, delays=(None, None)).jitter_ms is None


def test_a_new_key_counts_from_its_own_beginning():
    life = Life()
    life.report(25)
    life.newest, life.got = -1, set()
    assert life.report(50, kid=1).loss == 0.0


def test_a_window_in_which_nothing_is_settled_says_nothing():
    life = Life()
    life.report()
    life.now += 5.0
    flow = FlowReport(9, 1, 0, 1, 0, 0, 0, 0, 60, life.late, 0)
    assert life.hearing.on_report(flow, 20, 0.04, 0.04, life.now)
    summary = life.hearing.direction.summary()
    assert (summary.loss, summary.windows) == (0.0, 1)
    life.now += 5.0
    flow = FlowReport(9, 2, 0, 1, 0, 0, 0, 0, 60, life.late, 0)
    life.hearing.on_report(flow, 20, 0.04, 0.04, life.now)
    assert life.hearing.direction.summary().windows == 1


def test_round_trips_are_wanted_as_each_window_begins():
    life = Life()
    life.report(4)
    assert life.asked == 1
    life.report(22)
    assert life.asked == 2
    life.report(23)
    assert life.asked == 2


def test_reports_that_say_hardly_more_than_the_last_are_left_out():
    often, seldom = Life(), Life()
    often.report(75, came=ALL & ~0b1110)
    for _ in range(15):
        for _ in range(4):
            seldom.now += 0.2
            seldom.newest += 10
            seldom.got |= {seldom.newest - 9 + bit for bit in (0, 4, 5, 6, 7, 8, 9)}
        seldom.report(came=ALL & ~0b1110)
    first, second = often.hearing.direction.summary(), seldom.hearing.direction.summary()
    assert first.loss == pytest.approx(second.loss, abs=0.01)
    assert first.gaps_per_min == pytest.approx(second.gaps_per_min, rel=0.06)


def test_long_packets_make_long_gaps():
    life = Life()
    for _ in range(30):
        life.now += 0.4  # packets of 60 ms, about
        life.report(came=ALL & ~0b10)
    assert life.hearing.direction.summary().silence_s == 0.06


def test_a_window_that_another_node_saw_counts_like_one_of_ours():
    seen = Life()
    seen.report(50)
    other = Hearing(Config(), 100.0)
    other.on_told(seen.hearing.window)
    assert other.window == seen.hearing.window
    assert other.direction.summary().windows == 1
