"""What a daemon's event loop spends on what clients say beside audio: inputs of `scripts/sim fleet`.

    PYTHONPATH=.:tests python -m sim.loopcost [--legs 40] [--seconds 6]

`relay serve` as shipped on loopback, legs in calls of two. Each kind of control datagram by itself, 40 a
second of each leg, spread evenly as a crowd's are: CPU of the lane's threads and of all others, less what the
same legs cost in silence, before and after. Before that joins: handshake, token, hello, join, and away.
Must never live here: a bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import uvloop

from load import tasks
from load.daemon import Daemon
from load.handshakes import LIMITS, joins
from load.leg import Leg
from load.report import say
from relay.protocol import control, datagram

RATE = 40.0  # of a leg; its budget is 50 control datagrams a second
JOINS = 200


@dataclass
class Talker:
    """A leg that hears one other."""

    leg: Leg
    call: bytes
    flow: int
    peer: int
    said: int = 0

    def report(self) -> bytes:
        """All of the last second came."""
        base = 50 * self.said
        one = datagram.FlowReport(self.flow, 0, base, (1 << 64) - 1, 0, 10, 20, 0, 60, 0, 0)
        return datagram.encode_datagram(datagram.LegReport(self.said & 0xFFFF, 1000 * self.said, (one,)))

    def rr(self) -> bytes:
        """The same, end to end: the relay passes it on."""
        heard = control.RrEntry(p=self.peer, hi=50 * self.said, n=50 * self.said, lost=0)
        body = control.Rr(c=self.call, s=(heard,))
        return b"\x00\x10" + msgspec.msgpack.encode((control.Rr.TYPE, self.said, body))

    def ping(self) -> bytes:
        """Answered at once."""
        return datagram.encode_datagram(datagram.Ping(1, self.said))


KINDS: dict[str, Callable[[Talker], bytes] | None] = {
    "silence before": None,
    "ping": Talker.ping,
    "leg_report": Talker.report,
    "rr": Talker.rr,
    "silence after": None,
}


async def talkers(daemon: Daemon, legs: int) -> list[Talker]:
    """Legs in calls of two that hear each other."""
    found = []
    for _ in range(legs // 2):
        call = os.urandom(16)
        pair = [Leg(daemon.server), Leg(daemon.server)]
        seats = []
        for leg in pair:
            await leg.connect()
            await leg.hello(daemon.token(call))
            seats.append((await leg.join(call)).p)
        for leg in pair:
            await leg.accept(call)
        for at, leg in enumerate(pair):
            gate = await leg.gate()
            while not gate.fl:
                gate = await leg.gate()
            found.append(Talker(leg, call, gate.fl[seats[1 - at]], seats[1 - at]))
    return found


async def spell(
    daemon: Daemon, legs: list[Talker], what: Callable[[Talker], bytes] | None, seconds: float
) -> tuple[float, float, int]:
    """CPU seconds of the lane, of all other threads, and datagrams sent."""
    before = tasks.cpu_seconds(daemon.pid, "lane-"), tasks.cpu_seconds(daemon.pid)
    sent, began = 0, time.monotonic()
    for tick in range(round(seconds * RATE)):
        for one in legs if what is not None else ():
            one.said += 1
            sent += one.leg.send(what(one))
        await asyncio.sleep(max(0.0, began + (tick + 1) / RATE - time.monotonic()))
    lane, all_ = tasks.cpu_seconds(daemon.pid, "lane-"), tasks.cpu_seconds(daemon.pid)
    return lane - before[0], (all_ - before[1]) - (lane - before[0]), sent


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--legs", type=int, default=40, help="connected legs (default 40)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each kind (default 6)")
    args = parser.parse_args()
    with Daemon.start(limits=LIMITS) as daemon:
        await joins(daemon, 40)
        joined = await joins(daemon, JOINS)
        say(f"joins: {joined}")
        legs = await talkers(daemon, args.legs)
        found = {}
        for name, what in KINDS.items():
            found[name] = await spell(daemon, legs, what, args.seconds)
            say(f"{name}: lane {found[name][0]:.3f} s, loop {found[name][1]:.3f} s, {found[name][2]} sent")
        silent = [(found["silence before"][part] + found["silence after"][part]) / 2 for part in (0, 1)]
        costs = {
            name: {
                "sent": sent,
                "lane_us_each": round(1e6 * (lane - silent[0]) / sent, 1),
                "loop_us_each": round(1e6 * (loop - silent[1]) / sent, 1),
            }
            for name, (lane, loop, sent) in found.items()
            if sent
        }
        print(json.dumps({"joins": joined, "datagrams": costs, "legs": len(legs)}))


if __name__ == "__main__":
    uvloop.run(main())
