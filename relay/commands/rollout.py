"""`relay rollout`: what a plan says, and whom it or the state in force gives the candidate.

Must never live here: the plan (relay/rollout/plan.py), buckets (relay/rollout/bucket.py), what a box does by
a state (relay/rollout/mandate.py), what drives a rollout (rollout_drive.py), shows it (rollout_show.py), and
counts the days before one (rollout_collect.py).
"""

from __future__ import annotations

import argparse
import io

from rich.console import Console
from rich.table import Table

from relay.commands import rollout_collect, rollout_drive, rollout_show
from relay.commands.decide import decide_now
from relay.commands.terminal import Printer, Subcommands, declare, read_text
from relay.errors import ConfigError
from relay.rollout.bucket import Decision, Shares, decide
from relay.rollout.plan import Document, parse_plan, places_of

WIDTH = 110


def add(subcommands: Subcommands) -> None:
    """Declare `rollout` and what stands below it."""
    top = subcommands.add_parser("rollout", help="check a rollout's plan, take it step by step, and back")
    inner = top.add_subparsers(dest="op", metavar="ACTION", required=True)
    plan = declare(
        inner,
        "plan",
        run_plan,
        "check a plan, TOML or JSON, and show its waves and steps",
        "relay rollout plan rollout.toml\nrelay rollout plan rollout.toml --json > rollout.json",
    )
    plan.add_argument("plan", metavar="FILE", help="the plan; - is standard input")
    one = declare(
        inner,
        "decide",
        run_decide,
        "say at which steps of a plan a unit gets the candidate, or what the boxes of a region give it now",
        "relay rollout decide --plan rollout.toml --region eu-1 --unit call-1\n"
        "relay rollout decide --plan rollout.toml --region eu-1 --unit call-1 --pct 5 --group dogfood\n"
        "relay rollout decide --state lastgood --key HEX --region eu-1 --unit HEX",
        epilog="a unit is a call (its id) in a rollout of kind release, a person (ru) in one of kind open\n",
    )
    source = one.add_mutually_exclusive_group(required=True)
    source.add_argument("--plan", metavar="FILE", help="the plan; - is standard input")
    source.add_argument("--state", metavar="FILE", help="the signed state; FILE.kill beside it counts, too")
    one.add_argument(
        "--key", action="append", default=[], metavar="HEX", help="public key of --state; two: a rotation"
    )
    one.add_argument(
        "--without", choices=("control", "all"), default="control", help="as state.without of the boxes"
    )
    one.add_argument("--region", required=True, metavar="NAME", help="where the call begins")
    one.add_argument("--unit", required=True, metavar="TEXT", help="whom or what it is about")
    one.add_argument("--group", action="append", default=[], metavar="NAME", help="of the token; repeatable")
    one.add_argument("--pct", type=float, metavar="N", help="share of the region at present, percent")
    rollout_drive.add(inner)
    rollout_show.add(inner)
    rollout_collect.add(inner)


def run_plan(arguments: argparse.Namespace, printer: Printer) -> int:
    """Parse, then show."""
    plan = parse_plan(read_text(arguments.plan, "FILE"), arguments.plan)
    printer.result(plan.facts(), _table(plan))
    return 0


def run_decide(arguments: argparse.Namespace, printer: Printer) -> int:
    """Every step of the region's wave, or one share; or the state in force."""
    if arguments.state is not None:
        return decide_now(arguments, printer)
    plan = parse_plan(read_text(arguments.plan, "--plan"), arguments.plan)
    wave = plan.wave_of(arguments.region)
    if wave is None:
        known = ", ".join(place for each in plan.rollout.wave for place in each.regions)
        raise ConfigError("--region", f"{arguments.region} is in no wave of the plan", f"it has: {known}")
    if arguments.pct is not None and not 0 <= arguments.pct <= 100:
        raise ConfigError("--pct", f"{arguments.pct:g} is no share", "0 to 100, percent")
    count = len(plan.rollout.wave[wave].steps)
    pcts = [arguments.pct] if arguments.pct is not None else [plan.share(wave, at) for at in range(count)]
    told = [_decide(plan, arguments, pct) for pct in pcts]
    facts = {
        "rollout": plan.rollout.id,
        "region": arguments.region,
        "bucket": told[0].bucket,
        "decisions": [each.facts() for each in told],
    }
    lines = [f"{each.pct:6g} %  {each.variant.value} ({each.rule.value})" for each in told]
    printer.result(facts, "\n".join([f"bucket {told[0].bucket} of {plan.rollout.id}", *lines]))
    return 0


def _decide(plan: Document, arguments: argparse.Namespace, pct: float) -> Decision:
    groups = plan.rollout.groups
    shares = Shares(
        never=frozenset(groups.never), always=frozenset(groups.always), regions={arguments.region: pct}
    )
    return decide(
        plan.rollout.id,
        plan.rollout.salt,
        arguments.unit,
        shares,
        region=arguments.region,
        groups=arguments.group,
    )


def _table(plan: Document) -> str:
    rollout = plan.rollout
    versions = f": {rollout.candidate} against {rollout.control}" if rollout.candidate else ""
    table = Table("wave", "where", "steps, %", "each for", "the last for", "calls", "by")
    for at, wave in enumerate(rollout.wave):
        table.add_row(
            str(plan.number(at)),
            ", ".join(places_of(wave)),
            ", ".join(f"{plan.share(at, step):g}" for step in range(len(wave.steps))),
            _time(wave.bake),
            _time(wave.bake_s(len(wave.steps) - 1)),
            f">= {wave.min_calls}",
            "a person" if wave.confirm else "the gate",
        )
    rails = ", ".join(f"{rail.name} {100 * rail.margin:g} pp" for rail in plan.guardrails)
    told = io.StringIO()
    Console(file=told, width=WIDTH).print(table)
    return f"{rollout.id} ({rollout.kind}){versions}\n{told.getvalue()}no worse than: {rails}"


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
