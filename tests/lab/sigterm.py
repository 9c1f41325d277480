"""The part of `./scripts/lab restart` that ends a node by SIGTERM: another one of its cluster stands by.

    the node        gets SIGTERM, refuses new calls, asks its people to move, leaves
    the other one   takes them
    joiners         clients that are connected already; from the signal on one each 10 ms joins a new call

A control beside it stands still. Must never live here: how gaps are counted (callers.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from client.rig import public_of
from lab.callers import Callers, orders
from lab.generations import Box
from load import report
from load.leg import Leg, RefusedError

JOINERS: Final = 30
EVERY_S: Final = 0.010
REFUSED_MS: Final = 50.0
GAP_MS: Final = 20.0
VOIDS: Final = 2
SETTLE_S: Final = 1.5
SMEAR_S: Final = 20.0
QUICK_SMEAR_S: Final = 1.0
DEADLINE_S: Final = 60.0
LIMITS: Final = """
[limits]
initials_per_source_per_s = 2000
initials_per_source_burst = 2000
"""


class Joiners:
    """Clients that want a new call each, at a moment that is known."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._legs: list[Leg] = []

    async def prepare(self) -> None:
        """All connected and admitted."""
        host, port = self._box.rig.url.removeprefix("quic://").rsplit(":", 1)
        for number in range(JOINERS):
            leg = Leg((host, int(port)))
            await leg.connect()
            await leg.hello(self._box.rig.token(self._call(number), 1, sub=os.urandom(16)))
            self._legs.append(leg)

    @staticmethod
    def _call(number: int) -> bytes:
        return bytes([number]) * 16

    async def join(self, process: subprocess.Popen[bytes]) -> list[tuple[float, bool]]:
        """SIGTERM, then one after the other; (ms after the signal that it asked, whether it was let in)."""
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        found = await asyncio.gather(*(self._one(number, begun) for number in range(len(self._legs))))
        for leg in self._legs:
            leg.close()
        return list(found)

    async def _one(self, number: int, begun: float) -> tuple[float, bool]:
        await asyncio.sleep(max(0.0, begun + number * EVERY_S - time.monotonic()))
        asked = time.monotonic()
        try:
            await self._legs[number].join(self._call(number))
        except RefusedError:
            return 1000 * (asked - begun), False
        return 1000 * (asked - begun), True


async def _end(box: Box) -> list[tuple[float, bool]]:
    joiners = Joiners(box)
    await joiners.prepare()
    return await joiners.join(box.processes[-1])


def ally(box: Box, other: Box) -> None:
    """The other one, not started yet, becomes a node of the same cluster, with the same issuer."""
    (other.folder / "relay.key").write_text((box.folder / "relay.key").read_text())
    theirs, ours = (public_of(one.rig.seed).hex() for one in (other, box))
    text = other.config.read_text().replace(theirs, ours)
    other.config.write_text(text.replace("[node]\n", '[node]\nid = "relay-2"\n'))


@dataclass(frozen=True)
class Seen:
    """What one run came to."""

    marks: list[dict[str, Any]]
    """Of all directions."""
    asked: list[tuple[float, bool]]
    """When each joiner asked, ms after the signal, and whether it was let in."""
    status: int
    left_s: float

    @property
    def control_ms(self) -> float:
        """The longest gap of calls that nobody touched."""
        return max((one["gap_ms"] for one in self.marks if one["group"] == "control"), default=0.0)

    @property
    def last_let_in_ms(self) -> float:
        """When the last one asked that was still let in; 0 if none was."""
        return max((ms for ms, was_let_in in self.asked if was_let_in), default=0.0)


def measure(
    result: report.Report, folder: Path, kinds: list[str], *, processes: int, controls: int, quick: bool
) -> None:
    """The stage; again where the control broke the bound, twice at most."""
    voids = 0
    while True:
        (folder / str(voids)).mkdir()
        seen = hold(folder / str(voids), kinds, processes=processes, controls=controls, quick=quick)
        if seen.control_ms <= GAP_MS or voids == VOIDS or quick:
            break
        voids += 1
        report.say(f"void: the control missed {seen.control_ms:.0f} ms as well; again ...")
    judge(result, seen, len(kinds))
    result.detail(sigterm_voids=voids)


def hold(folder: Path, kinds: list[str], *, processes: int, controls: int, quick: bool) -> Seen:
    """Two nodes and the control, calls, the signal."""
    for part in ("first", "second", "still"):
        (folder / part).mkdir()
    quiet = f"grace_s = 0\n{LIMITS}"
    smear = QUICK_SMEAR_S if quick else SMEAR_S
    with Box(folder / "second", drain=quiet) as second, Box(folder / "still", drain=quiet) as still:
        drain = f'grace_s = 0\nsmear_s = {smear}\ndeadline_s = {DEADLINE_S}\nto = ["{second.rig.url}"]\n'
        with Box(folder / "first", drain=drain + LIMITS) as first:
            ally(first, second)
            for box in (first, second, still):
                box.start()
            groups = [
                orders(first.rig, kinds[n::processes], "moved")
                + orders(still.rig, ["voice"] * (n < controls), "control")
                for n in range(processes)
            ]
            report.say(f"SIGTERM under {len(kinds)} calls ...")
            callers = [Callers(group) for group in groups]
            try:
                for each in callers:
                    each.wait_talking()
                time.sleep(SETTLE_S)
                _mark(callers)
                begun = time.monotonic()
                asked = uvloop.run(_end(first))
                status = first.processes[-1].wait(2 * DEADLINE_S)
                left_s = time.monotonic() - begun
                time.sleep(SETTLE_S)
                return Seen(_mark(callers), asked, status, left_s)
            finally:
                for each in callers:
                    each.stop()


def _mark(callers: list[Callers]) -> list[dict[str, Any]]:
    return [one for each in callers for one in each.mark()]


def judge(result: report.Report, seen: Seen, calls: int) -> None:
    """The bars."""
    mine = [one for one in seen.marks if one["group"] == "moved"]
    gaps = sorted(one["gap_ms"] for one in mine)
    p99 = gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))]
    refused = sum(not was_let_in for _, was_let_in in seen.asked)
    result.bar("sigterm_directions_alive", sum(one["alive"] for one in mine), "==", 2 * calls)
    result.bar("sigterm_least_moves", min(one["moves"] for one in mine), ">=", 1)
    result.bar("sigterm_gap_p99_ms", p99, "<=", GAP_MS, is_speed=True)
    result.bar("sigterm_control_gap_ms", seen.control_ms, "<=", GAP_MS, is_speed=True)
    result.bar("sigterm_last_new_call_let_in_ms", round(seen.last_let_in_ms, 1), "<=", REFUSED_MS)
    result.bar("sigterm_new_calls_refused", refused, ">=", JOINERS - REFUSED_MS / 1000 / EVERY_S - 1)
    result.bar("sigterm_exit_status", seen.status, "==", 0)
    result.bar("sigterm_left_after_s", round(seen.left_s, 2), "<=", DEADLINE_S)
    result.detail(
        sigterm_gaps_over_0=sum(gap > 0 for gap in gaps),
        sigterm_joins=[(round(ms, 1), was_let_in) for ms, was_let_in in seen.asked],
    )
