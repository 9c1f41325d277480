"""Hop reports: what is told of the other node's voices, what it says of ours, and when a trunk is bad."""

import pytest

from relay.core.events import RouteCount, TrunkCounted
from relay.core.trunk_reports import BAD_DELAY_S, BAD_LOSS, BAD_S, Reports
from relay.protocol import trunk
from relay.protocol.datagram import Ping
from relay.protocol.trunk import HopReport, RouteReport

U32 = 0xFFFF_FFFF
LINE = RouteReport(route=64, newest=9, came=48, missing=2, late=1, delay_p95=31)
COUNT = RouteCount(route=64, newest=9, came=48, missing=2, late=1)


@pytest.fixture
def reports():
    found = Reports()
    found.on_up("b", "iad")
    return found


def standing(reports):
    (found,) = reports.standings()
    return found


def told(reports, *lines, seq=0):
    reports.on_report("b", HopReport(seq, 0, lines))
    return standing(reports)


def counted(reports, now, acked=0, lost=0, routes=(COUNT,)):
    return reports.on_counted("b", TrunkCounted(1, acked, lost, routes), now)


# ---------------------------------------------------------------- what we tell


def test_what_was_counted_is_told_with_a_number_and_our_clock(reports):
    first = counted(reports, 1.5)
    assert first == HopReport(0, 1500, (RouteReport(64, 9, 48, 2, 1, None),))
    assert trunk.decode(trunk.encode(first)) == first
    assert counted(reports, 2.5).seq == 1


def test_nothing_is_told_when_nothing_came(reports):
    assert counted(reports, 1.0, routes=()) is None


def test_numbers_and_clocks_wrap(reports):
    for _ in range(0x10000):
        last = counted(reports, 5_000_000.0)
    assert (last.seq, last.t) == (0xFFFF, 5_000_000_000 & U32)
    assert counted(reports, 5_000_000.0).seq == 0


def delay(reports, now):
    return counted(reports, now).routes[0].delay_p95


@pytest.mark.parametrize("ahead", [0, -1, 123_456, 1 << 31, U32 - 1000])
def test_the_delay_is_that_of_pings_over_their_least_of_ten_seconds_whatever_their_clock_says(reports, ahead):
    for i, late in enumerate((12, 10, 14, 40)):
        at = 100 + i / 5
        reports.on_ping("b", Ping((round(at * 1000) - late + ahead) & U32, i), at)
    assert delay(reports, 100.8) == 300
    assert delay(reports, 101.65) is None  # none of the last second
    at = 110.3  # the least of ten seconds is 14 now
    reports.on_ping("b", Ping((round(at * 1000) - 25 + ahead) & U32, 9), at)
    assert delay(reports, at) == 110


def test_one_ping_tells_no_delay(reports):
    reports.on_ping("b", Ping(5, 0), 1.0)
    assert delay(reports, 1.0) is None


def test_a_delay_that_no_field_holds_is_the_greatest_there_is(reports):
    for ms in (0, 20_000):
        reports.on_ping("b", Ping(ms, 0), 30.0)
    assert delay(reports, 30.0) == 0xFFFE


def test_pings_without_end_are_forgotten(reports):
    for i in range(10_000):
        reports.on_ping("b", Ping(i, i), 1.0)
    assert len(reports._trunks["b"].pings) == 64


# ---------------------------------------------------------------- what we are told


def test_sums_and_delay_of_our_voices_are_kept(reports):
    other = LINE._replace(route=65, delay_p95=90)
    now = told(reports, LINE, other)
    assert (now.node, now.region, now.came, now.missing, now.late) == ("b", "iad", 96, 4, 2)
    assert now.delay_s == pytest.approx(0.009)
    assert told(reports, LINE._replace(delay_p95=None), seq=1).delay_s is None


def test_a_report_that_came_twice_or_was_overtaken_tells_nothing(reports):
    for seq in (0xFFFE, 0xFFFF, 0, 0, 0xFFFF, 3, 2, 3 + 0x8001):
        told(reports, LINE, seq=seq)
    assert standing(reports).came == 4 * 48


def test_nonsense_is_only_figures_of_that_trunk(reports):
    reports.on_up("c", "sin")
    worst = tuple(RouteReport(route, U32, *[0xFFFF] * 3, 0xFFFE) for route in range(64, 144))
    for seq in range(50):
        told_b = HopReport(seq, 0, worst)
        assert trunk.decode(trunk.encode(told_b)) == told_b
        reports.on_report("b", told_b)
    mine, others = reports.standings()
    assert mine.missing == 50 * 80 * 0xFFFF
    assert mine.delay_s == pytest.approx(6.5534)
    assert (others.came, others.missing, others.delay_s) == (0, 0, None)


# ---------------------------------------------------------------- how the trunk is


def run(reports, since, seconds, loss, packets=100):
    """So many seconds in which this share is lost; when it first was bad."""
    first = None
    for second in range(seconds):
        run.acked += round(packets * (1 - loss))
        run.lost += round(packets * loss)
        counted(reports, since + second, run.acked, run.lost, ())
        if standing(reports).is_bad and first is None:
            first = second
    return first


@pytest.fixture(autouse=True)
def _nothing_left():
    run.acked = run.lost = 0


def test_loss_is_the_share_of_our_packets_in_ten_seconds(reports):
    run(reports, 0, 20, 0.05)
    assert standing(reports).loss == pytest.approx(0.05)
    run(reports, 20, 20, 0.0)
    assert standing(reports).loss == 0


def test_a_trunk_that_loses_is_bad_after_ten_seconds_and_well_after_ten_without(reports):
    run(reports, 0, 5, 0.0)
    assert run(reports, 5, 10, BAD_LOSS * 2) is None
    assert run(reports, 15, 20, BAD_LOSS * 2) is not None
    run(reports, 35, 9, 0.0)
    assert standing(reports).is_bad
    run(reports, 44, 30, 0.0)
    assert not standing(reports).is_bad


def test_a_moment_of_loss_is_not_bad(reports):
    for second in range(0, 100, 20):
        assert run(reports, second, 1, 0.1) is None
        assert run(reports, second + 1, 19, 0.0) is None


def test_of_few_packets_a_lost_one_says_nothing(reports):
    assert run(reports, 0, 40, 0.5, packets=8) is None
    assert standing(reports).loss == 0


def test_a_delay_that_stays_is_bad_and_none_is_none(reports):
    told(reports, LINE._replace(delay_p95=round(BAD_DELAY_S * 10_000)))
    assert run(reports, 0, int(BAD_S), 0.0) is None
    assert run(reports, 10, 2, 0.0) == 0
    told(reports, LINE._replace(delay_p95=None), seq=1)
    run(reports, 12, 12, 0.0)
    assert not standing(reports).is_bad


def test_another_connection_counts_from_its_own_beginning_and_sums_stay(reports):
    told(reports, LINE, seq=500)
    run(reports, 0, 40, 0.5)
    assert standing(reports).is_bad
    reports.on_down("b")
    now = standing(reports)
    assert (now.came, now.loss, now.delay_s, now.is_bad) == (48, 0.0, None, False)
    reports.on_up("b", "ord")
    assert told(reports, LINE).came == 96
    assert standing(reports).region == "ord"
    assert counted(reports, 99.0, 5, 5).seq == 0
    assert standing(reports).loss == 0


def test_two_processes_of_a_node_are_one_trunk_to_who_looks(reports):
    reports.on_up("b+", "iad")
    run(reports, 0, 40, 0.5)
    reports.on_down("b+")
    assert standing(reports).is_bad  # that of the one that is left
    assert standing(reports).node == "b"
    reports.on_down("b")
    assert not standing(reports).is_bad
