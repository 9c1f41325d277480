"""Stage `walk` of the voice lab: calls that live through every kind of bad weather, and what is left.

    weather.walk --> livecall.py (calls, and what they take) --+--> leaks, stuck states, books
    relay serve  --> metrics each second, memory, descriptors -'

All calls have their bad spells at the same times, each of its own kind. Before a good spell ends, everything
must be as at the start. Must never live here: what the weather is like.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from lab.livecall import Order, rss_kb
from lab.weather import FIRST_S, GOOD_S, Spell, walk
from load import report
from load.daemon import Daemon, imbalance, total
from relay.config_voice import AdaptConfig
from relay.core.adapt import State
from relay.protocol.token import to_text

CALLS: Final = 3
RTT_MS: Final = 40.0
USUAL: Final = (24_000, 20)
LOOKED_S: Final = 4.0  # of the end of a good spell
HEARD: Final = 0.95  # of what was said, at the end of a good spell
GROWTH_KB: Final = 4096  # of resident memory, from the first third to the last
TOLD_EVERY_S: Final = 60.0


@dataclass
class Look:
    """One second. Of the daemon unless said."""

    at: float
    rss_kb: int
    fds: int
    tasks: int
    imbalance: float
    ways: dict[str, int]
    client: dict[str, Any]
    """What the process of the calls told of itself."""


@dataclass
class Course:
    """All of a run."""

    looks: list[Look] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    lag: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, float] = field(default_factory=dict)
    complaints: list[dict[str, Any]] = field(default_factory=list)


def look(daemon: Daemon, told: dict[str, Any]) -> Look:
    """Now."""
    samples = daemon.metrics()
    return Look(
        at=told["at"],
        rss_kb=rss_kb(daemon.pid),
        fds=len(os.listdir(f"/proc/{daemon.pid}/fd")),
        tasks=int(total(samples, "relay_tasks")),
        imbalance=abs(total(samples, "relay_imbalance")),
        ways={one.value: int(samples[f'relay_ways{{state="{one.value}"}}']) for one in State},
        client=told,
    )


def stuck(looks: Sequence[Look], spells: Sequence[Spell]) -> list[dict[str, Any]]:
    """Good spells at whose end something was not as at the start: a state, what is asked, what is heard."""
    found: list[dict[str, Any]] = []
    for spell in spells:
        last = [one for one in looks if spell.good_until - LOOKED_S <= one.at < spell.good_until]
        if len(last) < 2:
            found.append({"after": spell.name, "why": "nobody looked"})
            continue
        worse = {state: n for state, n in last[-1].ways.items() if n and state != State.CLEAN}
        asked = [tuple(asks) for both in last[-1].client["asked"] for asks in both]
        heard = [round(share, 2) for share in heard_shares(last[0], last[-1])]
        if worse or any(asks != USUAL for asks in asked) or min(heard) < HEARD:
            at = round(spell.good_until)
            found.append({"after": spell.name, "at": at, "ways": worse, "asked": asked, "heard": heard})
    return found


def heard_shares(before: Look, after: Look) -> list[float]:
    """Of each person: how much of what the other said was heard in between, 0-1, by packets' length now."""
    seconds = after.at - before.at
    shares = []
    for old, new, asked in zip(
        before.client["received"], after.client["received"], after.client["asked"], strict=True
    ):
        for mine in (0, 1):
            ptime = asked[1 - mine][1]
            shares.append((new[mine] - old[mine]) * ptime / (1000 * seconds))
    return shares


def growth(values: Sequence[float]) -> float:
    """How much the median of the last third is beyond that of the first."""
    third = max(1, len(values) // 3)
    return median(values[-third:]) - median(values[:third])


def unaccounted(call: dict[str, Any]) -> dict[str, int]:
    """Of each way of a call: packets said that neither came nor are missed; and of the last mile."""
    speaker, listener = call["stats"]
    gone = ("delivered", "lost", "overflowed", "flying")
    links = [link["sent"] + link["doubled"] - sum(link[part] for part in gone) for link in call["links"]]
    return {
        "down": speaker["sent"] + speaker["unsent"] - listener["received"] - listener["lost"],
        "up": listener["sent"] + listener["unsent"] - speaker["received"] - speaker["lost"],
        "last_mile_down": links[0],
        "last_mile_up": links[1],
    }


def run(daemon: Daemon, plans: Sequence[Sequence[Spell]], seconds: float, seed: int) -> Course:
    """Hold the calls."""
    orders = []
    for number, spells in enumerate(plans):
        call = os.urandom(16)
        orders.append(
            Order(
                port=daemon.server[1],
                tokens=[to_text(daemon.token(call)) for _ in range(2)],
                rtt_ms=RTT_MS,
                seed=1000 * seed + number,
                plan=[asdict(change) for spell in spells for change in spell.changes()],
                seconds=seconds,
                told=True,
            )
        )
    course, told_at = Course(), 0.0
    command = [sys.executable, "-m", "lab.livecall"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([asdict(order) for order in orders]) + "\n")
        process.stdin.close()
        for line in process.stdout:
            told = json.loads(line)
            if "at" in told:
                course.looks.append(look(daemon, told))
                if told["at"] - told_at >= TOLD_EVERY_S:
                    told_at = told["at"]
                    report.say(f"    {told_at / 60:4.0f} min: {summary(course.looks[-1])}")
            elif "calls" in told:
                course.calls, course.lag = told["calls"], told["lag"]
    course.samples = daemon.metrics()
    course.complaints = daemon.complaints()
    return course


def summary(one: Look) -> str:
    """One line."""
    ways = ", ".join(f"{count} {state}" for state, count in one.ways.items() if count)
    return (
        f"relay {one.rss_kb // 1024} MB, {one.fds} descriptors, {one.tasks} tasks; calls"
        f" {one.client['rss_kb'] // 1024} MB, {one.client['tasks']} tasks; ways: {ways or 'none looked at'}"
    )


def measure(result: report.Report, seed: int, minutes: float) -> None:
    """The walk and its bars."""
    seconds = 60 * minutes
    plans = [walk(seed, number, seconds) for number in range(CALLS)]
    if not plans[0]:
        raise SystemExit(f"a walk takes {(FIRST_S + GOOD_S) / 60 + 0.5:.1f} minutes at least")
    seconds = plans[0][-1].good_until
    report.say(f"a walk through {len(plans[0])} bad spells, {CALLS} calls, {seconds / 60:.0f} minutes ...")
    with Daemon.start(adapt=AdaptConfig(enabled=True)) as daemon:
        course = run(daemon, plans, seconds, seed)
    judge(result, course, plans[0])
    result.detail(
        walk={
            "seconds": seconds,
            "weather": [[spell.name for spell in spells] for spells in plans],
            "states": {one.value: adapted(course.samples, one) for one in State},
            "repeats": total(course.samples, "relay_repair_repeats_total"),
            "calls": course.calls,
            "lag": course.lag,
            "log": course.complaints,
            "first": asdict(course.looks[0]),
            "last": asdict(course.looks[-1]),
        }
    )


def adapted(samples: dict[str, float], state: State) -> int:
    """How often a way came into it."""
    return int(samples.get(f'relay_legs_adapted_total{{state="{state.value}"}}', 0))


def judge(result: report.Report, course: Course, spells: Sequence[Spell]) -> None:
    """The bars."""
    looks = course.looks
    result.bar("walk_relay_growth_kb", growth([one.rss_kb for one in looks]), "<=", GROWTH_KB)
    result.bar("walk_calls_growth_kb", growth([one.client["rss_kb"] for one in looks]), "<=", GROWTH_KB)
    result.bar("walk_relay_descriptors", growth([one.fds for one in looks]), "<=", 0)
    result.bar("walk_calls_descriptors", growth([one.client["fds"] for one in looks]), "<=", 0)
    result.bar("walk_relay_tasks", growth([one.tasks for one in looks]), "<=", 0)
    result.bar("walk_calls_tasks", growth([one.client["tasks"] for one in looks]), "<=", 0)
    left = stuck(looks, spells)
    result.bar("walk_good_spells_not_good", len(left), "==", 0)
    result.bar("walk_imbalance", max(one.imbalance for one in looks) + imbalance(course.samples), "==", 0)
    open_ = sum(state == "open" for call in course.calls for state in call["states"])
    result.bar("walk_people_gone", 2 * len(course.calls) - open_, "==", 0)
    books = [unaccounted(call) for call in course.calls]
    result.bar(
        "walk_packets_unaccounted", sum(abs(count) for book in books for count in book.values()), "==", 0
    )
    result.bar("walk_complaints", len(course.complaints), "==", 0)
    result.detail(walk_books=books, walk_stuck=left)
