"""What people need to go on elsewhere when this node is gone without a word: two nodes, and a ticket there.

    joined   standby: which two, in order, the same for all of a call
    ticket   ht: a hand-over ticket; with every ticket, and a second at most after what it says has changed

So nodes need not speak with each other: of a call that was taken up elsewhere the ticket is all there is, and
it is at most a second behind. Only calls of two that were answered, and people whose token names a key, since
by itself a ticket opens nothing. Must never live here: which nodes (targets.py), what a ticket says
(handover.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from relay.core import handover
from relay.core.call import Call
from relay.core.door import Door
from relay.core.node import Node
from relay.core.participant import Participant
from relay.core.targets import Targets
from relay.protocol import control
from relay.protocol.handover import HandedCall
from relay.protocol.ids import CallId

EACH_S: Final = 1.0
"""Between two tickets for a call because it changed, at least."""


class Spares:
    """Gives them out."""

    def __init__(self, node: Node, targets: Targets, door: Door) -> None:
        self._node = node
        self._targets = targets
        self._door = door
        self._told: dict[CallId, HandedCall] = {}
        self._again: dict[CallId, float] = {}
        node.standbys = self._standbys
        node.spare_ticket = self._ticket

    def on_input_done(self) -> None:
        """Whose tickets say something that is not so any more get new ones, soon."""
        node = self._node
        while node.altered:
            cid, _ = node.altered.popitem()
            call = node.calls.get(cid)
            if call is None or call.is_over:
                self._told.pop(cid, None)
                self._again.pop(cid, None)
            elif self._is_spared(call) and self._told.get(cid) != self._gist(call):
                node.deadlines.set(("spare", cid), max(node.now, self._again.get(cid, node.now)))

    def on_due(self, cid: CallId) -> None:
        """It is time for these."""
        node, call = self._node, self._node.calls[cid]
        if not self._is_spared(call):
            return
        self._told[cid], self._again[cid] = self._gist(call), node.now + EACH_S
        ttl = round(node.config.limits.ticket_ttl_s)
        for seat in call.here():
            ht = self._ticket(call, seat)
            if ht is not None:
                node.tell([seat], control.Ticket(rt=self._door.seal_ticket(cid, seat), ttl=ttl, ht=ht))

    def _standbys(self, call: Call) -> tuple[control.StandbyEntry, ...]:
        if not call.is_pair:
            return ()
        return tuple(
            control.StandbyEntry(node=found.id, url=found.urls[0]) for found in self._targets.standbys(call)
        )

    def _ticket(self, call: Call, seat: Participant) -> bytes | None:
        if seat.claims.cnf is None or not self._is_spared(call):
            return None
        return handover.seal(self._node, call, seat)

    def _is_spared(self, call: Call) -> bool:
        return call.was_answered and not call.is_over and bool(self._standbys(call))

    def _gist(self, call: Call) -> HandedCall:
        """What a ticket says, but for the times."""
        body = handover.describe(self._node, call, None)
        return replace(body, made=0, exp=0, seats=tuple(replace(seat, since=0) for seat in body.seats))
