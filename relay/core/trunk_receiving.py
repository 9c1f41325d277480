"""Which voices our node has others send it by trunks, and on which numbers.

    ASKED --ok--> CARRYING --stop--> ENDED        ASKED --not yet--> WAITING --in 200 ms--> ASKED
                  CARRYING --trunk down--> WAITING --trunk up--> ASKED            ten times --> ENDED

The home says whom our listeners hear and at which node that voice is; we give that node a number for it, one
however many listen here, and copy what comes to legs alone. A number that a voice has had rests for 30 s once
the other side is known to have done with it, so that nothing late of it is ever taken for another voice. For
the same reason one pull at most is under way with a number.

Must never live here: trunks, legs, and who hears whom.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final, NamedTuple

from relay.core.deadlines import Deadlines
from relay.core.flows import FlowNumbers
from relay.core.machine import Machine, Table
from relay.core.trunk_sending import RETRY_MS, Route, Voice
from relay.errors import ErrorCode
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk import MIN_ROUTE, ROUTES
from relay.protocol.trunk_messages import Pull, Stop

REST_S: Final = 30.0
ANSWER_S: Final = 5.0  # who takes longer is not waited for
TRIES: Final = 10


class Phase(Enum):
    """How far a voice is on its way to us."""

    ASKED = "asked"  # for a voice that may come before the answer does
    WAITING = "waiting"  # to ask, for the trunk or for a grant
    CARRYING = "carrying"
    ENDED = "ended"  # refused, or stopped by the other side: until the home says again that we hear it


class Asked:
    """A pull leaves."""


class Agreed:
    """The other node sends."""


class Deferred:
    """Not now."""


class Ended:
    """Not any more, or not at all."""


class Out(NamedTuple):
    """A message for another node."""

    node: str
    message: Pull | Stop


class Inlet(Machine[Phase]):
    """One voice from one node."""

    TRANSITIONS: ClassVar[Table[Phase]] = {
        Phase.ASKED: {Agreed: Phase.CARRYING, Deferred: Phase.WAITING, Ended: Phase.ENDED},
        Phase.WAITING: {Asked: Phase.ASKED, Deferred: Phase.WAITING, Ended: Phase.ENDED},
        Phase.CARRYING: {Deferred: Phase.WAITING, Ended: Phase.ENDED},
        Phase.ENDED: {Deferred: Phase.WAITING},
    }

    def __init__(self, voice: Voice, node: str, term: int) -> None:
        super().__init__(Phase.WAITING)
        self.voice = voice
        self.node = node
        self.term = term
        self.number: int | None = None
        """Its route, from the first pull until it rests."""
        self.again_at: float | None = None
        self._tries = 0

    def on_asked(self, number: int, now: float) -> Out:
        """What is said now; an answer is due within five seconds."""
        self._move(Asked)
        self.number = number
        self.again_at = now + ANSWER_S
        self._tries += 1
        return Out(self.node, Pull(c=self.voice.c, p=self.voice.p, term=self.term, route=number))

    def on_agreed(self) -> None:
        """It comes."""
        self._move(Agreed)
        self.again_at = None
        self._tries = 0

    def on_deferred(self, again_at: float) -> None:
        """Ask again then; the tenth time was the last."""
        self._move(Ended if self._tries >= TRIES else Deferred)
        self.again_at = None if self._state is Phase.ENDED else again_at

    def on_lost(self) -> None:
        """The trunk is down, and with it the number."""
        self._move(Deferred)
        self.number = self.again_at = None
        self._tries = 0

    def on_ended(self) -> None:
        """Refused or stopped."""
        self._move(Ended)
        self.again_at = None

    def on_wanted(self, term: int, now: float) -> None:
        """The home said so again, the same one or the next."""
        self.term = term
        if self._state is Phase.ENDED:
            self._move(Deferred)
            self.again_at = now
            self._tries = 0


class Receiving:
    """What one node receives on trunks. `most`: numbers that it gives one other node."""

    def __init__(self, most: int = ROUTES) -> None:
        self._last = MIN_ROUTE + most - 1
        self._inlets: dict[Voice, Inlet] = {}
        self._voices: dict[Route, Voice] = {}
        self._deadlines: Deadlines[Voice] = Deadlines()
        self._former: dict[Voice, Route] = {}
        """Where a voice came from until now, while its new node has not answered."""
        self._stopping: set[Route] = set()
        """Numbers that the other side may still send on: it has not answered our stop."""
        self._numbers: dict[str, FlowNumbers] = {}
        """Of the nodes to which a trunk is up."""

    def __len__(self) -> int:
        return len(self._inlets)

    def voice_on(self, route: Route) -> Voice | None:
        """Whose voice comes on a number that we gave; None for one that means nobody."""
        return self._voices.get(route)

    def phase_of(self, voice: Voice) -> Phase | None:
        """How far a voice is; None for one that nobody here hears."""
        inlet = self._inlets.get(voice)
        return None if inlet is None else inlet.state

    def number_of(self, voice: Voice) -> int | None:
        """The number on which a voice comes, or may come; None: it has none."""
        inlet = self._inlets.get(voice)
        return None if inlet is None else inlet.number

    def former_of(self, voice: Voice) -> Route | None:
        """Where a voice comes from as long as its new node has not answered."""
        return self._former.get(voice)

    def carries(self, node: str) -> bool:
        """Whether anything may come from this node."""
        return any(route.node == node for route in self._voices)

    # ------------------------------------------------------------ what the home says

    def want(self, voice: Voice, term: int, node: str, now: float) -> tuple[Out, ...]:
        """Somebody here hears this voice, which is at that node; what to say.

        What came from another node until now comes from there on, until this one has answered (`settled`).
        """
        inlet = self._inlets.get(voice)
        outs: tuple[Out, ...] = ()
        if inlet is not None and inlet.node != node:
            if inlet.state is Phase.CARRYING:
                outs = self.settled(voice)
                assert inlet.number is not None  # it carries
                self._former[voice] = Route(inlet.node, inlet.number)
                del self._inlets[voice]
            else:
                outs = self._let_go(voice)
            inlet = None
        if inlet is None:
            inlet = self._inlets[voice] = Inlet(voice, node, term)
            inlet.again_at = now
        inlet.on_wanted(term, now)
        return outs + self._ask(inlet, now)

    def unwant(self, voice: Voice, now: float) -> tuple[Out, ...]:
        """Nobody here hears this voice any more; what to say."""
        return self.settled(voice) + self._let_go(voice)

    def _let_go(self, voice: Voice) -> tuple[Out, ...]:
        inlet = self._inlets.pop(voice, None)
        self._deadlines.set(voice, None)
        return () if inlet is None or inlet.number is None else (self._stop(inlet),)

    def settled(self, voice: Voice) -> tuple[Out, ...]:
        """Nothing more is wanted from where it was: it comes from its new node, or will not. What to say."""
        route = self._former.pop(voice, None)
        if route is None:
            return ()
        del self._voices[route]
        self._stopping.add(route)
        return (Out(route.node, Stop(route=route.number)),)

    # ------------------------------------------------------------ what the other nodes say

    def on_answer(self, node: str, pull: Pull, answer: Ok | Err, now: float) -> None:
        """The answer to a pull of ours; one to a pull that we took back since means nothing."""
        voice = self._voices.get(Route(node, pull.route))
        inlet = None if voice is None else self._inlets[voice]
        if inlet is None or inlet.node != node or inlet.state is not Phase.ASKED:
            return
        if isinstance(answer, Ok):
            inlet.on_agreed()
        elif answer.code == ErrorCode.FORBIDDEN:
            inlet.on_deferred(now + (RETRY_MS if answer.retry_ms is None else answer.retry_ms) / 1000)
        else:
            inlet.on_ended()
        self._settle(inlet, now)

    def on_stopped(self, route: Route, now: float) -> None:
        """The other side answered a stop of ours: nothing more is sent on that number."""
        if route in self._stopping:
            self._stopping.remove(route)
            self._rest(route, now)

    def on_stop(self, route: Route, now: float) -> Voice | None:
        """The speaker's node sends no more on a route. Whose it was; None if we had stopped it ourselves."""
        voice = self._voices.get(route)
        if voice is not None and self._former.get(voice) == route:
            del self._former[voice], self._voices[route]
            self._rest(route, now)
        elif voice is not None:
            inlet = self._inlets[voice]
            inlet.on_ended()
            self._settle(inlet, now)
        return voice

    def on_up(self, node: str, now: float) -> tuple[Out, ...]:
        """The trunk to a node is there, with all its numbers free; what to say."""
        self._numbers[node] = FlowNumbers(REST_S, MIN_ROUTE, self._last)
        outs: tuple[Out, ...] = ()
        for inlet in self._inlets.values():
            if inlet.node == node and inlet.state is Phase.WAITING:
                inlet.again_at = now
                outs += self._ask(inlet, now)
        return outs

    def on_down(self, node: str) -> tuple[Voice, ...]:
        """It is not there any more: nothing comes on its numbers. Whose they were."""
        self._numbers.pop(node, None)
        self._stopping = {route for route in self._stopping if route.node != node}
        self._former = {voice: route for voice, route in self._former.items() if route.node != node}
        gone = [route for route in self._voices if route.node == node]
        voices = tuple(self._voices.pop(route) for route in gone)
        for inlet in self._inlets.values():
            if inlet.node == node and inlet.state is not Phase.ENDED:
                inlet.on_lost()
                self._note(inlet)
        return voices

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When something has to be said."""
        return self._deadlines.next()

    def due(self, now: float) -> tuple[Out, ...]:
        """What has to be said now."""
        outs: tuple[Out, ...] = ()
        while (voice := self._deadlines.pop(now)) is not None:
            outs += self._ask(self._inlets[voice], now)
        return outs

    def _ask(self, inlet: Inlet, now: float) -> tuple[Out, ...]:
        """What is due of one voice."""
        outs: tuple[Out, ...] = ()
        if inlet.again_at is not None and now >= inlet.again_at:
            if inlet.state is Phase.ASKED:
                inlet.on_ended()
                outs = (self._stop(inlet),)
            else:
                number = self._number(inlet, now)
                if number is not None:
                    self._voices[Route(inlet.node, number)] = inlet.voice
                    outs = (inlet.on_asked(number, now),)
        self._note(inlet)
        return outs

    def _settle(self, inlet: Inlet, now: float) -> None:
        """The other side has spoken; what it is done with rests."""
        if inlet.state is Phase.ENDED:
            self._rest(self._leave(inlet), now)
        self._note(inlet)

    def _note(self, inlet: Inlet) -> None:
        self._deadlines.set(inlet.voice, inlet.again_at)

    def _number(self, inlet: Inlet, now: float) -> int | None:
        """The number to ask with; None, and asked later, when there is none, or no trunk."""
        numbers = self._numbers.get(inlet.node)
        if numbers is None:
            inlet.again_at = None
            return None
        if inlet.number is not None:
            return inlet.number
        number = numbers.allot(now)
        if number is None:
            inlet.again_at = numbers.next_free() or now + REST_S
        return number

    def _stop(self, inlet: Inlet) -> Out:
        """Take its number away, which is nobody's from now on; what to say."""
        route = self._leave(inlet)
        self._stopping.add(route)
        return Out(route.node, Stop(route=route.number))

    def _leave(self, inlet: Inlet) -> Route:
        assert inlet.number is not None  # it has one from its first pull on
        route, inlet.number = Route(inlet.node, inlet.number), None
        del self._voices[route]
        return route

    def _rest(self, route: Route, now: float) -> None:
        self._numbers[route.node].free(route.number, now)
