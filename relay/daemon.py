"""Table of contents of the daemon: configuration -> build -> run -> drain. It alone knows every part.

    run(config, path)   until SIGTERM has drained the node; returns the exit status
    SIGHUP              reads the configuration again: what may change live changes, all else is refused
    the service manager  is told each of these, what goes on, and once a second that the node works
    SIGTERM, SIGINT     drain; a second one hurries

Must never live here: decisions, packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import itertools
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import uvloop
from aioquic.quic.configuration import QuicConfiguration

from relay.config import Config, ListenConfig, load, reloadable_changes
from relay.core import events as ev
from relay.core.adapt import TICK_S
from relay.edge import keep, manager, tcp, udp
from relay.edge.assembly import Node, NodeKeys
from relay.edge.keep import Keep
from relay.edge.pulse import LOOK_S, Probe, Progress, Pulse
from relay.edge.raw import RawEdge
from relay.edge.sockets import Sockets, keep_udp
from relay.edge.turn_server import TurnServer, read_context, read_secrets
from relay.errors import ConfigError
from relay.ops import watch
from relay.ops.commands import CommandServer
from relay.ops.events import EventWriter
from relay.ops.health import Facts, LagMeter, Report, free_descriptors, judge
from relay.ops.history import History, summary
from relay.ops.logs import Logs
from relay.ops.snapshot import PacketCounters, SinkCounters, Snapshot, TcpCounters, TurnCounters
from relay.ops.watch import Watch
from relay.protocol.demux import StreamKind
from relay.protocol.keys import ClusterKey
from relay.quic.connection import server_configuration

if TYPE_CHECKING:
    from relay.edge.lane_native import NativeLane
    from relay.edge.threads import LaneThreads
    from relay.edge.web import WebEdge
    from relay.ops.http import OpsServer
    from relay.ops.metrics import Exporter

log = logging.getLogger("relay.daemon")
HOUSEKEEPING = 1.0  # seconds between reports of who was heard
TIDYING = 0.05  # seconds between collections of young garbage
FULL_COLLECTION = 12_000  # of these between full ones
FEW = 64  # legs at most during a full collection: a pause of some 10 ms for them, once in ten minutes
THREAD_SLICE = 0.0005  # seconds that another thread (a scrape's text, a record) may keep audio waiting
YOUNG = 5_000  # objects that a collection takes 1 to 2 ms for
NO_PROBE = "no packet of ours comes back by our own address: the watchdog can judge the loop alone"
LOOKS_UNTIL_HEARD = 40  # 10 s after the start
NO_NATIVE_LANE = "the native packet path is not installed: the Python one serves, at a multiple of its cost"


def read_keys(config: Config) -> NodeKeys:
    """The cluster keys and TURN secrets that the configuration names. ConfigError names the setting."""
    files = [("cluster.key_file", config.cluster.key_file)]
    if config.cluster.previous_key_file:
        files.append(("cluster.previous_key_file", config.cluster.previous_key_file))
    found = []
    for name, path in files:
        try:
            text = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise ConfigError(
                name, f"{path}: {why}", "make one with `relay token keygen --cluster`"
            ) from None
        found.append(ClusterKey.parse(text, name))
    return NodeKeys.of(found, config, read_secrets(config))


def kinds_on_web(config: Config) -> list[StreamKind]:
    """What the listener of listen.web serves."""
    has_turn = config.turn.enabled and config.turn.on_web
    legs = [StreamKind.WEB, StreamKind.RAW]
    return [*legs, StreamKind.TURN] if has_turn else legs


def read_certificate(config: Config) -> tuple[QuicConfiguration, ssl.SSLContext]:
    """Certificate and key for new connections, on UDP and TCP. ConfigError: they are no pair of PEM files."""
    certificate, key = config.tls.certificate, config.tls.key
    try:
        quic = server_configuration(certificate, key, config.limits.idle_s)
        return quic, tcp.server_context(certificate, key, kinds_on_web(config))
    except OSError as error:
        raise ConfigError("tls", f"{error.filename}: {error.strerror}", "name readable PEM files") from None
    except (ValueError, IndexError, TypeError) as error:
        raise ConfigError("tls", f"cannot be used: {error}", "PEM: leaf first; its private key") from None


def import_web() -> tuple[type[WebEdge], type[OpsServer], type[Exporter]]:
    """The servers on TCP, with the libraries that they need: for a thread, since that takes a while."""
    from relay.edge.web import WebEdge
    from relay.ops.http import OpsServer
    from relay.ops.metrics import Exporter

    return WebEdge, OpsServer, Exporter


class Reader(Protocol):
    """What brings packets from sockets."""

    def start(self) -> None: ...
    def close(self) -> None: ...


class Daemon:
    """One running node with its sockets, sinks and listeners."""

    def __init__(
        self,
        config: Config,
        path: str | None,
        loop: asyncio.AbstractEventLoop,
        logs: Logs,
        assignments: Sequence[str] = (),
    ) -> None:
        self._assignments = assignments
        self._logs = logs
        self._config = config
        self._path = path
        self._loop = loop
        self._started = time.time()
        self._done = asyncio.Event()
        self._stats_at = self._began = time.monotonic()
        self._history = (
            History(
                config.records.path,
                config.node.id,
                retention_days=config.records.retention_days,
                queue_size=config.records.queue,
            )
            if config.records.path
            else None
        )
        self._events = EventWriter(config.events, config.node.id) if config.events.sink != "off" else None
        self._quic, self._tls = read_certificate(config)
        self.node = Node(config, read_keys(config), self._quic, loop, self, watcher=loop)
        self._turn = TurnServer(loop, self.node, config)
        self._lag = LagMeter(loop)
        self._http: OpsServer | None = None
        self._watch = Watch(
            config.node.region,
            self.node.engine.vitals,
            lambda: self.node.lane.counters,
            lambda: self.node.lane.residence,
            len(os.sched_getaffinity(0)),
        )
        self._commands = CommandServer(self.node.driver.command)
        self._sockets: Sockets
        self._keep: Keep | None = None
        self._readers: list[Reader] = []
        self._threads: LaneThreads | None = None
        self._web: WebEdge | None = None
        self._raw: RawEdge | None = None
        self._resizing: asyncio.Task[None] | None = None
        self._reload_refused = ""
        self._status = ""

    # ------------------------------------------------------------ what the driver tells (driver.Sinks)

    def record(self, record: ev.CallRecord) -> None:
        """A call ended."""
        log.info("call ended", extra=summary(record))
        if self._history is not None:
            self._history.record(record)

    def rated(self, rated: ev.Rated) -> None:
        """Stars for a call that is recorded."""
        if self._history is not None:
            self._history.record(rated)

    def event(self, event: ev.CallEvent) -> None:
        """News for the product's back end."""
        if self._events is not None:
            self._events.event(event)

    def stopped(self) -> None:
        """The drain is complete."""
        self._done.set()

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Serve until drained. ConfigError when a socket or file cannot be had."""
        handed = manager.inherited()
        try:
            self._start_sinks()
            self._remember(handed)
            self._open_sockets(handed)
            await self._open_listeners()
            unknown = handed.close()
            if unknown:
                log.warning("descriptors that nothing here wants", extra={"names": unknown})
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._drain)
            self._loop.add_signal_handler(signal.SIGHUP, self._reload)
            self._lag.start()
            keepers = [
                asyncio.create_task(each())
                for each in (self._housekeep, self._adapt, self._collect, self._watchdog)
            ]
            manager.notify("READY=1")
            self._tell_status()
            self._sockets.keep()
            await self._open_late()
            log.info(
                "serving",
                extra={
                    "lane": self.node.lane.name,
                    "udp_ports": [sock.getsockname()[1] for sock in self._sockets.udp],
                    "kept_sockets": self._sockets.were_kept,
                    "web_ports": self._web.listener.ports if self._web else [],
                    "turn_ports": self._turn.ports,
                    "metrics": self._http.address if self._http else "",
                },
            )
            if self._config.lane == "auto" and self.node.lane.name == "python":
                log.warning(NO_NATIVE_LANE, extra={"setting": "lane"})
            await self._done.wait()
            for task in keepers:
                task.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            if self._keep is not None:
                manager.store(keep.NAME, ())  # nobody is left
            log.info("stopped", extra={"imbalance": self.imbalance()})
        finally:
            await self._close()

    def _start_sinks(self) -> None:
        if self._history is not None:
            self._history.start()
            self._watch.usual.load(self._history.fallback_by_hour())
        if self._events is not None:
            self._events.start()

    def _remember(self, handed: manager.Handed) -> None:
        """Go on where a process that crashed left off; let the manager keep what one after us would need."""
        limits = self._config.limits
        self._keep, was_kept = Keep.handed(handed, limits.legs, limits.calls)
        if self._keep is None:
            return
        self.node.remember(self._keep)
        if not was_kept:
            self._keep.beat(time.monotonic())
        if was_kept:
            legs = self.node.driver.revive(self._keep)
            log.warning("going on after a crash", extra={"legs": legs, "calls": self.node.engine.calls})

    def _open_sockets(self, handed: manager.Handed) -> None:
        self._sockets = Sockets(handed, self._config.listen)
        for reader in self._make_readers(self._sockets.groups):
            self._readers.append(reader)
            reader.start()

    def _make_readers(self, groups: list[list[socket.socket]]) -> Sequence[Reader]:
        lane, endpoint = self.node.lane, self.node.endpoint
        if lane.name == "native":
            from relay.edge.threads import LaneThreads  # only where relay._lane can be had

            self._threads = LaneThreads(self._loop, cast("NativeLane", lane), endpoint, groups)
            return [self._threads]
        if any(len(group) > 1 for group in groups):
            cure = "install the native lane, or use one socket per address"
            raise ConfigError("listen.lanes", "the Python lane reads one socket per address", cure)
        wait_s = self._config.listen.batch_ms / 1000
        return [udp.Reader(self._loop, sock, endpoint, wait_s) for sock in self._sockets.udp]

    async def _open_late(self) -> None:
        """What listens on TCP, by sockets that were bound with the others: who comes earlier waits there.

        The library that serves it takes a fifth of a start, which holds up neither audio nor handshakes.
        """
        web, http, exporter = await asyncio.to_thread(import_web)
        if self._sockets.web:
            self._open_web(web)
        if self._sockets.metrics is not None:
            self._http = http(exporter(self.snapshot).answer, self.report, self.health)
            await self._http.start(self._sockets.metrics)

    def _open_web(self, edge: type[WebEdge]) -> None:
        listen = self._config.listen
        node = self.node
        self._web = edge(
            self._loop,
            self._config.limits,
            self._tls,
            listen.web_origins,
            node.streams,
            accepting=lambda: node.endpoint.accepting,
        )
        self._raw = RawEdge(
            self._loop,
            self._config.limits,
            node.streams,
            accepting=lambda: node.endpoint.accepting,
            clock=time.monotonic,
        )
        self._web.listener.offer(StreamKind.RAW, self._raw.make, is_leg=True)
        turn = self._turn.streams
        if turn is not None and StreamKind.TURN in kinds_on_web(self._config):
            self._web.listener.offer(StreamKind.TURN, turn.adopt, is_leg=True)
        for sock in self._sockets.web:
            self._web.listener.listen(sock)

    async def _open_listeners(self) -> None:
        self._turn.start(self._config)
        if self._config.listen.command_socket:
            await self._commands.start(self._config.listen.command_socket)

    async def _close(self) -> None:
        self._lag.stop()
        self._turn.close()
        await self._commands.close()
        if self._http is not None:
            await self._http.close()
        if self._raw is not None:
            self._raw.close()
        if self._web is not None:
            await self._web.close()
        for reader in self._readers:
            reader.close()
        for sink in (self._history, self._events):
            if sink is not None:
                await asyncio.to_thread(sink.close)

    def _drain(self) -> None:
        manager.notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(self._config.drain.deadline_s * 1e6)}")
        self.node.drain()
        self._tell_status()
        log.info("draining", extra={"state": self.node.engine.drain_state})

    def _reload(self) -> None:
        """Take the new configuration whole, or keep the old one whole and say why."""
        # The time tells the manager that this answers its last signal, and no earlier one (sd_notify(3)).
        manager.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            changed = self._take_configuration()
        except ConfigError as error:
            self._reload_refused = str(error)
            log.error("reload refused: %s", error)
        else:
            self._reload_refused = ""
            log.info("reloaded", extra={"changed": changed})
        manager.notify("READY=1")
        self._tell_status()

    def _take_configuration(self) -> list[str]:
        """Read it again; which settings changed. ConfigError: nothing was taken."""
        if self._path is None:
            raise ConfigError("--config", "there is no file to read again")
        config = load(self._path, self._assignments)
        changed = reloadable_changes(self._config, config)
        keys, (quic, context) = read_keys(config), read_certificate(config)
        turn_context = read_context(config) if config.turn.enabled else None
        self._config, self._quic, self._tls = config, quic, context
        self.node.configure(config, keys, quic)
        if self._raw is not None:
            self._raw.configure(config.limits)
        if self._web is not None:
            self._web.configure(config.limits, context, config.listen.web_origins)
        self._turn.configure(config, turn_context)
        if "listen.lanes" in changed and self._threads is not None and not self._sockets.are_handed:
            self._resizing = self._loop.create_task(self._resize(self._threads, config.listen))
        if self._history is not None:
            self._history.retention_days = config.records.retention_days
        self._logs.configure(config.log)
        return changed

    async def _resize(self, threads: LaneThreads, listen: ListenConfig) -> None:
        await threads.resize(listen.lanes, listen)
        self._sockets.groups = threads.groups
        keep_udp(self._sockets.udp)

    async def _housekeep(self) -> None:
        """Once a second: who was heard, what is heard in fresh calls, how node and region are."""
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            for _ in self.node.driver.report_heard():
                await asyncio.sleep(0)
            for _ in self.node.driver.report_flowing():
                await asyncio.sleep(0)
            self.node.endpoint.accepting = self.node.engine.drain_state in ("running", "draining")
            self._look()
            self._stats_at = time.monotonic()
            if self._keep is not None:
                self._keep.beat(self._stats_at)
            self._tell_status()

    def _look(self) -> None:
        """How busy the machine is, and each half minute how the region is."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        counts = self.node.lane.packets()
        facts = watch.Facts(
            cpu_s=used.ru_utime + used.ru_stime,
            packets=counts.received + counts.sent + self.node.endpoint.outbox.sent,
            lag_p99_s=self._lag.p99_s,
            packets_per_s=self._config.health.packets_per_s,
        )
        self._watch.on_second(facts, time.monotonic(), time.time())

    async def _adapt(self) -> None:
        """Five times a second: what the ways are like on which something went wrong."""
        while True:
            await asyncio.sleep(TICK_S)
            for _ in self.node.driver.measure_ways(adapts=self._config.adapt.enabled):
                await asyncio.sleep(0)

    async def _collect(self) -> None:
        """Young garbage, before it is enough to cost a pause."""
        for turn in itertools.count(1):
            await asyncio.sleep(TIDYING)
            legs = len(self.node.endpoint) + len(self.node.streams)
            tidy(turn % FULL_COLLECTION == 0 and legs <= FEW)

    async def _watchdog(self) -> None:
        """Feed the service manager's watchdog from the loop, each time that the node was proven to work."""
        if manager.watchdog_interval() is None:
            return
        pulse, probe = Pulse(), Probe(self.node.endpoint, os.urandom)
        due = time.monotonic()
        for look in itertools.count(1):
            probe.send(group[0] for group in self._sockets.groups)
            due += LOOK_S
            await asyncio.sleep(due - time.monotonic())
            now = time.monotonic()
            late, due = now - due, now
            counts = self.node.lane.packets()
            progress = Progress(counts.received, counts.taken, counts.waiting, probe.heard)
            if pulse.look(late, self._config.health.lag_ms / 1000, progress):
                manager.notify("WATCHDOG=1")
            if look == LOOKS_UNTIL_HEARD and not pulse.is_armed:
                log.warning(NO_PROBE)

    def _tell_status(self) -> None:
        """One line for `systemctl status`, when it changed."""
        engine = self.node.engine
        calls = sum(engine.calls_by_stage.values())
        parts = [
            engine.drain_state,
            f"{calls} calls, {sum(engine.legs.values())} legs",
            f"packet path {self.node.lane.name}",
        ]
        if self._reload_refused:
            parts.append(f"last reload refused: {self._reload_refused}")
        status = "; ".join(parts)
        if status != self._status:
            self._status = status
            manager.notify(f"STATUS={status}")

    # ------------------------------------------------------------ facts

    def imbalance(self) -> int:
        """How far packet conservation is from holding; 0 unless there is a bug."""
        node = self.node
        lane = node.lane
        books = (lane.counters, lane.relays, lane.repairs, node.endpoint, node.streams)
        return sum(book.imbalance() for book in books)

    def _certificate_until(self) -> float | None:
        certificate = self._quic.certificate
        return certificate.not_valid_after_utc.timestamp() if certificate is not None else None

    def _kernel_drops(self) -> int:
        if self._threads is not None:
            return self._threads.kernel_drops
        return sum(udp.kernel_drops(sock) for sock in self._sockets.udp)

    def report(self) -> Report:
        """What /healthz and /readyz answer from."""
        sinks = (("records", self._history), ("events", self._events))
        endpoint = self.node.endpoint
        facts = Facts(
            state=self.node.engine.drain_state,
            lag_s=self._lag.worst_s,
            stats_age_s=time.monotonic() - self._stats_at,
            health_age_s=time.monotonic() - max(self._watch.sampled_at, self._began),
            free_descriptors=free_descriptors(),
            wall=time.time(),
            certificate_until=self._certificate_until(),
            issuers=len(self._config.tokens.issuers),
            datapath=self.node.lane.name,
            wants_native=self._config.lane != "python",
            internal_errors=sum(
                part.internal_errors
                for part in (endpoint, self.node.driver, self.node.streams, self.node.turn)
            ),
            turn_is_lab=self._config.turn.enabled and self._config.turn.lab_allow_private_peers,
            dead_threads=self._threads.missing if self._threads is not None else 0,
            legs=len(endpoint) + len(self.node.streams),
            max_legs=self._config.limits.legs,
            sinks_failing=tuple(name for name, sink in sinks if sink is not None and sink.is_failing),
        )
        return judge(facts, self._config.health)

    def health(self) -> dict[str, object]:
        """What /health answers: how the region is, as this node sees it."""
        return {"node": self._config.node.id, **self._watch.standing(time.monotonic()).body()}

    def _tcp_counters(self) -> TcpCounters:
        streams, web = self.node.streams, self._web
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
        allocations, streams = self.node.turn.engine.allocations, self._turn.streams
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
            node=self._config.node.id,
            region=self._config.node.region,
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
                kernel_dropped=self._kernel_drops(),
                handled=dict(endpoint.all_handled(counts)),
                answered=dict(endpoint.all_answered(counts)),
                dropped=dict(endpoint.all_dropped(counts)),
                turns=counts.turns,
                strays=counts.strays,
                notes_lost=counts.notes_lost,
                threads=counts.threads,
                half_open=endpoint.half_open,
                handshakes=endpoint.handshakes,
                handshakes_expired=endpoint.handshakes_expired,
                http_answered=dict(endpoint.http_answered),
            ),
            tcp=self._tcp_counters(),
            talk=self._watch.talk(time.monotonic()),
            standing=self._watch.standing(time.monotonic()),
            residence=self.node.lane.residence.copy(),
            stress=self._watch.stress,
            legs=engine.legs,
            ways=engine.ways,
            transports=engine.transports,
            calls=engine.calls_by_stage,
            events=self._events.counters() if self._events else SinkCounters(),
            records=self._history.counters() if self._history else SinkCounters(),
            state=engine.drain_state,
            is_ready=self.report().is_ready,
            lag_s=self._lag.worst_s,
            tasks=len(asyncio.all_tasks()),
            imbalance=self.imbalance(),
            started_at=self._started,
            certificate_until=self._certificate_until(),
            log_suppressed=self._logs.limit.suppressed,
        )


def tidy(full: bool) -> None:
    """Collect garbage in cycles without a pause that a voice could hear.

    The youngest objects are collected if they are few, and then set aside, so that no later collection walks
    over the thousands of objects of each living connection. What dies among those set aside waits for a
    full collection; connections break their own cycles, so that this is little.

    The collector's count falls with each death of an object set aside, too: when thousands of legs leave it
    says 1 while 10,000 young objects stand there each second. So this is done often, lest they be many.
    """
    if full:
        gc.unfreeze()
        gc.collect()
    elif gc.get_count()[0] < YOUNG:
        gc.collect(0)
    gc.freeze()


def run(config: Config, path: str | None = None, assignments: Sequence[str] = ()) -> int:
    """Serve until drained; 0 then. ConfigError before the first packet when something cannot be had.

    `path` and `assignments` ("section.key=value", on top of the file) are what a reload reads again.
    """
    logs = Logs(config.log)
    # A full collection over thousands of connections would hold audio for tens of milliseconds; connections
    # break their own cycles when they end, and `_housekeep` collects what else is young.
    gc.disable()
    # The watchdog's signal leaves in the journal where each thread hung: files and lines, no values.
    faulthandler.enable()
    sys.setswitchinterval(THREAD_SLICE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_serve(config, path, logs, assignments))
    return 0


async def _serve(config: Config, path: str | None, logs: Logs, assignments: Sequence[str]) -> None:
    daemon = Daemon(config, path, asyncio.get_running_loop(), logs, assignments)
    # Little of what stands now is garbage, and to look for it takes an eighth of the start: the first full
    # collection finds it.
    gc.freeze()
    await daemon.run()
