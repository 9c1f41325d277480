"""TURN's data path in plain Python, the twin of relay/lane/src/relay*.rs and its oracle.

    client   ChannelData, Send indication -> its allocation -> the relayed socket -> peer
                                                           `-> another allocation of ours -> its client
    peer     relayed socket -> permission -> ChannelData or Data indication -> client's socket | stream

All that an allocation obeys has an end, which is looked at with the clock of the packet. Must never live
here: who may have an allocation, and sockets.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address

from aioquic.quic.connection import NetworkAddress

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.bucket import Bucket
from relay.edge.lane import MAX_UDP, RelayCounters, RelayWay
from relay.errors import LocalError
from relay.protocol.relayed import (
    PeerAddress,
    encode_channel_data,
    encode_data_indication,
    parse_channel_data,
    parse_send,
)

STREAM_QUEUE = 64  # packets that wait for a client's stream: more are a burst that it will not take


@lru_cache(4096)
def _packed(host: str) -> bytes:
    return ip_address(host.partition("%")[0]).packed


def _peer(address: NetworkAddress) -> PeerAddress:
    return PeerAddress(_packed(address[0]), address[1])


def _sockaddr(peer: PeerAddress) -> NetworkAddress:
    host = str(ip_address(peer.host))
    return (host, peer.port) if len(peer.host) == 4 else (host, peer.port, 0, 0)


class Relay:
    """An allocation. `client`: address and socket that it is reached by; None: it is on a stream."""

    __slots__ = (
        "channels",
        "client",
        "counters",
        "down",
        "frames",
        "number",
        "permissions",
        "relayed",
        "serial",
        "up",
        "waiting",
    )

    def __init__(
        self,
        number: int,
        client: tuple[NetworkAddress, int] | None,
        relayed: PeerAddress,
        budget: Callable[[], tuple[Bucket, Bucket]],
    ) -> None:
        self.number = number
        self.client = client
        self.relayed = relayed
        self.permissions: dict[bytes, float] = {}
        self.channels: dict[int, tuple[PeerAddress, float]] = {}
        self.up = budget()
        self.down = budget()
        self.counters = RelayCounters()
        self.serial = 0  # Data indications so far
        self.frames: deque[tuple[bytes, int]] = deque()  # for the stream, with the payload's size
        self.waiting = 0  # its STUN packets in the loop's queue

    def is_permitted(self, host: bytes, now: float) -> bool:
        """Packets to and from this address pass."""
        return now < self.permissions.get(host, now)

    def channel_of(self, peer: PeerAddress, now: float) -> int | None:
        """The number that stands for a peer."""
        for number, (bound, until) in self.channels.items():
            if bound == peer and now < until:
                return number
        return None

    def peer_of(self, named: int | PeerAddress, now: float) -> PeerAddress | DropReason:
        """The peer that a client names, if it may send there."""
        if isinstance(named, PeerAddress):
            return named if self.is_permitted(named.host, now) else DropReason.NO_PERMISSION
        peer, until = self.channels.get(named, (None, now))
        return DropReason.NO_CHANNEL if peer is None or now >= until else peer


def _within(budget: tuple[Bucket, Bucket], size: int, now: float) -> bool:
    packets, octets = budget
    return packets.take(1.0, now) and octets.take(size, now)


class Relays:
    """Allocations and their packets. See `relay.edge.lane.Lane` for the contract of each method."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._relay_burst = limits.burst_ms / 1000
        self._relays: dict[int, Relay] = {}
        self._by_client: dict[tuple[NetworkAddress, int], Relay] = {}
        self._by_relayed: dict[PeerAddress, Relay] = {}
        self._hosts: Counter[bytes] = Counter()  # of relayed addresses
        self._relayed_sent = 0  # to clients and peers
        self._to_peers: list[tuple[int, bytes, NetworkAddress]] = []
        self._relay_totals = RelayCounters()

    @property
    def relays(self) -> RelayCounters:
        return self._relay_totals.copy()

    # ------------------------------------------------------------ what the loop says

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
        self._open((client, sock), allocation, relayed, pps, bps)

    def open_relay_stream(
        self, allocation: int, *, relayed: NetworkAddress, fd: int, pps: int, bps: int
    ) -> None:
        self._open(None, allocation, relayed, pps, bps)

    def _open(
        self,
        client: tuple[NetworkAddress, int] | None,
        allocation: int,
        relayed: NetworkAddress,
        pps: int,
        bps: int,
    ) -> None:
        where = _peer(relayed)
        if allocation in self._relays or client in self._by_client or where in self._by_relayed:
            raise LocalError("an allocation has this number or address")
        burst = self._relay_burst

        def budget() -> tuple[Bucket, Bucket]:
            packets = Bucket(pps, max(pps * burst, 10))
            return packets, Bucket(bps / 8, max(bps / 8 * burst, 2 * MAX_UDP))

        relay = self._relays[allocation] = Relay(allocation, client, where, budget)
        self._by_relayed[where] = relay
        self._hosts[where.host] += 1
        if client is not None:
            self._by_client[client] = relay

    def close_relay(self, allocation: int) -> RelayCounters:
        relay = self._relays.pop(allocation, None)
        if relay is None:
            return RelayCounters()
        del self._by_relayed[relay.relayed]
        self._hosts[relay.relayed.host] -= 1
        if relay.client is not None:
            del self._by_client[relay.client]
        while relay.frames:
            relay.frames.pop()
            for down in (relay.counters.down, self._relay_totals.down):
                down.waiting -= 1
                down.dropped[DropReason.PEER_GONE] += 1
        return relay.counters

    def permit(self, allocation: int, ip: bytes, until: float) -> None:
        self._relay(allocation).permissions[ip] = until

    def forbid(self, allocation: int, ip: bytes) -> None:
        relay = self._relays.get(allocation)
        if relay is not None:
            relay.permissions.pop(ip, None)
            bound = relay.channels.items()
            relay.channels = {number: known for number, known in bound if known[0].host != ip}

    def bind_channel(self, allocation: int, channel: int, peer: NetworkAddress, until: float) -> None:
        relay, where = self._relay(allocation), _peer(peer)
        bound = relay.channels.items()
        relay.channels = {number: known for number, known in bound if known[0] != where}
        relay.channels[channel] = where, until

    def unbind_channel(self, allocation: int, channel: int) -> None:
        relay = self._relays.get(allocation)
        if relay is not None:
            relay.channels.pop(channel, None)

    def _relay(self, allocation: int) -> Relay:
        relay = self._relays.get(allocation)
        if relay is None:
            raise LocalError(f"no such allocation: {allocation}")
        return relay

    # ------------------------------------------------------------ packets of clients

    def owner_of(self, client: NetworkAddress, sock: int) -> Relay | None:
        """The allocation that a 5-tuple owns."""
        return self._by_client.get((client, sock))

    def relay_from_client(self, allocation: int, frame: bytes, now: float) -> DropReason | None:
        relay = self._relays.get(allocation)
        if relay is None:
            return DropReason.UNKNOWN_ID
        channel = parse_channel_data(frame)
        return self.to_peer(relay, channel, now) if channel else self.send_indication(relay, frame, now)

    def send_indication(self, relay: Relay, data: bytes, now: float) -> DropReason | None:
        """A Send indication, or what should be one."""
        return self.to_peer(relay, parse_send(data), now)

    def to_peer(
        self, relay: Relay, message: tuple[int | PeerAddress, bytes] | None, now: float
    ) -> DropReason | None:
        """A payload from a client, and how that names its peer; None is malformed. The reason of a drop."""
        named, payload = message or (None, b"")
        peer = self._judge(relay, named, len(payload), now)
        reason = peer if isinstance(peer, DropReason) else None
        self._count(relay.counters.up, self._relay_totals.up, len(payload), reason)
        if isinstance(peer, DropReason):
            return peer
        inside = self._by_relayed.get(peer)
        if inside is not None:
            self._to_client(inside, payload, relay.relayed, now)
        else:
            self._relayed_sent += 1
            self._to_peers.append((relay.number, payload, _sockaddr(peer)))
        return None

    def _judge(
        self, relay: Relay, named: int | PeerAddress | None, size: int, now: float
    ) -> PeerAddress | DropReason:
        if named is None:
            return DropReason.MALFORMED
        peer = relay.peer_of(named, now)
        if isinstance(peer, DropReason):
            return peer
        if not _within(relay.up, size, now):
            return DropReason.OVER_BUDGET
        if self._hosts[peer.host] and peer not in self._by_relayed:
            return DropReason.NO_PERMISSION  # what else listens there is ours, and no client's to speak to
        return peer

    @staticmethod
    def _count(mine: RelayWay, total: RelayWay, size: int, reason: DropReason | None) -> None:
        for way in (mine, total):
            way.taken += 1
            if reason is None:
                way.passed += 1
                way.bytes += size
            else:
                way.dropped[reason] += 1

    # ------------------------------------------------------------ packets of peers

    def from_peer(self, relay: Relay, data: bytes, address: NetworkAddress, now: float) -> None:
        """A packet that came by a relayed address."""
        self._to_client(relay, data, _peer(address), now)

    def _to_client(self, relay: Relay, payload: bytes, peer: PeerAddress, now: float) -> None:
        reason: DropReason | None = None
        if not relay.is_permitted(peer.host, now):
            reason = DropReason.NO_PERMISSION
        elif len(payload) > MAX_UDP:
            reason = DropReason.TOO_LARGE
        elif not _within(relay.down, len(payload), now):
            reason = DropReason.OVER_BUDGET
        ways = relay.counters.down, self._relay_totals.down
        if reason is not None:
            self._count(*ways, len(payload), reason)
            return
        channel = relay.channel_of(peer, now)
        if channel is None:
            relay.serial += 1
            message = encode_data_indication(relay.serial, peer, payload)
        else:
            message = encode_channel_data(channel, payload, is_stream=relay.client is None)
        if relay.client is not None:
            self._count(*ways, len(payload), None)
            self._relayed_sent += 1
            self._send_to(relay.client, message)
            return
        is_full = len(relay.frames) >= STREAM_QUEUE
        if is_full:
            relay.frames.popleft()
        if not relay.frames:
            self._tell(relay)
        relay.frames.append((message, len(payload)))
        for way in ways:
            way.taken += 1
            if is_full:
                way.dropped[DropReason.QUEUE_FULL] += 1
            else:
                way.waiting += 1

    def fetch(self, relay: Relay) -> bytes:
        """What waits for the stream of an allocation's client, all in one piece."""
        for _, size in relay.frames:
            for way in (relay.counters.down, self._relay_totals.down):
                way.waiting -= 1
                way.passed += 1
                way.bytes += size
        data = b"".join(frame for frame, _ in relay.frames)
        relay.frames.clear()
        return data

    # ------------------------------------------------------------ out

    def flush_relays(self) -> list[tuple[int, bytes, NetworkAddress]]:
        leaving, self._to_peers = self._to_peers, []
        return leaving

    def _send_to(self, client: tuple[NetworkAddress, int], message: bytes) -> None:
        """A packet for a client leaves by the socket that it speaks to."""
        raise NotImplementedError

    def _tell(self, relay: Relay) -> None:
        """The loop must fetch what waits for this allocation's client."""
        raise NotImplementedError
