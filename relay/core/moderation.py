"""Who may silence, shut out, admit or end whom, and that it holds before anyone is told.

A mute by oneself and a mute by a moderator are two facts: the second is lifted by a moderator only. A block
is a pair's own affair and needs no right. Must never live here: commands' signatures (orders.py).
"""

from __future__ import annotations

from relay.core.call import Call
from relay.core.consent import Fact
from relay.core.exchange import hung_up
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.participant import Participant
from relay.core.parting import Parting
from relay.core.record import EventKind
from relay.core.ringing import Cause
from relay.core.story import Kind
from relay.core.switch import Switch
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, token


class Moderation:
    """Mute, block, remove, admit, end."""

    def __init__(self, node: Node, parting: Parting, switch: Switch) -> None:
        self._node = node
        self._parting = parting
        self._switch = switch

    # ------------------------------------------------------------ asked by people

    def on_mute(self, call: Call, seat: Participant, leg: Leg, mute: control.Mute, id: int) -> None:
        """Oneself, or anybody as a moderator."""
        target = seat if mute.p is None else somebody(call, mute.p)
        if mute.hard or target is not seat:
            _require_moderator(seat)
            self.mute(call, target, mute.on, hard=True)
        else:
            if not mute.on and call.gate.has(Fact.HARD_MUTED, seat.index):
                raise PeerError(ErrorCode.FORBIDDEN, "muted by a moderator", fatal=False)
            self.mute(call, seat, mute.on, hard=False)
        self._node.answer(leg, id)

    def on_block(self, call: Call, seat: Participant, leg: Leg, block: control.Block, id: int) -> None:
        """Neither hears the other from now on. In a 1:1 that ends the call, and looks like a hang-up."""
        target = somebody(call, block.p)
        if target is seat:
            raise PeerError(ErrorCode.NOT_IN_CALL, "nobody else sits there", fatal=False)
        self.block(call, seat, target, block.on, answer=(leg, id))

    def on_mod(self, call: Call, seat: Participant, leg: Leg, mod: control.Mod, id: int) -> None:
        """What role 1 or permission 32 allows."""
        _require_moderator(seat)
        if mod.op == "end":
            self._parting.end(call, Cause.ORDERED, reason="moderator", answer=(leg, id))
            return
        if mod.p is None:
            raise PeerError(ErrorCode.BAD_ENCODING, "Mod: p")
        target = somebody(call, mod.p)
        if mod.op == "remove":
            self._parting.part(call, target, Cause.REMOVED, reason="moderator", answer=(leg, id))
            return
        if mod.op == "admit":
            call.gate.set(Fact.ADMITTED, target.index, True)
            self._switch.sync(call)
        else:
            self.mute(call, target, mod.op == "mute", hard=True)
        self._node.answer(leg, id)

    # ------------------------------------------------------------ done

    def mute(self, call: Call, target: Participant, on: bool, *, hard: bool) -> None:
        """Set one of the two mutes; everybody in the call hears of it after the lane does."""
        call.gate.set(Fact.HARD_MUTED if hard else Fact.MUTED, target.index, on)
        self._switch.sync(call)
        if on:
            self._node.vitals_of(call).on_muted(call, target.index)
        target.story.add(self._node.wall, Kind.MUTED if on else Kind.UNMUTED, "moderator" if hard else "self")
        news = control.Mute(c=call.cid, p=target.index, on=on, hard=hard)
        # Who mutes itself needs no news of it.
        self._node.tell(call.here() if hard else call.others(target), news)
        self._node.event(EventKind.MUTED, call, sub=target.sub.hex(), on=on, hard=hard)

    def block(
        self,
        call: Call,
        one: Participant,
        other: Participant,
        on: bool,
        *,
        answer: tuple[Leg, int] | None = None,
    ) -> None:
        """Close a pair for `one`, both directions, or take that back; the other's own block stays."""
        node = self._node
        call.gate.block(one.index, other.index, on)
        self._switch.sync(call)
        node.event(EventKind.BLOCKED, call, sub=one.sub.hex(), peer=other.sub.hex(), on=on)
        if call.is_pair and on:
            self._parting.end(call, hung_up(call, one), reason="blocked", answer=answer)
        elif answer is not None:
            node.answer(*answer)


def somebody(call: Call, index: int) -> Participant:
    """Who sits there. PeerError NOT_IN_CALL, not fatal, for an empty seat."""
    seat = call.seats.get(index)
    if seat is None or not seat.is_here:
        raise PeerError(ErrorCode.NOT_IN_CALL, "nobody sits there", fatal=False)
    return seat


def _require_moderator(seat: Participant) -> None:
    if seat.claims.rol != token.ROLE_HOST and not seat.claims.prm & token.MAY_MODERATE:
        raise PeerError(ErrorCode.FORBIDDEN, "not a moderator", fatal=False)
