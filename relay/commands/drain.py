"""`relay drain`: asks a daemon on this machine to leave, and shows how far it is.

Must never live here: what leaving means (relay/core/leaving.py).
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from typing import Any, Final

from relay.commands.node import DEFAULT_PATH
from relay.commands.terminal import Printer, Subcommands, declare
from relay.config import load
from relay.errors import ConfigError, RelayError

LARGEST: Final = 64 * 1024
SILENT_S: Final = 15.0  # it speaks once a second


def add(subcommands: Subcommands) -> None:
    """Declare `drain`."""
    parser = declare(
        subcommands,
        "drain",
        run,
        "ask the daemon to leave, and show live how far it is",
        "relay drain\nrelay drain --no-wait\nrelay drain --watch --socket /run/relay/handover.sock",
        epilog="again: hurries, as a second SIGTERM does. To upgrade, start the next one beside it.\n",
    )
    parser.add_argument("--config", default=DEFAULT_PATH, metavar="FILE", help="(%(default)s)")
    parser.add_argument("--socket", metavar="PATH", help="listen.handover_socket (from --config)")
    parser.add_argument("--no-wait", action="store_true", help="ask, show once, do not wait for the end")
    parser.add_argument("--watch", action="store_true", help="ask for nothing, only show")


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Ask, then show what the daemon says once a second until it is gone."""
    path = arguments.socket or load(arguments.config).listen.handover_socket
    if not path:
        raise ConfigError("listen.handover_socket", "is empty: nobody can be asked", "SIGTERM drains, too")
    begun = time.monotonic()
    last: dict[str, Any] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(SILENT_S)
        try:
            sock.connect(path)
            sock.send(json.dumps({"op": "status" if arguments.watch else "drain"}).encode())
            while data := sock.recv(LARGEST):
                last = json.loads(data)
                printer.progress(_told(last, time.monotonic() - begun))
                if arguments.no_wait:
                    break
        except (OSError, ValueError) as error:
            if not last:
                raise RelayError(f"{path}: {error}; is the daemon there?") from None
    facts = {"ok": True, "gone": not arguments.no_wait, "seconds": round(time.monotonic() - begun, 1)}
    printer.result(facts | {"last": last}, "" if arguments.no_wait else "gone")
    return 0


def _told(figures: dict[str, Any], seconds: float) -> str:
    rest = ", ".join(f"{figures.get(name, 0)} {name}" for name in ("calls", "legs", "allocations"))
    return f"{seconds:6.1f} s  {figures.get('state', '?'):9}{rest}"
