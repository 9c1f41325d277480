"""Calls as people make them: who comes in, who says yes, who says no.

    join --> seat + uplink --> accept from two --> gate opens --> hang-up

Every change goes facts first, then `Switch.sync` tells the lane, then people are told. Must never live
here: how bits become routes (switch.py), silence (absence.py), how things end (parting.py).
"""

from __future__ import annotations

from relay.core.call import PAIR, Call, Stage
from relay.core.consent import Fact
from relay.core.leg import Leg
from relay.core.node import HERE, Node
from relay.core.participant import Participant, Presence
from relay.core.parting import Parting
from relay.core.policy import Terms
from relay.core.reasons import Refusal
from relay.core.record import EventKind
from relay.core.ringing import Cause, Ringing, Why
from relay.core.seating import Seating
from relay.core.shedding import Shed
from relay.core.steering import Steering
from relay.core.story import Kind
from relay.core.switch import Switch, forget_routes
from relay.errors import ErrorCode, PeerError
from relay.protocol import control
from relay.protocol.ids import Kid
from relay.protocol.token import Claims


class Exchange:
    """All live calls."""

    def __init__(
        self,
        node: Node,
        switch: Switch,
        seating: Seating,
        parting: Parting,
        ringing: Ringing,
        steering: Steering,
    ) -> None:
        self._node = node
        self._switch = switch
        self._seating = seating
        self._parting = parting
        self._ringing = ringing
        self._steering = steering

    # ------------------------------------------------------------ coming in

    def on_join(self, leg: Leg, claims: Claims, join: control.Join, id: int) -> None:
        """Enter the call that the token names. PeerError closes the leg."""
        node = self._node
        if claims.cid != join.c:
            raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call")
        node.recall(claims.cid)
        node.check_memory(claims.cid, claims.sub)
        known = node.calls.get(claims.cid)
        self._check_orders(known, claims, leg.kid)
        if not node.drain.takes_joins:
            raise PeerError(ErrorCode.DRAINING, "this node is leaving")
        terms = self._terms(known, claims, leg.kid)
        if known is None or known.seat_of(claims.sub) is None:
            self._steering.check(claims, leg.kid)
        call = known or self._open(claims, leg)
        seat = call.seat_of(claims.sub)
        is_new = seat is None
        if seat is None:
            seat = call.seat(claims, node.now, node.wall)
        else:
            self._sit_again(call, seat)
        up = self._seating.sit(call, seat, leg)
        seat.on_joined(claims, leg.number, node.now)
        seat.kid = leg.kid
        node.vitals_of(call).on_joined(call)
        call.admit_rights(seat)
        call.terms = call.terms.and_also(terms)
        if is_new:
            node.held.apply(call, seat)
        self._seating.greet(call, seat, leg, up, id)
        if is_new and call.gate.has(Fact.HARD_MUTED, seat.index):  # by an order from before: nobody told them
            node.tell([seat], control.Mute(c=call.cid, p=seat.index, on=True, hard=True))
        node.tell(call.others(seat), control.Peer(c=call.cid, p=seat.index, ev="join", sub=seat.sub))
        self._node.note(call, seat, EventKind.JOINED, index=seat.index, device=len(seat.legs))
        self._switch.sync(call)
        self.watch_glare(call)
        self._node.watch_call(call)

    def _check_orders(self, call: Call | None, claims: Claims, kid: Kid | None) -> None:
        """What was ordered in all of the fleet before this person came here."""
        held = self._node.held
        held.check(claims.cid, claims.sub, kid)
        if call is not None and call.is_pair:
            held.check_pair(call.cid, {claims.sub, *(seat.sub for seat in call.here())}, kid)

    def _terms(self, call: Call | None, claims: Claims, kid: Kid | None) -> Terms:
        """Policy and the tokens' own lists: may this person talk to those who are there?"""
        if call is None:
            return self._node.policy.meet(claims, [])
        if self._node.tenants.circle_of(kid) != call.circle:
            # A tenant's key opens no call of another one; a canary's, which lies on machines that see no back
            # end, nobody's.
            raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call")
        others = [seat for seat in call.here() if seat.sub != claims.sub]
        for seat in others:
            for one, other in ((claims, seat.claims), (seat.claims, claims)):
                if one.peer is not None and other.sub not in one.peer:
                    raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call")
        if (claims.lim[3] <= PAIR) != call.is_pair:
            raise PeerError(ErrorCode.FORBIDDEN, "the call is of another size")
        return self._node.policy.meet(claims, [seat.claims for seat in others])

    def _open(self, claims: Claims, leg: Leg) -> Call:
        node = self._node
        if not node.drain.takes_calls:
            raise PeerError(ErrorCode.DRAINING, "this node takes no new calls")
        if node.shedding.level >= Shed.CALLS:
            raise PeerError(ErrorCode.OVERLOADED, "this node is full", retry_ms=5000)
        if not node.call_quota.charge(HERE):
            raise PeerError(ErrorCode.OVERLOADED, "too many calls here", retry_ms=5000)
        try:
            issuer = node.tenants.take(Refusal.CALLS, leg.kid)
        except PeerError:
            node.call_quota.release(HERE)
            raise
        call = Call(claims.cid, claims, node.config.limits, node.now, node.wall)
        node.calls[call.cid] = call
        call.is_canary = leg.kid in node.tenants.canaries
        call.issuer, call.circle = issuer, node.tenants.circle_of(leg.kid)
        self._steering.on_opened(call, claims)
        node.vitals_of(call).on_opened(call, leg)
        node.count("call_opened", "canary" if call.is_canary else "pair" if call.is_pair else "group")
        node.event(EventKind.RINGING, call, sub=claims.sub.hex())
        return call

    def _sit_again(self, call: Call, seat: Participant) -> None:
        """The person sits here, or sat. After an accept the newer join replaces the older leg."""
        if seat.state is Presence.LEFT and len(call.here()) >= call.capacity:
            raise PeerError(ErrorCode.CALL_FULL, "the call is full")
        if seat.is_accepted:
            self._unaccept(call, seat)
        if seat.state is not Presence.JOINED:
            self._seating.let_go(call, seat, ErrorCode.REPLACED)

    def _unaccept(self, call: Call, seat: Participant) -> None:
        call.gate.set(Fact.ACCEPTED, seat.index, False)
        call.gate.set(Fact.ALIVE, seat.index, False)
        call.epoch += 1
        self._switch.sync(call)

    def watch_glare(self, call: Call) -> None:
        """Two calls ring for one pair: the smaller id survives, the other tells its people where to go."""
        glare = self._ringing.on_ring(call.cid, call.pairs())
        while glare is not None:
            data = {"c": bytes(glare.survivor)}
            loser = self._node.calls[glare.loser]
            self._parting.end(loser, Cause.FAILED, reason="glare", code=ErrorCode.REPLACED, data=data)
            glare = self._ringing.on_ring(call.cid, call.pairs())

    # ------------------------------------------------------------ yes and no

    def on_accept(self, call: Call, seat: Participant, leg: Leg, accept: control.Accept, id: int) -> None:
        """The user said yes on this device; the others ring no longer."""
        node = self._node
        if seat.state is Presence.ACCEPTED:
            node.answer(leg, id)
            return
        if seat.state is not Presence.JOINED:
            # The user's word cannot stand in for the network's (RFC 7675 section 5.1).
            raise PeerError(ErrorCode.CONSENT_EXPIRED, "rejoin first", fatal=False)
        suites = accept.suites or (5,)
        if not _common(suites, call, seat):
            raise PeerError(ErrorCode.E2E_UNSUPPORTED, "no common suite", fatal=False)
        for number in [number for number in seat.legs if number != leg.number]:
            self._seating.dismiss(call, seat, number, Why.ANSWERED_ELSEWHERE)
        forget_routes(seat)
        seat.on_accepted(leg.number, suites)
        seat.client, seat.transport = leg.client, leg.transport
        assert leg.claims is not None  # it sits here
        seat.claims, seat.kid = leg.claims, leg.kid  # its own token's rights, not those of the last to ring
        call.admit_rights(seat)
        call.gate.set(Fact.ACCEPTED, seat.index, True)
        call.gate.set(Fact.ALIVE, seat.index, True)
        call.epoch += 1
        seat.story.add(node.wall, Kind.ACCEPTED)
        node.answer(leg, id)
        node.tell(call.others(seat), control.Peer(c=call.cid, p=seat.index, ev="accept"))
        self._node.note(call, seat, EventKind.ACCEPTED)
        if call.state is Stage.RINGING and sum(other.is_accepted for other in call.here()) == PAIR:
            call.on_answered(node.now, node.wall)
            self._ringing.on_settled(call.cid)
            node.vitals_of(call).on_answered(call)
            node.event(EventKind.ANSWERED, call)
            self._steering.on_answered(call)
        self._switch.sync(call)
        self._node.watch_call(call)

    def on_decline(self, call: Call, seat: Participant, leg: Leg, decline: control.Decline, id: int) -> None:
        """The user said no. Without a microphone only this device falls silent, if others ring."""
        if decline.why == "permission" and len(seat.legs) > 1:
            self._node.answer(leg, id)
            self._seating.dismiss(call, seat, leg.number, Why.DECLINED)
            self._node.watch_call(call)
            return
        cause = Cause.BUSY if decline.why == "busy" else Cause.DECLINED
        if call.is_caller(seat):
            cause = Cause.HUNG_UP_BY_CALLER
        self._parting.part(call, seat, cause, reason=decline.why, answer=(leg, id))

    def on_hangup(self, call: Call, seat: Participant, leg: Leg, id: int) -> None:
        """The user is done."""
        self._parting.part(call, seat, hung_up(call, seat), answer=(leg, id))

    def on_moved(self, call: Call, seat: Participant, leg: Leg, moved: control.Moved, id: int) -> None:
        """Another leg carries this person now, here or elsewhere.

        On a leg that was left for another one here it means: let it go. Else the person is at another node;
        the others move by themselves, so nothing ends.
        """
        node = self._node
        node.answer(leg, id)
        if not moved.ok:
            return
        if seat.beside is not None and seat.beside.leg == leg.number:
            self._seating.end_beside(call, seat)
            node.watch_call(call)
            return
        for gone in self._parting.vacate(call, seat, Why.MOVED.value):
            node.close_leg(gone, ErrorCode.MOVED)
        node.tell(call.here(), control.Peer(c=call.cid, p=seat.index, ev="away"))
        self._node.note(call, seat, EventKind.LEFT, why=Why.MOVED.value)
        if not call.here():
            self._parting.end(call, Cause.MOVED, reason="moved")
        self._node.watch_call(call)

    def on_carry(self, call: Call, seat: Participant, leg: Leg, carry: control.Carry, id: int) -> None:
        """Each of two legs carries one way from now on, or one of them all. PeerError if there is one leg."""
        if seat.beside is None:
            raise PeerError(ErrorCode.NOT_IN_CALL, "there is no other leg", fatal=False)
        if carry.way == "both":
            self._seating.unite(call, seat, leg)
        else:
            seat.divide(leg.number, carry.way, self._node.now)
        self._switch.sync(call)
        self._node.answer(leg, id)
        self._node.watch_call(call)

    def on_rights(self, call: Call, seat: Participant, claims: Claims, kid: Kid | None) -> None:
        """A newer token. PeerError FORBIDDEN when the policy does not allow what it says."""
        try:
            terms = self._terms(call, claims, kid)
        except PeerError as error:
            error.fatal = False  # the old rights stand
            raise
        call.terms = call.terms.and_also(terms)
        seat.claims, seat.kid = claims, kid
        call.admit_rights(seat)
        self._switch.sync(call)
        self._node.watch_call(call)


def _common(suites: tuple[int, ...], call: Call, seat: Participant) -> bool:
    """Whether all who accepted share a suite."""
    common = set(suites)
    for other in call.others(seat):
        if other.is_accepted:
            common &= set(other.suites)
    return bool(common)


def hung_up(call: Call, seat: Participant) -> Cause:
    """What a hang-up of this person is called."""
    return Cause.HUNG_UP_BY_CALLER if call.is_caller(seat) else Cause.HUNG_UP
