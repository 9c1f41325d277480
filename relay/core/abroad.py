"""The engine's end of all trunks: which part takes what comes by them, and what the engine's orders become.

    trunk input ---> trunks.py ---> message ---> hosting.py (we are home)   visiting.py (somebody else is)
    the engine's orders ---> `settle`: those for halves' legs and for routes are turned over, the rest goes on

A node without trunks has none of this. Must never live here: what a message means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from relay.core import events as ev
from relay.core.door import Door
from relay.core.granting import Granting
from relay.core.hosting import Hosting
from relay.core.node import Node
from relay.core.trunk_answers import Answers, Letter
from relay.core.trunk_greeting import Identity, Pins
from relay.core.trunk_home import Home
from relay.core.trunk_parts import Told
from relay.core.trunk_sending import Voice
from relay.core.trunk_voices import Voices
from relay.core.trunks import Trunks
from relay.core.visiting import Visiting
from relay.errors import ErrorCode
from relay.protocol.messages import Err, Message, Ok
from relay.protocol.trunk_messages import (
    Attach,
    Beat,
    Close,
    Gate,
    Grant,
    HalfState,
    Halves,
    Part,
    Pull,
    Say,
    Stop,
)

DUE: Final = frozenset({"trunks", "voices", "hosting", "visiting", "visit", "parts", "held"})
"""Kinds of deadlines that are this part's."""


Take = Callable[[Any], None]
"""What takes one kind of input."""


class _Owed(NamedTuple):
    """A flow of a half's leg that is closed, whose counters the engine waits for."""

    leg: int
    flow: int
    voice: Voice | None
    told: Told | None


class Abroad:
    """What of the engine knows that there are other nodes."""

    def __init__(
        self, node: Node, own: Identity, pins: Pins, door: Door, feed: Callable[[ev.Input], None]
    ) -> None:
        self._node = node
        self._feed = feed
        self.trunks = Trunks(node, own, pins, self)
        self.voices = Voices(node, self.trunks)
        home = Home()
        self.granting = Granting(node, self.trunks, self.voices, home)
        self.hosting = Hosting(node, self.trunks, home, self.granting, door, feed)
        self.visiting = Visiting(node, self.trunks, self.voices, door)
        node.visitor_gone = self.visiting.on_leg_gone
        self._answered: Mapping[type, Callable[[str, Any], Ok | Err]] = {
            Gate: self.visiting.on_gate,
            Grant: self.visiting.on_grant,
            Pull: self.voices.on_pull,
            Stop: self._on_stop,
            HalfState: self.hosting.on_half_state,
            Close: self._on_close,
        }
        self._taken: Mapping[type, Callable[[str, Any, int], None]] = {
            Attach: self.hosting.on_attach,
            Halves: self.hosting.on_halves,
            Beat: self.visiting.on_beat,
            Part: self.hosting.on_part,
        }
        self._holding = Answers()
        self._letters: list[Letter] = []
        self._counts: list[_Owed] = []
        """Flows of halves' legs whose counters the engine waits for."""
        self._counted: dict[Voice, ev.FlowCounters] = {}

    # ------------------------------------------------------------ inputs

    def inputs(self, engine: Mapping[type, Take]) -> Mapping[type, Take]:
        """Which inputs come here first, or alone; `engine`: who takes them on a node without trunks."""
        return {
            ev.TrunkDialed: self.trunks.on_dialed,
            ev.TrunkOpened: self.trunks.on_opened,
            ev.TrunkAcknowledged: self.trunks.on_acknowledged,
            ev.TrunkCounted: self.trunks.on_counted,
            ev.TrunksKnown: lambda event: self.trunks.meet(event.nodes),
            ev.StreamReceived: _unless(self.trunks.on_stream, engine[ev.StreamReceived]),
            ev.DatagramReceived: _unless(self.trunks.on_datagram, engine[ev.DatagramReceived]),
            ev.LegLost: _unless(self._on_lost, engine[ev.LegLost]),
            ev.FlowClosed: _unless(self._on_flow_closed, engine[ev.FlowClosed]),
            ev.Flowing: _unless(self._on_flowing, engine[ev.Flowing]),
            ev.DrainRequested: _unless(self._on_drain, engine[ev.DrainRequested]),
        }

    def _on_lost(self, event: ev.LegLost) -> bool:
        self._holding.on_lost(event.leg)
        return self.trunks.on_lost(event.leg)

    def _on_flowing(self, event: ev.Flowing) -> bool:
        self.visiting.parts.on_flowing(event)
        return False

    def _on_drain(self, event: ev.DrainRequested) -> bool:
        self.trunks.drain()
        return False

    def _on_flow_closed(self, event: ev.FlowClosed) -> bool:
        """A route may be closed and opened anew while somebody is in a call; the record has the sum."""
        voice = self.voices.on_counted(event.leg, event.flow)
        if voice is None:
            return False
        if self.granting.hosts(voice) or any(owed.voice == voice for owed in self._counts):
            self._counted[voice] = _sum(self._counted.get(voice, ev.FlowCounters()), event.counters)
        return True

    def on_due(self, kind: str, key: int | bytes) -> None:
        """Something is due."""
        now = self._node.now
        if kind == "trunks":
            self.trunks.on_timer(now)
        elif kind == "voices":
            self.voices.on_timer(now)
        elif kind == "hosting":
            self.hosting.on_timer(now)
        elif kind == "visiting":
            self.visiting.on_timer(now)
        elif kind == "parts":
            self.visiting.parts.on_timer(now)
        elif kind == "visit":
            assert isinstance(key, int)
            self.visiting.on_leg_due(key)

    # ------------------------------------------------------------ what comes by trunks

    def on_up(self, node: str, *, is_new: bool) -> None:
        """A trunk is there."""
        self.hosting.on_up(node, is_new=is_new)
        self.voices.on_up(node)
        self.visiting.on_up(node)

    def on_suspect(self, node: str) -> None:
        """It is silent: who needs it goes where it does not matter."""
        self._node.count("trunk_suspect")
        self.visiting.referral.on_suspect(node)

    def on_down(self, node: str) -> None:
        """It is not any more: nothing passes, before anything else is done."""
        self.voices.on_down(node)
        self.visiting.on_down(node)
        self.hosting.on_down(node)

    def on_message(self, node: str, message: Message, id: int) -> None:
        """A message, which is answered if it has an `id`. PeerError ends the trunk."""
        kind = type(message)
        if kind in self._answered:
            self.trunks.answer(node, id, self._answered[kind](node, message))
        elif kind in self._taken:
            self._taken[kind](node, message, id)
        elif isinstance(message, Say):
            (self.hosting if message.up else self.visiting).on_say(node, message)
        elif id:  # `ask`, and all that another home would say
            self.trunks.answer(node, id, Err(code=ErrorCode.VERSION))

    def _on_stop(self, node: str, stop: Stop) -> Ok:
        self.voices.on_stop(node, stop)
        return Ok()

    def _on_close(self, node: str, close: Close) -> Ok | Err:
        return (self.hosting if close.up else self.visiting).on_close(node, close)

    # ------------------------------------------------------------ the engine's orders

    def settle(self) -> None:
        """Turn over what was ordered, and what follows from it, until nothing does."""
        node, outputs = self._node, self._node.outputs
        while True:
            while outputs:
                self._turn(outputs.popleft())
            self.hosting.forget()
            self.granting.settle()
            if self._count():
                continue
            self._deliver()
            if not outputs and not self.granting.is_due:
                break
        outputs.extend(self.trunks.outputs)
        self.trunks.outputs.clear()
        node.deadlines.set(("trunks", 0), self.trunks.next_deadline())
        node.deadlines.set(("voices", 0), self.voices.next_deadline())
        node.deadlines.set(("hosting", 0), self.hosting.next_deadline())
        node.deadlines.set(("visiting", 0), self.visiting.next_deadline())
        node.deadlines.set(("parts", 0), self.visiting.parts.next_deadline())
        node.deadlines.set(("held", 0), self._holding.next_deadline())

    def _turn(self, order: ev.Output) -> None:
        if isinstance(order, ev.SendStream):
            if order.leg >= 0 or self.hosting.on_sent(order.leg, order.data):
                self._letters.append(order)
        elif isinstance(order, ev.CloseLeg):
            self._letters.append(order)
        elif getattr(order, "leg", 0) < 0:
            self._turn_far(order)
        elif isinstance(order, ev.Route):
            if not self.granting.on_near_route(order):
                self.trunks.put(order)
        elif isinstance(order, ev.Remember):
            self.trunks.outputs.appendleft(order)  # nothing is said before
        else:
            self.trunks.put(order)
            if isinstance(order, ev.CloseFlow):
                self.granting.on_near_closed(order.leg, order.flow)

    def _turn_far(self, order: ev.Output) -> None:
        """One for a half's leg. What the way to its client needs, that client's node looks after."""
        match order:
            case ev.Route():
                self.hosting.on_route(order)
            case ev.CloseFlow(leg, flow):
                told = self.hosting.told_of(leg)
                self._counts.append(_Owed(leg, flow, self.hosting.on_flow_closed(order), told))
            case ev.SetBudget():
                self.hosting.on_budget(order)
            case ev.OpenFlow():
                self.hosting.on_flow(order)

    def _count(self) -> bool:
        """Whether the engine heard of counters that were owed to it."""
        ready = [owed for owed in self._counts if not self._is_owed(owed)]
        for owed in ready:
            self._counts.remove(owed)
            counted = None if owed.voice is None else self._counted.pop(owed.voice, None)
            counters = counted or ev.FlowCounters()
            if owed.told is not None:
                counters = owed.told.counters(counters)
            self._feed(ev.FlowClosed(owed.leg, owed.flow, counters))
        return bool(ready)

    def _is_owed(self, owed: _Owed) -> bool:
        """Whether the lane or the other node has something to say of it yet."""
        is_counting = owed.voice is not None and self.voices.is_counting(owed.voice)
        return is_counting or self.hosting.waits(owed.leg)

    def _deliver(self) -> None:
        """Messages to people, once routes are as they say; an `ok` may have to wait for other nodes'."""
        letters, self._letters = self._letters, []
        for letter in self._holding.on_letters(letters, self.granting.fresh(), self._node.now):
            self._pass(letter)
        for letter in self._holding.due(self.granting.unsure, self._node.now):
            self._pass(letter)

    def _pass(self, letter: Letter) -> None:
        if letter.leg >= 0:
            self.trunks.put(letter)
        elif isinstance(letter, ev.SendStream):
            self.hosting.on_letter(letter.leg, letter.data)
        else:
            self.hosting.on_closed(letter)


def _unless(ours: Callable[[Any], bool], theirs: Take) -> Take:
    """Ours; theirs if that says that it is none of ours."""

    def take(event: Any) -> None:
        if not ours(event):
            theirs(event)

    return take


def _sum(one: ev.FlowCounters, other: ev.FlowCounters) -> ev.FlowCounters:
    """What both counted."""
    dropped = Counter(one.dropped)
    dropped.update(other.dropped)
    return ev.FlowCounters(
        received=one.received + other.received,
        accepted=one.accepted + other.accepted,
        copies=one.copies + other.copies,
        lost=one.lost + other.lost,
        dropped=dict(dropped),
        mended=one.mended + other.mended,
        first=other.first if one.first is None else one.first,
    )
