"""The way to the next node when the one in use leaves: a second leg there, and both until the other came too.

    drain {to, ht} --> open, hello {ht}, rejoin --> AHEAD: both legs carry --the other is there--> go over
                         '- failed: again, a little later -'

Where `to` names standbys, the rest of it is the home of our call, which the node where we are does not hear
any more. Home and standbys are tried one after the other, each for a moment; at the home we are where the
call is, at a standby only if the other one comes there, too.

The same on suspicion, when the one in use is only silent (standby.py): one address after the other, so that
both of a call come to the same, and `call_off` when it speaks again.

Must never live here: what going over does to a session (session.py), the rungs of one node (ladder.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from relay.client.climb import open_first
from relay.client.errors import RefusedError, SessionError
from relay.client.leg import RelayLeg
from relay.client.rungs import Destination, parse_url
from relay.client.transport import Trust
from relay.errors import ErrorCode, LocalError
from relay.protocol.messages import (
    Accept,
    Block,
    Bye,
    Decline,
    Drain,
    Ended,
    Gate,
    Hangup,
    Joined,
    Message,
    Moved,
    Mute,
    Obs,
    Peer,
    Ticket,
    Welcome,
)

TICKET_S: Final = 110.0  # a hand-over ticket is good for 120 s of the relay's clock
AGAIN_S: Final = (0.3, 1.0, 2.0, 4.0, 8.0)
ALONE_S: Final = 1.5  # on suspicion: one standby has so long to shake hands
SETTLE_S: Final = 0.1  # on suspicion: the node in use may speak yet, before anybody knows of this
FIRST_S: Final = 0.5  # of home and standbys: the first time round each has so long to shake hands
MEET_S: Final = 2.0  # the other one comes to a standby so soon, or to another
PING_S: Final = 1.0  # a leg that carries nothing yet is heard of all the same
SAID_TWICE: Final = (Accept, Block, Decline, Hangup, Mute)
"""What changes the call: while there are two nodes, both hear it."""
_HERE: Final = frozenset({"join", "accept", "back"})
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
        self._is_suspicion = False
        self._rungs: tuple[Destination, ...] = ()
        self._choice = 0
        """Which of the nodes that were named we try; 0: the only one, or the home."""
        self._nodes = 1
        self._joined: Joined | None = None
        self._ticket: bytes | None = None
        self._there: set[int] = set()
        self._said: list[Message] = []
        self.leg: RelayLeg | None = None
        """The leg ahead, from its hello on."""

    @property
    def is_busy(self) -> bool:
        """On the way."""
        return self._task is not None and not self._task.done()

    @property
    def is_on_suspicion(self) -> bool:
        """On the way, though nobody asked us to go."""
        return self.is_busy and self._is_suspicion

    @property
    def ticket(self) -> bytes | None:
        """The hand-over ticket while it is good: it is, at any node, what the usual one is here alone."""
        return None if self._is_suspicion else self._fresh_ticket()

    def on_drain(self, drain: Drain) -> None:
        """The node asks us to go."""
        if drain.ht is None:
            return
        if self._is_suspicion:
            self.call_off()  # it speaks
        self._go(drain)

    def suspect(self, way: Drain) -> None:
        """The node is silent: go where it would have said, unless it speaks before we are there."""
        if not self.is_busy:
            self._is_suspicion = True
            self._go(way)

    def call_off(self) -> None:
        """It was nothing: we stay where we are."""
        leg, joined = self.leg, self._joined
        self.leg = self._joined = self._drain = None
        self._is_suspicion = False
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if leg is not None:
            leg.is_behind = True
            if joined is not None:
                leg.tell(Moved(c=joined.c, ok=True))
            leg.close("called off")

    def _go(self, drain: Drain) -> None:
        self._drain, self._until = drain, self._loop.time() + TICKET_S
        if not self.is_busy:
            self._said.clear()
            self._task = self._loop.create_task(self._run(), name="following")

    def _fresh_ticket(self) -> bytes | None:
        fresh = self._drain is not None and self._loop.time() < self._until
        return self._drain.ht if fresh and self._drain is not None else None

    def note(self, message: Message) -> None:
        """Something is said to the node in use; the next one shall hear it too."""
        if not self.is_busy or not isinstance(message, SAID_TWICE):
            return
        if self.leg is not None and self._joined is not None:
            self.leg.tell(message)
        else:
            self._said.append(message)

    @staticmethod
    def takes(message: Message) -> bool:
        """Whether a message on the leg ahead is ours: all but what is a leg's own, wherever it stands."""
        return not isinstance(message, Welcome | Obs | Bye)

    def on_message(self, message: Message) -> None:
        """A message on the leg ahead."""
        assert self.leg is not None
        match message:
            case Joined():
                self._joined, self._ticket = message, message.rt
                self.leg.up = message.up
                self._there = {entry.p for entry in message.roster if entry.st != "away"}
                for said in self._said:
                    self.leg.tell(said)
            case Ticket():
                self._ticket = message.rt
            case Peer():
                (self._there.add if message.ev in _HERE else self._there.discard)(message.p)
                self._owner.hear_aside(message, self.leg)
            case Ended() if message.why == "failed":
                self.leg.close()  # the other never came there: where both are, the call goes on
                return
            case Gate():
                if self._joined is not None:
                    self._joined = _with_gate(self._joined, message.open)
                self._owner.hear_aside(message, self.leg)
            case _:
                self._owner.hear_aside(message, self.leg)
        self.look()

    def on_closed(self, leg: RelayLeg) -> None:
        """A leg of the session is over."""
        if leg is self.leg:
            self.leg = None

    def look(self) -> None:
        """Go over if there is nothing to wait for: the other came, or the leg in use is gone."""
        leg, joined, main, peer = self.leg, self._joined, self._owner.main, self._owner.peer
        if leg is None or joined is None or main is None:
            return
        alone = peer is None or peer not in {entry.p for entry in joined.roster}
        # Who only suspects goes nowhere alone: the node may be there for the other one.
        is_home = self._nodes > 1 and self._choice == 0
        is_left = not self._is_suspicion and (alone or is_home or main.error is not None)
        if is_left or peer in self._there:
            self.leg = self._joined = self._drain = None
            self._is_suspicion = False
            self._owner.go_over(leg, joined, self._ticket, self._rungs)

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
        self._joined = None
        self._rungs = _destinations(self._drain)
        if self._is_suspicion and self._rungs:
            self._rungs = (self._rungs[attempt % len(self._rungs)],)
        elif not self._is_suspicion:
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
            if self._is_suspicion:
                await asyncio.sleep(SETTLE_S)
            self.leg = leg
            ticket = self._fresh_ticket()
            if ticket is not None:
                await self._owner.take_place(leg, ticket)
        except BaseException:
            if self.leg is leg:
                self.leg = None
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
        if self._is_suspicion or attempt >= self._nodes > 1:
            return ALONE_S
        return FIRST_S if self._nodes > 1 else None

    async def _wait(self) -> bool:
        """Stay ahead until we have gone over (True), or the leg is gone, or nobody came to a standby."""
        until = self._loop.time() + MEET_S
        while self.leg is not None:
            if self._nodes > 1 and not self._is_suspicion and self._loop.time() >= until:
                if self._joined is not None:
                    self.leg.tell(Moved(c=self._joined.c, ok=True))
                self.leg.close("nobody came")
                break
            self.leg.ping(self._loop.time(), busy=False)
            await asyncio.sleep(PING_S)
        return self._drain is None


def _destinations(drain: Drain) -> tuple[Destination, ...]:
    """Where the node says to go; what we cannot read is left out."""
    found = []
    for url in drain.to:
        with contextlib.suppress(LocalError):
            found.append(parse_url(url))
    return tuple(found)


def _with_gate(joined: Joined, gate: int) -> Joined:
    return msgspec.structs.replace(joined, gate=gate)
