"""How a leg gets in: challenge, hello, token or ticket, welcome; later a newer token.

    ping --> challenge        hello + token [+ pop] --> welcome
                              hello + ticket + pop, or ticket + token --> welcome, then `rejoin`

Must never live here: what happens in a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from relay.config import ClientLists
from relay.core import admission, handover
from relay.core.admission import Admission, Proof, Verdict
from relay.core.events import LegOpened, SetBudget
from relay.core.leg import Leg
from relay.core.node import HERE, Node
from relay.core.participant import Participant
from relay.core.pulse import OTHER
from relay.core.reasons import Refusal
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, ticket
from relay.protocol.handover import HandedCall
from relay.protocol.ids import CallId, Sub
from relay.protocol.ticket import TicketBody
from relay.protocol.token import Claims

ACK_MS: Final = 60  # audio of 40 ms a packet takes acknowledgements along
PROMPT_ACK_MS: Final = 5  # who repairs from the first loss on waits 25 ms for them at most
KEEPALIVE_S: Final = 5  # RFC 7675 section 5.1, for a leg that will be in a call
MAX_DATAGRAM: Final = 1024
RESUME: Final = "rt"


@dataclass(frozen=True, slots=True)
class Place:
    """What a ticket names: somebody's seat in a call, and the whole call if another node tells of it."""

    call: CallId
    sub: Sub
    index: int
    cnf: bytes | None
    told: HandedCall | None = None


class Door:
    """Admits legs and seals the tickets that let them back in."""

    def __init__(self, node: Node, judge: Admission) -> None:
        self._node = node
        self._admission = judge
        self.visit: Callable[[Leg, control.Hello, str], None] = self._turn_away
        """Somebody whose call has its home at another node; PeerError MOVED if that one cannot be asked."""
        self.urls_of: Callable[[str], tuple[str, ...]] = lambda _: ()
        """Where people reach a node."""
        self.visited: Callable[[CallId, Sub], Verdict | None] = lambda call, sub: None
        """The rights of somebody who is, or was, here for a call of another node."""

    # ------------------------------------------------------------ opening

    def on_opened(self, event: LegOpened) -> None:
        """A transport is there. Refused at once: no datagrams, no room, or no time left."""
        node = self._node
        if node.is_closing:
            node.refuse_transport(event.leg, ErrorCode.DRAINING)
        elif not event.datagrams:
            node.refuse_transport(event.leg, ErrorCode.DATAGRAM_REQUIRED)
        elif not self._has_room():
            node.refuse_transport(event.leg, ErrorCode.OVERLOADED)
        else:
            leg = Leg(event.leg, event.transport, event.address, node.config.limits, node.now)
            node.legs[event.leg] = leg
            node.count("leg_opened", event.transport)
            node.watch_leg(leg)

    def _has_room(self) -> bool:
        """One leg more, if need be instead of one that only stands by."""
        node = self._node
        if node.leg_quota.charge(HERE):
            return True
        node.waiting.give_way()
        return node.leg_quota.charge(HERE)

    def on_ping(self, leg: Leg, ping: control.Ping) -> None:
        """The first `ping` of a stream: here is a nonce to sign."""
        leg.on_challenged(self._node.draw(32))
        assert leg.nonce is not None
        self._node.send(leg.number, control.Challenge(n=leg.nonce, t=round(self._node.now * 1000)))

    # ------------------------------------------------------------ hello

    def on_hello(self, leg: Leg, hello: control.Hello, id: int) -> None:
        """Admit the leg, or raise the PeerError that closes it."""
        node = self._node
        if control.VERSION not in hello.v:
            raise PeerError(ErrorCode.VERSION, "no common version")
        if hello.leg != leg.transport:
            raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "leg is not what it says")
        place = None if hello.resume is None else self.open_ticket(hello.resume)
        verdict = self._identify(leg, hello, place)
        claims = verdict.claims
        leg.nacks = hello.caps.nack
        leg.client = client_of(hello.cli, node.config.clients)
        if hello.stand:
            # What waits for an hour is not proven by a token, which lives for minutes, nor without a key.
            if place is None or place.told is None or hello.tok is not None:
                raise PeerError(ErrorCode.PROTOCOL_VIOLATION, "who stands by shows a hand-over ticket alone")
            node.waiting.admit(leg, claims, verdict.kid)
            self._welcome(leg, claims, id)
            return
        leg.issuer = node.tenants.take(Refusal.LEGS, verdict.kid, is_return=place is not None)
        # Times limit joining, not the call: counted in monotonic seconds, no clock jump stretches them.
        patience = node.config.limits.hello_s
        if hello.tok is not None:
            patience = self._admission.ends_in(claims, node.wall)
        home = self._home_of(claims, place)
        if home is not None:
            self.visit(leg, hello, home)
        leg.on_admitted(claims, verdict.kid, node.now + patience)
        node.watch_leg(leg)
        self._welcome(leg, claims, id)

    def _identify(self, leg: Leg, hello: control.Hello, place: Place | None) -> Verdict:
        """Who this is. With a ticket: the rights its person already has, or those of the fresh token."""
        node = self._node
        proof = Proof(leg.transport, leg.nonce, hello.pop)
        verdict = None
        if hello.tok is not None:
            verdict = self._admission.judge(
                hello.tok,
                proof,
                node.now,
                node.wall,
                is_new=place is None,
                is_ours=lambda claims: self._home_of(claims, place) is None,
            )
            if self._home_of(verdict.claims, place) is not None:
                return verdict  # a ticket beside it is that node's to judge
        if place is None:
            if verdict is None:
                raise PeerError(ErrorCode.AUTH_REQUIRED, "hello without token or ticket")
            return verdict
        held = self._rights(place)
        if verdict is not None:
            claims = verdict.claims
            if (claims.cid, claims.sub, claims.cnf) != (place.call, place.sub, place.cnf):
                raise PeerError(ErrorCode.RESUME_UNKNOWN, "ticket and token name different people")
            if node.tenants.circle_of(verdict.kid) != node.tenants.circle_of(held.kid):
                raise PeerError(ErrorCode.RESUME_UNKNOWN, "a token of another tenant")
            return verdict
        if place.cnf is None:
            # Whoever finds a ticket could take the place of its owner. It needs a key, or a token beside it.
            raise PeerError(ErrorCode.AUTH_REQUIRED, "this ticket needs a token beside it")
        admission.check_pop(held.claims, proof)
        admission.check_transport(held.claims, leg.transport)
        return held

    def call_up(self, leg: Leg, place: Place) -> None:
        """A leg that stood by is needed: the rights are those of this ticket, not of the one it came with.

        PeerError as for a hello: much may have been ordered meanwhile.
        """
        node = self._node
        assert leg.claims is not None  # it was admitted
        if place.cnf != leg.claims.cnf:
            raise PeerError(ErrorCode.RESUME_UNKNOWN, "ticket of another device")
        claims, kid = self._rights(place)
        admission.check_transport(claims, leg.transport)
        leg.issuer = node.tenants.take(Refusal.LEGS, kid, is_return=True)
        node.waiting.on_called(leg)
        if claims != leg.claims:
            self._grant(leg, claims)
        leg.on_called(claims, kid, node.now + node.config.limits.hello_s)

    def _rights(self, place: Place) -> Verdict:
        """What the person of a ticket may do: as it stands here, else as the other node says."""
        node = self._node
        node.recall(place.call)
        call = node.calls.get(place.call)
        if place.told is not None and (call is None or call.seat_of(place.sub) is None):
            node.check_memory(place.call, place.sub, is_told=True)
            bearer = place.told.bearer
            assert bearer is not None  # `open_ticket` takes no other
            node.held.check(place.call, place.sub, bearer.kid)
            self._admission.check_revoked(bearer.claims, bearer.kid, node.now, node.wall)
            return Verdict(bearer.claims, bearer.kid)
        if call is None:
            visitor = self.visited(place.call, place.sub)
            if visitor is not None:
                self._admission.check_revoked(visitor.claims, visitor.kid, node.now, node.wall)
                return visitor
        seat = self.seat_of(place)
        return Verdict(seat.claims, seat.kid)

    def seat_of(self, place: Place) -> Participant:
        """Where that is. PeerError when the call or the place is not there any more."""
        node = self._node
        node.recall(place.call)
        node.check_memory(place.call, place.sub, is_told=place.told is not None)
        call = node.calls.get(place.call)
        seat = None if call is None else call.seat_of(place.sub)
        if seat is None or not seat.is_here or seat.index != place.index or seat.claims.cnf != place.cnf:
            raise PeerError(ErrorCode.RESUME_UNKNOWN, "no such place")
        return seat

    def _welcome(self, leg: Leg, claims: Claims, id: int) -> None:
        node = self._node
        budget = self._grant(leg, claims)
        adapt = node.config.adapt
        welcome = control.Welcome(
            sid=node.draw(16),
            obs=(leg.address.host, leg.address.port),
            dg=MAX_DATAGRAM,
            ka=KEEPALIVE_S,
            ack=PROMPT_ACK_MS if adapt.enabled and adapt.always_armed else ACK_MS,
            lim=control.Limits(up=budget.up_bps // 1000, dn=budget.down_bps // 1000, pps=budget.pps),
            node=node.config.node.id,
            now=round(node.wall * 1000),
        )
        node.send(leg.number, welcome, id)
        node.count("admitted", leg.transport)
        for name, word in leg.client.items():
            node.count(f"client_{name}", word)

    def _grant(self, leg: Leg, claims: Claims) -> admission.Budget:
        node = self._node
        budget = admission.budget_of(claims, node.tenants.limits_of(leg.kid, node.config.limits))
        node.put(SetBudget(leg.number, budget.up_bps, budget.down_bps, budget.pps))
        return budget

    # ------------------------------------------------------------ calls of other nodes

    def _home_of(self, claims: Claims, place: Place | None) -> str | None:
        """The other node that decides about this call; None: we do, or shall, since it came to us."""
        node = self._node
        if claims.home is None or claims.home == node.config.node.id:
            return None
        node.recall(claims.cid)
        told = None if place is None else place.told
        is_here = claims.cid in node.calls or (told is not None and told.home != claims.home)
        return None if is_here else claims.home

    def elsewhere(self, home: str) -> PeerError:
        """What sends a client to the home of its call."""
        data: dict[str, Any] = {"node": home, "to": list(self.urls_of(home))}
        return PeerError(ErrorCode.MOVED, "another node decides about this call", data=data)

    def _turn_away(self, leg: Leg, hello: control.Hello, home: str) -> None:
        raise self.elsewhere(home)

    # ------------------------------------------------------------ later

    def check_token(self, leg: Leg, old: Claims, message: control.TokenUpdate) -> Verdict:
        """Judge new rights for a leg that is in already. PeerError, never fatal, when they are not given."""
        try:
            proof = Proof(leg.transport, bound=old.cnf)
            verdict = self._admission.judge(
                message.tok, proof, self._node.now, self._node.wall, is_ours=lambda _: leg.home is None
            )
            new = verdict.claims
            if (new.sub, new.cid, new.cnf, new.lim[3]) != (old.sub, old.cid, old.cnf, old.lim[3]):
                raise PeerError(ErrorCode.FORBIDDEN, "token of somebody else, or of another call")
        except PeerError as error:
            error.fatal = False
            raise
        return verdict

    def grant(self, leg: Leg, verdict: Verdict) -> None:
        """The new rights count from now on."""
        node = self._node
        leg.on_renewed(*verdict, node.now + self._admission.ends_in(verdict.claims, node.wall))
        node.watch_leg(leg)
        self._grant(leg, verdict.claims)

    # ------------------------------------------------------------ tickets

    def seal_ticket(self, call: CallId, seat: Participant) -> bytes:
        """A ticket for this place, good at this node."""
        node = self._node
        body = TicketBody(
            c=call,
            sub=seat.sub,
            p=seat.index,
            accepted=seat.is_accepted,
            exp=round(node.wall + node.config.limits.ticket_ttl_s),
            cnf=seat.claims.cnf,
            kind=RESUME,
            variant="",
        )
        return ticket.seal(body, node.keys.ticket_keys[0], node.draw(24))

    def open_ticket(self, blob: bytes) -> Place:
        """A ticket of ours, or of another node of the cluster. PeerError RESUME_UNKNOWN otherwise."""
        try:
            body = ticket.open(blob, self._node.keys.ticket_keys)
        except PeerError:
            return self._open_handover(blob)
        if body.exp < self._node.wall or body.kind != RESUME:
            raise PeerError(ErrorCode.RESUME_UNKNOWN, "the ticket has expired")
        return Place(body.c, body.sub, body.p, body.cnf)

    def _open_handover(self, blob: bytes) -> Place:
        told = handover.read(self._node, blob)
        bearer = told.bearer
        if bearer is None:
            raise PeerError(ErrorCode.RESUME_UNKNOWN, "a ticket of nobody")
        claims = bearer.claims
        return Place(told.c, claims.sub, bearer.index, claims.cnf, told)


def client_of(cli: control.Cli, lists: ClientLists) -> dict[str, str]:
    """What the client says it is, in words the operator knows; every other word is "other"."""
    known: Mapping[str, tuple[str, ...]] = {each.name: getattr(lists, each.name) for each in fields(lists)}
    said = {name: getattr(cli, name) for name in known}
    return {name: word if word in known[name] else OTHER for name, word in said.items()}
