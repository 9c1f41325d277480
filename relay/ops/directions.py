"""Tells the engine where calls may go from this node, and whether they shall, each time that this changes.

    node list (ops/nodes.py) ------------+
    signed state's routes (ops/state.py) +--> Directed --> engine, and how long records may be kept
    another generation of us beside us --+

Where no list counts the routes themselves say who there is, without a word of how they are. Must never live
here: what follows (relay/core/targets.py, leaving.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

import msgspec

from relay.config import NodeConfig
from relay.core.events import Directed
from relay.region.making import make
from relay.region.nodelist import Node as Listed
from relay.region.nodelist import NodeList
from relay.region.routes import Routes, RoutesError, distances, home, is_left, keep_days, parse, within

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
DAY_S: Final = 86_400.0


class Directions:
    """One daemon's.

    `listed()` is the node list that counts, `routes()` the field of the signed state as it stands, `stays()`
    whether people who leave stay at this address, with the next generation of the daemon.
    """

    def __init__(
        self,
        node: NodeConfig,
        listed: Callable[[], NodeList | None],
        routes: Callable[[], Mapping[str, Any]],
        stays: Callable[[], bool],
        tell: Callable[[Directed], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._listed = listed
        self._raw_of = routes
        self._stays = stays
        self._tell = tell
        self._wall = wall
        self._raw: Mapping[str, Any] = {}
        self._routes: Routes = {}
        self._by_routes: NodeList | None = None
        self._proven: tuple[NodeList, Routes, NodeList] | None = None
        self._told = Directed(None, {}, False)
        self.keep_days = inf
        """For how long this node may keep what it knows of calls, by the rules of regions, days."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Tell what is new; also just before the node begins to leave."""
        self._read()
        nodes = None if self._stays() else self._who_there_is()
        region = self._region(nodes)
        ruled = home(self._routes, self._node.id) or region  # rules are the operator's, who signs the routes
        self.keep_days = keep_days(self._routes, ruled)
        now = Directed(
            nodes,
            distances(self._routes, region) if nodes is not None else {},
            is_left(self._routes, self._node.id),
            within(self._routes, ruled),
        )
        if now.nodes is self._told.nodes and now == self._told:
            return
        if now.is_left != self._told.is_left:
            log.warning("the routes say what becomes of this node", extra={"drain": now.is_left})
        self._told = now
        self._tell(now)

    def _who_there_is(self) -> NodeList | None:
        """The list, or the routes.

        The list is the hub's, made of routes that may be older than ours: whoever ours mark gets no calls.
        Where rules hold, which go by where a node is, it counts without nodes that are elsewhere by them.
        """
        listed = self._listed()
        if listed is None:
            return self._by_routes
        if self._proven is None or self._proven[0] is not listed or self._proven[1] is not self._routes:
            own = home(self._routes, self._node.id)
            has_rules = own is not None and within(self._routes, own) is not None
            there = tuple(
                self._marked(node)
                for node in listed.nodes
                if not has_rules or home(self._routes, node.id) == node.region
            )
            is_same = there == listed.nodes
            found = listed if is_same else msgspec.structs.replace(listed, nodes=there)
            self._proven = (listed, self._routes, found)
        return self._proven[2]

    def _marked(self, node: Listed) -> Listed:
        is_left_too = is_left(self._routes, node.id) and not node.draining
        return msgspec.structs.replace(node, draining=True) if is_left_too else node

    def _region(self, nodes: NodeList | None) -> str:
        """Ours, by the list: the configuration's own name may be another."""
        listed = nodes.nodes if nodes is not None else ()
        return next((node.region for node in listed if node.id == self._node.id), self._node.region)

    def _read(self) -> None:
        """Routes that cannot be read leave those before in force: nothing is opened or emptied by a slip."""
        raw = self._raw_of()
        if raw == self._raw:
            return
        self._raw = raw
        try:
            self._routes = parse(raw)
        except RoutesError as error:
            log.error("the signed routes are not gone by, those before stay: %s", error)
            return
        made = make(self._routes, {}, cluster=self._node.cluster, rev=0, wall=self._wall(), life_s=DAY_S)
        self._by_routes = made if made.nodes else None
