"""The fleet's lab: its distances, the plan that a gate can decide in minutes, and a fleet itself."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from lab import fleet, fleetgate, topology
from lab.fleetgate import Flight, plan
from lab.fleetground import HUB, REGIONS, round_trip_s
from load.report import Report
from relay.rollout.plan import parse_plan
from relay.rollout.stats import newcombe

_MISSING = [tool for tool in topology.TOOLS if shutil.which(tool) is None]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
needs_tools = pytest.mark.skipif(
    bool(_MISSING), reason=f"not installed: {_MISSING}; ./scripts/lab installs them"
)
needs_tun = pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no TUN devices here")
needs_nats = pytest.mark.skipif(fleet.lack() != "", reason=fleet.lack() or "all is there")


def test_regions_are_20_40_and_60_ms_apart_and_no_two_machines_share_an_address() -> None:
    found = sorted(
        round(1000 * round_trip_s(one.name, other.name) / 2)
        for one, other in itertools.combinations(REGIONS, 2)
    )
    assert found == [20, 40, 60]
    hosts = [
        host
        for place in (HUB, *REGIONS)
        for host in (place.server, place.people, place.node(1), place.node(2))
    ]
    assert len(set(hosts)) == len(hosts)


def test_the_plan_is_one_that_may_begin_and_a_hundred_calls_without_a_failure_pass_its_margin() -> None:
    made = parse_plan(json.dumps(plan("lab-x", "ap")), "plan")
    assert [made.share(0, step) for step in range(3)] == [10, 50, 95]
    assert made.gate.first_look == fleetgate.FIRST_LOOK
    assert newcombe((0, fleetgate.FIRST_LOOK), (0, 900), 1.96)[1] < fleetgate.MARGIN
    assert newcombe((0, fleetgate.FIRST_LOOK // 2), (0, 900), 1.96)[1] > fleetgate.MARGIN


def test_what_a_flight_rested_on_is_read_from_the_look_before_each_advance() -> None:
    def look(calls: int, *reasons: str) -> dict[str, object]:
        rows = [{"name": "first_audio", "nt": 7}, {"name": "setup_fail", "nt": calls}]
        told = [{"reason": each} for each in reasons]
        return {"event": "look", "guardrails": rows, "reasons": told, "nodes": []}

    events = [look(40, "few"), look(120), {"event": "advance", "text": "50 %"}, look(30, "baking", "few")]
    flight = Flight(10, 60.0, events)
    assert flight.candidate_calls() == [120]
    assert flight.reasons == ["baking", "few"]
    assert Flight(30, 1.0).reasons == []


@needs_root
@needs_tools
@needs_tun
@needs_nats
@pytest.mark.timeout(300)
def test_calls_are_heard_in_regions_across_them_and_over_trunks_and_nothing_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))  # for people, processes of their own
    out = Report("fleet", seed=1, quick=True)
    fleet.run(out, Namespace(seed=1, quick=True, calls=None), ("calls", "trunk"))
    assert out.holds  # what each bar came to stands on stderr
