"""A bare endpoint on a simulated network, with stock aioquic clients."""

from __future__ import annotations

import heapq
import itertools
import random
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import DatagramFrameReceived, QuicEvent, StreamDataReceived

from lanes import make_lane
from quicpair import shared_configuration
from relay.config import LimitsConfig
from relay.edge.endpoint import Endpoint
from relay.edge.front import AddressTokens, Front
from relay.edge.ids import ConnectionIds
from relay.edge.lane import Lane
from relay.protocol.address import Address
from relay.protocol.cid import CidCodec

SERVER = ("198.51.100.1", 443)
SERVER_ID = b"\0\1\0"
DELAY = 0.005


class Handle:
    """A callback of the simulated loop."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Air:
    """Loop, clock and socket of one endpoint, and its clients by address. `run` lets simulated time pass."""

    endpoint: Endpoint
    lane: Lane

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.clients: dict[tuple[str, int], Client] = {}
        self.sending_fails = False
        self._events: list[tuple[float, int, Handle]] = []
        self._count = itertools.count()

    # the loop
    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        handle = Handle(callback)
        heapq.heappush(self._events, (when, next(self._count), handle))
        return handle

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        return self.call_at(self.now, callback)

    # the socket
    def sendto(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.sending_fails:
            raise BlockingIOError
        self.sent.append((data, addr))
        client = self.clients.get(addr)
        if client is not None:
            self.call_at(self.now + DELAY, lambda: client.arrive(data))

    def arrive(self, data: bytes, addr: tuple[str, int]) -> None:
        """A packet reaches the endpoint now."""
        self.endpoint.receive(data, addr, 0, self.now)

    def run(self, seconds: float) -> None:
        """Let time pass; packets are conserved at its end."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, handle = heapq.heappop(self._events)
            self.now = max(self.now, when)
            if handle.callback is not None:
                handle.callback()
        self.now = end
        assert self.endpoint.imbalance() == 0
        assert self.lane.counters.imbalance() == 0


class Network(Air):
    """A bare endpoint in the air, and the facts that it tells."""

    def __init__(self, limits: LimitsConfig | None = None, lane: str = "python") -> None:
        super().__init__()
        self.limits = limits or LimitsConfig()
        rng = random.Random(5)
        codec = CidCodec(b"k" * 16, SERVER_ID)
        ids = ConnectionIds(codec, b"r" * 32, 0)
        self.lane = make_lane(lane, self.limits)
        self.endpoint = Endpoint(
            self,
            self.limits,
            shared_configuration(),
            front=Front(
                self.limits,
                tokens=AddressTokens([bytes(32)], 10.0, rng.randbytes),
                ids=codec,
                server_id=SERVER_ID,
                reset_token=ids.reset_token,
                draw=rng.randbytes,
            ),
            issue=ids.issue,
            lane=self.lane,
            clock=lambda: self.now,
            wall=lambda: 1_800_000_000.0 + self.now,
        )
        self.endpoint.attach(self)
        self.endpoint.attach_socket(cast(socket.socket, self))
        self.facts: list[tuple[Any, ...]] = []

    # the handler
    def opened(
        self, leg: int, address: Address, datagrams: bool, transport: str = "quic", carrier: object = None
    ) -> None:
        self.facts.append(("opened", leg, datagrams))
        self.lane.open_leg(leg, pps=500, up_bps=500_000, down_bps=5_000_000)

    def stream(self, leg: int, data: bytes, end: bool) -> None:
        self.facts.append(("stream", leg, data))

    def datagram(self, leg: int, data: bytes) -> None:
        self.facts.append(("datagram", leg, data))

    def moved(self, leg: int, address: Address) -> None:
        self.facts.append(("moved", leg, address.port))

    def lost(self, leg: int, code: int) -> None:
        self.facts.append(("lost", leg, code))
        self.lane.close_leg(leg)

    def told(self, kind: str) -> list[tuple[Any, ...]]:
        return [fact[1:] for fact in self.facts if fact[0] == kind]


class Client:
    """A stock aioquic client on the simulated network."""

    def __init__(self, network: Air, port: int, *, datagrams: bool = True, alpn: str = "vrl/1") -> None:
        self.network = network
        self.addr = ("192.0.2.1", port)
        network.clients[self.addr] = self
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True,
                alpn_protocols=[alpn],
                verify_mode=ssl.CERT_NONE,
                max_datagram_frame_size=1200 if datagrams else None,
                idle_timeout=30.0,
            )
        )
        self.got: list[bytes] = []
        self.stream = b""
        self.armed: float | None = None
        self.quic.connect(SERVER, now=network.now)
        self.flush()

    def arrive(self, data: bytes) -> None:
        self.quic.receive_datagram(data, SERVER, now=self.network.now)
        self.flush()

    def flush(self) -> None:
        for data, _ in self.quic.datagrams_to_send(self.network.now):
            addr = self.addr
            self.network.call_at(
                self.network.now + DELAY, lambda data=data, addr=addr: self.network.arrive(data, addr)
            )
        for event in iter(self.quic.next_event, None):
            self.hear(event)
        due = self.quic.get_timer()
        if due is not None and due != self.armed:
            self.armed = due
            self.network.call_at(due, lambda: self.timer(due))

    def hear(self, event: QuicEvent) -> None:
        if isinstance(event, DatagramFrameReceived):
            self.got.append(event.data)
        elif isinstance(event, StreamDataReceived):
            self.stream += event.data

    def timer(self, due: float) -> None:
        if self.armed == due:
            self.armed = None
            self.quic.handle_timer(self.network.now)
            self.flush()

    def move(self, port: int) -> None:
        self.addr = (self.addr[0], port)
        self.network.clients[self.addr] = self

    def write(self, data: bytes) -> None:
        self.quic.send_stream_data(0, data)
        self.flush()

    def say(self, data: bytes) -> None:
        self.quic.send_datagram_frame(data)
        self.flush()
