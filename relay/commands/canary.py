"""`relay canary`: a call of our own through a relay, to see whether calls work. Each rung in turn.

    addresses --> the next in turn --> a call --> verdict --> file of the last runs, one line, exit status

Must never live here: the call and its judgement (relay/canary/), what the daemon makes of it (relay/ops/).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from relay.commands.terminal import Printer, Subcommands, declare, read_text
from relay.config import Config
from relay.errors import ConfigError, LocalError
from relay.ops import canary as book
from relay.ops.canary import RUNGS, Book, Run, Rung
from relay.protocol.keys import read_key

if TYPE_CHECKING:
    from relay.canary.call import Plan

LEAST_S: Final = 4.0  # one that hears nothing for 3 s must be told from one that had no time
MOST_S: Final = 300.0
SHOWN: Final = ("setup", "first_audio", "delay", "loss", "stale", "mos")

Target = tuple[str, Rung]
"""An address, and the rung that it stands on."""


def add(subcommands: Subcommands) -> None:
    """Declare `canary`."""
    parser = declare(
        subcommands,
        "canary",
        run,
        "place a call of its own through a relay and say whether calls work",
        "relay canary --url quic://relay.example --key canary.key\n"
        "relay canary --url quic://127.0.0.1:4433 --key canary.key --ca tls.pem --seconds 5 --json\n"
        "relay canary --url quic://relay.example --key canary.key --out canary.json --every 60",
        epilog=(
            "A quic address without a port stands for quic, ws and tls on port 443, any other for itself.\n"
            "Of several the next is tried each time, as the file of --out remembers.\n\n"
        ),
    )
    parser.add_argument(
        "--url",
        action="append",
        required=True,
        help="the relay's address, as of `relay call`; repeat for more",
    )
    parser.add_argument("--key", required=True, metavar="FILE", help="secret key of the canary's own issuer")
    parser.add_argument("--rung", choices=RUNGS, help="only this one (all in turn)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="how long they talk (%(default)s)"
    )
    parser.add_argument("--out", metavar="FILE", help=f"JSON file that keeps the last {book.KEPT} runs")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--once", action="store_true", help="one call (this is the default)")
    when.add_argument("--every", type=float, metavar="S", help="a call each so many seconds, for ever")
    parser.add_argument(
        "--audience", default=Config().node.cluster, help="node.cluster of the relay (%(default)s)"
    )
    parser.add_argument("--issuer", default="canary", help="issuer's name (%(default)s)")
    parser.add_argument(
        "--ca", metavar="FILE", help="PEM file of the relay's CA, or its own certificate to pin"
    )
    parser.add_argument(
        "--server-name", metavar="NAME", help="name in the relay's certificate, if not the host"
    )


def run(arguments: argparse.Namespace, printer: Printer) -> int:
    """Place one call, or one each `--every` seconds; 1 if it failed."""
    from relay.canary.call import Plan  # pulls in QUIC

    targets = targets_of(arguments.url, arguments.rung)
    if not LEAST_S <= arguments.seconds <= MOST_S:
        raise ConfigError("--seconds", "is out of range", f"{LEAST_S:g} to {MOST_S:g}")
    if arguments.every is not None and arguments.every <= arguments.seconds:
        raise ConfigError("--every", "leaves no time for the call", f"more than {arguments.seconds:g}")
    if arguments.ca is not None:
        read_text(arguments.ca, "--ca")
    plan = Plan(
        url="",
        seed=read_key(read_text(arguments.key, "--key"), "--key"),
        seconds=arguments.seconds,
        audience=arguments.audience,
        issuer=arguments.issuer,
        ca=arguments.ca,
        server_name=arguments.server_name,
    )
    runs = _known(arguments.out)
    while True:
        began = time.monotonic()
        done = _place(plan, following(targets, runs))
        runs = (*runs, done)[-book.KEPT :]
        if arguments.out:
            book.write(arguments.out, Book(runs=runs))
        printer.result({**msgspec.to_builtins(done), "runs_failing": book.running(runs)}, _told(done))
        if arguments.every is None:
            return 0 if done.ok else 1
        time.sleep(max(0.0, began + arguments.every - time.monotonic()))


def targets_of(urls: Sequence[str], only: Rung | None) -> list[Target]:
    """Every address with its rung, in order. ConfigError for what is none, or if none stands on `only`."""
    from relay.client.rungs import parse_url

    found: list[Target] = []
    for url in urls:
        try:
            to = parse_url(url)
        except LocalError as error:
            raise ConfigError("--url", f"{url!r}: {error}", "for example quic://relay.example") from None
        found.append((url, to.transport))
        if to.transport == "quic" and urlsplit(url).port is None:
            host = f"[{to.host}]" if ":" in to.host else to.host
            found += [(f"wss://{host}/vrl/1", "ws"), (f"tls://{host}", "tls")]
    chosen = [target for target in found if only in (None, target[1])]
    if not chosen:
        raise ConfigError("--rung", f"none of the addresses is for {only}", "add one by --url")
    return chosen


def following(targets: Sequence[Target], runs: Sequence[Run]) -> Target:
    """The one after that of the newest run; the first if that is none of ours."""
    last = (runs[-1].url, runs[-1].rung) if runs else None
    return targets[(targets.index(last) + 1) % len(targets)] if last in targets else targets[0]


def _known(path: str | None) -> tuple[Run, ...]:
    """The runs that the file holds. ConfigError when it is something else, or could not be written."""
    if path is None:
        return ()
    if not os.access(Path(path).parent, os.W_OK):
        raise ConfigError("--out", f"{path}: its folder is not there or not writable", "name another file")
    try:
        known = book.read(path)
    except ValueError:
        raise ConfigError("--out", f"{path}: is not what a canary writes", "name another file") from None
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error.strerror}", "name another file") from None
    return known.runs if known is not None else ()


def _place(plan: Plan, target: Target) -> Run:
    from relay.canary.call import place
    from relay.canary.judge import judge

    url, rung = target
    verdict = judge(asyncio.run(place(replace(plan, url=url))))
    return Run(
        time=round(time.time(), 3),
        url=url,
        rung=rung,
        ok=verdict.ok,
        failed=verdict.failed,
        numbers=verdict.numbers,
    )


def _told(done: Run) -> str:
    """One line."""
    from relay.canary.judge import figure, told

    numbers = ((name, done.numbers.get(name)) for name in SHOWN)
    measured = ", ".join(f"{name} {figure(name, value)}" for name, value in numbers if value is not None)
    if done.ok:
        return f"canary ok on {done.rung}: {measured}"
    why = "; ".join(map(told, done.failed))
    return f"canary failed on {done.rung}: {why}" + (f" | {measured}" if measured else "")
