"""The native lane, written in Rust (relay/lane): one node's packet path, behind the interpreter's back.

`relay.edge.lane_native` turns its values into the edge's types; `relay.edge.path` and `relay.edge.lane_py`
are the same in plain Python and the oracle for all of it. Counts are since the start; times are seconds of
the monotonic clock; addresses are those of `socket`: (host, port) or (host, port, flow info, scope id).
"""

from collections.abc import Sequence
from typing import Literal, TypedDict, final

__all__ = ["Front", "Lane", "Path", "Relays"]

_Address = tuple[str, int] | tuple[str, int, int, int]
_Ranges = Sequence[tuple[int, int]]
_KeySet = tuple[bytes, bytes, bytes]  # AEAD key, IV, header protection key
_Item = (
    tuple[Literal["known"], int, bytes, _Address, int, float]  # leg, packet, from, socket, at
    | tuple[Literal["unknown"], bytes, _Address, int, float]
    | tuple[Literal["admit"], bytes, _Address, int, float, bytes, bytes | None]  # original, retry source
    | tuple[Literal["control"], int, bytes, float]
    | tuple[Literal["gap"], int, int, int, int, int]
    | tuple[Literal["ack"], int, tuple[tuple[int, int], ...], int, float]  # newest first; delay
    | tuple[Literal["rekey"], int]
    | tuple[Literal["waiting"], int]
    | tuple[Literal["broken"], int]
    | tuple[Literal["stun"], bytes, _Address, int, float]
    | tuple[Literal["to_client"], int, bytes]  # allocation, messages
)
_Way = tuple[int, int, int, int, dict[str, int]]  # taken, passed, bytes, waiting, dropped by reason
_Rtt = tuple[float, float, float, float]  # latest, smoothed, variance, least
# leg; packets acked, lost, runs; bytes sent, acked; ack delay, age, rtt; copies come, late; repeats, bytes
_Measure = tuple[int, int, int, int, int, int, float, float, _Rtt | None, int, int, int, int, int]
_Verdict = (
    tuple[Literal["admit"], bytes, bytes | None]
    | tuple[Literal["answer"], str, bytes]
    | tuple[Literal["drop"], str]
)

class _Packets(TypedDict):
    received: int
    sent: int
    send_errors: int
    read_errors: int
    waiting: int
    taken: int
    media: int
    relayed: int
    batches: int
    wrong_lane: int
    media_lost: int
    notes_lost: int
    threads: int
    panics: int
    panicked_at: str
    front: dict[str, int]
    dropped: dict[str, int]

@final
class Lane:
    """The packet path of a node; see `relay.edge.lane.Lane`. Drop reasons are the strings of DropReason."""

    def __new__(
        cls,
        *,
        queue_frames: int,
        queue_s: float,
        stream_frames: int,
        stream_s: float,
        burst_s: float,
        batch_s: float,
    ) -> Lane: ...

    # ---- routes

    def open_leg(self, leg: int, *, pps: int, up_bps: int, down_bps: int) -> None:
        """Admit a leg with its budgets, or change them."""

    def close_leg(self, leg: int) -> None:
        """Forget a leg; copies still queued for it are dropped as peer_gone."""

    def open_flow(self, leg: int, flow: int, *, index: int, group: bool, watched: bool) -> None:
        """Accept an uplink flow; of a watched one gaps are told. LookupError: no such leg."""

    def open_trunk(self, leg: int, *, second: bool) -> None:
        """A connection to another node, until `close_leg`. LookupError: no path, or somebody's leg."""

    def join_trunk(self, leg: int, trunk: int, *, second: bool) -> None:
        """One more connection of a trunk, until `close_leg`. LookupError: no path, in use, or no trunk."""

    def open_route(self, leg: int, route: int, *, index: int, group: bool, pps: int, up_bps: int) -> None:
        """Accept what comes on a route of a trunk, within the speaker's rights. LookupError: no trunk."""

    def close_flow(self, leg: int, flow: int) -> tuple[int, int, int, int, dict[str, int], int, float | None]:
        """Forget an uplink flow: received, accepted, copies, lost, dropped by reason, mended, first heard."""

    def flowing(self, flows: Sequence[tuple[int, int]]) -> list[tuple[int, int, float, int]]:
        """Of these flows those that somebody heard: leg, flow, since when, datagrams."""

    def count_routes(self, leg: int, first: int, most: int) -> list[tuple[int, int, int, int, int]]:
        """Of a trunk's routes from `first` on: route, newest, came, missing, late since they were counted."""

    def route(self, leg: int, flow: int, targets: Sequence[tuple[int, int]], closed: str | None) -> None:
        """Copy the flow to `targets` (leg, flow) from now on. LookupError: something is not open."""

    def deliver(self, leg: int, payload: bytes, now: float) -> str | None:
        """A media datagram that came through aioquic or by a stream: why nobody hears it, or None."""

    def drain(self, leg: int, now: float, room: int) -> list[bytes]:
        """Fresh copies for a leg of `open_stream` or one that moves, until `room` bytes are used."""

    # ---- repair

    def tell_repair(
        self,
        leg: int,
        *,
        mode: str,
        budget: float,
        depth: float,
        distances: Sequence[int],
        max_age: float,
        ack_slack: float,
    ) -> None:
        """How copies that a listener missed go again. ValueError: no such mode."""

    def shed(self, classes: int) -> None: ...
    def shape(self, leg: int, hold: float, frames: int, redundancy: bool) -> None:
        """What of its copies leaves, and how; see `relay.core.events.Shape`."""

    def resend(self, leg: int, out: int, kid: int, base: int, bits: int, now: float) -> int:
        """Kept copies whose counters end in base + i leave for each bit i; how many."""

    def troubled(self) -> list[int]:
        """Legs on whose ways something went wrong since they were measured last, each once."""

    def measure(self, legs: Sequence[int], now: float) -> list[_Measure]:
        """What is known of the ways to these listeners, without those that have no path."""

    def repairs(self) -> Sequence[int]:
        """The figures of `relay.edge.lane.RepairCounters`, in their order."""

    # ---- connections

    def use_marks(self, fd: int, count: int) -> None:
        """So many places at the beginning of this file are for `Path.keep`. OSError."""

    def open_path(self, leg: int) -> Path:
        """A connection begins."""

    def open_stream(self, leg: int) -> None:
        """A leg without packets begins: its copies wait for `drain`."""

    def close_path(self, leg: int) -> None:
        """Either is over: its ids reach nobody, its keys are gone."""

    def own(self, leg: int, cid: bytes) -> None:
        """Packets to this id are the leg's. LookupError: no such leg."""

    def disown(self, cid: bytes) -> None:
        """Packets to this id are nobody's."""

    # ---- packets, of a lane without threads

    def receive(self, data: bytes, address: _Address, sock: int, now: float) -> None:
        """One UDP packet."""

    def flush(self, now: float) -> list[tuple[int, bytes, _Address]]:
        """What is to be sent now: socket, packet, destination."""

    def unsent(self, packet: bytes) -> None:
        """The kernel did not take this packet of the last `flush`."""

    def next_ack(self) -> float | None:
        """When `flush` has an acknowledgement to send."""

    def take(self, most: int) -> list[_Item]:
        """Up to `most` things for the loop, waiting copies and known legs first."""

    def relays(self) -> Relays:
        """The allocations of TURN."""

    # ---- front and threads

    def install_front(self, **options: object) -> None:
        """Judge packets of nobody here, with these keys and limits. ValueError: one is missing or unfit."""

    def configure_front(self, **options: object) -> None:
        """Give the front new limits."""

    def set_front(self, *, accepting: bool, half_open: int, legs_full: bool) -> None:
        """What the loop knows about newcomers."""

    def start(self, workers: Sequence[Sequence[int]], event_fd: int) -> str | None:
        """A thread per list of descriptors; the eventfd is written when `take` has something. OSError."""

    def stop(self) -> None:
        """End the threads and wait for them."""

    # ---- counted

    def counters(self) -> tuple[int, int, int, int, int, dict[str, int], dict[str, int]]:
        """Media datagrams: in, accepted, copies, sent, queued, dropped, dropped on the way out."""

    def residence(self) -> tuple[list[int], float]:
        """How long copies that left were here: counts by bucket (`relay.core.spread`), and the sum, s."""

    def packets(self) -> _Packets:
        """UDP packets: received = media + relayed + sum(front) + sum(dropped) + waiting + taken."""

@final
class Path:
    """One leg's packet-number space; see `relay.edge.path.Path`. Made by `Lane.open_path`."""

    expected: int
    largest: int
    largest_at: float | None
    ack_at: float | None
    last_heard: float
    outstanding: bool
    confirmed: bool
    update_after: int

    @property
    def update_asked(self) -> bool:
        """A key update was asked for, and none has come since."""

    @property
    def ack_due(self) -> float | None:
        """When a held acknowledgement must leave at the latest."""

    @property
    def media_in_flight(self) -> int:
        """Bytes sent and not acknowledged."""

    @property
    def media_lost(self) -> int:
        """Packets that were never acknowledged."""

    @property
    def key_updates(self) -> int:
        """Key phases after the first."""

    def reserve(self, count: int) -> int:
        """The first of so many packet numbers that are the caller's, until `settle`."""

    def settle(self, following: int) -> None:
        """Numbers below were used."""

    def keep(self, place: int) -> None:
        """Note the numbers there from now on. ValueError: no such place (`Lane.use_marks`)."""

    def slow_done(self) -> None:
        """aioquic has dealt with a packet that waited for it."""

    def add(self, number: int) -> None:
        """aioquic received this packet."""

    def has(self, number: int) -> bool:
        """The packet came before, or is too old to tell."""

    def ranges(self) -> list[tuple[int, int]]:
        """Numbers to acknowledge: ascending, half-open."""

    def subtract(self, stop: int) -> None:
        """Numbers below need no further acknowledgement."""

    def honest(self, ranges: _Ranges) -> bool:
        """These ranges (newest first, half-open) hold only numbers that were sent."""

    def acknowledged(self, ranges: _Ranges, delay: int, now: float) -> None:
        """An ACK that aioquic took settles packets of the lane."""

    def rtt(self) -> tuple[float, float, float, float] | None:
        """Round-trip time: latest, smoothed, variance, least."""

    def set_rtt(self, latest: float, smoothed: float, variance: float, minimum: float) -> None:
        """Samples that aioquic took."""

    def set_keys(
        self, suite: int, phase: int, recv: _KeySet, send: _KeySet, coming: tuple[bytes, bytes]
    ) -> None:
        """The keys of a key phase; those before open stragglers, `coming` tells the next phase's from forged.

        ValueError: they do not fit the suite.
        """

    def set_facts(
        self,
        *,
        active: bool,
        host_cid: bytes,
        peer_cid: bytes,
        address: _Address | None,
        sock: int,
        peer_acks: tuple[int, float],
    ) -> None:
        """Which packets are the packet path's. ValueError: no address or id."""

    def set_prefix(self, prefix: bytes) -> None:
        """With what every datagram begins: at most one byte, else ValueError."""

    def room(self, now: float) -> bool:
        """Another media packet may leave now."""

    def seal(self, datagrams: Sequence[bytes], now: float) -> bytes:
        """One packet with these, and the acknowledgement that is due; empty: no keys, or nothing to say."""

@final
class Relays:
    """TURN's allocations; see `relay.edge.lane.Lane`. Made by `Lane.relays`."""

    def open(
        self,
        allocation: int,
        client: tuple[_Address, int] | None,
        *,
        relayed: _Address,
        fd: int,
        pps: int,
        bps: int,
    ) -> None:
        """An allocation of a client on UDP (address and our socket), or on a stream. `fd` < 0: no socket.

        ValueError: the number or an address is another's. OSError: the socket cannot be watched.
        """

    def close(self, allocation: int) -> tuple[_Way, _Way] | None:
        """Forget it: what went through it, up and down."""

    def permit(self, allocation: int, ip: bytes, until: float) -> None:
        """Packets to and from this address pass. LookupError: no such allocation. ValueError: no address."""

    def forbid(self, allocation: int, ip: bytes) -> None:
        """They pass no more."""

    def bind_channel(self, allocation: int, channel: int, peer: _Address, until: float) -> None:
        """The number stands for this peer. LookupError: no such allocation."""

    def unbind_channel(self, allocation: int, channel: int) -> None:
        """It stands for nobody."""

    def take_stun(self, yes: bool) -> None:
        """STUN packets of strangers are for the loop."""

    def carry(self, allocation: int, frame: bytes, now: float) -> str | None:
        """A message that came by a stream: why it goes nowhere, or None."""

    def receive(self, allocation: int, data: bytes, address: _Address, now: float) -> None:
        """A packet that came by a relayed address without a thread."""

    def flush(self) -> list[tuple[int, bytes, _Address]]:
        """Send what has a socket here; what has none: allocation, bytes, peer."""

    def unsent(self) -> None:
        """The kernel did not take a packet that `flush` gave out."""

    def counters(self) -> tuple[_Way, _Way]:
        """What went through all of them: up, down."""

@final
class Front:
    """Judges packets of nobody; see `relay.edge.front.Front`. By itself, to be held against that one."""

    def __new__(cls, **options: object) -> Front: ...
    def set(self, *, accepting: bool, half_open: int, legs_full: bool) -> None:
        """What the loop knows about newcomers."""

    def judge(self, data: bytes, address: _Address, now: float, wall: float) -> _Verdict:
        """What becomes of a packet; `wall`: seconds since the epoch."""
