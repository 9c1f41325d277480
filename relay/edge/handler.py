"""Who carries legs, and who hears of them: the faces between endpoint, streams, driver and TURN.

Must never live here: anything that does something.
"""

from __future__ import annotations

from typing import Protocol

from aioquic.quic.connection import NetworkAddress

from relay.protocol.address import Address


class Carrier(Protocol):
    """Who carries legs: the endpoint those on QUIC, `relay.edge.streams` those on TCP."""

    def send_stream(self, leg: int, data: bytes) -> None:
        """Write whole frames to the leg's control stream."""

    def send_datagram(self, leg: int, data: bytes) -> None:
        """Send a control datagram now, or not at all."""

    def close(self, leg: int, code: int, reason: str) -> None:
        """Close with an application code, after what was written before."""

    def last_heard(self, leg: int) -> float | None:
        """When the leg last sent something authentic, monotonic seconds."""


class Handler(Protocol):
    """What the endpoint tells: facts, in order, never from inside a call to the endpoint's senders."""

    def opened(
        self,
        leg: int,
        address: Address,
        datagrams: bool,
        transport: str = "quic",
        carrier: Carrier | None = None,
    ) -> None:
        """The handshake is confirmed, and on HTTP/3 a session open. `carrier`: who, if not the endpoint."""

    def trunk_opened(self, leg: int, key: bytes | None, largest: int) -> None:
        """The handshake of a connection to another node is confirmed, by ALPN vrl-t/1.

        `key`: of the certificate of whom we dialed, 32 bytes, and one of its pins; None: it dialed us.
        `largest`: bytes of a datagram that it takes.
        """

    def stream(self, leg: int, data: bytes, end: bool) -> None:
        """Bytes of the control stream, in order."""

    def datagram(self, leg: int, data: bytes) -> None:
        """A control datagram."""

    def gap(self, leg: int, flow: int, kid: int, newest: int, missing: int) -> None:
        """Packets of a watched flow have not come: see `relay.edge.lane.Gap`."""

    def moved(self, leg: int, address: Address) -> None:
        """The peer's validated address changed."""

    def lost(self, leg: int, code: int) -> None:
        """The transport is gone."""


class TurnHandler(Protocol):
    """Who answers STUN, and writes the streams of TURN's clients."""

    def stun(self, data: bytes, address: NetworkAddress, sock: int) -> None:
        """A STUN packet that came by UDP and is no client's payload."""

    def to_client(self, allocation: int, data: bytes) -> None:
        """Messages for the stream of an allocation's client."""
