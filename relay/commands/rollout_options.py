"""What the subcommands that drive a rollout have in common: which one, by which key, counted where.

Must never live here: a subcommand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from relay.commands.desk import with_store
from relay.commands.terminal import Printer, read_text
from relay.config import load
from relay.config_state import StateConfig
from relay.errors import ConfigError
from relay.protocol.ids import Kid
from relay.protocol.keys import read_key
from relay.protocol.signed import public_of
from relay.rollout.counts import parse_prior, parse_report
from relay.rollout.course import ChangeRefusedError, Helm, UnknownRolloutError
from relay.rollout.inquiry import Source
from relay.rollout.lastgood import LIFE_S, accepted
from relay.rollout.publish import Signer
from relay.rollout.scrape import check_url
from relay.rollout.store import StateStore

T = TypeVar("T")

DAY_S: Final = 86_400
VERDICTS: Final = (
    "exit status of a verdict: 0 promote, 10 hold, 20 rollback, 30 no or old data, or sample ratio off\n"
)


def add_id(parser: argparse.ArgumentParser) -> None:
    """Declare which rollout."""
    parser.add_argument("--rollout", required=True, metavar="ID", help="id of the rollout, as in its plan")


def add_region(parser: argparse.ArgumentParser) -> None:
    """Declare which place."""
    parser.add_argument("--region", required=True, metavar="NAME", help="region of the plan, or @GROUP")


def add_key(parser: argparse.ArgumentParser, *, is_needed: bool = False) -> None:
    """Declare the key that signs."""
    text = "private key that signs it" if is_needed else "private key: sign it, too; else `publish` does"
    parser.add_argument("--key", metavar="FILE", required=is_needed, help=text)
    parser.add_argument("--days", type=float, default=LIFE_S / DAY_S, help="how long it holds (%(default)g)")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Declare where counts come from."""
    parser.add_argument(
        "--from",
        dest="source",
        action="append",
        default=[],
        metavar="URL|FILE",
        help="metrics of a node (http://...:9464/metrics; repeat for each), or a report, JSON",
    )
    parser.add_argument(
        "--prior",
        metavar="FILE",
        help="calls of the days before, instead of collected ones, JSON: guardrail: [bad, valid]",
    )
    parser.add_argument("--alerts", default="", metavar="URL", help="Prometheus: its open pages hold a step")


def add_traffic(parser: argparse.ArgumentParser) -> None:
    """Declare which part of all calls places carry."""
    parser.add_argument(
        "--traffic",
        action="append",
        default=[],
        metavar="NAME=PERCENT",
        help="part of all calls that a region, or @GROUP, carries; stays said",
    )


def add_expect(parser: argparse.ArgumentParser) -> None:
    """Declare which revision was looked at."""
    parser.add_argument(
        "--expect", type=int, metavar="N", help="state_rev that you looked at; refused if it is older"
    )


def config_of(arguments: argparse.Namespace) -> StateConfig:
    """Which store, and which keys boxes accept."""
    return load(arguments.config).state


def keys_of(config: StateConfig) -> dict[Kid, bytes]:
    """Public keys that boxes accept."""
    return accepted(bytes.fromhex(key) for key in config.keys)


def signer_of(arguments: argparse.Namespace, config: StateConfig) -> Signer | None:
    """The key that was given; None: none was. ConfigError: no box would take what it signs."""
    if arguments.key is None:
        return None
    seed = read_key(read_text(arguments.key, "--key"), "--key")
    public = public_of(seed).hex()
    if public not in config.keys:
        cure = f"add {public}, or take another key"
        raise ConfigError("state.keys", "no box would take what this key signs", cure)
    if not 0 < arguments.days <= LIFE_S / DAY_S:
        raise ConfigError("--days", f"{arguments.days:g} days", f"more than 0, at most {LIFE_S / DAY_S:g}")
    return Signer(seed, keys_of(config), arguments.days)


def source_of(arguments: argparse.Namespace) -> Source:
    """Where to count. ConfigError names what cannot be read."""
    prior = parse_prior(read_text(arguments.prior, "--prior"), arguments.prior) if arguments.prior else None
    given = arguments.source
    if given and all(one.startswith(("http://", "https://")) for one in given):
        return Source(tuple(dict.fromkeys(map(check_url, given))), None, prior, arguments.alerts)
    if not given:
        return Source(prior=prior)
    if len(given) > 1 or prior is not None or arguments.alerts:
        told = "a report stands alone: it tells prior calls and pages itself"
        raise ConfigError("--from", told, "name one file, or addresses of nodes only")
    return Source(report=lambda: parse_report(read_text(given[0], "--from"), given[0]))


def traffic_of(arguments: argparse.Namespace) -> dict[str, float]:
    """Place -> part of all calls, 0-1. ConfigError: that is none."""
    found = {}
    for one in arguments.traffic:
        name, _, told = one.rpartition("=")
        try:
            part = float(told)
        except ValueError:
            part = -1.0
        if not name or not 0 <= part <= 100:
            raise ConfigError("--traffic", f"{one} is no part of all calls", "for example --traffic eu-1=8")
        found[name] = part / 100
    return found


def steer(
    arguments: argparse.Namespace,
    printer: Printer,
    work: Callable[[Helm], Awaitable[T]],
    show: Callable[[T], int],
) -> int:
    """Do it with the store, then show it; what may not be is told with its name as `key`, exit status 1."""

    async def run(store: StateStore) -> T:
        return await work(Helm(store, time.time))

    try:
        return show(with_store(config_of(arguments), run))
    except ChangeRefusedError as error:
        printer.error(str(error), key=error.refusal.value)
    except UnknownRolloutError as error:
        printer.error(str(error), key="--rollout")
    return 1
