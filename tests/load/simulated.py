"""A whole node in this process on a simulated clock, with a socket that only counts, and spoofed first
packets.

Must never live here: what is measured with them.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import ssl
import tempfile
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from quicpair import certificate
from relay.config import Config
from relay.core import events as ev
from relay.edge.assembly import Node, NodeKeys
from relay.protocol.keys import ClusterKey
from relay.quic.connection import server_configuration

CHAIN = 4  # certificates in the chain: a first flight as long as a public one's
VERSIONS = (b"\0\0\0\1", bytes.fromhex("6b3343cf"))
LONG_INITIAL = {VERSIONS[0]: 0xC3, VERSIONS[1]: 0xD3}  # RFC 9369 section 3.2 numbers the types anew
INITIAL_SIZE = 1200
Source = tuple[str, int] | tuple[str, int, int, int]


class Handle:
    """A scheduled call."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call."""
        self.callback = None


class SimulatedLoop:
    """The few things a node asks of an event loop; time passes only in `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._serial = itertools.count()
        self._due: list[tuple[float, int, Handle]] = []

    def time(self) -> float:
        """Monotonic seconds."""
        return self.now

    def wall(self) -> float:
        """Seconds since 1970."""
        return 1.8e9 + self.now

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        """In the next turn."""
        return self.call_at(self.now, callback)

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        """At a time."""
        handle = Handle(callback)
        heapq.heappush(self._due, (when, next(self._serial), handle))
        return handle

    def advance(self, seconds: float) -> None:
        """Let time pass and call what is due, in order."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            when, _, handle = heapq.heappop(self._due)
            self.now = max(self.now, when)
            if handle.callback is not None:
                handle.callback()
        self.now = end


class Nowhere:
    """Sinks of a node that keeps no books."""

    def record(self, record: ev.CallRecord) -> None:
        """Nothing."""

    def rated(self, rated: ev.Rated) -> None:
        """Nothing."""

    def event(self, event: ev.CallEvent) -> None:
        """Nothing."""

    def stopped(self) -> None:
        """Nothing."""


class CountingSocket:
    """Hands what the node sends to `on_send`; stands where the endpoint expects a socket."""

    def __init__(self, on_send: Callable[[bytes, Source], None]) -> None:
        self.sendto = on_send


def node(loop: SimulatedLoop, draw: Callable[[int], bytes] = os.urandom) -> Node:
    """A node with default limits and a certificate chain of ordinary length."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificate(Path(folder))
        Path(cert).write_text(Path(cert).read_text() * CHAIN)
        quic = server_configuration(cert, key, 30.0)
    config = Config()
    keys = NodeKeys.of([ClusterKey(draw(32))], config)
    sinks: Any = Nowhere()
    return Node(config, keys, quic, loop, sinks, clock=loop.time, wall=loop.wall, draw=draw)


def real_initials(count: int, alpn: str = "vrl/1") -> list[bytes]:
    """First packets of stock clients, each with a destination id of its own."""
    packets = []
    for _ in range(count):
        client = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True,
                alpn_protocols=[alpn],
                verify_mode=ssl.CERT_NONE,
                server_name="localhost",
                max_datagram_frame_size=1200,
            )
        )
        client.connect(("198.51.100.1", 443), now=0.0)
        packets.append(client.datagrams_to_send(0.0)[0][0])
    return packets


def shaped_initial(rng: random.Random, token: bytes = b"") -> bytes:
    """Looks like a first packet to whoever has not opened it: right header and size, a noise payload."""
    version = VERSIONS[rng.random() < 0.2]
    dcid = rng.randbytes(rng.randint(8, 20))
    scid = rng.randbytes(rng.choice((0, 8, 20)))
    head = bytes((LONG_INITIAL[version],)) + version
    head += bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid
    head += (len(token) | 0x4000).to_bytes(2, "big") + token
    rest = INITIAL_SIZE - len(head) - 2
    return head + (rest | 0x4000).to_bytes(2, "big") + rng.randbytes(rest)


def source(rng: random.Random) -> Source:
    """A spoofed source, IPv4 or IPv6."""
    port = rng.randint(1024, 65535)
    if rng.random() < 0.5:
        return ".".join(str(byte) for byte in (rng.randint(1, 223), *rng.randbytes(3))), port
    return str(IPv6Address(0x2001 << 112 | rng.getrandbits(112))), port, 0, 0
