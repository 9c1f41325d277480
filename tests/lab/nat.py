"""`./scripts/lab nat`: a call between every pair of networks; each must connect, by the best rung there is.

The table of expected rungs is expected.py; the networks are verified by tools that are not ours before the
first call; counters of the kernel say which way the audio went. Must never live here: building, calling.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from lab import topology
from lab.control import BUSY_S, PLACES, Control
from lab.expected import NETWORKS, is_direct
from lab.pair import Outcome, place
from lab.people import Person
from lab.relaybox import RelayBox
from lab.turn import KINDS, relay_over_tls
from lab.turns import AT_ONCE, Pair, Turns
from lab.verify import verify
from lab.world import World
from load import report

FIRST_AUDIO_MS: Final = 250.0
READY_MS: Final = 600.0
READY_TCP_MS: Final = 2000.0
VOIDS: Final = 2


def pairs(quick: bool) -> list[Pair]:
    """All of the grid; in the quick form each network beside a home's NAT, and beside its neighbour."""
    kinds = list(NETWORKS)
    if not quick:
        return [(a, b) for a in kinds for b in kinds]
    beside = [(kind, "port-restricted") for kind in kinds]
    return beside + [(kinds[i - 1], kind) for i, kind in enumerate(kinds)]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that `share` of all do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def judge(result: report.Report, outcomes: Sequence[Outcome]) -> None:
    """The bars of the grid."""
    direct = [one for one in outcomes if is_direct(one.a, one.b)]
    ready: dict[bool, list[float]] = {True: [], False: []}
    for one in outcomes:
        for kind, ms in zip((one.a, one.b), one.ready_ms, strict=False):
            ready[NETWORKS[kind].leg == "ws-443"].append(ms)
    heard = [ms for one in outcomes for ms in one.first_audio_ms]
    result.bar("pairs_connected_share", _share(outcomes, [one.connected for one in outcomes]), "==", 1)
    result.bar("pairs_on_the_best_rung_share", _share(outcomes, [one.is_best for one in outcomes]), "==", 1)
    found = [one.connected and one.rungs == ["direct", "direct"] for one in direct]
    result.bar("direct_paths_found_share", _share(direct, found), "==", 1)
    result.bar("accept_to_first_audio_p95_ms", percentile(heard, 0.95), "<=", FIRST_AUDIO_MS, is_speed=True)
    result.bar("connect_to_ready_p95_ms", percentile(ready[False], 0.95), "<=", READY_MS, is_speed=True)
    result.bar(
        "connect_to_ready_without_udp_p95_ms",
        percentile(ready[True], 0.95),
        "<=",
        READY_TCP_MS,
        is_speed=True,
    )


def _share(of: Sequence[Any], held: Sequence[bool]) -> float | None:
    return sum(held) / len(of) if of else None


def _place(
    world: World, box: RelayBox, people: tuple[Person, Person], control: Control, voids: list[dict[str, Any]]
) -> Outcome:
    """Place the call; again, twice at most, if it missed while the control fell silent as well."""
    while True:
        began = time.monotonic()
        one = place(world, box, people)
        gap = control.gap(began)
        tried = sum((void["a"], void["b"]) == (one.a, one.b) for void in voids)
        if one.is_best or one.unavailable or gap <= BUSY_S or tried == VOIDS:
            return one
        voids.append({**one.as_dict(), "control_gap_ms": 1000 * gap})


def _needs(world: World, pair: Pair) -> frozenset[str]:
    """What no other call may use meanwhile: both places, and the addresses that the internet sees of them."""
    sites = world.sites[pair[0], "a"], world.sites[pair[1], "b"]
    return frozenset(name for site in sites for name in (site.client, site.wan))


def main() -> int:
    """Run, print, tell by the exit status."""
    parser = report.arguments("nat", __doc__)
    parser.add_argument("--kinds", help="only these networks, by commas (all)")
    arguments = parser.parse_args()
    topology.refuse_unless_possible()
    topology.limit_time()
    chosen = arguments.kinds.split(",") if arguments.kinds else list(NETWORKS)
    if unknown := set(chosen) - set(NETWORKS):
        parser.error(f"no network named {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    grid = [pair for pair in pairs(arguments.quick) if set(pair) <= set(chosen)]
    result = report.Report("nat", seed=arguments.seed, quick=arguments.quick)
    sites = sorted({(a, "a") for a, _ in grid} | {(b, "b") for _, b in grid} | {*PLACES})
    outcomes: list[Outcome] = []
    voids: list[dict[str, Any]] = []
    with World.build(arguments.seed, sites) as world:
        report.say(f"{len(sites)} places stand; asking coturn and stun-client what they are ...")
        findings = verify(world)
        for finding in findings:
            if not finding["ok"]:
                report.say(f"  {finding['kind']} {finding['side']}: {finding['wrong']}")
        result.bar("networks_verified_share", _share(findings, [one["ok"] for one in findings]), "==", 1)
        box = RelayBox.start(world)
        relayed = [relay_over_tls(world, world.sites[kind, "a"]) for kind in chosen if kind in KINDS]
        if relayed:
            through = [one["ok"] for one in relayed]
            result.bar("turn_over_tls_on_443_share", _share(relayed, through), "==", 1)
        control = Control(world, box)
        places = [place_ for place_ in world.sites if place_ not in PLACES]
        people = {place_: Person(world.net, world.sites[place_]) for place_ in places}
        rungs = next(iter(people.values())).rungs
        missing = sorted({"direct", *(network.leg for network in NETWORKS.values())} - set(rungs))
        report.say(f"the SDK climbs {', '.join(rungs)}; not available: {', '.join(missing) or 'nothing'}")
        turns = Turns(grid, partial(_needs, world))

        def call_in_turn() -> None:
            while (pair := turns.begin()) is not None:
                try:
                    one = _place(world, box, (people[pair[0], "a"], people[pair[1], "b"]), control, voids)
                except BaseException:
                    turns.stop()
                    raise
                finally:
                    turns.end(pair)
                outcomes.append(one)
                report.say(f"  {len(outcomes)}/{len(grid)} {one.told()}")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for job in [pool.submit(call_in_turn) for _ in range(AT_ONCE)]:
                job.result()
        world.net.close()
        leftovers = world.net.leftovers()
    judge(result, outcomes)
    result.bar("namespaces_left_behind", len(leftovers), "==", 0)
    result.detail(
        rungs_available=rungs,
        rungs_not_available=missing,
        networks=findings,
        turn_over_tls_on_443=relayed,
        pairs=[one.as_dict() for one in outcomes],
        voids=voids,
        lane=box.lane,
        load_average=os.getloadavg(),
    )
    return result.finish(as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
