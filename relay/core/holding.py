"""How long each listener is asked to hold what it hears, so that what went again comes in time.

    on_orders    repair on the listener's own way down needs so much
    on_mended    a speaker's packets came as repeats: whoever hears it must hold more, too
    on_turn      five times a second: it has been well for long  --> leg_stats {mp}

Must never live here: what a network bears.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.core.leg import Leg
from relay.core.node import Node
from relay.protocol import control


class Holding:
    """All legs of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._mended: dict[int, Leg] = {}  # legs on whose way up something is repaired

    def on_orders(self, leg: Leg, playout: int, rtt_ms: float, loss: float) -> None:
        """The way down to this listener needs so much, ms; 0: nothing is repaired there."""
        leg.needs = playout
        self._tell(leg, rtt_ms, loss)

    def on_mended(self, leg: Leg, packets: int) -> None:
        """So many packets of this leg's open flows came as repeats alone."""
        before, leg.mended = leg.mended, packets
        if packets <= before:
            return
        leg.mended_at = self._node.now
        self._mended[leg.number] = leg
        for listener in self._listeners(leg):
            self._tell(listener)

    def on_turn(self) -> None:
        """What has been well for long needs no more than usual."""
        for number, leg in list(self._mended.items()):
            if not self._is_mended(leg):
                del self._mended[number]
                for listener in self._listeners(leg):
                    self._tell(listener)

    def end(self) -> None:
        """Nothing is adapted any more: everybody holds what they like."""
        self._mended.clear()
        for leg in self._node.legs.values():
            leg.needs, leg.mended_at = 0, None
            self._tell(leg)

    def _is_mended(self, leg: Leg) -> bool:
        rest = self._node.config.adapt.bursty_rest_s
        return leg.mended_at is not None and self._node.now - leg.mended_at <= rest

    def _tell(self, leg: Leg, rtt_ms: float = 0.0, loss: float = 0.0) -> None:
        hears_mended = any(self._is_mended(speaker) for speaker in self._speakers(leg))
        playout = max(leg.needs, self._node.config.adapt.playout_ms if hears_mended else 0)
        if playout != leg.playout:
            leg.playout = playout
            stats = control.LegStats(rtt=round(rtt_ms, 1), dn_loss=round(100 * loss, 1), mp=playout)
            self._node.send(leg.number, stats)

    def _listeners(self, leg: Leg) -> Iterator[Leg]:
        """Legs on which this one's person is heard."""
        call = None if leg.call is None else self._node.calls.get(leg.call)
        for seat in call.here() if call is not None else ():
            listener = None if seat.leg is None else self._node.legs.get(seat.leg)
            if listener is not None and leg.index in seat.hearing:
                yield listener

    def _speakers(self, leg: Leg) -> Iterator[Leg]:
        """Legs of those whom this one's person hears."""
        call = None if leg.call is None else self._node.calls.get(leg.call)
        seat = None if call is None else call.seats.get(leg.index)
        if call is None or seat is None:
            return
        for index in seat.hearing:
            number = call.seats[index].leg
            speaker = None if number is None else self._node.legs.get(number)
            if speaker is not None:
                yield speaker
