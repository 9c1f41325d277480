"""`relay records`: read call records, and erase a person from them. Must never live here: their storage."""

from __future__ import annotations

import argparse
import datetime
import time
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from relay.commands.node import DEFAULT_PATH
from relay.commands.terminal import Printer, Subcommands, declare, hex_bytes
from relay.config import load
from relay.errors import ConfigError
from relay.ops import history

DAY = 86_400.0


def add(subcommands: Subcommands) -> None:
    """Declare `records list` and `records erase`."""
    top = subcommands.add_parser("records", help="list call records, erase a person from them")
    inner = top.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = declare(
        inner,
        "list",
        run_list,
        "list finished calls, newest first",
        "relay records list --days 1\nrelay records list --outcome failed --json",
    )
    show.add_argument("--call", metavar="HEX", help="only this call")
    show.add_argument("--sub", metavar="HEX", help="only calls with this pseudonym")
    show.add_argument("--outcome", help="only calls that ended so (completed, missed, failed, ...)")
    show.add_argument("--issuer", metavar="NAME", help="only calls of this issuer")
    show.add_argument("--days", type=float, metavar="N", help="only the last N days")
    show.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (%(default)s)")
    show.add_argument("--canaries", action="store_true", help="calls of `relay canary`, too")
    erase = declare(
        inner,
        "erase",
        run_erase,
        "erase a pseudonym from all records",
        "relay records erase 000102030405060708090a0b0c0d0e0f",
    )
    erase.add_argument("sub", metavar="HEX", help="pseudonym, 32 digits")
    for parser in (show, erase):
        parser.add_argument("--config", default=DEFAULT_PATH, metavar="FILE", help="(%(default)s)")
        parser.add_argument("--file", metavar="FILE", help="the records file itself, instead of --config")


def run_list(arguments: argparse.Namespace, printer: Printer) -> int:
    """Print calls."""
    with history.database(records_path(arguments), create=False) as connection:
        calls = history.query(
            connection,
            call=_hex(arguments.call, "--call"),
            sub=_hex(arguments.sub, "--sub"),
            since=None if arguments.days is None else time.time() - arguments.days * DAY,
            outcome=arguments.outcome,
            issuer=arguments.issuer,
            limit=arguments.limit,
            canaries=arguments.canaries or arguments.call is not None,
        )
    if printer.is_json:
        printer.result({"ok": True, "calls": calls}, "")
    else:
        Console().print(_table(calls))
    return 0


def run_erase(arguments: argparse.Namespace, printer: Printer) -> int:
    """Erase; how many rows named the pseudonym."""
    sub = hex_bytes(arguments.sub, 16, "HEX").hex()
    with history.database(records_path(arguments), create=False) as connection:
        erased = history.erase(connection, sub)
    printer.result({"ok": True, "erased": erased}, f"erased from {erased} call{'' if erased == 1 else 's'}")
    return 0


def records_path(arguments: argparse.Namespace) -> str:
    """Where the records are, by --file or --config. ConfigError when none are kept."""
    path = str(arguments.file or load(arguments.config).records.path)
    if not path:
        raise ConfigError("records.path", "is empty: this node keeps no records", "name --file")
    return path


def _hex(text: str | None, option: str) -> str | None:
    return None if text is None else hex_bytes(text, 16, option).hex()


def _table(calls: list[dict[str, Any]]) -> Table:
    # Ids are there to be copied: whole, on as many lines as it takes.
    table = Table(
        "ended",
        Column("call", overflow="fold"),
        "outcome",
        "talked",
        "people",
        "lost",
        title=f"{len(calls)} calls",
    )
    for call in calls:
        people = call["participants"]
        ended = datetime.datetime.fromtimestamp(call["ended_at"], datetime.UTC)
        answered = call["answered_at"]
        talked = "-" if answered is None else f"{call['ended_at'] - answered:.0f} s"
        received = sum(person["received"] for person in people)
        lost = sum(person["lost"] for person in people)
        share = f"{100 * lost / (received + lost):.1f} %" if received + lost else "-"
        outcome = call["outcome"] + (f" ({call['reason']})" if call["reason"] else "")
        outcome += ", canary" if call["canary"] else ""
        outcome += f", {call['variant']}" if call["variant"] else ""
        table.add_row(f"{ended:%Y-%m-%d %H:%M:%S}", call["call"], outcome, talked, str(len(people)), share)
    return table
