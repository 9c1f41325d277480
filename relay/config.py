"""Every setting of the daemon: one tree of frozen dataclasses, read once, changed only by a reload.

    load(path) -> Config         ConfigError names the dotted key, the problem and the cure
    render(config) -> str        what `relay check-config` prints; config/relay.toml is render(Config())
    reloadable_changes(old, new) what a SIGHUP may change; ConfigError names a key that needs a restart

The text below each field is its documentation: effect, unit, and what more of it costs. Must never live
here: environment variables, files other than the configuration itself, behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from relay import settings
from relay.config_feed import FeedConfig
from relay.config_issuer import IssuerConfig as IssuerConfig
from relay.config_nodes import NodesConfig
from relay.config_overload import OverloadConfig
from relay.config_qlog import QlogConfig
from relay.config_rules import RULES, check_issuers_reload
from relay.config_state import StateConfig
from relay.config_trunks import TrunksConfig
from relay.config_turn import StunConfig, TurnConfig
from relay.config_voice import AdaptConfig, QualityConfig
from relay.errors import ConfigError

Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Rate = Annotated[int, Meta(ge=1, le=10_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Millis = Annotated[int, Meta(ge=1, le=60_000)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$",
        description="1 to 32 of a-z 0-9 . _ -, first a letter or digit",
    ),
]
Word = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,15}$",
        description="1 to 16 of a-z 0-9 . _ -, first a letter or digit",
    ),
]

Age = Literal["unknown", "under_16", "16_17", "adult"]
Contact = Literal["stranger", "contact"]


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Which node this is."""

    id: Name = "relay-1"
    """Name of this node in `welcome`, records, events and metrics."""
    cluster: Name = "relay"
    """The audience (`aud`) a token must carry. All nodes that share issuers and tickets share this name."""
    region: Name = "local"
    """Region written into call records and shown as a metric label."""
    server_id: Annotated[int, Meta(ge=0, le=65_535)] = 1
    """Number of this node inside connection ids (QUIC-LB). Two nodes behind one balancer must differ."""


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where the daemon listens. Sockets handed over by systemd take precedence over these."""

    udp: tuple[str, ...] = ("[::]:443", "[::]:3478")
    """Addresses for QUIC, [v6]:port or v4:port. [::] takes IPv4 too."""
    web: tuple[str, ...] = ()
    """Addresses for WebSocket over TLS, for networks that block UDP: ["[::]:443"]. Empty: none."""
    web_origins: tuple[str, ...] = ()
    """Origins of web pages that may connect, as a browser spells them: "https://app.example". Clients that
    are no browsers send none and pass."""
    metrics: str = "127.0.0.1:9464"
    """Address of /metrics, /healthz, /readyz and /v1/nodes; "" switches them off. Not for the public side."""
    command_socket: str = "/run/relay/commands.sock"
    """Unix socket (mode 0600) for signed commands; "" switches it off."""
    handover_socket: str = ""
    """Unix socket (mode 0600) by which a daemon that is started beside this one takes over: both stand on the
    same addresses, people move without a gap, the first one leaves. Each address then has two UDP sockets for
    each lane, one is read. Also for `relay drain`. "": a second daemon cannot start."""
    receive_buffer: Annotated[int, Meta(ge=65_536, le=268_435_456)] = 8_388_608
    """Kernel receive buffer per UDP socket, bytes. 8 MiB hold about 20,000 packets over a restart; more costs
    memory, and brings older audio after a stall."""
    batch_ms: Annotated[float, Meta(ge=0, le=20)] = 1.0
    """While more than two packets are expected within this time, milliseconds, they are read together once
    per such time: a fifth less CPU at 20 calls for about that much latency. 0 reads each packet at once."""
    send_buffer: Annotated[int, Meta(ge=65_536, le=268_435_456)] = 8_388_608
    """Kernel send buffer per UDP socket, bytes."""
    lanes: Annotated[int, Meta(ge=1, le=16)] = 1
    """Threads of the native lane, each with a socket of its own per address (SO_REUSEPORT). One carries some
    thousands of calls; more are for boxes with many cores, and each costs buffers and wake-ups. Inherited
    sockets: as many as there are per address. From two on, a reload changes the number without loss."""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The certificate that QUIC shows. Both files are read again on SIGHUP; a bad pair keeps the old one."""

    certificate: str = "/etc/relay/tls/fullchain.pem"
    """PEM file, leaf first, then intermediates."""
    key: str = "/etc/relay/tls/privkey.pem"
    """PEM file of its private key, readable by the group relay-tls only."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """The secret that the nodes of a cluster share: tickets, connection ids, reset and address tokens."""

    key_file: str = "/run/credentials/relay.service/relay.key"
    """File with 32 bytes as one line of base64, mode 0600. Make one with `relay token keygen --cluster`. The
    default is where systemd's LoadCredential puts /etc/relay/relay.key."""
    previous_key_file: str = ""
    """The key before a rotation; what it sealed stays valid while this is set. "": none."""


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """Who may sign capability tokens and commands, and for how long."""

    issuers: tuple[IssuerConfig, ...] = ()
    """Issuers whose signatures count. Without one, nobody is admitted."""
    max_lifetime_s: Annotated[int, Meta(ge=10, le=3600)] = 300
    """Greatest exp - iat, seconds. Longer: a stolen token is useful for longer, the replay store grows."""
    skew_s: Annotated[int, Meta(ge=0, le=300)] = 30
    """Clock difference to an issuer that is forgiven, seconds."""
    replay_entries: Count = 200_000
    """Token ids remembered until they expire; when full, joins are refused (OVERLOADED). About 120 B each. As
    many for each issuer that is apart."""


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Ceilings. Each is a refusal with a name, counted; none is a crash."""

    legs: Count = 10_000
    """Legs on this node. About 40 KiB each under Python."""
    standby_legs: Annotated[int, Meta(ge=0, le=10_000_000)] = 5_000
    """Of these at most so many that stand by for calls of other nodes, so that the end of one of those costs
    this one a message a person and no handshake. They go first when the node is full. 0: none."""
    standby_s: Seconds = 14_400.0
    """How long one stands by; then its client may open another, seconds."""
    calls: Count = 5_000
    """Calls on this node."""
    participants: Annotated[int, Meta(ge=2, le=32)] = 32
    """Greatest size of a call; the token's own limit may be lower."""
    half_open: Count = 512
    """Handshakes in progress; above it first packets are dropped. Up to 86 KiB each."""
    retry_above_half_open: Annotated[int, Meta(ge=0, le=10_000_000)] = 64
    """From this many half-open handshakes on, a newcomer proves its address first (QUIC Retry): one
    more round trip."""
    retry_above_initials_per_s: Annotated[int, Meta(ge=0, le=10_000_000)] = 100
    """The same, by first packets per second. A handshake costs 1.5 ms of CPU, a Retry 20 us."""
    initials_per_source_per_s: Rate = 50
    """First packets per second from one source (an IPv4 address, an IPv6 /64). Lower hurts shared
    addresses."""
    initials_per_source_burst: Count = 200
    """How many first packets of one source may come at once."""
    resets_per_s: Rate = 50
    """Stateless resets sent per second (RFC 9000 section 10.3)."""
    negotiations_per_source_per_s: Rate = 10
    """Version negotiation answers per second to one source."""
    negotiations_per_s: Rate = 1_000
    """Version negotiation answers per second in all."""
    address_token_s: Seconds = 10.0
    """How long a Retry token proves an address, seconds."""
    handshake_s: Seconds = 5.0
    """Time to finish the handshake, of QUIC or of TLS and WebSocket together, seconds. Longer holds half-open
    state, for slow networks and for attackers."""
    tcp_connections: Count = 4_000
    """Connections on TCP in all. About 70 KiB each with TLS and a WebSocket."""
    tcp_per_source: Count = 256
    """The same from one source (an IPv4 address, an IPv6 /64). Lower hurts offices behind one proxy."""
    tcp_handshakes_per_s: Rate = 100
    """TLS handshakes begun per second; more are refused. One costs 1.2 ms of the loop's time."""
    hello_s: Seconds = 5.0
    """Time from handshake to an accepted hello, seconds."""
    idle_s: Seconds = 30.0
    """A transport silent for so long is gone, seconds (RFC 9000 section 10.1)."""
    control_per_s: Rate = 50
    """Control messages per second and leg; above it RATE_LIMITED."""
    control_burst: Count = 200
    """How many control messages of a leg may come at once."""
    ring_s: Seconds = 45.0
    """A call nobody accepts ends as missed after this, seconds."""
    ringing_legs: Annotated[int, Meta(ge=1, le=16)] = 4
    """Devices of one person that may ring at once."""
    consent_s: Seconds = 30.0
    """Authenticated silence that closes a participant's gates, seconds (RFC 7675 section 5.1)."""
    accept_outlives_s: Seconds = 60.0
    """How long a lost participant's accept counts for a rejoin, seconds."""
    ticket_ttl_s: Seconds = 90.0
    """Life of a resume ticket, seconds."""
    ticket_every_s: Seconds = 30.0
    """A fresh ticket goes to each leg this often, seconds; the first after half of it or more."""
    removed_memory_s: Seconds = 300.0
    """How long a removed or ended participant is remembered and refused, seconds."""
    flow_rest_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """A closed flow number is not used again for this long, seconds."""
    queue_frames: Annotated[int, Meta(ge=1, le=64)] = 5
    """Audio frames waiting per listener and flow; one more drops the oldest. 5 frames are 100 ms."""
    queue_ms: Millis = 100
    """Audio older than this is not sent, milliseconds. Higher turns loss into delay."""
    queue_tcp_frames: Annotated[int, Meta(ge=1, le=100)] = 10
    """As queue_frames for a listener on TCP, where a lost segment holds all behind it. 10 are 200 ms."""
    queue_tcp_ms: Millis = 200
    """As queue_ms for a listener on TCP."""
    max_up_kbps: Rate = 512
    """Greatest uplink a token may grant, kilobits per second; larger grants are cut to it."""
    max_down_kbps: Rate = 8_192
    """Greatest downlink a token may grant, kilobits per second."""
    max_pps: Rate = 500
    """Greatest uplink packet rate a token may grant, per second."""
    burst_ms: Millis = 200
    """How far a leg may run ahead of its uplink budget, milliseconds of it."""
    stranger_e2e_bytes: Count = 65_536
    """Opaque end-to-end bytes that a stranger may send at once."""
    stranger_e2e_bytes_per_s: Rate = 256
    """How fast that allowance comes back, bytes per second."""
    key_update_packets: Annotated[int, Meta(ge=64, le=8_388_608)] = 4_194_304
    """Packets under one QUIC key before it is changed (limit 2^23, RFC 9001 section 6.6)."""
    report_per_min: Rate = 6
    """Reports (a person reporting another) per minute and leg."""


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """What one age band may do with one kind of contact."""

    age: Age = "unknown"
    """unknown, under_16, 16_17 or adult, from the token."""
    contact: Contact = "stranger"
    """stranger or contact; the lower of a pair counts."""
    allow: bool = True
    """Whether such a person is admitted at all."""
    max_minutes: Annotated[int, Meta(ge=0, le=1_440)] = 60
    """The call ends after this many minutes; the shortest of its participants counts. 0 only where allow
    is false."""
    relay_only: bool = True
    """Whether addresses stay hidden from the other side."""
    attachments: bool = False
    """Whether end-to-end media attachments may pass."""


DEFAULT_POLICY: Final = (
    PolicyRow("unknown", "stranger", True, 60, True, False),
    PolicyRow("unknown", "contact", True, 720, False, True),
    PolicyRow("under_16", "stranger", False, 0, True, False),
    PolicyRow("under_16", "contact", False, 0, True, False),
    PolicyRow("16_17", "stranger", False, 0, True, False),
    PolicyRow("16_17", "contact", True, 240, True, True),
    PolicyRow("adult", "stranger", True, 60, True, False),
    PolicyRow("adult", "contact", True, 720, False, True),
)


@dataclass(frozen=True, slots=True)
class ClientLists:
    """Client names that are counted under their own label; every other one counts as "other"."""

    sdk: tuple[Word, ...] = ("py", "web", "ios", "android")
    """SDK names. Each is ten more metric series, and a class of clients that gates of rollouts ask alone."""
    app: tuple[Word, ...] = ("relay-cli", "relay-demo", "relay-canary")
    """Application names."""
    os: tuple[Word, ...] = ("linux", "macos", "windows", "ios", "android")
    """Operating systems."""
    dev: tuple[Word, ...] = ("phone", "tablet", "desktop", "server")
    """Device classes."""


@dataclass(frozen=True, slots=True)
class RecordsConfig:
    """Call records: who by pseudonym, when, how it ended, quality. Never content."""

    path: str = "/var/lib/relay/records.sqlite"
    """SQLite file; "" keeps no records."""
    retention_days: Annotated[float, Meta(gt=0, le=3_650)] = 30.0
    """Records older than this are erased, days. About 1 KiB a call."""
    queue: Count = 1_000
    """Finished calls waiting for the disk; more are dropped and counted. About 2 KiB each."""


@dataclass(frozen=True, slots=True)
class EventsConfig:
    """Call events as JSON lines, at least once, in order. The daemon never dials out of the machine."""

    sink: Literal["off", "file", "socket"] = "file"
    """file appends to `path`; socket connects to a Unix socket at `path` and waits for acknowledgements."""
    path: str = "/var/lib/relay/events.jsonl"
    """The file, or the Unix socket of the reader."""
    spool: str = "/var/lib/relay/events.spool"
    """File that holds what a socket's reader has not acknowledged, and the sequence across restarts."""
    max_bytes: Annotated[int, Meta(ge=65_536, le=17_179_869_184)] = 67_108_864
    """Size at which a file is turned over to `path`.1, and at which a spool takes no more (dropped, counted),
    bytes."""
    queue: Count = 10_000
    """Events waiting for the disk; more are dropped and counted. About 1 KiB each."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level written."""
    format: Literal["json", "text"] = "json"
    """json for journald and collectors, text for people."""
    per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 60
    """Lines per minute of one kind; the rest is counted and summed up in one line."""


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """When /readyz says 503."""

    lag_ms: Millis = 250
    """Event loop lag above this, milliseconds."""
    stats_s: Seconds = 5.0
    """Statistics older than this, seconds."""
    free_descriptors: Annotated[int, Meta(ge=1, le=1_000_000)] = 64
    """Fewer free file descriptors than this."""
    packets_per_s: Annotated[int, Meta(ge=0, le=100_000_000)] = 0
    """What this machine bears, packets in and out a second, for the saturation that the region's health
    counts with (`./scripts/bench lane` measures it). 0: not known; processor and event loop tell alone."""
    canary_file: str = "/run/relay-canary/canary.json"
    """What `relay canary --out` writes, read each half minute: 3 failures running make the region degraded at
    best, 10 bad; none of them makes nothing ok. While no such file was ever there, there is no canary. It
    judges this node: the canary's URLs lead here and nowhere else. "": none."""
    certificate_days: Annotated[float, Meta(ge=0, le=365)] = 3.0
    """The certificate ends sooner than this: a warning in /readyz; once it has ended: 503. Days."""


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """How the daemon leaves."""

    grace_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """After SIGTERM: no new calls, the running ones have this long before they are asked to move, seconds."""
    smear_s: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    """The requests to move are spread over this long, so that the next node is not hit at once, seconds."""
    deadline_s: Seconds = 300.0
    """Everything is closed after this, seconds. The unit's TimeoutStopSec must not be shorter."""
    close_s: Annotated[float, Meta(ge=0, le=60)] = 1.0
    """Time for the last close frames to leave, seconds."""
    to: tuple[str, ...] = ()
    """URLs of nodes that people are asked to move to (quic://host:port), where neither a node list nor the
    signed routes name one."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything. Defaults are valid: Config() is a daemon for tests, without issuers."""

    lane: Literal["auto", "native", "python"] = "auto"
    """Packet path: native, python, or auto, which takes native if it was built. native refuses to start
    without."""
    policy: tuple[PolicyRow, ...] = DEFAULT_POLICY
    """Age band x contact: one row for each pair, all eight."""
    node: NodeConfig = field(default_factory=NodeConfig)
    """Which node this is."""
    listen: ListenConfig = field(default_factory=ListenConfig)
    """Where it listens. Sockets handed over by systemd take precedence."""
    tls: TlsConfig = field(default_factory=TlsConfig)
    """Its certificate; read again on SIGHUP, a bad pair keeps the old one."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The secret shared by the nodes of a cluster."""
    tokens: TokenConfig = field(default_factory=TokenConfig)
    """Who may sign capability tokens and commands."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Ceilings. Each is a refusal with a name, counted."""
    clients: ClientLists = field(default_factory=ClientLists)
    """Client names counted under their own label; every other one is "other"."""
    records: RecordsConfig = field(default_factory=RecordsConfig)
    """Call records: pseudonyms, times, outcomes, quality. Never content."""
    events: EventsConfig = field(default_factory=EventsConfig)
    """Call events for the back end: JSON lines, at least once."""
    log: LogConfig = field(default_factory=LogConfig)
    """Standard error."""
    health: HealthConfig = field(default_factory=HealthConfig)
    """When /readyz says 503."""
    overload: OverloadConfig = field(default_factory=OverloadConfig)
    """What is given up when the node is full."""
    drain: DrainConfig = field(default_factory=DrainConfig)
    """How the daemon leaves after SIGTERM."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """How the quality of calls is estimated without hearing them."""
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    """When the way to a listener counts as lossy or congested, and what is done then."""
    stun: StunConfig = field(default_factory=StunConfig)
    """Address discovery for strangers."""
    turn: TurnConfig = field(default_factory=TurnConfig)
    """TURN for ICE stacks; off by default."""
    qlog: QlogConfig = field(default_factory=QlogConfig)
    """Traces of single calls, for those who look for what is wrong with one; off unless asked for."""
    feed: FeedConfig = field(default_factory=FeedConfig)
    """Events to other machines, by the program `relay feed`: the daemon does not read this section."""
    state: StateConfig = field(default_factory=StateConfig)
    """The state of rollouts. `relay feed` and the daemon read this section."""
    nodes: NodesConfig = field(default_factory=NodesConfig)
    """Which nodes the cluster has, and how they are."""
    trunks: TrunksConfig = field(default_factory=TrunksConfig)
    """Connections to other nodes; off by default."""


# A reload may change these sections and keys; what sizes a socket, a file or the lane needs a restart.
LIVE: Final = (
    "policy",
    "tls.",
    "cluster.",
    "tokens.",
    "limits.",
    "clients.",
    "records.retention_days",
    "log.",
    "health.",
    "drain.",
    "listen.lanes",
    "listen.web_origins",
    "quality.",
    "adapt.",
    "stun.",
    "turn.urls",
    "turn.alternate",
    "turn.allocations",
    "turn.permissions",
    "turn.channels",
    "turn.longest_s",
    "turn.credential_s",
    "turn.streams",
    "turn.streams_per_source",
    "turn.kbps",
    "turn.pps",
    "turn.secret_file",
    "turn.previous_secret_file",
    "qlog.",
    "feed.",
    "state.",
    "nodes.",
)
FROZEN: Final = (
    "limits.queue_frames",
    "limits.queue_ms",
    "limits.queue_tcp_frames",
    "limits.queue_tcp_ms",
    "limits.participants",
    "log.format",
    "state.variant",
)


def load(path: str | Path, assignments: Sequence[str] = ()) -> Config:
    """Read a TOML file; `assignments` ("section.key=value") go on top. ConfigError on anything wrong."""
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(
            source, f"cannot be read: {why}", "name a TOML file, see config/relay.toml"
        ) from None
    return parse(text, assignments, source=source)


def parse(text: str, assignments: Sequence[str] = (), *, source: str = "configuration") -> Config:
    """Make a Config of TOML text. ConfigError names the key, the problem and the cure."""
    raw = settings.parse_toml(text, source)
    for assignment in assignments:
        settings.assign(raw, assignment)
    config = settings.build(Config, raw)
    check(config)
    return config


def check(config: Config) -> None:
    """Rules that span several keys. Also for trees made in code."""
    for rule in RULES:
        rule(config)


def render(config: Config) -> str:
    """The tree as a TOML file with every value and its explanation."""
    return settings.render(config)


def reloadable_changes(old: Config, new: Config) -> list[str]:
    """Dotted keys that differ. ConfigError for the first that cannot change while calls are running."""
    changed = settings.changed_keys(old, new)
    for key in changed:
        if not key.startswith(LIVE) or key in FROZEN:
            raise ConfigError(key, "cannot change while running", "restart the daemon")
    check_issuers_reload(old, new)
    if "listen.lanes" in changed and 1 in (old.listen.lanes, new.listen.lanes):
        # One socket was bound for itself: a second one cannot share its address.
        why = "cannot change between one and several while running"
        raise ConfigError("listen.lanes", why, "restart the daemon")
    return changed
