"""One loop timer for all connections: a heap of due times, most of which move on before they come.

A connection's deadline moves with every packet, so it is armed at the earliest time known and looked at again
then. Must never live here: what happens when a connection is due.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

from relay.edge.peer import Peer

TURN_SECONDS = 0.0007  # slow work per loop turn and kind of it: audio passes between


class Timer(Protocol):
    """A scheduled callback that can be taken back."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """The part of the event loop that a node uses."""

    def call_soon(self, callback: Callable[[], None]) -> object: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> Timer: ...


class PeerTimers:
    """Calls `expire(peer, now)` for peers that are due, for a bounded time in one loop turn."""

    def __init__(self, loop: Loop, clock: Callable[[], float], expire: Callable[[Peer, float], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._expire = expire
        self._heap: list[tuple[float, int, Peer]] = []
        self._order = 0
        self._timer: Timer | None = None
        self._timer_at: float | None = None

    def arm(self, peer: Peer, due: float) -> None:
        """Look at the peer at `due`, or earlier if it is armed earlier already."""
        if peer.armed is not None and peer.armed <= due:
            return
        peer.armed = due
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, peer))
        self._arm_loop()

    def _arm_loop(self) -> None:
        if self._heap and (self._timer_at is None or self._heap[0][0] < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()  # one at a time: each would take a turn's budget of its own
            self._timer_at = self._heap[0][0]
            self._timer = self._loop.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = self._timer_at = None
        until = self._clock() + TURN_SECONDS
        while self._heap:
            now = self._clock()
            due, _, peer = self._heap[0]
            if due > now or now >= until:
                break
            heapq.heappop(self._heap)
            if not peer.is_gone and peer.armed == due:
                peer.armed = None
                self._expire(peer, now)
        self._arm_loop()
