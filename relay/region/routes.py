"""What an operator's signed routes say: which relays a region has, and which of them shall be left.

    {"fra": {"relays": {"fra-1": {"urls": ["quic://fra-1.example:443"]}, "fra-2": {..., "drain": true}},
             "near": ["ams", "cdg"], "drain": false}}

The field `routes` of the signed state (docs/state.md). Keys that are not known are passed over, as on the
wire; `strays` names them for who writes routes. Must never live here: signatures, how nodes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from relay.errors import RelayError
from relay.region.nodelist import Name, Url, Word

NEAR: Final = 1.0
FAR: Final = 2.0
"""Stand-ins for round trips between regions, which nobody measures: 0 at home, then near ones, then all."""


class RoutesError(RelayError):
    """Routes that cannot be read; the text names the place and quotes nothing."""


class Relay(msgspec.Struct, frozen=True, kw_only=True):
    """One node."""

    urls: Annotated[tuple[Url, ...], Meta(min_length=1, max_length=8)]
    """Where clients reach it, best rung first."""
    variant: Word = "control"
    """Of the rollout whose calls it takes."""
    drain: bool = False
    """It gets no new calls and asks its people to move."""


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """Its relays by node id."""

    relays: dict[Name, Relay]
    drain: bool = False
    """All of them."""
    near: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Regions whose nodes take its calls when none of its own can: several, so that none is flooded."""


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
    return routes


def strays(raw: Mapping[str, Any]) -> list[str]:
    """Keys, by path, that mean nothing here: most likely slips of the pen. `raw` has been parsed."""
    found = []
    for name, region in raw.items():
        found += [f"{name}.{key}" for key in region if key not in Region.__struct_fields__]
        for node, relay in region["relays"].items():
            found += [f"{name}.{node}.{key}" for key in relay if key not in Relay.__struct_fields__]
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
