"""The lane: the packet path behind one interface, so that a native one can take its place.

A lane knows legs, uplink flows and routes, and moves media datagrams between them; it asks nobody when a
packet arrives. The engine says what may pass (`Route`), the lane obeys and counts. Must never live here:
who may hear whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from relay.config import Config
from relay.core.events import FlowCounters
from relay.core.reasons import DropReason
from relay.errors import ConfigError
from relay.protocol.media import MAX_SIZE


@dataclass(slots=True)
class LaneCounters:
    """Media datagrams, conserved at any moment.

    media_in = accepted + sum(dropped); copies = sent + sum(dropped_out) + queued
    """

    media_in: int = 0
    accepted: int = 0
    copies: int = 0
    sent: int = 0
    queued: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    dropped_out: Counter[DropReason] = field(default_factory=Counter)

    def copy(self) -> LaneCounters:
        """The counters of this moment."""
        return replace(self, dropped=Counter(self.dropped), dropped_out=Counter(self.dropped_out))

    def imbalance(self) -> int:
        """How far the two conservation equations are from holding; 0 unless there is a bug."""
        inward = self.media_in - self.accepted - sum(self.dropped.values())
        outward = self.copies - self.sent - self.queued - sum(self.dropped_out.values())
        return abs(inward) + abs(outward)


class Lane(Protocol):
    """What the driver and the QUIC edge need of a packet path."""

    name: str
    counters: LaneCounters

    def open_leg(self, leg: int, *, pps: int, up_bps: int, down_bps: int) -> None:
        """Admit a leg with its token's budgets: packets/s and bits/s up, bits/s down."""

    def close_leg(self, leg: int) -> None:
        """Forget a leg; copies still queued for it are dropped as peer_gone."""

    def open_flow(self, leg: int, flow: int, *, index: int, group: bool) -> None:
        """Accept an uplink flow of participant `index`; nobody hears it until `route`."""

    def close_flow(self, leg: int, flow: int) -> FlowCounters:
        """Forget an uplink flow and return what was counted for it."""

    def route(
        self, leg: int, flow: int, targets: Sequence[tuple[int, int]], closed: DropReason | None
    ) -> None:
        """Copy the flow to `targets` (leg, flow) from now on; empty means drop, by the name in `closed`.

        Copies that wait for a target which is no longer named are dropped by that name too.
        """

    def receive(self, leg: int, payload: bytes, now: float) -> DropReason | None:
        """Take one media datagram from a leg; the copies wait in the listeners' queues. None: accepted."""

    def take_ready(self) -> list[int]:
        """Legs that got copies since the last call."""

    def dequeue(self, leg: int, now: float, room: int = MAX_SIZE) -> bytes | None:
        """The next copy for the leg that is still worth sending and fits `room` bytes, or None."""

    def unsent(self, reason: DropReason) -> None:
        """The copy that `dequeue` gave last could not leave: count it under `reason` instead."""

    def queue_depth(self, leg: int) -> int:
        """Copies waiting for the leg."""


def choose(config: Config) -> Lane:
    """The lane that `config.lane` asks for (auto, native, python). ConfigError when it is not to be had."""
    from relay.edge.lane_py import PyLane  # the twin implements what this module defines

    if config.lane in ("auto", "python"):
        return PyLane(config.limits)
    raise ConfigError("lane", f"{config.lane!r} is not available in this build", 'use "auto" or "python"')
