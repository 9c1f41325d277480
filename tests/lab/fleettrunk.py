"""The stage `trunk` of `./scripts/lab fleet`: calls whose people are at nodes of two regions.

    a person at the home -- home ==trunk== guest -- a person at the guest          all words pass the trunk
    cut     nothing passes between the two relays any more; the people's own ways stay
    kill    the home is killed: who sat there and who sits at the guest have to meet elsewhere

What is counted is how long after that a word is heard that was said after it, in each direction. Must never
live here: what people do (fleetpeople.py), nodes and their keys (fleetnodes.py).
"""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any, Final

from lab.fleetground import REGIONS
from lab.fleetnode import FleetNode, new_call, until
from lab.fleetnodes import Fleet
from lab.fleetpeople import People, call_of, place
from lab.nat import percentile
from load import report

CALLS, QUICK_CALLS = 6, 2  # of a pair of regions: all of them move at once, in one process of people
WORD_S: Final = 0.05
TALK_S: Final = 2.0
GIVE_UP_S: Final = 30.0
SHED: Final = 'relay_shedding{what="calls"}'
REFERRED: Final = "relay_people_referred_total"
AFTER_CUT_S: Final = 1.0
AFTER_KILL_S: Final = 2.0

Looks = list[dict[str, Any]]


class Scene:
    """Calls between two nodes of two regions."""

    def __init__(self, fleet: Fleet, home: FleetNode, guest: FleetNode, count: int) -> None:
        self.home, self.guest = home, guest
        self.count = count
        self._at = (home, guest)
        self._people = [People(fleet, node.place.name) for node in self._at]
        try:
            self.failed = self._place(fleet)
            until(lambda: all(one["has_standby"] for one in self.look()), GIVE_UP_S)
            before = [node.figure("relay_media_sent_total") for node in self._at]
            time.sleep(TALK_S)
            self.before = self.look()
            after = [node.figure("relay_media_sent_total") for node in self._at]
            self.sent = [(one or 0.0) - (was or 0.0) for was, one in zip(before, after, strict=True)]
        except BaseException:
            self.end()
            raise

    def _place(self, fleet: Fleet) -> list[str]:
        orders: list[list[dict[str, Any]]] = [[], []]
        for number in range(self.count):
            both = call_of(fleet, new_call(), "", every=WORD_S, after=0.1 * number, home=self.home.id)
            for made, node, mine in zip(both, self._at, orders, strict=True):
                mine.append(made | {"url": node.url})
        return place(list(zip(self._people, orders, strict=True)))

    @property
    def is_ready(self) -> bool:
        """Whether all are heard, each at their own node: then all that is heard came by the trunk."""
        addresses = {0: self.home.address, 1: self.guest.address}
        at_home = sum(one["host"] == addresses[one["side"]] for one in self.before)
        heard = sum(one["first_s"] is not None for one in self.before)
        return at_home == heard == 2 * self.count and min(self.sent) > 0

    def look(self) -> Looks:
        """How all fare."""
        return [one for child in self._people for one in child.look()]

    def after(self, at: float) -> Looks:
        """How they fare when all have heard a word that was said since then, or when that takes too long."""
        for child in self._people:
            child.ask("since", at=at)
        looks: Looks = []

        def are_back() -> bool:
            time.sleep(0.3)
            looks[:] = self.look()
            return all(one["back_s"] is not None for one in looks)

        until(are_back, GIVE_UP_S)
        return looks

    def end(self) -> None:
        """All hang up."""
        for child in self._people:
            child.stop()


def trunk(fleet: Fleet, out: report.Report, arguments: Namespace) -> None:
    """Each pair of regions: heard, cut, healed; and again with a home that is killed."""
    quick: bool = arguments.quick
    first = [fleet.of(region.name)[0] for region in REGIONS]
    # In turn, so that no home of these calls is one that was killed for others.
    pairs = list(zip(first, (*first[1:], first[0]), strict=True))[: 1 if quick else None]
    count = QUICK_CALLS if quick else CALLS
    cuts = [_cut(fleet, out, home, guest, count) for home, guest in pairs]
    kills = [_kill(fleet, out, home, guest, count) for home, guest in pairs]
    _judge(out, "cut", cuts, AFTER_CUT_S)
    _judge(out, "kill", kills, AFTER_KILL_S)
    moved = sum(one["host"] == scene.home.address for scene, looks in cuts for one in looks)
    out.bar("trunk_cut_people_at_the_home", moved, "==", sum(len(looks) for _, looks in cuts))
    split = sum(
        len({one["host"] for one in looks if one["call"] == call}) != 1
        for _, looks in kills
        for call in {one["call"] for one in looks}
    )
    out.bar("trunk_kill_calls_at_two_nodes", split, "==", 0)


def _cut(
    fleet: Fleet, out: report.Report, home: FleetNode, guest: FleetNode, count: int
) -> tuple[Scene, Looks]:
    report.say(f"the trunk between {home.id} and {guest.id} ...")
    scene = Scene(fleet, home, guest, count)
    try:
        fleet.ground.part(home.address, guest.address)
        looks = scene.after(time.monotonic())
        told = sum(value for name, value in guest.metrics().items() if name.startswith(REFERRED))
    finally:
        fleet.ground.join(home.address, guest.address)
        scene.end()
    out.detail(**{f"trunk_cut_{home.id}_{guest.id}": _story(scene, looks) | {"referred": told}})
    return scene, looks


def _kill(
    fleet: Fleet, out: report.Report, home: FleetNode, guest: FleetNode, count: int
) -> tuple[Scene, Looks]:
    report.say(f"the end of {home.id}, home of people at {guest.id} ...")
    scene = Scene(fleet, home, guest, count)
    try:
        killed = time.monotonic()
        home.kill()
        looks = scene.after(killed)
    finally:
        scene.end()
        home.kill()
        home.start("serve")
    out.detail(**{f"trunk_kill_{home.id}_{guest.id}": _story(scene, looks)})
    fleet.until_all({"relay_nodes_listed": float(len(fleet.nodes))}, GIVE_UP_S, [home])
    return scene, looks


def _story(scene: Scene, looks: Looks) -> dict[str, Any]:
    backs = [one["back_s"] for one in looks if one["back_s"] is not None]
    return {
        "calls": scene.count,
        "media_sent": scene.sent,
        "back_p50_s": percentile(backs, 0.5),
        "back_max_s": max(backs, default=None),
        "hosts": sorted({one["host"] for one in looks}),
        # A node that this machine is too small for lets nobody in, those who have to come to it neither.
        "shed": [node.id for node in (scene.home, scene.guest) if node.figure(SHED)],
        "failed": scene.failed,
    }


def _judge(out: report.Report, name: str, scenes: list[tuple[Scene, Looks]], within: float) -> None:
    ready = sum(scene.is_ready for scene, _ in scenes)
    out.bar(f"trunk_{name}_pairs_heard_over_it", ready, "==", len(scenes))
    people = [one for _, looks in scenes for one in looks]
    wanted = sum(2 * scene.count for scene, _ in scenes)
    back = sum(one["alive"] and one["back_s"] is not None for one in people)
    out.bar(f"trunk_{name}_directions_lost", wanted - back, "==", 0)
    backs = [GIVE_UP_S if one["back_s"] is None else one["back_s"] for one in people]
    out.bar(f"trunk_{name}_audio_back_p99_s", percentile(backs, 0.99), "<=", within, is_speed=True)
