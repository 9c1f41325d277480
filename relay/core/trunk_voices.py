"""The voices that pass trunks, as orders for the lane: of the legs here, whoever their calls' home is.

    speak    a person here: who hears it here, to which nodes it may go   + pulls of those nodes   --> Route
    hear     a person there: who hears it here                            --> pull, OpenRoute, Route

What is not heard any more is closed at the lane before anybody is told. A voice that came by a trunk is never
routed to one: `hear` knows legs alone. Must never live here: who may hear whom (hosting.py, visiting.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from relay.core import events as ev
from relay.core.flows import LAST
from relay.core.node import Node
from relay.core.reasons import DropReason
from relay.core.trunk import beside, node_of
from relay.core.trunk_receiving import Out, Phase, Receiving
from relay.core.trunk_sending import Route, Sending, Voice
from relay.core.trunk_words import Answer, Then
from relay.core.trunks import Trunks
from relay.errors import LocalError
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk_messages import Pull, Stop

Ends = tuple[tuple[int, int], ...]
"""(leg, flow) of listeners here."""


class Rights(NamedTuple):
    """What a voice from another node is held to."""

    group: bool
    up_bps: int
    pps: int


@dataclass(slots=True)
class _Source:
    """One leg on which a person here speaks."""

    term: int

    targets: Ends = ()
    nodes: frozenset[str] = frozenset()
    closed: DropReason | None = DropReason.GATE_CLOSED
    told: tuple[Ends, DropReason | None] | None = None


@dataclass(slots=True)
class _Inlet:
    """A voice of another node."""

    node: str
    rights: Rights
    term: int = 0
    targets: Ends = ()
    open: tuple[int, int] | None = None
    """The connection and the number on which the lane takes it."""
    told: Ends = ()
    has_turned: bool = False
    """It was looked for at the node's other process before."""


class Voices:
    """All of one node's that pass trunks, or might."""

    def __init__(self, node: Node, trunks: Trunks) -> None:
        self._node = node
        self._trunks = trunks
        self._sending = Sending()
        self._receiving = Receiving()
        self._sources: dict[Voice, dict[tuple[int, int], _Source]] = {}
        self._voices: dict[tuple[int, int], Voice] = {}
        """Whose voice a leg's flow is."""
        self._inlets: dict[Voice, _Inlet] = {}
        self._fading: dict[Voice, _Inlet] = {}
        """What was an inlet until the voice came to another node, which has not answered yet."""
        self._closing: dict[tuple[int, int], Voice] = {}
        """Routes that the lane was told to close: what it counted is on its way."""

    def __len__(self) -> int:
        return len(self._sources) + len(self._inlets)

    def voice_of(self, leg: int, flow: int) -> Voice | None:
        """Whose voice that is, if it may leave by trunks."""
        return self._voices.get((leg, flow))

    def routes(self) -> set[tuple[int, int]]:
        """The routes that the lane takes, by connection and number, for tests of invariants."""
        inlets = (*self._inlets.values(), *self._fading.values())
        return {inlet.open for inlet in inlets if inlet.open is not None}

    def comes_from(self, voice: Voice) -> str | None:
        """The way by which this voice of another node is wanted; None: nobody here hears it."""
        inlet = self._inlets.get(voice)
        return None if inlet is None else inlet.node

    def is_counting(self, voice: Voice) -> bool:
        """Whether the lane still owes counters of this voice."""
        return voice in self._closing.values()

    def on_counted(self, leg: int, route: int) -> Voice | None:
        """A route's counters are in; whose voice it was. None: no route of ours."""
        return self._closing.pop((leg, route), None)

    # ------------------------------------------------------------ who is here

    def speak(
        self,
        voice: Voice,
        term: int,
        leg: int,
        flow: int,
        *,
        targets: Ends,
        nodes: frozenset[str],
        closed: DropReason | None,
    ) -> None:
        """Who hears this flow of a person here: legs here, and nodes to which it may go, those alone."""
        self._voices[leg, flow] = voice
        sources = self._sources.setdefault(voice, {})
        source = sources.setdefault((leg, flow), _Source(term))
        source.term, source.targets, source.nodes, source.closed = term, targets, nodes, closed
        self._settle(voice)

    def hush(self, leg: int, flow: int) -> None:
        """A flow here is over; the lane is told by who says so."""
        voice = self._voices.pop((leg, flow), None)
        if voice is None:
            return
        sources = self._sources[voice]
        del sources[leg, flow]
        if sources:
            self._settle(voice)
            return
        del self._sources[voice]
        self._say_ended(self._sending.forget(voice))

    def _settle(self, voice: Voice) -> None:
        """The grant follows from all that a person speaks on; routes first, then who pulled hears of it."""
        sources = self._sources[voice].values()
        nodes = frozenset[str]().union(*(each.nodes for each in sources))
        ended = self._sending.grant(voice, max(each.term for each in sources), nodes)
        self._route(voice)
        self._say_ended(ended)

    def _route(self, voice: Voice) -> None:
        routes = self._sending.routes_of(voice)
        for (leg, flow), source in self._sources[voice].items():
            far = []
            for node, number in routes:
                link = self._trunks.leg_of(node)
                if node_of(node) in source.nodes and link is not None:
                    far.append((link, number))
            targets = source.targets + tuple(far)
            told = (targets, None if targets else source.closed or DropReason.GATE_CLOSED)
            if told != source.told:
                source.told = told
                self._trunks.put(ev.Route(leg, flow, *told))

    def _say_ended(self, routes: Iterable[Route]) -> None:
        for node, number in routes:
            self._trunks.ask(node, Stop(route=number, out=True))
            self._carry(node)

    # ------------------------------------------------------------ who is there

    def hear(self, voice: Voice, term: int, node: str, targets: Ends, rights: Rights) -> None:
        """Who here hears a person at that node; nobody: it is not wanted any more.

        `node`: the way there. By the one before they are heard until this one sends.
        """
        if any(flow > LAST for _, flow in targets):
            raise LocalError("what came by a trunk leaves by legs")
        now = self._node.now
        inlet = self._inlets.get(voice)
        if not targets:
            self._drop(voice)
            return
        if inlet is not None and inlet.node != node:
            self._end_fading(voice)
            self._fading[voice] = self._inlets.pop(voice)
            inlet = None
        if inlet is None:
            inlet = self._inlets[voice] = _Inlet(node, rights)
            self._trunks.need(node)
        inlet.targets, inlet.term = targets, term
        outs = self._receiving.want(voice, term, node, now)
        self._fade(voice)
        self._sync(voice)
        self._say(outs)

    def _fade(self, voice: Voice) -> None:
        """What comes from where the voice was goes to whoever hears it now, until nothing comes any more."""
        fading, route = self._fading.get(voice), self._receiving.former_of(voice)
        if fading is None:
            return
        if route is None or fading.open != (self._trunks.leg_of(route.node), route.number):
            self._end_fading(voice)
        elif fading.told != self._inlets[voice].targets:
            fading.told = self._inlets[voice].targets
            self._trunks.put(ev.Route(*fading.open, fading.told))

    def _end_fading(self, voice: Voice) -> None:
        fading = self._fading.pop(voice, None)
        if fading is not None:
            self._shut(voice, fading)
            self._trunks.spare(fading.node)
            self._say(self._receiving.settled(voice))

    def _drop(self, voice: Voice) -> None:
        inlet = self._inlets.get(voice)
        if inlet is None:
            return
        self._end_fading(voice)
        outs = self._receiving.unwant(voice, self._node.now)
        self._shut(voice, inlet)
        del self._inlets[voice]
        self._say(outs)
        self._trunks.spare(inlet.node)

    def _sync(self, voice: Voice) -> None:
        """The lane takes what was agreed upon, and nothing else."""
        inlet = self._inlets[voice]
        link = self._trunks.leg_of(inlet.node)
        number = self._receiving.number_of(voice)
        there = None if link is None or number is None else (link, number)
        if inlet.open != there:
            self._shut(voice, inlet)
        if there is None:
            return
        if inlet.open is None:
            inlet.open = there
            rights = inlet.rights
            self._trunks.put(
                ev.OpenRoute(*there, voice.p, group=rights.group, up_bps=rights.up_bps, pps=rights.pps)
            )
        if inlet.told != inlet.targets:
            inlet.told = inlet.targets
            self._trunks.put(ev.Route(*there, inlet.targets))

    def _shut(self, voice: Voice, inlet: _Inlet) -> None:
        """Nobody hears what comes on its route any more."""
        if inlet.open is not None:
            if self._trunks.leg_of(inlet.node) == inlet.open[0]:  # else the lane has forgotten all of it
                self._closing[inlet.open] = voice
                self._trunks.put(ev.CloseFlow(*inlet.open))
            inlet.open, inlet.told = None, ()

    def _say(self, outs: tuple[Out, ...]) -> None:
        for node, message in outs:
            self._trunks.ask(node, message, self._then(node, message))
            self._carry(node)

    def _then(self, node: str, said: Pull | Stop) -> Then:
        def stopped(_: Answer) -> None:
            self._receiving.on_stopped(Route(node, said.route), self._node.now)
            self._carry(node)

        def pulled(answer: Answer) -> None:
            assert isinstance(said, Pull)
            voice = self._receiving.voice_on(Route(node, said.route))
            if isinstance(answer, Ok | Err):
                self._receiving.on_answer(node, said, answer, self._node.now)
            if voice is not None:
                self._look(voice)
                self._carry(node)

        return pulled if isinstance(said, Pull) else stopped

    def _look(self, voice: Voice) -> None:
        """Something became of a pull, or of a route. What comes from its new node ends what came from the one
        before; what ends at one process of a node is looked for at the other one, once."""
        inlet, phase = self._inlets[voice], self._receiving.phase_of(voice)
        if phase is Phase.CARRYING:
            self._end_fading(voice)
        self._fade(voice)
        self._sync(voice)
        other = beside(inlet.node)
        if phase is Phase.ENDED and not inlet.has_turned and self._trunks.leg_of(other) is not None:
            self.hear(voice, inlet.term, other, inlet.targets, inlet.rights)
            self._inlets[voice].has_turned = True

    # ------------------------------------------------------------ what the other nodes say

    def on_pull(self, node: str, pull: Pull) -> Ok | Err:
        """A node wants a voice; the answer."""
        answer = self._sending.on_pull(node, pull)
        if isinstance(answer, Ok):
            self._route(Voice(pull.c, pull.p))
            self._carry(node)
        return answer

    def on_stop(self, node: str, stop: Stop) -> None:
        """A route is over."""
        route = Route(node, stop.route)
        if stop.out:
            voice = self._receiving.on_stop(route, self._node.now)
            if voice is not None:
                self._look(voice)
        else:
            voice = self._sending.on_stop(route)
            if voice is not None:
                self._route(voice)
        self._carry(node)

    def on_up(self, node: str) -> None:
        """A trunk is there."""
        self._say(self._follow(self._receiving.on_up(node, self._node.now)))

    def on_down(self, node: str) -> None:
        """It is not: nothing comes or goes there."""
        for voice in self._receiving.on_down(node):
            self._look(voice)
        for voice in self._sending.on_down(node):
            self._route(voice)

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When something has to be said."""
        return self._receiving.next_deadline()

    def on_timer(self, now: float) -> None:
        """Time went by."""
        self._say(self._follow(self._receiving.due(now)))

    def _follow(self, outs: tuple[Out, ...]) -> tuple[Out, ...]:
        """The lane hears first of what is about to be said."""
        for node, message in outs:
            if isinstance(message, Pull):
                self._sync(Voice(message.c, message.p))
            else:
                self._end(node, message.route)
        return outs

    def _end(self, node: str, number: int) -> None:
        """Nobody answered a pull: the number is given up."""
        there = (self._trunks.leg_of(node), number)
        for voice in [voice for voice, inlet in self._inlets.items() if inlet.open == there]:
            self._sync(voice)

    def _carry(self, node: str) -> None:
        carries = self._sending.carries(node) or self._receiving.carries(node)
        self._trunks.carry(node, carries)
