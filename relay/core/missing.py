"""Losses that acknowledgements do not show are told by name, both ways, by control datagram 04.

    lane: packets of a watched uplink have not come --Gap--> Asker --> nack to who sent them
    a listener's nack --> Resend: what of it is kept leaves again

An uplink is watched whose client said `caps.nack`: a web page, which sees no acknowledgements. Whoever sends
a nack is looked at by the controller, as after any loss, so that copies are kept. Must never live here: when
and what to ask for (relay/protocol/nack.py), and what is kept.
"""

from __future__ import annotations

from relay.core import events as ev
from relay.core.adapting import Adapting
from relay.core.leg import Leg, LegState
from relay.core.node import Node
from relay.protocol.datagram import Nack, encode_datagram
from relay.protocol.nack import Asker


class Missing:
    """All legs of the node."""

    def __init__(self, node: Node, adapting: Adapting) -> None:
        self._node = node
        self._adapting = adapting

    def on_gap(self, event: ev.Gap) -> None:
        """Something that a leg sent has not come."""
        node = self._node
        leg = node.legs.get(event.leg)
        if leg is None or leg.state is not LegState.IN_CALL or leg.up != event.flow:
            return
        if not node.config.adapt.enabled:
            return
        rtt = leg.round_trip
        if rtt is None:
            node.put(ev.AskRoundTrip(leg.number))  # of use for the next one
            return
        if leg.asker is None or leg.asker.flow != event.flow:
            leg.asker = Asker(event.flow)
        slack = node.config.adapt.playout_ms / 1000  # what those who hear it hold while it is repaired
        nack = leg.asker.on_packet(event.kid, event.newest, event.missing, node.now, rtt, slack)
        if nack is not None:
            node.count("nack", "sent")
            node.put(ev.SendDatagram(leg.number, encode_datagram(nack)))

    def on_nack(self, leg: Leg, nack: Nack) -> None:
        """A listener misses something. What is kept for whom is the lane's to know."""
        if leg.state is not LegState.IN_CALL or not self._node.config.adapt.enabled:
            return
        self._adapting.on_trouble(leg)
        self._node.put(ev.Resend(leg.number, nack))
