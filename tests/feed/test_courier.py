"""Which letter is next and when: failures, ages and faults on a simulated clock."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest

from relay.feed.answers import FATES, Answer, Fate, judge, retry_after
from relay.feed.courier import (
    SUSPICIOUS,
    TRANSITIONS,
    Courier,
    Expire,
    Idle,
    Letter,
    Limits,
    Rest,
    State,
    Try,
    Verdict,
    View,
)

LIMITS = Limits(first_s=1.0, most_s=300.0, age_s=86_400.0, attempts=1_000)


class Line:
    """An endpoint's letters with their courier, driven as the edge drives it, on a clock of its own."""

    def __init__(self, count: int = 0, limits: Limits = LIMITS, chance: float = 0.0) -> None:
        self.now = 0.0
        self.courier = Courier(limits)
        self.letters = {n: Letter(n, 0.0) for n in range(1, count + 1)}
        self.tried: list[tuple[float, int]] = []
        self.done: list[int] = []
        self.dead: dict[int, str] = {}
        self.chance = chance

    def view(self) -> View:
        line = sorted((each for each in self.letters.values() if not each.is_aside), key=lambda e: e.number)
        aside = sorted((each for each in self.letters.values() if each.is_aside), key=lambda e: e.due)
        first, second, *_ = [*line, None, None]
        return View(first, second, aside[0] if aside else None)

    def run(self, until: float, answer: Callable[[int, float], Answer], asked: float | None = None) -> None:
        """Answer every try at once, until nothing is to be done before `until`."""
        while self.now <= until:
            step = self.courier.next(self.view(), self.now)
            if isinstance(step, Try):
                self.settle(step.letter, answer(step.letter.number, self.now), asked)
            elif isinstance(step, Expire):
                for number in [n for n, each in self.letters.items() if each.born <= step.before]:
                    self.die(number, "age")
            elif isinstance(step, Rest) and step.until <= until:
                assert step.until > self.now
                self.now = step.until
            else:
                return

    def settle(self, letter: Letter, answer: Answer, asked: float | None) -> Verdict:
        self.tried.append((self.now, letter.number))
        verdict = self.courier.on_answer(letter, answer, self.now, chance=self.chance, asked_s=asked)
        if verdict.fate is Fate.DONE:
            self.done.append(letter.number)
            del self.letters[letter.number]
        elif verdict.fate is Fate.AGAIN:
            changed = dataclasses.replace(letter, attempts=letter.attempts + 1, due=verdict.due)
            self.letters[letter.number] = changed
        else:
            self.die(letter.number, verdict.why)
        if verdict.set_aside is not None:
            poor = self.letters[verdict.set_aside]
            self.letters[verdict.set_aside] = dataclasses.replace(poor, is_aside=True, due=0.0)
        return verdict

    def die(self, number: int, why: str) -> None:
        self.dead[number] = why
        del self.letters[number]


def always(answer: Answer) -> Callable[[int, float], Answer]:
    return lambda number, now: answer


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, Answer.TAKEN), (204, Answer.TAKEN), (301, Answer.REDIRECT), (307, Answer.REDIRECT),
        (400, Answer.REFUSED), (404, Answer.REFUSED), (408, Answer.TIMEOUT), (410, Answer.GONE),
        (429, Answer.THROTTLED), (500, Answer.FAULT), (503, Answer.FAULT), (101, Answer.STRANGE),
        (999, Answer.STRANGE),
    ],
)  # fmt: skip
def test_a_status_is_an_answer(status: int, answer: Answer) -> None:
    assert judge(status) is answer


def test_every_answer_has_a_fate_and_every_open_state_knows_every_fate() -> None:
    assert set(FATES) == set(Answer)
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Fate) for state, row in TRANSITIONS.items() if state is not State.CLOSED)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0), (" 5 ", 5.0), ("0", 0.0), ("9" * 400, 999_999_999_999.0),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("", None), ("-3", None), ("soon", None), ("1.5", None), ("٣", None),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_or_nothing(text: str, seconds: float | None) -> None:
    assert retry_after(text, 1_000.0) == seconds


# ---------------------------------------------------------------- the line


def test_letters_go_in_order_and_an_empty_line_is_idle() -> None:
    line = Line(3)
    line.run(0.0, always(Answer.TAKEN))
    assert line.done == [1, 2, 3]
    assert line.courier.next(line.view(), 0.0) == Idle()


def test_rests_double_up_to_the_longest_and_the_first_success_forgets_them() -> None:
    line = Line(1)
    line.run(2_000.0, always(Answer.UNREACHABLE))
    times = [at for at, _ in line.tried]
    rests = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert rests[:11] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    line.now = 10_000.0
    line.run(10_000.0, always(Answer.TAKEN))
    line.letters[2] = Letter(2, 10_000.0)
    line.run(10_003.5, always(Answer.FAULT))
    assert [at for at, number in line.tried if number == 2] == [10_000.0, 10_001.0, 10_003.0]


def test_chance_cuts_a_rest_by_up_to_half() -> None:
    line = Line(1, chance=1.0)
    line.run(4.0, always(Answer.UNREACHABLE))
    assert [at for at, _ in line.tried] == [0.0, 0.5, 1.5, 3.5]


@pytest.mark.parametrize(("asked", "rest"), [(60.0, 60.0), (0.0, 1.0), (9e9, 300.0)])
def test_what_the_endpoint_asks_for_is_kept_within_bounds(asked: float, rest: float) -> None:
    line = Line(1)
    line.run(0.5, always(Answer.THROTTLED), asked)
    assert line.courier.next(line.view(), line.now) == Rest(rest)


def test_a_refused_letter_is_dead_at_once_and_the_next_goes() -> None:
    line = Line(3)
    line.run(0.0, lambda number, _: Answer.REFUSED if number == 2 else Answer.TAKEN)
    assert (line.done, line.dead) == ([1, 3], {2: "refused"})


def test_after_410_nothing_goes_until_somebody_reopens() -> None:
    line = Line(2)
    step = line.courier.next(line.view(), 0.0)
    assert isinstance(step, Try)
    assert line.settle(step.letter, Answer.GONE, None).fate is Fate.CLOSE
    assert line.courier.state is State.CLOSED
    assert line.courier.next(line.view(), 1e9) == Idle()
    line.courier.reopen()
    line.run(0.0, always(Answer.TAKEN))
    assert line.done == [2]


def test_in_an_outage_of_any_length_order_holds_and_nothing_dies_before_its_age() -> None:
    line = Line(5)
    line.run(20_000.0, always(Answer.UNREACHABLE))
    assert {number for _, number in line.tried} == {1}
    line.run(20_400.0, always(Answer.TAKEN))
    assert (line.done, line.dead) == ([1, 2, 3, 4, 5], {})


def test_a_letter_that_is_too_old_dies_with_all_of_its_age_and_not_those_behind() -> None:
    line = Line(2)
    line.letters[3] = Letter(3, 50_000.0)
    line.run(86_399.0, always(Answer.UNREACHABLE))
    assert line.dead == {}
    line.run(87_000.0, always(Answer.UNREACHABLE))
    assert line.dead == {1: "age", 2: "age"}
    assert 2 not in {number for _, number in line.tried}
    assert list(line.letters) == [3]


def test_a_letter_dies_after_so_many_tries() -> None:
    line = Line(1, dataclasses.replace(LIMITS, attempts=3))
    line.run(1_000.0, always(Answer.FAULT))
    assert (len(line.tried), line.dead) == (3, {1: "attempts"})


def test_a_letter_that_breaks_its_receiver_is_set_aside_and_holds_nobody_up() -> None:
    line = Line(50)
    line.run(3_000.0, lambda number, _: Answer.FAULT if number == 1 else Answer.TAKEN)
    assert line.done == list(range(2, 51))
    last_of_others = max(at for at, number in line.tried if number != 1)
    assert last_of_others < 40.0
    mine = [at for at, number in line.tried if number == 1]
    assert mine[SUSPICIOUS - 1] == 15.0  # 1 + 2 + 4 + 8 s of rests before the fifth failure
    assert [later - sooner for sooner, later in itertools.pairwise(mine[-3:])] == [300.0, 300.0]
    line.run(4_000.0, always(Answer.TAKEN))
    assert line.done[-1] == 1


@pytest.mark.parametrize("answer", [Answer.UNREACHABLE, Answer.THROTTLED, Answer.REDIRECT])
def test_what_no_letter_can_be_blamed_for_never_changes_the_order(answer: Answer) -> None:
    line = Line(3)
    line.run(5_000.0, always(answer))
    assert {number for _, number in line.tried} == {1}


def test_in_an_outage_with_answers_only_the_first_two_take_turns() -> None:
    line = Line(5)
    line.run(3_000.0, always(Answer.FAULT))
    assert [number for _, number in line.tried][:9] == [1, 1, 1, 1, 1, 2, 1, 2, 1]
    line.run(3_400.0, always(Answer.TAKEN))
    assert sorted(line.done) == [1, 2, 3, 4, 5]
    assert line.done[2:] == [3, 4, 5]


def test_a_clock_that_was_set_back_holds_nothing_up() -> None:
    line = Line(1)
    line.now = 1_000_000.0
    line.letters[1] = Letter(1, 1_000_000.0)
    line.run(1_000_000.0, always(Answer.FAULT))
    line.now = 500.0
    step = line.courier.next(line.view(), line.now)
    assert step == Try(line.letters[1])
