"""One pair of a real lab: networks stand, are what they are called, carry a call, and are gone afterwards."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lab import topology
from lab.pair import judge, place
from lab.people import Person, rung_of
from lab.relaybox import RelayBox
from lab.world import World

RUNGS = ["quic-443", "quic-443"]
_MISSING = [tool for tool in topology.TOOLS if shutil.which(tool) is None]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
needs_tools = pytest.mark.skipif(
    bool(_MISSING), reason=f"not installed: {_MISSING}; ./scripts/lab installs them"
)
needs_tun = pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no TUN devices here")


@needs_root
@needs_tools
@needs_tun
def test_two_homes_talk_in_the_lab_and_nothing_stays_behind() -> None:
    with World.build(1, [("port-restricted", "a"), ("symmetric", "b")]) as world:
        box = RelayBox.start(world)
        first, second = (Person(world.net, site) for site in world.sites.values())
        outcome = place(world, box, (first, second))
        if outcome.rungs != RUNGS:  # a busy machine may decide that race; once more, and then it counts
            outcome = place(world, box, (first, second))
        net = world.net
    assert outcome.error is None
    assert outcome.connected
    assert outcome.rungs == RUNGS
    assert min(outcome.ready_ms) > 100  # two round trips of 50 ms at the least
    assert net.leftovers() == []


def test_flows_are_told_apart_by_their_far_end() -> None:
    assert rung_of("11.1.1.1", "udp", 443) == "quic-443"
    assert rung_of("64:ff9b::b01:101", 17, 3478) == "quic-3478"
    assert rung_of("192.168.1.1", "tcp", 3128) == "ws-443"
    assert rung_of("11.2.3.2", "udp", 443) == "direct"


def test_a_path_is_direct_only_while_the_relay_is_quiet() -> None:
    assert judge({"direct": 18_000, "quic-443": 1_000}, relay_bytes=2_000) == "direct"
    assert judge({"direct": 18_000, "quic-443": 17_000}, relay_bytes=18_000) == "both"
    assert judge({"direct": 1_000, "quic-443": 17_000}, relay_bytes=18_000) == "quic-443"
    assert judge({}, relay_bytes=0) is None
