"""The last mile to one listener: a UDP port of its own before the relay, with a network of `impair` each way.

    relay <--> LastMile <--> listener's socket

Until `spoil` it only takes time. Down and up have outages of their own: what the relay learns comes by the
same kind of network. Both ways count what entered. Must never live here: what a packet means.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from math import inf
from typing import Any

from impair import Link, Net


def with_round_trip(net: Net, rtt_ms: float) -> Net:
    """One way of a path that takes this long there and back, beside what the network itself takes."""
    return replace(net, delay=net.delay + rtt_ms / 2)


class _Way(asyncio.DatagramProtocol):
    """One direction: what its socket receives goes through the link and out of the other's."""

    def __init__(self, net: Net, seed: int, *, keeps_times: bool) -> None:
        self._keeps_times = keeps_times
        self.link: Link[bytes] = Link(net, seed)
        self.bytes = self.packets = self.delivered = 0
        self.peer: Any = None
        self.out: Any = None
        self.entered: dict[bytes, float] = {}  # when it came here, until somebody asks
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.peer = addr
        now = time.monotonic()  # uvloop's clock knows whole milliseconds only
        if self._keeps_times:
            self.entered[data] = now
        self.bytes += len(data)
        self.packets += 1
        self.link.send(data, len(data), now)
        self._arm()

    def error_received(self, exc: Exception) -> None:
        """The other end is gone: lost, as elsewhere."""

    def stop(self) -> None:
        """Hand nothing on any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        due = self.link.next_deadline()
        if due is not None and due < self._timer_at:
            self.stop()
            self._timer_at = due
            self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._deliver)

    def _deliver(self) -> None:
        self._timer_at = inf
        for data in self.link.due(time.monotonic()):
            self.delivered += 1
            self.out(data)
        self._arm()


class LastMile:
    """Open it, let the listener connect to `port`, `spoil` it when the speech begins.

    `keeps_times`: of each packet, when it came here, until somebody takes it out of `entered`.
    """

    def __init__(self, relay: tuple[str, int], rtt_ms: float, seed: int, *, keeps_times: bool = True) -> None:
        self._relay = relay
        self._rtt_ms = rtt_ms
        calm = with_round_trip(Net(), rtt_ms)
        self.down = _Way(calm, 2 * seed, keeps_times=keeps_times)
        self.up = _Way(calm, 2 * seed + 1, keeps_times=keeps_times)
        self.port = 0
        self._transports: list[asyncio.DatagramTransport] = []

    async def open(self) -> LastMile:
        """Both sockets."""
        loop = asyncio.get_running_loop()
        front, _ = await loop.create_datagram_endpoint(lambda: self.up, local_addr=("127.0.0.1", 0))
        back, _ = await loop.create_datagram_endpoint(lambda: self.down, remote_addr=self._relay)
        self._transports = [front, back]
        self.up.out = back.sendto
        self.down.out = lambda data: front.sendto(data, self.up.peer)
        self.port = front.get_extra_info("sockname")[1]
        return self

    def spoil(self, net: Net, up: Net | None = None) -> None:
        """From now on the network is like this, each way for itself; `up`: that way is another one."""
        for way, its in ((self.down, net), (self.up, up or net)):
            way.link.become(with_round_trip(its, self._rtt_ms))

    async def close(self) -> None:
        """Nothing passes any more."""
        for way in (self.down, self.up):
            way.stop()
        for transport in self._transports:
            transport.close()
        await asyncio.sleep(0)  # sockets close in the next turn of the loop
