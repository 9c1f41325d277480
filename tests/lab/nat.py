"""`./scripts/lab nat`: a call between every pair of networks; each must connect, by the best rung there is.

The table of expected rungs is expected.py; the networks are verified by tools that are not ours before the
first call; counters of the kernel say which way the audio went. Must never live here: building, calling.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from lab import topology
from lab.expected import NETWORKS, is_direct
from lab.pair import Outcome, place
from lab.people import Person
from lab.relaybox import RelayBox
from lab.verify import verify
from lab.world import World
from load import report

FIRST_AUDIO_MS: Final = 250.0
READY_MS: Final = 600.0
READY_TCP_MS: Final = 2000.0
Pair = tuple[str, str]


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


def main() -> int:
    """Run, print, tell by the exit status."""
    parser = report.arguments("nat", __doc__)
    parser.add_argument("--kinds", help="only these networks, by commas (all)")
    arguments = parser.parse_args()
    topology.refuse_unless_possible()
    topology.limit_time()
    chosen = arguments.kinds.split(",") if arguments.kinds else list(NETWORKS)
    grid = [pair for pair in pairs(arguments.quick) if set(pair) <= set(chosen)]
    result = report.Report("nat", seed=arguments.seed, quick=arguments.quick)
    sites = sorted({(a, "a") for a, _ in grid} | {(b, "b") for _, b in grid})
    outcomes: list[Outcome] = []
    with World.build(arguments.seed, sites) as world:
        report.say(f"{len(sites)} places stand; asking coturn and stun-client what they are ...")
        findings = verify(world)
        for finding in findings:
            if not finding["ok"]:
                report.say(f"  {finding['kind']} {finding['side']}: {finding['wrong']}")
        result.bar("networks_verified_share", _share(findings, [one["ok"] for one in findings]), "==", 1)
        box = RelayBox.start(world)
        people = {place_: Person(world.net, site) for place_, site in world.sites.items()}
        rungs = next(iter(people.values())).rungs
        missing = sorted({"direct", *(network.leg for network in NETWORKS.values())} - set(rungs))
        report.say(f"the SDK climbs {', '.join(rungs)}; not available: {', '.join(missing) or 'nothing'}")
        for number, (a, b) in enumerate(grid, 1):
            one = place(world, box, (people[a, "a"], people[b, "b"]))
            outcomes.append(one)
            report.say(f"  {number}/{len(grid)} {one.told()}")
        world.net.close()
        leftovers = world.net.leftovers()
    judge(result, outcomes)
    result.bar("namespaces_left_behind", len(leftovers), "==", 0)
    result.detail(
        rungs_available=rungs,
        rungs_not_available=missing,
        networks=findings,
        pairs=[one.as_dict() for one in outcomes],
        lane=box.lane,
        load_average=os.getloadavg(),
    )
    return result.finish(as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
