"""`relay qlog`: asks a daemon on this machine to trace a call that runs.

Must never live here: what a qlog holds (relay/quic/qlog.py), which calls have one (relay/qlogs.py).
"""

from __future__ import annotations

import argparse
from typing import Any

from relay.commands.explain import parse_reference
from relay.commands.node import DEFAULT_PATH
from relay.commands.terminal import Printer, Subcommands, declare
from relay.config import load
from relay.errors import ConfigError, RelayError
from relay.ops import qlogs
from relay.ops.commands import QlogWish, wish


def add(subcommands: Subcommands) -> None:
    """Declare it."""
    parser = declare(
        subcommands,
        "qlog",
        run,
        "trace a call that runs: a qlog of each of its legs from now on",
        "relay qlog 101112131415\nrelay qlog 101112131415 --off\nrelay qlog 101112131415 --list",
        epilog="It ends by itself, by the limits of [qlog]. `relay explain` names its files later.\n",
    )
    parser.add_argument(
        "call",
        metavar="CALL",
        help="the call's id, or its reference: the first digits, as logs and clients say",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--off", action="store_true", help="end it")
    what.add_argument("--list", action="store_true", help="ask for nothing, name the files there are")
    parser.add_argument("--config", default=DEFAULT_PATH, metavar="FILE", help="(%(default)s)")
    parser.add_argument("--socket", metavar="PATH", help="listen.command_socket (from --config)")


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Ask, tell the answer; 1 when the daemon refused, or there is no file to list."""
    digits = parse_reference(arguments.call)
    if arguments.list:
        files = qlogs.found(load(arguments.config).qlog.path, digits)
        if not files:
            printer.error(f"no qlog of a call {digits}: never flagged, or erased since")
            return 1
        printer.result({"ok": True, "files": files}, "\n".join(files))
        return 0
    path = arguments.socket or load(arguments.config).listen.command_socket
    if not path:
        raise ConfigError("listen.command_socket", "is empty: nobody can be asked", "name a path, restart")
    try:
        answer = wish(path, QlogWish(digits, on=not arguments.off))
    except OSError as error:
        raise RelayError(f"{path}: {error.strerror or error}; is the daemon there?") from None
    printer.result(answer, _told(answer, arguments.off))
    return 0 if answer.get("ok") else 1


def _told(answer: dict[str, Any], is_off: bool) -> str:
    if not answer.get("ok"):
        return f"refused: {answer.get('name')} {answer.get('message')}"
    how = "traced no longer" if is_off else f"traced for {answer['seconds']:g} s, and who comes to it"
    return "\n".join([f"call {answer['call']} is {how}", *answer["files"]])
