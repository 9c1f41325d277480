"""What a node that is full gives up, and in which order: what is heard least goes first, running calls never.

    NOTHING --full for a while--> REDUNDANCY --> SILENCE --> CALLS
            <--room for a while--           <--         <--

One step at a time, each way: a step shows in the next measurements, not at once. Must never live here: how
full the node is (relay/ops/pressure.py), how a lane drops.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from relay.config_overload import OverloadConfig
from relay.protocol.media import PP_COMFORT, PP_REDUNDANT


class Shed(IntEnum):
    """What is given up; each takes those before it along."""

    NOTHING = 0
    REDUNDANCY = 1
    SILENCE = 2
    CALLS = 3


LAST: Final = max(Shed)
CLASSES: Final = {Shed.REDUNDANCY: PP_REDUNDANT, Shed.SILENCE: PP_COMFORT}
"""Drop class of the media that goes no further."""


class Shedding:
    """One node's. Feed `on_pressure` about once a second."""

    def __init__(self) -> None:
        self.level = Shed.NOTHING
        self._full_since: float | None = None
        self._room_since: float | None = None

    @property
    def classes(self) -> frozenset[int]:
        """Drop classes that go no further now."""
        return frozenset(kind for shed, kind in CLASSES.items() if shed <= self.level)

    def on_pressure(self, pressure: float, now: float, config: OverloadConfig) -> bool:
        """How full the node is, 1 is full; whether that changes what is given up."""
        before = self.level
        if not config.enabled:
            self.level, self._full_since, self._room_since = Shed.NOTHING, None, None
            return before is not Shed.NOTHING
        wanted = (config.redundancy_from, config.silence_from, config.calls_from)
        is_full = self.level < LAST and pressure >= wanted[self.level]
        has_room = self.level > Shed.NOTHING and pressure < config.clear_below
        self._full_since = _since(self._full_since, is_full, now)
        self._room_since = _since(self._room_since, has_room, now)
        if self._full_since is not None and now - self._full_since >= config.up_s:
            self.level, self._full_since = Shed(self.level + 1), now
        elif self._room_since is not None and now - self._room_since >= config.down_s:
            self.level, self._room_since = Shed(self.level - 1), now
        return self.level is not before


def _since(before: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if before is None else before
