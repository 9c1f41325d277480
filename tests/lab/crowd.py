"""People who call each other again and again: real QUIC and control messages, cheap audio, honest reports.

    Crowd --so many calls a second--> two light legs (load.leg) each: connect, join, accept, talk, hang up

Media is a packet each 60 ms, opaque to the relay, and each listener reports what came as the SDK does. What
breaks is set from outside while they call: a share of people who never say a word, and the network of all
last miles. Must never live here: what the relay makes of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any, Final

from client.rig import public_of
from impair import Net
from lab.callers import Callers
from lab.lastmile import LastMile
from load.daemon import Daemon, mint
from load.leg import HELD, Leg, RefusedError
from relay.client.reception import Arrivals
from relay.errors import PeerError
from relay.protocol import control, media
from relay.protocol.datagram import FlowReport, LegReport, encode_datagram
from relay.protocol.token import to_text

PACKET_S: Final = 0.06  # of speech: a third of the work of 20 ms, and all that is judged counts per packet
REPORT_S: Final = 0.5
SIZE: Final = 120
HOLD_MS: Final = 60  # of the jitter buffer that these people would have
SHORTEST_S, LONGEST_S = 12.0, 28.0
MUTE_S: Final = (
    13.0  # who never speaks stays until the relay has made up its mind (10 s), and a little longer
)
ROUND_TRIP_MS: Final = 20.0
GIVE_UP_S: Final = 10.0
_U16: Final = 0xFFFF
_U32: Final = 0xFFFF_FFFF


class Person:
    """One end of a call: says packets, hears packets, reports."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.leg = Leg(server, on_media=self._hear, ack_hold=HELD)
        self._counter = 0
        self._reports = 0
        self._flow = 0
        self._arrivals: dict[int, Arrivals] = {}
        self._newest_at = 0.0

    def say(self) -> None:
        """One packet; with a full window none, as a microphone does not wait."""
        head = media.encode_header(self.leg.flow, self.leg.index << 2, self._counter)
        self._counter += 1
        self.leg.send(head + os.urandom(SIZE - len(head)))

    def _hear(self, payload: bytes, arrived: float) -> None:
        if not payload or payload[0] == 0:
            return  # control in passing
        try:
            header = media.decode(payload)
        except PeerError:
            return
        newest = self._arrivals.setdefault(header.kid, Arrivals(header.ctr, header.ctr))
        newest.mark(header.ctr)
        self._flow, self._newest_at = header.flow, time.monotonic()

    def report(self) -> None:
        """What came so far, if anything did."""
        now = time.monotonic()
        flows = []
        for kid, arrivals in self._arrivals.items():
            base, bits = arrivals.report_map()
            age = min(round((now - self._newest_at) * 1000), _U16)
            flows.append(FlowReport(self._flow, kid, base, bits, None, None, None, age, HOLD_MS, 0, 0))
        if flows:
            self._reports += 1
            report = LegReport(self._reports & _U16, round(now * 1000) & _U32, tuple(flows))
            self.leg.send(encode_datagram(report))


class Crowd:
    """`run` until `stop`. `by_proxies`: each leg has a last mile of its own, which `spoil` can reach."""

    def __init__(self, daemon: Daemon, *, per_s: float, seed: int, by_proxies: bool = False) -> None:
        self._daemon = daemon
        self._per_s = per_s
        self._rng = random.Random(seed)
        self._by_proxies = by_proxies
        self._net = Net()
        self._miles: set[LastMile] = set()
        self._placed = 0
        self._over = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._sdk: list[Callers] = []
        self._stack = AsyncExitStack()
        self.mute_share = 0.0
        """Of calls placed from now on: those in which one side accepts, and never says a word."""
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Place calls, evenly, until stopped."""
        began = time.monotonic()
        while not self._over.is_set():
            self._placed += 1
            task = asyncio.create_task(self._call(), name=f"call {self._placed}")
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            await self._pause(began + self._placed / self._per_s)

    async def add_sdk(self, calls: int) -> None:
        """So many calls of the SDK as well, quiet ones, that last until `stop`."""
        orders = []
        for _ in range(calls):
            call, seeds = os.urandom(16), [os.urandom(32), os.urandom(32)]
            keys = [public_of(seed) for seed in seeds]
            orders.append(
                {
                    "urls": [f"quic://127.0.0.1:{(await self._door(self._stack))[1]}" for _ in seeds],
                    "kind": "quiet",
                    "group": "",
                    "tokens": [to_text(mint(self._daemon.seed, call, cnf=key)) for key in keys],
                    "seeds": [seed.hex() for seed in seeds],
                }
            )
        self._sdk.append(Callers(orders))
        self.counts["sdk"] += await asyncio.to_thread(self._sdk[-1].wait_talking)

    def spoil(self, net: Net) -> None:
        """All last miles are like this from now on, each way for itself, and so are those to come."""
        self._net = net
        for mile in self._miles:
            mile.spoil(net)

    async def stop(self) -> None:
        """All hang up, and nobody calls any more."""
        self._over.set()
        for callers in self._sdk:
            await asyncio.to_thread(callers.stop)
        self._sdk.clear()
        if self._calls:
            await asyncio.wait(self._calls, timeout=2 * GIVE_UP_S)
        await self._stack.aclose()

    async def _pause(self, until: float) -> bool:
        """Whether it is over before."""
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self._over.wait()
        except TimeoutError:
            return False

    async def _door(self, stack: AsyncExitStack) -> tuple[str, int]:
        """Where the next leg connects to."""
        if not self._by_proxies:
            return self._daemon.server
        mile = LastMile(self._daemon.server, ROUND_TRIP_MS, self._rng.randrange(1 << 30), keeps_times=False)
        await mile.open()
        mile.spoil(self._net)
        self._miles.add(mile)
        stack.push_async_callback(self._leave, mile)
        return "127.0.0.1", mile.port

    async def _leave(self, mile: LastMile) -> None:
        self._miles.discard(mile)
        await mile.close()

    async def _call(self) -> None:
        call = os.urandom(16)
        is_mute = self._rng.random() < self.mute_share
        lasts = MUTE_S if is_mute else self._rng.uniform(SHORTEST_S, LONGEST_S)
        async with AsyncExitStack() as stack:
            people: list[Person] = []
            try:
                for _ in range(2):
                    people.append(await self._enter(call, stack))
                for person in people:
                    await person.leg.accept(call)
                for person in people:
                    await person.leg.gate(GIVE_UP_S)
                await self._talk(people, people[:1] if is_mute else people, lasts)
                people[0].leg.tell(control.Hangup(c=call), 9)
                await asyncio.sleep(0.3)
                self.counts["mute" if is_mute else "talked"] += 1
            except (RefusedError, TimeoutError, OSError) as error:
                self.counts[f"broken: {type(error).__name__}"] += 1
            finally:
                for person in people:
                    person.leg.close()

    async def _enter(self, call: bytes, stack: AsyncExitStack) -> Person:
        person = Person(await self._door(stack))
        try:
            await person.leg.connect(GIVE_UP_S)
            await person.leg.hello(self._daemon.token(call), GIVE_UP_S)
            await person.leg.join(call, GIVE_UP_S)
        except BaseException:
            person.leg.close()
            raise
        return person

    async def _talk(self, people: list[Person], speakers: list[Person], seconds: float) -> None:
        began = time.monotonic()
        report_at = began + REPORT_S
        turn = 0
        while time.monotonic() < began + seconds:
            for speaker in speakers:
                speaker.say()
            if time.monotonic() >= report_at:
                report_at += REPORT_S
                for person in people:
                    person.report()
            turn += 1
            if await self._pause(began + turn * PACKET_S):
                return

    def facts(self) -> dict[str, Any]:
        """What came of the calls so far."""
        return {"placed": self._placed, "running": len(self._calls), **self.counts}
