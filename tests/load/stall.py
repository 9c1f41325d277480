"""A receiver whose network goes dark for some seconds: what the relay still sends it, and how old that is.

The darkness is in the receiving leg, which neither reads nor sends meanwhile; for the relay that is a black
hole on the path. Age: from the sender's clock to the kernel's time stamp at the receiver, which is more than
the time inside the relay. Must never live here: the relay's queue.
"""

from __future__ import annotations

import asyncio
import time

from load.daemon import Daemon, imbalance
from load.relay import place_call
from load.report import Report, say
from load.traffic import PAYLOAD, PERIOD, talk

MAX_AGE = 0.100
HEALED = 3.0  # seconds observed after the stall
MAX_BACK_S = 1.0
CASES = (
    ("deaf and mute", True, PAYLOAD, PERIOD),
    ("deaf", False, PAYLOAD, PERIOD),
    ("deaf and mute, 4 voices' load", True, 250, 0.005),  # more than the window takes: the queue fills
)


async def _one(
    daemon: Daemon, seconds: float, *, both_ways: bool, size: int, period: float
) -> dict[str, float]:
    (sender, voice), (receiver, back) = await place_call(daemon, size=size)
    ends = [(sender, voice), (receiver, back)]
    talking = asyncio.create_task(talk(ends, 1.0 + seconds + HEALED, period))
    await asyncio.sleep(1.0)
    before = voice.heard.delivered
    receiver.go_dark(deaf=True, mute=both_ways)
    await asyncio.sleep(seconds)
    during = voice.heard.delivered - before
    resumed = time.time()
    receiver.go_dark(deaf=False, mute=False)
    await talking
    await asyncio.sleep(0.3)
    after = [
        (delay, arrived)
        for delay, arrived in zip(voice.heard.delays, voice.heard.arrivals, strict=True)
        if arrived >= resumed
    ]
    for leg in (sender, receiver):
        leg.close()
    return {
        "delivered_while_dark": during,
        "delivered_afterwards": len(after),
        "older_than_100_ms": sum(delay > MAX_AGE for delay, _ in after),
        "oldest_ms": round(max((delay for delay, _ in after), default=0.0) * 1e3, 2),
        "first_after_s": round(min((arrived for _, arrived in after), default=resumed + 99) - resumed, 3),
        "sent": voice.sent,
    }


async def judge(out: Report, *, seconds: float) -> None:
    """Bars of the stalled receiver."""
    say(f"stall: a receiver dark for {seconds:g} s")
    results = {}
    with Daemon.start() as daemon:
        for name, both_ways, size, period in CASES:
            result = results[name] = await _one(
                daemon, seconds, both_ways=both_ways, size=size, period=period
            )
            out.bar(f"receiver {name}: audio over 100 ms old", result["older_than_100_ms"], "==", 0)
            out.bar(f"receiver {name}: audio back after, s", result["first_after_s"], "<=", MAX_BACK_S)
        samples = daemon.metrics()
        dropped = {k: v for k, v in samples.items() if v and k.startswith("relay_media_dropped")}
        out.bar("packets out of balance after the stall", imbalance(samples), "==", 0)
        out.detail(stall={**results, "dropped": dropped})
