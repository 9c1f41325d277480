"""What happened to one person in a call, in order: a few dozen short lines for whoever must explain it later.

    leg quic, accepted, heard, way lossy_b, sound weak, away, leg ws, back ...

No address, no content, no name: words of the program, and seconds since the call began. Must never live here:
what is decided by it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

MOST: Final = 48  # lines; a call that has more is told by its beginning and its end
FIRST: Final = 16  # of these are kept whatever follows


class Kind(StrEnum):
    """What a line is about. `detail` is what stands behind the colon."""

    LEG = "leg"  # a transport carries it now: quic, wt, ws, tls
    LOST = "lost"  # the transport ended by itself: close code
    ACCEPTED = "accepted"
    HEARD = "heard"  # first audio went on to somebody: seconds since the answer
    WAY = "way"  # the network towards it: state of the controller
    SOUND = "sound"  # how it hears another one: grade, loss, round trip
    MOVING = "moving"  # another leg is there, both carry
    STAYED = "stayed"  # the other leg did not work
    AWAY = "away"  # not heard
    BACK = "back"
    MUTED = "muted"  # by: self, moderator
    UNMUTED = "unmuted"


Line = tuple[float, str, str]
"""Seconds since the call began, kind, detail."""


class Story:
    """One person's, of one call that began at `began` (wall clock, seconds)."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._lines: list[Line] = []
        self.left_out = 0
        """Lines between the first and the last ones that there was no room for."""

    def add(self, wall: float, kind: Kind, detail: str = "") -> None:
        """One more line. With no room the oldest but the first ones goes."""
        if len(self._lines) >= MOST:
            del self._lines[FIRST]
            self.left_out += 1
        self._lines.append((round(wall - self._began, 3), kind.value, detail))

    def lines(self) -> tuple[Line, ...]:
        """In order of time."""
        return tuple(sorted(self._lines, key=lambda line: line[0]))
