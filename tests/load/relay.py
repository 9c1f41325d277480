"""Packets relayed per CPU-second and the delay a relay adds, beside two plain forwarders under the same load.

    twin    `relay serve` with the Python packet path: real tokens, hello, join, accept, consent gate
    stock   aioquic as shipped, forwarding DATAGRAM frames between paired connections
    bare    a uvloop UDP forwarder without encryption

Calls of 50 packets/s each way, 120 bytes. Rounds are interleaved and ratios taken within a round, since
figures of different minutes do not compare. CPU is that of all threads of the process under test, from
/proc; each packet is counted, and compared with what was sent, at the sink. Delay: from the sender's clock
to the receiving socket's kernel time stamp. Then the SDK places calls of its own beside the generator's.
Must never live here: how a leg works.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import uvloop

from load import process, report
from load.daemon import Daemon, imbalance, total
from load.leg import HELD, PROMPT, Leg
from load.sdk import Callers
from load.traffic import PAYLOAD, BareLine, Line, Voice, percentile, talk

CALLS = 20
SDK_CALLS = 5
SETTLE = 0.3  # seconds for the last packets to arrive
MIN_RATIO = 2.0
MIN_OPENED = 0.99  # a starved box drops audio that is too old, by name
End = tuple[Any, Voice]


@dataclass
class Arm:
    """A process under test and the lines through it."""

    name: str
    pid: int
    ends: list[End]


@dataclass(frozen=True)
class Round:
    """One arm in one round."""

    sent: int
    delivered: int
    wrong: int
    cpu: float
    delays: list[float]

    @property
    def per_cpu_second(self) -> float:
        """Packets delivered per second of the process's CPU time."""
        return self.delivered / self.cpu if self.cpu else 0.0

    def summary(self) -> dict[str, Any]:
        """For people."""
        delays = {f"p{p}_us": micros(percentile(self.delays, p / 100)) for p in (50, 99)}
        counts = {"sent": self.sent, "delivered": self.delivered, "wrong": self.wrong}
        cost = {"cpu_s": round(self.cpu, 2), "packets_per_cpu_s": round(self.per_cpu_second)}
        return counts | cost | delays


def micros(seconds: float | None) -> float | None:
    """Microseconds, rounded."""
    return None if seconds is None else round(seconds * 1e6)


async def measure(arm: Arm, seconds: float) -> Round:
    """Talk through an arm for so long."""
    before = [(v.sent, v.heard.delivered, v.heard.wrong + v.heard.repeated) for _, v in arm.ends]
    started = process.cpu_seconds(arm.pid)
    lines: list[tuple[Line, Voice]] = list(arm.ends)
    await talk(lines, seconds)
    await asyncio.sleep(SETTLE)
    cpu = process.cpu_seconds(arm.pid) - started
    delays = [x for (_, v), (_, got, _) in zip(arm.ends, before, strict=True) for x in v.heard.delays[got:]]
    after = [(v.sent, v.heard.delivered, v.heard.wrong + v.heard.repeated) for _, v in arm.ends]
    sums = [sum(a[i] for a in after) - sum(b[i] for b in before) for i in range(3)]
    return Round(sums[0], sums[1], sums[2], cpu, delays)


# ---------------------------------------------------------------- setting up


async def place_call(daemon: Daemon, *, size: int = PAYLOAD, ack_hold: float = PROMPT) -> list[End]:
    """Two legs of the generator, in a call, both accepted, gate open; they will talk in packets of `size`."""
    call = os.urandom(16)
    voices = Voice(size=size), Voice(size=size)
    legs = [Leg(daemon.server, on_media=other.arrive, ack_hold=ack_hold) for other in (voices[1], voices[0])]
    for leg in legs:
        await leg.connect()
        await leg.hello(daemon.token(call))
        await leg.join(call)
    for leg in legs:
        await leg.accept(call)
    for leg, voice in zip(legs, voices, strict=True):
        await leg.gate()
        voice.index, voice.flow = leg.index, leg.flow
    return list(zip(legs, voices, strict=True))


async def pair_lines(make: Callable[[Callable[[bytes, float], None]], Awaitable[Any]]) -> list[End]:
    """Two lines that a forwarder connects."""
    name = os.urandom(16)
    voices = Voice(), Voice()
    lines = await make(voices[1].arrive), await make(voices[0].arrive)
    await asyncio.gather(*(line.pair(name) for line in lines))
    return list(zip(lines, voices, strict=True))


class Forwarder:
    """A process of load.forward."""

    def __init__(self, kind: str, ack_hold: float = PROMPT) -> None:
        self._ack_hold = ack_hold
        self._process = subprocess.Popen(
            [sys.executable, "-m", "load.forward", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._server = ("127.0.0.1", int(json.loads(self._process.stdout.readline())["port"]))

    async def bare(self, on_media: Callable[[bytes, float], None]) -> BareLine:
        """A line without encryption."""
        return BareLine(self._server, on_media)

    async def stock(self, on_media: Callable[[bytes, float], None]) -> Leg:
        """A QUIC leg, the same as the relay gets."""
        leg = Leg(self._server, on_media=on_media, ack_hold=self._ack_hold)
        await leg.connect()
        return leg

    def stop(self) -> None:
        """Close its standard input and wait."""
        self._process.communicate()


# ---------------------------------------------------------------- the run


async def rounds(arms: list[Arm], count: int, seconds: float) -> dict[str, list[Round]]:
    """Interleaved rounds; the order turns, so that none always follows the same."""
    results: dict[str, list[Round]] = {arm.name: [] for arm in arms}
    for number in range(count):
        turn = number % len(arms)
        for arm in arms[turn:] + arms[:turn]:
            result = await measure(arm, seconds)
            results[arm.name].append(result)
            report.say(f"  round {number + 1}/{count} {arm.name:5} {result.summary()}")
    return results


async def with_sdk(daemon: Daemon, ends: list[End], seconds: float) -> dict[str, Any]:
    """The same daemon, SDK_CALLS of the calls placed by the SDK, which opens what it receives."""
    cpu_list = process.cpus()
    callers = Callers(daemon, SDK_CALLS, seconds + 1.0)
    process.pin(callers.pid, cpu_list[-1])
    await callers.talking()
    sent_before = total(daemon.metrics(), "relay_media_sent_total")
    arm = Arm("twin", daemon.pid, ends[: 2 * (CALLS - SDK_CALLS)])
    result = await measure(arm, seconds)
    relayed = total(daemon.metrics(), "relay_media_sent_total") - sent_before
    calls = await callers.finish()
    return {
        "relayed": relayed,
        "packets_per_cpu_s": round(relayed / result.cpu) if result.cpu else None,
        "generator": result.summary(),
        "sdk": calls,
    }


def judge(out: report.Report, results: dict[str, list[Round]], *, quick: bool) -> None:
    """Bars and details of the rounds."""
    ratios = {
        other: [
            twin.per_cpu_second / peer.per_cpu_second
            for twin, peer in zip(results["twin"], results[other], strict=True)
        ]
        for other in ("stock", "bare")
    }
    table: dict[str, Any] = {}
    for name, runs in results.items():
        delays = [delay for run in runs for delay in run.delays]
        table[name] = {
            "packets_per_cpu_s": round(statistics.median(run.per_cpu_second for run in runs)),
            "sent": sum(run.sent for run in runs),
            "delivered": sum(run.delivered for run in runs),
            "delay_p50_us": micros(percentile(delays, 0.5)),
            "delay_p99_us": micros(percentile(delays, 0.99)),
        }
    added = {
        f"{p}_us": table["twin"][f"delay_{p}_us"] - table["bare"][f"delay_{p}_us"] for p in ("p50", "p99")
    }
    out.detail(
        arms=table,
        added_beside_bare=added,
        ratio_to_stock=[round(ratio, 2) for ratio in ratios["stock"]],
        ratio_to_bare=[round(ratio, 3) for ratio in ratios["bare"]],
        rounds={name: [run.summary() for run in runs] for name, runs in results.items()},
    )
    twin = results["twin"]
    out.bar("packets the twin lost", sum(run.sent - run.delivered for run in twin), "==", 0)
    out.bar("packets not as sent", sum(run.wrong for runs in results.values() for run in runs), "==", 0)
    if not quick:
        out.bar("twin / stock aioquic, median of rounds", statistics.median(ratios["stock"]), ">=", MIN_RATIO)


async def main() -> int:
    """Run it; the exit status."""
    parser = report.arguments("relay", __doc__)
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (default 7, quick 2)")
    parser.add_argument(
        "--acks",
        choices=("prompt", "held"),
        default="prompt",
        help="the generator acknowledges after 1 ms, as aioquic and the SDK, or 20 ms, as browsers",
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="per arm and round (default 4, quick 1.5)")
    args = parser.parse_args()
    count = args.rounds or (2 if args.quick else 7)
    seconds = args.seconds or (1.5 if args.quick else 4.0)
    out = report.Report("relay", seed=args.seed, quick=args.quick)
    hold = HELD if args.acks == "held" else PROMPT
    bare, stock = Forwarder("bare"), Forwarder("stock", hold)
    cpu_list = process.cpus()
    try:
        with Daemon.start(lane="python") as daemon:
            pinned = [process.pin(pid, cpu_list[0]) for pid in (bare.pid, stock.pid, daemon.pid)]
            pinned.append(process.pin(os.getpid(), cpu_list[-1]))
            report.say(f"placing {CALLS} calls through each of three processes")
            arms = [
                Arm("bare", bare.pid, [end for _ in range(CALLS) for end in await pair_lines(bare.bare)]),
                Arm("stock", stock.pid, [end for _ in range(CALLS) for end in await pair_lines(stock.stock)]),
                Arm(
                    "twin",
                    daemon.pid,
                    [end for _ in range(CALLS) for end in await place_call(daemon, ack_hold=hold)],
                ),
            ]
            results = await rounds(arms, count, seconds)
            judge(out, results, quick=args.quick)
            report.say(f"the same load with {SDK_CALLS} of {CALLS} calls placed by the SDK")
            mixed = await with_sdk(daemon, arms[2].ends, seconds)
            people = mixed["sdk"]
            opened = sum(person["opened"] for person in people)
            out.bar("SDK packets that came and did not open", sum(p["unopened"] for p in people), "==", 0)
            out.bar("share of SDK packets opened", opened / sum(p["sent"] for p in people), ">=", MIN_OPENED)
            samples = daemon.metrics()
            out.bar("packets out of balance in /metrics", imbalance(samples), "==", 0)
            out.bar("warnings in the daemon's log", len(daemon.complaints()), "==", 0)
            out.detail(
                with_sdk_calls=mixed,
                load={
                    "calls": CALLS,
                    "packets_per_s_each_way": 50,
                    "payload_bytes": 120,
                    "rounds": count,
                    "acks": args.acks,
                },
                pinned_apart=len(cpu_list) > 1 and all(pinned),
                complaints=daemon.complaints()[:5],
            )
            for arm in arms:
                for line, _ in arm.ends:
                    line.vanish()
    finally:
        bare.stop()
        stock.stop()
    return out.finish(as_json=args.json)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
