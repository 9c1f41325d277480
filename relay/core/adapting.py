"""Each listener's leg is adapted to its network: measures and reports in, orders for lane and listener out.

    Measured, leg reports --> Way (signs) --> Controller (state) --> SetRepair, leg_stats (holding.py),
                                                                     wishes (asking.py)

The lane names legs on whose ways something went wrong. Those are measured five times a second until nothing
is, once a second until all was well for a while (`AdaptConfig.armed_s`), and then forgotten. Must never live
here: how signs are got, and what follows from them.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from relay.core import events as ev
from relay.core.adapt import Orders
from relay.core.asking import Asking
from relay.core.hints import Hint, Wish
from relay.core.holding import Holding
from relay.core.leg import Leg, LegState
from relay.core.node import Node
from relay.core.shedding import Shed
from relay.core.story import Kind
from relay.core.way import Way
from relay.protocol.datagram import LegReport

NONE = ev.Repair()
PLAIN = ev.Shape()
COALESCE_S: Final = 0.005  # what speakers say in so long may share a packet
LATE_S: Final = 0.010  # by which the second of two packets may come late


def _shape_of(orders: Orders, ptime: int) -> ev.Shape:
    if orders.hold_frame:
        return ev.Shape(ptime / 1000 + LATE_S, 2, orders.redundancy)
    return ev.Shape(COALESCE_S if orders.coalesce else 0.0, 1, orders.redundancy)


class Adapting:
    """All legs of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asking = Asking(node)
        self._holding = Holding(node)
        self._watched: dict[int, Leg] = {}

    def due(self, now: float) -> list[int]:
        """Of those that are watched, the ones to measure on this turn."""
        return [
            number
            for number in self.watched()
            if (way := self._watched[number].way) is None or way.is_due(now)
        ]

    def watched(self) -> list[int]:
        """Legs that are looked at, whatever the lane says of them."""
        config = self._node.config.adapt
        self._watched = {
            number: leg for number, leg in self._watched.items() if leg.state is LegState.IN_CALL
        }
        if config.enabled and config.always_armed:
            for number, leg in self._node.legs.items():
                if leg.state is LegState.IN_CALL and leg.way is None and leg.repair == NONE and number >= 0:
                    self._watched[number] = leg
        return list(self._watched)

    def states(self) -> Counter[str]:
        """How many ways that are looked at stand in which state."""
        return Counter(leg.adapted.value for leg in self._watched.values() if leg.state is LegState.IN_CALL)

    def on_measured(self, event: ev.Measured) -> None:
        """What the lane knows of some ways."""
        node = self._node
        if not node.config.adapt.enabled:
            return
        for measure in event.ways:
            leg = node.legs.get(measure.leg)
            if leg is None or leg.state is not LegState.IN_CALL:
                continue
            if leg.way is None:
                leg.way = Way(node.config.adapt, *leg.losses)
                self._watched[leg.number] = leg
            self._holding.on_mended(leg, measure.mended)
            assert leg.call is not None  # it is in one
            call = node.calls.get(leg.call)  # none: another node decides about it, and keeps its sums
            since = leg.way.since_look(node.now)
            if call is not None:
                node.tallies_of(call).on_state(leg.adapted.value, since)
            orders = leg.way.on_measure(measure, node.now)
            if orders is not None:
                self._carry_out(leg, leg.way, measure, orders)
            if leg.way.is_over(node.now):
                self._let_go(leg, is_armed=node.config.adapt.always_armed)
        self._asking.on_turn()
        self._holding.on_turn()

    def on_trouble(self, leg: Leg) -> None:
        """Its listener says that something is missing: look at its way as after any loss."""
        node = self._node
        if leg.way is None:
            leg.way = Way(node.config.adapt, *leg.losses)
            self._watched[leg.number] = leg
        leg.way.on_trouble(node.now)

    def on_report(self, leg: Leg, report: LegReport) -> None:
        """What a listener says came."""
        if leg.way is not None:
            leg.way.on_report(report, self._node.now)

    def on_config(self) -> None:
        """New settings count for ways on which something goes wrong from now on; for none, when it is off."""
        if self._node.config.adapt.enabled:
            return
        self._holding.end()
        for leg in self._node.legs.values():
            if leg.way is not None or leg.repair != NONE:
                self._let_go(leg, is_armed=False)

    def on_shedding(self) -> None:
        """Nothing is kept to be repeated while the node is full; what else the ways need goes on."""
        if self._node.shedding.level >= Shed.REDUNDANCY:
            for leg in self._node.legs.values():
                self._disarm(leg)

    def _let_go(self, leg: Leg, *, is_armed: bool) -> None:
        """Nobody looks any more; without `is_armed` nothing is kept to be repeated, either."""
        if leg.way is not None:
            leg.losses = leg.way.losses
        leg.way = None
        self._watched.pop(leg.number, None)
        self._shape(leg, PLAIN)
        if not is_armed:
            self._disarm(leg)

    def _disarm(self, leg: Leg) -> None:
        if leg.repair != NONE:
            leg.repair = NONE
            self._node.put(ev.SetRepair(leg.number, NONE))

    def _shape(self, leg: Leg, shape: ev.Shape) -> None:
        if shape != leg.shape:
            leg.shape = shape
            self._node.put(ev.SetShape(leg.number, shape))

    def _carry_out(self, leg: Leg, way: Way, measure: ev.Measure, orders: Orders) -> None:
        node = self._node
        if leg.adapted is not orders.state:
            leg.adapted = orders.state
            node.count("leg_adapted", orders.state.value)
            assert leg.call is not None  # only legs in calls are measured
            call = node.calls.get(leg.call)
            if call is not None:
                call.seats[leg.index].story.add(node.wall, Kind.WAY, orders.state.value)
        repair = ev.Repair(
            mode=orders.mode,
            budget=orders.budget,
            depth=orders.depth,
            distances=orders.distances,
            max_age=orders.max_age / 1000,
            ack_slack=orders.ack_slack / 1000,
        )
        if node.shedding.level >= Shed.REDUNDANCY:
            repair = NONE
        if repair != leg.repair:
            leg.repair = repair
            node.put(ev.SetRepair(leg.number, repair))
        self._shape(leg, _shape_of(orders, way.ptime))
        rtt = 0.0 if measure.rtt is None else 1000 * measure.rtt[1]
        self._holding.on_orders(leg, orders.playout, rtt, way.loss or 0.0)
        self._asking.on_wish(leg, Wish(Hint(*orders.ask, fec=orders.fec), orders.is_for_loss))
