"""`relay rollout gate|status|history|follow`: what is known of a rollout, and a program that goes by it.

Must never live here: verdicts (relay/rollout/gate.py), counting (relay/rollout/counts.py).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from relay.commands.desk import add_by, add_config, date, who
from relay.commands.rollout_drive import summary
from relay.commands.rollout_options import (
    VERDICTS,
    add_id,
    add_key,
    add_region,
    add_source,
    config_of,
    keys_of,
    signer_of,
    source_of,
    steer,
)
from relay.commands.terminal import Printer, Subcommands, declare
from relay.errors import ConfigError, RelayError
from relay.rollout.classes import ClassFinding, Standing
from relay.rollout.course import Helm
from relay.rollout.gate import Verdict
from relay.rollout.inquiry import Look, look
from relay.rollout.pilot import Pace, Pilot, told
from relay.rollout.publish import is_published, published

WIDTH = 110
DECIDED = (Verdict.PROMOTE, Verdict.ROLLBACK)
EVERY_S = 30.0


def add(inner: Subcommands) -> None:
    """Declare them."""
    gate = declare(
        inner,
        "gate",
        run_gate,
        "count, then say whether a region's step may be followed by the next one",
        "relay rollout gate --rollout relay-0.4 --region eu-1 --from http://10.0.0.1:9464 --json\n"
        "relay rollout gate --rollout relay-0.4 --region eu-1 --from counts.json --wait --timeout 7200",
        epilog="it changes nothing but the counts; without --from it judges what was counted\n" + VERDICTS,
    )
    status = declare(
        inner,
        "status",
        run_status,
        "show how far rollouts are",
        "relay rollout status\nrelay rollout status --json",
    )
    status.add_argument("--rollout", metavar="ID", help="this one only")
    history = declare(
        inner,
        "history",
        run_history,
        "show who changed a rollout, when and why",
        "relay rollout history relay-0.4\nrelay rollout history --rollout relay-0.4 --limit 8",
    )
    which = history.add_mutually_exclusive_group(required=True)
    which.add_argument("rollout", nargs="?", metavar="ID", help="id of the rollout, as `kill` takes it")
    which.add_argument("--rollout", dest="named", metavar="ID", help="the same, as the other actions take it")
    history.add_argument("--limit", type=int, default=64, metavar="N", help="the newest N (%(default)s)")
    follow = declare(
        inner,
        "follow",
        run_follow,
        "take a region through its steps by itself: count, ask the gate, advance or take back",
        "relay rollout follow --rollout relay-0.4 --region eu-1 --from http://10.0.0.1:9464 \\\n"
        "    --key operator.key --wait --timeout 86400\n"
        "relay rollout follow --rollout relay-0.4 --region eu-1 --from http://10.0.0.1:9464 --dry-run",
        epilog="with --json a line for each event, the last one is the end\n"
        "exit status: 0 through its steps, else that of the last look: 10 hold, 20 taken back, 30 no data\n",
    )
    follow.add_argument("--dry-run", action="store_true", help="count and ask, and only say what it would do")
    for parser in (gate, follow):
        add_id(parser)
    for parser in (gate, follow):
        add_region(parser)
        add_source(parser)
        parser.add_argument("--wait", action="store_true", help="look again until it is decided")
        parser.add_argument("--timeout", type=float, metavar="S", help="for so long at most, seconds")
        parser.add_argument(
            "--every", type=float, default=EVERY_S, metavar="S", help="seconds between looks (%(default)g)"
        )
    add_key(follow)
    add_by(follow, why="beside what the gate says", is_asked=False)
    gate.add_argument("--who", default="", metavar="NAME", help="who counts (your user name)")
    for parser in (gate, status, history, follow):
        add_config(parser)


def run_gate(arguments: argparse.Namespace, printer: Printer) -> int:
    """One verdict, or the first that decides."""
    source, (every, timeout) = source_of(arguments), _pace(arguments)

    async def work(helm: Helm) -> Look:
        until = None if timeout is None else helm.wall() + timeout
        while True:
            found = await look(helm, arguments.rollout, arguments.region, source, who(arguments))
            is_late = until is not None and helm.wall() + every > until
            if not arguments.wait or is_late or found.answer.verdict in DECIDED:
                return found
            printer.progress(told(found))
            await asyncio.sleep(every)

    def show(found: Look) -> int:
        printer.result({"ok": True, **found.facts()}, _look(found))
        return found.answer.exit_status

    return steer(arguments, printer, work, show)


def run_status(arguments: argparse.Namespace, printer: Printer) -> int:
    """Every rollout, or one."""
    keys = keys_of(config_of(arguments))

    async def work(helm: Helm) -> dict[str, Any]:
        try:
            body, problem = await published(helm, keys), ""
        except RelayError as error:
            body, problem = None, str(error)
        rows = []
        for id in await helm.ids() if arguments.rollout is None else [arguments.rollout]:
            course = await helm.course(id)
            row, entry = summary(course), course.record.entry
            row |= {"who": entry.who, "why": entry.why, "at": entry.at, "change": entry.change.value}
            is_same = not problem and await is_published(helm, id, keys)
            rows.append(row | {"is_published": is_same})
        state = None if body is None else {"rev": body.rev, "not_after": body.not_after}
        return {"ok": True, "state": state, "problem": problem, "rollouts": rows}

    def show(facts: dict[str, Any]) -> int:
        printer.result(facts, _status(facts))
        return 0

    return steer(arguments, printer, work, show)


def run_history(arguments: argparse.Namespace, printer: Printer) -> int:
    """Every change that is kept."""
    id = arguments.rollout or arguments.named

    async def work(helm: Helm) -> list[dict[str, Any]]:
        await helm.course(id)  # it is there
        return await helm.history(id, max(1, arguments.limit))

    def show(rows: list[dict[str, Any]]) -> int:
        table = Table("when", "revision", "change", "where", "share, %", "then", "who", "why")
        for row in rows:
            shown = row | {"pct": None if row["pct"] is None else f"{row['pct']:g}"}
            names = ("revision", "change", "place", "pct", "phase", "who", "why")
            cells = ("" if shown[name] is None else str(shown[name]) for name in names)
            table.add_row(date(row["at"]), *cells)
        printer.result({"ok": True, "rollout": id, "changes": rows}, _text(table))
        return 0

    return steer(arguments, printer, work, show)


def run_follow(arguments: argparse.Namespace, printer: Printer) -> int:
    """The loop."""
    source, (every, timeout) = source_of(arguments), _pace(arguments)
    signer = signer_of(arguments, config_of(arguments))
    if signer is None and not arguments.dry_run:
        cure = "name the private key by which boxes know the state, or --dry-run"
        raise ConfigError("--key", "is missing: what it changed would not reach a box", cure)

    def tell(event: dict[str, Any], text: str) -> None:
        printer.progress(text)
        if printer.is_json:
            print(json.dumps(event, ensure_ascii=False), flush=True)

    async def work(helm: Helm) -> int:
        pilot = Pilot(
            helm,
            arguments.rollout,
            arguments.region,
            source,
            who(arguments),
            None if arguments.dry_run else signer,
            tell,
            arguments.why,
        )
        return await pilot.fly(Pace(every, arguments.wait, timeout))

    return steer(arguments, printer, work, lambda status: status)


# ---------------------------------------------------------------- inside


def _pace(arguments: argparse.Namespace) -> tuple[float, float | None]:
    """Seconds between two looks, and for how long. ConfigError names what cannot be."""
    if not arguments.every > 0:
        raise ConfigError("--every", f"{arguments.every:g} s", "more than 0; 30 is usual")
    if arguments.timeout is not None and not (arguments.timeout > 0 and arguments.wait):
        raise ConfigError("--timeout", "is for --wait, and more than 0", "for example --wait --timeout 7200")
    return arguments.every, arguments.timeout


def _look(found: Look) -> str:
    table = Table("guardrail", "candidate", "control", "difference", "from", "to", "below", "status")
    for row in found.answer.facts()["guardrails"]:
        shares = (f"{100 * row[name]:.2f} %" for name in ("diff", "lo", "hi", "delta"))
        counts = (f"{row[f'k{side}']} of {row[f'n{side}']}" for side in "tc")
        table.add_row(row["name"], *counts, *shares, row["status"])
    prior = found.prior
    used = [f"{prior['calls']} control calls of the days before stand for control"] if prior["calls"] else []
    why = [f"days before: {prior['why']}"] if prior["why"] else []
    return "\n".join([told(found), _text(table), *used, *why, *_classes(found)])


def _classes(found: Look) -> Iterator[str]:
    """What is to be said of classes of clients: those that are worse, and those that say nothing."""
    by: dict[str, list[ClassFinding]] = {}
    for each in found.answer.classes:
        by.setdefault(each.client, []).append(each)
        if each.standing in (Standing.WORSE, Standing.SUSPECT):
            yield f"{each.name} of {each.client} clients: {each.standing.value}"
    thin = [client for client, some in by.items() if all(each.standing is Standing.THIN for each in some)]
    if thin:
        yield f"too few calls to say anything of clients: {', '.join(thin)}"


def _status(facts: dict[str, Any]) -> str:
    table = Table("rollout", "phase", "where", "share, %", "step", "since", "boxes know", "last change")
    for row in facts["rollouts"]:
        places = row["places"].items()
        table.add_row(
            row["rollout"],
            "killed" if row["killed"] else row["phase"],
            "\n".join(name for name, _ in places),
            "\n".join(f"{place['pct']:g}" for _, place in places),
            "\n".join(_step(place) for _, place in places),
            "\n".join(date(place["since"]) for _, place in places),
            "yes" if row["is_published"] else "no: publish",
            f"{row['change']} by {row['who']}: {row['why']}",
        )
    state = facts["state"]
    known = "no state is signed" if state is None else f"the signed state is revision {state['rev']}"
    end = "" if state is None else f", until {date(state['not_after'])}"
    return f"{facts['problem'] or known + end}\n{_text(table)}"


def _step(place: dict[str, Any]) -> str:
    return str(place["step"] + 1) if place["spot"] == "stepping" else str(place["spot"])


def _text(table: Table) -> str:
    told = io.StringIO()
    Console(file=told, width=WIDTH).print(table)
    return told.getvalue().rstrip()
