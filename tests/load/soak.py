"""Calls come and go for minutes against a real daemon at half capacity; afterwards nothing may be left.

Twenty calls at a time, each 5 to 30 s long, in every way a call ends here: hung up, closed without a word on
the control stream, one side vanished, declined, never accepted. Some are the SDK's. Beside them stand the
calls of a native generator, with half of what it carries beside all this. Then the daemon must have the
legs, calls, tasks and descriptors it started with, no more than 2 MiB of memory over what it had when warm,
and nothing in its log; from 30 minutes on a line through its memory rises by 1 MiB an hour at most.
Must never live here: how a call is placed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import statistics
import sys
import time
from collections import Counter
from typing import Any

import uvloop

from load import arms, process, report, tasks
from load.daemon import Daemon, imbalance, total
from load.half import HalfLoad
from load.leg import HELD, PROMPT, Leg, RefusedError
from load.sdk import Callers
from load.traffic import Voice, talk
from relay.protocol import control

CALLS = 20
SDK_CALLS = 2
SHORTEST, LONGEST = 5.0, 30.0
WARM_MINUTES = 10.0
MAX_GROWTH = 2 << 20
MAX_SLOPE = 1 << 20  # bytes an hour
SLOPE_MINUTES = 30.0  # the line of a shorter run is mostly noise
SAMPLE_EVERY = 5.0
# Short deadlines, so that what lingers by design (lost legs, unanswered calls) is soon over at the end.
LIMITS = dataclasses.replace(
    arms.LIMITS,
    idle_s=10.0,
    consent_s=10.0,
    accept_outlives_s=15.0,
    ring_s=10.0,
    ticket_ttl_s=30.0,
    ticket_every_s=10.0,
)
LINGER = 45.0
ENDS = ("hangup", "close", "vanish", "decline", "missed")
WEIGHTS = (10, 3, 3, 2, 2)


async def _enter(daemon: Daemon, call: bytes, rng: random.Random, voice: Voice) -> Leg:
    leg = Leg(daemon.server, on_media=voice.arrive, ack_hold=rng.choice((PROMPT, HELD)))
    await leg.connect()
    await leg.hello(daemon.token(call))
    await leg.join(call)
    return leg


async def _one_call(daemon: Daemon, rng: random.Random, counts: Counter[str]) -> None:
    """Place a call, talk, end it in one of the ways."""
    call = os.urandom(16)
    way = rng.choices(ENDS, WEIGHTS)[0]
    voices = Voice(), Voice()
    legs: list[Leg] = []
    try:
        for other in reversed(voices):
            legs.append(await _enter(daemon, call, rng, other))
        await legs[0].accept(call)
        if way in ("decline", "missed"):
            await asyncio.sleep(rng.uniform(1, 3))
            if way == "decline":
                legs[1].tell(control.Decline(c=call), 9)
            await asyncio.sleep(1.0 if way == "decline" else LIMITS.ring_s)
        else:
            await legs[1].accept(call)
            for leg, voice in zip(legs, voices, strict=True):
                await leg.gate()
                voice.index, voice.flow = leg.index, leg.flow
            await talk(list(zip(legs, voices, strict=True)), rng.uniform(SHORTEST, LONGEST))
            if way == "hangup":
                legs[0].tell(control.Hangup(c=call), 9)
                await asyncio.sleep(0.2)
        counts[way] += 1
    except (RefusedError, TimeoutError) as error:
        counts["failed"] += 1
        report.say(f"  a call failed: {error!r}")
    finally:
        for voice in voices:
            counts["packets sent"] += voice.sent
            counts["packets delivered"] += voice.heard.delivered
            counts["packets wrong"] += voice.heard.wrong
            counts["packets twice"] += voice.heard.repeated
        for leg in legs:
            if way == "vanish":
                leg.vanish()
            else:
                leg.close()


async def _slot(daemon: Daemon, rng: random.Random, until: float, counts: Counter[str]) -> None:
    """One of the places for calls: the next begins when the last ended."""
    await asyncio.sleep(rng.uniform(0, 3))
    while time.monotonic() < until:
        await _one_call(daemon, rng, counts)


async def _sdk_slot(daemon: Daemon, rng: random.Random, until: float, counts: Counter[str]) -> None:
    while time.monotonic() < until:
        callers = Callers(daemon, SDK_CALLS, rng.uniform(SHORTEST, LONGEST))
        try:
            await callers.talking()
            people = await callers.finish()
        except RuntimeError as error:  # what went wrong, that process has said
            counts["failed"] += 1
            report.say(f"  calls of the SDK failed: {error}")
            continue
        counts["sdk"] += len(people) // 2
        counts["sdk packets sent"] += sum(person["sent"] for person in people)
        counts["sdk packets unopened"] += sum(person["unopened"] for person in people)
        counts["sdk packets opened"] += sum(person["opened"] for person in people)


def facts(daemon: Daemon) -> dict[str, float]:
    """What must return to where it was."""
    samples = daemon.metrics()
    return {
        "legs": total(samples, "relay_legs"),
        "calls": total(samples, "relay_calls"),
        "half_open": samples["relay_half_open"],
        "descriptors": process.descriptors(daemon.pid),
        "threads": process.threads(daemon.pid),
    } | ({"tasks": samples["relay_tasks"]} if "relay_tasks" in samples else {})


async def _half(half: HalfLoad, until: float) -> None:
    await half.prepare()
    report.say(f"  {half.capacity:.0f} packets/s at most; {half.legs} legs carry half of them from now on")
    await half.run(until)


async def _watch(daemon: Daemon, memory: list[tuple[float, int]]) -> None:
    started = time.monotonic()
    while True:
        memory.append((time.monotonic() - started, process.rss_bytes(daemon.pid)))
        await asyncio.sleep(SAMPLE_EVERY)


def growth(memory: list[tuple[float, int]], warm: float) -> int:
    """The highest memory after `warm` seconds over that at `warm` seconds."""
    settled = [size for at, size in memory if at <= warm][-1:] or [memory[0][1]]
    return max(size for _, size in memory) - settled[0] if memory else 0


def slope(memory: list[tuple[float, int]], warm: float) -> float:
    """Bytes an hour by which memory rises after `warm` seconds: the line of least squares."""
    after = [(at, size) for at, size in memory if at > warm]
    at, size = zip(*after, strict=True)
    return 3600 * statistics.linear_regression(at, size).slope


async def main() -> int:
    """Run it; the exit status."""
    parser = report.arguments("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="how long (default 30, quick 1)")
    args = parser.parse_args()
    minutes = args.minutes or (1.0 if args.quick else 30.0)
    warm = min(WARM_MINUTES, minutes / 3) * 60
    out = report.Report("soak", seed=args.seed, quick=args.quick)
    rng = random.Random(args.seed)
    cpus = sorted(os.sched_getaffinity(0))
    counts: Counter[str] = Counter()
    memory: list[tuple[float, int]] = []
    tasks.raise_descriptor_limit()
    with Daemon.start(LIMITS) as daemon:
        await asyncio.to_thread(facts, daemon)  # the first scrape opens what later ones reuse
        await asyncio.sleep(1.0)
        start = await asyncio.to_thread(facts, daemon)
        report.say(f"soak: {CALLS} calls at a time for {minutes:g} minutes; at the start {start}")
        half = HalfLoad(daemon, cpus, quick=args.quick)
        watcher = asyncio.create_task(_watch(daemon, memory))
        until = time.monotonic() + minutes * 60
        load = asyncio.create_task(_half(half, until))
        slots = [_slot(daemon, random.Random(rng.random()), until, counts) for _ in range(CALLS - SDK_CALLS)]
        slots.append(_sdk_slot(daemon, random.Random(rng.random()), until, counts))
        progress = asyncio.create_task(_progress(daemon, counts, until))
        await asyncio.gather(load, *slots)
        half.stop()
        progress.cancel()
        watcher.cancel()
        end = await _settled(daemon, start)
        samples = await asyncio.to_thread(daemon.metrics)
        complaints = daemon.complaints()
        judge(out, start, end, counts, total(samples, "relay_repair_repeats_total"))
        out.bar("KiB of RSS over the warm daemon's", growth(memory, warm) / 1024, "<=", MAX_GROWTH / 1024)
        rise = slope(memory, warm) / 1024
        if minutes >= SLOPE_MINUTES:
            out.bar("KiB of RSS an hour, by the line through it", rise, "<=", MAX_SLOPE / 1024)
        half.judge(out)
        out.bar("packets out of balance in /metrics", imbalance(samples), "==", 0)
        out.bar(
            "media datagrams dropped as internal",
            samples.get('relay_udp_dropped_total{reason="internal"}', 0)
            + samples.get('relay_media_dropped_total{reason="internal"}', 0),
            "==",
            0,
        )
        out.bar("warnings, errors and tracebacks in the log", len(complaints), "==", 0)
        out.detail(
            minutes=minutes,
            warm_after_s=warm,
            rss_kib_an_hour=round(rise),
            counts=dict(counts),
            calls_ended={k: v for k, v in samples.items() if k.startswith("relay_calls_ended") and v},
            rss_mib=[round(size / 2**20, 1) for _, size in memory[:: max(1, len(memory) // 40)]],
            start=start,
            end=end,
            complaints=complaints[:10],
        )
    return out.finish(as_json=args.json)


def judge(
    out: report.Report,
    start: dict[str, float],
    end: dict[str, float],
    counts: Counter[str],
    repeats: float,
) -> None:
    """Bars of what came back and of the calls; `repeats` are heard by legs that were late to acknowledge."""
    for name, value in start.items():
        out.bar(f"{name} at the end less those at the start", end[name] - value, "==", 0)
    out.bar("calls that failed", counts["failed"], "==", 0)
    out.bar("packets wrong", counts["packets wrong"], "==", 0)
    out.bar("packets twice that the relay did not repeat", max(0, counts["packets twice"] - repeats), "==", 0)
    out.bar("SDK packets that came and did not open", counts["sdk packets unopened"], "==", 0)


async def _settled(daemon: Daemon, start: dict[str, float]) -> dict[str, Any]:
    """Facts once they are as at the start, or after LINGER."""
    until = time.monotonic() + LINGER
    while True:
        await asyncio.sleep(1.0)
        now = await asyncio.to_thread(facts, daemon)
        if now == start or time.monotonic() > until:
            return now


async def _progress(daemon: Daemon, counts: Counter[str], until: float) -> None:
    while True:
        await asyncio.sleep(30)
        rss = process.rss_bytes(daemon.pid) / 2**20
        left = (until - time.monotonic()) / 60
        report.say(f"  {left:.1f} minutes left, RSS {rss:.1f} MiB, {dict(counts)}")


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
