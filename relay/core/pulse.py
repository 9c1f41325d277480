"""One call as the node's indicators see it: how far it came, whether it works, and whether it broke.

    invited --> joined --> accepted --> first audio of all who may speak --> ten seconds of talk

Must never live here: sums over calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from relay.core.quality import Grade

READY_S: Final = 10.0  # a call that is answered has audio by then, or its set-up failed
OTHER: Final = "other"
"""Of whom nobody knows, or whom the configuration does not name."""
LOOK_S: Final = 1.0  # how much later what the lane counted by then is known
RECONNECT_S: Final = 10.0  # who is not back by then was cut off
PATIENCE_S: Final = 3.0  # who hangs up later without having heard anything did so for that
ACTIVE_S: Final = 3.0  # a speaker who sent for so long should have been heard
ACTIVE_PACKETS: Final = 75  # of 40 ms, or twice as many of 20 ms


class Step(StrEnum):
    """How far a call came."""

    INVITED = "invited"
    JOINED = "joined"
    ACCEPTED = "accepted"
    FIRST_AUDIO = "first_audio"
    TEN_SECONDS = "ten_seconds"


class Result(StrEnum):
    """What became of an attempt to set a call up."""

    OK = "ok"
    FAIL = "fail"
    EXCLUDED = "excluded"  # nobody wanted it to succeed: cancelled, busy, declined, not answered


@dataclass(slots=True)
class Way:
    """What one listener last got of one speaker."""

    transport: str
    loss: float
    """Residual share, smoothed over the last windows."""
    rtt: float | None = None
    """Seconds."""
    is_poor: bool = False
    grade: Grade = Grade.UNKNOWN


@dataclass(slots=True)
class Pulse:
    """State of one call, by participant index where it is about people."""

    client: str
    """The caller's class of device."""
    sdk: str = OTHER
    """What the caller's client calls its SDK, of those that the configuration names."""
    is_adopted: bool = False
    """Whether it began at another node, or before a crash: its beginning is not ours to count."""
    step: Step = Step.INVITED
    result: Result | None = None
    answered_at: float | None = None
    first: dict[int, float] = field(default_factory=dict)
    """When the first packet of each went on to a listener."""
    sent: dict[int, int] = field(default_factory=dict)
    """How many packets of each went on, as last told."""
    expected: set[int] = field(default_factory=set)
    """Who could be heard when the call was answered, and did not mute before the first word."""
    has_settled: bool = False
    """Whether the time in which audio must come is over."""
    lost_at: float | None = None
    """Since when fewer than two can hear each other, though nobody hung up."""
    is_dropped: bool = False
    ways: dict[tuple[int, int], Way] = field(default_factory=dict)
    """By listener and speaker."""
    is_judged: bool = False
    """Whether there was data for long enough to call it poor or not."""
    is_poor: bool = False

    def next_deadline(self) -> float | None:
        """When something is decided by time alone."""
        found = []
        if self.answered_at is not None and not self.has_settled:
            found.append(self.answered_at + READY_S + LOOK_S)
        if self.lost_at is not None and not self.is_dropped:
            found.append(self.lost_at + RECONNECT_S)
        return min(found, default=None)

    def is_ready(self) -> bool:
        """Whether everybody who could be heard was, in time."""
        assert self.answered_at is not None  # else nobody asks
        by = self.answered_at + READY_S
        return all(self.first.get(index, by + 1) <= by for index in self.expected)
