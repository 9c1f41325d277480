"""TURN over TLS on port 443, where nothing or little else passes: coturn's client, in namespaces of the lab.

Two allocations of one run talk to each other through the relay. The kernel's counters must show that nothing
but TCP to port 443 of the relay left. Must never live here: the grid's calls.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

from lab.nats import RELAY, Site
from lab.people import flows, rung_of
from lab.relaybox import TURN_SECRET
from lab.topology import LabError
from lab.world import World
from relay.core.credentials import mint

KINDS: Final = ("no-udp", "only-443")
COUNT: Final = 20  # messages of each of the two
_RECEIVED: Final = re.compile(r"tot_recv_msgs=(\d+)")


def relay_over_tls(world: World, site: Site) -> dict[str, Any]:
    """What came of it: messages that arrived, by which way, whether that is what it should be."""
    user, password = mint(f"lab-{site.side}", int(time.time()) + 300, TURN_SECRET.encode())
    command = ["turnutils_uclient", "-v", "-t", "-S", "-X", "-c", "-s", "-y", "-m", "2", "-p", "443"]
    command += ["-n", str(COUNT), "-z", "20", "-u", user, "-w", password, RELAY]
    before = _ways(world, site)
    try:
        said = world.net.run(site.client, command)
    except LabError as error:
        said = str(error)
    ways = sorted(way for way, count in _ways(world, site).items() if count > before.get(way, 0))
    received = max((int(found) for found in _RECEIVED.findall(said)), default=0)
    return {
        "kind": site.kind,
        "received": received,
        "ways": ways,
        "ok": received == 2 * COUNT and ways == ["ws-443"],  # as a flow it looks like WebSocket
    }


def _ways(world: World, site: Site) -> dict[str, int]:
    counted: dict[str, int] = {}
    for address, protocol, port, count in flows(world.net, site.client, "in", "out"):
        way = rung_of(address, protocol, port)
        counted[way] = counted.get(way, 0) + count
    return counted
