"""Who is to be reached: whom somebody here needs, and whom a process that has just begun is to meet.

    need +1, spare -1 --> while it is not 0, the trunk to the node's newest process is wanted, and so dialed
    meet              --> needed until they have met us, for half a minute at most

Must never live here: when a trunk that is wanted is dialed (trunk.py), and how (trunk_upkeep.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from relay.core.trunk import node_of
from relay.core.trunk_links import Links

MEET_S: Final = 30.0  # a process that follows another one tries for so long to meet those whom that one knew


class Needs:
    """Those of one node."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._of: Counter[str] = Counter()
        self._to_meet: set[str] = set()
        """Nodes that are to hear of us, and do not know us yet."""
        self._meet_until: float | None = None

    def need(self, node: str) -> None:
        """Somebody here needs a trunk to this node; `spare` takes that back."""
        node = node_of(node)
        self._of[node] += 1
        there = self._links.ways.get(self._links.ways.newest(node))
        if there is not None:
            there.want(self._links.node.now)
            self._links.note(there)

    def spare(self, node: str) -> None:
        """One less does."""
        node = node_of(node)
        self._of[node] -= 1
        if not self._of[node]:
            del self._of[node]
            there = self._links.ways.get(self._links.ways.newest(node))
            if there is not None:
                there.unwant()
                self._links.note(there)

    def meet(self, nodes: Iterable[str]) -> None:
        """Have these nodes know of us, as the newest process of ours; for half a minute."""
        self._to_meet = {node for node in nodes if self._links.ways.knows(node)}
        for node in sorted(self._to_meet):
            self.need(node)
        self._meet_until = self._links.node.now + MEET_S if self._to_meet else None

    def on_met(self, nodes: Iterable[str]) -> None:
        """These know of us."""
        for node in self._to_meet & set(nodes):
            self._to_meet.remove(node)
            self.spare(node)

    def next_deadline(self) -> float | None:
        """When who has not met us is given up."""
        return self._meet_until

    def on_timer(self, now: float) -> None:
        """Time went by."""
        if self._meet_until is not None and now >= self._meet_until:
            self._meet_until = None
            self.on_met(tuple(self._to_meet))
