"""The node's farewell: who is refused, asked to move, or closed in which state of the drain.

Requests to move are spread over time by the node itself, one call after the other, so that the next node is
not hit at once; people of one call hear it together. A node that is emptied because the routes say so asks
2 % of its calls a second: its whole region may be doing the same. People here whose call has its home at
another node are asked as those of calls of our own are (`visits`). Must never live here: the states' order
(drain.py), where people go (targets.py).
"""

from __future__ import annotations

from typing import Final

from relay.core import handover
from relay.core.call import Call
from relay.core.drain import DrainState
from relay.core.events import CallEvent, Directed, DrainRequested, Stopped
from relay.core.leg import LegState
from relay.core.node import Node
from relay.core.parting import Parting
from relay.core.record import EventKind
from relay.core.ringing import Cause
from relay.core.targets import Targets
from relay.core.variant import home_of
from relay.core.visiting import Visiting
from relay.errors import ErrorCode
from relay.protocol import control
from relay.protocol.ids import CallId
from relay.region.pace import RegionDrain

AGAIN_S: Final = 30.0
"""A request to move is repeated after this: tickets do not live for ever, and a move may fail."""

LOOK_S: Final = 5.0
"""While it is emptied: between two looks for calls that were answered since."""


class Leaving:
    """Carries out what the drain's states mean."""

    def __init__(self, node: Node, parting: Parting) -> None:
        self._node = node
        self._parting = parting
        self.targets = Targets(node)
        """Where people go."""
        self.visits: Visiting | None = None
        """People of other nodes' calls, where there are trunks."""
        self._pace: RegionDrain | None = None
        self._asked: set[CallId] = set()

    def on_request(self, event: DrainRequested) -> None:
        """Begin, or hurry."""
        before = self._node.drain.state
        self._node.drain.on_request(self._node.now)
        if self._node.drain.state is not before:
            self._enter()

    def on_directed(self, event: Directed) -> None:
        """Where calls may go from now on, and whether they shall."""
        self.targets.on_directed(event)
        if self._node.drain.on_mark(event.is_left):
            self._enter()

    def on_due(self, kind: str, key: int | CallId) -> None:
        """A state is over, or a call's turn to be asked has come."""
        if kind == "drain":
            self._step()
        elif kind == "pace":
            self._empty()
        elif kind == "standby":
            self._node.waiting.on_due()
        else:
            assert isinstance(key, bytes)
            call = self._node.calls.get(key)
            if call is not None:
                self._ask(call)
            else:
                self._ask_visitors(key)

    def on_input_done(self) -> None:
        """With nobody left there is nothing to wait for."""
        while self._node.drain.state in (DrainState.DRAINING, DrainState.MOVING) and not self._node.legs:
            self._step()

    def _step(self) -> None:
        self._node.drain.on_step_over(self._node.now)
        self._enter()

    def _enter(self) -> None:
        node = self._node
        state = node.drain.state
        node.deadlines.set(("drain", 0), node.drain.next_deadline())
        node.count("drain", state.value)
        node.put(CallEvent(EventKind.DRAIN.value, node.wall, {"state": state.value}))
        self._pace = None
        self._asked.clear()
        node.deadlines.set(("pace", 0), None)
        node.waiting.on_changed()
        if state is DrainState.RUNNING:
            self._call_off()
        elif state is DrainState.EMPTYING:
            self._empty()
        elif state is DrainState.MOVING:
            self._start_moving()
        elif state is DrainState.CLOSING:
            self._close_all()
        elif state is DrainState.STOPPED:
            node.put(Stopped())

    def _empty(self) -> None:
        """Ask those whose turn has come, and look for others that were answered: what rings is let be."""
        node = self._node
        if self._pace is None or not self._pace.left:
            calls = [
                call.cid.hex()
                for call in node.calls.values()
                if call.was_answered and not call.is_over and call.cid not in self._asked
            ]
            calls += [cid.hex() for cid in self._visited() if cid not in self._asked]
            self._pace = RegionDrain({node.config.node.id: calls}, node.now)
        for move in self._pace.due(node.now):
            cid = CallId(bytes.fromhex(move.call))
            call = node.calls.get(cid)
            self._asked.add(cid)
            if call is None or call.is_over:
                self._ask_visitors(cid)  # it is another node's, or nobody's any more
            else:
                self._ask(call)
        due = self._pace.next_deadline()
        node.deadlines.set(("pace", 0), node.now + LOOK_S if due is None else due)

    def _call_off(self) -> None:
        """The node is to stay after all: who was asked and is here need not go."""
        for cid in (*self._node.calls, *self._visited()):
            self._node.deadlines.set(("notice", cid), None)

    def _start_moving(self) -> None:
        node = self._node
        for leg in list(node.legs.values()):
            if leg.state is not LegState.IN_CALL:
                node.close_leg(leg, ErrorCode.DRAINING)
        # A call that rings goes at once: who is called comes to the next node in any case.
        calls = [call.cid for call in node.calls.values() if not call.is_over and call.was_answered]
        calls += self._visited()
        for call in node.calls.values():
            if not call.is_over and not call.was_answered:
                node.deadlines.set(("notice", call.cid), node.now)
        smear = min(node.config.drain.smear_s, max(0.0, node.drain.ends_at - node.now))
        for position, cid in enumerate(calls):
            node.deadlines.set(("notice", cid), node.now + smear * position / len(calls))

    def _visited(self) -> list[CallId]:
        return [] if self.visits is None else self.visits.calls()

    def _ask(self, call: Call) -> None:
        """To where its rollout wants it, else by the directory or the operator. Who stays is asked again."""
        node = self._node
        ask(node, call, home_of(node, call) or self.targets.of(call), *self._times())
        node.deadlines.set(("notice", call.cid), node.now + AGAIN_S)

    def _ask_visitors(self, cid: CallId) -> None:
        """To their call's home; where that cannot be told, to any node: it will have them as guests."""
        home = None if self.visits is None else self.visits.home_of(cid)
        if self.visits is None or home is None:
            return  # they are gone
        in_s, by_s = self._times()
        self.visits.ask(cid, self.targets.of_visit(cid, home), in_s, by_s)
        self._node.deadlines.set(("notice", cid), self._node.now + AGAIN_S)

    def _times(self) -> tuple[float, float]:
        """How long it takes until all are asked, and what is left until the node is gone, seconds."""
        node, config = self._node, self._node.config.drain
        # A node that is only emptied closes nobody: the time is how long it would take to leave.
        is_emptied = node.drain.state is DrainState.EMPTYING
        left_s = config.deadline_s if is_emptied else node.drain.ends_at - node.now
        return config.smear_s, max(0.0, left_s)

    def _close_all(self) -> None:
        node = self._node
        for call in list(node.calls.values()):
            if not call.is_over:
                self._parting.end(call, Cause.FAILED, reason="drain", code=ErrorCode.DRAIN_TIMEOUT)
        for leg in list(node.legs.values()):
            node.close_leg(leg, ErrorCode.DRAIN_TIMEOUT)


def ask(node: Node, call: Call, to: tuple[str, ...], in_s: float, by_s: float) -> None:
    """Ask all people of a call to move: the same target for all, each its own ticket.

    `in_s`: how long it takes until all calls are asked; `by_s`: what is left until the node is gone, seconds.
    Without a target the call stays at this node, with its next process.
    """
    for seat in call.here():
        if seat.legs:
            ticket = handover.seal(node, call, seat, stays=not to)
            notice = control.Drain(in_ms=round(1000 * in_s), by_ms=round(1000 * by_s), to=to, ht=ticket)
            node.tell([seat], notice)
