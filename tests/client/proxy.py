"""A network between clients and a relay on loopback: a UDP port that loses, delays, blocks, and rebinds."""

from __future__ import annotations

import asyncio
import random
from typing import Any


class _Side(asyncio.DatagramProtocol):
    def __init__(self, proxy: Proxy, client: Any = None) -> None:
        self.proxy = proxy
        self.client = client

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self.client is None:
            self.proxy.from_client(data, addr)
        else:
            self.proxy.from_relay(data, self.client)

    def error_received(self, exc: Exception) -> None:
        """The relay's port is closed: lost, as elsewhere."""


class Proxy:
    """One rung's path. `loss` 0-1 both ways, `up`, `down` one; `rebind` gives every client another port.

    `outages`: all is lost for the first seconds of each so many. `is_shut`: nobody new gets through.
    """

    def __init__(self, relay: tuple[str, int]) -> None:
        self.relay = relay
        self.loss = self.up = self.down = 0.0
        self.delay = 0.0
        self.outages: tuple[float, float] | None = None
        self.is_shut = False
        self.port = 0
        self._loop = asyncio.get_running_loop()
        self._dice = random.Random(7)
        self._front: Any = None
        self._backs: dict[Any, Any] = {}
        self._forwarding: set[asyncio.Task[None]] = set()

    async def open(self) -> Proxy:
        self._front, _ = await self._loop.create_datagram_endpoint(
            lambda: _Side(self), local_addr=("127.0.0.1", 0)
        )
        self.port = self._front.get_extra_info("sockname")[1]
        return self

    @property
    def url(self) -> str:
        return f"quic://127.0.0.1:{self.port}"

    async def close(self) -> None:
        self._front.close()
        await asyncio.gather(*self._forwarding)
        self.rebind()
        await asyncio.sleep(0)  # sockets close in the next turn of the loop

    def rebind(self) -> None:
        """The NAT has forgotten everybody: the next packets leave from other ports."""
        for back in self._backs.values():
            back.close()
        self._backs.clear()

    def from_client(self, data: bytes, client: Any) -> None:
        is_new = client not in self._backs
        if self._passes(self.up) and not (self.is_shut and is_new):
            task = self._loop.create_task(self._forward(data, client))
            self._forwarding.add(task)
            task.add_done_callback(self._forwarding.discard)

    async def _forward(self, data: bytes, client: Any) -> None:
        if client not in self._backs:
            back, _ = await self._loop.create_datagram_endpoint(
                lambda: _Side(self, client), remote_addr=self.relay
            )
            self._backs.setdefault(client, back)
            if self._backs[client] is not back:
                back.close()
        self._later(lambda: self._backs[client].sendto(data) if client in self._backs else None)

    def from_relay(self, data: bytes, client: Any) -> None:
        if self._passes(self.down) and not self._front.is_closing():
            self._later(lambda: None if self._front.is_closing() else self._front.sendto(data, client))

    def _passes(self, loss: float) -> bool:
        if self.outages is not None and self._loop.time() % self.outages[1] < self.outages[0]:
            return False
        return self._dice.random() >= max(self.loss, loss)

    def _later(self, send: Any) -> None:
        if self.delay:
            self._loop.call_later(self.delay, send)
        else:
            send()
