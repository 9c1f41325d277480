"""What a node remembers of its calls for the process that comes after a crash, and how that one takes it up.

    after every input   calls that changed -> Remember(call, bytes), before anybody hears of it
    at the next start   CallsRemembered -> the same calls, their people on the legs that they had; a few at
                        a time, so that audio of those goes on meanwhile, and at once if somebody asks

The lane carries these legs on without a handshake (`edge/rebirth.py`), so gates, mutes and blocks hold as
they did, and consent lapses by the clock that it had. Nothing can be said on such a leg but datagrams: its
person is asked by one to come back by a new leg, soon, and not all at once. Of a call that rings nothing is
remembered: its people come back by their tokens. Must never live here: files, keys of connections.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from relay.core import admission, handover
from relay.core.adoption import Adoption
from relay.core.call import Call
from relay.core.consent import Fact
from relay.core.events import CallsRemembered, CloseLeg, Remember, SendDatagram, SetBudget
from relay.core.leg import Leg
from relay.core.node import HERE, Node
from relay.core.participant import Participant, Presence
from relay.core.reasons import Refusal
from relay.core.switch import Switch
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import control
from relay.protocol import handover as tickets
from relay.protocol.address import Address
from relay.protocol.datagram import NewestWins, encode_datagram
from relay.protocol.handover import HandedCall
from relay.protocol.ids import CallId

EACH_S: Final = 0.013  # between two who are asked to come back: it takes 6 ms of the loop, all in all
LEAST_S: Final = 1.0  # until the last is asked
AT_ONCE: Final = 4  # calls taken up: 2 ms, four times in a turn of the loop; many knock already
AGAIN_S: Final = 1.0  # a datagram may be lost
WITHIN_S: Final = 30.0  # to come back; silence ends a leg sooner


class _Seated(msgspec.Struct, array_like=True):
    """Somebody's leg: its number, transport and address, the seat, the uplink flow, whom it hears where."""

    leg: int
    transport: str
    host: str
    port: int
    index: int
    up: Annotated[int, Meta(ge=1, le=62)]
    hearing: dict[int, int]
    client: dict[str, str]


class _Remembered(msgspec.Struct, array_like=True):
    call: bytes
    seated: list[_Seated]


_GONE: Final = (tickets.AWAY, tickets.ABSENT, tickets.LEFT)
_DECODER: Final = msgspec.msgpack.Decoder(_Remembered)


class Remembering:
    """Says what is to be remembered, and takes up what was."""

    def __init__(self, node: Node, adoption: Adoption, switch: Switch) -> None:
        self._node = node
        self._adoption = adoption
        self._switch = switch
        self._known: dict[CallId, bytes] = {}
        self._told = CallsRemembered({}, {}, 0.0)
        self._waiting: dict[CallId, bytes] = {}  # to be taken up
        self._asked = 0
        self._revived: set[int] = set()

    # ------------------------------------------------------------ to be remembered

    def on_input_done(self) -> None:
        """Say what changed."""
        changed = self._node.changed
        while changed:
            cid, _ = changed.popitem()
            call = self._node.calls.get(cid)
            is_running = call is not None and call.was_answered and not call.is_over
            data = self._describe(call) if call is not None and is_running else b""
            if data != self._known.get(cid, b""):
                self._known[cid] = data
                self._node.outputs.appendleft(Remember(cid, data))  # nothing is said before
            if not data:
                self._known.pop(cid, None)

    def _describe(self, call: Call) -> bytes:
        body = handover.describe(self._node, call, None)
        seated = [
            _Seated(
                leg=leg.number,
                transport=leg.transport,
                host=leg.address.host,
                port=leg.address.port,
                index=seat.index,
                up=leg.up,
                hearing=seat.hearing,
                client=seat.client,
            )
            for seat in call.here()
            if seat.leg is not None
            and (leg := self._node.legs[seat.leg]).up is not None
            and leg.transport in ("quic", "wt")
        ]
        return msgspec.msgpack.encode(_Remembered(tickets.encode_body(body), seated))

    # ------------------------------------------------------------ taken up

    def on_remembered(self, event: CallsRemembered) -> None:
        """There are calls to be taken up, soon."""
        self._told = event
        self._waiting = dict(event.calls)
        self._node.recall = self._recall
        self._node.deadlines.set(("revive", 0), self._node.now)

    @property
    def is_taking_up(self) -> bool:
        """Whether some wait."""
        return bool(self._waiting)

    def on_turn(self) -> None:
        """Take a few of them up."""
        node = self._node
        for cid in list(self._waiting)[:AT_ONCE]:
            self._recall(cid)
        if self._waiting:
            node.deadlines.set(("revive", 0), node.now)
            return
        node.recall = lambda _: None
        for leg in self._told.legs:
            if leg not in node.legs:
                node.put(CloseLeg(leg, ErrorCode.RESUME_UNKNOWN, ""))

    def _recall(self, cid: CallId) -> None:
        """Take this call up, if it is one of them."""
        data = self._waiting.pop(cid, None)
        if data is not None and not self._revive(data):
            self._node.count("revive_refused")
            self._node.put(Remember(cid, b""))

    def _revive(self, data: bytes) -> bool:
        """The call as it was, with the legs that the lane carries on. False: it cannot be had."""
        told = self._told
        try:
            one = _DECODER.decode(data)
            body = tickets.decode_body(one.call)
            self._adoption.take(self._until(body, told.until))
            call = self._node.calls[body.c]
        except (msgspec.MsgspecError, PeerError, LocalError, KeyError):
            return False
        call.was_here = True
        self._node.vitals_of(call).on_adopted(call)
        over = max(LEAST_S, EACH_S * len(told.legs))
        for seated in one.seated:
            seat = call.seats.get(seated.index)
            if seated.leg in told.legs and seat is not None and seat.state is Presence.AWAY:
                self._seat(call, seat, seated, told.legs[seated.leg], over)
        self._switch.sync(call)
        self._node.watch_call(call)
        self._node.count("call_revived")
        return True

    def _until(self, body: HandedCall, last: float) -> HandedCall:
        """What was true when the call changed last was true until the end: who was there has just gone."""
        node = self._node
        made = round(1000 * (node.wall - (node.now - last)))
        passed = max(0, made - body.made)
        seats = tuple(
            replace(seat, since=seat.since + passed) if seat.state in _GONE else seat for seat in body.seats
        )
        return replace(body, made=made, seats=seats)

    def _seat(self, call: Call, seat: Participant, one: _Seated, heard: float, over: float) -> None:
        """As at a rejoin, on numbers that the person knows."""
        node, limits = self._node, self._node.config.limits
        if not node.leg_quota.charge(HERE) or not node.device_quota.charge((call.cid, seat.sub)):
            return
        leg = Leg(one.leg, one.transport, Address(one.host, one.port), limits, node.now)
        leg.on_admitted(seat.claims, seat.kid, node.now)
        leg.issuer = node.tenants.restore(Refusal.LEGS, seat.kid)
        leg.client = one.client
        leg.heard = heard
        node.legs[leg.number] = leg
        budget = admission.budget_of(seat.claims, node.tenants.limits_of(seat.kid, limits))
        node.put(SetBudget(leg.number, budget.up_bps, budget.down_bps, budget.pps))
        leg.uplinks.take([one.up], node.now)
        self._switch.open_flow(call, seat, leg, one.up)
        leg.on_entered(call.cid, seat.index, one.up)
        seat.client = one.client
        seat.on_returned(leg.number, node.now)
        call.gate.set(Fact.ALIVE, seat.index, True)
        leg.downlinks.take(one.hearing.values(), node.now)
        seat.hearing = dict(one.hearing)
        node.watch_leg(leg)
        self._revived.add(leg.number)
        place = len(self._revived) - int.from_bytes(node.draw(2), "big") / 0x1_0000
        node.deadlines.set(("recall", leg.number), node.now + over * place / len(self._told.legs))

    def on_due(self, number: int) -> None:
        """Ask somebody to come back by another leg, until it is done or the leg is gone."""
        node = self._node
        leg = node.legs.get(number)
        if leg is None or number not in self._revived:
            self._revived.discard(number)
            return
        self._asked += 1
        notice = control.Drain(in_ms=0, by_ms=round(1000 * WITHIN_S))
        datagram = NewestWins(control.Drain.TYPE, self._asked, notice)
        node.put(SendDatagram(number, encode_datagram(datagram)))
        node.deadlines.set(("recall", number), node.now + AGAIN_S)
