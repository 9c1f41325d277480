"""How far a rollout is, and every change of it: who, why, and of which revision.

    WAITING --begin--> RUNNING --advance--> RUNNING; WAITING when its wave is closed; DONE after the last one
                       RUNNING --freeze--> FROZEN --thaw--> RUNNING
                       any of these --rollback of a place--> HALTED --resume--> RUNNING, WAITING or DONE
                       any --kill--> KILLED

    a place (region, or group as @name)    STEPPING --last step passed--> PASSED --wave closed--> OPEN
                                           STEPPING, PASSED or OPEN --rollback--> OUT

A change that may not be is an answer (Refused), no error. Whoever stores the standing does so by
compare-and-set on its revision. What narrows (rollback, kill) is never refused for a revision that has moved
on. Must never live here: what the gate says (gate.py), where standings are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import msgspec

from relay.rollout.bucket import Shares
from relay.rollout.gate import Answer, Stage, Verdict, Why
from relay.rollout.plan import Document, places_of

CANDIDATE: Final = 100.0


class Phase(StrEnum):
    """Where the whole rollout stands."""

    WAITING = "waiting"  # for its next wave to begin
    RUNNING = "running"
    FROZEN = "frozen"  # an operator wants no change
    HALTED = "halted"  # a place was taken back: a person has to look before anything goes on
    KILLED = "killed"  # everybody has the control, for good
    DONE = "done"


class Spot(StrEnum):
    """Where one place stands."""

    STEPPING = "stepping"
    PASSED = "passed"  # its last step has; the holdback stays until the wave closes
    OPEN = "open"  # whole
    OUT = "out"  # taken back


class Change(StrEnum):
    """What may happen."""

    BEGIN = "begin"
    ADVANCE = "advance"
    ROLLBACK = "rollback"
    FREEZE = "freeze"
    THAW = "thaw"
    RESUME = "resume"
    KILL = "kill"


class Refusal(StrEnum):
    """Why a change may not be."""

    CONFLICT = "conflict"
    PHASE = "phase"
    PLACE = "place"
    GATE = "gate"
    TOO_SOON = "too_soon"
    EARLY_CAP = "early_cap"
    WAVE_CAP = "wave_cap"
    UNKNOWN_TRAFFIC = "unknown_traffic"
    RIVAL = "rival"
    RULES = "rules"


TRANSITIONS: Final[Mapping[Phase, Mapping[Change, Phase]]] = {
    Phase.WAITING: {
        Change.BEGIN: Phase.RUNNING,
        Change.ROLLBACK: Phase.HALTED,
        Change.KILL: Phase.KILLED,
    },
    Phase.RUNNING: {
        Change.ADVANCE: Phase.RUNNING,
        Change.FREEZE: Phase.FROZEN,
        Change.ROLLBACK: Phase.HALTED,
        Change.KILL: Phase.KILLED,
    },
    Phase.FROZEN: {
        Change.THAW: Phase.RUNNING,
        Change.ROLLBACK: Phase.HALTED,
        Change.KILL: Phase.KILLED,
    },
    Phase.HALTED: {
        Change.RESUME: Phase.RUNNING,
        Change.ROLLBACK: Phase.HALTED,
        Change.KILL: Phase.KILLED,
    },
    Phase.DONE: {Change.ROLLBACK: Phase.HALTED, Change.KILL: Phase.KILLED},
    Phase.KILLED: {Change.KILL: Phase.KILLED},
}


@dataclass(frozen=True, slots=True)
class Place:
    """One region, or group, that has begun."""

    wave: int
    step: int = 0
    since: float = 0.0
    """When this step began, Unix seconds."""
    spot: Spot = Spot.STEPPING


@dataclass(frozen=True, slots=True)
class Standing:
    """A rollout as it stands."""

    rollout: str
    revision: int = 0
    """Of the last change; the next one has one more."""
    phase: Phase = Phase.WAITING
    wave: int = 0
    """The wave that runs, or the next to begin."""
    places: dict[str, Place] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """JSON value; `read` makes an equal standing of it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Order:
    """A change that somebody wants."""

    change: Change
    who: str
    why: str
    expect: int
    """Revision of the standing that was looked at."""
    place: str = ""
    """Of an advance or a rollback."""
    answer: Answer | None = None
    """What an advance is based on."""
    is_confirmed: bool = False
    """That a person has said yes."""


@dataclass(frozen=True, slots=True)
class World:
    """What a change has to respect beside the plan."""

    now: float
    """Unix seconds."""
    traffic: Mapping[str, float] = field(default_factory=dict)
    """Place -> its part of all calls everywhere, 0-1."""
    rivals: Mapping[str, str] = field(default_factory=dict)
    """Region -> another rollout that runs there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A change that was made, for the history."""

    revision: int
    at: float
    change: Change
    place: str
    who: str
    why: str
    phase: Phase
    """After it."""
    pct: float | None
    """The place's share after it; None: it concerns no single place."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What is to be stored."""

    standing: Standing
    entry: Entry


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing was changed, and what to do."""

    refusal: Refusal
    problem: str
    cure: str


def read(raw: Mapping[str, Any]) -> Standing:
    """A standing of its JSON value. msgspec.ValidationError: it is none."""
    return msgspec.convert(raw, Standing)


def share_of(plan: Document, place: Place) -> float:
    """Percent of a place that get the candidate."""
    if place.spot is Spot.OUT:
        return 0.0
    return CANDIDATE if place.spot is Spot.OPEN else plan.share(place.wave, place.step)


def shares(plan: Document, standing: Standing) -> Shares:
    """Who gets the candidate now. Before the first wave nobody does, not even who always does."""
    told = {name: share_of(plan, place) for name, place in standing.places.items()}
    groups = plan.rollout.groups
    return Shares(
        is_killed=standing.phase is Phase.KILLED,
        never=frozenset(groups.never),
        always=frozenset(groups.always if standing.places else ()),
        groups={name[1:]: pct for name, pct in told.items() if name.startswith("@")},
        regions={name: pct for name, pct in told.items() if not name.startswith("@")},
    )


def apply(plan: Document, standing: Standing, order: Order, world: World) -> Changed | Refused:
    """The standing after a change, with its entry for the history; or why it may not be. Stores nothing."""
    refused = _out_of_turn(standing, order) or _DOORS[order.change](plan, standing, order, world)
    if refused is not None:
        return refused
    after = _MAKERS[order.change](plan, standing, order, world)
    phase = TRANSITIONS[standing.phase][order.change]
    if phase is Phase.RUNNING:
        after = _closed(after)
        phase = _running(plan, after)
    after = replace(after, revision=standing.revision + 1, phase=phase)
    place = after.places.get(order.place)
    pct = None if place is None or phase is Phase.KILLED else share_of(plan, place)
    entry = Entry(after.revision, world.now, order.change, order.place, order.who, order.why, phase, pct)
    return Changed(after, entry)


def follow(answer: Answer, standing: Standing, who: str) -> Order | None:
    """The order that a verdict asks for; None: stay."""
    change = {Verdict.PROMOTE: Change.ADVANCE, Verdict.ROLLBACK: Change.ROLLBACK}.get(answer.verdict)
    if change is None:
        return None
    why = "; ".join(f"{each.why.value}: {each.detail}" for each in answer.reasons) or "as good as the control"
    return Order(change, who, why, standing.revision, answer.stage.place, answer)


def _out_of_turn(standing: Standing, order: Order) -> Refused | None:
    if order.expect != standing.revision and order.change not in (Change.KILL, Change.ROLLBACK):
        told = f"revision {order.expect} was looked at, {standing.revision} is there"
        return Refused(Refusal.CONFLICT, told, "look again, then decide")
    if order.change not in TRANSITIONS[standing.phase]:
        able = ", ".join(TRANSITIONS[standing.phase])
        told = f"{order.change.value} is nothing for a rollout that is {standing.phase.value}"
        return Refused(Refusal.PHASE, told, f"what may be: {able}")
    return None


# ---------------------------------------------------------------- what each change needs


def _may(_plan: Document, _standing: Standing, _order: Order, _world: World) -> Refused | None:
    return None


def _may_begin(plan: Document, standing: Standing, order: Order, world: World) -> Refused | None:
    wave = plan.rollout.wave[standing.wave]
    for name in places_of(wave):
        if name in world.rivals:
            return Refused(Refusal.RIVAL, f"{world.rivals[name]} runs at {name}", "end that one first")
    if plan.number(standing.wave) >= 3:
        refused = _unknown(wave.regions, world)
        if refused is not None:
            return refused
        part = 100 * sum(world.traffic[name] for name in wave.regions)
        if part > plan.rollout.caps.wave:
            told = f"its regions carry {part:.1f} % of all calls, at most {plan.rollout.caps.wave:g} % may be"
            return Refused(Refusal.WAVE_CAP, told, "split the wave, or raise rollout.caps.wave")
    return _too_many(plan, standing, _begun(plan, standing, order, world), world)


def _may_advance(plan: Document, standing: Standing, order: Order, world: World) -> Refused | None:
    place = standing.places.get(order.place)
    if place is None or place.spot is not Spot.STEPPING:
        spot = "not begun" if place is None else place.spot.value
        able = ", ".join(name for name, each in standing.places.items() if each.spot is Spot.STEPPING)
        return Refused(Refusal.PLACE, f"{order.place} is {spot}", f"what may be: {able or 'none'}")
    if not _is_backed(plan, order, place, world):
        told = (
            "no verdict" if order.answer is None else f"the verdict is {order.answer.verdict.value}, or old"
        )
        return Refused(Refusal.GATE, f"{told}, for this step of {order.place}", "wait for promote")
    rested = world.now - place.since
    if rested < plan.rollout.caps.every:
        told = f"{rested:.0f} s after the last step, at least {plan.rollout.caps.every:g} s must be"
        return Refused(Refusal.TOO_SOON, told, "wait")
    return _too_many(plan, standing, _closed(_advanced(plan, standing, order, world)), world)


def _may_roll_back(_plan: Document, standing: Standing, order: Order, _world: World) -> Refused | None:
    if order.place not in standing.places:
        able = ", ".join(standing.places) or "none"
        return Refused(Refusal.PLACE, f"{order.place} is not begun", f"what may be: {able}")
    return None


def _may_resume(plan: Document, standing: Standing, _order: Order, _world: World) -> Refused | None:
    spots = {place.spot for _, place in _of_wave(standing)}
    if spots == {Spot.OUT}:
        told = "every place of its wave was taken back: nothing has shown that the candidate is good"
        return Refused(Refusal.PLACE, told, "kill it, mend it, and begin a new rollout with a new id")
    return None


def _is_backed(plan: Document, order: Order, place: Place, world: World) -> bool:
    """Whether the gate has just said yes to the very step at which the place stands."""
    if order.answer is None or world.now - order.answer.around.now > plan.gate.max_age:
        return False
    if order.answer.stage != Stage(order.place, place.wave, place.step, place.since):
        return False
    whys = {each.why for each in order.answer.reasons}
    return order.answer.verdict is Verdict.PROMOTE or (order.is_confirmed and whys == {Why.CONFIRM})


def _too_many(plan: Document, before: Standing, after: Standing, world: World) -> Refused | None:
    """The cap on early waves, by what the shares would be."""
    if plan.number(before.wave) >= 2:
        return None
    refused = _unknown(tuple(after.places), world)
    if refused is not None:
        return refused
    part = sum(share_of(plan, place) * world.traffic[name] for name, place in after.places.items())
    if part <= plan.rollout.caps.early:
        return None
    told = f"{part:.1f} % of all calls would get the candidate, at most {plan.rollout.caps.early:g} % may"
    return Refused(Refusal.EARLY_CAP, told, "begin with a smaller region, or raise rollout.caps.early")


def _unknown(names: tuple[str, ...], world: World) -> Refused | None:
    unknown = [name for name in names if name not in world.traffic]
    if not unknown:
        return None
    return Refused(
        Refusal.UNKNOWN_TRAFFIC,
        f"nobody knows which part of all calls {', '.join(unknown)} carries",
        "say how much: --traffic NAME=PERCENT",
    )


# ---------------------------------------------------------------- what each change does


def _same(_plan: Document, standing: Standing, _order: Order, _world: World) -> Standing:
    return standing


def _begun(plan: Document, standing: Standing, _order: Order, world: World) -> Standing:
    names = places_of(plan.rollout.wave[standing.wave])
    new = {name: Place(standing.wave, since=world.now) for name in names}
    return replace(standing, places={**standing.places, **new})


def _advanced(plan: Document, standing: Standing, order: Order, world: World) -> Standing:
    place = standing.places[order.place]
    if place.step == len(plan.rollout.wave[place.wave].steps) - 1:
        moved = replace(place, spot=Spot.PASSED)
    else:
        moved = replace(place, step=place.step + 1, since=world.now)
    return replace(standing, places={**standing.places, order.place: moved})


def _taken_back(_plan: Document, standing: Standing, order: Order, _world: World) -> Standing:
    moved = replace(standing.places[order.place], spot=Spot.OUT)
    return replace(standing, places={**standing.places, order.place: moved})


_DOORS: Final[Mapping[Change, Callable[[Document, Standing, Order, World], Refused | None]]] = {
    Change.BEGIN: _may_begin,
    Change.ADVANCE: _may_advance,
    Change.ROLLBACK: _may_roll_back,
    Change.FREEZE: _may,
    Change.THAW: _may,
    Change.RESUME: _may_resume,
    Change.KILL: _may,
}
_MAKERS: Final[Mapping[Change, Callable[[Document, Standing, Order, World], Standing]]] = {
    Change.BEGIN: _begun,
    Change.ADVANCE: _advanced,
    Change.ROLLBACK: _taken_back,
    Change.FREEZE: _same,
    Change.THAW: _same,
    Change.RESUME: _same,
    Change.KILL: _same,
}


def _of_wave(standing: Standing) -> Iterator[tuple[str, Place]]:
    return ((name, place) for name, place in standing.places.items() if place.wave == standing.wave)


def _closed(standing: Standing) -> Standing:
    """With its wave closed, if nobody in it is on the way any more: holdbacks end, the next one may begin."""
    spots = [place.spot for _, place in _of_wave(standing)]
    if not spots or Spot.STEPPING in spots:
        return standing
    opened = {
        name: replace(place, spot=Spot.OPEN) if place.spot is Spot.PASSED else place
        for name, place in standing.places.items()
    }
    return replace(standing, places=opened, wave=standing.wave + 1)


def _running(plan: Document, standing: Standing) -> Phase:
    """The phase of one that is neither stopped nor taken back."""
    if standing.wave >= len(plan.rollout.wave):
        return Phase.DONE
    return Phase.RUNNING if any(_of_wave(standing)) else Phase.WAITING
