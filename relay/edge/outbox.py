"""What leaves by the loop: the lane's packets where it has no threads, aioquic's, late acknowledgements.

Sending never waits: what the socket does not take is counted and dropped. Must never live here: what arrives,
and what a packet means.
"""

from __future__ import annotations

import heapq
import itertools
import socket
from collections.abc import Callable, Sequence

from aioquic.quic.connection import NetworkAddress

from relay.edge.lane import Lane
from relay.edge.path import EARLY
from relay.edge.peer import Peer, PeerState
from relay.edge.timers import TURN_SECONDS, Loop, Timer


class Outbox:
    """The way out of all connections, by the sockets of `sockets`, which may grow."""

    def __init__(
        self, loop: Loop, lane: Lane, clock: Callable[[], float], sockets: Sequence[socket.socket]
    ) -> None:
        self.sent = 0
        self.errors = 0
        self.doors: dict[int, socket.socket] = {}  # of relayed addresses that the lane does not serve itself
        self._loop = loop
        self._lane = lane
        self._clock = clock
        self._sockets = sockets
        self._acks: list[tuple[float, int, Peer]] = []  # a heap: an ACK listed again is due before others
        self._order = itertools.count()
        self._acks_timer: Timer | None = None
        self._acks_timer_at: float | None = None
        self._lane_timer: Timer | None = None
        self._lane_timer_at: float | None = None

    def send(self, sock: int, packet: bytes, addr: NetworkAddress) -> bool:
        """Give one packet to the kernel; False when it did not take it."""
        try:
            self._sockets[sock].sendto(packet, addr)
        except OSError:  # full buffer, unreachable: UDP promises nothing, and we never wait
            self.errors += 1
            return False
        self.sent += 1
        return True

    def seal(self, peer: Peer, datagrams: list[bytes], now: float) -> bool:
        """Send these datagrams in one packet; none of them: the acknowledgement alone, if it is due still."""
        packet, addr = peer.quic.seal_media(datagrams, now)
        return not packet or self.send(peer.quic.sock, packet, addr)

    def transmit(self, peer: Peer, now: float) -> None:
        """Send what aioquic has to say."""
        for packet, addr in peer.quic.datagrams_to_send(now):
            self.send(peer.quic.sock, packet, addr)

    def flush(self, now: float) -> None:
        """Send what the lane has ready, and look again when its next acknowledgement is due."""
        lane = self._lane
        for packet in lane.flush(now):
            try:
                self._sockets[packet[0]].sendto(packet[1], packet[2])
            except OSError:
                lane.unsent(packet)
        for allocation, data, address in lane.flush_relays():
            try:
                self.doors[allocation].sendto(data, address)
            except (OSError, KeyError):  # or it was closed a moment ago
                lane.unsent_to_peer()
        due = lane.next_ack()
        if due is not None and (self._lane_timer_at is None or due < self._lane_timer_at):
            if self._lane_timer is not None:
                self._lane_timer.cancel()
            self._lane_timer_at = due
            self._lane_timer = self._loop.call_at(due, self._on_lane)

    def _on_lane(self) -> None:
        self._lane_timer = self._lane_timer_at = None
        self.flush(self._clock())

    # ------------------------------------------------------------ acknowledgements of what aioquic received

    def note_ack(self, peer: Peer, now: float) -> None:
        """The peer may have to be acknowledged: at the latest in a while, by itself if no audio leaves."""
        due = None if peer.is_gone else peer.quic.path.ack_due
        if due is None or (peer.ack_listed is not None and peer.ack_listed <= due):
            return
        peer.ack_listed = due  # listed for later already: what waited for us is done, and it is due earlier
        heapq.heappush(self._acks, (due, next(self._order), peer))
        self._arm_acks()

    def _arm_acks(self) -> None:
        if not self._acks or (self._acks_timer_at is not None and self._acks_timer_at <= self._acks[0][0]):
            return
        if self._acks_timer is not None:
            self._acks_timer.cancel()
        self._acks_timer_at = self._acks[0][0]
        self._acks_timer = self._loop.call_at(self._acks_timer_at, self._on_acks)

    def _on_acks(self) -> None:
        self._acks_timer = self._acks_timer_at = None
        now = self._clock()
        until = now + TURN_SECONDS
        acks = self._acks
        while acks and acks[0][0] <= now + EARLY and self._clock() < until:
            _, _, peer = heapq.heappop(acks)
            peer.ack_listed = None
            if peer.state is not PeerState.OPEN:
                continue
            due = peer.quic.path.ack_due
            if due is None:
                continue
            if due > now + EARLY:
                peer.ack_listed = due
                heapq.heappush(acks, (due, next(self._order), peer))
            else:
                self.seal(peer, [], now)
        self._arm_acks()
