"""How people and calls part: one leaves, all leave, the counters come in, the record is written.

    facts cleared --> lane told --> uplinks closed --> `ok` --> `ended` --> FlowClosed ... --> CallRecord

Nobody is told that something is over before it is. Must never live here: why it is over.
"""

from __future__ import annotations

from typing import Any

from relay.core.call import Call, Stage
from relay.core.events import FlowClosed
from relay.core.leg import Leg
from relay.core.node import HERE, Node
from relay.core.participant import Participant
from relay.core.reasons import Refusal
from relay.core.record import EventKind, record_call
from relay.core.ringing import AT_ONCE, CLOSE_CODES, Cause, Ringing, Why, ending, told
from relay.core.seating import Seating
from relay.core.switch import Switch
from relay.errors import ErrorCode
from relay.protocol import control

Asked = tuple[Leg, int]
"""Who asked for an ending, with which message id: `ok` goes there once the gate is closed."""


class Parting:
    """Ends things."""

    def __init__(self, node: Node, switch: Switch, seating: Seating, ringing: Ringing) -> None:
        self._node = node
        self._switch = switch
        self._seating = seating
        self._ringing = ringing

    def part(
        self,
        call: Call,
        seat: Participant,
        cause: Cause,
        *,
        reason: str = "",
        answer: Asked | None = None,
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
        self._node.watch_call(call)

    def _leave(self, call: Call, seat: Participant, why: Why, answer: Asked | None) -> None:
        node = self._node
        legs = self.vacate(call, seat, why.value)
        if answer is not None:
            node.answer(*answer)
        for leg in legs:
            self._say_ended(call, leg, why)
        node.tell(call.here(), control.Peer(c=call.cid, p=seat.index, ev="left", why=why.value))
        node.note(call, seat, EventKind.LEFT, why=why.value)

    def vacate(self, call: Call, seat: Participant, why: str) -> list[Leg]:
        """Clear the seat, gate first. Returns the legs that sat there, without uplinks now."""
        call.gate.leave(seat.index)
        call.part_paths(seat.index, self._node.now)
        call.epoch += 1
        self._switch.sync(call)
        legs = [self._node.legs[number] for number in seat.all_legs]
        for leg in legs:
            self._seating.rise(call, seat, leg)
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
        answer: Asked | None = None,
    ) -> None:
        """The call is over for everyone. `code` closes the legs instead of the cause's own code."""
        node = self._node
        if cause is Cause.FAILED and any(one.why == Why.MOVED for one in call.everyone()):
            cause = Cause.MOVED  # who is gone from here may be there; how it ends is that node's to say
        why = ending(cause, call.was_answered)
        seats = call.here()
        for seat in seats:
            call.gate.leave(seat.index)
            call.part_paths(seat.index, node.now)
        self._switch.sync(call)
        legs = [node.legs[number] for seat in seats for number in seat.all_legs]
        for seat in seats:
            for number in list(seat.all_legs):
                self._seating.rise(call, seat, node.legs[number])
            seat.on_left("", node.wall)
        call.on_ended(why, reason, node.wall)
        self._ringing.on_settled(call.cid)
        if call.was_here:  # of one that was only announced we know nothing: its people may yet come
            over = node.moved if why is Why.MOVED else node.ended
            over.add(call.cid, node.config.limits.removed_memory_s, node.now, node.wall)
        if answer is not None:
            node.answer(*answer)
        for leg in legs:
            self._say_ended(call, leg, why, code, data)
        if why is Why.MOVED:
            node.count("call_moved", "out")
            node.event(EventKind.MOVED, call)
        elif call.was_here:
            node.event(EventKind.ENDED, call, outcome=why.value, reason=reason)
        self._settle(call)

    def give_up(self, call: Call, seat: Participant, cause: Cause, code: ErrorCode | None) -> None:
        """Nobody will come any more."""
        if call.is_pair or len(call.here()) == 1:
            self.end(call, cause, reason="gone", code=code)
        else:
            why = Why.MISSED if cause is Cause.NO_ANSWER else ending(cause, call.was_answered)
            self._leave(call, seat, why, None)

    def on_flow_closed(self, event: FlowClosed) -> None:
        """An uplink's counters are in; with the last of them the record is written."""
        call = self._node.counting.pop((event.leg, event.flow), None)
        if call is None:
            return
        one = call.flows.pop((event.leg, event.flow))
        one.count(event.counters)
        self._node.vitals_of(call).on_flow_closed(call, one, event.counters)
        counters, leg = event.counters, self._node.legs.get(event.leg)
        if leg is not None:
            tallies = self._node.tallies_of(call)
            tallies.on_uplink(counters.accepted, counters.lost, leg.transport)
        if call.state is Stage.ENDED:
            self._settle(call)

    def _settle(self, call: Call) -> None:
        if call.flows:
            return
        node = self._node
        call.on_settled()
        del node.calls[call.cid]
        node.guests.on_settled(call)
        node.vitals_of(call).on_settled(call)
        node.call_quota.release(HERE)
        node.tenants.release(Refusal.CALLS, call.issuer)
        node.deadlines.set(("call", call.cid), None)
        node.deadlines.set(("notice", call.cid), None)
        node.deadlines.set(("steer", call.cid), None)
        node.deadlines.set(("punch", call.cid), None)
        node.deadlines.set(("spare", call.cid), None)
        if call.was_here:
            hearings = (hearing for one in call.everyone() for hearing in one.hearings.values())
            summaries = [hearing.direction.summary() for hearing in hearings]
            node.tallies_of(call).on_call(summaries, node.config.quality.poor_silence_s)
            node.put(record_call(call, node.config.node.region))

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
        node.send(leg.number, control.Ended(c=call.cid, why=told(why), code=int(known), data=data))
        if why in AT_ONCE or code is not None:
            node.close_leg(leg, known)
            return
        leg.on_call_over({seat.index: seat.sub for seat in call.everyone()}, known, node.now)
        node.watch_leg(leg)
