"""The legs a session stands on: one, two for the time of a move, or two that carry one way each.

    step(leg) --both carry all--> leave()         the old leg is let go, or
                               '-> divide(way)    keeps that way, and the main leg has the other one
                                   unite(leg) --both carry all--> leave()

Must never live here: messages, when to step (ladder.py), times (session.py).
"""

from __future__ import annotations

from relay.client.health import Direction
from relay.client.leg import RelayLeg


class Footing:
    """Which leg carries what."""

    def __init__(self) -> None:
        self.main: RelayLeg | None = None
        """The leg on which we talk to the relay."""
        self.beside: RelayLeg | None = None
        self.way: Direction | None = None
        """What `beside` carries alone; None: what it carries the main leg carries too."""
        self._is_settled = False
        self._unsent = 0  # of legs that are gone
        self._repeated = 0

    @property
    def legs(self) -> tuple[RelayLeg, ...]:
        """All of them, the main one first."""
        return tuple(leg for leg in (self.main, self.beside) if leg is not None)

    @property
    def mouths(self) -> tuple[RelayLeg, ...]:
        """Those that media is sent on."""
        return (self._of("up"),) if self.way is not None and self._is_settled else self.legs

    @property
    def ear(self) -> RelayLeg | None:
        """The one that media comes on; of two the main one."""
        return None if self.main is None else self._of("down")

    @property
    def unsent(self) -> int:
        """Media dropped before the network; not what one of two legs dropped that carried the same."""
        return self._unsent + sum(leg.unsent for leg in self.legs)

    @property
    def repeated(self) -> int:
        """Media that went again, since a relay did not get it, by all legs there were."""
        return self._repeated + sum(leg.repeated for leg in self.legs)

    def carrier(self, way: Direction) -> RelayLeg | None:
        """The leg for this way."""
        return None if self.main is None else self._of(way)

    def step(self, leg: RelayLeg) -> RelayLeg | None:
        """Another leg is the main one; both carry. Returns the one that is beside now."""
        self.leave()
        old, self.main = self.main, leg
        self.beside = old if old is not None and old.error is None else None
        if old is not None:
            self._unsent += old.unsent
            if self.beside is None:
                self._repeated += old.repeated
            old.forgive()
        return self.beside

    def divide(self, way: Direction) -> None:
        """`beside` carries this way from now on, the main leg the other one; both carry up until `settle`."""
        self.way, self._is_settled = way, False

    def settle(self) -> None:
        """One leg is enough now."""
        if self.way is not None and not self._is_settled and self.beside is not None:
            self._is_settled = True
            self.beside.forgive()

    def unsettle(self) -> None:
        """One of two is about to carry all: until it is agreed on send on both."""
        self._is_settled = False

    def unite(self, leg: RelayLeg) -> RelayLeg | None:
        """This one carries all; both for a moment. Returns the one to let go."""
        self.way = None
        if leg is self.beside:
            self.main, self.beside = leg, self.main
        return self.beside

    def leave(self) -> None:
        """The second leg is let go, or gone."""
        if self.beside is not None:
            self._unsent += self.beside.unsent if self.way == "up" else 0
            self._repeated += self.beside.repeated
        self.beside = self.way = None

    def on_closed(self, leg: RelayLeg) -> None:
        """A leg is gone: if it was the main one of two, the relay gives its place to the other one, too."""
        if leg is self.beside:
            self.leave()
        elif leg is self.main and self.beside is not None:
            self._unsent += leg.unsent
            self._repeated += leg.repeated
            self.main, self.beside, self.way = self.beside, None, None

    def _of(self, way: Direction) -> RelayLeg:
        assert self.main is not None
        return self.beside if self.way == way and self.beside is not None else self.main
