"""What happens to a fleet: a box dies, a process crashes, a region leaves, a rollout is stopped everywhere.

Each is one function of a state of the fleet; times in seconds, calls of two. Must never live here: the day.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from relay.region import nodelist
from relay.region.pace import RegionDrain
from sim import world
from sim.inputs import Figures

FIRST_TRY_S: Final = 1.0
"""A first packet without an answer goes again after this, then twice as late (RFC 9002 section 6.2.4)."""
BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0)
DROP_S: Final = 10.0
"""Who is away for longer counts as a dropped call (relay/ops/slis.py)."""
SEAT_S: Final = 90.0


@dataclass(slots=True)
class _Door:
    """The loop of a node that takes people in, one after the other, beside what it does anyway."""

    each_s: float
    shake_s: float
    """Of that the handshake: all that is lost with who has no patience left."""
    free_at: float = 0.0
    inside: deque[float] = field(default_factory=deque)
    """When those who are half in will be done."""

    def enter(self, now: float, most: int, patience_s: float) -> float | None:
        """When this one is in; infinite: the handshake takes too long; None: no room for another."""
        while self.inside and self.inside[0] <= now:
            self.inside.popleft()
        if len(self.inside) >= most:
            return None
        begin = max(self.free_at, now)
        is_late = begin + self.each_s - now > patience_s
        self.free_at = begin + (self.shake_s if is_late else self.each_s)
        self.inside.append(now + patience_s if is_late else self.free_at)
        return inf if is_late else self.free_at


def storm(legs: int, nodes: int, given: Figures, *, busy: float, seed: int) -> dict[str, Any]:
    """All legs of what died come to the standbys at once: `nodes` of them, their loops `busy` already.

    When each notices is the 600 ms, its round trip and where in its packets it was.
    """
    draw = random.Random(seed)
    spare = max(0.02, 1 - busy)
    doors = [_Door(given.rejoin_us / 1e6 / spare, given.handshake_us / 1e6 / spare) for _ in range(nodes)]
    events = [
        (given.suspect_s + draw.uniform(0, 0.2) + draw.uniform(0.02, 0.2), 0, leg) for leg in range(legs)
    ]
    heapq.heapify(events)
    target = [draw.randrange(nodes) for _ in range(legs)]  # equal weights: hashing spreads evenly
    back: list[float] = []
    refused = 0
    while events:
        now, tries, leg = heapq.heappop(events)
        if now > SEAT_S:
            continue
        done = doors[target[leg]].enter(now, int(given.half_open), given.handshake_s)
        if done is None:
            refused += 1
            heapq.heappush(events, (now + FIRST_TRY_S * 2 ** min(tries, 3), tries + 1, leg))
        elif done == inf:
            refused += 1
            wait = BACKOFF_S[min(tries, len(BACKOFF_S) - 1)] * draw.uniform(0.5, 1.0)
            heapq.heappush(events, (now + given.handshake_s + wait, tries + 1, leg))
        else:
            back.append(done)
    back.sort()
    return {
        "legs": legs,
        "nodes": nodes,
        "legs_each": round(legs / nodes, 1),
        "refused_tries": refused,
        "back_p50_s": _at(back, 0.5),
        "back_p99_s": _at(back, 0.99),
        "later_than_10_s": round(1 - sum(each <= DROP_S for each in back) / max(1, legs), 5),
        "never": legs - len(back),
    }


def _at(values: list[float], share: float) -> float | None:
    return round(values[min(len(values) - 1, int(share * len(values)))], 2) if values else None


def crash(legs: int, given: Figures, *, busy: float) -> dict[str, Any]:
    """The process ends and comes back on its box: audio first, then people by new legs, one each 4 ms."""
    asked = max(1.0, legs * given.ask_back_ms / 1e3)
    rate = legs / asked
    full = busy + rate * given.rejoin_us / 1e6
    return {
        "legs": legs,
        "audio_back_s": round(given.restart_s + given.ready_s, 2),
        "audio_back_worst_s": round(given.restart_s + given.ready_worst_s, 2),
        "asked_back_over_s": round(asked, 1),
        "joins_per_s": round(rate, 1),
        "loop_while_asked": round(full, 2),
        "back_after_s": round(asked * max(1.0, rate * given.rejoin_us / 1e6 / max(0.02, 1 - busy)), 1),
    }


def drain(calls_by_box: list[int], targets: int, given: Figures, *, busy: float) -> dict[str, Any]:
    """A region leaves at its pace; the nearest one takes everything."""
    calls = {
        f"n{box_}": [f"{box_:x}.{call:x}" for call in range(many)] for box_, many in enumerate(calls_by_box)
    }
    leaving = RegionDrain(calls, 0.0, given.drain_share)
    total, moved, now = sum(calls_by_box), [], 0.0
    while leaving.left:
        moved += [now] * len(leaving.due(now))
        now += 0.05
    seconds = Counter(int(at) for at in moved)
    joins = 2 * leaving.per_second / targets
    joining = joins * given.rejoin_us / 1e6
    bearable = max(0.0, 0.9 - busy) * targets / (2 * given.rejoin_us / 1e6)
    return {
        "calls": total,
        "per_second": leaving.per_second,
        "most_in_a_second": max(seconds.values()),
        "takes_s": round(moved[-1], 1),
        "joins_per_target_and_s": round(joins, 1),
        "loop_of_a_target": round(busy + joining, 2),
        "share_per_s_that_fills_it_to_0.9": round(bearable / total, 4),
    }


def stop(boxes: int, given: Figures, *, seed: int, runs: int = 200) -> dict[str, Any]:
    """A kill key reaches every daemon: hub, a leaf a region, feeds behind it, a file that is read again."""
    draw = random.Random(seed)
    places = {place.name: place for place in world.PLACES}
    home = places["iad"]
    slowest = []
    for _ in range(runs):
        worst = 0.0
        for place, many in ((places[name], many) for name, many in world.share_out(boxes).items()):
            way = world.round_trip_s(home, place) / 2 + given.hop_ms / 1e3
            for number in range(many):
                leaf = given.hop_ms / 1e3 + (number + 1) * given.hub_us / 1e6
                seen = draw.uniform(0, given.reread_s)
                worst = max(worst, way + leaf + given.verify_ms / 1e3 + seen)
        slowest.append(worst)
    slowest.sort()
    return {
        "boxes": boxes,
        "all_stopped_p50_s": _at(slowest, 0.5),
        "all_stopped_worst_s": round(slowest[-1], 2),
        "hub_returns_worst_s": round(slowest[-1] + given.hub_back_s, 2),
    }


def messages(boxes: int, given: Figures) -> dict[str, Any]:
    """What NATS carries: reports to the hub, lists from it. The list is made and signed here."""
    size = len(nodelist.seal(_list_of(boxes), bytes(32)))
    reports = boxes / given.report_every_s
    readers = boxes + given.placers
    return {
        "reports_per_s": round(reports, 1),
        "list_bytes": size,
        "lists_out_per_s": round(readers / given.list_every_s, 1),
        "hub_out_mbit_s": round(readers / given.list_every_s * size * 8 / 1e6, 2),
        "if_each_report_made_a_list_mbit_s": round(reports * readers * size * 8 / 1e6, 1),
    }


def _list_of(boxes: int) -> nodelist.NodeList:
    health = nodelist.Health(state="ok", score=100, stress=70, age_s=15)
    nodes = tuple(
        nodelist.Node(
            id=f"{name}-{number}",
            region=name,
            urls=(f"quic://{name}-{number}.relay.example:443", f"wss://{name}-{number}.relay.example:443"),
            version="0.1.0",
            health=health,
        )
        for name, many in world.share_out(boxes).items()
        for number in range(many)
    )
    return nodelist.NodeList(v=1, cluster="relay", rev=1, issued_at=0, not_after=86_400, nodes=nodes)


def trunks(calls: float, boxes: int, given: Figures) -> dict[str, Any]:
    """Between boxes, as docs/protocol.md specifies trunks: a connection for each pair that shares a call."""
    each = calls / boxes
    # A call across has a home and one other box: each box has half of these ends at home, half as a guest.
    across = each * given.across * 2
    regions = world.share_out(boxes)
    own = sum(many * many for many in regions.values()) / boxes  # boxes of one's own region, on average
    others = boxes - own
    # Of `others` equally likely boxes, those with at least one call.
    peers = others * (1 - (1 - 1 / others) ** across) if others > 1 else 0.0
    audio = across * given.packets_per_s
    return {
        "calls_with_a_trunk_per_box": round(across, 1),
        "trunks_per_box": round(peers, 1),
        "calls_per_trunk": round(across / peers, 2) if peers else 0.0,
        "audio_packets_per_s_out": round(audio),
        "mbit_s_out": round(audio * (given.wire_bytes + given.wire_overhead + 2) * 8 / 1e6, 1),
        "memory_mib": round(peers * given.leg_bytes / 2**20, 1),
    }
