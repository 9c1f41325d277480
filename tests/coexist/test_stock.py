"""The client on aioquic does not reorder what comes to its ports."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from coexist.stock import StockClient


async def test_what_came_to_the_ports_before_is_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
        relay.bind(("127.0.0.1", 0))
        client = StockClient("client", relay.getsockname())
        read: list[bytes] = []

        def receive(data: bytes, addr: Any, now: float) -> None:
            read.append(data)

        client._quic.connect(relay.getsockname(), now=time.monotonic())  # nobody answers
        monkeypatch.setattr(client._quic, "receive_datagram", receive)
        for _ in range(3):
            client._bind()
        ports = [sock.getsockname() for sock in client._socks]
        sent = [b"%d" % number for number in range(9)]
        for number, packet in enumerate(sent):
            relay.sendto(packet, ports[number // 3])
        newest = client._socks[-1]
        client._readable(newest)  # as when the loop hears of this port first
        assert read == sent[:7]
        async with asyncio.timeout(10):
            while len(read) < len(sent):  # noqa: ASYNC110  # the loop reads by itself
                await asyncio.sleep(0.01)
        assert read == sent
        await client.close()
