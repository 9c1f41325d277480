"""Whose voices leave our node by trunks: what the home granted, and what listeners' nodes pulled.

    grant   voice -> nodes it may go to          (the home says so)
    pull    node -> the number it gave a voice   (the listeners' node says so)

A voice leaves on a route only with both, and never without the first. A grant is for a node, whichever of its
processes pulls. All voices here are those of legs at
this node: what came by a trunk has no line in this table, so no path has a third relay and there is no loop.
Must never live here: trunks themselves, and who may hear whom.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from relay.core.trunk import node_of
from relay.errors import ErrorCode
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk import ROUTES
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Pull

RETRY_MS: Final = 200  # until a pull that was too early is worth another try: the grant may be under way


class Voice(NamedTuple):
    """Participant `p` of call `c`, as a speaker."""

    c: bytes
    p: int


class Route(NamedTuple):
    """A number on the trunk to a node, given by who receives. `node`: the way to it."""

    node: str
    number: int


@dataclass(slots=True)
class _Speaker:
    term: int
    granted: frozenset[str]
    pulled: dict[str, int] = field(default_factory=dict)  # number by node


class Sending:
    """What one node sends on trunks. `most`: routes that one other node may have at a time."""

    def __init__(self, most: int = ROUTES) -> None:
        self._most = most
        self._speakers: dict[Voice, _Speaker] = {}
        self._voices: dict[str, dict[int, Voice]] = {}
        """By node and number."""

    def routes_of(self, voice: Voice) -> tuple[Route, ...]:
        """Where this voice goes now."""
        speaker = self._speakers.get(voice)
        return () if speaker is None else tuple(Route(*each) for each in speaker.pulled.items())

    def carries(self, node: str) -> bool:
        """Whether any voice goes to this node."""
        return bool(self._voices.get(node))

    def grant(self, voice: Voice, term: int, nodes: frozenset[str]) -> tuple[Route, ...]:
        """The home of this term lets a voice go to these nodes, those alone; the routes that end with it.

        An older home than the one that spoke last is not heard any more.
        """
        speaker = self._speakers.setdefault(voice, _Speaker(term, nodes))
        if term < speaker.term:
            return ()
        speaker.term, speaker.granted = term, nodes
        ended = tuple(route for route in self.routes_of(voice) if node_of(route.node) not in nodes)
        for route in ended:
            self._end(route)
        return ended

    def on_pull(self, node: str, pull: Pull) -> Ok | Err:
        """Another node wants a voice; the answer. With `Ok` it goes there from now on."""
        voice = Voice(pull.c, pull.p)
        speaker = self._speakers.get(voice)
        if speaker is not None and pull.term < speaker.term:
            return Err(code=TrunkCode.OLD_TERM)
        if speaker is None or pull.term > speaker.term or node_of(node) not in speaker.granted:
            return Err(code=ErrorCode.FORBIDDEN, retry_ms=RETRY_MS)
        numbers = self._voices.setdefault(node, {})
        if numbers.get(pull.route, voice) != voice:
            return Err(code=ErrorCode.PROTOCOL_VIOLATION)  # a number means one voice until it has rested
        former = speaker.pulled.get(node)
        if former is None and len(numbers) >= self._most:
            return Err(code=TrunkCode.ROUTE_LIMIT)
        if former is not None:
            del numbers[former]  # one route carries a voice to a node, however many listen there
        numbers[pull.route] = voice
        speaker.pulled[node] = pull.route
        return Ok()

    def on_stop(self, route: Route) -> Voice | None:
        """The other node wants it no longer. Whose it was; None if it had ended here before."""
        voice = self._voices.get(route.node, {}).get(route.number)
        if voice is not None:
            self._end(route)
        return voice

    def on_down(self, node: str) -> tuple[Voice, ...]:
        """The trunk to a node is down: its routes are forgotten on both sides. Whose they were."""
        voices = tuple(self._voices.pop(node, {}).values())
        for voice in voices:
            del self._speakers[voice].pulled[node]
        return voices

    def forget(self, voice: Voice) -> tuple[Route, ...]:
        """Nobody here speaks with this voice any more; the routes that end with it."""
        ended = self.routes_of(voice)
        for route in ended:
            self._end(route)
        self._speakers.pop(voice, None)
        return ended

    def _end(self, route: Route) -> None:
        voice = self._voices[route.node].pop(route.number)
        del self._speakers[voice].pulled[route.node]
