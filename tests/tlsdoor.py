"""The port of TLS on loopback with real sockets, its legs in nobody's hands but the test's.

    async with door(folder, handshake_s=0.5) as here:
        reader, writer = await here.dial("vrl/1")

Must never live here: what is expected of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from lanes import make_lane
from quicpair import certificate
from relay.config import LimitsConfig
from relay.edge import tcp
from relay.edge.raw import RawEdge
from relay.edge.streams import Streams
from relay.edge.turn_streams import TurnStreams
from relay.edge.web import WebEdge
from relay.protocol.address import Address
from relay.protocol.demux import StreamKind

ORIGIN = "https://app.example"


class Door:
    """A listener on loopback whose legs nobody judges; `facts` is what a driver would hear."""

    def __init__(self, folder: Path, limits: LimitsConfig) -> None:
        self.files = certificate(folder)
        self.facts: list[tuple[Any, ...]] = []
        self.accepting = True
        self.turn: TurnStreams | None = None
        """TURN's streams, where a test serves them too."""
        loop = asyncio.get_running_loop()
        self.streams = Streams(
            loop,
            limits,
            make_lane("python", limits),
            number=itertools.count(1).__next__,
            flush=lambda: None,
            clock=time.monotonic,
        )
        self.streams.attach(self)
        self.limits = limits
        context = tcp.server_context(*self.files, StreamKind)
        self.edge = WebEdge(loop, limits, context, (ORIGIN,), self.streams, accepting=lambda: self.accepting)
        self.raw = RawEdge(loop, limits, self.streams, accepting=lambda: self.accepting, clock=time.monotonic)
        self.edge.listener.offer(StreamKind.RAW, self.raw.make, is_leg=True)
        self.edge.listener.listen(tcp.bind("127.0.0.1:0", "listen.web"))
        self.port = self.edge.listener.ports[0]

    def opened(self, leg: int, address: Address, datagrams: bool, transport: str, carrier: object) -> None:
        self.facts.append(("opened", leg, transport))

    def stream(self, leg: int, data: bytes, end: bool) -> None:
        self.facts.append(("stream", leg, data))

    def datagram(self, leg: int, data: bytes) -> None:
        self.facts.append(("datagram", leg, data))

    def moved(self, leg: int, address: Address) -> None:
        raise AssertionError

    def lost(self, leg: int, code: int) -> None:
        self.facts.append(("lost", leg, code))

    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.files[0])
        context.check_hostname = False
        return context

    async def ask(self, request: bytes) -> bytes:
        """Raw HTTP inside TLS; all that comes back until the end."""
        reader, writer = await self.dial()
        with contextlib.closing(writer):
            writer.write(request)
            return await reader.read()

    async def dial(self, *alpn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = self.trust()
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110  # what it waits for is counted, not announced
                await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def door(folder: Path, **limits: Any) -> AsyncIterator[Door]:
    made = Door(folder, LimitsConfig(**limits))
    try:
        yield made
    finally:
        made.raw.close()
        await made.edge.close()
        await made.until(lambda: made.edge.listener.connections == 0)
