"""The way to a standby when the node in use is silent: legs at those that answer, until both are at one.

    suspect --> warm leg: rejoin | open, hello {ht}, rejoin --> AHEAD, at one place or several
       ^                                                          |--both are at one--> go over
       '---- failed: again, a little later ----                   '--it speaks again--> call off

Must never live here: whether the node is silent (standby.py), which place it is (meeting.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from relay.client.ahead import SAID_TWICE, Ahead
from relay.client.errors import RefusedError, SessionError
from relay.client.leg import RelayLeg
from relay.client.meeting import Meeting
from relay.client.rungs import Destination
from relay.client.transport import Trust
from relay.errors import ErrorCode, LocalError
from relay.protocol.messages import Joined, Message, Moved

ALONE_S: Final = 1.5  # one standby has so long to shake hands
SETTLE_S: Final = 0.1  # the node in use may speak yet, before anybody knows of this
PING_S: Final = 1.0  # a leg that carries nothing yet is heard of all the same


class Owner(Protocol):
    """What is needed of the session."""

    @property
    def peer(self) -> int | None:
        """The other's index, None before anybody came."""

    def make_leg_to(self, to: Destination, rung: int) -> RelayLeg:
        """A leg that is not open."""

    async def take_place(self, leg: RelayLeg, ticket: bytes) -> None:
        """Hello and rejoin with this ticket. RefusedError, SessionError."""

    async def return_to(self, leg: RelayLeg, ticket: bytes) -> None:
        """Rejoin alone, on a leg that stands by. RefusedError, SessionError."""

    def go_over(
        self, leg: RelayLeg, joined: Joined, ticket: bytes | None, rungs: Sequence[Destination]
    ) -> None:
        """From now on this is the leg in use, and these are the rungs; none: those there were."""

    def hear_aside(self, message: Message, leg: RelayLeg) -> None:
        """What a node that is not the one in use says of the call, and what holds all the same."""


class Refuge:
    """One session's."""

    def __init__(self, owner: Owner, trust: Trust) -> None:
        self._owner = owner
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self._places: tuple[Destination, ...] = ()
        self._meeting = Meeting(0, 0.0)
        self._until = 0.0
        self._ticket = b""
        self._said: list[Message] = []
        self._ahead: dict[int, Ahead] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._warm: tuple[int, RelayLeg] | None = None
        self.is_busy = False
        """On the way."""

    @property
    def legs(self) -> list[RelayLeg]:
        """Those ahead, from their hello on."""
        return [ahead.leg for ahead in self._ahead.values()]

    @property
    def has_met(self) -> bool:
        """Whether we went over, and only stay where the other may yet turn up."""
        return self._meeting.choice is not None

    def hopes(self, now: float) -> bool:
        """Whether the leg that stood by may yet be all that is needed."""
        return self.is_busy and self._meeting.hopes(now)

    def suspect(
        self,
        places: tuple[Destination, ...],
        ticket: bytes,
        until: float,
        warm: RelayLeg | None,
    ) -> None:
        """The node is silent: go there, unless it speaks before the other has come, too.

        `until`: when the ticket is of no use any more; `warm`: a leg that stands by at one of these.
        """
        if self.is_busy:
            self._end()
        self.is_busy = True
        self._places, self._ticket, self._until = places, ticket, until
        self._warm = None if warm is None else (places.index(warm.to), warm)
        self._said.clear()
        known = None if self._warm is None else self._warm[0]
        self._meeting = Meeting(len(places), self._loop.time(), known)
        self._step()

    def call_off(self) -> None:
        """It was nothing: we stay where we are."""
        self._end()

    async def close(self) -> None:
        """Stop."""
        tasks = list(self._tasks.values())
        self._end()
        await asyncio.gather(*tasks, return_exceptions=True)

    def note(self, message: Message) -> None:
        """Something is said to the node in use; those ahead shall hear it too."""
        if self.is_busy and isinstance(message, SAID_TWICE):
            self._said.append(message)
            for ahead in self._ahead.values():
                ahead.note(message)

    def on_message(self, leg: RelayLeg, message: Message) -> None:
        """A message on a leg ahead."""
        for place, ahead in self._ahead.items():
            if ahead.leg is leg:
                ahead.on_message(message)
                self._look(place, ahead)
                return

    def on_closed(self, leg: RelayLeg) -> None:
        """A leg of the session is over."""
        if self._warm is not None and self._warm[1] is leg:
            self._warm = None
        for place, ahead in list(self._ahead.items()):
            if ahead.leg is leg:
                del self._ahead[place]
                if place not in self._tasks:  # else whoever waits there for an answer says so
                    self._meeting.on_gone(place, self._loop.time())
                    self._step()

    # ------------------------------------------------------------ inside

    def _look(self, place: int, ahead: Ahead) -> None:
        if ahead.joined is None or ahead.leg.error is not None:
            return
        before, now = self._meeting.choice, self._loop.time()
        self._meeting.on_here(place, now)
        self._meeting.on_other(place, now, is_there=self._owner.peer in ahead.there)
        chosen = self._meeting.choice
        if chosen == before or chosen is None:
            return
        gone_to = self._ahead.pop(chosen)
        assert gone_to.joined is not None  # it was seated there
        for other in [other for other in (*self._ahead, *self._tasks) if not self._meeting.keeps(other)]:
            self._leave(other)
        self._owner.go_over(gone_to.leg, gone_to.joined, gone_to.ticket, (gone_to.leg.to,))
        self._step()

    def _step(self) -> None:
        """What is due now, and a look when something is due again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        if self._meeting.is_over(now) or (now >= self._until and not self.has_met):
            self._end()
            return
        for place in self._meeting.due(now):
            self._tasks[place] = self._loop.create_task(self._go(place), name="refuge")
        due = self._meeting.next_deadline()
        if due is not None:
            self._timer = self._loop.call_at(due, self._step)

    async def _go(self, place: int) -> None:
        try:
            await self._take(place)
            ahead = self._ahead.get(place)
            while ahead is not None and self._ahead.get(place) is ahead:
                ahead.leg.ping(self._loop.time(), busy=False)
                await asyncio.sleep(PING_S)
        except (RefusedError, SessionError, LocalError):
            pass  # the next time, or another place
        if self._tasks.pop(place, None) is None or not self.is_busy:
            return
        if self.has_met and place == self._meeting.choice:
            return  # that is the leg in use now
        self._meeting.on_gone(place, self._loop.time())
        self._step()

    async def _take(self, place: int) -> None:
        """Come there: by the leg that stands by, or a new one. RefusedError, SessionError."""
        leg = None
        if self._warm is not None and self._warm[0] == place:
            leg, self._warm = self._warm[1], None
        is_warm = leg is not None
        if leg is None:
            leg = await self._open(self._places[place])
        ahead = Ahead(leg, self._said, self._owner.hear_aside)
        self._ahead[place] = ahead
        take = self._owner.return_to if is_warm else self._owner.take_place
        try:
            await take(leg, self._ticket)
        except BaseException:
            if self._ahead.get(place) is ahead:
                del self._ahead[place]
                leg.close("could not move")
            raise

    async def _open(self, to: Destination) -> RelayLeg:
        leg = self._owner.make_leg_to(to, 0)
        try:
            async with asyncio.timeout(ALONE_S):
                await leg.open(self._trust)
            await asyncio.sleep(SETTLE_S)
        except TimeoutError:
            leg.close("too slow")
            raise SessionError(ErrorCode.IDLE_TIMEOUT, "no answer") from None
        except BaseException:
            leg.close("not needed any more")
            raise
        return leg

    def _leave(self, place: int) -> None:
        task, ahead = self._tasks.pop(place, None), self._ahead.pop(place, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if ahead is not None:
            ahead.leg.is_behind = True
            if ahead.joined is not None:
                ahead.leg.tell(Moved(c=ahead.joined.c, ok=True))
            ahead.leg.close("called off")

    def _end(self) -> None:
        """Leave all places but the one in use."""
        self.is_busy = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for place in {*self._ahead, *self._tasks}:
            self._leave(place)
        if self._warm is not None:
            self._warm[1].close("not needed any more")
            self._warm = None
