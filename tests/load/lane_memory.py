"""Memory of the native lane per leg: `python -m load.lane_memory LEGS`, one JSON line.

A process of its own that holds nothing but a lane with legs in calls of two, keys, ids, routes and a full
window of unacknowledged audio each; what it grew by is the lane's. Must never live here: a daemon.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from typing import Any

from load import process
from relay.protocol import media

ACTIVE_FRAMES = 110  # more than the 16 KiB that may be under way to a leg
SUITE_AES_128 = 0
FIRST_PORT = 10_000


def measure(legs: int) -> dict[str, Any]:
    """What a child found; `bytes_per_leg` is None when there is no native lane."""
    done = subprocess.run(
        [sys.executable, "-m", "load.lane_memory", str(legs)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"bytes_per_leg": None, "why": done.stderr.strip().splitlines()[-1:]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _add(lane: Any, legs: range) -> None:
    paths = []
    for leg in legs:
        path = lane.open_path(leg)
        paths.append(path)
        host, peer = leg.to_bytes(8, "big"), os.urandom(8)
        for number in range(4):  # as many ids as the daemon gives out
            lane.own(leg, bytes((0x10 + number,)) + host[1:])
        keys = [(os.urandom(16), os.urandom(12), os.urandom(16)) for _ in range(2)]
        path.set_keys(SUITE_AES_128, 0, keys[0], keys[1], keys[0][:2])
        address = ("127.0.0.1", FIRST_PORT + leg)
        path.set_facts(
            active=True,
            host_cid=bytes((0x10,)) + host[1:],
            peer_cid=peer,
            address=address,
            sock=0,
            peer_acks=(3, 0.08),
        )
        lane.open_leg(leg, pps=1_000_000, up_bps=1_000_000_000, down_bps=1_000_000_000)
        lane.open_flow(leg, 1, index=leg % 2, group=False, watched=False)
    for leg in legs:
        lane.route(leg, 1, [(leg ^ 1, 2)], None)
    _KEPT.append(paths)


_KEPT: list[Any] = []


def _talk(lane: Any, legs: range) -> None:
    for ctr in range(ACTIVE_FRAMES):
        now = time.monotonic()
        for leg in legs:
            head = media.encode_header(1, leg % 2 << 2, ctr)
            lane.deliver(leg, head + bytes(120 - len(head)), now)
        lane.flush(now)


def main(legs: int) -> dict[str, Any]:
    """Grow a lane and look at what the process grew by."""
    from relay._lane import Lane  # type: ignore[import-not-found,unused-ignore]  # built with cargo only

    lane = Lane(queue_frames=5, queue_s=0.1, stream_frames=10, stream_s=0.2, burst_s=0.2, batch_s=0.001)
    warm = range(2, 66)
    _add(lane, warm)
    _talk(lane, warm)
    gc.collect()
    before = process.rss_bytes(os.getpid())
    more = range(66, 66 + legs)
    _add(lane, more)
    idle = process.rss_bytes(os.getpid())
    _talk(lane, more)
    gc.collect()
    after = process.rss_bytes(os.getpid())
    return {
        "legs": legs,
        "bytes_per_leg": round((after - before) / legs),
        "bytes_per_silent_leg": round((idle - before) / legs),
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
