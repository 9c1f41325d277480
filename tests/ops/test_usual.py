"""What is usual at this time of day."""

from __future__ import annotations

from relay.ops.usual import DAY, HOUR_S, WEEK, Usual

NOW = 500_000.0 * HOUR_S


def test_the_same_hour_of_the_last_seven_days_tells() -> None:
    usual = Usual(0.15)
    for days, on_tcp in ((1, 10), (7, 30), (8, 100)):
        usual.add(NOW - days * DAY * HOUR_S, on_tcp, 100)
    usual.add(NOW, 100, 100)
    usual.add(NOW - HOUR_S, 100, 100)
    assert usual.share(NOW + 1800) == 0.2


def test_where_too_little_is_known_what_was_given_tells() -> None:
    usual = Usual(0.15)
    assert usual.share(NOW) == 0.15
    usual.add(NOW - DAY * HOUR_S, 99, 99)
    assert usual.share(NOW) == 0.15


def test_hours_of_before_the_start_can_be_given() -> None:
    usual = Usual(0.15)
    usual.load([(500_000 - DAY, 25, 100)])
    assert usual.share(NOW) == 0.25


def test_hours_that_nobody_asks_for_any_more_are_forgotten() -> None:
    usual = Usual(0.15)
    for hour in range(3 * WEEK):
        usual.add(NOW + hour * HOUR_S, 0, 1)
    assert len(usual._hours) <= WEEK + DAY
