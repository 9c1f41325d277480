"""Silence and return: legs that break, consent that lapses, tickets that bring people back.

    leg gone, or 30 s of silence --> away --60 s--> the yes is too old --90 s--> nobody will come
                                      '---- rejoin ----> back, or asked anew

Must never live here: what a ticket is made of (door.py), how a call ends (parting.py).
"""

from __future__ import annotations

from relay.core.adoption import Adoption
from relay.core.call import Call, Stage
from relay.core.consent import Fact
from relay.core.door import Door
from relay.core.exchange import Exchange
from relay.core.leg import Leg, LegState
from relay.core.node import Node
from relay.core.participant import Participant, Presence
from relay.core.parting import Parting
from relay.core.record import EventKind
from relay.core.ringing import Cause
from relay.core.seating import Seating
from relay.core.story import Kind
from relay.core.switch import Switch
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, handover
from relay.protocol.token import Claims


class Absence:
    """Watches who is there."""

    def __init__(
        self,
        node: Node,
        door: Door,
        switch: Switch,
        seating: Seating,
        parting: Parting,
        exchange: Exchange,
        adoption: Adoption,
    ) -> None:
        self._node = node
        self._door = door
        self._switch = switch
        self._seating = seating
        self._parting = parting
        self._exchange = exchange
        self._adoption = adoption

    def on_leg_gone(self, leg: Leg) -> None:
        """The transport is over. Its person may come back with a ticket."""
        node = self._node
        call = None if leg.call is None else node.calls.get(leg.call)
        seat = None if call is None else call.seats.get(leg.index)
        if call is None or seat is None or leg.number not in seat.all_legs:
            return
        if seat.beside is not None:
            is_main = leg.number != seat.beside.leg
            self._seating.rise(call, seat, leg)
            if is_main:
                self._seating.recall(call, seat)
            else:
                self._switch.sync(call)
            self._node.watch_call(call)
            return
        if seat.leg == leg.number:
            call.gate.set(Fact.ALIVE, seat.index, False)
            self._switch.sync(call)
        self._seating.rise(call, seat, leg)
        if not seat.legs and seat.state in (Presence.JOINED, Presence.ACCEPTED):
            self._silence(call, seat)
        self._node.watch_call(call)

    def _silence(self, call: Call, seat: Participant) -> None:
        self._seating.end_beside(call, seat)
        seat.on_silenced(self._node.now)
        self._node.vitals_of(call).on_silenced(call)
        seat.story.add(self._node.wall, Kind.AWAY)
        for pair in call.paths_of(seat.index):
            pair.on_lost(self._node.now)
        self._node.tell(call.others(seat), control.Peer(c=call.cid, p=seat.index, ev="away"))
        self._node.note(call, seat, EventKind.AWAY)

    def on_rejoin(self, leg: Leg, claims: Claims, rejoin: control.Rejoin, id: int) -> None:
        """Take the place again that the ticket names. PeerError closes the leg."""
        node = self._node
        place = self._door.open_ticket(rejoin.rt)
        if (place.call, place.sub) != (claims.cid, claims.sub) or rejoin.c != place.call:
            raise PeerError(ErrorCode.RESUME_UNKNOWN, "ticket of somebody else")
        if leg.state is LegState.STANDBY:
            self._door.call_up(leg, place)
            assert leg.claims is not None  # it was admitted
            claims = leg.claims
        if place.told is not None and not place.told.flags & handover.OF_GUEST:
            node.check_memory(place.call, place.sub, is_told=True)
            self._adoption.take(place.told)
        seat = self._door.seat_of(place)
        call = node.calls[claims.cid]
        self._expire_accept(call, seat)
        if self._is_due(seat.gone_at()):
            raise PeerError(ErrorCode.RESUME_UNKNOWN, "too late")
        if claims != seat.claims and claims.iat >= seat.claims.iat:
            # A token came beside the ticket: its rights count, not the old ones.
            self._exchange.on_rights(call, seat, claims, leg.kid)
        stale = seat.state is Presence.ABSENT and seat.ever_accepted
        was_here = seat.state in (Presence.JOINED, Presence.ACCEPTED)
        arrives = seat.is_expected
        if leg.state is LegState.READY:
            up = self._move_in(call, seat, leg)
        else:
            assert leg.up is not None
            up = leg.up
            self._stay(call, seat, leg)
        seat.on_returned(leg.number, node.now)
        call.gate.set(Fact.ALIVE, seat.index, seat.is_accepted)
        self._seating.greet(call, seat, leg, up, id)
        if stale:
            again = PeerError(ErrorCode.CONSENT_EXPIRED, "accept the call again", fatal=False)
            node.refuse(leg, again)
        node.vitals_of(call).on_returned(call)
        if not was_here:
            node.tell(call.others(seat), control.Peer(c=call.cid, p=seat.index, ev="back"))
            self._node.note(call, seat, EventKind.ARRIVED if arrives else EventKind.BACK)
            seat.story.add(node.wall, Kind.BACK)
        self._switch.sync(call)
        self._node.watch_call(call)

    def _move_in(self, call: Call, seat: Participant, leg: Leg) -> int:
        """A new leg for a person who may still have an old one: heard lately, it carries on for a while."""
        if seat.state is Presence.ACCEPTED:
            self._seating.fade(call, seat)
        elif seat.state is not Presence.JOINED:
            call.gate.set(Fact.ALIVE, seat.index, False)
            self._switch.sync(call)
            self._seating.let_go(call, seat, ErrorCode.MOVED)
        return self._seating.sit(call, seat, leg)

    def _stay(self, call: Call, seat: Participant, leg: Leg) -> None:
        """A rejoin on a leg that has its place, or that was about to lose it: then the other one goes."""
        if seat.beside is not None and seat.beside.leg == leg.number:
            self._seating.withdraw(call, seat)

    # ------------------------------------------------------------ time

    def on_due(self, call: Call) -> None:
        """Something of this call is due: do all that is."""
        if self._is_due(call.ring_until()):
            self._parting.end(call, Cause.NO_ANSWER)
            return
        if self._is_due(call.ends_at()):
            self._parting.end(call, Cause.TIME_UP)
            return
        for seat in call.here():
            self._seat_due(call, seat)
            if call.is_over:
                return
        if self._is_due(call.retry_flows_at):
            self._switch.sync(call)
        self._node.watch_call(call)

    def _lapses_at(self, seat: Participant) -> float | None:
        if seat.state is not Presence.ACCEPTED:
            return None
        return seat.lapses_at(self._node.legs[seat.legs[0]].heard)

    def _is_due(self, when: float | None) -> bool:
        return when is not None and when <= self._node.now

    def _seat_due(self, call: Call, seat: Participant) -> None:
        beside = seat.beside
        if beside is not None:
            if self._is_due(beside.settles):
                beside.settles = None
                self._switch.sync(call)
            heard = self._node.legs[beside.leg].heard
            if self._is_due(seat.beside_until(heard)):
                self._seating.end_beside(call, seat)
            elif self._is_due(self._lapses_at(seat)) and not self._is_due(seat.lapses_at(heard)):
                self._seating.withdraw(call, seat)
        if self._is_due(self._lapses_at(seat)):
            call.gate.set(Fact.ALIVE, seat.index, False)
            self._switch.sync(call)
            self._silence(call, seat)
        self._expire_accept(call, seat)
        if self._is_due(seat.gone_at()):
            self._parting.give_up(call, seat, Cause.FAILED, ErrorCode.IDLE_TIMEOUT)
        elif call.state is Stage.ACTIVE and self._is_due(seat.accept_by()):
            self._parting.give_up(call, seat, Cause.NO_ANSWER, None)
        elif self._is_due(seat.ticket_at()):
            self._renew(call, seat)

    def _expire_accept(self, call: Call, seat: Participant) -> None:
        """A yes that nobody stood by for too long has to be said anew."""
        if self._is_due(seat.accept_expires_at()):
            call.gate.set(Fact.ACCEPTED, seat.index, False)
            call.epoch += 1
            seat.on_accept_expired()

    def _renew(self, call: Call, seat: Participant) -> None:
        seat.on_ticket(self._node.now)
        ttl = round(self._node.config.limits.ticket_ttl_s)
        rt, ht = self._door.seal_ticket(call.cid, seat), self._node.spare_ticket(call, seat)
        self._node.tell([seat], control.Ticket(rt=rt, ttl=ttl, ht=ht))
