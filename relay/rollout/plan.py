"""A rollout as data: which regions, in which order, how much at a time, and what must not become worse.

    TOML or JSON text --parse_plan--> Document (rollout, gate), or ConfigError with the field and the cure

    kind     unit                        judged against
    release  a call                      calls with the version before, at the same time in the same region
    open     a person or pair (`ru`)     what is promised: there is nothing to compare with

A plan never changes while it runs; how far it is stands in steps.py. Must never live here: state, files.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from relay.errors import ConfigError
from relay.rollout.guardrails import BY_NAME, LIMITS, Watched
from relay.settings import build, parse_toml, suggestion

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="1 to 64 of A-Z a-z 0-9 . _ -, first a letter or digit",
    ),
]
Group = Annotated[str, Meta(min_length=1, max_length=16)]  # as in a token's `grp`
Percent = Annotated[float, Meta(gt=0, le=100)]
Seconds = Annotated[float, Meta(ge=0, le=2_592_000)]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d{1,7}(?:\.\d{1,3})?) ?([smhd])")
_TIMES: Final = ("bake", "final_bake", "every", "max_age")  # keys that may be written as "90m"
_EXAMPLES: Final = {"id": '"relay-0.4"', "salt": '"s1"'}
_FINEST: Final = 0.01  # percent: one bucket


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of people, by their tokens' `grp`, for which chance does not decide: no sample."""

    always: tuple[Group, ...] = ()
    """These get the candidate wherever they are, from the start on."""
    never: tuple[Group, ...] = ()
    """These get it never. Wins over `always`."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Regions that open beside each other, each by itself from step to step."""

    regions: tuple[Name, ...] = ()
    """Where. Empty: for a group, everywhere."""
    group: str = ""
    """For this group instead of regions; such a wave comes first."""
    steps: tuple[Percent, ...] = ()
    """Shares one after the other, percent, growing, to 100."""
    bake: Seconds = 3_600.0
    """Least time at a step, seconds, or text such as "90m", "12h", "2d"."""
    final_bake: Seconds = 0.0
    """The same at the last step. 0: as `bake`."""
    min_calls: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    """Least candidate calls at a step. More wait longer and prove more."""
    confirm: bool = False
    """Whether a person has to say yes at the end of it, and the gate only closes, never promotes."""

    def bake_s(self, step: int) -> float:
        """Least time at this step, seconds."""
        return self.final_bake if step == len(self.steps) - 1 and self.final_bake else self.bake


@dataclass(frozen=True, slots=True)
class Guardrail:
    """What must not become worse."""

    name: Watched
    """Which indicator."""
    delta: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """How much worse than the control still counts as equal, as a share. 0: the usual one."""

    @property
    def margin(self) -> float:
        """The delta that holds."""
        return self.delta or BY_NAME[self.name].delta


@dataclass(frozen=True, slots=True)
class Caps:
    """What no step may exceed, whatever the gate says."""

    early: Percent = 10.0
    """Candidate calls of all calls everywhere, percent, before the second wave of regions."""
    wave: Percent = 34.0
    """Calls of the regions of one wave of all calls, percent, from the third wave on."""
    every: Seconds = 1_800.0
    """Least time between two steps of a region, seconds."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What is rolled out, and how."""

    id: str = ""
    """Its name. Never used twice."""
    salt: str = ""
    """Which people come first: another salt, others. A new one for each rollout."""
    kind: Literal["release", "open"] = "release"
    """release: a new version against the old one. open: the feature itself, where there was none."""
    candidate: str = ""
    """Version of the relay that is new (release)."""
    control: str = ""
    """Version that it is compared with (release)."""
    holdback: Annotated[float, Meta(ge=0, le=50)] = 5.0
    """Percent that keep the control at the step of 100 until the wave closes (release)."""
    groups: Groups = field(default_factory=Groups)
    """Groups that chance does not decide for."""
    failover: tuple[tuple[Name, Name], ...] = ()
    """Regions that stand in for each other: never both in one wave."""
    caps: Caps = field(default_factory=Caps)
    """What no step may exceed."""
    wave: tuple[Wave, ...] = ()
    """Waves in order."""
    guardrail: tuple[Guardrail, ...] = ()
    """What must not become worse. Empty: all that can be watched."""


@dataclass(frozen=True, slots=True)
class Gate:
    """How sure a verdict must be."""

    alpha: Annotated[float, Meta(gt=0, le=0.2)] = 0.01
    """How often an equal candidate may be rolled back, over a whole trial in a region."""
    beta: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """How often one that is twice as bad may be missed."""
    batch: Annotated[int, Meta(ge=1, le=1_000)] = 25
    """Candidate calls between two questions whether to roll back."""
    first_look: Annotated[int, Meta(ge=50, le=100_000)] = 500
    """Candidate calls at the first question whether to promote; then at twice as many, and so on."""
    max_calls: Annotated[int, Meta(ge=500, le=10_000_000)] = 16_000
    """Candidate calls at the last one: what is not decided then needs a person."""
    prior_calls: Annotated[int, Meta(ge=0, le=1_000_000)] = 20_000
    """Calls of earlier days, same region and hours, that count as control at most. 0: none do."""
    max_age: Annotated[float, Meta(gt=0, le=3_600)] = 90.0
    """Older counts are no data, seconds."""


@dataclass(frozen=True, slots=True)
class Document:
    """A plan whole."""

    rollout: Rollout = field(default_factory=Rollout)
    """What is rolled out."""
    gate: Gate = field(default_factory=Gate)
    """How sure a verdict must be."""

    @property
    def guardrails(self) -> tuple[Guardrail, ...]:
        """Those that hold."""
        return self.rollout.guardrail or tuple(
            msgspec.convert({"name": each.name}, Guardrail) for each in LIMITS
        )

    def share(self, wave: int, step: int) -> float:
        """Percent that get the candidate at a step of a wave that is not closed."""
        rollout = self.rollout
        most = 100.0 if rollout.kind == "open" else 100.0 - rollout.holdback
        return min(rollout.wave[wave].steps[step], 100.0 if rollout.wave[wave].group else most)

    def wave_of(self, region: str) -> int | None:
        """Which wave opens a region; None: none does."""
        found = (at for at, wave in enumerate(self.rollout.wave) if region in wave.regions)
        return next(found, None)

    def number(self, wave: int) -> int:
        """A wave's number for people: waves of regions count from 1, that of a group is 0."""
        groups = sum(bool(each.group) for each in self.rollout.wave)
        return max(0, wave - groups + 1)

    def facts(self) -> dict[str, Any]:
        """JSON value; parsed again it gives an equal plan."""
        return dataclasses.asdict(self)


def places_of(wave: Wave) -> tuple[str, ...]:
    """What a wave opens: its regions, or its group as one place."""
    return (f"@{wave.group}",) if wave.group else wave.regions


def parse_plan(text: str, source: str) -> Document:
    """Read a plan: JSON where it begins with "{", else TOML. `source` is the file's name, for messages.

    ConfigError names the field, what is wrong with it, and what to write.
    """
    raw = _json(text, source) if text.lstrip().startswith("{") else parse_toml(text, source)
    plan = build(Document, _timed(raw, ""))
    _check_rollout(plan.rollout)
    for at, wave in enumerate(plan.rollout.wave):
        _check_wave(wave, f"rollout.wave[{at}]")
    _check_order(plan)
    _check_failover(plan.rollout)
    if plan.gate.max_calls < plan.gate.first_look:
        raise ConfigError("gate.max_calls", "is less than gate.first_look", "raise it: 16000 is usual")
    return plan


def _json(text: str, source: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise ConfigError(source, f"not JSON: {error}", "or write TOML") from None
    assert isinstance(parsed, dict)  # it begins with a brace
    return parsed


def _timed(raw: Mapping[str, Any], at: str) -> dict[str, Any]:
    """The same with texts such as "90m" as seconds."""
    told: dict[str, Any] = {}
    for name, value in raw.items():
        here = f"{at}{name}"
        if isinstance(value, Mapping):
            told[name] = _timed(value, f"{here}.")
        elif isinstance(value, list):
            told[name] = [
                _timed(row, f"{here}[{place}].") if isinstance(row, Mapping) else row
                for place, row in enumerate(value)
            ]
        else:
            told[name] = _seconds(value, here) if name in _TIMES and isinstance(value, str) else value
    return told


def _seconds(text: str, key: str) -> float:
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ConfigError(key, f"{text!r} is not a time", 'write for example "90m", "12h" or "2d"')
    return float(found[1]) * _UNITS[found[2]]


def _check_rollout(rollout: Rollout) -> None:
    for name in ("id", "salt"):
        value = getattr(rollout, name)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            told = f"{value!r} is no name" if value else "is missing"
            cure = f"1 to 64 of A-Z a-z 0-9 . _ -, for example {name} = {_EXAMPLES[name]}"
            raise ConfigError(f"rollout.{name}", told, cure)
    versions = {name: getattr(rollout, name) for name in ("candidate", "control")}
    for name, value in versions.items():
        if rollout.kind == "release" and not value:
            raise ConfigError(f"rollout.{name}", "is missing", f'for example {name} = "0.4.0"')
        if rollout.kind == "open" and value:
            raise ConfigError(f"rollout.{name}", "a plan of kind open has none", "leave it out")
    if rollout.kind == "release" and rollout.candidate == rollout.control:
        raise ConfigError("rollout.control", "is the candidate, too", "name the version that runs today")
    if not rollout.wave:
        raise ConfigError("rollout.wave", "is missing", "write at least one [[rollout.wave]]")
    seen: set[str] = set()
    for at, rail in enumerate(rollout.guardrail):
        if rail.name in seen:
            raise ConfigError(f"rollout.guardrail[{at}].name", f"{rail.name} is there twice", "keep one")
        seen.add(rail.name)


def _check_wave(wave: Wave, at: str) -> None:
    if bool(wave.regions) == bool(wave.group):
        told = "has both regions and a group" if wave.group else "has neither regions nor a group"
        raise ConfigError(f"{at}.regions", told, 'write one: regions = ["eu-1"], or group = "dogfood"')
    if len(wave.group) > 16:
        raise ConfigError(f"{at}.group", "is longer than 16", "as in the tokens' grp")
    if not wave.steps:
        raise ConfigError(f"{at}.steps", "is missing", "for example steps = [1, 5, 25, 100]")
    for place, pct in enumerate(wave.steps):
        key = f"{at}.steps[{place}]"
        if abs(pct / _FINEST - round(pct / _FINEST)) > 1e-6:
            raise ConfigError(key, f"{pct:g} is finer than 0.01", "a bucket is 0.01 percent")
        if place and pct <= wave.steps[place - 1]:
            raise ConfigError(key, f"{pct:g} is not more than the step before", "let them grow")
    if wave.steps[-1] != 100:
        raise ConfigError(f"{at}.steps[{len(wave.steps) - 1}]", "the last step is not 100", "end with 100")
    if wave.bake <= 0:
        raise ConfigError(f"{at}.bake", "is no time", 'write for example "1h"')


def _check_order(plan: Document) -> None:
    seen: dict[str, int] = {}
    waves = plan.rollout.wave
    for at, wave in enumerate(waves):
        key = f"rollout.wave[{at}]"
        if wave.group and any(not each.group for each in waves[:at]):
            raise ConfigError(f"{key}.group", "comes after waves of regions", "put waves of groups first")
        if wave.group in plan.rollout.groups.never and wave.group:
            raise ConfigError(
                f"{key}.group", f"{wave.group} is in rollout.groups.never", "take it out of one"
            )
        for place, region in enumerate(wave.regions):
            if region in seen:
                told = f"{region} is in rollout.wave[{seen[region]}] already"
                raise ConfigError(f"{key}.regions[{place}]", told, "each region opens once")
            seen[region] = at
        most = {1: 1, 2: 3}.get(plan.number(at), len(wave.regions))
        if len(wave.regions) > most:
            told = f"{len(wave.regions)} regions in wave {plan.number(at)}, at most {most} may be"
            raise ConfigError(f"{key}.regions", told, "open the others in a later wave")


def _check_failover(rollout: Rollout) -> None:
    known = sorted({region for wave in rollout.wave for region in wave.regions})
    for at, pair in enumerate(rollout.failover):
        for region in pair:
            if region not in known:
                told = f"{region} is in no wave"
                raise ConfigError(f"rollout.failover[{at}]", told, suggestion(region, known))
        for place, wave in enumerate(rollout.wave):
            if set(pair) <= set(wave.regions):
                told = f"{pair[0]} and {pair[1]} stand in for each other (rollout.failover[{at}])"
                raise ConfigError(f"rollout.wave[{place}].regions", told, "open one of them in a later wave")
