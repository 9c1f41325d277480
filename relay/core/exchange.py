"""The life of calls: who comes in, says yes or no, goes silent, comes back, leaves; and how it all ends.

    join --> seat + uplink --> accept from two --> gate opens --> hang-up, time, loss --> ended --> record

Every closing goes gate first: facts change, `Switch.sync` tells the lane, only then is anybody told.
Must never live here: how bits become routes (switch.py), tokens (door.py), what people send each other.
"""

from __future__ import annotations

from typing import Any

from relay.core.call import PAIR, Call, Stage
from relay.core.consent import Fact
from relay.core.door import RESUME, Door
from relay.core.events import FlowClosed
from relay.core.leg import Leg, LegState
from relay.core.node import HERE, Node
from relay.core.participant import Participant, Presence
from relay.core.policy import STRANGER, Terms, contact_of
from relay.core.record import EventKind, record_call
from relay.core.ringing import CLOSE_CODES, Cause, Ringing, Why, ending
from relay.core.switch import Switch, forget_routes
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, token
from relay.protocol.token import Claims

AT_ONCE = frozenset({Why.REMOVED, Why.REVOKED, Why.ANSWERED_ELSEWHERE})
"""Endings after which a leg gets no last word."""


class Exchange:
    """All live calls."""

    def __init__(self, node: Node, door: Door, switch: Switch) -> None:
        self._node = node
        self._door = door
        self._switch = switch
        self._ringing = Ringing()

    # ------------------------------------------------------------ coming in

    def on_join(self, leg: Leg, join: control.Join, id: int) -> None:
        """Enter the call that the token names. PeerError closes the leg."""
        node, claims = self._node, _claims(leg)
        if claims.cid != join.c:
            raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call")
        self._door.check_memory(claims.cid, claims.sub)
        if not node.drain.takes_joins:
            raise PeerError(ErrorCode.DRAINING, "this node is leaving")
        known = node.calls.get(claims.cid)
        terms = self._terms(known, claims)
        call = known or self._open(claims)
        seat = call.seat_of(claims.sub)
        if seat is None:
            seat = call.seat(claims, node.now, node.wall)
        else:
            self._sit_again(call, seat)
        up = self._enter(call, seat, leg)
        seat.on_joined(claims, leg.number, node.now)
        seat.kid = leg.kid
        call.admit_rights(seat)
        call.terms = call.terms.and_also(terms)
        self._greet(call, seat, leg, up, id)
        node.tell(call.others(seat), control.Peer(c=call.cid, p=seat.index, ev="join", sub=seat.sub))
        self._note(call, seat, EventKind.JOINED, index=seat.index, device=len(seat.legs))
        self._switch.sync(call)
        self._watch_glare(call)
        self.watch(call)

    def _terms(self, call: Call | None, claims: Claims) -> Terms:
        """Policy and the tokens' own lists: may this person talk to those who are there?"""
        if call is None:
            return self._node.policy.meet(claims, [])
        others = [seat for seat in call.here() if seat.sub != claims.sub]
        for seat in others:
            for one, other in ((claims, seat.claims), (seat.claims, claims)):
                if one.peer is not None and other.sub not in one.peer:
                    raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call")
        if (claims.lim[3] <= PAIR) != call.is_pair:
            raise PeerError(ErrorCode.FORBIDDEN, "the call is of another size")
        return self._node.policy.meet(claims, [seat.claims for seat in others])

    def _open(self, claims: Claims) -> Call:
        node = self._node
        if not node.drain.takes_calls:
            raise PeerError(ErrorCode.DRAINING, "this node takes no new calls")
        if not node.call_quota.charge(HERE):
            raise PeerError(ErrorCode.OVERLOADED, "too many calls here", retry_ms=5000)
        call = Call(claims.cid, claims, node.config.limits, node.now, node.wall)
        node.calls[call.cid] = call
        node.count("call_opened", "pair" if call.is_pair else "group")
        node.event(EventKind.RINGING, call, sub=claims.sub.hex())
        return call

    def _sit_again(self, call: Call, seat: Participant) -> None:
        """The person sits here, or sat. After an accept the newer join replaces the older leg."""
        if seat.state is Presence.LEFT and len(call.here()) >= call.capacity:
            raise PeerError(ErrorCode.CALL_FULL, "the call is full")
        if seat.is_accepted:
            self._unaccept(call, seat)
        if seat.state is not Presence.JOINED:
            self._let_go(call, seat, ErrorCode.REPLACED)

    def _unaccept(self, call: Call, seat: Participant) -> None:
        call.gate.set(Fact.ACCEPTED, seat.index, False)
        call.gate.set(Fact.ALIVE, seat.index, False)
        call.epoch += 1
        self._switch.sync(call)

    def _enter(self, call: Call, seat: Participant, leg: Leg) -> int:
        """Tie leg, seat and uplink together. PeerError QUOTA when too many devices ring."""
        if not self._node.device_quota.charge((call.cid, seat.sub)):
            raise PeerError(ErrorCode.QUOTA, "too many devices ring")
        up = self._switch.open_uplink(call, seat, leg)
        assert up is not None  # a leg enters one call, once: its first number is always free
        leg.on_entered(call.cid, seat.index, up)
        self._node.watch_leg(leg)
        seat.client = leg.client
        return up

    def _greet(self, call: Call, seat: Participant, leg: Leg, up: int, id: int) -> None:
        """Tell the newcomer where it is and who is there."""
        joined = control.Joined(
            c=call.cid,
            p=seat.index,
            up=up,
            roster=tuple(self._entry(call, seat, other) for other in call.others(seat)),
            gate=self._switch.heard_by(call, seat),
            rly=relay_only(call, seat.claims),
            rt=self._door.seal_ticket(call.cid, seat),
        )
        self._node.send(leg.number, joined, id)

    def _entry(self, call: Call, viewer: Participant, other: Participant) -> control.RosterEntry:
        away = other.state in (Presence.AWAY, Presence.ABSENT)
        return control.RosterEntry(
            p=other.index,
            sub=other.sub,
            st="away" if away else "accepted" if other.is_accepted else "joined",
            mu=call.gate.is_muted(other.index),
            rly=relay_only(call, other.claims),
            ctc=min(contact_of(viewer.claims), contact_of(other.claims)),
        )

    def _watch_glare(self, call: Call) -> None:
        """Two calls ring for one pair: the smaller id survives, the other tells its people where to go."""
        glare = self._ringing.on_ring(call.cid, call.pairs())
        while glare is not None:
            data = {"c": bytes(glare.survivor)}
            loser = self._node.calls[glare.loser]
            self.end(loser, Cause.FAILED, reason="glare", code=ErrorCode.REPLACED, data=data)
            glare = self._ringing.on_ring(call.cid, call.pairs())

    # ------------------------------------------------------------ yes and no

    def on_accept(self, call: Call, seat: Participant, leg: Leg, accept: control.Accept, id: int) -> None:
        """The user said yes on this device; the others ring no longer."""
        node = self._node
        if seat.is_accepted:
            node.answer(leg, id)
            return
        suites = accept.suites or (5,)
        if not _common(suites, call, seat):
            raise PeerError(ErrorCode.E2E_UNSUPPORTED, "no common suite", fatal=False)
        for number in [number for number in seat.legs if number != leg.number]:
            self._dismiss(call, seat, number, Why.ANSWERED_ELSEWHERE)
        forget_routes(seat)
        seat.on_accepted(leg.number, suites)
        seat.client = leg.client
        call.gate.set(Fact.ACCEPTED, seat.index, True)
        call.gate.set(Fact.ALIVE, seat.index, True)
        call.epoch += 1
        node.answer(leg, id)
        node.tell(call.others(seat), control.Peer(c=call.cid, p=seat.index, ev="accept"))
        self._note(call, seat, EventKind.ACCEPTED)
        if call.state is Stage.RINGING and sum(other.is_accepted for other in call.here()) == PAIR:
            call.on_answered(node.now, node.wall)
            self._ringing.on_settled(call.cid)
            node.event(EventKind.ANSWERED, call)
        self._switch.sync(call)
        self.watch(call)

    def on_decline(self, call: Call, seat: Participant, leg: Leg, decline: control.Decline, id: int) -> None:
        """The user said no. Without a microphone only this device falls silent, if others ring."""
        if decline.why == "permission" and len(seat.legs) > 1:
            self._node.answer(leg, id)
            self._dismiss(call, seat, leg.number, Why.DECLINED)
            self.watch(call)
            return
        cause = Cause.BUSY if decline.why == "busy" else Cause.DECLINED
        if call.is_caller(seat):
            cause = Cause.HUNG_UP_BY_CALLER
        self.part(call, seat, cause, reason=decline.why, answer=(leg, id))

    def on_hangup(self, call: Call, seat: Participant, leg: Leg, id: int) -> None:
        """The user is done."""
        self.part(call, seat, hung_up(call, seat), answer=(leg, id))

    def on_moved(self, call: Call, seat: Participant, leg: Leg, moved: control.Moved, id: int) -> None:
        """A leg elsewhere carries this person now. The others move by themselves, so nothing ends."""
        node = self._node
        node.answer(leg, id)
        if not moved.ok:
            return
        for gone in self._vacate(call, seat, "moved"):
            node.close_leg(gone, ErrorCode.MOVED)
        node.tell(call.here(), control.Peer(c=call.cid, p=seat.index, ev="away"))
        self._note(call, seat, EventKind.LEFT, why="moved")
        if not call.here():
            self.end(call, Cause.ORDERED, reason="moved")
        self.watch(call)

    # ------------------------------------------------------------ silence and return

    def on_leg_gone(self, leg: Leg) -> None:
        """The transport is over. Its person may come back with a ticket."""
        node = self._node
        call = None if leg.call is None else node.calls.get(leg.call)
        seat = None if call is None else call.seats.get(leg.index)
        if call is None or seat is None or leg.number not in seat.legs:
            return
        if seat.leg == leg.number:
            call.gate.set(Fact.ALIVE, seat.index, False)
            self._switch.sync(call)
        self._unseat(call, seat, leg)
        if not seat.legs and seat.state in (Presence.JOINED, Presence.ACCEPTED):
            self._silence(call, seat)
        self.watch(call)

    def _silence(self, call: Call, seat: Participant) -> None:
        seat.on_silenced(self._node.now)
        self._node.tell(call.others(seat), control.Peer(c=call.cid, p=seat.index, ev="away"))
        self._note(call, seat, EventKind.AWAY)

    def on_rejoin(self, leg: Leg, rejoin: control.Rejoin, id: int) -> None:
        """Take the place again that the ticket names. PeerError closes the leg."""
        node, claims = self._node, _claims(leg)
        body = self._door.open_ticket(rejoin.rt)
        if (body.c, body.sub) != (claims.cid, claims.sub) or rejoin.c != body.c:
            raise PeerError(ErrorCode.RESUME_UNKNOWN, "ticket of somebody else")
        seat = self._door.seat_of(body)
        call = node.calls[claims.cid]
        stale = seat.state is Presence.ABSENT and seat.ever_accepted
        was_here = seat.state in (Presence.JOINED, Presence.ACCEPTED)
        if leg.state is LegState.READY:
            up = self._move_in(call, seat, leg)
        else:
            assert leg.up is not None
            up = leg.up
        seat.on_returned(leg.number, node.now)
        call.gate.set(Fact.ALIVE, seat.index, seat.is_accepted)
        self._greet(call, seat, leg, up, id)
        if stale:
            again = PeerError(ErrorCode.CONSENT_EXPIRED, "accept the call again", fatal=False)
            node.refuse(leg, again)
        if not was_here:
            node.tell(call.others(seat), control.Peer(c=call.cid, p=seat.index, ev="back"))
            self._note(call, seat, EventKind.BACK)
        self._switch.sync(call)
        self.watch(call)

    def _move_in(self, call: Call, seat: Participant, leg: Leg) -> int:
        """A new leg for a person who may still have an old one, which then is done."""
        if seat.state is not Presence.JOINED:
            call.gate.set(Fact.ALIVE, seat.index, False)
            self._switch.sync(call)
            self._let_go(call, seat, ErrorCode.MOVED)
        return self._enter(call, seat, leg)

    # ------------------------------------------------------------ parting

    def part(
        self,
        call: Call,
        seat: Participant,
        cause: Cause,
        *,
        reason: str = "",
        answer: tuple[Leg, int] | None = None,
    ) -> None:
        """One person is out: the end of a 1:1, an empty seat in a group. `answer`: who asked, what id."""
        if cause in (Cause.REMOVED, Cause.REVOKED):
            node = self._node
            memory = node.config.limits.removed_memory_s
            node.removed.add((call.cid, seat.sub), memory, node.now, node.wall)
        if call.is_pair or len(call.here()) == 1:
            self.end(call, cause, reason=reason, answer=answer)
            return
        self._leave(call, seat, ending(cause, call.was_answered), answer)
        self.watch(call)

    def _leave(self, call: Call, seat: Participant, why: Why, answer: tuple[Leg, int] | None) -> None:
        node = self._node
        legs = self._vacate(call, seat, why.value)
        if answer is not None:
            node.answer(*answer)
        for leg in legs:
            self._say_ended(call, leg, why)
        node.tell(call.here(), control.Peer(c=call.cid, p=seat.index, ev="left", why=why.value))
        self._note(call, seat, EventKind.LEFT, why=why.value)

    def _vacate(self, call: Call, seat: Participant, why: str) -> list[Leg]:
        """Clear the seat, gate first. Returns the legs that sat there, without uplinks now."""
        call.gate.clear(seat.index)
        call.epoch += 1
        self._switch.sync(call)
        legs = [self._node.legs[number] for number in seat.legs]
        for leg in legs:
            self._unseat(call, seat, leg)
        seat.on_left(why, self._node.wall)
        return legs

    def end(
        self,
        call: Call,
        cause: Cause,
        *,
        reason: str = "",
        code: ErrorCode | None = None,
        data: dict[str, Any] | None = None,
        answer: tuple[Leg, int] | None = None,
    ) -> None:
        """The call is over for everyone. `code` closes the legs instead of the cause's own code."""
        node = self._node
        why = ending(cause, call.was_answered)
        seats = call.here()
        for seat in seats:
            call.gate.clear(seat.index)
        self._switch.sync(call)
        legs = [node.legs[number] for seat in seats for number in seat.legs]
        for seat in seats:
            for number in list(seat.legs):
                self._unseat(call, seat, node.legs[number])
            seat.on_left("", node.wall)
        call.on_ended(why, reason, node.wall)
        self._ringing.on_settled(call.cid)
        node.ended.add(call.cid, node.config.limits.removed_memory_s, node.now, node.wall)
        if answer is not None:
            node.answer(*answer)
        for leg in legs:
            self._say_ended(call, leg, why, code, data)
        node.count("call_ended", why.value)
        node.event(EventKind.ENDED, call, outcome=why.value, reason=reason)
        self._settle(call)

    def on_flow_closed(self, event: FlowClosed) -> None:
        """An uplink's counters are in; with the last of them the record is written."""
        call = self._node.counting.pop((event.leg, event.flow), None)
        if call is None:
            return
        call.flows.pop((event.leg, event.flow)).count(event.counters)
        if call.state is Stage.ENDED:
            self._settle(call)

    def on_rights(self, call: Call, seat: Participant, claims: Claims) -> None:
        """A newer token. PeerError FORBIDDEN when the policy does not allow what it says."""
        call.terms = call.terms.and_also(self._terms(call, claims))
        seat.claims = claims
        call.admit_rights(seat)
        self._switch.sync(call)
        self.watch(call)

    def _settle(self, call: Call) -> None:
        if call.flows:
            return
        node = self._node
        call.on_settled()
        del node.calls[call.cid]
        node.call_quota.release(HERE)
        node.deadlines.set(("call", call.cid), None)
        node.deadlines.set(("notice", call.cid), None)
        node.put(record_call(call, node.config.node.region))

    def _unseat(self, call: Call, seat: Participant, leg: Leg) -> None:
        """The leg sends no more and its device slot is free; what it hears ends with the routes."""
        if seat.leg == leg.number:
            self._switch.detach(seat, leg)
        else:
            self._switch.close_uplink(leg)
        seat.drop_leg(leg.number)
        self._node.device_quota.release((call.cid, seat.sub))

    def _let_go(self, call: Call, seat: Participant, code: ErrorCode) -> None:
        for leg in [self._node.legs[number] for number in seat.legs]:
            self._unseat(call, seat, leg)
            self._node.close_leg(leg, code)

    def _dismiss(self, call: Call, seat: Participant, number: int, why: Why) -> None:
        """One ringing device of several is done."""
        leg = self._node.legs[number]
        self._unseat(call, seat, leg)
        self._node.send(number, control.Ended(c=call.cid, why=why.value, code=int(CLOSE_CODES[why])))
        self._node.close_leg(leg, CLOSE_CODES[why])
        self._note(call, seat, EventKind.DEVICE_ENDED, why=why.value)

    def _say_ended(
        self,
        call: Call,
        leg: Leg,
        why: Why,
        code: ErrorCode | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        node = self._node
        known = CLOSE_CODES[why] if code is None else code
        node.send(leg.number, control.Ended(c=call.cid, why=why.value, code=int(known), data=data))
        if why in AT_ONCE or code is not None:
            node.close_leg(leg, known)
            return
        leg.on_call_over({seat.index: seat.sub for seat in call.everyone()}, known, node.now)
        node.watch_leg(leg)

    # ------------------------------------------------------------ time

    def watch(self, call: Call) -> None:
        """Take note of the call's next deadline."""
        if not call.is_over:
            self._node.deadlines.set(("call", call.cid), self._next(call))

    def _next(self, call: Call) -> float | None:
        found = [call.ring_until(), call.ends_at(), call.retry_flows_at]
        for seat in call.here():
            found += [self._lapses_at(seat), seat.accept_expires_at(), seat.gone_at(), seat.ticket_at()]
            if call.state is Stage.ACTIVE:
                found.append(seat.accept_by())
        return min((when for when in found if when is not None), default=None)

    def _lapses_at(self, seat: Participant) -> float | None:
        if seat.state is not Presence.ACCEPTED or seat.leg is None:
            return None
        return self._node.legs[seat.leg].heard + self._node.config.limits.consent_s

    def on_due(self, call: Call) -> None:
        """Something of this call is due: do all that is."""
        if self._is_due(call.ring_until()):
            self.end(call, Cause.NO_ANSWER)
            return
        if self._is_due(call.ends_at()):
            self.end(call, Cause.TIME_UP)
            return
        for seat in call.here():
            self._seat_due(call, seat)
            if call.is_over:
                return
        if self._is_due(call.retry_flows_at):
            self._switch.sync(call)
        self.watch(call)

    def _is_due(self, when: float | None) -> bool:
        return when is not None and when <= self._node.now

    def _seat_due(self, call: Call, seat: Participant) -> None:
        if self._is_due(self._lapses_at(seat)):
            call.gate.set(Fact.ALIVE, seat.index, False)
            self._switch.sync(call)
            self._silence(call, seat)
        if self._is_due(seat.accept_expires_at()):
            call.gate.set(Fact.ACCEPTED, seat.index, False)
            call.epoch += 1
            seat.on_accept_expired()
        if self._is_due(seat.gone_at()):
            self._give_up(call, seat, Cause.FAILED, ErrorCode.IDLE_TIMEOUT)
        elif call.state is Stage.ACTIVE and self._is_due(seat.accept_by()):
            self._give_up(call, seat, Cause.NO_ANSWER, None)
        elif self._is_due(seat.ticket_at()):
            self._renew(call, seat)

    def _give_up(self, call: Call, seat: Participant, cause: Cause, code: ErrorCode | None) -> None:
        """Nobody will come any more."""
        if call.is_pair or len(call.here()) == 1:
            self.end(call, cause, reason="gone", code=code)
        else:
            why = Why.MISSED if cause is Cause.NO_ANSWER else ending(cause, call.was_answered)
            self._leave(call, seat, why, None)

    def _renew(self, call: Call, seat: Participant) -> None:
        seat.on_ticket(self._node.now)
        ttl = round(self._node.config.limits.ticket_ttl_s)
        self._node.tell([seat], control.Ticket(rt=self._door.seal_ticket(call.cid, seat, RESUME), ttl=ttl))

    def _note(self, call: Call, seat: Participant, kind: EventKind, **data: Any) -> None:
        self._node.event(kind, call, sub=seat.sub.hex(), **data)


def _claims(leg: Leg) -> Claims:
    assert leg.claims is not None  # only admitted legs get here
    return leg.claims


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


def relay_only(call: Call, claims: Claims) -> bool:
    """Whether this person's addresses stay hidden: by policy, by token, or for want of a contact."""
    asked = bool(claims.net & token.NET_RELAY_ONLY)
    return call.terms.relay_only or asked or contact_of(claims) == STRANGER
