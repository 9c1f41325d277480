"""What leaves: audio from the lane's queues, acknowledgements that no audio took along, aioquic's packets.

    lane.dequeue -> as many frames as fit one packet, with the ACK that is due -> seal -> socket

Sending never waits: what the socket or the path does not take is counted and dropped, or stays in the lane's
queue until it is stale. Must never live here: what arrives, and what a packet means.
"""

from __future__ import annotations

import heapq
import itertools
import socket
from collections.abc import Callable

from aioquic.quic.connection import NetworkAddress

from relay.core.reasons import DropReason
from relay.edge.lane import Lane
from relay.edge.peer import Peer, PeerState
from relay.edge.quic import ACK_HOLD, MAX_PACKET
from relay.edge.timers import TURN_SECONDS, Loop

PACKET_OVERHEAD = 60  # short header, ACK frame and tag, upper bound for one of ours
DATAGRAM_OVERHEAD = 3  # frame type and two-byte length
EARLY = 0.001  # an acknowledgement due this soon leaves now: loop clocks tick in milliseconds


class Outbox:
    """The way out of all connections. `settle` lets aioquic speak for a peer."""

    def __init__(
        self, loop: Loop, lane: Lane, clock: Callable[[], float], settle: Callable[[Peer, float], None]
    ) -> None:
        self.sent = 0
        self.errors = 0
        self._loop = loop
        self._lane = lane
        self._clock = clock
        self._settle = settle
        self._acks: list[tuple[float, int, Peer]] = []  # a heap: an ACK listed again is due before others
        self._order = itertools.count()
        self._acks_armed = False

    def send(self, sock: socket.socket, packet: bytes, addr: NetworkAddress) -> bool:
        """Give one packet to the kernel; False when it did not take it."""
        try:
            sock.sendto(packet, addr)
        except OSError:  # full buffer, unreachable: UDP promises nothing, and we never wait
            self.errors += 1
            return False
        self.sent += 1
        return True

    def seal(self, peer: Peer, datagrams: list[bytes], now: float) -> bool:
        """Send these datagrams in one packet; none of them: the due acknowledgement alone."""
        packet, addr = peer.quic.seal_media(datagrams, now)
        return self.send(peer.sock, packet, addr)

    def transmit(self, peer: Peer, now: float) -> None:
        """Send what aioquic has to say."""
        for packet, addr in peer.quic.datagrams_to_send(now):
            self.send(peer.sock, packet, addr)

    def flush(self, peer: Peer) -> None:
        """Send the audio that waits for a peer, as far as its path takes it."""
        now = self._clock()
        quic = peer.quic
        lane = self._lane
        if not quic.can_send_media:
            return
        if quic.wants_key_update or quic.is_rekeying:
            if not quic.is_rekeying:
                quic.update_keys()
            self._settle(peer, now)
            if peer.is_gone:
                return
        while quic.media_room(now):
            first = lane.dequeue(peer.leg, now)
            if first is None:
                return
            batch = [first]
            room = MAX_PACKET - PACKET_OVERHEAD - len(first) - 2 * DATAGRAM_OVERHEAD
            while lane.queue_depth(peer.leg):
                more = lane.dequeue(peer.leg, now, room)
                if more is None:
                    break
                batch.append(more)
                room -= len(more) + DATAGRAM_OVERHEAD
            if not self.seal(peer, batch, now):
                for _ in batch:
                    lane.unsent(DropReason.SEND_ERROR)
            if not lane.queue_depth(peer.leg):
                return

    # ------------------------------------------------------------ acknowledgements

    def note_ack(self, peer: Peer, now: float) -> None:
        """The peer may have to be acknowledged: at the latest in a while, by itself if no audio leaves."""
        if peer.ack_listed or peer.quic.ack_due is None:
            return
        peer.ack_listed = True
        heapq.heappush(self._acks, (now + ACK_HOLD, next(self._order), peer))
        if not self._acks_armed:
            self._acks_armed = True
            self._loop.call_at(now + ACK_HOLD, self._on_acks)

    def _on_acks(self) -> None:
        self._acks_armed = False
        now = self._clock()
        until = now + TURN_SECONDS
        acks = self._acks
        while acks and acks[0][0] <= now + EARLY and self._clock() < until:
            _, _, peer = heapq.heappop(acks)
            peer.ack_listed = False
            if peer.state is not PeerState.OPEN:
                continue
            due = peer.quic.ack_due
            if due is None:
                continue
            if due > now + EARLY:
                peer.ack_listed = True
                heapq.heappush(acks, (due, next(self._order), peer))
            elif not peer.quic.is_rekeying:
                self.seal(peer, [], now)
        if acks:
            self._acks_armed = True
            self._loop.call_at(acks[0][0], self._on_acks)
