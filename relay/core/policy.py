"""What a person of an age band may do with a stranger or with a contact: a table, read from configuration.

The age never leaves this module: not in a message, a log, a metric or a record. For a pair, the lower of
the two contact states counts for both, and the stricter of the two rows wins field by field. Must never
live here: the table's values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from relay.config import PolicyRow
from relay.errors import ErrorCode, PeerError
from relay.protocol import token
from relay.protocol.token import Claims

AGES: Final = ("unknown", "under_16", "16_17", "adult")  # by the number in the token's `age`
STRANGER: Final = 0
CONTACT: Final = 1


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds between people. `minutes` None: no limit."""

    allow: bool
    minutes: int | None
    relay_only: bool
    attachments: bool

    def and_also(self, other: Terms) -> Terms:
        """The stricter of the two, field by field."""
        limits = [minutes for minutes in (self.minutes, other.minutes) if minutes is not None]
        return Terms(
            allow=self.allow and other.allow,
            minutes=min(limits, default=None),
            relay_only=self.relay_only or other.relay_only,
            attachments=self.attachments and other.attachments,
        )


OPEN: Final = Terms(allow=True, minutes=None, relay_only=False, attachments=True)
"""Terms of nobody with nobody: the neutral element of `and_also`."""


class PolicyTable:
    """All rows, by age band and contact state."""

    def __init__(self, rows: Iterable[PolicyRow]) -> None:
        self._terms: Mapping[tuple[str, str], Terms] = {
            (row.age, row.contact): Terms(
                allow=row.allow and row.age != AGES[token.AGE_UNDER_16],
                minutes=row.max_minutes,
                relay_only=row.relay_only or row.contact == "stranger",
                attachments=row.attachments and row.contact != "stranger",
            )
            for row in rows
        }

    def _row(self, claims: Claims, contact: int) -> Terms:
        word = "contact" if contact == CONTACT else "stranger"
        return self._terms[AGES[claims.age], word]

    def alone(self, claims: Claims) -> Terms:
        """What the person may do before anybody else is known."""
        return self._row(claims, contact_of(claims))

    def pair(self, one: Claims, other: Claims) -> Terms:
        """What the two may do with each other."""
        contact = min(contact_of(one), contact_of(other))
        return self._row(one, contact).and_also(self._row(other, contact))

    def meet(self, newcomer: Claims, present: Sequence[Claims]) -> Terms:
        """Terms of a newcomer with everyone present. PeerError FORBIDDEN when a row says no."""
        terms = self.alone(newcomer)
        for other in present:
            terms = terms.and_also(self.pair(newcomer, other))
        if not terms.allow:
            raise PeerError(ErrorCode.FORBIDDEN, "not allowed")
        return terms


def contact_of(claims: Claims) -> int:
    """STRANGER or CONTACT; an absent or unknown claim is a stranger."""
    return CONTACT if claims.ctc == CONTACT else STRANGER


def refuse_children(claims: Claims) -> None:
    """People under 16 are not admitted, whatever the table says. PeerError FORBIDDEN."""
    if claims.age == token.AGE_UNDER_16:
        raise PeerError(ErrorCode.FORBIDDEN, "not allowed")
