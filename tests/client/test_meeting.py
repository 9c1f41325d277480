"""Two people find each other at a standby, whatever each of them reaches and whoever is faster."""

from __future__ import annotations

from heapq import heappop, heappush

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.client.meeting import OTHER_S, PATIENCE_S, STAGGER_S, STAY_S, Meeting

PLACES = 2
END_S = 60.0
ways = st.lists(st.one_of(st.none(), st.floats(0.01, 1.4)), min_size=PLACES, max_size=PLACES)
"""How long each place takes to let somebody in, seconds; None: it is not reached."""


class Pair:
    """Two people and the places, on one clock: who is where is told to who is there, after a while."""

    def __init__(self, took: list[list[float | None]], late: float, warm: list[int | None]) -> None:
        self.took = took
        self.people = [Meeting(PLACES, late * one, warm[one]) for one in (0, 1)]
        self.at: list[set[int]] = [set(), set()]
        self.went: list[list[int]] = [[], []]
        self._queue: list[tuple[float, int, int, str, int]] = []
        self._count = 0
        for one in (0, 1):
            self._put(late * one, one, "step", 0)

    def _put(self, at: float, one: int, what: str, place: int) -> None:
        self._count += 1
        heappush(self._queue, (at, self._count, one, what, place))

    def run(self) -> None:
        while self._queue and self._queue[0][0] < END_S:
            now, _, one, what, place = heappop(self._queue)
            meeting = self.people[one]
            before = meeting.choice
            if what == "seated" and meeting.keeps(place) and not meeting.is_over(now):
                self.at[one].add(place)
                meeting.on_here(place, now)
                meeting.on_other(place, now, is_there=place in self.at[1 - one])
                self._put(now + 0.02, 1 - one, "told", place)
            elif what == "failed":
                meeting.on_gone(place, now)
            elif what == "told" and place in self.at[one]:
                meeting.on_other(place, now, is_there=place in self.at[1 - one])
            if meeting.choice is not None and meeting.choice != before:
                self.went[one].append(meeting.choice)
            self._leave(one, now)
            for due in meeting.due(now):
                took = self.took[one][due]
                self._put(
                    now + (1.5 if took is None else took), one, "failed" if took is None else "seated", due
                )
            again = meeting.next_deadline()
            if again is not None and not meeting.is_over(now):
                self._put(max(again, now + 0.001), one, "step", 0)

    def _leave(self, one: int, now: float) -> None:
        meeting = self.people[one]
        for place in list(self.at[one]):
            stays = place == meeting.choice or (meeting.keeps(place) and not meeting.is_over(now))
            if not stays:
                self.at[one].discard(place)
                self._put(now + 0.02, 1 - one, "told", place)


@settings(deadline=None, max_examples=300)
@given(
    st.tuples(ways, ways),
    st.floats(0.0, 3.0),
    st.tuples(st.sampled_from([None, 0, 1]), st.sampled_from([None, 0, 1])),
)
def test_both_end_at_the_first_place_that_both_reach(
    took: tuple[list[float | None], list[float | None]], late: float, warm: tuple[int | None, int | None]
) -> None:
    pair = Pair([list(one) for one in took], late, list(warm))
    pair.run()
    reached = [place for place in range(PLACES) if took[0][place] is not None and took[1][place] is not None]
    ends = {meeting.choice for meeting in pair.people}
    assert len(ends) == 1, "each went elsewhere"
    assert (ends == {None}) == (not reached)
    if reached:
        assert ends <= set(reached)
        assert all(went == sorted(went, reverse=True) for went in pair.went), "nobody goes to a later place"


def test_the_next_place_is_tried_when_the_first_says_nothing() -> None:
    one = Meeting(2, 10.0)
    assert one.due(10.0) == [0]
    assert one.due(10.0 + STAGGER_S - 0.01) == []
    assert one.next_deadline() == 10.0 + STAGGER_S
    assert one.due(10.0 + STAGGER_S) == [1]


def test_a_place_that_is_known_to_answer_is_given_more_time() -> None:
    one = Meeting(2, 10.0, warm=0)
    assert one.due(10.0) == [0]
    assert one.due(10.0 + PATIENCE_S - 0.01) == []
    one.on_here(0, 10.5)
    assert one.due(10.5 + PATIENCE_S - 0.01) == []
    assert one.due(10.5 + PATIENCE_S) == [1], "the other one may not reach the first"


def test_while_the_place_that_is_known_to_answer_may_do_nothing_else_need_be_opened() -> None:
    assert not Meeting(2, 10.0).hopes(10.0)
    one = Meeting(2, 10.0, warm=0)
    assert one.hopes(10.9)
    assert not one.hopes(10.0 + PATIENCE_S)
    one.on_here(0, 10.5)
    assert one.hopes(10.5 + OTHER_S - 0.01)
    assert not one.hopes(10.5 + OTHER_S)
    one.on_here(0, 11.0)
    assert not one.hopes(11.0)
    other = Meeting(2, 10.0, warm=1)
    other.on_gone(0, 10.1)
    assert other.hopes(10.2)
    other.on_gone(1, 10.2)
    assert not other.hopes(10.2)
    met = Meeting(2, 10.0, warm=0)
    met.on_here(0, 10.1)
    met.on_other(0, 10.1, is_there=True)
    assert not met.hopes(10.1)


def test_one_that_fails_has_the_next_tried_at_once_and_comes_again() -> None:
    one = Meeting(2, 10.0)
    one.due(10.0)
    one.on_gone(0, 10.1)
    assert one.due(10.1) == [1]
    assert one.due(10.5) == [0]


def test_who_met_stays_at_earlier_places_only_and_not_for_ever() -> None:
    one = Meeting(2, 10.0)
    one.due(10.0)
    one.due(10.3)
    one.on_here(1, 10.4)
    one.on_other(1, 10.5, is_there=True)
    assert (one.choice, one.keeps(0), one.keeps(1)) == (1, True, True)
    assert one.due(20.0) == []
    assert not one.is_over(10.5 + STAY_S - 0.1)
    one.on_here(0, 11.0)
    one.on_other(0, 11.0, is_there=True)
    assert (one.choice, one.keeps(1), one.is_over(11.0)) == (0, False, True)
