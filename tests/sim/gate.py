"""The gate over thousands of rollouts that never were: how often it promotes, rolls back, and is wrong.

Calls are drawn by chance, all else is the real gate (relay/rollout/). The tables that were promised are
repeated, and what they leave open is measured: who asks when, late looks, sample ratios, drift, plans without
a control. Must never live here: a statistic of the gate (relay/rollout/), how a life is drawn (scene.py).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import sqrt
from statistics import median
from typing import Any

from load.report import Report, arguments, say
from relay.rollout.gate import Verdict
from relay.rollout.guardrails import BY_NAME
from relay.rollout.stats import newcombe
from relay.rollout.trial import Status, Tally
from sim.promised import BASE, FIRST, FIRST_RUNS, JOINT, JOINT_RUNS, WORSE
from sim.scene import BATCH, MOST, Fate, Scene, ask, fates, fresh, lives

TOLERANCE = 0.05
FALSE = 0.01
CAUGHT = 0.97
PARTS = ("first", "joint", "peek", "ratio", "breach", "bake", "open", "drift")

NAIVE_EVERY, NAIVE_Z = 50, 1.645


def one(name: str, share: float, factor: float, delta: float = 0.0, **more: Any) -> Scene:
    """A scene with one guardrail."""
    return Scene({name: share}, {name: share * factor}, {name: delta}, **more)


def several(factors: dict[str, float], ratio: float, prior: int) -> Scene:
    """A scene with five, some of them worse by a factor."""
    worse = {name: share * factors.get(name, 1) for name, share in BASE.items()}
    pct = min(95.0, 100 / (1 + ratio))
    return Scene(BASE, worse, ratio=ratio, prior=prior, pct=pct, actual=pct)


def shares(ends: Sequence[Fate]) -> dict[str, Any]:
    """Verdict -> share of runs, and median of candidate calls. Neither promoted nor taken back is held."""
    told: dict[str, Any] = {}
    for verdict in ("promote", "rollback", "hold"):
        calls = [each.calls for each in ends if _ended(each) == verdict]
        told[verdict] = round(len(calls) / len(ends), 4)
        if calls:
            told[f"{verdict}_calls"] = median(calls)
    return told


def _ended(fate: Fate) -> str:
    return fate.verdict.value if fate.verdict in (Verdict.PROMOTE, Verdict.ROLLBACK) else "hold"


class Sim:
    """One run of all parts."""

    def __init__(self, out: Report, *, quick: bool, seed: int) -> None:
        self._out = out
        self._quick = quick
        self._seed = seed

    def runs(self, whole: int, quick: int) -> int:
        """How many."""
        return quick if self._quick else whole

    def _near(self, name: str, value: float, promised: float, runs: int, theirs: int = FIRST_RUNS) -> None:
        """A bar: what was promised came of few runs as well, so chance may move either."""
        promised_at = min(promised, 0.98) if self._quick else promised
        wide = 3 if self._quick else 2
        chance = wide * sqrt(promised_at * (1 - promised_at) * (1 / theirs + 1 / runs))
        self._out.bar(f"{name}, off by", abs(value - promised), "<=", TOLERANCE + chance)

    def first(self) -> None:
        """One guardrail, control four times the calls, 20,000 prior ones."""
        runs = self.runs(2_000, 150)
        table: dict[str, Any] = {}
        for row, (name, share, delta, promised) in enumerate(FIRST):
            for factor, wanted in promised.items():
                told = shares(
                    fates(one(name, share, factor, delta), runs, [self._seed, 1, row, int(factor * 2)])
                )
                label = f"{name} {100 * share:g} % x{factor:g}"
                table[label] = told
                for verdict, figure in wanted.items():
                    self._near(f"{label} {verdict}", told[verdict], figure, runs)
                if factor == 1:
                    self._rare(f"{label}: rolled back though equal", told["rollback"], runs)
                if factor == 3:
                    self._out.bar(
                        f"{label}: caught", told["rollback"], ">=", CAUGHT - (0.03 if self._quick else 0)
                    )
        self._out.detail(first={"runs": runs, "cells": table})

    def _rare(self, name: str, value: float, runs: int, most: float = FALSE) -> None:
        """A bar; the short form's few runs get what chance may add."""
        chance = 3 * sqrt(most * (1 - most) / runs) if self._quick else 0.0
        self._out.bar(name, value, "<=", most + chance)

    def joint(self) -> None:
        """Five guardrails at once, by how much control there is."""
        runs = self.runs(600, 60)
        table: dict[str, Any] = {}
        for row, ((ratio, prior), promised) in enumerate(JOINT.items()):
            for column, (worse, factors) in enumerate(WORSE.items()):
                told = shares(fates(several(factors, ratio, prior), runs, [self._seed, 2, row, column]))
                label = f"{ratio:g}x + {prior} prior, {worse}"
                table[label] = told
                for verdict, figure in promised[column].items():
                    self._near(f"{label} {verdict}", told[verdict], figure, runs, JOINT_RUNS)
                if prior and not factors:
                    self._rare(f"{label}: rolled back", told["rollback"], runs)
        self._out.detail(joint={"runs": runs, "cells": table})

    def peek(self) -> None:
        """Who asks, when and how often: nothing of it may show in a verdict."""
        runs = self.runs(100, 20)
        choice = random.Random(self._seed)
        differ = asked = 0
        for place, factor in enumerate((1.0, 1.5, 2.0, 3.0)):
            scene = one("setup_fail", 0.01, factor, 0.01)
            plan = scene.plan()
            for life in lives(scene, runs, [self._seed, 3, place]):
                tallies = list(life)[: choice.randrange(4, MOST // BATCH)]
                always, seldom, last = fresh(plan), fresh(plan), fresh(plan)
                for tally in tallies:
                    for trial in (always, seldom, last):
                        trial.on_tally(tally)
                    verdict = ask(plan, always)
                    if choice.random() < 0.02:
                        asked += 1
                        differ += ask(plan, seldom) is not verdict
                differ += ask(plan, last) is not ask(plan, always)
                asked += 1
        self._out.bar("verdicts that depend on who asked when", differ, "==", 0)
        runs = self.runs(2_000, 150)
        scene = one("setup_fail", 0.01, 2, 0.01)
        ours = shares(fates(scene, runs, [self._seed, 3, 9]))["promote"]
        naive = sum(_naive(life) for life in lives(scene, runs, [self._seed, 3, 9])) / runs
        self._near("twice the setup failures promoted at these looks", ours, 0.067, runs)
        self._near(f"the same, looking each {NAIVE_EVERY} calls at z={NAIVE_Z:g}", naive, 0.24, runs)
        self._out.detail(peek={"asked": asked, "runs": runs, "planned_looks": ours, "each_50_calls": naive})

    def ratio(self) -> None:
        """Calls that go elsewhere than ordered end every verdict; chance alone seldom does."""
        runs = self.runs(500, 40)
        seeds = {"as ordered": 5.0, "a tenth fewer": 4.5, "a fifth fewer": 4.0}
        told: dict[str, Any] = {}
        for place, (label, actual) in enumerate(seeds.items()):
            scene = one("drop", 0.02, 1, 0.01, ratio=19, pct=5.0, actual=actual)
            plan = scene.plan()
            stopped, seen, promoted = 0, [], 0
            for life in lives(scene, runs, [self._seed, 4, place]):
                trial, was, at, end = fresh(plan), False, 0, None
                for tally in life:
                    trial.on_tally(tally)
                    if trial.is_mismatched and not was:
                        was, at = True, tally.calls
                    if trial.look is not None and end is None and ask(plan, trial) is Verdict.PROMOTE:
                        end = tally.calls
                stopped += was
                seen += [at] if was else []
                promoted += end is not None and (not was or end < at)
            told[label] = {"stopped": stopped / runs, "calls": median(seen) if seen else None}
            told[label]["promoted_before"] = promoted / runs
        self._out.detail(ratio={"runs": runs, "cells": told})
        self._out.bar("a fifth fewer calls than ordered: stopped", told["a fifth fewer"]["stopped"], "==", 1)
        self._out.bar("the same: promoted before that", told["a fifth fewer"]["promoted_before"], "<=", 0.05)
        self._out.bar("as ordered: ever stopped", told["as ordered"]["stopped"], "<=", 0.05)

    def breach(self) -> None:
        """Why a breach has to be certain: taken by the plain share, equal candidates would breach."""
        runs = self.runs(300, 40)
        told: dict[str, float] = {"certain": 0.0, "plain": 0.0}
        for life in lives(several({}, 4, 20_000), runs, [self._seed, 5]):
            trial, plain = fresh(several({}, 4, 20_000).plan()), False
            for tally in life:
                trial.on_tally(tally)
                plain = plain or any(_is_plainly_bad(name, tally) for name in BASE)
            told["plain"] += plain / runs
            told["certain"] += (trial.alarm is not None and trial.alarm.status is Status.BREACH) / runs
        self._out.bar("equal candidates in breach", round(told["certain"], 4), "<=", FALSE)
        self._out.detail(breach={"runs": runs, **{name: round(share, 4) for name, share in told.items()}})

    def bake(self) -> None:
        """A look at the end of a step's time, which is planned, promotes no more of what is worse."""
        runs = self.runs(500, 60)
        told: dict[str, Any] = {}
        for place, until in enumerate((0, 750, 3_000, MOST)):
            for factor in (1.0, 2.0):
                scene = one("setup_fail", 0.01, factor, 0.01, bake=until)
                told[f"until {until} calls, x{factor:g}"] = shares(fates(scene, runs, [self._seed, 6, place]))
        worst = max(each["promote"] for name, each in told.items() if name.endswith("x2"))
        equal = min(each["promote"] for name, each in told.items() if name.endswith("x1"))
        self._near("twice the setup failures promoted, whenever a step's time is over", worst, 0.067, runs)
        self._out.bar("equal candidates promoted, whenever it is", equal, ">=", 0.95)
        self._out.detail(bake={"runs": runs, "cells": told})

    def open(self) -> None:
        """Plans without control: judged by what is promised."""
        runs = self.runs(500, 40)
        told: dict[str, Any] = {}
        for place, (label, level) in enumerate((("promised", "slo"), ("warn", "warn"), ("bad", "bad"))):
            shared = {name: getattr(limits, level) for name, limits in BY_NAME.items()}
            calm = {name: limits.slo for name, limits in BY_NAME.items()}
            for name in ("all", *BY_NAME) if level != "slo" else ("all",):
                candidate = shared if name == "all" else calm | {name: shared[name]}
                scene = Scene(calm, candidate, ratio=0, prior=0)
                told[f"{label}, {name}"] = shares(fates(scene, runs, [self._seed, 7, place]))
        self._out.bar("as promised: opened", told["promised, all"]["promote"], ">=", 0.95)
        self._rare("as promised: closed", told["promised, all"]["rollback"], runs)
        bad = min(each["rollback"] for name, each in told.items() if name.startswith("bad"))
        warned = max(each["promote"] for name, each in told.items() if name.startswith("warn"))
        self._out.bar("one indicator bad: closed", bad, ">=", CAUGHT)
        self._rare("one indicator at its warning: opened", warned, runs, 0.1)
        self._out.detail(open={"runs": runs, "cells": told})

    def drift(self) -> None:
        """Days before that were better or worse than today: enough control at the same time shows it."""
        runs = self.runs(300, 60)
        told: dict[str, Any] = {}
        for row, (ratio, pct) in enumerate(((4.0, 20.0), (0.05, 95.0))):
            for column, factor in enumerate((0.5, 1.0, 2.0)):
                for times in (1.0, 2.0, 3.0):
                    scene = one("drop", 0.02, times, 0.01, ratio=ratio, pct=pct, actual=pct)
                    scene = replace(scene, before={"drop": 0.02 * factor})
                    label = f"{ratio:g}x control, days before x{factor:g}, candidate x{times:g}"
                    told[label] = shares(fates(scene, runs, [self._seed, 8, row, column, int(times)]))
        self._out.detail(drift={"runs": runs, "cells": told})
        back = told["4x control, days before x0.5, candidate x1"]["rollback"]
        self._rare("4x control, days before half as bad: rolled back though equal", back, runs, 0.1)
        worse = [each for name, each in told.items() if name.startswith("4x") and name.endswith("x3")]
        caught = min(each["rollback"] for each in worse)
        self._out.bar("4x control, any drift: three times the drops caught", caught, ">=", CAUGHT)


def _naive(tallies: Iterable[Tally]) -> bool:
    """Whether one who looks every now and then, and stops when it suits, would promote."""
    plan = one("setup_fail", 0.01, 2, 0.01).plan()
    trial = fresh(plan)
    for tally in tallies:
        trial.on_tally(tally)
        if trial.alarm is not None:
            return False
        (bad, valid), before = tally.control["setup_fail"], tally.prior["setup_fail"]
        control = (bad + before[0], valid + before[1])
        if (
            tally.calls % NAIVE_EVERY == 0
            and newcombe(tally.candidate["setup_fail"], control, NAIVE_Z)[1] < 0.01
        ):
            return True
    return False


def _is_plainly_bad(name: str, tally: Tally) -> bool:
    bad, valid = tally.candidate[name]
    return valid >= 50 and bad / valid > BY_NAME[name].bad


def main() -> int:
    """Run it; the exit status."""
    parser = arguments("gate", __doc__)
    parser.prog = "sim gate"
    parser.add_argument("--only", action="append", choices=PARTS, help="this part (may be repeated)")
    args = parser.parse_args()
    out = Report("gate", seed=args.seed, quick=args.quick)
    sim = Sim(out, quick=args.quick, seed=args.seed)
    for part in args.only or PARTS:
        say(f"{part}: {(getattr(Sim, part).__doc__ or '').splitlines()[0]}")
        getattr(sim, part)()
    return out.finish(as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
