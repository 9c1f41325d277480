"""Who sits where: the tie between a leg, a seat and an uplink, made and undone in one place.

    sit     one device slot, one uplink flow, one leg in the call       charged together
    rise    the same three                                              released together

Must never live here: why somebody comes or goes.
"""

from __future__ import annotations

from relay.core.call import Call
from relay.core.consent import Fact
from relay.core.door import Door
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.participant import Participant, Presence
from relay.core.policy import STRANGER, contact_of
from relay.core.record import EventKind
from relay.core.ringing import CLOSE_CODES, Why, told
from relay.core.story import Kind
from relay.core.switch import Switch, forget_routes
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, token
from relay.protocol.token import Claims


class Seating:
    """Seats legs and lets them go."""

    def __init__(self, node: Node, door: Door, switch: Switch) -> None:
        self._node = node
        self._door = door
        self._switch = switch

    def sit(self, call: Call, seat: Participant, leg: Leg) -> int:
        """Tie leg, seat and uplink together. PeerError QUOTA when too many devices ring."""
        if not self._node.device_quota.charge((call.cid, seat.sub)):
            raise PeerError(ErrorCode.QUOTA, "too many devices ring")
        if not call.was_here:  # another node told of it, and this is the first of its people
            call.was_here = True
            self._node.vitals_of(call).on_adopted(call)
            self._node.event(EventKind.ADOPTED, call)
        up = self._switch.open_uplink(call, seat, leg)
        assert up is not None  # a leg enters one call, once: its first number is always free
        leg.on_entered(call.cid, seat.index, up)
        self._node.watch_leg(leg)
        seat.client, seat.transport = leg.client, leg.transport
        seat.story.add(self._node.wall, Kind.LEG, leg.transport)
        return up

    def greet(self, call: Call, seat: Participant, leg: Leg, up: int, id: int) -> None:
        """Tell the newcomer where it is and who is there."""
        joined = control.Joined(
            c=call.cid,
            p=seat.index,
            up=up,
            roster=tuple(_roster_entry(call, seat, other) for other in call.others(seat)),
            gate=self._switch.heard_by(call, seat),
            rly=relay_only(call, seat.claims),
            rt=self._door.seal_ticket(call.cid, seat),
            standby=self._node.standbys(call),
        )
        self._node.send(leg.number, joined, id)

    def fade(self, call: Call, seat: Participant) -> None:
        """The accepted leg gives its place to one that comes. A second one that is there already is done."""
        self.end_beside(call, seat)
        if self._node.device_quota.held((call.cid, seat.sub)) >= self._node.device_quota.ceiling:
            # There is no room for two: routes first, as always when a leg goes.
            call.gate.set(Fact.ALIVE, seat.index, False)
            self._switch.sync(call)
            self.let_go(call, seat, ErrorCode.MOVED)
            return
        seat.fade(self._node.now)
        seat.story.add(self._node.wall, Kind.MOVING)
        forget_routes(seat)
        self._forget_addresses(call, seat)

    def end_beside(self, call: Call, seat: Participant) -> None:
        """The second leg is closed, if there is one; a copy that waits at that moment may be lost."""
        if seat.beside is not None:
            leg = self._node.legs[seat.beside.leg]
            self.rise(call, seat, leg)
            self._switch.sync(call)
            self._node.close_leg(leg, ErrorCode.MOVED)

    def recall(self, call: Call, seat: Participant) -> None:
        """The accepted leg is gone, or did not work: the second one takes its place."""
        seat.recall()
        seat.transport = self._node.legs[seat.legs[0]].transport
        seat.story.add(self._node.wall, Kind.STAYED, seat.transport)
        seat.told = (0, {}, 0)  # who comes back to a leg may know nothing of it
        self._switch.sync(call)

    def withdraw(self, call: Call, seat: Participant) -> None:
        """The accepted leg is closed; the second one takes its place."""
        leg = self._node.legs[seat.legs[0]]
        self.rise(call, seat, leg)
        self.recall(call, seat)
        self._node.close_leg(leg, ErrorCode.MOVED)

    def unite(self, call: Call, seat: Participant, leg: Leg) -> None:
        """One of two legs carries all from now on; the other one fades."""
        if seat.leg != leg.number:
            self._forget_addresses(call, seat)
        seat.transport = leg.transport
        if not seat.unite(leg.number, self._node.now):
            self.end_beside(call, seat)

    def rise(self, call: Call, seat: Participant, leg: Leg) -> None:
        """The leg sends no more and its device slot is free; what it hears ends with the routes."""
        if seat.leg == leg.number:
            self._switch.detach(seat, leg)
        else:
            self._switch.close_uplink(leg)
        if seat.beside is None or seat.beside.leg != leg.number:
            self._forget_addresses(call, seat)
        seat.drop_leg(leg.number)
        self._node.device_quota.release((call.cid, seat.sub))

    def _forget_addresses(self, call: Call, seat: Participant) -> None:
        pairs = call.paths_of(seat.index)
        for pair in pairs:
            pair.forget_addresses(seat.index)
        if pairs:
            self._node.guests.on_changed(call)

    def let_go(self, call: Call, seat: Participant, code: ErrorCode) -> None:
        """Close every leg of the seat; somebody else sits down, or the same person on another leg."""
        for leg in [self._node.legs[number] for number in seat.all_legs]:
            self.rise(call, seat, leg)
            self._node.close_leg(leg, code)

    def dismiss(self, call: Call, seat: Participant, number: int, why: Why) -> None:
        """One ringing device of several is done."""
        leg = self._node.legs[number]
        self.rise(call, seat, leg)
        self._node.send(number, control.Ended(c=call.cid, why=told(why), code=int(CLOSE_CODES[why])))
        self._node.close_leg(leg, CLOSE_CODES[why])
        self._node.note(call, seat, EventKind.DEVICE_ENDED, why=why.value)


def _roster_entry(call: Call, viewer: Participant, other: Participant) -> control.RosterEntry:
    away = other.state in (Presence.AWAY, Presence.ABSENT)
    return control.RosterEntry(
        p=other.index,
        sub=other.sub,
        st="away" if away else "accepted" if other.is_accepted else "joined",
        mu=call.gate.is_muted(other.index),
        rly=relay_only(call, other.claims),
        ctc=min(contact_of(viewer.claims), contact_of(other.claims)),
    )


def relay_only(call: Call, claims: Claims) -> bool:
    """Whether this person's addresses stay hidden: by policy, by token, or for want of a contact."""
    asked = bool(claims.net & token.NET_RELAY_ONLY)
    return call.terms.relay_only or asked or contact_of(claims) == STRANGER
