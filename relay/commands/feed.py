"""`relay feed`: the program that brings events to other machines, and what people do with its letters.

Must never live here: delivery (relay/feed/).
"""

from __future__ import annotations

import argparse
import datetime
import re
import secrets
import time
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from relay.commands.node import DEFAULT_PATH
from relay.commands.terminal import Printer, Subcommands, declare, write_secret
from relay.config import load
from relay.errors import ConfigError
from relay.feed.signing import LONGEST, format_secret
from relay.feed.store import Selection, Store

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
SECRET_BYTES = LONGEST // 2


def add(subcommands: Subcommands) -> None:
    """Declare `feed` and what stands below it."""
    top = declare(
        subcommands,
        "feed",
        run_feed,
        "deliver call events as signed webhooks until told to stop",
        "relay feed --config /etc/relay/relay.toml\n"
        "relay feed status\n"
        "relay feed list --endpoint billing\n"
        "relay feed replay --since 6h",
        epilog="signals: TERM ends it within seconds; nothing is lost\n",
    )
    top.add_argument("--config", default=DEFAULT_PATH, metavar="FILE", help="(%(default)s)")
    top.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a value on top of the file"
    )
    inner = top.add_subparsers(dest="action", metavar="ACTION", required=False)
    _below(
        inner,
        "status",
        run_status,
        "show what waits for each endpoint, and how it answers",
        "relay feed status",
    )
    show = _below(
        inner,
        "list",
        run_list,
        "list dead letters, oldest first",
        "relay feed list\nrelay feed list --since 1d --json",
    )
    show.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (%(default)s)")
    replay = _below(
        inner,
        "replay",
        run_replay,
        "send dead letters again, with the ids they had",
        "relay feed replay --all\nrelay feed replay --endpoint billing --since 6h",
        epilog="an endpoint that answered 410 is asked again when --endpoint names it\n",
    )
    drop = _below(
        inner,
        "drop",
        run_drop,
        "erase dead letters",
        "relay feed drop --id 599b8e0cb04089fb-7\nrelay feed drop --endpoint old --all",
    )
    for parser in (show, replay, drop):
        parser.add_argument("--endpoint", default="", metavar="NAME", help="only this endpoint's")
        parser.add_argument("--id", default="", metavar="ID", help="only the letter with this webhook-id")
        parser.add_argument(
            "--since", metavar="SPAN", help="only those that died so lately: 90s, 30m, 6h, 2d"
        )
    for parser in (replay, drop):
        parser.add_argument("--all", action="store_true", help="all that the other options leave")
    secret = declare(
        inner,
        "secret",
        run_secret,
        "make a secret for an endpoint's signatures",
        "relay feed secret billing.secret",
        is_below=True,
    )
    secret.add_argument("file", metavar="FILE", help="new file, mode 0600")


def _below(inner: Subcommands, *words: Any, **more: Any) -> argparse.ArgumentParser:
    """A subcommand; options may stand before it as well as behind."""
    parser = declare(inner, *words, is_below=True, **more)
    parser.add_argument("--config", default=argparse.SUPPRESS, metavar="FILE", help=f"({DEFAULT_PATH})")
    return parser


def run_feed(arguments: argparse.Namespace, printer: Printer) -> int:
    """Deliver until SIGTERM."""
    from relay.feed import program  # pulls in aiohttp, which no other subcommand below `feed` needs

    return program.run(load(arguments.config, arguments.set))


def run_status(arguments: argparse.Namespace, printer: Printer) -> int:
    """How each endpoint stands."""
    now = time.time()
    with closing(_store(arguments)) as store:
        found = store.status(now)
    if printer.is_json:
        printer.result({"ok": True, "endpoints": found}, "")
        return 0
    table = Table(
        "endpoint", "waiting", "oldest", "dead", "delivered", Column("last failure", overflow="fold")
    )
    for row in found:
        state = " (410, closed)" if row["is_closed"] else "" if row["is_configured"] else " (not configured)"
        table.add_row(
            row["endpoint"] + state,
            str(row["waiting"]),
            _span(row["oldest_s"]) if row["waiting"] else "-",
            str(row["dead"]),
            _ago(row["delivered_at"], now),
            f"{_ago(row['failed_at'], now)}: {row['last_error']}" if row["failed_at"] else "-",
        )
    Console().print(table)
    return 0


def run_list(arguments: argparse.Namespace, printer: Printer) -> int:
    """Dead letters."""
    with closing(_store(arguments)) as store:
        found = store.list_dead(_selection(arguments), max(0, arguments.limit))
    if printer.is_json:
        printer.result({"ok": True, "letters": found}, "")
        return 0
    table = Table(
        "died",
        "endpoint",
        Column("id", overflow="fold"),
        "events",
        "tries",
        "why",
        title=f"{len(found)} dead letters",
    )
    for row in found:
        died = datetime.datetime.fromtimestamp(row["died"], datetime.UTC)
        table.add_row(
            f"{died:%Y-%m-%d %H:%M:%S}",
            row["endpoint"],
            row["id"],
            row["kinds"],
            str(row["attempts"]),
            row["why"],
        )
    Console().print(table)
    return 0


def run_replay(arguments: argparse.Namespace, printer: Printer) -> int:
    """Send again."""
    with closing(_store(arguments)) as store:
        count = store.replay(_narrowed(arguments), time.time())
    printer.result({"ok": True, "replayed": count}, f"{_letters(count)} sent again by a running `relay feed`")
    return 0


def run_drop(arguments: argparse.Namespace, printer: Printer) -> int:
    """Erase."""
    with closing(_store(arguments)) as store:
        count = store.drop(_narrowed(arguments))
    printer.result({"ok": True, "dropped": count}, f"{_letters(count)} erased")
    return 0


def run_secret(arguments: argparse.Namespace, printer: Printer) -> int:
    """Make one."""
    write_secret(arguments.file, format_secret(secrets.token_bytes(SECRET_BYTES)), "FILE")
    told = f"{arguments.file} is made: name it in secret_file, and give the endpoint the same line"
    printer.result({"ok": True, "file": arguments.file}, told)
    return 0


def _store(arguments: argparse.Namespace) -> Store:
    return Store(load(arguments.config, arguments.set).feed, create=False)


def _narrowed(arguments: argparse.Namespace) -> Selection:
    """Never all of them by forgetting an option."""
    chosen = _selection(arguments)
    if chosen == Selection() and not arguments.all:
        raise ConfigError("--all", "nothing says which letters", "give --endpoint, --id or --since, or --all")
    return chosen


def _selection(arguments: argparse.Namespace) -> Selection:
    since = None
    if arguments.since is not None:
        found = re.fullmatch(r"([0-9]{1,6})([smhd])", arguments.since)
        if found is None:
            raise ConfigError(
                "--since", f"{arguments.since!r} is no span of time", "write 90s, 30m, 6h or 2d"
            )
        since = time.time() - int(found[1]) * UNITS[found[2]]
    return Selection(arguments.endpoint, arguments.id, since)


def _letters(count: int) -> str:
    return "one letter is" if count == 1 else f"{count} letters are"


def _ago(then: float | None, now: float) -> str:
    return "-" if then is None else f"{_span(max(0.0, now - then))} ago"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
