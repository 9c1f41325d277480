"""A leg that stands by at a standby, so that going there takes one round trip and no handshake.

    both accepted --some seconds, at random--> open, hello {ht, stand} --> a ping each 15 s --> `take`: rejoin
                          ^-------- gone, or refused: later, and later still --------'

Without one all goes as before, a little later. Must never live here: when it is needed (standby.py), and what
is done there (refuge.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final, Protocol

from relay.client.errors import RefusedError, SessionError
from relay.client.leg import RelayLeg
from relay.client.rungs import Destination
from relay.client.transport import Trust
from relay.errors import LocalError

FIRST_S: Final = (5.0, 45.0)
"""After the answer: all calls of a busy minute shall not shake hands twice in it."""
MOVED_S: Final = (10.0, 60.0)
"""After a move: a node that took up another's calls has enough to do."""
AGAIN_S: Final = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""After one that was refused or lost, half as much more or less."""
LASTED_S: Final = 60.0  # one that stood so long was no failure
PING_S: Final = 15.0  # half of what the relay and most address translators bear
LOOK_S: Final = 0.5


class Owner(Protocol):
    """What is needed of the session."""

    def make_leg_to(self, to: Destination, rung: int) -> RelayLeg:
        """A leg that is not open."""

    async def stand_by(self, leg: RelayLeg, ticket: bytes) -> None:
        """Hello with this ticket, and no more. RefusedError, SessionError."""


class Warm:
    """One session's."""

    def __init__(self, owner: Owner, trust: Trust) -> None:
        self._owner = owner
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self._leg: RelayLeg | None = None
        self._task: asyncio.Task[None] | None = None
        self._look_at = 0.0
        self._open_at: float | None = None
        self._ping_at = 0.0
        self._since = 0.0
        self._failed = 0

    @property
    def leg(self) -> RelayLeg | None:
        """The leg that stands by."""
        return self._leg if self._leg is not None and self._leg.error is None else None

    def look(self, places: Sequence[Destination], ticket: bytes, now: float) -> None:
        """Do what is due; `places` are the standbys of the node in use, the first is the best."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        if self._leg is not None and self._leg.error is not None:
            self._leg = None
            if now - self._since >= LASTED_S:
                self._failed = 0
            self._again(now)
        elif self._leg is not None and self._leg.to not in places:
            self._leg.close("another stands by")
            self._leg, self._open_at = None, now + random.uniform(*MOVED_S)
        elif self._leg is not None:
            if now >= self._ping_at:
                self._ping_at = now + PING_S * random.uniform(0.8, 1.2)
                self._leg.ping(now, busy=False)
        elif self._open_at is None:
            self._open_at = now + random.uniform(*FIRST_S)
        elif self._task is None and now >= self._open_at and places:
            self._task = self._loop.create_task(self._open(tuple(places), ticket), name="warm")

    def take(self, places: Sequence[Destination]) -> RelayLeg | None:
        """It is needed: whoever takes it has it. None: there is none at one of these."""
        leg = self.leg
        self._stop()
        if leg is not None and leg.to not in places:
            leg.close("another stands by")
            leg = None
        self._leg, self._open_at = None, self._loop.time() + random.uniform(*MOVED_S)
        return leg

    def drop(self) -> None:
        """The call is over, or nobody stands by for it any more."""
        self._stop()
        if self._leg is not None:
            self._leg.close("not needed any more")
        self._leg = self._open_at = None

    async def close(self) -> None:
        """Stop."""
        task = self._task
        self.drop()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    def _again(self, now: float) -> None:
        pause = AGAIN_S[min(self._failed, len(AGAIN_S) - 1)]
        self._failed += 1
        self._open_at = now + pause * random.uniform(0.5, 1.5)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _open(self, places: Sequence[Destination], ticket: bytes) -> None:
        """A leg at the first of these that answers."""
        for to in places:
            leg = self._owner.make_leg_to(to, 0)
            try:
                await leg.open(self._trust)
                await self._owner.stand_by(leg, ticket)
            except (RefusedError, SessionError, LocalError):
                leg.close("could not stand by")
            except BaseException:
                leg.close("not needed any more")
                raise
            else:
                self._leg, self._since = leg, self._loop.time()
                self._ping_at = self._since + PING_S
                break
        else:
            self._again(self._loop.time())
        self._task = None
