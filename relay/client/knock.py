"""Finding an address pair that works: short authenticated packets both ways, before anything else is said.

    ask | answer = 20 | kind u8 (0 ask, 1 answer) | sender u8 | nonce b8 | 0 | MAC b16        28 bytes

A first byte of 20 is neither QUIC nor STUN, so a relay that gets one drops it. The MAC is keyed by the key
agreement. An ask that opens is answered where it came from, and asked back there: the NAT in between may have
made an address nobody told. Only an answer to a nonce of ours proves an address. Must never live here:
sockets, clocks (`now` is an argument).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final, NamedTuple

from relay.client.agreement import Draw
from relay.client.candidates import derive
from relay.protocol.address import Address

FIRST: Final = 0x20
SIZE: Final = 28
ATTEMPTS: Final = (0.0, 0.05, 0.1, 0.2, 0.35, 0.55, 0.75, 0.95)  # seconds into a round, for each address
MAX_ADDRESSES: Final = 16  # told and learned together
_ASK: Final = 0
_ANSWER: Final = 1
_MAC: Final = 16


class Packet(NamedTuple):
    """To be sent."""

    data: bytes
    address: Address


class Knocker:
    """One side's rounds toward another. `found` is the first address that answered, with its round trip."""

    def __init__(self, secret: bytes, own: int, peer: int, addresses: Iterable[Address], draw: Draw) -> None:
        self._key = derive(secret, b"knock")
        self._own = own
        self._peer = peer
        self._addresses = list(addresses)[:MAX_ADDRESSES]
        self._draw = draw
        self._asked: dict[bytes, tuple[Address, float]] = {}
        self._due: list[float] = []
        self.heard: set[Address] = set()
        """Addresses from which an authentic packet came."""
        self.found: Address | None = None
        self.rtt: float | None = None

    def begin_round(self, now: float) -> None:
        """Knock from now on; what an earlier round still had to send is not sent.

        Once an address answered only that one is asked: the other side may have begun anew since.
        """
        self._due = [now + after for after in ATTEMPTS]

    def next_deadline(self) -> float | None:
        """When something is to be sent, None when nothing is."""
        return self._due[0] if self._due else None

    def due(self, now: float) -> list[Packet]:
        """Asks that are due by now."""
        packets: list[Packet] = []
        addresses = self._addresses if self.found is None else [self.found]
        while self._due and self._due[0] <= now:
            self._due.pop(0)
            packets += [self._ask(address, now) for address in addresses]
        return packets

    def receive(self, data: bytes, source: Address, now: float) -> list[Packet]:
        """A packet from a stranger; answers to send. Anything that is not ours is ignored."""
        if len(data) != SIZE or data[0] != FIRST or data[2] != self._peer:
            return []
        if not hmac.compare_digest(data[-_MAC:], self._mac(data[:-_MAC])):
            return []
        if len(self.heard) < MAX_ADDRESSES:
            self.heard.add(source)
        nonce = data[3:11]
        if data[1] == _ANSWER:
            self._on_answer(nonce, source, now)
            return []
        if data[1] != _ASK:
            return []
        packets = [Packet(self._packet(_ANSWER, nonce), source)]
        if source not in self._addresses and len(self._addresses) < MAX_ADDRESSES:
            self._addresses.append(source)
            packets.append(self._ask(source, now))
        return packets

    def _on_answer(self, nonce: bytes, source: Address, now: float) -> None:
        asked = self._asked.pop(nonce, None)
        if asked is not None and asked[0] == source and self.found is None:
            self.found, self.rtt = source, now - asked[1]
            self._due = []

    def _ask(self, address: Address, now: float) -> Packet:
        nonce = self._draw(8)
        self._asked[nonce] = (address, now)
        while len(self._asked) > MAX_ADDRESSES * len(ATTEMPTS):
            self._asked.pop(next(iter(self._asked)))
        return Packet(self._packet(_ASK, nonce), address)

    def _packet(self, kind: int, nonce: bytes) -> bytes:
        head = bytes((FIRST, kind, self._own)) + nonce + b"\0"
        return head + self._mac(head)

    def _mac(self, head: bytes) -> bytes:
        return hmac.digest(self._key, head, "sha256")[:_MAC]
