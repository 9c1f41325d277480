"""The way to the next node when the one in use leaves: a second leg there, and both until the other came too.

    drain {to, ht} --> open, hello {ht}, rejoin --> AHEAD: both legs carry --the other is there--> go over
                         '- failed: again, a little later -'

Where `to` names standbys, the rest of it is the home of our call, which the node where we are does not hear
any more. Home and standbys are tried one after the other, each for a moment; at the home we are where the
call is, at a standby only if the other one comes there, too.

Must never live here: what going over does to a session (session.py), the rungs of one node (ladder.py), a
node that is only silent (refuge.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from relay.client.ahead import SAID_TWICE, Ahead
from relay.client.climb import open_first
from relay.client.errors import RefusedError, SessionError
from relay.client.leg import RelayLeg
from relay.client.rungs import Destination, destinations
from relay.client.transport import Trust
from relay.errors import ErrorCode, LocalError
from relay.protocol.messages import Drain, Joined, Message, Moved

TICKET_S: Final = 110.0  # a hand-over ticket is good for 120 s of the relay's clock
AGAIN_S: Final = (0.3, 1.0, 2.0, 4.0, 8.0)
FIRST_S: Final = 0.5  # of home and standbys: the first time round each has so long to shake hands
ALONE_S: Final = 1.5  # the same later on
MEET_S: Final = 2.0  # the other one comes to a standby so soon, or to another
PING_S: Final = 1.0  # a leg that carries nothing yet is heard of all the same
_OVER: Final = frozenset({ErrorCode.CALL_ENDED, ErrorCode.REMOVED})


class Owner(Protocol):
    """What the follower needs of its session."""

    @property
    def main(self) -> RelayLeg | None:
        """The leg in use."""

    @property
    def peer(self) -> int | None:
        """The other's index, None before anybody came."""

    @property
    def rungs(self) -> Sequence[Destination]:
        """The ways to the node in use, best first."""

    def make_leg_to(self, to: Destination, rung: int) -> RelayLeg:
        """A leg that is not open."""

    async def take_place(self, leg: RelayLeg, ticket: bytes) -> None:
        """Hello and rejoin with this ticket. RefusedError, SessionError."""

    def go_over(
        self, leg: RelayLeg, joined: Joined, ticket: bytes | None, rungs: Sequence[Destination]
    ) -> None:
        """From now on this is the leg in use, and these are the rungs; none: those there were."""

    def hear_aside(self, message: Message, leg: RelayLeg) -> None:
        """What a node that is not the one in use says of the call, and what holds all the same."""


class Follower:
    """One session on its way to another node, or to the next generation of its own."""

    def __init__(self, owner: Owner, trust: Trust) -> None:
        self._owner = owner
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._drain: Drain | None = None
        self._until = 0.0
        self._rungs: tuple[Destination, ...] = ()
        self._choice = 0
        """Which of the nodes that were named we try; 0: the only one, or the home."""
        self._nodes = 1
        self._said: list[Message] = []
        self._ahead: Ahead | None = None

    @property
    def is_busy(self) -> bool:
        """On the way."""
        return self._task is not None and not self._task.done()

    @property
    def leg(self) -> RelayLeg | None:
        """The leg ahead, from its hello on."""
        return None if self._ahead is None else self._ahead.leg

    @property
    def ticket(self) -> bytes | None:
        """The hand-over ticket while it is good: it is, at any node, what the usual one is here alone."""
        fresh = self._drain is not None and self._loop.time() < self._until
        return self._drain.ht if fresh and self._drain is not None else None

    def on_drain(self, drain: Drain) -> None:
        """The node asks us to go."""
        if drain.ht is None:
            return
        self._drain, self._until = drain, self._loop.time() + TICKET_S
        if not self.is_busy:
            self._said.clear()
            self._task = self._loop.create_task(self._run(), name="following")

    def note(self, message: Message) -> None:
        """Something is said to the node in use; the next one shall hear it too."""
        if self.is_busy and isinstance(message, SAID_TWICE):
            self._said.append(message)
            if self._ahead is not None:
                self._ahead.note(message)

    def on_message(self, message: Message) -> None:
        """A message on the leg ahead."""
        assert self._ahead is not None
        self._ahead.on_message(message)
        self.look()

    def on_closed(self, leg: RelayLeg) -> None:
        """A leg of the session is over."""
        if leg is self.leg:
            self._ahead = None

    def look(self) -> None:
        """Go over if there is nothing to wait for: the other came, or the leg in use is gone."""
        ahead, main, peer = self._ahead, self._owner.main, self._owner.peer
        if ahead is None or ahead.joined is None or ahead.leg.error is not None or main is None:
            return
        alone = peer is None or peer not in {entry.p for entry in ahead.joined.roster}
        is_home = self._nodes > 1 and self._choice == 0
        if alone or is_home or main.error is not None or peer in ahead.there:
            self._ahead = self._drain = None
            self._owner.go_over(ahead.leg, ahead.joined, ahead.ticket, self._rungs)

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ------------------------------------------------------------ inside

    async def _run(self) -> None:
        for attempt in range(1_000_000):
            if self._drain is None or self._loop.time() >= self._until:
                return
            turns = attempt // self._nodes
            if turns:
                await asyncio.sleep(AGAIN_S[min(turns, len(AGAIN_S)) - 1])
            try:
                await self._try(attempt)
            except RefusedError as error:
                if error.code in _OVER:
                    return
            except (SessionError, LocalError):
                pass
            if await self._wait():
                return

    async def _try(self, attempt: int) -> None:
        assert self._drain is not None
        self._rungs = destinations(self._drain.to)
        self._choose(attempt)
        known = self._rungs or self._owner.rungs
        ways = list(range(len(known)))
        main = self._owner.main
        if not self._rungs and not attempt and main is not None and main.to in known:
            ways = [known.index(main.to)]  # the rung that we stand on is the one that works
        make = self._owner.make_leg_to
        opening = open_first(lambda at: make(known[ways[at]], ways[at]), len(ways), self._trust)
        try:
            async with asyncio.timeout(self._patience(attempt)):
                leg = await opening
        except TimeoutError:
            raise SessionError(ErrorCode.IDLE_TIMEOUT, "no answer") from None
        try:
            ahead = self._ahead = Ahead(leg, self._said, self._owner.hear_aside)
            ticket = self.ticket
            if ticket is not None:
                await self._owner.take_place(leg, ticket)
        except BaseException:
            if self._ahead is ahead:
                self._ahead = None
            leg.close("could not move")
            raise

    def _choose(self, attempt: int) -> None:
        """Of home and standbys the one whose turn it is; each standby has one address."""
        assert self._drain is not None
        standbys = min(self._drain.stb, max(0, len(self._rungs) - 1))
        self._nodes = 1 + standbys
        self._choice = attempt % self._nodes
        at = len(self._rungs) - standbys
        self._rungs = self._rungs[at + self._choice - 1 :][:1] if self._choice else self._rungs[:at]

    def _patience(self, attempt: int) -> float | None:
        """How long a node has to shake hands; None: as long as it takes."""
        if self._nodes == 1:
            return None
        return FIRST_S if attempt < self._nodes else ALONE_S

    async def _wait(self) -> bool:
        """Stay ahead until we have gone over (True), or the leg is gone, or nobody came to a standby."""
        until = self._loop.time() + MEET_S
        while self._ahead is not None:
            ahead = self._ahead
            if self._nodes > 1 and self._loop.time() >= until:
                self._ahead = None
                ahead.leg.is_behind = True
                if ahead.joined is not None:
                    ahead.leg.tell(Moved(c=ahead.joined.c, ok=True))
                ahead.leg.close("nobody came")
                break
            ahead.leg.ping(self._loop.time(), busy=False)
            await asyncio.sleep(PING_S)
        return self._drain is None
