"""What people need to go on elsewhere when this node is gone without a word: two nodes, and a ticket there.

    joined   standby: which two, in order, the same for all of a call
    ticket   ht: a hand-over ticket; with every ticket, and a second at most after what it says has changed

So nodes need not speak with each other: of a call that was taken up elsewhere the ticket is all there is, and
it is at most a second behind in all that a gate obeys. Who came back to a call that was taken up here is told
some seconds later, since the node that calls flee to has enough to do, and its people have tickets that say
the rest. Only calls of two that were answered, and people whose token names a key, since by itself a ticket
opens nothing. Must never live here: which nodes (targets.py), what a ticket says (handover.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from relay.core import handover
from relay.core.call import Call
from relay.core.door import Door
from relay.core.node import Node
from relay.core.participant import Participant
from relay.core.targets import Targets
from relay.protocol import control
from relay.protocol.handover import ACCEPTED, LEFT, STAYS, HandedCall
from relay.protocol.ids import CallId

EACH_S: Final = 1.0
"""Between two tickets for a call because it changed, at least."""
SETTLED_S: Final = (5.0, 10.0)
"""After a call was taken up, until tickets say who is back; a whole node's calls are spread over it."""


@dataclass(slots=True)
class _Known:
    """What is known of one call's tickets."""

    told: HandedCall | None = None
    again_at: float = 0.0  # not more often than that
    settled_at: float = 0.0  # of one that was taken up: when all are there, or late


class Spares:
    """Gives them out."""

    def __init__(self, node: Node, targets: Targets, door: Door) -> None:
        self._node = node
        self._targets = targets
        self._door = door
        self._known: dict[CallId, _Known] = {}
        node.standbys = self._standbys
        node.spare_ticket = self._ticket

    def on_input_done(self) -> None:
        """Whose tickets say something that is not so any more get new ones, soon."""
        node = self._node
        if not node.has_spares:
            self._known.clear()  # nobody says any more which calls are over
        while node.altered:
            cid, _ = node.altered.popitem()
            call = node.calls.get(cid)
            if call is None or call.is_over:
                self._known.pop(cid, None)
            elif self._is_spared(call):
                self._look(call)

    def _look(self, call: Call) -> None:
        node, known, gist = self._node, self._known.setdefault(call.cid, _Known()), self._gist(call)
        if call.taken_up is not None and call.taken_up.answered is not None:
            # Its people have tickets of the node that it comes from.
            soonest, latest = SETTLED_S
            spread = int.from_bytes(call.cid[:2], "big") / 65_536
            known.settled_at = node.now + soonest + (latest - soonest) * spread
            known.told = known.told or _gist_of(call.taken_up)
        call.taken_up = None
        if known.told is None or _firm(known.told) != _firm(gist):
            due = known.again_at
        elif known.told != gist:
            due = max(known.again_at, known.settled_at)
        else:
            return
        node.deadlines.set(("spare", call.cid), max(node.now, due))

    def on_due(self, cid: CallId) -> None:
        """It is time for these."""
        node, call = self._node, self._node.calls[cid]
        if not self._is_spared(call):
            return
        known = self._known.setdefault(cid, _Known())
        known.told, known.again_at = self._gist(call), node.now + EACH_S
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
        return _gist_of(handover.describe(self._node, call, None))


def _gist_of(body: HandedCall) -> HandedCall:
    seats = tuple(replace(seat, since=0) for seat in body.seats)
    return replace(body, p=None, made=0, exp=0, flags=body.flags & ~STAYS, seats=seats)


def _firm(gist: HandedCall) -> HandedCall:
    """The same, whoever is here or away at the moment, and however often its gate was told anew for that."""
    seats = [seat if seat.state == LEFT else replace(seat, state=ACCEPTED) for seat in gist.seats]
    return replace(gist, epoch=0, seats=tuple(seats))
