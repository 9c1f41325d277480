"""What the home of a call tells the nodes of its people: whom these hear, and where they are heard.

    the engine's Route orders, of legs here and of the legs of halves (`FarLeg`, numbers below zero)
        --settle--> `Voices` for what is here    grant: where a half's voice may go    gate: whom it hears

The engine need not know that somebody is elsewhere: to it a half is a leg. Our own routes follow before
anything is said. Must never live here: messages of people, halves that come and go (hosting.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from relay.core import events as ev
from relay.core.consent import SIZE
from relay.core.node import Node
from relay.core.reasons import DropReason
from relay.core.trunk import node_of
from relay.core.trunk_closing import Certainty
from relay.core.trunk_home import Home
from relay.core.trunk_parts import Told
from relay.core.trunk_sending import Voice
from relay.core.trunk_voices import Ends, Rights, Voices
from relay.core.trunk_words import Answer, Then
from relay.core.trunks import Trunks
from relay.protocol import control
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import Gate, Grant

TERM: Final = 1  # every call has had one home


def _no_limits() -> control.Limits:
    return control.Limits(up=0, dn=0, pps=0)


@dataclass(slots=True)
class FarLeg:
    """The leg of somebody at another node, as the engine knows it."""

    number: int
    node: str
    """The way to the process that has it."""
    c: bytes
    id: int
    """Of the `attach` that waits for an answer."""
    half: int | None = None
    """What we call it, once attached."""
    index: int = 0
    up: int | None = None
    group: bool = False
    budget: tuple[int, int] = (0, 0)
    """Bits and packets per second up."""
    limits: control.Limits = field(default_factory=_no_limits)
    targets: Ends = ()
    gate: tuple[int, int] = (0, 0)
    """Whom it hears, and the epoch."""
    told_gate: Gate | None = None
    told_to: tuple[str, ...] | None = None
    is_silent: bool = False
    """Its node says that it is not heard."""
    told: Told | None = None
    """What its node says of it, once attached."""
    waits_until: float | None = None
    """For its node's last word on what was sent and heard."""
    refusal: Err | None = None
    why: str = "failed"
    """How its call ended for it, if it did."""


@dataclass(slots=True)
class _Near:
    """A flow of a person here, whom somebody elsewhere hears, or heard."""

    voice: Voice
    targets: Ends
    closed: DropReason | None


@dataclass(slots=True)
class _Far:
    """What is known of one call."""

    legs: dict[int, FarLeg] = field(default_factory=dict)
    near: dict[tuple[int, int], _Near] = field(default_factory=dict)
    reach: dict[int, _Reach] = field(default_factory=dict)
    """By participant: as it was said last."""
    closings: dict[int, _Ending] = field(default_factory=dict)


class _Reach(NamedTuple):
    """Where a voice is, and at which other nodes it is heard."""

    speaker: str | None
    listeners: frozenset[str]


class _Ending(NamedTuple):
    """A voice that ends between other nodes."""

    person: int
    listeners: frozenset[str]


class Granting:
    """Keeps other nodes' routes equal to the gates here."""

    def __init__(self, node: Node, trunks: Trunks, voices: Voices, home: Home) -> None:
        self._node = node
        self._trunks = trunks
        self._voices = voices
        self._home = home
        self._calls: dict[bytes, _Far] = {}
        self._dirty: dict[bytes, None] = {}
        self._newest = 0
        self._fresh: set[int] = set()
        self.unsure: set[int] = set()
        """Closings that wait for a word of other nodes."""
        self.on_unknown: Callable[[FarLeg], None] = lambda _: None
        """Its node says that it has no such half."""

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def is_due(self) -> bool:
        """Whether something is left to be settled."""
        return bool(self._dirty)

    def hosts(self, voice: Voice) -> bool:
        """Whether that is somebody elsewhere in a call of ours."""
        call = self._calls.get(voice.c)
        return call is not None and any(far.index == voice.p for far in call.legs.values())

    def fresh(self) -> frozenset[int]:
        """The closings that began since this was asked last, and wait for a word of other nodes."""
        fresh, self._fresh = frozenset(self._fresh & self.unsure), set()
        return fresh

    # ------------------------------------------------------------ who is where

    def enter(self, far: FarLeg) -> None:
        """A half's leg is in its call."""
        self._calls.setdefault(far.c, _Far()).legs[far.number] = far
        self._dirty[far.c] = None

    def leave(self, far: FarLeg) -> None:
        """It is not any more."""
        call = self._calls.get(far.c)
        if call is not None and call.legs.pop(far.number, None) is not None:
            self._dirty[far.c] = None

    def repeat(self, far: FarLeg) -> None:
        """Its node has forgotten what it was told."""
        far.told_gate = far.told_to = None
        self._dirty[far.c] = None

    def on_gate(self, far: FarLeg, gate: control.Gate) -> None:
        """Whom it hears."""
        far.gate = (gate.open, gate.ep)
        self._dirty[far.c] = None

    def on_far_route(self, far: FarLeg, targets: Ends) -> None:
        """Who hears it."""
        far.targets = targets
        self._dirty[far.c] = None

    def on_near_route(self, route: ev.Route) -> bool:
        """Who hears somebody here. False: nobody elsewhere does, nor did; the lane is told as ever."""
        is_far = any(leg < 0 for leg, _ in route.targets)
        if not is_far and self._voices.voice_of(route.leg, route.flow) is None:
            return False
        call = self._node.counting[route.leg, route.flow]
        voice = Voice(call.cid, call.flows[route.leg, route.flow].index)
        far = self._calls.setdefault(call.cid, _Far())
        far.near[route.leg, route.flow] = _Near(voice, route.targets, route.closed)
        self._dirty[call.cid] = None
        return True

    def on_near_closed(self, leg: int, flow: int) -> None:
        """A flow here is over."""
        voice = self._voices.voice_of(leg, flow)
        if voice is not None:
            self._voices.hush(leg, flow)
            del self._calls[voice.c].near[leg, flow]
            self._dirty[voice.c] = None

    # ------------------------------------------------------------ what follows

    def settle(self) -> None:
        """Routes here first, then what other nodes are told."""
        while self._dirty:
            cid, _ = self._dirty.popitem()
            call = self._calls.get(cid)
            if call is not None:
                self._settle(cid, call)
                if not call.legs and not call.near:
                    del self._calls[cid]

    def _settle(self, cid: bytes, call: _Far) -> None:
        reach: dict[int, _Reach] = {}
        for (leg, flow), near in call.near.items():
            nodes = self._nodes(call, near.targets)
            self._voices.speak(
                near.voice,
                TERM,
                leg,
                flow,
                targets=_here(near.targets),
                nodes=_ids(nodes),
                closed=near.closed,
            )
            before = reach.get(near.voice.p, _Reach(None, frozenset()))
            reach[near.voice.p] = _Reach(None, before.listeners | nodes)
        heard: dict[int, FarLeg] = {}
        for far in call.legs.values():  # the newest leg of a person counts
            reach[far.index] = _Reach(far.node, self._nodes(call, far.targets))
            if _here(far.targets):
                heard[far.index] = far
        silent = {far.index for far in call.legs.values()} | set(call.reach)
        for index in silent - heard.keys() - {near.voice.p for near in call.near.values()}:
            self._voices.hear(Voice(cid, index), TERM, "", (), _NO_RIGHTS)
        # What is new is granted before it is pulled; what is heard has fewer listeners before that is said.
        known = [
            index for index, far in heard.items() if self._voices.comes_from(Voice(cid, index)) == far.node
        ]
        for index in known:
            self._hear(cid, heard.pop(index))
        self._close(call, reach)
        self._tell(call)
        for far in heard.values():
            self._hear(cid, far)

    def _hear(self, cid: bytes, far: FarLeg) -> None:
        rights = Rights(far.group, *far.budget)
        self._voices.hear(Voice(cid, far.index), TERM, far.node, _here(far.targets), rights)

    def _nodes(self, call: _Far, targets: Ends) -> frozenset[str]:
        """The other nodes at which these are."""
        return frozenset(call.legs[leg].node for leg, _ in targets if leg in call.legs)

    # ------------------------------------------------------------ what other nodes are told

    def _close(self, call: _Far, reach: dict[int, _Reach]) -> None:
        """Which voices end between other nodes, and so are not known to have ended."""
        for index, (speaker, listeners) in call.reach.items():
            still = reach[index].listeners if index in reach else frozenset[str]()
            lost = frozenset(each for each in listeners - still if self._is_there(each))
            if speaker is None or not lost or not self._is_there(speaker):
                continue  # our own end is shut, or the other one by itself
            self._newest += 1
            self._home.close(self._newest, speaker, lost, self._node.now)
            call.closings[self._newest] = _Ending(index, lost)
            self.unsure.add(self._newest)
            self._fresh.add(self._newest)
        call.reach = reach

    def _is_there(self, node: str) -> bool:
        return self._home.heard_at(node) is not None

    def _tell(self, call: _Far) -> None:
        own = self._trunks.own.node
        attached = [(far, far.half) for far in call.legs.values() if far.half is not None]
        for far, half in attached:
            nodes = self._nodes(call, far.targets) | (frozenset({own}) if _here(far.targets) else frozenset())
            to = tuple(sorted(_ids(nodes)))
            if to != far.told_to and (to or far.told_to is not None):
                keys = [key for key, closing in call.closings.items() if closing.person == far.index]
                if self._trunks.ask(far.node, Grant(half=half, to=to), self._granted(far, call, keys)):
                    far.told_to = to
        where = {far.index: node_of(far.node) for far in call.legs.values()}
        gates: dict[str, list[tuple[FarLeg, Gate]]] = {}
        for far, half in attached:
            mask, epoch = far.gate
            at = {index: where.get(index, own) for index in range(SIZE) if mask >> index & 1}
            gate = Gate(half=half, open=mask, ep=epoch, at=at)
            if gate != far.told_gate and (mask or far.told_gate is not None):
                gates.setdefault(far.node, []).append((far, gate))
        for node, said in gates.items():
            keys = [key for key, closing in call.closings.items() if node in closing.listeners]
            for far, gate in said:
                # They are answered in their order: the last answer stands for all.
                then = self._gated(far, call, keys if far is said[-1][0] else [])
                if self._trunks.ask(node, gate, then):
                    far.told_gate = gate

    def _granted(self, far: FarLeg, call: _Far, keys: list[int]) -> Then:
        def then(answer: Answer) -> None:
            if self._is_done(far, answer):
                for key in keys:
                    self._judge(call, key, self._home.on_grant_taken(key, far.node, self._node.now))

        return then

    def _gated(self, far: FarLeg, call: _Far, keys: list[int]) -> Then:
        def then(answer: Answer) -> None:
            if self._is_done(far, answer):
                for key in keys:
                    self._judge(call, key, self._home.on_gate_shut(key, far.node, self._node.now))

        return then

    def _is_done(self, far: FarLeg, answer: Answer) -> bool:
        """Whether it is at the other node as we said."""
        is_unknown = isinstance(answer, Err) and answer.code == TrunkCode.HALF_UNKNOWN
        if is_unknown:
            self.on_unknown(far)
        return is_unknown or isinstance(answer, Ok)

    def _judge(self, call: _Far, key: int, certainty: Certainty) -> None:
        if certainty is Certainty.SURE:
            call.closings.pop(key, None)
            self.unsure.discard(key)


def _ids(ways: frozenset[str]) -> frozenset[str]:
    """The nodes of these."""
    return frozenset(map(node_of, ways))


def _here(targets: Ends) -> Ends:
    """Those of our own legs."""
    return tuple(each for each in targets if each[0] >= 0)


_NO_RIGHTS: Final = Rights(False, 0, 0)
