"""Rates over the last second, and reports that are owed."""

import pytest

from relay.core.rates import ByteRate, Owed, packet_ms


def test_a_steady_flow_is_measured_within_a_tenth():
    rate = ByteRate()
    for n in range(200):
        rate.on_bytes(150, n * 0.02)
    assert rate.bps(4.0) == pytest.approx(60_000, rel=0.11)


def test_what_is_older_than_a_second_is_gone():
    rate = ByteRate()
    rate.on_bytes(1000, 0.05)
    rate.on_bytes(500, 0.06)
    assert rate.bps(0.9) == 12_000
    assert rate.bps(1.0) == 0
    assert ByteRate().bps(0.0) == 0


def test_what_is_told_once_a_second_passed_all_along():
    rate = ByteRate()
    for second in range(5):
        rate.on_bytes(7_501, float(second))
        assert rate.bps(second + 0.0) == 60_008
    rate.on_bytes(3_000, 4.5)
    assert rate.bps(4.5) == pytest.approx(8 * (7_501 / 2 + 3_000), rel=0.01)
    rate.on_bytes(1_000, 60.0)
    assert (rate.bps(60.0), rate.bps(60.5)) == (8_000, 4_000)


def test_nothing_passing_is_no_change():
    rate = ByteRate()
    rate.on_bytes(1000, 0.05)
    rate.on_bytes(0, 5.0)
    assert rate.bps(0.9) == 8_000


def test_the_length_of_packets_is_told_from_how_many_came_in_how_long():
    before = 20
    for packets, ms, ptime in (
        (5, 200, 40),
        (3, 180, 60),
        (1, 200, 60),
        (4, 1000, 60),
        (20, 200, 10),
        (10, 195, 20),
    ):
        before = packet_ms(packets, ms, before)
        assert before == ptime


def test_a_listener_owes_a_report_only_for_what_was_sent_to_it():
    owed = Owed()
    assert owed.age_ms(100.0) == 0
    owed.on_sent(10.0)
    owed.on_sent(11.0)
    assert owed.age_ms(12.0) == 2000
    owed.on_report()
    assert owed.age_ms(13.0) == 0
    owed.on_sent(14.0)
    assert owed.age_ms(14.5) == 500
