"""The node list is made: which nodes there are, by signed routes; how they are, by what each announces.

    routes (operator's key) --+
                              +--> make() --> NodeList, to be sealed with the hub's key (nodelist.py)
    announcements, unsigned --'

Nobody gets onto the list by announcing itself. Must never live here: keys, stores, clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from relay.region.directory import OLD_S
from relay.region.nodelist import Health, Name, Node, NodeList, State, Word
from relay.region.routes import Routes

UNKNOWN_VERSION = "unknown"


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself: JSON in the store's bucket `health`, under its id."""

    node: Name
    version: Word
    state: State
    score: Annotated[int, Meta(ge=0, le=100)] | None = None
    """Of its worst indicator."""
    stress: Annotated[int, Meta(ge=0, le=1_000)]
    """Per cent of what it can do that is in use."""
    draining: bool = False
    """It takes no new calls, for whatever reason."""


class Heard(NamedTuple):
    """An announcement, and how many seconds ago it was true."""

    told: Announcement
    age_s: float


def encode(announcement: Announcement) -> bytes:
    """Its JSON."""
    return msgspec.json.encode(announcement)


def decode(raw: bytes) -> Announcement | None:
    """Read one; None: it is something else, of another version perhaps."""
    try:
        return msgspec.json.decode(raw, type=Announcement)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def make(
    routes: Routes, heard: Mapping[str, Heard], *, cluster: str, rev: int, wall: float, life_s: float
) -> NodeList:
    """The list as of `wall`, Unix seconds, good for `life_s`; nodes by id.

    A node that was not heard of for 90 s is listed without `health`: it is there, and nobody knows how it is.
    """
    nodes = []
    for name, region in routes.items():
        for id, relay in region.relays.items():
            found = heard.get(id)
            told = found.told if found is not None and found.age_s <= OLD_S else None
            health = None
            if found is not None and told is not None:
                age = max(0, round(found.age_s))
                health = Health(state=told.state, score=told.score, stress=told.stress, age_s=age)
            nodes.append(
                Node(
                    id=id,
                    region=name,
                    urls=relay.urls,
                    variant=relay.variant,
                    version=told.version if told is not None else UNKNOWN_VERSION,
                    draining=region.drain or relay.drain or (told is not None and told.draining),
                    health=health,
                )
            )
    issued = int(wall)
    return NodeList(
        v=1,
        cluster=cluster,
        rev=rev,
        issued_at=issued,
        not_after=issued + max(1, round(life_s)),
        nodes=tuple(sorted(nodes, key=lambda node: node.id)),
        may_leave_to={
            name: region.rules.may_leave_to for name, region in routes.items() if region.rules is not None
        },
    )


def without_health(nodes: NodeList) -> NodeList:
    """The same for clients, whom it would tell where an attack hurts."""
    bare = tuple(msgspec.structs.replace(node, health=None) for node in nodes.nodes)
    return msgspec.structs.replace(nodes, nodes=bare)
