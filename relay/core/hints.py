"""What a sender is told of the networks it is heard over: one wish out of many, and not too often.

    combine(uplink, downlinks) -> Hint      Teller.on_hint(hint, now) -> Hint to send | None

Must never live here: what a single network bears (adapt.py), the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Final, NamedTuple

TTL_S: Final = 5.0  # a hint that no other follows is void
REFRESH_S: Final = 4.0  # so one that still holds is told again before that
LEAST_S: Final = 1.0  # between two hints
LEAST_CHANGE: Final = 0.1  # of the value told before
QUANTILE: Final = 0.8  # of a sender's listeners; the worst alone would spoil it for all


class Hint(NamedTuple):
    """What an encoder shall do: the fields of the message `rate`."""

    bps: int
    """Opus bits per second."""
    ptime: int
    """Speech in one packet, ms."""
    fec: int = 0
    """Per cent of loss that in-band correction shall protect against; 0: none."""
    red: int = 0
    """Earlier frames in each packet."""
    dtx: bool = True
    """Whether silence may be left out."""

    @property
    def weight(self) -> tuple[int, int]:
        """What it puts on the wire, for an order: fewer bits, then longer packets, are less."""
        return self.bps, -self.ptime


class Wish(NamedTuple):
    """What one listener's network would have a sender do."""

    hint: Hint
    is_for_loss: bool = False
    """Only since packets are lost there, not since it carries no more."""


def combine(uplink: Hint, downlinks: Sequence[Wish]) -> Hint:
    """What a sender shall do for its own uplink and for four fifths of its listeners.

    Where packets are lost repair of the leg's own helps. So of a few listeners one that only loses changes
    nothing for the others; one whose network carries no more does, as nothing else helps it. Of two wishes
    the smaller rate, the longer packets and the stronger protection count.
    """
    if not downlinks:
        return uplink
    needed = _ranked(uplink if wish.is_for_loss else wish.hint for wish in downlinks)
    wanted = _ranked(wish.hint for wish in downlinks)
    least = _careful(needed[ceil(QUANTILE * len(needed)) - 1], wanted[int(QUANTILE * (len(wanted) - 1))])
    return _careful(uplink, least)


def _ranked(hints: Iterable[Hint]) -> list[Hint]:
    """The one that asks for the least care first."""
    return sorted(hints, key=lambda hint: hint.weight, reverse=True)


def _careful(one: Hint, other: Hint) -> Hint:
    return Hint(
        min(one.bps, other.bps),
        max(one.ptime, other.ptime),
        max(one.fec, other.fec),
        max(one.red, other.red),
        one.dtx and other.dtx,
    )


class Teller:
    """One sender's hints: at most one a second, only what changes, and what holds again before it is void."""

    def __init__(self, usual: Hint) -> None:
        self._usual = usual  # what a sender does that was told nothing
        self._told = usual
        self._told_at: float | None = None

    @property
    def told(self) -> Hint:
        """What was told last, as far as it holds; else what a sender does anyway."""
        return self._told

    @property
    def is_usual(self) -> bool:
        """What was told last is what a sender does anyway."""
        return self._told == self._usual

    def again_at(self, now: float) -> float:
        """When there may be something to say next, unless the hint changes."""
        if self._told_at is None:
            return now + LEAST_S
        at = LEAST_S + (self._told_at if now - self._told_at < LEAST_S else now)
        return at if self.is_usual else min(at, max(now, self._told_at + REFRESH_S))

    def on_hint(self, hint: Hint, now: float) -> Hint | None:
        """What to send now, if anything."""
        since = None if self._told_at is None else now - self._told_at
        if since is not None and since < LEAST_S:
            return None
        if since is not None and since >= TTL_S:
            self._told = self._usual
        must_refresh = self._told != self._usual and since is not None and since >= REFRESH_S
        if not must_refresh and not _differs(hint, self._told):
            return None
        self._told, self._told_at = hint, now
        return hint


def _differs(one: Hint, other: Hint) -> bool:
    """Whether any field changed by a tenth."""
    numbers = zip(one[:4], other[:4], strict=True)
    return one.dtx != other.dtx or any(
        new != old and abs(new - old) >= LEAST_CHANGE * max(new, old) for new, old in numbers
    )
