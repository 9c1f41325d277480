"""`relay serve` and `relay check-config`. Must never live here: the daemon (relay/daemon.py)."""

from __future__ import annotations

import argparse
import dataclasses
import gc

from relay.commands.terminal import Printer, Subcommands, declare
from relay.config import Config, load, render
from relay.quic.later import put_off

DEFAULT_PATH = "/etc/relay/relay.toml"


def add(subcommands: Subcommands) -> None:
    """Declare both."""
    serve = declare(
        subcommands,
        "serve",
        run_serve,
        "run the daemon until it is told to stop",
        "relay serve --config /etc/relay/relay.toml\n"
        "relay serve --config relay.toml --set 'listen.udp=[\"127.0.0.1:4433\"]' --set log.format=text",
        epilog="signals: HUP reads the configuration again, TERM drains, a second TERM hurries\n",
    )
    serve.add_argument("--config", default=DEFAULT_PATH, metavar="FILE", help="(%(default)s)")
    serve.add_argument(
        "--log-format",
        choices=("json", "text"),
        help="text for people (as --set log.format=...; else the file's)",
    )
    _add_set(serve)
    check = declare(
        subcommands,
        "check-config",
        run_check,
        "say what is wrong with a configuration, or print the whole of it",
        "relay check-config\nrelay check-config relay.toml --files --json",
    )
    check.add_argument("config", nargs="?", default=DEFAULT_PATH, metavar="FILE", help="(%(default)s)")
    check.add_argument("--files", action="store_true", help="also read the keys and certificates it names")
    _add_set(check)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a value on top of the file; repeatable",
    )


def run_serve(arguments: argparse.Namespace, printer: Printer) -> int:
    """Load, then hand over. A reload puts the values of --set on top of the file again."""
    gc.disable()  # nothing of what is imported is garbage: ready 50 ms earlier
    put_off()
    from relay import daemon  # pulls in the event loop and QUIC, which no other subcommand needs

    assignments = list(arguments.set)
    if arguments.log_format:
        assignments.append(f"log.format={arguments.log_format}")
    return daemon.run(load(arguments.config, assignments), arguments.config, assignments)


def run_check(arguments: argparse.Namespace, printer: Printer) -> int:
    """Refuse what the daemon would refuse; else print the tree."""
    config = load(arguments.config, arguments.set)
    warnings = _warnings(config)
    if arguments.files:
        from relay import papers

        papers.read_keys(config)
        quic, _ = papers.read_certificate(config)
        over = papers.ended(quic)
        warnings += [str(over)] if over is not None else []
    for text in warnings:
        printer.progress(f"warning: {text}")
    facts = {"ok": True, "config": dataclasses.asdict(config), "warnings": warnings}
    printer.result(facts, render(config).rstrip())
    return 0


def _warnings(config: Config) -> list[str]:
    found = []
    if not config.tokens.issuers:
        found.append("tokens.issuers: is empty, nobody can be admitted")
    if config.listen.metrics and not config.listen.metrics.startswith(("127.", "[::1]")):
        found.append("listen.metrics: is not on loopback, anyone who reaches it can read it")
    if config.feed.webhooks and config.events.sink != "socket":
        found.append(f'feed.webhooks: events.sink is "{config.events.sink}", so `relay feed` gets no events')
    if config.node.cluster == Config().node.cluster:
        found.append(f"node.cluster: is the default {config.node.cluster!r}; give each cluster its own name")
    return found
