"""From gate bits to routes: which uplink is copied to which legs, and what the listeners are told.

    facts --Gate--> bits --sync--> flow numbers, Route orders to the lane, `gate` messages

`sync` is idempotent and says only what changed, so every part calls it after touching a fact. Closing is
said to the lane before anything else happens. Must never live here: why a bit is open.
"""

from __future__ import annotations

from relay.core.call import Call
from relay.core.events import CloseFlow, OpenFlow, Route
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.participant import Beside, Participant
from relay.core.reasons import DropReason
from relay.protocol import control


class Switch:
    """Keeps the lane's table equal to the gates."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def open_uplink(self, call: Call, one: Participant, leg: Leg) -> int | None:
        """Give the leg an uplink flow that nobody hears yet; None when its numbers are all resting."""
        flow = leg.uplinks.allot(self._node.now)
        if flow is not None:
            self.open_flow(call, one, leg, flow)
        return flow

    def open_flow(self, call: Call, one: Participant, leg: Leg, flow: int) -> None:
        """The lane takes this uplink flow, and counts it for the call."""
        call.flows[leg.number, flow] = one
        self._node.counting[leg.number, flow] = call
        watched = leg.nacks and self._node.config.adapt.enabled
        self._node.put(OpenFlow(leg.number, flow, one.index, group=not call.is_pair, watched=watched))

    def close_uplink(self, leg: Leg) -> None:
        """The leg sends no media any more; the lane answers with what it counted."""
        if leg.up is not None:
            leg.uplinks.free(leg.up, self._node.now)
            self._node.put(CloseFlow(leg.number, leg.up))
            leg.up = None

    def sync(self, call: Call) -> None:
        """Make routes and flow numbers follow the bits, then tell listeners what changed for them."""
        here = call.here()
        self._node.note_change(call)
        heard = dict.fromkeys((one.index for one in here), 0)
        call.retry_flows_at = None
        for speaker in here:
            targets = self._targets(call, speaker, here)
            for index, _, _ in targets:
                heard[index] |= 1 << speaker.index
            self._route(call, speaker, tuple((leg, flow) for _, leg, flow in targets))
        for listener in here:
            self._tell(call, listener, heard[listener.index])
        self._node.guests.on_changed(call)

    def heard_by(self, call: Call, listener: Participant) -> int:
        """Mask of those the listener hears now."""
        return sum(
            1 << other.index
            for other in call.others(listener)
            if call.gate.hearers(other.index) >> listener.index & 1
        )

    def _targets(
        self, call: Call, speaker: Participant, here: list[Participant]
    ) -> list[tuple[int, int, int]]:
        """(index, leg, flow) of all who hear the speaker, on each leg that carries to them.

        Gives and takes flow numbers on the way, also of a leg that carries nothing down now.
        """
        consented = call.gate.consented(speaker.index)
        hearers = call.gate.hearers(speaker.index)
        targets = []
        for listener in here:
            if listener.leg is None or not consented >> listener.index & 1:
                self._free(listener, speaker.index)
            elif hearers >> listener.index & 1:
                for place in listener.places:
                    leg = place.leg
                    assert leg is not None  # it is accepted
                    flow = self._allot(call, place, leg, speaker.index)
                    if flow is not None and listener.carries(place, "down"):
                        targets.append((listener.index, leg, flow))
        return targets

    def _allot(self, call: Call, place: Participant | Beside, leg: int, speaker: int) -> int | None:
        """The number on which the speaker is heard there: given when the bit first opens, then kept."""
        flow = place.hearing.get(speaker)
        if flow is None:
            numbers = self._node.legs[leg].downlinks
            flow = numbers.allot(self._node.now)
            if flow is None:
                call.retry_flows_at = _earlier(call.retry_flows_at, numbers.next_free())
            else:
                place.hearing[speaker] = flow
        return flow

    def _free(self, listener: Participant, speaker: int) -> None:
        for place in listener.places:
            flow = place.hearing.pop(speaker, None)
            leg = None if place.leg is None else self._node.legs.get(place.leg)
            if flow is not None and leg is not None:
                leg.downlinks.free(flow, self._node.now)

    def _route(self, call: Call, speaker: Participant, targets: tuple[tuple[int, int], ...]) -> None:
        for place in speaker.places:
            leg = None if place.leg is None else self._node.legs[place.leg]
            if leg is None or leg.up is None:
                continue
            heard = targets if speaker.carries(place, "up") else ()
            closed = None if heard else call.gate.why_closed(speaker.index)
            if (heard, closed) != (place.route, place.closed):
                place.route, place.closed = heard, closed
                self._node.put(Route(leg.number, leg.up, heard, closed))

    def _tell(self, call: Call, listener: Participant, heard: int) -> None:
        for place in listener.places:
            # Membership matters to key ratchets of groups only; in a 1:1 it would be news without content.
            state = (heard, dict(place.hearing), 0 if call.is_pair else call.epoch)
            if place.leg is not None and state != place.told:
                place.told = state
                message = control.Gate(c=call.cid, open=heard, ep=call.epoch, fl=state[1])
                self._node.send(place.leg, message)

    def detach(self, one: Participant, leg: Leg) -> None:
        """The person's media leg goes away: its numbers die with it."""
        self.close_uplink(leg)
        one.hearing.clear()
        forget_routes(one)


def forget_routes(one: Participant) -> None:
    """A fresh uplink starts closed, and its listener was told nothing."""
    one.route, one.closed = (), DropReason.GATE_CLOSED
    one.told = (0, {}, 0)


def _earlier(one: float | None, other: float | None) -> float | None:
    known = [when for when in (one, other) if when is not None]
    return min(known, default=None)
