"""People here whose call has its home at another node: what they say goes there, whom they hear it says.

    hello {tok: home} --welcome--> join --attach--> attached --joined--> say, say ...     each a `Half`
    gate, grant --> `Voices`, flows on the leg, `gate` to the client          leg gone --> half_state

The client sees a leg like any other. Nothing is opened here without a word of the home. Must never live here:
consent and what follows from it (the home's engine), trunks.
"""

from __future__ import annotations

from typing import Final, Literal

from relay.core import events as ev
from relay.core.admission import Verdict
from relay.core.door import Door
from relay.core.handover import seal_visit
from relay.core.leg import Leg, LegState
from relay.core.node import Node
from relay.core.referral import Referral
from relay.core.trunk import node_of
from relay.core.trunk_guest import Guest
from relay.core.trunk_half import Half, HalfState
from relay.core.trunk_voices import Voices
from relay.core.trunk_words import Answer, Then
from relay.core.trunks import Trunks
from relay.core.visit import Visit
from relay.core.visit_parts import VisitParts
from relay.core.visit_routes import PAIR, Ear, VisitRoutes
from relay.core.visited import Visited
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, trunk_control
from relay.protocol.ids import CallId, Sub
from relay.protocol.messages import Err, Ok
from relay.protocol.trunk_control import TrunkCode
from relay.protocol.trunk_messages import MAX_SAID, Attach, Attached, Beat, Close, Gate, Grant, Halves, Say
from relay.protocol.trunk_messages import HalfState as Report

AGAIN_MS: Final = 1000
"""When a client that said something to a home that is not heard may say it again."""
_CODES: Final = frozenset(int(code) for code in ErrorCode)
_St = Literal["here", "silent", "lost", "moved", "gone"]


class Visiting:
    """All of them."""

    def __init__(self, node: Node, trunks: Trunks, voices: Voices, door: Door) -> None:
        self._node = node
        self._trunks = trunks
        self._voices = voices
        self._routes = VisitRoutes(node, trunks.own.node, voices, trunks.newest)
        self.parts = VisitParts(node, trunks)
        self._door = door
        self._guest = Guest()
        self._visited = Visited()
        door.visit, door.visited = self.on_hello, self._find
        self._visits: dict[int, Visit] = {}
        self.referral = Referral(node, self._visits, lambda name: door.urls_of(name), trunks.newest)
        self._calls: dict[bytes, dict[int, Visit]] = {}
        """Those with a half, by call and leg."""

    def __len__(self) -> int:
        return len(self._visits)

    def half_of(self, leg: int) -> Half | None:
        """The half of a leg, for tests of invariants; to be read only."""
        return self._guest.half_of(leg)

    # ------------------------------------------------------------ coming in

    def on_hello(self, leg: Leg, hello: control.Hello, home: str) -> None:
        """The door let somebody in, as far as it can judge. PeerError MOVED if we cannot ask the home."""
        if leg.number < 0 or not self._trunks.knows(home):  # what came by a trunk goes to no third node
            raise self._door.elsewhere(home)
        leg.home = home
        self._visits[leg.number] = Visit(leg.number, home, hello)
        self._trunks.need(home)

    def _find(self, call: CallId, sub: Sub) -> Verdict | None:
        return self._visited.find(call, sub, self._node.now)

    def on_join(self, leg: Leg, join: control.Join | control.Rejoin, id: int) -> None:
        """They want into their call. PeerError closes the leg."""
        visit = self._visits[leg.number]
        claims = leg.claims
        assert claims is not None  # it was admitted
        if visit.half is not None:
            raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "one leg, one join")
        if join.c != claims.cid:
            raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call")
        others = self._calls.get(claims.cid, {}).values()
        if claims.cid in self._node.calls or any(other.home != visit.home for other in others):
            raise PeerError(ErrorCode.CALL_NOT_FOUND, "the call has another home")
        visit.id = id
        way = self._trunks.newest(visit.home)
        visit.half = self._guest.attach(claims.cid, leg.number, way, self._node.now)
        self._calls.setdefault(claims.cid, {})[leg.number] = visit
        self._ask(visit)

    def _ask(self, visit: Visit) -> None:
        """Ask the home, as soon as it can be asked."""
        leg = self._node.legs[visit.leg]
        hello = visit.hello
        if visit.is_asked or visit.half is None or not self._trunks.takes_halves(visit.home):
            return
        attach = Attach(
            c=visit.half.cid,
            tok=hello.tok,
            rt=hello.resume,
            # A client without a key was asked to sign nothing: then the number says nothing either.
            n=leg.nonce or self._node.draw(32),
            pop=hello.pop,
            leg=hello.leg,
            caps=hello.caps,
            rtt=round(1000 * (leg.rtt or 0.0), 1),
        )
        visit.half.home = self._trunks.newest(visit.home)
        visit.is_asked = self._trunks.ask(visit.half.home, attach, self._answered(visit, visit.half.home))

    def _answered(self, visit: Visit, way: str) -> Then:
        def then(answer: Answer) -> None:
            if isinstance(answer, Attached):
                self._on_attached(visit, answer, way)
            elif isinstance(answer, Err) and visit.leg in self._visits:
                self._refuse(visit, answer)

        return then

    def _on_attached(self, visit: Visit, attached: Attached, way: str) -> None:
        if visit.leg not in self._visits or not self._guest.on_attached(visit.leg, attached):
            close = Close(half=attached.half, why="failed", code=TrunkCode.HALF_UNKNOWN, up=True)
            self._trunks.ask(way, close)
            return
        leg = self._node.legs[visit.leg]
        claims = leg.claims
        assert claims is not None
        up = leg.uplinks.allot(self._node.now)
        assert up is not None  # the first number of a fresh leg
        assert visit.half is not None  # it is what was attached
        visit.ear = Ear(leg.number, visit.half, up)
        self.parts.enter(visit.ear, visit.half.home)
        leg.on_entered(claims.cid, attached.p, up)
        self._visited.enter(Verdict(claims, leg.kid))
        self._node.watch_leg(leg)
        group = claims.lim[3] > PAIR
        self._trunks.put(ev.OpenFlow(leg.number, up, attached.p, group=group))
        seat = attached.joined
        visit.ticket = seat.rt
        joined = control.Joined(
            c=attached.c,
            p=attached.p,
            up=up,
            roster=seat.roster,
            gate=seat.gate,
            rly=seat.rly,
            rt=seat.rt,
            standby=self.referral.standbys(visit),
        )
        self._node.send(leg.number, joined, visit.id)
        self._watch(leg)

    def _refuse(self, visit: Visit, error: Err) -> None:
        """The home does not want it: the client hears why."""
        if error.code in (TrunkCode.NOT_HOME, TrunkCode.NOT_SERVED):
            data = error.data or {}
            to = data.get("node", visit.home)
            why = self._door.elsewhere(str(to))
        else:
            code = ErrorCode(error.code) if error.code in _CODES else ErrorCode.OVERLOADED
            why = PeerError(code, error.msg, retry_ms=error.retry_ms, data=error.data)
        leg, id = self._node.legs[visit.leg], visit.id
        self._leave(visit)
        self._node.refuse(leg, why, id)
        self._node.close_leg(leg, why.code, why.message)

    # ------------------------------------------------------------ what the client says

    def on_message(self, leg: Leg, frame: control.Frame, data: bytes) -> None:
        """A message on a leg that is in its call. PeerError as from any part."""
        visit = self._visits[leg.number]
        body = frame.body
        match body:
            case control.Ping(t=t):
                self._node.send(leg.number, control.Pong(t=t), frame.id)
            case control.Pong():
                pass
            case control.Carry():
                raise PeerError(ErrorCode.NOT_IN_CALL, "there is no other leg", fatal=False)
            case control.Moved(ok=ok):
                self._node.answer(leg, frame.id)
                if ok:
                    self._report(visit, "moved")
                    self._leave(visit)
                    self._node.close_leg(leg, ErrorCode.MOVED)
            case control.Bye():
                self.parts.tell(leg.number)
                self._say(visit, data, 0)
                self._leave(visit)
                self._node.close_leg(leg, ErrorCode.NO_ERROR, "bye")
            case control.TokenUpdate():
                assert leg.claims is not None  # it was admitted
                self._door.grant(leg, self._door.check_token(leg, leg.claims, body))
                self._say(visit, data, frame.id)
            case _:
                self._pass_on(visit, leg, frame, data)

    def _pass_on(self, visit: Visit, leg: Leg, frame: control.Frame, data: bytes) -> None:
        """What is the home's to judge goes there, unread but for the call that it names."""
        if frame.body is None:
            if frame.id:
                raise PeerError(ErrorCode.VERSION, "unknown message type", fatal=False)
            return
        if frame.type not in trunk_control.UP:
            raise PeerError(ErrorCode.PROTOCOL_VIOLATION, f"{type(frame.body).__name__} is not for now")
        if getattr(frame.body, "c", leg.call) != leg.call:
            raise PeerError(ErrorCode.CALL_NOT_FOUND, "no such call", fatal=False)
        self._say(visit, data, frame.id)

    def _say(self, visit: Visit, data: bytes, id: int) -> None:
        half = visit.half
        assert half is not None  # it is in its call
        if len(data) > MAX_SAID:
            raise PeerError(ErrorCode.TOO_LARGE, "too large for a trunk", fatal=False)
        number = half.number if half.state in (HalfState.IDLE, HalfState.OPEN) else None
        is_heard = number is not None and self._trunks.say(half.home, Say(half=number, m=data, up=True))
        if not is_heard and id:
            raise _unheard(fatal=False)

    def on_rr(self, leg: Leg, rr: control.Rr) -> None:
        """A report that came by a datagram goes on as a message."""
        visit = self._visits.get(leg.number)
        if visit is not None and leg.state is LegState.IN_CALL and rr.c == leg.call:
            self._say(visit, control.encode_body(rr), 0)

    # ------------------------------------------------------------ what the home says

    def on_say(self, node: str, say: Say) -> None:
        """A message for the client. PeerError for one that does not pass trunks."""
        half = self._guest.find(node, say.half)
        if half is None:
            return
        if trunk_control.said(say.m, trunk_control.DOWN) == control.Ticket.TYPE:
            self._visits[half.leg].on_ticket(say.m)
        self._node.put(ev.SendStream(half.leg, len(say.m).to_bytes(2, "big") + say.m))

    def on_gate(self, node: str, gate: Gate) -> Ok | Err:
        """Whom a half hears; the answer, once it is so."""
        half = self._guest.find(node, gate.half)
        if half is None:
            return Err(code=TrunkCode.HALF_UNKNOWN)
        self._guest.on_gate(half, gate)
        self.settle()
        return Ok()

    def on_grant(self, node: str, grant: Grant) -> Ok | Err:
        """Where a half's voice may go; the answer, once it is so."""
        half = self._guest.find(node, grant.half)
        if half is None:
            return Err(code=TrunkCode.HALF_UNKNOWN)
        self._guest.on_grant(half, grant)
        self.settle()
        return Ok()

    def on_close(self, node: str, close: Close) -> Ok | Err:
        """A half is over; the answer."""
        half = self._guest.find(node, close.half)
        if half is None:
            return Err(code=TrunkCode.HALF_UNKNOWN)
        self._guest.on_closed(half, close.code)
        self.settle()
        return Ok()

    def on_beat(self, node: str, beat: Beat, id: int) -> None:
        """The home lives."""
        lists = self._guest.on_beat(node, beat, self._node.now)
        self._trunks.answer(node, id, Ok())
        self._list(node, lists)

    def on_up(self, node: str) -> None:
        """A trunk is there: what we have of that node's calls, then who waits for it."""
        self.referral.on_up(node)
        self._list(node, self._guest.on_up(node, self._node.now))
        for visit in list(self._visits.values()):
            if visit.home == node_of(node):
                self._ask(visit)

    def _list(self, node: str, lists: tuple[Halves, ...]) -> None:
        for halves in lists:
            is_last = not halves.more
            self._trunks.ask(node, halves, self._listed(node) if is_last else lambda _: None)

    def _listed(self, node: str) -> Then:
        def then(answer: Answer) -> None:
            if isinstance(answer, Ok):
                self._guest.on_listed(node)
                self.settle()

        return then

    def on_down(self, node: str) -> None:
        """It is not: all that this home opened is shut, now."""
        self._guest.on_down(node, self._node.now)
        self.referral.on_down(node)
        self.settle()

    # ------------------------------------------------------------ our node leaves

    def calls(self) -> list[CallId]:
        """Other nodes' calls that somebody here is in."""
        return [CallId(cid) for cid in self._calls]

    def home_of(self, cid: CallId) -> str | None:
        """The node that decides about a call of somebody here; None: nobody is in it."""
        return next((visit.home for visit in self._calls.get(cid, {}).values()), None)

    def ask(self, cid: CallId, to: tuple[str, ...], in_s: float, by_s: float) -> None:
        """Ask those of a call to move there; times as for a call of ours (leaving.py)."""
        for visit in self._calls.get(cid, {}).values():
            if visit.ear is not None:
                ticket = seal_visit(self._node, self._node.legs[visit.leg])
                notice = control.Drain(in_ms=round(1000 * in_s), by_ms=round(1000 * by_s), to=to, ht=ticket)
                self._node.send(visit.leg, notice)

    # ------------------------------------------------------------ legs and time

    def on_leg_gone(self, leg: Leg, code: int) -> None:
        """A leg here is no more, whoever ended it."""
        visit = self._visits.get(leg.number)
        if visit is not None:
            self._report(visit, "lost", code)
            self._leave(visit)

    def _report(self, visit: Visit, st: _St, code: int | None = None) -> None:
        half = visit.half
        if st in ("lost", "moved"):
            self.parts.tell(visit.leg)
        if half is not None and half.number is not None:
            self._trunks.ask(half.home, Report(half=half.number, st=st, code=code))

    def _watch(self, leg: Leg) -> None:
        when = leg.heard + self._node.config.limits.consent_s
        self._node.deadlines.set(("visit", leg.number), when)

    def on_leg_due(self, number: int) -> None:
        """Was this leg heard of late?"""
        visit, leg = self._visits.get(number), self._node.legs.get(number)
        if visit is None or leg is None:
            return
        silent = leg.heard + self._node.config.limits.consent_s <= self._node.now
        if silent is not visit.is_silent:
            visit.is_silent = silent
            self._report(visit, "silent" if silent else "here")
        if silent:
            self._node.deadlines.set(("visit", number), self._node.now + 1.0)
        else:
            self._watch(leg)

    def next_deadline(self) -> float | None:
        """When something is due."""
        found = (self._guest.next_deadline(), self.referral.next_deadline())
        return min((when for when in found if when is not None), default=None)

    def on_timer(self, now: float) -> None:
        """Time went by."""
        self._guest.on_timer(now)
        self.referral.on_timer(now)
        self.settle()

    # ------------------------------------------------------------ what follows

    def settle(self) -> None:
        """Routes and what clients are told follow their halves."""
        changed = self._guest.changed()
        for half in changed:
            visit = self._visits.get(half.leg)
            if visit is not None and half.state is HalfState.GONE:
                self._end(visit, half)
            elif half.state is HalfState.IDLE:
                self.parts.tell(half.leg)
        for cid in dict.fromkeys(half.cid for half in changed):
            visits = self._calls.get(cid, {}).values()
            self._routes.follow(cid, [visit.ear for visit in visits if visit.ear is not None])
        for half in changed:
            visit = self._visits.get(half.leg)
            if visit is not None and visit.ear is not None:
                self._routes.tell(visit.ear)

    def _end(self, visit: Visit, half: Half) -> None:
        """The home is done with it, or is not heard for too long."""
        leg, was_in = self._node.legs[visit.leg], visit.ear is not None
        code = ErrorCode(half.code) if half.code in _CODES else ErrorCode.GENERAL
        self._leave(visit)
        if not was_in:
            busy = _unheard(fatal=True)
            self._node.refuse(leg, busy, visit.id)
            code = busy.code
        elif half.code == TrunkCode.LEASE_LOST:
            self._node.send(leg.number, control.Ended(c=half.cid, why="failed", code=int(code)))
        self._node.close_leg(leg, code)

    def _leave(self, visit: Visit) -> None:
        """It is over here: routes first, then the half."""
        half = visit.half
        self.parts.leave(visit.leg)
        del self._visits[visit.leg]
        self._node.deadlines.set(("visit", visit.leg), None)
        if visit.ear is not None:
            self._voices.hush(visit.leg, visit.ear.up)
            self._trunks.put(ev.CloseFlow(visit.leg, visit.ear.up))
            claims = self._node.legs[visit.leg].claims
            assert claims is not None  # it was admitted
            self._visited.leave(claims, self._node.now, self._node.config.limits.ticket_ttl_s)
            visit.ear = None
        if half is not None:
            visits = self._calls[half.cid]
            del visits[visit.leg]
            if not visits:
                del self._calls[half.cid]
            self._guest.on_leg_gone(visit.leg, ErrorCode.NO_ERROR)
            self.settle()
        self._trunks.spare(visit.home)


def _unheard(*, fatal: bool) -> PeerError:
    return PeerError(ErrorCode.OVERLOADED, "the call's node is not heard", fatal=fatal, retry_ms=AGAIN_MS)
