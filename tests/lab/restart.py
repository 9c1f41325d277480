"""Daemons follow each other under calls: nobody is lost, and nobody hears it.

Two daemons on loopback: one is restarted again and again by the next generation that takes over
(listen.handover_socket), the other, the control, stands still; calls of the SDK go through both from the same
processes. For each restart and direction the gap is what was missing: packets that never came and, of a
voice, frames that the jitter buffer had to conceal, 20 ms each, all together, as if they had been in a row. A
restart beside which the control breaks the bound is void. That is the stage `planned`. Of the others
`sigterm` ends a node whose people go to another one (sigterm.py), `crash` kills one under calls of its own
(crash.py), `rotate` restarts nothing: it renews the certificate (rotate.py).
"""

from __future__ import annotations

import re
import tempfile
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from lab import crash, rotate, sigterm
from lab.callers import Callers, orders
from lab.generations import Box
from load import report
from load.process import cpu_seconds

CALLS, RESTARTS, VOICES = 200, 20, 4
QUICK_CALLS, QUICK_RESTARTS = 10, 2
STAGES = ("planned", "sigterm", "crash", "rotate")
CRASH_CALLS, KILLS = 300, 20
QUICK_CRASH_CALLS, QUICK_KILLS = 6, 2
ROTATE_CALLS, ROTATIONS = 20, 100
QUICK_ROTATE_CALLS, QUICK_ROTATIONS = 4, 5
PROCESSES = 4
CONTROLS = PROCESSES  # voices through the daemon that stands still: whichever process stalls, one notices
GAP_MS = 20.0
VOIDS = 2
SMEAR_S, QUICK_SMEAR_S = 20.0, 1.0  # a move costs a person of the SDK and the daemon 25 ms of CPU
SETTLE_S = 1.5  # after the old one has left: the last legs are let go
LEFT_S = 60.0
LIMITS = """
[limits]
initials_per_source_per_s = 2000
initials_per_source_burst = 2000
"""

Marks = list[dict[str, Any]]


def percentile(values: list[float], share: float) -> float | None:
    """The value that this share of all does not exceed."""
    found = sorted(values)
    return found[min(len(found) - 1, int(share * len(found)))] if found else None


class Restarts:
    """The campaign."""

    def __init__(self, box: Box, callers: list[Callers]) -> None:
        self._box = box
        self._callers = callers
        self.gaps: list[float] = []
        self.voices: list[float] = []
        self.control: list[float] = []
        self.rounds: list[dict[str, Any]] = []
        self.marks: Marks = []
        self.tidying: list[float] = []
        """What directions missed while nothing was restarted and the people's processes collected garbage."""
        self.voids = 0

    def run(self, count: int) -> None:
        """So many planned restarts; one whose control was disturbed is void, and made again."""
        while len(self.rounds) < count:
            self.tidying += [one["gap_ms"] for callers in self._callers for one in callers.tidy()]
            told = self._one()
            marks = self._mark()
            control = [one["gap_ms"] for one in marks if one["group"] == "control"]
            told["control_max_ms"] = max(control)
            if max(control) > GAP_MS and self.voids < VOIDS:
                self.voids += 1
                report.say(f"void: the control missed {max(control):.0f} ms as well; again ...")
                continue
            mine = [one for one in marks if one["group"] == "restart"]
            gaps = [one["gap_ms"] for one in mine]
            self.gaps += gaps
            self.voices += [one["gap_ms"] for one in mine if one["kind"] == "voice"]
            self.control += control
            told |= {"with_gap": sum(gap > 0 for gap in gaps), "max_ms": max(gaps)}
            self.rounds.append(told)
            report.say(
                f"restart {len(self.rounds)}: ready {told['ready_s']} s, old gone after {told['left_s']} s, "
                f"{told['with_gap']} of {len(gaps)} directions missed something, at most {max(gaps):.0f} ms"
            )

    def _one(self) -> dict[str, Any]:
        old = self._box.processes[-1]
        begun = time.monotonic()
        self._box.start()
        ready = time.monotonic()
        status = old.wait(LEFT_S)
        left = time.monotonic()
        time.sleep(SETTLE_S)
        return {"ready_s": round(ready - begun, 2), "left_s": round(left - ready, 2), "status": status}

    def _mark(self) -> Marks:
        self.marks = [one for callers in self._callers for one in callers.mark()]
        return self.marks


def judge(result: report.Report, made: Restarts, box: Box, restarts: int, calls: int) -> None:
    """The bars."""
    mine = [one for one in made.marks if one["group"] == "restart"]
    balances = [
        re.findall(r'"imbalance": (-?\d+)', box.log(number)) for number in range(len(box.processes) - 1)
    ]
    result.bar("calls_talking", len(mine) // 2, "==", calls)
    result.bar("calls_lost", sum(not (a["alive"] and b["alive"]) for a, b in pairs(mine)), "==", 0)
    result.bar("directions_silent_at_the_end", sum(not one["received"] for one in mine), "==", 0)
    result.bar("planned_restarts", len(made.rounds), "==", restarts)
    result.bar("least_moves_of_a_person", min(one["moves"] for one in mine), ">=", restarts)
    result.bar("audio_gap_p99_ms", percentile(made.gaps, 0.99), "<=", GAP_MS, is_speed=True)
    result.bar("voice_gap_p99_ms", percentile(made.voices, 0.99), "<=", GAP_MS, is_speed=True)
    result.bar("audio_gap_median_ms", percentile(made.gaps, 0.5), "==", 0, is_speed=True)
    result.bar("packets_not_opened", sum(one["unopened"] for one in mine), "==", 0)
    result.bar("old_generations_that_failed", sum(one["status"] != 0 for one in made.rounds), "==", 0)
    result.bar("imbalance", sum(abs(int(one[0])) if one else 1 for one in balances), "==", 0)
    records = box.records()
    result.bar("calls_counted_twice", sum(outcome != "moved" for _, outcome in records), "==", 0)


def pairs(marks: Marks) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Both directions of each call."""
    return list(zip(marks[::2], marks[1::2], strict=True))


def measure(arguments: Namespace, result: report.Report, folder: Path) -> None:
    """The stage `planned`."""
    quick = arguments.quick
    calls = arguments.calls or (QUICK_CALLS if quick else CALLS)
    restarts = arguments.restarts or (QUICK_RESTARTS if quick else RESTARTS)
    smear = QUICK_SMEAR_S if quick else SMEAR_S
    drain = f"grace_s = 0\nsmear_s = {smear}\ndeadline_s = {LEFT_S}\n{LIMITS}"
    voices = min(VOICES, calls // 2)
    kinds = ["voice"] * voices + ["quiet"] * (calls - voices)
    for part in ("box", "control"):
        (folder / part).mkdir(exist_ok=True)
    with Box(folder / "box", drain=drain) as box, Box(folder / "control", drain=drain) as still:
        box.start()
        still.start()
        groups = [
            orders(box.rig, kinds[n::PROCESSES], "restart")
            + orders(still.rig, ["voice"] * (n < CONTROLS), "control")
            for n in range(PROCESSES)
        ]
        report.say(f"{calls} calls, {voices} of them speaking, and {CONTROLS} beside them ...")
        callers = [Callers(group) for group in groups]
        try:
            for each in callers:
                each.wait_talking()
            made = Restarts(box, callers)
            time.sleep(SETTLE_S)
            busy, begun = [cpu_seconds(each.pid) for each in callers], time.monotonic()
            made.run(restarts)
            seconds = time.monotonic() - begun
            load = sum(cpu_seconds(each.pid) for each in callers) - sum(busy)
            judge(result, made, box, restarts, calls)
            result.detail(
                voids=made.voids,
                voice_gap_max_ms=max(made.voices),
                gap_max_ms=max(made.gaps),
                gaps_ms=dict(sorted(Counter(made.gaps).items())),
                control_gap_max_ms=max(made.control),
                gaps_while_tidying_ms=dict(sorted(Counter(made.tidying).items())),
                control_gaps_ms=dict(sorted(Counter(made.control).items())),
                cpus_of_the_callers=round(load / seconds, 2),
                moved_in_at_the_last=box.rig.metric("relay_calls_moved_total"),
                voices=voices,
                smear_s=smear,
                rounds=made.rounds,
            )
        finally:
            for each in callers:
                each.stop()


def main() -> int:
    """Run, print, tell by the exit status."""
    parser = report.arguments("restart", __doc__)
    parser.add_argument("--stage", choices=STAGES, help="this one only")
    parser.add_argument(
        "--calls", type=int, help=f"of each stage (default {CALLS}, {CRASH_CALLS}, {ROTATE_CALLS})"
    )
    parser.add_argument("--restarts", type=int, help=f"planned restarts (default {RESTARTS})")
    parser.add_argument("--kills", type=int, help=f"crashes (default {KILLS})")
    parser.add_argument("--rotations", type=int, help=f"new certificates (default {ROTATIONS})")
    parser.add_argument(
        "--lane", default="auto", choices=("auto", "native", "python"), help="of the daemon that crashes"
    )
    arguments = parser.parse_args()
    result = report.Report("restart", seed=arguments.seed, quick=arguments.quick)
    stages = (arguments.stage,) if arguments.stage else STAGES
    if "planned" in stages:
        with tempfile.TemporaryDirectory(prefix="relay-restart-") as folder:
            measure(arguments, result, Path(folder))
    if "sigterm" in stages:
        calls = arguments.calls or (QUICK_CALLS if arguments.quick else CALLS)
        kinds = ["voice"] * min(VOICES, calls // 2)
        kinds += ["quiet"] * (calls - len(kinds))
        with tempfile.TemporaryDirectory(prefix="relay-sigterm-") as folder:
            sigterm.measure(
                result, Path(folder), kinds, processes=PROCESSES, controls=CONTROLS, quick=arguments.quick
            )
    if "crash" in stages:
        calls = arguments.calls or (QUICK_CRASH_CALLS if arguments.quick else CRASH_CALLS)
        kills = arguments.kills or (QUICK_KILLS if arguments.quick else KILLS)
        crash.judge(result, calls=calls, kills=kills, lane=arguments.lane)
    if "rotate" in stages:
        calls = arguments.calls or (QUICK_ROTATE_CALLS if arguments.quick else ROTATE_CALLS)
        rotations = arguments.rotations or (QUICK_ROTATIONS if arguments.quick else ROTATIONS)
        with tempfile.TemporaryDirectory(prefix="relay-rotate-") as folder:
            rotate.measure(result, Path(folder), calls=calls, rotations=rotations, processes=PROCESSES)
    return result.finish(as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
