"""Voices between nodes: packets per CPU-second from leg to trunk and from trunk to leg, beside leg to leg.

    legs     the first lane's legs hear each other             first lane: leg to leg
    there    they are heard by the second lane's               first lane: leg to trunk, second: trunk to leg
    both     and back, as in calls                             each lane both

Two native lanes with a thread and a socket each, a trunk between them on loopback, and all far ends of legs
in one process (relay/lane/examples/trunk.rs); everything is opened and sealed with AES-128-GCM. The three
ways take turns, ratios are taken within a round and their median counts. In `there` who listens acknowledges
each third packet by itself, and so who speaks is acknowledged; in `both` that rides on voices. The keys of
the trunk change all the time. Both lanes have one CPU, the far ends another. Must never live here: how a lane
works.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from load import process, programs, report, tasks

MIN_TO_TRUNK, MIN_FROM_TRUNK = 2.2, 0.95
MAX_ADDED_P99_US = 2_000.0
MIN_DELIVERED = 0.99
WAYS = ("legs", "there", "both")
SLACK_S = 60.0  # for a busy machine, beside what the runs take
REST_S = 0.5  # between two runs


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    legs: int = 1_000
    rate: int = 50_000
    seconds: float = 3.0
    rounds: int = 9
    rekey: int = 1 << 12  # packets of the trunk under one key; in a daemon 2^22, which is 12 minutes of this

    @property
    def limit_s(self) -> float:
        """After so long something hangs."""
        return SLACK_S + len(WAYS) * self.rounds * (self.seconds + REST_S)


Run = dict[str, Any]


def measure(plan: Plan) -> list[Run]:
    """What the runs found, in their order."""
    numbers = (plan.legs, plan.rate, plan.seconds, plan.rounds, plan.rekey)
    command = [str(programs.trunk()), *map(str, numbers)]
    cpus = process.cpus()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            word, *threads = running.stdout.readline().split()
            assert word == "threads"
            for thread, cpu in zip(threads, (cpus[0], cpus[0], cpus[-1]), strict=True):
                with contextlib.suppress(OSError):  # not allowed here: they compete
                    os.sched_setaffinity(int(thread), {cpu})
            out, _ = running.communicate("\n", timeout=plan.limit_s)
        finally:
            running.kill()
    if running.returncode:
        raise SystemExit(f"the lanes ended with status {running.returncode}")
    return [json.loads(line) for line in out.splitlines()]


def per_cpu_second(run: Run, lane: str) -> float:
    """Packets that were heard per second of the lane's thread."""
    return float(run["heard"]) / max(float(run[f"cpu_{lane}"]), 1e-9)


def judge(out: report.Report, plan: Plan, runs: list[Run]) -> None:
    """All bars."""
    by_way = {way: [run for run in runs if run["way"] == way] for way in WAYS}
    rounds = list(zip(by_way["legs"], by_way["there"], by_way["both"], strict=True))
    legs = [per_cpu_second(one, "first") for one, _, _ in rounds]
    to_trunk = [per_cpu_second(there, "first") for _, there, _ in rounds]
    from_trunk = [per_cpu_second(there, "second") for _, there, _ in rounds]
    both = [float(one["heard"]) / (one["cpu_first"] + one["cpu_second"]) for _, _, one in rounds]
    ratios_to = [there / here for there, here in zip(to_trunk, legs, strict=True)]
    ratios_from = [there / here for there, here in zip(from_trunk, legs, strict=True)]
    added = [float(there["p99_us"] - one["p99_us"]) for one, there, _ in rounds]
    out.bar("voices not as said", sum(run["wrong"] for run in runs), "==", 0)
    out.bar("lanes out of balance", sum(run["unbalanced"] for run in runs), "==", 0)
    worst = min(run["heard"] / max(1, run["sent"]) for run in runs)
    out.bar("share of voices heard", worst, ">=", MIN_DELIVERED, is_speed=True)
    ratio = statistics.median(ratios_to)
    out.bar("packets per CPU-second, leg to trunk over leg to leg", ratio, ">=", MIN_TO_TRUNK, is_speed=True)
    ratio = statistics.median(ratios_from)
    out.bar("packets per CPU-second, trunk to leg over that", ratio, ">=", MIN_FROM_TRUNK, is_speed=True)
    out.bar(
        "added p99 over the trunk beside leg to leg, us",
        statistics.median(added),
        "<=",
        MAX_ADDED_P99_US,
        is_speed=True,
    )
    out.bar("key updates of the trunk", runs[-1]["key_updates"], ">=", 1)
    out.bar("packets of the trunk that were lost", runs[-1]["trunk_lost"], "==", 0)
    out.detail(
        voices=plan.legs,
        packets_per_s=plan.rate,
        seconds=plan.seconds,
        packets_per_key=plan.rekey,
        packets_per_cpu_s={
            "leg to leg": round(statistics.median(legs)),
            "leg to trunk": round(statistics.median(to_trunk)),
            "trunk to leg": round(statistics.median(from_trunk)),
            "both ways, both lanes": round(statistics.median(both)),
        },
        ratios_to_trunk=[round(each, 3) for each in ratios_to],
        ratios_from_trunk=[round(each, 3) for each in ratios_from],
        p99_us={way: [run["p99_us"] for run in by_way[way]] for way in WAYS},
        p50_us={way: [run["p50_us"] for run in by_way[way]] for way in WAYS},
        cpu_time=tasks.SOURCE,
    )


def main() -> int:
    """Run it; the exit status."""
    parser = report.arguments("trunk", __doc__)
    parser.add_argument("--rounds", type=int, default=0, help="rounds of the three ways (default 9, quick 1)")
    parser.add_argument("--seconds", type=float, default=0.0, help="per run (default 3, quick 0.5)")
    args = parser.parse_args()
    plan = Plan(rounds=args.rounds or 9, seconds=args.seconds or 3.0)
    if args.quick:
        plan = Plan(60, 3_000, args.seconds or 0.5, args.rounds or 1, rekey=50)
    tasks.raise_descriptor_limit()
    out = report.Report("trunk", seed=args.seed, quick=args.quick)
    report.say(f"{plan.rounds} rounds of {', '.join(WAYS)}: {plan.rate} packets/s of {plan.legs} voices")
    judge(out, plan, measure(plan))
    return out.finish(as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
