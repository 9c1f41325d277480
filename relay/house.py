"""One generation of the daemon in the house it shares with the next: it takes over, and is taken over.

    begin            which generation are we, and which sockets stand there already?
    take_over        newcomers come to us from here on; the one before leaves
    (incumbent)      the same, seen from the other side

Must never live here: the protocol between the two (edge/succession.py), the parts of a daemon (daemon.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from relay.core.events import CallEvent, CallTold, TrunksKnown
from relay.edge.assembly import Node
from relay.edge.generation import KEY, Places, Slot
from relay.edge.succession import Incumbent, Predecessor
from relay.errors import ConfigError
from relay.protocol.ids import CallId

log = logging.getLogger("relay.house")
SETTLE_S: Final = (
    1.0  # after another took over: who is about to join still joins here, and moves like all others
)
LOOK_S: Final = 0.25  # between looks whether the other generation lives


class Listening(Protocol):
    """What listens beside UDP."""

    @property
    def web(self) -> Iterable[socket.socket]:
        """Sockets that two processes may both have."""

    async def open_alone(self) -> None:
        """Take what only one process can have: metrics, commands, TURN's listeners."""

    async def close_alone(self) -> None:
        """Let go of it."""

    def stop_accepting(self) -> None:
        """No more connections for web legs; those there are stay."""


class Parts(Protocol):
    """What the house needs of its daemon."""

    @property
    def node(self) -> Node:
        """Engine and edges."""

    @property
    def listeners(self) -> Listening:
        """What listens beside UDP."""

    def leave(self) -> None:
        """Drain, or hurry."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a process begins. `slot` None: no other generation is ever beside it."""

    slot: Slot | None = None
    predecessor: Predecessor | None = None

    @property
    def generation(self) -> int | None:
        """0 even, 1 odd; None without generations."""
        return self.slot.generation if self.slot is not None else None


def begin(path: str, before: int | None = None) -> Standing:
    """Find out where we stand; "" is a daemon without generations. ConfigError when there is no room.

    `before`: the generation of a process whose connections we go on with, since the ids of those say it.
    """
    if not path:
        return Standing()
    predecessor = Predecessor.find(path)
    first = before or 0
    wanted = (first, 1 - first) if predecessor is None else (1 - predecessor.generation,)
    for generation in wanted:
        slot = Slot.take(path, generation)
        if slot is not None:
            return Standing(slot, predecessor)
    if predecessor is not None:
        predecessor.close()
    raise ConfigError(KEY, "an older generation is still leaving", "wait, or hurry it: SIGTERM to it, again")


class Household:
    """The succession of one daemon."""

    def __init__(self, loop: asyncio.AbstractEventLoop, standing: Standing, path: str, parts: Parts) -> None:
        self._loop = loop
        self._standing = standing
        self._path = path
        self._parts = parts
        self._changed: set[CallId] = set()
        self._watching: asyncio.Task[None] | None = None
        self.places = Places([], standing.generation)
        """All UDP sockets, once opened."""
        self.incumbent: Incumbent | None = None

    @property
    def generation(self) -> int:
        """0 even, 1 odd."""
        return self._standing.generation or 0

    @property
    def is_beside_another(self) -> bool:
        """Whether the other generation lives."""
        slot = self._standing.slot
        return slot is not None and not slot.is_alone

    @property
    def is_followed(self) -> bool:
        """Another generation took over: we leave."""
        return self.incumbent is not None and self.incumbent.has_heir

    @property
    def leaving(self) -> dict[str, int]:
        """Legs and calls that the generation before us still has."""
        one = self._standing.predecessor
        return {name: int(one.figures.get(name, 0)) for name in ("legs", "calls")} if one is not None else {}

    # ------------------------------------------------------------ coming

    async def take_over(self) -> None:
        """What is open is ours alone from here on. ConfigError when the one before does not let go."""
        one, slot = self._standing.predecessor, self._standing.slot
        if one is not None:
            one.on_ticket = lambda ticket: self._parts.node.driver.feed(CallTold(ticket))
            one.on_figures = self._on_figures
            one.attend(self._loop)
            await one.release()
        await self._parts.listeners.open_alone()
        self.places.is_split = self.is_beside_another
        self.places.other_has_turn = one is not None and self.places.is_split
        self.places.steer()
        if one is not None:
            await one.go()
            self._parts.node.driver.feed(TrunksKnown(one.trunks))
        if slot is not None:
            self.incumbent = Incumbent(self._loop, self)
            self.incumbent.listen(self._path)
            if self.places.is_split:
                self._watching = self._loop.create_task(self._watch(slot), name="generation")
                log.info("took over", extra={"generation": slot.generation})

    def _on_figures(self) -> None:
        """TURN's packets are ours when the other generation has no allocation any more."""
        one = self._standing.predecessor
        has_turn = one is not None and bool(one.figures.get("allocations", 0))
        if self.places.is_split and self.places.other_has_turn and not has_turn:
            self.places.other_has_turn = False
            self.places.steer()

    async def _watch(self, slot: Slot) -> None:
        while not slot.is_alone:  # noqa: ASYNC110  a lock that another process holds has no event
            await asyncio.sleep(LOOK_S)
        self.places.is_split = self.places.other_has_turn = False
        if not self.is_followed:
            self.places.steer()
        log.info("the generation before has gone")

    # ------------------------------------------------------------ being followed (succession.House)

    def handed(self) -> Iterable[tuple[str, socket.socket]]:
        """Kind and socket of all that the next one listens on, too."""
        yield from (("udp", sock) for group in self.places.groups for sock in group)
        yield from (("web", sock) for sock in self._parts.listeners.web)

    async def release(self) -> None:
        """Give up what only one process can have."""
        await self._parts.listeners.close_alone()

    async def reclaim(self) -> None:
        """Nobody came: take it back."""
        await self._parts.listeners.open_alone()
        self.places.is_split = self.places.other_has_turn = False
        self.places.steer()

    def tickets(self) -> Iterable[bytes]:
        """One of each call."""
        engine = self._parts.node.engine
        for call in engine.call_ids():
            ticket = engine.describe(call)
            if ticket is not None:
                yield ticket

    def trunks(self) -> list[str]:
        """The nodes to which we have trunks."""
        return self._parts.node.engine.met

    def succeeded(self) -> None:
        """The next one is in service: leave, at once as far as new people are concerned."""
        self._parts.listeners.stop_accepting()
        self._parts.node.send_newcomers_on()
        log.info("another generation took over")
        self._loop.call_later(SETTLE_S, self._move)

    def _move(self) -> None:
        engine = self._parts.node.engine
        for _ in ("draining", "moving"):
            if engine.drain_state in ("running", "emptying", "draining"):
                self._parts.leave()

    def leave(self) -> None:
        """An operator asks for it."""
        self._parts.leave()

    def figures(self) -> dict[str, Any]:
        """As of now."""
        node = self._parts.node
        return {
            "state": node.engine.drain_state,
            "generation": self.generation,
            "legs": len(node.endpoint) + len(node.streams),
            "calls": node.engine.calls,
            "allocations": node.turn.engine.allocations,
        }

    def on_event(self, event: CallEvent) -> None:
        """Something happened to a call: whoever takes over hears how it stands now."""
        if self.incumbent is None or not self.incumbent.wants_news or "call" not in event.data:
            return
        if not self._changed:
            self._loop.call_soon(self._tell)
        self._changed.add(CallId(bytes.fromhex(event.data["call"])))

    def _tell(self) -> None:
        changed, self._changed = self._changed, set()
        for call in changed:
            ticket = self._parts.node.engine.describe(call)
            if ticket is not None and self.incumbent is not None:
                self.incumbent.tell(ticket)

    # ------------------------------------------------------------ going

    def close(self) -> None:
        """Let go of everything."""
        if self._watching is not None:
            self._watching.cancel()
        if self.incumbent is not None:
            self.incumbent.close()
        if self._standing.predecessor is not None:
            self._standing.predecessor.close()
        self.places.close()
        if self._standing.slot is not None:
            self._standing.slot.release()
