"""The ladder on a simulated clock: who wins the race, when it moves, and when it stays."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from relay.client.health import OTHER, Direction, Health
from relay.client.ladder import (
    BACKOFF_S,
    CLIMB_EVERY_S,
    CLIMB_S,
    FIRST_CLIMB_S,
    OPEN_S,
    STAGGER_S,
    GiveUp,
    Ladder,
    Move,
    Race,
    Second,
    Stage,
    Try,
    Unite,
)
from relay.errors import LocalError


class Path:
    """A path with a loss and a delay that the test changes."""

    def __init__(
        self,
        rtt: float = 0.03,
        loss: float = 0.0,
        *,
        up: float = 0.0,
        down: float = 0.0,
        tells: bool = True,
        busy: bool = False,
        seed: int = 1,
    ) -> None:
        self.health = Health()
        self.rtt, self.loss, self.busy = rtt, loss, busy
        self.up, self.down, self.late, self.tells = up, down, 0.0, tells
        self._dice = random.Random(seed)
        self._flying: list[tuple[float, int, float]] = []
        self._came: dict[int, float] = {}  # when

    def like(self, other: Path) -> Path:
        """As good or bad as that one is now."""
        self.rtt, self.loss, self.late, self.tells = other.rtt, other.loss, other.late, other.tells
        self.up, self.down = other.up, other.down
        return self

    def live(self, now: float) -> None:
        number = self.health.ping(now, busy=self.busy)
        on_the_way = self._dice.choice(("up", "down")) if self._dice.random() < self.loss else None
        if number is not None and on_the_way != "up" and self._dice.random() >= self.up:
            there = self._came[number] = now + self.late + self.rtt / 2
            if on_the_way is None and self._dice.random() >= self.down:
                self._flying.append((there + self.rtt / 2, number, there))
        for each in [one for one in self._flying if one[0] <= now]:
            self._flying.remove(each)
            self.health.on_pong(each[1], now, round(1000 * each[2]))
        base = self.health.tally(now)
        if base is not None and self.tells and self._dice.random() >= max(self.loss, self.up, self.down):
            came = (i for i in range(64) if self._came.get(base + i, now + 1) <= now)
            self.health.on_tallied(base, sum(1 << i for i in came))


class Climb:
    """A ladder, its rungs, and time."""

    def __init__(self, *paths: Path, current: int = 0) -> None:
        self.paths = paths
        self.ladder = Ladder(len(paths), current, 0.0)
        self.now = 0.0
        self.in_use = Path().like(paths[current])
        self.second: tuple[int, Direction, Path] | None = None
        self.trials: dict[int, Path] = {}
        self.said: list[tuple[float, object]] = []
        self.repaired = self.sheltered = False

    def run(self, seconds: float) -> list[object]:
        """Let time pass and do what the ladder says; returns what it said."""
        begun = len(self.said)
        end = self.now + seconds
        while self.now < end:
            self.now = round(self.now + 0.01, 6)
            current = self.ladder.current
            used, second = [self.in_use.like(self.paths[current])], None
            if self.second is not None:
                rung, way, beside = self.second
                used.append(beside.like(self.paths[rung]))
                second = Second(rung, way, beside.health)
            for path in used:  # ask more when an answer is late
                closely = self.ladder.looks_closely(self.now, second)
                path.busy = path.health.is_doubtful(self.now) or closely
            for path in (*used, *self.trials.values()):
                path.live(self.now)
            up = {rung: path.health for rung, path in self.trials.items() if path.loss < 1}
            decision = self.ladder.check(
                self.now,
                self.in_use.health,
                up,
                second=second,
                repaired=self.repaired,
                sheltered=self.sheltered,
            )
            if decision is None:
                continue
            self.said.append((self.now, decision))
            if isinstance(decision, Try):
                self.trials |= {
                    rung: Path(busy=True, seed=rung + 2).like(self.paths[rung]) for rung in decision.rungs
                }
            elif isinstance(decision, Unite):
                assert self.second is not None
                if decision.rung == self.second[0]:
                    self.in_use = self.second[2]
                self.second = None
                self.ladder.on_moved(decision.rung, self.now, ok=True)
            elif isinstance(decision, Move):
                kept = None if decision.keep is None else (current, decision.keep, self.in_use)
                self.second = kept
                self.in_use, self.trials = self.trials[decision.rung], {}
                self.in_use.busy = False
                self.ladder.on_moved(decision.rung, self.now, ok=True)
            else:
                self.trials = {}
        return [what for _, what in self.said[begun:]]


# ---------------------------------------------------------------- the race


def test_rungs_start_a_quarter_of_a_second_apart_and_the_first_that_is_up_wins():
    race = Race(3, 0.0)
    assert race.due(0.0) == [0]
    assert race.next_deadline() == STAGGER_S
    assert race.due(0.1) == []
    assert race.due(0.25) == [1]
    assert race.on_ready(1)
    assert not race.on_ready(0)
    assert race.due(9.0) == []
    assert race.next_deadline() is None
    assert not race.is_lost


def test_a_rung_that_fails_lets_the_next_one_start_at_once_and_the_last_loses_the_race():
    race = Race(2, 0.0)
    assert race.due(0.0) == [0]
    race.on_failed(0)
    assert race.due(0.01) == [1]
    race.on_failed(1)
    assert race.is_lost
    assert race.next_deadline() is None


# ---------------------------------------------------------------- the judgement


def test_on_the_best_rung_and_all_well_nothing_happens():
    assert Climb(Path(), Path(), Path()).run(200.0) == []


def test_it_falls_back_when_udp_is_bad_and_not_only_when_it_is_blocked():
    climb = Climb(Path(), Path(), Path(rtt=0.05))
    climb.run(10.0)
    climb.paths[0].loss = climb.paths[1].loss = 0.25
    said = climb.run(8.0)
    assert said == [Try((0, 1, 2)), Move(2)]
    assert climb.ladder.current == 2
    assert climb.said[1][0] <= 10.0 + 6.0


def test_it_falls_back_within_two_seconds_when_nothing_comes_any_more():
    climb = Climb(Path(), Path(), Path(rtt=0.05))
    climb.run(10.0)
    climb.paths[0].loss = climb.paths[1].loss = 1.0
    assert climb.run(2.0) == [Try((0, 1, 2)), Move(2)]


def test_a_silent_rung_is_not_opened_anew_while_another_node_is_asked():
    for rungs in (1, 3):
        climb = Climb(*(Path() for _ in range(rungs)))
        climb.run(10.0)
        climb.sheltered = True
        for path in climb.paths:
            path.loss = 1.0
        others = tuple(range(1, rungs))
        assert climb.run(2.0) == [Try(others)]
        assert 0 not in climb.trials
        climb.sheltered = False
        assert climb.run(0.1) == [Try((0,))]
        assert climb.run(1.0) == []
        climb.trials[0].loss = 0.0
        assert climb.run(1.0) == [Move(0)]


def test_the_other_rungs_of_a_silent_one_are_tried_all_the_same():
    climb = Climb(Path(), Path(rtt=0.05))
    climb.run(10.0)
    climb.sheltered, climb.paths[0].loss = True, 1.0
    assert climb.run(2.0) == [Try((1,)), Move(1)]


def test_one_that_speaks_but_loses_is_opened_anew_and_one_that_speaks_again_is_not():
    climb = Climb(Path(busy=True))
    climb.sheltered = True
    climb.run(10.0)
    climb.paths[0].loss = 0.3
    assert (0,) in [said.rungs for said in climb.run(3.0) if isinstance(said, Try)]
    climb = Climb(Path(busy=True))
    climb.sheltered = True
    climb.run(10.0)
    climb.paths[0].loss = 1.0
    assert climb.run(0.9) == [Try(())]
    climb.paths[0].loss = 0.0
    climb.run(5.0)
    climb.sheltered = False
    assert all(said in (Try(()), GiveUp()) for said in climb.run(10.0))


def test_a_leg_that_is_closed_is_left_at_once_and_not_when_it_was_silent_for_long():
    for moved_before in (False, True):
        ladder, gone, good = Ladder(2, 1, 0.0), Path(), Path(busy=True)
        now = 0.0
        if moved_before:
            while not isinstance(ladder.check(now, gone.health, {}, lost=True), Try):
                now += 0.01
            good.live(now)
            assert ladder.check(now, gone.health, {0: good.health}, lost=True) is None  # no answer yet
            while (said := ladder.check(now, gone.health, {0: good.health}, lost=True)) is None:
                now += 0.01
                good.live(now)
            assert said == Move(0)
            ladder.on_moved(0, now, ok=True)
        assert ladder.check(now, gone.health, {}) is None
        assert ladder.check(now, gone.health, {}, lost=True) == Try((0, 1))


def test_where_nothing_is_found_for_a_leg_that_is_closed_it_is_asked_less_and_less_often():
    ladder, gone, now, tries = Ladder(2, 0, 0.0), Path(), 0.0, []
    while now < 40.0:
        if isinstance(ladder.check(now, gone.health, {}, lost=True), Try):
            tries.append(now)
        now += 0.05
    gaps = [later - earlier - OPEN_S for earlier, later in pairwise(tries)]
    assert gaps[:3] == pytest.approx(BACKOFF_S[:3], abs=0.15)


def test_a_path_that_is_far_too_slow_is_left():
    climb = Climb(Path(rtt=1.4), Path(rtt=0.05))
    climb.run(12.0)
    assert climb.ladder.current == 1


def test_if_nothing_else_is_better_it_stays_and_asks_less_and_less_often():
    climb = Climb(Path(loss=0.3), Path(loss=0.3), Path(loss=1.0))
    climb.run(120.0)
    tries = [at for at, what in climb.said if isinstance(what, Try)]
    assert len([what for _, what in climb.said if isinstance(what, Move)]) <= 1  # chance may fool it once
    assert [what for _, what in climb.said if isinstance(what, GiveUp)]
    assert 3 <= len(tries) <= 10
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps[-1] > gaps[0] >= BACKOFF_S[0]
    assert climb.ladder.stage in Stage


def test_what_got_well_by_itself_is_not_left():
    climb = Climb(Path(), Path(loss=1.0), Path(loss=1.0))
    climb.run(10.0)
    climb.paths[0].loss = 1.0
    climb.run(1.5)
    climb.paths[0].loss = 0.0
    said = climb.run(12.0)
    assert climb.ladder.current == 0
    assert said.count(GiveUp()) == 1


def test_it_climbs_back_once_a_better_rung_has_been_good_for_a_while():
    climb = Climb(Path(), Path(loss=0.3), Path(), current=2)
    assert climb.run(FIRST_CLIMB_S - 1) == []
    said = climb.run(CLIMB_S + 2.5)
    assert said == [Try((0, 1)), Move(0)]
    assert climb.said[1][0] - climb.said[0][0] >= CLIMB_S


def test_it_does_not_climb_to_what_is_still_bad_and_looks_again_a_minute_later():
    climb = Climb(Path(loss=0.2), Path(loss=1.0), Path(rtt=0.05), current=2)
    said = climb.run(FIRST_CLIMB_S + OPEN_S + 1)
    assert said == [Try((0, 1)), GiveUp()]
    assert climb.run(CLIMB_EVERY_S - 10) == []
    climb.paths[0].loss = 0.0
    assert Move(0) in climb.run(30.0)


def test_with_one_rung_it_tries_a_connection_of_its_own_when_nothing_comes():
    climb = Climb(Path())
    climb.run(5.0)
    climb.paths[0].loss = 0.3
    assert Move(0) not in climb.run(8.0)
    climb.paths[0].loss = 1.0
    climb.run(8.0)
    climb.paths[0].loss = 0.0
    assert Try((0,)) in [what for _, what in climb.said]
    climb.run(14.0)
    assert climb.in_use.health.rtt is not None


def test_a_move_that_failed_is_tried_again_later():
    ladder = Ladder(2, 0, 0.0)
    bad, good = Path(loss=1.0), Path(busy=True)
    now = 0.0
    said = []
    while now < 6.0:
        now = round(now + 0.01, 6)
        bad.live(now)
        good.live(now)
        decision = ladder.check(now, bad.health, {1: good.health})
        if decision is not None:
            said.append((now, decision))
            if isinstance(decision, Move):
                assert ladder.check(now, bad.health, {}) is None
                ladder.on_moved(1, now, ok=False)
    moves = [at for at, what in said if isinstance(what, Move)]
    assert len(moves) == 2
    assert moves[1] - moves[0] >= BACKOFF_S[0]
    assert ladder.current == 0


def test_a_move_nobody_began_is_our_own_mistake():
    with pytest.raises(LocalError):
        Ladder(2, 0, 0.0).on_moved(1, 0.0, ok=True)


# ---------------------------------------------------------------- one way each


@pytest.mark.parametrize("bad", OTHER)
def test_where_one_way_is_bad_the_other_one_stays(bad):
    climb = Climb(Path(), Path(), Path(rtt=0.05))
    climb.run(10.0)
    for path in climb.paths[:2]:
        setattr(path, bad, 0.25)
    assert climb.run(8.0) == [Try((0, 1, 2)), Move(2, keep=OTHER[bad])]
    assert climb.run(240.0) == []  # and nobody climbs to what is still bad
    setattr(climb.paths[0], bad, 0.0)
    assert climb.run(CLIMB_EVERY_S + CLIMB_S + 5) == [Unite(0)]
    assert climb.run(120.0) == []
    assert climb.ladder.current == 0


def test_a_way_that_is_far_too_slow_is_left_alone():
    climb = Climb(Path(), Path(rtt=0.05))
    climb.run(10.0)
    for _ in range(80):  # a queue that fills
        climb.paths[0].late += 0.01
        climb.run(0.25)
    climb.run(12.0)
    assert climb.said[-1][1] == Move(1, keep="down")


def test_where_both_ways_are_bad_or_nobody_tells_which_all_moves():
    for changes in ({"up": 0.15, "down": 0.15}, {"up": 0.25, "tells": False}):
        climb = Climb(Path(), Path(rtt=0.05))
        climb.run(10.0)
        for name, value in changes.items():
            setattr(climb.paths[0], name, value)
        assert climb.run(12.0) == [Try((0, 1)), Move(1)]


def test_nothing_is_kept_on_a_lower_rung():
    climb = Climb(Path(), Path(up=0.25), current=1)
    climb.run(FIRST_CLIMB_S - 3)
    assert Move(0) in climb.run(12.0)


def divided(bad: Direction = "up") -> Climb:
    climb = Climb(Path(), Path(rtt=0.05), Path(rtt=0.05))
    climb.run(10.0)
    setattr(climb.paths[0], bad, 0.25)
    climb.run(8.0)
    assert climb.second is not None
    climb.said.clear()
    return climb


@pytest.mark.parametrize("bad", OTHER)
def test_where_only_one_way_of_a_better_rung_is_good_that_way_climbs_and_the_other_one_follows(bad):
    climb = Climb(Path(), Path(rtt=0.05), current=1)
    setattr(climb.paths[0], bad, 0.25)
    climb.run(1.0)
    assert climb.run(FIRST_CLIMB_S + CLIMB_S + 2) == [Try((0,)), Move(0, keep=bad)]
    assert (climb.ladder.current, climb.run(100.0)) == (0, [])
    setattr(climb.paths[0], bad, 0.0)
    assert climb.run(CLIMB_EVERY_S + CLIMB_S + 1) == [Unite(0)]
    assert climb.run(100.0) == []


@pytest.mark.parametrize("bad", OTHER)
def test_a_leg_of_two_that_falls_silent_leaves_all_to_the_other_within_two_seconds(bad):
    for silent in (0, 1):
        climb = divided(bad)
        current = climb.ladder.current
        climb.paths[(0, current)[silent]].loss = 1.0
        assert climb.run(2.0)[:1] == [Unite((current, 0)[silent])]


def test_if_both_are_silent_whoever_answers_is_taken():
    climb = divided()
    current = climb.ladder.current
    for rung in (0, current):
        climb.paths[rung].loss = 1.0
    climb.run(5.0)
    assert climb.ladder.current == 3 - current
    assert climb.second is None


def test_when_the_way_that_was_kept_turns_bad_too_it_follows():
    climb = divided()
    climb.paths[0].down = 0.25
    assert climb.run(8.0) == [Unite(climb.ladder.current)]


def test_a_way_that_looks_bad_for_a_moment_is_looked_at_closely_before_it_is_left():
    climb = divided()
    climb.run(2.0)
    climb.paths[0].down = 0.4
    while not climb.ladder.looks_closely(climb.now, Second(0, "down", climb.second[2].health)):
        climb.run(0.05)
    climb.paths[0].down = 0.0
    assert climb.run(20.0) == []


def test_when_the_way_that_moved_turns_bad_the_better_rung_has_it_back_if_it_is_good_now():
    climb = divided()
    climb.paths[0].up = 0.0
    climb.run(5.0)
    climb.paths[climb.ladder.current].up = 0.25
    assert climb.run(8.0)[:1] == [Unite(0)]


def test_where_the_leg_below_turns_bad_and_the_one_above_still_is_a_third_is_looked_for():
    climb = divided()
    current = climb.ladder.current
    climb.paths[current].up = 0.25
    said = climb.run(20.0)
    assert Move(3 - current) in said
    assert climb.second is None


def test_a_leg_in_use_that_is_closed_leaves_all_to_the_other():
    climb = divided()
    assert climb.second is not None
    rung, way, path = climb.second
    second = Second(rung, way, path.health)
    assert climb.ladder.check(climb.now, climb.in_use.health, {}, lost=True, second=second) == Unite(0)
    climb.ladder.on_moved(0, climb.now, ok=False)
    assert climb.ladder.stage is Stage.STEADY


def test_a_loss_that_the_relay_repairs_is_no_reason_to_go() -> None:
    for repaired in (False, True):
        climb = Climb(Path(loss=0.09), Path(rtt=0.04))
        climb.repaired = repaired
        assert (Move(1) in climb.run(30)) is not repaired


@pytest.mark.parametrize("seed", range(20))
def test_a_way_that_loses_more_than_repair_makes_good_is_left_within_seconds(seed: int) -> None:
    heavy = Climb(Path(down=0.2), Path(rtt=0.04))
    heavy.repaired = True
    heavy.in_use = Path(seed=seed).like(heavy.paths[0])
    assert Move(1, keep="up") in heavy.run(15)
