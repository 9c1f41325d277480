"""Signed commands of the product's back end: end, mute, remove, block, revoke. Single use, in force at once.

    signature, times, revoked key, single use, rate  -->  effect  -->  event, answer

The order is the tokens' own. One that goes to all of the fleet also holds for who comes later (held.py), and
only nodes that had something to do tell of it. Must never live here: where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from relay.core.admission import Admission
from relay.core.call import Call
from relay.core.events import CallEvent, CommandDone, CommandReceived
from relay.core.memory import Memories
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
ABSENT: Final = frozenset({ErrorCode.CALL_NOT_FOUND, ErrorCode.NOT_IN_CALL})
"""What a node says that has nobody whom the order is about."""


class Orders:
    """Carries out commands."""

    def __init__(self, node: Node, judge: Admission, parting: Parting, moderation: Moderation) -> None:
        self._node = node
        self._admission = judge
        self._parting = parting
        self._moderation = moderation
        self._used: Memories[Jti] = Memories(REMEMBERED)
        self._effects: Mapping[str, Callable[[Command, Kid], None]] = {
            "end": self._end,
            "mute": self._mute,
            "remove": self._remove,
            "block": self._block,
            "revoke": self._revoke,
        }

    def on_command(self, event: CommandReceived) -> None:
        """Verify, spend, do, say."""
        code, message = ErrorCode.NO_ERROR, ""
        found: tuple[Command, Kid] | None = None
        try:
            found = order, kid = self._verify(event.raw)
            self._do(order, kid, event.is_fleet)
        except PeerError as error:
            code, message = error.code, error.message
        if found is not None and not (event.is_fleet and code in ABSENT):
            self._note(*found, code)
        self._node.count("command", code.name.lower())
        self._node.put(CommandDone(event.ref, code, message))

    def _do(self, order: Command, kid: Kid, is_fleet: bool) -> None:
        """Here, and from now on: also where there is nobody yet, and where no more can be remembered."""
        try:
            self._effects[order.op](order, kid)
        finally:
            if is_fleet:
                self._node.held.keep(order, kid)

    def _verify(self, raw: bytes) -> tuple[Command, Kid]:
        node = self._node
        order = command.verify(raw, self._admission.issuers)
        kid = signed.split(command.MAGIC, raw).kid
        if kid in self._admission.revoked_keys:
            raise PeerError(ErrorCode.TOKEN_INVALID, "key is revoked")
        if kid in node.tenants.canaries:
            raise PeerError(ErrorCode.FORBIDDEN, "a canary gives no commands")
        skew = node.config.tokens.skew_s
        if not 0 < order.exp - order.iat <= MAX_LIFETIME_S or order.iat > node.wall + skew:
            raise PeerError(ErrorCode.TOKEN_INVALID, "command lives too long, or not yet")
        ends_in = order.exp + skew - node.wall
        if ends_in <= 0:
            raise PeerError(ErrorCode.TOKEN_EXPIRED, "command has expired")
        used = self._used.of(node.tenants.home_of(kid))
        if used.knows(order.id, node.now, node.wall):
            raise PeerError(ErrorCode.TOKEN_REPLAYED, "command was used before")
        if not used.has_room(node.now, node.wall):
            raise PeerError(ErrorCode.OVERLOADED, "too many commands")
        node.tenants.check_command(kid, node.now)
        used.add(order.id, ends_in, node.now, node.wall)
        return order, kid

    def _note(self, order: Command, kid: Kid, code: ErrorCode) -> None:
        """Who gave which order with what success. A person's stable id is not written anywhere."""
        named = {name: getattr(order, name) for name in ("cid", "sub", "peer", "jti", "kid")}
        data = {name: value.hex() for name, value in named.items() if value is not None}
        data = {"call" if name == "cid" else name: value for name, value in data.items()}
        news = {**data, "op": order.op, "on": order.on, "id": order.id.hex(), "code": code.name.lower()}
        issuer = self._node.tenants.name_of(kid)
        self._node.put(CallEvent(EventKind.COMMAND.value, self._node.wall, news, issuer=issuer))

    # ------------------------------------------------------------ effects

    def _end(self, order: Command, kid: Kid) -> None:
        self._parting.end(self._call(order.cid, kid), Cause.ORDERED, reason="command")

    def _mute(self, order: Command, kid: Kid) -> None:
        call = self._call(order.cid, kid)
        self._moderation.mute(call, _seat(call, order.sub), order.on, hard=True)

    def _remove(self, order: Command, kid: Kid) -> None:
        call = self._call(order.cid, kid)
        self._parting.part(call, _seat(call, order.sub), Cause.REMOVED, reason="command")

    def _block(self, order: Command, kid: Kid) -> None:
        """In the named call, or wherever the two are together."""
        calls = self._calls_of(kid) if order.cid is None else [self._call(order.cid, kid)]
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

    def _revoke(self, order: Command, kid: Kid) -> None:
        node = self._node
        if not order.on:
            self._admission.pardon(kid, jti=order.jti, person=order.ru, kid=order.kid)
            return
        self._admission.revoke(
            kid, jti=order.jti, person=order.ru, kid=order.kid, now=node.now, wall=node.wall
        )
        for call in self._calls_of(kid):
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

    def _calls_of(self, kid: Kid) -> list[Call]:
        """Those that a command signed by this key reaches."""
        tenants = self._node.tenants
        return [call for call in self._node.calls.values() if tenants.may_order(kid, call.circle)]

    def _call(self, cid: CallId | None, kid: Kid) -> Call:
        assert cid is not None  # the codec lets no order about a call in that names none
        self._node.recall(cid)
        call = self._node.calls.get(cid)
        if call is None or call.is_over or not self._node.tenants.may_order(kid, call.circle):
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
