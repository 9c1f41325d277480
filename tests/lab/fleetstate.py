"""Stages of `./scripts/lab fleet` about the state that all nodes share.

    hub      nothing comes to the hub or from it for a while, under calls, while something new is signed there
    drain    a region is marked in the signed routes: its calls go elsewhere
    kill     a rollout is switched off, by the store and by files of nodes that the hub cannot reach

Must never live here: what people do (fleetpeople.py), rollouts that a gate decides (fleetgate.py).
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any, Final

from lab.fleetground import REGIONS
from lab.fleetnode import FleetNode, new_call, until
from lab.fleetnodes import Fleet
from lab.fleetpeople import QUICK_S, People, call_of, place
from load import report
from load.daemon import total

CUT_S, QUICK_CUT_S = 30.0, 5.0
HEAL_S: Final = 60.0
SETTLE_S: Final = 2.0  # words are said each 0.1 s
KNOWN_S: Final = 20.0  # until all nodes have what was put: no bar, it has to be there
CALLS, QUICK_CALLS = 4, 1
DRAINED, QUICK_DRAINED = 10, 2  # calls at each node of the region
DRAIN_S: Final = 60.0
KILL_S: Final = 5.0
MOVED_S: Final = 15.0
SWITCHED: Final = "relay_state_serving"


def hub(fleet: Fleet, out: report.Report, arguments: Namespace) -> None:
    """A black hole between the hub and all regions."""
    count = QUICK_CALLS if arguments.quick else CALLS
    cut_s = QUICK_CUT_S if arguments.quick else CUT_S
    people = {region.name: People(fleet, region.name) for region in REGIONS}
    try:
        placed = _place_at(fleet, people, count)
        before = fleet.revisions()
        fleet.ground.cut()
        began = time.monotonic()
        # What is signed now would give everybody the candidate. Nobody must hear of it before it heals.
        everybody = {region.name: 100 for region in REGIONS}
        rev = fleet.desk.put("while the hub is cut off", rollout=_offer("lab-cut", everybody))
        status, _ = fleet.desk.relay(
            *("state", "put", "--key", fleet.desk.key, "--why", "at a leaf, meanwhile"),
            at=fleet.nodes[0],
            is_needed=False,
        )
        placed += _place_at(fleet, people, count)
        time.sleep(max(0.0, began + cut_s - time.monotonic()))
        during, ages = fleet.revisions(), [node.figure("relay_state_age_seconds") for node in fleet.nodes]
        lasted = time.monotonic() - began
        fleet.ground.heal()
        took = fleet.until_all({"relay_state_revision": float(rev)}, HEAL_S)
        time.sleep(SETTLE_S)
        looks = [one for child in people.values() for one in child.look()]
    finally:
        fleet.ground.heal()
        for child in people.values():
            child.stop()
    out.bar("hub_calls_lost", placed - sum(one["alive"] for one in looks) // 2, "==", 0)
    out.bar("hub_words_lost", sum(one["lost"] for one in looks), "==", 0, is_speed=True)
    changed = sum(then != now for then, now in zip(before, during, strict=True))
    out.bar("hub_nodes_with_another_state_while_it_was_cut", changed, "==", 0)
    out.bar("hub_status_of_a_write_at_a_leaf_meanwhile", status, "==", 1)
    out.bar("hub_all_nodes_have_the_newest_state_after_s", took, "<=", HEAL_S)
    oldest = max(age or 0.0 for age in ages)
    out.detail(hub={"cut_s": round(lasted, 1), "calls": placed, "oldest_state_s": oldest})
    _offer_nothing(fleet)


def drain(fleet: Fleet, out: report.Report, arguments: Namespace) -> None:
    """A whole region is left, and comes back."""
    count, region = QUICK_DRAINED if arguments.quick else DRAINED, "us"
    people = People(fleet, region)
    left = fleet.of(region)
    try:
        urls = [node.url for node in left for _ in range(count)]
        made = [one for url in urls for one in call_of(fleet, new_call(), url, every=QUICK_S)]
        failed = place([(people, made)])
        people.ask("since", at=time.monotonic())
        away = {node.address for node in left}
        began = time.monotonic()
        fleet.desk.put_routes("the region is left", drained=region)
        took = until(lambda: not {one["host"] for one in people.look()} & away, DRAIN_S)
        pace = time.monotonic() - began
        time.sleep(SETTLE_S)
        looks = people.look()
        states = [node.health().get("drain") for node in left]
        here = [total(node.metrics(), "relay_calls") for node in left]
        directory, now = fleet.directory(), time.monotonic()
        homes = [directory.place(new_call().hex(), "control", {region: 0.0}, now) for _ in range(8)]
        fleet.desk.put_routes("and comes back")
        back = until(lambda: all(node.health().get("drain") == "running" for node in left), KNOWN_S)
    finally:
        people.stop()
    out.bar("drain_calls_lost", 2 * count - sum(one["alive"] for one in looks) // 2, "==", 0)
    out.bar("drain_calls_elsewhere_after_s", took, "<=", DRAIN_S)
    # One of a node's few calls is asked each second: 2 % of 50 and more.
    out.bar("drain_seconds_for_calls_asked_one_a_second", pace, ">=", count - 1)
    out.bar("drain_words_lost", sum(one["lost"] for one in looks), "==", 0, is_speed=True)
    out.bar("drain_nodes_that_are_emptying", states.count("emptying"), "==", len(left))
    out.bar("drain_calls_left_there", sum(here), "==", 0)
    at_home = [found for found in homes if found is None or found.home.region == region]
    out.bar("drain_new_calls_that_would_go_there", len(at_home), "==", 0)
    out.bar("drain_nodes_take_calls_again_after_s", back, "<=", KNOWN_S)
    out.detail(drain={"calls": 2 * count, "moves_most": max(one["moves"] for one in looks), "failed": failed})


def kill(fleet: Fleet, out: report.Report, arguments: Namespace) -> None:
    """By `relay rollout kill`, which moves calls; then by files, with the hub cut off, which ends them."""
    count = QUICK_CALLS if arguments.quick else CALLS
    box, [other] = fleet.candidate, fleet.of(fleet.candidate.place.name)

    def by_store() -> float:
        began = time.monotonic()
        fleet.desk.relay("rollout", "kill", "lab-move", "--why", "the lab wants to know how long it takes")
        return began

    def are_moved(looks: list[dict[str, Any]]) -> bool:
        return all(one["host"] == other.address for one in looks)

    took, moved, looks = _kill_under_calls(fleet, count, "lab-move", "move", by_store, are_moved)
    out.bar("kill_last_node_obeys_after_s", took, "<=", KILL_S)
    out.bar("kill_running_calls_moved_after_s", moved, "<=", MOVED_S)
    out.bar("kill_calls_lost", count - sum(one["alive"] for one in looks) // 2, "==", 0)

    def by_files() -> float:
        fleet.ground.cut()
        began = time.monotonic()
        for node in fleet.nodes:
            (node.folder / "kill").write_text("lab-end\n")
        return began

    def have_ended(looks: list[dict[str, Any]]) -> bool:
        return all(one["state"] == "ENDED" for one in looks)

    try:
        took, ended, looks = _kill_under_calls(fleet, count, "lab-end", "end", by_files, have_ended)
    finally:
        fleet.ground.heal()
        for node in fleet.nodes:
            (node.folder / "kill").unlink(missing_ok=True)
    out.bar("kill_by_file_without_hub_last_node_obeys_after_s", took, "<=", KILL_S)
    out.bar("kill_by_file_running_calls_ended_after_s", ended, "<=", MOVED_S)
    whys = sorted({str(one["why"]) for one in looks})
    out.bar("kill_by_file_calls_ended_as_completed", int(whys == ["completed"]), "==", 1)
    alive = fleet.until_all({f'{SWITCHED}{{why="killed"}}': 0.0}, KNOWN_S)
    out.bar("kill_nodes_without_the_file_serve_again_after_s", alive, "<=", KNOWN_S)
    out.detail(kill={"calls": count, "box": box.id, "whys": whys})
    _offer_nothing(fleet)


def _kill_under_calls(
    fleet: Fleet,
    count: int,
    id: str,
    on_kill: str,
    do: Callable[[], float],
    is_done: Callable[[list[dict[str, Any]]], bool],
) -> tuple[float | None, float | None, list[dict[str, Any]]]:
    """A rollout at 100 % with calls at its box, killed: seconds until all nodes obey, and until calls did."""
    box = fleet.candidate
    rev = fleet.desk.put(f"{id} for everybody there", rollout=_offer(id, {box.place.name: 100}, on_kill))
    served = {"relay_state_revision": float(rev), f'{SWITCHED}{{why="state"}}': 1.0}
    if fleet.until_all(served, HEAL_S) is None:
        raise RuntimeError(f"{id} did not come to all nodes")
    people = People(fleet, box.place.name)
    try:
        made = [one for _ in range(count) for one in call_of(fleet, new_call(), box.url, every=QUICK_S)]
        failed = place([(people, made)])
        if failed:
            raise RuntimeError(f"calls at {box.id}: {failed}")
        began = do()
        obeyed = fleet.until_all({f'{SWITCHED}{{why="killed"}}': 1.0}, KNOWN_S)
        took = None if obeyed is None else time.monotonic() - began
        done = until(lambda: is_done(people.look()), MOVED_S)
        moved = None if done is None else time.monotonic() - began
        time.sleep(SETTLE_S)
        return took, moved, people.look()
    finally:
        people.stop()


def _offer(id: str, regions: dict[str, int], on_kill: str = "move") -> dict[str, Any]:
    return {"id": id, "salt": f"{id}-s", "regions": regions, "kind": "release", "on_kill": on_kill}


def _offer_nothing(fleet: Fleet) -> None:
    """No rollout, at all nodes."""
    rev = fleet.desk.put("no rollout", rollout=None)
    fleet.until_all({"relay_state_revision": float(rev)}, HEAL_S)


def _place_at(fleet: Fleet, people: dict[str, People], count: int) -> int:
    """So many calls at a node of each region, and one across; how many. RuntimeError: some are not there."""
    orders: dict[str, list[dict[str, Any]]] = {region.name: [] for region in REGIONS}
    nodes: list[FleetNode] = [fleet.of(region.name)[0] for region in REGIONS]
    for node in nodes:
        for _ in range(count):
            orders[node.place.name] += call_of(fleet, new_call(), node.url, every=QUICK_S)
    for side, made in zip(("us", "ap"), call_of(fleet, new_call(), nodes[0].url, every=QUICK_S), strict=True):
        orders[side].append(made)
    failed = place([(people[region], made) for region, made in orders.items()])
    if failed:
        raise RuntimeError(f"calls: {failed}")
    return count * len(nodes) + 1
