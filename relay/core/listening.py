"""Leg reports of people in calls: which flow is whose voice, and what is known of both ways.

Must never live here: what is counted of a report, and how it is judged.
"""

from __future__ import annotations

from relay.core.call import Call
from relay.core.hearing import Hearing
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.participant import Participant
from relay.core.way import USUAL_PTIME_MS
from relay.protocol.datagram import LegReport


class Listening:
    """All calls of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def on_report(self, call: Call, seat: Participant, leg: Leg, report: LegReport) -> None:
        """What the seat's leg got; flows that are nobody's, or were on another leg, tell nothing."""
        if leg.number != seat.leg:
            return
        speakers = {flow: index for index, flow in seat.hearing.items()}
        ptime = leg.way.ptime if leg.way is not None else USUAL_PTIME_MS
        for flow in report.flows:
            index = speakers.get(flow.flow)
            if index is None:
                continue
            hearing = seat.hearings.get(index)
            if hearing is None:
                hearing = seat.hearings[index] = Hearing(self._node.config, self._node.now)
            rtt_up = self._rtt(call.seats[index])
            hearing.on_report(flow, ptime, rtt_up, _rtt_of(leg), self._node.now)

    def _rtt(self, speaker: Participant) -> float | None:
        leg = None if speaker.leg is None else self._node.legs.get(speaker.leg)
        return None if leg is None else _rtt_of(leg)


def _rtt_of(leg: Leg) -> float | None:
    """Round trip, seconds: by acknowledgements, else by a ping of ours."""
    return leg.rtt if leg.way is None or leg.way.rtt is None else leg.way.rtt
