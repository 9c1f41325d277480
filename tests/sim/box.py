"""One box: how full each of its resources is under a load, and how many calls it carries.

Sizing formulas, as in docs/scale.md. Calls are of two. Must never live here: figures (inputs.py), time.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.inputs import Figures

SPARED = {"ping": "pings_per_s", "leg_report": "reports_per_s", "rr": "rr_per_s"}
"""What the loop could be spared, by the input that says how often it comes."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a box has to do."""

    calls: float
    setups_per_s: float
    across: float = 0.0
    """Share of its calls in which one person is at another node: half of their legs are a trunk's."""


def lanes(given: Figures) -> float:
    """Lane threads of a box, in measured ones: what the nodes' loops and one core leave."""
    threads = max(1.0, given.cores - given.nodes - 1)
    return threads * (given.lane_scaling if threads > 1 else 1.0)


def use(load: Load, given: Figures) -> dict[str, float]:
    """How full each resource is; 1 is all of it."""
    # Of a call across, this box has one leg and the trunk: audio passes it as if it had both.
    legs = load.calls * (2 - load.across)
    packets = 2 * load.calls * given.packets_per_s
    bits = packets * (given.wire_bytes + given.wire_overhead) * 8
    control = given.pings_per_s + given.reports_per_s + given.rr_per_s
    loop_us = legs * (
        given.tickets_loop_us
        + given.pings_per_s * given.ping_loop_us
        + given.reports_per_s * given.report_loop_us
        + given.rr_per_s * given.rr_loop_us
        + given.troubled * given.packets_per_s * given.repair_loop_us
    )
    loop_us += 2 * load.setups_per_s * given.join_us
    lane_us = packets * (
        given.lane_us_per_packet * _crowd(legs / given.nodes, given) + given.troubled * given.repair_lane_us
    )
    lane_us += legs * (
        given.pings_per_s * given.ping_lane_us
        + given.reports_per_s * given.report_lane_us
        + given.rr_per_s * given.rr_lane_us
    )
    return {
        "event loop": loop_us / 1e6 / given.nodes,
        "lane threads": lane_us / 1e6 / lanes(given),
        "processor": (loop_us + lane_us) / 1e6 / given.cores,
        "network bits": bits / (given.nic_gbps * 1e9),
        "network packets": (packets + legs * control) / (given.nic_kpps * 1e3),
        "memory": legs * given.leg_bytes / (given.memory_gib * 2**30),
        "limits.legs": legs / given.nodes / given.max_legs,
        "limits.calls": load.calls / given.nodes / given.max_calls,
    }


def _crowd(legs: float, given: Figures) -> float:
    """A packet costs more with more legs: measured between 100 and 2,000, on a straight line beyond both.

    `lane_us_per_packet` is of 1,000 legs.
    """
    slope = (given.many_legs_cost - 1) / 1_900
    return (1 + slope * (legs - 100)) / (1 + slope * 900)


def steady(calls: float, given: Figures) -> Load:
    """So many calls at once, with as many beginning as end."""
    return Load(calls, calls / given.call_s, given.across)


def first_limit(load: Load, given: Figures) -> tuple[str, float]:
    """The fullest resource."""
    return max(use(load, given).items(), key=lambda one: one[1])


def capacity(given: Figures, filled: float) -> dict[str, int]:
    """Calls at which each resource is filled so far, by bisection: not all grow in a straight line."""
    found = {}
    for name in use(steady(1, given), given):
        low, high = 0.0, 1e6
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if use(steady(middle, given), given)[name] <= filled else (low, middle)
        found[name] = int(low)
    return found


def carries(given: Figures, filled: float | None = None) -> int:
    """Calls that a box carries with the headroom asked for."""
    return min(capacity(given, given.headroom if filled is None else filled).values())


def best(given: Figures) -> Figures:
    """The same with as many daemons on a box as carry most; the fewest of equals."""
    choices = [given.but(nodes=float(nodes)) for nodes in range(1, max(2, int(given.cores) - 1))]
    return max(choices, key=lambda one: (carries(one), -one.nodes))


def stress(load: Load, given: Figures) -> float:
    """As a node reports it: relay/ops/stress.py."""
    full = use(load, given)
    return max(full["event loop"], full["lane threads"]) / 0.9


def spare(given: Figures, kinds: list[str]) -> Figures:
    """The same clients, but these kinds never reach the loop. ValueError: no such kind."""
    unknown = sorted(set(kinds) - set(SPARED))
    if unknown:
        raise ValueError(f"--spare {','.join(unknown)}: there are {', '.join(SPARED)}")
    return given.but(**{f"{kind.removeprefix('leg_')}_loop_us": 0.0 for kind in kinds})
