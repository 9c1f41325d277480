"""Packets relayed per CPU-second, delay and memory of the native lane, beside coturn and bare forwarders.

    relay        `relay serve` as shipped, QUIC leg to QUIC leg: token, hello, join, accept, gate, ACKs
    coturn       ChannelData over plain UDP, one thread, one allocation per call; it encrypts nothing here
    bare         recvmmsg/sendmmsg in C, batches of 64
    bare_crypto  the same with AES-128-GCM open and seal by OpenSSL, one context per connection and direction

One native generator per arm, all alike; rounds are interleaved, ratios are taken within a round and their
median counts. Process under test on one CPU, generator on another. Saturated: 100 legs; 50,000 packets/s:
1,000 legs; cost of many: 2,000 legs beside 100, at a load that both arms carry with ease; repair: 1,000 legs
of a second daemon, which adapts, and whose listeners lose 5 %. Calls of the SDK stand beside the generator's.
Must never live here: how an arm works.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from load import lane_memory, process, programs, report, tasks
from load.arms import LIMITS, Arm, ForwardArm, RelayArm, TurnArm, run, summary
from load.daemon import Daemon, imbalance, total
from load.generator import PAYLOAD, WINDOW, WIRE
from load.sdk import Callers
from relay.config_voice import AdaptConfig

MIN_TO_BARE, MIN_TO_CRYPTO, MIN_TO_COTURN, MIN_TO_COTURN_50K = 0.8, 1.0, 1.15, 1.6
MAX_ADDED_P99_US = 2_000.0
MAX_COST = 1.2
MAX_REPAIR_COST = 1.35
LOSS = 0.05
MIN_REPAIRED = 0.98  # delivered in spite of it: the repair is at work
LEARN_S = 4.0  # for a node to find out which legs lose packets
LANE_THREADS = "lane-"
MAX_LANE_BYTES, MAX_LEG_BYTES = 16 * 1024, 96 * 1024
FEW, SOME, MANY = 100, 1_000, 2_000
PACED = 50_000.0
VOICE = 50.0
BUSY = 0.95  # of its CPU: the process under test is saturated
SHARE = 0.9  # of what the slowest arm carries: the common load when the generator cannot saturate all
MIN_DELIVERED = 0.99
MAX_VOIDS = 2
LIGHTER = 4  # times that the load is lowered for a machine that is too small for it
SDK_CALLS = 5
MIN_OPENED = 0.99
NAMES = ("relay", "coturn", "bare", "bare_crypto")
NOTE = (
    "coturn encrypts nothing here: ChannelData over plain UDP, one relay thread, one allocation per call; "
    "the relay opens and seals every packet with AES-128-GCM"
)


@dataclass
class Plan:
    """How much of everything."""

    rounds: int
    seconds: float
    few: int = FEW
    some: int = SOME
    many: int = MANY
    paced: float = PACED


@dataclass
class Run:
    """One arm in one round."""

    counts: dict[str, Any]
    seconds: float
    cpu: float
    own: float  # CPU seconds of the generator

    @property
    def per_cpu_second(self) -> float:
        """Packets delivered, and found as sent, per second of the process's CPU time."""
        return float(self.counts["delivered"]) / self.cpu if self.cpu else 0.0

    @property
    def us_per_udp_packet(self) -> float:
        """CPU microseconds per packet of either direction: what stays when payloads share packets."""
        return 1e6 * self.cpu / float(max(1, self.counts["sent"] + self.counts["packets_in"]))

    @property
    def delivered(self) -> float:
        """Share of what was sent."""
        return float(self.counts["delivered"]) / float(max(1, self.counts["sent"]))

    def describe(self) -> dict[str, Any]:
        """For people."""
        rates = {
            "packets_per_cpu_s": round(self.per_cpu_second),
            "delivered_per_s": round(self.counts["delivered"] / self.seconds),
            "us_per_udp_packet": round(self.us_per_udp_packet, 3),
            "cpu_share": round(self.cpu / self.seconds, 3),
            "generator_cpu_share": round(self.own / self.seconds, 3),
            "delivered_share": round(self.delivered, 5),
            # below 1: several audio payloads for one listener left in one packet
            "udp_packets_per_audio": round(self.counts["packets_in"] / max(1, self.counts["delivered"]), 3),
        }
        wrong = {
            k: v for k, v in self.counts.items() if v and k in ("wrong", "repeated", "unopened", "refused")
        }
        delays = {k: v for k, v in self.counts.items() if k.endswith("_us") and v is not None}
        return rates | wrong | delays


Rounds = dict[str, list[Run]]


@dataclass
class Bench:
    """Arms and what they did."""

    arms: dict[str, Arm]
    out: report.Report
    plan: Plan
    quick: bool
    details: dict[str, Any] = field(default_factory=dict)

    async def measure(self, name: str, seconds: float, **load: Any) -> Run:
        """One run of one arm."""
        result, cpu = await run(self.arms[name], seconds, **load)
        return Run(summary(result), result["seconds"], cpu, result["cpu_s"])

    async def rounds(self, title: str, names: Sequence[str], **load: Any) -> Rounds:
        """Interleaved rounds; the order turns."""
        report.say(f"{title}: {self.plan.rounds} rounds of {', '.join(names)}")
        runs: Rounds = {name: [] for name in names}
        for number in range(self.plan.rounds):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                runs[name].append(await self.measure(name, self.plan.seconds, **load))
                report.say(f"  {number + 1}/{self.plan.rounds} {name:11} {runs[name][-1].describe()}")
        self.details.setdefault("rounds", {})[title] = {
            name: [one.describe() for one in many] for name, many in runs.items()
        }
        return runs

    async def grow(self, legs: int) -> None:
        """So many legs in each arm."""
        for name, arm in self.arms.items():
            report.say(f"placing {legs} legs through {name}")
            await arm.grow(legs)

    async def common_load(self) -> float:
        """0 when every arm can be saturated; else the packets per second that all are offered."""
        tries = {name: await self.measure(name, 1.0, legs=self.plan.few) for name in NAMES}
        for name, one in tries.items():
            report.say(f"  as fast as it goes: {name:11} {one.describe()}")
        self.details["as_fast_as_it_goes"] = {name: one.describe() for name, one in tries.items()}
        if all(one.cpu / one.seconds >= BUSY for one in tries.values()):
            return 0.0
        slowest = min(float(one.counts["delivered"]) / one.seconds for one in tries.values())
        return round(SHARE * slowest, -3)


def ratios(runs: Rounds, one: str, other: str) -> list[float]:
    """Packets per CPU-second, round by round."""
    both = zip(runs[one], runs[other], strict=True)
    return [mine.per_cpu_second / theirs.per_cpu_second for mine, theirs in both]


def middle(runs: Sequence[Run]) -> float:
    """Median of packets per CPU-second."""
    return statistics.median(one.per_cpu_second for one in runs)


# ---------------------------------------------------------------- parts


async def saturated(bench: Bench) -> None:
    """100 legs, as much as the generator delivers."""
    out, plan = bench.out, bench.plan
    await bench.grow(plan.few)
    rate = await bench.common_load()
    report.say(f"offered to all: {rate:.0f} packets/s" if rate else "every arm is saturated")
    runs = await bench.rounds("saturated", NAMES, rate=rate, legs=plan.few)
    out.detail(
        offered_packets_per_s=rate or "saturated",
        **{f"{name}_pps_per_cpu_s": round(middle(runs[name])) for name in NAMES},
    )
    bench.details["common_rate"] = rate
    judge_delivery(out, "at saturation", runs)
    bars = (("coturn", MIN_TO_COTURN), ("bare", MIN_TO_BARE), ("bare_crypto", MIN_TO_CRYPTO))
    for other, bound in bars:
        each = ratios(runs, "relay", other)
        ratio = statistics.median(each)
        out.detail(
            **{f"ratio_to_{other}": round(ratio, 3), f"ratios_to_{other}": [round(x, 3) for x in each]}
        )
        out.bar(f"ratio_to_{other}", ratio, ">=", bound, is_speed=True)


def judge_delivery(out: report.Report, where: str, runs: Rounds, ours: str = "relay") -> None:
    """What arrives is what was sent, and nearly all of it does."""
    bad = sum(r.counts[k] for many in runs.values() for r in many for k in ("wrong", "unopened"))
    out.bar(f"packets not as sent, {where}", bad, "==", 0)
    worst = min(one.delivered for one in runs[ours])
    out.bar(f"share delivered by the relay, {where}", worst, ">=", MIN_DELIVERED, is_speed=True)


async def paced(bench: Bench) -> None:
    """50,000 packets/s over 1,000 legs."""
    out, plan = bench.out, bench.plan
    await bench.grow(plan.some)
    voids = 0
    while True:
        runs = await bench.rounds("paced", NAMES, rate=plan.paced, legs=plan.some, stamps=True)
        control = statistics.median(one.counts["p99_us"] or 0.0 for one in runs["bare"])
        if control <= MAX_ADDED_P99_US or voids == MAX_VOIDS or bench.quick:
            break
        voids += 1
        report.say(f"  void: the bare forwarder itself had a p99 of {control:.0f} us")
    each = ratios(runs, "relay", "coturn")
    added = statistics.median(
        (mine.counts["p99_us"] or 0.0) - (theirs.counts["p99_us"] or 0.0)
        for mine, theirs in zip(runs["relay"], runs["bare"], strict=True)
    )
    ratio = statistics.median(each)
    out.detail(
        ratio_to_coturn_50k=round(ratio, 3),
        ratios_to_coturn_50k=[round(x, 3) for x in each],
        paced={
            "packets_per_s": plan.paced,
            "legs": plan.some,
            "voids": voids,
            "control_p99_us": control,
            "pps_per_cpu_s": {name: round(middle(many)) for name, many in runs.items()},
        },
    )
    judge_delivery(out, "at 50,000/s", runs)
    out.bar("ratio_to_coturn_50k", ratio, ">=", MIN_TO_COTURN_50K, is_speed=True)
    out.bar("added p99 at 50,000/s beside bare, us", added, "<=", MAX_ADDED_P99_US, is_speed=True)


async def bearable_load(bench: Bench, names: Sequence[str], legs: int) -> float:
    """Packets/s that these arms carry over so many legs with time to spare: an arm that is late sends several
    payloads in one packet, or none, and its cost says little."""
    rate = bench.plan.paced
    for _ in range(LIGHTER):
        tries = [await bench.measure(name, 1.0, rate=rate, legs=legs) for name in names]
        if all(one.delivered >= MIN_DELIVERED and one.cpu / one.seconds < SHARE for one in tries):
            break
        rate = round(rate * SHARE**2, -3)
        report.say(f"  too much for {legs} legs here; {rate:.0f} packets/s then")
    return rate


async def many(bench: Bench) -> None:
    """CPU time per audio payload delivered over 2,000 legs beside that over 100, at one load for all four."""
    out, plan = bench.out, bench.plan
    names = ("relay", "bare")
    counts = (plan.few, plan.many)
    await bench.grow(plan.many)
    rate = await bearable_load(bench, names, plan.many)
    report.say(f"cost of many: {plan.rounds} rounds of {', '.join(names)} at {rate:.0f} packets/s")
    by_legs: dict[int, Rounds] = {legs: {name: [] for name in names} for legs in counts}
    for number in range(plan.rounds):
        turn = number % 2
        for name in (*names[turn:], *names[:turn]):
            for legs in (*counts[turn:], *counts[:turn]):  # the two of a ratio one after the other
                by_legs[legs][name].append(await bench.measure(name, plan.seconds, rate=rate, legs=legs))
                one = by_legs[legs][name][-1]
                report.say(f"  {number + 1}/{plan.rounds} {legs:5} legs {name:11} {one.describe()}")
    bench.details.setdefault("rounds", {})["cost of many"] = {
        f"{name}, {legs} legs": [one.describe() for one in runs[name]]
        for legs, runs in by_legs.items()
        for name in names
    }
    judge_delivery(out, f"over {plan.many} legs", by_legs[plan.many])
    costs = {
        name: statistics.median(
            few.per_cpu_second / more.per_cpu_second
            for few, more in zip(by_legs[plan.few][name], by_legs[plan.many][name], strict=True)
        )
        for name in names
    }
    value = costs["relay"] / costs["bare"]
    per_udp_packet = {
        f"{name}, {legs} legs": round(statistics.median(one.us_per_udp_packet for one in runs[name]), 3)
        for legs, runs in by_legs.items()
        for name in names
    }
    out.detail(
        cost_2000_legs_over_100=round(value, 3),
        us_per_udp_packet=per_udp_packet,
        costs={name: round(cost, 3) for name, cost in costs.items()} | {"offered_packets_per_s": rate},
    )
    out.bar("cost_2000_legs_over_100, relay's over bare's", value, "<=", MAX_COST, is_speed=True)


async def memory(bench: Bench, daemon: Daemon) -> None:
    """Resident bytes per connected leg, with audio flowing, and the lane's own share."""
    out, plan = bench.out, bench.plan
    legs = total(daemon.metrics(), "relay_legs")
    before = process.rss_bytes(daemon.pid)
    await bench.grow(plan.many)
    await bench.measure("relay", plan.seconds, rate=VOICE * plan.many / 2, legs=plan.many)
    grown = process.rss_bytes(daemon.pid) - before
    added = total(daemon.metrics(), "relay_legs") - legs
    per_leg = grown / max(1.0, added)
    lane = await asyncio.to_thread(lane_memory.measure, plan.many)
    out.detail(bytes_per_leg=round(per_leg), lane_bytes_per_leg=lane, legs_added_for_it=added)
    out.bar("resident bytes of the process per connected leg", per_leg, "<=", MAX_LEG_BYTES, is_speed=True)
    out.bar("lane memory per leg, bytes", lane["bytes_per_leg"], "<=", MAX_LANE_BYTES, is_speed=True)


async def repair(bench: Bench, cpus: Sequence[int]) -> None:
    """CPU time of the lane's threads per packet delivered: 5 % lost and repaired, beside nothing lost."""
    out, plan = bench.out, bench.plan
    daemon = Daemon.start(LIMITS, adapt=AdaptConfig(enabled=True))
    arms = {"idle": bench.arms["relay"], "repairing": RelayArm(daemon, cpus)}
    loss = {"idle": 0.0, "repairing": LOSS}
    costs: dict[str, list[float]] = {name: [] for name in arms}
    whole: dict[str, list[float]] = {name: [] for name in arms}
    shares: list[float] = []
    try:
        for name, arm in arms.items():
            report.say(f"repair: placing {plan.some} legs through {name}")
            await arm.grow(plan.some)
        await run(arms["repairing"], LEARN_S, rate=plan.paced, legs=plan.some, loss=LOSS)
        for number in range(plan.rounds):
            order = list(arms.items())
            for name, arm in order if number % 2 else order[::-1]:
                before = tasks.cpu_seconds(arm.pid, LANE_THREADS)
                result, cpu = await run(arm, plan.seconds, rate=plan.paced, legs=plan.some, loss=loss[name])
                spent = tasks.cpu_seconds(arm.pid, LANE_THREADS) - before
                counts = summary(result)
                costs[name].append(1e6 * spent / max(1, counts["delivered"]))
                whole[name].append(1e6 * cpu / max(1, counts["delivered"]))
                if name == "repairing":
                    shares.append(counts["delivered"] / max(1, counts["sent"]))
                report.say(
                    f"  {number + 1}/{plan.rounds} {name:9} lane {costs[name][-1]:.2f} us a packet delivered"
                )
        samples = daemon.metrics()
        complaints = daemon.complaints()
    finally:
        arms["repairing"].stop()
        daemon.stop()
    ratio = statistics.median(b / a for a, b in zip(costs["idle"], costs["repairing"], strict=True))
    out.detail(
        repair={
            "lost": LOSS,
            "delivered": [round(share, 4) for share in shares],
            "lane_us_per_packet": {name: round(statistics.median(each), 2) for name, each in costs.items()},
            "process_us_per_packet": {
                name: round(statistics.median(each), 2) for name, each in whole.items()
            },
            "repeats": {k: v for k, v in samples.items() if v and "repair_repeats" in k},
        }
    )
    out.bar("share delivered, 5 % lost and repaired", min(shares), ">=", MIN_REPAIRED, is_speed=True)
    out.bar("lane's cost per packet, repaired over idle", ratio, "<=", MAX_REPAIR_COST, is_speed=True)
    out.bar("packets out of balance in /metrics, with repair", imbalance(samples), "==", 0)
    out.bar("warnings in the log, with repair", len(complaints), "==", 0)


async def latency(bench: Bench) -> None:
    """Delay at 1, 100 and 1,000 calls of 50 packets/s each way."""
    table: dict[str, Any] = {}
    for calls in (1, bench.plan.few, bench.plan.many // 2):
        row = {}
        for name in ("bare", "relay", "coturn"):
            seconds = max(bench.plan.seconds, 4.0 if calls == 1 and not bench.quick else 0.0)
            one = await bench.measure(name, seconds, rate=2 * VOICE * calls, legs=2 * calls, stamps=True)
            row[name] = {k: v for k, v in one.counts.items() if k.endswith("_us")}
            row[name] |= {
                "delivered_share": round(one.delivered, 5),
                "cpu_share": round(one.cpu / one.seconds, 3),
            }
        row["carried"] = row["bare"]["delivered_share"] >= MIN_DELIVERED  # else the machine is too small
        marks = ("p50_us", "p99_us", "p999_us")
        row["added_to_bare"] = {
            k: None
            if None in (row["relay"][k], row["bare"][k])
            else round(row["relay"][k] - row["bare"][k], 1)
            for k in marks
        }
        report.say(f"latency, {calls} calls: {row}")
        table[str(calls)] = row
    bench.out.detail(latency=table)


async def with_sdk(bench: Bench, daemon: Daemon, cpus: Sequence[int]) -> None:
    """Five calls from the SDK beside half of the generator's legs; the SDK opens what it hears."""
    out, seconds = bench.out, bench.plan.seconds
    callers = Callers(daemon, SDK_CALLS, seconds + 1.0)
    tasks.pin(callers.pid, cpus[-1])
    await callers.talking()
    await bench.measure("relay", seconds, rate=VOICE * bench.plan.few, legs=bench.plan.few)
    people = await callers.finish()
    opened = sum(person["opened"] for person in people)
    out.bar("SDK packets that came and did not open", sum(p["unopened"] for p in people), "==", 0)
    share = opened / max(1, sum(p["sent"] for p in people))
    out.bar("share of SDK packets opened", share, ">=", MIN_OPENED, is_speed=True)
    out.detail(sdk=people)


# ---------------------------------------------------------------- the run


async def judge(out: report.Report, plan: Plan, *, quick: bool) -> None:
    """All parts, against fresh processes."""
    cpus = process.cpus()
    if len(cpus) < 2:
        report.say("one CPU only: the generator competes with what it measures")
    arms: list[Any] = []
    daemon = Daemon.start(LIMITS)
    try:
        arms += [RelayArm(daemon, cpus), ForwardArm("plain", cpus), ForwardArm("crypto", cpus), TurnArm(cpus)]
        by_name: dict[str, Arm] = {arm.name: arm for arm in arms}
        bench = Bench({name: by_name[name] for name in NAMES}, out, plan, quick)
        tasks.pin(os.getpid(), cpus[-1])
        await saturated(bench)
        await with_sdk(bench, daemon, cpus)
        await paced(bench)
        await repair(bench, cpus)
        await memory(bench, daemon)
        await many(bench)
        await latency(bench)
        samples = daemon.metrics()
        out.bar("packets out of balance in /metrics", imbalance(samples), "==", 0)
        out.bar("warnings in the daemon's log", len(daemon.complaints()), "==", 0)
        native = samples.get('relay_lane_info{datapath="native"}', 0.0)
        out.bar("the daemon runs its native lane", native, "==", 1)
        dropped = {k: v for k, v in samples.items() if v and "dropped" in k}
        out.detail(
            note=NOTE,
            coturn_version=programs.version_of_turnserver(),
            payload_bytes=PAYLOAD,
            udp_payload_bytes=WIRE,
            window=WINDOW,
            cpu_time=tasks.SOURCE,
            pinned={"under_test": cpus[0], "generator": cpus[-1]},
            daemon_dropped=dropped,
            complaints=daemon.complaints()[:5],
            **bench.details,
        )
    finally:
        for arm in arms:
            arm.stop()
        daemon.stop()


async def main() -> int:
    """Run it; the exit status."""
    parser = report.arguments("lane", __doc__)
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (default 9, quick 1)")
    parser.add_argument("--seconds", type=float, default=0.0, help="per arm and round (default 3, quick 0.5)")
    args = parser.parse_args()
    plan = Plan(args.rounds or (1 if args.quick else 9), args.seconds or (0.5 if args.quick else 3.0))
    if args.quick:
        plan = Plan(plan.rounds, plan.seconds, few=20, some=60, many=120, paced=3_000.0)
    tasks.raise_descriptor_limit()
    out = report.Report("lane", seed=args.seed, quick=args.quick)
    await judge(out, plan, quick=args.quick)
    return out.finish(as_json=args.json)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
