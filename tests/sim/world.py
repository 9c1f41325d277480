"""A day of calls over many boxes: regions with day curves, placement by weights, health that is old.

Calls are counted, not kept: of a box in a tick so many end (each with the same chance) and so many begin,
drawn by weight, which is what rendezvous hashing does to ids (`hashed` says how exactly). Reports of a box
come every 30 s at a moment of its own; between them each placer counts what it placed itself. Must never live
here: what a box bears (box.py), accidents (accidents.py).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from relay.region import rendezvous
from sim import box
from sim.inputs import Figures

TICK_S, COARSE_S = 10.0, 30.0
# Calls of an hour against the busiest one, local time. Assumed: two humps, quiet nights.
HOURS: Final = (
    0.35, 0.22, 0.16, 0.13, 0.12, 0.15, 0.24, 0.38, 0.52, 0.60, 0.64, 0.67,
    0.70, 0.68, 0.66, 0.67, 0.71, 0.78, 0.87, 0.95, 1.00, 0.98, 0.82, 0.56,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """A region: share of the world's people, where it is. Assumed; replace them by yours."""

    name: str
    share: float
    utc: float
    lat: float
    lon: float


PLACES: Final = (
    Place("gru", 0.11, -3, -23.5, -46.6),
    Place("iad", 0.11, -5, 38.9, -77.4),
    Place("sjc", 0.06, -8, 37.4, -121.9),
    Place("mex", 0.07, -6, 19.4, -99.1),
    Place("fra", 0.13, 1, 50.1, 8.7),
    Place("mad", 0.06, 1, 40.4, -3.7),
    Place("lag", 0.08, 1, 6.5, 3.4),
    Place("dxb", 0.07, 4, 25.2, 55.3),
    Place("bom", 0.16, 5.5, 19.1, 72.9),
    Place("sin", 0.10, 8, 1.3, 103.8),
    Place("nrt", 0.05, 9, 35.8, 140.4),
)


def round_trip_s(one: Place, other: Place) -> float:
    """Assumed: 200 km a millisecond in glass, half as far again as the crow flies, 4 ms besides."""
    lat1, lat2 = math.radians(one.lat), math.radians(other.lat)
    turn = math.radians(one.lon - other.lon)
    cosine = math.sin(lat1) * math.sin(lat2) + math.cos(lat1) * math.cos(lat2) * math.cos(turn)
    return 0.004 + 2 * 1.5 * 6_371 * math.acos(max(-1.0, min(1.0, cosine))) / 200_000


def hour_share(place: Place, at: float) -> float:
    """Of the region's busiest moment, at `at` seconds UTC."""
    hour = (at / 3_600 + place.utc) % 24
    low = int(hour)
    return HOURS[low] + (HOURS[(low + 1) % 24] - HOURS[low]) * (hour - low)


@dataclass(slots=True)
class Region:
    """One region while the day runs."""

    place: Place
    calls: list[int]
    """By box."""
    reported: list[float]
    placed: list[float]
    """Calls since the report, as one placer counts them."""
    phase: list[float]
    peak: float = 0.0


@dataclass(slots=True)
class Day:
    """What happened."""

    begun: int = 0
    ended: int = 0
    left: int = 0
    at_start: int = 0
    most: int = 0
    """Calls at once, of all boxes."""
    worst_lean: float = 1.0
    """Fullest box over the mean of its region, at the regions' busy hours."""
    fullest: Counter[str] = field(default_factory=Counter)
    """Fullest of each resource on any box, in percent."""
    regions: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def imbalance(self) -> int:
        """Calls that came from nowhere or went nowhere: must be 0."""
        return self.at_start + self.begun - self.ended - self.left


def busiest() -> tuple[float, float]:
    """Seconds UTC at which the world has most calls, and how many for each call of the regions' own peaks."""
    moments = [(sum(p.share * hour_share(p, at) for p in PLACES), float(at)) for at in range(0, 86_400, 600)]
    most, at = max(moments)
    return at, most


def share_out(boxes: int) -> dict[str, int]:
    """Boxes by region, by its own busiest hour; two at least, one is no region."""
    total = sum(place.share for place in PLACES)
    exact = {place.name: boxes * place.share / total for place in PLACES}
    found = {name: max(2, int(each)) for name, each in exact.items()}
    for name in sorted(exact, key=lambda name: int(exact[name]) - exact[name]):
        if sum(found.values()) < boxes:
            found[name] += 1
    return found


def live(
    calls: float,
    boxes: int,
    given: Figures,
    *,
    seed: int,
    begin: float,
    seconds: float,
    tick_s: float = TICK_S,
) -> Day:
    """The world from `begin` (seconds UTC) on, `calls` of them at its busiest moment."""
    draw = random.Random(seed)
    _, together = busiest()
    scale = calls / together
    regions = [_start(place, number, scale, given, begin, draw) for place, number in _places(boxes)]
    day = Day(at_start=sum(sum(region.calls) for region in regions))
    # Who comes and goes within one tick is not counted, so that there are as many calls as there should be.
    stays = math.exp(-tick_s / given.call_s)
    for step in range(int(seconds / tick_s)):
        at = begin + step * tick_s
        for region in regions:
            weights = _weights(region, given, at, tick_s)
            wanted = scale * region.place.share * hour_share(region.place, at)
            begun = _poisson(wanted * (1 - stays), draw)
            _tick(region, begun, weights, stays, given, draw, day)
        day.most = max(day.most, sum(sum(region.calls) for region in regions))
    day.left = sum(sum(region.calls) for region in regions)
    for region in regions:
        day.regions[region.place.name] = {"boxes": len(region.calls), "most_calls_on_a_box": region.peak}
    return day


def _places(boxes: int) -> list[tuple[Place, int]]:
    numbers = share_out(boxes)
    return [(place, numbers[place.name]) for place in PLACES]


def _start(
    place: Place, number: int, scale: float, given: Figures, begin: float, draw: random.Random
) -> Region:
    each = scale * place.share * hour_share(place, begin) / number
    calls = [_poisson(each, draw) for _ in range(number)]
    told = [box.stress(box.steady(count, given), given) for count in calls]
    phase = [draw.uniform(0, given.report_every_s) for _ in range(number)]
    return Region(place, calls, told, [0.0] * number, phase)


def _weights(region: Region, given: Figures, at: float, tick_s: float) -> list[float]:
    """What a placer sees. Reports that came since the last tick count from here on."""
    for index, phase in enumerate(region.phase):
        if (at - phase) % given.report_every_s < tick_s:
            region.reported[index] = box.stress(box.steady(region.calls[index], given), given)
            region.placed[index] = 0.0
    return [
        rendezvous.weight(told + given.per_call_stress * placed)
        for told, placed in zip(region.reported, region.placed, strict=True)
    ]


def _tick(
    region: Region,
    begun: int,
    weights: list[float],
    stays: float,
    given: Figures,
    draw: random.Random,
    day: Day,
) -> None:
    total = sum(weights)
    mean = sum(region.calls) / len(region.calls)
    for index, weight in enumerate(weights):
        new = _binomial(begun, weight / total, draw) if total > 0 else 0
        begun, total = begun - new, total - weight
        gone = region.calls[index] - _binomial(region.calls[index], stays, draw)
        region.calls[index] += new - gone
        region.placed[index] += new / given.placers
        day.begun, day.ended = day.begun + new, day.ended + gone
        if mean > 200:
            day.worst_lean = max(day.worst_lean, region.calls[index] / mean)
    fullest = max(region.calls)
    if fullest > region.peak:
        region.peak = fullest
        for name, full in box.use(box.steady(fullest, given), given).items():
            day.fullest[name] = max(day.fullest[name], round(100 * full))


def _poisson(mean: float, draw: random.Random) -> int:
    if mean > 12:
        return max(0, round(draw.gauss(mean, math.sqrt(mean))))
    product, count, least = draw.random(), 0, math.exp(-mean)
    while product > least:
        product *= draw.random()
        count += 1
    return count


def _binomial(number: int, chance: float, draw: random.Random) -> int:
    chance = min(1.0, max(0.0, chance))
    spread = number * chance * (1 - chance)
    if spread > 9:
        return min(number, max(0, round(draw.gauss(number * chance, math.sqrt(spread)))))
    return sum(draw.random() < chance for _ in range(number)) if number < 12 else _rare(number, chance, draw)


def _rare(number: int, chance: float, draw: random.Random) -> int:
    """Few of many, or all but few."""
    if chance > 0.5:
        return number - _rare(number, 1 - chance, draw)
    return min(number, _poisson(number * chance, draw))


def hashed(weights: dict[str, float], calls: int) -> float:
    """Greatest difference between a node's share by hashing ids and by weight: what drawing stands for."""
    won = Counter(rendezvous.ranked(f"{number:032x}", weights)[0] for number in range(calls))
    total = sum(weights.values())
    return max(abs(won[node] / calls - weight / total) for node, weight in weights.items())
