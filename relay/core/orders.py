"""Signed commands of the product's back end: end, mute, remove, block, revoke. Single use, in force at once.

    signature, times, revoked key, single use  -->  effect  -->  event, answer

The order is the tokens' own. Must never live here: the socket they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from relay.core.admission import Admission
from relay.core.call import Call
from relay.core.events import CallEvent, CommandDone, CommandReceived
from relay.core.memory import Memory
from relay.core.moderation import Moderation
from relay.core.node import Node
from relay.core.participant import Participant
from relay.core.parting import Parting
from relay.core.record import EventKind
from relay.core.ringing import Cause
from relay.errors import ErrorCode, PeerError
from relay.protocol import command, signed
from relay.protocol.command import Command
from relay.protocol.ids import CallId, Jti, Kid, Sub
from relay.protocol.token import Claims

MAX_LIFETIME_S: Final = 300
REMEMBERED: Final = 65_536  # used command ids; more at once than this are refused


class Orders:
    """Carries out commands."""

    def __init__(self, node: Node, judge: Admission, parting: Parting, moderation: Moderation) -> None:
        self._node = node
        self._admission = judge
        self._parting = parting
        self._moderation = moderation
        self._used: Memory[Jti] = Memory(REMEMBERED)
        self._effects: Mapping[str, Callable[[Command], None]] = {
            "end": self._end,
            "mute": self._mute,
            "remove": self._remove,
            "block": self._block,
            "revoke": self._revoke,
        }

    def on_command(self, event: CommandReceived) -> None:
        """Verify, spend, do, say."""
        code, message = ErrorCode.NO_ERROR, ""
        order: Command | None = None
        try:
            order = self._verify(event.raw)
            self._effects[order.op](order)
        except PeerError as error:
            code, message = error.code, error.message
        if order is not None:
            self._note(order, code)
        self._node.count("command", code.name.lower())
        self._node.put(CommandDone(event.ref, code, message))

    def _verify(self, raw: bytes) -> Command:
        node = self._node
        order = command.verify(raw, self._admission.issuers)
        if signed.split(command.MAGIC, raw).kid in self._admission.revoked_keys:
            raise PeerError(ErrorCode.TOKEN_INVALID, "key is revoked")
        skew = node.config.tokens.skew_s
        if not 0 < order.exp - order.iat <= MAX_LIFETIME_S or order.iat > node.wall + skew:
            raise PeerError(ErrorCode.TOKEN_INVALID, "command lives too long, or not yet")
        ends_in = order.exp + skew - node.wall
        if ends_in <= 0:
            raise PeerError(ErrorCode.TOKEN_EXPIRED, "command has expired")
        if self._used.knows(order.id, node.now, node.wall):
            raise PeerError(ErrorCode.TOKEN_REPLAYED, "command was used before")
        if not self._used.has_room(node.now, node.wall):
            raise PeerError(ErrorCode.OVERLOADED, "too many commands")
        self._used.add(order.id, ends_in, node.now, node.wall)
        return order

    def _note(self, order: Command, code: ErrorCode) -> None:
        """Who gave which order with what success. A person's stable id is not written anywhere."""
        named = {name: getattr(order, name) for name in ("cid", "sub", "peer", "jti", "kid")}
        data = {name: value.hex() for name, value in named.items() if value is not None}
        data = {"call" if name == "cid" else name: value for name, value in data.items()}
        news = {**data, "op": order.op, "on": order.on, "id": order.id.hex(), "code": code.name.lower()}
        self._node.put(CallEvent(EventKind.COMMAND.value, self._node.wall, news))

    # ------------------------------------------------------------ effects

    def _end(self, order: Command) -> None:
        self._parting.end(self._call(order.cid), Cause.ORDERED, reason="command")

    def _mute(self, order: Command) -> None:
        call = self._call(order.cid)
        self._moderation.mute(call, _seat(call, order.sub), order.on, hard=True)

    def _remove(self, order: Command) -> None:
        call = self._call(order.cid)
        self._parting.part(call, _seat(call, order.sub), Cause.REMOVED, reason="command")

    def _block(self, order: Command) -> None:
        """In the named call, or wherever the two are together."""
        calls = list(self._node.calls.values()) if order.cid is None else [self._call(order.cid)]
        found = 0
        for call in calls:
            pair = [call.seat_of(sub) for sub in (order.sub, order.peer) if sub is not None]
            here = [seat for seat in pair if seat is not None and seat.is_here]
            if len(here) == 2 and here[0] is not here[1] and not call.is_over:
                # The back end speaks for both: neither alone undoes it.
                call.gate.block(here[1].index, here[0].index, order.on)
                self._moderation.block(call, here[0], here[1], order.on)
                found += 1
        if not found:
            raise PeerError(ErrorCode.NOT_IN_CALL, "the two are in no call together")

    def _revoke(self, order: Command) -> None:
        node = self._node
        if not order.on:
            self._admission.pardon(jti=order.jti, person=order.ru, kid=order.kid)
            return
        self._admission.revoke(jti=order.jti, person=order.ru, kid=order.kid, now=node.now, wall=node.wall)
        for call in list(node.calls.values()):
            for seat in call.here():
                # Each device that rings has a token of its own; who is away has that of the seat.
                legs = [node.legs[number] for number in seat.legs]
                held = [(leg.claims, leg.kid) for leg in legs] or [(seat.claims, seat.kid)]
                if seat.is_here and any(_is_revoked(*rights, order) for rights in held):
                    self._parting.part(call, seat, Cause.REVOKED, reason="command")
        waiting = [leg for leg in node.legs.values() if leg.claims is not None and leg.call is None]
        for leg in waiting:
            assert leg.claims is not None
            try:
                self._admission.check_revoked(leg.claims, leg.kid, node.now, node.wall)
            except PeerError as error:
                node.close_leg(leg, error.code)

    def _call(self, cid: CallId | None) -> Call:
        assert cid is not None  # the codec lets no order about a call in that names none
        self._node.recall(cid)
        call = self._node.calls.get(cid)
        if call is None or call.is_over:
            raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call")
        return call


def _seat(call: Call, sub: Sub | None) -> Participant:
    seat = None if sub is None else call.seat_of(sub)
    if seat is None or not seat.is_here:
        raise PeerError(ErrorCode.NOT_IN_CALL, "no such participant")
    return seat


def _is_revoked(claims: Claims | None, kid: Kid | None, order: Command) -> bool:
    assert claims is not None  # whoever sits in a call was admitted
    by_token = order.jti is not None and claims.jti == order.jti
    by_person = order.ru is not None and claims.ru == order.ru
    return by_token or by_person or (order.kid is not None and kid == order.kid)
