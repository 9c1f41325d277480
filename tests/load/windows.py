"""A peer that makes stream windows grow by a few bytes at ever higher offsets: what it costs the daemon.

A stock receiver doubles its windows with the highest offset seen and fills the holes with zeros. Ours follow
what was read, so most of these packets end the connection. Must never live here: the guard.
"""

from __future__ import annotations

import asyncio
import os

from load import process
from load.daemon import Daemon
from load.honest import join_once
from load.leg import Leg
from load.report import Report, say
from relay.protocol.wire import encode_varint

PACKETS = 11
MAX_COST = 1 << 20
STREAM_OFF_LEN = 0x0E  # RFC 9000 section 19.8
PEERS = 4


def frame(stream: int, offset: int) -> bytes:
    """One byte of a stream, far away from the last."""
    numbers = b"".join(encode_varint(value) for value in (stream, offset, 1))
    return bytes((STREAM_OFF_LEN,)) + numbers + b"x"


async def _peer(daemon: Daemon, offsets: list[tuple[int, int]]) -> dict[str, int | None]:
    call = os.urandom(16)
    before = process.rss_bytes(daemon.pid)
    leg = Leg(daemon.server)
    await leg.connect()
    await leg.hello(daemon.token(call))
    await leg.join(call)
    worst = 0
    for packet in [leg.seal_frames(frame(stream, offset)) for stream, offset in offsets]:
        leg.send_sealed(packet)
        await asyncio.sleep(0.02)
        worst = max(worst, process.rss_bytes(daemon.pid) - before)
    await asyncio.sleep(0.3)
    worst = max(worst, process.rss_bytes(daemon.pid) - before)
    leg.close()
    return {"rss_kib": worst // 1024, "close_code": leg.closed}


async def judge(out: Report) -> None:
    """Bars of the stream windows."""
    say(f"windows: {PACKETS} packets at growing stream offsets")
    doubling = [(0, (1 << (14 + k)) - 2) for k in range(PACKETS)]
    inside = [(4 * (k % 4), 16_300 - k // 4) for k in range(PACKETS)]
    with Daemon.start() as daemon:
        for _ in range(20):
            await join_once(daemon)
        await asyncio.sleep(2.0)  # the arenas of those are back
        results = {
            "doubling offsets": [await _peer(daemon, doubling) for _ in range(PEERS)],
            "holes in all streams": [await _peer(daemon, inside) for _ in range(PEERS)],
        }
        for name, peers in results.items():
            worst = max(int(peer["rss_kib"] or 0) for peer in peers)
            out.bar(f"{name}: KiB of RSS for one peer", worst, "<=", MAX_COST / 1024)
        out.bar("warnings in the daemon's log", len(daemon.complaints()), "==", 0)
        out.detail(windows=results)
