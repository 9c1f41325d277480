"""`./scripts/lab voice`: real speech by real calls over networks that hurt, in stages.

    clips    over networks that lose it, and what PESQ thinks of it: here
    steps    over a last mile that becomes narrow and wide again: steps.py
    beside   beside a download by TCP, in network namespaces: beside.py
    walk     through all kinds of bad weather, one after the other: walk.py

Of the first:

    speech.py      clips of several talkers        schemes.py     how they are brought over
    voicecall.py   the calls                       lastmile.py    the listener's network
    cells.py       which calls                     scoring.py     what was heard
    estimator.py   what the relay thinks of it     plot.py        the picture

Each clip is a call of its own in real time, a dozen at once: `relay serve` as shipped, both people by SDK. A
batch during which this machine was too busy is void and made again, twice at most. Must never live here: how
a call goes, how speech is scored.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Final, get_args

from lab import beside, estimator, mixed, plot, scoring, speech, steps, walk
from lab.cells import GRID, JUDGED, LEAD_S, QUICK, Cell, Job, Key, batches, finish, is_void
from lab.schemes import SCHEMES
from lab.voicecall import Order
from load import report
from load.daemon import Daemon, imbalance, total
from relay.config_voice import AdaptConfig, QualityConfig
from relay.protocol.token import to_text

STAGES: Final = ("clips", "steps", "mixed", "beside", "walk")
MINUTES: Final = 5.0
VOIDS: Final = 2
QUICK_VOIDS: Final = 1  # a minute is short
CLIPS: Final = 24
GRID_CLIPS: Final = 8
QUICK_CLIPS: Final = 4
NICE: Final = -10  # calls must not wait for whatever else runs here
TIMER_MS: Final = 5.0  # by which an age may be measured too high on a machine that is not void
GAIN: Final = 1.5
BYTES: Final = 1.45
OVER_RED: Final = 0.7
UNDER_CLEAN: Final = 0.3
COPIES_GAIN: Final = 1.0
CLEAN_BYTES: Final = 0.005
CLEAN_CHANGE: Final = 0.05
QUICK_GAIN: Final = 0.8
RMSE: Final = 0.25  # of the relay's own estimate


class Calls:
    """Places calls at two daemons, one that adapts and one that does not."""

    def __init__(
        self,
        daemons: dict[bool, Daemon],
        clips: list[speech.Clip],
        seed: int,
        folder: Path,
        again: int = VOIDS,
    ) -> None:
        self._daemons = daemons
        self._clips = clips
        self._seed = seed
        self._folder = folder
        self._again = again
        self.voids = 0
        self.kept_void = 0
        self.worst_lag_s = 0.0

    def recording(self, job: Job) -> str:
        """Where what was heard stands."""
        return str(self._folder / f"{job.key}-{job.clip}.wav")

    def place(self, jobs: list[Job]) -> list[dict[str, Any]]:
        """A batch, again if it was void."""
        for attempt in range(self._again + 1):
            told = self._once(jobs)
            if not is_void(told["lag"]):
                break
            self.voids += attempt < self._again
            self.kept_void += attempt == self._again
            report.say(f"    void: this machine was late by {1000 * told['lag']['worst_s']:.0f} ms")
        self.worst_lag_s = max(self.worst_lag_s, told["lag"]["worst_s"])
        calls: list[dict[str, Any]] = told["calls"]
        return calls

    def _once(self, jobs: list[Job]) -> dict[str, Any]:
        orders = [asdict(self._order(job)) for job in jobs]
        command = [sys.executable, "-m", "lab.voicecall"]
        done = subprocess.run(
            command, input=json.dumps(orders) + "\n", stdout=subprocess.PIPE, text=True, check=True
        )
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    def _order(self, job: Job) -> Order:
        daemon = self._daemons[SCHEMES[job.key.scheme].adapts]
        call = os.urandom(16)
        others = [clip for clip in self._clips if clip.talker == self._clips[job.clip].talker]
        after = others[(others.index(self._clips[job.clip]) + 1) % len(others)]
        return Order(
            scheme=job.key.scheme,
            net=job.key.net,
            rtt_ms=job.key.rtt_ms,
            seed=1000 * self._seed + job.clip,  # all schemes meet the same outages
            port=daemon.server[1],
            tokens=[to_text(daemon.token(call)) for _ in range(2)],
            lead=str(after.path),
            lead_s=job.key.lead_s,
            speech=str(self._clips[job.clip].path),
            heard=self.recording(job),
        )


def run(calls: Calls, keys: Sequence[Key], clips: list[speech.Clip]) -> dict[Key, Cell]:
    """Place all calls of these cells, then score them."""
    placed: dict[Job, dict[str, Any]] = {}
    parts = batches(keys, len(clips))
    for number, jobs in enumerate(parts, 1):
        report.say(f"  {len(jobs)} calls at once, batch {number} of {len(parts)} ...")
        placed.update(zip(jobs, calls.place(jobs), strict=True))
    report.say(f"  scoring {len(placed)} recordings ...")
    pairs = [scoring.Pair(str(clips[job.clip].path), calls.recording(job), job.key.lead_s) for job in placed]
    scores = dict(zip(placed, scoring.score_all(pairs, len(os.sched_getaffinity(0))), strict=True))
    found = {}
    for key in keys:
        jobs = [Job(key, number) for number in range(len(clips))]
        plcmos = [value for value in (scores[job].plcmos for job in jobs) if value is not None]
        found[key] = finish(key, [placed[job] for job in jobs], [scores[job].pesq for job in jobs], plcmos)
    return found


def tell(cells: dict[Key, Cell]) -> None:
    """The table."""
    report.say("  network     rtt  scheme     PESQ  +-    PLCMOS  bytes  lost %  missed %  gain   +-")
    for key, cell in cells.items():
        row = cell.as_dict(cells.get(key.base))
        plcmos = f"{row['plcmos']:6.2f}" if row["plcmos"] is not None else "     -"
        gain = f"{row['gain']:6.2f}  {row['gain_error']:.2f}" if "gain" in row else ""
        report.say(
            f"  {key.net:10} {key.rtt_ms:4}  {key.scheme:9} {row['pesq']:5.2f}  {row['pesq_error']:.2f}"
            f" {plcmos}  {row.get('bytes_ratio', 1.0):5.3f}  {100 * row['network_lost']:6.2f}"
            f"  {100 * row['missed']:8.2f} {gain}"
        )


Bar = Callable[..., None]


def judge(bar: Bar, cells: dict[Key, Cell]) -> None:
    """The bars of a full run."""

    def cell(net: str, scheme: str, rtt_ms: int = 40, lead_s: float = LEAD_S) -> Cell:
        return cells[Key(net, rtt_ms, scheme, lead_s)]

    repaired, plain = cell("b10_60", "repaired"), cell("b10_60", "plain")
    bar("b10_60_repaired_over_plain", repaired.mean - plain.mean, ">=", GAIN)
    bar("b10_60_repaired_bytes", repaired.bytes / plain.bytes, "<=", BYTES)
    bar("b10_60_repaired_over_red", repaired.mean - cell("b10_60", "red").mean, ">=", OVER_RED)
    clean = cell("clean", "plain", lead_s=0.0)
    bar("iid5_repaired_under_clean", clean.mean - cell("iid5", "repaired").mean, "<=", UNDER_CLEAN)
    copies = cell("b10_60", "copies", 150).mean - cell("b10_60", "plain", 150).mean
    bar("b10_60_150ms_copies_over_plain", copies, ">=", COPIES_GAIN)
    judge_clean(bar, cells)


def judge_clean(bar: Bar, cells: dict[Key, Cell]) -> None:
    """What a leg pays that loses nothing."""
    repaired, plain = cells[Key("clean", 40, "repaired")], cells[Key("clean", 40, "plain")]
    bar("clean_extra_bytes", repaired.bytes / plain.bytes - 1, "<=", CLEAN_BYTES)
    bar("clean_pesq_change", abs(repaired.mean - plain.mean), "<=", CLEAN_CHANGE)


def judge_quick(bar: Bar, cells: dict[Key, Cell]) -> None:
    """The bars of the quick form: four clips tell great differences only."""
    for net in ("iid10", "b10_60"):
        repaired, plain = cells[Key(net, 40, "repaired")], cells[Key(net, 40, "plain")]
        bar(f"{net}_repaired_over_plain", repaired.mean - plain.mean, ">=", QUICK_GAIN)
    judge_clean(bar, cells)


def judge_deadlines(bar: Bar, cells: dict[Key, Cell], lag_ms: float) -> None:
    """Nothing leaves the relay, or is played, later than it may, as far as this machine can tell."""
    for name in ("first_over", "repeat_over", "play_over"):
        bar(f"{name}_ms", max(cell.oldest[name] for cell in cells.values()), "<=", TIMER_MS + lag_ms)


def measure_clips(arguments: Namespace, result: report.Report, folder: Path) -> None:
    """Everything with both daemons up."""
    is_quick = arguments.quick
    clips = speech.clips(QUICK_CLIPS if is_quick else arguments.clips)
    adapt = AdaptConfig(enabled=True, always_armed=True)
    plainly = AdaptConfig(enabled=False)
    with Daemon.start(adapt=plainly) as plain, Daemon.start(adapt=adapt) as adapting:
        calls = Calls(
            {False: plain, True: adapting}, clips, arguments.seed, folder, QUICK_VOIDS if is_quick else VOIDS
        )
        cells = run(calls, QUICK if is_quick else JUDGED, clips)
        tell(cells)
        grid: dict[Key, Cell] = {}
        if arguments.grid and not is_quick:
            report.say("the grid ...")
            grid = run(calls, GRID, clips[:GRID_CLIPS])
            tell(grid)
        # On a machine that was too busy again and again quality is told, not judged.
        bar = (lambda *what: result.bar(*what, is_speed=True)) if calls.kept_void and is_quick else result.bar
        (judge_quick if is_quick else judge)(bar, cells)
        judge_deadlines(bar, {**grid, **cells}, 1000 * calls.worst_lag_s)
        samples = [daemon.metrics() for daemon in (plain, adapting)]
        complaints = plain.complaints() + adapting.complaints()
    if grid:
        use = QualityConfig()
        told = estimator.compare(list(grid.values()), clips[:GRID_CLIPS], use.ie_high, use.bpl)
        result.bar("estimate_rmse_of_talkers_not_fitted", told["rmse_checked"], "<=", RMSE)
        result.bar("estimate_rmse_in_use", told["rmse_in_use"], "<=", RMSE)
        result.detail(estimate=told)
    result.bar("imbalance", sum(imbalance(one) for one in samples), "==", 0)
    result.bar("complaints", len(complaints), "==", 0)
    if not is_quick:
        result.bar("batches_void_in_the_end", calls.kept_void, "==", 0)
    picture = folder / "quality.png"
    clean = {key: cell for key, cell in cells.items() if key.net == "clean"}
    has_picture = plot.draw([*clean.values(), *(grid or cells).values()], picture)
    result.detail(
        talkers={talker.name: f"{talker.who}, {talker.package}" for talker in speech.TALKERS},
        lane=next((key.split('"')[1] for key in samples[1] if key.startswith("relay_lane_info")), "?"),
        repeats=total(samples[1], "relay_repair_repeats_total"),
        plcmos="speechmos" if scoring.has_plcmos() else "not installed",
        voids=calls.voids,
        worst_lag_ms=round(1000 * calls.worst_lag_s, 1),
        complaints=complaints,
        cells=[cell.as_dict(cells.get(key.base)) for key, cell in cells.items()],
        grid=[cell.as_dict(grid.get(key.base)) for key, cell in grid.items()],
        mean_pesq_by_talker=by_talker(cells, clips),
        picture=str(picture) if has_picture else "matplotlib is not installed",
        recordings=str(folder),
    )


def by_talker(cells: dict[Key, Cell], clips: list[speech.Clip]) -> dict[str, dict[str, float]]:
    """Mean PESQ of each cell and talker."""
    found: dict[str, dict[str, float]] = {}
    for key, cell in cells.items():
        values = defaultdict(list)
        for clip, value in zip(clips, cell.pesq, strict=True):
            values[clip.talker].append(value)
        found[str(key)] = {talker: round(fmean(some), 3) for talker, some in values.items()}
    return found


def measure(arguments: Namespace, result: report.Report) -> None:
    """The stages that were asked for; by default all, without root none that needs it."""
    if "clips" in arguments.stage:
        folder = arguments.out or Path(tempfile.mkdtemp(prefix="relay-voice-"))
        folder.mkdir(parents=True, exist_ok=True)
        measure_clips(arguments, result, folder)
    if "steps" in arguments.stage:
        lanes = arguments.lane or (["auto"] if arguments.quick else ["native", "python"])
        steps.measure(result, lanes, arguments.seed, quick=arguments.quick)
    if "mixed" in arguments.stage:
        mixed.measure(result, arguments.seed, quick=arguments.quick)
    if "beside" in arguments.stage:
        beside.measure(result, arguments.seed, quick=arguments.quick)
    if "walk" in arguments.stage:
        walk.measure(result, arguments.seed, arguments.minutes)


def default_stages(*, quick: bool, is_root: bool) -> list[str]:
    """What runs if nothing was asked for."""
    if quick:
        return ["clips", "steps", "mixed"]
    return [stage for stage in STAGES if is_root or stage != "beside"]


def main() -> int:
    """Run, print, tell by the exit status."""
    parser = report.arguments("voice", __doc__)
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"calls of each cell (default {CLIPS})")
    parser.add_argument("--no-grid", dest="grid", action="store_false", help="judged cells alone, no curves")
    parser.add_argument("--out", type=Path, help="folder for recordings and the picture")
    parser.add_argument(
        "--stage",
        action="append",
        choices=STAGES,
        help="one of the stages; may be given several times (default all; --quick: clips, steps, mixed)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help=f"length of the walk (default {MINUTES:g}; the bar is 30)",
    )
    parser.add_argument(
        "--lane",
        action="append",
        choices=get_args(steps.Lane),
        help="which lanes steps run on (default native and python; with --quick what there is)",
    )
    arguments = parser.parse_args()
    is_root = os.geteuid() == 0
    arguments.stage = arguments.stage or default_stages(quick=arguments.quick, is_root=is_root)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    result = report.Report("voice", seed=arguments.seed, quick=arguments.quick)
    result.detail(stages=arguments.stage)
    measure(arguments, result)
    return result.finish(as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
