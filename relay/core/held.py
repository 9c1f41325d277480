"""Orders of the whole fleet that wait for who may still come here: end, remove, mute, block.

    end, remove --> refused: at a join, at a ticket of another node
    mute        --> muted from the first moment
    block       --> neither hears the other; of a call of two nobody is let in, as it would be over at home

A call may come from another node a second after an order about it came to all of them, and its people have
tokens and tickets. So each is remembered for as long as these could be used, by home (tenants.py): what one
tenant orders is nothing to the calls of another. Revocations are remembered where tokens are judged
(admission.py). Must never live here: whose an order is, what it does to a call that is here (orders.py).
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import TYPE_CHECKING, Final

from relay.core.call import Call
from relay.core.consent import Fact
from relay.core.memory import Memories
from relay.core.participant import Participant
from relay.errors import ErrorCode, PeerError
from relay.protocol import handover
from relay.protocol.command import Command
from relay.protocol.handover import HandedCall
from relay.protocol.ids import CallId, Kid, Sub

if TYPE_CHECKING:  # the node holds these
    from relay.core.node import Node

CEILING: Final = 65_536  # of a home; an order that finds it full is refused
UNDOABLE: Final = frozenset({"mute", "block"})

Key = tuple[str, CallId | None, frozenset[Sub]]
"""What is ordered, in which call (None: in any), of whom."""


class Held:
    """One node's."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept: Memories[Key] = Memories(CEILING)

    def __len__(self) -> int:
        """Orders that are remembered."""
        return len(self._kept)

    @property
    def life_s(self) -> float:
        """For how long what lets people in could still be used, whoever gave it: token, tickets."""
        tokens, limits = self._node.config.tokens, self._node.config.limits
        token_s = tokens.max_lifetime_s + 2 * tokens.skew_s
        return max(token_s, handover.TTL_S + tokens.skew_s, limits.ticket_ttl_s, limits.removed_memory_s)

    def keep(self, order: Command, by: Kid) -> None:
        """Remember it, or forget what it takes back. PeerError OVERLOADED when no more can be remembered."""
        if order.op == "revoke":
            return
        node, key = self._node, _key(order)
        kept = self._kept.of(node.tenants.home_of(by))
        if not order.on and order.op in UNDOABLE:
            kept.discard(key)
        elif kept.has_room(node.now, node.wall) or kept.knows(key, node.now, node.wall):
            kept.add(key, self.life_s, node.now, node.wall)
        else:
            raise PeerError(ErrorCode.OVERLOADED, "too many orders are remembered", fatal=False)

    # ------------------------------------------------------------ who comes

    def check(self, cid: CallId, sub: Sub, kid: Kid | None) -> None:
        """PeerError CALL_ENDED or REMOVED for somebody whom an order keeps out."""
        if self._knows(kid, "end", cid):
            raise PeerError(ErrorCode.CALL_ENDED, "the call has ended")
        if self._knows(kid, "remove", cid, sub):
            raise PeerError(ErrorCode.REMOVED, "removed from the call")

    def check_pair(self, cid: CallId, subs: Collection[Sub], kid: Kid | None) -> None:
        """PeerError CALL_ENDED for a call of two that an order would have ended at home."""
        parted = any(self._is_blocked(kid, cid, one, other) for one, other in combinations(subs, 2))
        if parted or any(self._knows(kid, "remove", cid, sub) for sub in subs):
            raise PeerError(ErrorCode.CALL_ENDED, "the call has ended")

    def removed_of(self, body: HandedCall, kid: Kid | None) -> tuple[Sub, ...]:
        """Whom an order took out of a call of which another node tells. PeerError CALL_ENDED: it is over."""
        subs = [seat.claims.sub for seat in body.seats if seat.state != handover.LEFT]
        if self._knows(kid, "end", body.c):
            raise PeerError(ErrorCode.CALL_ENDED, "the call has ended")
        if body.flags & handover.IS_PAIR:
            self.check_pair(body.c, subs, kid)
        return tuple(sub for sub in subs if self._knows(kid, "remove", body.c, sub))

    def apply(self, call: Call, newcomer: Participant) -> None:
        """Mutes and blocks hold for who is new there; telling the lane is the caller's next step.

        Of who was there when the order came it was done at once, and may have been undone since.
        """
        if not len(self._kept):
            return
        kid = newcomer.kid
        if self._knows(kid, "mute", call.cid, newcomer.sub):
            call.gate.set(Fact.HARD_MUTED, newcomer.index, True)
        for other in call.others(newcomer):
            if self._is_blocked(kid, call.cid, newcomer.sub, other.sub):
                # As by an order about a call that is here: neither alone undoes it.
                call.gate.block(newcomer.index, other.index, True)
                call.gate.block(other.index, newcomer.index, True)

    # ------------------------------------------------------------ inside

    def _knows(self, kid: Kid | None, op: str, cid: CallId | None, *subs: Sub) -> bool:
        node = self._node
        kept = self._kept.of(node.tenants.home_of(kid))
        return kept.knows((op, cid, frozenset(subs)), node.now, node.wall)

    def _is_blocked(self, kid: Kid | None, cid: CallId, one: Sub, other: Sub) -> bool:
        return any(self._knows(kid, "block", where, one, other) for where in (cid, None))


def _key(order: Command) -> Key:
    people = () if order.op == "end" else (order.sub, order.peer if order.op == "block" else None)
    return order.op, order.cid, frozenset(sub for sub in people if sub is not None)
