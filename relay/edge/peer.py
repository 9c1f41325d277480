"""One connection as the endpoint keeps it: who it is, which ids are its own, when its timer is due.

Must never live here: anything the connection or the engine knows already.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from aioquic.quic.connection import NetworkAddress

from relay.edge.h3 import WebTransport
from relay.quic.connection import RelayQuic
from relay.quic.trunk import TRUNK_STREAM_WINDOW, TRUNK_WINDOW, key_of

MAX_BACKLOG = 256 * 1024  # control bytes held for a peer that does not take them: 16 of the largest frames


class PeerState(Enum):
    """How far a connection is."""

    HALF_OPEN = "half_open"  # handshake in progress, address perhaps not proven
    OPEN = "open"  # confirmed; the engine knows the leg
    CLOSING = "closing"  # we or the peer closed; waits for the QUIC stack to finish
    GONE = "gone"


class Peer:
    """A connection and its place in the endpoint's tables."""

    __slots__ = (
        "ack_listed",
        "address",
        "armed",
        "control_stream",
        "deadline",
        "http",
        "ids",
        "is_trunk",
        "kept",
        "leg",
        "most_backlog",
        "node",
        "quic",
        "retired",
        "second",
        "state",
    )

    def __init__(self, leg: int, quic: RelayQuic, address: NetworkAddress, deadline: float) -> None:
        self.leg = leg
        self.quic = quic
        self.address = address
        self.deadline = deadline  # the handshake must be done by then
        self.state = PeerState.HALF_OPEN
        self.ids: set[bytes] = set()
        self.armed: float | None = None
        self.control_stream: int | None = None
        self.ack_listed: float | None = None  # when the outbox looks at its acknowledgement
        self.retired: deque[bytes] = deque()
        self.http: WebTransport | None = None  # it speaks HTTP/3
        self.kept: object = None  # what of it was kept for a process to come; None: not what is true now
        self.is_trunk = False  # it speaks vrl-t/1
        self.node = ""  # whom we dialed; "": nobody, it came to us
        self.second = False  # by the second of its addresses
        self.most_backlog = MAX_BACKLOG

    @property
    def key(self) -> bytes | None:
        """The Ed25519 key of the node that we dialed, 32 bytes; None: of another kind, or it dialed us."""
        shown = self.quic.peer_certificate
        return None if shown is None else key_of(shown)

    def carry(self) -> None:
        """Who is at the other end of this trunk is known: more than a leg's may be under way."""
        self.quic.widen(TRUNK_WINDOW, TRUNK_STREAM_WINDOW)
        self.most_backlog = TRUNK_WINDOW

    @property
    def transport(self) -> str:
        """What `hello.leg` has to say."""
        return "quic" if self.http is None else "wt"

    @property
    def takes_datagrams(self) -> bool:
        """The other side announced DATAGRAM frames large enough."""
        return self.quic.peer_takes_datagrams if self.http is None else self.http.takes_datagrams

    @property
    def close_code(self) -> int:
        """What it was closed with: the session, if it is one's end, else the connection."""
        code = None if self.http is None else self.http.code
        return self.quic.close_code if code is None else code

    @property
    def is_parting(self) -> bool:
        """No leg any more, and its connection stays until the peer has heard why."""
        return self.state is PeerState.CLOSING and not self.quic.is_closing

    @property
    def is_gone(self) -> bool:
        """Forgotten: its connection is released and must not be touched."""
        return self.state is PeerState.GONE
