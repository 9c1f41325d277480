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
        return self.all_handled(self._lane.packets())

    @property
    def answered(self) -> Counter[str]:
        """Packets of nobody's connection that got an answer, by kind."""
        return self.all_answered(self._lane.packets())

    @property
    def dropped(self) -> Counter[DropReason]:
        """Received packets that went no further, by reason."""
        return self.all_dropped(self._lane.packets())

    @property
    def waiting(self) -> int:
        """UDP packets that the loop has not dealt with."""
        return self.all_waiting(self._lane.packets())

    # The same with the lane's counts of one moment, so that they add up while its threads go on.

    def all_handled(self, counts: PacketCounts) -> Counter[str]:
        """See `handled`."""
        return self._handled + Counter({"media": counts.media, "relayed": counts.relayed, **counts.answered})

    def all_answered(self, counts: PacketCounts) -> Counter[str]:
        """See `answered`."""
        return self._answered + Counter(counts.answered)

    def all_dropped(self, counts: PacketCounts) -> Counter[DropReason]:
        """See `dropped`."""
        return self._dropped + Counter(counts.dropped)

    def all_waiting(self, counts: PacketCounts) -> int:
        """See `waiting`."""
        return counts.waiting + self._packets_held

    def imbalance(self) -> int:
        """How far `udp_in = handled + dropped + waiting` is from holding."""
        return self.unbalanced(self._lane.packets())

    def unbalanced(self, counts: PacketCounts) -> int:
        """As `imbalance`, for the lane's counts of this moment."""
        settled = sum(self._handled.values()) + sum(self._dropped.values()) + self._packets_held
        return counts.imbalance() + abs(counts.taken - settled)
