"""What a node may do by the state of rollouts, and the same answers for a back end that asks beforehand.

    Standing, state.without --> Mandate --closed(person)--> why they may not call, or None
                                        '-decide(unit)----> Decision: which variant, by which rule

Never wider than the newest state that was taken: one that is killed, too old or too early gives nobody the
candidate. Without any, `without` says who may call. Must never live here: calls, files, clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from relay.region.routes import Routes, RoutesError, parse
from relay.rollout.bucket import BUCKETS, Decision, Rule, Shares, Variant, bucket, decide, width
from relay.rollout.lastgood import Offer, Serving, Standing

Without = Literal["control", "all"]
_BY_CHANCE: Final = (Rule.GROUP, Rule.REGION)


class Closed(StrEnum):
    """Why somebody may not call."""

    NOT_MEMBER = "not_member"  # of the share that calling is open for here
    NO_PERSON = "no_person"  # the token names no `ru`, so nobody can tell
    KILLED = "killed"
    NO_STATE = "no_state"  # none counts, and `state.without` says control


@dataclass(frozen=True, slots=True)
class Mandate:
    """What counts at one moment. Without arguments: no state is configured, and everybody may call."""

    serving: Serving | None = None
    """None: no state is configured."""
    offer: Offer | None = None
    """The newest that was taken, whether or not it counts."""
    is_killed: bool = False
    routes: Routes = field(default_factory=dict)
    """Of that state; none where it has none that can be read."""
    without: Without = "control"

    @classmethod
    def of(cls, standing: Standing | None, without: Without) -> Mandate:
        """From what the daemon's look found; None: no state is configured."""
        if standing is None:
            return cls()
        try:
            routes = parse(standing.routes)
        except RoutesError:
            routes = {}
        return cls(standing.serving, standing.known, standing.is_killed, routes, without)

    @property
    def is_open(self) -> bool:
        """Whether the rollout is of calling itself, so that there are no two versions."""
        return self.offer is not None and self.offer.kind == "open"

    @property
    def killed(self) -> str | None:
        """The id of the rollout that is killed; None: there is none, or it lives."""
        return self.offer.id if self.offer is not None and self.is_killed else None

    @property
    def on_kill(self) -> Literal["move", "keep", "end"]:
        """What becomes of running candidate calls."""
        chosen = self.offer.on_kill if self.offer is not None else None
        return chosen or ("keep" if self.is_open else "move")

    def closed(self, person: bytes | None, groups: Iterable[str], region: str) -> Closed | None:
        """Why this person may begin or join no call here; None: they may. `person` is the token's `ru`."""
        if self.serving is None:
            return None
        if self.offer is None:
            # A state that counts and names no rollout says that everything is open.
            counts = self.serving in (Serving.STATE, Serving.KILLED)
            return None if counts or self.without == "all" else Closed.NO_STATE
        if not self.is_open:
            return None
        decision = self.decide(person, groups, region)
        if decision.rule is Rule.KILL:
            return Closed.KILLED
        if decision.rule is Rule.NO_STATE:
            return Closed.NO_STATE
        if decision.variant is Variant.CANDIDATE:
            return None
        return Closed.NO_PERSON if person is None and decision.rule is not Rule.NEVER else Closed.NOT_MEMBER

    def decide(self, unit: bytes | None, groups: Iterable[str], region: str) -> Decision:
        """What a unit gets: a person (`ru`) of an open rollout, a call's id of a release; there is one.

        `unit` None: somebody without a number, who is in a share only if everybody is.
        """
        assert self.offer is not None  # else there is nothing to decide
        offer = self.offer
        name = unit.hex() if unit is not None else ""
        if self.serving not in (Serving.STATE, Serving.KILLED) and not self.is_killed:
            return Decision(Variant.CONTROL, Rule.NO_STATE, bucket(offer.id, offer.salt, name), 0.0)
        shares = Shares(
            is_killed=self.is_killed,
            never=frozenset(offer.never),
            always=frozenset(offer.always),
            groups=offer.groups,
            regions=offer.regions,
        )
        decision = decide(offer.id, offer.salt, name, shares, region=region, groups=groups)
        if unit is None and decision.rule in _BY_CHANCE and width(decision.pct) < BUCKETS:
            return Decision(Variant.CONTROL, decision.rule, decision.bucket, decision.pct)
        return decision

    def relays(self, region: str, variant: str) -> Mapping[str, tuple[str, ...]]:
        """Those of a region that take calls of this variant: node id to URLs."""
        found = self.routes.get(region)
        if found is None or found.drain:
            return {}
        return {
            id: relay.urls
            for id, relay in found.relays.items()
            if relay.variant == variant and not relay.drain
        }
