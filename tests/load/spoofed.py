"""Memory of a node under spoofed first packets: `python -m load.spoofed COUNT SEED`, one JSON line.

A process of its own, since only then its memory is the node's. Simulated time, so that a million packets at
the rate of a flood pass in a minute; the node's code is the real one. Must never live here: bars.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import sys
from typing import Any

from load import process
from load.simulated import CountingSocket, SimulatedLoop, node, real_initials, shaped_initial, source

RATE = 5_000.0
WARM_UP = 20_000  # the node has seen a flood before: its bounded working set exists
POOL = 400
REAL = 0.1
HOUSEKEEPING = 250  # packets between collections of young garbage: as often as the daemon


def main(count: int, seed: int) -> dict[str, Any]:
    """Run; what was measured."""
    logging.getLogger("quic").setLevel(logging.ERROR)
    gc.disable()
    rng = random.Random(seed)
    loop = SimulatedLoop()
    relay = node(loop, rng.randbytes)
    sock: Any = CountingSocket(lambda data, to: None)
    number_of_socket = relay.endpoint.attach_socket(sock)
    pool = real_initials(POOL)
    gc.collect()
    gc.freeze()
    cold = process.rss_bytes(os.getpid())
    peak = 0

    def flood(packets: int) -> None:
        nonlocal peak
        for number in range(packets):
            data = rng.choice(pool) if rng.random() < REAL else shaped_initial(rng)
            relay.endpoint.receive(data, source(rng), number_of_socket, loop.now)
            loop.advance(1 / RATE)
            if number % HOUSEKEEPING == 0:
                gc.collect(0)
                peak = max(peak, process.rss_bytes(os.getpid()))
        loop.advance(40.0)
        gc.collect(1)

    flood(WARM_UP)
    warm = process.rss_bytes(os.getpid())
    peak = warm
    flood(count)
    after = process.rss_bytes(os.getpid())
    return {
        "packets": count,
        "rss_growth": after - warm,
        "rss_peak_growth": peak - warm,
        "rss_growth_from_cold": after - cold,
        "sessions": len(relay.endpoint),
        "half_open": relay.endpoint.half_open,
        "handshakes_expired": relay.endpoint.handshakes_expired,
        "answered": dict(relay.endpoint.answered),
        "handled": dict(relay.endpoint.handled),
        "dropped": {reason.value: n for reason, n in relay.endpoint.dropped.items()},
        "imbalance": relay.endpoint.imbalance(),
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
