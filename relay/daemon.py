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
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import uvloop

from relay import rounds
from relay.account import Account
from relay.config import Config, ListenConfig, load, reloadable_changes
from relay.core import events as ev
from relay.edge import keep, manager, udp
from relay.edge.assembly import Node
from relay.edge.keep import Keep
from relay.edge.raw import RawEdge
from relay.edge.sockets import Sockets
from relay.edge.turn_server import TurnServer, read_context
from relay.errors import ConfigError
from relay.ops import watch
from relay.ops.commands import CommandServer
from relay.ops.events import EventWriter
from relay.ops.health import LagMeter
from relay.ops.history import History, summary
from relay.ops.logs import Logs
from relay.ops.watch import Watch
from relay.papers import kinds_on_web, read_certificate, read_keys
from relay.protocol.demux import StreamKind

if TYPE_CHECKING:
    from relay.edge.lane_native import NativeLane
    from relay.edge.threads import LaneThreads
    from relay.edge.web import WebEdge
    from relay.ops.http import OpsServer
    from relay.ops.metrics import Exporter

log = logging.getLogger("relay.daemon")
HOUSEKEEPING = 1.0  # seconds between reports of who was heard
THREAD_SLICE = 0.0005  # seconds that another thread (a scrape's text, a record) may keep audio waiting
NO_NATIVE_LANE = "the native packet path is not installed: the Python one serves, at a multiple of its cost"


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
        self._done = asyncio.Event()
        self._history = _history(config)
        self._events = EventWriter(config.events, config.node.id) if config.events.sink != "off" else None
        quic, self._tls = read_certificate(config)
        self.node = node = Node(config, read_keys(config), quic, loop, self, watcher=loop)
        self._turn = TurnServer(loop, node, config)
        self._lag = LagMeter(loop)
        self._watch = Watch(
            config.node.region,
            node.engine.vitals,
            lambda: node.lane.counters,
            lambda: node.lane.residence,
            len(os.sched_getaffinity(0)),
        )
        self._account = Account(
            config, quic, node, self._turn, self._watch, self._lag, logs, self._history, self._events
        )
        self._http: OpsServer | None = None
        self._commands = CommandServer(node.driver.command)
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
                asyncio.create_task(each)
                for each in (
                    self._housekeep(),
                    rounds.adapt(self.node),
                    rounds.collect(self.node),
                    rounds.feed_watchdog(self.node, lambda: (group[0] for group in self._sockets.groups)),
                )
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
            log.info("stopped", extra={"imbalance": self._account.imbalance()})
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

            threads = LaneThreads(self._loop, cast("NativeLane", lane), endpoint, groups)
            self._threads = self._account.threads = threads
            self._account.kernel_drops = lambda: threads.kernel_drops
            return [threads]
        if any(len(group) > 1 for group in groups):
            cure = "install the native lane, or use one socket per address"
            raise ConfigError("listen.lanes", "the Python lane reads one socket per address", cure)
        self._account.kernel_drops = lambda: sum(map(udp.kernel_drops, self._sockets.udp))
        wait_s = self._config.listen.batch_ms / 1000
        return [udp.Reader(self._loop, sock, endpoint, wait_s) for sock in self._sockets.udp]

    async def _open_late(self) -> None:
        """What listens on TCP, by sockets that were bound with the others: who comes earlier waits there.

        The library that serves it takes a fifth of a start, which holds up neither audio nor handshakes.
        """
        account = self._account
        web, http, exporter = await asyncio.to_thread(import_web)
        if self._sockets.web:
            self._open_web(web)
        if self._sockets.metrics is not None:
            self._http = http(exporter(account.snapshot).answer, account.report, account.health)
            await self._http.start(self._sockets.metrics)

    def _open_web(self, edge: type[WebEdge]) -> None:
        listen = self._config.listen
        node = self.node
        self._web = self._account.web = edge(
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
        self._config = self._account.config = config
        self._account.quic, self._tls = quic, context
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
        self._sockets.keep_udp()

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
            now = self._account.stats_at = time.monotonic()
            if self._keep is not None:
                self._keep.beat(now)
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


def _history(config: Config) -> History | None:
    """The writer of records, if any are wanted."""
    records = config.records
    if not records.path:
        return None
    return History(
        records.path,
        config.node.id,
        retention_days=records.retention_days,
        queue_size=records.queue,
    )


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
