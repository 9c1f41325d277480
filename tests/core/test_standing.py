"""What of a queue others fill: it comes and goes by itself, or stays whatever is asked for."""

from __future__ import annotations

from relay.config_voice import AdaptConfig
from relay.core.standing import MARGIN, Standing

CONFIG = AdaptConfig()


def after(*queue: float, lowered_at: float = -100.0, is_tight: bool = False, begin: float = 0.0) -> Standing:
    """One look each 200 ms."""
    standing = Standing(CONFIG)
    for number, ms in enumerate(queue):
        falls = number > 0 and ms < queue[number - 1]
        standing.on_queue(ms, lowered_at, begin + number / 5, is_tight=is_tight, is_draining=falls)
    return standing


def test_a_queue_that_came_and_went_by_itself_twice_is_borne_for_a_while():
    standing = after(0, 30, 60, 19, 0, 80, 40, 19)
    assert standing.bearable(1.4) == MARGIN * 60
    assert standing.bearable(0.6 + CONFIG.probation_s) == CONFIG.queue_ms


def test_one_that_came_once_or_one_packet_that_was_late_is_not():
    assert after(0, 60, 90, 19).bearable(1.0) == CONFIG.queue_ms
    assert after(0, 60, 0, 60, 0, 60, 0, 60, 0).bearable(2.0) == CONFIG.queue_ms


def test_one_that_went_because_senders_were_asked_for_less_is_not():
    twice = (0, 30, 90, 19, 0, 30, 90, 19)
    assert after(*twice, lowered_at=1.0).bearable(2.0) == CONFIG.queue_ms
    assert after(*twice, is_tight=True, lowered_at=0.1).bearable(2.0) == CONFIG.queue_ms


def test_one_that_is_still_there_has_not_gone():
    assert after(0, 30, 90, 60).bearable(1.0) == CONFIG.queue_ms


def test_what_stays_two_seconds_after_senders_were_asked_for_little_is_not_theirs():
    assert after(*[80.0] * 10, lowered_at=0.0, is_tight=True).bearable(2.0) == CONFIG.queue_ms
    assert after(*[80.0] * 11, lowered_at=0.0, is_tight=True).bearable(2.0) == 80.0


def test_of_what_stands_the_most_is_borne_until_it_stood_too_long_ago():
    standing = after(*[80.0] * 11, 90.0, 70.0, 70.0, lowered_at=0.0, is_tight=True)
    assert standing.bearable(2.6) == 90.0
    later = 2.6 + CONFIG.probation_s
    assert standing.bearable(later) == CONFIG.queue_ms
    standing.on_queue(70.0, 0.0, later, is_tight=True, is_draining=False)
    assert standing.bearable(later) == 70.0


def test_what_drains_does_not_stand():
    assert after(*range(200, 80, -5), lowered_at=0.0, is_tight=True).bearable(5.0) == CONFIG.queue_ms


def test_no_more_than_so_much_is_borne_and_all_is_forgotten_when_it_is_more():
    standing = after(0, 400, 300, 0, 400, 300, 0)
    assert standing.bearable(1.2) == CONFIG.stood_most_ms
    standing.forget()
    assert standing.bearable(1.2) == CONFIG.queue_ms
