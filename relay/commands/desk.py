"""Where an operator's commands reach the store of rollouts' state, and who writes there and why.

Must never live here: what is written.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import getpass
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from relay.commands.node import DEFAULT_PATH
from relay.config_state import StateConfig
from relay.errors import ConfigError
from relay.rollout.store import StateStore, UnreachableError
from relay.rollout.stores import open_store

T = TypeVar("T")

PATIENCE_S: Final = 5.0
"""How long a connection may take."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare which store."""
    parser.add_argument("--config", default=DEFAULT_PATH, metavar="FILE", help="(%(default)s)")


def add_by(
    parser: argparse.ArgumentParser, *, why: str = "for whoever reads it later", is_asked: bool = True
) -> None:
    """Declare who and why; `is_asked`: why has to be said."""
    parser.add_argument("--why", required=is_asked, default="", metavar="TEXT", help=why)
    parser.add_argument("--who", default="", metavar="NAME", help="who does it (your user name)")


def by(arguments: argparse.Namespace) -> dict[str, str]:
    """Who and why, as a store wants them."""
    return {"who": who(arguments), "why": arguments.why}


def who(arguments: argparse.Namespace) -> str:
    """Who does it."""
    return arguments.who or getpass.getuser()


def with_store(config: StateConfig, work: Callable[[StateStore], Awaitable[T]]) -> T:
    """Do it, as soon as the store can be reached. UnreachableError: it cannot."""
    if config.backend == "file" and not Path(config.store).exists():
        raise ConfigError("state.store", f"{config.store} does not exist", "`relay feed` makes it")
    patience = PATIENCE_S if config.backend == "nats" else 0.0

    async def run() -> T:
        store = await open_store(config)
        until = time.monotonic() + patience
        try:
            while True:
                try:
                    return await work(store)
                except UnreachableError as error:
                    if time.monotonic() >= until or error.is_written is not False:
                        raise
                await asyncio.sleep(0.05)
        finally:
            await store.close()

    return asyncio.run(run())


def date(wall: float) -> str:
    """A wall clock's seconds for people."""
    return f"{datetime.datetime.fromtimestamp(wall, datetime.UTC):%Y-%m-%d %H:%M} UTC"
