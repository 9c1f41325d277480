"""What a node tells another of a call: described with all that its gates obey, sealed, read back.

Must never live here: taking a call up (adoption.py), who a leg is (door.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from relay.core.call import PAIR, Call
from relay.core.consent import Fact
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.participant import Participant, Presence
from relay.core.ringing import AT_ONCE, Why
from relay.core.variant import part_of
from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol import handover
from relay.protocol.handover import HandedCall, HandedSeat
from relay.protocol.ticket import NONCE_SIZE

_STATES: Final = {
    Presence.JOINED: handover.JOINED,
    Presence.ACCEPTED: handover.ACCEPTED,
    Presence.AWAY: handover.AWAY,
    Presence.ABSENT: handover.ABSENT,
    Presence.LEFT: handover.LEFT,
}
KEPT: Final = (Fact.ADMITTED, Fact.MUTED, Fact.HARD_MUTED)
"""Facts that a ticket carries; the others follow from the claims and the state, or are a leg's."""


def seal(node: Node, call: Call, bearer: Participant | None, *, stays: bool = False) -> bytes | None:
    """A ticket for this person's place, or for nobody. None: the call is too large for one.

    `stays`: it goes on at this node, with its next process, so that who is at another one stays its guest.
    """
    body = describe(node, call, None if bearer is None else bearer.index)
    if stays and bearer is not None and bearer.claims.home == node.config.node.id:
        body = replace(body, flags=body.flags | handover.STAYS)
    # Of two tickets the younger counts; what comes back to us says nothing new.
    call.handed_at = max(body.made, (call.handed_at or 0) + 1)
    body = replace(body, made=call.handed_at)
    try:
        return handover.seal(body, node.keys.ticket_keys[0], node.draw(NONCE_SIZE))
    except LocalError:
        node.count("handover_too_large")
        return None


def seal_visit(node: Node, leg: Leg) -> bytes:
    """A ticket for somebody here whose call has its home elsewhere: they may be another node's guest, or ours
    again, or go home."""
    assert leg.claims is not None  # it is in its call
    made = round(1000 * node.wall)
    seat = HandedSeat(
        index=leg.index,
        kid=leg.kid,
        claims=leg.claims,
        state=handover.ACCEPTED,
        since=0,
        joined=made,
        facts=0,
        shuts=0,
        accepted_once=True,
    )
    body = HandedCall(
        aud=node.config.node.cluster,
        c=leg.claims.cid,
        p=leg.index,
        made=made,
        exp=round(node.wall) + handover.TTL_S,
        started=made,
        answered=None,
        terms=(False, None, True, False),
        size=PAIR,
        flags=handover.OF_GUEST,
        epoch=0,
        seats=(seat,),
    )
    return handover.seal(body, node.keys.ticket_keys[0], node.draw(NONCE_SIZE))


def describe(node: Node, call: Call, bearer: int | None) -> HandedCall:
    """The call as it stands now, with all that its gates obey."""
    made = round(1000 * node.wall)
    out = [one.sub for one in call.everyone() if one.why in AT_ONCE]
    return HandedCall(
        aud=node.config.node.cluster,
        c=call.cid,
        p=bearer,
        made=made,
        exp=round(node.wall) + handover.TTL_S,
        started=round(1000 * call.started_wall),
        answered=None if call.answered_wall is None else round(1000 * call.answered_wall),
        terms=(call.terms.allow, call.terms.minutes, call.terms.relay_only, call.terms.attachments),
        size=call.capacity,
        flags=handover.IS_PAIR * call.is_pair | handover.HOST_ADMITS * call.host_admits | part_of(call),
        epoch=call.epoch,
        seats=tuple(_describe_seat(node, call, seat) for seat in call.seats.values()),
        out=tuple(out[-handover.MAX_PEOPLE :]),
    )


def _describe_seat(node: Node, call: Call, seat: Participant) -> HandedSeat:
    state, since = _STATES[seat.state], seat.away_at
    silent = 0.0 if since is None else node.now - since
    if seat.state is Presence.LEFT and seat.why == Why.MOVED:
        # Gone to where this ticket goes, too.
        state = handover.AWAY if seat.ever_accepted else handover.ABSENT
        silent = node.wall - (seat.left_wall or node.wall)
    return HandedSeat(
        index=seat.index,
        kid=seat.kid,
        claims=seat.claims,
        state=state,
        since=max(0, round(1000 * silent)),
        joined=round(1000 * seat.joined_wall),
        facts=sum(1 << fact for fact in KEPT if call.gate.has(fact, seat.index)),
        shuts=call.gate.shut_out_by(seat.index),
        accepted_once=seat.ever_accepted,
        suites=seat.suites,
    )


def read(node: Node, blob: bytes) -> HandedCall:
    """A ticket of this cluster that is young enough. PeerError RESUME_UNKNOWN otherwise."""
    body = handover.open(blob, node.keys.ticket_keys)
    skew = node.config.tokens.skew_s
    is_young = body.made / 1000 - skew <= node.wall <= body.exp <= body.made / 1000 + handover.TTL_S + 1
    if not is_young or body.aud != node.config.node.cluster:
        raise PeerError(ErrorCode.RESUME_UNKNOWN, "the ticket has expired")
    return body
