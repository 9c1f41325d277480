"""Prometheus metrics, made on request from one snapshot of the counters that the parts keep anyway.

Nothing is counted twice and nothing is counted here. No label carries a person, a call or an address. Must
never live here: counting, and names of reasons.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from relay import __version__
from relay.core.adapt import State
from relay.core.shedding import Shed
from relay.ops import (
    call_metrics,
    engine_metrics,
    fleet,
    issuer_metrics,
    nodes,
    state,
    traffic_metrics,
    trunk_metrics,
)
from relay.ops.families import STATES, TRANSPORTS, counters, gauges
from relay.ops.snapshot import SinkCounters, Snapshot

SINK_DROPS: Final = ("queue_full", "spool_full", "write_error")


class RelayCollector(Collector):
    """Turns a snapshot into metric families at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not take a snapshot."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families of one snapshot."""
        now = self._snapshot()
        yield from _node(now)
        yield from traffic_metrics.packets(now.packets)
        yield from traffic_metrics.tcp(now.tcp)
        yield from traffic_metrics.media(now.media)
        if now.repairs is not None:
            yield from traffic_metrics.repairs(now.repairs)
        if now.relays is not None:
            yield from traffic_metrics.relays(now.relays)
        yield from traffic_metrics.turn(now.turn)
        yield from engine_metrics.engine(now.engine)
        yield from traffic_metrics.together(now)
        yield from call_metrics.quality(now.tallies)
        if now.talk is not None:
            yield from call_metrics.talk(now.talk)
        if now.standing is not None:
            yield from call_metrics.standing(now.standing)
        if now.canary is not None:
            yield from call_metrics.canary(now.canary)
        if now.rollout is not None:
            yield from state.families(now.rollout)
        if now.nodes is not None:
            yield from nodes.families(now.nodes)
        if now.fleet is not None:
            yield from fleet.families(now.fleet)
        if now.residence is not None:
            yield call_metrics.residence(now.residence, now.datapath)
        yield gauges("relay_legs", "Live legs, by state.", "state", now.legs)
        by_transport = dict.fromkeys(TRANSPORTS, 0) | dict(now.transports)
        yield gauges("relay_transports", "Live legs, by transport.", "transport", by_transport)
        yield gauges("relay_calls", "Live calls, by state.", "state", now.calls)
        if now.trunk_paths is not None:
            help = "Connections to other nodes that are in use, by path."
            yield gauges("relay_trunk_paths", help, "path", now.trunk_paths)
        ways = dict.fromkeys((each.value for each in State), 0) | dict(now.ways)
        yield gauges("relay_ways", "Listeners' ways that are looked at, by state.", "state", ways)
        yield from trunk_metrics.families(now.trunks)
        yield from issuer_metrics.issuers(now.issuers)
        yield from _sink("relay_events", "Call events", now.events)
        yield from _sink("relay_records", "Call records", now.records)


class Exporter:
    """The registry of one daemon; not the library's global one, so that two daemons fit in one process."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._take = snapshot
        self._taken: Snapshot | None = None
        self.registry = CollectorRegistry()
        self.registry.register(RelayCollector(lambda: self._taken or self._take()))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    async def answer(self, accept: str) -> tuple[bytes, str]:
        """As `render`: the snapshot is taken here, on the loop; the text is made beside it, in a thread."""
        self._taken = self._take()
        return await asyncio.to_thread(self.render, accept)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where asked for, else the classic text."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def _node(now: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "relay_info", "Which build this is; always 1.", labels=["version", "node", "region"]
    )
    info.add_metric([__version__, now.node, now.region], 1)
    yield info
    build = GaugeMetricFamily("relay_build_info", "Which version this is; always 1.", labels=["version"])
    build.add_metric([__version__], 1)
    yield build
    lane = GaugeMetricFamily("relay_lane_info", "Which packet path is active; always 1.", labels=["datapath"])
    lane.add_metric([now.datapath], 1)
    yield lane
    states = {name: int(name == now.state) for name in STATES}
    yield gauges("relay_state", "1 for the state the node is in.", "state", states)
    yield GaugeMetricFamily(
        "relay_draining", "1 while the node takes no new calls.", value=int(now.state != STATES[0])
    )
    yield GaugeMetricFamily(
        "relay_generation", "Which of two generations: 0 even, 1 odd.", value=now.generation
    )
    leaving = {what: now.leaving.get(what, 0) for what in ("legs", "calls")}
    yield gauges("relay_leaving", "What the generation before still has.", "what", leaving)
    yield GaugeMetricFamily("relay_ready", "1 while /readyz says 200.", value=int(now.is_ready))
    yield GaugeMetricFamily("relay_loop_lag_seconds", "Worst recent lag of the event loop.", value=now.lag_s)
    yield GaugeMetricFamily(
        "relay_stress_ratio", "How much of what the node can do is in use; 1 is all.", value=now.stress
    )
    yield GaugeMetricFamily(
        "relay_pressure_ratio", "How full the node is at this moment; 1 is full.", value=now.pressure
    )
    given_up = {each.name.lower(): int(each <= now.shedding) for each in Shed if each}
    yield gauges("relay_shedding", "1 for what is given up, since the node is full.", "what", given_up)
    yield GaugeMetricFamily(
        "relay_imbalance", "Packets unaccounted for; anything but 0 is a bug.", value=now.imbalance
    )
    yield GaugeMetricFamily("relay_tasks", "Tasks on the event loop.", value=now.tasks)
    yield GaugeMetricFamily(
        "relay_start_time_seconds", "When the node started, Unix time.", value=now.started_at
    )
    if now.certificate_until is not None:
        yield GaugeMetricFamily(
            "relay_certificate_not_after_seconds",
            "When the certificate ends, Unix time.",
            value=now.certificate_until,
        )
    yield CounterMetricFamily(
        "relay_log_suppressed", "Log lines not written because of their rate.", value=now.log_suppressed
    )


def _sink(name: str, noun: str, now: SinkCounters) -> Iterator[Metric]:
    yield CounterMetricFamily(f"{name}_written", f"{noun} handed over.", value=now.written)
    yield GaugeMetricFamily(f"{name}_waiting", f"{noun} waiting.", value=now.waiting)
    yield counters(f"{name}_dropped", f"{noun} dropped, by reason.", "reason", now.dropped, SINK_DROPS)
