"""The state of rollouts, obeyed: who may call, which variant a call has, where it belongs, what a kill does.

    open      the person is asked for: who is no member begins or joins no call (NOT_ENABLED)
    release   the call is: it has a variant from its first moment on; where this node is of the other one and
              a relay of its own is known, it is asked to move there as soon as it is answered
    a kill    new calls: nobody's (open), control's (release); running candidates move, stay or end

Calls of canaries are nobody's: they prove a region before it opens. Must never live here: shares and buckets
(relay/rollout), how one is asked to move (leaving.py).
"""

from __future__ import annotations

from typing import Final

from relay.core.call import Call
from relay.core.events import MandateChanged
from relay.core.leaving import AGAIN_S, ask
from relay.core.node import Node
from relay.core.parting import Parting
from relay.core.ringing import Cause
from relay.core.variant import give_up, home_of, is_at_home, is_killed
from relay.errors import ErrorCode, PeerError
from relay.protocol.ids import Kid
from relay.protocol.token import Claims

KILLED: Final = "killed"
"""Reason of calls that a kill ended."""


class Steering:
    """Holds calls to the state."""

    def __init__(self, node: Node, parting: Parting) -> None:
        self._node = node
        self._parting = parting

    # ------------------------------------------------------------ who begins, and as what

    def check(self, claims: Claims, kid: Kid | None) -> None:
        """Somebody without a seat wants into a call. PeerError NOT_ENABLED: calling is not open for them."""
        node = self._node
        if kid in node.tenants.canaries:
            return
        why = node.mandate.closed(claims.ru, claims.grp or (), node.config.node.region)
        if why is not None:
            node.count("rollout_refused", why.value)
            data = {"why": why.value}
            raise PeerError(ErrorCode.NOT_ENABLED, f"calls are not open here: {why.value}", data=data)

    def on_opened(self, call: Call, claims: Claims) -> None:
        """A call begins here, by somebody who may call: what its rollout gives it, once and for all."""
        node = self._node
        offer, region = node.mandate.offer, node.config.node.region
        if offer is None or call.is_canary:
            return
        unit = call.cid if offer.kind == "release" else claims.ru
        decision = node.mandate.decide(unit, claims.grp or (), region)
        call.rollout, call.variant = offer.id, decision.variant.value
        call.is_sampled = decision.is_sampled and is_at_home(node, call)
        node.count("rollout_call", call.variant)

    def on_answered(self, call: Call) -> None:
        """Both are there, so they can move together: to where it belongs."""
        if is_at_home(self._node, call):
            return
        if call.is_pair:
            self._send_home(call, self._node.now)
        else:  # who joins a group later comes here, and would find it gone
            self._node.count("rollout_steered", "stayed")

    # ------------------------------------------------------------ kills

    def on_changed(self, event: MandateChanged) -> None:
        """Another state counts from now on. What runs keeps its variant, unless its rollout was killed."""
        node, mandate = self._node, event.mandate
        before, node.mandate = node.mandate, mandate
        if mandate.killed is None or mandate.killed == before.killed:
            return
        hit = [call for call in node.calls.values() if is_killed(node, call) and not call.is_over]
        for place, call in enumerate(hit):
            if mandate.on_kill == "keep":
                node.count("rollout_steered", "kept")
                continue
            give_up(call)
            node.note_change(call)
            if mandate.on_kill == "end":
                call.errand = "end"
                node.deadlines.set(("steer", call.cid), node.now)
            elif call.was_answered and not is_at_home(node, call):
                self._send_home(call, node.now + node.config.drain.smear_s * place / len(hit))

    def on_due(self, call: Call) -> None:
        """The call's turn has come."""
        node = self._node
        if call.is_over:  # by itself, before its turn
            return
        if call.errand == "end":
            node.count("rollout_steered", "ended")
            self._parting.end(call, Cause.ORDERED, reason=KILLED)
            return
        to = () if is_at_home(node, call) else home_of(node, call)
        if to and node.drain.takes_joins:  # a node that leaves asks by itself
            ask(node, call, to, 0.0, AGAIN_S)
            node.deadlines.set(("steer", call.cid), node.now + AGAIN_S)

    def _send_home(self, call: Call, at: float) -> None:
        """From then on its people are asked to go, so long as they are here and there is a place for them."""
        node = self._node
        node.count("rollout_steered", "asked" if home_of(node, call) else "stayed")
        call.errand = "move"
        node.deadlines.set(("steer", call.cid), at)
