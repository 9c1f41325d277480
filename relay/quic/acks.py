"""When a peer's packets are acknowledged at the latest, on either side.

Audio is acknowledged beside audio that goes the other way. Whoever only listens acknowledges by packets of
their own, if they hurry one for each that came: as many again as the call has. Nobody needs to know soon
while nothing is missing. So they wait, and hurry when something is. Must never live here: packets, clocks.
"""

from __future__ import annotations

from typing import Final

ACK_PROMISE: Final = 80
"""Milliseconds that we announce (max_ack_delay, RFC 9000 section 18.2): longer than any below."""
ACK_HOLD: Final = 0.020
"""Seconds: of control, and of audio on a way that lost something lately."""
AUDIO_ACK_HOLD: Final = 0.060
"""Seconds: of audio while nothing is missing, so long that audio of 40 ms a packet takes it along."""
MOST_UNACKNOWLEDGED: Final = 16
"""So many packets are acknowledged at once, however soon they came."""
TORN_S: Final = 30.0
"""Seconds after a loss in which acknowledgements hurry: those who repair the way need to know soon."""
AGAIN_S: Final = 4.0
"""One number missing may be one left out (RFC 9000 section 21.4); another so many seconds later is none."""


class Owing:
    """What one end owes the other."""

    __slots__ = ("_last_gap", "_torn_until", "unacknowledged")

    def __init__(self) -> None:
        self.unacknowledged = 0
        """Packets that asked for an acknowledgement since the last one left."""
        self._last_gap = float("-inf")
        self._torn_until = 0.0

    def on_gap(self, missing: int, now: float) -> None:
        """So many numbers were left out before the one that came; below 0: it came late."""
        if missing > 1 or now - self._last_gap < AGAIN_S:
            self._torn_until = now + TORN_S
        self._last_gap = now

    def on_packet(self, *, is_gap: bool, is_audio: bool, audio_hold: float, now: float) -> float:
        """Seconds for which the acknowledgement of a packet that asks for one may be held.

        None at all if something is missing or came late (RFC 9000 section 13.2.1).
        """
        self.unacknowledged += 1
        if is_gap or self.unacknowledged >= MOST_UNACKNOWLEDGED:
            return 0.0
        return audio_hold if is_audio and now >= self._torn_until else min(ACK_HOLD, audio_hold)
