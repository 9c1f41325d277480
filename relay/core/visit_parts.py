"""What a guest tells the home of its halves: since when they are heard, how much they sent, how they hear.

    leg reports --> windows of each speaker (hearing.py) --> sums      Flowing --> sent, since when
    10 s, in the first ones of talk 3 s; 1 s after something new; nothing open any more --> `part`

The home judges: it knows the speaker's way, and it alone counts calls. Must never live here: estimates, and
what is shown of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from relay.core import events as ev
from relay.core.deadlines import Deadlines
from relay.core.hearing import Hearing
from relay.core.leg import Leg
from relay.core.node import Node
from relay.core.quality import Window
from relay.core.trunks import Trunks
from relay.core.visit_routes import Ear
from relay.protocol.datagram import LegReport
from relay.protocol.trunk_messages import Heard, Part, Sum

EVERY_S: Final = 10.0
EARLY_S: Final = 3.0  # as often in the first seconds of talk: by them the home judges a call's beginning
BEGINNING_S: Final = 10.0
SOON_S: Final = 1.0  # after the first packet that was heard, or a speaker who is new


@dataclass(slots=True)
class _Sound:
    """How one speaker came to a half's person, since it began."""

    hearing: Hearing
    packets: int = 0
    lost: float = 0.0
    gaps: int = 0
    silence_ms: float = 0.0
    delay_ms: float | None = None
    ptime: int = 20

    def on_window(self, window: Window, trunk_s: float) -> None:
        """Some seconds more; `trunk_s`: round trip to the speaker's node."""
        if window.lost_down is None or window.late is None:
            return  # nothing was sent
        self.packets += window.expected
        self.lost += window.expected * (1 - (1 - window.lost_down) * (1 - window.late))
        self.gaps += window.gaps
        self.silence_ms = max(self.silence_ms, window.silence)
        self.ptime = round(window.ptime)
        if window.rtt_down is not None and window.playout is not None:
            self.delay_ms = 500 * trunk_s + window.rtt_down / 2 + window.playout

    def told(self, index: int) -> Heard:
        """For the home."""
        return Heard(
            p=index,
            loss=self.lost / self.packets if self.packets else None,
            delay_ms=self.delay_ms,
            gaps=self.gaps,
            packets=self.packets,
            pt=self.ptime,
            silence_ms=round(self.silence_ms),
        )


@dataclass(slots=True)
class _Half:
    """What is known of one half."""

    ear: Ear
    home: str
    due: float
    sent: int = 0
    first: float | None = None
    """Since when its person is heard."""
    sounds: dict[int, _Sound] = field(default_factory=dict)
    """By speaker."""


class VisitParts:
    """All halves of a guest."""

    def __init__(self, node: Node, trunks: Trunks) -> None:
        self._node = node
        self._trunks = trunks
        self._halves: dict[int, _Half] = {}
        self._deadlines: Deadlines[int] = Deadlines()

    def __len__(self) -> int:
        return len(self._halves)

    def enter(self, ear: Ear, home: str) -> None:
        """A half is in its call."""
        self._halves[ear.leg] = _Half(ear, home, self._node.now)
        self._plan(self._halves[ear.leg], EVERY_S)

    def leave(self, leg: int) -> None:
        """It is over."""
        self._halves.pop(leg, None)
        self._deadlines.set(leg, None)

    # ------------------------------------------------------------ what is seen

    def flows(self) -> list[tuple[int, int]]:
        """Uplink flows of which `Flowing` is wanted."""
        return [(leg, half.ear.up) for leg, half in self._halves.items()]

    def on_flowing(self, event: ev.Flowing) -> None:
        """What the lane says of them."""
        for (leg, flow), (at, packets) in event.of.items():
            half = self._halves.get(leg)
            if half is None or half.ear.up != flow:
                continue
            half.sent = packets
            if half.first is None:
                half.first = at
                self._hasten(half)

    def on_report(self, leg: Leg, report: LegReport) -> None:
        """What the half's leg got; flows that are nobody's tell nothing."""
        half = self._halves.get(leg.number)
        if half is None:
            return
        speakers = {flow: index for index, flow in half.ear.flows.items()}
        for flow in report.flows:
            index = speakers.get(flow.flow)
            if index is None:
                continue
            sound = half.sounds.get(index)
            if sound is None:
                sound = half.sounds[index] = _Sound(Hearing(self._node.config, self._node.now))
                self._hasten(half)
            if sound.hearing.on_report(flow, report.t, None, leg.round_trip, self._node.now):
                if sound.hearing.window is not None:
                    node = half.ear.half.hears.get(index, "")
                    sound.on_window(sound.hearing.window, self._trunks.round_trip(node))
                self._node.put(ev.AskRoundTrip(leg.number))

    # ------------------------------------------------------------ what is told

    def tell(self, leg: int) -> None:
        """Say to the home what is known of a half, now."""
        half = self._halves.get(leg)
        number = None if half is None else half.ear.half.number
        if half is None or number is None:
            return
        now, own = self._node.now, self._node.legs[leg]
        quality = tuple(sound.told(index) for index, sound in sorted(half.sounds.items()))
        total = Sum(
            sent=half.sent,
            came=sum(round(sound.packets - sound.lost) for sound in half.sounds.values()),
            first_ms=None if half.first is None else round(1000 * max(0.0, now - half.first)),
            rtt_ms=None if own.round_trip is None else round(1000 * own.round_trip, 1),
            tells=own.is_telling,
            drops={},
            quality=quality,
        )
        self._trunks.say(half.home, Part(half=number, sum=total))
        is_early = half.first is not None and now - half.first < BEGINNING_S
        self._plan(half, EARLY_S if is_early else EVERY_S)

    def _hasten(self, half: _Half) -> None:
        if half.due > self._node.now + SOON_S:
            self._plan(half, SOON_S)

    def _plan(self, half: _Half, seconds: float) -> None:
        half.due = self._node.now + seconds
        self._deadlines.set(half.ear.leg, half.due)

    def next_deadline(self) -> float | None:
        """When something has to be said."""
        return self._deadlines.next()

    def on_timer(self, now: float) -> None:
        """Time went by."""
        while (leg := self._deadlines.pop(now)) is not None:
            self._plan(self._halves[leg], EVERY_S)  # whether or not it can be told
            self.tell(leg)
