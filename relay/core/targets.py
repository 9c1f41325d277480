"""Where the people of a call go when they have to leave this node: one node for all of them, by name.

    Directed (who there is, what is near, what is allowed) --> Directory --> of(call): addresses of one node

The same rendezvous as for a new call, this node's own region first, and no region that the rules of this one
forbid. Without a list, or where this node does not stand on it, `drain.to` counts. Must never live here: when
somebody is asked (leaving.py), how a node is chosen (relay/region/directory.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.core.call import Call
from relay.core.events import Directed
from relay.core.node import Node
from relay.protocol.ids import CallId
from relay.region.directory import Directory, Tier
from relay.region.nodelist import Node as Found

_SLACK: Final = 64  # names of calls that are gone, not worth a walk


@dataclass(frozen=True, slots=True)
class _Named:
    """What a call's people were told."""

    node: Found
    tier: Tier
    people: int
    """How many were here then."""


class Targets:
    """Names them, and remembers what it named."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._directory: Directory | None = None
        self._distances: Mapping[str, float] = {}
        self._within: frozenset[str] | None = None
        self._forbidden: frozenset[str] = frozenset()
        """Addresses of listed nodes where calls of this region may not go."""
        self._named: dict[CallId, _Named] = {}
        self._standbys: dict[CallId, tuple[Found, ...]] = {}

    def on_directed(self, event: Directed) -> None:
        """Another list, or none. What was known of a node's health stays where a list says nothing newer."""
        self._within = event.within
        if event.nodes is None:
            self._directory, self._node.has_spares = None, False
        else:
            self._directory = self._directory or Directory()
            self._directory.on_list(event.nodes, self._node.now, self._node.wall)
            self._distances = event.distances
            out = (found for found in event.nodes.nodes if not self._is_allowed(found))
            self._forbidden = frozenset(url for found in out for url in found.urls)
        self._named = {cid: named for cid, named in self._named.items() if self._is_allowed(named.node)}
        self._standbys = {
            cid: found for cid, found in self._standbys.items() if all(map(self._is_allowed, found))
        }
        self._tell()

    def on_config(self) -> None:
        """A reload: whether standbys are named."""
        self._tell()

    def _tell(self) -> None:
        directory, config = self._directory, self._node.config
        is_listed = directory is not None and directory.knows(config.node.id)
        self._node.has_spares = is_listed and config.nodes.standbys

    def _is_allowed(self, found: Found) -> bool:
        return self._within is None or found.region in self._within

    def standbys(self, call: Call) -> tuple[Found, ...]:
        """Who takes the call up when this node is gone, the first to try first: for all of it the same.

        They must meet there without a word between them, whatever lists say later; only rules that forbid one
        of them take both back.
        """
        directory, own = self._directory, self._node.config.node.id
        known = self._standbys.get(call.cid)
        if not self._node.config.nodes.standbys:
            return ()
        if known is not None or directory is None or not directory.knows(own):
            return known or ()
        self._forget()
        now = self._node.now
        found = tuple(directory.standbys(call.cid.hex(), own, self._distances, now, self._within))
        self._standbys[call.cid] = found
        return found

    def urls_of(self, node: str) -> tuple[str, ...]:
        """Where people reach another node, as far as the list says."""
        return () if self._directory is None else self._directory.urls(node)

    def of(self, call: Call) -> tuple[str, ...]:
        """Addresses for `drain.to`. Asked again it is the same node, which some of them may have gone to.

        While nobody has, one that became worse is left for another.
        """
        directory, config = self._directory, self._node.config
        if directory is None or not directory.knows(config.node.id):
            return self._by_hand()
        before, people = self._named.get(call.cid), len(call.here())
        if before is not None and (people < before.people or self._is_as_good(directory, before)):
            return before.node.urls
        found = directory.target(
            call.cid.hex(), config.node.id, self._distances, self._node.now, self._within
        )
        if found is None:
            return before.node.urls if before is not None else self._by_hand()
        self._forget()
        tier = directory.tier(found.id, self._node.now)
        self._named[call.cid] = _Named(found, tier, people)
        return found.urls

    def of_visit(self, cid: CallId, home: str) -> tuple[str, ...]:
        """The same for people here whose call has its home at another node: there, if the list names it."""
        directory, config = self._directory, self._node.config
        if directory is None or not directory.knows(config.node.id):
            return self._by_hand()
        found = directory.urls(home)
        if found:
            return found
        target = directory.target(cid.hex(), config.node.id, self._distances, self._node.now, self._within)
        return self._by_hand() if target is None else target.urls

    def _by_hand(self) -> tuple[str, ...]:
        """What the operator wrote, but for addresses that are known to be where calls may not go."""
        return tuple(url for url in self._node.config.drain.to if url not in self._forbidden)

    def _is_as_good(self, directory: Directory, named: _Named) -> bool:
        return directory.knows(named.node.id) and directory.tier(named.node.id, self._node.now) <= named.tier

    def _forget(self) -> None:
        calls = self._node.calls
        if len(self._named) + len(self._standbys) > 4 * len(calls) + _SLACK:
            self._named = {cid: named for cid, named in self._named.items() if cid in calls}
            self._standbys = {cid: found for cid, found in self._standbys.items() if cid in calls}
