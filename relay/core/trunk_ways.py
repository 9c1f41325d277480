"""The ways to the other nodes: whom we know, and which of the two ways to each leads to its newest process.

    a process greets by --> newest, if nobody else is there by it, or the same process (`boot`) is
                        --> the other, if that process is there by it
                        --> the other, which is the newest from now on

Whatever is new goes to the newest process, what there is stays with the one before as long as that answers
(trunk.py). Must never live here: connections, and who needs a trunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relay.core.trunk import Trunk, beside
from relay.protocol.trunk_messages import Greet


class Ways:
    """Those of one node, two to each other one."""

    def __init__(self, own: str, nodes: Iterable[str]) -> None:
        """`own`: our node's id; `nodes`: those of all that we know."""
        self._newest = {name: name for name in nodes if name != own}
        """The way to each node's newest process."""
        ways = (way for name in self._newest for way in (name, beside(name)))
        self._trunks = {way: Trunk(own, way) for way in ways}

    def __getitem__(self, way: str) -> Trunk:
        """The trunk by this way, to a node that we know."""
        return self._trunks[way]

    def __iter__(self) -> Iterator[Trunk]:
        """All, whatever they are good for now."""
        return iter(self._trunks.values())

    def get(self, way: str) -> Trunk | None:
        """The trunk by this way; None: to a node that we do not know."""
        return self._trunks.get(way)

    def there(self, way: str) -> Trunk | None:
        """The same, if messages and voices pass on it."""
        found = self._trunks.get(way)
        return found if found is not None and found.is_there else None

    def knows(self, node: str) -> bool:
        """Whether we may have a trunk to this node."""
        return node in self._newest

    def newest(self, node: str) -> str:
        """The way to a node's newest process; to one that we do not know there is none, whatever its name."""
        return self._newest.get(node, node)

    def is_newest(self, there: Trunk) -> bool:
        """Whether this is the way to its node's newest process."""
        return there.way == self._newest[there.node]

    def process(self, peer: Greet) -> Trunk | None:
        """The trunk to this very process of a node, there or not; None: we have not met it."""
        both = (self._trunks[peer.node], self._trunks[beside(peer.node)])
        return next((one for one in both if one.peer is not None and one.peer.boot == peer.boot), None)

    def settle(self, peer: Greet, now: float) -> tuple[Trunk, Trunk | None]:
        """The way that a connection to this process takes; and the newest one before, if this is from now on.

        A process that we do not know is the newest.
        """
        newest = self._trunks[self._newest[peer.node]]
        other = self._trunks[beside(newest.way)]
        if not newest.is_there or newest.peer is None or newest.peer.boot == peer.boot:
            return newest, None
        if other.is_there and other.peer is not None and other.peer.boot == peer.boot:
            return other, None
        self._newest[peer.node] = other.way
        if newest.is_wanted:
            other.want(now)
        newest.unwant()
        return other, newest
