"""All connections of the node, over its UDP sockets: in by connection id, out in batches, one timer heap.

    read batch -> first byte -> connection id -> fast path -> lane        (audio: at once)
                                             `-> slow queue -> aioquic    (the rest: 0.7 ms a turn)
    lane queues -> seal -> socket

Audio never waits behind handshakes: slow packets stand in bounded queues, those of known connections
first, and get a time budget per loop turn. Must never live here: what a message or a datagram means.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    DatagramFrameReceived,
    QuicEvent,
    StreamDataReceived,
)

from relay.config import LimitsConfig
from relay.core.reasons import DropReason
from relay.edge.front import Admit, Answer, Front
from relay.edge.lane import Lane
from relay.edge.outbox import Outbox
from relay.edge.peer import Peer, PeerState
from relay.edge.quic import IssuedId, RelayQuic
from relay.edge.timers import TURN_SECONDS, Loop, PeerTimers
from relay.errors import ErrorCode
from relay.protocol.address import Address

log = logging.getLogger("relay.endpoint")

MAX_UDP = 2048
READ_BATCH = 32  # packets per socket and turn, so that timers and other sockets get theirs
SLOW_QUEUE = 4096
SLOW_PER_PEER = 128  # of those; twice the packets that a connection's whole window of control bytes takes
MAX_BACKLOG = 256 * 1024  # control bytes held for a peer that does not take them: 16 of the largest frames


class Handler(Protocol):
    """What the endpoint tells: facts, in order, never from inside a call to the endpoint's senders."""

    def opened(self, leg: int, address: Address, datagrams: bool) -> None:
        """The handshake is confirmed."""

    def stream(self, leg: int, data: bytes, end: bool) -> None:
        """Bytes of the control stream, in order."""

    def datagram(self, leg: int, data: bytes) -> None:
        """A control datagram."""

    def moved(self, leg: int, address: Address) -> None:
        """The peer's validated address changed."""

    def lost(self, leg: int, code: int) -> None:
        """The transport is gone."""


class Endpoint:
    """Connections by id and by leg. `attach` a handler before the first packet."""

    def __init__(
        self,
        loop: Loop,
        limits: LimitsConfig,
        configuration: QuicConfiguration,
        *,
        front: Front,
        issue: Callable[[], IssuedId],
        lane: Lane,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self.outbox = Outbox(loop, lane, clock, self._settle)
        self.udp_in = 0
        self.internal_errors = 0
        self.handshakes_expired = 0
        self.handled: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.dropped: Counter[DropReason] = Counter()
        self.media_lost = 0
        self.half_open = 0
        self.handshakes = 0
        self.configuration = configuration
        self.accepting = True
        self._loop = loop
        self._limits = limits
        self._front = front
        self._issue = issue
        self._lane = lane
        self._by_id: dict[bytes, Peer] = {}
        self._by_leg: dict[int, Peer] = {}
        self._next_leg = 1
        self._known: deque[tuple[bytes, NetworkAddress, Peer]] = deque()
        self._unknown: deque[tuple[bytes, NetworkAddress, socket.socket]] = deque()
        self._working = False
        self._timers = PeerTimers(loop, clock, self._expire)
        self._flush_wanted = False
        self._dirty: dict[Peer, None] = {}
        self._handler: Handler

    def attach(self, handler: Handler) -> None:
        """Name who hears the facts."""
        self._handler = handler

    def configure(self, limits: LimitsConfig, configuration: QuicConfiguration) -> None:
        """New limits and certificate for connections that come from now on."""
        self._limits = limits
        self.configuration = configuration
        self._front.configure(limits)

    def __len__(self) -> int:
        return len(self._by_leg)

    def last_heard(self, leg: int) -> float | None:
        """When the leg last sent something authentic, monotonic seconds."""
        peer = self._by_leg.get(leg)
        return peer.quic.last_heard if peer is not None else None

    def leg_facts(self, leg: int) -> tuple[float, str] | None:
        """Round-trip time in seconds and cipher suite of a leg."""
        peer = self._by_leg.get(leg)
        return (peer.quic.rtt, peer.quic.suite) if peer is not None else None

    @property
    def waiting(self) -> int:
        """UDP packets in the slow queues."""
        return len(self._known) + len(self._unknown)

    def imbalance(self) -> int:
        """How far `udp_in = handled + dropped + waiting` is from holding."""
        return abs(self.udp_in - sum(self.handled.values()) - sum(self.dropped.values()) - self.waiting)

    # ------------------------------------------------------------ in

    def read(self, sock: socket.socket, most: int = READ_BATCH) -> int:
        """Take up to `most` packets that wait in a socket, then send what became ready; how many it took."""
        receive = sock.recvfrom
        taken = 0
        while taken < most:
            try:
                data, addr = receive(MAX_UDP + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of an earlier send, reported here; the socket lives on
                taken += 1
                continue
            taken += 1
            self.receive(data, addr, sock, self._clock())
        if self._flush_wanted:
            self.flush_media()
        return taken

    def receive(self, data: bytes, addr: NetworkAddress, sock: socket.socket, now: float) -> None:
        """One UDP packet from the network."""
        self.udp_in += 1
        size = len(data)
        first = data[0] if size else 0
        if size > MAX_UDP or first < 0x40 or 0x80 <= first < 0xC0:
            self.dropped[DropReason.TOO_LARGE if size > MAX_UDP else DropReason.MALFORMED] += 1
            return
        if first < 0x80:
            peer = self._by_id.get(data[1:9])
            try:
                if peer is not None and self._receive_fast(peer, data, addr, now):
                    return
            except (
                Exception
            ) as error:  # a bug of ours or below us: one peer's packet must not stop the others
                self._quarantine(peer, error)
                return
        elif size < 7:
            self.dropped[DropReason.MALFORMED] += 1
            return
        else:
            peer = self._by_id.get(data[6 : 6 + data[5]])
        is_full = len(self._known if peer else self._unknown) >= SLOW_QUEUE
        if is_full or (peer is not None and peer.waiting >= SLOW_PER_PEER):
            self.dropped[DropReason.OVER_BUDGET] += 1
            return
        if peer is not None:
            peer.waiting += 1
            self._known.append((data, addr, peer))
        else:
            self._unknown.append((data, addr, sock))
        if not self._working:
            self._working = True
            self._loop.call_soon(self._work)

    def _receive_fast(self, peer: Peer, data: bytes, addr: NetworkAddress, now: float) -> bool:
        """True when the packet is settled; False when aioquic must see it."""
        result = peer.quic.receive_media(data, addr, now)
        if result is None:
            return False
        if isinstance(result, DropReason):
            self.dropped[result] += 1
            return True
        self.handled["media"] += 1
        for payload in result:
            self._deliver(peer, payload, now)
        self.outbox.note_ack(peer, now)
        return True

    def _deliver(self, peer: Peer, payload: bytes, now: float) -> None:
        if payload[:1] == b"\0":
            if peer.state is PeerState.OPEN:
                self._handler.datagram(peer.leg, payload)
        else:
            self._lane.receive(peer.leg, payload, now)
            self._flush_wanted = True

    def _work(self) -> None:
        """Slow packets, known connections first, for a bounded time."""
        self._working = False
        until = self._clock() + TURN_SECONDS
        while self._known or self._unknown:
            now = self._clock()
            if now >= until:
                self._working = True
                self._loop.call_soon(self._work)
                break
            peer = None
            try:
                if self._known:
                    data, addr, peer = self._known.popleft()
                    peer.waiting -= 1
                    self._receive_slow(peer, data, addr, now)
                else:
                    data, addr, sock = self._unknown.popleft()
                    self._receive_unknown(data, addr, sock, now)
            except Exception as error:
                self._quarantine(peer, error)
        if self._flush_wanted:
            self.flush_media()

    def _receive_slow(self, peer: Peer, data: bytes, addr: NetworkAddress, now: float) -> None:
        if peer.is_gone:
            self.dropped[DropReason.UNKNOWN_ID] += 1
            return
        self.handled["quic"] += 1
        peer.quic.receive_datagram(data, addr, now)
        self._settle(peer, now)

    def _receive_unknown(self, data: bytes, addr: NetworkAddress, sock: socket.socket, now: float) -> None:
        if data[0] < 0x80:
            known = self._by_id.get(data[1:9])
            verdict = self._front.judge_short(data, now) if known is None else None
        else:
            known = self._by_id.get(data[6 : 6 + data[5]])  # its first packet may have stood before it
            verdict = None if known else self._judge_long(data, addr, now)
        if known is not None:
            self._receive_slow(known, data, addr, now)
        elif isinstance(verdict, Admit):
            self.handled["initial"] += 1
            self._admit(verdict, data, addr, sock, now)
        elif isinstance(verdict, Answer):
            self.handled[verdict.kind] += 1
            self.answered[verdict.kind] += 1
            self.outbox.send(sock, verdict.data, addr)
        elif verdict is not None:
            self.dropped[verdict] += 1

    def _judge_long(self, data: bytes, addr: NetworkAddress, now: float) -> Admit | Answer | DropReason:
        if not self.accepting:
            return DropReason.DRAINING
        if len(self._by_leg) >= self._limits.legs:
            return DropReason.QUOTA
        return self._front.judge_long(data, Address.parse(addr), now, self._wall(), self.half_open)

    def _admit(
        self, verdict: Admit, data: bytes, addr: NetworkAddress, sock: socket.socket, now: float
    ) -> None:
        quic = RelayQuic(
            configuration=self.configuration,
            original_destination_connection_id=verdict.original_destination,
            retry_source_connection_id=verdict.retry_source,
            issue=self._issue,
        )
        peer = Peer(self._next_leg, quic, sock, addr, now + self._limits.handshake_s)
        self._next_leg += 1
        self.half_open += 1
        self._by_leg[peer.leg] = peer
        for cid in (verdict.retry_source or verdict.original_destination, quic.host_cid):
            self._own(peer, cid)
        self._arm(peer)  # its deadline holds whatever its first packet does to us
        quic.receive_datagram(data, addr, now)
        self._settle(peer, now)

    def _quarantine(self, peer: Peer | None, error: Exception) -> None:
        """Something raised that never should: count it, say so, and let go of the connection it came by."""
        self.internal_errors += 1
        self.dropped[DropReason.INTERNAL] += self.imbalance()  # 1 unless the packet was counted already
        log.error("internal error while handling a packet", exc_info=error)
        if peer is not None and not peer.is_gone:
            self._forget(peer)

    def _own(self, peer: Peer, cid: bytes) -> None:
        peer.ids.add(cid)
        self._by_id[cid] = peer

    # ------------------------------------------------------------ after aioquic did something

    def _settle(self, peer: Peer, now: float) -> None:
        """Drain events, transmit, drain again (transmitting issues ids), re-read the facts, arm the timer."""
        quic = peer.quic
        self._events(peer, now)
        if peer.is_gone:
            return
        self.outbox.transmit(peer, now)
        self._events(peer, now)
        if peer.is_gone:
            return
        quic.refresh()
        if quic.is_closing:
            self._closing(peer)
        elif peer.state is PeerState.HALF_OPEN and quic.is_confirmed:
            self._open(peer)
        elif peer.state is PeerState.OPEN and quic.can_send_media:
            address = quic.get_peer_address()
            if address is not None and address != peer.address:
                peer.address = address
                self._handler.moved(peer.leg, Address.parse(address))
        self._arm(peer)

    def _open(self, peer: Peer) -> None:
        peer.state = PeerState.OPEN
        self.half_open -= 1
        self.handshakes += 1
        peer.address = peer.quic.get_peer_address() or peer.address
        self._handler.opened(peer.leg, Address.parse(peer.address), peer.quic.peer_takes_datagrams)

    def _closing(self, peer: Peer) -> None:
        """The connection is over for everyone but the QUIC stack, which lingers for three timeouts."""
        if peer.state is PeerState.OPEN:
            peer.state = PeerState.CLOSING
            self._handler.lost(peer.leg, peer.quic.close_code)
        elif peer.state is PeerState.HALF_OPEN:
            peer.state = PeerState.CLOSING
            self.half_open -= 1

    def _events(self, peer: Peer, now: float) -> None:
        event = peer.quic.next_event()
        while event is not None:
            self._event(peer, event, now)
            if peer.is_gone:
                return
            event = peer.quic.next_event()

    def _event(self, peer: Peer, event: QuicEvent, now: float) -> None:
        if isinstance(event, StreamDataReceived):
            if peer.state is PeerState.HALF_OPEN and peer.quic.is_confirmed:
                self._open(peer)
            if peer.control_stream is None and event.stream_id % 4 == 0:
                peer.control_stream = event.stream_id
            if event.stream_id == peer.control_stream and peer.state is PeerState.OPEN:
                self._handler.stream(peer.leg, event.data, event.end_stream)
        elif isinstance(event, DatagramFrameReceived):
            self._deliver(peer, event.data, now)
        elif isinstance(event, ConnectionIdIssued):
            self._own(peer, event.connection_id)
        elif isinstance(event, ConnectionIdRetired):
            peer.ids.discard(event.connection_id)
            self._by_id.pop(event.connection_id, None)
        elif isinstance(event, ConnectionTerminated):
            self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        """O(ids of this connection): nothing is scanned, and its memory goes at once."""
        self._closing(peer)
        peer.state = PeerState.GONE
        for cid in peer.ids:
            self._by_id.pop(cid, None)
        peer.ids.clear()
        self._by_leg.pop(peer.leg, None)
        self._dirty.pop(peer, None)
        self.media_lost += peer.quic.media_lost
        peer.quic.release()

    # ------------------------------------------------------------ out

    def send_stream(self, leg: int, data: bytes) -> None:
        """Write to the leg's control stream; it leaves with `transmit_dirty`."""
        peer = self._by_leg.get(leg)
        if peer is None or peer.state is not PeerState.OPEN or peer.control_stream is None:
            return
        if peer.quic.backlog(peer.control_stream) + len(data) > MAX_BACKLOG:
            self.close(leg, ErrorCode.OVERLOADED, "does not read")
            return
        try:
            peer.quic.send_stream_data(peer.control_stream, data)
        except (RuntimeError, ValueError):  # it said STOP_SENDING; its fault, never that of who made us write
            self.close(leg, ErrorCode.PROTOCOL_VIOLATION, "the control stream was stopped")
            return
        self._dirty[peer] = None

    def send_datagram(self, leg: int, data: bytes) -> None:
        """Send a control datagram now, if the leg can take one."""
        peer = self._by_leg.get(leg)
        now = self._clock()
        if peer is not None and peer.quic.media_room(now):
            self.outbox.seal(peer, [data], now)

    def close(self, leg: int, code: int, reason: str) -> None:
        """Close a connection with an application code, after what was written before."""
        peer = self._by_leg.get(leg)
        if peer is None or peer.is_gone:
            return
        now = self._clock()
        self._dirty.pop(peer, None)
        try:
            self.outbox.transmit(peer, now)
            peer.quic.close(error_code=code, reason_phrase=reason)
            self._settle(peer, now)
        except Exception as error:
            self._quarantine(peer, error)

    def transmit_dirty(self) -> None:
        """Send what was written since the last call."""
        while self._dirty:
            peer, _ = self._dirty.popitem()
            try:
                self._settle(peer, self._clock())
            except Exception as error:  # it costs this peer, not the one whose message made us write
                self._quarantine(peer, error)

    def flush_media(self) -> None:
        """Seal and send what the lane has ready."""
        self._flush_wanted = False
        for leg in self._lane.take_ready():
            peer = self._by_leg.get(leg)
            if peer is not None:
                try:
                    self.outbox.flush(peer)
                except Exception as error:  # the other listeners, and the reader of the socket, go on
                    self._quarantine(peer, error)

    # ------------------------------------------------------------ timers

    def _arm(self, peer: Peer) -> None:
        due = peer.quic.get_timer()
        if peer.state is PeerState.HALF_OPEN:
            due = peer.deadline if due is None else min(due, peer.deadline)
        if due is not None:
            self._timers.arm(peer, due)

    def _expire(self, peer: Peer, now: float) -> None:
        try:
            self._on_due(peer, now)
        except Exception as error:
            self._quarantine(peer, error)

    def _on_due(self, peer: Peer, now: float) -> None:
        if peer.state is PeerState.HALF_OPEN and now >= peer.deadline:
            self.handshakes_expired += 1
            self._forget(peer)
            return
        timer = peer.quic.get_timer()
        if timer is None or timer > now:
            self._arm(peer)
            return
        peer.quic.handle_timer(now)
        self._settle(peer, now)
