"""The program `relay feed`: table of contents. Configuration -> parts -> run -> stop.

    daemon --Unix socket--> intake --> store (SQLite) --> a round for each endpoint --> POST
    store of state (SQLite, NATS) --> copier --> the daemon's file of state
    the same store <--> nodes --> the daemon's node list; how daemons are
    the same store <--> commands --> the daemons' file of commands; what came of them

Must never live here: what a part does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sqlite3
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Final

from relay.config import Config
from relay.config_feed import WebhookConfig
from relay.edge import manager
from relay.errors import ConfigError
from relay.feed.commands import CommandsFeed
from relay.feed.intake import Intake
from relay.feed.metrics import FeedCollector, MetricsServer
from relay.feed.nodes import NodesFeed
from relay.feed.post import Poster
from relay.feed.rounds import Round
from relay.feed.signing import parse_secret
from relay.feed.state import StateCopier, keep_days
from relay.feed.store import Store
from relay.ops.logs import Logs
from relay.rollout.stores import open_store

log = logging.getLogger(__name__)

Part = Round | StateCopier | NodesFeed | CommandsFeed
SOCKET: Final = "events"
"""Name of the listening socket that a manager hands over (systemd/relay-feed.socket)."""
STOP_S: Final = 4.0  # what is under way has so long to end
CLEAR_EVERY: Final = 600.0  # seconds between looks for dead letters that are too old


def read_secrets(webhook: WebhookConfig, position: int) -> list[bytes]:
    """The secrets of an endpoint, the present one first. ConfigError names the key."""
    found = []
    for field, path in (
        ("secret_file", webhook.secret_file),
        ("previous_secret_file", webhook.previous_secret_file),
    ):
        if not path:
            continue
        key = f"feed.webhooks[{position}].{field}"
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            cure = "make one with `relay feed secret FILE`"
            raise ConfigError(key, f"{path}: {error.strerror}", cure) from None
        except UnicodeDecodeError:
            raise ConfigError(key, f"{path}: not text", "make one with `relay feed secret FILE`") from None
        found.append(parse_secret(text, key))
    return found


def source(config: Config) -> str | socket.socket:
    """Where to listen for events: what the manager handed over, or `events.path`. ConfigError if nowhere."""
    handed = manager.inherited()
    sockets = handed.take(SOCKET)
    handed.close()
    if sockets:
        for extra in sockets[1:]:
            extra.close()
        if config.events.sink != "socket":  # another daemon may still be told to use it
            log.warning("by this configuration no daemon hands events over", extra={"setting": "events.sink"})
        return sockets[0]
    if config.events.sink != "socket":
        raise ConfigError(
            "events.sink",
            f'is "{config.events.sink}": the daemon hands its events to nobody',
            'write sink = "socket", and a path at which the feed listens',
        )
    return config.events.path


class Feed:
    """One running feed."""

    def __init__(self, config: Config) -> None:
        self._config = config.feed
        self._whole = config
        has_nodes = bool(config.nodes.file or config.nodes.announce or config.nodes.commands)
        if not self._config.webhooks and not config.state.file and not has_nodes:
            cure = "add [[feed.webhooks]], or set state.file, nodes.file, nodes.commands or nodes.announce"
            raise ConfigError("feed.webhooks", "is empty: there is nobody to deliver to", cure)
        self._secrets = [read_secrets(each, at) for at, each in enumerate(self._config.webhooks)]
        self._source = source(config) if self._config.webhooks else None
        self._store = Store(self._config)
        self._rounds: list[Round] = []
        self._intake = Intake(self._store, self._on_new)
        self._stop = asyncio.Event()
        self._keep_days = inf

    def _on_new(self) -> None:
        for each in self._rounds:
            each.wake()

    async def run(self) -> None:
        """Deliver until told to stop. ConfigError when a socket cannot be had."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._store.register(self._config.webhooks, time.time())
        posters = [
            Poster(webhook, secrets)
            for webhook, secrets in zip(self._config.webhooks, self._secrets, strict=True)
        ]
        for webhook, poster in zip(self._config.webhooks, posters, strict=True):
            self._rounds.append(Round(self._config, webhook, self._store, poster))
        copier, nodes = await self._make_copier(), await self._make_nodes()
        commands = await self._make_commands()
        collector = FeedCollector(self._intake, self._store, self._rounds, copier, nodes, commands)
        metrics = MetricsServer(collector)
        helpers: list[asyncio.Task[None]] = []
        try:
            if self._config.metrics:
                await metrics.start(self._config.metrics)
            if self._source is not None:
                await self._intake.start(self._source)
            more = [each for each in (copier, nodes, commands) if each is not None]
            parts: list[Part] = [*self._rounds, *more]
            tasks = [asyncio.create_task(each.run()) for each in parts]
            helpers = [asyncio.create_task(self._clear()), asyncio.create_task(_feed_watchdog())]
            manager.notify("READY=1", f"STATUS=delivers to {len(self._rounds)} endpoints")
            log.info("delivering", extra={"endpoints": [each.name for each in self._config.webhooks]})
            stopped = asyncio.create_task(self._stop.wait())
            # A round that ends by itself met a bug: better to end and be started again than to go on without.
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            await self._leave(tasks, parts)
        finally:
            for helper in helpers:
                helper.cancel()
            self._intake.close()
            await metrics.close()
            for poster in posters:
                await poster.close()
            self._store.close()

    async def _make_copier(self) -> StateCopier | None:
        state = self._whole.state
        return StateCopier(state, await open_store(state)) if state.file else None

    async def _make_nodes(self) -> NodesFeed | None:
        nodes = self._whole.nodes
        if not nodes.file and not nodes.announce:
            return None
        return NodesFeed(self._whole, await open_store(self._whole.state))

    async def _make_commands(self) -> CommandsFeed | None:
        whole = self._whole
        return CommandsFeed(whole, await open_store(whole.state)) if whole.nodes.commands else None

    async def _leave(self, tasks: list[asyncio.Task[None]], parts: Sequence[Part]) -> None:
        """Take nothing more, let what is under way end."""
        manager.notify("STOPPING=1")
        self._intake.close()
        for each in parts:
            each.stop()
        done, late = await asyncio.wait(tasks, timeout=STOP_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        log.info("stopped", extra={"under_way": len(late)})
        for task in done:
            task.result()

    async def _clear(self) -> None:
        while True:
            with contextlib.suppress(sqlite3.Error):  # the rounds say so
                self._store.clear_old(time.time(), await self._read_keep_days())
            await asyncio.sleep(CLEAR_EVERY)

    async def _read_keep_days(self) -> float:
        """By the rules of the region; those that were known before count while none can be read."""
        if self._whole.state.file:
            with contextlib.suppress(OSError):
                found = await asyncio.to_thread(keep_days, self._whole.state, self._whole.node)
                self._keep_days = self._keep_days if found is None else found
        return self._keep_days


async def _feed_watchdog() -> None:
    """The loop comes round: so much this program proves."""
    interval = manager.watchdog_interval()
    while interval is not None:
        manager.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def run(config: Config) -> int:
    """Deliver until SIGTERM; 0 then. ConfigError before anything is taken."""
    logs = Logs(config.log)
    try:
        asyncio.run(_serve(config))
    finally:
        logs.close()
    return 0


async def _serve(config: Config) -> None:
    await Feed(config).run()
