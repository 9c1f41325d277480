"""What goes wrong on a bad day: each fault is survived by the calls, or refused with one clear line.

A daemon as shipped (`relay serve`, native lane) carries voices of the SDK. One fault after the other is put
to the process by real means; the table below names what each may cost, which lines it may write and which
drops it must be counted by. Judged of each: no call lost, what every direction missed, ready again and a new
call, the watchdog fed, exactly the lines named, packets conserved. A fault that misses a bound of time while
the control, a call through a second daemon that nobody touches, was disturbed is void and made again. Must
never live here: how a fault is brought about (faultkernel.py, faultservice.py, faultfeed.py).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from lab import faultfeed as feed
from lab import faultkernel as kernel
from lab import faultservice as service
from lab.callers import Callers, orders
from lab.faultnode import Node
from lab.faultscene import CONTROL, Fault, Scene, attempt, is_missing_anywhere
from load import report

CALLS, QUICK_CALLS = 4, 1
VOIDS: Final = 2
DISTURBED_MS: Final = 100.0  # a control that misses more: the machine is busy
SEND_ERROR: Final = 'relay_media_dropped_out_total{reason="send_error"}'
REFUSED: Final = service.REFUSED
RECORDS: Final = "call records wait, they cannot be written: SQLITE_FULL"
EVENTS: Final = "call events wait, they cannot be written: "
NATIVE: Final = frozenset({"native"})

TABLE: Final = (
    Fault("enobufs", kernel.refusing(errno.ENOBUFS, 1, kernel.BURST_S), 1500, moved=SEND_ERROR),
    Fault("eagain", kernel.refusing(errno.EAGAIN, 2, 2.0), 2500, moved=SEND_ERROR),
    Fault("deaf", kernel.deaf, 1000),
    Fault("emfile", kernel.no_descriptors, 100, {"TCP connections wait": 1}),
    Fault("enospc", kernel.full_disk, 100, {RECORDS: 1, EVENTS: 1}, needs=frozenset({"root"})),
    Fault("wrong-key", service.refused(service.wrong_key), 100, {REFUSED + "tls.key": 1}),
    Fault("no-certificate", service.refused(service.no_certificate), 100, {REFUSED + "tls.certificate": 1}),
    Fault("expired", service.refused(service.expired), 100, {REFUSED + "tls.certificate": 1}),
    Fault("expired-at-start", service.expired_at_start, 100),
    Fault("misspelt-config", service.refused(service.misspelt), 100, {REFUSED + "limit": 1}),
    Fault("torn-config", service.refused(service.torn), 100, {REFUSED: 1}),
    Fault("clock-forward", kernel.jumping(kernel.HOUR_S, kernel.OLD_TOKEN), 100),
    Fault("clock-back", kernel.jumping(-kernel.HOUR_S, kernel.YOUNG_TOKEN), 100),
    Fault("sigstop", kernel.stopped, 1000 * kernel.STOP_S + 1000),
    Fault("lane-panics", kernel.panics, 100, {"the lane met a bug of ours": 1}, needs=NATIVE),
    Fault(
        "lane-ends",
        kernel.threads_end,
        3000,
        {"the daemon cannot go on": 1, "going on after a crash": 1},
        needs=NATIVE,
        is_new_process=True,
    ),
    Fault("dead-webhook", feed.dead_webhook, 100, is_fed=True),
)


async def judge(fault: Fault, node: Node, callers: Callers, arguments: Namespace) -> Scene:
    """The fault, again while the machine spoils it; the scene that counts."""
    for again in range(VOIDS + 1):
        scene = Scene(node, callers, arguments.quick)
        async with scene.leaves:
            control = await attempt(fault, scene)
        scene.notes |= {"control_missed_ms": control, "voids": again}
        is_slow = any(
            bar.is_speed and not report.holds(bar.value, bar.operator, bar.bound) for bar in scene.bars
        )
        if not is_slow or control <= DISTURBED_MS or again == VOIDS:
            break
        report.say(f"void: the control missed {control:.0f} ms as well; again ...")
    return scene


def run(arguments: Namespace, result: report.Report, folder: Path) -> None:
    """All faults that were asked for: on a daemon of its own those that take one with a feed."""
    told: dict[str, Any] = {}
    wanted = wanted_of(arguments.fault, arguments.lane)
    for is_fed in (False, True):
        faults = [fault for fault in wanted if fault.is_fed is is_fed]
        if faults:
            part = folder / ("fed" if is_fed else "alone")
            part.mkdir()
            told |= run_on_one(faults, arguments, result, part, is_fed)
    missed = [name for name, notes in told.items() if "not_injected" in notes]
    result.bar("faults that could not be injected here", len(missed), "==", 0)
    result.detail(faults=told, calls=calls_of(arguments), lane=arguments.lane)


def calls_of(arguments: Namespace) -> int:
    """How many run meanwhile."""
    return arguments.calls or (QUICK_CALLS if arguments.quick else CALLS)


def run_on_one(
    faults: list[Fault], arguments: Namespace, result: report.Report, folder: Path, is_fed: bool
) -> dict[str, Any]:
    """Faults of one kind of daemon, on one of it; what is told of each."""
    lack = lacking()
    told: dict[str, Any] = {}
    with ExitStack() as stack:
        how = {"small": "root" not in lack and not is_fed, "fed": is_fed}
        node = stack.enter_context(Node.make(folder / "node", lane=arguments.lane, **how))
        still = stack.enter_context(Node.make(folder / "control", lane=arguments.lane))
        callers = Callers(
            orders(node.rig, ["voice"] * calls_of(arguments), "calls") + orders(still.rig, ["voice"], CONTROL)
        )
        stack.callback(callers.stop)
        callers.wait_talking()
        for fault in faults:
            lacks = is_missing_anywhere(lack, fault)
            if lacks:
                report.say(f"{fault.name}: cannot be injected here: no {lacks}")
                told[fault.name] = {"not_injected": f"no {lacks}"}
                continue
            report.say(f"{fault.name} ...")
            scene = asyncio.run(judge(fault, node, callers, arguments))
            for bar in scene.bars:
                result.bar(
                    f"{fault.name}: {bar.name}", bar.value, bar.operator, bar.bound, is_speed=bar.is_speed
                )
            told[fault.name] = scene.notes
    return told


def wanted_of(name: str | None, lane: str) -> list[Fault]:
    """The rows that were asked for; the lane without threads has none that could panic or be gone."""
    named = [fault for fault in TABLE if name in (None, fault.name)]
    return [fault for fault in named if lane != "python" or "native" not in fault.needs]


def lacking() -> list[str]:
    """What this machine has not."""
    lack = [] if os.geteuid() == 0 and shutil.which("unshare") else ["root"]
    return lack if find_spec("relay._lane") is not None else [*lack, "native"]


def main() -> int:
    """Run, print, tell by the exit status."""
    parser = report.arguments("faults", __doc__)
    parser.add_argument("--fault", choices=[fault.name for fault in TABLE], help="this one only")
    parser.add_argument("--calls", type=int, help=f"that run meanwhile (default {CALLS})")
    parser.add_argument("--lane", default="auto", choices=("auto", "native", "python"), help="of the daemon")
    arguments = parser.parse_args()
    if not wanted_of(arguments.fault, arguments.lane):
        parser.error(f"{arguments.fault} needs the native lane: leave --lane python out")
    result = report.Report("faults", seed=arguments.seed, quick=arguments.quick)
    with tempfile.TemporaryDirectory(prefix="relay-faults-") as folder:
        run(arguments, result, Path(folder))
    return result.finish(as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
