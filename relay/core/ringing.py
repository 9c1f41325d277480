"""How a call rings and how it ends: what each cause means before and after the answer, and glare.

    cause \\ stage        unanswered   answered
    HUNG_UP_BY_CALLER    cancelled    completed
    HUNG_UP              declined     completed
    NO_ANSWER            missed       completed
    ...                  (ENDINGS below is the whole table)

Glare: both people called each other at the same moment. Of two ringing 1:1 calls of one pair, the call with
the smaller id survives, on every node alike. Must never live here: legs, messages, time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum, auto
from typing import Final, NamedTuple, cast

from relay.errors import ErrorCode
from relay.protocol import messages
from relay.protocol.ids import CallId

Pair = frozenset[bytes]
"""Two people, or the one id that stands for the pair."""


class Why(StrEnum):
    """The words of `ended.why` and of a record's outcome."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    MISSED = "missed"
    DECLINED = "declined"
    BUSY = "busy"
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    REMOVED = "removed"
    REVOKED = "revoked"
    EXPIRED = "expired"
    FAILED = "failed"
    MOVED = "moved"  # nobody hears it: all have gone to another node, where the call goes on


class Cause(Enum):
    """Why a call, or one person's part in it, is over."""

    HUNG_UP_BY_CALLER = auto()
    HUNG_UP = auto()
    DECLINED = auto()
    BUSY = auto()
    NO_ANSWER = auto()
    TIME_UP = auto()
    ORDERED = auto()
    REMOVED = auto()
    REVOKED = auto()
    FAILED = auto()
    MOVED = auto()


ENDINGS: Final[Mapping[Cause, tuple[Why, Why]]] = {
    # cause: (unanswered, answered)
    Cause.HUNG_UP_BY_CALLER: (Why.CANCELLED, Why.COMPLETED),
    Cause.HUNG_UP: (Why.DECLINED, Why.COMPLETED),
    Cause.DECLINED: (Why.DECLINED, Why.COMPLETED),
    Cause.BUSY: (Why.BUSY, Why.COMPLETED),
    Cause.NO_ANSWER: (Why.MISSED, Why.COMPLETED),
    Cause.TIME_UP: (Why.EXPIRED, Why.EXPIRED),
    Cause.ORDERED: (Why.CANCELLED, Why.COMPLETED),
    Cause.REMOVED: (Why.REMOVED, Why.REMOVED),
    Cause.REVOKED: (Why.REVOKED, Why.REVOKED),
    Cause.FAILED: (Why.FAILED, Why.FAILED),
    Cause.MOVED: (Why.MOVED, Why.MOVED),
}

CLOSE_CODES: Final[Mapping[Why, ErrorCode]] = {
    Why.COMPLETED: ErrorCode.NO_ERROR,
    Why.CANCELLED: ErrorCode.CALL_ENDED,
    Why.MISSED: ErrorCode.CALL_ENDED,
    Why.DECLINED: ErrorCode.DECLINED,
    Why.BUSY: ErrorCode.BUSY,
    Why.ANSWERED_ELSEWHERE: ErrorCode.ANSWERED_ELSEWHERE,
    Why.REMOVED: ErrorCode.REMOVED,
    Why.REVOKED: ErrorCode.REMOVED,
    Why.EXPIRED: ErrorCode.CALL_ENDED,
    Why.FAILED: ErrorCode.GENERAL,
    Why.MOVED: ErrorCode.MOVED,
}


AT_ONCE: Final = frozenset({Why.REMOVED, Why.REVOKED})
"""Endings after which a leg gets no last word, and nobody comes back."""


def ending(cause: Cause, answered: bool) -> Why:
    """The word for a cause."""
    return ENDINGS[cause][answered]


def told(why: Why) -> messages.Why:
    """The word that a person hears, who stayed in a call that has moved without them."""
    return "failed" if why is Why.MOVED else cast("messages.Why", why.value)  # all others are on the wire


class Glare(NamedTuple):
    """Two calls ring for one pair."""

    loser: CallId
    survivor: CallId


class Ringing:
    """Which pairs are ringing in which call, to notice glare."""

    def __init__(self) -> None:
        self._calls: dict[Pair, CallId] = {}
        self._pairs: dict[CallId, set[Pair]] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def on_ring(self, call: CallId, pairs: Iterable[Pair]) -> Glare | None:
        """The call rings for these pairs, unless another does: then one of the two must give way."""
        for pair in pairs:
            other = self._calls.get(pair, call)
            if other != call:
                return Glare(loser=max(call, other), survivor=min(call, other))
            self._calls[pair] = call
            self._pairs.setdefault(call, set()).add(pair)
        return None

    def on_settled(self, call: CallId) -> None:
        """The call rings no longer: answered or ended."""
        for pair in self._pairs.pop(call, ()):
            del self._calls[pair]
