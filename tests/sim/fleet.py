"""A million calls over three hundred boxes: what is full first, and what happens when something ends.

    a day       regions with day curves, placement by weight with health that is up to 30 s old
    limits      of a box, by formulas over measured figures; how many boxes that asks for
    accidents   a box dies, a process crashes, a region leaves, a rollout is stopped

No bar judges the fleet asked about: how full it would be is the answer. Bars are about the fleet that the
first limit asks for, and about the model. docs/scale.md has the figures and what they mean.
Must never live here: figures (inputs.py), formulas (box.py), what happens (world.py, accidents.py).
"""

from __future__ import annotations

import math
import sys
from typing import Any, Final

from load import report
from sim import accidents, box, world
from sim.inputs import INPUTS, Figures, parse

CALLS, QUICK_CALLS = 1_000_000, 100_000
BOXES, QUICK_BOXES = 300, 30
LEAST_BOXES: Final = 2 * len(world.PLACES)
KILL_S, BACK_S, HASH = 5.0, 10.0, 0.01


def at_peak(calls: int, boxes: int) -> float:
    """Calls on a box when its own region is busiest, which is not when the world is."""
    _, together = world.busiest()
    return calls * sum(place.share for place in world.PLACES) / together / boxes


def needed(calls: int, given: Figures) -> int:
    """Boxes for so many calls with the headroom; one more a region for rounding."""
    return max(LEAST_BOXES, math.ceil(at_peak(calls, 1) / box.carries(given)) + len(world.PLACES))


def sized(calls: int, boxes: int, given: Figures) -> dict[str, Any]:
    """How full a box of this fleet is when its region is busiest."""
    load = box.steady(at_peak(calls, boxes), given)
    name, full = box.first_limit(load, given)
    return {
        "boxes": boxes,
        "nodes_per_box": int(given.nodes),
        "calls_per_box": round(load.calls),
        "first_limit": name,
        "filled": round(full, 3),
        "full": {what: round(how, 3) for what, how in box.use(load, given).items()},
        "boxes_needed": needed(calls, given),
        "cost_per_1000_calls": cost(calls, needed(calls, given), given),
    }


def cost(calls: int, boxes: int, given: Figures) -> dict[str, float]:
    """Of a thousand calls at once, a month, in the unit of the inputs."""
    gbits = calls * 2 * given.packets_per_s * (given.wire_bytes + given.wire_overhead) * 8 / 1e9
    machines, traffic = boxes * given.box_month, gbits * given.gbit_month
    parts = {"boxes": machines, "traffic": traffic, "all": machines + traffic}
    return {name: round(1e3 * each / calls, 2) for name, each in parts.items()}


def day(
    out: report.Report, calls: int, boxes: int, given: Figures, *, seed: int, quick: bool
) -> dict[str, Any]:
    """Calls come and go; what placement makes of it."""
    busiest, _ = world.busiest()
    begin, seconds, tick = (
        (busiest - 600, 1_200.0, world.TICK_S) if quick else (0.0, 86_400.0, world.COARSE_S)
    )
    report.say(f"{boxes} boxes of {given.nodes:.0f} nodes, {seconds / 3600:.1f} h of calls")
    lived = world.live(calls, boxes, given, seed=seed, begin=begin, seconds=seconds, tick_s=tick)
    report.say("half an hour with a lighter placed call")
    lighter = given.but(per_call_stress=given.placers / (2 * box.carries(given, 1.0)))
    other = world.live(
        calls, boxes, lighter, seed=seed, begin=busiest, seconds=600 if quick else 1_800, tick_s=world.TICK_S
    )
    even = {f"n{number}": 1.0 if number % 2 else 0.5 for number in range(20)}
    out.bar("calls out of balance", lived.imbalance, "==", 0)
    out.bar("drawn by weight against hashed ids, largest difference", world.hashed(even, 20_000), "<=", HASH)
    out.bar("fullest box over its region's mean", lived.worst_lean, "<=", round(1 / given.headroom, 3))
    return {
        "hours": round(seconds / 3600, 2),
        "calls_begun": lived.begun,
        "most_at_once": lived.most,
        "fullest_box_over_mean": round(lived.worst_lean, 3),
        "fullest_percent": dict(lived.fullest.most_common()),
        "regions": lived.regions,
        "lighter_placed_call": {
            "stress": lighter.per_call_stress,
            "fullest_box_over_mean": round(other.worst_lean, 3),
        },
    }


def accident(
    out: report.Report, calls: int, boxes: int, given: Figures, *, seed: int, quick: bool
) -> dict[str, Any]:
    """Things end while every region is at its busiest."""
    report.say("accidents")
    regions = world.share_out(boxes)
    leaving, nearest = largest_and_nearest(regions)
    nodes = int(given.nodes)
    each = round(at_peak(calls, boxes))
    busy = box.use(box.steady(each, given), given)["event loop"]
    of_region = 2 * each * regions[leaving]

    def storm(legs: int, onto: int) -> dict[str, Any]:
        return accidents.storm(legs, onto * nodes, given, busy=busy, seed=seed)

    died = {
        "a box": storm(2 * each, regions[leaving] - 1),
        "a region, all others take it": storm(of_region, boxes - regions[leaving]),
        "a region, the nearest takes it": storm(of_region, regions[nearest]),
    }
    left = accidents.drain([each] * regions[leaving], regions[nearest] * nodes, given, busy=busy)
    stopped = accidents.stop(boxes, given, seed=seed, runs=20 if quick else 200)
    most = left["most_in_a_second"] / left["calls"]
    out.bar("a box dies: 99 of 100 legs are back, s", died["a box"]["back_p99_s"], "<=", BACK_S)
    out.bar("a region leaves: most calls in a second, of all", most, "<=", given.drain_share)
    out.bar("a rollout is stopped on all boxes, worst, s", stopped["all_stopped_worst_s"], "<=", KILL_S)
    return {
        "loop_before": round(busy, 3),
        "died": died,
        "crashed": accidents.crash(2 * each // nodes, given, busy=busy),
        "left": {"region": leaving, "to": nearest, **left},
        "stopped": stopped,
    }


def largest_and_nearest(regions: dict[str, int]) -> tuple[str, str]:
    """The region with most boxes, and the nearest other one."""
    places = {place.name: place for place in world.PLACES}
    largest = max(regions, key=lambda one: regions[one])
    others = [name for name in regions if name != largest]
    return largest, min(others, key=lambda one: world.round_trip_s(places[largest], places[one]))


def main(words: list[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = report.arguments("fleet", __doc__)
    parser.prog = "sim fleet"
    parser.add_argument(
        "--calls", type=int, default=0, help=f"at once, when most talk (default {CALLS}, quick {QUICK_CALLS})"
    )
    parser.add_argument(
        "--boxes",
        type=int,
        default=0,
        help=f"of the fleet asked about (default {BOXES}, quick {QUICK_BOXES})",
    )
    parser.add_argument(
        "--spare", default="", metavar="KINDS", help="of ping,leg_report,rr: these never reach the loop"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another value of an input"
    )
    parser.epilog = "inputs: " + ", ".join(INPUTS)
    args = parser.parse_args(words)
    args.calls = args.calls or (QUICK_CALLS if args.quick else CALLS)
    args.boxes = args.boxes or (QUICK_BOXES if args.quick else BOXES)
    try:
        given = box.spare(parse(args.set), [kind for kind in args.spare.split(",") if kind])
        if args.calls < 1_000 or args.boxes < LEAST_BOXES:
            raise ValueError(f"--calls from 1000 on, --boxes from {LEAST_BOXES} on (two a region)")
    except ValueError as error:
        parser.error(str(error))
    is_chosen = any(pair.startswith("nodes=") for pair in args.set)
    chosen = given if is_chosen else box.best(given)
    out = report.Report("fleet", seed=args.seed, quick=args.quick)
    asked = {
        "as given": sized(args.calls, args.boxes, given),
        "most nodes": sized(args.calls, args.boxes, chosen),
    }
    for name, one in asked.items():
        report.say(f"{name}: {one['boxes']} boxes: {one['first_limit']} {one['filled']:.2f} full")
    enough = needed(args.calls, chosen)
    lived = day(out, args.calls, enough, chosen, seed=args.seed, quick=args.quick)
    ended = accident(out, args.calls, enough, chosen, seed=args.seed, quick=args.quick)
    spared = {}
    for kinds in (["rr"], ["rr", "ping"], ["rr", "ping", "leg_report"]):
        one = box.spare(given, kinds)
        spared[", ".join(kinds)] = sized(args.calls, args.boxes, one if is_chosen else box.best(one))
    out.detail(
        asked=asked,
        box={"at_headroom": box.capacity(chosen, chosen.headroom), "when_full": box.capacity(chosen, 1.0)},
        fleet={"boxes": enough, "calls_per_box": box.carries(chosen), "nodes_per_box": int(chosen.nodes)},
        day=lived,
        accidents=ended,
        nats=accidents.messages(enough, chosen),
        trunks=accidents.trunks(args.calls, enough, chosen),
        if_the_loop_were_spared=spared,
        inputs=chosen.listed(),
    )
    return out.finish(as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
