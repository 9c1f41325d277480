"""What a running daemon says of itself: whether packets add up, how it is, all counters at one moment.

Must never live here: counting, what follows from the figures (relay/ops), anything that changes a part.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from aioquic.quic.configuration import QuicConfiguration

from relay.config import Config
from relay.edge.assembly import Node
from relay.edge.turn_server import TurnServer
from relay.house import Household
from relay.ops.fleet import FleetWatch
from relay.ops.health import Facts, LagMeter, Report, free_descriptors, judge
from relay.ops.history import History
from relay.ops.logs import Logs
from relay.ops.nodes import NodesWatch
from relay.ops.pressure import Pressure
from relay.ops.sinks import EventSinks
from relay.ops.snapshot import PacketCounters, SinkCounters, Snapshot, TcpCounters, TurnCounters
from relay.ops.state import StateWatch
from relay.ops.watch import Watch

if TYPE_CHECKING:
    from relay.edge.threads import LaneThreads
    from relay.edge.web import WebEdge


@dataclass(slots=True)
class Account:
    """The facts of one daemon, which keeps here up to date what may change."""

    config: Config
    quic: QuicConfiguration
    """Of new connections, with the certificate."""
    node: Node
    turn: TurnServer
    watch: Watch
    lag: LagMeter
    logs: Logs
    history: History | None
    events: EventSinks | None
    house: Household
    threads: LaneThreads | None = None
    """The native lane's, once they run."""
    web: WebEdge | None = None
    """What listens on TCP, once it does."""
    kernel_drops: Callable[[], int] = lambda: 0
    """Packets the kernel dropped before us."""
    stats_at: float = field(default_factory=time.monotonic)
    """When the statistics were last looked after."""
    pressure: Pressure = field(default_factory=lambda: Pressure(len(os.sched_getaffinity(0))))
    """How full the node is."""
    state: StateWatch = field(init=False)
    """The state of rollouts; runs beside the daemon's other rounds."""
    nodes: NodesWatch = field(init=False)
    """The node list, likewise."""
    fleet: FleetWatch = field(init=False)
    """Commands of the whole fleet, likewise."""
    started: float = field(default_factory=time.time)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.state = StateWatch(lambda: self.config.state)
        self.nodes = NodesWatch(lambda: self.config.nodes, lambda: self.config.node.cluster)
        submit, held = partial(self.node.driver.command, is_fleet=True), self.node.engine.node.held
        self.fleet = FleetWatch(lambda: self.config.nodes, submit, lambda: len(held))

    def imbalance(self) -> int:
        """How far packet conservation is from holding; 0 unless there is a bug."""
        node = self.node
        lane = node.lane
        books = (lane.counters, lane.relays, lane.repairs, node.endpoint, node.streams)
        return sum(book.imbalance() for book in books)

    @property
    def wanted_threads(self) -> int:
        """How many the lane must have; 0 before they run, and where it has none."""
        return self.threads.wanted if self.threads is not None else 0

    def _certificate_until(self) -> float | None:
        certificate = self.quic.certificate
        return certificate.not_valid_after_utc.timestamp() if certificate is not None else None

    def report(self) -> Report:
        """What /healthz and /readyz answer from."""
        sinks = (("records", self.history), ("events", self.events))
        endpoint = self.node.endpoint
        facts = Facts(
            state=self.node.engine.drain_state,
            lag_s=self.lag.worst_s,
            stats_age_s=time.monotonic() - self.stats_at,
            health_age_s=time.monotonic() - max(self.watch.sampled_at, self._began),
            free_descriptors=free_descriptors(),
            wall=time.time(),
            certificate_until=self._certificate_until(),
            issuers=len(self.config.tokens.issuers),
            datapath=self.node.lane.name,
            wants_native=self.config.lane != "python",
            internal_errors=sum(
                part.internal_errors
                for part in (endpoint, self.node.driver, self.node.streams, self.node.turn)
            ),
            turn_is_lab=self.config.turn.enabled and self.config.turn.lab_allow_private_peers,
            dead_threads=self.threads.missing if self.threads is not None else 0,
            canary_silent_s=self.watch.canary.silent_s(time.time()),
            state_doubt=self.state.doubt(),
            shedding=self.node.engine.shedding,
            nodes_doubt=self.nodes.doubt(),
            fleet_doubt=self.fleet.doubt(),
            legs=len(endpoint) + len(self.node.streams),
            max_legs=self.config.limits.legs,
            sinks_failing=tuple(name for name, sink in sinks if sink is not None and sink.is_failing),
        )
        return judge(facts, self.config.health)

    def health(self) -> dict[str, object]:
        """What /health answers: how the region is, as this node sees it."""
        standing = self.watch.standing(time.monotonic()).body()
        canary, rollout = self.watch.canary.body(time.time()), self.state.body()
        now = {"stress": round(self.watch.stress, 3), "drain": self.node.engine.drain_state}
        return {"node": self.config.node.id, **standing, **now, "canary": canary, "rollout": rollout}

    def commands(self, run: str, since: int) -> dict[str, object]:
        """What /v1/commands answers: what came of commands of the fleet."""
        return {"node": self.config.node.id, **self.fleet.answers(run, since)}

    def _tcp_counters(self) -> TcpCounters:
        streams, web = self.node.streams, self.web
        if web is None:
            return TcpCounters()
        return TcpCounters(
            connections=web.listener.connections,
            half_open=web.listener.half_open,
            accepted=web.listener.accepted,
            refused=dict(web.listener.refused),
            failed=web.listener.failed,
            answered=dict(web.answered),
            received=streams.received,
            handled=dict(streams.handled),
            dropped=dict(streams.dropped),
            sent=streams.sent,
            unsent=streams.unsent,
        )

    def _turn_counters(self) -> TurnCounters:
        allocations, streams = self.node.turn.engine.allocations, self.turn.streams
        if streams is None:
            return TurnCounters(allocations)
        return TurnCounters(
            allocations,
            streams=len(streams),
            accepted=streams.accepted,
            failed=streams.failed,
            unused=streams.unused,
            refused=dict(streams.refused),
            dropped=dict(streams.dropped),
        )

    def snapshot(self) -> Snapshot:
        """What /metrics shows, between two inputs of the engine; a copy: its text is made in a thread."""
        endpoint = self.node.endpoint
        engine = self.node.engine
        counts = self.node.lane.packets()
        return Snapshot(
            node=self.config.node.id,
            region=self.config.node.region,
            datapath=self.node.lane.name,
            tallies=engine.node.tallies.copy(),
            engine={**engine.counters, **self.node.turn.engine.counters},
            turn=self._turn_counters(),
            media=self.node.lane.counters.copy(),
            relays=self.node.lane.relays,
            repairs=self.node.lane.repairs.copy(),
            packets=PacketCounters(
                received=counts.received,
                sent=endpoint.outbox.sent + counts.sent,
                waiting=endpoint.all_waiting(counts),
                send_errors=endpoint.outbox.errors + counts.send_errors,
                read_errors=endpoint.read_errors + counts.read_errors,
                kernel_dropped=self.kernel_drops(),
                handled=dict(endpoint.all_handled(counts)),
                answered=dict(endpoint.all_answered(counts)),
                dropped=dict(endpoint.all_dropped(counts)),
                turns=counts.turns,
                strays=counts.strays,
                notes_lost=counts.notes_lost,
                threads=counts.threads,
                panics=counts.panics,
                half_open=endpoint.half_open,
                handshakes=endpoint.handshakes,
                handshakes_expired=endpoint.handshakes_expired,
                http_answered=dict(endpoint.http_answered),
            ),
            tcp=self._tcp_counters(),
            talk=self.watch.talk(time.monotonic()),
            standing=self.watch.standing(time.monotonic()),
            canary=self.watch.canary.counters(time.time()),
            rollout=self.state.counters(),
            nodes=self.nodes.counters(),
            fleet=self.fleet.counters(),
            residence=self.node.lane.residence.copy(),
            stress=self.watch.stress,
            pressure=self.pressure.ratio,
            shedding=engine.shedding,
            legs=engine.legs,
            trunk_paths=None if engine.abroad is None else engine.abroad.trunks.paths,
            ways=engine.ways,
            trunks=tuple(replace(one) for one in engine.trunks),
            transports=engine.transports,
            calls=engine.calls_by_stage,
            issuers=tuple(engine.node.tenants.standings()),
            events=self.events.counters() if self.events else SinkCounters(),
            records=self.history.counters() if self.history else SinkCounters(),
            generation=self.house.generation,
            leaving=self.house.leaving,
            state=engine.drain_state,
            is_ready=self.report().is_ready,
            lag_s=self.lag.worst_s,
            tasks=len(asyncio.all_tasks()),
            imbalance=self.imbalance(),
            started_at=self.started,
            certificate_until=self._certificate_until(),
            log_suppressed=self.logs.limit.suppressed,
        )
