"""Sending people of other nodes' calls on: to the home itself, and if that is gone, to the call's standbys.

    trunk suspect --------------------------.
    trunk down --200 ms, and it is not up --+--> drain {to: home, standbys; ht} to each whose call needs it

The client goes there beside the leg that it has here, and over once the other one is there, too; so what is
sent on for nothing is heard by nobody. A trunk that comes back takes nothing back: whoever is on the way
arrives at the home, where the call is. Must never live here: which trunk is suspect (trunk.py), the client's
way (client/following.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from relay.core.node import Node
from relay.core.trunk import node_of
from relay.core.trunk_half import ORPHAN_S
from relay.core.visit import Visit
from relay.protocol import control

DOWN_S: Final = 0.2  # a connection may have given its place to another one
AT_ONCE: Final = 100  # whom a home can greet in EACH_S: with more, each waits for their turn
EACH_S: Final = 0.1
MOST_TO: Final = 8  # addresses that `drain` has room for


class Referral:
    """Those of one node."""

    def __init__(
        self,
        node: Node,
        visits: Mapping[int, Visit],
        urls_of: Callable[[str], tuple[str, ...]],
        newest: Callable[[str], str],
    ) -> None:
        """`visits`: by leg, all there are; `urls_of`: a node's addresses, as far as they are known.

        `newest`: the way to a node's newest process.
        """
        self._node = node
        self._visits = visits
        self._urls_of = urls_of
        self._newest = newest
        self._down: dict[str, float] = {}
        """When people are sent away from a trunk that is not there, unless it is before."""
        self._waiting: deque[int] = deque()
        self._next_at = 0.0

    def standbys(self, visit: Visit) -> tuple[control.StandbyEntry, ...]:
        """For `joined`: where to go when this node is silent. The call goes on at its home, if that lives."""
        half = visit.half
        if half is None or not half.standby:
            return ()
        found = ((node, self._urls_of(node)) for node in (visit.home, half.standby[0]))
        return tuple(control.StandbyEntry(node=node, url=urls[0]) for node, urls in found if urls)

    def refer(self, visits: Iterable[Visit]) -> None:
        """Send them on, some now and the others soon."""
        waiting = frozenset(self._waiting)
        self._waiting.extend(visit.leg for visit in visits if visit.leg not in waiting)
        self._step()

    def on_suspect(self, node: str) -> None:
        """The trunk by this way to a node is silent."""
        is_newest = node == self._newest(node_of(node))
        self.refer([visit for visit in self._visits.values() if visit.needs(node, is_newest=is_newest)])

    def on_down(self, node: str) -> None:
        """It is not there any more."""
        self._down[node] = self._node.now + DOWN_S

    def on_up(self, node: str) -> None:
        """It is there."""
        self._down.pop(node, None)

    def next_deadline(self) -> float | None:
        """When somebody's turn comes."""
        found = list(self._down.values())
        if self._waiting:
            found.append(self._next_at)
        return min(found, default=None)

    def on_timer(self, now: float) -> None:
        """Time went by."""
        for node in [node for node, when in self._down.items() if when <= now]:
            del self._down[node]
            self.on_suspect(node)
        self._step()

    def _step(self) -> None:
        now = self._node.now
        if not self._waiting or now < self._next_at:
            return
        self._next_at = now + EACH_S
        for _ in range(min(AT_ONCE, len(self._waiting))):
            visit = self._visits.get(self._waiting.popleft())
            if visit is not None:
                self._say(visit)

    def _say(self, visit: Visit) -> None:
        half, ticket = visit.half, visit.way_on
        to = self._urls_of(visit.home)
        if half is None or ticket is None or not to:
            return
        others = tuple(url for node in half.standby for url in self._urls_of(node)[:1])
        room = MOST_TO - len(others)
        by_ms, to = round(1000 * ORPHAN_S), (*to[:room], *others)
        drain = control.Drain(in_ms=0, by_ms=by_ms, to=to, ht=ticket, stb=len(others))
        self._node.count("referred")
        self._node.send(visit.leg, drain)
