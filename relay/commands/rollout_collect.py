"""`relay rollout collect`: keeps control calls of the days before a rollout, for the gate of the next one.

Must never live here: what is counted (relay/rollout/prior.py), how nodes are asked (relay/rollout/scrape.py).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any, Final

from relay.commands.desk import add_config, who
from relay.commands.rollout_options import steer
from relay.commands.terminal import Printer, Subcommands, declare
from relay.errors import ConfigError
from relay.rollout.collect import collect
from relay.rollout.course import Helm
from relay.rollout.gate import EXIT, Verdict
from relay.rollout.prior import GAP_S, Days
from relay.rollout.scrape import check_url, scrape
from relay.rollout.store import UnreachableError

EVERY_S: Final = 60.0


def add(inner: Subcommands) -> None:
    """Declare it."""
    parser = declare(
        inner,
        "collect",
        run_collect,
        "keep control calls of the days before a rollout, by region and hour, for its gate",
        "relay rollout collect --from http://10.0.0.1:9464 --from http://10.0.0.2:9464\n"
        "relay rollout collect --from http://10.0.0.1:9464 --wait",
        epilog="it keeps seven days; gate, advance and follow collect, too, from the nodes that they ask\n"
        "exit status: 0 counted, 30 no node answered\n",
    )
    parser.add_argument(
        "--from",
        dest="source",
        action="append",
        required=True,
        metavar="URL",
        help="metrics of a node (http://...:9464/metrics; repeat for each)",
    )
    parser.add_argument("--wait", action="store_true", help="go on until stopped")
    parser.add_argument("--timeout", type=float, metavar="S", help="for so long at most, seconds")
    parser.add_argument(
        "--every", type=float, default=EVERY_S, metavar="S", help="seconds between two times (%(default)g)"
    )
    parser.add_argument("--who", default="", metavar="NAME", help="who counts (your user name)")
    add_config(parser)


def run_collect(arguments: argparse.Namespace, printer: Printer) -> int:
    """Once, or until stopped."""
    urls = tuple(dict.fromkeys(map(check_url, arguments.source)))
    every, timeout = arguments.every, arguments.timeout
    if not 0 < every <= GAP_S:
        told = f"{every:g} s: nobody could tell any more in which hour calls were"
        raise ConfigError("--every", told, f"more than 0, at most {GAP_S:g}; {EVERY_S:g} is usual")
    if timeout is not None and not (timeout > 0 and arguments.wait):
        raise ConfigError("--timeout", "is for --wait, and more than 0", "for example --wait --timeout 7200")

    async def once(helm: Helm) -> dict[str, Any]:
        readings, problems = await scrape(urls, helm.wall)
        found = await collect(helm, readings, who(arguments))
        problems += [
            f"{each.node}: no plan could name its region" for each in readings if each.region not in found
        ]
        return {"ok": bool(readings), "regions": _facts(found), "problems": problems}

    async def work(helm: Helm) -> dict[str, Any]:
        until = None if timeout is None else helm.wall() + timeout
        while True:
            try:
                facts = await once(helm)
            except UnreachableError as error:
                if not arguments.wait:
                    raise
                facts = {"ok": False, "regions": {}, "problems": [str(error)]}
            if not arguments.wait or (until is not None and helm.wall() + every > until):
                return facts
            printer.progress(_text(facts))
            await asyncio.sleep(every)

    def show(facts: dict[str, Any]) -> int:
        printer.result(facts, _text(facts))
        return 0 if facts["ok"] else EXIT[Verdict.NO_DATA]

    return steer(arguments, printer, work, show)


def _facts(found: Mapping[str, Days]) -> dict[str, Any]:
    """Region -> version -> how many hours there are, and how many attempts to call."""
    told: dict[str, Any] = {}
    for region, days in found.items():
        versions = told.setdefault(region, {})
        for slot in days.slots:
            row = versions.setdefault(slot.version, {"hours": 0, "calls": 0})
            row["hours"] += 1
            row["calls"] += slot.counts.get("setup_fail", (0, 0))[1]
    return told


def _text(facts: dict[str, Any]) -> str:
    lines = [
        f"{region}, {version}: {one['calls']} control calls in {one['hours']} hours"
        for region, versions in facts["regions"].items()
        for version, one in versions.items()
    ]
    bare = (region for region, versions in facts["regions"].items() if not versions)
    lines += [f"{region}: no control calls yet" for region in bare]
    return "\n".join([*lines, *facts["problems"]]) or "nothing was counted"
