"""Whose rights a node knows though another one decides about their call: a ticket lets them back in here.

    enter (the home took them) --leave--> known for as long as a ticket is good --> forgotten

A ticket names a place and no home; what the person's token said of both is kept here. Must never live here:
legs, and whether the home still has the place.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from relay.core.admission import Verdict
from relay.protocol.ids import CallId, Sub
from relay.protocol.token import Claims

Key = tuple[CallId, Sub]


@dataclass(slots=True)
class _Known:
    verdict: Verdict
    legs: int = 0
    until: float = 0.0
    """Once no leg is left."""


class Visited:
    """All of one node."""

    def __init__(self) -> None:
        self._known: dict[Key, _Known] = {}
        self._leaving: deque[tuple[float, Key]] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, call: CallId, sub: Sub, now: float) -> Verdict | None:
        """Their rights, by their newest token; None: nobody like that is, or was, here."""
        self._forget(now)
        known = self._known.get((call, sub))
        return None if known is None else known.verdict

    def enter(self, verdict: Verdict) -> None:
        """One more leg of this person."""
        known = self._known.setdefault((verdict.claims.cid, verdict.claims.sub), _Known(verdict))
        known.verdict = verdict
        known.legs += 1

    def leave(self, claims: Claims, now: float, ticket_s: float) -> None:
        """One less; after the last one a ticket is good for so long."""
        key = claims.cid, claims.sub
        known = self._known[key]
        known.legs -= 1
        if not known.legs:
            known.until = now + ticket_s
            self._leaving.append((known.until, key))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._leaving and self._leaving[0][0] <= now:
            until, key = self._leaving.popleft()
            known = self._known.get(key)
            if known is not None and not known.legs and known.until == until:
                del self._known[key]
