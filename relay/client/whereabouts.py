"""Where the other end of a direct connection is, when the NAT in front of it gave it another port.

    an authentic packet from elsewhere --> that is where it is --> at most three times what came, until proven

QUIC lets its clients move and not its servers (RFC 9000 section 9), but of two people either may sit behind a
NAT that forgets. So QUIC's client follows here, below QUIC, which goes on believing in the address it knows.
Must never live here: sockets, and who says that a packet is authentic.
"""

from __future__ import annotations

from typing import Final

from relay.protocol.address import Address

_FACTOR: Final = 3  # RFC 9000 section 8.1


class Whereabouts:
    """One peer's address as its packets tell it."""

    def __init__(self) -> None:
        self.address: Address | None = None
        """Where it is now; None: where QUIC thinks."""
        self._is_proven = True
        self._came = 0
        self._sent = 0

    def on_packet(self, source: Address | None, size: int) -> bool:
        """An authentic packet of `size` bytes came from there; True if the peer has moved."""
        if source == self.address:
            self._came += size
            return False
        self.address = source
        self._is_proven = source is None  # QUIC's own address needs no proof of ours
        self._came, self._sent = size, 0
        return True

    def on_proven(self) -> None:
        """It answered something that went there."""
        self._is_proven = True

    def may_send(self, size: int) -> bool:
        """Whether so many bytes may go there now; they count as sent."""
        if self._is_proven:
            return True
        if self._sent + size > _FACTOR * self._came:
            return False
        self._sent += size
        return True
