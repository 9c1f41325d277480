"""Which letter goes to an endpoint next, and when: one small machine for each endpoint.

    next(view, now) -> Try | Expire | Rest | Idle      what the edge shall do
    on_answer(letter, answer, now, ...) -> Verdict     what the store shall write down

Letters go one at a time, in order. A failure makes the endpoint rest, longer each time. When the first letter
of the line fails again and again and the endpoint does answer, the second is tried in turns with it: once
that is taken, the fault is the first one's, which is set aside with a time of its own and holds nobody up.
`now` is Unix time, since letters outlive the process. Must never live here: clock, randomness, sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from relay.feed.answers import FATES, Answer, Fate

SUSPICIOUS: Final = (
    5  # failures of one letter in a row, with an answer each; half a minute with usual settings
)
OF_THE_LETTER: Final = (Answer.FAULT, Answer.TIMEOUT, Answer.STRANGE)
"""Failures that may be the letter's fault; the others are the endpoint's, whatever is sent."""


class State(StrEnum):
    """An endpoint."""

    READY = "ready"  # the next letter may go at once
    RESTING = "resting"  # after a failure
    CLOSED = "closed"  # it said 410: nothing goes there until somebody asks for it


TRANSITIONS: Final[Mapping[State, Mapping[Fate, State]]] = {
    State.READY: {
        Fate.DONE: State.READY,
        Fate.DEAD: State.READY,
        Fate.AGAIN: State.RESTING,
        Fate.CLOSE: State.CLOSED,
    },
    State.RESTING: {
        Fate.DONE: State.READY,
        Fate.DEAD: State.READY,
        Fate.AGAIN: State.RESTING,
        Fate.CLOSE: State.CLOSED,
    },
    State.CLOSED: {},
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds."""

    first_s: float
    most_s: float
    age_s: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Letter:
    """What the machine knows of a letter."""

    number: int
    """Its place in the line."""
    born: float
    attempts: int = 0
    """Tries so far."""
    due: float = 0.0
    """Not before this, for a letter that was set aside."""
    is_aside: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """The ends of an endpoint's line that matter."""

    first: Letter | None = None
    second: Letter | None = None
    aside: Letter | None = None
    """Of those set aside, the one that is due first."""


@dataclass(frozen=True, slots=True)
class Try:
    """Send this one now."""

    letter: Letter


@dataclass(frozen=True, slots=True)
class Expire:
    """All that were born before are dead letters now."""

    before: float


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do until then."""

    until: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do until something new comes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to write down about a letter."""

    fate: Fate
    why: str
    """For a dead letter its reason, else how the try ended."""
    due: float = 0.0
    """For one that stays: not before."""
    set_aside: int | None = None
    """Number of another letter that leaves the line: the fault is its own."""


class Courier:
    """One endpoint."""

    def __init__(self, limits: Limits) -> None:
        self.state = State.READY
        self._limits = limits
        self._failures = 0
        self._until = 0.0
        self._suspect = 0
        self._suspicion = 0
        self._is_turn_of_second = False

    def close(self) -> None:
        """It said 410 in an earlier life."""
        self.state = State.CLOSED

    def reopen(self) -> None:
        """Somebody asks for it to be tried again."""
        if self.state is State.CLOSED:
            self.state = State.READY
            self._failures = 0
            self._until = 0.0

    def next(self, view: View, now: float) -> Try | Expire | Rest | Idle:
        """What to do now, with nothing under way."""
        if self.state is State.CLOSED:
            return Idle()
        oldest = [letter.born for letter in (view.first, view.aside) if letter is not None]
        if oldest and min(oldest) <= now - self._limits.age_s:
            return Expire(now - self._limits.age_s)
        if self._waits(self._until, now):
            return Rest(self._until) if oldest else Idle()
        if view.aside is not None and not self._waits(view.aside.due, now):
            return Try(view.aside)
        if view.first is not None:
            return Try(self._of_the_line(view.first, view.second))
        return Rest(view.aside.due) if view.aside is not None else Idle()

    def _waits(self, until: float, now: float) -> bool:
        # A rest that is longer than the longest was begun under a clock that has been set back since.
        return now < until <= now + self._limits.most_s

    def _of_the_line(self, first: Letter, second: Letter | None) -> Letter:
        if self._suspect != first.number:
            self._suspect, self._suspicion, self._is_turn_of_second = first.number, 0, False
        if second is not None and self._suspicion >= SUSPICIOUS and self._is_turn_of_second:
            return second
        return first

    def on_answer(
        self, letter: Letter, answer: Answer, now: float, *, chance: float, asked_s: float | None = None
    ) -> Verdict:
        """A try ended. `chance` is 0-1 at random; `asked_s` is what the endpoint asked to wait."""
        fate = FATES[answer]
        before, tries = self._failures, letter.attempts + 1
        if letter.is_aside and fate is Fate.AGAIN:  # its own fault, by all we know: the others go on
            due = now + self._rest(tries, chance, asked_s)
        else:
            self.state = TRANSITIONS[self.state][fate]
            self._failures = before + 1 if fate is Fate.AGAIN else 0
            self._until = due = now + self._rest(before + 1, chance, asked_s) if fate is Fate.AGAIN else 0.0
        aside = self._learn(letter, answer, fate)
        if fate is Fate.AGAIN:
            if tries >= self._limits.attempts:
                return Verdict(Fate.DEAD, "attempts", set_aside=aside)
            if letter.born <= now - self._limits.age_s:
                return Verdict(Fate.DEAD, "age", set_aside=aside)
        return Verdict(fate, answer.value, due if letter.is_aside else 0.0, aside)

    def _learn(self, letter: Letter, answer: Answer, fate: Fate) -> int | None:
        """Whose fault it is: the number of the first letter once it is known to be its own."""
        if letter.is_aside:
            return None
        if letter.number == self._suspect:
            self._suspicion += answer in OF_THE_LETTER
            self._is_turn_of_second = fate is Fate.AGAIN
            return None
        self._is_turn_of_second = False
        return self._suspect if fate is Fate.DONE else None

    def _rest(self, failures: int, chance: float, asked_s: float | None) -> float:
        first, most = self._limits.first_s, self._limits.most_s
        if asked_s is not None:
            return min(max(asked_s, first), most)
        whole = min(most, first * 2.0 ** min(failures - 1, 40))
        return whole * (1 - chance / 2)
