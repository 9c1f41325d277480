"""How a node takes up a call that another one tells of: from a ticket, to the same call here.

What another node says is believed, since only nodes of the cluster can seal it; but where the two know
different things of somebody who is here already, the stricter one counts: mutes, blocks, removals. Who has
not come yet is away since the ticket was made, so consent lapses by the clock that it had. Must never live
here: what stands in a ticket (handover.py), how its bearer sits down (absence.py).
"""

from __future__ import annotations

from dataclasses import replace

from relay.core.admission import Admission
from relay.core.call import PAIR, Call, Stage
from relay.core.consent import Fact, indexes
from relay.core.exchange import Exchange
from relay.core.handover import KEPT, read
from relay.core.node import HERE, Node
from relay.core.participant import Participant, Presence
from relay.core.parting import Parting
from relay.core.policy import Terms
from relay.core.reasons import Refusal
from relay.core.ringing import Cause
from relay.core.switch import Switch
from relay.core.variant import take_part
from relay.errors import ErrorCode, PeerError
from relay.protocol import handover
from relay.protocol.handover import HandedCall, HandedSeat


class Adoption:
    """Takes up calls of other nodes."""

    def __init__(
        self, node: Node, judge: Admission, exchange: Exchange, parting: Parting, switch: Switch
    ) -> None:
        self._node = node
        self._admission = judge
        self._exchange = exchange
        self._parting = parting
        self._switch = switch

    def on_told(self, blob: bytes) -> None:
        """The node's other generation tells of a call. If it cannot be taken up, that is counted."""
        try:
            body = read(self._node, blob)
            self._node.check_memory(body.c, body.seats[0].claims.sub)
            self.take(body)
        except PeerError as error:
            self._node.count("handover_refused", error.code.name.lower())

    def take(self, body: HandedCall) -> None:
        """Know the call from now on, and what the ticket says that is news, as orders of the fleet allow.

        PeerError when that cannot be.
        """
        node = self._node
        body = replace(body, out=(*body.out, *node.held.removed_of(body, body.seats[0].kid)))
        for sub in body.out:
            memory = node.config.limits.removed_memory_s
            node.removed.add((body.c, sub), memory, node.now, node.wall)
        call = node.calls.get(body.c)
        if call is None:
            call = self._adopt(body)
        elif call.handed_at is None or call.handed_at >= body.made or call.is_over:
            return
        else:
            call.handed_at = body.made
            self._learn(call, body)
        if not call.is_over:
            self._switch.sync(call)
            node.watch_call(call)

    def _adopt(self, body: HandedCall) -> Call:
        node = self._node
        if not node.drain.takes_calls:
            raise PeerError(ErrorCode.DRAINING, "this node takes no new calls")
        kid = body.seats[0].kid
        has_room = self._admission.spent.of(node.tenants.home_of(kid)).has_room(node.now, node.wall)
        if not has_room or not node.call_quota.charge(HERE):
            raise PeerError(ErrorCode.OVERLOADED, "too many calls here", retry_ms=5000)
        try:
            issuer = node.tenants.take(Refusal.CALLS, kid, is_return=True)
        except PeerError:
            node.call_quota.release(HERE)
            raise
        call = Call(body.c, body.seats[0].claims, node.config.limits, node.now, body.started / 1000)
        node.calls[call.cid] = call
        call.handed_at, call.taken_up, call.was_here = body.made, body, False
        call.is_canary = kid in node.tenants.canaries
        call.issuer, call.circle = issuer, node.tenants.circle_of(kid)
        call.capacity = min(body.size, max(PAIR, node.config.limits.participants))
        call.is_pair = bool(body.flags & handover.IS_PAIR)
        call.host_admits = bool(body.flags & handover.HOST_ADMITS)
        call.terms = Terms(*body.terms)
        take_part(node, call, body.flags)
        call.epoch = body.epoch + 1
        call.rang_elsewhere(max(0.0, node.wall - body.started / 1000))
        self._answer(call, body)
        for seat in body.seats:
            self._expect(call, seat, body)
        for seat in body.seats:
            self._shut(call, seat)
        self._exchange.watch_glare(call)
        node.count("call_moved", "in")
        return call

    def _answer(self, call: Call, body: HandedCall) -> None:
        if body.answered is not None and call.state is Stage.RINGING:
            passed = max(0.0, self._node.wall - body.answered / 1000)
            call.on_answered(self._node.now - passed, body.answered / 1000)
            self._node.vitals_of(call).on_answer_told(call)

    def _expect(self, call: Call, handed: HandedSeat, body: HandedCall) -> None:
        """A place for somebody who may come."""
        node = self._node
        age = max(0.0, node.wall - body.made / 1000)
        said_yes = handed.state in (handover.ACCEPTED, handover.AWAY)
        state = Presence.AWAY if said_yes else Presence.ABSENT
        if handed.state == handover.LEFT or handed.claims.sub in body.out:
            state = Presence.LEFT
        seat = Participant.expected(
            handed.index,
            handed.claims,
            node.config.limits,
            node.now,
            handed.joined / 1000,
            state=state,
            since=node.now - age - handed.since / 1000,
            ever_accepted=handed.accepted_once,
        )
        seat.kid, seat.suites = handed.kid, handed.suites
        call.expect(seat)
        for fact in KEPT:
            call.gate.set(fact, seat.index, bool(handed.facts >> fact & 1))
        if state is Presence.LEFT:
            call.gate.leave(seat.index)
            return
        call.admit_rights(seat)
        call.gate.set(Fact.ACCEPTED, seat.index, said_yes)
        node.held.apply(call, seat)
        # The token behind these claims was spent there; without its key it opens no second place here.
        ends_in = self._admission.ends_in(seat.claims, node.wall)
        if ends_in > 0:
            spent = self._admission.spent.of(node.tenants.home_of(seat.kid))
            spent.add(seat.claims.jti, ends_in, node.now, node.wall)

    def _shut(self, call: Call, handed: HandedSeat) -> None:
        for other in indexes(handed.shuts):
            call.gate.block(handed.index, other, True)

    def _learn(self, call: Call, body: HandedCall) -> None:
        """Newer news of a call that we know: of who is here already only what is stricter counts."""
        self._answer(call, body)
        call.terms = call.terms.and_also(Terms(*body.terms))
        call.epoch = max(call.epoch, body.epoch) + 1
        for handed in body.seats:
            seat = call.seats.get(handed.index)
            if seat is not None and seat.is_here and seat.sub in body.out:
                continue  # that one is shown out below
            if seat is not None and not seat.is_expected:
                if seat.sub == handed.claims.sub and handed.facts >> Fact.HARD_MUTED & 1:
                    call.gate.set(Fact.HARD_MUTED, seat.index, True)
            elif seat is None or seat.is_here or handed.state != handover.LEFT:
                self._expect(call, handed, body)
        for handed in body.seats:
            self._shut(call, handed)
        for seat in list(call.seats.values()):
            if seat.sub in body.out and seat.is_here:
                self._parting.part(call, seat, Cause.REMOVED, reason="elsewhere")
