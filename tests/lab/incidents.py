"""Incidents under a real Prometheus: does health name what is wrong, and do the alerts fire, and only then?

Each live stage has a daemon as shipped, people who call each other (crowd.py), a Prometheus of Debian that
scrapes it with our example of a configuration, intervals and all, and something that breaks once the region
is ok. Looks at /health each second; alerts and plots from what Prometheus wrote down. `rules` asks promtool,
`hours` simulates 1,000 healthy hours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import traceback
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from impair import Net, Outages
from lab import gauges
from lab.scene import Scene, live
from lab.sightings import became, known, words, worst_minute
from load import process, report
from prometheus.server import CONFIG, HAS_PROMETHEUS
from relay.ops.health import LAG_MINUTE
from relay.ops.region import EVERY_S, Region
from traffic_model import Traffic

HEALTHY_S: Final = 300.0
NAMED_S: Final = 120.0
SILENT_S: Final = 90.0
OK_WITHIN_S: Final = 180.0
PAGE_WITHIN_S: Final = NAMED_S + 60 + 30 + 15  # `for`, a look of the rules, a scrape
TAIL_S: Final = 45.0  # after the page, for the picture
HOURS: Final = 1000
VOIDS: Final = 2  # of a stage
HELD_UP_S: Final = 0.04  # 99 of 100 looks at the clock within a minute: at that a daemon counts as stressed
LOSS: Final = Net(Outages(0.25, 100))
MUTE_SHARE: Final = 0.3
HOG: Final = ("40", "0.3")  # ms that the neighbour takes at a time, ms between
QUICK_PER_S: Final = 5.0
QUICK_MUTE: Final = 0.4
BROKEN: Final = ("degraded", "bad")


@dataclass(frozen=True)
class Incident:
    """One that breaks something, and what must come of it."""

    name: str
    text: str
    named: tuple[str, ...]
    """Indicators of which one must be named."""
    pages: tuple[str, ...]
    """Alerts that must fire."""
    may: tuple[str, ...]
    """And those that may."""
    by_proxies: bool = False


INCIDENTS: Final = {
    one.name: one
    for one in (
        Incident(
            "loss",
            "a quarter of all packets lost, each way, in outages of 100 ms",
            ("leg_loss", "gaps", "poor_call"),
            ("RelayRegionBad",),
            ("RelayBurnsFast",),
            by_proxies=True,
        ),
        Incident(
            "setups",
            "in three of ten calls one side is never heard",
            ("setup_fail",),
            ("RelayRegionBad", "RelayBurnsFast setup_fail"),
            (),
        ),
        Incident(
            "slow",
            "a neighbour of real-time priority takes the lane's processor, 40 ms at a time",
            ("residence", "saturation"),
            ("RelayRegionBad",),
            ("RelayBurnsFast stale", "RelaySlow", "RelaySaturated"),
        ),
    )
}
# What runs beside each other. The neighbour of `slow` takes a processor of its own.
ROUNDS: Final = (("rules",), ("hours",), ("healthy", "silence"), ("loss", "setups"), ("slow",))
STAGES: Final = tuple(name for together in ROUNDS for name in together)


class Lab:
    """All stages of one run."""

    def __init__(self, arguments: Namespace, result: report.Report) -> None:
        self._arguments = arguments
        self._result = result
        self._plots: Path | None = arguments.plots
        self._held_up: dict[str, float] = {}
        self.voids: list[str] = []

    async def run(self, stages: tuple[str, ...]) -> None:
        """Round by round."""
        for together in ROUNDS:
            chosen = [name for name in together if name in stages]
            if chosen:
                report.say(f"{' and '.join(chosen)} ...")
                await asyncio.gather(*(self._stage(name) for name in chosen))
        self._result.detail(voids=self.voids, held_up_s=self._held_up)

    async def _stage(self, name: str) -> None:
        """One stage; what failed while the machine held this process up as well is void, and made again."""
        for left in reversed(range(VOIDS + 1)):
            out = report.Report(name, seed=self._arguments.seed, quick=self._arguments.quick)
            try:
                if name in INCIDENTS:
                    await self.incident(INCIDENTS[name], out)
                else:
                    await getattr(self, name)(out)
            except Exception:  # a fault of the lab's: the other stages go on
                report.say(traceback.format_exc())
                out.bar(f"{name}_ran", 0, "==", 1)
            if out.holds or self._held_up.get(name, 0.0) < HELD_UP_S or not left:
                break
            self.voids.append(name)
            report.say(f"{name} is void: this process was held up too, {self._held_up[name]} s; again ...")
        self._result.take(out)

    # ------------------------------------------------------------ without a daemon

    async def rules(self, out: report.Report) -> None:
        """promtool: the files are right, a healthy hour is silent, each incident fires."""
        cases = Path(__file__).parents[1] / "prometheus/relay.test.yml"
        for words_ in (
            ("check", "config", str(CONFIG / "prometheus.yml")),
            ("check", "rules", "--lint-fatal", str(CONFIG / "relay.rules.yml")),
            ("test", "rules", str(cases)),
        ):
            done = await asyncio.to_thread(
                subprocess.run, ["promtool", *words_], capture_output=True, text=True, check=False
            )
            if done.returncode:
                report.say(done.stdout + done.stderr)
            out.bar(f"promtool_{words_[0]}_{words_[1]}_status", done.returncode, "==", 0)

    async def hours(self, out: report.Report) -> None:
        """Healthy hours on a simulated clock: calls whose rates are just what is promised."""
        seen = await asyncio.to_thread(simulate, HOURS, self._arguments.seed)
        out.bar("simulated_healthy_hours", sum(seen.values()) * EVERY_S / 3600, ">=", HOURS)
        out.bar("false_bad_looks", seen["bad"], "==", 0)
        out.detail(simulated_looks=dict(seen))

    # ------------------------------------------------------------ peace

    async def healthy(self, out: report.Report) -> None:
        """Five minutes of calls that come and go."""
        async with live(self._arguments.seed) as scene:
            await asyncio.sleep(HEALTHY_S)
            seconds = time.time() - scene.began
            await self._judge_start(out, "healthy", scene)
            out.bar("healthy_live_seconds", round(seconds), ">=", HEALTHY_S)
            ok = became(scene.looks, ("ok",), 0.0)
            others = [look for look in scene.looks if ok and look.at > ok.at and look.state != "ok"]
            out.bar("healthy_looks_that_were_not_ok_after_that", len(others), "==", 0)
            await self._judge_alerts(out, "healthy", scene, (), ())
            await self._finish(out, "healthy", scene, "nothing is wrong")

    async def silence(self, out: report.Report) -> None:
        """Traffic stops at once."""
        async with live(self._arguments.seed + 1) as scene:
            if not await self._judge_start(out, "silence", scene):
                return
            begin = scene.begin = time.time()
            await scene.crowd.stop()
            look = await scene.until(("unknown",), SILENT_S + 30, since=begin)
            _after(out, "silence_unknown_after_s", look.age_s if look else None, SILENT_S)
            if look and look.age_s is not None:
                scene.marks |= {"last news of a call": look.at - look.age_s, "unknown": look.at}
            states = words([one for one in scene.looks if one.at >= begin])
            out.bar("silence_bad_or_degraded_meanwhile", len(set(states) & set(BROKEN)), "==", 0)
            await asyncio.sleep(TAIL_S)
            await self._judge_alerts(out, "silence", scene, (), ())
            await self._finish(out, "silence", scene, "all hang up")

    # ------------------------------------------------------------ war

    async def incident(self, told: Incident, out: report.Report) -> None:
        """Something breaks once the region is ok."""
        seed = self._arguments.seed + 2 + list(INCIDENTS).index(told.name)
        async with live(seed, by_proxies=told.by_proxies) as scene:
            if not await self._judge_start(out, told.name, scene):
                return
            with self._breaking(told.name, scene):
                begin = scene.begin = scene.marks["it begins"] = time.time()
                look = await scene.until(BROKEN, NAMED_S + 30, since=begin)
                _after(out, f"{told.name}_state_after_s", look.at - begin if look else None, NAMED_S)
                named = look.worst if look else ""
                out.bar(f"{told.name}_names_its_cause", int(named in told.named), "==", 1)
                if look:
                    scene.marks[f"{look.state}, {look.worst}"] = look.at
                alerts = await self._until_fired(scene, told.pages, begin + PAGE_WITHIN_S)
                await asyncio.sleep(TAIL_S)
            for page in told.pages:
                after = alerts[page] - begin if page in alerts else None
                _after(out, f"{told.name}_{page.replace(' ', '_')}_after_s", after, PAGE_WITHIN_S)
            if all(page in alerts for page in told.pages):
                scene.marks["all alerts"] = max(alerts[page] for page in told.pages)
            await self._judge_alerts(out, told.name, scene, told.pages, told.may)
            await self._finish(out, told.name, scene, told.text)

    async def _until_fired(self, scene: Scene, pages: tuple[str, ...], until: float) -> dict[str, float]:
        while True:
            alerts = await scene.alerts()
            if all(page in alerts for page in pages) or time.time() > until:
                return alerts
            await asyncio.sleep(5.0)

    @contextlib.contextmanager
    def _breaking(self, name: str, scene: Scene) -> Iterator[None]:
        """While it lasts, this is broken."""
        if name == "loss":
            scene.crowd.spoil(LOSS)
            yield
        elif name == "setups":
            scene.crowd.mute_share = MUTE_SHARE
            yield
        else:
            with neighbour(scene.daemon.pid):
                yield

    # ------------------------------------------------------------ the short form

    async def quick(self) -> None:
        """Half a minute of failing set-ups from a cold start: one look names them, and settles nothing."""
        out = self._result
        async with live(self._arguments.seed, per_s=QUICK_PER_S, sdk=0, mute=QUICK_MUTE) as scene:
            prometheus = scene.prometheus
            seen = 'relay_sli_score{sli="setup_fail"} < 30'
            until = time.time() + 50
            found: list[dict[str, Any]] = []
            while time.time() < until and not found:
                await asyncio.sleep(2.0)
                found = await asyncio.to_thread(prometheus.query, seen)
            last = scene.looks[-1]
            out.bar("quick_names_its_cause", int(last.worst == "setup_fail"), "==", 1)
            told = [look.score for look in scene.looks if look.score is not None]
            out.bar("quick_scores_of_a_region_that_is_unknown", len(told), "==", 0)
            out.bar("quick_set_ups", last.set_ups, ">=", 100)
            others = [state for state in words(scene.looks) if state != "unknown"]
            out.bar("quick_states_other_than_unknown", len(others), "==", 0)
            out.bar("quick_scores_that_prometheus_has", len(found), "==", 1)
            await self._judge_alerts(out, "quick", scene, (), ())

    # ------------------------------------------------------------ small things

    async def _judge_start(self, out: report.Report, name: str, scene: Scene) -> bool:
        """Cold start: unknown until there are calls enough, then ok."""
        look = await scene.until(("ok",), OK_WITHIN_S, since=scene.began)
        self._held_up[name] = round(worst_minute(scene.late, LAG_MINUTE), 3)
        before = words(scene.looks)
        if look:
            scene.marks["ok"] = look.at
        out.bar(f"{name}_ok_after_s", look and round(look.at - scene.began, 1), "<=", OK_WITHIN_S)
        cold = int(before[:2] == ["unknown", "ok"])
        out.bar(f"{name}_is_unknown_at_a_cold_start_then_ok", cold, "==", 1)
        out.bar(f"{name}_set_ups_when_ok", look and look.set_ups, ">=", 100)
        return look is not None

    async def _judge_alerts(
        self, out: report.Report, name: str, scene: Scene, pages: tuple[str, ...], may: tuple[str, ...]
    ) -> None:
        """What fired, what must not have; that all scrapes and rules worked."""
        self._held_up[name] = round(worst_minute(scene.late, LAG_MINUTE), 3)
        alerts = await scene.alerts()
        others = [alert for alert in alerts if not known(alert, (*pages, *may))]
        out.bar(f"{name}_other_alerts_that_fired", len(others), "==", 0)
        groups = (await asyncio.to_thread(scene.prometheus.get, "rules"))["groups"]
        wrong = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]
        out.bar(f"{name}_rules_in_error", len(wrong), "==", 0)
        up = await asyncio.to_thread(scene.prometheus.query, "avg_over_time(up[1h])")
        share = float(up[0]["value"][1]) if up else None
        out.bar(f"{name}_scrapes_that_worked", share, "==", 1)
        begin = scene.begin or scene.began
        told = {alert: round(at - begin, 1) for alert, at in sorted(alerts.items())}
        out.detail(**{f"{name}_alerts_after_s": told, f"{name}_states": words(scene.looks)})

    async def _finish(self, out: report.Report, name: str, scene: Scene, text: str) -> None:
        last = scene.looks[-1]
        out.detail(
            **{
                f"{name}_named": [mark for mark in scene.marks if ", " in mark],
                f"{name}_last": {"state": last.state, "worst": last.worst, "score": last.score},
                f"{name}_calls": scene.crowd.facts(),
            }
        )
        if self._plots is None:
            return
        series = await scene.series()
        self._plots.mkdir(parents=True, exist_ok=True)
        path = self._plots / f"incidents-{name}.png"
        title = f"{name}: {text}"
        drawn = await asyncio.to_thread(gauges.draw, series, path, title, scene.began, scene.marks)
        out.bar(f"{name}_panels_with_data", sum(bool(lines) for lines in series.values()), ">=", 6)
        out.bar(f"{name}_picture_of_at_most_60_kB", int(drawn), "==", 1)


def _after(out: report.Report, name: str, seconds: float | None, bound: float) -> None:
    out.bar(name, None if seconds is None else round(seconds, 1), "<=", bound)


@contextlib.contextmanager
def neighbour(pid: int) -> Iterator[None]:
    """Who takes the lane's processor (hog.py) until the end; all others keep to the rest."""
    cpus = process.cpus()
    mine, theirs = set(cpus[:-1]), cpus[-1]
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), mine)
    os.sched_setaffinity(0, mine)
    longest = NAMED_S + PAGE_WITHIN_S + TAIL_S
    words_ = [str(pid), str(theirs), str(longest), *HOG]
    hog = subprocess.Popen([sys.executable, "-m", "lab.hog", *words_])
    try:
        yield
        if hog.poll() is not None:
            raise RuntimeError(f"the neighbour ended early with status {hog.returncode}; it needs root")
    finally:
        hog.terminate()
        hog.wait()
        os.sched_setaffinity(0, set(cpus))


def simulate(hours: int, seed: int) -> Counter[str]:
    """States of a healthy region at each look of so many hours."""
    region = Region("simulated", "")
    seen: Counter[str] = Counter()
    for sample in Traffic(hours, seed).samples():
        region.on_sample(sample)
        seen[region.standing(sample.at).state.value] += 1
    return seen


def main() -> int:
    """Run, print, tell by the exit status."""
    parser = report.arguments("incidents", __doc__)
    parser.prog = "lab incidents"
    parser.add_argument("--stage", choices=STAGES, action="append", help="this one only; may be repeated")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="a picture of each live stage")
    arguments = parser.parse_args()
    result = report.Report("incidents", seed=arguments.seed, quick=arguments.quick)
    stages = tuple(arguments.stage or STAGES)
    if arguments.quick and arguments.stage not in (None, ["setups"]):
        parser.error("--quick is a short form of the stage setups: leave --stage out")
    if not HAS_PROMETHEUS and stages != ("hours",):
        parser.error("there is no prometheus and no promtool here (Debian: prometheus)")
    if "slow" in stages and not arguments.quick and (os.geteuid() != 0 or len(process.cpus()) < 2):
        parser.error("the stage slow needs root and two processors: choose others by --stage")
    lab = Lab(arguments, result)
    uvloop.run(lab.quick() if arguments.quick else lab.run(stages))
    return result.finish(as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
