"""A leg at another node, ahead of the one in use: what is said there until we go over, and who is there.

    joined --> what changed the call is said there, too --> the other is `there`: it may be gone over to

Must never live here: when to go over (following.py, refuge.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from relay.client.leg import RelayLeg
from relay.protocol.messages import (
    Accept,
    Block,
    Bye,
    Decline,
    Ended,
    Gate,
    Hangup,
    Joined,
    Message,
    Mute,
    Obs,
    Peer,
    Ticket,
    Welcome,
)

SAID_TWICE: Final = (Accept, Block, Decline, Hangup, Mute)
"""What changes the call: while there are several nodes, all hear it."""
_HERE: Final = frozenset({"join", "accept", "back"})


class Ahead:
    """What is known of one such leg."""

    def __init__(self, leg: RelayLeg, said: Sequence[Message], aside: Callable[[Message, RelayLeg], None]):
        """`said`: what was said elsewhere since we are on the way; `aside`: hears what holds all the same."""
        self.leg = leg
        self.joined: Joined | None = None
        self.ticket: bytes | None = None
        """For our place there."""
        self.there: set[int] = set()
        """Who is, besides us."""
        self._said = said
        self._aside = aside

    @staticmethod
    def takes(message: Message) -> bool:
        """Whether a message on the leg is ours: all but what is a leg's own, wherever it stands."""
        return not isinstance(message, Welcome | Obs | Bye)

    def on_message(self, message: Message) -> None:
        """A message on the leg."""
        match message:
            case Joined():
                self.joined, self.ticket = message, message.rt
                self.leg.up = message.up
                self.there = {entry.p for entry in message.roster if entry.st != "away"}
                for said in self._said:
                    self.leg.tell(said)
            case Ticket():
                self.ticket = message.rt
            case Peer():
                (self.there.add if message.ev in _HERE else self.there.discard)(message.p)
                self._aside(message, self.leg)
            case Ended() if message.why == "failed":
                self.leg.close()  # the other never came there: where both are, the call goes on
            case Gate():
                if self.joined is not None:
                    self.joined = msgspec.structs.replace(self.joined, gate=message.open)
                self._aside(message, self.leg)
            case _:
                self._aside(message, self.leg)

    def note(self, message: Message) -> None:
        """One of `said` is new."""
        if self.joined is not None:
            self.leg.tell(message)
