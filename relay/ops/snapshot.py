"""What the daemon tells its metrics: counters of all parts, read at one moment.

Must never live here: names of metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relay.core.reasons import DropReason
from relay.core.shedding import Shed
from relay.core.spread import Spread
from relay.core.tallies import Tallies
from relay.core.tenants import Standing as IssuerStanding
from relay.core.trunk_reports import Standing as Trunk
from relay.ops.region import Standing


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
    read_errors: int = 0
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
    panics: int = 0


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
class TalkCounters:
    """How calls are (relay/core/vitals.py), copied."""

    variant: str
    setups: Mapping[tuple[str, str], int]
    """By transport and result."""
    ended: Mapping[tuple[str, str], int]
    """By transport and reason."""
    active: Mapping[str, int]
    """Running calls by transport."""
    counted: Mapping[str, tuple[int, int]]
    """Bad and valid events by indicator."""
    classed: Mapping[tuple[str, str], tuple[int, int]]
    """The same by indicator and the caller's SDK, of those that are known so."""
    first_audio: Mapping[str, Spread]
    """By whose words they are."""
    funnel: Mapping[tuple[str, str], int]
    """By step and caller's device."""
    leaks: Mapping[tuple[str, str, str], int]
    """By last step, reason, and caller's device."""
    talked_s: float
    judged_s: float


@dataclass(frozen=True, slots=True)
class CanaryCounters:
    """What is known of canary calls since the start."""

    runs: Mapping[tuple[str, str], int]
    """By transport and result."""
    failures: Mapping[str, int]
    """Failed runs by the check that failed."""
    running: int
    """Failures without a success since."""
    age_s: float
    """Of the newest."""


@dataclass(frozen=True, slots=True)
class StateCounters:
    """The state of rollouts (relay/ops/state.py)."""

    revision: int
    """0: none."""
    serving: str
    age_s: float
    refused: Mapping[str, int]
    """By reason."""


@dataclass(frozen=True, slots=True)
class NodesCounters:
    """The node list (relay/ops/nodes.py)."""

    revision: int
    """0: none."""
    listed: int
    """Nodes on it."""
    age_s: float
    """Since it was made; 0 without one."""
    refused: Mapping[str, int]
    """By reason."""


@dataclass(frozen=True, slots=True)
class FleetCounters:
    """Commands of the whole fleet (relay/ops/fleet.py)."""

    age_s: float
    """Since the feed last knew that there is no newer command; since the start, if it never did."""
    waiting: int
    """Over the rate of their issuer."""
    held: int
    """Orders that wait for who may come."""
    outcomes: Mapping[str, int]
    unreadable: int
    ages: Spread
    """Of those obeyed, from when they were given."""


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
    tcp: TcpCounters = field(default_factory=TcpCounters)
    transports: Mapping[str, int] = field(default_factory=dict)
    """Live legs by transport."""
    turn: TurnCounters = field(default_factory=TurnCounters)
    tallies: Tallies = field(default_factory=Tallies)
    talk: TalkCounters | None = None
    standing: Standing | None = None
    """How the region is."""
    canary: CanaryCounters | None = None
    """None: there never was one."""
    rollout: StateCounters | None = None
    """None: no state is configured."""
    nodes: NodesCounters | None = None
    """None: no node list is configured."""
    fleet: FleetCounters | None = None
    """None: no file of commands is configured."""
    residence: Spread | None = None
    stress: float = 0.0
    pressure: float = 0.0
    shedding: Shed = Shed.NOTHING
    legs: Mapping[str, int] = field(default_factory=dict)
    """Live legs by state."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Live calls by state."""
    issuers: tuple[IssuerStanding, ...] = ()
    """How those of the configuration stand."""
    trunks: tuple[Trunk, ...] = ()
    """How those to other nodes are."""
    trunk_paths: Mapping[str, int] | None = None
    """Connections to other nodes by which voices may go, by path; None: the node has no trunks."""
    ways: Mapping[str, int] = field(default_factory=dict)
    """Listeners' ways that are looked at, by state."""
    events: SinkCounters = field(default_factory=SinkCounters)
    records: SinkCounters = field(default_factory=SinkCounters)
    generation: int = 0
    """0 even, 1 odd."""
    leaving: Mapping[str, int] = field(default_factory=dict)
    """Legs and calls that the generation before this one still has."""
    state: str = "running"
    is_ready: bool = True
    lag_s: float = 0.0
    tasks: int = 0
    imbalance: int = 0
    """Packets unaccounted for; must be 0."""
    started_at: float = 0.0
    certificate_until: float | None = None
    log_suppressed: int = 0
