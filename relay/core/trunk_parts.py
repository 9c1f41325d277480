"""What guests tell the home of its people there: it judges them as it judges its own, and nobody else does.

    part --> sums less those before = a window --> Hearing, tallies, vitals       first heard --> set-up

A guest is believed about its own legs: what it says of others, or more than a leg can do, is left out or cut.
Must never live here: halves, and what is missing at the guest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from relay.core.call import Call
from relay.core.events import AskRoundTrip, FlowCounters
from relay.core.hearing import Hearing
from relay.core.node import Node
from relay.core.participant import Participant
from relay.core.quality import Window
from relay.protocol.trunk_messages import Heard, Sum

LEAST_S: Final = 1.0  # between two windows: a guest that says more is heard the next time
MOST_PPS: Final = 1000  # packets of one speaker a second; more nobody sends
_NOTHING: Final = Heard(p=0, loss=0.0, gaps=0, packets=0)


@dataclass(slots=True)
class Told:
    """What was told of one half so far."""

    transport: str
    """What carries its person's leg: quic, wt, ws or tls."""
    at: float
    """When, or since when it is here."""
    sent: int = 0
    heard: dict[int, Heard] = field(default_factory=dict)
    """By speaker."""

    def on_sum(self, node: Node, call: Call, seat: Participant, leg: int, total: Sum) -> None:
        """More of it; `leg`: the number that stands for its person's."""
        vitals = node.vitals_of(call)
        self.sent = max(self.sent, total.sent)
        there = node.legs[leg]
        there.is_telling |= total.tells
        if total.rtt_ms is not None:
            there.path_rtt = total.rtt_ms / 1000
        if total.first_ms is not None:
            vitals.on_told_audio(call, seat, node.now - total.first_ms / 1000, self.sent)
        passed = node.now - self.at
        if passed < LEAST_S:
            return
        self.at = node.now
        for row in total.quality:
            if row.p in call.seats and row.p != seat.index:
                self._on_heard(node, call, seat, leg, row, passed)

    def _on_heard(
        self, node: Node, call: Call, seat: Participant, leg: int, row: Heard, passed: float
    ) -> None:
        known = self.heard.get(row.p, _NOTHING)
        self.heard[row.p] = row
        hearing = seat.hearings.get(row.p)
        if hearing is None:
            hearing = seat.hearings[row.p] = Hearing(node.config, node.now)
        spoken_on = call.seats[row.p].leg_for("up")
        speaker = None if spoken_on is None else node.legs.get(spoken_on)
        rtt = None if speaker is None else speaker.round_trip
        if spoken_on is not None:
            node.put(AskRoundTrip(spoken_on))
        hearing.on_told(_window(known, row, passed, rtt, float(node.config.adapt.high_bps)))
        assert hearing.window is not None  # it was told
        node.tallies_of(call).on_window(hearing.window, self.transport)
        listener = node.legs[leg].round_trip
        node.vitals_of(call).on_window(call, seat, row.p, self.transport, listener, hearing)

    def counters(self, counted: FlowCounters) -> FlowCounters:
        """What went on of its person's voice: there, or here, where more of it came."""
        more = max(0, self.sent - counted.accepted)
        return FlowCounters(
            received=counted.received + more,
            accepted=counted.accepted + more,
            copies=counted.copies,
            lost=counted.lost,
            dropped=counted.dropped,
            mended=counted.mended,
            first=counted.first,
        )


def _window(known: Heard, row: Heard, seconds: float, rtt_up: float | None, bps: float) -> Window:
    """What is new in the sums of a speaker."""
    expected = min(max(0, row.packets - known.packets), round(MOST_PPS * seconds))
    lost = (row.loss or 0.0) * row.packets - (known.loss or 0.0) * known.packets
    return Window(
        expected=expected,
        seconds=seconds,
        ptime=float(row.pt),
        bps=bps,
        lost_up=0.0,
        lost_down=min(1.0, max(0.0, lost / expected)) if expected else None,
        late=0.0 if expected else None,
        rtt_up=None if rtt_up is None else 1000 * rtt_up,
        rtt_down=0.0,  # it is in what follows, and so is the trunk
        playout=row.delay_ms,
        gaps=min(max(0, (row.gaps or 0) - (known.gaps or 0)), expected),
        silence=float(row.silence_ms) if expected else 0.0,
    )
