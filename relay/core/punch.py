"""Knocking: who may learn whose addresses, and when both sides begin.

    cand --both accepted, neither hides--> passed on        both told all --> punch to both, in rounds

Addresses that a participant announces for TURN die with its leg and stand in no log. Must never live here:
sockets, what became of it (paths.py), and what is inside a sealed candidate.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from relay.core.call import Call
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.participant import Participant
from relay.core.paths import Pair
from relay.core.reasons import DropReason
from relay.core.seating import relay_only
from relay.core.talk import both_consent, other_seat
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, token
from relay.protocol.address import Address
from relay.protocol.ids import CallId

MAX_DELAY_S: Final = 0.5  # a slower leg is not waited for: its rounds overlap all the same


class Punching:
    """All pairs of all calls."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # ------------------------------------------------------------ said by people

    def on_cand(self, call: Call, seat: Participant, leg: Leg, message: control.Cand, id: int) -> None:
        """Pass sealed addresses on. PeerError FORBIDDEN, P2P_DENIED or QUOTA; none is fatal."""
        node = self._node
        other = other_seat(call, seat, message.to)
        if not both_consent(call, seat, other):
            raise PeerError(ErrorCode.FORBIDDEN, "not before both accepted", fatal=False)
        self._check_hiding(call, seat, other, message)
        if call.gate.is_blocked(seat.index, other.index):
            # The sender is not told: a block is nobody's news.
            node.count("dropped", DropReason.BLOCKED.value)
        elif not self._pair(call, seat, other).on_addresses(seat.index, message, node.now):
            node.count("dropped", DropReason.STALE.value)
        else:
            self._measure(leg)
            passed = control.Cand(
                c=call.cid,
                to=other.index,
                gen=message.gen,
                b=message.b,
                kinds=message.kinds,
                end=message.end,
                p=seat.index,
            )
            node.tell([other], passed)
            node.count("cand")
            node.guests.on_changed(call)
        node.answer(leg, id)
        self._watch(call)

    def _check_hiding(self, call: Call, one: Participant, other: Participant, message: control.Cand) -> None:
        """No address of somebody who hides, or whose token allows no direct path, reaches the other."""
        if set(message.kinds) <= {"relay"} and (message.kinds or not message.b):
            return
        pair = (one, other)
        allowed = all(seat.claims.prm & token.MAY_P2P for seat in pair)
        if not allowed or any(relay_only(call, seat.claims) for seat in pair):
            raise PeerError(ErrorCode.P2P_DENIED, "only through the relay", fatal=False)

    def _measure(self, leg: Leg) -> None:
        """Rounds begin at both ends together, so both legs' round trips must be known by then."""
        leg.asked_ms = round(self._node.now * 1000)
        self._node.send(leg.number, control.Ping(t=leg.asked_ms))

    def on_pong(self, leg: Leg, pong: control.Pong, id: int) -> None:
        """The answer to `_measure`; any other is ignored, since its time could be anything."""
        if leg.asked_ms is not None and pong.t == leg.asked_ms:
            leg.rtt = max(0.0, self._node.now - pong.t / 1000)
            leg.asked_ms = None

    def on_path(self, call: Call, seat: Participant, leg: Leg, message: control.Path, id: int) -> None:
        """What the media of one of them goes by."""
        other = other_seat(call, seat, message.p)
        is_direct = message.use == "direct"
        if is_direct and not both_consent(call, seat, other):
            raise PeerError(ErrorCode.FORBIDDEN, "not before both accepted", fatal=False)
        self._pair(call, seat, other).on_report(seat.index, is_direct, self._node.now)
        self._node.count("path", message.use)
        self._node.answer(leg, id)
        self._watch(call)

    # ------------------------------------------------------------ time

    def on_due(self, call: Call) -> None:
        """Rounds of this call are due."""
        node = self._node
        for pair in call.paths.values():
            if pair.due is None or pair.due > node.now:
                continue
            one, other = pair.people
            if not both_consent(call, one, other) or call.gate.is_blocked(one.index, other.index):
                pair.on_lost(node.now)
            elif pair.on_round(node.now):
                self._knock(call, pair)
        self._watch(call)

    def _knock(self, call: Call, pair: Pair) -> None:
        """Both start when the word has reached the one farther away."""
        legs = [self._node.legs[seat.legs[0]] for seat in pair.people]
        known = [leg.rtt for leg in legs if leg.rtt is not None]
        longest = max(known, default=0.0)
        for seat, other, leg in zip(pair.people, reversed(pair.people), legs, strict=True):
            own = longest if leg.rtt is None else leg.rtt
            delay = min(MAX_DELAY_S, (longest - own) / 2)
            message = control.Punch(c=call.cid, p=other.index, round=pair.round, delay_ms=round(1000 * delay))
            self._node.tell([seat], message)
        self._node.count("punch")

    # ------------------------------------------------------------ asked by TURN

    def announced(self, cid: CallId, by: int, to: int) -> Collection[Address]:
        """What participant `by` told TURN to let `to` reach; nothing where one of the two hides.

        Who hides is reached at relayed addresses, which need no word. Consent is not looked at here.
        """
        call = self._node.calls.get(cid)
        pair = None if call is None else call.paths.get((min(by, to), max(by, to)))
        if call is None or pair is None or any(relay_only(call, seat.claims) for seat in pair.people):
            return ()
        return pair.sides[by].announced

    # ------------------------------------------------------------ inside

    def _pair(self, call: Call, one: Participant, other: Participant) -> Pair:
        key = (min(one.index, other.index), max(one.index, other.index))
        pair = call.paths.get(key)
        if pair is None:
            pair = call.paths[key] = Pair(*sorted((one, other), key=lambda seat: seat.index))
        return pair

    def _watch(self, call: Call) -> None:
        due = min((pair.due for pair in call.paths.values() if pair.due is not None), default=None)
        self._node.deadlines.set(("punch", call.cid), due)
