"""Prometheus metrics, made on request from one snapshot of the counters that the parts keep anyway.

Nothing is counted twice and nothing is counted here. Every drop reason and every close code is exported from
the start, at 0, so that an alert on a name never waits for its first occurrence. No label carries a person,
a call or an address. Must never live here: counting, and names of reasons.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, get_args

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from relay import __version__
from relay.core.adapt import State
from relay.core.reasons import DropReason
from relay.core.tallies import Histogram, Tallies
from relay.errors import ErrorCode
from relay.protocol.messages import Why

CODES: Final = tuple(code.name.lower() for code in ErrorCode)
REASONS: Final = tuple(reason.value for reason in DropReason)
TRANSPORTS: Final = ("quic", "wt", "ws", "tls")
STATES: Final = ("running", "draining", "moving", "closing", "stopped")
HTTP3_STATUSES: Final = ("200", "400", "403", "404", "405", "429", "501")
WEB_STATUSES: Final = ("101", "400", "403", "404", "426", "503")
STREAM_KINDS: Final = ("media", "datagram", "control")
SINK_DROPS: Final = ("queue_full", "spool_full", "write_error")


class MediaCounters(Protocol):
    """What a lane counts, in media datagrams (relay/edge/lane.py)."""

    media_in: int
    accepted: int
    copies: int
    sent: int
    queued: int

    @property
    def dropped(self) -> Mapping[DropReason, int]:
        """Datagrams that came in and were not accepted."""

    @property
    def dropped_out(self) -> Mapping[DropReason, int]:
        """Copies that were not sent."""


class RepairCounters(Protocol):
    """What a lane kept to be repeated, and repeated (relay/edge/lane.py)."""

    kept: int
    acked: int
    late: int
    ended: int
    holding: int
    beside: int
    distant: int
    alone: int
    asked: int
    bytes: int
    refused: int


class WayCounters(Protocol):
    """What a lane counts of one direction through relayed addresses (relay/edge/lane.py)."""

    taken: int
    passed: int
    bytes: int
    waiting: int

    @property
    def dropped(self) -> Mapping[DropReason, int]:
        """Packets that went no further."""


class RelayCounters(Protocol):
    """Both directions: from clients to peers, and back."""

    @property
    def up(self) -> WayCounters:
        """From clients."""

    @property
    def down(self) -> WayCounters:
        """To clients."""


@dataclass(frozen=True, slots=True)
class PacketCounters:
    """What the UDP side counts, in UDP packets: received = sum(handled) + sum(dropped) + waiting."""

    received: int = 0
    sent: int = 0
    waiting: int = 0
    send_errors: int = 0
    kernel_dropped: int = 0
    handled: Mapping[str, int] = field(default_factory=dict)
    answered: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    half_open: int = 0
    handshakes: int = 0
    handshakes_expired: int = 0
    http_answered: Mapping[str, int] = field(default_factory=dict)
    turns: int = 0
    strays: int = 0
    notes_lost: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class TcpCounters:
    """What the TCP side counts; in messages: received = sum(handled) + sum(dropped)."""

    connections: int = 0
    half_open: int = 0
    accepted: int = 0
    refused: Mapping[DropReason, int] = field(default_factory=dict)
    failed: int = 0
    answered: Mapping[str, int] = field(default_factory=dict)
    received: int = 0
    handled: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    sent: int = 0
    unsent: int = 0


@dataclass(frozen=True, slots=True)
class TurnCounters:
    """What TURN counts beside the packets of its data path."""

    allocations: int = 0
    streams: int = 0
    accepted: int = 0
    failed: int = 0
    unused: int = 0
    refused: Mapping[DropReason, int] = field(default_factory=dict)
    dropped: Mapping[DropReason, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SinkCounters:
    """What a writer of records or events counts."""

    written: int = 0
    waiting: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a scrape shows, read between two inputs of the engine, so that the sums hold exactly."""

    node: str
    region: str
    datapath: str
    engine: Mapping[tuple[str, str], int]
    media: MediaCounters
    packets: PacketCounters = field(default_factory=PacketCounters)
    relays: RelayCounters | None = None
    repairs: RepairCounters | None = None
    tallies: Tallies = field(default_factory=Tallies)
    tcp: TcpCounters = field(default_factory=TcpCounters)
    transports: Mapping[str, int] = field(default_factory=dict)
    """Live legs by transport."""
    turn: TurnCounters = field(default_factory=TurnCounters)
    legs: Mapping[str, int] = field(default_factory=dict)
    """Live legs by state."""
    ways: Mapping[str, int] = field(default_factory=dict)
    """Listeners' ways that are looked at, by state."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Live calls by state."""
    events: SinkCounters = field(default_factory=SinkCounters)
    records: SinkCounters = field(default_factory=SinkCounters)
    state: str = "running"
    is_ready: bool = True
    lag_s: float = 0.0
    tasks: int = 0
    imbalance: int = 0
    """Packets unaccounted for; must be 0."""
    started_at: float = 0.0
    certificate_until: float | None = None
    log_suppressed: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """How the engine's counter of one name is shown."""

    metric: str
    help: str
    label: str
    known: tuple[str, ...] = ()


# The engine's counters are keyed (name, label). A name that is not listed here is exported all the same.
ENGINE: Final[Mapping[str, Family]] = {
    "refused": Family("relay_refused", "Requests answered with an error.", "code", CODES),
    "leg_closed": Family("relay_legs_closed", "Legs closed by the relay, by close code.", "code", CODES),
    "leg_opened": Family(
        "relay_legs_opened", "Transports that finished a handshake.", "transport", TRANSPORTS
    ),
    "admitted": Family("relay_legs_admitted", "Legs whose token was accepted.", "transport", TRANSPORTS),
    "leg_adapted": Family(
        "relay_legs_adapted",
        "Turns of listeners' ways, by the state they came into.",
        "state",
        tuple(state.value for state in State),
    ),
    "leg_lost": Family(
        "relay_legs_lost", "Legs that went away by themselves, by close code seen.", "code", (*CODES, "other")
    ),
    "nack": Family("relay_nacks", "Requests to send audio again, by direction.", "direction", ("sent",)),
    "address_moved": Family("relay_legs_moved", "Address changes of live legs.", "label", ("",)),
    "command": Family("relay_commands", "Signed commands, by outcome.", "code", CODES),
    "control_datagram": Family("relay_control_datagrams", "Control datagrams taken, by type.", "type"),
    "dropped": Family("relay_control_dropped", "Control input dropped, by reason.", "reason", REASONS),
    "e2e": Family("relay_e2e_messages", "Opaque messages carried, by kind.", "kind", ("0", "1", "2")),
    "drain": Family("relay_drain_steps", "States that a drain entered.", "state", STATES[1:]),
    "call_opened": Family("relay_calls_opened", "Calls opened.", "kind", ("pair", "group")),
    "call_ended": Family(
        "relay_calls_ended",
        "Calls ended, by outcome.",
        "outcome",
        get_args(Why),
    ),
    "call_moved": Family(
        "relay_calls_moved",
        "Calls that went on at another node (out), or came from one (in).",
        "way",
        ("in", "out"),
    ),
    "call_revived": Family(
        "relay_calls_revived", "Calls that went on after a crash of this daemon.", "label", ("",)
    ),
    "revive_refused": Family(
        "relay_calls_lost_by_crash", "Calls from before a crash that could not go on.", "label", ("",)
    ),
    "handover_refused": Family(
        "relay_handover_refused", "Calls of the other generation not taken up, by error.", "code", CODES
    ),
    "handover_too_large": Family(
        "relay_handover_too_large", "Calls that fit no hand-over ticket.", "label", ("",)
    ),
    "turn_minted": Family("relay_turn_minted", "TURN credentials given to people in calls.", "label", ("",)),
    "turn_opened": Family("relay_turn_opened", "Allocations asked for and granted a quota.", "label", ("",)),
    "turn_closed": Family(
        "relay_turn_closed",
        "Allocations that ended, by why.",
        "why",
        ("expired", "refreshed_to_0", "client_gone", "owner_gone", "not_opened"),
    ),
    "turn_answered": Family(
        "relay_turn_answered",
        "TURN requests that succeeded, by method.",
        "method",
        ("allocate", "refresh", "create_permission", "channel_bind"),
    ),
    "turn_refused": Family(
        "relay_turn_refused",
        "TURN requests answered with an error, by its code.",
        "code",
        tuple(map(str, (300, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 486, 500, 508))),
    ),
    "turn_repeated": Family("relay_turn_repeated", "TURN requests that came twice.", "label", ("",)),
    "turn_ignored": Family("relay_turn_ignored", "STUN that is not answered, by kind.", "kind"),
    "turn_dropped": Family(
        "relay_turn_requests_dropped", "STUN messages dropped, by reason.", "reason", REASONS
    ),
    "client_sdk": Family("relay_client_sdk", "Admitted legs by SDK, as far as it is listed.", "name"),
    "client_app": Family("relay_client_app", "Admitted legs by application, as far as it is listed.", "name"),
    "client_os": Family("relay_client_os", "Admitted legs by system, as far as it is listed.", "name"),
    "client_dev": Family("relay_client_dev", "Admitted legs by device class, as far as listed.", "name"),
}


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
        yield from _packets(now.packets)
        yield from _tcp(now.tcp)
        yield from _media(now.media)
        if now.repairs is not None:
            yield from _repairs(now.repairs)
        if now.relays is not None:
            yield from _relays(now.relays)
        yield from _quality(now.tallies)
        yield from _turn(now.turn)
        yield from _engine(now.engine)
        yield _gauges("relay_legs", "Live legs, by state.", "state", now.legs)
        ways = dict.fromkeys((state.value for state in State), 0) | dict(now.ways)
        yield _gauges("relay_ways", "Listeners' ways that are looked at, by state.", "state", ways)
        by_transport = dict.fromkeys(TRANSPORTS, 0) | dict(now.transports)
        yield _gauges("relay_transports", "Live legs, by transport.", "transport", by_transport)
        yield _gauges("relay_calls", "Live calls, by state.", "state", now.calls)
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


def _counters(
    name: str, text: str, label: str, values: Mapping[str, int], known: Iterable[str] = ()
) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key in dict.fromkeys((*known, *values)):
        family.add_metric([key], values.get(key, 0))
    return family


def _gauges(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _by_reason(values: Mapping[DropReason, int]) -> dict[str, int]:
    return {reason.value: count for reason, count in values.items()}


def _node(now: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "relay_info", "Which build this is; always 1.", labels=["version", "node", "region"]
    )
    info.add_metric([__version__, now.node, now.region], 1)
    yield info
    lane = GaugeMetricFamily("relay_lane_info", "Which packet path is active; always 1.", labels=["datapath"])
    lane.add_metric([now.datapath], 1)
    yield lane
    states = {state: int(state == now.state) for state in STATES}
    yield _gauges("relay_state", "1 for the state the node is in.", "state", states)
    yield GaugeMetricFamily("relay_ready", "1 while /readyz says 200.", value=int(now.is_ready))
    yield GaugeMetricFamily("relay_loop_lag_seconds", "Worst recent lag of the event loop.", value=now.lag_s)
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


def _packets(now: PacketCounters) -> Iterator[Metric]:
    yield CounterMetricFamily("relay_udp_received", "UDP packets read.", value=now.received)
    yield CounterMetricFamily(
        "relay_lane_turns", "Turns of the native lane's threads, a batch of packets each.", value=now.turns
    )
    yield GaugeMetricFamily(
        "relay_lane_threads", "The native lane's threads that run; one per lane.", value=now.threads
    )
    yield CounterMetricFamily(
        "relay_lane_strays", "Packets that came by another lane than their leg's before.", value=now.strays
    )
    yield CounterMetricFamily(
        "relay_lane_notes_lost",
        "Control datagrams beyond what may wait for the loop, of a leg or in all.",
        value=now.notes_lost,
    )
    yield CounterMetricFamily("relay_udp_sent", "UDP packets written.", value=now.sent)
    yield CounterMetricFamily(
        "relay_udp_send_errors", "UDP packets the kernel refused.", value=now.send_errors
    )
    yield CounterMetricFamily(
        "relay_udp_kernel_dropped", "UDP packets the kernel dropped before us.", value=now.kernel_dropped
    )
    yield GaugeMetricFamily("relay_udp_waiting", "UDP packets waiting for their turn.", value=now.waiting)
    yield _counters("relay_udp_handled", "UDP packets handled, by kind.", "kind", now.handled)
    yield _counters("relay_udp_answered", "Answers that leave no state, by kind.", "kind", now.answered)
    yield _counters(
        "relay_udp_dropped", "UDP packets dropped, by reason.", "reason", _by_reason(now.dropped), REASONS
    )
    yield GaugeMetricFamily("relay_half_open", "Handshakes in progress.", value=now.half_open)
    yield CounterMetricFamily("relay_handshakes", "QUIC handshakes finished.", value=now.handshakes)
    yield CounterMetricFamily(
        "relay_handshakes_expired", "QUIC handshakes that took too long.", value=now.handshakes_expired
    )
    yield _counters(
        "relay_http3_answered", "HTTP/3 requests, by status.", "status", now.http_answered, HTTP3_STATUSES
    )


def _tcp(now: TcpCounters) -> Iterator[Metric]:
    yield GaugeMetricFamily("relay_tcp_connections", "TCP connections of clients.", value=now.connections)
    yield GaugeMetricFamily("relay_tcp_half_open", "Of these, nobody's leg yet.", value=now.half_open)
    yield CounterMetricFamily("relay_tcp_accepted", "TCP connections let in.", value=now.accepted)
    yield _counters(
        "relay_tcp_refused", "TCP connections closed before TLS.", "reason", _by_reason(now.refused), REASONS
    )
    yield CounterMetricFamily(
        "relay_tcp_failed", "TLS handshakes and requests that failed or took too long.", value=now.failed
    )
    yield _counters("relay_web_answered", "HTTP requests, by status.", "status", now.answered, WEB_STATUSES)
    yield CounterMetricFamily("relay_stream_received", "Messages of legs on TCP.", value=now.received)
    yield _counters("relay_stream_handled", "These taken, by kind.", "kind", now.handled, STREAM_KINDS)
    yield _counters(
        "relay_stream_dropped", "These refused, by reason.", "reason", _by_reason(now.dropped), REASONS
    )
    yield CounterMetricFamily("relay_stream_sent", "Messages to legs on TCP.", value=now.sent)
    yield CounterMetricFamily(
        "relay_stream_unsent", "Control datagrams for which there was no room.", value=now.unsent
    )


def _media(now: MediaCounters) -> Iterator[Metric]:
    yield CounterMetricFamily("relay_media_received", "Media datagrams in.", value=now.media_in)
    yield CounterMetricFamily("relay_media_accepted", "Media datagrams accepted.", value=now.accepted)
    yield CounterMetricFamily("relay_media_copies", "Copies made for listeners.", value=now.copies)
    yield CounterMetricFamily("relay_media_sent", "Copies sent.", value=now.sent)
    yield GaugeMetricFamily("relay_media_queued", "Copies waiting.", value=now.queued)
    yield _counters(
        "relay_media_dropped", "Media datagrams not accepted.", "reason", _by_reason(now.dropped), REASONS
    )
    yield _counters(
        "relay_media_dropped_out", "Copies not sent.", "reason", _by_reason(now.dropped_out), REASONS
    )


def _repairs(now: RepairCounters) -> Iterator[Metric]:
    yield CounterMetricFamily("relay_repair_kept", "Copies kept until acknowledged.", value=now.kept)
    yield GaugeMetricFamily("relay_repair_holding", "Copies kept now.", value=now.holding)
    settled = {"acked": now.acked, "late": now.late, "ended": now.ended}
    yield _counters("relay_repair_settled", "Copies kept no longer, by what became of them.", "fate", settled)
    forms = {"beside": now.beside, "distant": now.distant, "alone": now.alone, "asked": now.asked}
    yield _counters("relay_repair_repeats", "Repeats sent, by form.", "form", forms)
    yield CounterMetricFamily("relay_repair_bytes", "Bytes of repeats.", value=now.bytes)
    yield CounterMetricFamily(
        "relay_repair_refused", "Repeats beyond the listener's rights.", value=now.refused
    )


def _quality(now: Tallies) -> Iterator[Metric]:
    yield _histograms(
        "relay_call_mos", "Estimated quality of each direction of a call, at its end.", (), {(): now.mos}
    )
    yield CounterMetricFamily("relay_calls_judged", "Calls that listeners reported on.", value=now.judged)
    yield CounterMetricFamily("relay_poor_calls", "Of these, those with a poor direction.", value=now.poor)
    yield CounterMetricFamily(
        "relay_one_way_calls",
        "Of these, those in which one side heard nothing for long while the other was sending.",
        value=now.one_way,
    )
    yield CounterMetricFamily(
        "relay_gaps_60ms", "Pauses of 60 ms in what listeners got, after repair.", value=now.gaps
    )
    yield _histograms(
        "relay_leg_residual_loss_ratio",
        "Loss after repair: down, in windows of 5 s, of all the way to a listener; up, of each uplink.",
        ("transport", "direction"),
        {key: now.loss[key] for key in itertools.product(TRANSPORTS, ("up", "down"))},
    )
    yield _histograms(
        "relay_leg_rtt_seconds",
        "Round trips to legs that are heard or hear, each 5 s.",
        ("transport",),
        {(transport,): now.rtt[transport] for transport in TRANSPORTS},
    )
    seconds = {state.value: now.state_s[state.value] for state in State}
    family = CounterMetricFamily(
        "relay_leg_state_seconds", "Time of ways that were looked at, by state.", labels=["state"]
    )
    for state, spent in seconds.items():
        family.add_metric([state], spent)
    yield family


def _histograms(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, one in values.items():
        bounds = [*map(str, map(float, one.bounds)), "+Inf"]
        buckets = list(zip(bounds, map(float, one.cumulative()), strict=True))
        family.add_metric(key, buckets, sum_value=one.total)
    return family


def _relays(now: RelayCounters) -> Iterator[Metric]:
    ways = {"up": now.up, "down": now.down}
    for name, text in (
        ("taken", "Packets of TURN's clients (up) and of their peers (down)."),
        ("passed", "Those that went on."),
        ("bytes", "Bytes of their payloads."),
    ):
        values = {label: getattr(way, name) for label, way in ways.items()}
        yield _counters(f"relay_turn_{name}", text, "direction", values)
    waiting = now.up.waiting + now.down.waiting
    yield GaugeMetricFamily("relay_turn_waiting", "Packets waiting for a client's stream.", value=waiting)
    dropped = {
        reason: now.up.dropped.get(reason, 0) + now.down.dropped.get(reason, 0) for reason in DropReason
    }
    yield _counters(
        "relay_turn_dropped",
        "Packets that went no further, by reason.",
        "reason",
        _by_reason(dropped),
        REASONS,
    )


def _turn(now: TurnCounters) -> Iterator[Metric]:
    yield GaugeMetricFamily("relay_turn_allocations", "Live TURN allocations.", value=now.allocations)
    yield GaugeMetricFamily("relay_turn_streams", "TURN's clients on TCP and TLS.", value=now.streams)
    yield CounterMetricFamily("relay_turn_streams_accepted", "Connections taken.", value=now.accepted)
    yield CounterMetricFamily(
        "relay_turn_streams_failed", "Connections whose handshake failed or took too long.", value=now.failed
    )
    yield CounterMetricFamily(
        "relay_turn_streams_unused", "Connections closed because nothing was asked for.", value=now.unused
    )
    yield _counters(
        "relay_turn_streams_refused",
        "Connections closed at once, by reason.",
        "reason",
        _by_reason(now.refused),
        REASONS,
    )
    yield _counters(
        "relay_turn_streams_dropped",
        "Frames of clients on streams that were not taken, and pieces for them, by reason.",
        "reason",
        _by_reason(now.dropped),
        REASONS,
    )


def _engine(counters: Mapping[tuple[str, str], int]) -> Iterator[Metric]:
    grouped: dict[str, dict[str, int]] = {name: {} for name in ENGINE}
    for (name, label), count in counters.items():
        grouped.setdefault(name, {})[label] = count
    for name, values in grouped.items():
        shown = ENGINE.get(name) or Family(f"relay_{name}", "Counted by the engine.", "label")
        yield _counters(shown.metric, shown.help, shown.label, values, shown.known)


def _sink(name: str, noun: str, now: SinkCounters) -> Iterator[Metric]:
    yield CounterMetricFamily(f"{name}_written", f"{noun} handed over.", value=now.written)
    yield GaugeMetricFamily(f"{name}_waiting", f"{noun} waiting.", value=now.waiting)
    yield _counters(f"{name}_dropped", f"{noun} dropped, by reason.", "reason", now.dropped, SINK_DROPS)
