"""What an operator's signed routes say: a region's relays, which of them shall be left, rules for its calls.

    {"fra": {"relays": {"fra-1": {"urls": ["quic://fra-1.example:443"]}, "fra-2": {..., "drain": true}},
             "near": ["ams", "cdg"], "drain": false,
             "rules": {"may_leave_to": ["ams"], "keep_in": ["fra", "ams"], "keep_days": 30}}}

The field `routes` of the signed state (docs/state.md). Keys that are not known are passed over, as on the
wire; `strays` names them for who writes routes. Rules that contradict each other are no routes: however often
a call moves, it comes to no region that those of its first one forbid. Must never live here: signatures, how
nodes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from relay.errors import RelayError
from relay.region.nodelist import Name, Url, Word

NEAR: Final = 1.0
FAR: Final = 2.0
"""Stand-ins for round trips between regions, which nobody measures: 0 at home, then near ones, then all."""


class RoutesError(RelayError):
    """Routes that cannot be read; the text names the place and quotes nothing but names of regions."""


class Relay(msgspec.Struct, frozen=True, kw_only=True):
    """One node."""

    urls: Annotated[tuple[Url, ...], Meta(min_length=1, max_length=8)]
    """Where clients reach it, best rung first."""
    variant: Word = "control"
    """Of the rollout whose calls it takes."""
    drain: bool = False
    """It gets no new calls and asks its people to move."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the calls of a region."""

    may_leave_to: Annotated[tuple[Name, ...], Meta(max_length=64)]
    """Other regions that they may be moved or routed to. Empty: none."""
    keep_in: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=64)]
    """Regions in which their records and events may be kept: its own, and all that they may go to, since what
    a node knows of a call it keeps itself."""
    keep_days: Annotated[float, Meta(gt=0, le=3_650)]
    """For so long at most, days."""


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """Its relays by node id."""

    relays: dict[Name, Relay]
    drain: bool = False
    """All of them."""
    near: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Regions whose nodes take its calls when none of its own can: several, so that none is flooded."""
    rules: Rules | None = None
    """None: nobody said. Its calls may go anywhere, and no rollout may open it."""


Routes = Mapping[str, Region]


def parse(raw: Mapping[str, Any]) -> Routes:
    """Read them. RoutesError."""
    try:
        routes = msgspec.convert(dict(raw), dict[Name, Region])
    except msgspec.ValidationError as error:
        path = str(error).rpartition(" - at ")[2]
        raise RoutesError(f"routes: {path} does not fit") from None
    names = [name for region in routes.values() for name in region.relays]
    if len(set(names)) != len(names):
        raise RoutesError("routes: a node stands in two regions")
    for name, region in routes.items():
        if region.rules is not None:
            _check(routes, name, region.rules)
    return routes


def strays(raw: Mapping[str, Any]) -> list[str]:
    """Keys, by path, that mean nothing here: most likely slips of the pen. `raw` has been parsed."""
    found = []
    for name, region in raw.items():
        found += [f"{name}.{key}" for key in region if key not in Region.__struct_fields__]
        for node, relay in region["relays"].items():
            found += [f"{name}.{node}.{key}" for key in relay if key not in Relay.__struct_fields__]
        rules = region.get("rules") or {}
        found += [f"{name}.rules.{key}" for key in rules if key not in Rules.__struct_fields__]
    return found


def home(routes: Routes, node: str) -> str | None:
    """The region that a node stands in; None: in none."""
    return next((name for name, region in routes.items() if node in region.relays), None)


def is_left(routes: Routes, node: str) -> bool:
    """Whether the node, or its whole region, is marked `drain`."""
    name = home(routes, node)
    return name is not None and (routes[name].drain or routes[name].relays[node].drain)


def distances(routes: Routes, region: str) -> dict[str, float]:
    """How far other regions are from `region`, as the directory wants round trips: only the order counts."""
    known = routes.get(region)
    near = {name: NEAR for name in known.near} if known is not None else {}
    return dict.fromkeys(routes, FAR) | near | {region: 0.0}


def rules_of(routes: Routes, region: str) -> Rules | None:
    """What holds for the calls of a region; None: nobody said."""
    known = routes.get(region)
    return None if known is None else known.rules


def within(routes: Routes, region: str) -> frozenset[str] | None:
    """Regions that calls of `region` may be in; None: nobody said, so in all."""
    rules = rules_of(routes, region)
    return None if rules is None else frozenset((region, *rules.may_leave_to))


def keep_days(routes: Routes, region: str) -> float:
    """How long a node of `region` may keep what it knows of calls, days; infinite where nobody said.

    By the rules of the region itself and of those whose calls may come there, the shortest time.
    """
    found = [
        each.rules.keep_days
        for name, each in routes.items()
        if each.rules is not None and (name == region or region in each.rules.may_leave_to)
    ]
    return min(found, default=inf)


def _check(routes: Routes, name: str, rules: Rules) -> None:
    """RoutesError unless the rules of this region hold whatever its calls do elsewhere."""
    allowed = {name, *rules.may_leave_to}
    for region in sorted(allowed - set(rules.keep_in)):
        raise RoutesError(
            f"routes: calls of {name} may be in {region}, and a node there keeps records of them: "
            f"add {region} to keep_in of {name}, or take it out of may_leave_to"
        )
    for other in rules.may_leave_to:
        beyond = within(routes, other)
        if beyond is None:
            raise RoutesError(
                f"routes: calls of {name} may go to {other}, which has no rules of its own: write them"
            )
        for region in sorted(beyond - allowed):
            raise RoutesError(
                f"routes: calls of {name} may go to {other}, and from there to {region}, which {name} "
                f"forbids: take {region} out of may_leave_to of {other}, or allow it to {name}"
            )
