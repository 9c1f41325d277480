"""Who is where: the nodes of all regions, how they are, and which of them a call goes to.

The signed list says which nodes there are; nobody else can add one. Reports say how they are, and age. A call
goes to the nearest region that can take it, there to one node by rendezvous, with two more in the same order
as standbys. It never changes nodes because weights do: only new calls feel them. `now` is monotonic seconds.
Must never live here: clock, the state of calls, signatures (nodelist.py).

    tier   nodes of the call's variant, not draining        chosen by
    well   reported within 90 s, and not bad                rendezvous, by weight
    bad    reported within 90 s                             the best score, then rendezvous
    old    last report older than that, or none             rendezvous, by the last known weight

A tier is asked only if those above it are empty in every region: a bad region far away is no better than one
that is well, and a feed of reports that fails must not stop calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from math import inf
from typing import Final, Literal, NamedTuple

from relay.errors import LocalError
from relay.region import rendezvous
from relay.region.nodelist import Health, Node, NodeList

OLD_S: Final = 90.0
STANDBYS: Final = 2


class Tier(IntEnum):
    """What a node is good for now."""

    WELL = 0
    BAD = 1
    OLD = 2
    NEVER = 3  # draining: it would refuse


@dataclass(frozen=True, slots=True)
class Report:
    """How a node says it is."""

    node: str
    state: Literal["ok", "degraded", "bad", "unknown"]
    score: float | None
    """Of its worst indicator, 0 to 100; None: nothing could be judged."""
    stress: float
    """Share of what it can do that is in use; 1 is all of it."""
    made: float
    """Monotonic second at which it was true: when it came, less the age that it came with."""
    draining: bool = False


class Placement(NamedTuple):
    """Where a call goes."""

    home: Node
    standby: tuple[Node, ...]
    """At most two, of the same variant, the first to try first."""
    tier: Tier
    """Of the home. Anything but WELL is worth a word to an operator."""


@dataclass(slots=True)
class _Known:
    node: Node
    report: Report | None = None
    placed: int = 0  # calls given to it since that report

    def tier(self, now: float) -> Tier:
        if self.node.draining or (self.report is not None and self.report.draining):
            return Tier.NEVER
        if self.report is None or now - self.report.made > OLD_S:
            return Tier.OLD
        return Tier.BAD if self.report.state == "bad" else Tier.WELL

    @property
    def weight(self) -> float:
        """By the last report; of a node that never reported the least."""
        if self.report is None:
            return rendezvous.LEAST
        return rendezvous.weight(self.report.stress, self.placed)


class Directory:
    """All that is known of the nodes. Feed it lists and reports, ask it for places."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Known] = {}
        self._may_leave_to: Mapping[str, tuple[str, ...]] = {}

    def on_list(self, nodes: NodeList, now: float, wall: float) -> None:
        """A new list: nodes that are not in it are gone. Health that it brings counts as a report.

        `wall`, Unix seconds, tells how old the list is: one from a cache is no fresher for having come now.
        """
        self._may_leave_to = nodes.may_leave_to
        issued = now - max(0.0, wall - nodes.issued_at)
        before = self._nodes
        self._nodes = {node.id: before.get(node.id, _Known(node)) for node in nodes.nodes}
        for node in nodes.nodes:
            self._nodes[node.id].node = node
            if node.health is not None:
                self.on_report(_report(node.id, node.health, issued - node.health.age_s))

    def on_report(self, report: Report) -> bool:
        """What a node says of itself; False if it is not on the list, or older than what is known."""
        known = self._nodes.get(report.node)
        if known is None or (known.report is not None and report.made <= known.report.made):
            return False
        known.report, known.placed = report, 0
        return True

    def age(self, node: str, now: float) -> float:
        """Seconds since the node's last report was true; infinite without one. LocalError if not listed."""
        known = self._nodes.get(node)
        if known is None:
            raise LocalError("no such node on the list")
        return inf if known.report is None else max(0.0, now - known.report.made)

    def knows(self, node: str) -> bool:
        """Whether it is on the list."""
        return node in self._nodes

    def urls(self, node: str) -> tuple[str, ...]:
        """Where people reach this node; empty for one that the list does not name."""
        known = self._nodes.get(node)
        return () if known is None else known.node.urls

    def tier(self, node: str, now: float) -> Tier:
        """What it is good for now. LocalError if not listed."""
        known = self._nodes.get(node)
        if known is None:
            raise LocalError("no such node on the list")
        return known.tier(now)

    def place(
        self, call: str, variant: str, round_trips: Mapping[str, float], now: float, region: str = ""
    ) -> Placement | None:
        """Where the new call goes, and count it there. None: no node takes calls of this variant.

        `call` is its id in hexadecimal; `round_trips` are seconds to each region as the client measured them
        (of a pair the greater of the two): regions with the same one count as one region, those without one
        come last, by name. `region` is the one whose rules hold for the call, where its product knows that:
        no other node is named than they allow. Else the rules of the region that it comes to hold.
        """
        order = self._order(call, variant, round_trips, now, within=self._within(region))
        tier, home = next(order, (None, None))
        if tier is None or home is None:
            return None
        allowed = self._within(region or home.node.region)
        others = (known.node for _, known in order if _is_in(known.node, allowed))
        standby = tuple(islice(others, STANDBYS))
        home.placed += 1
        return Placement(home.node, standby, tier)

    def target(
        self,
        call: str,
        leaving: str,
        round_trips: Mapping[str, float],
        now: float,
        within: Set[str] | None = None,
    ) -> Node | None:
        """The one node that takes a running call from `leaving`, of the same variant, counted there.

        With the round trips from `leaving` itself this is its own region first. Only nodes in regions that
        the rules of its own allow, and in those of `within`, if that is said. None: nowhere; the call stays
        until it ends. LocalError: `leaving` is not on the list.
        """
        _, found = next(self._others(call, leaving, round_trips, now, within), (None, None))
        if found is None:
            return None
        found.placed += 1
        return found.node

    def standbys(
        self,
        call: str,
        leaving: str,
        round_trips: Mapping[str, float],
        now: float,
        within: Set[str] | None = None,
    ) -> list[Node]:
        """Who would take a running call if `leaving` were gone: at most two of its variant, the first to try
        first. Counted nowhere; regions as for `target`. LocalError: `leaving` is not on the list."""
        order = self._others(call, leaving, round_trips, now, within)
        return [found.node for _, found in islice(order, STANDBYS)]

    def _others(
        self,
        call: str,
        leaving: str,
        round_trips: Mapping[str, float],
        now: float,
        within: Set[str] | None,
    ) -> Iterator[tuple[Tier, _Known]]:
        """Who may have a call of `leaving`, best first."""
        known = self._nodes.get(leaving)
        if known is None:
            raise LocalError("no such node on the list")
        allowed = self._within(known.node.region)
        order = self._order(call, known.node.variant, round_trips, now, without=leaving, within=allowed)
        return ((tier, other) for tier, other in order if _is_in(other.node, within))

    def _within(self, region: str) -> Set[str] | None:
        """Regions that calls of `region` may be in; None: in all."""
        found = self._may_leave_to.get(region)
        return None if found is None else {region, *found}

    def _order(
        self,
        call: str,
        variant: str,
        round_trips: Mapping[str, float],
        now: float,
        without: str = "",
        within: Set[str] | None = None,
    ) -> Iterator[tuple[Tier, _Known]]:
        """Every node that may have the call, best first. Regions that nobody asks for are not hashed."""
        by: dict[tuple[Tier, float, str], list[_Known]] = {}
        for known in self._nodes.values():
            tier, region = known.tier(now), known.node.region
            is_of_it = known.node.variant == variant and known.node.id != without
            if is_of_it and tier is not Tier.NEVER and _is_in(known.node, within):
                far = round_trips.get(region, inf)
                by.setdefault((tier, far, region if far == inf else ""), []).append(known)
        return ((key[0], known) for key in sorted(by) for known in _ranked(call, key[0], by[key]))


def _is_in(node: Node, regions: Set[str] | None) -> bool:
    return regions is None or node.region in regions


def _ranked(call: str, tier: Tier, group: Iterable[_Known]) -> Sequence[_Known]:
    by_name = {known.node.id: known for known in group}
    order = rendezvous.ranked(call, {name: known.weight for name, known in by_name.items()})
    ranked = [by_name[name] for name in order]
    if tier is Tier.BAD:
        ranked.sort(key=_badness)  # stable: equals stay in rendezvous order
    return ranked


def _badness(known: _Known) -> float:
    assert known.report is not None
    return -(known.report.score or 0.0)


def _report(node: str, health: Health, made: float) -> Report:
    """What a list says of a node, which was true at monotonic second `made`."""
    score = None if health.score is None else float(health.score)
    return Report(node, health.state, score, health.stress / 100, made)
