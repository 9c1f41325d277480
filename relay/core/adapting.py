"""Each listener's leg is adapted to its network: measures and reports in, orders for lane and listener out.

    Measured, leg reports --> Way (signs) --> Controller (state) --> SetRepair, leg_stats

Off unless `adapt.enabled`. Must never live here: how signs are got, and what follows from them.
"""

from __future__ import annotations

from relay.core import events as ev
from relay.core.adapt import Orders
from relay.core.leg import Leg, LegState
from relay.core.node import Node
from relay.core.way import Way
from relay.protocol import control
from relay.protocol.datagram import LegReport


class Adapting:
    """All legs of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node

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
                leg.way = Way(node.config.adapt)
            orders = leg.way.on_measure(measure, node.now)
            if orders is not None:
                self._carry_out(leg, leg.way, measure, orders)

    def on_report(self, leg: Leg, report: LegReport) -> None:
        """What a listener says came."""
        if leg.way is not None:
            leg.way.on_report(report, self._node.now)

    def on_config(self) -> None:
        """New settings count for legs that are measured for the first time; none at all, when it is off."""
        if self._node.config.adapt.enabled:
            return
        for leg in self._node.legs.values():
            if leg.way is not None:
                self._node.put(ev.SetRepair(leg.number, ev.Repair()))
                self._ask_playout(leg, leg.way, 0, None)
                leg.way = None
                leg.repair = ev.Repair()

    def _carry_out(self, leg: Leg, way: Way, measure: ev.Measure, orders: Orders) -> None:
        node = self._node
        if leg.adapted is not orders.state:
            leg.adapted = orders.state
            node.count("leg_adapted", orders.state.value)
        repair = ev.Repair(
            mode=orders.mode,
            budget=orders.budget,
            depth=orders.depth,
            distances=orders.distances,
            max_age=orders.max_age / 1000,
            ack_slack=orders.ack_slack / 1000,
        )
        if repair != leg.repair:
            leg.repair = repair
            node.put(ev.SetRepair(leg.number, repair))
        self._ask_playout(leg, way, orders.playout, measure)

    def _ask_playout(self, leg: Leg, way: Way, playout: int, measure: ev.Measure | None) -> None:
        """Tell the listener at once how long to wait for repeats."""
        if playout == leg.playout:
            return
        leg.playout = playout
        rtt = 0.0 if measure is None or measure.rtt is None else 1000 * measure.rtt[1]
        loss = round(100 * (way.loss or 0.0), 1)
        self._node.send(leg.number, control.LegStats(rtt=round(rtt, 1), dn_loss=loss, mp=playout))
