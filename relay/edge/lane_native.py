"""The native lane (relay._lane, written in Rust) as the edge sees it: names, types, and its threads.

Threads of its own read and write the sockets without the interpreter lock; what they leave for the loop is
announced by an eventfd. Without `start` it is the same lane without threads, fed by `receive`: so tests drive
it on a simulated clock, and compare it with its plain twin. Must never live here: what the Rust side decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

from aioquic.quic.connection import NetworkAddress

from relay import _lane
from relay.config import LimitsConfig
from relay.core.events import FlowCounters, Measure, Repair, RouteCount, Shape
from relay.core.reasons import DropReason
from relay.core.spread import RESIDENCE, Spread
from relay.edge.lane import (
    AckShown,
    Admitted,
    Broken,
    ControlDatagram,
    FrontKeys,
    Gap,
    Item,
    Known,
    LaneCounters,
    Packet,
    PacketCounts,
    RekeyWanted,
    RelayCounters,
    RelayWay,
    RepairCounters,
    Stun,
    ToClient,
    Unknown,
    Waiting,
)
from relay.errors import LocalError
from relay.protocol.datagram import Nack
from relay.quic.space import PathState

if TYPE_CHECKING:
    from relay._lane import _Way

_REASONS: Final = {reason.value: reason for reason in DropReason}


# What `take` gives: the name of its kind, then these, which end with the time for most.
_ITEMS: Final[dict[str, Callable[..., Item]]] = {
    "known": lambda leg, data, address, sock, _: Known(leg, data, address, sock),
    "unknown": lambda data, address, sock, _: Unknown(data, address, sock),
    "admit": lambda data, address, sock, _, original, retry: Admitted(data, address, sock, original, retry),
    "control": lambda leg, payload, _: ControlDatagram(leg, payload),
    "gap": Gap,
    "ack": AckShown,
    "rekey": RekeyWanted,
    "waiting": Waiting,
    "broken": Broken,
    "stun": lambda data, address, sock, _: Stun(data, address, sock),
    "to_client": ToClient,
}


def _counter(counts: dict[str, int]) -> Counter[DropReason]:
    return Counter({_REASONS[name]: count for name, count in counts.items() if count})


def _relay_counters(ways: tuple[_Way, _Way]) -> RelayCounters:
    return RelayCounters(*(RelayWay(*way[:4], _counter(way[4])) for way in ways))


def _front_limits(limits: LimitsConfig) -> dict[str, float]:
    names = (
        "half_open",
        "retry_above_half_open",
        "retry_above_initials_per_s",
        "initials_per_source_per_s",
        "initials_per_source_burst",
        "negotiations_per_source_per_s",
        "negotiations_per_s",
        "resets_per_s",
    )
    return {name: getattr(limits, name) for name in names}


class NativeLane:
    """The lane in Rust. See `relay.edge.lane.Lane` for the contract of each method."""

    name = "native"

    def __init__(self, limits: LimitsConfig | None = None, batch_s: float = 0.0) -> None:
        limits = limits or LimitsConfig()
        self._lane = _lane.Lane(
            queue_frames=limits.queue_frames,
            queue_s=limits.queue_ms / 1000,
            stream_frames=limits.queue_tcp_frames,
            stream_s=limits.queue_tcp_ms / 1000,
            burst_s=limits.burst_ms / 1000,
            batch_s=batch_s,
        )
        self._relays = self._lane.relays()

    # ------------------------------------------------------------ routes

    def open_leg(self, leg: int, *, pps: int, up_bps: int, down_bps: int) -> None:
        self._lane.open_leg(leg, pps=pps, up_bps=up_bps, down_bps=down_bps)

    def close_leg(self, leg: int) -> None:
        self._lane.close_leg(leg)

    def open_flow(self, leg: int, flow: int, *, index: int, group: bool, watched: bool = False) -> None:
        try:
            self._lane.open_flow(leg, flow, index=index, group=group, watched=watched)
        except LookupError as error:
            raise LocalError(f"no such leg: {leg}") from error

    def open_trunk(self, leg: int, *, second: bool = False) -> None:
        try:
            self._lane.open_trunk(leg, second=second)
        except LookupError as error:
            raise LocalError(f"no connection to be a trunk: {leg}") from error

    def join_trunk(self, leg: int, trunk: int, *, second: bool) -> None:
        try:
            self._lane.join_trunk(leg, trunk, second=second)
        except LookupError as error:
            raise LocalError(
                f"no trunk, or no connection that could join it: leg {leg} trunk {trunk}"
            ) from error

    def open_route(self, leg: int, route: int, *, index: int, group: bool, pps: int, up_bps: int) -> None:
        try:
            self._lane.open_route(leg, route, index=index, group=group, pps=pps, up_bps=up_bps)
        except LookupError as error:
            raise LocalError(f"no such trunk, or no number of a route: leg {leg} route {route}") from error

    def close_flow(self, leg: int, flow: int) -> FlowCounters:
        received, accepted, copies, lost, dropped, mended, first = self._lane.close_flow(leg, flow)
        return FlowCounters(received, accepted, copies, lost, dict(_counter(dropped)), mended, first)

    def flowing(self, flows: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[float, int]]:
        return {(leg, flow): (at, count) for leg, flow, at, count in self._lane.flowing(flows)}

    def count_routes(self, leg: int, first: int, most: int) -> list[RouteCount]:
        return [RouteCount(*line) for line in self._lane.count_routes(leg, first, most)]

    def route(
        self, leg: int, flow: int, targets: Sequence[tuple[int, int]], closed: DropReason | None
    ) -> None:
        try:
            self._lane.route(leg, flow, list(targets), closed)
        except LookupError as error:
            raise LocalError(f"route for what is not open: leg {leg} flow {flow}") from error

    def deliver(self, leg: int, payload: bytes, now: float) -> DropReason | None:
        reason = self._lane.deliver(leg, payload, now)
        return None if reason is None else _REASONS[reason]

    def drain(self, leg: int, now: float, room: int) -> list[bytes]:
        return self._lane.drain(leg, now, room)

    # ------------------------------------------------------------ connections

    def use_marks(self, fd: int, count: int) -> None:
        self._lane.use_marks(fd, count)

    def open_path(self, leg: int) -> PathState:
        return self._lane.open_path(leg)

    def open_stream(self, leg: int) -> None:
        self._lane.open_stream(leg)

    def close_path(self, leg: int) -> None:
        self._lane.close_path(leg)

    def own(self, leg: int, cid: bytes) -> None:
        self._lane.own(leg, cid)

    def disown(self, cid: bytes) -> None:
        self._lane.disown(cid)

    # ------------------------------------------------------------ allocations of TURN

    @property
    def relays(self) -> RelayCounters:
        return _relay_counters(self._relays.counters())

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
        self._open_relay(allocation, (client, sock), relayed, fd, pps, bps)

    def open_relay_stream(
        self, allocation: int, *, relayed: NetworkAddress, fd: int, pps: int, bps: int
    ) -> None:
        self._open_relay(allocation, None, relayed, fd, pps, bps)

    def _open_relay(
        self,
        allocation: int,
        client: tuple[NetworkAddress, int] | None,
        relayed: NetworkAddress,
        fd: int,
        pps: int,
        bps: int,
    ) -> None:
        try:
            self._relays.open(allocation, client, relayed=relayed, fd=fd, pps=pps, bps=bps)
        except ValueError as error:
            raise LocalError(str(error)) from error

    def close_relay(self, allocation: int) -> RelayCounters:
        closed = self._relays.close(allocation)
        return RelayCounters() if closed is None else _relay_counters(closed)

    def permit(self, allocation: int, ip: bytes, until: float) -> None:
        try:
            self._relays.permit(allocation, ip, until)
        except LookupError as error:
            raise LocalError(f"no such allocation: {allocation}") from error

    def forbid(self, allocation: int, ip: bytes) -> None:
        self._relays.forbid(allocation, ip)

    def bind_channel(self, allocation: int, channel: int, peer: NetworkAddress, until: float) -> None:
        try:
            self._relays.bind_channel(allocation, channel, peer, until)
        except LookupError as error:
            raise LocalError(f"no such allocation: {allocation}") from error

    def unbind_channel(self, allocation: int, channel: int) -> None:
        self._relays.unbind_channel(allocation, channel)

    def relay_from_client(self, allocation: int, frame: bytes, now: float) -> DropReason | None:
        reason = self._relays.carry(allocation, frame, now)
        return None if reason is None else _REASONS[reason]

    def receive_relay(self, allocation: int, data: bytes, address: NetworkAddress, now: float) -> None:
        self._relays.receive(allocation, data, address, now)

    def flush_relays(self) -> list[tuple[int, bytes, NetworkAddress]]:
        return self._relays.flush()

    def unsent_to_peer(self) -> None:
        self._relays.unsent()

    # ------------------------------------------------------------ repair

    @property
    def repairs(self) -> RepairCounters:
        """What was kept and repeated for all listeners, as of now."""
        return RepairCounters(*self._lane.repairs())

    def tell_repair(self, leg: int, repair: Repair) -> None:
        self._lane.tell_repair(
            leg,
            mode=repair.mode.value,
            budget=repair.budget,
            depth=repair.depth,
            distances=repair.distances,
            max_age=repair.max_age,
            ack_slack=repair.ack_slack,
        )

    def shape(self, leg: int, shape: Shape) -> None:
        self._lane.shape(leg, shape.hold, shape.frames, shape.redundancy)

    def shed(self, classes: Collection[int]) -> None:
        self._lane.shed(sum(1 << each for each in set(classes)))

    def resend(self, leg: int, ask: Nack, now: float) -> int:
        return self._lane.resend(leg, *ask, now)

    def troubled(self) -> list[int]:
        return self._lane.troubled()

    def measure(self, legs: Sequence[int], now: float) -> list[Measure]:
        return [Measure(*one) for one in self._lane.measure(legs, now)]

    # ------------------------------------------------------------ packets

    def receive(self, data: bytes, address: NetworkAddress, sock: int, now: float) -> None:
        self._lane.receive(data, address, sock, now)

    def flush(self, now: float) -> list[Packet]:
        return self._lane.flush(now)

    def unsent(self, packet: Packet) -> None:
        self._lane.unsent(packet[1])

    def next_ack(self) -> float | None:
        return self._lane.next_ack()

    def take(self, most: int) -> list[Item]:
        return [_ITEMS[kind](*rest) for kind, *rest in self._lane.take(most)]

    # ------------------------------------------------------------ front and threads

    def use_front(self, keys: FrontKeys, limits: LimitsConfig) -> None:
        self._lane.install_front(
            retry_keys=list(keys.retry),
            cid_key=keys.cid,
            server_id=keys.server_id,
            reset_key=keys.reset,
            address_token_s=limits.address_token_s,
            **_front_limits(limits),
        )

    def limit_front(self, limits: LimitsConfig) -> None:
        self._lane.configure_front(**_front_limits(limits))

    def tell_front(self, *, accepting: bool, half_open: int, is_full: bool, stun: bool) -> None:
        self._relays.take_stun(stun)
        self._lane.set_front(accepting=accepting, half_open=half_open, legs_full=is_full)

    def start(self, lanes: list[list[int]], event_fd: int) -> str | None:
        """A thread per list of descriptors, one per address; `event_fd` is written when `take` has news.

        Gives why the scheduler grants them no short turns, None when it does.
        """
        return self._lane.start(lanes, event_fd)

    def stop(self) -> None:
        """End the threads; what was counted stays readable."""
        self._lane.stop()

    # ------------------------------------------------------------ counted

    @property
    def counters(self) -> LaneCounters:
        """Media datagrams, as of now."""
        media_in, accepted, copies, sent, queued, dropped, dropped_out = self._lane.counters()
        return LaneCounters(
            media_in, accepted, copies, sent, queued, _counter(dropped), _counter(dropped_out)
        )

    @property
    def residence(self) -> Spread:
        counts, total = self._lane.residence()
        return Spread(RESIDENCE, counts, total)

    def packets(self) -> PacketCounts:
        counts = self._lane.packets()
        return PacketCounts(
            received=counts["received"],
            sent=counts["sent"],
            send_errors=counts["send_errors"],
            media=counts["media"],
            waiting=counts["waiting"],
            taken=counts["taken"],
            answered=counts["front"],
            dropped=dict(_counter(counts["dropped"])),
            turns=counts["batches"],
            strays=counts["wrong_lane"],
            notes_lost=counts["notes_lost"],
            threads=counts["threads"],
            panics=counts["panics"],
            panicked_at=counts["panicked_at"],
            relayed=counts["relayed"],
            read_errors=counts["read_errors"],
        )
