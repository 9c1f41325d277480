"""When the node in use says nothing any more: to another that takes calls up, and back if it speaks again.

    joined {standby}, ticket {ht} --> ready, a leg stands by --no answer for 600 ms--> on the way there
                                        ^                                               |
                                        '------------ the node speaks again ------------+--> the other came
                                                                                             there, too: stay

Both of a call know the same standbys, and go on at one where both are. Who cannot reach the node alone waits
there in vain, and has lost nothing: the ladder looks for another way to the node meanwhile. Must never live
here: the leg that stands by (warm.py), the way there (refuge.py), how a path is (health.py).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from relay.client.following import TICKET_S
from relay.client.ladder import SILENT_S
from relay.client.leg import RelayLeg
from relay.client.refuge import Refuge
from relay.client.rungs import Destination, destinations
from relay.client.warm import Warm
from relay.protocol.messages import Joined, Ticket

LOOK_S: Final = 0.05
AGAIN_S: Final = 5.0  # between two suspicions: a standby that turned us away is not asked in a loop


class Owner(Protocol):
    """What is needed of the session."""

    @property
    def main(self) -> RelayLeg | None:
        """The leg in use."""

    @property
    def is_talking(self) -> bool:
        """Whether both accepted, and the place is not lost."""

    @property
    def is_over(self) -> bool:
        """Whether the call is."""


@dataclass(slots=True)
class _Known:
    """What a node said on one leg."""

    places: tuple[Destination, ...] = ()
    ticket: bytes | None = None
    until: float = 0.0


class Standby:
    """One session's."""

    def __init__(self, owner: Owner, refuge: Refuge, warm: Warm | None) -> None:
        """`warm`: None where no leg shall stand by."""
        self._owner = owner
        self._refuge = refuge
        self._warm = warm
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._said: WeakKeyDictionary[RelayLeg, _Known] = WeakKeyDictionary()
        self._newest = _Known()  # ticket of a leg that was in use
        self._gone_at: float | None = None
        self._again_at = 0.0

    def start(self) -> None:
        """Look from now on; a second time it does nothing."""
        self._task = self._task or self._loop.create_task(self._run(), name="standby")

    def note(self, leg: RelayLeg, message: Joined | Ticket) -> None:
        """What was said on a leg, of whichever node."""
        known = self._said.setdefault(leg, _Known())
        if isinstance(message, Joined):
            known.places = destinations([each.url for each in message.standby])
        elif message.ht is not None:
            known.ticket, known.until = message.ht, self._loop.time() + TICKET_S

    @property
    def is_ready(self) -> bool:
        """Whether there is somewhere to go, and a ticket that is good there."""
        return bool(self._places())

    @property
    def is_warm(self) -> bool:
        """Whether a leg stands by there."""
        return self._warm is not None and self._warm.leg is not None

    @property
    def is_sheltered(self) -> bool:
        """Whether a silent node is no reason to open another connection to it: a leg stands by elsewhere, and
        was not asked yet, or a moment ago."""
        now = self._loop.time()
        if self._refuge.is_busy:
            return self._refuge.hopes(now)
        return self.is_warm and self.is_ready and now >= self._again_at and self._owner.is_talking

    def look(self) -> None:
        """Go, or come back, as the leg in use is; and see to the leg that stands by."""
        places, main, now = self._places(), self._owner.main, self._loop.time()
        if main is None:
            return
        if main.error is None:
            self._gone_at = None
        elif self._gone_at is None:
            self._gone_at = now
        silent = main.health.overdue(now) if self._gone_at is None else now - self._gone_at
        if self._refuge.is_busy and not self._refuge.has_met:
            if self._gone_at is None and not main.health.is_doubtful(now):
                self._refuge.call_off()
        elif places and silent > SILENT_S and now >= self._again_at and self._owner.is_talking:
            self._again_at = now + AGAIN_S
            assert self._newest.ticket is not None  # else there is no place to go
            warm = None if self._warm is None else self._warm.take(places)
            self._refuge.suspect(places, self._newest.ticket, self._newest.until, warm)
        elif self._warm is not None and self._owner.is_over:
            self._warm.drop()
        elif self._warm is not None and places and self._owner.is_talking:
            assert self._newest.ticket is not None
            self._warm.look(places, self._newest.ticket, now)

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._refuge.close()
        if self._warm is not None:
            await self._warm.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def _places(self) -> tuple[Destination, ...]:
        """Where the node would say to go if it still could; none without a ticket that is good there."""
        main = self._owner.main
        known = self._said.get(main) if main is not None else None
        if known is not None and known.ticket is not None:
            self._newest = known
        is_good = self._newest.ticket is not None and self._loop.time() < self._newest.until
        return known.places if known is not None and is_good else ()
