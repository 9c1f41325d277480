"""Table of contents of the daemon: configuration -> build -> run -> drain. It alone knows every part.

    run(config, path)   until SIGTERM has drained the node: exit status 0; 1 when a part of it failed
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
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import uvloop

from relay import papers, rounds
from relay.account import Account
from relay.config import Config, ListenConfig, load, reloadable_changes
from relay.core import events as ev
from relay.edge import keep, manager, udp
from relay.edge.assembly import Node
from relay.edge.generation import GENERATIONS, Places
from relay.edge.keep import Keep
from relay.edge.sockets import Sockets
from relay.edge.turn_server import TurnServer, read_context
from relay.errors import ConfigError
from relay.house import Household, begin
from relay.listeners import Listeners
from relay.ops import watch
from relay.ops.canary import CanaryWatch
from relay.ops.directions import Directions
from relay.ops.health import LagMeter
from relay.ops.history import History, summary
from relay.ops.logs import Logs
from relay.ops.pressure import Look, threads_s
from relay.ops.sinks import EventSinks
from relay.ops.trunk_metrics import TrunkWatch
from relay.ops.watch import Watch
from relay.qlogs import Qlogs

if TYPE_CHECKING:
    from relay.edge.lane_native import NativeLane
    from relay.edge.threads import LaneThreads

log = logging.getLogger("relay.daemon")
HOUSEKEEPING = 1.0  # seconds between reports of who was heard
THREAD_SLICE = 0.0005  # seconds that another thread (a scrape's text, a record) may keep audio waiting
NO_NATIVE_LANE = "the native packet path is not installed: the Python one serves, at a multiple of its cost"


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
        quic, tls = papers.read_certificate(config)
        keys = papers.read_keys(config)
        self._handed = manager.inherited()
        self._keep = Keep.left(self._handed)
        self._was_kept = self._keep is not None
        standing = begin(config.listen.handover_socket, self._keep.generation if self._keep else None)
        self._predecessor = standing.predecessor
        self._house = Household(loop, standing, config.listen.handover_socket, self)
        # Two generations write at once: what is not acknowledged waits in a file of each.
        self._events = EventSinks.of(config, ".odd" if standing.generation == 1 else "")
        self.node = node = Node(config, keys, quic, loop, self, watcher=loop, generation=standing.generation)
        self._lag = LagMeter(loop)
        self._watch = Watch(
            config.node.region,
            node.engine.vitals,
            lambda: node.lane.counters,
            lambda: node.lane.residence,
            len(os.sched_getaffinity(0)),
            CanaryWatch(config.health.canary_file, time.time()),
            config.state.variant,
        )
        self._account = Account(
            config,
            quic,
            node,
            TurnServer(loop, node, config),
            self._watch,
            self._lag,
            logs,
            self._history,
            self._events,
            self._house,
        )
        self._directions = Directions(
            config.node,
            lambda: self._account.nodes.list,
            self._account.state.routes,
            lambda: self._house.is_followed,
            node.driver.feed,
        )
        self._qlogs = Qlogs(config.qlog, node, loop)
        self._trunks = TrunkWatch()
        self.listeners = Listeners(loop, self._account, tls, self._qlogs.order)
        self._sockets: Sockets
        self._readers: list[Reader] = []
        self._threads: LaneThreads | None = None
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
        self._house.on_event(event)
        self._qlogs.on_event(event)
        if self._events is not None and not event.is_canary:
            self._events.event(event)

    def stopped(self) -> None:
        """The drain is complete."""
        self._done.set()

    # ------------------------------------------------------------ life

    async def run(self) -> int:
        """Serve until drained; the exit status. ConfigError when a socket or file cannot be had."""
        keepers, node = rounds.Tasks(self._done.set), self.node
        try:
            self._start_sinks()
            self._account.state.on_changed = lambda mandate: node.driver.feed(ev.MandateChanged(mandate))
            await self._account.state.begin()  # nobody is let in by less than there is to go by
            await self._account.fleet.begin()  # nor past what was ordered before they come
            self._remember()
            self._open_sockets()
            if self._predecessor is not None:  # nobody waits for us: what we take over then has no gap
                await self.listeners.open_late()
            await self._house.take_over()
            unknown = self._handed.close()
            if unknown:
                log.warning("descriptors that nothing here wants", extra={"names": unknown})
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._drain)
            self._loop.add_signal_handler(signal.SIGHUP, self._reload)
            self._lag.start()
            keepers.start(
                self._housekeep(),
                rounds.adapt(self.node),
                rounds.watch_trunks(self.node),
                rounds.collect(self.node),
                self._account.state.run(),
                self._account.nodes.run(),
                self._account.fleet.run(),
                self._directions.run(),
                rounds.feed_watchdog(self.node, lambda: (group[0] for group in self._house.places.own)),
                rounds.watch_threads(self.node.lane.packets, lambda: self._account.wanted_threads),
            )
            manager.notify("READY=1")
            self._tell_status()
            self._sockets.keep()
            await self.listeners.open_late()
            log.info(
                "serving",
                extra={
                    "lane": self.node.lane.name,
                    "udp_ports": [sock.getsockname()[1] for sock in self._house.places.read],
                    "kept_sockets": self._sockets.were_kept,
                    **self.listeners.facts(),
                },
            )
            if self._config.lane == "auto" and self.node.lane.name == "python":
                log.warning(NO_NATIVE_LANE, extra={"setting": "lane"})
            if (over := papers.ended(self._account.quic)) is not None:
                log.error("new clients refuse this node: %s", over)
            await self._done.wait()
            if await keepers.stop() is not None:
                return 1  # the memory stays kept: the next process goes on from it
            if self._keep is not None:
                manager.store(keep.NAME, ())  # nobody is left
            log.info("stopped", extra={"imbalance": self._account.imbalance()})
            return 0
        finally:
            await self._close()

    def _start_sinks(self) -> None:
        if self._history is not None:
            self._history.start()
            self._watch.usual.load(self._history.fallback_by_hour())
        if self._events is not None:
            self._events.start()

    def _remember(self) -> None:
        """Go on where a process that crashed left off; let the manager keep what one after us would need."""
        limits = self._config.limits
        self._keep = self._keep or Keep.begin(limits.legs, limits.calls)
        if self._keep is None:
            return
        self._keep.generation = self._house.places.generation
        self.node.remember(self._keep)
        if self._was_kept:
            legs = self.node.driver.revive(self._keep)
            log.warning("going on after a crash", extra={"legs": legs, "calls": self.node.engine.calls})
        else:
            self._keep.beat(time.monotonic())

    def _open_sockets(self) -> None:
        generation = self._house.places.generation
        self._sockets = Sockets(
            self._handed,
            self._config.listen,
            generations=1 if generation is None else GENERATIONS,
            before=self._predecessor.sockets if self._predecessor is not None else None,
            may_make=not self._house.is_beside_another,
        )
        self.listeners.use(self._sockets)
        self._house.places = places = Places(self._sockets.groups, generation)
        for reader in self._make_readers(places):
            self._readers.append(reader)
            reader.start()

    def _make_readers(self, places: Places) -> Sequence[Reader]:
        lane, endpoint = self.node.lane, self.node.endpoint
        if lane.name == "native":
            from relay.edge.threads import LaneThreads  # only where relay._lane can be had

            threads = LaneThreads(self._loop, cast("NativeLane", lane), endpoint, places)
            self._threads = self._account.threads = threads
            self._account.kernel_drops = lambda: threads.kernel_drops
            return [threads]
        if any(len(group) > 1 for group in places.own):
            cure = "install the native lane, or use one socket per address"
            raise ConfigError("listen.lanes", "the Python lane reads one socket per address", cure)
        sockets = places.read
        self._account.kernel_drops = lambda: sum(map(udp.kernel_drops, sockets))
        wait_s = self._config.listen.batch_ms / 1000
        return [udp.Reader(self._loop, sock, endpoint, wait_s) for sock in sockets]

    def leave(self) -> None:
        """Drain, or hurry: the house asks for it."""
        self._drain()

    async def _close(self) -> None:
        self._lag.stop()
        await self.listeners.close()
        for reader in self._readers:
            reader.close()
        self._house.close()
        await self._qlogs.close()
        for sink in (self._history, self._events):
            if sink is not None:
                await asyncio.to_thread(sink.close)

    def _drain(self) -> None:
        manager.notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(self._config.drain.deadline_s * 1e6)}")
        self._directions.look()
        self.node.drain()
        self._say_who_is_let_in()
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
        keys, (quic, context) = papers.read_keys(config), papers.read_certificate(config, self._account.quic)
        turn_context = read_context(config) if config.turn.enabled else None
        self._config = self._account.config = config
        self._account.quic = quic
        self.node.configure(config, keys, quic)
        self.listeners.configure(config, context, turn_context)
        if "listen.lanes" in changed and self._threads is not None and not self._sockets.are_fixed:
            self._resizing = self._loop.create_task(self._resize(self._threads, config.listen))
        self._obey_retention()
        self._watch.canary.configure(config.health.canary_file)
        self._qlogs.config = config.qlog
        self._logs.configure(config.log)
        return changed

    async def _resize(self, threads: LaneThreads, listen: ListenConfig) -> None:
        await threads.resize(listen.lanes, listen)
        self._sockets.groups = threads.groups
        self._sockets.keep_udp()

    async def _housekeep(self) -> None:
        """Once a second: who was heard, what fresh calls and trunks carry, how node and region are."""
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            for _ in self.node.driver.report_heard():
                await asyncio.sleep(0)
            for _ in self.node.driver.report_flowing():
                await asyncio.sleep(0)
            for _ in self.node.driver.report_routes():
                await asyncio.sleep(0)
            self._say_who_is_let_in()
            self._obey_retention()
            self._look()
            self._trunks.look(self.node.engine.trunks)
            self._qlogs.look()
            now = self._account.stats_at = time.monotonic()
            if self._keep is not None:
                self._keep.beat(now)
            self._tell_status()

    def _say_who_is_let_in(self) -> None:
        # With a successor beside us nobody is let in either, but has to hear where to go: a Retry says it.
        is_open = self.node.engine.drain_state in ("running", "emptying", "draining")
        self.node.endpoint.accepting = is_open or self._house.is_followed

    def _obey_retention(self) -> None:
        """Records are kept for as long as is configured, and no longer than the rules of regions allow."""
        if self._history is not None:
            days = min(self._config.records.retention_days, self._directions.keep_days)
            self._history.retention_days = days

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
        look = Look(facts.cpu_s, threads_s(), facts.packets, facts.lag_p99_s)
        pressed = self._account.pressure.on_look(time.monotonic(), look, facts.packets_per_s)
        before = self.node.engine.shedding
        self.node.driver.feed(ev.Pressed(pressed))
        if (given_up := self.node.engine.shedding) is not before:
            log.warning("shedding", extra={"given_up": given_up.name.lower(), "pressure": round(pressed, 2)})

    def _tell_status(self) -> None:
        """One line for `systemctl status`, when it changed."""
        engine = self.node.engine
        parts = [
            engine.drain_state,
            f"{sum(engine.calls_by_stage.values())} calls, {sum(engine.legs.values())} legs",
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
        records.path, config.node.id, retention_days=records.retention_days, queue_size=records.queue
    )


def run(config: Config, path: str | None = None, assignments: Sequence[str] = ()) -> int:
    """Serve; the exit status. ConfigError before the first packet when something cannot be had.

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
        return runner.run(_serve(config, path, logs, assignments))
    return 0


async def _serve(config: Config, path: str | None, logs: Logs, assignments: Sequence[str]) -> int:
    daemon = Daemon(config, path, asyncio.get_running_loop(), logs, assignments)
    # Little of what stands now is garbage, and to look for it takes an eighth of the start: the first full
    # collection finds it.
    gc.freeze()
    return await daemon.run()
