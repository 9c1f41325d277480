"""The engine's vocabulary: inputs are facts in the past tense, outputs are orders for the edge.

    edge --Input, now, wall--> Relay.handle()          Relay.poll() --Output--> edge

Rule: after every input, drain the outputs, before the next input. `leg` numbers are chosen by the edge
and never used twice in a process; `flow` numbers are hop-local, 1-62. A connection to another node is a leg,
too: its flows are routes, 64-16383. Must never live here: behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay.config import Config
from relay.core.adapt import Mode
from relay.core.reasons import DropReason
from relay.errors import ErrorCode
from relay.protocol.address import Address
from relay.protocol.datagram import Nack
from relay.protocol.ids import CallId, Kid
from relay.protocol.trunk_control import TrunkCode
from relay.region.nodelist import NodeList
from relay.rollout.mandate import Mandate


@dataclass(frozen=True, slots=True)
class EngineKeys:
    """Keys the engine needs: issuers' public keys by key id, and the tickets' 32-byte keys, newest first."""

    issuers: Mapping[Kid, bytes]
    ticket_keys: Sequence[bytes] = field(repr=False)
    turn_secrets: Sequence[bytes] = field(default=(), repr=False)
    """What TURN passwords are made of, newest first; none: no TURN."""


# ---------------------------------------------------------------- inputs


@dataclass(frozen=True, slots=True)
class LegOpened:
    """A transport finished its handshake. `transport` is quic, wt, ws or tls."""

    leg: int
    transport: str
    address: Address
    datagrams: bool  # the peer takes DATAGRAM frames (RFC 9221 section 3)


@dataclass(frozen=True, slots=True)
class StreamReceived:
    """Bytes of the leg's control stream, in order, cut anywhere."""

    leg: int
    data: bytes
    end: bool = False


@dataclass(frozen=True, slots=True)
class DatagramReceived:
    """A control datagram (first byte 00). Media datagrams never reach the engine."""

    leg: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LegLost:
    """The transport is gone: closed by the peer, idle, or failed. `code` is the close code seen."""

    leg: int
    code: int


@dataclass(frozen=True, slots=True)
class AddressMoved:
    """The leg's validated peer address changed (RFC 9000 section 9)."""

    leg: int
    address: Address


@dataclass(frozen=True, slots=True)
class Heard:
    """When each leg was last heard (authenticated packets only), monotonic seconds; once a second."""

    at: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class FlowCounters:
    """What the lane counted for one uplink flow, in media datagrams; quality where a report said it."""

    received: int = 0
    accepted: int = 0
    copies: int = 0
    lost: int = 0
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    mended: int = 0  # of the accepted: they came as repeats, since the originals were lost
    first: float | None = None
    """When the first one was copied to a listener, monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Flowing:
    """What went on to listeners so far, of uplink flows (leg, flow) that the engine asked about.

    When the first datagram did, monotonic seconds, and how many did. Flows of which none did are left out.
    """

    of: Mapping[tuple[int, int], tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Seated:
    """A leg in a call, and whose it is."""

    leg: int
    index: int
    transport: str
    up: int | None  # its uplink flow


class Measure(NamedTuple):
    """What the lane knows of the way to one listener. Figures count up since the leg began, unless told."""

    leg: int
    acked: int  # packets with datagrams
    lost: int
    runs: int  # of lost ones in a row
    bytes_sent: int
    bytes_acked: int
    ack_delay: float  # of now: what the listener takes to acknowledge, s; 95 of 100 take no longer
    age: float  # of now: s since the oldest copy came that waits here; 0: none
    rtt: tuple[float, float, float, float] | None  # of now: latest, smoothed, variance, least, s
    came: int  # copies kept for repair that came
    late: int  # and that were not known to have come in time
    repeats: int
    repeat_bytes: int
    mended: int  # packets of its open flows that came as repeats alone: the way up loses, too


class RouteCount(NamedTuple):
    """What came on one route of a trunk since it was counted last; counts up to 65535."""

    route: int
    newest: int  # CTR
    came: int
    missing: int  # not there when counted twice, or 128 behind the newest
    late: int  # were told as missing, and came


@dataclass(frozen=True, slots=True)
class Measured:
    """The ways to listeners with whom something went wrong, or to look at again: five times a second."""

    ways: Sequence[Measure]


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Answer to AskRoundTrip, within a moment: smoothed round trips by leg, seconds."""

    of: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Gap:
    """A packet of a watched uplink flow came. Bit i of `missing`, of 16: newest - 1 - i has not."""

    leg: int
    flow: int
    kid: int
    newest: int
    missing: int


@dataclass(frozen=True, slots=True)
class FlowClosed:
    """Answer to CloseFlow: the lane let go of the uplink flow."""

    leg: int
    flow: int
    counters: FlowCounters


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """A signed command from the Unix socket, or to all of the fleet; `ref` returns in CommandDone."""

    ref: int
    raw: bytes
    is_fleet: bool = False
    """Then it holds for who comes later, too."""


@dataclass(frozen=True, slots=True)
class Pressed:
    """How full the node is, 1 is full (relay/ops/pressure.py); once a second."""

    pressure: float


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """A reload: only fields that may change live differ. `keys` None: the keys stay as they are."""

    config: Config
    keys: EngineKeys | None = None


@dataclass(frozen=True, slots=True)
class MandateChanged:
    """The state of rollouts is another one, or counts no longer; or a kill came, or went."""

    mandate: Mandate


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """SIGTERM or an operator's drain. A second one skips a state."""


@dataclass(frozen=True, slots=True)
class Directed:
    """What the cluster says of calls here: where they may go, and whether they shall."""

    nodes: NodeList | None
    """None: nobody says where; then `drain.to` counts."""
    distances: Mapping[str, float]
    """To each region, as `Directory.target` takes round trips."""
    is_left: bool
    """The signed routes mark this node, or its region, `drain`."""
    within: frozenset[str] | None = None
    """Regions that calls of this one may be in, by the operator's rules; None: in all."""


@dataclass(frozen=True, slots=True)
class CallTold:
    """The node's other generation told of a call, by a ticket of nobody (relay.protocol.handover)."""

    ticket: bytes


@dataclass(frozen=True, slots=True)
class CallsRemembered:
    """Calls of the process before (`Remember`), which lived until then, monotonic seconds.

    `legs`: those that the lane carries on, and when each was heard last. Who of them is in none of these
    calls is closed.
    """

    calls: Mapping[CallId, bytes] = field(repr=False)
    legs: Mapping[int, float]
    until: float


@dataclass(frozen=True, slots=True)
class TrunkDialed:
    """We dial another node, as DialTrunk asked: the connection's number."""

    node: str
    leg: int
    second: bool = False


@dataclass(frozen=True, slots=True)
class TrunkOpened:
    """The handshake of a connection to another node is done, by ALPN `vrl-t/1`."""

    leg: int
    key: bytes | None
    """Public key of the other one's certificate, 32 bytes, if Ed25519; who dials us shows none."""
    largest: int
    """Datagram that the peer takes, bytes."""


@dataclass(frozen=True, slots=True)
class TrunkAcknowledged:
    """Something that left on these trunks was acknowledged since the last time; ten times a second.

    Smoothed round trips by leg, seconds.
    """

    of: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class TrunkCounted:
    """How a trunk is, once a second: packets with datagrams acknowledged and lost since it began.

    And what came by it on routes since the last time, of many in several of these.
    """

    leg: int
    acked: int
    lost: int
    routes: Sequence[RouteCount]


@dataclass(frozen=True, slots=True)
class TrunksKnown:
    """We follow another process of this node, which has trunks to these nodes: they are to know us, too."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time: a deadline passed."""


Input = (
    LegOpened
    | StreamReceived
    | DatagramReceived
    | LegLost
    | AddressMoved
    | Heard
    | Measured
    | RoundTrips
    | Gap
    | Flowing
    | FlowClosed
    | CommandReceived
    | Pressed
    | ConfigChanged
    | MandateChanged
    | DrainRequested
    | Directed
    | CallTold
    | CallsRemembered
    | TrunkDialed
    | TrunkOpened
    | TrunkAcknowledged
    | TrunkCounted
    | TrunksKnown
    | Tick
)

# ---------------------------------------------------------------- outputs


@dataclass(frozen=True, slots=True)
class SendStream:
    """Write to the leg's control stream (already framed)."""

    leg: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send a control datagram on the leg."""

    leg: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep this of a call where no crash takes it along, before anything else is done; empty: nothing."""

    call: CallId
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CloseLeg:
    """Close the transport with an application code once everything sent before has been written."""

    leg: int
    code: ErrorCode | TrunkCode
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetBudget:
    """The leg is admitted: what its token allows, from now on. Bits per second and packets per second."""

    leg: int
    up_bps: int
    down_bps: int
    pps: int


@dataclass(frozen=True, slots=True)
class OpenFlow:
    """An uplink flow exists on the leg; nobody hears it until a Route says so."""

    leg: int
    flow: int
    index: int  # participant index 0-31; the SFrame KID must carry it
    group: bool  # KID layout: index<<3 in groups, index<<2 in 1:1
    watched: bool = False  # say when packets of it are missing


@dataclass(frozen=True, slots=True)
class Route:
    """Who hears the uplink flow from now on: (leg, flow) of each listener. Empty: closed, for that reason."""

    leg: int
    flow: int
    targets: tuple[tuple[int, int], ...]
    closed: DropReason | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """How copies that a listener missed go again; the rule is relay/protocol/repair.py. Times in seconds."""

    mode: Mode = Mode.OFF
    budget: float = 0.0
    """Repeats that each copy earns, 0-1."""
    depth: float = 0.0
    """Repeats saved up at most."""
    distances: tuple[int, ...] = ()
    """Of COPIES, in packets, oldest first."""
    max_age: float = 0.0
    """What came longer ago is not repeated."""
    ack_slack: float = 0.025
    """How long the listener may hold an acknowledgement."""

    @property
    def is_none(self) -> bool:
        """Nothing is repeated, and nothing will be."""
        return self.mode is Mode.OFF and self.max_age <= 0


@dataclass(frozen=True, slots=True)
class SetRepair:
    """From now on copies that the leg missed go again like this."""

    leg: int
    repair: Repair


@dataclass(frozen=True, slots=True)
class Shape:
    """What a listener's way bears of what it hears."""

    hold: float = 0.0
    """Seconds for which a copy waits for others that may share its packet; 0: none does."""
    frames: int = 1
    """Copies of each flow that wait for each other, so long as `hold` lasts."""
    redundancy: bool = True
    """Whether what is redundancy alone (drop class 2) goes on."""


@dataclass(frozen=True, slots=True)
class SetShedding:
    """From now on media of these drop classes goes to nobody; none: all goes on."""

    classes: frozenset[int]


@dataclass(frozen=True, slots=True)
class SetShape:
    """From now on the leg hears like this."""

    leg: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class Resend:
    """The listener on this leg asks for copies again; those that are kept may leave."""

    leg: int
    nack: Nack


@dataclass(frozen=True, slots=True)
class AskRoundTrip:
    """How long does a packet take to this leg and back? No answer comes for a leg without packets."""

    leg: int


@dataclass(frozen=True, slots=True)
class DialTrunk:
    """Connect to this node; the edge knows its address.

    The edge answers with TrunkDialed before any other input, or, where it cannot, does nothing.
    """

    node: str
    second: bool = False
    """By the second of the addresses that are configured."""


@dataclass(frozen=True, slots=True)
class CarryTrunk:
    """The connection is a trunk from now on: its datagrams are those of docs/protocol.md, section 14.

    Nobody's rights bound it as a whole. LegLost of the connection by which a trunk began ends that one's
    routes only with the last of those that joined it.
    """

    leg: int
    of: int | None = None
    """It is one more connection of this trunk; None: one begins."""
    second: bool = False
    """By which of two paths it goes."""


@dataclass(frozen=True, slots=True)
class OpenRoute:
    """What comes on this route (64-16383) of a trunk is a voice; nobody hears it until a Route says so."""

    leg: int
    route: int
    index: int
    group: bool
    up_bps: int
    """What the speaker may send, bits per second; with `pps`, packets per second."""
    pps: int


@dataclass(frozen=True, slots=True)
class CloseFlow:
    """The uplink flow ends; the edge answers with FlowClosed before any other input."""

    leg: int
    flow: int


@dataclass(frozen=True, slots=True)
class CallEvent:
    """News for the product's back end: one JSON line. `data` holds JSON values only; ids as hex text."""

    kind: str
    wall: float
    data: Mapping[str, Any]
    is_canary: bool = False
    """About a call that nobody talks in: the back end knows nothing of it."""
    issuer: str = ""
    """Whose news it is, by the name in the configuration; "": the node's own, or of one that is gone."""


@dataclass(frozen=True, slots=True)
class ParticipantRecord:
    """One person's part in a finished call. `sub` is the token's per-call pseudonym, hex."""

    sub: str
    index: int
    joined_at: float  # wall clock, seconds
    left_at: float
    accepted: bool
    why: str
    client: Mapping[str, str]
    received: int
    accepted_packets: int
    copies: int
    lost: int
    dropped: Mapping[str, int]
    quality: Mapping[str, float]
    transport: str = ""
    """What carried it last."""
    story: Sequence[Sequence[Any]] = ()
    """What happened, in order: seconds since the call began, kind, detail (relay/core/story.py)."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One finished call, written once."""

    call: str  # call id, hex
    started_at: float
    answered_at: float | None
    ended_at: float
    outcome: str
    reason: str
    region: str
    participants: tuple[ParticipantRecord, ...]
    canary: bool = False
    """Nobody talked in it."""
    issuer: str = ""
    """Name of the issuer whose call it was."""
    rollout: str = ""
    """The id of the rollout that it was part of; "": none."""
    variant: str = ""
    """control or candidate; "" without a rollout."""
    sampled: bool = False
    """Whether chance alone decided that, and this node is of that variant: it counts for the gate."""


@dataclass(frozen=True, slots=True)
class Rated:
    """Stars, 1 to 5, that a person gave a call whose record was written; ids as hex text."""

    call: str
    sub: str
    stars: int


@dataclass(frozen=True, slots=True)
class CommandDone:
    """Answer for a CommandReceived; `code` NO_ERROR when it took effect."""

    ref: int
    code: ErrorCode
    message: str = ""


@dataclass(frozen=True, slots=True)
class CompanyChanged:
    """Who may reach whom in a call whose people use TURN changed: for the TURN engine, before other input."""

    call: CallId


@dataclass(frozen=True, slots=True)
class Stopped:
    """The drain is complete: the daemon may exit."""


Output = (
    SendStream
    | Remember
    | SendDatagram
    | CloseLeg
    | SetBudget
    | OpenFlow
    | Route
    | SetRepair
    | SetShape
    | SetShedding
    | Resend
    | AskRoundTrip
    | CloseFlow
    | DialTrunk
    | CarryTrunk
    | OpenRoute
    | CallEvent
    | CallRecord
    | Rated
    | CommandDone
    | CompanyChanged
    | Stopped
)
