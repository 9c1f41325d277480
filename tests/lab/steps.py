"""Stage `steps` of the voice lab: a listener's last mile goes from 100 to 40 kb/s and back under a live call.

    plan (weather.step) -> calls (livecall.py) -> queue, what the encoder was asked for, mutes -> bars

Must never live here: how a call goes, what the relay decides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, Literal

from lab.cells import is_void
from lab.livecall import Order
from lab.weather import step
from load import report
from load.daemon import Daemon, imbalance
from relay.config_voice import AdaptConfig
from relay.protocol.token import to_text

RTT_MS: Final = 40.0
WARM_S: Final = 8.0
HOLDS_S: Final = (10.0, 20.0, 30.0)
AFTER_S: Final = 25.0
QUICK_WARM_S: Final = 3.0
QUICK_HOLD_S: Final = 5.0
QUICK_AFTER_S: Final = 10.0
QUEUE_MS: Final = 60.0
SETTLE_S: Final = 2.0
RESTORE_S: Final = 20.0
MUTE_MS: Final = 200.0
ONE_S: Final = 0.5  # times over the bound that are nearer to each other than this are one
USUAL: Final = (24_000, 20)
VOIDS: Final = 2
Lane = Literal["auto", "native", "python"]
Spell = tuple[float, float]


def over(queue: Sequence[tuple[float, float]], bound: float = QUEUE_MS) -> list[Spell]:
    """(from, until) in which the queue was beyond `bound`, seconds; what lies close together is one."""
    spells: list[Spell] = []
    for at, ms in queue:
        if ms < bound:
            continue
        if spells and at - spells[-1][1] < ONE_S:
            spells[-1] = (spells[-1][0], at)
        else:
            spells.append((at, at))
    return spells


def outcome(told: dict[str, Any], drop: float, rise: float) -> dict[str, Any]:
    """What one call came to: seconds and milliseconds, None for what never happened."""
    queue = [(at, ms) for at, ms in told["queue"]]
    spells = over(queue)
    first = [spell for spell in spells if spell[0] < drop + SETTLE_S]
    later = [spell for spell in spells if spell not in first]
    before, narrow, after = [], [], []
    for at, ms in queue:
        (before if at < drop else narrow if at < rise else after).append(ms)
    asked = [(at, (bps, ptime)) for at, bps, ptime in told["asked"]]
    restored = None
    if asked and asked[-1][1] == USUAL:
        restored = max(0.0, asked[-1][0] - rise)
    return {
        "hold_s": rise - drop,
        "queue_gone_after_s": round(max((until - drop for _, until in first), default=0.0), 2),
        "queue_most_ms": max(narrow, default=0.0),
        "later_over_s": round(max((until - begin for begin, until in later), default=0.0), 2),
        "later": [(round(begin - drop, 2), round(until - begin, 2)) for begin, until in later],
        "restored_after_s": None if restored is None else round(restored, 2),
        "mute_ms": max((ms for _, ms in told["mutes"]), default=0.0),
        "mutes": [(round(at - drop, 2), ms) for at, ms in told["mutes"]],
        "least_asked": min((asks for _, asks in asked), key=lambda asks: (asks[0], -asks[1]), default=None),
        "asked": [(round(at - drop, 2), *asks) for at, asks in asked],
        "overflowed": told["links"][0]["overflowed"],
        "lost_to_the_ear": {name: told["stats"][1][name] for name in ("lost", "late", "concealed")},
        "playout_ms": round(told["playout"], 1),
    }


def place(daemon: Daemon, holds: Sequence[float], warm_s: float, after_s: float, seed: int) -> dict[str, Any]:
    """The calls of one lane, all at once; what `livecall` told of them."""
    orders = []
    for number, hold in enumerate(holds):
        call = os.urandom(16)
        orders.append(
            Order(
                port=daemon.server[1],
                tokens=[to_text(daemon.token(call)) for _ in range(2)],
                rtt_ms=RTT_MS,
                seed=1000 * seed + number,
                plan=[asdict(change) for change in step(hold, warm_s)],
                seconds=warm_s + hold + after_s,
            )
        )
    command = [sys.executable, "-m", "lab.livecall"]
    given = json.dumps([asdict(order) for order in orders]) + "\n"
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def judge(
    result: report.Report,
    lane: str,
    outcomes: Sequence[dict[str, Any]],
    *,
    quick: bool,
    was_busy: bool = False,
) -> None:
    """The bars of one lane: the worst of its calls. `was_busy`: the quick form tells and does not judge."""

    def worst(name: str) -> float | None:
        values = [one[name] for one in outcomes]
        return None if None in values else max(values)

    for name, bound in (("queue_gone_after_s", SETTLE_S), ("later_over_s", SETTLE_S), ("mute_ms", MUTE_MS)):
        result.bar(f"{lane}_{name}", worst(name), "<=", bound, is_speed=was_busy)
    if not quick:
        result.bar(f"{lane}_restored_after_s", worst("restored_after_s"), "<=", RESTORE_S)
    acted = min(one["least_asked"] is not None and one["least_asked"] < USUAL for one in outcomes)
    result.bar(f"{lane}_speakers_were_asked_for_less", int(acted), "==", 1)


def measure(result: report.Report, lanes: Sequence[Lane], seed: int, *, quick: bool) -> None:
    """All lanes, one after the other."""
    times = (QUICK_WARM_S, QUICK_AFTER_S) if quick else (WARM_S, AFTER_S)
    warm_s, after_s = times
    holds = (QUICK_HOLD_S,) if quick else HOLDS_S
    for lane in lanes:
        report.say(
            f"a step from 100 to 40 kb/s and back, {lane} lane, {warm_s + max(holds) + after_s:g} s ..."
        )
        with Daemon.start(adapt=AdaptConfig(enabled=True), lane=lane) as daemon:
            voids = 0
            while True:
                told = place(daemon, holds, warm_s, after_s, seed)
                if not is_void(told["lag"]) or voids == VOIDS or quick:
                    break
                voids += 1
                report.say(f"    void: this machine was late by {1000 * told['lag']['worst_s']:.0f} ms")
            samples = daemon.metrics()
            complaints = daemon.complaints()
        outcomes = [
            outcome(call, warm_s, warm_s + hold) for call, hold in zip(told["calls"], holds, strict=True)
        ]
        tell(outcomes)
        judge(result, lane, outcomes, quick=quick, was_busy=is_void(told["lag"]))
        result.bar(f"{lane}_imbalance", imbalance(samples), "==", 0)
        result.bar(f"{lane}_complaints", len(complaints), "==", 0)
        if not quick:
            result.bar(f"{lane}_void_in_the_end", int(is_void(told["lag"])), "==", 0)
        result.detail(
            **{f"steps_{lane}": {"calls": outcomes, "lag": told["lag"], "voids": voids, "log": complaints}}
        )


def tell(outcomes: Sequence[dict[str, Any]]) -> None:
    """The table."""
    report.say("    held  queue gone  at most  later over  restored  longest mute  asked at least for")
    for one in outcomes:
        restored = "   never" if one["restored_after_s"] is None else f"{one['restored_after_s']:6.1f} s"
        report.say(
            f"    {one['hold_s']:2.0f} s {one['queue_gone_after_s']:8.2f} s {one['queue_most_ms']:5.0f} ms"
            f" {one['later_over_s']:8.2f} s  {restored} {one['mute_ms']:10.0f} ms  {one['least_asked']}"
        )
