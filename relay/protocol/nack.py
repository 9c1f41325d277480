"""What a receiver asks for again whose losses nobody else sees: when control datagram 04 is sent.

    Asker.on_packet(what is missing) -> Nack | None

A web page sees no acknowledgements, so it cannot tell what a relay missed, and asks for what it misses
itself. At most one datagram in 20 ms, for each packet at most two, only while a repeat can still be played,
and for one packet in five. What is answered is up to the other end. The relay asks so for the audio of such
a page, a page for what it hears: hence it stands with the wire. Must never live here: clocks, sending.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from relay.protocol.datagram import Nack

SPAN: Final = 16  # packets that one datagram may name
PERIOD_S: Final = 0.020
MARGIN_S: Final = 0.010  # beside the round trip
TRIES: Final = 2
SHARE: Final = 0.2  # of what is sent may be asked for
SAVED: Final = 10.0  # packets at most that were not asked for
STEP_S: Final = 0.020  # speech in one packet, at least
_EARLY_S: Final = 0.001


@dataclass(slots=True)
class _Wanted:
    play_at: float
    tries: int = 0
    asked_at: float = -inf


class Asker:
    """One flow of one sender. Times in seconds of one monotonic clock."""

    def __init__(self, flow: int) -> None:
        self.flow = flow
        self._kid = -1
        self._newest = 0
        self._wanted: dict[int, _Wanted] = {}  # by counter
        self._left = SAVED
        self._asked_at = -inf

    def on_packet(
        self, kid: int, newest: int, missing: int, now: float, rtt: float, slack: float
    ) -> Nack | None:
        """A packet came; what to ask for, if anything.

        Bit i of `missing`, of 16: newest - 1 - i has not come. `rtt`: the round trip. `slack`: for how long
        packets are held before they are played.
        """
        if kid != self._kid:
            self._kid, self._newest, self._wanted = kid, newest, {}
        self._left = min(SAVED, self._left + SHARE * max(0, newest - self._newest))
        self._newest = newest
        still = {newest - 1 - i for i in range(SPAN) if missing >> i & 1}
        self._wanted = {ctr: one for ctr, one in self._wanted.items() if ctr in still}
        for ctr in still - self._wanted.keys():
            self._wanted[ctr] = _Wanted(now - (newest - ctr) * STEP_S + slack)
        return self._ask(now, rtt)

    def _ask(self, now: float, rtt: float) -> Nack | None:
        if now - self._asked_at < PERIOD_S - _EARLY_S:
            return None
        comes = rtt + MARGIN_S  # what is asked for now is there by then
        ready = [
            ctr
            for ctr, one in sorted(self._wanted.items())
            if one.tries < TRIES and now + comes <= one.play_at and now - one.asked_at >= comes
        ]
        ready = [ctr for ctr in ready if ctr < ready[0] + SPAN][: int(self._left)]
        if not ready:
            return None
        for ctr in ready:
            self._wanted[ctr].tries += 1
            self._wanted[ctr].asked_at = now
        self._left -= len(ready)
        self._asked_at = now
        base = ready[0]
        return Nack(self.flow, self._kid, base & 0xFFFF, sum(1 << (ctr - base) for ctr in ready))


def wants(nack: Nack, kid: int, ctr: int) -> bool:
    """Whether this packet of the flow is asked for; counters are told by their last 16 bits."""
    behind = ctr - nack.base & 0xFFFF
    return kid == nack.kid and behind < SPAN and bool(nack.map >> behind & 1)
