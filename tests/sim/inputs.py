"""What the fleet simulator reckons with: measured figures, each with where it was measured, and assumptions.

Measured ones change by running what `where` names; assumptions are yours to replace (`--set NAME=VALUE`).
Must never live here: a formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

LANE = "./scripts/bench lane, full run with every bar held, 2 shared cores (EPYC), one lane thread"
LOOP = "tests/sim/loopcost.py, median of 3 runs, 2 shared cores (EPYC), 40 legs, 1,600 datagrams/s"
CRASH = "./scripts/lab restart --stage crash, 20 kills under 300 calls"
TRIAL = "a trial on loopback, nats-server 2.9.10, two domains"
GUESS = "a guess: replace it"
TEXT = "docs/protocol.md, trunks: no node speaks them yet"


@dataclass(frozen=True, slots=True)
class Input:
    """One figure."""

    value: float
    unit: str
    where: str = GUESS


MEASURED: Final[dict[str, Input]] = {
    "lane_us_per_packet": Input(
        5.11, "us of the daemon per audio packet, in and out", LANE + "; 1,000 legs, 50,000/s"
    ),
    "many_legs_cost": Input(1.138, "times as much with 2,000 legs as with 100", LANE),
    "repair_lane_us": Input(0.73, "us more of the lane per packet to a leg that loses 5 %", LANE),
    "repair_loop_us": Input(3.01, "us more of the other threads per packet to such a leg", LANE),
    "leg_bytes": Input(49_709, "bytes of resident memory a leg", LANE),
    "join_us": Input(3_424, "us of the loop: handshake, token, hello, join, away", LOOP),
    "handshake_us": Input(
        1_355, "us of the loop: a handshake alone", "docs/architecture.md, Handshakes: 738 a CPU-s"
    ),
    "rejoin_us": Input(
        6_000, "us of the loop: who comes back, all in all", "relay/core/remembering.py EACH_S"
    ),
    "ping_loop_us": Input(23.2, "us of the loop per ping that is answered", LOOP),
    "ping_lane_us": Input(12.8, "us of the lane per ping", LOOP),
    "report_loop_us": Input(36.7, "us of the loop per leg report", LOOP),
    "report_lane_us": Input(14.2, "us of the lane per leg report", LOOP),
    "rr_loop_us": Input(165.5, "us of the loop per receiver report, passed on", LOOP),
    "rr_lane_us": Input(16.2, "us of the lane per receiver report", LOOP),
    "tickets_loop_us": Input(
        23, "us of the loop a second and leg: tickets", "docs/architecture.md, Reading in batches; 1,000 legs"
    ),
    "ready_s": Input(0.409, "s from exec to READY, median", CRASH),
    "ready_worst_s": Input(0.472, "s, the worst", CRASH),
    "hop_ms": Input(1.5, "ms from a put at the hub to a watch at a leaf", TRIAL),
    "hub_back_s": Input(0.97, "s from the hub's return to a kill key at the leaf", TRIAL),
}

FACTS: Final[dict[str, Input]] = {  # of the code and its defaults
    "wire_bytes": Input(
        157, "bytes of UDP payload of a packet with 120 bytes of audio", "tests/load/generator.py WIRE"
    ),
    "pings_per_s": Input(
        5, "pings of a calm leg a second", "relay/client/health.py IDLE_S, reports.py PING_S"
    ),
    "reports_per_s": Input(1, "leg reports of a calm leg a second", "relay/client/reports.py CALM_REPORT_S"),
    "rr_per_s": Input(1, "receiver reports a second", "relay/client/reports.py RR_S"),
    "restart_s": Input(0.2, "s until the manager starts it again", "systemd/relay.service RestartSec"),
    "ask_back_ms": Input(
        13, "ms between legs that are asked back after a crash", "relay/core/remembering.py EACH_S"
    ),
    "half_open": Input(512, "handshakes at once", "limits.half_open"),
    "handshake_s": Input(5, "s for a handshake", "limits.handshake_s"),
    "max_legs": Input(10_000, "legs of a node", "limits.legs"),
    "max_calls": Input(5_000, "calls of a node", "limits.calls"),
    "report_every_s": Input(30, "s between looks at health", "relay/ops/region.py EVERY_S"),
    "per_call_stress": Input(
        0.01, "stress of a call placed since a report", "relay/region/rendezvous.py PER_CALL"
    ),
    "drain_share": Input(0.02, "of a region's calls a second", "relay/region/pace.py SHARE"),
}

ASSUMED: Final[dict[str, Input]] = {
    "suspect_s": Input(0.6, "s without an ACK until a standby is asked", TEXT),
    "reread_s": Input(
        1, "s between looks of a daemon at its file", "the rollout's design: not built on this branch"
    ),
    "packets_per_s": Input(50, "audio packets of a person a second: 20 ms, no pauses"),
    "call_s": Input(180, "s that a call lasts, mean"),
    "troubled": Input(0.1, "of the legs are under repair"),
    "across": Input(0.08, "of the calls have people in two regions"),
    "cores": Input(8, "cores of a box"),
    "nodes": Input(1, "daemons on a box, each with a loop of its own"),
    "lane_scaling": Input(
        0.9, "of one lane thread's measured work, with several; strays cost 4 to 6 %, the rest is unmeasured"
    ),
    "memory_gib": Input(16, "GiB of a box"),
    "nic_gbps": Input(10, "Gbit/s of its network, each way"),
    "nic_kpps": Input(1_000, "thousand packets/s that its network card passes, each way"),
    "wire_overhead": Input(66, "bytes of IPv4, UDP, Ethernet, preamble and gap: 20 + 8 + 38"),
    "headroom": Input(0.7, "of any limit is filled on purpose, as `saturation` promises"),
    "placers": Input(20, "processes of back ends that place calls, each with its own count"),
    "list_every_s": Input(10, "s between node lists"),
    "verify_ms": Input(50, "ms until a feed has verified and written a document"),
    "hub_us": Input(20, "us of the hub per subscriber"),
    "box_month": Input(120, "currency units a month and box"),
    "gbit_month": Input(300, "currency units a month and Gbit/s out at peak"),
}

INPUTS: Final = MEASURED | FACTS | ASSUMED


class Figures:
    """The values by name, some of them replaced."""

    def __init__(self, replaced: dict[str, float] | None = None) -> None:
        self._replaced = dict(replaced or {})
        unknown = sorted(set(self._replaced) - set(INPUTS))
        if unknown:
            raise ValueError(f"no input named {', '.join(unknown)}; there are {', '.join(sorted(INPUTS))}")
        for name, one in INPUTS.items():
            setattr(self, name, self._replaced.get(name, one.value))

    def __getattr__(self, name: str) -> float:
        raise AttributeError(name)

    def but(self, **replaced: float) -> Figures:
        """The same with others."""
        return Figures(self._replaced | replaced)

    def listed(self) -> dict[str, Any]:
        """Every input with its unit, and where it comes from."""
        return {
            name: {
                "value": self._replaced.get(name, one.value),
                "unit": one.unit,
                "from": "replaced for this run" if name in self._replaced else one.where,
                "measured": name in MEASURED and name not in self._replaced,
            }
            for name, one in INPUTS.items()
        }


def parse(pairs: list[str]) -> Figures:
    """Of `NAME=VALUE` words. ValueError says which one is wrong."""
    replaced = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            replaced[name] = float(value)
        except ValueError:
            raise ValueError(f"--set {pair}: NAME=NUMBER, please") from None
        if replaced[name] < 0 or replaced[name] != replaced[name]:
            raise ValueError(f"--set {pair}: a number from 0 on, please")
    return Figures(replaced)
