"""The feed's own /metrics, made at each scrape from what its parts count.

The only label that comes from outside is an endpoint's configured name. Must never live here: counting.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from relay.config_addresses import split_address
from relay.errors import ConfigError
from relay.feed.answers import FATES, Answer, Fate
from relay.feed.commands import CommandsFeed
from relay.feed.commands import Refusal as CommandRefusal
from relay.feed.intake import Intake
from relay.feed.nodes import NodesFeed
from relay.feed.rounds import Round
from relay.feed.state import StateCopier
from relay.feed.store import DEATHS, ERASURES, Store
from relay.region import nodelist
from relay.rollout.lastgood import Refusal

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
FAILURES: Final = tuple(answer for answer in Answer if FATES[answer] is not Fate.DONE)
STANDING: Final = (
    ("waiting", "relay_feed_waiting", "Letters that wait for their endpoint."),
    ("oldest_s", "relay_feed_oldest_seconds", "Age of the oldest letter that waits."),
    ("dead", "relay_feed_dead_letters", "Dead letters that are kept."),
    ("is_closed", "relay_feed_closed", "1 while an endpoint that answered 410 gets no letters."),
)


class FeedCollector(Collector):
    """Everything there is to say."""

    def __init__(
        self,
        intake: Intake,
        store: Store,
        rounds: Sequence[Round],
        state: StateCopier | None = None,
        nodes: NodesFeed | None = None,
        commands: CommandsFeed | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._intake = intake
        self._store = store
        self._rounds = rounds
        self._state = state
        self._nodes = nodes
        self._commands = commands
        self._wall = wall

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not look at the file."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families. What the file says is left out while it cannot be read."""
        counts = self._intake.counts
        yield CounterMetricFamily("relay_feed_events", "Events taken from daemons.", counts.taken)
        yield CounterMetricFamily("relay_feed_events_repeated", "Events that came again.", counts.repeated)
        yield CounterMetricFamily("relay_feed_unreadable", "Lines that were no events.", counts.unreadable)
        yield GaugeMetricFamily("relay_feed_daemons", "Daemons that are connected.", counts.connections)
        delivered = CounterMetricFamily("relay_feed_delivered", "Letters delivered.", labels=["endpoint"])
        failed = _counter("relay_feed_failed", "Tries that failed, by how.")
        dead = _counter("relay_feed_dead", "Letters that became dead letters, by why.")
        erased = _counter("relay_feed_erased", "Letters that were erased by themselves, by why.")
        for each in self._rounds:
            delivered.add_metric([each.name], each.delivered)
            for answer in FAILURES:
                failed.add_metric([each.name, answer.value], each.failed[answer])
            for why in DEATHS:
                dead.add_metric([each.name, why], self._store.dead[each.name, why])
            for why in ERASURES:
                erased.add_metric([each.name, why], self._store.erased[each.name, why])
        yield from (delivered, failed, dead, erased)
        yield from self._standing()
        if self._state is not None:
            yield from _state(self._state)
        if self._nodes is not None:
            yield from _nodes(self._nodes)
        if self._commands is not None:
            yield from _commands(self._commands)

    def _standing(self) -> Iterator[Metric]:
        try:
            found: list[dict[str, Any]] = self._store.status(self._wall())
        except sqlite3.Error:
            return
        for key, name, text in STANDING:
            family = GaugeMetricFamily(name, text, labels=["endpoint"])
            for row in found:
                if row["is_configured"]:
                    family.add_metric([row["endpoint"]], float(row[key]))
            yield family


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=["endpoint", "why"])


def _state(state: StateCopier) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "relay_feed_state_age_seconds", "Since the store of state was there.", value=state.age()
    )
    yield GaugeMetricFamily(
        "relay_feed_state_revision", "Of the state that was copied last.", value=state.revision
    )
    refused = CounterMetricFamily(
        "relay_feed_state_refused", "States of the store that did not count, by why.", labels=["why"]
    )
    for why in Refusal:
        refused.add_metric([why.value], state.refused[why])
    yield refused


def _nodes(nodes: NodesFeed) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "relay_feed_nodes_revision", "Of the node list that was copied last; 0: none.", value=nodes.revision
    )
    refused = CounterMetricFamily(
        "relay_feed_nodes_refused", "Node lists of the store that did not count, by why.", labels=["why"]
    )
    for why in nodelist.Refusal:
        refused.add_metric([why.value], nodes.refused[why])
    yield refused
    yield CounterMetricFamily(
        "relay_feed_announced", "Times that the store was told how a daemon is.", nodes.announced
    )
    yield CounterMetricFamily(
        "relay_feed_unannounced", "Times that a daemon, or the store, did not answer.", nodes.unheard
    )


def _commands(commands: CommandsFeed) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "relay_feed_commands_age_seconds", "Since the store of commands was there.", value=commands.age()
    )
    yield GaugeMetricFamily(
        "relay_feed_commands_kept", "Commands of the fleet in the daemons' file.", value=len(commands)
    )
    yield CounterMetricFamily(
        "relay_feed_commands", "Commands of the fleet brought to daemons.", commands.taken
    )
    refused = CounterMetricFamily(
        "relay_feed_commands_refused", "Commands of the store that were not brought, by why.", labels=["why"]
    )
    for why in CommandRefusal:
        refused.add_metric([why.value], commands.refused[why])
    yield refused
    yield CounterMetricFamily(
        "relay_feed_answers", "Times that the store was told what came of a command.", commands.answered
    )
    yield CounterMetricFamily(
        "relay_feed_unanswered",
        "Times that a daemon did not say what came of a command, or the store did not take it.",
        commands.unanswered,
    )


class MetricsServer:
    """GET /metrics, and nothing else."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._runner: web.AppRunner | None = None

    async def start(self, address: str) -> None:
        """Listen on "host:port". ConfigError when it cannot be had."""
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._get)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        host, port = split_address(address, "feed.metrics")
        try:
            await web.TCPSite(self._runner, host, port, reuse_address=True).start()
        except OSError as error:
            await self.close()
            why = error.strerror or str(error)
            raise ConfigError("feed.metrics", f"cannot listen: {why}", "choose a free address") from None

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    async def _get(self, request: web.Request) -> web.Response:
        body, content_type = self.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={**HEADERS, "Content-Type": content_type})
