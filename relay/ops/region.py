"""How a region is, from samples of live counters: one word, one score, and the indicator that is to blame.

    Sample each 30 s --> window of 15 min --> Reading per indicator --> score = the worst one's --> state

    ok          70 and more
    degraded    30 and more
    bad         less
    unknown     too few calls to tell, or nothing new for a minute: it is never taken for ok

A change of state needs two of three looks, so that one odd half-minute wakes nobody; data that are too old
make it unknown at once. Canary calls that fail are a floor below all that: they need no people to be true,
and their success says nothing of people. Sans-I/O: time comes with the samples. Must never live here: what an
indicator means (slis.py), where the counts come from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any, Final

from relay.core.spread import Spread
from relay.ops.slis import (
    BY_NAME,
    CLEAR_SATURATION,
    FEW,
    SLIS,
    USUAL_FALLBACK,
    Reading,
    Sli,
    quantile,
    ratio,
    score,
    worst,
)

EVERY_S: Final = 30.0
WINDOW_S: Final = 900.0
OLD_S: Final = 60.0
LOOKS: Final = 3  # of which two must agree
BEST: Final = 100.0
OK_FROM: Final = 70.0
DEGRADED_FROM: Final = 30.0
HELD_SCORE: Final = OK_FROM - 1  # what saturation counts as until it is clearly over


class State(StrEnum):
    """How a region is."""

    OK = "ok"
    DEGRADED = "degraded"
    BAD = "bad"
    UNKNOWN = "unknown"


_SEVERITY: Final[Mapping[State, int]] = {State.OK: 0, State.DEGRADED: 1, State.BAD: 2}

Counted = tuple[int, int]
"""Bad events, valid events."""
Parts = Mapping[str, Spread]
"""Spreads of one indicator by part, such as the transport."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known at one moment. Counts since the start, but for what `live` says of running calls."""

    at: float
    """Monotonic seconds."""
    last_event: float = -inf
    """When the last call told something, on the same clock."""
    counted: Mapping[str, Counted] = field(default_factory=dict)
    live: Mapping[str, Counted] = field(default_factory=dict)
    spread: Mapping[str, Parts] = field(default_factory=dict)
    live_spread: Mapping[str, Parts] = field(default_factory=dict)
    gaps: int = 0
    judged_s: float = 0.0
    """Seconds of audio in which gaps were counted."""
    saturation: float = 0.0
    usual_fallback: float = USUAL_FALLBACK
    """What share of calls ends on TCP at this hour."""
    canary: Counted | None = None
    """Failures running, and of how many canary calls; of 0: it is silent. None: there is none."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a region is at one moment, ready to be published."""

    region: str
    variant: str
    version: str
    state: State
    score: float | None
    """None while the state is unknown: what little is known vouches for nothing."""
    worst: str
    """Name of the indicator that decides; empty when all score 100."""
    revision: int
    """Changes of state since the start."""
    age_s: float
    """Since the last call told something; infinite if none ever did."""
    readings: Mapping[str, Reading]
    thin: tuple[str, ...]
    """Indicators with too few events to count."""

    def body(self) -> dict[str, Any]:
        """JSON value."""
        return {
            "region": self.region,
            "variant": self.variant,
            "version": self.version,
            "state": self.state.value,
            "score": None if self.score is None else round(self.score, 1),
            "worst": self.worst,
            "revision": self.revision,
            "age_s": None if self.age_s == inf else round(self.age_s, 1),
            "thin": list(self.thin),
            "slis": {name: self._told(BY_NAME[name], one) for name, one in self.readings.items()},
        }

    def score_of(self, name: str) -> float | None:
        """What an indicator scores; None: it has too few events to tell."""
        return None if name in self.thin else score(self.readings[name].x, BY_NAME[name])

    def _told(self, sli: Sli, one: Reading) -> dict[str, Any]:
        points = self.score_of(sli.name)
        told = {
            "value": round(one.value, 6),
            "judged": round(one.x, 6),
            "events": one.events,
            "score": None if points is None else round(points, 1),
            "warn": sli.warn,
            "bad": sli.bad,
        }
        return told | ({"of": one.detail} if one.detail else {})


class Region:
    """One region and variant. Feed `on_sample` each `EVERY_S`; `standing` may be asked at any time."""

    def __init__(self, name: str, version: str, variant: str = "control") -> None:
        self._name = name
        self._version = version
        self._variant = variant
        self._samples: deque[Sample] = deque()
        self._looks: deque[State] = deque(maxlen=LOOKS)
        self._settled = State.UNKNOWN
        """By what people's calls say."""
        self._state = State.UNKNOWN
        self._floor = State.OK
        """The best that canary calls leave."""
        self._revision = 0
        self._readings: dict[str, Reading] = {}
        self._score: float | None = None
        self._worst = ""
        self._is_stressed = False
        self._is_overloaded = False

    def on_sample(self, sample: Sample) -> None:
        """Look at the counters of this moment."""
        samples = self._samples
        samples.append(sample)
        while len(samples) > 2 and samples[1].at <= sample.at - WINDOW_S:
            samples.popleft()
        self._readings = readings(samples[0], sample)
        look = self._judge(sample)
        self._looks.append(look)
        # Without data nothing can be said, and to wait for a second look would be to vouch for it.
        is_old = sample.at - sample.last_event > OLD_S and not self._is_overloaded
        self._settled = State.UNKNOWN if is_old else settle(self._settled, self._looks)
        self._become(lowered(self._settled, self._floor))

    @property
    def sampled_at(self) -> float:
        """When the last sample came; -infinity before the first."""
        return self._samples[-1].at if self._samples else -inf

    def standing(self, now: float) -> Standing:
        """How it is; unknown when nobody has looked for a while, whatever was known before."""
        last_event = self._samples[-1].last_event if self._samples else -inf
        is_blind = now - self.sampled_at > OLD_S
        is_old = now - last_event > OLD_S and not self._is_overloaded
        state = lowered(State.UNKNOWN, self._floor) if is_old else self._state
        if is_blind:
            state = State.UNKNOWN
        return Standing(
            region=self._name,
            variant=self._variant,
            version=self._version,
            state=state,
            score=None if state is State.UNKNOWN else self._score,
            worst=self._worst,
            revision=self._revision,
            age_s=now - last_event,
            readings=self._readings,
            thin=thin(self._readings),
        )

    def _judge(self, sample: Sample) -> State:
        """What this look alone says."""
        known = {name: one for name, one in self._readings.items() if _tells(name, one)}
        scores = {name: score(one.x, BY_NAME[name]) for name, one in known.items()}
        scores["saturation"] = self._stress(sample.saturation, scores["saturation"])
        self._floor = state_of(scores.get("canary", BEST))
        self._worst = min(scores, key=lambda name: scores[name])
        self._score = scores[self._worst]
        if self._score >= BEST:
            self._worst = ""  # all are as good as can be
        self._is_overloaded = scores["saturation"] < DEGRADED_FROM
        if self._is_overloaded:
            return State.BAD  # it needs no calls to be true
        media = (sli.name for sli in SLIS if sli.is_media)
        is_thin = "setup_fail" not in known or not any(name in known for name in media)
        if is_thin or sample.at - sample.last_event > OLD_S:
            return State.UNKNOWN
        return state_of(self._score)

    def _stress(self, saturation: float, value: float) -> float:
        """The score of saturation: once it was too much, it is that until it is clearly over."""
        self._is_stressed = value < OK_FROM or (self._is_stressed and saturation >= CLEAR_SATURATION)
        return min(value, HELD_SCORE) if self._is_stressed else value

    def _become(self, state: State) -> None:
        if state is not self._state:
            self._state = state
            self._revision += 1


def state_of(value: float) -> State:
    """The word for a score."""
    if value >= OK_FROM:
        return State.OK
    return State.DEGRADED if value >= DEGRADED_FROM else State.BAD


def settle(current: State, looks: Iterable[State]) -> State:
    """The state after these last looks: it changes when two of three say so, or worse, or better."""
    last = list(looks)
    known = [_SEVERITY[look] for look in last if look is not State.UNKNOWN]
    if len(last) - len(known) >= 2:
        return State.UNKNOWN
    for state in (State.BAD, State.DEGRADED, State.OK):
        severity = _SEVERITY[state]
        if sum(one >= severity for one in known) < 2:
            continue
        is_better = current is State.UNKNOWN or severity < _SEVERITY[current]
        if is_better and sum(one <= severity for one in known) < 2:
            return current
        return state
    return current


def lowered(state: State, floor: State) -> State:
    """No better than the floor; a floor that is ok vouches for nothing."""
    if floor is State.OK:
        return state
    return max(state, floor, key=lambda one: _SEVERITY.get(one, -1))


def _tells(name: str, one: Reading) -> bool:
    if name == "canary":
        return one.events > 0
    return name == "saturation" or one.events >= FEW


def thin(of: Mapping[str, Reading]) -> tuple[str, ...]:
    """Names of those with too few events."""
    return tuple(name for name, one in of.items() if not _tells(name, one))


def readings(first: Sample, last: Sample) -> dict[str, Reading]:
    """Every indicator over the time between two samples; running calls count as they are at the last."""
    told = (sli for sli in SLIS if sli.name != "canary" or last.canary is not None)
    return {sli.name: _reading(sli, first, last) for sli in told}


def _reading(sli: Sli, first: Sample, last: Sample) -> Reading:
    if sli.name == "saturation":
        return Reading(last.saturation, last.saturation, 0)
    if sli.name == "canary":
        running, known = last.canary or (0, 0)
        return Reading(running, running, known)
    if sli.name == "gaps":
        minutes = (last.judged_s - first.judged_s) / 60
        rate = (last.gaps - first.gaps) / minutes if minutes > 0 else 0.0
        return Reading(rate, rate, int(minutes))
    if sli.quantile is None:
        bad, valid = (
            now - then + running
            for now, then, running in zip(
                last.counted.get(sli.name, (0, 0)),
                first.counted.get(sli.name, (0, 0)),
                last.live.get(sli.name, (0, 0)),
                strict=True,
            )
        )
        return ratio(bad, valid, sli, last.usual_fallback if sli.name == "fallback" else 0.0)
    parts = []
    before, live = first.spread.get(sli.name, {}), last.live_spread.get(sli.name, {})
    ended = last.spread.get(sli.name, {})
    for part in sorted({*ended, *live}):
        spread = ended[part] if part in ended else Spread(live[part].bounds)
        if part in before:
            spread = spread.since(before[part])
        if part in live:
            spread = spread.plus(live[part])
        one = quantile(spread, sli)
        parts.append(Reading(one.value, one.x, one.events, part))
    return worst(parts, sli)
