"""What every fault is judged by, and what a fault does to whom: one row of the lab's table.

    Fault       name, how it is brought about, what it may cost, which lines it may write
    Scene       a daemon with calls, a control beside it; collects bars of one attempt

    before -> act (inject, look, heal) -> ready again -> calls talk -> a new call -> lines -> books

Must never live here: what any fault is (faultkernel.py, faultservice.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from lab.callers import Callers
from lab.faultcall import try_call
from lab.faultnode import Node
from load.daemon import imbalance, total

READY_S: Final = 15.0
SETTLE_S: Final = 1.5  # what was on the way has come, and jitter buffers have found their depth again
AFTER_S: Final = 1.0  # a second in which everybody must be heard
QUIET_MS: Final = 60.0  # missing in that second
BOOKS_S: Final = 5.0
CONTROL: Final = "control"


@dataclass(frozen=True)
class Bar:
    """A value and what it must be; `is_speed`: the quick form tells it only."""

    name: str
    value: float | None
    operator: str
    bound: float
    is_speed: bool = False


@dataclass
class Scene:
    """One attempt at one fault."""

    node: Node
    callers: Callers
    quick: bool
    bars: list[Bar] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    leaves: AsyncExitStack = field(default_factory=AsyncExitStack)
    """What a fault leaves running until the attempt is judged."""

    def expect(
        self, name: str, value: float | None, operator: str, bound: float, *, is_speed: bool = False
    ) -> None:
        """A bar of this fault."""
        self.bars.append(Bar(name, value, operator, bound, is_speed))

    async def hold(self, seconds: float, quick: float | None = None) -> None:
        """Let the fault last: so long, or in the quick form so long."""
        await asyncio.sleep(seconds if quick is None or not self.quick else quick)

    async def call(self, **how: Any) -> str:
        """A new call now: "" or the name of the refusal."""
        return await try_call(self.node.rig, **how)

    async def expect_call(self, name: str, wanted: str = "", **how: Any) -> None:
        """A new call now works, or is refused by this name."""
        became = await self.call(**how)
        self.notes[name] = became or "worked"
        self.expect(name, int(became == wanted), "==", 1)

    async def samples(self) -> dict[str, float]:
        """Metrics as of now."""
        return await asyncio.to_thread(self.node.metrics)

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Look again and again, so long."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.05)
        return True


Act = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A row."""

    name: str
    act: Act
    """Injects, looks, heals; returns when the fault is over."""
    missing_ms: float
    """What a direction of a running call may miss of it, packets of 20 ms, all together."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Beginnings of the warnings and errors that it writes, and how often each; others are not allowed."""
    moved: str = ""
    """The counter of drops that must have moved."""
    needs: frozenset[str] = frozenset()
    """Of "root", "native"."""
    is_fed: bool = False
    """It takes a daemon that hands its events to `relay feed`."""
    is_new_process: bool = False
    """The process is another one afterwards: its counters start anew."""


def complaints(lines: list[dict[str, Any]]) -> list[str]:
    """Texts of warnings, errors, and of what the log did not write at all."""
    return [
        str(line.get("message", line.get("raw", "")))
        for line in lines
        if line.get("level") not in ("debug", "info")
    ]


def sort_lines(found: list[str], wanted: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """How often each wanted line was written, and which lines nobody wanted."""
    counts = Counter[str]()
    others = []
    for text in found:
        kind = next((start for start in wanted if text.startswith(start)), None)
        if kind is None:
            others.append(text)
        else:
            counts[kind] += 1
    return {start: counts[start] for start in wanted}, others


def missing(marks: list[dict[str, Any]], is_control: bool) -> float:
    """The most that a direction missed, milliseconds."""
    return max((one["gap_ms"] for one in marks if (one["group"] == CONTROL) == is_control), default=0.0)


def is_missing_anywhere(lack: list[str], fault: Fault) -> str:
    """What this machine lacks for a fault; "" nothing."""
    return ", ".join(sorted(fault.needs.intersection(lack)))


async def attempt(fault: Fault, scene: Scene) -> float:
    """Put it to the daemon once; its bars stand in the scene. What the control missed, milliseconds."""
    node = scene.node
    node.shim.quiet()
    await asyncio.to_thread(scene.callers.mark)
    since = node.lines
    before = await scene.samples()
    await fault.act(scene)
    is_ready = await asyncio.to_thread(node.wait_ready, READY_S)
    await asyncio.sleep(SETTLE_S)
    during = await asyncio.to_thread(scene.callers.mark)
    await asyncio.sleep(AFTER_S)
    after = await asyncio.to_thread(scene.callers.mark)
    proofs = node.supervisor.proofs
    await scene.expect_call("a new call afterwards works")
    mine = _mine(after)
    scene.expect("calls lost", sum(not one["alive"] for one in mine), "==", 0)
    scene.expect("missing, ms", missing(during, False), "<=", fault.missing_ms, is_speed=True)
    scene.expect("missing a second later, ms", missing(after, False), "<=", QUIET_MS, is_speed=True)
    scene.expect("directions silent afterwards", sum(not one["received"] for one in mine), "==", 0)
    scene.expect("packets not opened", sum(one["unopened"] for one in mine), "==", 0)
    scene.expect("ready again", int(is_ready), "==", 1)
    proven = await scene.until(lambda: node.supervisor.proofs > proofs, READY_S)
    scene.expect("proves to the watchdog that it works", int(proven), "==", 1)
    await _books(fault, scene, before)
    counts, others = sort_lines(complaints(node.said(since)), fault.lines)
    for start, wanted in fault.lines.items():
        scene.expect(f"lines {start!r}", counts[start], "==", wanted)
    scene.expect("other lines", len(others), "==", 0)
    scene.notes["lines"] = counts
    if others:
        scene.notes["other_lines"] = others[:5]
    return max(missing(during, True), missing(after, True))


def _mine(marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in marks if one["group"] != CONTROL]


async def _books(fault: Fault, scene: Scene, before: dict[str, float]) -> None:
    """Packets are conserved, and what was lost is counted by the reason that we know."""
    samples: dict[str, float] = {}
    end = time.monotonic() + BOOKS_S
    while time.monotonic() < end:
        samples = await scene.samples()
        if not imbalance(samples):
            break
        await asyncio.sleep(0.1)
    scene.expect("imbalance", imbalance(samples), "==", 0)
    if fault.is_new_process:
        before = {}
    drops = {
        key: samples[key] - before.get(key, 0)
        for key in samples
        if key.startswith(("relay_media_dropped", "relay_udp_dropped")) and samples[key] > before.get(key, 0)
    }
    scene.notes["dropped"] = {key.removeprefix("relay_"): int(count) for key, count in drops.items()}
    sent = total(samples, "relay_media_sent_total") - total(before, "relay_media_sent_total")
    scene.notes["copies_sent"] = int(sent)
    if fault.moved:
        scene.expect(f"drops {fault.moved}", drops.get(fault.moved, 0), ">=", 1)
