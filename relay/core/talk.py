"""What people of a call send each other through us, and say to us about it: blobs, receiver reports, stars.

    e2e   k 0 keys            from the join on
          k 1 app, 2 attachment   between two who both accepted; 2 never between strangers
    rr    who hears whom, how well: kept for the record, passed on

Nothing here is opened or kept but the numbers of receiver reports. Must never live here: media.
"""

from __future__ import annotations

from typing import Final

from relay.core.call import Call
from relay.core.consent import Fact
from relay.core.events import Rated
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.participant import Participant
from relay.core.policy import STRANGER, contact_of
from relay.core.reasons import DropReason
from relay.core.record import EventKind
from relay.errors import ErrorCode, PeerError
from relay.protocol import control, token
from relay.protocol.ids import CallId, Sub

KEYS: Final = 0  # `e2e.k`
ATTACHMENT: Final = 2


class Talk:
    """Passes on what the gate allows."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def on_e2e(self, call: Call, seat: Participant, leg: Leg, message: control.E2e, id: int) -> None:
        """Pass a sealed blob on. PeerError FORBIDDEN or RATE_LIMITED, not fatal; nothing is passed then."""
        if not seat.claims.prm & token.MAY_E2E:
            raise _forbidden("token allows no e2e")
        named = call.others(seat) if message.to is None else [other_seat(call, seat, message.to)]
        targets = [one for one in named if self._may_reach(call, seat, one, message.k)]
        if named and not targets:
            raise _forbidden("not before both accepted, or not to strangers")
        self._charge(seat, targets, len(message.b))
        passed = control.E2e(c=call.cid, to=message.to, k=message.k, b=message.b, p=seat.index)
        for one in targets:
            if call.gate.is_blocked(seat.index, one.index):
                # The sender is not told: a block is nobody's news.
                self._node.count("dropped", DropReason.BLOCKED.value)
                continue
            self._node.tell([one], passed)
            self._node.count("e2e", str(message.k))
        self._node.answer(leg, id)

    def _may_reach(self, call: Call, one: Participant, other: Participant, kind: int) -> bool:
        if kind == KEYS:
            return True
        if not both_consent(call, one, other):
            return False
        return kind != ATTACHMENT or self._node.policy.pair(one.claims, other.claims).attachments

    def _charge(self, seat: Participant, targets: list[Participant], size: int) -> None:
        """A stranger's blobs share one small allowance, whatever they are labelled."""
        contacts = [min(contact_of(seat.claims), contact_of(one.claims)) for one in targets]
        if STRANGER in contacts and not seat.opaque.take(size, self._node.now):
            wait = seat.opaque.wait_ms(size)
            raise PeerError(ErrorCode.RATE_LIMITED, "too much for a stranger", fatal=False, retry_ms=wait)

    def on_rr(self, call: Call, seat: Participant, rr: control.Rr) -> None:
        """Keep what the listener says for the record, and tell those it listens to."""
        for entry in rr.s:
            # Only of people the seat really heard, so that nobody fills memory or fakes a record.
            if entry.p in seat.hearing:
                seat.quality[entry.p] = {
                    "n": entry.n,
                    "lost": entry.lost,
                    "late": entry.late,
                    "jit": entry.jit,
                    "plc": entry.plc,
                }
        heard = [one for one in call.others(seat) if both_consent(call, seat, one)]
        self._node.tell(heard, rr)

    def on_feedback(self, leg: Leg, feedback: control.Feedback, id: int) -> None:
        """Stars for a call, during or just after it."""
        self._charge_news(leg)
        self._node.count("stars", str(feedback.stars))
        node, cid, sub = self._node, CallId(feedback.c), _own(leg)
        node.word(EventKind.FEEDBACK, leg, cid, sub=sub, stars=feedback.stars)
        call = node.calls.get(cid)
        seat = None if call is None else next((one for one in call.everyone() if one.sub.hex() == sub), None)
        if seat is not None:
            seat.stars = feedback.stars
        else:
            node.put(Rated(cid.hex(), sub, feedback.stars))
        self._node.answer(leg, id)

    def on_report(self, leg: Leg, about: Sub | None, report: control.Report, id: int) -> None:
        """One person reports another; the product's back end decides what follows."""
        if about is None:
            raise PeerError(ErrorCode.NOT_IN_CALL, "nobody sits there", fatal=False)
        self._charge_news(leg)
        cid = CallId(report.c)
        self._node.word(EventKind.REPORT, leg, cid, sub=_own(leg), peer=about.hex(), reason=report.reason)
        self._node.answer(leg, id)

    def _charge_news(self, leg: Leg) -> None:
        """What people say becomes events on a disk and in a back end: a few a minute, not 50 a second."""
        if not leg.reports.take(1, self._node.now):
            wait = leg.reports.wait_ms(1)
            raise PeerError(ErrorCode.RATE_LIMITED, "too many reports", fatal=False, retry_ms=wait)


def both_consent(call: Call, one: Participant, other: Participant) -> bool:
    """Whether the two may have to do with each other: both said yes, are reachable and admitted."""
    facts = (Fact.ACCEPTED, Fact.ALIVE, Fact.ADMITTED)
    return all(call.gate.has(fact, seat.index) for fact in facts for seat in (one, other))


def other_seat(call: Call, seat: Participant, index: int) -> Participant:
    """Somebody else who sits there. PeerError NOT_IN_CALL, not fatal, for oneself and an empty seat."""
    other = call.seats.get(index)
    if other is None or other is seat or not other.is_here:
        raise PeerError(ErrorCode.NOT_IN_CALL, "nobody sits there", fatal=False)
    return other


def _own(leg: Leg) -> str:
    assert leg.claims is not None  # only legs that have or had a call get here
    return leg.claims.sub.hex()


def _forbidden(message: str) -> PeerError:
    return PeerError(ErrorCode.FORBIDDEN, message, fatal=False)
