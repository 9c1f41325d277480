"""The lane: the packet path behind one interface, with a native and a plain implementation.

A lane gets every UDP packet. It opens those that hold only audio and acknowledgements, moves the audio from
leg to leg by its routes and seals it again, and asks nobody; all else waits for the loop (`take`). The engine
says what may pass (`Route`), aioquic lends the keys (`open_path`), the lane obeys and counts. Must never live
here: who may hear whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from aioquic.quic.connection import NetworkAddress

from relay.config import Config, LimitsConfig
from relay.core.events import FlowCounters, Measure, Repair, RouteCount, Shape
from relay.core.reasons import DropReason
from relay.core.spread import Spread
from relay.errors import ConfigError
from relay.protocol.datagram import Nack
from relay.quic.space import PathState


@dataclass(slots=True)
class LaneCounters:
    """Media datagrams, conserved at any moment.

    media_in = accepted + sum(dropped); copies = sent + sum(dropped_out) + queued
    """

    media_in: int = 0
    accepted: int = 0
    copies: int = 0
    sent: int = 0
    queued: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    dropped_out: Counter[DropReason] = field(default_factory=Counter)

    def copy(self) -> LaneCounters:
        """The counters of this moment."""
        return replace(self, dropped=Counter(self.dropped), dropped_out=Counter(self.dropped_out))

    def missing(self) -> tuple[int, int]:
        """Datagrams and copies that neither equation accounts for."""
        inward = self.media_in - self.accepted - sum(self.dropped.values())
        outward = self.copies - self.sent - self.queued - sum(self.dropped_out.values())
        return inward, outward

    def imbalance(self) -> int:
        """How far the two conservation equations are from holding; 0 unless there is a bug."""
        inward, outward = self.missing()
        return abs(inward) + abs(outward)


@dataclass(slots=True)
class RepairCounters:
    """Copies kept to be repeated, and repeats that left. Not a part of `LaneCounters`: a repeat is no copy.

    kept = acked + late + ended + holding
    """

    kept: int = 0
    acked: int = 0  # it came, by itself or as a repeat
    late: int = 0  # not acknowledged while it could be played
    ended: int = 0  # gate closed, leg gone, repair switched off, or no room
    holding: int = 0
    beside: int = 0  # repeats in a packet that left anyway
    distant: int = 0  # the same, at a fixed distance
    alone: int = 0  # repeats in a pause
    asked: int = 0  # repeats that the listener named
    bytes: int = 0  # of all four, datagrams
    refused: int = 0  # repeats that the listener's rights do not allow

    def copy(self) -> RepairCounters:
        """The counters of this moment."""
        return replace(self)

    def imbalance(self) -> int:
        """How far the equation is from holding; 0 unless there is a bug."""
        return abs(self.kept - self.acked - self.late - self.ended - self.holding)


@dataclass(slots=True)
class RelayWay:
    """Packets of one direction through relayed addresses: taken = passed + sum(dropped) + waiting."""

    taken: int = 0
    passed: int = 0  # given to a socket, or to the loop for a stream
    bytes: int = 0  # of the payloads that passed
    waiting: int = 0  # for a stream
    dropped: Counter[DropReason] = field(default_factory=Counter)

    def imbalance(self) -> int:
        """How far the equation is from holding; 0 unless there is a bug."""
        return abs(self.taken - self.passed - self.waiting - sum(self.dropped.values()))


@dataclass(slots=True)
class RelayCounters:
    """What went through relayed addresses: up from clients to peers, down from peers to clients.

    A packet between two allocations of one node counts in both: up in the one, down in the other.
    """

    up: RelayWay = field(default_factory=RelayWay)
    down: RelayWay = field(default_factory=RelayWay)

    def copy(self) -> RelayCounters:
        """The counters of this moment."""
        up, down = (replace(way, dropped=Counter(way.dropped)) for way in (self.up, self.down))
        return RelayCounters(up, down)

    def imbalance(self) -> int:
        """How far the equations of both directions are from holding; 0 unless there is a bug."""
        return self.up.imbalance() + self.down.imbalance()


@dataclass(frozen=True, slots=True)
class PacketCounts:
    """UDP packets as the lane counts them.

    received = media + relayed + sum(dropped) + answered + waiting + taken
    """

    received: int
    sent: int
    send_errors: int
    media: int  # settled in the packet path
    waiting: int  # for `take`
    taken: int  # handed over by `take`
    answered: Mapping[str, int]  # by the lane's own front, by kind
    dropped: Mapping[DropReason, int]
    turns: int = 0  # of the lane's threads: how many packets share one shows how well batches form
    strays: int = 0  # packets that came by another lane than those before of their leg
    notes_lost: int = 0  # control datagrams beyond their leg's share; their packets are settled
    threads: int = 0  # of the lane's own that run now
    panics: int = 0  # that the native lane survived: bugs of ours
    panicked_at: str = ""  # the last of them: file and line
    relayed: int = 0  # of TURN's data path, whatever it made of them: `Lane.relays` has that
    read_errors: int = 0  # reads that the kernel refused the lane's threads

    def imbalance(self) -> int:
        """How far the equation is from holding; 0 unless there is a bug."""
        settled = self.media + self.relayed + self.waiting + self.taken
        return abs(self.received - settled - sum(self.answered.values()) - sum(self.dropped.values()))


MAX_UDP = 2048  # no packet of ours or a client's is longer


class Known(NamedTuple):
    """A packet of a known connection that aioquic must see."""

    leg: int
    data: bytes
    address: NetworkAddress
    sock: int


class Unknown(NamedTuple):
    """A packet that no connection owns."""

    data: bytes
    address: NetworkAddress
    sock: int


class Admitted(NamedTuple):
    """A first packet that the lane's own front admits; the ids as in `front.Admit`."""

    data: bytes
    address: NetworkAddress
    sock: int
    original_destination: bytes
    retry_source: bytes | None


class ControlDatagram(NamedTuple):
    """A datagram for the engine."""

    leg: int
    payload: bytes


class AckShown(NamedTuple):
    """An acknowledgement of a connection whose QUIC stack has packets out. Ranges newest first, half-open."""

    leg: int
    ranges: Sequence[tuple[int, int]]
    delay: int
    at: float


class RekeyWanted(NamedTuple):
    """So many packets were sealed under one key that it must change (RFC 9001 section 6.6)."""

    leg: int


class Waiting(NamedTuple):
    """Copies wait for a leg without a packet path; told once, until `drain` finds none."""

    leg: int


class Gap(NamedTuple):
    """A packet of a watched flow came. Bit i of `missing`, of 16: newest - 1 - i has not."""

    leg: int
    flow: int
    kid: int
    newest: int
    missing: int


class Broken(NamedTuple):
    """Something raised that never should, over a packet of this leg."""

    leg: int


class Stun(NamedTuple):
    """A STUN packet that is no client's payload: a request to TURN, for most."""

    data: bytes
    address: NetworkAddress
    sock: int


class ToClient(NamedTuple):
    """Messages for the stream of an allocation's client, one behind the other."""

    allocation: int
    data: bytes


Item = (
    Known
    | Unknown
    | Admitted
    | ControlDatagram
    | Gap
    | AckShown
    | RekeyWanted
    | Waiting
    | Broken
    | Stun
    | ToClient
)
Packet = tuple[int, bytes, NetworkAddress]  # number of the socket, bytes, destination


@dataclass(frozen=True, slots=True)
class FrontKeys:
    """What a front proves and recognises with: keys of address tokens, newest first, of ids and of resets."""

    retry: Sequence[bytes] = field(repr=False)
    cid: bytes = field(repr=False)
    reset: bytes = field(repr=False)
    server_id: bytes


class Lane(Protocol):
    """What the driver and the QUIC edge need of a packet path."""

    name: str

    @property
    def counters(self) -> LaneCounters:
        """Media datagrams, as of now."""

    # ---- routes

    def open_leg(self, leg: int, *, pps: int, up_bps: int, down_bps: int) -> None:
        """Admit a leg with its token's budgets: packets/s and bits/s up, bits/s down. Nothing for a trunk."""

    def close_leg(self, leg: int) -> None:
        """Forget a leg; copies that wait for it are dropped as peer_gone, its flows end."""

    def open_flow(self, leg: int, flow: int, *, index: int, group: bool, watched: bool = False) -> None:
        """Accept an uplink flow of participant `index`; nobody hears it until `route`.

        Of a `watched` one `take` tells what is missing, with each packet that comes meanwhile.
        """

    def open_trunk(self, leg: int, *, second: bool = False) -> None:
        """The leg, which has a path, is a trunk until `close_leg`: its flows are routes.

        It has no rights of its own, nothing goes again, and `troubled` never names it. A packet that is not
        full waits for 1 ms, copies for room in one line: 5 of a route, 60 ms, 2 MiB in all. `second`: by
        which of two paths it goes. LocalError: there is no such connection, or it is open as a leg.
        """

    def join_trunk(self, leg: int, trunk: int, *, second: bool) -> None:
        """The leg, which has a path, is one more connection of a trunk until `close_leg`.

        What leaves on the trunk's routes leaves by each of its connections, and counts as so many copies; of
        what comes the first copy is heard, the other is `second_copy`. The speaker's budgets hold for each
        path. The trunk outlives its own connection's path until `close_leg`, and carries by those that
        joined; of one path (`second` or not) the newest does. LocalError: there is no such connection, it is
        open already, or there is no such trunk.
        """

    def open_route(self, leg: int, route: int, *, index: int, group: bool, pps: int, up_bps: int) -> None:
        """Accept what comes on a route of a trunk from participant `index`; nobody hears it until `route`.

        Numbers are 64 to 16383; one in use ends. Within the speaker's budgets, packets/s and bits/s.
        LocalError: the leg is no trunk, or the number none of a route.
        """

    def close_flow(self, leg: int, flow: int) -> FlowCounters:
        """Forget an uplink flow, or a route of a trunk, and return what was counted for it.

        Its copies that wait are gate_closed.
        """

    def flowing(self, flows: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[float, int]]:
        """Of these uplink flows (leg, flow) those that somebody heard: since when, and how many datagrams."""

    def count_routes(self, leg: int, first: int, most: int) -> list[RouteCount]:
        """What came on routes of a trunk since they were counted last: at most `most` lines, by number.

        Of routes from `first` on those that have something to tell; the next begin behind the last line.
        """

    @property
    def residence(self) -> Spread:
        """How long copies that left were here, seconds, as of now."""

    def route(
        self, leg: int, flow: int, targets: Sequence[tuple[int, int]], closed: DropReason | None
    ) -> None:
        """Copy the flow to `targets` (leg, flow) from now on; empty means drop, by the name in `closed`.

        A target of a trunk is (trunk, route that the other node gave). Copies that wait for a target which is
        no longer named are dropped by that name too. LocalError when a target is not open, or the flow, or
        when both are of trunks, since a voice passes two relays at most; nobody hears the flow then.
        """

    def deliver(self, leg: int, payload: bytes, now: float) -> DropReason | None:
        """One media datagram that came through aioquic or by a stream; copies wait for `flush` or `drain`.

        None: accepted.
        """

    def drain(self, leg: int, now: float, room: int) -> list[bytes]:
        """Copies for a leg that are worth sending, until `room` bytes (positive) are used.

        They count as sent. Of legs of `open_stream`: none, when nothing waits, and the next copy makes a new
        `Waiting`. Of connections: those whose path is confirmed but not active, since the peer moved and its
        new address is not proven yet.
        """

    # ---- connections

    def use_marks(self, fd: int, count: int) -> None:
        """So many places at the beginning of this file are for the paths' `keep` (`edge/marks.py`).

        To be said before the first `open_path`. OSError: no file that can be mapped, or too short.
        """

    def open_path(self, leg: int) -> PathState:
        """A connection begins: its packet-number space, until `close_path`."""

    def open_stream(self, leg: int) -> None:
        """A leg without packets begins, on TCP: its copies wait for `drain`. Until `close_path`."""

    def close_path(self, leg: int) -> None:
        """The connection or stream is over; its ids are forgotten too."""

    def own(self, leg: int, cid: bytes) -> None:
        """Packets to this id are the leg's."""

    def disown(self, cid: bytes) -> None:
        """They no longer are."""

    # ---- repair

    @property
    def repairs(self) -> RepairCounters:
        """What was kept and repeated for all listeners, as of now."""

    def tell_repair(self, leg: int, repair: Repair) -> None:
        """From now on copies that this listener missed go again like this; at first none do.

        Nothing happens for a leg without a packet path. After `Repair()` it is as if it was never told.
        """

    def shape(self, leg: int, shape: Shape) -> None:
        """From now on the leg hears like this, until `close_leg`; nothing for a leg that is not open.

        Copies for a leg without a packet path never wait for each other.
        """

    def shed(self, classes: Collection[int]) -> None:
        """From now on copies of these drop classes go to nobody: the node is full."""

    def resend(self, leg: int, ask: Nack, now: float) -> int:
        """The listener names copies that it misses: those of them that are kept leave with the next `flush`.

        How many: each leaves so twice at most, one of five copies, and as many as one packet holds.
        """

    def troubled(self) -> list[int]:
        """Legs to measure, since something went wrong on their ways; each once until it was measured.

        A packet was lost, round trips became longer, or nothing is acknowledged. What a leg does not suffer
        costs nobody a look. Trunks are not named: nobody adapts the way to another node.
        """

    def measure(self, legs: Sequence[int], now: float) -> list[Measure]:
        """What is known of the ways to these listeners, in this order, without those that have no path."""

    # ---- allocations of TURN

    @property
    def relays(self) -> RelayCounters:
        """What went through all relayed addresses, as of now."""

    def open_relay(
        self,
        allocation: int,
        client: NetworkAddress,
        sock: int,
        *,
        relayed: NetworkAddress,
        fd: int,
        pps: int,
        bps: int,
    ) -> None:
        """A client on UDP has a relayed address. Nothing passes until `permit`.

        What comes from `client` to socket `sock` is the allocation's. `relayed`: the address as peers see it.
        `fd`: its socket, of which the native lane keeps a duplicate that its threads read and write (-1:
        none); the plain lane is fed by `receive_relay` and emptied by `flush_relays`. `pps`, `bps`: packets
        and bits of payload per second, each way. LocalError: number, client or relayed address are another's.
        """

    def open_relay_stream(
        self, allocation: int, *, relayed: NetworkAddress, fd: int, pps: int, bps: int
    ) -> None:
        """As `open_relay`, for a client on TCP or TLS.

        Its messages come by `relay_from_client`, those for it leave by `take`.
        """

    def close_relay(self, allocation: int) -> RelayCounters:
        """Forget an allocation and return what was counted for it; what waits for its stream is peer_gone."""

    def permit(self, allocation: int, ip: bytes, until: float) -> None:
        """Packets to and from this address (4 or 16 bytes) pass until then (seconds, monotonic).

        LocalError: no such allocation.
        """

    def forbid(self, allocation: int, ip: bytes) -> None:
        """They no longer pass, nor by channels, which end."""

    def bind_channel(self, allocation: int, channel: int, peer: NetworkAddress, until: float) -> None:
        """The number stands for this peer until then. The peer also needs a permission, to be heard.

        LocalError: no such allocation.
        """

    def unbind_channel(self, allocation: int, channel: int) -> None:
        """The number stands for nobody."""

    def relay_from_client(self, allocation: int, frame: bytes, now: float) -> DropReason | None:
        """One ChannelData or Send indication, whole, that came by a stream; None: it passed.

        What it makes ready leaves with `flush` and `flush_relays`.
        """

    def receive_relay(self, allocation: int, data: bytes, address: NetworkAddress, now: float) -> None:
        """One UDP packet that came by a relayed address which no thread of the lane reads."""

    def flush_relays(self) -> list[tuple[int, bytes, NetworkAddress]]:
        """What is to leave by relayed addresses that the lane has no socket of: allocation, bytes, peer."""

    def unsent_to_peer(self) -> None:
        """The kernel did not take a packet of `flush_relays`."""

    # ---- packets

    def packets(self) -> PacketCounts:
        """What was received and sent so far."""

    def receive(self, data: bytes, address: NetworkAddress, sock: int, now: float) -> None:
        """One UDP packet from the network."""

    def flush(self, now: float) -> list[Packet]:
        """What is to be sent now: audio that waits, then what is due of acknowledgements and repeats."""

    def unsent(self, packet: Packet) -> None:
        """The kernel did not take this packet of the last `flush`: its copies count as send_error."""

    def next_ack(self) -> float | None:
        """When `flush` may have an acknowledgement or a repeat to send that no audio took along."""

    def take(self, most: int) -> list[Item]:
        """Up to `most` things for the loop: waiting copies, then known connections, then all others."""

    def use_front(self, keys: FrontKeys, limits: LimitsConfig) -> None:
        """Judge packets of nobody as `relay.edge.front` does; the plain lane leaves them to that."""

    def limit_front(self, limits: LimitsConfig) -> None:
        """Other limits for a front of the lane's own."""

    def tell_front(self, *, accepting: bool, half_open: int, is_full: bool, stun: bool) -> None:
        """What a front of the lane's own must know to judge newcomers; the plain lane has none.

        `stun`: in either lane, STUN packets of strangers are for the loop; without it they are malformed.
        """


CURE = 'install with cargo present, or use "auto" or "python"'


def choose(config: Config) -> Lane:
    """The lane that `config.lane` asks for (auto, native, python). ConfigError when it is not to be had."""
    from relay.edge.lane_py import PyLane  # the twin implements what this module defines

    if config.lane != "python":
        try:
            from relay.edge.lane_native import NativeLane
        except ImportError as error:
            if config.lane == "native":
                raise ConfigError("lane", f"no native lane in this build: {error}", CURE) from None
        else:
            return NativeLane(config.limits, config.listen.batch_ms / 1000)
    return PyLane(config.limits)
