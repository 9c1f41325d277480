"""Every UDP packet accounted for: what the lane counted, and what became of those it handed to the loop.

    received = sum(handled) + sum(dropped) + waiting

Must never live here: what to do with a packet.
"""

from __future__ import annotations

from collections import Counter

from relay.core.reasons import DropReason
from relay.edge.lane import Lane, PacketCounts


class Ledger:
    """Counts of one endpoint. Its owner counts what it deals with; all else is the lane's."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._handled: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._dropped: Counter[DropReason] = Counter()
        self._packets_held = 0  # taken from the lane and not dealt with yet

    @property
    def udp_in(self) -> int:
        """UDP packets received."""
        return self._lane.packets().received

    @property
    def handled(self) -> Counter[str]:
        """Received packets that had an effect, by kind."""
        return self._handled + self._of_lane()[0]

    @property
    def answered(self) -> Counter[str]:
        """Packets of nobody's connection that got an answer, by kind."""
        return self._answered + Counter(self._lane.packets().answered)

    @property
    def dropped(self) -> Counter[DropReason]:
        """Received packets that went no further, by reason."""
        return self._dropped + self._of_lane()[1]

    @property
    def waiting(self) -> int:
        """UDP packets that the loop has not dealt with."""
        return self._lane.packets().waiting + self._packets_held

    def _of_lane(self) -> tuple[Counter[str], Counter[DropReason]]:
        counts = self._lane.packets()
        return Counter({"media": counts.media, **counts.answered}), Counter(counts.dropped)

    def imbalance(self) -> int:
        """How far `udp_in = handled + dropped + waiting` is from holding."""
        return self.unbalanced(self._lane.packets())

    def unbalanced(self, counts: PacketCounts) -> int:
        """As `imbalance`, for the lane's counts of this moment."""
        settled = sum(self._handled.values()) + sum(self._dropped.values()) + self._packets_held
        return counts.imbalance() + abs(counts.taken - settled)
