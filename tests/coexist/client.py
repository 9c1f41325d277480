"""What a client of another QUIC stack can do for the scene, whichever stack it is.

Must never live here: the stacks (stock.py, foreign.py), what a control message means (party.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

COUNTER_AT = 3  # in a media datagram: behind flow, H and the SFrame config byte


@dataclass
class Counts:
    """What one client saw. `ranges`: counters of the media heard, half-open, ascending."""

    lost: int = 0
    """Packets its loss detection declared lost."""
    congestion_events: int = 0
    sent: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    repeated: int = 0
    wrong: int = 0
    """Media whose bytes are not those that were sent."""
    discarded_packets: int = 0
    """Ack-eliciting packets of a key phase that the client had thrown away: it loses them, not the path."""
    discarded_media: int = 0
    """Media datagrams inside those."""
    unopened: int = 0
    """1-RTT packets that no key of the client's opens."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def heard(self) -> int:
        """Different media datagrams that came."""
        return sum(stop - start for start, stop in self.ranges)


class Client(Protocol):
    """One connection of some stack. `closed` tells why, once it is."""

    name: str
    on_stream: Callable[[bytes], None]
    closed: str | None

    def write(self, data: bytes) -> None:
        """Bytes of the control stream."""

    async def speak(self, prefix: bytes, first: int, count: int, interval: float, size: int) -> None:
        """Send media datagrams until all are sent: prefix, counter, filling."""

    def update_keys(self) -> None:
        """Begin the next key phase."""

    def change_id(self) -> None:
        """Send to another of the relay's connection ids; stacks that only do so when they move do nothing."""

    def rebind(self) -> None:
        """Go on from a new local port; what comes to the old one is still read for a while."""

    async def count(self) -> Counts:
        """What it saw so far."""

    async def close(self) -> None:
        """Leave."""


def filling(counter: int, size: int) -> bytes:
    """`size` bytes behind the counter: the receiver knows them from the counter alone."""
    return bytes((counter * 31 + i * 7) & 0xFF for i in range(size))


def packet(prefix: bytes, counter: int, size: int) -> bytes:
    """A media datagram of `size` bytes."""
    head = prefix + counter.to_bytes(4, "big")
    return head + filling(counter, size - len(head))
