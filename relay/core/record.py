"""What is written down: one record per finished call, and the names of the events on the way.

Pseudonyms, times, endings, counts and quality; never content, addresses, ages or stable person ids. Must
never live here: where records go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from math import inf
from typing import Final

from relay.core.call import Call
from relay.core.events import CallRecord, ParticipantRecord
from relay.core.hearing import Hearing
from relay.core.participant import Participant


class EventKind(StrEnum):
    """`CallEvent.kind`: every one carries `call` (hex), most `sub` (hex) of the one it is about."""

    RINGING = "call.ringing"
    ANSWERED = "call.answered"
    ENDED = "call.ended"  # outcome, reason
    MOVED = "call.moved"  # it goes on at another node
    ADOPTED = "call.adopted"  # another node's call goes on here
    JOINED = "participant.joined"  # index, device: how many of this person's legs ring
    ACCEPTED = "participant.accepted"
    AWAY = "participant.away"
    BACK = "participant.back"
    ARRIVED = "participant.arrived"  # from another node
    LEFT = "participant.left"  # why
    DEVICE_ENDED = "device.ended"  # why: answered_elsewhere, declined
    MUTED = "participant.muted"  # on, hard
    BLOCKED = "pair.blocked"  # sub blocks peer; on
    REPORT = "report"  # sub reports peer; reason
    FEEDBACK = "feedback"  # stars
    COMMAND = "command"  # op, code, and what it named
    DRAIN = "node.drain"  # state; the only kind without a call


OF_CALL: Final = frozenset(
    {EventKind.RINGING, EventKind.ANSWERED, EventKind.ENDED, EventKind.MOVED, EventKind.ADOPTED}
)
"""Kinds about the call as a whole: they carry `rollout` and `variant`, too, where it has them."""


def quality_of(reports: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """Sum up the newest reception report per sender: loss 0-1, jitter and concealment in ms, late packets."""
    newest = list(reports)
    if not newest:
        return {}
    received = sum(report.get("n", 0) for report in newest)
    lost = sum(report.get("lost", 0) for report in newest)
    return {
        "loss": round(lost / (received + lost), 6) if received + lost else 0.0,
        "jitter_ms": round(max(report.get("jit", 0) for report in newest) / 10, 1),
        "concealed_ms": float(sum(report.get("plc", 0) for report in newest)),
        "late": float(sum(report.get("late", 0) for report in newest)),
    }


def judged_of(hearings: Iterable[Hearing]) -> dict[str, float]:
    """The estimate of the direction that was worst; nobody's judgement comes after any other."""
    summaries = [hearing.direction.summary() for hearing in hearings]
    known = [one for one in summaries if one.windows or one.active_s]
    worst = min(known, key=lambda one: inf if one.mos is None else one.mos, default=None)
    return {} if worst is None else worst.as_record()


def _directly(one: Participant) -> dict[str, float]:
    """For how long media went past us."""
    return {"direct_s": round(one.direct_s, 1)} if one.direct_s else {}


def _rated(one: Participant) -> dict[str, float]:
    """What the person thought of it, if that was said before the record was written."""
    return {} if one.stars is None else {"stars": float(one.stars)}


def _mended(one: Participant) -> dict[str, float]:
    """How many packets came as repeats, since the originals were lost on their way to us."""
    return {"mended": float(one.totals["mended"])} if one.totals["mended"] else {}


def record_participant(one: Participant, ended_wall: float, why: str) -> ParticipantRecord:
    """One person's part; `why` is the call's outcome, for those who stayed to the end."""
    return ParticipantRecord(
        sub=one.sub.hex(),
        index=one.index,
        joined_at=one.joined_wall,
        left_at=ended_wall if one.left_wall is None else one.left_wall,
        accepted=one.ever_accepted,
        why=one.why or why,
        client=dict(one.client),
        received=one.totals["received"],
        accepted_packets=one.totals["accepted"],
        copies=one.totals["copies"],
        lost=one.totals["lost"],
        dropped=dict(one.dropped),
        quality=quality_of(one.quality.values())
        | judged_of(one.hearings.values())
        | _directly(one)
        | _mended(one)
        | _rated(one),
        transport=one.transport,
        story=one.story.lines(),
    )


def record_call(call: Call, region: str) -> CallRecord:
    """The record of a call that has ended and whose counters are in."""
    outcome = call.why.value if call.why else ""
    ended = call.started_wall if call.ended_wall is None else call.ended_wall
    return CallRecord(
        call=call.cid.hex(),
        started_at=call.started_wall,
        answered_at=call.answered_wall,
        ended_at=ended,
        outcome=outcome,
        reason=call.reason,
        region=region,
        participants=tuple(record_participant(one, ended, outcome) for one in call.everyone()),
        canary=call.is_canary,
        issuer=call.issuer,
        rollout=call.rollout,
        variant=call.variant,
        sampled=call.is_sampled,
    )
