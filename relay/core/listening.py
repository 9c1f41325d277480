"""Leg reports of people in calls: which flow is whose voice, and what is known of both ways.

Must never live here: what is counted of a report, and how it is judged.
"""

from __future__ import annotations

from relay.core import events as ev
from relay.core.call import Call
from relay.core.hearing import Hearing
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.participant import Participant
from relay.protocol.datagram import LegReport


class Listening:
    """All calls of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def on_report(self, call: Call, seat: Participant, leg: Leg, report: LegReport) -> None:
        """What the seat's leg got; flows that are nobody's, or were on another leg, tell nothing."""
        if leg.number != seat.leg_for("down"):
            return
        node = self._node
        flows = seat.places[seat.all_legs.index(leg.number)].hearing
        speakers = {flow: index for index, flow in flows.items()}
        for flow in report.flows:
            index = speakers.get(flow.flow)
            if index is None:
                continue
            hearing = seat.hearings.get(index)
            if hearing is None:
                hearing = seat.hearings[index] = Hearing(node.config, node.now)
            spoken_on = call.seats[index].leg_for("up")
            speaker = None if spoken_on is None else node.legs.get(spoken_on)
            rtt_up = None if speaker is None else speaker.round_trip
            asked = None if speaker is None or speaker.teller is None else float(speaker.teller.told.bps)
            if hearing.on_report(flow, report.t, rtt_up, leg.round_trip, node.now, bps=asked):
                if hearing.window is not None:
                    node.tallies_of(call).on_window(hearing.window, leg.transport)
                node.vitals_of(call).on_window(call, seat, index, leg.transport, leg.round_trip, hearing)
                for one in (leg, speaker):
                    if one is not None:
                        node.put(ev.AskRoundTrip(one.number))

    def on_round_trips(self, event: ev.RoundTrips) -> None:
        """What was asked for."""
        for number, seconds in event.of.items():
            leg = self._node.legs.get(number)
            if leg is not None:
                leg.path_rtt = seconds
                call = self._node.calls.get(leg.call) if leg.call is not None else None
                if call is not None:
                    self._node.tallies_of(call).on_round_trip(seconds, leg.transport)
