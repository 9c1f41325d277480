"""Which rung to stand on: a race at the start, then a judgement when the one in use is bad or not the best.

    STEADY --bad, or time to climb--> TRYING --one is better--> MOVING --moved--> STEADY
       ^                                |                          '--failed-----'
       '------- none is better ---------'

Rungs are numbered, 0 the best, and judged by the same pings. Trials run beside the rung in use, which goes on
carrying, so that a try costs nothing but its pings. Where only one way of it is bad, and the rung that is
taken stands lower, the good way stays, and it climbs alone where only one way of a better rung is good: two
legs carry one way each until one of them should carry all.
Must never live here: sockets, clocks, what a rung is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from relay.client.health import OTHER, Direction, Health
from relay.errors import LocalError

STAGGER_S: Final = 0.250  # RFC 8305 section 8
TRIAL_S: Final = 1.5  # 37 pings: one that loses a third looks good once in a thousand trials
CLIMB_S: Final = 3.0  # a better rung must have been good for so long
OPEN_S: Final = 4.5  # an unused connection is closed by the relay after 5 s
CLIMB_EVERY_S: Final = 60.0
FIRST_CLIMB_S: Final = 5.0  # a race is won by luck, too: one lost packet costs the better rung a second
BAD_LOSS: Final = 0.08  # what concealment no longer hides
BAD_REPAIRED_LOSS: Final = 0.12  # nor what the relay repeats: of more than that, too much stays lost
GOOD_LOSS: Final = 0.03
BAD_COST_S: Final = 0.600
SILENT_S: Final = 0.600  # no answer for so long: whoever answers first is better
CLEARLY: Final = 0.8  # a move is worth it from here on
FAR: Final = 0.4
ALIKE_S: Final = 0.020  # nobody hears so little
BACKOFF_S: Final = (3.0, 6.0, 12.0, 30.0, 60.0)


class Race:
    """Rungs are opened in turn, the next 250 ms later or when one fails. The first that is up wins."""

    def __init__(self, rungs: int, now: float) -> None:
        self._waiting = list(range(rungs))
        self._running: set[int] = set()
        self._next_at = now
        self.winner: int | None = None

    def due(self, now: float) -> list[int]:
        """Rungs to open now."""
        found: list[int] = []
        while self.winner is None and self._waiting and (now >= self._next_at or not self._running):
            rung = self._waiting.pop(0)
            self._running.add(rung)
            self._next_at = now + STAGGER_S
            found.append(rung)
        return found

    def next_deadline(self) -> float | None:
        """When the next rung is to be opened; None when none waits."""
        return self._next_at if self._waiting and self.winner is None else None

    def on_failed(self, rung: int) -> None:
        """This one cannot be opened."""
        self._running.discard(rung)

    def on_ready(self, rung: int) -> bool:
        """This one is up; True if it is the first."""
        if self.winner is None:
            self.winner = rung
        return self.winner == rung

    @property
    def is_lost(self) -> bool:
        """Whether nothing is left that could win."""
        return self.winner is None and not self._waiting and not self._running


class Stage(Enum):
    """What the ladder is doing."""

    STEADY = "steady"
    TRYING = "trying"
    MOVING = "moving"


class Began:
    """Trials begin."""


class Chose:
    """One of them is better."""


class Ended:
    """None is, or the move is over."""


TRANSITIONS: Final[Mapping[Stage, Mapping[type, Stage]]] = {
    Stage.STEADY: {Began: Stage.TRYING, Chose: Stage.MOVING},
    Stage.TRYING: {Chose: Stage.MOVING, Ended: Stage.STEADY},
    Stage.MOVING: {Ended: Stage.STEADY},
}


@dataclass(frozen=True, slots=True)
class Try:
    """Open these rungs beside the one in use and ping on them."""

    rungs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Take this rung; let the other trials go. Answer with `on_moved`."""

    rung: int
    keep: Direction | None = None
    """This way stays on the leg in use."""


@dataclass(frozen=True, slots=True)
class Unite:
    """Of two legs that carry one way each let the one on this rung carry all. Answer with `on_moved`."""

    rung: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Let all trials go: none is better."""


Decision = Try | Move | Unite | GiveUp


@dataclass(frozen=True, slots=True)
class Second:
    """The older of two legs that carry one way each."""

    rung: int
    way: Direction
    health: Health


class Ladder:
    """The judgement. Ask `check` a few times a second, and do what it says."""

    def __init__(self, rungs: int, current: int, now: float) -> None:
        self.current = current
        self.stage = Stage.STEADY
        self._rungs = rungs
        self._tried: tuple[int, ...] = ()
        self._is_held = False  # the rung in use is not opened anew yet
        self._began = now
        self._failures = 0
        self._bad_loss = BAD_LOSS
        self._try_at = now
        self._ill_since: float | None = None  # one of two legs looks bad on its way
        self._climb_at: float | None = None  # counted from the first check: nobody climbs before they talk

    def check(
        self,
        now: float,
        current: Health,
        trials: Mapping[int, Health],
        *,
        lost: bool = False,
        second: Second | None = None,
        repaired: bool = False,
        sheltered: bool = False,
    ) -> Decision | None:
        """What to do now. `trials`: those rungs under trial that are up. `lost`: the leg in use is closed.

        `second`: there are two legs; the one in use carries the other way. `repaired`: the relay makes good
        what is lost on it. `sheltered`: another node is asked when this one is silent, and until it
        answered the rung in use is not opened anew: at a node's end hundreds would knock where nobody is.
        """
        self._bad_loss = BAD_REPAIRED_LOSS if repaired else BAD_LOSS
        waits = sheltered and not lost and current.is_doubtful(now)
        if self.stage is Stage.STEADY:
            united = None if second is None else self._weigh(now, current, second, lost)
            if united is not None:
                self._move(Chose)
                return Unite(united)
            if second is None:
                self._ill_since = None
            elif self._ill_since is not None:
                return None
            return self._begin(now, current, lost, second, waits)
        if self.stage is Stage.TRYING:
            return self._judge(now, current, trials, lost, second, waits)
        return None

    def looks_closely(self, now: float, second: Second | None) -> bool:
        """Whether the legs in use should be asked as often as trials."""
        if self.stage is Stage.TRYING or second is None:
            return self.stage is Stage.TRYING
        return self._ill_since is not None or (self._climb_at is not None and now >= self._climb_at)

    def on_moved(self, rung: int, now: float, *, ok: bool) -> None:
        """The move is over: on the new rung, or still on the old one."""
        self._move(Ended)
        self._ill_since = None
        if ok:
            self.current = rung
            self._failures = 0
            self._try_at = now + BACKOFF_S[0]  # nobody moves twice in one breath
            self._climb_at = now + CLIMB_EVERY_S
        else:
            self._wait(now)

    def _weigh(self, now: float, current: Health, second: Second, lost: bool) -> int | None:
        """The rung of two that should carry all, None while each does its way well."""
        silent = lost or current.overdue(now) > SILENT_S
        if silent or second.health.overdue(now) > SILENT_S:
            both = silent and second.health.overdue(now) > SILENT_S
            self._ill_since = None
            return None if both else second.rung if silent else self.current
        for way, worse, better, rung in (
            (second.way, second.health, current, self.current),
            (OTHER[second.way], current, second.health, second.rung),
        ):
            is_ill = is_bad(worse, now, way, self._bad_loss)
            if is_ill and better.cost(now, way) < CLEARLY * worse.cost(now, way):
                self._ill_since = now if self._ill_since is None else self._ill_since
                return (
                    rung if now - self._ill_since >= TRIAL_S else None
                )  # two pings of sixteen are soon lost
        self._ill_since = None
        if self._climb_at is None or now < self._climb_at + CLIMB_S:
            return None
        self._climb_at = now + CLIMB_EVERY_S
        rungs = {self.current: current, second.rung: second.health}
        high, low = min(rungs), max(rungs)
        known = rungs[high].loss(now)
        good = known is not None and known <= GOOD_LOSS and not is_bad(rungs[high], now)
        dear = rungs[high].cost(now) - ALIKE_S > rungs[low].cost(now) / CLEARLY
        return high if good and not dear else None

    def _begin(
        self, now: float, current: Health, lost: bool, second: Second | None, waits: bool
    ) -> Decision | None:
        if self._climb_at is None:
            self._climb_at = now + FIRST_CLIMB_S
        self._is_held = False
        may_try = now >= self._try_at or (lost and not self._failures)
        way = None if second is None else OTHER[second.way]
        if may_try and (lost or is_bad(current, now, way, self._bad_loss)):
            # The one in use too, as another connection: the network may be a new one, or a mapping gone.
            self._tried = tuple(range(self._rungs))
            self._is_held = waits
        elif now >= self._climb_at and self.current and second is None:
            self._climb_at = now + CLIMB_EVERY_S
            self._tried = tuple(range(self.current))
        else:
            return None
        self._move(Began)
        self._began = now
        return Try(tuple(rung for rung in self._tried if rung != self.current or not self._is_held))

    def _judge(
        self,
        now: float,
        current: Health,
        trials: Mapping[int, Health],
        lost: bool,
        second: Second | None,
        waits: bool,
    ) -> Decision | None:
        silent = lost or current.overdue(now) > SILENT_S
        if self._is_held and not waits and (silent or is_bad(current, now, None, self._bad_loss)):
            self._is_held = False
            return Try((self.current,))
        best = self._best(now, current, trials, silent=silent)
        if best is not None:
            self._move(Chose)
            divides = not silent and second is None and best > self.current
            return Move(best, _good_way(current, now, self._bad_loss) if divides else None)
        half = None if silent or second is not None else self._half(now, current, trials)
        if half is not None:
            self._move(Chose)
            return half
        # Fewer pings than a trial's tell no more that it is well again than that it was ill.
        is_ill = silent or is_bad(current, now, None, self._bad_loss)
        is_well = now - self._began >= TRIAL_S and not is_ill
        if now - self._began >= OPEN_S or (is_well and not self._climbs):
            self._move(Ended)
            self._wait(now)
            return GiveUp()
        return None

    @property
    def _climbs(self) -> bool:
        return all(rung < self.current for rung in self._tried)

    def _best(self, now: float, current: Health, trials: Mapping[int, Health], *, silent: bool) -> int | None:
        """The trial to take, None while none is known to be better."""
        if silent:
            answered = [rung for rung, health in trials.items() if health.rtt is not None]
            return min(answered, key=lambda rung: trials[rung].cost(now), default=None)
        if now - self._began >= CLIMB_S:  # one without an answer in all that time is no choice
            trials = {rung: health for rung, health in trials.items() if health.rtt is not None}
        bad = is_bad(current, now, None, self._bad_loss)
        known = {rung: health for rung, health in trials.items() if health.loss(now) is not None}
        patience = TRIAL_S if bad else CLIMB_S
        ready = [rung for rung, health in known.items() if health.age(now) >= patience]
        if len(ready) < len(trials) or not ready:
            return None
        best = min(ready, key=lambda rung: (known[rung].cost(now), rung))
        if bad:
            # What loses, too, must be far better, and known for longer: few pings say little about a loss,
            # and where a bottleneck is full all rungs lead through it.
            poor = is_bad(known[best], now) or (known[best].loss(now) or 0.0) > GOOD_LOSS
            needed = FAR * current.cost(now) if poor else CLEARLY * current.cost(now)
            sure = not poor or known[best].age(now) >= CLIMB_S
            return best if sure and known[best].cost(now) < needed else None
        good = [rung for rung in ready if (known[rung].loss(now) or 0.0) <= GOOD_LOSS]
        worth = [rung for rung in good if CLEARLY * known[rung].cost(now) <= current.cost(now)]
        return min(worth, default=None)

    def _half(self, now: float, current: Health, trials: Mapping[int, Health]) -> Move | None:
        """A better rung of which only one way is good, known for long enough: that way may climb."""
        if not self._climbs or any(health.age(now) < CLIMB_S for health in trials.values()):
            return None
        for rung, health in sorted(trials.items()):
            way = _good_way(health, now, self._bad_loss)
            if way is not None and health.cost(now, way) - ALIKE_S <= current.cost(now, way) / CLEARLY:
                return Move(rung, OTHER[way])
        return None

    def _wait(self, now: float) -> None:
        self._try_at = now + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1

    def _move(self, event: type) -> None:
        try:
            self.stage = TRANSITIONS[self.stage][event]
        except KeyError:
            raise LocalError(f"a ladder that is {self.stage.value} takes no {event.__name__}") from None


def is_bad(health: Health, now: float, way: Direction | None = None, bad_loss: float = BAD_LOSS) -> bool:
    """Whether a voice suffers on this path, or one way of it: it is silent, loses, or is far too slow."""
    if health.overdue(now) > SILENT_S:
        return True
    loss = health.loss(now, way)
    if loss is None:
        return False
    ways = (None, *OTHER) if way is None else (way,)
    return loss >= bad_loss or max(health.cost(now, each) for each in ways) >= BAD_COST_S


def _good_way(health: Health, now: float, bad_loss: float) -> Direction | None:
    """The way that is good on a path of which the other one is bad."""
    for way, other in OTHER.items():
        loss = health.loss(now, way)
        good = loss is not None and loss <= GOOD_LOSS and not is_bad(health, now, way, bad_loss)
        if good and is_bad(health, now, other, bad_loss):
            return way
    return None
