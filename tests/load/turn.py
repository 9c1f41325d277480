"""ChannelData relayed per CPU-second, and memory per allocation: TURN of `relay serve` beside coturn.

    turn      `relay serve` as shipped, native lane, credentials of a shared secret, budgets and peers judged
    coturn    no credentials, no TLS, one relay thread
    both      plain UDP, per allocation a channel and a peer, the same generator, packets of 157 bytes

Rounds are interleaved, ratios are taken within a round and their median counts. Saturated: 100 allocations,
client to peer; when the generator cannot saturate both, both are offered the same. Then 50,000 packets/s over
1,000 allocations, from clients to peers, and both ways. The process under test has one CPU, the generator
another. Must never live here: how an arm works.
"""

from __future__ import annotations

import os
import statistics
import sys
from typing import Any

import uvloop

from load import process, programs, report, tasks
from load.arms import LIMITS, Arm, TurnArm
from load.daemon import Daemon, imbalance, total
from load.generator import PAYLOAD, WIRE
from load.lane import BUSY, MIN_DELIVERED, SHARE, Bench, Plan, Rounds, judge_delivery, middle, ratios
from relay.config_turn import RelayAddress, TurnConfig

MIN_SATURATED, MIN_PACED = 1.1, 1.5
FEW, MANY = 100, 1_000  # allocations
PACED = 50_000.0
NAMES = ("turn", "coturn")
MUCH = 1_000_000
TURN = TurnConfig(
    enabled=True,
    policy="open",
    addresses=(RelayAddress(bind="127.0.0.3"),),
    secret_file="written by the daemon's folder",
    tcp=(),
    tls=(),
    allocations=10_000,
    credential_s=86_400,
    kbps=MUCH,
    pps=MUCH,
    unproven_per_source_per_s=1_000,
    unproven_per_s=MUCH,
    lab_allow_private_peers=True,
)
"""As shipped but for the ceilings that one source with the load of thousands would meet."""


async def saturated(bench: Bench) -> None:
    """As much as goes from clients to their peers."""
    tries = {name: await bench.measure(name, 1.0, one_way=True, legs=2 * bench.plan.few) for name in NAMES}
    rate = 0.0
    if any(one.cpu / one.seconds < BUSY or one.delivered < MIN_DELIVERED for one in tries.values()):
        rate = round(SHARE * min(one.counts["delivered"] / one.seconds for one in tries.values()), -3)
    report.say(f"offered to both: {rate:.0f} packets/s" if rate else "both are saturated")
    runs = await bench.rounds("saturated", NAMES, rate=rate, one_way=True, legs=2 * bench.plan.few)
    bench.out.detail(
        offered_packets_per_s=rate or "saturated",
        as_fast_as_it_goes={name: one.describe() for name, one in tries.items()},
    )
    _judge(bench, "saturated", runs, MIN_SATURATED)


async def paced(bench: Bench) -> None:
    """A steady load over many allocations: what comes by one socket, and what comes by a socket of each."""
    for where, one_way in (("at 50,000/s", True), ("at 50,000/s both ways", False)):
        load = {"rate": bench.plan.paced, "legs": 2 * bench.plan.many, "one_way": one_way}
        _judge(bench, where, await bench.rounds(where, NAMES, **load), MIN_PACED)


def _judge(bench: Bench, where: str, runs: Rounds, least: float) -> None:
    each = ratios(runs, "turn", "coturn")
    bench.out.detail(
        **{
            f"{where}: pps per cpu s": {name: round(middle(many)) for name, many in runs.items()},
            f"{where}: ratios": [round(one, 3) for one in each],
        }
    )
    judge_delivery(bench.out, where, runs, "turn")
    bench.out.bar(
        f"packets per CPU-second over coturn's, {where}", statistics.median(each), ">=", least, is_speed=True
    )


async def memory(bench: Bench) -> None:
    """Resident bytes that an allocation adds, with traffic on each before it is weighed."""
    plan, added = bench.plan, {}
    for name in NAMES:
        arm = bench.arms[name]
        await bench.measure(name, plan.seconds, rate=plan.paced / 10, legs=2 * plan.few)
        before = process.rss_bytes(arm.pid)
        await arm.grow(2 * plan.many)
        await bench.measure(name, plan.seconds, rate=plan.paced / 10, legs=2 * plan.many)
        added[name] = (process.rss_bytes(arm.pid) - before) / (plan.many - plan.few)
        report.say(f"memory: {name} {added[name]:.0f} bytes per allocation")
    bench.out.detail(bytes_per_allocation={name: round(each) for name, each in added.items()})
    bench.out.bar(
        "bytes per allocation over coturn's",
        added["turn"] / max(1.0, added["coturn"]),
        "<=",
        1.0,
        is_speed=True,
    )


async def judge(out: report.Report, plan: Plan, *, quick: bool) -> None:
    """All parts, against fresh processes."""
    cpus = process.cpus()
    arms: list[TurnArm] = []
    daemon = Daemon.start(LIMITS, turn=TURN)
    try:
        arms += [TurnArm(cpus, daemon), TurnArm(cpus)]
        by_name: dict[str, Arm] = {arm.name: arm for arm in arms}
        bench = Bench(by_name, out, plan, quick)
        tasks.pin(os.getpid(), cpus[-1])
        await bench.grow(2 * plan.few)
        await saturated(bench)
        await memory(bench)
        await paced(bench)
        samples = daemon.metrics()
        out.bar("packets out of balance in /metrics", imbalance(samples) + turn_imbalance(samples), "==", 0)
        out.bar("warnings in the daemon's log", len(daemon.complaints()), "==", 0)
        out.bar(
            "the daemon runs its native lane", samples.get('relay_lane_info{datapath="native"}', 0.0), "==", 1
        )
        out.detail(
            coturn_version=programs.version_of_turnserver(),
            payload_bytes=PAYLOAD,
            udp_payload_bytes=WIRE,
            cpu_time=tasks.SOURCE,
            pinned={"under_test": cpus[0], "generator": cpus[-1]},
            dropped={k: v for k, v in samples.items() if v and "turn_dropped" in k},
            complaints=daemon.complaints()[:5],
            **bench.details,
        )
    finally:
        for arm in arms:
            arm.stop()
        daemon.stop()


def turn_imbalance(samples: dict[str, Any]) -> float:
    """What TURN took and neither passed, dropped nor holds."""
    names = ("passed_total", "dropped_total", "waiting")
    return abs(
        total(samples, "relay_turn_taken_total") - sum(total(samples, f"relay_turn_{name}") for name in names)
    )


async def main() -> int:
    """Run it; the exit status."""
    parser = report.arguments("turn", __doc__)
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (default 7, quick 1)")
    parser.add_argument("--seconds", type=float, default=0.0, help="per arm and round (default 3, quick 0.5)")
    args = parser.parse_args()
    plan = Plan(
        args.rounds or (1 if args.quick else 7),
        args.seconds or (0.5 if args.quick else 3.0),
        FEW,
        0,
        MANY,
        PACED,
    )
    if args.quick:
        plan = Plan(plan.rounds, plan.seconds, few=20, many=60, paced=3_000.0)
    tasks.raise_descriptor_limit()
    out = report.Report("turn", seed=args.seed, quick=args.quick)
    await judge(out, plan, quick=args.quick)
    return out.finish(as_json=args.json)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
