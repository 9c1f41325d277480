"""Somebody here whose call has its home at another node: how far they came, and what they need elsewhere.

    hello --join--> half --attached--> ear          said to them: ticket {rt, ht} --> `way_on`

Must never live here: what is said to whom (visiting.py), when somebody is sent on (referral.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from relay.core.trunk import node_of
from relay.core.trunk_half import Half
from relay.core.visit_routes import Ear
from relay.protocol import control


@dataclass(slots=True)
class Visit:
    """Somebody here, from the hello on."""

    leg: int
    home: str
    hello: control.Hello
    half: Half | None = None
    """From the join on."""
    id: int = 0
    """Of the join."""
    is_asked: bool = False
    """Whether the home has heard of it."""
    ear: Ear | None = None
    """From the answer of the home on."""
    is_silent: bool = False
    ticket: bytes | None = None
    """The newest that is good at the home."""
    spare: bytes | None = None
    """The newest that is good at any node."""

    @property
    def way_on(self) -> bytes | None:
        """By which their place is theirs elsewhere; None before the home took them."""
        return self.spare or self.ticket

    def on_ticket(self, data: bytes) -> None:
        """The home says a `ticket` to them, this message. PeerError for one that is none."""
        ticket = control.decode(data).body
        if isinstance(ticket, control.Ticket):
            self.ticket, self.spare = ticket.rt, ticket.ht or self.spare

    def needs(self, way: str, *, is_newest: bool) -> bool:
        """Whether what they hear, or what decides about it, comes by this way; voices come by the newest."""
        half = self.half
        if half is None or half.number is None:
            return False
        node = node_of(way)
        return way == half.home or (is_newest and (node in half.hears.values() or node in half.goes_to))
