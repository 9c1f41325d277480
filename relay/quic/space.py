"""aioquic's 1-RTT packet space as a view of the packet path, which owns the numbers.

aioquic finds its received set, ranges to acknowledge and largest numbers where it always does, by duck type;
they stand in the path, in Rust or in Python. Must never live here: private names of aioquic, and state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aioquic.quic.connection import NetworkAddress
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketNumberWindow, QuicPacketSpace

KeySet = tuple[bytes, bytes, bytes]  # AEAD key, IV, header protection key


class Lent(NamedTuple):
    """What a connection lends the packet path: all that it needs to go on without the connection."""

    suite: int
    phase: int
    recv: KeySet
    send: KeySet
    coming: tuple[bytes, bytes]
    prefix: bytes
    host_cid: bytes
    peer_cid: bytes
    address: NetworkAddress
    sock: int
    peer_acks: tuple[int, float]


class PathState(Protocol):
    """What a connection shares with the packet path; `relay.edge.path.Path` documents each member."""

    expected: int
    largest: int
    largest_at: float | None
    ack_at: float | None
    last_heard: float
    outstanding: bool
    confirmed: bool
    update_after: int

    def set_facts(
        self,
        *,
        active: bool,
        host_cid: bytes,
        peer_cid: bytes,
        address: NetworkAddress | None,
        sock: int,
        peer_acks: tuple[int, float],
    ) -> None: ...
    def set_prefix(self, prefix: bytes) -> None: ...
    def set_keys(
        self, suite: int, phase: int, recv: KeySet, send: KeySet, coming: tuple[bytes, bytes]
    ) -> None: ...
    def rtt(self) -> tuple[float, float, float, float] | None: ...
    def set_rtt(self, latest: float, smoothed: float, variance: float, minimum: float) -> None: ...
    def reserve(self, count: int) -> int: ...
    def settle(self, following: int) -> None: ...
    def keep(self, place: int) -> None: ...
    def slow_done(self) -> None: ...
    def has(self, number: int) -> bool: ...
    def add(self, number: int) -> None: ...
    def ranges(self) -> list[tuple[int, int]]: ...
    def subtract(self, stop: int) -> None: ...
    def honest(self, ranges: Sequence[tuple[int, int]]) -> bool: ...
    def acknowledged(self, ranges: Sequence[tuple[int, int]], delay: int, now: float) -> None: ...
    def room(self, now: float) -> bool: ...
    def seal(self, datagrams: list[bytes], now: float) -> bytes: ...

    @property
    def ack_due(self) -> float | None: ...
    @property
    def update_asked(self) -> bool: ...
    @property
    def media_in_flight(self) -> int: ...
    @property
    def media_lost(self) -> int: ...
    @property
    def key_updates(self) -> int: ...


class SharedRanges(RangeSet):
    """The packet path's received ranges as of now, for aioquic to read; what it adds goes to the path."""

    def __init__(self, path: PathState) -> None:
        self._path = path
        super().__init__()
        for start, stop in path.ranges():
            super().add(start, stop)

    def add(self, start: int, stop: int | None = None) -> None:
        """A packet number that aioquic received; it never adds several at once here."""
        self._path.add(start)
        super().add(start, stop)

    def subtract(self, start: int, stop: int) -> None:
        """The peer knows that these arrived."""
        self._path.subtract(stop)
        super().subtract(start, stop)


class SharedWindow(QuicPacketNumberWindow):
    """The packet path's memory of received numbers; `SharedRanges.add` has noted what aioquic adds."""

    def __init__(self, path: PathState) -> None:
        super().__init__()
        self._path = path

    def add(self, packet_number: int) -> None: ...

    def __contains__(self, packet_number: int) -> bool:
        return self._path.has(packet_number)


class SharedSpace(QuicPacketSpace):
    """The 1-RTT packet space: what was received and is to be acknowledged stands in the packet path.

    While it is lent the path acknowledges by itself, so aioquic finds no acknowledgement due, whatever a
    thread of the lane does meanwhile: aioquic reads `ack_at` twice and counts on the same.
    """

    def __init__(self, path: PathState) -> None:
        self._path = path
        self.is_lent = False
        super().__init__(is_application_data=True)

    @property
    def ack_at(self) -> float | None:
        return None if self.is_lent else self._path.ack_at

    @ack_at.setter
    def ack_at(self, when: float | None) -> None:
        known = self._path.ack_at
        if when is None or known is None or when < known:
            self._path.ack_at = when

    @property
    def ack_queue(self) -> RangeSet:
        return SharedRanges(self._path)

    @ack_queue.setter
    def ack_queue(self, _: RangeSet) -> None:
        """aioquic's constructor sets an empty one."""

    @property
    def received_packets(self) -> QuicPacketNumberWindow:
        return SharedWindow(self._path)

    @received_packets.setter
    def received_packets(self, _: QuicPacketNumberWindow) -> None:
        """As above."""

    @property
    def expected_packet_number(self) -> int:
        return self._path.expected

    @expected_packet_number.setter
    def expected_packet_number(self, number: int) -> None:
        self._path.expected = number

    @property
    def largest_received_packet(self) -> int:
        return self._path.largest

    @largest_received_packet.setter
    def largest_received_packet(self, number: int) -> None:
        self._path.largest = number

    @property
    def largest_received_time(self) -> float | None:
        return self._path.largest_at

    @largest_received_time.setter
    def largest_received_time(self, when: float | None) -> None:
        self._path.largest_at = when
