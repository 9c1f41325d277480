"""Lives of a rollout that never were: calls drawn by chance, counted in batches, put before the real gate.

    Scene --draw--> Tally, batch after batch --> Trial --> judge --> Fate

Must never live here: a statistic, a bar.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from relay.rollout.gate import Around, Stage, Verdict, begun, judge, trial_of
from relay.rollout.plan import Document, parse_plan
from relay.rollout.stats import Count
from relay.rollout.trial import Tally, Trial

BATCH = 25
MOST = 16_000
BATCHES = MOST // BATCH
REGION = "r"
STAGE = Stage(REGION, 0, 0, 0.0)
NOW = 1.0  # a bake of a second is over, three times it is not


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of life. Shares 0-1."""

    base: dict[str, float]
    """Indicator -> share of bad calls of the control."""
    candidate: dict[str, float]
    deltas: dict[str, float] = field(default_factory=dict)
    ratio: float = 4.0
    """Control calls for each candidate call; 0: there is no control, and the plan is of kind open."""
    prior: int = 20_000
    """Control calls of the days before."""
    before: dict[str, float] = field(default_factory=dict)
    """Their shares, where they are not the base."""
    pct: float = 20.0
    """Share that was ordered, percent."""
    actual: float = 20.0
    """Share that came, percent."""
    bake: int = 0
    """Candidate calls at which the step's time is over."""

    def plan(self) -> Document:
        """As an operator would write it."""
        rails = [{"name": name, "delta": self.deltas.get(name, 0.0)} for name in self.base]
        rollout = {"id": "sim", "salt": "s", "guardrail": rails}
        wave = {"regions": [REGION], "steps": [self.pct, 100], "bake": "1s"}
        kind = {"candidate": "2", "control": "1"} if self.ratio else {"kind": "open"}
        return parse_plan(json.dumps({"rollout": rollout | kind | {"wave": [wave]}}), "sim")


@dataclass(frozen=True, slots=True)
class Fate:
    """How one life ended, and at how many candidate calls."""

    verdict: Verdict
    calls: int
    by: str = ""
    """What it was called worse by."""


def lives(scene: Scene, runs: int, seed: Sequence[int]) -> Iterator[Iterator[Tally]]:
    """So many lives, each as its tallies."""
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        yield _life(scene, rng)


def _life(scene: Scene, rng: np.random.Generator) -> Iterator[Tally]:
    calls = BATCH * np.arange(1, BATCHES + 1)
    controls = np.floor(scene.ratio * calls + 1e-9).astype(int)
    began = np.round(calls * 100 / scene.actual).astype(int)
    tested = {name: _summed(rng, calls, share) for name, share in scene.candidate.items()}
    control = {name: _summed(rng, controls, share) for name, share in scene.base.items()}
    drawn = _summed(rng, began, scene.actual / 100)
    prior: dict[str, Count] = {}
    for name, share in scene.base.items() if scene.prior else ():
        prior[name] = (int(rng.binomial(scene.prior, scene.before.get(name, share))), scene.prior)
    for at, (nt, nc, ns) in enumerate(zip(calls.tolist(), controls.tolist(), began.tolist(), strict=True)):
        yield Tally(
            NOW if nt >= scene.bake else NOW / 2,
            nt,
            {name: (row[at], nt) for name, row in tested.items()},
            {name: (row[at], nc) for name, row in control.items()} if scene.ratio else {},
            prior,
            (drawn[at], ns - drawn[at]) if scene.ratio else (0, 0),
        )


def _summed(rng: np.random.Generator, counts: np.ndarray, share: float) -> list[int]:
    """How many of the first so many were bad."""
    summed: list[int] = np.cumsum(rng.binomial(np.diff(counts, prepend=0), share)).tolist()
    return summed


def fresh(plan: Document) -> Trial:
    """A trial whose step has begun."""
    trial = trial_of(plan, STAGE.wave)
    trial.begin(begun(plan, STAGE))
    return trial


def ask(plan: Document, trial: Trial) -> Verdict:
    """The gate's verdict of this moment, with nothing else the matter."""
    return judge(plan, STAGE, trial, Around(NOW, {REGION: "ok"})).verdict


def live(plan: Document, tallies: Iterable[Tally]) -> Fate:
    """Batch after batch, until a verdict is carried out; the gate is asked where something has changed."""
    trial = fresh(plan)
    look = None
    for tally in tallies:
        trial.on_tally(tally)
        if trial.alarm is None and trial.look is look:
            continue
        look = trial.look
        verdict = ask(plan, trial)
        if verdict in (Verdict.PROMOTE, Verdict.ROLLBACK):
            return Fate(verdict, tally.calls, trial.alarm.name if trial.alarm else "")
    return Fate(ask(plan, trial), trial.calls)


def fates(scene: Scene, runs: int, seed: Sequence[int]) -> list[Fate]:
    """How so many lives end."""
    plan = scene.plan()
    return [live(plan, tallies) for tallies in lives(scene, runs, seed)]
