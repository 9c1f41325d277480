"""Two plain forwarders to compare the relay with, as processes: `python -m load.forward bare|stock`.

    bare    a uvloop DatagramProtocol that sends each UDP packet on to the paired address; no encryption
    stock   aioquic as shipped: QuicConnectionProtocol, DATAGRAM frames sent on to the paired connection

Both pair those who name the same 16 bytes: in a first packet of "!" and the name (bare), on a stream (stock).
Each prints one JSON line with its port when it listens and ends when its standard input closes.
Must never live here: any guard, queue or rule; they are what the relay is measured against.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import DatagramFrameReceived, QuicEvent, StreamDataReceived

from quicpair import certificate

NAME = 17  # "!" and 16 bytes


class Bare(asyncio.DatagramProtocol):
    """The least a forwarder can do in Python."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[str, int]] = {}
        self._to: dict[tuple[str, int], tuple[str, int]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        to = self._to.get(addr)
        if to is not None:
            self._transport.sendto(data, to)
        elif data[:1] == b"!" and len(data) == NAME:
            other = self._waiting.pop(data, addr)
            if other == addr:
                self._waiting[data] = addr
                return
            self._to[addr], self._to[other] = other, addr
            for both in (addr, other):
                self._transport.sendto(b"!", both)


class Stock(QuicConnectionProtocol):
    """aioquic's own server protocol, used as its documentation shows."""

    waiting: dict[bytes, Stock] = {}  # noqa: RUF012 - one table for the process

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._other: Stock | None = None

    def pair(self, other: Stock, stream: int) -> None:
        """Forward to `other` from now on, and say so."""
        self._other = other
        self._quic.send_stream_data(stream, b"!")
        self.transmit()

    def forward(self, data: bytes) -> None:
        """Send a datagram to this connection's peer."""
        self._quic.send_datagram_frame(data)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, DatagramFrameReceived):
            if self._other is not None:
                self._other.forward(event.data)
        elif isinstance(event, StreamDataReceived) and len(event.data) == NAME:
            other = self.waiting.pop(event.data, None)
            if other is None:
                self.waiting[event.data] = self
            else:
                self.pair(other, event.stream_id)
                other.pair(self, event.stream_id)


async def _stock() -> int:
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["vrl/1"], max_datagram_frame_size=1200, idle_timeout=60.0
    )
    with tempfile.TemporaryDirectory() as folder:
        configuration.load_cert_chain(*certificate(Path(folder)))
    server: Any = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Stock)
    return int(server._transport.get_extra_info("sockname")[1])


async def _bare() -> int:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Bare, local_addr=("127.0.0.1", 0))
    return int(transport.get_extra_info("sockname")[1])


async def _main(kind: str) -> None:
    port = await (_bare() if kind == "bare" else _stock())
    print(json.dumps({"port": port}), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1]))
