"""How far regions are: one round trip to a node of each, by a question that costs the node nothing.

    quic    a packet of a version that nobody speaks --> Version Negotiation (RFC 9000 section 6)
    else    how long a TCP connection takes

No token, no handshake, no state at the node; the least of a few tries counts, since what is added is waiting.
Must never live here: which node a call goes to (nodes.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Final, cast

from relay.client.rungs import Destination, parse_url

TRIES: Final = 3
MISSES: Final = 2
TRY_S: Final = 0.3
"""A region further away than this is not near."""
MOST: Final = 32
"""Regions that are asked at most."""
_VERSION: Final = bytes.fromhex("1a2a3a4a")  # RFC 9000 section 15: reserved to make a server negotiate
_SIZE: Final = 1200  # section 14.1: less is not answered
_ID: Final = 8


def question(there: bytes, here: bytes) -> bytes:
    """A first packet that can only be answered by the versions that are spoken. Connection ids of 8 bytes."""
    head = b"\xc0" + _VERSION + bytes([len(there)]) + there + bytes([len(here)]) + here
    return head.ljust(_SIZE, b"\0")


def is_answer(data: bytes, there: bytes, here: bytes) -> bool:
    """Whether it is the answer to that question: both ids come back, changed over."""
    head = bytes(4) + bytes([len(here)]) + here + bytes([len(there)]) + there
    return len(data) > 1 + len(head) and bool(data[0] & 0x80) and data[1:].startswith(head)


async def round_trips(nodes: Mapping[str, str], try_s: float = TRY_S) -> dict[str, float]:
    """Seconds to each region, by an address of one of its nodes; who takes over `try_s` is left out."""
    asked = list(nodes.items())[:MOST]
    found = await asyncio.gather(*(_least(parse_url(url), try_s) for _, url in asked))
    return {region: took for (region, _), took in zip(asked, found, strict=True) if took is not None}


async def _least(to: Destination, try_s: float) -> float | None:
    ask = _ask_quic if to.transport == "quic" else _ask_tcp
    took: list[float] = []
    missed = 0
    while len(took) < TRIES and missed < MISSES:
        one = await ask(to, try_s)
        if one is None:
            missed += 1
        else:
            took.append(one)
    return min(took, default=None)


class _Probe(asyncio.DatagramProtocol):
    """One question."""

    def __init__(self) -> None:
        self.there, self.here = os.urandom(_ID), os.urandom(_ID)
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[float] = loop.create_future()
        self.asked_at = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        udp = cast(asyncio.DatagramTransport, transport)  # by duck type in asyncio and uvloop
        self.asked_at = asyncio.get_running_loop().time()
        udp.sendto(question(self.there, self.here))

    def datagram_received(self, data: bytes, addr: object) -> None:
        if is_answer(data, self.there, self.here) and not self.answered.done():
            self.answered.set_result(asyncio.get_running_loop().time() - self.asked_at)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there, or anyone says so: time decides."""


async def _ask_quic(to: Destination, try_s: float) -> float | None:
    transport = None
    try:
        async with asyncio.timeout(try_s):  # names are looked up, too
            loop = asyncio.get_running_loop()
            transport, probe = await loop.create_datagram_endpoint(_Probe, remote_addr=(to.host, to.port))
            return await probe.answered
    except (OSError, TimeoutError):
        return None
    finally:
        if transport is not None:
            transport.close()


async def _ask_tcp(to: Destination, try_s: float) -> float | None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(to.host, to.port), try_s)
    except (OSError, TimeoutError):
        return None
    took = loop.time() - began
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return took
