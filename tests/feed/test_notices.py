"""How many lines an endpoint is worth."""

from __future__ import annotations

from relay.feed.answers import Answer, Fate
from relay.feed.courier import Verdict
from relay.feed.notices import EVERY, Notices, Outage

AGAIN = Verdict(Fate.AGAIN, Answer.TIMEOUT.value)
DONE = Verdict(Fate.DONE, Answer.TAKEN.value)


def test_an_outage_is_two_lines_whatever_dies_in_it() -> None:
    notices = Notices()
    tries = [DONE, AGAIN, AGAIN, Verdict(Fate.DEAD, "attempts"), AGAIN, Verdict(Fate.DEAD, "age"), DONE, DONE]
    assert [notices.on_try(each) for each in tries] == [
        None, Outage.BEGAN, None, None, None, None, Outage.ENDED, None
    ]  # fmt: skip


def test_an_endpoint_that_refuses_a_letter_takes_letters() -> None:
    notices = Notices()
    refused = Verdict(Fate.DEAD, "refused")
    assert [notices.on_try(each) for each in (refused, AGAIN, refused, AGAIN)] == [
        None, Outage.BEGAN, None, Outage.BEGAN
    ]  # fmt: skip


def test_a_reason_to_die_is_told_at_once_and_then_with_how_many_each_ten_minutes() -> None:
    notices, dead = Notices(), {"full": 1, "gone": 9}
    assert list(notices.on_deaths({}, 0.0)) == []
    assert list(notices.on_deaths(dead, 5.0)) == [("full", 1)]
    dead |= {"full": 50, "age": 2}
    assert list(notices.on_deaths(dead, 6.0)) == [("age", 2)]
    assert list(notices.on_deaths(dead, 5.0 + EVERY - 0.1)) == []
    assert list(notices.on_deaths(dead, 5.0 + EVERY)) == [("full", 49)]
    assert list(notices.on_deaths(dead, 5.0 + 9 * EVERY)) == []
