"""`relay demo`: one encrypted call on this machine, start to end. Must never live here: the play."""

from __future__ import annotations

import argparse
from pathlib import Path

from relay.commands.terminal import Printer, Subcommands, declare


def add(subcommands: Subcommands) -> None:
    """Declare `demo`."""
    parser = declare(
        subcommands,
        "demo",
        run,
        "stage a real encrypted call between two people on this machine",
        "relay demo\nrelay demo --transport ws\nrelay demo --json --out /tmp/heard",
        epilog="exit status is 0 only if both heard each other and every check held\n",
    )
    parser.add_argument(
        "--speech",
        type=Path,
        default=Path(".cache/speech"),
        metavar="DIR",
        help="two WAV files (%(default)s)",
    )
    parser.add_argument(
        "--transport", choices=("quic", "ws", "tls"), default="quic", help="how the two connect (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(".cache/demo"), metavar="DIR", help="what was heard (%(default)s)"
    )


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Stage it; 0 only if all is well."""
    from relay.demo import run as stage  # pulls in the SDK and its audio libraries

    report = stage(arguments.speech, arguments.out, printer.progress, arguments.transport)
    lines = [
        f"{leg['name']}: sent {leg['sent']}, received {leg['received']}, lost {leg['lost']}, "
        f"PESQ {leg['pesq']}, listen to {leg['heard']}"
        for leg in report["legs"]
    ]
    lines += [
        f"{'held' if held else 'BROKEN'}: {name.replace('_', ' ')}" for name, held in report["checks"].items()
    ]
    printer.result(report, "\n".join(lines))
    return 0 if report["ok"] else 1
