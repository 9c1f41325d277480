"""Senders are told what the networks of those who hear them bear: wishes in, the message `rate` out.

    on_wish(listener's leg, wish)      on_turn() five times a second --> Hint (hints.py) --> rate

A sender that is heard as usual is told nothing, and of one that was told nobody thinks again within a second
but for a new wish. Must never live here: what a network bears, and how wishes
are combined.
"""

from __future__ import annotations

from relay.core.call import Call
from relay.core.hints import TTL_S, Hint, Teller, Wish, combine
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.steps import ladder
from relay.protocol import control
from relay.protocol.ids import CallId


class Asking:
    """All senders of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._open: dict[tuple[CallId, int], float] = {}
        """Senders, by call and index, with something to be told, and when to look at them again."""

    def on_wish(self, leg: Leg, wish: Wish) -> None:
        """What whoever this leg hears shall do."""
        usual = Wish(self._usual())
        if wish.hint == usual.hint:
            wish = usual
        if wish == (leg.wish or usual):
            return
        leg.wish = None if wish == usual else wish
        call = None if leg.call is None else self._node.calls.get(leg.call)
        seat = None if call is None else call.seats.get(leg.index)
        if call is None or seat is None:
            return
        for index in seat.hearing:
            self._open[call.cid, index] = self._node.now

    def on_turn(self) -> None:
        """Tell those whom something is to be told. A hint that nobody tells again is void by itself."""
        node, now = self._node, self._node.now
        for key in [key for key, at in self._open.items() if at <= now]:
            call = node.calls.get(key[0])
            again_at = None if call is None else self._tell(call, key[1])
            if again_at is None:
                del self._open[key]
            else:
                self._open[key] = again_at

    def _tell(self, call: Call, index: int) -> float | None:
        """When the sender must be looked at again."""
        node, usual = self._node, self._usual()
        spoken_on = call.seats[index].leg
        leg = None if spoken_on is None else node.legs.get(spoken_on)
        if leg is None:
            return None
        heard_on = (seat.leg_for("down") for seat in call.here() if index in seat.hearing)
        legs = (node.legs.get(number) for number in heard_on if number is not None)
        hint = combine(usual, [one.wish or Wish(usual) for one in legs if one is not None])
        if leg.teller is None:
            leg.teller = Teller(usual)
        told = leg.teller.on_hint(hint, node.now)
        if told is not None:
            rate = control.Rate(
                c=call.cid, bps=told.bps, pt=told.ptime, fec=told.fec, red=told.red, dtx=told.dtx,
                ttl=round(1000 * TTL_S),
            )  # fmt: skip
            node.send(leg.number, rate)
        return None if hint == usual and leg.teller.is_usual else leg.teller.again_at(node.now)

    def _usual(self) -> Hint:
        return Hint(*ladder(self._node.config.adapt)[0])
