"""A call that goes on while its network changes: who hears what when, and whether it still lives.

Must never live here: the changes, the bars.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Final

from lab.gaps import longest_gap
from lab.pair import order_call
from lab.people import Person, PlayerFailedError
from lab.relaybox import RelayBox
from lab.world import World

SILENT_S: Final = 5.0  # one who hears nothing for so long, at the end of a phase, has lost the call


@dataclass
class Talk:
    """Two people talking."""

    world: World
    people: tuple[Person, Person]
    arrivals: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    switches: list[dict[str, Any]] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    """Addresses by which the relay saw the first of the two, one after the other."""
    stands: dict[str, Any] = field(default_factory=dict)
    """What carries for the first of the two, as its SDK says: `up`, `down`."""
    lost: str | None = None
    """Why the call is over, if it is."""

    @classmethod
    def begin(
        cls, world: World, box: RelayBox, people: tuple[Person, Person], *, relay_only: bool = False
    ) -> Talk:
        """Connect, accept, hear each other. PlayerFailedError if that much fails."""
        for person in people:
            person.site.forget(world.net)
            person.sync()
        call = secrets.token_bytes(16)
        for person in people:
            order_call(box, person, call, relay_only=relay_only)
        for answer in ("ready", "keys"):
            for person in people:
                person.wait(answer)
        for person in people:
            person.ask("accept", "accepted")
        for person in people:
            person.wait("heard")
        return cls(world, people)

    def collect(self) -> None:
        """Fetch what arrived since the last time."""
        for person, arrivals in zip(self.people, self.arrivals, strict=True):
            try:
                found = person.ask("arrivals", "arrivals")
                state = person.ask("count", "count")
            except PlayerFailedError as error:
                self.lost = self.lost or f"{person.site.kind}: {error}"
                continue
            arrivals += found["times"]
            if person is self.people[0]:
                self.stands = {"up": state["up"], "down": state["down"]}
                if state["seen"] not in self.seen[-1:]:
                    self.seen.append(state["seen"])
            self.switches += [{"side": person.site.side, **one} for one in found["switches"]]
            if state["why"] or state["error"]:
                self.lost = self.lost or f"{person.site.kind}: {state['why']} {state['error']}"

    def check_alive(self, ears: tuple[int, ...] = (0, 1)) -> None:
        """Whether all who should have heard something lately."""
        now = time.monotonic()
        for ear in ears:
            if not self.arrivals[ear] or now - self.arrivals[ear][-1] > SILENT_S:
                self.lost = self.lost or f"{self.people[ear].site.kind}: nothing heard for {SILENT_S:g} s"

    def gap(self, begin: float, end: float, ears: tuple[int, ...] = (0, 1)) -> float:
        """The longest silence in anybody's ear around begin..end, seconds."""
        return max(longest_gap(self.arrivals[ear], begin, end) for ear in ears)

    def hang_up(self) -> None:
        """The end; one who is gone already is told nothing."""
        for person in self.people:
            try:
                person.order("hangup")
            except PlayerFailedError as error:
                self.lost = self.lost or str(error)
