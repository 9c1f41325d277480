"""The home of a call: people at other nodes, each by a leg like any other as far as the engine can see.

    attach --> LegOpened, hello, join on a number below zero --> joined --> attached, a half
    say, half_state --> what that leg says, or that it is lost       what is said to that leg --> say, close
    beats --> when each of them was heard

So consent, mute, block, hanging up, records and steering know nothing of it. Must never live here: routes and
what is told of them (granting.py), the client's end (visiting.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from relay.core import events as ev
from relay.core.door import Door
from relay.core.granting import TERM, FarLeg, Granting
from relay.core.node import Node
from relay.core.participant import Presence
from relay.core.trunk_home import Home
from relay.core.trunk_parts import Told
from relay.core.trunk_sending import Voice
from relay.core.trunk_words import Answer
from relay.core.trunks import Trunks
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, trunk_control
from relay.protocol.address import Address
from relay.protocol.ids import CallId
from relay.protocol.messages import Err, Ok, Turn, Why
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import (
    Attach,
    Attached,
    Beat,
    Close,
    HalfState,
    Halves,
    Part,
    Say,
    Seat,
    Sum,
)

TRUNK: Final = "trunk"
"""The transport of such a leg, once it is in its call."""
_NOWHERE: Final = Address("::", 0)  # what the client's address is only its own node knows
LAST_WORD_S: Final = 1.0
"""For so long the record of a call waits for what a guest has to say of a voice that ended."""
_HELLO: Final = 1
_JOIN: Final = 2  # ids of the two messages that get it in


class Hosting:
    """All halves that other nodes have of our calls."""

    def __init__(
        self,
        node: Node,
        trunks: Trunks,
        home: Home,
        granting: Granting,
        door: Door,
        feed: Callable[[ev.Input], None],
    ) -> None:
        self._node = node
        self._trunks = trunks
        self._home = home
        self._granting = granting
        self._door = door
        self._feed = feed
        self._legs: dict[int, FarLeg] = {}
        self._halves: dict[tuple[str, int], FarLeg] = {}
        self._newest = 0
        self._lost: list[FarLeg] = []
        granting.on_unknown = self._on_gone

    def __len__(self) -> int:
        return len(self._legs)

    def find(self, leg: int) -> FarLeg | None:
        """The leg of this number."""
        return self._legs.get(leg)

    # ------------------------------------------------------------ what guests say

    def on_attach(self, node: str, attach: Attach, id: int) -> None:
        """Somebody came to that node for a call of ours. Answered when the engine has judged."""
        peer, call = self._trunks.peer_of(node), self._node.calls.get(CallId(attach.c))
        variant = "" if call is None else call.variant
        if variant and peer is not None and variant not in peer.variants:
            self._trunks.answer(node, id, Err(code=TrunkCode.NOT_SERVED))
            return
        self._newest -= 1
        far = self._legs[self._newest] = FarLeg(self._newest, node, attach.c, id)
        far.told = Told(attach.leg, self._node.now)
        self._feed(ev.LegOpened(far.number, attach.leg, _NOWHERE, datagrams=True))
        leg = self._node.legs.get(far.number)
        if leg is None:
            return
        leg.rtt = attach.rtt / 1000 if attach.rtt else None  # unknown there, too
        leg.on_challenged(attach.n)
        hello = control.Hello(tok=attach.tok, resume=attach.rt, pop=attach.pop, leg=attach.leg)
        self._say_up(far, hello, _HELLO)
        if self._node.is_closed(leg):
            return
        leg.transport = TRUNK
        if attach.rt is None:
            self._say_up(far, control.Join(c=attach.c), _JOIN)
        else:
            self._say_up(far, control.Rejoin(c=attach.c, rt=attach.rt), _JOIN)

    def _say_up(self, far: FarLeg, message: control.Message, id: int = 0) -> None:
        self._feed(ev.StreamReceived(far.number, control.encode(message, id)))

    def on_say(self, node: str, say: Say) -> None:
        """A client says this. What does not pass trunks ends the half."""
        far = self._halves.get((node, say.half))
        if far is None:
            return
        try:
            kind = trunk_control.said(say.m, trunk_control.UP)
        except PeerError as error:
            self._trunks.ask(node, Close(half=say.half, why="failed", code=error.code))
            self._lose(far, error.code)
            return
        if kind == Turn.TYPE:
            _, id = control.peek(say.m)
            self._say_down(far, control.encode_body(Err(code=ErrorCode.NOT_ENABLED), id))
            return
        self._feed(ev.StreamReceived(far.number, len(say.m).to_bytes(2, "big") + say.m))

    def on_half_state(self, node: str, state: HalfState) -> Ok | Err:
        """How the leg of a half is; the answer."""
        far = self._halves.get((node, state.half))
        if far is None:
            return Err(code=TrunkCode.HALF_UNKNOWN)
        leg = self._node.legs.get(far.number)
        if leg is None:  # the engine has done with it, and says so in a moment
            return Ok()
        if state.st == "silent":
            far.is_silent = True
            leg.heard = self._node.now - self._node.config.limits.consent_s
            call = self._node.calls.get(CallId(far.c))
            if call is not None:
                self._node.watch_call(call)
        elif state.st == "here":
            far.is_silent = False
            leg.heard = self._node.now
            self._welcome_back(far)
        else:
            if state.st == "moved":
                self._say_up(far, control.Moved(c=far.c, ok=True))
            self._lose(far, state.code or 0)
        return Ok()

    def on_close(self, node: str, close: Close) -> Ok | Err:
        """A half is over, says its node; the answer."""
        far = self._halves.get((node, close.half))
        if far is None:
            return Err(code=TrunkCode.HALF_UNKNOWN)
        if close.sum is not None:
            self._on_sum(far, close.sum)
        self._lose(far, close.code)
        return Ok()

    def on_part(self, node: str, part: Part, _: int) -> None:
        """What a half sent and heard."""
        far = self._halves.get((node, part.half))
        if far is not None:
            far.waits_until = None
            self._on_sum(far, part.sum)

    def _on_sum(self, far: FarLeg, total: Sum) -> None:
        call = self._node.calls.get(CallId(far.c))
        seat = None if call is None else call.seats.get(far.index)
        if call is None or seat is None or far.told is None or far.number not in self._node.legs:
            return
        far.told.on_sum(self._node, call, seat, far.number, total)

    def waits(self, leg: int) -> bool:
        """Whether what a leg sent and heard is not known to the end."""
        far = self._legs.get(leg)
        return far is not None and far.waits_until is not None

    def told_of(self, leg: int) -> Told | None:
        """What the guest says of a leg, now and later."""
        far = self._legs.get(leg)
        return None if far is None else far.told

    def on_halves(self, node: str, halves: Halves, id: int) -> None:
        """What a guest has. It hears what we know, and is told anew whatever is open."""
        told = self._home.on_halves(node, halves)
        self._trunks.answer(node, id, Ok())
        for number in told.unknown:
            self._trunks.ask(node, Close(half=number, why="failed", code=TrunkCode.HALF_UNKNOWN))
        for number in told.gone:
            self._lose(self._halves[node, number], ErrorCode.NO_ERROR)
        if halves.more:
            return
        for far in [each for each in self._legs.values() if each.node == node and each.half is not None]:
            self._granting.repeat(far)
            self._welcome_back(far)

    def _welcome_back(self, far: FarLeg) -> None:
        """Who was away only because nobody heard of them is back, as by a rejoin on the same leg."""
        call = self._node.calls.get(CallId(far.c))
        seat = None if call is None else call.seats.get(far.index)
        if call is None or seat is None or far.number not in seat.all_legs or far.is_silent:
            return
        if seat.state in (Presence.AWAY, Presence.ABSENT):
            ticket = self._door.seal_ticket(call.cid, seat)
            self._say_up(far, control.Rejoin(c=far.c, rt=ticket))

    def _on_gone(self, far: FarLeg) -> None:
        """Its node has no such half."""
        if far.number in self._legs:
            self._lose(far, ErrorCode.NO_ERROR)

    def _lose(self, far: FarLeg, code: int) -> None:
        """The half is over; its person may come back by another one."""
        self._release(far)
        self._feed(ev.LegLost(far.number, code))
        self._lost.append(far)

    def _release(self, far: FarLeg) -> None:
        far.waits_until = None
        if far.half is not None:
            del self._halves[far.node, far.half]
            self._home.release(far.node, far.half, self._node.now)
            far.half = None

    # ------------------------------------------------------------ what the engine says

    def on_budget(self, order: ev.SetBudget) -> None:
        """What its person may send."""
        far = self._legs.get(order.leg)
        if far is not None:
            far.budget = (order.up_bps, order.pps)

    def on_flow(self, order: ev.OpenFlow) -> None:
        """It sits down."""
        far = self._legs[order.leg]
        far.up, far.index, far.group = order.flow, order.index, order.group
        self._granting.enter(far)

    def on_route(self, order: ev.Route) -> None:
        """Who hears its person."""
        far = self._legs.get(order.leg)
        if far is not None:
            self._granting.on_far_route(far, order.targets)

    def on_flow_closed(self, order: ev.CloseFlow) -> Voice | None:
        """Nobody hears its person any more; whose voice it was."""
        far = self._legs.get(order.leg)
        if far is None:
            return None
        far.up = None
        if far.half is not None and far.told_to and self._trunks.leg_of(far.node) is not None:
            far.waits_until = self._node.now + LAST_WORD_S
        self._granting.on_far_route(far, ())
        return Voice(far.c, far.index)

    def on_sent(self, leg: int, data: bytes) -> bool:
        """A message for it, in a frame; whether the client is to hear it, in the order of all letters."""
        far = self._legs.get(leg)
        if far is None:
            return False
        frame = control.decode(data[2:])
        match frame.body:
            case control.Welcome(lim=lim):
                far.limits = lim
            case control.Joined() as joined:
                if far.half is None:
                    self._attached(far, joined)
            case control.Gate() as gate:
                self._granting.on_gate(far, gate)
            case Err() as error if far.half is None:
                far.refusal = error
            case control.Ended(why=why):
                far.why = why
                return True
            case _ if frame.type in trunk_control.DOWN:
                return True
        return False

    def _attached(self, far: FarLeg, joined: control.Joined) -> None:
        call = self._node.calls[CallId(joined.c)]
        person = Voice(joined.c, joined.p)
        far.half = self._home.attach(far.node, person, TERM, self._node.now)
        if far.half is None:
            self._trunks.answer(far.node, far.id, Err(code=ErrorCode.OVERLOADED))
            self._lose(far, ErrorCode.OVERLOADED)
            return
        self._halves[far.node, far.half] = far
        attached = Attached(
            c=joined.c,
            half=far.half,
            p=joined.p,
            term=TERM,
            variant=call.variant,
            joined=Seat(roster=joined.roster, gate=joined.gate, rly=joined.rly, rt=joined.rt),
            lim=far.limits,
            standby=tuple(entry.node for entry in joined.standby),
        )
        self._trunks.answer(far.node, far.id, attached)

    def on_letter(self, leg: int, data: bytes) -> None:
        """Its turn has come: say it to the client."""
        far = self._legs.get(leg)
        if far is not None:
            self._say_down(far, data[2:])

    def _say_down(self, far: FarLeg, message: bytes) -> None:
        if far.half is not None:
            self._trunks.say(far.node, Say(half=far.half, m=message))

    def on_closed(self, order: ev.CloseLeg) -> None:
        """The engine has done with it."""
        far = self._legs.pop(order.leg, None)
        if far is None:
            return
        if far.half is None:
            self._refuse(far, order)
        else:
            close = Close(half=far.half, why=cast("Why", far.why), code=int(order.code))
            self._trunks.ask(far.node, close)
            self._release(far)
        self._granting.leave(far)

    def _refuse(self, far: FarLeg, order: ev.CloseLeg) -> None:
        """It never came in: the guest tells the client why."""
        error = far.refusal or Err(code=int(order.code))
        code = TrunkCode.NOT_HOME if error.code == ErrorCode.MOVED else error.code
        answer = Err(code=int(code), msg=error.msg, retry_ms=error.retry_ms, data=error.data)
        self._trunks.answer(far.node, far.id, answer)

    def forget(self) -> None:
        """Legs that are lost have nothing more to come."""
        for far in self._lost:
            self._legs.pop(far.number, None)
            self._granting.leave(far)
        self._lost.clear()

    # ------------------------------------------------------------ trunks and time

    def on_up(self, node: str, *, is_new: bool) -> None:
        """A trunk is there."""
        self._home.on_up(node, self._node.now, is_new=is_new)

    def on_down(self, node: str) -> None:
        """It is not: its people are away from when they were heard last, in their time."""
        self._home.on_down(node)
        for far in self._legs.values():
            if far.node == node:
                far.waits_until = None

    def next_deadline(self) -> float | None:
        """When something has to be said, or is not waited for any more."""
        found = [far.waits_until for far in self._legs.values()] + [self._home.next_deadline()]
        return min((when for when in found if when is not None), default=None)

    def on_timer(self, now: float) -> None:
        """Time went by."""
        for far in self._legs.values():
            if far.waits_until is not None and now >= far.waits_until:
                far.waits_until = None
        for node, beat in self._home.on_timer(now):
            self._trunks.ask(node, beat, self._beaten(node, beat))
        for key in self._home.sure():
            self._granting.unsure.discard(key)

    def _beaten(self, node: str, beat: Beat) -> Callable[[Answer], None]:
        def then(answer: Answer) -> None:
            if isinstance(answer, Ok):
                self._home.on_ok(node, beat, self._node.now)
                for far in self._legs.values():
                    leg = self._node.legs.get(far.number)
                    if far.node == node and leg is not None and not far.is_silent:
                        leg.heard = max(leg.heard, self._node.now)

        return then
